"""The panel: all symbols' rows in one compressed block, features and targets' raw material.

Row *i* of symbol *s* lies in `offsets[s]:offsets[s+1]`; nothing is padded and no window is ever
materialised beyond the batch, so N·C floats are what training holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from forecast.config import ForecastError
from forecast.dataset.features import MARKET_FEATURES, FeatureSet, History
from forecast.dataset.market import (
    Market,
    Places,
    make_market,
    market_lag,
    symbol_calendar,
    symbol_slices,
)
from forecast.prices.exchanges import exchange_sessions
from forecast.prices.frame import Prices
from forecast.prices.mapped import scratch

# Rows, of about 130 bytes each, below which a panel is made before files would be worth it.
LARGE = 1_000_000
# Columns that no feature reads: names, dates, and actions that the close has absorbed.
NOT_NUMBERS = ("symbol", "date", "calendar", "dividend", "split")


@dataclass(frozen=True, kw_only=True)
class SymbolFacts:
    """What a report says of one symbol."""

    symbol: str
    first: str
    last: str
    rows: int
    floor_hits: int
    gaps: int
    zero_returns: float


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Compressed rows of all symbols (N rows, C features, S symbols, T dates).

    Attributes
    ----------
    values : array of float32, shape (N, C)
        Features; null where undefined.
    day : array of int32, shape (N,)
        Index into `dates`, the union calendar.
    offsets : array of int64, shape (S + 1,)
    log_price : array of float64, shape (N,)
        100·ln of the total-return price: a difference of two rows is a target in percent.
    price : array of float64, shape (N,)
        The price people see: raw close where known, else the close.
    scale : array of float32, shape (N,)
        Percent per session; null for a symbol's first 20 sessions.
    gaps : array of int32, shape (N,)
        Gaps above `max_gap` up to and including this row, so that a target spans none exactly
        where the count at its end equals that at its origin.
    session_variance : array of float64, shape (N,)
        Variance of each session's return from its own prices alone, percent², as
        `session_variance` states it; null in a symbol's first session.
    market_lag : array of int64, shape (S,)
        Sessions by which a symbol sees the market late, because its exchange closes earlier.
    folder : Path or None
        Of the panel store, where the columns of N rows lie; None: in memory.
    """

    COLUMNS: ClassVar = (
        "values", "day", "log_price", "price", "scale", "gaps", "session_variance"
    )  # fmt: skip

    values: np.ndarray
    day: np.ndarray
    offsets: np.ndarray
    log_price: np.ndarray
    price: np.ndarray
    scale: np.ndarray
    gaps: np.ndarray
    session_variance: np.ndarray
    market_lag: np.ndarray
    symbols: tuple[str, ...]
    names: tuple[str, ...]
    dates: np.ndarray
    market: Market
    facts: tuple[SymbolFacts, ...] = ()
    warnings: tuple[str, ...] = ()
    folder: Path | None = field(init=False, default=None)

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: what lies in files they open themselves."""
        return vars(self) if self.folder is None else {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.get("folder") is not None:
            from forecast.dataset.panel_store import read_panel

            state = vars(read_panel(state["folder"]))
        vars(self).update(state)

    @property
    def rows(self) -> int:
        return len(self.day)

    def empty(self, kind: str, *axes: int) -> np.ndarray:
        """An array to be filled, shape (N, *axes), that lies where the panel does."""
        shape = (self.rows, *axes)
        if self.folder is None:
            return np.empty(shape, kind)
        return scratch(self.folder.parent, math.prod(shape), kind).reshape(shape)

    def symbol_rows(self, s: int) -> slice:
        return slice(int(self.offsets[s]), int(self.offsets[s + 1]))

    def first_row(self, date: np.datetime64) -> np.ndarray:
        """Per symbol the first row on or after a date, shape (S,)."""
        day = int(np.searchsorted(self.dates, date))
        return np.array(
            [
                low + np.searchsorted(self.day[low:high], day)
                for low, high in zip(self.offsets[:-1], self.offsets[1:], strict=True)
            ],
            dtype=np.int64,
        )


def make_panel(
    prices: Prices,
    features: FeatureSet,
    *,
    market: Market | str | None = "equal_weight",
    max_gap: int = 10,
    in_memory: bool = True,
) -> Panel:
    """Turn prices into the panel that everything downstream reads.

    Parameters
    ----------
    prices : Prices
    features : FeatureSet
    market : Market, str or None
        A stored market (prediction), or its definition (see `make_market`).
    max_gap : int
        Exchange sessions a symbol may be missing; a longer gap is flagged and masked as a target.
    in_memory : bool
        False: a panel of `LARGE` rows or more lies in files of the panel store, where it is found
        again.

    Raises
    ------
    ForecastError
        A column that a feature needs and the source lacks; a market that cannot be defined; a
        function of features.own whose columns differ between symbols; no place for the files.
    """
    if max_gap < 0:
        raise ForecastError(f"data.max_gap={max_gap} must be 0 or more sessions.")
    features.check_source(list(prices.frame.columns), prices.source)
    if in_memory or len(prices.frame) < LARGE:
        return fill_panel(InMemory(len(prices.frame)), prices, features, market, max_gap)
    from forecast.dataset.panel_store import PanelStore

    return PanelStore().panel(prices, features, market, max_gap)


class Columns(Protocol):
    """Where the rows of a panel go, symbol by symbol."""

    def put(self, name: str, rows: slice, values: np.ndarray) -> None:
        """Take the next rows of a column."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All columns, once every row is there."""


