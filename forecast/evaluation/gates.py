"""What happens inside a trained cell: its gates and states, session by session.

torch hands out nothing but hidden states, so the cell's equations stand here once more, on the
trained network's own weights. `difference` tells how far they are from its own pass. Both are made
in double precision: over a long history rounding alone may add up to 1e-5 in single precision.

Axes: B histories, L sessions, U units, F features.

References
----------
Hochreiter and Schmidhuber (1997), Long short-term memory; Gers, Schmidhuber and Cummins (2000),
Learning to forget: the forget gate. Cho et al. (2014), Learning phrase representations: the GRU.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from forecast.models.networks import Network, State

GATES = {"rnn": (), "lstm": ("forget", "input", "output"), "gru": ("reset", "update")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One layer over whole histories.

    Attributes
    ----------
    hidden_BLU : what the layer hands on after each session.
    cell_BLU : the LSTM's cell state; None elsewhere.
    gates : activity of each gate, between 0 and 1, shape (B, L, U).
    """

    hidden_BLU: Tensor
    cell_BLU: Tensor | None
    gates: dict[str, Tensor]

    def single(self) -> Layer:
        """In the precision that networks work in."""
        return Layer(
            hidden_BLU=self.hidden_BLU.float(),
            cell_BLU=None if self.cell_BLU is None else self.cell_BLU.float(),
            gates={name: gate_BLU.float() for name, gate_BLU in self.gates.items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Unrolled:
    """All layers of a network over whole histories, from a state of zero.

    Attributes
    ----------
    difference : float
        Largest absolute difference of the last layer's hidden states from torch's own, in double
        precision.
    """

    layers: list[Layer]
    difference: float

    def state(self, history_N: Tensor, session_N: Tensor) -> State:
        """The state after a session of some histories, as the network takes it.

        Parameters
        ----------
        history_N, session_N : indices into B and L; session −1 is before the first.
        """

        def after(values_BLU: Tensor) -> Tensor:
            found_NU = values_BLU[history_N, session_N.clamp(min=0)]
            return torch.where((session_N >= 0)[:, None], found_NU, 0.0)

        hidden = torch.stack([after(layer.hidden_BLU) for layer in self.layers])
        if self.layers[0].cell_BLU is None:
            return hidden
        cells = [cast(Tensor, layer.cell_BLU) for layer in self.layers]
        return hidden, torch.stack([after(cell_BLU) for cell_BLU in cells])


@torch.no_grad()
def unroll(network: Network, x_BLF: Tensor) -> Unrolled:
    """Pass over histories from their first session, keeping every gate and state.

    Parameters
    ----------
    x_BLF : features as the panel holds them.
    """
    read_BLF = nn.functional.pad(network.standardise(x_BLF), (0, network.padding)).double()
    recurrence = cast(nn.RNNBase, deepcopy(network.recurrence).double())
    step = _STEPS[type(recurrence)]
    layers: list[Layer] = []
    inner_BLU = read_BLF
    for number in range(recurrence.num_layers):
        names = (f"{kind}_{way}_l{number}" for kind in ("weight", "bias") for way in ("ih", "hh"))
        w_in, w_state, b_in, b_state = (getattr(recurrence, name) for name in names)
        layers.append(_layer(step, inner_BLU @ w_in.T + b_in, w_state.T, b_state))
        inner_BLU = layers[-1].hidden_BLU
    own_BLU, _ = recurrence(read_BLF)
    return Unrolled(
        layers=[layer.single() for layer in layers],
        difference=float((own_BLU - inner_BLU).abs().max()),
    )


# From the inputs' and the states' share of each gate, the state and the cell: the next state and
# cell, and the gates by name.
Step = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]


def _layer(step: Step, in_BLG: Tensor, w_state: Tensor, b_state: Tensor) -> Layer:
    batch, length = in_BLG.shape[:2]
    units = w_state.shape[0]
    h_BU, c_BU = in_BLG.new_zeros(batch, units), in_BLG.new_zeros(batch, units)
    hidden_BLU, cell_BLU = (in_BLG.new_empty(batch, length, units) for _ in range(2))
    gates: dict[str, Tensor] = {}
    for t in range(length):
        h_BU, c_BU, activity = step(in_BLG[:, t], h_BU @ w_state + b_state, h_BU, c_BU)
        hidden_BLU[:, t], cell_BLU[:, t] = h_BU, c_BU
        for name, value in activity.items():
            gates.setdefault(name, torch.empty_like(hidden_BLU))[:, t] = value
    return Layer(hidden_BLU=hidden_BLU, cell_BLU=cell_BLU if step is _lstm else None, gates=gates)


def _rnn(
    given: Tensor, kept: Tensor, h_BU: Tensor, c_BU: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return torch.tanh(given + kept), c_BU, {}


def _lstm(
    given: Tensor, kept: Tensor, h_BU: Tensor, c_BU: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    i, f, g, o = (given + kept).chunk(4, dim=-1)
    i, f, o = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o)
    c_BU = f * c_BU + i * torch.tanh(g)
    return o * torch.tanh(c_BU), c_BU, {"forget": f, "input": i, "output": o}


def _gru(
    given: Tensor, kept: Tensor, h_BU: Tensor, c_BU: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    (r_in, z_in, n_in), (r_state, z_state, n_state) = given.chunk(3, -1), kept.chunk(3, -1)
    r, z = torch.sigmoid(r_in + r_state), torch.sigmoid(z_in + z_state)
    n = torch.tanh(n_in + r * n_state)
    return (1 - z) * n + z * h_BU, c_BU, {"reset": r, "update": z}


_STEPS: dict[type[nn.Module], Step] = {nn.RNN: _rnn, nn.LSTM: _lstm, nn.GRU: _gru}
