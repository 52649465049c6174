"""Exchanges: which calendar a symbol follows, its sessions, and when a session's bar is final."""

from __future__ import annotations

import datetime
import difflib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from forecast.config import ForecastError

# Closing auctions and late prints still change a bar after the bell.
SETTLING = np.timedelta64(30, "m")
# Where nothing closes, the next target begins with the bar's end, and a forecast needs some time.
GRACE = np.timedelta64(1, "h")
DAY = np.timedelta64(1, "D")
ALWAYS, WEEKDAYS = "24/7", "24/5"
FIRST, AHEAD = "1900-01-01", 3  # calendars reach from there to so many years from now
_OF_INSTRUMENT = {"CRYPTOCURRENCY": ALWAYS, "CURRENCY": WEEKDAYS}
# Yahoo names an exchange by a code of its own; most share a zone with the exchange they follow.
# Athens and Tel Aviv are missing: their calendars (ASEX, XTAE) cannot be made at present.
_OF_TIMEZONE = {
    "America/New_York": "XNYS",
    "America/Chicago": "XNYS",
    "America/Toronto": "XTSE",
    "America/Sao_Paulo": "BVMF",
    "America/Mexico_City": "XMEX",
    "America/Buenos_Aires": "XBUE",
    "America/Santiago": "XSGO",
    "Europe/London": "XLON",
    "Europe/Berlin": "XETR",
    "Europe/Paris": "XPAR",
    "Europe/Amsterdam": "XAMS",
    "Europe/Brussels": "XBRU",
    "Europe/Lisbon": "XLIS",
    "Europe/Dublin": "XDUB",
    "Europe/Madrid": "XMAD",
    "Europe/Rome": "XMIL",
    "Europe/Zurich": "XSWX",
    "Europe/Vienna": "XWBO",
    "Europe/Stockholm": "XSTO",
    "Europe/Oslo": "XOSL",
    "Europe/Copenhagen": "XCSE",
    "Europe/Helsinki": "XHEL",
    "Europe/Warsaw": "XWAR",
    "Europe/Istanbul": "XIST",
    "Asia/Tokyo": "XTKS",
    "Asia/Hong_Kong": "XHKG",
    "Asia/Shanghai": "XSHG",
    "Asia/Taipei": "XTAI",
    "Asia/Seoul": "XKRX",
    "Asia/Singapore": "XSES",
    "Asia/Kolkata": "XBOM",
    "Asia/Calcutta": "XBOM",
    "Asia/Jakarta": "XIDX",
    "Asia/Kuala_Lumpur": "XKLS",
    "Asia/Bangkok": "XBKK",
    "Asia/Manila": "XPHS",
    "Asia/Riyadh": "XSAU",
    "Australia/Sydney": "XASX",
    "Pacific/Auckland": "XNZE",
    "Africa/Johannesburg": "XJSE",
}
# Futures trade on through the stock exchange's holidays and past its close.
_UNKNOWN_INSTRUMENTS = ("FUTURE", "OPTION")
# German floors that trade for hours after Xetra has closed.
_LATE_FLOORS = ("FRA", "STU", "DUS", "HAM", "HAN", "BER", "MUN")


def calendar_of(
    instrument: str | None, timezone: str | None, exchange: str | None = None
) -> str | None:
    """exchange_calendars code of what Yahoo says of a symbol; None where that is not known."""
    if instrument in _OF_INSTRUMENT:
        return _OF_INSTRUMENT[instrument]
    if instrument in _UNKNOWN_INSTRUMENTS or exchange in _LATE_FLOORS:
        return None
    return _OF_TIMEZONE.get(timezone or "")


def read_calendar(code: str | None) -> str | None:
    """A calendar that a user typed, its alias resolved.

    Raises
    ------
    ForecastError
        It is none.
    """
    if code is None:
        return None
    import exchange_calendars

    names = exchange_calendars.get_calendar_names(include_aliases=True)
    if code not in names:
        close = difflib.get_close_matches(str(code).upper(), names, n=1) or ["XNYS"]
        raise ForecastError(
            f"data.calendar={code} is no exchange_calendars code. Did you mean {close[0]}?"
        )
    return str(exchange_calendars.resolve_alias(code))


def close_time(code: str) -> int:
    """Minutes from midnight UTC of a session's date to its close, on an ordinary winter day.

    What never closes ends its day at the next midnight, 1440, after every exchange.
    """
    known = _calendar(code)
    at = int(np.searchsorted(known.sessions, np.datetime64("2020-01-15")))
    return int((known.closes[at] - known.sessions[at]).astype("timedelta64[m]").astype(int))


def exchange_sessions(code: str, first: np.datetime64, last: np.datetime64) -> np.ndarray:
    """Sessions of an exchange from one date to another, both included; datetime64[D].

    Weekdays beyond what its calendar knows.
    """
    known = _calendar(code).sessions
    low = np.searchsorted(known, first)
    inside = known[low : np.searchsorted(known, last, side="right")]
    if first >= known[0] and last <= known[-1]:
        return inside
    weekdays = np.busday_offset(first, np.arange(np.busday_count(first, last + DAY)), "forward")
    return np.concatenate([weekdays[weekdays < known[0]], inside, weekdays[weekdays > known[-1]]])


