"""The market is one series, defined once, and never known before its close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset.features import FeatureSet
from forecast.dataset.market import (
    Market,
    Places,
    await_sessions,
    close_time,
    extend_market,
    make_market,
    market_lag,
    read_market,
    symbol_slices,
    write_market,
)
from forecast.dataset.panel import make_panel
from forecast.prices.frame import Prices

pytestmark = pytest.mark.filterwarnings(
    "ignore:Series.values returning:pandas.errors.Pandas4Warning"  # in exchange_calendars
)
PricesOf = Callable[..., Prices]
seeds = st.integers(0, 10_000)


def returns(prices: Prices) -> pd.DataFrame:
    """Percent log returns, one column a symbol, by date."""
    frame = prices.frame.assign(log=100 * np.log(prices.frame["close"]))
    frame["change"] = frame.groupby("symbol", observed=True)["log"].diff()
    return frame.pivot(index="date", columns="symbol", values="change")


def scale_of(value: np.ndarray, half_life: float) -> np.ndarray:
    result = np.full(len(value), np.nan)
    for t in range(20, len(value)):
        weight = 0.5 ** ((t - np.arange(t + 1)) / half_life)
        result[t] = np.sqrt(np.sum(weight * value[: t + 1] ** 2) / weight.sum())
    return result


@settings(max_examples=25, deadline=None)
@given(seed=seeds, symbols=st.integers(4, 8), missing=st.sampled_from([0.0, 0.1, 0.4]))
def test_the_equal_weighted_market_is_the_mean_return_where_five_symbols_have_one(
    random_prices: PricesOf, seed: int, symbols: int, missing: float
) -> None:
    prices = random_prices(seed, symbols=symbols, missing=missing)
    wide = returns(prices)
    expected = wide.mean(axis=1)[wide.count(axis=1) >= 5]
    market = make_market(prices, "equal_weight", half_life=20.0)
    np.testing.assert_array_equal(market.date, expected.index.to_numpy().astype("datetime64[D]"))
    np.testing.assert_allclose(market.log_return, expected.to_numpy(), atol=1e-10)
    np.testing.assert_allclose(market.scale, scale_of(expected.to_numpy(), 20.0), rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, stop=st.integers(5, 69), definition=st.sampled_from(["equal_weight", "S0"]))
def test_the_market_is_the_same_without_the_days_and_symbols_that_came_later(
    random_prices: PricesOf,
    cut: Callable[..., Prices],
    seed: int,
    stop: int,
    definition: str,
) -> None:
    prices = random_prices(seed, symbols=7)
    last = np.unique(prices.frame["date"].to_numpy())[: stop + 1][-1]
    whole = make_market(prices, definition, half_life=20.0)
    past = make_market(cut(prices, last), definition, half_life=20.0)
    count = len(past.date)
    assert count == int((whole.date <= last).sum())
    for name in ("date", "log_return", "scale"):
        assert getattr(whole, name)[:count].tobytes() == getattr(past, name).tobytes()


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_named_symbol_is_the_market(random_prices: PricesOf, seed: int) -> None:
    prices = random_prices(seed)
    expected = returns(prices)["S1"].dropna()
    market = make_market(prices, "S1", half_life=10.0)
    np.testing.assert_array_equal(market.date, expected.index.to_numpy().astype("datetime64[D]"))
    np.testing.assert_allclose(market.log_return, expected.to_numpy(), atol=1e-10)
    np.testing.assert_allclose(market.scale, scale_of(expected.to_numpy(), 10.0), rtol=1e-9)


def test_no_market_is_undefined_everywhere(random_prices: PricesOf) -> None:
    market = make_market(random_prices(0), None, half_life=20.0)
    assert market.definition == "none" and len(market.date) == 0
    assert np.isnan(market.at(np.array(["2020-01-07"], "datetime64[D]"))).all()


def test_an_unknown_symbol_is_no_market(random_prices: PricesOf) -> None:
    with pytest.raises(ForecastError, match="data.market=SPY is no symbol of the panel"):
        make_market(random_prices(0), "SPY", half_life=20.0)


@settings(max_examples=50, deadline=None)
@given(
    days=st.lists(st.integers(-40_000, 40_000), max_size=30, unique=True),
    asked=st.lists(st.integers(-41_000, 41_000), max_size=30),
)
def test_a_date_stands_where_it_is_found_among_the_others_or_nowhere(
    days: list[int], asked: list[int]
) -> None:
    dates = np.sort(np.array(days, "datetime64[D]"))
    wanted = np.array(asked + days, "datetime64[D]")
    known = list(dates)
    found = [known.index(date) if date in known else -1 for date in wanted]
    assert Places(dates).of(wanted).tolist() == found


def test_symbol_slices_are_the_rows_of_each_symbol(random_prices: PricesOf) -> None:
    prices = random_prices(3)
    for symbol, rows in symbol_slices(prices):
        assert set(prices.frame["symbol"].iloc[rows]) == {symbol}
    assert sum(rows.stop - rows.start for _, rows in symbol_slices(prices)) == len(prices.frame)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, lag=st.integers(0, 2))
def test_a_lagged_market_is_that_of_its_own_sessions_before(seed: int, lag: int) -> None:
    rng = np.random.default_rng(seed)
    day = np.arange("2020-01-01", "2020-02-20", dtype="datetime64[D]")
    date = np.sort(rng.choice(day, 25, replace=False))
    value, volatility = rng.normal(size=25), rng.uniform(1, 2, 25)
    market = Market(definition="x", date=date, log_return=value, scale=volatility)
    asked = np.sort(rng.choice(day, 30, replace=False))
    got = np.stack(market.at(asked, lag=lag))
    for n, when in enumerate(asked):
        here = np.flatnonzero(date == when)
        if len(here) and here[0] >= lag:
            assert got[:, n].tolist() == [value[here[0] - lag], volatility[here[0] - lag]]
        else:
            assert np.isnan(got[:, n]).all()


# Exchanges that close at different times


def test_exchanges_close_in_the_order_of_the_clock() -> None:
    """Sydney, Tokyo, London, New York; and what never closes has its close at midnight, last."""
    codes = ["XASX", "XTKS", "XLON", "XNYS", "24/7"]
    times = [close_time(code) for code in codes]
    assert times == sorted(set(times))
    assert times[2:] == [16 * 60 + 30, 21 * 60, 24 * 60]


@pytest.mark.parametrize(
    ("symbol", "market", "lag"),
    [
        ("XTKS", "XNYS", 1),
        ("XNYS", "XTKS", 0),
        ("XNYS", "XNAS", 0),
        ("XNYS", "24/7", 1),  # a coin's day ends three hours after New York's close
        ("24/7", "XNYS", 0),
        (None, "XNYS", 0),
        ("XNYS", None, 0),
    ],
)
def test_the_market_is_lagged_where_the_symbol_closes_first(
    symbol: str | None, market: str | None, lag: int
) -> None:
    assert market_lag(symbol, market) == lag


def two_exchanges(prices_of: PricesOf, *, second: str | None = "XTKS") -> Prices:
    rng = np.random.default_rng(0)
    close = {f"S{s}": 50 * np.exp(np.cumsum(rng.normal(0, 0.01, 60))) for s in range(6)}
    return prices_of(close, calendar={s: second if s > "S2" else "XNYS" for s in close})


def test_an_equal_weighted_market_over_different_closes_is_refused(prices_of: PricesOf) -> None:
    with pytest.raises(ForecastError, match="XNYS, XTKS|XTKS, XNYS"):
        make_market(two_exchanges(prices_of), "equal_weight", half_life=20.0)
    same = make_market(two_exchanges(prices_of, second="XNAS"), "equal_weight", half_life=20.0)
    assert len(same.date) == 59


def test_a_symbol_that_closes_before_its_market_sees_the_market_of_the_day_before(
    prices_of: PricesOf,
) -> None:
    prices = two_exchanges(prices_of)
    features = FeatureSet(columns=["market_return"])
    panel = make_panel(prices, features, market="S0")
    market = panel.market.log_return / panel.market.scale
    for s in range(6):
        column = panel.values[panel.symbol_rows(s), 0]
        lag = 1 if s > 2 else 0
        expected = np.concatenate([np.full(1 + lag, np.nan), market[: len(market) - lag]])
        np.testing.assert_array_equal(column, expected.astype(np.float32))


def test_a_stored_market_keeps_its_close_where_none_of_its_symbols_is_asked_for(
    prices_of: PricesOf, tmp_path: Path
) -> None:
    """A network trained on New York forecasts a Tokyo stock without New York's same day."""
    both, features = two_exchanges(prices_of), FeatureSet(columns=["market_return"])
    whole = make_panel(both, features, market="S0")
    write_market(whole.market, tmp_path / "market.parquet")
    frame = both.frame[(both.frame["symbol"] == "S5").to_numpy()].reset_index(drop=True)
    frame["symbol"] = frame["symbol"].cat.remove_unused_categories()
    alone = make_panel(
        Prices(frame=frame, source="test"),
        features,
        market=read_market(tmp_path / "market.parquet"),
    )
    np.testing.assert_array_equal(alone.values, whole.values[whole.symbol_rows(5)])


