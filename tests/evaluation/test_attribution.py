"""Importance of features: what permutation keeps, and what integrated gradients add up to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from forecast.evaluation.attribution import (
    histories,
    integrated_gradients,
    loss,
    permutation,
    permuted,
    shared,
)
from forecast.evaluation.explained import Explained

MakeExplained = Callable[..., Explained]
ALL = np.arange(6)


def forget(explained: Explained, feature: int) -> None:
    """Make the network blind to a feature."""
    network = explained.members[0].network
    with torch.no_grad():
        network.recurrence.weight_ih_l0[:, feature] = 0.0  # type: ignore[index]
        assert network.skip is not None
        network.skip.weight[:, feature] = 0.0


def test_a_permutation_deals_out_the_values_of_each_date_and_touches_nothing_else(
    make_explained: MakeExplained,
) -> None:
    explained = make_explained()
    given = histories(explained, ALL)
    dealt = permuted(given, explained.panel.day, 0, np.random.default_rng(0))
    assert torch.equal(dealt[..., 1:].nan_to_num(-9), given.x_SLF[..., 1:].nan_to_num(-9))
    moved = ~torch.eq(dealt[..., 0], given.x_SLF[..., 0])
    assert moved.float().mean() > 0.5
    day = explained.panel.day[given.rows_SL]
    for date in np.unique(day)[::17]:
        there = day == date
        before = dict(zip(given.rows_SL[there], given.x_SLF[..., 0].numpy()[there], strict=True))
        after = dict(zip(given.rows_SL[there], dealt[..., 0].numpy()[there], strict=True))
        assert np.array_equal(np.sort([*before.values()]), np.sort([*after.values()]), True)


def test_targets_that_count_lie_in_the_validation_range(make_explained: MakeExplained) -> None:
    explained = make_explained()
    given = histories(explained, ALL)
    rows = given.rows_SL[given.mask_SL.numpy()]
    symbol = explained.symbol_of(rows)
    assert len(rows) == len(set(rows)) > 100
    assert (rows >= explained.rows.low[symbol]).all() and (rows < explained.rows.high[symbol]).all()


def test_a_feature_that_the_network_ignores_is_worth_nothing(
    make_explained: MakeExplained,
) -> None:
    explained = make_explained()
    forget(explained, 1)
    rise = permutation(explained, explained.members[0], histories(explained, ALL), repeats=2)
    assert rise[1] == 0.0 and abs(rise[0]) > 1e-5
    at = explained.origins(ALL, 20, before=explained.task.length)
    shares = integrated_gradients(explained, explained.members[0], at).shares_NF
    assert not shares[:, 1].any() and np.abs(shares[:, 0]).mean() > 1e-4


def test_a_feature_that_all_symbols_of_a_date_share_cannot_be_dealt_out(
    make_explained: MakeExplained,
) -> None:
    explained = make_explained()
    given, names = histories(explained, ALL), explained.panel.names
    found = [shared(given, explained.panel.day, feature) for feature in range(len(names))]
    assert dict(zip(names, found, strict=True)) == {
        "return": False, "abs_return": False, "volatility_5": False, "market_return": True,
    }  # fmt: skip
    rise = permutation(explained, explained.members[0], given, repeats=1)
    assert np.isnan(rise).tolist() == found


def test_the_loss_that_rises_is_the_heads_on_the_targets_that_count(
    make_explained: MakeExplained,
) -> None:
    explained = make_explained()
    member, given = explained.members[0], histories(explained, ALL)
    raw, _ = member.network(given.x_SLF)
    parameters = member.head.domain(raw[:, :, 0])
    each = member.head.loss(parameters, given.y_SL)[given.mask_SL]
    assert loss(explained, member, given, given.x_SLF) == pytest.approx(
        each.mean().item(), abs=1e-5
    )
    panel = explained.panel
    row = int(given.rows_SL[3][given.mask_SL[3].numpy()][5])
    target = (panel.log_price[row + 1] - panel.log_price[row]) / panel.scale[row]
    at = np.argwhere(given.rows_SL == row)[0]
    assert given.y_SL[tuple(at)].item() == pytest.approx(target, rel=1e-4)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("head", ["student_t", "quantile", "gaussian", "skewed_t"])
def test_integrated_gradients_add_up_to_the_forecast(
    make_explained: MakeExplained, cell: str, head: str
) -> None:
    explained = make_explained(cell, head=head)
    at = explained.origins(ALL, 20, before=explained.task.length)
    shares = integrated_gradients(explained, explained.members[0], at)
    assert shares.error < 1e-4 * np.abs(shares.total_N).max()
    network, panel = explained.members[0].network, explained.panel
    n, length = 4, explained.task.length
    x = torch.from_numpy(panel.values[at[n] - length + 1 : at[n] + 1])[None]
    stated = explained.members[0].stated(torch.cat([x, network.mean_F.expand_as(x)]), 0)[:, -1]
    assert shares.total_N[n] == pytest.approx(np.log(stated[0] / stated[1]), abs=1e-5)


def test_of_a_forecast_that_reads_one_session_the_shares_are_that_sessions(
    make_explained: MakeExplained,
) -> None:
    """Without a recurrence only the skip connection is left, and the origin's own features."""
    explained = make_explained("rnn")
    network = explained.members[0].network
    with torch.no_grad():
        network.readout.weight.zero_()
    at = explained.origins(ALL, 20, before=explained.task.length)
    shares = integrated_gradients(explained, explained.members[0], at)
    z = network.standardise(torch.from_numpy(explained.panel.values[at])).double().numpy()
    assert network.skip is not None
    raw = network.skip.weight.detach().double().numpy()[1] * z  # of the spread, each feature's
    sign = np.sign(shares.shares_NF[np.abs(raw) > 1e-3]) == np.sign(raw[np.abs(raw) > 1e-3])
    assert sign.all()
    ratio = shares.shares_NF / raw.sum(axis=1, keepdims=True)
    assert ratio.sum(axis=1) * raw.sum(axis=1) == pytest.approx(shares.total_N, abs=1e-4)
