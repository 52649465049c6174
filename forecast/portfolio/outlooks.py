"""What is known at each origin, as arrays that a rule is shown one row of.

Axes: O origins, T dates of the quotes, S symbols, N rows of a Forecasts table, Q levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from forecast.config import ForecastError
from forecast.dataset.features import log_return, scale
from forecast.portfolio.quotes import Quotes
from forecast.portfolio.strategies import PERCENT, Outlook, simple_mean
from forecast.schema import QUANTILES

HALF_LIFE, FLOOR = 20.0, 0.01  # of a trailing volatility that no table states: sessions, percent
USUAL_PERIODS = 252.0  # sessions a year, before a month of them has been counted
COUNTED_FROM = 21


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlooks:
    """Everything a model states about one horizon, and what drifting holdings need.

    Attributes
    ----------
    t_O : array of int
        Index of each origin into the dates of the quotes.
    fold_O : array of int
    growth_OS : array of float64
        Last known close over that of the origin before; 1 where one of them is missing.
    gone_OS : array of bool
        Without a session for more dates than a forecast stays valid, or not listed yet.
    """

    quotes: Quotes
    horizon: int
    t_O: np.ndarray
    fold_O: np.ndarray
    growth_OS: np.ndarray
    gone_OS: np.ndarray
    listed_OS: np.ndarray
    _periods_O: np.ndarray
    _mean_OS: np.ndarray
    _std_OS: np.ndarray
    _scale_OS: np.ndarray
    _row_OS: np.ndarray
    _quantiles_NQ: np.ndarray

    @property
    def states_volatility(self) -> bool:
        """Whether a volatility is stated anywhere in the part."""
        return not np.isnan(self._std_OS).all()

    def at(self, o: int, previous_S: np.ndarray) -> Outlook:
        """What is stated at origin o. `previous_S` is made read-only."""
        quantiles_SQ = self._quantiles_NQ[self._row_OS[o]]
        previous_S.flags.writeable = quantiles_SQ.flags.writeable = False
        return Outlook(
            origin=self.quotes.dates[self.t_O[o]],
            symbols=self.quotes.symbols,
            horizon=self.horizon,
            periods=float(self._periods_O[o]),
            mean_S=self._mean_OS[o],
            std_S=self._std_OS[o],
            quantiles_SQ=quantiles_SQ,
            scale_S=self._scale_OS[o],
            previous_S=previous_S,
        )


def outlooks_of(
    rows: pd.DataFrame, quotes: Quotes, *, horizon: int, stale: int, states: bool
) -> Outlooks:
    """Arrange rows of one part and horizon by origin and symbol.

    A symbol that has no session at an origin keeps its last row, for `stale` dates at most.

    Parameters
    ----------
    rows : `symbol, origin, fold`; of one model also `mean, std, scale` and quantiles (percent).
    states : whether means and so on are taken from the rows; else they are NaN, and `scale` is
        computed from the prices where the rows have none.

    Raises
    ------
    ForecastError
        Rows of symbols without prices, or at dates on which they have no session.
    """
    t_N, s_N = _places(rows, quotes)
    count, (dates, symbols) = len(rows), quotes.close_TS.shape
    there_TS = ~np.isnan(quotes.close_TS)
    date_T1 = np.arange(dates)[:, None]
    at_TS = np.maximum.accumulate(np.where(there_TS, date_T1, -1))  # the last session up to a date
    row_TS = np.full((dates, symbols), -1, dtype=np.int32)
    row_TS[t_N, s_N] = np.arange(count)
    stated_TS = np.maximum.accumulate(np.where(row_TS >= 0, date_T1, -1))

    t_O, first_O = np.unique(t_N, return_index=True)
    at_OS, stated_OS = at_TS[t_O], stated_TS[t_O]
    valid_OS = (stated_OS >= 0) & (t_O[:, None] - stated_OS <= stale)
    valid_OS &= (stated_OS == t_O[:, None]) | ~there_TS[t_O]
    row_OS = np.where(valid_OS, np.take_along_axis(row_TS, np.maximum(stated_OS, 0), axis=0), -1)

    gone_OS = t_O[:, None] - at_OS > stale
    listed_OS = at_OS >= 0
    close_OS = np.take_along_axis(quotes.close_TS, np.maximum(at_OS, 0), axis=0)
    growth_OS = np.ones_like(close_OS)
    growth_OS[1:] = close_OS[1:] / close_OS[:-1]
    growth_OS[np.isnan(growth_OS)] = 1.0

    def column(name: str) -> np.ndarray:
        known_N = rows[name].to_numpy(np.float64) if name in rows else np.full(count, np.nan)
        return PERCENT * np.append(known_N, np.nan)  # row −1 states nothing

    quantiles_NQ = np.full((1, len(QUANTILES)), np.nan)
    mean_OS = std_OS = np.full(row_OS.shape, np.nan)
    scale_OS = column("scale")[row_OS]
    if states:
        quantiles_NQ = np.stack([column(name) for name in QUANTILES], axis=1)
        low, high = (QUANTILES.index(name) for name in ("q10", "q90"))
        spread_N = (quantiles_NQ[:, high] - quantiles_NQ[:, low]) / (2 * ndtri(0.9))
        std_N = column("std")
        # Row by row: whether other rows, later ones too, state it must not count.
        std_N = np.where(np.isnan(std_N), spread_N, std_N)
        mean_N = simple_mean(column("mean"), std_N)
        if np.isinf(mean_N).any():
            raise ForecastError(
                "forecasts of returns beyond all numbers: is a log return in percent meant?"
            )
        mean_OS, std_OS = mean_N[row_OS], std_N[row_OS]
        quantiles_NQ = np.expm1(quantiles_NQ)
    else:
        row_OS = np.full_like(row_OS, -1)
        # Rows without a scale are weights: they do not tell what else could have been held.
        known_OS = stated_OS >= 0 if "scale" in rows else listed_OS
        missing_OS = np.isnan(scale_OS) & known_OS & ~gone_OS
        if missing_OS.any():
            trailing_OS = _trailing_scale(quotes)[np.maximum(at_OS, 0), np.arange(symbols)]
            scale_OS = np.where(missing_OS, trailing_OS, scale_OS)

    looks = Outlooks(
        quotes=quotes,
        horizon=horizon,
        t_O=t_O,
        fold_O=rows["fold"].to_numpy()[first_O],
        growth_OS=growth_OS,
        gone_OS=gone_OS,
        listed_OS=listed_OS,
        _periods_O=_periods(quotes.dates)[t_O],
        _mean_OS=mean_OS,
        _std_OS=std_OS,
        _scale_OS=scale_OS,
        _row_OS=row_OS,
        _quantiles_NQ=quantiles_NQ,
    )
    for array in (mean_OS, std_OS, scale_OS):
        array.flags.writeable = False  # rules are shown views of them
    return looks


def _places(rows: pd.DataFrame, quotes: Quotes) -> tuple[np.ndarray, np.ndarray]:
    """Date and symbol of each row as indices into the quotes."""
    symbol = rows["symbol"].astype("category").cat
    known = {name: s for s, name in enumerate(quotes.symbols)}
    place = np.array([known.get(str(name), -1) for name in symbol.categories], dtype=np.int64)
    s_N = place[symbol.codes.to_numpy()]
    day_N = rows["origin"].to_numpy().astype("datetime64[D]")
    t_N = np.minimum(np.searchsorted(quotes.dates, day_N), len(quotes.dates) - 1)
    wrong_N = (s_N < 0) | (quotes.dates[t_N] != day_N)
    if "scale" in rows:  # forecasts are made at closes, weights also while an exchange is closed
        wrong_N |= np.isnan(quotes.close_TS[t_N, s_N])
    if wrong_N.any():
        row = int(wrong_N.argmax())
        raise ForecastError(
            f"{rows['symbol'].iloc[row]} has a row at {day_N[row]}, but no price there. Give the "
            "prices that the table was made from, or drop the row."
        )
    return t_N, s_N


def _periods(dates: np.ndarray) -> np.ndarray:
    """Sessions a year, counted up to each date: later dates are not known there. Shape (T,)."""
    count_T = np.arange(len(dates), dtype=np.float64)
    days_T = (dates - dates[0]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(count_T < COUNTED_FROM, USUAL_PERIODS, 365.25 * count_T / days_T)


def _trailing_scale(quotes: Quotes) -> np.ndarray:
    """Trailing volatility of each symbol at its sessions, fractions, shape (T, S)."""
    result = np.full_like(quotes.close_TS, np.nan)
    for s in range(len(quotes.symbols)):
        at = np.flatnonzero(~np.isnan(quotes.close_TS[:, s]))
        result[at, s] = (
            PERCENT * scale(log_return(quotes.close_TS[at, s]), half_life=HALF_LIFE, floor=FLOOR)[0]
        )
    return result
