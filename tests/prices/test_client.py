"""The client against a Yahoo of our own: what the service says, not how yfinance words it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from forecast.prices.client import Answer, Client, Outcome
from forecast.prices.store import COLUMNS

START, END = np.datetime64("2024-01-02"), np.datetime64("2024-06-28")
TIMEOUT = 0.5
HEALTHY = (Outcome.OK, Outcome.PARTIAL)
ACTIONS = ["dividend", "split", "capital_gain"]
Ask = Callable[..., Answer]
Wrong = Callable[[Any], Any]
one_service = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def yahoo(yahoo: Any, loopback: Any) -> Any:
    """AAA splits 4:1 and pays before and after, BBB does nothing."""
    yahoo.series["AAA"] = loopback.walk(
        1,
        sessions=400,
        splits={"2024-06-10": (4, 1)},
        dividends={"2023-05-12": 0.24, "2024-05-10": 0.5, "2024-06-14": 0.13},
    )
    yahoo.series["BBB"] = loopback.walk(2, sessions=400)
    return yahoo


@pytest.fixture
def ask(yahoo: Any) -> Ask:
    """Ask, the first time as a process does that has just started."""
    session = yahoo.fresh_session()

    def ask(
        symbol: str = "AAA",
        start: np.datetime64 | None = START,
        end: np.datetime64 = END,
        timeout: float = TIMEOUT,
    ) -> Answer:
        with Client(timeout=timeout, session=session) as client:
            return client.ask(symbol, start, end)

    return ask


def told(yahoo: Any, symbol: str, start: Any = START, end: Any = END) -> pd.DataFrame:
    """What the service has of a symbol in a range of dates, both included."""
    frame = yahoo.series[symbol].frame(yahoo.today)
    inside = (frame["date"] >= start) & (frame["date"] <= end)
    return frame[inside].reset_index(drop=True)


def assert_a_failure(answer: Answer) -> None:
    assert answer.frame is None
    assert answer.cause and "\n" not in answer.cause
    assert answer.advice and "\n" not in answer.advice


def assert_a_store_frame(frame: pd.DataFrame, start: Any = START, end: Any = END) -> None:
    assert tuple(frame.columns) == COLUMNS
    assert frame.index.equals(pd.RangeIndex(len(frame)))
    assert frame["date"].dtype == "datetime64[s]"
    assert (frame.dtypes.iloc[1:] == np.float64).all()
    assert frame["date"].is_monotonic_increasing and frame["date"].is_unique
    assert frame["date"].between(pd.Timestamp(start), pd.Timestamp(end)).all()
    assert frame["close"].notna().any()
    assert frame[ACTIONS].notna().all(axis=None)


# What is told


def test_prices_are_told_as_they_were_sent(ask: Ask, yahoo: Any) -> None:
    answer = ask()
    assert answer.outcome is Outcome.OK and not answer.cause and not answer.advice
    assert answer.frame is not None
    assert_a_store_frame(answer.frame)
    assert_frame_equal(answer.frame, told(yahoo, "AAA"))


def test_without_a_start_everything_is_told(ask: Ask, yahoo: Any) -> None:
    answer = ask(start=None, end=np.datetime64(yahoo.today))
    assert_frame_equal(answer.frame, yahoo.series["AAA"].frame(yahoo.today))


def test_a_split_between_two_questions_changes_the_basis_of_old_prices(
    ask: Ask, yahoo: Any, loopback: Any
) -> None:
    dates = np.array(["2024-06-06", "2024-06-07", "2024-06-10", "2024-06-11"], "datetime64[D]")
    close = np.array([1200.0, 1208.88, 121.79, 120.91])
    yahoo.series["NVDA"] = loopback.Series(
        dates=dates, open=close, high=close, low=close, close=close, volume=[10, 20, 300, 400],
        splits={"2024-06-10": (10, 1)}, dividends={"2024-06-07": 0.1, "2024-06-11": 0.01},
    )  # fmt: skip
    yahoo.today = "2024-06-07"
    before = ask("NVDA").frame
    assert before["close"].tolist() == pytest.approx([1200.0, 1208.88])
    assert before["dividend"].tolist() == [0, 0.1]
    assert before["split"].tolist() == [0, 0]
    yahoo.today = "2024-06-11"
    after = ask("NVDA").frame
    assert after["close"].tolist() == pytest.approx([120.0, 120.888, 121.79, 120.91])
    assert after["volume"].tolist() == [100, 200, 300, 400]
    assert after["dividend"].tolist() == [0, 0.01, 0, 0.01]
    assert after["split"].tolist() == [0, 0, 10, 0]


def test_a_funds_capital_gains_are_in_their_rows(ask: Ask, yahoo: Any, loopback: Any) -> None:
    yahoo.series["FUND"] = loopback.walk(
        3,
        sessions=400,
        gains={"2024-02-09": 1.5},
        dividends={"2024-02-09": 0.5},
        meta={"instrumentType": "ETF"},
    )
    answer = ask("FUND")
    assert answer.frame["capital_gain"].sum() == 1.5
    assert_frame_equal(answer.frame, told(yahoo, "FUND"))


@pytest.mark.parametrize(
    ("zone", "opens"),
    [("Asia/Tokyo", "09:00"), ("Pacific/Auckland", "10:00"), ("UTC", "00:00"),
     ("America/Los_Angeles", "17:00"), ("Europe/London", "00:00"), ("America/Sao_Paulo", "10:00")],
)  # fmt: skip
def test_dates_are_those_of_the_exchange(
    ask: Ask, yahoo: Any, loopback: Any, zone: str, opens: str
) -> None:
    yahoo.series["FAR"] = loopback.walk(
        4,
        sessions=400,
        dividends={"2024-01-02": 1.0, "2024-06-28": 2.0},
        meta={"exchangeTimezoneName": zone, "currency": "JPY", "exchangeName": "JPX"},
        opens=opens,
    )
    answer = ask("FAR")
    assert_frame_equal(answer.frame, told(yahoo, "FAR"))
    assert answer.frame["date"].iloc[[0, -1]].tolist() == [pd.Timestamp(d) for d in (START, END)]
    assert answer.listing is not None
    assert (answer.listing.timezone, answer.listing.currency) == (zone, "JPY")
    assert (answer.listing.instrument, answer.listing.exchange) == ("EQUITY", "JPX")


@pytest.mark.parametrize("symbol", ["^GSPC", "BRK-B", "7203.T", "EURUSD=X", "BTC-USD", "M&M.NS"])
def test_every_kind_of_symbol_is_found(ask: Ask, yahoo: Any, symbol: str) -> None:
    yahoo.series[symbol] = yahoo.series["AAA"]
    answer = ask(symbol)
    assert answer.symbol == symbol
    assert_frame_equal(answer.frame, told(yahoo, symbol))


@given(seed=st.integers(0, 2**16), days=st.tuples(st.integers(0, 320), st.integers(0, 320)))
@one_service
def test_any_walk_and_any_range_are_told_exactly(
    ask: Ask, yahoo: Any, loopback: Any, seed: int, days: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    series = loopback.walk(seed, sessions=220)
    on = [str(day)[:10] for day in rng.choice(series.dates, 6, replace=False)]
    series = loopback.walk(
        seed,
        sessions=220,
        splits={on[0]: (4, 1), on[1]: (2, 3), on[2]: (1, 10)},
        dividends={on[2]: 0.31, on[3]: 1.7, on[4]: 0.004},
    )
    yahoo.series["WALK"] = series
    yahoo.today = on[5]
    start, end = np.datetime64("2023-01-01") + np.sort(days).astype("timedelta64[D]")
    answer = ask("WALK", start, end)
    expected = told(yahoo, "WALK", start, end)
    if len(expected):
        assert answer.outcome is Outcome.OK
        assert_frame_equal(answer.frame, expected)
    else:
        assert answer.outcome is Outcome.NO_DATA
        assert_a_failure(answer)


# Rows that are not what they should be


def test_rows_outside_the_range_are_clipped(ask: Ask, yahoo: Any, loopback: Any) -> None:
    yahoo.faults["AAA"] = loopback.unclipped
    answer = ask()
    assert answer.outcome is Outcome.OK
    assert_frame_equal(answer.frame, told(yahoo, "AAA"))


def test_only_rows_outside_the_range_are_no_data(ask: Ask, yahoo: Any, loopback: Any) -> None:
    yahoo.faults["AAA"] = loopback.unclipped
    answer = ask(start=np.datetime64("2022-03-01"), end=np.datetime64("2022-04-01"))
    assert answer.outcome is Outcome.NO_DATA
    assert_a_failure(answer)


def test_null_rows_are_counted_and_every_other_row_is_as_sent(ask: Ask, yahoo: Any) -> None:
    series = yahoo.series["BBB"]
    null = np.isin(series.dates, np.array(["2024-03-05", "2024-04-09"], "datetime64[s]"))
    for name in ("open", "high", "low", "close", "volume"):
        getattr(series, name)[null] = np.nan
    answer = ask("BBB")
    assert answer.outcome is Outcome.PARTIAL
    assert "2" in answer.cause and answer.advice
    assert_a_store_frame(answer.frame)
    assert_frame_equal(
        answer.frame.dropna(subset="close", ignore_index=True),
        told(yahoo, "BBB").dropna(subset="close", ignore_index=True),
    )


def test_a_price_without_a_close_is_never_a_close(ask: Ask, yahoo: Any) -> None:
    series = yahoo.series["BBB"]
    here = series.dates == np.datetime64("2024-03-05")
    series.close[here] = np.nan
    answer = ask("BBB")
    assert answer.outcome is Outcome.PARTIAL
    row = answer.frame[answer.frame["date"] == "2024-03-05"]
    assert row["close"].isna().all()


def test_an_open_that_is_not_given_leaves_the_row(ask: Ask, yahoo: Any) -> None:
    series = yahoo.series["BBB"]
    here = series.dates == np.datetime64("2024-03-05")
    series.open[here] = series.high[here] = np.nan
    answer = ask("BBB")
    assert answer.outcome is Outcome.OK
    assert_frame_equal(answer.frame, told(yahoo, "BBB"))


def test_a_payment_on_a_day_without_a_price_is_kept(ask: Ask, yahoo: Any) -> None:
    series = yahoo.series["AAA"]
    here = series.dates == np.datetime64("2024-05-10")
    for name in ("open", "high", "low", "close", "volume"):
        getattr(series, name)[here] = np.nan
    answer = ask()
    assert answer.outcome is Outcome.PARTIAL
    paid = answer.frame[answer.frame["dividend"] > 0]
    assert paid["date"].tolist() == [pd.Timestamp("2024-05-10"), pd.Timestamp("2024-06-14")]
    assert paid["dividend"].tolist() == [0.125, 0.13]
    assert paid["close"].isna().tolist() == [True, False]


def test_nothing_but_nulls_is_no_data(ask: Ask, yahoo: Any) -> None:
    series = yahoo.series["BBB"]
    for name in ("open", "high", "low", "close", "volume"):
        getattr(series, name)[:] = np.nan
    answer = ask("BBB")
    assert answer.outcome is Outcome.NO_DATA
    assert_a_failure(answer)


def test_an_unfinished_session_is_told_once_on_its_date(ask: Ask, yahoo: Any) -> None:
    yahoo.today, yahoo.clock = "2024-06-28", "11:03"
    frame = ask().frame
    assert_frame_equal(frame[:-1], told(yahoo, "AAA")[:-1])
    assert frame["date"].iloc[-1] == pd.Timestamp("2024-06-28")
    assert frame["close"].iloc[-1] != told(yahoo, "AAA")["close"].iloc[-1]
    yahoo.clock = "09:29"
    assert_frame_equal(ask().frame, told(yahoo, "AAA", end=np.datetime64("2024-06-27")))


def test_a_live_row_beside_the_sessions_own_is_one_row(ask: Ask, yahoo: Any, loopback: Any) -> None:
    def twice(result: dict[str, Any]) -> None:
        result["timestamp"].append(result["timestamp"][-1] + 6000)
        (quote,), (adjusted,) = result["indicators"].values()
        for column in (*quote.values(), *adjusted.values()):
            column.append(column[-1])

    yahoo.today = "2024-06-28"
    yahoo.faults["AAA"] = loopback.altered(twice)
    answer = ask()
    assert answer.outcome is Outcome.OK
    assert_frame_equal(answer.frame, told(yahoo, "AAA"))


# Every way to fail

INVALID_CRUMB = json.dumps({"finance": {"error": {"code": "Unauthorized", "description": "Crumb"}}})
DOWN = "Will be right back... Thank you for your patience."
FAULTS: dict[str, tuple[Wrong, Outcome]] = {
    "no such symbol": (lambda it: it.not_found, Outcome.UNKNOWN_SYMBOL),
    "no data in the range": (lambda it: it.no_data, Outcome.NO_DATA),
    "no result": (lambda it: it.empty, Outcome.NO_DATA),
    "a result without rows": (lambda it: it.no_rows, Outcome.NO_DATA),
    "429 always": (lambda it: it.rate_limited, Outcome.RATE_LIMITED),
    "503": (lambda it: it.unavailable, Outcome.UNREACHABLE),
    "502 in a word": (lambda it: lambda request: (502, "down"), Outcome.UNREACHABLE),
    "401": (lambda it: lambda request: (401, INVALID_CRUMB), Outcome.UNREACHABLE),
    "down by its own account": (lambda it: lambda request: (200, DOWN), Outcome.UNREACHABLE),
    "a page with status 200": (lambda it: it.page, Outcome.UNREACHABLE),
    "no answer": (lambda it: it.hang(30), Outcome.UNREACHABLE),
    "a dropped connection": (lambda it: it.dropped, Outcome.UNREACHABLE),
    "404, then none": (lambda it: it.first(1, it.not_found, it.dropped), Outcome.UNREACHABLE),
    "a body that breaks off": (lambda it: it.broken_off, Outcome.UNREACHABLE),
    "half a document": (lambda it: it.truncated, Outcome.BAD_PAYLOAD),
    "no times": (lambda it: it.lacking("timestamp"), Outcome.BAD_PAYLOAD),
    "no currency": (lambda it: it.lacking("meta", "currency"), Outcome.BAD_PAYLOAD),
    "no zone": (lambda it: it.lacking("meta", "exchangeTimezoneName"), Outcome.BAD_PAYLOAD),
    "no meta": (lambda it: it.lacking("meta"), Outcome.BAD_PAYLOAD),
    "no indicators": (lambda it: it.lacking("indicators"), Outcome.BAD_PAYLOAD),
    "no closes": (lambda it: it.altered(without_closes), Outcome.BAD_PAYLOAD),
    "columns of two lengths": (lambda it: it.altered(one_close_less), Outcome.BAD_PAYLOAD),
    "a word for a price": (lambda it: it.altered(a_word), Outcome.BAD_PAYLOAD),
}


def without_closes(result: dict[str, Any]) -> None:
    del result["indicators"]["quote"][0]["close"]


def one_close_less(result: dict[str, Any]) -> None:
    result["indicators"]["quote"][0]["close"].pop()


def a_word(result: dict[str, Any]) -> None:
    result["indicators"]["quote"][0]["close"][5] = "twelve"


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_its_outcome_and_leaves_the_other_symbols_alone(
    ask: Ask, yahoo: Any, loopback: Any, name: str
) -> None:
    wrong, outcome = FAULTS[name]
    yahoo.faults["AAA"] = wrong(loopback)
    answer = ask()
    assert answer.outcome is outcome, answer.cause
    assert_a_failure(answer)
    assert ask("BBB").outcome is Outcome.OK
    assert yahoo.hosts <= set(loopback.HOSTS)


@pytest.mark.parametrize(
    ("wrong", "outcome"),
    [
        (lambda it: it.rate_limited, Outcome.RATE_LIMITED),
        (lambda it: it.unavailable, Outcome.UNREACHABLE),
        (lambda it: it.page, Outcome.UNREACHABLE),
        (lambda it: it.dropped, Outcome.UNREACHABLE),
        (lambda it: it.hang(5), Outcome.UNREACHABLE),
    ],
    ids=["429", "503", "page", "dropped", "hang"],
)
def test_a_service_that_fails_at_every_address_is_told_soon(
    ask: Ask, yahoo: Any, loopback: Any, wrong: Wrong, outcome: Outcome
) -> None:
    yahoo.faults["*"] = wrong(loopback)
    began = time.monotonic()
    answer = ask()
    assert answer.outcome is outcome, answer.cause
    assert_a_failure(answer)
    assert time.monotonic() - began < 5 * TIMEOUT


@pytest.mark.parametrize("path", ["/", "/v1/test/getcrumb"], ids=["cookie", "crumb"])
@pytest.mark.parametrize(
    "wrong", [lambda it: it.hang(5), lambda it: it.rate_limited], ids=["hang", "429"]
)
def test_prices_need_neither_cookie_nor_crumb(
    ask: Ask, yahoo: Any, loopback: Any, path: str, wrong: Wrong
) -> None:
    yahoo.faults[path] = wrong(loopback)
    began = time.monotonic()
    assert ask().outcome is Outcome.OK
    assert time.monotonic() - began < 5 * TIMEOUT


@pytest.mark.parametrize("name", ["rate_limited", "unavailable"])
def test_one_refusal_is_got_over(ask: Ask, yahoo: Any, loopback: Any, name: str) -> None:
    yahoo.faults["AAA"] = loopback.first(1, getattr(loopback, name))
    answer = ask()
    assert answer.outcome is Outcome.OK
    assert_frame_equal(answer.frame, told(yahoo, "AAA"))


WORSE = [None, [], {}, "x", -1, 10**20, 0.5, True, [None], {"a": None}]


@given(place=st.integers(0, 2**16), worse=st.sampled_from([..., *WORSE]))
@settings(one_service, max_examples=100)
def test_no_document_is_a_surprise(
    ask: Ask, yahoo: Any, loopback: Any, place: int, worse: Any
) -> None:
    """Whatever part of it is missing (...) or of another kind, the answer is one of the seven."""

    def damage(result: dict[str, Any]) -> None:
        places: list[tuple[Any, Any]] = []

        def visit(node: Any) -> None:
            for key in node if isinstance(node, dict) else range(min(len(node), 3)):
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    visit(node[key])

        visit(result)
        node, key = places[place % len(places)]
        if worse is ...:
            del node[key]
        else:
            node[key] = worse

    yahoo.faults["AAA"] = loopback.altered(damage)
    answer = ask()
    if answer.outcome in HEALTHY:
        assert_a_store_frame(answer.frame)
    else:
        assert_a_failure(answer)


@given(body=st.one_of(st.text(), st.sampled_from(["", "null", "[]", "{}", "0", '{"chart": null}'])))
@one_service
def test_no_body_is_a_surprise(ask: Ask, yahoo: Any, body: str) -> None:
    assume(body.isprintable())
    yahoo.faults["AAA"] = lambda request: (200, body)
    answer = ask()
    assert answer.outcome not in HEALTHY
    assert_a_failure(answer)


@pytest.mark.parametrize("symbol", ["", "US0378331005", "A/B", "A B", "ÄÖÜ", "../../x", "?", "%"])
def test_no_symbol_is_a_surprise(ask: Ask, symbol: str) -> None:
    answer = ask(symbol)
    assert answer.outcome is Outcome.UNKNOWN_SYMBOL, answer.cause
    assert_a_failure(answer)


# How often it asks, and what it remembers


def test_an_unknown_symbol_takes_few_requests(ask: Ask, yahoo: Any) -> None:
    assert ask("NONE").outcome is Outcome.UNKNOWN_SYMBOL
    assert yahoo.asked("NONE") == 2  # with either kind of cookie
    assert yahoo.counts.total() == 9


def test_after_the_first_symbol_each_takes_one_request(yahoo: Any) -> None:
    symbols = [f"S{n}" for n in range(5)]
    yahoo.series |= dict.fromkeys(symbols, yahoo.series["BBB"])
    with Client(session=yahoo.fresh_session()) as client:
        assert client.ask("BBB", START, END).outcome is Outcome.OK
        for symbol in symbols:
            assert client.ask(symbol, START, END).outcome is Outcome.OK
    assert [yahoo.asked(symbol) for symbol in symbols] == [1] * 5


@pytest.mark.parametrize("name", ["unavailable", "page", "truncated", "not_found", "dropped"])
def test_a_failure_is_forgotten_before_a_retry(yahoo: Any, loopback: Any, name: str) -> None:
    yahoo.faults["AAA"] = getattr(loopback, name)
    with Client(session=yahoo.fresh_session()) as client:
        failed = client.ask("AAA", START, END)
        assert failed.outcome not in HEALTHY
        assert client.ask("AAA", START, END).outcome is failed.outcome
        del yahoo.faults["AAA"]
        assert client.ask("AAA", START, END).outcome is Outcome.OK


def test_threads_do_not_mix_their_answers_up(yahoo: Any, loopback: Any) -> None:
    good = [f"S{n}" for n in range(8)]
    yahoo.series |= {symbol: loopback.walk(n, sessions=400) for n, symbol in enumerate(good)}
    yahoo.faults |= {"F0": loopback.page, "F1": loopback.truncated, "F2": loopback.dropped}
    symbols = [*good, "F0", "F1", "F2", "NONE"] * 2
    with (
        Client(session=yahoo.fresh_session()) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = list(pool.map(lambda symbol: client.ask(symbol, START, END), symbols))
    bad = [
        Outcome.UNREACHABLE,
        Outcome.BAD_PAYLOAD,
        Outcome.UNREACHABLE,
        Outcome.UNKNOWN_SYMBOL,
    ]
    assert [answer.outcome for answer in answers] == ([Outcome.OK] * 8 + bad) * 2
    for symbol, answer in zip(symbols, answers, strict=True):
        assert answer.symbol == symbol
        if answer.frame is not None:
            assert_frame_equal(answer.frame, told(yahoo, symbol))


def test_yfinance_is_left_as_it_was_found(yahoo: Any) -> None:
    import yfinance

    session = yahoo.fresh_session()
    logger = logging.getLogger("yfinance")
    before = yfinance.config.debug.hide_exceptions, logger.level, session.request
    with Client(session=session) as client:
        client.ask("NONE", START, END)
    assert (yfinance.config.debug.hide_exceptions, logger.level, session.request) == before


PROGRAM = """
import json, sys
import numpy as np
from forecast.prices.client import Client
with Client(timeout=10) as client:
    answers = [client.ask(s, np.datetime64("2024-01-02"), np.datetime64("2024-06-28"))
               for s in sys.argv[1:]]
