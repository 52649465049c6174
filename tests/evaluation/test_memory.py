"""Gradients of the forecast volatility against autograd on cells written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from forecast.evaluation.explained import Explained
from forecast.evaluation.gates import GATES, unroll
from forecast.evaluation.memory import gradient, memory_length, profile

MakeExplained = Callable[..., Explained]
LAGS = 15


def measured(explained: Explained, origins: np.ndarray, lags: int = LAGS) -> np.ndarray:
    symbols = np.arange(len(explained.panel.symbols))
    offsets = explained.panel.offsets
    x_BLF = explained.tensors.inputs(offsets[:-1], offsets[1:], int(np.diff(offsets).max()))
    member = explained.members[0]
    unrolled = unroll(member.network, x_BLF)
    return gradient(explained, member, unrolled, symbols=symbols, origins=origins, lags=lags)


def by_hand(cell: str, weights: dict[str, Tensor], x_LF: Tensor) -> Tensor:
    """The last hidden state of a cell, written out."""
    units = weights["weight_hh_l0"].shape[1]
    h = c = x_LF.new_zeros(units)
    for x in x_LF:
        given = weights["weight_ih_l0"] @ x + weights["bias_ih_l0"]
        kept = weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]
        if cell == "rnn":
            h = torch.tanh(given + kept)
        elif cell == "lstm":
            i, f, g, o = (given + kept).split(units)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            (r, z, n), (s, y, m) = given.split(units), kept.split(units)
            update = (z + y).sigmoid()
            h = (1 - update) * (n + (r + s).sigmoid() * m).tanh() + update * h
    return h


@pytest.mark.parametrize("cell", GATES)
def test_gradients_are_those_of_a_cell_written_out_from_its_first_session(
    make_explained: MakeExplained, cell: str
) -> None:
    explained = make_explained(cell)
    network, head = explained.members[0].network, explained.members[0].head
    origins = explained.origins(np.arange(6), 6, before=LAGS + 1)
    found = measured(explained, origins)
    assert found.shape == (len(origins), LAGS + 1, len(explained.panel.names))
    weights = {k: v.detach().double() for k, v in network.recurrence.named_parameters()}
    for n, row in enumerate(origins):
        first = int(explained.panel.offsets[explained.symbol_of(origins[[n]])[0]])
        values = torch.from_numpy(explained.panel.values[first : row + 1])
        z_LF = network.standardise(values).double().requires_grad_()
        raw = network.readout.weight.double() @ by_hand(cell, weights, z_LF)
        raw = raw + network.readout.bias.double()
        assert network.skip is not None
        raw = raw + network.skip.weight.double() @ z_LF[-1]
        volatility = head.domain(raw.unflatten(0, network.shape))[explained.horizon, 1]
        (slope,) = torch.autograd.grad(volatility.log(), z_LF)
        expected = slope.flip(0)[: LAGS + 1].numpy()
        # What is undefined moves nothing: its gradient is none.
        undefined = np.isnan(values.numpy()[::-1][: LAGS + 1])
        assert found[n] == pytest.approx(np.where(undefined, 0.0, expected), abs=2e-5)


def test_the_gradient_looks_at_one_horizon(make_explained: MakeExplained) -> None:
    explained = make_explained("gru")
    origins = explained.origins(np.arange(6), 6, before=LAGS + 1)
    one = measured(explained, origins)
    network = explained.members[0].network
    with torch.no_grad():  # the other horizon's read-out
        network.readout.weight[3:] *= 2
        assert network.skip is not None
        network.skip.weight[3:] *= 2
    assert measured(explained, origins) == pytest.approx(one, abs=1e-7)


def test_a_decay_by_the_recurrent_weight_is_measured(make_explained: MakeExplained) -> None:
    """A simple RNN with small inputs is linear: each session multiplies by its matrix."""
    explained = make_explained("rnn")
    network = explained.members[0].network
    with torch.no_grad():
        network.recurrence.weight_ih_l0.mul_(1e-3)  # type: ignore[operator]
        network.recurrence.bias_ih_l0.zero_()  # type: ignore[operator]
        network.recurrence.bias_hh_l0.zero_()  # type: ignore[operator]
        network.recurrence.weight_hh_l0.copy_(0.8 * torch.eye(5))  # type: ignore[operator]
    curve = profile(measured(explained, explained.origins(np.arange(6), 60, before=40), 39))
    assert curve[2:] / curve[1:-1] == pytest.approx(np.full(38, 0.8), rel=0.01)
    assert memory_length(curve) == pytest.approx(1 + np.log(0.5) / np.log(0.8), abs=0.05)
    assert memory_length(curve, 0.01) == pytest.approx(1 + np.log(0.01) / np.log(0.8), abs=0.1)


def test_memory_is_where_the_gradient_stays_below_half_of_what_is_carried() -> None:
    assert memory_length(np.array([9.0, 4.0, 3.0, 1.0, 0.5])) == 2.5  # lag 0 is not memory
    assert memory_length(np.array([0.0, 1.0, 0.1, 4.0, 0.0])) == 3.5  # of a late peak
    assert memory_length(np.array([1.0, 1.0, 1.0])) == np.inf
    assert memory_length(np.array([1.0, 0.0, 0.0])) == 0.0


def test_a_profile_is_the_mean_length_of_gradients() -> None:
    slopes = np.array([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 3.0]]])
    assert profile(slopes).tolist() == [2.5, 2.0]
