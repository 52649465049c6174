"""The equations of the recurrent cells, forward and backward, in vectors of units.

They are those of `torch.nn`: Elman (1990) for the RNN; Hochreiter and Schmidhuber (1997) with the
forget gate of Gers et al. (2000) for the LSTM; Cho et al. (2014) for the GRU, with the reset gate
applied after the product. Derivatives are by the sums that a cell's gates are functions of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from forecast.models.vectors import Vector, fma, from_sigmoid, sigmoids, tanh


class Forward(NamedTuple):
    state: Vector
    memory: Vector | None  # the LSTM's second state
    kept: Sequence[Vector]  # what the way back needs, one for each sum


class Backward(NamedTuple):
    sums: Sequence[Vector]
    state: Vector | None  # what goes back to the state before without a product
    memory: Vector | None


class Cell(NamedTuple):
    """What a cell takes sums of: products of weights with the features, and with the state before.

    Attributes
    ----------
    gates, state_gates : for each of torch's gates, the sum that its weights by the features, and
        by the state, belong to.
    of_features, of_state : from which sum to which these products are of; they are neighbours.
    memory : whether there is a second state.
    """

    gates: tuple[int, ...]
    state_gates: tuple[int, ...]
    of_features: range
    of_state: range
    memory: bool

    @property
    def sums(self) -> int:
        return self.of_state.stop


CELLS = {
    "rnn": Cell((0,), (0,), range(1), range(1), False),
    "lstm": Cell((0, 1, 2, 3), (0, 1, 2, 3), range(4), range(4), True),
    # Candidate of the features, reset, update, candidate of the state.
    "gru": Cell((1, 2, 0), (1, 2, 3), range(3), range(1, 4), False),
}


def forward(
    cell: str, sums: Sequence[Vector], state: Vector | None, memory: Vector | None
) -> Forward:
    """The next state from the sums and, where the equations name them, state and memory before."""
    if cell == "rnn":
        return Forward(tanh(sums[0]), None, ())
    if cell == "lstm":
        assert memory is not None
        i, f, o, doubled = sigmoids(sums[0], sums[1], sums[3], 2.0 * sums[2])
        g = from_sigmoid(doubled)
        memory = fma(f, memory, i * g)
        return Forward(o * tanh(memory), memory, (i, f, g, o))
    assert state is not None
    r, z = sigmoids(sums[1], sums[2])
    n = tanh(fma(r, sums[3], sums[0]))
    return Forward(fma(z, state - n, n), None, (n, r, z, sums[3]))


def backward(
    cell: str,
    slope: Vector,
    kept: Sequence[Vector],
    *,
    state: Vector,
    before: Vector,
    memory: Vector | None,
    memory_before: Vector | None,
    memory_slope: Vector | None,
) -> Backward:
    """Derivatives of a loss by the sums, from those by the state after (and by the memory)."""
    if cell == "rnn":
        return Backward([slope * fma(state, 0.0 - state, 1.0)], None, None)
    if cell == "lstm":
        assert memory is not None and memory_before is not None and memory_slope is not None
        i, f, g, o = kept
        c = tanh(memory)
        by_memory = fma(slope * o, fma(c, 0.0 - c, 1.0), memory_slope)
        return Backward(
            [
                by_memory * g * _steepness(i),
                by_memory * memory_before * _steepness(f),
                by_memory * i * fma(g, 0.0 - g, 1.0),
                slope * c * _steepness(o),
            ],
            None,
            by_memory * f,
        )
    n, r, z, of_state = kept
    by_n = slope * (1.0 - z) * fma(n, 0.0 - n, 1.0)
    return Backward(
        [by_n, by_n * of_state * _steepness(r), slope * (before - n) * _steepness(z), by_n * r],
        slope * z,
        None,
    )


def _steepness(sigmoid: Vector) -> Vector:
    """Derivative of a sigmoid."""
    return fma(sigmoid, 0.0 - sigmoid, sigmoid)
