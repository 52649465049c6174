"""Causal features of one symbol's history: every value in row *t* is a function of rows ≤ *t*.

All returns are log returns in percent per session and include dividends; the *scale* of
DESIGN section 2 makes them comparable between symbols, and the network sees scaled numbers only.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.config import ForecastError, nearest
from forecast.prices.frame import Covariate

SCALE_SESSIONS = 20  # sessions without a scale at the start of every history
SCALE_FLOOR_RATIO = 0.1  # of the symbol's own long scale, so that a halt does not end in 0
LONG_HALF_LIFE = 250
RATIO_FLOOR = 0.05  # log ratios of volatilities stop here: a quiet fortnight is not minus infinity


def ewma(values: np.ndarray, half_life: float) -> np.ndarray:
    """Bias-corrected exponentially weighted mean; null where nothing was seen yet."""
    return _ewma()(np.ascontiguousarray(values, np.float64), half_life)


def _public_ewma(values: np.ndarray, half_life: float) -> np.ndarray:
    return pd.Series(values).ewm(halflife=half_life, adjust=True).mean().to_numpy()


@cache
def _ewma() -> Callable[[np.ndarray, float], np.ndarray]:
    """The loop that pandas compiled, without its wrapping, which costs five times as much.

    Features take seventeen of them a symbol. It is no public name, so it serves only where it says
    what the public way says; else that is taken.
    """
    probe = np.array([np.nan, 1.0, 2.5, np.nan, -4.0])
    try:
        from pandas._libs.window.aggregations import ewm

        def bare(values: np.ndarray, half_life: float) -> np.ndarray:
            begin, end = np.zeros(1, np.int64), np.full(1, len(values), np.int64)
            centre = 1 / (1 - np.exp(np.log(0.5) / half_life)) - 1
            return ewm(values, begin, end, 1, centre, True, False, None, True)

        if np.array_equal(bare(probe, 3.0), _public_ewma(probe, 3.0), equal_nan=True):
            return bare
    except (ImportError, TypeError, ValueError):
        pass
    return _public_ewma


@dataclass(frozen=True, kw_only=True)
class History:
    """What is known of one symbol, session by session.

    Attributes
    ----------
    date : array of datetime64[D], shape (n,)
    columns : dict of arrays of float64, shape (n,)
        The price columns of the source; `close` is the total-return price.
    market : array of float64, shape (n,)
        The market's return at the same sessions, percent; null where undefined.
    market_scale : array of float64, shape (n,)
        The market's scale, percent per session; null where undefined.
    scale_half_life, scale_floor : float
        Sessions; percent per session.
    """

    date: np.ndarray
    columns: dict[str, np.ndarray]
    market: np.ndarray
    market_scale: np.ndarray
    scale_half_life: float = 20.0
    scale_floor: float = 0.01

    def __len__(self) -> int:
        return len(self.date)

    @cached_property
    def log_return(self) -> np.ndarray:
        return log_return(self.columns["close"])

    def volatility(self, half_life: float) -> np.ndarray:
        """Zero-mean EWMA volatility, percent per session."""
        return np.sqrt(ewma(self.log_return**2, half_life))

    @cached_property
    def _scale(self) -> tuple[np.ndarray, int]:
        return scale(self.log_return, half_life=self.scale_half_life, floor=self.scale_floor)

    @property
    def scale(self) -> np.ndarray:
        return self._scale[0]

    @property
    def floor_hits(self) -> int:
        return self._scale[1]

    def absolute(self, half_life: float) -> np.ndarray:
        """Volatility from mean absolute returns, which one large return moves less, percent."""
        return np.sqrt(np.pi / 2) * ewma(np.abs(self.log_return), half_life)

    def log_ratio(self, volatility: np.ndarray) -> np.ndarray:
        """log(volatility / scale), floored."""
        return np.log(np.maximum(volatility / self.scale, RATIO_FLOOR))

    def column(self, name: str) -> np.ndarray:
        return self.columns[name]

    @property
    def session_close(self) -> np.ndarray:
        """The close on the basis of open, high and low."""
        return self.columns.get("raw_close", self.columns["close"])


def log_return(close: np.ndarray) -> np.ndarray:
    """Log return of each session in percent; null in the first."""
    result = np.full(len(close), np.nan)
    result[1:] = 100.0 * np.diff(np.log(close))
    return result


def scale(log_return_N: np.ndarray, *, half_life: float, floor: float) -> tuple[np.ndarray, int]:
    """Trailing volatility in percent per session, and how often its floor was hit.

    Zero-mean EWMA of squared returns, bias-corrected, null for the first 20 sessions, floored at
    a tenth of the symbol's own 250-session scale and at `floor`.
    """
    squared = log_return_N**2
    raw = np.sqrt(ewma(squared, half_life))
    lowest = np.maximum(SCALE_FLOOR_RATIO * np.sqrt(ewma(squared, LONG_HALF_LIFE)), floor)
    raw[:SCALE_SESSIONS] = np.nan
    hits = int(np.sum(raw < lowest))
    return np.fmax(raw, np.where(np.isnan(raw), np.nan, lowest)), hits


def _garman_klass(h: History) -> np.ndarray:
    """Daily range volatility (Garman and Klass 1980), percent."""
    high_low = np.log(h.column("high") / h.column("low"))
    close_open = np.log(h.session_close / h.column("open"))
    variance = 0.5 * high_low**2 - (2 * np.log(2) - 1) * close_open**2
    return 100.0 * np.sqrt(np.maximum(variance, 0.0))


def _rogers_satchell(h: History) -> np.ndarray:
    """Daily range volatility without drift bias (Rogers and Satchell 1991), percent."""
    o, high, low, c = h.column("open"), h.column("high"), h.column("low"), h.session_close
    variance = np.log(high / c) * np.log(high / o) + np.log(low / c) * np.log(low / o)
    return 100.0 * np.sqrt(np.maximum(variance, 0.0))


def _overnight(h: History) -> np.ndarray:
    intraday = 100.0 * np.log(h.session_close / h.column("open"))
    return (h.log_return - intraday) / h.scale


def _volume_surprise(h: History) -> np.ndarray:
    volume = h.column("volume")
    log_volume = np.log(np.where(volume > 0, volume, np.nan))
    return log_volume - ewma(log_volume, SCALE_SESSIONS)


Feature = Callable[[History], np.ndarray]

FEATURES: dict[str, Feature] = {
    "return": lambda h: h.log_return / h.scale,
    "abs_return": lambda h: np.log1p(np.abs(h.log_return) / h.scale),
    "volatility_2": lambda h: h.log_ratio(h.volatility(2)),
    "volatility_5": lambda h: h.log_ratio(h.volatility(5)),
    "volatility_60": lambda h: h.log_ratio(h.volatility(60)),
    "volatility_250": lambda h: h.log_ratio(h.volatility(250)),
    "downside": lambda h: h.log_ratio(
        np.sqrt(2 * ewma(np.minimum(h.log_return, 0) ** 2, h.scale_half_life))
    ),
    "scale": lambda h: np.log(h.scale),
    "absolute_5": lambda h: h.log_ratio(h.absolute(5)),
    "absolute_20": lambda h: h.log_ratio(h.absolute(20)),
    "absolute_60": lambda h: h.log_ratio(h.absolute(60)),
    "trend_5": lambda h: ewma(h.log_return, 5) / h.scale,
    "trend_20": lambda h: ewma(h.log_return, 20) / h.scale,
    "market_return": lambda h: h.market / h.market_scale,
    "market_volatility": lambda h: np.log(h.market_scale / h.scale),
    "market_volatility_5": lambda h: h.log_ratio(np.sqrt(ewma(h.market**2, 5))),
    "market_volatility_60": lambda h: h.log_ratio(np.sqrt(ewma(h.market**2, 60))),
    "market_volatility_250": lambda h: h.log_ratio(np.sqrt(ewma(h.market**2, 250))),
    "market_trend_5": lambda h: ewma(h.market, 5) / h.market_scale,
    "market_trend_20": lambda h: ewma(h.market, 20) / h.market_scale,
    "garman_klass": lambda h: h.log_ratio(_garman_klass(h)),
    "rogers_satchell": lambda h: h.log_ratio(np.sqrt(ewma(_rogers_satchell(h) ** 2, 5))),
    "overnight": _overnight,
    "volume_surprise": _volume_surprise,
}
NEEDS: dict[str, tuple[str, ...]] = {
    "garman_klass": ("open", "high", "low"),
    "rogers_satchell": ("open", "high", "low"),
    "overnight": ("open",),
    "volume_surprise": ("volume",),
}
MARKET_FEATURES = tuple(name for name in FEATURES if name.startswith("market_"))


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Which features the network sees.

    Parameters
    ----------
    columns : list of str
        Names of built-in features, in this order.
    own : list of str
        Dotted names of functions `f(history: pandas.DataFrame) -> DataFrame or Series`: given the
        prices of one symbol, columns on the same rows. `forecast.evaluation.causality` finds out
        whether such a function looks ahead.
    scale_half_life, scale_floor : float
        Half-life of the scale in sessions and its floor in percent per session.
    """

    columns: Sequence[str]
    own: Sequence[str] = ()
    scale_half_life: float = 20.0
    scale_floor: float = 0.01
    _functions: list[Callable[[pd.DataFrame], pd.DataFrame | pd.Series]] = field(
        init=False, default_factory=list, repr=False
    )

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in FEATURES:
                raise ForecastError(
                    f"features.columns: {name!r} is not a feature{nearest(name, tuple(FEATURES))} "
                    "A function of your own is named in features.own."
                )
        if not self.columns and not self.own:
            raise ForecastError("features.columns and features.own are both empty: name a feature.")
        if not (0 < self.scale_half_life < np.inf and 0 < self.scale_floor < np.inf):
            raise ForecastError(
                f"features.scale_half_life={self.scale_half_life} and "
                f"features.scale_floor={self.scale_floor} must both be above 0 and finite."
            )
        for dotted in self.own:
            self._functions.append(_function(dotted))

    @property
    def own_sha256(self) -> str:
        """Hash of the files that own features stand in; empty without any.

        A run is named by it too: a changed feature is another run, not a finished one.
        """
        modules = {dotted.rpartition(".")[0] for dotted in self.own}
        files = [importlib.import_module(name).__file__ for name in sorted(modules)]
        code = b"".join(Path(file).read_bytes() for file in files if file is not None)
        return hashlib.sha256(code).hexdigest() if modules else ""

    def check_source(self, available: Sequence[str], source: str) -> None:
        """Refuse a source that lacks a column which a feature needs."""
        for name in self.columns:
            missing = [c for c in NEEDS.get(name, ()) if c not in available]
            if missing:
                raise ForecastError(
                    f"features.columns: {name!r} needs the column {missing[0]!r}, which data="
                    f"{source} lacks. Use features=close, or a source with open, high, low, volume."
                )

    def compute(
        self, history: History, symbol: str, covariates: Sequence[Covariate]
    ) -> tuple[np.ndarray, list[str]]:
        """Feature rows of one symbol, shape (n, C) float32, and the columns' names."""
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [FEATURES[name](history) for name in self.columns]
        names = list(self.columns)
        for dotted, function in zip(self.own, self._functions, strict=True):
            own = _own_columns(dotted, function, history, symbol)
            parts.extend(own.to_numpy(np.float64, na_value=np.nan).T)
            names.extend(f"{dotted}.{c}" for c in own.columns)
        for covariate in covariates:
            parts.extend(join(covariate, symbol, history.date))
            names.extend(covariate.columns)
        # Column by column, then turned: filling a row-major block by columns takes twice as long.
        values_CN = np.empty((len(parts), len(history)), np.float32)
        for part, column in zip(parts, values_CN, strict=True):
            column[:] = part
        values = np.ascontiguousarray(values_CN.T)
        # What is undefined (no scale yet, no market, covariate unknown) is null here and becomes
        # the training mean, that is 0, once the network standardises.
        values[~np.isfinite(values)] = np.nan
        return values, names


