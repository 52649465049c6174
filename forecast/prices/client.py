"""Yahoo through the real yfinance client: one question, one typed answer, no silent empty frame.

yfinance hides most failures behind empty frames and "possibly delisted". Here every request is
watched, so that what Yahoo really said decides: a 404 with its reason is an unknown symbol, an HTML
page is a service that is down, whatever exception they end in.
"""

from __future__ import annotations

import datetime
import functools
import logging
import re
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd

from forecast.prices.exchanges import DAY
from forecast.prices.store import COLUMNS

# Yahoo refuses a range of a hundred years.
LONGEST = np.timedelta64(99 * 365, "D")
# What else Yahoo is asked for leads to other services, and an ISIN to a search.
NAMED = re.compile(r"[A-Za-z0-9^][A-Za-z0-9.=^&_-]*")
ISIN = re.compile(r"[A-Z]{2}[A-Z0-9]{9}[0-9]")
_NAMES = {
    "Open": "open", "High": "high", "Low": "low", "Close": "close", "Volume": "volume",
    "Dividends": "dividend", "Stock Splits": "split", "Capital Gains": "capital_gain",
}  # fmt: skip


class Outcome(StrEnum):
    """How a question about one symbol ended."""

    OK = "ok"
    PARTIAL = "partial"
    UNKNOWN_SYMBOL = "unknown symbol"
    NO_DATA = "no data in range"
    RATE_LIMITED = "rate-limited"
    UNREACHABLE = "unreachable"
    BAD_PAYLOAD = "bad payload"


ADVICE = {
    Outcome.OK: "",
    Outcome.PARTIAL: "Ask again later; what is there is used.",
    Outcome.UNKNOWN_SYMBOL: "Look the symbol up at finance.yahoo.com; exchanges outside the US "
    "have a suffix (7203.T), indices a ^ (^GSPC), currencies =X (EURUSD=X).",
    Outcome.NO_DATA: "Widen data.start and data.end, or leave the symbol out.",
    Outcome.RATE_LIMITED: "Wait some minutes and repeat the command: it goes on where it stopped.",
    Outcome.UNREACHABLE: "Check the network and any proxy, then repeat the command; "
    "data.offline=true uses what is stored.",
    Outcome.BAD_PAYLOAD: "Repeat the command later; if it stays, a newer yfinance may help.",
}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What Yahoo says of a symbol beside its prices; None where it says nothing."""

    timezone: str | None
    currency: str | None
    instrument: str | None
    exchange: str | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one question.

    Attributes
    ----------
    cause, advice : str
        What happened, and what the user can do; empty where all is well.
    frame : DataFrame or None
        A store frame within the dates asked for; rows hold a close or an action. OK and PARTIAL
        alone have one, with at least one close.
    asked : datetime64[s] or None
        When, UTC; a bar that was not final then may not be final in the frame.
    """

    symbol: str
    outcome: Outcome
    cause: str = ""
    frame: pd.DataFrame | None = None
    listing: Listing | None = None
    asked: np.datetime64 | None = None

    @property
    def advice(self) -> str:
        return ADVICE[self.outcome]


@dataclass
class _Reply:
    """The last answer of the chart service that a thread has seen."""

    status: int
    head: str


