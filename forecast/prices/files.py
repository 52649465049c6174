"""Prices from a user's own files: CSV or Parquet, long or wide, one file or a glob.

Long: one row per symbol and date, with a `date`, a `close` and, unless the file's name is the
symbol, a `symbol` column. Wide: a `date` column, and every other column is the close of the symbol
it is named after; a file is read as wide when neither a `symbol` nor a `close` column is mapped
or found, and a warning of the result says so.
"""

from __future__ import annotations

import difflib
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.prices.choice import Choice, Symbols
from forecast.prices.covariates import load_covariates
from forecast.prices.exchanges import read_calendar
from forecast.prices.frame import (
    FIELDS,
    VINTAGE,
    Prices,
    checked,
    finished,
    long,
    total_return,
)
from forecast.prices.tables import column_names, read_columns

KNOWN = ("date", "symbol", *FIELDS)
# Spellings beside the field's own name, in lower case without spaces and underscores.
SPELLINGS = {
    "date": ("datetime", "timestamp"),
    "symbol": ("ticker",),
    "raw_close": ("rawclose", "unadjustedclose"),
    "dividend": ("dividends",),
    "split": ("splits", "stocksplits"),
}
ADJUSTED_CLOSE = ("adjclose", "adjustedclose")
REMEDY = "Correct the row, choose other data.symbols or data.start"


