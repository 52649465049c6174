"""A Yahoo on 127.0.0.1 that the real yfinance talks to: its charts, and every way it fails.

`with open_yahoo(folder) as yahoo:` runs one until the block ends. A client in this process is led
to it by the session `yahoo.fresh_session()`; a child process, its program untouched, by
`yahoo.environment()`: a proxy that opens the tunnels to Yahoo itself, with its own certificate.

    yahoo.today = "2024-06-28"                       # no row after it, no split after it known
    yahoo.series["AAA"] = walk(1, sessions=300)      # what was traded
    yahoo.faults["AAA"] = first(1, rate_limited)     # the first request for AAA fails
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pandas as pd

HOSTS = (
    "fc.yahoo.com",
    "query1.finance.yahoo.com",
    "query2.finance.yahoo.com",
    "guce.yahoo.com",
    "consent.yahoo.com",
)
CHART = "/v8/finance/chart/"
CRUMB = "/v1/test/getcrumb"
BAR = ("open", "high", "low", "close")
Query = dict[str, str]
Reply = tuple[int, str]


@dataclass(kw_only=True)
class Series:
    """One symbol as it was traded: no price, volume or payment knows of a later split.

    Attributes
    ----------
    dates : sessions, ascending, n.
    open, high, low, close, volume : n; a NaN is sent as null.
    dividends, gains : cash per share by ex-date, "2024-02-09"; `gains` are funds' capital gains.
    splits : (new shares, old shares) by the first session that trades in new shares.
    meta : what a chart says of the symbol; those of a share on the Nasdaq where not given.
    opens : local time at which a session opens, which is the time of its row.
    """

    dates: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    dividends: dict[str, float] = field(default_factory=dict)
    splits: dict[str, tuple[int, int]] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    opens: str = "09:30"

    def __post_init__(self) -> None:
        self.dates = np.asarray(self.dates, dtype="datetime64[s]")
        for name in (*BAR, "volume"):
            setattr(self, name, np.array(getattr(self, name), float))
        self.meta = {
            "currency": "USD",
            "exchangeName": "NMS",
            "fullExchangeName": "NasdaqGS",
            "exchangeTimezoneName": "America/New_York",
            "timezone": "EST",
            "gmtoffset": -18000,
            "instrumentType": "EQUITY",
            "priceHint": 2,
            "dataGranularity": "1d",
            "validRanges": ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"],
        } | self.meta

    def new_per_old(self, dates: Any, today: str) -> np.ndarray:
        """The shares that one share of each date has become by `today`."""
        dates = np.asarray(dates, dtype="datetime64[s]")
        factor = np.ones(dates.shape)
        for date, (new, old) in self.splits.items():
            if date <= today:
                factor = np.where(dates < np.datetime64(date), factor * new / old, factor)
        return factor

    def frame(self, today: str = "9999-12-31") -> pd.DataFrame:
        """The store frame of everything, fetched after the close of `today`."""
        factor = self.new_per_old(self.dates, today)
        # Yahoo computes in single precision.
        bar = {name: np.float32(getattr(self, name) / factor).astype(float) for name in BAR}
        frame = pd.DataFrame(
            {
                "date": self.dates,
                **bar,
                "volume": np.rint(self.volume * factor),
                "dividend": np.round(self._on(self.dividends) / factor, 6),
                "split": self._on({day: new / old for day, (new, old) in self.splits.items()}),
                "capital_gain": np.round(self._on(self.gains) / factor, 6),
            }
        )
        return frame[self.dates <= np.datetime64(today)].reset_index(drop=True)

    def _on(self, events: dict[str, float]) -> np.ndarray:
        values = np.zeros(len(self.dates))
        for date, value in events.items():
            values[self.dates == np.datetime64(date)] = value
        return values

    def stamps(self, dates: Any, at: str | None = None) -> np.ndarray:
        """Seconds since 1970 of a local time, the opening unless told, of each date."""
        local = pd.DatetimeIndex(np.asarray(dates, dtype="datetime64[s]"))
        local += pd.Timedelta(f"{at or self.opens}:00")
        utc = local.tz_localize(self.meta["exchangeTimezoneName"]).tz_convert("UTC")
        return utc.tz_localize(None).to_numpy("datetime64[s]").astype(np.int64)


def walk(seed: int, *, sessions: int, first: str = "2023-01-03", **more: Any) -> Series:
    """A random walk over New York's sessions; `more` goes to `Series`, splits included."""
    import exchange_calendars

    calendar = exchange_calendars.get_calendar("XNYS")
    opening = calendar.date_to_session(first, direction="next")
    dates = calendar.sessions_window(opening, sessions).to_numpy("datetime64[s]")
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.standard_t(4, sessions) / 100))
    start = close * np.exp(rng.normal(0, 0.005, sessions))
    spread = np.exp(np.abs(rng.normal(0, 0.005, (2, sessions))))
    series = Series(
        dates=dates,
        open=start,
        high=np.maximum(start, close) * spread[0],
        low=np.minimum(start, close) / spread[1],
        close=close,
        volume=np.rint(rng.lognormal(13, 0.5, sessions)),
        **more,
    )
    later = series.new_per_old(dates, "9999-12-31")
    for name in BAR:  # as traded, a price falls where there are more shares, to the cent
        setattr(series, name, np.round(getattr(series, name) * later, 2))
    return series


