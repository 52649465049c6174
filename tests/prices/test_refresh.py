"""Evening after evening into the store: the real client, and a Yahoo of our own that misbehaves."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from forecast.prices import refresh as module
from forecast.prices.client import Outcome
from forecast.prices.fetched import Fetched
from forecast.prices.refresh import ATTEMPTS, GIVE_UP, OVERLAP, Pace, refresh
from forecast.prices.store import Store

SESSIONS = 400
FRIDAY, MONDAY, TUESDAY = "2024-06-28", "2024-07-01", "2024-07-02"
Evening = Callable[..., list[Fetched]]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.002)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.01)


@pytest.fixture
def yahoo(yahoo: Any, loopback: Any) -> Any:
    yahoo.series |= {
        symbol: loopback.walk(n, sessions=SESSIONS) for n, symbol in enumerate(["AAA", "BBB"])
    }
    return yahoo


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def evening(yahoo: Any, store: Store) -> Evening:
    """Refresh at a time, by default after the close of a date, as a process of its own would."""

    def evening(
        symbols: Sequence[str] | str = "AAA",
        date: str = FRIDAY,
        at: str = "22:00",
        *,
        start: str | None = None,
        jobs: int = 4,
        patience: float = 60.0,
        **options: Any,
    ) -> list[Fetched]:
        yahoo.today = date
        return refresh(
            store,
            [symbols] if isinstance(symbols, str) else list(symbols),
            start=None if start is None else np.datetime64(start, "D"),
            pace=Pace(jobs=jobs, timeout=20.0, patience=patience),
            clock=lambda: np.datetime64(f"{date}T{at}", "s"),
            session=yahoo.fresh_session(),
            **options,
        )

    return evening


def kept(store: Store, symbol: str = "AAA") -> pd.DataFrame:
    """The rows of a symbol, whose file is sound to the last value."""
    store.verify(symbol)
    stored = store.read(symbol)
    assert stored is not None
    return stored.frame


def truth(yahoo: Any, symbol: str = "AAA", date: str | None = None) -> pd.DataFrame:
    return yahoo.series[symbol].frame(date or yahoo.today)


def changes(store: Store, symbol: str = "AAA") -> tuple[str, ...]:
    manifest = store.manifest(symbol)
    assert manifest is not None
    return manifest.changes


def ranges(yahoo: Any, symbol: str = "AAA") -> list[str]:
    """From which date on prices of a symbol were asked for, one entry a request."""
    return [
        str(np.datetime64(int(query["period1"]), "s"))[:10]
        for _, path, query in yahoo.seen
        if path.endswith(f"/{symbol}") and "period1" in query
    ]


def charts(yahoo: Any) -> int:
    return sum(count for path, count in yahoo.counts.items() if "/chart/" in path)


def assert_told(result: Fetched) -> None:
    """A failure says what happened and what to do, each in one line."""
    assert result.cause and result.advice
    assert "\n" not in result.cause + result.advice


def without(series: Any, *rows: int) -> Any:
    """The series as it is sent once some of its rows are gone."""
    keep = np.setdiff1d(np.arange(len(series.dates)), np.arange(len(series.dates))[list(rows)])
    names = ("dates", "open", "high", "low", "close", "volume")
    return replace(series, **{name: getattr(series, name)[keep] for name in names})


# Only what is missing


def test_a_first_fetch_stores_every_row_as_it_was_sent(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    (result,) = evening()
    assert_frame_equal(kept(store), truth(yahoo))
    rows = len(truth(yahoo))
    assert result == Fetched(
        symbol="AAA", outcome=Outcome.OK, rows=rows, added=rows, last=FRIDAY, behind=0
    )
    assert result.fresh and result.asked
    manifest = store.manifest("AAA")
    assert manifest is not None
    assert (manifest.calendar, manifest.timezone, manifest.currency, manifest.instrument) == (
        "XNYS", "America/New_York", "USD", "EQUITY",
    )  # fmt: skip
    assert manifest.fetched == manifest.checked == f"{FRIDAY}T22:00:00+00:00"
    assert manifest.start is None and manifest.changes == ()


def test_only_the_range_asked_for_is_stored_and_an_earlier_start_brings_the_rest(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening(start="2024-03-01")
    whole = truth(yahoo)
    later = whole[whole["date"] >= "2024-03-01"].reset_index(drop=True)
    assert_frame_equal(kept(store), later)
    yahoo.seen.clear()
    evening(start="2024-05-01")
    assert yahoo.seen == [], "a part of what is there"
    assert_frame_equal(kept(store), later)
    (result,) = evening(start="2023-11-01")
    assert_frame_equal(kept(store), whole[whole["date"] >= "2023-11-01"].reset_index(drop=True))
    assert result.added == len(kept(store)) - len(later) and result.changed is None
    evening()
    assert_frame_equal(kept(store), whole)
    assert changes(store) == ()
    yahoo.seen.clear()
    evening(start="2020-01-01")
    assert yahoo.seen == [], "there is nothing before all there is"


@pytest.mark.parametrize(
    ("date", "at"), [(FRIDAY, "22:00"), (FRIDAY, "23:59"), ("2024-06-30", "12:00")]
)
def test_a_complete_symbol_is_not_asked_about(
    evening: Evening, yahoo: Any, store: Store, date: str, at: str
) -> None:
    evening(["AAA", "BBB"])
    before = {symbol: store.path(symbol).read_bytes() for symbol in ("AAA", "BBB")}
    yahoo.seen.clear()
    results = evening(["AAA", "BBB"], date, at)
    assert yahoo.seen == []
    assert all(result.fresh and not result.asked and not result.added for result in results)
    assert {symbol: store.path(symbol).read_bytes() for symbol in before} == before


def test_the_next_evening_one_request_asks_for_what_is_missing(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening()
    yahoo.seen.clear()
    (result,) = evening(date=TUESDAY)
    assert result.added == 2 and result.last == TUESDAY and result.fresh
    assert_frame_equal(kept(store), truth(yahoo))
    (first,) = ranges(yahoo)
    overlap = truth(yahoo, date=FRIDAY)["date"].iloc[-OVERLAP]
    assert abs(pd.Timestamp(first) - overlap) <= pd.Timedelta("1D")
    assert changes(store) == ()


def test_many_evenings_add_up_to_one_fetch(evening: Evening, yahoo: Any, store: Store) -> None:
    dates = truth(yahoo, date="2024-07-31")["date"].iloc[-24:]
    for date in dates[::3]:
        evening(date=f"{date:%Y-%m-%d}", start="2024-01-02")
    one = kept(store)
    whole = truth(yahoo)
    assert_frame_equal(one, whole[whole["date"] >= "2024-01-02"].reset_index(drop=True))
    assert changes(store) == ()


def test_a_service_that_lags_behind_is_asked_again(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    yahoo.series["AAA"] = without(yahoo.series["AAA"], *range(373, SESSIONS))
    last = f"{truth(yahoo)['date'].iloc[-1]:%Y-%m-%d}"
    (result,) = evening()
    assert last < FRIDAY and not result.fresh
    assert result.outcome is Outcome.PARTIAL and last in result.cause
    assert_told(result)
    yahoo.seen.clear()
    evening()
    assert yahoo.asked("AAA") == 1


# Today's bar


@pytest.mark.parametrize(
    ("local", "utc", "stored"),
    [
        ("09:31", "13:31", False),
        ("11:03", "15:03", False),
        ("15:59", "19:59", False),
        (None, "20:05", False),
        (None, "20:29", False),
        (None, "20:30", True),
        (None, "23:00", True),
    ],
)
def test_todays_bar_is_stored_half_an_hour_after_the_close_and_not_before(
    evening: Evening, yahoo: Any, store: Store, local: str | None, utc: str, stored: bool
) -> None:
    yahoo.clock = local
    (result,) = evening(at=utc)
    assert result.fresh
    assert_frame_equal(kept(store), truth(yahoo, date=FRIDAY if stored else "2024-06-27"))


def test_a_bar_seen_unfinished_leaves_no_trace(evening: Evening, yahoo: Any, store: Store) -> None:
    evening(date=FRIDAY)
    yahoo.clock = "12:00"
    evening(date=MONDAY, at="16:00")
    assert_frame_equal(kept(store), truth(yahoo, date=FRIDAY))
    yahoo.clock = None
    (result,) = evening(date=MONDAY)
    assert result.added == 1 and result.changed is None
    assert_frame_equal(kept(store), truth(yahoo))


def test_a_bar_that_was_asked_for_before_it_was_final_is_not_stored(
    yahoo: Any, store: Store
) -> None:
    """The answer takes so long that the bar has become final by the time it arrives."""
    yahoo.today = FRIDAY
    refresh(
        store,
        ["AAA"],
        start=None,
        pace=Pace(),
        clock=lambda: np.datetime64(f"{FRIDAY}T20:{'30' if yahoo.asked('AAA') else '29'}:30", "s"),
        session=yahoo.fresh_session(),
    )
    assert_frame_equal(kept(store), truth(yahoo, date="2024-06-27"))


def test_a_symbol_whose_first_session_is_not_over_has_no_prices_yet(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    yahoo.series["NEW"] = loopback.walk(5, sessions=50, first=FRIDAY)
    yahoo.clock = "11:00"
    (result,) = evening("NEW", at="15:00")
    assert result.outcome is Outcome.NO_DATA and "first session" in result.cause
    assert store.symbols() == []
    yahoo.clock = None
    (result,) = evening("NEW")
    assert result.fresh and result.rows == 1


def test_what_never_closes_is_final_half_an_hour_after_midnight(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    days = np.arange("2024-05-01", "2024-08-01", dtype="datetime64[D]")
    walk = loopback.walk(3, sessions=len(days))
    meta = {"instrumentType": "CRYPTOCURRENCY", "exchangeTimezoneName": "UTC", "gmtoffset": 0}
    yahoo.series["BTC-USD"] = replace(walk, dates=days, meta=walk.meta | meta, opens="00:00")
    yahoo.clock = "22:00"
    evening("BTC-USD", "2024-06-30")
    frame = kept(store, "BTC-USD")
    assert f"{frame['date'].iloc[-1]:%Y-%m-%d}" == "2024-06-29", "a Saturday"
    assert_frame_equal(frame, truth(yahoo, "BTC-USD", "2024-06-29"))
    evening("BTC-USD", "2024-07-01", at="00:29")
    assert kept(store, "BTC-USD")["date"].iloc[-1] == pd.Timestamp("2024-06-29")
    evening("BTC-USD", "2024-07-01", at="00:30")
    assert kept(store, "BTC-USD")["date"].iloc[-1] == pd.Timestamp("2024-06-30")


# What Yahoo rewrites


def test_a_split_between_two_evenings_makes_no_return(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    """The price is worth the same all the time, so every return beyond a tick would be an error."""
    walk = loopback.walk(9, sessions=SESSIONS)
    flat = np.where(walk.dates < np.datetime64(MONDAY), 400.04, 100.01)
    yahoo.series["AAA"] = replace(
        walk, open=flat, high=flat, low=flat, close=flat, splits={MONDAY: (4, 1)}
    )
    evening(date=FRIDAY)
    assert kept(store)["close"].iloc[-1] == pytest.approx(400.04)
    (result,) = evening(date=MONDAY)
    close = kept(store)["close"].to_numpy()
    assert np.abs(np.diff(np.log(close))).max() < 0.01 / 100
    assert result.fresh and result.added == 1
    assert result.changed is not None and f"split 4:1 on {MONDAY}" in result.changed
    assert changes(store) == (result.changed,)


def test_after_a_split_all_rows_are_what_one_fetch_gives(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    yahoo.series["AAA"] = loopback.walk(
        4, sessions=SESSIONS, splits={MONDAY: (4, 1)}, dividends={"2024-06-27": 0.4, TUESDAY: 0.1}
    )
    evening(date=FRIDAY, start="2023-06-01")
    evening(date=TUESDAY, start="2024-01-02")
    whole = truth(yahoo)
    assert_frame_equal(kept(store), whole[whole["date"] >= "2023-06-01"].reset_index(drop=True))
    assert "kept" not in changes(store)[0], "also what this run did not ask for was fetched again"
    yahoo.seen.clear()
    evening(date="2024-07-03", start="2024-01-02")
    assert yahoo.asked("AAA") == 1 and len(changes(store)) == 1, "told once"


def test_a_dividend_is_stored_on_its_day_without_a_second_question(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    yahoo.series["AAA"] = loopback.walk(
        4, sessions=SESSIONS, dividends={"2024-06-20": 0.25, MONDAY: 0.26}
    )
    evening(date=FRIDAY)
    yahoo.seen.clear()
    evening(date=MONDAY)
    assert yahoo.asked("AAA") == 1
    assert_frame_equal(kept(store), truth(yahoo))
    assert kept(store)["dividend"].iloc[-1] == 0.26 and changes(store) == ()


def test_a_corrected_row_refetches_the_history_and_is_recorded(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening(date=FRIDAY)
    series = yahoo.series["AAA"]
    for date, by in (("2024-06-25", 0.98), ("2023-08-01", 1.03)):  # the second lies far back
        for name in ("open", "high", "low", "close"):
            getattr(series, name)[series.dates == np.datetime64(date)] *= by
    (result,) = evening(date=MONDAY)
    assert_frame_equal(kept(store), truth(yahoo))
    assert result.changed is not None and "of 2024-06-25 from" in result.changed
    assert result.changed.startswith(f"{MONDAY}: ")
    assert changes(store) == (result.changed,)


def test_rows_that_yahoo_no_longer_sends_are_kept(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening(date=FRIDAY)
    before = kept(store)
    rows = [len(before) - 4, len(before) - 200]
    yahoo.series["AAA"] = without(yahoo.series["AAA"], *rows)
    (result,) = evening(date=MONDAY)
    after = kept(store)
    assert_frame_equal(after[:-1], before)
    assert result.added == 1 and result.changed is None and changes(store) == ()


def test_kept_rows_follow_a_split(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    series = loopback.walk(6, sessions=SESSIONS, splits={MONDAY: (4, 1)})
    yahoo.series["AAA"] = series
    evening(date=FRIDAY)
    rows = len(kept(store))
    yahoo.series["AAA"] = without(series, rows - 4, 17)
    evening(date=MONDAY)
    wanted = series.frame(MONDAY)
    assert kept(store)["date"].tolist() == wanted["date"].tolist()
    assert np.allclose(kept(store)["close"], wanted["close"], rtol=1e-4)


def test_a_volume_that_was_completed_overnight_is_taken_over(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening(date=FRIDAY)
    yahoo.series["AAA"].volume[yahoo.series["AAA"].dates == np.datetime64(FRIDAY)] += 1000
    yahoo.seen.clear()
    (result,) = evening(date=MONDAY)
    assert yahoo.asked("AAA") == 1 and result.changed is None and changes(store) == ()
    assert_frame_equal(kept(store), truth(yahoo))


# Failures


@pytest.mark.parametrize("name", ["rate_limited", "unavailable", "page", "dropped"])
def test_a_service_that_recovers_costs_nothing(
    evening: Evening, yahoo: Any, loopback: Any, store: Store, name: str
) -> None:
    """It fails more often than yfinance itself tries."""
    yahoo.faults["AAA"] = loopback.first(2 if name == "page" else 3, getattr(loopback, name))
    (result,) = evening()
    assert result.outcome is Outcome.OK and result.fresh, result.cause
    assert_frame_equal(kept(store), truth(yahoo))


def test_a_refusal_ends_the_batch_and_a_later_run_continues(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    symbols = [f"S{n:02}" for n in range(40)]
    yahoo.series |= dict.fromkeys(symbols, yahoo.series["AAA"])
    served = iter(range(12))

    def until_it_is_too_much(request: Any) -> Any:
        return (
            request.honest() if next(served, None) is not None else loopback.rate_limited(request)
        )

    yahoo.faults |= dict.fromkeys(symbols, until_it_is_too_much)
    results = evening(symbols, patience=0.0)
    assert [result.symbol for result in results] == symbols
    good = [result.symbol for result in results if result.fresh]
    assert len(good) == 12 and store.symbols() == good
    bad = [result for result in results if not result.fresh]
    assert {result.outcome for result in bad} == {Outcome.RATE_LIMITED}
    for result in bad:
        assert_told(result)
    asked = [result for result in bad if result.asked]
    assert 1 <= len(asked) <= 4, "no more than were asked for at once"
    assert charts(yahoo) <= 12 + 2 * 4, "yfinance tries either kind of cookie"
    for symbol in symbols:
        del yahoo.faults[symbol]
    yahoo.seen.clear()
    results = evening(symbols)
    assert all(result.fresh for result in results)
    assert [yahoo.asked(symbol) for symbol in good] == [0] * 12


def test_a_refusal_leaves_what_was_stored_and_says_how_old_it_is(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    evening(["AAA", "BBB"], FRIDAY)
    before = kept(store)
    yahoo.faults["*"] = loopback.rate_limited
    for result in evening(["AAA", "BBB"], TUESDAY, patience=0.0):
        assert result.outcome is Outcome.RATE_LIMITED
        assert (result.behind, result.last, result.rows) == (2, FRIDAY, len(before))
        assert_told(result)
    assert_frame_equal(kept(store), before)


def test_a_refusal_is_waited_for_as_long_as_there_is_patience(
    evening: Evening, yahoo: Any, loopback: Any
) -> None:
    yahoo.faults["AAA"] = loopback.rate_limited
    evening(patience=0.0)
    hasty = yahoo.asked("AAA")
    yahoo.seen.clear()
    evening(patience=0.2)
    assert yahoo.asked("AAA") > hasty


def test_a_refusal_in_the_middle_of_a_batch_is_waited_for(
    evening: Evening, yahoo: Any, loopback: Any
) -> None:
    """Nobody else is asked for while the service refuses, which it does ten times."""
    symbols = [f"S{n:02}" for n in range(30)]
    yahoo.series |= dict.fromkeys(symbols, yahoo.series["AAA"])
    number = itertools.count()
    refused: set[str] = set()

    def busy(request: Any) -> Any:
        if not 12 <= next(number) < 22:
            return request.honest()
        refused.add(request.symbol)
        return loopback.rate_limited(request)

    yahoo.faults |= dict.fromkeys(symbols, busy)
    results = evening(symbols)
    assert [result.outcome for result in results] == [Outcome.OK] * 30
    assert 1 <= len(refused) <= 4, "those that were under way"


def test_patience_is_spent_by_waiting_and_not_by_work(
    evening: Evening, yahoo: Any, loopback: Any
) -> None:
    """However long a batch takes, one refusal at its end is waited for."""

    def slow(request: Any) -> Any:
        time.sleep(0.15)
        return request.honest()

    symbols = [f"S{n}" for n in range(6)]
    yahoo.series |= dict.fromkeys(symbols, yahoo.series["AAA"])
    yahoo.faults |= dict.fromkeys(symbols, slow)
    yahoo.faults["S5"] = loopback.first(3, loopback.rate_limited)
    results = evening(symbols, jobs=1, patience=0.5)
    assert [result.outcome for result in results] == [Outcome.OK] * 6


def test_an_unreachable_service_is_given_up_soon(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    symbols = [f"S{n:02}" for n in range(60)]
    yahoo.faults["*"] = loopback.dropped
    results = evening(symbols)
    assert {result.outcome for result in results} == {Outcome.UNREACHABLE}
    for result in results:
        assert_told(result)
    asked = [result for result in results if result.asked]
    assert GIVE_UP <= len(asked) <= GIVE_UP + 4
    assert charts(yahoo) <= 2 * ATTEMPTS * len(asked)
    assert store.symbols() == []


def test_one_bad_symbol_among_good_ones_is_its_own_affair(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    yahoo.series |= dict.fromkeys(("HTML", "HALF", "DEAD"), yahoo.series["BBB"])
    yahoo.faults |= {
        "HTML": loopback.page, "HALF": loopback.truncated, "DEAD": loopback.dropped,
    }  # fmt: skip
    results = evening(["AAA", "NONE", "HTML", "HALF", "DEAD", "BBB"])
    assert [result.outcome for result in results] == [
        Outcome.OK,
        Outcome.UNKNOWN_SYMBOL,
        Outcome.UNREACHABLE,
        Outcome.BAD_PAYLOAD,
        Outcome.UNREACHABLE,
        Outcome.OK,
    ]
    for result in results[1:-1]:
        assert_told(result)
        assert (result.rows, result.last, result.fresh) == (0, None, False)
    assert store.symbols() == ["AAA", "BBB"]


def test_null_rows_are_told_and_the_others_stored(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    series = yahoo.series["AAA"]
    null = series.dates == np.datetime64("2024-06-20")
    for name in ("open", "high", "low", "close", "volume"):
        getattr(series, name)[null] = np.nan
    (result,) = evening()
    assert result.outcome is Outcome.PARTIAL and "1 row" in result.cause and result.fresh
    assert len(kept(store)) == len(truth(yahoo)) - 1


def test_of_500_symbols_with_5_percent_failures_475_are_stored(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    short = [loopback.walk(n, sessions=40, first="2024-05-06") for n in range(5)]
    symbols = [f"S{n:03}" for n in range(500)]
    yahoo.series |= {symbol: short[n % 5] for n, symbol in enumerate(symbols)}
    faults = {
        loopback.not_found: Outcome.UNKNOWN_SYMBOL,
        loopback.unavailable: Outcome.UNREACHABLE,
        loopback.page: Outcome.UNREACHABLE,
        loopback.truncated: Outcome.BAD_PAYLOAD,
        loopback.dropped: Outcome.UNREACHABLE,
    }
    bad = dict(zip(symbols[7::20], list(faults) * 5, strict=True))
    yahoo.faults |= bad
    results = evening(symbols)
    for result in results:
        wanted = faults[bad[result.symbol]] if result.symbol in bad else Outcome.OK
        assert result.outcome is wanted, result
        assert result.fresh == (result.symbol not in bad)
    assert store.symbols() == [symbol for symbol in symbols if symbol not in bad]
    assert_frame_equal(kept(store, "S499"), short[4].frame(FRIDAY))
    yahoo.faults.clear()
    yahoo.seen.clear()
    assert all(result.fresh for result in evening(symbols))
    assert charts(yahoo) == 25


# What is stored is not lost


def test_a_damaged_file_is_named_moved_aside_and_fetched_afresh(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening(["AAA", "BBB"])
    path = store.path("AAA")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    path_of_bbb = store.path("BBB").read_bytes()
    yahoo.seen.clear()
    damaged, _ = evening(["AAA", "BBB"], MONDAY)
    said = f"{damaged.cause} {damaged.changed}"
    assert damaged.fresh and str(path) in said and "damaged" in said
    (aside,) = [file for file in path.parent.iterdir() if ".damaged-" in file.name]
    assert aside.name in said and aside.read_bytes() == content
    assert_frame_equal(kept(store), truth(yahoo))
    assert store.path("BBB").read_bytes() != path_of_bbb and store.symbols() == ["AAA", "BBB"]


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" * 50])
def test_a_damaged_file_is_noticed_although_the_symbol_may_be_complete(
    evening: Evening, yahoo: Any, store: Store, content: bytes
) -> None:
    evening()
    store.path("AAA").write_bytes(content)
    (result,) = evening()
    assert result.fresh and result.asked and "damaged" in f"{result.cause} {result.changed}"
    assert_frame_equal(kept(store), truth(yahoo))


def test_a_damaged_file_is_named_also_where_yahoo_does_not_answer(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    evening()
    store.path("AAA").write_bytes(b"no parquet")
    yahoo.faults["*"] = loopback.unavailable
    (result,) = evening(date=MONDAY)
    assert result.outcome is Outcome.UNREACHABLE and "damaged" in result.cause
    assert_told(result)
    assert store.symbols() == []


def test_a_refetch_that_fails_leaves_the_stored_history(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    yahoo.series["AAA"] = loopback.walk(4, sessions=SESSIONS, splits={MONDAY: (4, 1)})
    evening(date=FRIDAY)
    before = store.path("AAA").read_bytes()
    recent = np.datetime64("2024-06-01", "s").astype(int)

    def all_of_it_fails(request: Any) -> Any:
        old = int(request.query.get("period1", recent)) < recent
        return loopback.unavailable(request) if old else request.honest()

    yahoo.faults["AAA"] = all_of_it_fails
    (result,) = evening(date=MONDAY)
    assert result.outcome is Outcome.UNREACHABLE and "split 4:1" in result.cause
    assert (result.last, result.behind) == (FRIDAY, 1)
    assert store.path("AAA").read_bytes() == before
    del yahoo.faults["AAA"]
    (result,) = evening(date=MONDAY)
    assert result.fresh and len(changes(store)) == 1
    assert_frame_equal(kept(store), truth(yahoo))


def test_a_symbol_that_has_ended_is_fresh_once_it_was_asked_about(
    evening: Evening, yahoo: Any, loopback: Any, store: Store
) -> None:
    yahoo.series["GONE"] = loopback.walk(8, sessions=200)
    (result,) = evening("GONE")
    assert result.outcome is Outcome.OK and result.fresh and result.last < "2023-12-01"
    yahoo.seen.clear()
    evening("GONE")
    assert yahoo.seen == []
    evening("GONE", MONDAY)
    assert yahoo.asked("GONE") == 1, "it may have come back"
    assert_frame_equal(kept(store, "GONE"), truth(yahoo, "GONE"))


@pytest.mark.parametrize("fault", ["no_data", "empty"])
def test_an_empty_answer_about_stored_sessions_is_no_sign_that_a_symbol_has_ended(
    evening: Evening, yahoo: Any, loopback: Any, store: Store, fault: str
) -> None:
    """The range asked for holds rows that are stored, so nothing in it is a failure."""
    evening(date=FRIDAY)
    before, manifest = kept(store), store.manifest("AAA")
    yahoo.faults["AAA"] = getattr(loopback, fault)
    (result,) = evening(date="2024-07-31")
    assert result.outcome is Outcome.NO_DATA and not result.fresh and result.last == FRIDAY
    assert_frame_equal(kept(store), before)
    assert store.manifest("AAA") == manifest


def test_a_symbol_that_yahoo_forgets_keeps_its_history(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening(date=FRIDAY)
    before = kept(store)
    del yahoo.series["AAA"]
    (result,) = evening(date=MONDAY)
    assert result.outcome is Outcome.UNKNOWN_SYMBOL and result.behind == 1
    assert_frame_equal(kept(store), before)


def test_an_interruption_leaves_whole_files_and_the_next_run_continues(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    symbols = [f"S{n:02}" for n in range(30)]
    yahoo.series |= dict.fromkeys(symbols, yahoo.series["AAA"])

    def interrupt(request: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return request.honest()

    yahoo.faults["S10"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        evening(symbols)
    there = store.symbols()
    assert 5 <= len(there) < 30
    for symbol in there:
        assert_frame_equal(kept(store, symbol), truth(yahoo, symbol))
    assert not [file for file in store.folder.iterdir() if file.name.endswith(".tmp")]
    del yahoo.faults["S10"]
    yahoo.seen.clear()
    assert all(result.fresh for result in evening(symbols))
    assert charts(yahoo) == 30 - len(there)


def test_an_error_where_results_are_shown_leaves_whole_files(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    symbols = [f"S{n:02}" for n in range(30)]
    yahoo.series |= dict.fromkeys(symbols, yahoo.series["AAA"])

    def shown(results: Iterator[Fetched], total: int) -> Iterator[Fetched]:
        assert total == 30
        for number, result in enumerate(results):
            if number == 7:
                raise KeyboardInterrupt
            yield result

    with pytest.raises(KeyboardInterrupt):
        evening(symbols, shown=shown)
    there = store.symbols()
    assert 7 <= len(there) <= 30
    for symbol in there:
        assert_frame_equal(kept(store, symbol), truth(yahoo, symbol))
    assert all(result.fresh for result in evening(symbols))


def test_a_full_disk_is_one_line_and_costs_nothing_that_is_stored(
    evening: Evening, yahoo: Any, store: Store, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    evening(date=FRIDAY)
    before = kept(store)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused("No space left on device", "FORECAST_HOME"):
        evening(date=MONDAY)
    monkeypatch.undo()
    assert_frame_equal(kept(store), before)


PROGRAM = """
import sys
import numpy as np
from forecast.prices.refresh import Pace, refresh
from forecast.prices.store import Store
results = refresh(Store(), sys.argv[1:], start=None, pace=Pace(timeout=60.0),
                  clock=lambda: np.datetime64("2024-06-28T22:00", "s"))
