"""The Forecasts table: the one form in which forecasts cross the doors.

One row states what one model said at one origin about one horizon of one symbol, and, once it is
known, what happened. Numbers are percent (log returns) unless a name says otherwise; days are
session dates. On disk a row group holds one model, fold and part for a block of symbols, in the
order part, fold, symbol block, model, and tables are written and read one such group at a time.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecast.config import ForecastError

LEVELS: tuple[float, ...] = tuple(percent / 100 for percent in (1, *range(5, 100, 5), 99))
INNER: tuple[float, ...] = LEVELS[1:-1]
QUANTILES: tuple[str, ...] = tuple(f"q{round(100 * level):02d}" for level in LEVELS)
PARTS: tuple[str, ...] = ("validation", "test", "live")
KEY: tuple[str, ...] = ("model", "fold", "part", "symbol", "origin", "horizon")
OPTIONAL: tuple[str, ...] = ("nll", "pit", "crps_exact", "es01", "es05")

_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("model", _NAME, nullable=False),
        pa.field("fold", pa.int16(), nullable=False),  # 0 outside walk-forwards
        pa.field("part", _NAME, nullable=False),  # validation | test | live
        pa.field("symbol", _NAME, nullable=False),
        pa.field("origin", pa.date32(), nullable=False),
        pa.field("horizon", pa.int16(), nullable=False),  # sessions
        pa.field("delay", pa.int16(), nullable=False),  # sessions from origin to target's start
        pa.field("target_date", pa.date32()),  # null beyond the data
        pa.field("price", pa.float64(), nullable=False),  # at the origin
        pa.field("scale", pa.float64(), nullable=False),  # percent per session
        pa.field("actual", pa.float64()),  # percent; null if unknown
        pa.field("realized_variance", pa.float64()),  # percent squared, over the target
        pa.field("mean", pa.float32(), nullable=False),
        pa.field("std", pa.float32()),
        *(pa.field(name, pa.float32()) for name in QUANTILES),
        *(pa.field(name, pa.float32()) for name in OPTIONAL),
    ]
)

_FLOATS = tuple(field.name for field in SCHEMA if pa.types.is_floating(field.type))
# Whether every row of a horizon has them or none does depends on the model alone ...
_BY_MODEL = ("std", *QUANTILES, "es01", "es05")
# ... and for these, on the rows whose actual is known.
_BY_ACTUAL = ("nll", "pit", "crps_exact")
_BOUNDS = {  # column: (lowest, whether the lowest itself is allowed)
    "fold": (0, True),
    "horizon": (1, True),
    "delay": (0, True),
    "price": (0, False),
    "scale": (0, False),
    "realized_variance": (0, True),
    "std": (0, True),
    "pit": (0, True),
}

_Spans = dict[tuple[Any, ...], tuple[int, int]]


def validate(block: pd.DataFrame | pa.Table, where: str) -> pa.Table:
    """Refuse a block that breaks a rule of the Forecasts table; return it in `SCHEMA`.

    Widths of numbers, text or categorical names and the unit of dates may differ from `SCHEMA` and
    are converted; the columns of `OPTIONAL` may be missing. NaN means null.

    Parameters
    ----------
    block : rows of one table; any mix of models, parts and symbols.
    where : the file or model the block comes from, for messages.

    Raises
    ------
    ForecastError
        Names the rule, the first row that breaks it (counted from 0) and the remedy.
    """
    return _examine(block, where)[0]


class ForecastWriter:
    """Write a Forecasts table as a stream of row groups; the file appears whole or not at all.

    Used as a context manager. Rows go to `<path>.partial`, which is renamed on a clean exit and
    removed after an exception. The same blocks give the same bytes.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._partial = self._path.with_name(self._path.name + ".partial")
        self._seen: dict[tuple[Any, ...], list[tuple[int, int]]] = {}

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(
            self._partial,
            SCHEMA,
            version="2.6",
            compression="zstd",
            compression_level=3,
            use_dictionary=[name for name in SCHEMA.names if name not in _FLOATS],
            use_byte_stream_split=list(_FLOATS),
        )
        return self

    def write(self, block: pd.DataFrame | pa.Table, where: str | None = None) -> None:
        """Append a block of symbols of one model, fold and part as one row group.

        Raises
        ------
        ForecastError
            From `validate`; where the block mixes models, folds or parts; and where the origins of
            a (model, fold, part, symbol, horizon) overlap those of an earlier block.
        """
        where = where or str(self._path)
        table, spans = _examine(block, where)
        if table.num_rows == 0:
            return
        if len({key[:3] for key in spans}) > 1:
            raise ForecastError(
                f"{where}: a block mixes (model, fold, part) "
                f"{sorted({key[:3] for key in spans})[:2]}. Write one block for each."
            )
        for key, (first, last) in spans.items():
            for other_first, other_last in self._seen.setdefault(key, []):
                if first <= other_last and other_first <= last:
                    both = np.array([max(first, other_first), min(last, other_last)], "M8[D]")
                    raise ForecastError(
                        f"{where}: {' '.join(map(str, key))} has forecasts from {both[0]} to "
                        f"{both[1]} twice. Leave out one of the two tables."
                    )
            self._seen[key].append((first, last))
        self._writer.write_table(table, row_group_size=table.num_rows)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
            if error is None:
                with open(self._partial, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self._partial, self._path)
        finally:
            self._partial.unlink(missing_ok=True)