print(json.dumps([[a.outcome, None if a.frame is None else a.frame["close"].tolist()]
                  for a in answers]))
"""


@pytest.mark.parametrize("disabled", ["", "1"], ids=["curl_cffi", "requests"])
def test_a_whole_program_reaches_only_yahoo(yahoo: Any, loopback: Any, disabled: str) -> None:
    """With TLS, with cookies, and with nothing in the program that knows of the test."""
    faults = ["truncated", "page", "dropped", "rate_limited"]
    yahoo.series |= dict.fromkeys(faults, yahoo.series["BBB"])
    yahoo.faults |= {name.upper(): getattr(loopback, name) for name in faults}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "AAA", "NONE", *faults, "BBB"],
        env=yahoo.environment()
        | {"XDG_CACHE_HOME": str(yahoo.folder / "cache"), "YF_DISABLE_CURL_CFFI": disabled},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert disabled or done.stderr == ""  # without curl_cffi yfinance says so
    outcomes, closes = zip(*json.loads(done.stdout), strict=True)
    assert outcomes == (
        Outcome.OK,
        Outcome.UNKNOWN_SYMBOL,
        Outcome.BAD_PAYLOAD,
        Outcome.UNREACHABLE,
        Outcome.UNREACHABLE,
        Outcome.RATE_LIMITED,
        Outcome.OK,
    )
    assert closes[0] == told(yahoo, "AAA")["close"].tolist()
    assert closes[-1] == told(yahoo, "BBB")["close"].tolist()
    assert yahoo.hosts and yahoo.hosts <= set(loopback.HOSTS)


@pytest.mark.parametrize("name", ["cookies.db", "tkr-tz.db"])
def test_a_damaged_cache_of_yfinances_costs_no_prices(yahoo: Any, name: str) -> None:
    usual = yahoo.folder / "cache" / "py-yfinance"
    usual.mkdir(parents=True)
    (usual / name).write_bytes(b"no database" * 1000)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "AAA"],
        env=yahoo.environment() | {"XDG_CACHE_HOME": str(usual.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(done.stdout)[0][0] == Outcome.OK, done.stderr
