"""The market: one reference series, defined by the training panel and stored with the run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.dataset.features import SCALE_SESSIONS, ewma, log_return
from forecast.prices.exchanges import close_time
from forecast.prices.frame import Prices

MIN_SYMBOLS = 5  # fewer symbols on a date are no market


@dataclass(frozen=True, kw_only=True)
class Market:
    """Return of the market by date.

    Attributes
    ----------
    definition : str
        `equal_weight`, the name of a symbol, or `none`.
    date : array of datetime64[D], shape (T,)
        Dates on which the market is defined.
    log_return : array of float64, shape (T,)
        Percent.
    scale : array of float64, shape (T,)
        Percent per session; null for the first 20.
    calendar : str or None
        exchange_calendars code of the exchange at whose close the return is known; stored, because
        a prediction for other symbols must know it too.
    """

    definition: str
    date: np.ndarray
    log_return: np.ndarray
    scale: np.ndarray
    calendar: str | None = None

    def at(self, date_N: np.ndarray, *, lag: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return and scale at a symbol's sessions, null where the market is undefined."""
        result = np.full((2, len(date_N)), np.nan)
        at = self._places.of(date_N)
        use = at >= 0
        at -= lag
        use &= at >= 0
        result[0, use] = self.log_return[at[use]]
        result[1, use] = self.scale[at[use]]
        return result[0], result[1]

    @cached_property
    def _places(self) -> Places:
        return Places(self.date)


class Places:
    """Where each date stands among some: a table of days, since panels ask for every row of theirs.

    Parameters
    ----------
    dates : array of datetime64[D], shape (T,)
        Ascending and unique.
    """

    def __init__(self, dates: np.ndarray) -> None:
        # One day more at either end stands for all dates beyond, of which there are none.
        self._first = dates[0] - 1 if len(dates) else np.datetime64(0, "D")
        day_T = (dates - self._first).astype(np.int64)
        self._place = np.full(int(day_T[-1]) + 2 if len(dates) else 1, -1, np.int64)
        self._place[day_T] = np.arange(len(dates))

    def of(self, date_N: np.ndarray) -> np.ndarray:
        """Index of each date (datetime64[D]), −1 where it is none of them, int64 of shape (N,)."""
        day_N = (date_N - self._first).astype(np.int64)
        place_N: np.ndarray = self._place[np.clip(day_N, 0, len(self._place) - 1)]
        return place_N


def symbol_slices(prices: Prices) -> Iterator[tuple[str, slice]]:
    """Rows of each symbol in the frame, in the frame's order."""
    symbols = prices.frame["symbol"].cat
    codes = symbols.codes.to_numpy()
    edges = np.searchsorted(codes, np.arange(len(symbols.categories) + 1))
    for symbol, low, high in zip(symbols.categories, edges[:-1], edges[1:], strict=True):
        yield str(symbol), slice(int(low), int(high))


def make_market(prices: Prices, definition: str | None, *, half_life: float) -> Market:
    """The market series of a training panel.

    Parameters
    ----------
    definition : str or None
        `equal_weight`: mean return of the panel on dates with five symbols or more; the name of a
        symbol of the panel: that symbol's return; None: no market.
    half_life : float
        Of the market's scale, sessions.

    Raises
    ------
    ForecastError
        A symbol that the panel lacks, or an equal-weighted market over exchanges that close at
        different times: the mean of one date would hold returns not known at the earlier close.
    """
    frame = prices.frame
    if definition is None:
        none = np.array([], "datetime64[D]")
        empty = np.array([], np.float64)
        return Market(definition="none", date=none, log_return=empty, scale=empty)
    slices = dict(symbol_slices(prices))
    if definition != "equal_weight":
        if definition not in slices:
            raise ForecastError(
                f"data.market={definition} is no symbol of the panel. Add it to data.symbols, or "
                "use data.market=equal_weight or data.market=null."
            )
        rows = slices[definition]
        date = frame["date"].to_numpy()[rows].astype("datetime64[D]")[1:]
        value = log_return(frame["close"].to_numpy()[rows])[1:]
        calendar = symbol_calendar(prices, rows)
    else:
        codes = list(frame["calendar"].cat.categories) if "calendar" in frame else []
        if len({close_time(code) for code in codes}) > 1:
            raise ForecastError(
                f"data.market=equal_weight cannot mix exchanges that close at different times "
                f"({', '.join(codes)}). Name one symbol as data.market, or use data.market=null."
            )
        date, value = _equal_weight(prices, slices)
        calendar = codes[0] if codes else None
    return _scaled(definition, date, value, calendar, half_life)