def read_blocks(
    path: str | Path,
    *,
    columns: Iterable[str] | None = None,
    part: str | None = None,
    model: str | None = None,
    symbols: Iterable[str] | None = None,
) -> Generator[pd.DataFrame]:
    """Read a Forecasts table block by block, in file order.

    Row groups that hold nothing wanted, by their statistics, are not read. Names come as
    categoricals with sorted categories, dates as datetime64[s].

    Raises
    ------
    ForecastError
        Where the file is missing, is no Forecasts table or lacks a column asked for.
    """
    wanted = {"part": part, "model": model, "symbol": symbols}
    yield from map(_frame, _tables(path, columns, wanted))


def read_forecasts(
    path: str | Path,
    *,
    columns: Iterable[str] | None = None,
    part: str | None = None,
    model: str | None = None,
    symbols: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Read a Forecasts table whole: the blocks of `read_blocks`, joined."""
    columns = None if columns is None else list(columns)
    wanted = {"part": part, "model": model, "symbol": symbols}
    tables = list(_tables(path, columns, wanted))
    empty = SCHEMA.empty_table().select(columns or SCHEMA.names)
    return _frame(pa.concat_tables([empty, *tables]).unify_dictionaries())


def combine(tables: Iterable[Path] | Mapping[Path, Iterable[str]], out: str | Path) -> None:
    """Join tables into one, row group by row group, parts and folds in canonical order.

    Row groups are written again one to one, so adding the parts of a run in any order gives the
    bytes of a table written at once. Within a part and fold the order of `tables`, then that of the
    file, is kept.

    Parameters
    ----------
    tables : paths, or a mapping of each path to the parts wanted of it.
    out : the joint table; may be one of `tables`.

    Raises
    ------
    ForecastError
        Where two tables state forecasts for the same key.
    """
    # The inner context closes the sources before the rename, which may replace one of them.
    with ForecastWriter(out) as writer, ExitStack() as stack:
        groups = []
        for number, path in enumerate(tables):
            wanted = set(tables[path]) if isinstance(tables, Mapping) else set(PARTS)
            file = stack.enter_context(_open(path))
            for group in range(file.num_row_groups):
                part, fold = _range(file, group, "part"), _range(file, group, "fold")
                if part is None or fold is None or part[0] not in PARTS:
                    raise ForecastError(
                        f"{path}: row group {group} records no part and fold. "
                        f"Write the table with ForecastWriter."
                    )
                if part[0] in wanted:
                    order = PARTS.index(part[0]), fold[0], number, group
                    groups.append((order, file, str(path)))
        for order, file, where in sorted(groups, key=lambda entry: entry[0]):
            writer.write(file.read_row_group(order[-1]), where)


def _tables(
    path: str | Path, columns: Iterable[str] | None, wanted: dict[str, str | Iterable[str] | None]
) -> Iterator[pa.Table]:
    """The wanted rows of each row group that has some."""
    names = SCHEMA.names if columns is None else list(columns)
    for name in names:
        if name not in SCHEMA.names:
            raise ForecastError(f"{path}: no column {name}. Choose from {', '.join(SCHEMA.names)}.")
    filters = {
        name: {value} if isinstance(value, str) else set(value)
        for name, value in wanted.items()
        if value is not None
    }
    with _open(path) as file:
        for group in range(file.num_row_groups):
            ranges = {name: _range(file, group, name) for name in filters}
            if any(
                span and not any(span[0] <= value <= span[1] for value in filters[name])
                for name, span in ranges.items()
            ):
                continue
            table = file.read_row_group(group, columns=list(dict.fromkeys([*names, *filters])))
            for name, span in ranges.items():
                if span is None or span[0] != span[1]:
                    text = table[name].cast(pa.string())
                    table = table.filter(pc.is_in(text, pa.array(sorted(filters[name]))))
            if table.num_rows:
                yield table.select(names)


def _open(path: str | Path) -> pq.ParquetFile:
    """Open a file whose columns are exactly those of `SCHEMA`."""
    if not Path(path).is_file():
        raise ForecastError(f"{path}: no such file. Train or predict first, or correct the path.")
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ForecastError(f"{path}: not a parquet file. Write it with ForecastWriter.") from error
    wanted = [f"{field.name}: {field.type}" for field in SCHEMA]
    found = [f"{field.name}: {field.type}" for field in file.schema_arrow]
    if wanted != found:
        file.close()
        name = min(set(wanted) ^ set(found), default="order of columns")
        raise ForecastError(f"{path}: no Forecasts table ({name}). Write it with ForecastWriter.")
    return file


def _range(file: pq.ParquetFile, group: int, name: str) -> tuple[Any, Any] | None:
    """Lowest and highest value of a column in a row group; None where it is not recorded."""
    statistics = file.metadata.row_group(group).column(SCHEMA.names.index(name)).statistics
    if statistics is None or not statistics.has_min_max:
        return None
    return statistics.min, statistics.max


def _frame(table: pa.Table) -> pd.DataFrame:
    """Arrow to pandas: names as sorted categoricals, dates as datetime64[s]."""
    frame = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            names = column.to_pandas().cat.remove_unused_categories()
            frame[name] = names.cat.reorder_categories(sorted(names.cat.categories))
        elif pa.types.is_date(column.type):
            frame[name] = column.to_numpy(zero_copy_only=False).astype("datetime64[s]")
        else:
            frame[name] = column.to_numpy(zero_copy_only=False)
    return pd.DataFrame(frame)


def _examine(block: pd.DataFrame | pa.Table, where: str) -> tuple[pa.Table, _Spans]:
    """`validate`, and the first and last origin (days) of every key but the origin."""
    if isinstance(block, pd.DataFrame):
        try:
            block = pa.Table.from_pandas(block, preserve_index=False)
        except (pa.ArrowException, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ForecastError(
                f"{where}: {reason}. Give every column one name and type."
            ) from error
    for name in block.column_names:
        if name not in SCHEMA.names:
            raise ForecastError(f"{where}: {name} is no column of a Forecasts table. Drop it.")
    for name in SCHEMA.names:
        if name not in block.column_names and name not in OPTIONAL:
            raise ForecastError(
                f"{where}: column {name} is missing. Add it; what a model does not state is null "
                f"in all rows, and only {', '.join(OPTIONAL)} may be left out."
            )
    table = pa.table([_conform(block, field, where) for field in SCHEMA], schema=SCHEMA)
    value = {name: table[name].to_numpy() for name in (*_FLOATS, "fold", "horizon", "delay")}

    def refuse(wrong: Any, rule: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            broken = {name: table[name][row].as_py() for name in SCHEMA.names}
            key = "{symbol}, {origin}, horizon {horizon}".format(**broken)
            raise ForecastError(f"{where}, row {row} ({key}): {rule.format(**broken)}")

    for name in _FLOATS:
        refuse(np.isinf(value[name]), f"{name} is infinite. Give a finite number or null.")
    for name, (lowest, allowed) in _BOUNDS.items():
        wrong = value[name] < lowest if allowed else value[name] <= lowest
        sign = "at least" if allowed else "above"
        refuse(wrong, f"{name}={{{name}}} must be {sign} {lowest}. Correct or drop the row.")
    refuse(value["pit"] > 1, "pit={pit} must be at most 1. Give a probability.")
    part = table["part"].combine_chunks()
    unknown = np.array([name not in PARTS for name in part.dictionary.to_pylist()], dtype=bool)
    if unknown.any():
        refuse(unknown[part.indices.to_numpy()], f"part={{part}} is none of {', '.join(PARTS)}.")

    origin = table["origin"].to_numpy().astype("datetime64[D]")
    target = table["target_date"].to_numpy().astype("datetime64[D]")
    actual = ~np.isnan(value["actual"])
    refuse(
        target <= origin,  # NaT compares false
        "target_date={target_date} is not after the origin. Give the date on which the return "
        "becomes known.",
    )
    refuse(
        actual & np.isnat(target),
        "actual={actual} has no target_date. Give the date on which it was known.",
    )
    horizon, code = np.unique(value["horizon"], return_inverse=True)
    for names, rows in ((_BY_MODEL, np.ones_like(actual)), (_BY_ACTUAL, actual)):
        size = np.bincount(code[rows], minlength=len(horizon))
        for name in names:
            null = np.isnan(value[name]) & rows
            if null.any():
                count = np.bincount(code[null], minlength=len(horizon))
                refuse(
                    null & (count < size)[code],
                    f"{name} is null here but not in every row of its horizon. A model states a "
                    f"column for a horizon or does not; fill it or empty it.",
                )
    quantile = np.stack([value[name] for name in QUANTILES], axis=1)
    null = np.isnan(quantile)
    refuse(
        null.any(axis=1) & ~null.all(axis=1), "some quantiles are null. Give all levels or none."
    )
    refuse(
        (quantile[:, 1:] < quantile[:, :-1]).any(axis=1),
        "quantiles cross (q01={q01}, q50={q50}, q99={q99}). Sort them within the row.",
    )
    # Rows are sorted by key: equal neighbours are duplicates, and groups have their ends at hand.
    group = code.astype(np.int64)
    for name in ("model", "part", "symbol"):
        column = table[name].combine_chunks()
        group = group * max(1, len(column.dictionary)) + column.indices.to_numpy()
    group = group * (value["fold"].max(initial=0) + 1) + value["fold"]
    day = origin.astype(np.int64)
    row = np.lexsort((day, group))
    group, day = group[row], day[row]
    repeated = np.zeros_like(actual)
    repeated[row[1:]] = (group[1:] == group[:-1]) & (day[1:] == day[:-1])
    refuse(repeated, f"the same ({', '.join(KEY)}) stands twice. Drop one.")
    first = np.flatnonzero(np.diff(group, prepend=-1))
    last = np.append(first[1:], len(group))[: len(first)] - 1
    keys = table.select(["model", "fold", "part", "symbol", "horizon"]).take(row[first])
    days = zip(day[first].tolist(), day[last].tolist(), strict=True)
    return table, dict(zip(map(tuple, map(dict.values, keys.to_pylist())), days, strict=True))


def _conform(block: pa.Table, field: pa.Field, where: str) -> pa.Array:
    """One column in the type of `SCHEMA` and in one chunk."""
    if field.name not in block.column_names:
        return pa.nulls(block.num_rows, field.type)
    column = block[field.name].combine_chunks()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    whole, empty = pa.types.is_integer(kind), pa.types.is_null(kind)
    if pa.types.is_dictionary(field.type):
        fits = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        remedy = "Convert it to text."
    elif pa.types.is_date(field.type):
        fits = empty or pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)
        remedy = "Convert it to session dates without time of day or zone."
    elif pa.types.is_integer(field.type):
        fits, remedy = whole, f"Convert it to whole numbers within {field.type}."
    else:
        fits, remedy = empty or whole or pa.types.is_floating(kind), "Convert it to numbers."
    try:
        column = _cast(column, field.type) if fits else None
    except pa.ArrowInvalid:
        column = None
    if column is None:
        raise ForecastError(f"{where}: column {field.name} is {kind}, not {field.type}. {remedy}")
    if not field.nullable and column.null_count:
        row = column.is_null().index(True).as_py()
        raise ForecastError(f"{where}, row {row}: {field.name} is null. Fill it or drop the row.")
    return column


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert without loss, but of digits, and so that equal columns have equal bytes."""
    if pa.types.is_dictionary(kind):  # names in the order in which they appear, and no others
        return column.cast(pa.string()).dictionary_encode()
    if pa.types.is_floating(kind):  # through numpy, where NaN and null are one thing
        numbers = column.cast(kind).to_numpy(zero_copy_only=False)
        return pa.array(numbers, type=kind, from_pandas=True)
    result = column.cast(kind)
    if pa.types.is_timestamp(column.type) and not result.cast(column.type).equals(column):
        raise pa.ArrowInvalid("a time of day would be lost")
    return result
