"""Tables that figures are drawn of: what they must hold, and how their lines are told apart.

A user hands over a table as it was read, which may hold more than one figure can show. What is
wrong with it is said in one line that names the column, the values found and the remedy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import pandas as pd

from forecast.config import ForecastError
from forecast.report.markup import listing
from forecast.report.traded import DASHES

Line = TypeVar("Line")

MOST_MODELS = 6  # beyond which neither lines nor narrow panels can be told apart
_NAMED = 6  # values that a message names
_SOURCES = {
    "forecasts": "run.forecasts(...)",
    "daily": "daily.parquet of a backtest",
    "returns": "returns.parquet of a portfolio",
    "history": "run.history()",
    **{
        name: f"{name}.csv of an explanation"
        for name in ("memory", "recall", "gates", "units", "impact", "importance")
    },
}


def need(table: pd.DataFrame, columns: Collection[str], *, name: str) -> None:
    """Refuse a table that lacks a column, or has no row.

    Parameters
    ----------
    name : what the table is called to the user, one of `_SOURCES`.
    """
    missing = [column for column in columns if column not in table]
    if missing:
        raise ForecastError(
            f"{name}: no column {listing(missing)}. Give the table with it: {_SOURCES[name]}."
        )
    if table.empty:
        raise ForecastError(f"{name}: the table has no row. Give rows of {_SOURCES[name]}.")


def the_one(table: pd.DataFrame, column: str, *, name: str) -> str:
    """The only value of a column, as text; an error where there are several."""
    found = values(table, column)
    if len(found) > 1:
        raise ForecastError(
            f"{name}: {len(found)} values of {column} ({_some(found)}), and the figure shows one. "
            f"Keep one: {name}[{name}[{column!r}] == {_literal(table, column, found[0])}]."
        )
    return found[0]


def one_part(table: pd.DataFrame, *, name: str) -> str | None:
    """The part of all rows, None where the table does not tell; an error where there are several.

    What was looked at while a model was chosen is never shown with what was not.
    """
    return the_one(table, "part", name=name) if "part" in table else None


def at_most(table: pd.DataFrame, column: str, most: int, *, name: str) -> list[str]:
    """The values of a column in the order of the rows; an error where they are too many to show."""
    found = values(table, column)
    if len(found) > most:
        raise ForecastError(
            f"{name}: {len(found)} values of {column} ({_some(found)}), and the figure shows "
            f"{most} at most. Choose some: {name}[{name}[{column!r}].isin([...])]."
        )
    return found


def holds(table: pd.DataFrame, column: str, value: object, *, name: str) -> None:
    """Refuse a value that no row has."""
    found = values(table, column)
    if str(value) not in found:
        raise ForecastError(f"{name}: no {column} {value}. Choose from {_some(found)}.")


def once(table: pd.DataFrame, key: Sequence[str], *, name: str) -> None:
    """Refuse a table in which the same thing is stated twice, as where folds overlap."""
    again = table.duplicated(list(key)).to_numpy()
    if again.any():
        row = table.iloc[int(again.argmax())]
        told = ", ".join(f"{column} {row[column]}" for column in key)
        raise ForecastError(f"{name}: more than one row of {told}. Keep one fold and part.")


def values(table: pd.DataFrame, column: str) -> list[str]:
    """The values of a column as text, in the order in which they appear."""
    return [str(value) for value in table[column].unique()]


def dashes(colours: Mapping[Line, str]) -> dict[Line, str]:
    """Line styles that tell apart what shares a colour: the first of a colour is solid.

    Models of other people have one colour between them, and a recalibrated copy has that of its
    model.
    """
    styles = ("solid", *DASHES)
    seen: dict[str, int] = {}
    found: dict[Line, str] = {}
    for line, colour in colours.items():
        found[line] = styles[seen.get(colour, 0) % len(styles)]
        seen[colour] = seen.get(colour, 0) + 1
    return found


def _some(found: Sequence[str]) -> str:
    return ", ".join(found[:_NAMED]) + (", …" if len(found) > _NAMED else "")


def _literal(table: pd.DataFrame, column: str, value: str) -> str:
    return value if pd.api.types.is_numeric_dtype(table[column]) else repr(value)