def _function(dotted: str) -> Callable[[pd.DataFrame], pd.DataFrame | pd.Series]:
    module, _, name = dotted.rpartition(".")
    try:
        function: Callable[[pd.DataFrame], pd.DataFrame | pd.Series]
        function = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise ValueError(f"it is a {type(function).__name__}, no function")
        return function
    except (ImportError, AttributeError, ValueError) as error:
        raise ForecastError(
            f"features.own: {dotted!r} cannot be used ({error}). "
            "Give module.function, importable from the current directory."
        ) from error


def _own_columns(
    dotted: str,
    function: Callable[[pd.DataFrame], pd.DataFrame | pd.Series],
    history: History,
    symbol: str,
) -> pd.DataFrame:
    frame = pd.DataFrame({"date": history.date.astype("datetime64[s]"), **history.columns})
    given = ", ".join(map(str, frame.columns))
    try:
        result = function(frame)
    except Exception as error:
        raise ForecastError(
            f"features.own: {dotted} ended in {type(error).__name__} for {symbol}: "
            f"{' '.join(str(error).split())}. Mend it; it is given the columns {given}."
        ) from error
    if isinstance(result, pd.Series):
        result = result.to_frame(result.name or "value")
    if not isinstance(result, pd.DataFrame) or len(result) != len(frame):
        rows = len(result) if hasattr(result, "__len__") else "no"
        raise ForecastError(
            f"features.own: {dotted} gave {rows} rows for {symbol}, which has {len(frame)}. "
            "Return columns on the same rows."
        )
    for name, dtype in result.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            raise ForecastError(
                f"features.own: {dotted} gave the column {name!r} of type {dtype} for {symbol}. "
                "Return numbers."
            )
    return result


