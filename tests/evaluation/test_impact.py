"""News impact: a moved last close, everything computed anew, and GJR-GARCH's formula beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from forecast.evaluation.causality import truncate
from forecast.evaluation.explained import Explained
from forecast.evaluation.gates import unroll
from forecast.evaluation.impact import (
    BENCHMARK,
    SHOCKS,
    benchmark_response,
    relative,
    response,
    shocked,
)
from forecast.models.garch import GarchFits

MakeExplained = Callable[..., Explained]


def own_shock(explained: Explained, row: int) -> float:
    """The return that really happened, in scales of the session before."""
    panel = explained.panel
    moved = panel.log_price[row] - panel.log_price[row - 1]
    return float(moved / panel.scale[row - 1])


@pytest.mark.parametrize("bars", [False, True])
def test_the_shock_that_happened_gives_the_rows_own_features(
    make_explained: MakeExplained, bars: bool
) -> None:
    columns = ("return", "volatility_2", "scale", "market_volatility")
    columns += ("garman_klass", "overnight") if bars else ()
    explained = make_explained(columns=columns, ohlcv=bars)
    for row in explained.origins(np.arange(6), 6, before=30):
        shock = own_shock(explained, int(row))
        values, scale = shocked(explained, np.array([row]), np.array([shock, shock + 1.0]))
        assert values[0, 0] == pytest.approx(explained.panel.values[row], abs=1e-5)
        assert scale[0, 0] == pytest.approx(explained.panel.scale[row], rel=1e-6)
        assert scale[0, 1] != pytest.approx(scale[0, 0], rel=1e-4)


def test_what_came_later_does_not_matter(make_explained: MakeExplained) -> None:
    explained = make_explained()
    row = explained.origins(np.array([2]), 1, before=30)
    date = explained.panel.dates[explained.panel.day[row[0]]]
    earlier = make_explained(prices=truncate(explained.prices, date))
    symbol = explained.panel.symbols[2]
    s = earlier.panel.symbols.index(symbol)
    same = np.array([earlier.panel.offsets[s + 1] - 1])
    for one, other in zip(shocked(explained, row), shocked(earlier, same), strict=True):
        assert np.array_equal(one, other)


def test_the_network_answers_the_shock_that_happened_as_it_did(
    make_explained: MakeExplained,
) -> None:
    explained = make_explained("gru")
    member, panel = explained.members[0], explained.panel
    symbols = np.arange(6)
    x_BLF = explained.tensors.inputs(panel.offsets[:-1], panel.offsets[1:], 400)
    rows = explained.origins(symbols, 6, before=30)
    stated = member.stated(x_BLF, 0)
    unrolled = unroll(member.network, x_BLF)
    for row in rows:
        values, scale = shocked(explained, np.array([row]), np.array([own_shock(explained, row)]))
        found = response(
            explained,
            member,
            unrolled,
            symbols=symbols,
            rows=np.array([row]),
            values_PZF=values,
            scale_PZ=scale,
        )
        s = int(explained.symbol_of(np.array([row]))[0])
        expected = stated[s, row - panel.offsets[s]] * panel.scale[row]
        assert found[0, 0] == pytest.approx(expected, rel=1e-5)


def test_garch_answers_by_its_formula(make_explained: MakeExplained) -> None:
    explained = make_explained(n_sessions=900, staggered=False)
    fits = GarchFits(explained.panel, explained.task, explained.train, symbols=[0, 1, 2])
    row = explained.origins(np.array([0]), 1, before=30)
    fit = fits.of(BENCHMARK)[0]
    omega, alpha, gamma, beta = fit.volatility
    before = fits.variance(BENCHMARK)[row[0] - 1] / fit.unit**2
    e = SHOCKS * explained.panel.scale[row[0] - 1] / fit.unit - fit.mean
    expected = omega + (alpha + gamma * (e < 0)) * e**2 + beta * before
    found = benchmark_response(explained, fits, row)[0]
    assert found == pytest.approx(fit.unit * np.sqrt(expected), rel=1e-9)
    shock = np.array([own_shock(explained, int(row[0]))])
    real = benchmark_response(explained, fits, row, shock)[0, 0]
    assert real == pytest.approx(np.sqrt(fits.variance(BENCHMARK)[row[0]]), rel=1e-5)
    other = explained.origins(np.array([5]), 1, before=30)
    assert np.isnan(benchmark_response(explained, fits, other)).all(), "it was not asked for"


def test_responses_are_relative_to_no_shock_and_averaged_as_ratios() -> None:
    shocks = np.array([-1.0, 0.0, 1.0])
    volatility = np.array([[4.0, 2.0, 2.0], [8.0, 16.0, 8.0]])
    assert relative(volatility, shocks) == pytest.approx([1.0, 1.0, np.sqrt(0.5)])


def test_a_longer_horizon_is_stated_over_all_of_it(make_explained: MakeExplained) -> None:
    explained = make_explained("rnn")
    network = explained.members[0].network
    with torch.no_grad():  # both horizons state the same in scaled units
        for weight in (network.readout.weight, network.readout.bias, network.skip.weight):  # type: ignore[union-attr]
            weight[3:] = weight[:3]
    symbols, rows = np.arange(6), explained.origins(np.arange(6), 6, before=30)
    values, scale = shocked(explained, rows)
    x_BLF = explained.tensors.inputs(explained.panel.offsets[:-1], explained.panel.offsets[1:], 400)
    found = []
    for horizon in (0, 1):
        object.__setattr__(explained, "horizon", horizon)
        found.append(
            response(
                explained,
                explained.members[0],
                unroll(network, x_BLF),
                symbols=symbols,
                rows=rows,
                values_PZF=values,
                scale_PZ=scale,
            )
        )
    assert found[1] == pytest.approx(np.sqrt(5) * found[0], rel=1e-6)
