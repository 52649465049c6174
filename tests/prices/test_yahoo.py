"""The source `data=yahoo`: total returns from the store, which serves where Yahoo does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from forecast.prices import load_prices
from forecast.prices import refresh as refreshing
from forecast.prices import yahoo as module
from forecast.prices.frame import Prices
from forecast.prices.store import Store

FRIDAY, MONDAY = "2024-06-28", "2024-07-01"
LOST = ("open", "high", "low", "close", "volume")
Load = Callable[..., Prices]


@pytest.fixture
def yahoo(yahoo: Any, loopback: Any) -> Any:
    """AAA pays and splits, BBB is quoted in Tokyo, CCC does nothing."""
    yahoo.series |= {
        "AAA": loopback.walk(
            1,
            sessions=400,
            splits={"2024-06-10": (4, 1)},
            dividends={"2023-05-12": 0.96, "2024-05-10": 2.0, "2024-06-14": 0.55},
        ),
        "BBB": loopback.walk(
            2, sessions=400, meta={"exchangeTimezoneName": "Asia/Tokyo", "currency": "JPY"}
        ),
        "CCC": loopback.walk(3, sessions=400),
    }
    return yahoo


@pytest.fixture
def load(yahoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """The source as on the evening of a date, in a process of its own."""
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(refreshing, "FIRST_WAIT", 0.002)
    refresh = module.refresh

    def load(symbols: Any = "AAA", date: str = FRIDAY, **options: Any) -> Prices:
        def clock() -> np.datetime64:
            return np.datetime64(f"{date}T22:00", "s")

        yahoo.today = date
        session = yahoo.fresh_session()
        monkeypatch.setattr(module, "utc_now", clock)
        monkeypatch.setattr(module, "refresh", partial(refresh, clock=clock, session=session))
        return module.yahoo(symbols=symbols, **options)

    return load


def rows(prices: Prices, symbol: str) -> pd.DataFrame:
    frame = prices.frame[(prices.frame["symbol"] == symbol).to_numpy()]
    return frame.drop(columns="symbol").reset_index(drop=True)


def said(prices: Prices, *words: str) -> bool:
    """Whether one warning holds every word."""
    return any(all(word in warning for word in words) for warning in prices.warnings)


# What is handed out


def test_total_returns_come_from_each_days_own_dividend(load: Load, yahoo: Any) -> None:
    """The oracle: one share bought at the first close, every dividend reinvested at its close."""
    sent = yahoo.series["AAA"].frame(FRIDAY)
    shares, worth = 1.0, []
    for n, (close, dividend) in enumerate(zip(sent["close"], sent["dividend"], strict=True)):
        if n:
            shares += shares * dividend / close
        worth.append(shares * close)
    frame = rows(load(), "AAA")
    assert frame["close"].to_numpy() == pytest.approx(np.array(worth), rel=1e-12)
    assert_frame_equal(frame[["raw_close"]], sent[["close"]].set_axis(["raw_close"], axis=1))
    for name in ("date", "open", "high", "low", "volume", "dividend"):
        assert_frame_equal(frame[[name]], sent[[name]])
    assert (frame["dividend"] > 0).sum() == 3


def test_a_split_is_in_the_prices_and_no_column(load: Load) -> None:
    frame = load().frame
    assert "split" not in frame and "capital_gain" not in frame
    returns = np.diff(np.log(frame["close"]))
    assert np.abs(returns).max() < 0.3, "a 4:1 split would be 1.39"


def test_the_frame_has_the_form_of_every_source(load: Load) -> None:
    frame = load("CCC,AAA,BBB").frame
    assert list(frame["symbol"].cat.categories) == ["AAA", "BBB", "CCC"]
    assert frame.index.equals(pd.RangeIndex(len(frame)))
    assert frame["date"].dtype == "datetime64[s]"
    numbers = frame.drop(columns=["symbol", "date", "calendar"])
    assert (numbers.dtypes == np.float64).all()
    ordered = frame.sort_values(["symbol", "date"], kind="stable", ignore_index=True)
    assert_frame_equal(frame, ordered)


def test_each_symbol_has_the_calendar_of_its_exchange(load: Load) -> None:
    calendars = load("AAA,BBB,CCC").frame.groupby("symbol", observed=True)["calendar"]
    assert calendars.unique().map(list).to_dict() == {
        "AAA": ["XNYS"],
        "BBB": ["XTKS"],
        "CCC": ["XNYS"],
    }
    assert set(load("AAA,BBB", calendar="24/7").frame["calendar"]) == {"24/7"}


def test_a_symbol_of_an_unknown_exchange_has_none(load: Load, yahoo: Any) -> None:
    yahoo.series["AAA"].meta["exchangeTimezoneName"] = "America/Lima"
    yahoo.series["CCC"].meta["instrumentType"] = "FUTURE"
    assert "calendar" not in load("AAA").frame
    both = load("AAA,BBB").frame
    assert rows(load("AAA,BBB"), "AAA")["calendar"].isna().all()
    assert set(both["calendar"].dropna()) == {"XTKS"}
    assert "calendar" not in load("CCC").frame


def test_prices_are_read_by_the_door_of_all_sources(load: Load) -> None:
    mine = load("AAA,CCC", start="2024-01-02")
    theirs = load_prices("yahoo", symbols=["AAA", "CCC"], start="2024-01-02")
    assert theirs.source == "yahoo" and theirs.sha256 == mine.sha256


@pytest.mark.parametrize(
    ("start", "end"),
    [("2024-01-02", None), (None, "2024-02-01"), ("2024-01-06", "2024-03-31"), (None, None)],
)
def test_sessions_lie_between_start_and_end_both_included(
    load: Load, yahoo: Any, start: str | None, end: str | None
) -> None:
    load("CCC")  # more than that is stored
    frame = rows(load("CCC", start=start, end=end), "CCC")
    sent = yahoo.series["CCC"].frame(FRIDAY)
    inside = (sent["date"] >= (start or "1900-01-01")) & (sent["date"] <= (end or FRIDAY))
    assert frame["date"].tolist() == sent["date"][inside].tolist()
    assert frame["raw_close"].tolist() == sent["close"][inside].tolist()


def test_total_returns_begin_at_the_start_asked_for(load: Load) -> None:
    frame = rows(load(start="2024-05-01"), "AAA")
    assert frame["close"].iloc[0] == frame["raw_close"].iloc[0]
    whole = rows(load(), "AAA")
    whole = whole[whole["date"] >= "2024-05-01"]
    ratio = frame["close"].to_numpy() / whole["close"].to_numpy()
    assert ratio == pytest.approx(np.full(len(frame), ratio[0]), rel=1e-12)


# What cannot be used


def test_a_day_without_a_close_is_no_session_and_its_dividend_moves_on(
    load: Load, yahoo: Any
) -> None:
    series = yahoo.series["AAA"]
    null = np.isin(series.dates, np.array(["2024-05-10", "2024-05-21"], "datetime64[s]"))
    for name in LOST:
        getattr(series, name)[null] = np.nan
    prices = load()
    frame = rows(prices, "AAA")
    assert len(frame) == len(series.frame(FRIDAY)) - 2 and frame["raw_close"].notna().all()
    moved = frame.loc[frame["date"] == "2024-05-13", "dividend"]
    assert moved.item() == pytest.approx(2.0 / 4)
    assert {finding.detector for finding in prices.findings} >= {"moved_action"}


def test_an_open_of_zero_is_emptied_and_told(load: Load, yahoo: Any) -> None:
    series = yahoo.series["CCC"]
    zero = series.dates < np.datetime64("2023-03-01")
    series.open[zero] = 0.0
    prices = load("CCC")
    frame = rows(prices, "CCC")
    assert frame["open"].isna().tolist() == zero[: len(frame)].tolist()
    assert_frame_equal(frame[["high", "low"]], series.frame(FRIDAY)[["high", "low"]])
    (finding,) = prices.findings
    assert (finding.symbol, finding.detector, finding.count) == ("CCC", "empty_bar", zero.sum())


def test_a_close_of_zero_is_left_out_and_told(load: Load, yahoo: Any) -> None:
    series = yahoo.series["CCC"]
    here = series.dates == np.datetime64("2024-03-05")
    for name in LOST:
        getattr(series, name)[here] = 0.0
    prices = load("CCC")
    assert pd.Timestamp("2024-03-05") not in set(prices.frame["date"])
    assert [finding.severity for finding in prices.findings] == ["severe"]


def test_a_symbol_that_yahoo_does_not_know_is_left_out_with_the_reason(load: Load) -> None:
    prices = load("AAA,NONE,CCC")
    assert list(prices.frame["symbol"].cat.categories) == ["AAA", "CCC"]
    ((symbol, reason),) = prices.left_out
    assert symbol == "NONE" and "unknown symbol" in reason and "finance.yahoo.com" in reason


def test_a_symbol_without_a_session_in_the_range_is_left_out(
    load: Load, yahoo: Any, loopback: Any
) -> None:
    yahoo.series["OLD"] = loopback.walk(5, sessions=40)
    load("OLD")
    prices = load("AAA,OLD", start="2024-01-02")
    ((symbol, reason),) = prices.left_out
    assert symbol == "OLD" and "2024-01-02" in reason


def test_no_prices_at_all_are_one_line_that_says_why(
    load: Load, yahoo: Any, loopback: Any, refused: Any
) -> None:
    with refused("data=yahoo", "NONE", "unknown symbol"):
        load("NONE,NIL")
    yahoo.faults["*"] = loopback.unavailable
    with refused("data=yahoo", "AAA", "unreachable", "503"):
        load("AAA,BBB")
    with refused("data=yahoo", "AAA", "not in the price store", "data.offline"):
        load("AAA", offline=True)


# Symbols as they are typed


def test_symbols_count_in_capitals(load: Load, yahoo: Any) -> None:
    prices = load("aaa,Ccc,AAA")
    assert list(prices.frame["symbol"].cat.categories) == ["AAA", "CCC"]
    assert prices.sha256 == load("AAA,CCC").sha256
    assert Store().symbols() == ["AAA", "CCC"]


@pytest.mark.parametrize("name", ["TRUE", "NA", "CON", "BRK-B", "^GSPC", "EURUSD=X", "600519.SS"])
def test_any_name_of_yahoos_is_a_symbol(load: Load, yahoo: Any, name: str) -> None:
    yahoo.series[name] = yahoo.series["CCC"]
    assert load([name]).frame["symbol"].cat.categories.tolist() == [name]
    assert load([name], offline=True).frame["symbol"].cat.categories.tolist() == [name]


@pytest.mark.parametrize(("typed", "quoted"), [(True, "TRUE"), (600519, "600519"), ([1.5], "1.5")])
def test_what_yaml_turned_into_something_else_is_refused_with_the_quoted_form(
    load: Load, refused: Any, typed: Any, quoted: str
) -> None:
    with refused("data.symbols", f"""'data.symbols=["{quoted}"]'"""):
        load(typed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"symbols": None}, ["data.symbols", "null", "AAPL,MSFT"]),
        ({"symbols": ""}, ["data.symbols", "empty"]),
        ({"start": "2024-13-01"}, ["data.start=2024-13-01"]),
        ({"start": "2024-02-01", "end": "2024-01-01"}, ["data.start=2024-02-01", "Swap"]),
        ({"calendar": "XNYX"}, ["data.calendar=XNYX", "XNYS"]),
        ({"jobs": 0}, ["data.jobs=0"]),
        ({"timeout": 0.0}, ["data.timeout=0.0"]),
        ({"patience": -1.0}, ["data.patience=-1.0"]),
        ({"max_age": -1}, ["data.max_age=-1"]),
    ],
)
def test_wrong_options_are_refused_before_anybody_is_asked(
    load: Load, yahoo: Any, refused: Any, options: dict[str, Any], words: list[str]
) -> None:
    with refused(*words):
        load(**options)
    assert yahoo.seen == []


# Again


def test_a_second_load_asks_nothing_and_has_the_same_hash(load: Load, yahoo: Any) -> None:
    first = load("AAA,BBB,CCC")
    yahoo.seen.clear()
    second = load("AAA,BBB,CCC", "2024-06-29")
    assert yahoo.seen == []
    assert_frame_equal(first.frame, second.frame)
    assert first.sha256 == second.sha256 == load("CCC,BBB,AAA", offline=True).sha256


def test_a_symbols_prices_do_not_depend_on_the_others_asked_for(load: Load) -> None:
    alone = load("AAA")
    together = load("AAA,BBB,CCC")
    assert load("AAA").sha256 == alone.sha256
    theirs, mine = rows(together, "AAA"), rows(alone, "AAA")
    assert_frame_equal(
        theirs.astype({"calendar": "str"}), mine.astype({"calendar": "str"}), check_exact=True
    )


def test_evening_by_evening_is_what_one_fetch_gives(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: no split falls between these evenings."""
    for date in ("2024-06-12", "2024-06-13", "2024-06-14", "2024-06-20", FRIDAY):
        daily = load("AAA,CCC", date)
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "another"))
    assert load("AAA,CCC").sha256 == daily.sha256


