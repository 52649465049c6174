"""The panel holds every session once, in its symbol's place, and nothing of the future."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError, config_dir
from forecast.dataset.features import FEATURES, MARKET_FEATURES, FeatureSet
from forecast.dataset.panel import Panel, make_panel
from forecast.prices.frame import Covariate, Prices

pytestmark = pytest.mark.filterwarnings(
    "ignore:Series.values returning:pandas.errors.Pandas4Warning"  # in exchange_calendars
)
PricesOf = Callable[..., Prices]
seeds = st.integers(0, 10_000)
PER_ROW = ("values", "day", "log_price", "price", "scale", "gaps", "session_variance")
RETURNS = FeatureSet(columns=["return"])


def feature_set(name: str) -> FeatureSet:
    return FeatureSet(**yaml.safe_load((config_dir() / "features" / f"{name}.yaml").read_text()))


def plain_panel(prices: Prices, max_gap: int = 10) -> Panel:
    return make_panel(prices, RETURNS, market=None, max_gap=max_gap)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, symbols=st.integers(1, 6))
def test_every_session_stands_once_in_its_symbols_rows_in_order_of_date(
    random_prices: PricesOf, seed: int, symbols: int
) -> None:
    prices = random_prices(seed, symbols=symbols)
    panel = plain_panel(prices)
    np.testing.assert_array_equal(panel.dates, np.unique(prices.frame["date"].to_numpy()))
    assert panel.rows == len(prices.frame) == panel.offsets[-1]
    assert panel.symbols == tuple(prices.frame["symbol"].cat.categories)
    for s, symbol in enumerate(panel.symbols):
        frame = prices.frame[(prices.frame["symbol"] == symbol).to_numpy()]
        rows = panel.symbol_rows(s)
        np.testing.assert_array_equal(panel.dates[panel.day[rows]], frame["date"].to_numpy())
        np.testing.assert_allclose(panel.log_price[rows], 100 * np.log(frame["close"]), rtol=1e-15)
        np.testing.assert_array_equal(panel.price[rows], frame["close"])
        assert np.isnan(panel.scale[rows][:20]).all() and (panel.scale[rows][20:] > 0).all()
        facts = panel.facts[s]
        assert (facts.symbol, facts.rows) == (symbol, len(frame))
        assert facts.first == f"{frame['date'].min():%Y-%m-%d}"
        assert facts.last == f"{frame['date'].max():%Y-%m-%d}"
        unmoved = frame["close"].diff().iloc[1:] == 0
        assert facts.zero_returns == pytest.approx(unmoved.mean() if len(unmoved) else 0)
        assert facts.gaps == (panel.gaps[rows][-1] if len(frame) else 0)
    types = {name: getattr(panel, name).dtype for name in ("values", "day", "offsets", "gaps")}
    assert types == {"values": "f4", "day": "i4", "offsets": "i8", "gaps": "i4"}


@pytest.mark.parametrize("name", ["close", "ohlcv", "returns"])
@settings(max_examples=15, deadline=None)
@given(seed=seeds, stop=st.integers(5, 69))
def test_a_panel_of_what_was_known_is_the_beginning_of_the_whole_panel(
    random_prices: PricesOf, cut: Callable[..., Prices], name: str, seed: int, stop: int
) -> None:
    """Truncation: later rows, later values of a covariate and later symbols are all missing."""
    prices = random_prices(seed, symbols=7, bars=True)
    rng = np.random.default_rng(seed)
    day = np.arange("2019-12-30", "2020-04-20", dtype="datetime64[D]").astype("datetime64[s]")
    told = pd.DataFrame({"known": day, "vix": rng.normal(size=len(day))})[
        rng.random(len(day)) < 0.5
    ]
    vix = Covariate(
        name="vix.csv", frame=told.reset_index(drop=True), columns=("vix",), lag=1, max_age=2
    )
    prices = replace(prices, covariates=(vix,))
    last = np.unique(prices.frame["date"].to_numpy())[: stop + 1][-1]
    features = feature_set(name)
    whole = make_panel(prices, features, max_gap=3)
    past = make_panel(cut(prices, last), features, max_gap=3)
    assert past.names == whole.names
    assert past.dates.tobytes() == whole.dates[: len(past.dates)].tobytes()
    for s, symbol in enumerate(past.symbols):
        mine = past.symbol_rows(s)
        start = whole.symbol_rows(whole.symbols.index(symbol)).start
        same = slice(start, start + mine.stop - mine.start)
        for column in PER_ROW:
            old, new = getattr(past, column)[mine], getattr(whole, column)[same]
            assert old.tobytes() == new.tobytes(), column


# Variance of a session


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_sessions_variance_is_its_squared_return_where_there_are_closes_alone(
    random_prices: PricesOf, seed: int
) -> None:
    panel = plain_panel(random_prices(seed))
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        squared = np.diff(panel.log_price[rows], prepend=np.nan) ** 2
        np.testing.assert_allclose(panel.session_variance[rows], squared, rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_with_bars_it_is_the_overnight_square_plus_the_range_of_rogers_and_satchell(
    random_prices: PricesOf, seed: int
) -> None:
    prices = random_prices(seed, bars=True)
    panel = plain_panel(prices)
    frame = prices.frame
    for n in range(panel.rows):
        if n in panel.offsets:
            assert np.isnan(panel.session_variance[n])
            continue
        o, high, low, c = (frame[x].iloc[n] for x in ("open", "high", "low", "close"))
        before = frame["close"].iloc[n - 1]
        overnight = np.log(o / before)
        ranged = np.log(high / c) * np.log(high / o) + np.log(low / c) * np.log(low / o)
        expected = 1e4 * (np.log(c / before) ** 2 if np.isnan(o) else overnight**2 + ranged)
        assert panel.session_variance[n] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_both_kinds_of_variance_expect_that_of_the_return(prices_of: PricesOf) -> None:
    """A random walk of many steps a session, a third of it overnight."""
    rng = np.random.default_rng(0)
    sessions, steps = 3000, 200
    night = rng.normal(0, 0.5, sessions)
    day = np.cumsum(rng.normal(0, 1 / np.sqrt(steps), (sessions, steps)), axis=1)
    close = np.cumsum(night + day[:, -1])
    opening = close - day[:, -1]
    path = {
        "open": opening,
        "high": opening + np.maximum(day.max(axis=1), 0),
        "low": opening + np.minimum(day.min(axis=1), 0),
    }
    bars = {name: {"A": 50 * np.exp(x / 100)} for name, x in path.items()}
    panel = plain_panel(prices_of({"A": 50 * np.exp(close / 100)}, **bars))
    ranged = panel.session_variance[1:]
    squared = np.diff(panel.log_price) ** 2
    assert squared.mean() == pytest.approx(1.25, rel=0.08)
    # Ranges between 200 steps fall short of those of a continuous walk.
    assert ranged.mean() == pytest.approx(1.25, rel=0.12)
    assert ranged.std() < 0.6 * squared.std()


def test_a_session_without_a_move_has_no_variance_and_a_rounded_bar_no_negative_one(
    prices_of: PricesOf,
) -> None:
    flat = np.full(30, 10.0)
    for high in (10.0, 10.0 - 1e-9):  # a hair below the close
        bars = {"open": {"A": flat}, "high": {"A": np.full(30, high)}, "low": {"A": flat - 0.1}}
        panel = plain_panel(prices_of({"A": flat}, **bars))
        assert (panel.session_variance[1:] >= 0).all()
    bars["low"] = bars["high"] = {"A": flat}
    still = plain_panel(prices_of({"A": flat}, **bars))
    np.testing.assert_array_equal(still.session_variance[1:], 0)


def test_symbols_whose_exchange_closes_before_the_markets_see_it_late(prices_of: PricesOf) -> None:
    close = {"A": np.linspace(10, 12, 40), "B": np.linspace(10, 9, 40)}
    prices = prices_of(close, calendar={"A": "XNYS", "B": "XTKS"})
    lags = {m: make_panel(prices, RETURNS, market=m).market_lag.tolist() for m in ("A", "B", None)}
    assert lags == {"A": [0, 1], "B": [0, 0], None: [0, 0]}


# Gaps


def gaps_naively(dates: np.ndarray, sessions: np.ndarray, max_gap: int) -> np.ndarray:
    count, result = 0, []
    for i in range(len(dates)):
        if i and int(np.sum((sessions > dates[i - 1]) & (sessions < dates[i]))) > max_gap:
            count += 1
        result.append(count)
    return np.array(result)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, max_gap=st.integers(0, 8))
def test_gaps_are_counted_in_sessions_of_the_union_where_no_exchange_is_known(
    random_prices: PricesOf, seed: int, max_gap: int
) -> None:
    panel = plain_panel(random_prices(seed, symbols=3, missing=0.15, halts=2), max_gap)
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        expected = gaps_naively(panel.dates[panel.day[rows]], panel.dates, max_gap)
        np.testing.assert_array_equal(panel.gaps[rows], expected)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, max_gap=st.integers(0, 8))
def test_gaps_are_counted_in_sessions_of_the_exchange_where_it_is_known(
    random_prices: PricesOf, seed: int, max_gap: int
) -> None:
    import exchange_calendars

    sessions = exchange_calendars.get_calendar(
        "XNYS", start="2001-01-01", end="2002-01-01"
    ).sessions
    days = sessions.to_numpy().astype("datetime64[D]")
    prices = random_prices(
        seed, symbols=2, missing=0.15, halts=2, calendar="XNYS", first="2001-08-01"
    )
    panel = plain_panel(prices, max_gap)
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        expected = gaps_naively(panel.dates[panel.day[rows]], days, max_gap)
        np.testing.assert_array_equal(panel.gaps[rows], expected)


def around(prices_of: PricesOf, missing: slice, **options: object) -> Panel:
    """Weekdays from Monday 2001-09-03 on; the second symbol, if any, misses none."""
    price = np.linspace(10, 12, 40)
    hole = price.copy()
    hole[missing] = np.nan
    dates = np.busday_offset(np.datetime64("2001-09-03"), np.arange(40), roll="forward")
    return plain_panel(prices_of({"S0": hole}, dates=dates, **options), max_gap=0)


def test_closed_exchanges_are_no_gap(prices_of: PricesOf) -> None:
    closed = slice(6, 10)  # 11 to 14 September 2001
    assert around(prices_of, closed, calendar="XNYS").gaps[-1] == 0
    assert around(prices_of, closed, calendar="XTKS").gaps[-1] == 1
    assert around(prices_of, slice(6, 11), calendar="XNYS").gaps[-1] == 1
    assert around(prices_of, slice(6, 11)).gaps[-1] == 0  # nobody traded: no session of the union


def test_a_gap_is_flagged_from_its_end_on_and_named(prices_of: PricesOf) -> None:
    price = np.full(40, 10.0)
    hole = price.copy()
    hole[5:16] = np.nan
    prices = prices_of({"A": hole, "B": price})
    assert plain_panel(prices, 11).gaps.max() == 0
    panel = plain_panel(prices, 10)
    np.testing.assert_array_equal(panel.gaps, [0] * 5 + [1] * 24 + [0] * 40)
    (warning,) = panel.warnings
    assert all(word in warning for word in ("A", "2020-01-10", "2020-01-28", "max_gap=10"))
    assert [facts.gaps for facts in panel.facts] == [1, 0]


def test_gaps_before_and_beyond_what_an_exchange_calendar_knows_are_counted_in_weekdays(
    prices_of: PricesOf,
) -> None:
    """Tokyo's calendar begins in 1997, prices of its stocks decades earlier."""
    for first in ("1985-02-01", "1996-11-25"):
        price = np.full(60, 10.0)
        price[5:17], price[40:52] = np.nan, np.nan
        dates = np.busday_offset(np.datetime64(first), np.arange(60), roll="forward")
        prices = prices_of({"A": price}, dates=dates, calendar="XTKS")
        assert plain_panel(prices, 11).gaps.max() == 2
        assert plain_panel(prices, 12).gaps.max() == 0