def files(
    *,
    path: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    adjusted: bool | None = None,
    calendar: str | None = None,
    symbols: Symbols = None,
    start: str | None = None,
    end: str | None = None,
    covariates: Sequence[Mapping[str, object]] = (),
) -> Prices:
    """Prices from CSV (also gzipped) or Parquet files.

    Parameters
    ----------
    path : one file, or a glob such as `prices/*.csv`. Long files without a symbol column hold one
        symbol each, named by the file. The files' rows are merged by symbol and date.
    columns : the file's column for each of `KNOWN`; null looks for a column of that name, in any
        case, or of an obvious spelling (`Ticker`, `Adj Close`), where only one answers to it.
    adjusted : True if `close` is adjusted for dividends and splits. Then open, high and low must be
        adjusted too, or `raw_close` name the close they belong to. False if `close` is as quoted:
        with `dividend` (cash per share held after that date's split, on its ex-date) and `split`
        (new shares per old share) columns it becomes the first price compounded by total returns,
        so that no later action moves an old number, and the quoted close stays as `raw_close`.
    calendar : exchange_calendars code or alias, or None for the union of the symbols' dates.
    symbols, start, end : see `Choice.read`; the choice is made before rows are checked.
    covariates : see `load_covariates`.

    Raises
    ------
    ForecastError
        Anything wrong with the arguments or the files; names file, symbol, date and value.
    """
    choice = Choice.read(symbols=symbols, start=start, end=end)
    mapping, paths = _mapping(columns), _paths(path)
    if not isinstance(adjusted, bool):
        raise ForecastError(
            f"data.adjusted={'null' if adjusted is None else adjusted}: say true if close is "
            "adjusted for dividends and splits, false if it is as quoted; it is never guessed."
        )
    calendar = read_calendar(calendar)

    parts: list[pd.DataFrame] = []
    holders: dict[str, list[str]] = {}  # symbol -> the files that hold it
    wide: list[str] = []
    for file in paths:
        layout = _layout(file, mapping, adjusted)
        part, held = _read(file, layout, choice)
        for name in held:
            holders.setdefault(name, []).append(str(file))
        if part is not None:
            parts.append(checked(choice.rows(part), where=str(file), remedy=REMEDY))
            del part  # the raw rows must not stay beside their checked copy
        if layout.wide:
            wide.extend(held)
    choice.known(holders, str(path))
    frame = _merged(parts, holders)
    parts.clear()

    warnings = []
    if wide:
        names = sorted(set(wide))
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warnings.append(f"{Path(str(path)).name} was read as wide, each column a symbol: {shown}")
    if adjusted:
        warnings.append(VINTAGE)
    else:
        missing = [name for name in ("dividend", "split") if name not in frame]
        if missing:
            warnings.append(
                f"no {' and no '.join(missing)} column beside the unadjusted close: "
                + ("returns are price returns" if "dividend" in missing else "")
                + ("; " if len(missing) == 2 else "")
                + ("splits count as returns" if "split" in missing else "")
            )
        if len(missing) < 2:
            frame = total_return(frame)
    frame, left_out = finished(
        frame, choice=choice, available=holders, source=str(path), calendar=calendar
    )
    joined, notes = load_covariates(covariates, frame)
    return Prices(
        frame=frame,
        source="files",
        covariates=joined,
        warnings=(*warnings, *notes),
        left_out=left_out,
    )


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Which column of a file is what; `symbols` are the columns of a wide file."""

    columns: dict[str, str]
    wide: bool
    symbols: tuple[str, ...] = ()


def _mapping(columns: Mapping[str, str | None] | None) -> dict[str, str]:
    mapping = {}
    for field, name in (columns or {}).items():
        if field not in KNOWN:
            raise ForecastError(f"data.columns.{field} is unknown. Known are: {', '.join(KNOWN)}.")
        if name is not None and not isinstance(name, str):
            raise ForecastError(f"data.columns.{field}={name} is no column name. Quote it.")
        if name is not None:
            mapping[field] = name
    return mapping


def _paths(path: str | None) -> list[Path]:
    if not path or not isinstance(path, str):
        raise ForecastError("data.path is null: data=files needs it. Give a file or a glob.")
    one = Path(path).expanduser()
    if one.is_file():
        return [one]
    if one.is_dir():
        raise ForecastError(f"data.path={path} is a folder. Give a glob: data.path='{path}/*.csv'.")
    found = sorted(Path(name) for name in glob.glob(str(one), recursive=True))
    found = [file for file in found if file.is_file()]
    if not found:
        raise ForecastError(f"data.path={path}: no such file, nor a match. Correct the path.")
    return found


def _layout(file: Path, mapping: dict[str, str], adjusted: bool) -> _Layout:
    names = column_names(file)
    for field, name in mapping.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Its columns: {_some(names)}."
            raise ForecastError(f"{file}: data.columns.{field}='{name}' is not there. {hint}")
    free = [name for name in names if name not in mapping.values()]
    columns = dict(mapping)
    for field in KNOWN:
        if field not in columns:
            found = _find(file, field, free, adjusted)
            if found is not None:
                columns[field] = found
    if "date" not in columns:
        raise ForecastError(
            f"{file}: no date column among {_some(names)}. Name it: data.columns.date=<column>."
        )
    if "close" in columns:
        if not adjusted and "raw_close" in columns:
            raise ForecastError(
                f"{file}: data.adjusted=false says '{columns['close']}' is as quoted, yet "
                f"'{columns['raw_close']}' is the raw close. Say data.adjusted=true, or map close."
            )
        return _Layout(columns=columns, wide=False)
    bars = [field for field in ("open", "high", "low", "volume") if field in columns]
    if "symbol" in columns or set(mapping) - {"date"} or len(bars) > 2:
        raise ForecastError(
            f"{file}: no close column among {_some(names)}. Name it: data.columns.close=<column>."
        )
    symbols = tuple(name for name in names if name != columns["date"])
    if not all(symbols) or not symbols:
        raise ForecastError(f"{file}: a wide file needs a symbol above every column but the date.")
    return _Layout(columns={"date": columns["date"]}, wide=True, symbols=symbols)


def _find(file: Path, field: str, names: list[str], adjusted: bool) -> str | None:
    exact = [name for name in names if name.strip().lower() == field]
    spelled = [name for name in names if _squeezed(name) in SPELLINGS.get(field, ())]
    if field == "close" and adjusted:  # `Close` beside `Adj Close` is not the adjusted one
        exact += [name for name in names if _squeezed(name) in ADJUSTED_CLOSE]
    found = exact or spelled
    if len(found) > 1:
        raise ForecastError(
            f"{file}: {' and '.join(map(repr, found))} could all be {field}. "
            f"Say which: data.columns.{field}=<column>"
            + (", and data.columns.raw_close for the unadjusted one." if field == "close" else ".")
        )
    return found[0] if found else None


def _squeezed(name: str) -> str:
    return name.strip().lower().replace(" ", "").replace("_", "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:12]) + (", ..." if len(names) > 12 else "")


def _read(
    file: Path, layout: _Layout, choice: Choice
) -> tuple[pd.DataFrame | None, tuple[str, ...]]:
    """Rows of one file, None where none of its symbols is wanted; and the symbols it holds."""
    columns = layout.columns
    stem = file.name.removesuffix(".gz").rsplit(".", 1)[0]
    names = layout.symbols if layout.wide else (stem,)
    wanted = [name for name in names if choice.symbols is None or name in choice.symbols]
    if "symbol" not in columns and not wanted:
        return None, names
    if layout.wide:
        table = read_columns(file, text=(), stamps=(columns["date"],), numbers=wanted)
        dates = table[columns["date"]].dt.floor("D").to_numpy()
        return long(dates, {name: table[name].to_numpy() for name in wanted}), names
    text = [columns["symbol"]] if "symbol" in columns else []
    numbers = {field: columns[field] for field in FIELDS if field in columns}
    table = read_columns(
        file, text=text, stamps=[columns["date"]], numbers=list(dict.fromkeys(numbers.values()))
    )
    if text:
        symbol = table[text[0]].cat
        symbols = symbol.reorder_categories(sorted(symbol.categories)).array
        names = tuple(symbols.categories)
    else:
        zeros = np.zeros(len(table), dtype=np.int8)
        symbols = pd.Categorical.from_codes(zeros, categories=pd.Index([stem], dtype="str"))
    frame = {"symbol": symbols, "date": table[columns["date"]].dt.floor("D").to_numpy()}
    frame |= {field: table[name].to_numpy() for field, name in numbers.items()}
    return pd.DataFrame(frame, copy=False), names


def _merged(parts: list[pd.DataFrame], holders: dict[str, list[str]]) -> pd.DataFrame:
    """All files' rows by symbol and date; each file is sorted in itself, but files may overlap."""
    if len(parts) == 1:
        return parts[0]
    categories = pd.Index(sorted(set().union(*(part["symbol"].cat.categories for part in parts))))
    frame = pd.concat(
        [part.assign(symbol=part["symbol"].cat.set_categories(categories)) for part in parts],
        ignore_index=True,
    )
    codes, dates = frame["symbol"].cat.codes.to_numpy(), frame["date"].to_numpy()
    order = np.lexsort((dates, codes))
    twice = (np.diff(codes[order]) == 0) & (np.diff(dates[order]) == np.timedelta64(0))
    if twice.any():
        row = frame.iloc[order[int(twice.argmax())]]
        raise ForecastError(
            f"{' and '.join(holders[row['symbol']][:3])}: {row['symbol']} {row['date']:%Y-%m-%d} "
            "appears twice. Keep one row per symbol and date."
        )
    if (np.diff(order) != 1).any():
        frame = frame.take(order).reset_index(drop=True)
    return frame
