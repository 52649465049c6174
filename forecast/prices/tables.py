"""CSV and Parquet as plain columns: text, stamps and numbers. Nothing in a file is executed.

Only pyarrow reads, and only the columns asked for: no pickle, no pandas metadata, no extension
types. Text is never guessed to be something else, so the symbols `NA`, `TRUE` and `000001` survive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from forecast.config import ForecastError

TypeTest = Callable[[pa.DataType], bool]
PARQUET = (".parquet", ".pq")
NULLS = ("", ".", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None")
WORDS = pa.dictionary(pa.int32(), pa.string())
# A stamp is read as the wall time of its own zone: its session date is the one written in it.
STAMP = (
    r"^(?P<date>\d{4}-\d{2}-\d{2}|\d{8})(?:[T ](?P<time>\d{2}:\d{2}(?::\d{2})?)(?:[.,]\d+)?)?"
    r" ?(?:Z|UTC|[+-]\d{2}:?(?:\d{2})?)?$"
)


def column_names(path: Path) -> list[str]:
    """Names of a file's columns, in order.

    Raises
    ------
    ForecastError
        Not a file, not readable, or a name appears twice.
    """
    if not path.is_file():
        raise ForecastError(f"{path}: no such file. Correct the path.")
    try:
        if path.suffix.lower() in PARQUET:
            with pa.parquet.ParquetFile(path) as file:
                names = list(file.schema_arrow.names)
        else:
            with pa.csv.open_csv(path) as reader:
                names = list(reader.schema.names)
    except (pa.ArrowException, OSError) as error:
        raise ForecastError(f"{path}: not readable as a table ({_line(error)}).") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ForecastError(f"{path}: column '{twice[0]}' appears twice. Rename one of them.")
    return names


def read_columns(
    path: Path, *, text: Sequence[str], stamps: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
    """The named columns of one file.

    Parameters
    ----------
    text : names read as strings, returned categorical; empty text is an error.
    stamps : names read as dates or times of day, returned as datetime64[s], tz-naive: a stamp with
        a zone keeps the wall time of that zone. ISO 8601 or YYYYMMDD; an empty stamp is an error.
    numbers : names read as float64; empty is NaN.

    Raises
    ------
    ForecastError
        Text that is no number or no date, or a column of another type; names file, row and value.
    """
    names = [*text, *stamps, *numbers]
    if path.suffix.lower() in PARQUET:
        table = _read_parquet(path, names)
        for name in text:
            _refuse_type(path, name, table.schema.field(name).type, "text", _is_text)
        for name in stamps:
            _refuse_type(path, name, table.schema.field(name).type, "dates", _is_stamp)
        for name in numbers:
            _refuse_type(path, name, table.schema.field(name).type, "numbers", _is_number)
        for position, field in enumerate(table.schema):
            column = table.column(position)
            if field.name in numbers:
                column = column.cast(pa.float64())
            elif pa.types.is_date(field.type):
                column = column.cast(pa.timestamp("ms"))
            elif not pa.types.is_timestamp(field.type) and field.type != WORDS:
                column = column.cast(pa.string()).dictionary_encode()
            table = table.set_column(position, field.name, column)
    else:
        table = _read_csv(path, names, numbers)
    if not table.num_rows:
        raise ForecastError(f"{path}: no rows. Give a file with at least one row of data.")
    table = table.unify_dictionaries()
    # Arrow's memory is handed over or released column by column: the table never lies there twice.
    frame: pd.DataFrame = table.to_pandas(
        ignore_metadata=True, split_blocks=True, self_destruct=True
    )
    del table
    pa.default_memory_pool().release_unused()
    for name in text:
        missing = frame[name].isna().to_numpy() | (frame[name] == "").to_numpy()
        if missing.any():
            raise ForecastError(f"{path}: '{name}' is empty in {_row(missing)}. Name the symbol.")
    for name in stamps:
        frame[name] = _wall_time(frame[name], path)
    return frame


def _read_parquet(path: Path, names: list[str]) -> pa.Table:
    try:
        with pa.parquet.ParquetFile(path) as file:
            return file.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise ForecastError(f"{path}: not readable as Parquet ({_line(error)}).") from error


def _read_csv(path: Path, names: list[str], numbers: Sequence[str]) -> pa.Table:
    types = {name: pa.float64() if name in numbers else WORDS for name in names}
    options = {"include_columns": names, "null_values": list(NULLS), "strings_can_be_null": False}
    try:
        return pa.csv.read_csv(
            path, convert_options=pa.csv.ConvertOptions(column_types=types, **options)
        )
    except (pa.ArrowException, OSError) as error:
        _refuse_words_among_numbers(path, numbers)
        raise ForecastError(f"{path}: not readable as CSV ({_line(error)}).") from error


def _refuse_words_among_numbers(path: Path, numbers: Sequence[str]) -> None:
    """Find the row that pyarrow could not read; read once more, as text, because it names none."""
    types = {name: pa.string() for name in numbers}
    try:
        options = pa.csv.ConvertOptions(include_columns=list(numbers), column_types=types)
        table = pa.csv.read_csv(path, convert_options=options)
    except (pa.ArrowException, OSError):
        return
    for name in numbers:
        words = table.column(name).to_pandas().str.strip()
        wrong = (~words.isin(NULLS) & pd.to_numeric(words, errors="coerce").isna()).to_numpy()
        if wrong.any():
            value = words.iloc[int(wrong.argmax())]
            raise ForecastError(
                f"{path}: {name}='{value}' in {_row(wrong)} is not a number. Write 1234.5, "
                "or leave it empty where there is none."
            )


def _wall_time(column: pd.Series, path: Path) -> pd.Series:
    """Dates and stamps as tz-naive datetime64[s] of the zone they are written in."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_localize(None)
    if pd.api.types.is_datetime64_any_dtype(column):
        times = column.astype("datetime64[s]")
    else:
        parts = pd.Series(column.cat.categories.astype(str)).str.extract(STAMP)
        words = parts["date"].str.replace("-", "") + "T" + parts["time"].fillna("00:00")
        known = pd.to_datetime(words, format="ISO8601", errors="coerce").astype("datetime64[s]")
        values = np.append(known.to_numpy(), np.datetime64("NaT", "s"))  # code -1: no value
        times = pd.Series(values[column.cat.codes.to_numpy()], name=column.name)
    wrong = times.isna().to_numpy()
    if wrong.any():
        raise ForecastError(
            f"{path}: {column.name}='{column.iloc[int(wrong.argmax())]}' in {_row(wrong)} is not a "
            "date. Write YYYY-MM-DD, or an ISO 8601 time."
        )
    return times


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_stamp(kind: pa.DataType) -> bool:
    return bool(
        _is_text(kind)
        or pa.types.is_integer(kind)  # 20240131
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _refuse_type(path: Path, name: str, kind: pa.DataType, wanted: str, test: TypeTest) -> None:
    if not test(kind):
        raise ForecastError(
            f"{path}: column '{name}' has type {kind}, not {wanted}. Write it as {wanted}"
            + (", so that 000001 survives." if wanted == "text" else ".")
        )


def _row(mask: np.ndarray) -> str:
    return f"row {int(mask.argmax()) + 1}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