def test_an_unknown_exchange_is_refused_by_its_code(prices_of: PricesOf) -> None:
    with pytest.raises(ForecastError, match="calendar 'XNOO' is no exchange_calendars code"):
        around(prices_of, slice(6, 11), calendar="XNOO")


def test_a_symbol_without_an_exchange_is_measured_by_the_union(prices_of: PricesOf) -> None:
    price = np.full(40, 10.0)
    hole = price.copy()
    hole[5:16] = np.nan
    prices = prices_of({"A": price, "B": hole}, calendar={"A": "XNYS", "B": None})
    panel = plain_panel(prices)
    assert panel.gaps[panel.symbol_rows(1)][-1] == 1


# The rest


@settings(max_examples=25, deadline=None)
@given(seed=seeds, day=st.integers(-5, 110))
def test_the_first_row_on_or_after_a_date(
    random_panel: Callable[..., Panel], seed: int, day: int
) -> None:
    panel = random_panel(seed)
    date = np.datetime64("2020-01-06") + day
    expected = []
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        later = np.flatnonzero(panel.dates[panel.day[rows]] >= date)
        expected.append(rows.start + later[0] if len(later) else rows.stop)
    np.testing.assert_array_equal(panel.first_row(date), expected)


def test_prices_are_shown_as_quoted_where_the_quote_is_known(prices_of: PricesOf) -> None:
    close = {"A": np.arange(1.0, 31.0)}
    raw = {"A": np.where(np.arange(30) < 4, np.nan, 100.0)}
    panel = plain_panel(prices_of(close, raw_close=raw))
    np.testing.assert_array_equal(panel.price, [1, 2, 3, 4] + [100] * 26)
    np.testing.assert_allclose(panel.log_price, 100 * np.log(np.arange(1.0, 31.0)))