def test_a_symbol_of_no_known_exchange_closes_with_the_others(prices_of: PricesOf) -> None:
    prices = two_exchanges(prices_of, second=None)
    panel = make_panel(prices, FeatureSet(columns=["market_return"]), market="equal_weight")
    first, last = panel.values[panel.symbol_rows(0)], panel.values[panel.symbol_rows(5)]
    np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize("definition", ["equal_weight", "S1", None])
def test_a_stored_market_comes_back_as_it_was(
    random_prices: PricesOf, tmp_path: Path, definition: str | None
) -> None:
    prices = random_prices(1, symbols=7, calendar="XNYS")
    market = make_market(prices, definition, half_life=20.0)
    write_market(market, tmp_path / "market.parquet")
    again = read_market(tmp_path / "market.parquet")
    assert again.definition == market.definition
    for name in ("date", "log_return", "scale"):
        mine, stored = getattr(market, name), getattr(again, name)
        assert mine.dtype == stored.dtype and mine.tobytes() == stored.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["market.parquet"]


# A market that goes on after the run that stored it


@settings(max_examples=25, deadline=None)
@given(seed=seeds, stop=st.integers(30, 60), definition=st.sampled_from(["equal_weight", "S0"]))
def test_a_market_carried_on_evening_by_evening_is_the_market_of_the_whole(
    random_prices: PricesOf,
    cut: Callable[..., Prices],
    seed: int,
    stop: int,
    definition: str,
) -> None:
    """Bit for bit, whether a run's market is carried on once or every evening anew."""
    prices = random_prices(seed, symbols=8)
    dates = np.unique(prices.frame["date"].to_numpy())
    stored = every = make_market(cut(prices, dates[stop]), definition, half_life=20.0)
    for evening in dates[stop + 1 :]:
        until = cut(prices, evening)
        whole = make_market(until, definition, half_life=20.0)
        every = extend_market(every, until, half_life=20.0)
        for market in (extend_market(stored, until, half_life=20.0), every):
            assert market.definition == definition
            for name in ("date", "log_return", "scale"):
                assert getattr(market, name).tobytes() == getattr(whole, name).tobytes()


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_what_is_stored_of_a_market_stays_when_old_prices_are_rewritten(
    random_prices: PricesOf, cut: Callable[..., Prices], seed: int
) -> None:
    """A vendor's correction, or the rounding after a split, moves no feature of the run."""
    prices = random_prices(seed, symbols=7, staggered=False, halts=0)
    last = np.unique(prices.frame["date"].to_numpy())[50]
    stored = make_market(cut(prices, last), "equal_weight", half_life=20.0)
    rng = np.random.default_rng(seed)
    close = prices.frame["close"] * np.exp(rng.normal(0, 0.01, len(prices.frame)))
    rewritten = replace(prices, frame=prices.frame.assign(close=close))
    market = extend_market(stored, rewritten, half_life=20.0)
    count = len(stored.date)
    assert len(market.date) > count
    for name in ("date", "log_return", "scale"):
        assert getattr(market, name)[:count].tobytes() == getattr(stored, name).tobytes()
    np.testing.assert_allclose(market.scale, scale_of(market.log_return, 20.0), rtol=1e-9)