class Client:
    """Questions to Yahoo, one symbol at a time, from any number of threads.

    A context manager: it makes yfinance raise what it would hide, and puts that back at the end.

    Parameters
    ----------
    timeout : float
        Seconds until a request is given up.
    session : optional
        What requests go through, by default yfinance's own kind of session.
    """

    def __init__(self, *, timeout: float = 10.0, session: Any = None) -> None:
        import yfinance
        from yfinance._http import new_session

        self._timeout = timeout
        self._seen, self._stopped = threading.local(), threading.Event()
        self._session = session if session is not None else new_session()
        self._request = self._session.request
        self._session.request = self._watched
        _own_cache()
        self._log = logging.getLogger("yfinance")
        self._before = (yfinance.config.debug.hide_exceptions, self._log.level)
        yfinance.config.debug.hide_exceptions = False
        self._log.setLevel(logging.CRITICAL)  # every outcome is told by us
        # It calls pandas as older versions wished.
        warnings.filterwarnings("ignore", category=pd.errors.Pandas4Warning, module="yfinance")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import yfinance

        self._session.request = self._request
        yfinance.config.debug.hide_exceptions, level = self._before
        self._log.setLevel(level)

    def stop(self) -> None:
        """Begin no further request; what is under way ends with its timeout."""
        self._stopped.set()

    def ask(self, symbol: str, start: np.datetime64 | None, end: np.datetime64) -> Answer:
        """Daily prices of one symbol from `start` (None: all there are) to `end`, both included.

        Asks once (yfinance itself tries a second kind of cookie). Whatever the service does, this
        raises nothing; only a bug of ours does.
        """
        import yfinance
        from yfinance.data import YfData

        if not NAMED.fullmatch(symbol) or ISIN.fullmatch(symbol):
            cause = "no symbol of Yahoo is written so"
            return Answer(symbol=symbol, outcome=Outcome.UNKNOWN_SYMBOL, cause=cause)
        YfData.cache_get.cache_clear()  # it keeps failures too
        self._seen.reply = None
        first = end - LONGEST if start is None else start
        try:
            ticker = yfinance.Ticker(symbol, session=self._session)
            # With a zone it asks no second question about it, which for an unknown symbol becomes
            # thirty. Any will do: dates are asked for with a margin and clipped below.
            ticker._tz = "UTC"
            raw = ticker.history(
                start=_midnight(first - DAY),
                end=_midnight(end + 2 * DAY),
                interval="1d",
                auto_adjust=False,
                back_adjust=False,
                actions=True,
                prepost=False,
                repair=False,
                keepna=True,
                rounding=False,
                timeout=self._timeout,
            )
            listing = _listing(ticker)
            frame = _clipped(_frame(raw), first, end)
        except Exception as error:
            outcome, cause = _classified(error, self._seen.reply)
            return Answer(symbol=symbol, outcome=outcome, cause=cause)
        missing = int(frame["close"].isna().sum())
        if missing == len(frame):
            cause = f"no price between {first} and {end}"
            return Answer(symbol=symbol, outcome=Outcome.NO_DATA, cause=cause, listing=listing)
        frame = _told(frame)
        cause = f"{missing} rows without a close" if missing else ""
        outcome = Outcome.PARTIAL if missing else Outcome.OK
        return Answer(symbol=symbol, outcome=outcome, cause=cause, frame=frame, listing=listing)

    def _watched(self, method: str, url: str, *args: Any, **options: Any) -> Any:
        if self._stopped.is_set():
            raise ConnectionError("stopped")
        # Cookies are asked for with a patience of half a minute, three times over.
        options["timeout"] = min(options.get("timeout") or self._timeout, self._timeout)
        response = self._request(method, url, *args, **options)
        if "/v8/finance/chart/" in str(url):
            head = bytes(response.content)[:300].decode("utf-8", "replace").lstrip()
            self._seen.reply = _Reply(response.status_code, head)
        return response


@functools.cache
def _own_cache() -> tempfile.TemporaryDirectory:
    """A place for yfinance's cookies as long as the process lives.

    The usual one is a database that all processes share, and which is locked or damaged one day.
    yfinance moves it before the first question only.
    """
    import yfinance

    folder = tempfile.TemporaryDirectory(prefix="forecast-", ignore_cleanup_errors=True)
    yfinance.set_tz_cache_location(folder.name)
    return folder


def _midnight(date: np.datetime64) -> pd.Timestamp:
    return pd.Timestamp(date).tz_localize("UTC")


