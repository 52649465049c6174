from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.report.equity import _ticks, by_month, equity, grown, rolling, years
from forecast.report.traded import traded_in
from forecast.run import Run

Make = Callable[..., Run]


def test_equity_ends_at_the_total_return_and_the_deepest_point_is_the_drawdown(
    make_portfolio: Make,
) -> None:
    traded = traded_in(make_portfolio(years=(2020,)))  # short enough to be drawn day by day
    figure = grown(traded)
    named = [t for t in figure.data if t.legendgroup == "sign" and "on lstm" in t.hovertemplate]
    curve, below = (np.asarray(trace.y) for trace in named[:2])
    row = traded.at("performance", ("lstm", "sign"))
    assert curve[-1] == pytest.approx(1 + row["total_return"], rel=1e-5)
    assert np.nanmin(below) == pytest.approx(-100 * row["max_drawdown"], rel=1e-4)
    assert figure.layout.yaxis.type == "log"


@given(low=st.floats(1e-3, 1e3), ratio=st.floats(1.02, 1e4))
@settings(max_examples=100, deadline=None)
def test_a_logarithmic_axis_has_a_few_round_ticks_within_its_values(
    low: float, ratio: float
) -> None:
    ticks = _ticks([low, low * ratio])
    assert ticks == sorted(set(ticks)) and ticks[0] > 0
    if ratio > 1.05:
        assert 2 <= sum(low <= tick <= low * ratio for tick in ticks) <= 30


def test_a_logarithmic_axis_of_small_changes_has_ticks_between_them() -> None:
    assert _ticks([0.951, 1.006]) == [0.95, 0.96, 0.97, 0.98, 0.99, 1.0, 1.01]
    assert _ticks([0.72, 1.17]) == [0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
    assert 1.0 in _ticks([1.0, 1.0])


def test_the_rolling_ratio_is_that_of_the_past_year_alone(make_portfolio: Make) -> None:
    traded = traded_in(make_portfolio())
    net = traded.returns["lstm", "sign"]["simple_return"].to_numpy()[-252:]
    figure = rolling(traded)
    trace = next(t for t in figure.data if "sign on lstm" in t.hovertemplate)
    ratio = net.mean() / net.std(ddof=1) * np.sqrt(traded.metrics["periods"])
    assert np.asarray(trace.y)[-1] == pytest.approx(ratio, rel=1e-4)


def test_a_short_series_has_no_rolling_ratio_and_says_so(make_portfolio: Make) -> None:
    html = equity(traded_in(make_portfolio(parts=("validation",), years=(2020,))))
    assert "too few sessions" in html and 'id="rolling-sharpe"' not in html


def test_months_and_years_are_those_of_the_leading_portfolio(make_portfolio: Make) -> None:
    traded = traded_in(make_portfolio())
    row = traded.at("performance", ("lstm", "long_short"))
    html = years(traded)
    first = re.findall(r"<tr><td>(\d{4})</td><td[^>]*>([^<]*)</td>", html)
    assert first == [(y, f"{100 * value:z.1f}") for y, value in row["yearly"].items()]
    (heat,) = by_month(row["monthly"], title="t").data
    z = np.asarray(heat.z)
    assert z.shape == (2, 12)
    assert z[1, 2] == pytest.approx(100 * row["monthly"]["2020-03"], rel=1e-5)


def test_a_month_without_returns_is_left_white() -> None:
    (heat,) = by_month({"2019-11": 0.01, "2020-02": -0.02}, title="t").data
    z = np.asarray(heat.z)
    assert np.isfinite(z).sum() == 2 and z[0, 10] == pytest.approx(1)
    assert heat.text[0][0] == "" and heat.text[1][1] == "-2.0"


def test_without_daily_returns_it_says_so(make_portfolio: Make) -> None:
    run = make_portfolio()
    (run.path / "returns.parquet").unlink()
    assert "No daily returns" in equity(traded_in(run))
