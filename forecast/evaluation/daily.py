"""Sums per origin date of the scored rows of a Forecasts table, block by block.

Whatever is known of a table is kept per date: memory grows with dates and not with rows, and a
test that takes one date as one draw reads the same sums as the scores do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Key = tuple[str, str, int]  # part, model, horizon


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """The rows of a block whose actual is known, by part, model and horizon.

    Attributes
    ----------
    block : DataFrame, n rows
    keys : part, model and horizon of each group
    group : int64, shape (n,); index into `keys`
    first : day (since 1970) of the block's earliest origin
    day : int64, shape (n,); days since `first`
    days : calendar days up to the block's last origin
    """

    block: pd.DataFrame
    keys: list[Key]
    group: Array
    first: int
    day: Array
    days: int

    def sums(self, values: Array | None, of: Array | None = None, size: int = 1) -> Array:
        """Sums of `values` (of ones without them) per group and per cell `of`.

        Parameters
        ----------
        values : array, shape (n,)
        of : int64 array, shape (n,), below `size`

        Returns
        -------
        array, shape (groups, size)
        """
        cell = self.group if of is None else self.group * size + of
        return np.bincount(cell, values, len(self.keys) * size).reshape(len(self.keys), size)

    def by_date(self, values: Array | None) -> Array:
        """Sums of `values` (of ones without them) per group and date, shape (groups, days)."""
        return self.sums(values, self.day, self.days)


def scored_rows(block: pd.DataFrame) -> ScoredRows | None:
    """Group the rows of a block, in any mix of parts, models and horizons; None without a row."""
    known = block["actual"].notna().to_numpy()
    if not known.all():
        block = block[known]
    if block.empty:
        return None
    (parts, part), (models, model) = (codes(block[name]) for name in ("part", "model"))
    horizon = block["horizon"].to_numpy().astype(np.int64)
    longest = int(horizon.max()) + 1
    code = (part * len(models) + model) * longest + horizon
    # A table of each possible code, since sorting all rows would cost more than all the scores.
    present = np.flatnonzero(np.bincount(code))
    position = np.zeros(int(present[-1]) + 1, np.int64)
    position[present] = np.arange(len(present))
    keys = [
        (parts[outer // len(models)], models[outer % len(models)], steps)
        for outer, steps in (divmod(c, longest) for c in present.tolist())
    ]
    day = days(block["origin"])
    first = int(day.min())
    return ScoredRows(
        block=block,
        keys=keys,
        group=position[code],
        first=first,
        day=day - first,
        days=int(day.max()) - first + 1,
    )


def codes(names: pd.Series) -> tuple[list[str], Array]:
    """The names of a column, sorted or not, and the index of each row's."""
    names = names.astype("category")
    return list(names.cat.categories), names.cat.codes.to_numpy().astype(np.int64)


def days(dates: pd.Series) -> Array:
    """Days since 1970."""
    return dates.to_numpy().astype("datetime64[D]").astype(np.int64)


class DailySums:
    """Sums per calendar day in columns, over a range of days that grows as they come.

    Attributes
    ----------
    first : day of row 0
    values : array, shape (days, columns)
    """

    def __init__(self, columns: int, dtype: DTypeLike = np.float64) -> None:
        self.first = 0
        self.values: Array = np.zeros((0, columns), dtype)

    def add(self, first: int, values: Array) -> None:
        """Add sums of consecutive days, shape (days, columns), from the day `first` on."""
        if not len(self.values):
            self.first = first
        before = max(self.first - first, 0)
        after = max(first + len(values) - self.first - len(self.values), 0)
        if before or after:
            self.values = np.pad(self.values, ((before, after), (0, 0)))
            self.first -= before
        at = first - self.first
        self.values[at : at + len(values)] += values.astype(self.values.dtype)
