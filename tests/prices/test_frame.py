from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.prices.choice import Choice
from forecast.prices.frame import Covariate, Prices, checked, cut, finished, long, total_return

ALL = Choice.read(symbols=None, start=None, end=None)


def raw(n_symbols: int = 3, n_sessions: int = 5, **columns: float) -> pd.DataFrame:
    """Rows interleaved by date, as most files have them."""
    dates = np.datetime64("2020-01-01", "s") + np.arange(n_sessions) * np.timedelta64(1, "D")
    frame = pd.DataFrame(
        {
            "symbol": np.tile([f"S{n}" for n in range(n_symbols)], n_sessions),
            "date": np.repeat(dates, n_symbols).astype("datetime64[s]"),
            "close": 10.0 + np.arange(n_symbols * n_sessions),
            **columns,
        }
    )
    return frame.assign(symbol=frame["symbol"].astype("category"))


def finish(frame: pd.DataFrame) -> pd.DataFrame:
    names = frame["symbol"].cat.categories
    return finished(frame, choice=ALL, available=names, source="test", calendar="XNYS")[0]


@settings(max_examples=30, deadline=None)
@given(
    n_symbols=st.integers(1, 4),
    n_sessions=st.integers(1, 6),
    seed=st.integers(0, 99),
    interleaved=st.booleans(),
)
def test_checked_rows_are_the_sessions_with_a_close_by_symbol_and_date(
    n_symbols: int, n_sessions: int, seed: int, interleaved: bool
) -> None:
    frame = raw(n_symbols, n_sessions)
    rng = np.random.default_rng(seed)
    frame.loc[rng.random(len(frame)) < 0.3, "close"] = np.nan
    if not interleaved:
        frame = frame.sort_values(["symbol", "date"], ignore_index=True)
    expected = frame.dropna(subset="close").sort_values(["symbol", "date"], ignore_index=True)
    pd.testing.assert_frame_equal(checked(frame, where="x"), expected)


def test_long_is_the_melted_wide_table_without_empty_closes() -> None:
    dates = np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[s]")
    frame = long(dates, {"B": np.array([1.0, np.nan]), "A": np.array([2.0, 3.0])})
    assert frame["symbol"].tolist() == ["A", "A", "B"]
    assert frame["date"].to_numpy().tolist() == dates[[0, 1, 0]].tolist()
    assert frame["close"].tolist() == [2.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((name, v) for name in ("close", "open", "low", "raw_close") for v in (0.0, -1, np.inf)),
        *((name, v) for name in ("volume", "dividend", "split") for v in (-1.0, np.inf)),
    ],
)
def test_an_unsound_value_is_named_with_its_symbol_and_date(
    column: str, value: float, refused: Callable[..., Any]
) -> None:
    frame = raw(**({column: 1.0} if column != "close" else {}))
    frame.loc[4, column] = value
    with refused("prices.csv", "S1", "2020-01-02", f"{column}={value:g}"):
        checked(frame, where="prices.csv")


def test_empty_optional_values_and_zero_volumes_are_sound() -> None:
    frame = raw(open=np.nan, low=np.nan, volume=0.0, dividend=np.nan, split=0.0)
    assert len(checked(frame, where="x")) == len(frame)


def test_duplicate_and_unsorted_dates_are_refused(refused: Callable[..., Any]) -> None:
    frame = raw(1)
    with refused("S0", "2020-01-02", "twice"):
        checked(frame.iloc[[0, 1, 1, 2]], where="x")
    with refused("S0", "2020-01-02", "Sort"):
        checked(frame.iloc[[0, 2, 1, 3]], where="x")


def test_an_action_on_a_date_without_close_is_not_lost_in_silence(
    refused: Callable[..., Any],
) -> None:
    frame = raw(1, dividend=0.0)
    frame.loc[2, ["close", "dividend"]] = np.nan, 0.5
    with refused("S0", "2020-01-03", "dividend=0.5"):
        checked(frame, where="x")


@pytest.mark.parametrize("column", ["low", "high"])
def test_adjusted_closes_beside_raw_bars_are_refused(
    column: str, refused: Callable[..., Any]
) -> None:
    frame = raw(2)
    mixed = frame.assign(**{column: frame["close"] * (1.2 if column == "low" else 0.8)})
    with refused("S0", "2020-01-01", "adjusted and raw columns mixed", "raw_close"):
        checked(mixed, where="x")
    checked(mixed.assign(raw_close=mixed[column]), where="x")