@dataclass
class FakeYahoo:
    """What it has, how it fails and what it was asked; see the module.

    Attributes
    ----------
    series : what was traded, by symbol; another symbol is not found.
    faults : how requests are answered, by symbol, by path (`CRUMB`), or "*" for all the rest.
    today : the last day it knows of.
    clock : local time of `today` while its session is unfinished; before the opening there is no
        row of today. None after the close.
    seen : (host, path, query) of every request; of a request for another host too.
    """

    folder: Path
    series: dict[str, Series] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    today: str = "2024-12-31"
    clock: str | None = None
    seen: list[tuple[str, str, Query]] = field(default_factory=list)
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    broken: list[BaseException] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        return {host for host, _, _ in self.seen}

    @property
    def counts(self) -> Counter[str]:
        """Requests by path."""
        return Counter(path for _, path, _ in self.seen)

    def asked(self, symbol: str) -> int:
        """Requests for a symbol's chart, the short one for its time zone included."""
        return self.counts[CHART + symbol]

    def fresh_session(self) -> Any:
        """A session that leads here, for a yfinance as it is in a process that just started."""
        reset_yfinance(self.folder / "yfinance")
        return _session(f"http://127.0.0.1:{self.port}")

    def environment(self) -> dict[str, str]:
        """The environment of a child process that finds Yahoo here and has a home of its own."""
        unwanted = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
        kept = {name: value for name, value in os.environ.items() if name.upper() not in unwanted}
        certificate, _ = self.certificate
        proxy = f"http://127.0.0.1:{self.port}"
        return kept | {
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "REQUESTS_CA_BUNDLE": str(certificate),
            "CURL_CA_BUNDLE": str(certificate),
            "FORECAST_HOME": str(self.folder / "home"),
        }

    @cached_property
    def certificate(self) -> tuple[Path, ssl.SSLContext]:
        import trustme

        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.folder / "authority.pem"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(context)
        return self.folder / "authority.pem", context

    def answer(self, host: str, path: str, query: Query) -> Reply:
        self.seen.append((host, path, query))
        if host not in HOSTS:
            return 403, "not Yahoo"
        symbol = unquote(path.removeprefix(CHART)) if path.startswith(CHART) else ""
        request = Request(self, path, symbol, query)
        fault = self.faults.get(symbol or path) or self.faults.get("*")
        return fault(request) if fault else request.honest()

    def chart(self, symbol: str, query: Query) -> Reply:
        """Yahoo's document for `period1 <= t < period2`, or for a range of 1d or max."""
        request = Request(self, CHART + symbol, symbol, query)
        series = self.series.get(symbol)
        if series is None:
            return not_found(request)
        frame = series.frame(self.today)
        stamps = series.stamps(frame["date"])
        if self.clock and len(frame) and frame["date"].iloc[-1] == pd.Timestamp(self.today):
            if self.clock < series.opens:
                frame, stamps = frame[:-1], stamps[:-1]
            else:
                _unfinish(frame)
                stamps[-1] = series.stamps([self.today], at=self.clock)[0]
        if not len(frame):
            return not_found(request)
        low, high = stamps[0], 2**62
        if "period1" in query:
            low, high = int(query["period1"]), int(query["period2"])
        elif query.get("range") == "1d":
            low = stamps[-1]
        elif query.get("range") != "max":
            return _refusal(422, "Unprocessable Entity", f"Invalid input - range={query}")
        inside = (stamps >= low) & (stamps < high)
        if not inside.any():
            return no_data(request)
        meta = series.meta | {
            "symbol": symbol,
            "firstTradeDate": int(stamps[0]),
            "regularMarketTime": int(stamps[-1]),
            "regularMarketPrice": frame["close"].iloc[-1],
            "range": query.get("range", ""),
        }
        rows = frame[inside]
        result = {
            "meta": meta,
            "timestamp": stamps[inside].tolist(),
            "indicators": {
                "quote": [{name: _nulls(rows[name]) for name in (*BAR, "volume")}],
                "adjclose": [{"adjclose": _nulls(_adjusted(frame)[inside])}],
            },
        }
        if events := self._events(series, low, high):
            result["events"] = events
        return _document({"result": [result], "error": None})

    def _events(self, series: Series, low: int, high: int) -> dict[str, dict]:
        events: dict[str, dict] = {}
        of_kind: dict[str, dict[str, Any]] = {
            "dividends": series.dividends,
            "capitalGains": series.gains,
            "splits": series.splits,
        }
        for kind, by_date in of_kind.items():
            for date, value in by_date.items():
                stamp = int(series.stamps([date])[0])
                if date > self.today or not low <= stamp < high:
                    continue
                entry: dict[str, Any] = {"date": stamp}
                if kind == "splits":
                    new, old = value
                    entry |= {"numerator": new, "denominator": old, "splitRatio": f"{new}:{old}"}
                else:
                    factor = series.new_per_old([date], self.today)[0]
                    entry["amount"] = round(value / factor, 6)
                events.setdefault(kind, {})[str(stamp)] = entry
        return events