class InMemory:
    """Columns as arrays of so many rows."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._arrays: dict[str, np.ndarray] = {}

    def put(self, name: str, rows: slice, values: np.ndarray) -> None:
        if name not in self._arrays:
            self._arrays[name] = np.empty((self._rows, *values.shape[1:]), values.dtype)
        self._arrays[name][rows] = values

    def arrays(self) -> dict[str, np.ndarray]:
        return self._arrays


def fill_panel(
    columns: Columns,
    prices: Prices,
    features: FeatureSet,
    market: Market | str | None,
    max_gap: int,
) -> Panel:
    """The panel of `make_panel`, whose rows go to `columns` as they are made."""
    dates = _union_calendar(prices)
    places = Places(dates)
    if not isinstance(market, Market):
        market = make_market(prices, market, half_life=features.scale_half_life)
    if market.definition == "none":
        features = replace(
            features, columns=[c for c in features.columns if c not in MARKET_FEATURES]
        )
    arrays, slices = _arrays(prices), list(symbol_slices(prices))
    calendars = [symbol_calendar(prices, rows) for _, rows in slices]
    names: list[str] = []
    facts: list[SymbolFacts] = []
    warnings: list[str] = []
    for (symbol, rows), calendar in zip(slices, calendars, strict=True):
        history = _history(arrays, rows, calendar, features, market)
        values, own = features.compute(history, symbol, prices.covariates)
        names = names or own
        if own != names:
            raise ForecastError(
                f"features.own: {symbol} has the columns {own}, {slices[0][0]} has {names}. "
                "Return the same columns for every symbol."
            )
        gap = _gaps(history.date, calendar, dates, max_gap)
        block = {
            "values": values,
            "day": places.of(history.date).astype(np.int32),
            "log_price": 100.0 * np.log(history.columns["close"]),
            "price": _shown_price(history),
            "scale": history.scale.astype(np.float32),
            "gaps": np.cumsum(gap, dtype=np.int32),
            "session_variance": session_variance(history),
        }
        for name, column in block.items():
            columns.put(name, rows, column)
        facts.append(_facts(symbol, history, gap))
        warnings.extend(_gap_warnings(symbol, history.date, gap, max_gap))
    if market.definition == "equal_weight" and not len(market.date):
        warnings.append(
            "market: no date has five symbols, so the market's features are undefined (0 after "
            "standardising); data.market names a symbol to use instead"
        )
    return Panel(
        **columns.arrays(),
        offsets=np.array([0] + [rows.stop for _, rows in slices], np.int64),
        market_lag=np.array([market_lag(code, market.calendar) for code in calendars], np.int64),
        symbols=tuple(symbol for symbol, _ in slices),
        names=tuple(names),
        dates=dates,
        market=market,
        facts=tuple(facts),
        warnings=tuple(warnings),
    )


def history_of(prices: Prices, rows: slice, features: FeatureSet, market: Market) -> History:
    """What is known of the symbol whose rows of the frame these are."""
    calendar = symbol_calendar(prices, rows)
    return _history(_arrays(prices), rows, calendar, features, market)


def _arrays(prices: Prices) -> dict[str, np.ndarray]:
    """Dates and numbers of all rows; a frame takes longer to ask than a symbol's features."""
    names = [c for c in prices.frame.columns if c == "date" or c not in NOT_NUMBERS]
    return {name: prices.frame[name].to_numpy() for name in names}


