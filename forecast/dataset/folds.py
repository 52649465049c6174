"""Train, validation and test ranges by date, and the purge between them.

```
dates   ───────────────────────────────────────────────────────────────▶
origins  train ─────────────┤ validation ──────────┤ test ─────────────┤
targets  train ───────────────┤ h               ─────┤ h           ──────┤ h
purged                    ▒▒▒▒                   ▒▒▒▒
```
A row belongs to a range only if its *last* target date precedes the first origin date of the next
range. There is no case in which skipping this is honest: the loss of a purged row would hold
returns of the range that is to judge the fit.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np

from forecast.config import ForecastError
from forecast.dataset.panel import Panel


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Dates at which the ranges of origins begin; fixed by date, so more data moves nothing.

    Attributes
    ----------
    validation, test : datetime64[D]
        First origin date of each range. Training begins with the data.
    train_end, validation_end : datetime64[D]
        Targets of the range must be known *before* this date: the next range's first origin,
        earlier by the embargo.
    index : int
        0 outside walk-forwards.
    """

    validation: np.datetime64
    test: np.datetime64
    train_end: np.datetime64
    validation_end: np.datetime64
    index: int = 0


@dataclass(frozen=True, kw_only=True)
class Range:
    """Rows `low[s]:high[s]` of each symbol, both of shape (S,); empty where low ≥ high.

    `entry` is the day of row `low[s]`, by which symbols are ordered; None is the panel's order.
    """

    low: np.ndarray
    high: np.ndarray
    entry: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return int(np.maximum(self.high - self.low, 0).sum())

    def ordered(self, symbols: np.ndarray) -> np.ndarray:
        """Symbols in the order in which they enter the range.

        What is worked on in this order keeps its place whoever is listed later, and with it its
        bits: a product may round by the place of a row in the block.
        """
        symbols = np.sort(symbols)
        if self.entry is None:
            return symbols
        return symbols[np.argsort(self.entry[symbols], kind="stable")]

    def blocks(self, size: int) -> list[np.ndarray]:
        """Symbols with a row in the range, `size` at a time as they enter it, each block sorted."""
        chosen_S = self.ordered(np.flatnonzero(self.high > self.low))
        return [np.sort(chosen_S[i : i + size]) for i in np.arange(0, len(chosen_S), size)]


def make_fold(
    dates: np.ndarray, *, validation: int = 500, test: float | int | str = 0.2, embargo: int = 0
) -> Fold:
    """Split the union calendar.

    Parameters
    ----------
    dates : array of datetime64[D], shape (T,)
    validation : int
        Sessions of the validation range.
    test : float or str
        Fraction of the dates at the end, rounded up, or the first test origin's date.
    embargo : int
        Sessions before each range that no target may touch, beyond the purge.

    Raises
    ------
    ForecastError
        A range would be empty.
    """
    total = len(dates)
    if isinstance(test, str):
        try:
            day = np.datetime64(datetime.date.fromisoformat(test), "D")  # numpy would take "today"
            first_test = int(np.searchsorted(dates, day))
        except ValueError as error:
            raise ForecastError(
                f"split.test={test!r} is neither a fraction nor a date. Write 0.2 or 2016-01-04."
            ) from error
    elif 0 < test < 1:
        first_test = int(round(total * (1 - test), 6))  # 100·(1 − 0.9) is a little below 10
    else:
        raise ForecastError(f"split.test={test} is no fraction between 0 and 1, nor a date.")
    first_validation = first_test - validation
    if validation < 1 or embargo < 0:
        raise ForecastError(
            f"split.validation={validation} must be at least 1 session and "
            f"split.embargo={embargo} at least 0."
        )
    if embargo >= validation:
        raise ForecastError(
            f"split.embargo={embargo} leaves no validation session of split.validation="
            f"{validation}. Lower the embargo or lengthen the validation range."
        )
    if first_test >= total:
        raise ForecastError(
            f"split.test={test} leaves no test session: the data end on {dates[-1]}. "
            "Choose an earlier date."
        )
    if first_validation - embargo < 1:
        raise ForecastError(
            f"split.validation={validation} and split.test={test} leave no training session of "
            f"{total} ({dates[0]} to {dates[-1]}). Lower one of them or use more data."
        )
    return Fold(
        validation=dates[first_validation],
        test=dates[first_test],
        train_end=dates[first_validation - embargo],
        validation_end=dates[first_test - embargo],
    )


def ranges(panel: Panel, fold: Fold, *, reach: int, warmup: int) -> dict[str, Range]:
    """Rows of each range, purged.

    Parameters
    ----------
    reach : int
        Sessions from an origin to its last target: target.delay + the longest horizon.
    warmup : int
        Sessions at the start of each symbol that carry no forecast.
    """
    start = panel.offsets[:-1] + warmup
    stop = panel.offsets[1:]
    validation, test = panel.first_row(fold.validation), panel.first_row(fold.test)
    # Row i is known once row i + reach is: purging by date is a shift in the symbol's own rows.
    bounds = {
        "train": (start, panel.first_row(fold.train_end) - reach),
        "validation": (
            np.maximum(validation, start),
            panel.first_row(fold.validation_end) - reach,
        ),
        "test": (np.maximum(test, start), stop),
    }
    return {
        part: Range(low=low, high=high, entry=panel.day[np.minimum(low, stop - 1)])
        for part, (low, high) in bounds.items()
    }