def test_only_symbols_with_sessions_are_categories_and_the_others_are_listed() -> None:
    frame = checked(raw(3), where="x")
    choice = Choice.read(symbols="S0,S2", start="2020-01-02", end=None)
    some = choice.rows(frame)
    some = some[(some["symbol"] != "S0").to_numpy()].reset_index(drop=True)
    kept, left_out = finished(
        some, choice=choice, available=["S0", "S1", "S2"], source="x", calendar=None
    )
    assert list(kept["symbol"].cat.categories) == ["S2"]
    assert set(kept["symbol"]) == {"S2"}
    assert [symbol for symbol, _ in left_out] == ["S0"]
    assert "2020-01-02" in left_out[0][1]


def test_no_session_at_all_is_refused(refused: Callable[..., Any]) -> None:
    choice = Choice.read(symbols=None, start="2030-01-01", end=None)
    with refused("no session", "2030-01-01"):
        finished(choice.rows(raw()), choice=choice, available=["S0"], source="x", calendar=None)


def test_the_hash_depends_on_values_and_not_on_how_they_are_held() -> None:
    frame = finish(checked(raw(dividend=0.0, volume=np.nan), where="x"))
    prices = Prices(frame=frame, source="files")
    wide_codes = frame.assign(
        symbol=pd.Categorical(frame["symbol"].astype(str), categories=["S0", "S1", "S2"]),
        dividend=-0.0,
        volume=-np.nan,
    )[sorted(frame.columns)]
    assert replace(prices, frame=wide_codes, source="other").sha256 == prices.sha256


@pytest.mark.parametrize("column", ["symbol", "date", "close", "calendar", "covariate", "name"])
def test_the_hash_sees_every_column(column: str) -> None:
    frame = finish(checked(raw(1), where="x"))
    told = pd.DataFrame({"known": frame["date"], "vix": frame["close"]})
    vix = Covariate(name="vix.csv", frame=told, columns=("vix",), lag=1, max_age=5)
    prices = Prices(frame=frame, source="files", covariates=(vix,))
    changed = frame.copy()
    if column == "symbol":
        changed["symbol"] = changed["symbol"].cat.rename_categories(["T0"])
    elif column == "calendar":
        changed["calendar"] = changed["calendar"].cat.rename_categories(["XLON"])
    elif column == "date":
        changed.loc[4, "date"] += np.timedelta64(1, "D")
    elif column == "close":
        changed.loc[2, "close"] = np.nextafter(changed.loc[2, "close"], 99)
    elif column == "covariate":
        told = told.assign(vix=told["vix"] + 1)
    else:
        changed = changed.rename(columns={"close": "raw_close"})
    other = replace(prices, frame=changed, covariates=(replace(vix, frame=told),))
    assert other.sha256 != prices.sha256


# Total returns


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), n_symbols=st.integers(1, 4), n_sessions=st.integers(1, 25))
def test_total_return_closes_grow_by_each_sessions_own_dividend_and_split(
    seed: int, n_symbols: int, n_sessions: int
) -> None:
    """Beside a plain loop over the sessions of each symbol."""
    rows = checked(acting(seed, n_symbols, n_sessions), where="test")
    unknown = np.random.default_rng(seed).random((2, len(rows))) < 0.2
    rows["dividend"] = rows["dividend"].mask(unknown[0])  # not given: none
    rows["split"] = rows["split"].mask(unknown[1])
    result = total_return(rows)
    np.testing.assert_array_equal(result["raw_close"], rows["close"])
    for symbol, one in rows.groupby("symbol", observed=True):
        price, expected = 0.0, []
        for n, row in enumerate(one.fillna({"dividend": 0.0, "split": 0.0}).itertuples()):
            before = one["close"].iloc[n - 1]
            paid = (row.split or 1.0) * (row.close + row.dividend)
            price = row.close if n == 0 else price * paid / before
            expected.append(price)
        mine = result["close"][result["symbol"] == symbol]
        np.testing.assert_allclose(mine, expected, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), kept=st.integers(0, 3), known=st.integers(1, 12))