assert all(result.fresh for result in results), results
print(sum(result.asked for result in results))
"""


def test_two_processes_that_refresh_one_store_ask_once_for_each_symbol(
    yahoo: Any, store: Store
) -> None:
    symbols = [f"S{n:02}" for n in range(12)]
    yahoo.series |= dict.fromkeys(symbols, yahoo.series["AAA"])
    yahoo.today = FRIDAY
    environment = yahoo.environment() | {"FORECAST_HOME": str(store.home)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *order],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for order in (symbols, symbols[::-1])
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    assert [yahoo.asked(symbol) for symbol in symbols] == [1] * 12
    for symbol in symbols:
        assert_frame_equal(kept(store, symbol), truth(yahoo, symbol))


# Options


def test_an_end_in_the_past_is_complete_once_it_is_covered(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening(date=FRIDAY)
    yahoo.seen.clear()
    (result,) = evening(date="2024-07-31", end=np.datetime64("2024-06-21", "D"))
    assert yahoo.seen == [] and not result.asked


def test_a_calendar_of_the_users_counts_instead_of_yahoos(
    evening: Evening, yahoo: Any, store: Store
) -> None:
    evening(date=FRIDAY, calendar="24/7")
    manifest = store.manifest("AAA")
    assert manifest is not None and manifest.calendar == "24/7"
    assert manifest.last == "2024-06-27", "Friday ends at midnight in New York"


def test_results_come_in_the_order_asked_for_and_are_shown_as_they_come(
    evening: Evening, yahoo: Any
) -> None:
    seen: list[str] = []

    def shown(results: Iterator[Fetched], total: int) -> Iterator[Fetched]:
        assert total == 3
        for result in results:
            seen.append(result.symbol)
            yield result

    evening("BBB")
    results = evening(["NONE", "BBB", "AAA", "NIL"], shown=shown)
    assert [result.symbol for result in results] == ["NONE", "BBB", "AAA", "NIL"]
    assert sorted(seen) == ["AAA", "NIL", "NONE"], "what is complete is not waited for"