def _unfinish(frame: pd.DataFrame) -> None:
    """Make the last row one of a session half over."""
    row = frame.index[-1]
    start, end = frame.loc[row, "open"], frame.loc[row, "close"]
    middle = float(np.float32((start + end) / 2))
    frame.loc[row, ["high", "low", "close"]] = max(start, middle), min(start, middle), middle
    frame.loc[row, "volume"] //= 3


def _adjusted(frame: pd.DataFrame) -> pd.Series:
    """Closes as if every dividend had been reinvested, which is what Yahoo calls adjusted."""
    before = frame["close"].shift()
    kept = 1 - (frame["dividend"] + frame["capital_gain"]) / before
    later = kept.fillna(1)[::-1].cumprod()[::-1].shift(-1, fill_value=1)
    return frame["close"] * later


def _nulls(values: pd.Series) -> list[float | int | None]:
    whole = values.name == "volume"
    return [None if np.isnan(v) else int(v) if whole else float(v) for v in values]


def _document(chart: dict[str, Any]) -> Reply:
    return 200, json.dumps({"chart": chart})


# Faults: what is answered instead of the truth.


@dataclass(frozen=True)
class Request:
    yahoo: FakeYahoo
    path: str
    symbol: str
    query: Query

    @property
    def for_prices(self) -> bool:
        """False for the short chart from which yfinance learns the time zone."""
        return bool(self.symbol) and self.query.get("range") != "1d"

    def honest(self) -> Reply:
        """What the service answers while nothing is wrong."""
        if self.symbol:
            return self.yahoo.chart(self.symbol, self.query)
        if self.path == CRUMB:
            return 200, "crumb"
        return 404, "<html>Not found</html>"  # fc.yahoo.com too: it is there for its cookie


Fault = Callable[[Request], Reply]


class Dropped(Exception):
    """The connection ends, after `body` and short of the length that was announced."""

    def __init__(self, body: str = "") -> None:
        self.body = body


def _refusal(status: int, code: str, description: str) -> Reply:
    error = {"code": code, "description": description}
    return status, json.dumps({"chart": {"result": None, "error": error}})


def not_found(request: Request) -> Reply:
    return _refusal(404, "Not Found", "No data found, symbol may be delisted")


def no_data(request: Request) -> Reply:
    start, end = request.query.get("period1"), request.query.get("period2")
    why = f"Data doesn't exist for startDate = {start}, endDate = {end}"
    return _refusal(400, "Bad Request", why)


def rate_limited(request: Request) -> Reply:
    return 429, "Edge: Too Many Requests"


def unavailable(request: Request) -> Reply:
    return 503, "<html><body><h1>503 Service Unavailable</h1></body></html>"


def page(request: Request) -> Reply:
    """A page for people, as a captive portal or a proxy sends, with status 200."""
    return 200, "<!DOCTYPE html><html><body>Sign in to this network</body></html>"


