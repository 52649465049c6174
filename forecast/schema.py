"""What a Forecasts table is: its columns, and the rules that every block of rows must keep.

One row states what one model said at one origin about one horizon of one symbol, and, once it is
known, what happened. Numbers are percent (log returns) unless a name says otherwise; days are
session dates. `forecast.forecasts` reads and writes such tables.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

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

NAMES = tuple(field.name for field in SCHEMA if pa.types.is_dictionary(field.type))
FLOATS = tuple(field.name for field in SCHEMA if pa.types.is_floating(field.type))
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

Spans = dict[tuple[Any, ...], tuple[int, int]]


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
    return examine(block, where)[0]


def examine(block: pd.DataFrame | pa.Table, where: str) -> tuple[pa.Table, Spans]:
    """`validate`, and the first and last origin (days) of every key but the origin."""
    if isinstance(block, pd.DataFrame):
        try:
            # A copy: the caller may fill the frame anew while a writer still encodes it.
            block = pa.Table.from_pandas(block.copy(), preserve_index=False)
        except (pa.ArrowException, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ForecastError(
                f"{where}: {reason}. Give every column one name and type."
            ) from error
    for name in block.column_names:
        if re.fullmatch(r"q\d+", name) and name not in QUANTILES:
            raise ForecastError(
                f"{where}: {name} is none of the {len(LEVELS)} levels {', '.join(QUANTILES[:3])}, "
                f"…, {QUANTILES[-1]}. Give the quantiles at these and drop {name}."
            )
        if name not in SCHEMA.names:
            raise ForecastError(f"{where}: {name} is no column of a Forecasts table. Drop it.")
    for name in SCHEMA.names:
        if name not in block.column_names and name not in OPTIONAL:
            raise ForecastError(
                f"{where}: column {name} is missing. Add it; what a model does not state is null "
                f"in all rows, and only {', '.join(OPTIONAL)} may be left out."
            )
    columns = {field.name: _conform(block, field, where) for field in SCHEMA}
    table = pa.table([column for column, _ in columns.values()], schema=SCHEMA)
    value = {name: numbers for name, (_, numbers) in columns.items()}

    def refuse(wrong: Any, rule: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            broken = {name: table[name][row].as_py() for name in SCHEMA.names}
            key = "{symbol}, {origin}, horizon {horizon}".format(**broken)
            raise ForecastError(f"{where}, row {row} ({key}): {rule.format(**broken)}")

    for name in FLOATS:
        refuse(np.isinf(value[name]), f"{name} is infinite. Give a finite number or null.")
    for name, (lowest, allowed) in _BOUNDS.items():
        wrong = value[name] < lowest if allowed else value[name] <= lowest
        sign = "at least" if allowed else "above"
        refuse(wrong, f"{name}={{{name}}} must be {sign} {lowest}. Correct or drop the row.")
    refuse(value["pit"] > 1, "pit={pit} must be at most 1. Give a probability.")
    known = {name: columns[name][0].dictionary.to_pylist() for name in NAMES}
    unknown = np.array([name not in PARTS for name in known["part"]], dtype=bool)
    if unknown.any():
        refuse(unknown[value["part"]], f"part={{part}} is none of {', '.join(PARTS)}.")

    origin, target = value["origin"], value["target_date"]
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
    # A model states a column for a horizon, never for some of its rows only.
    group = value["horizon"].astype(np.int64) * max(1, len(known["model"])) + value["model"]
    gaps = {name for name, (column, _) in columns.items() if column.null_count}
    for names, rows in ((_BY_MODEL, np.ones_like(actual)), (_BY_ACTUAL, actual)):
        if gaps.isdisjoint(names):
            continue
        size = np.bincount(group[rows], minlength=1)
        for name in (name for name in names if name in gaps):
            null = np.isnan(value[name]) & rows
            if null.any():
                count = np.bincount(group[null], minlength=1)
                some = np.flatnonzero(count < size[: len(count)])
                refuse(
                    null & np.isin(group, some),
                    f"{name} is null here but not in every row of its horizon. A model states a "
                    f"column for a horizon or does not; fill it or empty it.",
                )
    # Column by column: a block of all quantiles would be copied first.
    quantiles = [value[name] for name in QUANTILES]
    crossing = np.zeros_like(actual)
    for lower, upper in pairwise(quantiles):
        crossing |= upper < lower
    if not gaps.isdisjoint(QUANTILES):
        nulls = np.sum([np.isnan(quantile) for quantile in quantiles], axis=0)
        refuse(
            (nulls > 0) & (nulls < len(quantiles)),
            "some quantiles are null. Give all levels or none.",
        )
    refuse(crossing, "quantiles cross (q01={q01}, q50={q50}, q99={q99}). Sort them within the row.")
    # Rows are sorted by key: equal neighbours are duplicates, and groups have their ends at hand.
    for name in ("part", "symbol"):
        group = group * max(1, len(known[name])) + value[name]
    group = group * (int(value["fold"].max(initial=0)) + 1) + value["fold"]
    # Within a group rows mostly stand by date, and small whole numbers are sorted by counting.
    narrow = group.astype(np.min_scalar_type(group.max(initial=0)))
    row = np.argsort(narrow, kind="stable")
    same = narrow[row[1:]] == narrow[row[:-1]]
    day = origin.astype(np.int64)
    if (same & (np.diff(day[row]) < 0)).any():
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


def _conform(block: pa.Table, field: pa.Field, where: str) -> tuple[pa.Array, Any]:
    """One column in the type of `SCHEMA` and in one chunk, and its numbers.

    Those of names are their places in the dictionary; what is null is NaN or NaT.
    """
    if field.name in block.column_names:
        column = one_piece(block[field.name])
    else:
        column = pa.nulls(block.num_rows, field.type)
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
        found = _cast(column, field.type) if fits else None
    except pa.ArrowInvalid:
        found = None
    if found is None:
        raise ForecastError(f"{where}: column {field.name} is {kind}, not {field.type}. {remedy}")
    column, numbers = found
    if not field.nullable and column.null_count:
        row = column.is_null().index(True).as_py()
        raise ForecastError(f"{where}, row {row}: {field.name} is null. Fill it or drop the row.")
    return column, numbers


def one_piece(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece; joining a single one would copy it."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _cast(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Any]:
    """Convert without loss, but of digits, and so that equal columns have equal bytes."""
    if pa.types.is_dictionary(kind):
        result = _encoded(column)
        return result, result.indices.to_numpy(zero_copy_only=False)
    result = column.cast(kind)
    if pa.types.is_timestamp(column.type) and not result.cast(column.type).equals(column):
        raise pa.ArrowInvalid("a time of day would be lost")
    numbers = result.to_numpy(zero_copy_only=False)
    if pa.types.is_floating(kind) and np.count_nonzero(np.isnan(numbers)) > result.null_count:
        result = pa.array(numbers, type=kind, from_pandas=True)  # NaN and null are one thing
    return result, numbers


def _encoded(column: pa.Array) -> pa.DictionaryArray:
    """Names in the order in which they appear, each once, and no others."""
    if pa.types.is_dictionary(column.type):
        names = column.dictionary.cast(pa.string())
        if not names.null_count and len(names.unique()) == len(names):
            code = column.indices.dictionary_encode()
            return pa.DictionaryArray.from_arrays(code.indices, names.take(code.dictionary))
    return column.cast(pa.string()).dictionary_encode()
