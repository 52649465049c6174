"""Gates and states by the textbook equations, from the trained network's own weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import expit

from forecast.evaluation.explained import Explained
from forecast.evaluation.gates import GATES, Unrolled, unroll

MakeExplained = Callable[..., Explained]
CELLS = tuple(GATES)


def histories(explained: Explained) -> torch.Tensor:
    """All features from each symbol's first session on."""
    offsets = explained.panel.offsets
    return explained.tensors.inputs(offsets[:-1], offsets[1:], int(np.diff(offsets).max()))


def passed(explained: Explained) -> tuple[Unrolled, torch.Tensor]:
    x_BLF = histories(explained)
    return unroll(explained.members[0].network, x_BLF), x_BLF


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_the_pass_is_the_networks_own(
    make_explained: MakeExplained, cell: str, layers: int
) -> None:
    explained = make_explained(cell, layers=layers)
    network = explained.members[0].network
    unrolled, x_BLF = passed(explained)
    with torch.no_grad():
        own_BLU, _ = network.recurrence(network.standardise(x_BLF))
    assert len(unrolled.layers) == layers
    assert torch.allclose(unrolled.layers[-1].hidden_BLU, own_BLU, atol=1e-5)
    assert unrolled.difference < 1e-12, "in double precision"
    assert set(unrolled.layers[0].gates) == set(GATES[cell])


def test_gates_of_a_cell_with_other_weights_differ(make_explained: MakeExplained) -> None:
    explained = make_explained("gru")
    unrolled, x_BLF = passed(explained)
    with torch.no_grad():
        explained.members[0].network.recurrence.weight_hh_l0 *= 1.1  # type: ignore[operator]
    again = unroll(explained.members[0].network, x_BLF)
    assert not torch.allclose(
        again.layers[0].gates["update"], unrolled.layers[0].gates["update"], atol=1e-3
    )


def test_gates_of_the_lstm_are_the_textbooks(make_explained: MakeExplained) -> None:
    explained = make_explained("lstm")
    unrolled, x_BLF = passed(explained)
    network = explained.members[0].network
    w = {k: v.detach().double().numpy() for k, v in network.recurrence.named_parameters()}
    x = network.standardise(x_BLF)[2].double().numpy()
    units = w["weight_hh_l0"].shape[1]
    i, f, g, o = (slice(n * units, (n + 1) * units) for n in range(4))
    h = c = np.zeros(units)
    for t in range(60):
        a = w["weight_ih_l0"] @ x[t] + w["bias_ih_l0"] + w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        c = expit(a[f]) * c + expit(a[i]) * np.tanh(a[g])
        h = expit(a[o]) * np.tanh(c)
        (layer,) = unrolled.layers
        for name, rows in (("forget", f), ("input", i), ("output", o)):
            assert layer.gates[name][2, t].numpy() == pytest.approx(expit(a[rows]), abs=1e-5)
        assert layer.cell_BLU is not None
        assert layer.cell_BLU[2, t].numpy() == pytest.approx(c, abs=1e-5)


def test_gates_of_the_gru_are_the_textbooks(make_explained: MakeExplained) -> None:
    explained = make_explained("gru")
    unrolled, x_BLF = passed(explained)
    network = explained.members[0].network
    w = {k: v.detach().double().numpy() for k, v in network.recurrence.named_parameters()}
    x = network.standardise(x_BLF)[1].double().numpy()
    units = w["weight_hh_l0"].shape[1]
    r, z, n = (slice(k * units, (k + 1) * units) for k in range(3))
    h = np.zeros(units)
    for t in range(60):
        given = w["weight_ih_l0"] @ x[t] + w["bias_ih_l0"]
        kept = w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        reset, update = expit(given[r] + kept[r]), expit(given[z] + kept[z])
        h = (1 - update) * np.tanh(given[n] + reset * kept[n]) + update * h
        gates = unrolled.layers[0].gates
        assert gates["reset"][1, t].numpy() == pytest.approx(reset, abs=1e-5)
        assert gates["update"][1, t].numpy() == pytest.approx(update, abs=1e-5)
        assert unrolled.layers[0].hidden_BLU[1, t].numpy() == pytest.approx(h, abs=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_a_state_carries_on_where_it_was_taken(
    make_explained: MakeExplained, cell: str, layers: int
) -> None:
    explained = make_explained(cell, layers=layers)
    network = explained.members[0].network
    unrolled, x_BLF = passed(explained)
    whole, _ = network(x_BLF)
    at = unrolled.state(torch.tensor([0, 3]), torch.tensor([29, -1]))
    after = torch.stack([x_BLF[0, 30:50], x_BLF[3, :20]])
    carried, _ = network(after, at)
    assert torch.allclose(carried[0], whole[0, 30:50], atol=1e-5)
    assert torch.allclose(carried[1], whole[3, :20], atol=1e-5)


def test_a_single_feature_of_an_lstm_is_padded_as_in_training(
    make_explained: MakeExplained,
) -> None:
    explained = make_explained("lstm", columns=("return",))
    unrolled, _ = passed(explained)
    assert explained.members[0].network.padding == 1 and unrolled.difference < 1e-5
