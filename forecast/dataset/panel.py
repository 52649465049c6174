"""The panel: all symbols' rows in one compressed block, features and targets' raw material.

Row *i* of symbol *s* lies in `offsets[s]:offsets[s+1]`; nothing is padded and no window is ever
materialised beyond the batch, so N·C floats are what training holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.dataset.features import MARKET_FEATURES, FeatureSet, History
from forecast.dataset.market import (
    Market,
    make_market,
    market_lag,
    symbol_calendar,
    symbol_slices,
)
from forecast.prices.exchanges import exchange_sessions
from forecast.prices.frame import Prices

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
    """

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
    warnings: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> int:
        return len(self.day)

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

    Raises
    ------
    ForecastError
        A column that a feature needs and the source lacks; a market that cannot be defined; a
        function of features.own whose columns differ between symbols.
    """
    if max_gap < 0:
        raise ForecastError(f"data.max_gap={max_gap} must be 0 or more sessions.")
    frame = prices.frame
    features.check_source(list(frame.columns), prices.source)
    if not isinstance(market, Market):
        market = make_market(prices, market, half_life=features.scale_half_life)
    if market.definition == "none":
        features = replace(
            features, columns=[c for c in features.columns if c not in MARKET_FEATURES]
        )
    slices = list(symbol_slices(prices))
    dates = _union_calendar(prices)
    n = len(frame)
    close = frame["close"].to_numpy()
    panel = Panel(
        values=np.empty((0, 0), np.float32),
        day=np.empty(n, np.int32),
        offsets=np.array([0] + [rows.stop for _, rows in slices], np.int64),
        log_price=np.empty(n, np.float64),
        price=_shown_price(frame),
        scale=np.empty(n, np.float32),
        gaps=np.empty(n, np.int32),
        session_variance=np.empty(n, np.float64),
        market_lag=np.zeros(len(slices), np.int64),
        symbols=tuple(symbol for symbol, _ in slices),
        names=(),
        dates=dates,
        market=market,
    )
    values = panel.values
    names: list[str] = []
    facts: list[SymbolFacts] = []
    warnings: list[str] = []
    for s, (symbol, rows) in enumerate(slices):
        calendar = symbol_calendar(prices, rows)
        panel.market_lag[s] = market_lag(calendar, market.calendar)
        history = history_of(prices, rows, features, market)
        days = history.date
        block, columns = features.compute(history, symbol, prices.covariates)
        if not names:
            names, values = columns, np.empty((n, len(columns)), np.float32)
        if columns != names:
            raise ForecastError(
                f"features.own: {symbol} has the columns {columns}, {slices[0][0]} has {names}. "
                "Return the same columns for every symbol."
            )
        values[rows] = block
        panel.day[rows] = np.searchsorted(dates, days)
        panel.log_price[rows] = 100.0 * np.log(close[rows])
        panel.scale[rows] = history.scale
        panel.session_variance[rows] = session_variance(history)
        gap = _gaps(days, calendar, dates, max_gap)
        panel.gaps[rows] = np.cumsum(gap)
        facts.append(_facts(symbol, history, gap))
        warnings.extend(_gap_warnings(symbol, days, gap, max_gap))
    if market.definition == "equal_weight" and not len(market.date):
        warnings.append(
            "market: no date has five symbols, so the market's features are undefined (0 after "
            "standardising); data.market names a symbol to use instead"
        )
    return replace(
        panel, values=values, names=tuple(names), facts=tuple(facts), warnings=tuple(warnings)
    )


def history_of(prices: Prices, rows: slice, features: FeatureSet, market: Market) -> History:
    """What is known of the symbol whose rows of the frame these are."""
    frame = prices.frame
    days = frame["date"].to_numpy()[rows].astype("datetime64[D]")
    market_return, market_scale = market.at(
        days, lag=market_lag(symbol_calendar(prices, rows), market.calendar)
    )
    return History(
        date=days,
        columns={c: frame[c].to_numpy()[rows] for c in frame.columns if c not in NOT_NUMBERS},
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


def _shown_price(frame: pd.DataFrame) -> np.ndarray:
    close: np.ndarray = frame["close"].to_numpy()
    if "raw_close" not in frame:
        return close
    raw: np.ndarray = frame["raw_close"].to_numpy()
    return np.where(np.isnan(raw), close, raw) if np.isnan(raw).any() else raw


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
