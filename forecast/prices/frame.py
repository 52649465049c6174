"""What crosses the door: `Prices` and `Covariate`; and the checks that every source goes through.

A session is a row with a valid close. A row without one does not exist, so it is dropped; anything
else that is wrong with a row is an error that names it, because a price repaired in silence is a
return nobody traded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.prices.choice import Choice

if TYPE_CHECKING:
    from forecast.prices.findings import Finding
    from forecast.prices.simulated import Truth

PRICE_FIELDS = ("open", "high", "low", "close", "raw_close")
FIELDS = (*PRICE_FIELDS, "volume", "dividend", "split")
# Prices are rounded to cents and vendors' closes stray a little from their own range; a mixture of
# adjusted and raw columns is off by dividends and splits, which is far more.
BASIS_TOLERANCE = 0.01  # share of the price, and as many currency units


VINTAGE = (
    "adjusted closes are those of the day the data was made: dividends and splits that came later "
    "are folded into old prices, and corrections are not dated"
)


OLD = "prices are old"  # begins a warning about prices that end before they should


@dataclass(frozen=True, kw_only=True, eq=False)
class Covariate:
    """Columns from outside the prices, and when each value was known.

    Attributes
    ----------
    name : the file's name, or "planted"; for messages.
    frame : columns `known` (datetime64[s], the session date at whose close the value is known),
        optionally `symbol` (categorical), and float64 values; sorted by (symbol, known), unique.
        A NaN is not known, and an older value goes on.
    columns : names of the value columns, which are the names of the features.
    lag : sessions between `known` and the first use; 0 only where the user says so.
    max_age : sessions a value is carried forward.
    """

    name: str
    frame: pd.DataFrame
    columns: tuple[str, ...]
    lag: int
    max_age: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Prices:
    """Daily prices of some symbols, checked, and every fact a report has to state about them.

    Attributes
    ----------
    frame : columns `symbol` (categorical, categories sorted and all used), `date` (datetime64[s],
        tz-naive session date), `close` (total-return price where actions are known, else the
        source's adjusted close), and where known `open, high, low` (on the basis of `raw_close`
        where there is one, else of `close`), `volume`, `raw_close` (what was quoted),
        `dividend` (cash per share), `split` (new shares per old), all float64, and `calendar`
        (categorical, exchange_calendars code). Sorted by (symbol, date), unique, RangeIndex.
    source : sp500 | index | files | simulated | yahoo.
    findings : what was left out or emptied because it could not be used.
    inspection : what detectors say of prices as the source has them, where they know more of them
        than `frame` holds.
    warnings : facts that every report prints.
    left_out : (symbol, reason) of symbols that were asked for and have no session.
    truth : the process the prices were drawn from; simulated data only.
    """

    frame: pd.DataFrame
    source: str
    covariates: tuple[Covariate, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    inspection: Callable[[], Sequence[Finding]] | None = None
    truth: Truth | None = None

    @property
    def omitted(self) -> list[str]:
        """A line for each reason why symbols are left out."""
        reasons: dict[str, list[str]] = {}
        for symbol, reason in self.left_out:
            reasons.setdefault(reason, []).append(symbol)
        return [
            f"{some(names)} {'is' if len(names) == 1 else 'are'} left out: {reason}"
            for reason, names in reasons.items()
        ]

    @cached_property
    def sha256(self) -> str:
        """Hash of every value read: symbols, dates, each column's numbers, each covariate."""
        digest = hashlib.sha256()
        for frame in (self.frame, *(covariate.frame for covariate in self.covariates)):
            digest.update(f"{len(frame)} rows;".encode())
            for name in sorted(frame.columns):
                digest.update(f"{name};".encode())
                for block in _blocks(frame[name]):
                    digest.update(block)
        return digest.hexdigest()


def some(names: Sequence[str]) -> str:
    """A few of some names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _blocks(column: pd.Series, size: int = 1 << 20) -> Iterable[bytes]:
    """Bytes of a column that depend on its values alone: not on code widths, -0.0 or NaN bits."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        for word in column.cat.categories:
            yield f"{len(str(word))}:{word};".encode()
        codes = column.cat.codes.to_numpy()
        for start in range(0, len(codes), size):
            yield codes[start : start + size].astype("<i4").tobytes()
        return
    values = column.to_numpy()
    for start in range(0, len(values), size):
        block = values[start : start + size]
        if block.dtype.kind == "M":
            yield block.astype("datetime64[s]").astype("<i8").tobytes()
        else:
            block = block.astype("<f8") + 0.0
            block[np.isnan(block)] = np.nan
            yield block.tobytes()


