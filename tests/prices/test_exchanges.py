"""Calendars: exchange_calendars is the oracle of sessions and hours, the clock of what is final."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.prices import exchanges as module
from forecast.prices.exchanges import (
    DAY,
    SETTLING,
    calendar_of,
    close_time,
    exchange_sessions,
    final_at,
    following_sessions,
    last_final,
    opens_at,
    read_calendar,
)

NEW_YORK, TOKYO, LONDON = "America/New_York", "Asia/Tokyo", "Europe/London"
# Each kind: hours that lie before, in and after UTC's day, none at all, and none known.
KNOWN = [("XNYS", NEW_YORK), ("XTKS", TOKYO), ("XLON", LONDON)]
SHUT_NEVER = [("24/7", "UTC"), ("24/5", LONDON)]
EVERY = [
    *KNOWN,
    *SHUT_NEVER,
    (None, "Pacific/Auckland"),
    (None, "America/Los_Angeles"),
    (None, None),
]
EPOCH = np.datetime64("2000-01-01", "D")
moments = st.integers(0, 28 * 365 * 24 * 60).map(lambda n: EPOCH.astype("datetime64[m]") + n)
days = st.integers(0, 28 * 365).map(lambda n: EPOCH + n)
some = settings(deadline=None, max_examples=60)


def day(text: str) -> np.datetime64:
    return np.datetime64(text, "D")


def minute(text: str) -> np.datetime64:
    return np.datetime64(text, "m")


def dates(values: Any) -> list[str]:
    return np.asarray(values).astype("datetime64[D]").astype(str).tolist()


def oracle(code: str) -> Any:
    """The calendar itself, over the years that the tests draw from."""
    import exchange_calendars

    return exchange_calendars.get_calendar(code, start="1999-01-01", end="2029-12-28")


def is_weekday(date: np.datetime64) -> bool:
    return bool(np.is_busday(date))


# Which calendar


@pytest.mark.parametrize(
    ("instrument", "timezone", "code"),
    [
        ("EQUITY", NEW_YORK, "XNYS"),
        ("ETF", NEW_YORK, "XNYS"),
        ("INDEX", TOKYO, "XTKS"),
        ("CRYPTOCURRENCY", "UTC", "24/7"),
        ("CRYPTOCURRENCY", NEW_YORK, "24/7"),
        ("CURRENCY", LONDON, "24/5"),
        ("FUTURE", NEW_YORK, None),
        ("OPTION", NEW_YORK, None),
        ("EQUITY", "Europe/Atlantis", None),
        ("EQUITY", None, None),
        (None, None, None),
        (None, LONDON, "XLON"),
    ],
)
def test_what_trades_decides_before_where_it_trades(
    instrument: str | None, timezone: str | None, code: str | None
) -> None:
    assert calendar_of(instrument, timezone) == code


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # in exchange_calendars
@pytest.mark.parametrize("zone", sorted(module._OF_TIMEZONE))
def test_the_exchange_of_every_zone_has_sessions_and_hours(zone: str) -> None:
    """A symbol of it must not end a whole batch because its calendar cannot be made."""
    code = calendar_of("EQUITY", zone)
    week = exchange_sessions(str(code), day("2026-11-16"), day("2026-11-22"))
    assert 3 <= len(week) <= 6
    began, ended = opens_at(code, zone, week[0]), final_at(code, zone, week[0]) - SETTLING
    local = [
        pd.Timestamp(at).tz_localize("UTC").tz_convert(ZoneInfo(zone)) for at in (began, ended)
    ]
    assert {f"{at:%Y-%m-%d}" for at in local} == set(dates(week[:1]))
    assert 7 <= local[0].hour < local[1].hour <= 19


def test_a_typed_calendar_is_resolved_or_refused_with_a_proposal(refused: Any) -> None:
    assert read_calendar(None) is None
    assert read_calendar("NYSE") == "XNYS"
    assert read_calendar("24/7") == "24/7"
    with refused("data.calendar=XNYX", "XNYS"):
        read_calendar("XNYX")
    with pytest.raises(ForecastError):
        exchange_sessions("NOPE", day("2024-01-01"), day("2024-01-05"))


def test_closes_are_ordered_as_they_follow_each_other_round_the_earth() -> None:
    """Ordinary winter hours: 15:00 in Tokyo, 16:30 in London, 16:00 in New York."""
    assert close_time("XTKS") == 6 * 60
    assert close_time("XLON") == 16 * 60 + 30
    assert close_time("XNYS") == 21 * 60
    assert close_time("24/7") == close_time("24/5") == 24 * 60


# Sessions


@given(first=days, length=st.integers(0, 400), code=st.sampled_from(["XNYS", "XTKS", "XLON"]))
@some
def test_sessions_are_those_of_the_calendar(first: np.datetime64, length: int, code: str) -> None:
    last = first + length
    wanted = oracle(code).sessions_in_range(str(first), str(last))
    assert dates(exchange_sessions(code, first, last)) == [f"{date:%Y-%m-%d}" for date in wanted]


@given(
    offset=st.integers(-600, 600), length=st.integers(0, 700), end=st.sampled_from(["low", "high"])
)
@some
def test_beyond_what_a_calendar_knows_every_weekday_is_a_session(
    offset: int, length: int, end: str
) -> None:
    known = module._calendar("XNYS").sessions
    first = known[0 if end == "low" else -1] + offset
    every = np.arange(first, first + length + DAY)
    inside = (every >= known[0]) & (every <= known[-1])
    wanted = every[np.where(inside, np.isin(every, known), np.is_busday(every))]
    assert dates(exchange_sessions("XNYS", first, first + length)) == dates(wanted)


def test_a_range_that_ends_before_it_begins_has_no_session() -> None:
    assert len(exchange_sessions("XNYS", day("2024-03-05"), day("2024-03-04"))) == 0


@given(date=days, count=st.integers(1, 300), code=st.sampled_from(["XNYS", "XTKS", "24/7", None]))
@some
def test_following_sessions_are_the_next_ones_and_as_many_as_asked_for(
    date: np.datetime64, count: int, code: str | None
) -> None:
    found = following_sessions(code, date, count)
    assert len(found) == count and found.dtype == "datetime64[D]"
    assert found[0] > date and (np.diff(found) > np.timedelta64(0)).all()
    between = np.arange(date + DAY, found[-1] + DAY)
    wanted = between[np.is_busday(between)] if code is None else exchange_sessions(
        code, date + DAY, found[-1]
    )  # fmt: skip
    assert dates(found) == dates(wanted), "none is passed over"


def test_the_session_after_a_friday_is_a_monday_and_after_a_holiday_the_day_after() -> None:
    assert dates(following_sessions("XNYS", day("2026-11-20"), 1)) == ["2026-11-23"]
    assert dates(following_sessions("XNYS", day("2026-11-25"), 2)) == ["2026-11-27", "2026-11-30"]
    assert dates(following_sessions("24/7", day("2026-11-27"), 2)) == ["2026-11-28", "2026-11-29"]
    assert dates(following_sessions(None, day("2026-11-28"), 1)) == ["2026-11-30"]


# When a bar is final


@pytest.mark.parametrize(
    ("code", "timezone", "date", "opened", "final"),
    [
        ("XNYS", NEW_YORK, "2026-11-25", "2026-11-25T14:30", "2026-11-25T21:30"),
        ("XNYS", NEW_YORK, "2026-11-27", "2026-11-27T14:30", "2026-11-27T18:30"),  # 13:00 there
        ("XNYS", NEW_YORK, "2026-07-15", "2026-07-15T13:30", "2026-07-15T20:30"),  # summer time
        ("XTKS", TOKYO, "2026-11-27", "2026-11-27T00:00", "2026-11-27T07:00"),
        ("XLON", LONDON, "2026-12-24", "2026-12-24T08:00", "2026-12-24T13:00"),  # 12:30 there
        # Where nothing closes a target begins at midnight, and an hour and a half are given.
        ("24/7", "UTC", "2026-11-28", "2026-11-28T01:30", "2026-11-29T00:30"),
        ("24/5", LONDON, "2026-07-15", "2026-07-15T00:30", "2026-07-15T23:30"),
        (None, NEW_YORK, "2026-11-27", "2026-11-27T06:30", "2026-11-28T05:30"),
        (None, "Asia/Kolkata", "2026-11-27", "2026-11-26T20:00", "2026-11-27T19:00"),
        (None, None, "2026-11-27", "2026-11-27T01:30", "2026-11-28T00:30"),
        (None, "Europe/Atlantis", "2026-11-27", "2026-11-27T01:30", "2026-11-28T00:30"),
        # A date on which the exchange is shut, and one beyond its calendar.
        ("XNYS", NEW_YORK, "2026-11-26", "2026-11-26T06:30", "2026-11-27T05:30"),
        ("XNYS", NEW_YORK, "2045-06-01", "2045-06-01T05:30", "2045-06-02T04:30"),
    ],
)
def test_a_bar_is_final_half_an_hour_after_the_close_or_at_the_end_of_the_date(
    code: str | None, timezone: str | None, date: str, opened: str, final: str
) -> None:
    assert opens_at(code, timezone, day(date)) == minute(opened)
    assert final_at(code, timezone, day(date)) == minute(final)


@given(date=days, exchange=st.sampled_from(KNOWN))
@some
def test_hours_are_those_of_the_calendar(date: np.datetime64, exchange: tuple[str, str]) -> None:
    code, timezone = exchange
    session = oracle(code).date_to_session(str(date), direction="next")
    begins, ends = oracle(code).session_open_close(session)
    there = np.datetime64(f"{session:%Y-%m-%d}", "D")
    assert opens_at(code, timezone, there) == begins.tz_localize(None).to_datetime64()
    assert final_at(code, timezone, there) - SETTLING == ends.tz_localize(None).to_datetime64()


@pytest.mark.parametrize(
    ("code", "timezone", "now", "newest"),
    [
        ("XNYS", NEW_YORK, "2026-11-27T18:29", "2026-11-25"),  # Thanksgiving lies between
        ("XNYS", NEW_YORK, "2026-11-27T18:30", "2026-11-27"),
        ("XNYS", NEW_YORK, "2026-11-29T12:00", "2026-11-27"),
        ("XTKS", TOKYO, "2026-11-27T06:59", "2026-11-26"),
        ("XTKS", TOKYO, "2026-11-27T07:00", "2026-11-27"),
        ("24/7", "UTC", "2026-11-29T00:29", "2026-11-27"),
        ("24/7", "UTC", "2026-11-29T00:30", "2026-11-28"),
        ("24/5", LONDON, "2026-11-28T12:00", "2026-11-27"),
        ("24/5", LONDON, "2026-11-30T23:59", "2026-11-27"),
        (None, NEW_YORK, "2026-11-28T05:29", "2026-11-26"),
        (None, NEW_YORK, "2026-11-28T05:30", "2026-11-27"),
        (None, "Pacific/Auckland", "2026-11-27T11:30", "2026-11-27"),  # midnight is over there
    ],
)
def test_the_newest_final_session_changes_with_the_minute(
    code: str | None, timezone: str | None, now: str, newest: str
) -> None:
    assert last_final(code, timezone, minute(now)) == day(newest)


@given(now=moments, exchange=st.sampled_from(EVERY))
@settings(deadline=None, max_examples=150)
def test_what_is_called_final_is_over_and_the_next_session_is_not(
    now: np.datetime64, exchange: tuple[str | None, str | None]
) -> None:
    code, timezone = exchange
    newest = last_final(code, timezone, now)
    assert final_at(code, timezone, newest) <= now
    following = following_sessions(code, newest, 1)[0]
    assert final_at(code, timezone, following) > now
    assert len(exchange_sessions(code, newest, newest)) if code else is_weekday(newest)


@given(first=moments, later=st.integers(0, 20 * 24 * 60), exchange=st.sampled_from(EVERY))
@settings(deadline=None, max_examples=150)
def test_what_was_final_once_stays_so(
    first: np.datetime64, later: int, exchange: tuple[str | None, str | None]
) -> None:
    assert last_final(*exchange, first) <= last_final(*exchange, first + later)


@given(date=days, exchange=st.sampled_from(EVERY))
@some
def test_a_session_ends_after_it_began_and_before_the_next_one_ends(
    date: np.datetime64, exchange: tuple[str | None, str | None]
) -> None:
    one, two = following_sessions(exchange[0], date, 2)
    assert opens_at(*exchange, one) < final_at(*exchange, one) < final_at(*exchange, two)


@pytest.mark.parametrize("exchange", ["FRA", "STU", "MUN"])
def test_floors_that_trade_on_after_xetra_have_no_calendar_of_it(exchange: str) -> None:
    """Their bars would be called final in the middle of the session."""
    assert calendar_of("EQUITY", "Europe/Berlin", exchange) is None
    assert calendar_of("EQUITY", "Europe/Berlin", "GER") == "XETR"
