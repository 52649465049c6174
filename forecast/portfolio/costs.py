"""What trading, borrowing and waiting cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from forecast.config import ForecastError, nearest
from forecast.portfolio.quotes import Quotes
from forecast.prices.frame import Prices

BASIS_POINT = 1e-4
DAYS_A_YEAR = 365.0  # interest is counted in calendar days
TRAILING = 20  # sessions over which volatility and value traded are averaged for impact


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The section `costs`; its meaning stands in conf/costs.

    Parameters
    ----------
    commission, half_spread, slippage : float
        Basis points of the value traded.
    impact : float, optional
        Square-root law: this, times a session's volatility, times the root of the share of the
        session's volume that is traded. Needs `capital`, and volumes.
    capital : float, optional
        Equity at the start, in the currency of the prices.
    borrow : float
        Percent a year of the value of shorts.
    cash : float or str
        Percent a year that cash earns and debt costs, or the covariate column that states it.
    delisting_return : float
        Percent; what a holding returns when its symbol ends before the panel does.
    levels : sequence of float
        Basis points of the value traded, in all, at which results are shown too.
    """

    commission: float
    half_spread: float
    slippage: float
    impact: float | None
    capital: float | None
    borrow: float
    cash: float | str
    delisting_return: float
    levels: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("commission", "half_spread", "slippage", "impact", "borrow"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ForecastError(f"costs.{name}={value} must be 0 or more, and finite.")
        if self.capital is not None and not 0 < self.capital < math.inf:
            raise ForecastError(f"costs.capital={self.capital} must be above 0, and finite.")
        if self.impact is not None and self.capital is None:
            raise ForecastError(
                f"costs.impact={self.impact} needs the size of the trades: set costs.capital."
            )
        if not isinstance(self.cash, str) and not math.isfinite(self.cash):
            raise ForecastError(f"costs.cash={self.cash} must be finite, in percent a year.")
        if not -100 <= self.delisting_return < math.inf:
            raise ForecastError(
                f"costs.delisting_return={self.delisting_return} must be −100 percent or more."
            )
        for level in self.levels:
            if not 0 <= level < math.inf:
                raise ForecastError(f"costs.levels: {level} must be 0 or more basis points.")

    @property
    def linear(self) -> float:
        """Cost of trading one unit of value, as a fraction of it."""
        return (self.commission + self.half_spread + self.slippage) * BASIS_POINT

    def at(self, basis_points: float) -> Costs:
        """The same with another linear cost, and no impact."""
        return replace(
            self, commission=basis_points, half_spread=0.0, slippage=0.0, impact=None, capital=None
        )


def cash_rate(cash: float | str, prices: Prices, dates: np.ndarray) -> np.ndarray:
    """Rate known at each date's close, percent a year, shape (T,); NaN before the first one.

    A value goes on until the next one. The lag and age of data.covariates are rules for features:
    a rate is not traded on, it is earned from the close of its date on.

    Parameters
    ----------
    cash : a rate, or the name of a covariate column that states one for all symbols.

    Raises
    ------
    ForecastError
        There is no such column, or it differs between symbols.
    """
    if not isinstance(cash, str):
        return np.full(len(dates), float(cash))
    columns = {name: c for c in prices.covariates for name in c.columns if "symbol" not in c.frame}
    if cash not in columns:
        known = nearest(cash, sorted(columns)) if columns else _ADD_IT
        raise ForecastError(
            f"costs.cash={cash} is neither a number nor a column of data.covariates that holds for "
            f"all symbols{known}"
        )
    table = columns[cash].frame[["known", cash]].dropna()
    day = table["known"].to_numpy().astype("datetime64[D]")
    values = np.append(table[cash].to_numpy(dtype=np.float64), np.nan)
    return values[np.searchsorted(day, dates, side="right") - 1]  # -1, the last: not known yet


_ADD_IT = ": add it to data.covariates, in a table without symbols."


def impact_rates(quotes: Quotes) -> np.ndarray:
    """Volatility of a session over the root of the value traded in one, shape (T, S).

    Times the root of a trade's value it is what the trade moves the price, as a fraction of it:
    the square-root law (Tóth et al. 2011, Anomalous price impact and the critical nature of
    liquidity). Both are averages over a symbol's last 20 sessions, fewer where there are no more,
    known at each date's close and carried over dates without a session. A symbol's volatility on
    its first session is the median of the others'. NaN where nothing was traded yet.

    Raises
    ------
    ForecastError
        The quotes have no values traded.
    """
    if quotes.value_TS is None:
        raise ForecastError(
            "costs.impact needs volumes; the prices have none. Take costs=basis_points, or map "
            "data.columns.volume."
        )
    volatility_TS = np.sqrt(_trailing(quotes, quotes.returns_TS**2))
    value_TS = _trailing(quotes, quotes.value_TS)
    value_TS = pd.DataFrame(np.where(value_TS > 0, value_TS, np.nan)).ffill().to_numpy()
    new_TS = np.isnan(volatility_TS) & ~np.isnan(value_TS)
    for t in np.flatnonzero(new_TS.any(axis=1)):
        others = volatility_TS[t][~np.isnan(volatility_TS[t])]
        if len(others):
            volatility_TS[t, new_TS[t]] = np.median(others)
    return volatility_TS / np.sqrt(value_TS)


def _trailing(quotes: Quotes, values_TS: np.ndarray) -> np.ndarray:
    """Mean over each symbol's last sessions, of what is known of them."""
    result = np.full_like(values_TS, np.nan)
    for s in range(len(quotes.symbols)):
        rows = np.flatnonzero(~np.isnan(quotes.close_TS[:, s]))
        padded = np.concatenate([np.full(TRAILING - 1, np.nan), values_TS[rows, s]])
        windows = np.lib.stride_tricks.sliding_window_view(padded, TRAILING)
        count = (~np.isnan(windows)).sum(axis=1)
        total = np.where(np.isnan(windows), 0.0, windows).sum(axis=1)
        result[rows, s] = np.divide(total, count, out=np.full(len(rows), np.nan), where=count > 0)
    return pd.DataFrame(result).ffill().to_numpy(copy=True)