def _listing(ticker: Any) -> Listing:
    told: dict[str, Any] = ticker._price_history._history_metadata or {}

    def text(name: str) -> str | None:
        value = told.get(name)
        return value if isinstance(value, str) and value else None

    return Listing(
        timezone=text("exchangeTimezoneName"),
        currency=text("currency"),
        instrument=text("instrumentType"),
        exchange=text("exchangeName"),
    )


def _frame(raw: pd.DataFrame) -> pd.DataFrame:
    """yfinance's table as a store frame, in order of its dates."""
    index = pd.DatetimeIndex(raw.index)
    dates = (index.tz_localize(None) if index.tz is not None else index).normalize()
    columns = {
        name: raw[theirs].to_numpy(np.float64) if theirs in raw else np.zeros(len(raw))
        for theirs, name in _NAMES.items()
    }
    frame = pd.DataFrame({"date": dates.to_numpy().astype("datetime64[s]"), **columns})
    for name in ("dividend", "split", "capital_gain"):
        frame[name] = frame[name].fillna(0.0)
    frame = frame.sort_values("date", kind="stable", ignore_index=True)[list(COLUMNS)]
    if frame["date"].duplicated().any():
        twice = frame["date"][frame["date"].duplicated()].iloc[0]
        raise ValueError(f"{twice:%Y-%m-%d} appears twice")
    return frame


def _clipped(frame: pd.DataFrame, first: np.datetime64, last: np.datetime64) -> pd.DataFrame:
    """Yahoo sends rows outside the range, and yfinance removes one of them at most."""
    inside = (frame["date"] >= first) & (frame["date"] <= last)
    return frame[inside.to_numpy()].reset_index(drop=True)


def _told(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows up to the last close that hold a close, or an action on a day without one."""
    closed = frame["close"].notna().to_numpy()
    acted = (frame[["dividend", "split", "capital_gain"]] != 0).any(axis=1).to_numpy()
    last = int(np.flatnonzero(closed)[-1])
    kept = (closed | acted) & (np.arange(len(frame)) <= last)
    return frame[kept].reset_index(drop=True)


def _classified(error: Exception, reply: _Reply | None) -> tuple[Outcome, str]:
    """What an exception of yfinance means, given what the service had replied."""
    from yfinance.exceptions import YFDataException, YFPricesMissingError, YFRateLimitError

    text = " ".join(str(error).partition(" See https://")[0].split())[:200] or "no more is known"
    status = None if reply is None else reply.status
    if isinstance(error, YFRateLimitError) or status == 429:
        return Outcome.RATE_LIMITED, "Yahoo answers 429, too many requests"
    # Malformed JSON is a transport error to some backends.
    if reply is None or (isinstance(error, _transport_errors()) and not _malformed(error)):
        return Outcome.UNREACHABLE, f"{type(error).__name__}: {text}"
    if reply.status >= 500 or isinstance(error, YFDataException):
        return Outcome.UNREACHABLE, f"Yahoo answers {reply.status}"
    if reply.head.startswith("<"):
        return Outcome.UNREACHABLE, f"Yahoo answers {reply.status} with a page instead of data"
    if reply.status in (401, 403):
        return Outcome.UNREACHABLE, f"Yahoo refuses to answer ({reply.status})"
    if isinstance(error, YFPricesMissingError):
        reason = getattr(error, "yahoo_reason", None)
        if reply.status == 404:
            return Outcome.UNKNOWN_SYMBOL, reason or "not found"
        return Outcome.NO_DATA, reason or "Yahoo sends no prices"
    return Outcome.BAD_PAYLOAD, f"{type(error).__name__}: {text}"


def _malformed(error: Exception) -> bool:
    return isinstance(error, ValueError)


def _transport_errors() -> tuple[type[Exception], ...]:
    from yfinance._http import requests

    return (requests.exceptions.RequestException, OSError)


Clock = Callable[[], np.datetime64]


def utc_now() -> np.datetime64:
    """The time, UTC, datetime64[s]."""
    return np.datetime64(datetime.datetime.now(datetime.UTC).replace(tzinfo=None), "s")