def extend_market(market: Market, prices: Prices, *, half_life: float) -> Market:
    """A stored market, carried on from the prices of what defines it.

    What is stored stays as it is, so a run's own features keep their bits.

    Parameters
    ----------
    prices : Prices
        Of all that the definition names, from where their histories began.
    half_life : float
        Of the market's scale, sessions; the one it was stored with.
    """
    if market.definition == "none":
        return market
    whole = make_market(prices, market.definition, half_life=half_life)
    last = market.date[-1] if len(market.date) else np.datetime64("0001-01-01")
    new = whole.date > last
    date = np.concatenate([market.date, whole.date[new]])
    value = np.concatenate([market.log_return, whole.log_return[new]])
    return _scaled(market.definition, date, value, market.calendar or whole.calendar, half_life)


def await_sessions(market: Market, dates: np.ndarray, *, half_life: float) -> Market:
    """The market with later sessions on which it has not closed yet, null there.

    A symbol that closes earlier sees the market one session late, so on its newest date it looks
    for the session before this one.
    """
    value = np.concatenate([market.log_return, np.full(len(dates), np.nan)])
    date = np.concatenate([market.date, dates])
    return _scaled(market.definition, date, value, market.calendar, half_life)


def _scaled(
    definition: str, date: np.ndarray, value: np.ndarray, calendar: str | None, half_life: float
) -> Market:
    """A market from its returns, which its scale follows from."""
    volatility = np.sqrt(ewma(value**2, half_life)) if len(value) else value.copy()
    volatility[:SCALE_SESSIONS] = np.nan
    return Market(
        definition=definition, date=date, log_return=value, scale=volatility, calendar=calendar
    )


def symbol_calendar(prices: Prices, rows: slice) -> str | None:
    """exchange_calendars code of the symbol in these rows; None where it is not known."""
    if "calendar" not in prices.frame:
        return None
    code = prices.frame["calendar"].iloc[rows.start]
    return None if pd.isna(code) else str(code)


def _equal_weight(prices: Prices, slices: dict[str, slice]) -> tuple[np.ndarray, np.ndarray]:
    day = prices.frame["date"].to_numpy()
    close = prices.frame["close"].to_numpy()
    first = day.min().astype("datetime64[D]")
    span = int((day.max().astype("datetime64[D]") - first).astype(int)) + 1
    total, count = np.zeros(span), np.zeros(span, np.int64)
    for rows in slices.values():
        index = (day[rows].astype("datetime64[D]") - first).astype(np.int64)[1:]
        total[index] += log_return(close[rows])[1:]
        count[index] += 1
    defined = np.flatnonzero(count >= MIN_SYMBOLS)
    return first + defined.astype("timedelta64[D]"), total[defined] / count[defined]


def market_lag(symbol_calendar: str | None, market_calendar: str | None) -> int:
    """1 where the symbol's exchange closes before the market's, else 0."""
    if symbol_calendar is None or market_calendar is None or symbol_calendar == market_calendar:
        return 0
    return int(close_time(symbol_calendar) < close_time(market_calendar))


def write_market(market: Market, path: Path) -> None:
    """Store the definition and the series beside the networks that were trained with it."""
    frame = pd.DataFrame(
        {
            "date": market.date.astype("datetime64[s]"),
            "log_return": market.log_return,
            "scale": market.scale,
        }
    )
    frame.attrs = {"definition": market.definition, "calendar": market.calendar}
    temporary = path.with_suffix(".tmp")
    frame.to_parquet(temporary, index=False)
    os.replace(temporary, path)


def read_market(path: Path) -> Market:
    """The market of a run."""
    frame = pd.read_parquet(path)
    return Market(
        definition=frame.attrs["definition"],
        calendar=frame.attrs["calendar"],
        date=frame["date"].to_numpy().astype("datetime64[D]"),
        log_return=frame["log_return"].to_numpy(),
        scale=frame["scale"].to_numpy(),
    )