def test_a_split_moves_no_total_return(load: Load, yahoo: Any) -> None:
    before = rows(load(date="2024-06-07"), "AAA")["close"].to_numpy()
    prices = load(date="2024-06-10")
    after = rows(prices, "AAA")["close"].to_numpy()
    assert np.diff(np.log(after[:-1])) == pytest.approx(np.diff(np.log(before)), abs=1e-6)
    assert said(prices, "AAA", "split 4:1 on 2024-06-10")


# Without Yahoo


def test_offline_the_store_serves_and_says_how_old_it_is(load: Load, yahoo: Any) -> None:
    fresh = load("AAA,CCC")
    assert not said(fresh, "prices are old")
    yahoo.seen.clear()
    stale = load("AAA,CCC", "2024-07-03", offline=True)
    assert yahoo.seen == []
    assert stale.sha256 == fresh.sha256
    assert said(stale, "AAA, CCC", FRIDAY, "3 sessions behind")


@pytest.mark.parametrize("name", ["unavailable", "dropped", "rate_limited", "page", "truncated"])
def test_where_yahoo_fails_the_store_serves_and_the_warnings_say_why(
    load: Load, yahoo: Any, loopback: Any, name: str
) -> None:
    fresh = load("AAA,CCC")
    yahoo.faults |= dict.fromkeys(("AAA", "CCC"), getattr(loopback, name))
    stale = load("AAA,CCC", MONDAY, patience=0.0)
    assert stale.sha256 == fresh.sha256 and stale.left_out == ()
    assert said(stale, "AAA, CCC", FRIDAY, "1 session behind")
    outcome = {"rate_limited": "rate-limited", "truncated": "bad payload"}.get(name, "unreachable")
    assert said(stale, "AAA: ", outcome) and said(stale, "CCC: ", outcome)
    assert all("\n" not in warning for warning in stale.warnings)


