"""What a rule is shown: units, what is carried over closed sessions, and never what comes later."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.config import ForecastError
from forecast.dataset.features import log_return, scale
from forecast.portfolio.outlooks import outlooks_of
from forecast.portfolio.quotes import Quotes
from forecast.portfolio.strategies import Outlook, simple_mean
from forecast.schema import QUANTILES

QuotesOf = Callable[..., Quotes]
NAN = math.nan


def rows_of(quotes: Quotes, cells: list[tuple[int, str]], **columns: Any) -> pd.DataFrame:
    """Rows at (date, symbol) of the quotes; the i-th of n states a mean of i percent."""
    number = np.arange(len(cells), dtype=float)
    frame = {
        "origin": quotes.dates[[t for t, _ in cells]].astype("datetime64[s]"),
        "symbol": [name for _, name in cells],
        "fold": [t // 10 for t, _ in cells],
        "scale": 1 + number,
        "mean": number,
        "std": 2 + number,
        **{name: number + i for i, name in enumerate(QUANTILES)},
    }
    return pd.DataFrame(frame | columns)


def shown(rows: pd.DataFrame, quotes: Quotes, **options: Any) -> dict[int, Outlook]:
    """Outlooks by their place among the dates."""
    given = {"horizon": 5, "stale": 3, "states": True} | options
    looks = outlooks_of(rows, quotes, **given)
    zero = np.zeros(len(quotes.symbols))
    return {int(t): looks.at(o, zero.copy()) for o, t in enumerate(looks.t_O)}


def test_percent_log_returns_become_fractions_of_simple_ones(quotes_from: QuotesOf) -> None:
    quotes = quotes_from({"A": np.linspace(10, 20, 40), "B": np.linspace(10, 5, 40)})
    seen = shown(rows_of(quotes, [(30, "A"), (30, "B"), (31, "B")]), quotes)
    assert list(seen) == [30, 31]
    outlook = seen[30]
    assert outlook.origin == quotes.dates[30] and outlook.symbols == ("A", "B")
    assert outlook.horizon == 5
    np.testing.assert_allclose(
        outlook.mean_S, simple_mean(np.array([0, 0.01]), np.array([0.02, 0.03]))
    )
    np.testing.assert_allclose(outlook.std_S, [0.02, 0.03])
    np.testing.assert_allclose(outlook.scale_S, [0.01, 0.02])
    np.testing.assert_allclose(outlook.quantiles_SQ[1], np.exp((1 + np.arange(21)) / 100) - 1)
    assert np.isnan(seen[31].mean_S[0]) and np.isnan(seen[31].quantiles_SQ[0]).all()
    for field in fields(outlook):
        value = getattr(outlook, field.name)
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[...] = 0


def test_a_forecast_is_kept_while_its_exchange_is_closed_and_no_longer(
    quotes_from: QuotesOf,
) -> None:
    close = np.linspace(10, 20, 12)
    closed = close.copy()
    closed[4:9] = NAN
    quotes = quotes_from({"A": close, "B": closed})
    cells = [(t, "A") for t in range(3, 11)] + [(3, "B"), (10, "B")]
    seen = shown(rows_of(quotes, cells), quotes, stale=3)
    mean = {t: float(np.log1p(seen[t].mean_S[1])) for t in seen}
    # Session 9 of B states nothing, so nothing is said of it then.
    assert [not math.isnan(mean[t]) for t in range(3, 11)] == [True] * 4 + [False] * 3 + [True]
    assert len({round(mean[t], 12) for t in range(3, 7)}) == 1
    never = shown(rows_of(quotes, cells), quotes, stale=0)
    assert math.isnan(never[4].mean_S[1]) and not math.isnan(never[3].mean_S[1])


def test_a_volatility_not_stated_is_read_from_the_quantiles(quotes_from: QuotesOf) -> None:
    quotes = quotes_from({"A": np.linspace(10, 20, 9)})
    normal = {"q10": -1.2815515655, "q50": 0.0, "q90": 1.2815515655}
    columns = {name: [3 * normal.get(name, i / 10)] for i, name in enumerate(QUANTILES)}
    rows = rows_of(quotes, [(5, "A")], std=[NAN], **columns)
    assert shown(rows, quotes)[5].std_S[0] == pytest.approx(0.03)
    silent = rows.assign(**dict.fromkeys(QUANTILES, NAN))
    outlook = shown(silent, quotes)[5]
    assert math.isnan(outlook.std_S[0]) and outlook.mean_S[0] == math.expm1(0.0)


def test_whether_others_state_a_volatility_changes_none_that_is_read(
    quotes_from: QuotesOf,
) -> None:
    quotes = quotes_from({"A": np.linspace(10, 20, 9), "B": np.linspace(10, 5, 9)})
    rows = rows_of(quotes, [(5, "A"), (5, "B"), (6, "A")], std=[NAN, 7.0, NAN])
    before, after = (shown(r, quotes)[5] for r in (rows, rows.assign(std=[NAN, 7.0, 9.0])))
    assert before.std_S[0] == pytest.approx(0.16 / (2 * 1.2815515655))  # q90 − q10 is 16
    assert before.std_S[1] == pytest.approx(0.07)
    np.testing.assert_array_equal(before.std_S, after.std_S)
    alone = shown(rows[rows["symbol"] == "A"], quotes)[5]
    assert alone.std_S[0] == before.std_S[0] and alone.mean_S[0] == before.mean_S[0]


def test_sessions_a_year_are_counted_up_to_the_origin(quotes_from: QuotesOf) -> None:
    every_day = np.datetime64("2020-01-01") + np.arange(800)
    quotes = quotes_from({"A": np.full(800, 10.0)}, dates=every_day)
    seen = shown(rows_of(quotes, [(t, "A") for t in (2, 100, 799)]), quotes)
    assert [round(seen[t].periods, 2) for t in seen] == [252.0, 365.25, 365.25]


def test_without_a_model_only_prices_are_shown(quotes_from: QuotesOf) -> None:
    """From a symbol's first row on; of Weights, which have no scale, whatever has prices."""
    price = 10 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.02, (60, 3)), axis=0))
    price[:35, 2] = NAN
    quotes = quotes_from(dict(zip("ABC", price.T, strict=True)))
    rows = rows_of(quotes, [(40, "A"), (45, "A"), (45, "B"), (50, "A"), (58, "A")])
    seen = shown(rows, quotes, states=False)
    trailing = {
        s: scale(log_return(price[:, s]), half_life=20, floor=0.01)[0] / 100 for s in (0, 1)
    }
    assert [round(100 * seen[t].scale_S[0], 9) for t in seen] == [1, 2, 4, 5]
    assert [math.isnan(seen[t].scale_S[1]) for t in seen] == [True, False, False, False]
    assert seen[50].scale_S[1] == pytest.approx(trailing[1][50])
    assert all(np.isnan(seen[t].mean_S).all() and np.isnan(seen[t].scale_S[2]) for t in seen)
    weights = shown(rows.drop(columns="scale"), quotes, states=False)
    assert weights[40].scale_S[0] == pytest.approx(trailing[0][40])
    assert [math.isnan(weights[t].scale_S[2]) for t in weights] == [True, True, True, False]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"symbol": "Z"}, "Z has a row at 2020-01-13, but no price there"),
        ({"origin": pd.Timestamp("2020-01-12")}, "A has a row at 2020-01-12, but no price"),
        ({"origin": pd.Timestamp("2031-01-12")}, "A has a row at 2031-01-12, but no price"),
        ({"origin": pd.Timestamp("2020-01-14")}, "A has a row at 2020-01-14, but no price"),
        ({"mean": 1e6}, "log return in percent meant"),
    ],
)
def test_rows_that_do_not_go_with_the_prices_are_refused(
    quotes_from: QuotesOf, change: dict[str, Any], told: str
) -> None:
    quotes = quotes_from({"A": [10, 11, 12, 11, 10, 9, NAN], "B": [1, 1, 1, 1, 1, 1, 1]})
    rows = rows_of(quotes, [(5, "A"), (5, "B")])
    for name, value in change.items():
        rows.loc[0, name] = value
    with pytest.raises(ForecastError, match=told):
        shown(rows, quotes)