def long(dates: np.ndarray, wide: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Close prices, one array a symbol over shared dates, as a long frame without empty closes."""
    names = sorted(wide)
    kept = {name: ~np.isnan(wide[name]) for name in names}
    counts = [int(kept[name].sum()) for name in names]
    codes = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    symbol = pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype="str"))
    date = np.empty(len(codes), dtype="datetime64[s]")
    close = np.empty(len(codes))
    stop = np.cumsum(counts, dtype=np.int64)
    for name, end, count in zip(names, stop, counts, strict=True):
        date[end - count : end] = dates[kept[name]]
        close[end - count : end] = wide[name][kept[name]]
    return pd.DataFrame({"symbol": symbol, "date": date, "close": close}, copy=False)


def checked(frame: pd.DataFrame, *, where: str, remedy: str = "Correct the row") -> pd.DataFrame:
    """The sessions among raw rows: grouped by symbol, dates ascending and unique, values sound.

    Parameters
    ----------
    frame : columns `symbol` (categorical), `date` (datetime64), `close` and other `FIELDS`; rows of
        one symbol in order of date, symbols in any order or interleaved.
    where : file or source, for messages.

    Raises
    ------
    ForecastError
        The first row with a price that is not finite or not positive, an unsound action or volume,
        a date out of order or twice; names symbol, date, value and remedy.
    """
    categories = frame["symbol"].cat.categories
    if not categories.is_monotonic_increasing:
        frame = frame.assign(symbol=frame["symbol"].cat.reorder_categories(sorted(categories)))
    closed = frame["close"].notna().to_numpy()
    for name, nothing in (("dividend", 0.0), ("split", 1.0)):
        if name in frame:
            lost = ~closed & ~frame[name].isin((nothing, 0.0, np.nan)).to_numpy()
            _refuse(frame, lost, where, name, "on a date without a close. Move it to the next one")
    codes = frame["symbol"].cat.codes.to_numpy()
    if not closed.all() or (np.diff(codes) < 0).any():
        order = np.argsort(codes, kind="stable")
        frame = frame.take(order if closed.all() else order[closed[order]])
        del order
    frame = frame.reset_index(drop=True)

    same = np.diff(frame["symbol"].cat.codes.to_numpy()) == 0
    step = np.diff(frame["date"].to_numpy())
    for wrong, problem in (
        (step == np.timedelta64(0), "appears twice. Keep one row per symbol and date"),
        (step < np.timedelta64(0), "comes after a later date. Sort the rows by date"),
    ):
        _refuse(frame, np.append(False, same & wrong), where, None, problem)
    for name in FIELDS:
        if name in frame:
            values = frame[name].to_numpy()
            sound = np.isfinite(values) & (values > 0 if name in PRICE_FIELDS else values >= 0)
            problem = "is not a finite, positive price" if name in PRICE_FIELDS else "is not sound"
            wrong = ~(sound | np.isnan(values))
            _refuse(frame, wrong, where, name, f"{problem}. {remedy}, or leave it empty")
    basis = frame["raw_close" if "raw_close" in frame else "close"].to_numpy()
    slack = BASIS_TOLERANCE * (1 + basis)
    for name, sign in (("low", 1.0), ("high", -1.0)):
        if name in frame:
            _refuse_mixture(frame, sign * (frame[name].to_numpy() - basis) > slack, where, name)
    return frame


def _refuse(
    frame: pd.DataFrame, wrong: np.ndarray, where: str, name: str | None, problem: str
) -> None:
    if wrong.any():
        row = frame.iloc[int(wrong.argmax())]
        value = "" if name is None else f" {name}={row[name]:.12g}"
        raise ForecastError(f"{where}: {row['symbol']} {row['date']:%Y-%m-%d}{value} {problem}.")


def _refuse_mixture(frame: pd.DataFrame, wrong: np.ndarray, where: str, name: str) -> None:
    if wrong.any():
        row = frame.iloc[int(wrong.argmax())]
        basis = "raw_close" if "raw_close" in frame else "close"
        raise ForecastError(
            f"{where}: {row['symbol']} {row['date']:%Y-%m-%d} {basis}={row[basis]:.6g} lies "
            f"{'below low' if name == 'low' else 'above high'}={row[name]:.6g} ({int(wrong.sum())} "
            "such rows): adjusted and raw columns mixed. Map the close that belongs to "
            "them: data.columns.raw_close=<column> (data.columns.close where data.adjusted=false); "
            "or correct the row."
        )


def finished(
    frame: pd.DataFrame,
    *,
    choice: Choice,
    available: Iterable[str],
    source: str,
    calendar: str | None,
) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
    """The frame of `Prices`, and the symbols asked for that have no session.

    Raises
    ------
    ForecastError
        Unknown symbols, or no session at all.
    """
    asked = choice.known(available, source)
    if frame.empty:
        raise ForecastError(
            f"{source}: no session with a close {choice.range}. Widen data.start and data.end."
        )
    categories, codes = frame["symbol"].cat.categories, frame["symbol"].cat.codes.to_numpy()
    present = np.unique(codes)
    if len(present) < len(categories):  # pandas' own removal takes several times the memory
        position = np.searchsorted(present, np.arange(len(categories))).astype(codes.dtype)
        symbol = pd.Categorical.from_codes(position[codes], categories=categories[present])
        frame = frame.assign(symbol=symbol)
    names = set(categories[present])
    reason = f"no session with a close {choice.range}"
    if calendar is not None:
        zeros = np.zeros(len(frame), dtype=np.int8)
        code = pd.Categorical.from_codes(zeros, categories=pd.Index([calendar], dtype="str"))
        frame = frame.assign(calendar=code)
    return frame, tuple((symbol, reason) for symbol in asked if symbol not in names)


def total_return(frame: pd.DataFrame) -> pd.DataFrame:
    """The first close compounded forward by total returns; the quoted close stays `raw_close`.

    The gross return into a session is split * (close + dividend) / previous close, so the price
    is the close times the running product of split * (1 + dividend / close). What happens on a
    symbol's first row lies before its first return. One symbol at a time: a symbol's prices must
    not depend, not even by rounding, on the others that are listed.
    """
    close = frame["close"].to_numpy()
    growth = np.ones(len(frame))
    if "dividend" in frame:
        growth += frame["dividend"].fillna(0.0).to_numpy() / close
    if "split" in frame:
        growth *= frame["split"].fillna(1.0).replace(0.0, 1.0).to_numpy()
    codes = frame["symbol"].cat.codes.to_numpy()
    starts = np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes))
    for first, stop in pairwise(starts):
        growth[first] = 1.0
        np.cumprod(growth[first:stop], out=growth[first:stop])
    return frame.assign(raw_close=close, close=close * growth)


def cut(
    prices: Prices,
    *,
    symbols: Iterable[str] | None = None,
    starts: Mapping[str, np.datetime64] | None = None,
) -> Prices:
    """Prices of some symbols, each from its own first date on, as if they had been loaded so.

    Total returns are compounded anew from the new first row, so that every bit is that of prices
    that begin there. Covariates stay.
    """
    frame = prices.frame
    names = np.array(frame["symbol"].cat.categories)
    codes, dates = frame["symbol"].cat.codes.to_numpy(), frame["date"].to_numpy()
    kept = np.ones(len(frame), bool)
    if symbols is not None:
        kept &= np.isin(names, list(symbols))[codes]
    if starts is not None:
        earliest = dates.min()
        first = np.array([starts.get(str(name), earliest) for name in names], dates.dtype)
        kept &= dates >= first[codes]
    if kept.all():
        return prices
    if not kept.any():
        raise ForecastError(f"data={prices.source}: none of the symbols has a session left.")
    frame = frame[kept].reset_index(drop=True)
    frame = frame.assign(symbol=frame["symbol"].cat.remove_unused_categories())
    if "raw_close" in frame and ("dividend" in frame or "split" in frame):
        frame = total_return(frame.assign(close=frame["raw_close"]))
    return replace(prices, frame=frame)