def test_a_column_that_the_source_lacks_is_refused(random_prices: PricesOf) -> None:
    with pytest.raises(ForecastError, match="'garman_klass' needs the column 'open'.*data=test"):
        make_panel(random_prices(0), feature_set("ohlcv"))


def test_without_a_market_its_features_are_left_out_and_with_too_few_symbols_a_report_says_so(
    random_prices: PricesOf,
) -> None:
    features = feature_set("close")
    without = make_panel(random_prices(0), features, market=None)
    assert without.names == tuple(c for c in features.columns if c not in MARKET_FEATURES)
    assert without.market.definition == "none"
    few = make_panel(random_prices(0, symbols=4), features)
    assert few.names == tuple(features.columns)
    assert np.isnan(few.values[:, [few.names.index(c) for c in MARKET_FEATURES]]).all()
    assert any("no date has five symbols" in warning for warning in few.warnings)


def test_a_symbols_rows_do_not_depend_on_the_others(
    prices_of: PricesOf, random_prices: PricesOf
) -> None:
    """But through the market: with a stored one the rest of the panel does not matter."""
    prices = random_prices(5, symbols=6, bars=True)
    features = FeatureSet(columns=list(FEATURES))
    whole = make_panel(prices, features)
    for s, symbol in enumerate(whole.symbols):
        frame = prices.frame[(prices.frame["symbol"] == symbol).to_numpy()].reset_index(drop=True)
        frame["symbol"] = frame["symbol"].cat.remove_unused_categories()
        alone = make_panel(Prices(frame=frame, source="test"), features, market=whole.market)
        assert alone.values.tobytes() == whole.values[whole.symbol_rows(s)].tobytes()


def test_an_own_feature_must_give_every_symbol_the_same_columns(
    random_prices: PricesOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fickle.py").write_text(
        "def f(h):\n    names = ['close', 'volume']\n"
        "    return h[names if len(h) > 60 else names[::-1]]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prices = random_prices(0, bars=True)
    assert prices.frame.groupby("symbol", observed=True).size().gt(60).nunique() == 2
    with pytest.raises(ForecastError, match="features.own: S1 has the columns.*S0 has"):
        make_panel(prices, FeatureSet(columns=[], own=["fickle.f"]), market=None)