def test_prices_older_than_max_age_are_an_error_with_the_remedy(
    load: Load, yahoo: Any, loopback: Any, refused: Any
) -> None:
    load("AAA,CCC")
    assert load("AAA,CCC", "2024-07-03", offline=True, max_age=3).frame["date"].max()
    with refused("AAA, CCC", FRIDAY, "3 sessions", "data.max_age=2", "data.offline=true"):
        load("AAA,CCC", "2024-07-03", offline=True, max_age=2)
    yahoo.faults |= dict.fromkeys(("AAA", "CCC"), loopback.unavailable)
    with refused("AAA", FRIDAY, "data.max_age=0", "later"):
        load("AAA,CCC", MONDAY, patience=0.0, max_age=0)
    yahoo.faults.clear()
    assert load("AAA,CCC", MONDAY, max_age=0).left_out == ()


def test_a_range_that_ended_long_ago_is_never_old(load: Load) -> None:
    load("AAA")
    prices = load("AAA", "2024-12-30", offline=True, end="2024-06-01", max_age=0)
    assert not said(prices, "prices are old")


def test_a_symbol_that_has_ended_is_told_and_not_called_old(
    load: Load, yahoo: Any, loopback: Any
) -> None:
    yahoo.series["GONE"] = loopback.walk(7, sessions=200)
    prices = load("AAA,GONE", max_age=0)
    assert said(prices, "ended", "GONE") and not said(prices, "prices are old")


def test_a_damaged_file_is_told_offline_and_replaced_online(load: Load, yahoo: Any) -> None:
    whole = load("AAA,CCC")
    Store().path("AAA").write_bytes(b"no parquet")
    ((symbol, reason),) = load("AAA,CCC", offline=True).left_out
    assert symbol == "AAA" and "damaged" in reason
    again = load("AAA,CCC")
    assert again.sha256 == whole.sha256 and said(again, "AAA", "damaged")


def test_what_every_report_has_to_state_is_stated(load: Load) -> None:
    prices = load()
    assert said(prices, "survivors") and said(prices, "as of the fetch")