def _history(
    arrays: Mapping[str, np.ndarray],
    rows: slice,
    calendar: str | None,
    features: FeatureSet,
    market: Market,
) -> History:
    columns = {name: values[rows] for name, values in arrays.items()}
    days = columns.pop("date").astype("datetime64[D]")
    market_return, market_scale = market.at(days, lag=market_lag(calendar, market.calendar))
    return History(
        date=days,
        columns=columns,
        market=market_return,
        market_scale=market_scale,
        scale_half_life=features.scale_half_life,
        scale_floor=features.scale_floor,
    )


def session_variance(history: History) -> np.ndarray:
    """Variance of each session's return, estimated from that session alone, percent², shape (n,).

    The squared overnight return plus the range variance of Rogers and Satchell (1991), which a
    drift does not bias, where open, high and low are known; elsewhere the squared return. Both
    have the same expectation under a driftless diffusion, so rows of both kinds can be averaged.
    A session without any move has variance 0; the first one, whose return is unknown, has none.
    """
    squared = history.log_return**2
    if not {"open", "high", "low"} <= history.columns.keys():
        return squared
    close = history.session_close
    with np.errstate(divide="ignore", invalid="ignore"):
        opened, high, low = (
            100.0 * np.log(history.column(name) / close) for name in ("open", "high", "low")
        )
        overnight = history.log_return + opened
        # Rounded prices may contradict each other, a high lie a hair below the close.
        intraday = np.maximum(high * (high - opened) + low * (low - opened), 0.0)
        ranged = overnight**2 + intraday
    return np.where(np.isfinite(ranged), ranged, squared)


def _shown_price(history: History) -> np.ndarray:
    close, raw = history.columns["close"], history.session_close
    return np.where(np.isnan(raw), close, raw)


def _union_calendar(prices: Prices) -> np.ndarray:
    """All dates on which some symbol has a session; one bit a day, since N may be 10⁷."""
    date = prices.frame["date"].to_numpy()
    if not len(date):
        raise ForecastError(f"data={prices.source}: no session is left. Widen data.start/data.end.")
    first = date.min().astype("datetime64[D]")
    present = np.zeros(int((date.max().astype("datetime64[D]") - first).astype(int)) + 1, bool)
    for _, rows in symbol_slices(prices):
        present[(date[rows].astype("datetime64[D]") - first).astype(np.int64)] = True
    return first + np.flatnonzero(present).astype("timedelta64[D]")


def _gaps(date_N: np.ndarray, calendar: str | None, union: np.ndarray, max_gap: int) -> np.ndarray:
    """Rows before which more than `max_gap` exchange sessions are missing, shape (n,) bool."""
    gap = np.zeros(len(date_N), bool)
    # As many calendar days as sessions at most: only the few wide steps need the exchange calendar.
    wide = np.flatnonzero(np.diff(date_N).astype(np.int64) - 1 > max_gap)
    if len(wide):
        sessions = union
        if calendar is not None:
            sessions = exchange_sessions(calendar, union[0], union[-1])
        before = np.searchsorted(sessions, date_N[wide], side="right")
        after = np.searchsorted(sessions, date_N[wide + 1], side="left")
        gap[wide + 1] = after - before > max_gap
    return gap


def _facts(symbol: str, history: History, gap: np.ndarray) -> SymbolFacts:
    returns = history.log_return[1:]
    return SymbolFacts(
        symbol=symbol,
        first=str(history.date[0]),
        last=str(history.date[-1]),
        rows=len(history),
        floor_hits=history.floor_hits,
        gaps=int(gap.sum()),
        zero_returns=float(np.mean(returns == 0)) if len(returns) else 0.0,
    )


def _gap_warnings(symbol: str, date_N: np.ndarray, gap: np.ndarray, max_gap: int) -> list[str]:
    return [
        f"{symbol}: no session between {date_N[i - 1]} and {date_N[i]} (more than data.max_gap="
        f"{max_gap}); targets across it are masked"
        for i in np.flatnonzero(gap)
    ]