def following_sessions(code: str | None, date: np.datetime64, count: int) -> np.ndarray:
    """The next sessions after a date, (count,) datetime64[D]; weekdays where no calendar is known.

    They are expected: an exchange may still close for a storm or a funeral.
    """
    if code is None:
        return np.busday_offset(date, np.arange(1, count + 1), roll="backward")
    span = np.timedelta64(2 * count + 30, "D")  # no exchange is closed for a month
    later = exchange_sessions(code, date + DAY, date + span)
    return later[:count]


def final_at(code: str | None, timezone: str | None, date: np.datetime64) -> np.datetime64:
    """When the bar of a session can no longer change, UTC, datetime64[m].

    Half an hour after the close; after the date's end in the exchange's zone where no calendar
    says when it closes, or where nothing closes.
    """
    hours = _hours(code, date)
    closes = hours[1] if hours is not None else _midnight(timezone, date + DAY)
    return closes + SETTLING


def opens_at(code: str | None, timezone: str | None, date: np.datetime64) -> np.datetime64:
    """When a forecast of a date's return comes too late, UTC, datetime64[m].

    When its trading begins. Where that is unknown, or nothing ever closes, an hour after the bar
    of the date before can be final.
    """
    hours = _hours(code, date)
    return hours[0] if hours is not None else _midnight(timezone, date) + SETTLING + GRACE


def last_final(code: str | None, timezone: str | None, now: np.datetime64) -> np.datetime64:
    """The newest session whose bar is final, datetime64[D].

    Parameters
    ----------
    code : str or None
        exchange_calendars code; None: every weekday is taken for a session.
    timezone : str or None
        IANA name; None: UTC.
    now : datetime64
        UTC.
    """
    return _last_final(code, timezone, now.astype("datetime64[m]"))


@lru_cache(maxsize=256)
def _last_final(code: str | None, timezone: str | None, now: np.datetime64) -> np.datetime64:
    """Of a minute: a store asks it for hundreds of symbols of one exchange."""
    today = now.astype("datetime64[D]") + DAY  # it may be tomorrow over there
    first = today - np.timedelta64(30, "D")
    days = np.arange(first, today + DAY)
    known = days[np.is_busday(days)] if code is None else exchange_sessions(code, first, today)
    for date in known[::-1]:
        if final_at(code, timezone, date) <= now:
            return date
    return first


def _hours(code: str | None, date: np.datetime64) -> tuple[np.datetime64, np.datetime64] | None:
    """Open and close of a session, UTC, where a calendar knows them."""
    if code is None or code in (ALWAYS, WEEKDAYS):
        return None
    known = _calendar(code)
    at = int(np.searchsorted(known.sessions, date))
    if at == len(known.sessions) or known.sessions[at] != date:
        return None
    return known.opens[at], known.closes[at]


@dataclass(frozen=True)
class _Calendar:
    """All sessions of an exchange, datetime64[D], with their hours, UTC, datetime64[m]."""

    sessions: np.ndarray
    opens: np.ndarray
    closes: np.ndarray


@lru_cache(maxsize=64)
def _calendar(code: str) -> _Calendar:
    # Made once and whole: holidays are costly, and many symbols share an exchange.
    import exchange_calendars

    last = f"{datetime.date.today().year + AHEAD}-12-31"
    try:
        try:
            calendar = exchange_calendars.get_calendar(code, start=FIRST, end=last)
        except ValueError:  # it has bounds
            usual = exchange_calendars.get_calendar(code)
            low, high = usual.bound_min(), usual.bound_max()
            start = FIRST if low is None else max(FIRST, str(low.date()))
            end = last if high is None else min(last, str(high.date()))
            calendar = exchange_calendars.get_calendar(code, start=start, end=end)
    except exchange_calendars.errors.InvalidCalendarName as error:
        raise ForecastError(
            f"calendar {code!r} is no exchange_calendars code (XNYS, XLON, XTKS, 24/7, …). "
            "Correct data.calendar, or null for the panel's own dates."
        ) from error
    except (ValueError, NotImplementedError) as error:
        raise ForecastError(
            f"calendar {code!r} cannot be made ({' '.join(str(error).split())}). Use a newer "
            "exchange_calendars, or another data.calendar."
        ) from error
    opens, closes = (
        times.dt.tz_localize(None).to_numpy().astype("datetime64[m]")
        for times in (calendar.opens, calendar.closes)
    )
    sessions = calendar.sessions.to_numpy().astype("datetime64[D]")
    return _Calendar(sessions=sessions, opens=opens, closes=closes)


def _midnight(timezone: str | None, date: np.datetime64) -> np.datetime64:
    """The beginning of a date in a zone, UTC, datetime64[m]."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        zone: datetime.tzinfo = ZoneInfo(timezone) if timezone else datetime.UTC
    except (ZoneInfoNotFoundError, ValueError):
        zone = datetime.UTC
    begin = datetime.datetime.combine(date.astype(datetime.date), datetime.time(), zone)
    return np.datetime64(begin.astimezone(datetime.UTC).replace(tzinfo=None), "m")