def test_a_market_without_news_stays_and_no_market_stays_none(random_prices: PricesOf) -> None:
    prices = random_prices(2, symbols=7, calendar="XNYS")
    for definition in ("equal_weight", "S2"):
        market = make_market(prices, definition, half_life=20.0)
        again = extend_market(market, prices, half_life=20.0)
        assert again.calendar == "XNYS"
        assert again.log_return.tobytes() == market.log_return.tobytes()
        assert again.scale.tobytes() == market.scale.tobytes()
    none = make_market(prices, None, half_life=20.0)
    assert extend_market(none, prices, half_life=20.0) is none


def test_a_market_that_was_never_defined_begins_with_the_fifth_symbol(
    random_prices: PricesOf, cut: Callable[..., Prices]
) -> None:
    """A run of too few symbols stored an empty market of its definition."""
    prices = random_prices(5, symbols=7, staggered=False, halts=0, missing=0.0)
    empty = make_market(
        cut(prices, prices.frame["date"].to_numpy()[0]), "equal_weight", half_life=20.0
    )
    assert len(empty.date) == 0
    market = extend_market(empty, prices, half_life=20.0)
    whole = make_market(prices, "equal_weight", half_life=20.0)
    assert market.scale.tobytes() == whole.scale.tobytes()


def test_a_market_cannot_go_on_without_its_symbol(
    random_prices: PricesOf, cut: Callable[..., Prices]
) -> None:
    prices = random_prices(1)
    market = make_market(prices, "S1", half_life=20.0)
    frame = prices.frame[(prices.frame["symbol"] != "S1").to_numpy()].reset_index(drop=True)
    frame["symbol"] = frame["symbol"].cat.remove_unused_categories()
    with pytest.raises(ForecastError, match="data.market=S1 is no symbol of the panel"):
        extend_market(market, replace(prices, frame=frame), half_life=20.0)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, stop=st.integers(30, 60))
def test_who_closes_before_the_market_sees_it_as_the_whole_will_show_it(
    random_prices: PricesOf, cut: Callable[..., Prices], seed: int, stop: int
) -> None:
    """Tokyo's date of today, of which New York knows nothing yet, looks at yesterday's market."""
    prices = random_prices(seed, symbols=8)
    whole = make_market(prices, "equal_weight", half_life=20.0)
    stop = min(stop, len(whole.date) - 2)
    today = whole.date[stop + 1]
    closed = make_market(cut(prices, whole.date[stop].astype("datetime64[s]")), "equal_weight",
                         half_life=20.0)  # fmt: skip
    waiting = await_sessions(closed, np.array([today]), half_life=20.0)
    dates = whole.date[: stop + 2]
    for seen, truth in zip(waiting.at(dates, lag=1), whole.at(dates, lag=1), strict=True):
        np.testing.assert_array_equal(seen, truth)
    assert np.isnan(waiting.at(np.array([today]))[0]).all(), "it is not known before it closes"
    assert np.isnan(closed.at(np.array([today]), lag=1)[0]).all(), "what waiting is for"