def test_total_returns_depend_on_no_other_symbol_and_no_later_session(
    seed: int, kept: int, known: int
) -> None:
    rows = checked(acting(seed, 4, 12), where="test")
    part = rows[(rows["symbol"] == f"S{kept}").to_numpy()].head(known).reset_index(drop=True)
    whole = total_return(rows)
    whole = whole[(whole["symbol"] == f"S{kept}").to_numpy()].head(known)
    np.testing.assert_array_equal(total_return(part)["close"], whole["close"])


def test_without_actions_a_total_return_close_is_the_close() -> None:
    rows = checked(raw(2, 6), where="test")
    result = total_return(rows)
    np.testing.assert_array_equal(result["close"], rows["close"])
    np.testing.assert_array_equal(result["raw_close"], rows["close"])


# Prices cut to some symbols and later starts


def acting(seed: int, n_symbols: int, n_sessions: int) -> pd.DataFrame:
    """Raw rows with dividends and splits."""
    frame = raw(n_symbols, n_sessions)
    rng = np.random.default_rng(seed)
    frame["close"] = rng.uniform(5, 50, len(frame))
    frame["dividend"] = np.where(rng.random(len(frame)) < 0.3, rng.uniform(0, 2, len(frame)), 0.0)
    frame["split"] = np.where(rng.random(len(frame)) < 0.1, 4.0, 0.0)
    return frame


def loaded(frame: pd.DataFrame) -> Prices:
    """As a source does it: checked, dividends reinvested, finished."""
    return Prices(frame=finish(total_return(checked(frame, where="test"))), source="test")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    n_symbols=st.integers(1, 4),
    starts=st.lists(st.integers(0, 7), min_size=4, max_size=4),
    named=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_cut_prices_have_the_bits_of_prices_that_were_loaded_so(
    seed: int, n_symbols: int, starts: list[int], named: list[bool]
) -> None:
    frame = acting(seed, n_symbols, 8)
    dates = np.unique(frame["date"].to_numpy())
    first = {f"S{n}": dates[starts[n]] for n in range(n_symbols) if named[n]}
    wanted = ["S0", *(f"S{n}" for n in range(1, n_symbols) if named[n]), "unheard of"]
    begins = [first.get(symbol, dates[0]) for symbol in frame["symbol"]]
    kept = frame["symbol"].isin(wanted) & (frame["date"] >= begins)
    expected = frame[kept].assign(symbol=frame["symbol"][kept].cat.remove_unused_categories())
    result = cut(loaded(frame), symbols=wanted, starts=first)
    pd.testing.assert_frame_equal(result.frame, loaded(expected).frame, check_exact=True)
    assert result.sha256 == loaded(expected).sha256


def test_a_cut_that_leaves_all_returns_the_same_prices() -> None:
    prices = loaded(acting(0, 3, 5))
    first = prices.frame["date"].iloc[0].to_datetime64()
    assert cut(prices) is prices
    assert cut(prices, symbols=["S0", "S1", "S2"], starts={"S1": first}) is prices


def test_prices_without_actions_are_cut_as_they_are() -> None:
    """An adjusted close of a vendor is not compounded anew: its actions are not known."""
    frame = raw(2, 6, raw_close=3.0)
    prices = Prices(frame=finish(checked(frame, where="test")), source="test")
    start = np.datetime64("2020-01-03", "s")
    result = cut(prices, starts={"S0": start}).frame
    rows = prices.frame[(prices.frame["symbol"] == "S1") | (prices.frame["date"] >= start)]
    pd.testing.assert_frame_equal(result, rows.reset_index(drop=True), check_exact=True)


def test_a_cut_keeps_everything_but_rows() -> None:
    known = pd.DataFrame(
        {"known": np.array(["2020-01-01"], "datetime64[s]"), "vix": np.array([20.0])}
    )
    covariate = Covariate(name="vix", frame=known, columns=("vix",), lag=1, max_age=5)
    prices = replace(
        loaded(acting(1, 3, 5)), covariates=(covariate,), warnings=("old",), left_out=(("X", "-"),)
    )
    result = cut(prices, symbols=["S1"])
    assert result.covariates == (covariate,)
    assert result.warnings == ("old",) and result.left_out == (("X", "-"),)
    assert list(result.frame["calendar"].cat.categories) == ["XNYS"]


def test_a_cut_that_leaves_nothing_is_refused(refused: Callable[..., Any]) -> None:
    prices = loaded(acting(0, 2, 4))
    with refused("data=test", "none of the symbols"):
        cut(prices, symbols=["S7"])