def truncated(request: Request) -> Reply:
    status, body = request.honest()
    return status, body[: len(body) // 2]


def dropped(request: Request) -> Reply:
    raise Dropped


def broken_off(request: Request) -> Reply:
    raise Dropped(request.honest()[1])


def hang(seconds: float) -> Fault:
    def hang(request: Request) -> Reply:
        request.yahoo.closing.wait(seconds)
        raise Dropped

    return hang


def altered(change: Callable[[dict[str, Any]], object]) -> Fault:
    """The honest chart after `change(result)`, which changes the one result in place."""

    def altered(request: Request) -> Reply:
        status, body = request.honest()
        if status != 200 or not request.symbol:
            return status, body
        chart = json.loads(body)["chart"]
        change(chart["result"][0])
        return _document(chart)

    return altered


def lacking(*keys: str) -> Fault:
    """The chart without `meta`, or without `meta`, `currency`, ..."""

    def change(result: dict[str, Any]) -> None:
        *outer, last = keys
        for key in outer:
            result = result[key]
        del result[last]

    return altered(change)


def empty(request: Request) -> Reply:
    return _document({"result": [], "error": None}) if request.symbol else request.honest()


def no_rows(request: Request) -> Reply:
    """How Yahoo answers for a range without a session: no times, and quotes without columns."""

    def change(result: dict[str, Any]) -> None:
        del result["timestamp"]
        result["indicators"] = {"quote": [{}], "adjclose": [{}]}

    return altered(change)(request)


def unclipped(request: Request) -> Reply:
    """All there is, whatever the range."""
    return request.yahoo.chart(request.symbol, {"range": "max"})


def first(count: int, fault: Fault, then: Fault = Request.honest) -> Fault:
    """The fault for so many requests, and from then on the truth, or another fault."""
    number = itertools.count()
    return lambda request: (fault if next(number) < count else then)(request)


def on_prices(fault: Fault) -> Fault:
    """The fault where prices are asked for, and the truth where only the time zone is."""
    return lambda request: fault(request) if request.for_prices else request.honest()


# The two ways in.


def reset_yfinance(cache: Path) -> None:
    """What yfinance keeps in the process and on disk, as at the start of a new process."""
    import yfinance
    import yfinance.base
    import yfinance.cache
    import yfinance.data

    yfinance.data.SingletonMeta._instances.clear()
    yfinance.data.YfData.cache_get.cache_clear()
    yfinance.base._tz_info_fetch_ctr = 0
    yfinance.config._initialised = False
    yfinance.cache._TzCacheManager._tz_cache = None
    yfinance.cache._CookieCacheManager._Cookie_cache = None
    yfinance.cache._ISINCacheManager._isin_cache = None
    cache.mkdir(exist_ok=True)
    for file in cache.iterdir():
        file.unlink()
    yfinance.set_tz_cache_location(str(cache))


def _session(origin: str) -> Any:
    from curl_cffi import requests

    class Loopback(requests.Session):
        def request(self, method: Any, url: str, *args: Any, **named: Any) -> Any:
            target = urlsplit(url)
            if target.hostname not in HOSTS:
                raise AssertionError(f"a request to {target.hostname}, which is not Yahoo: {url}")
            named["headers"] = {**(named.get("headers") or {}), "X-Host": target.hostname}
            query = f"?{target.query}" if target.query else ""
            return super().request(method, f"{origin}{target.path or '/'}{query}", *args, **named)

    return Loopback(impersonate="chrome", trust_env=False)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # a reply is one packet, not two of which the second waits
    server: _Server

    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        host = self.headers.get("X-Host") or target.hostname or self.headers["Host"].split(":")[0]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, body = self.server.yahoo.answer(
                host, target.path or "/", dict(parse_qsl(target.query))
            )
            missing = 0
        except Dropped as error:
            status, body, missing = 200, error.body, 100
            self.close_connection = True
            if not body:
                return
        raw = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw) + missing))
        if host == "fc.yahoo.com":
            self.send_header("Set-Cookie", "A3=x; Domain=.yahoo.com; Path=/; Max-Age=86400")
        self.end_headers()
        self.wfile.write(raw)

    do_POST = do_GET

    def do_CONNECT(self) -> None:
        yahoo, host = self.server.yahoo, self.path.split(":")[0]
        if host not in HOSTS:
            status, _ = yahoo.answer(host, "", {})
            self.send_error(status)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        _, context = yahoo.certificate
        self.connection = self.server.opened(context.wrap_socket(self.connection, server_side=True))
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb")
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them, and none outlives a test

    def __init__(self, yahoo: FakeYahoo) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.yahoo = yahoo
        self.connections: list[socket.socket] = []

    def opened(self, connection: socket.socket) -> socket.socket:
        self.connections.append(connection)
        return connection

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        return self.opened(connection), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # A client that gives up is no fault of this server.
        if error is not None and not isinstance(error, OSError):
            self.yahoo.broken.append(error)


@contextmanager
def open_yahoo(folder: Path) -> Iterator[FakeYahoo]:
    """A service that answers until the block ends; `folder` is for certificates and caches."""
    yahoo = FakeYahoo(folder)
    with _Server(yahoo) as server:
        yahoo.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield yahoo
        finally:
            yahoo.closing.set()
            server.shutdown()
            thread.join()
            for connection in server.connections:  # wakes the threads that wait for a request
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
    if yahoo.broken:
        raise yahoo.broken[0]