def join(covariate: Covariate, symbol: str, date_N: np.ndarray) -> list[np.ndarray]:
    """Columns of a covariate at a symbol's sessions, as they were known at each close.

    A value known at date *k* may be used from `lag` sessions after the first session on or after
    *k*, and for `max_age` sessions more.
    """
    frame = covariate.frame
    if "symbol" in frame:
        # Rows are sorted by symbol; comparing all of them for each symbol would be quadratic.
        codes = frame["symbol"].cat.codes.to_numpy()
        code = codes.dtype.type(frame["symbol"].cat.categories.get_indexer(pd.Index([symbol]))[0])
        rows_of = [int(np.searchsorted(codes, code, side)) for side in ("left", "right")]
        frame = frame.iloc[slice(*rows_of)]
    known = frame["known"].to_numpy().astype("datetime64[D]")
    first_use = np.searchsorted(date_N.astype("datetime64[D]"), known) + covariate.lag
    rows = np.arange(len(date_N))
    result = []
    for name in covariate.columns:
        value = frame[name].to_numpy(np.float64)
        present = ~np.isnan(value)
        use, value = first_use[present], value[present]
        latest = np.searchsorted(use, rows, side="right") - 1
        column = np.full(len(rows), np.nan)
        found = latest >= 0
        fresh = found.copy()
        fresh[found] = rows[found] - use[latest[found]] <= covariate.max_age
        column[fresh] = value[latest[fresh]]
        result.append(column)
    return result
