"""Prices as a portfolio sees them: arrays of dates × symbols on one total-return basis.

Axes: T dates of the union calendar, S symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.prices.frame import Prices

MIXED, COUNTED = 0.2, 5  # |log(open / close)| that no median of so many sessions reaches


@dataclass(frozen=True, kw_only=True, eq=False)
class Quotes:
    """What can be traded, and at what price.

    Attributes
    ----------
    dates : array of datetime64[D], shape (T,)
        The union calendar, ascending.
    symbols : tuple of str, (S,)
    close_TS : array of float64
        Total-return closes; NaN where a symbol has no session.
    open_TS : array of float64, or None
        Opens on the same basis; NaN where one is missing. None where the source has none at all.
    value_TS : array of float64, or None
        Value traded in a session, in currency: volume times the quoted close. None where volumes
        are not known.
    calendars : tuple of (str or None), (S,), or None
        Each symbol's exchange; None: they share one.
    """

    dates: np.ndarray
    symbols: tuple[str, ...]
    close_TS: np.ndarray
    open_TS: np.ndarray | None = None
    value_TS: np.ndarray | None = None
    calendars: tuple[str | None, ...] | None = None

    @cached_property
    def periods(self) -> float:
        """Sessions a year, counted in the data."""
        years = float((self.dates[-1] - self.dates[0]).astype(np.int64)) / 365.25
        return (len(self.dates) - 1) / years if years > 0 else 252.0

    @property
    def opens(self) -> bool:
        """Whether every symbol has an open at some time."""
        return self.open_TS is not None and bool((~np.isnan(self.open_TS)).any(axis=0).all())

    @cached_property
    def first_S(self) -> np.ndarray:
        """Index of each symbol's first session."""
        return np.argmax(~np.isnan(self.close_TS), axis=0)

    @cached_property
    def last_S(self) -> np.ndarray:
        """Index of each symbol's last session."""
        known_TS = ~np.isnan(self.close_TS)
        return len(self.dates) - 1 - np.argmax(known_TS[::-1], axis=0)

    @cached_property
    def ended_S(self) -> np.ndarray:
        """Which symbols end before the data: their exchange has sessions after their last one.

        The data may end on a holiday of one exchange, on which its symbols are alive.
        """
        codes = self.calendars or (None,) * len(self.symbols)
        last: dict[str | None, int] = {}
        for code, t in zip(codes, self.last_S.tolist(), strict=True):
            last[code] = max(t, last.get(code, 0))
        return self.last_S < np.array([last[code] for code in codes])

    @cached_property
    def returns_TS(self) -> np.ndarray:
        """Simple returns between a symbol's sessions, fractions; NaN where it has no session.

        A return after missing sessions spans them.
        """
        result = np.full_like(self.close_TS, np.nan)
        for s in range(len(self.symbols)):
            rows = np.flatnonzero(~np.isnan(self.close_TS[:, s]))
            price = self.close_TS[rows, s]
            result[rows[1:], s] = price[1:] / price[:-1] - 1
        result.flags.writeable = False  # strategies are shown views of it
        return result


def quotes_of(prices: Prices) -> Quotes:
    """Arrays of the prices' closes, and of opens and values traded where they are known.

    Raises
    ------
    ForecastError
        A symbol's opens are not on the basis of its closes.
    """
    frame = prices.frame
    day = frame["date"].to_numpy().astype("datetime64[D]")
    dates = np.unique(day)
    at = np.searchsorted(dates, day), frame["symbol"].cat.codes.to_numpy()
    symbols = tuple(str(name) for name in frame["symbol"].cat.categories)
    calendars = None
    if "calendar" in frame:
        codes = frame["calendar"].to_numpy()[np.unique(at[1], return_index=True)[1]]
        calendars = tuple(None if pd.isna(code) else str(code) for code in codes)

    def wide(values: np.ndarray) -> np.ndarray:
        result = np.full((len(dates), len(symbols)), np.nan)
        result[at] = values
        return result

    close = frame["close"].to_numpy()
    quoted = frame["raw_close"].to_numpy() if "raw_close" in frame else close
    quoted = np.where(np.isnan(quoted), close, quoted)
    there = {name: name in frame and bool(frame[name].notna().any()) for name in ("open", "volume")}
    close_TS = wide(close)
    open_TS = wide(frame["open"].to_numpy() * (close / quoted)) if there["open"] else None
    if open_TS is not None:
        _refuse_mixture(open_TS, close_TS, symbols)
    return Quotes(
        dates=dates,
        symbols=symbols,
        close_TS=close_TS,
        open_TS=open_TS,
        value_TS=wide(frame["volume"].to_numpy() * quoted) if there["volume"] else None,
        calendars=calendars,
    )


def _refuse_mixture(open_TS: np.ndarray, close_TS: np.ndarray, symbols: tuple[str, ...]) -> None:
    """Fills at raw opens of what is held at adjusted closes would earn the adjustment."""
    for s, symbol in enumerate(symbols):
        apart = np.abs(np.log(open_TS[:, s] / close_TS[:, s]))
        apart = apart[~np.isnan(apart)]
        if len(apart) >= COUNTED and np.median(apart) > MIXED:
            raise ForecastError(
                f"{symbol}: opens and closes lie {100 * np.expm1(np.median(apart)):.0f} % apart in "
                "half the sessions or more: raw and adjusted prices mixed. Map the close that "
                "belongs to the opens: data.columns.raw_close=<column>."
            )
