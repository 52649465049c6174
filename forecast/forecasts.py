"""Forecasts tables on disk: the one form in which forecasts cross the doors.

A row group holds one model, fold and part for a block of symbols, in the order part, fold, symbol
block, model, and tables are written and read one such group at a time. Their columns and rules
stand in `forecast.schema` and are to be had from here too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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
from forecast.schema import (
    FLOATS,
    INNER,
    KEY,
    LEVELS,
    NAMES,
    OPTIONAL,
    PARTS,
    QUANTILES,
    SCHEMA,
    examine,
    one_piece,
    validate,
)

__all__ = [
    "INNER",
    "KEY",
    "LEVELS",
    "OPTIONAL",
    "PARTS",
    "QUANTILES",
    "SCHEMA",
    "ForecastWriter",
    "combine",
    "names",
    "open_parquet",
    "read_blocks",
    "read_forecasts",
    "validate",
]


class ForecastWriter:
    """Write a Forecasts table as a stream of row groups; the file appears whole or not at all.

    Used as a context manager. Rows go to `<path>.partial`, which is renamed on a clean exit and
    removed after an exception. The same blocks give the same bytes.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._partial = self._path.with_name(self._path.name + ".partial")
        # By all of the key but symbol and origin: first and last origin of each block of a symbol.
        # Names are shared, since of 20,000 symbols these would be the most there is in memory.
        self._seen: dict[tuple[Any, ...], dict[str, tuple[int, ...]]] = {}
        # The next block is made while one is encoded.
        self._encoder = ThreadPoolExecutor(1)
        self._encoding: Future[None] | None = None

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(
            self._partial,
            SCHEMA,
            version="2.6",
            compression="lz4",  # half the seconds of zstd, 2 % larger
            use_dictionary=NAMES,
            use_byte_stream_split=list(FLOATS),
            write_statistics=[name for name in SCHEMA.names if name not in FLOATS],
            write_batch_size=2**17,  # rows of a column that are encoded at once
        )
        return self

    def write(self, block: pd.DataFrame | pa.Table, where: str | None = None) -> None:
        """Append a block of symbols of one model, fold and part as one row group.

        What lies beneath an Arrow table must stay as it is until the writer is closed.

        Raises
        ------
        ForecastError
            From `validate`; where the block mixes models, folds or parts; and where the origins of
            a (model, fold, part, symbol, horizon) overlap those of an earlier block.
        """
        where = where or str(self._path)
        table, spans = examine(block, where)
        if table.num_rows == 0:
            return
        if len({key[:3] for key in spans}) > 1:
            raise ForecastError(
                f"{where}: a block mixes (model, fold, part) "
                f"{sorted({key[:3] for key in spans})[:2]}. Write one block for each."
            )
        for (model, fold, part, symbol, horizon), (first, last) in spans.items():
            seen = self._seen.setdefault((model, fold, part, horizon), {})
            before = seen.get(symbol, ())
            for other_first, other_last in zip(before[::2], before[1::2], strict=True):
                if first <= other_last and other_first <= last:
                    both = np.array([max(first, other_first), min(last, other_last)], "M8[D]")
                    key = f"{model} {fold} {part} {symbol} {horizon}"
                    raise ForecastError(
                        f"{where}: {key} has forecasts from {both[0]} to {both[1]} twice. Leave "
                        "out one of the two tables."
                    )
            seen[sys.intern(symbol)] = (*before, first, last)
        self._encoded()
        self._encoding = self._encoder.submit(
            self._writer.write_table, table, row_group_size=table.num_rows
        )

    def _encoded(self) -> None:
        """Wait for the block that is being encoded."""
        if self._encoding is not None:
            self._encoding.result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._encoder.shutdown()
            self._writer.close()
            if error is None:
                self._encoded()
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
    model: str | Iterable[str] | None = None,
    symbols: Iterable[str] | None = None,
) -> Generator[pd.DataFrame]:
    """Read a Forecasts table block by block, in file order.

    Row groups that hold nothing wanted, by their statistics, are not read. Names come as
    categoricals with sorted categories, dates as datetime64[s]. Numbers are not to be changed in
    place: they lie where Parquet decoded them.

    Raises
    ------
    ForecastError
        Where the file is missing, is no Forecasts table or lacks a column asked for.
    """
    wanted = {"part": part, "model": model, "symbol": symbols}
    for table in _tables(path, columns, wanted):
        yield _frame(table, copy=False)


def read_forecasts(
    path: str | Path,
    *,
    columns: Iterable[str] | None = None,
    part: str | None = None,
    model: str | Iterable[str] | None = None,
    symbols: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Read a Forecasts table whole: the blocks of `read_blocks`, joined."""
    columns = None if columns is None else list(columns)
    wanted = {"part": part, "model": model, "symbol": symbols}
    tables = list(_tables(path, columns, wanted))
    empty = SCHEMA.empty_table().select(columns or SCHEMA.names)
    return _frame(pa.concat_tables([empty, *tables]).unify_dictionaries())


def names(path: str | Path, column: str) -> list[str]:
    """The models, parts or symbols of a table, in the order in which they appear."""
    found: dict[str, None] = {}
    with open_parquet(path) as file:
        if column not in file.schema_arrow.names:
            raise ForecastError(f"{path}: column {column} is missing. Add it.")
        for group in range(file.num_row_groups):
            values = file.read_row_group(group, columns=[column])[column]
            found.update(dict.fromkeys(str(name) for name in values.unique().to_pylist()))
    return list(found)


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


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a parquet file, whatever its columns; a ForecastError where there is none."""
    if not Path(path).is_file():
        raise ForecastError(f"{path}: no such file. Train or predict first, or correct the path.")
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ForecastError(f"{path}: not a parquet file. Write it with ForecastWriter.") from error


def _open(path: str | Path) -> pq.ParquetFile:
    """Open a file whose columns are exactly those of `SCHEMA`."""
    file = open_parquet(path)
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


def _frame(table: pa.Table, *, copy: bool = True) -> pd.DataFrame:
    """Arrow to pandas: names as sorted categoricals, dates as datetime64[s]."""
    frame = {}
    for name in table.column_names:
        column = one_piece(table[name])
        if pa.types.is_dictionary(column.type):
            names = column.to_pandas().cat.remove_unused_categories()
            frame[name] = names.cat.reorder_categories(sorted(names.cat.categories))
        elif pa.types.is_date(column.type):
            frame[name] = column.to_numpy(zero_copy_only=False).astype("datetime64[s]")
        else:
            frame[name] = column.to_numpy(zero_copy_only=False)
    return pd.DataFrame(frame, copy=copy)
