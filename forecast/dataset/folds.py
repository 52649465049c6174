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
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.dataset.panel import Panel


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Dates at which the ranges of origins begin; fixed by date, so more data moves nothing.

    Attributes
    ----------
    validation, test : datetime64[D]
        First origin date of each range.
    train_end, validation_end : datetime64[D]
        Targets of the range must be known *before* this date: the next range's first origin,
        earlier by the embargo.
    index : int
        0 outside walk-forwards.
    train_start : datetime64[D], optional
        First origin date of training; None: it begins with the data.
    test_end : datetime64[D], optional
        Origins of the test range lie before this date; None: it ends with the data. Nothing is
        fitted on a test range, so its last targets may reach beyond.
    """

    validation: np.datetime64
    test: np.datetime64
    train_end: np.datetime64
    validation_end: np.datetime64
    index: int = 0
    train_start: np.datetime64 | None = None
    test_end: np.datetime64 | None = None


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


def walk_forward(
    dates: np.ndarray,
    *,
    first: str | int,
    last: str | int | None = None,
    refit: str | int = "1y",
    train: str | int = "expanding",
    validation: int = 500,
    embargo: int = 0,
) -> Iterator[Fold]:
    """Folds whose test ranges follow one another, each fitted on what came before.

    Parameters
    ----------
    dates : array of datetime64[D], shape (T,)
        The union calendar.
    first, last : str
        First and last test origin, YYYY-MM-DD; None: the end of the dates.
    refit : str
        Length of a test range: `1y`, `6m`, `13w`; `never`: one fold for all.
    train : str
        `expanding`, or the length of training before each validation range: `10y`.
    validation, embargo : int
        Sessions, as in `make_fold`.

    Raises
    ------
    ForecastError
        A date or length cannot be read, or a range would be empty.
    """
    begin, end = _date(str(first), "backtest.first"), len(dates)
    if last is not None:
        end = int(np.searchsorted(dates, _date(str(last), "backtest.last"), side="right"))
    step, length = (
        _span(str(refit), "backtest.refit", "never"),
        _span(str(train), "backtest.train", "expanding"),
    )
    if np.searchsorted(dates, begin) >= end:
        until = "" if last is None else f" and backtest.last={last}"
        raise ForecastError(
            f"backtest.first={first}{until} leave no test session: the dates run from {dates[0]} "
            f"to {dates[-1]}. Choose an earlier first or a later last."
        )
    index = number = 0
    while True:
        low = int(np.searchsorted(dates, _later(begin, step, number)))
        number += 1
        high = end if step is None else int(np.searchsorted(dates, _later(begin, step, number)))
        if low >= end:
            return
        if low < high:
            yield _fold(dates, low, high, end, length, validation, embargo, index)
            index += 1
        if step is None:
            return


def _fold(
    dates: np.ndarray,
    low: int,
    high: int,
    end: int,
    length: pd.DateOffset | None,
    validation: int,
    embargo: int,
    index: int,
) -> Fold:
    """The fold whose test origins are `dates[low:min(high, end)]`."""
    if validation < 1 or not 0 <= embargo < validation:
        raise ForecastError(
            f"split.validation={validation} must be at least 1 session, and backtest.embargo="
            f"{embargo} at least 0 and below it. Correct one of them."
        )
    first_validation = low - validation
    start = None
    if length is not None and first_validation > 0:
        start = np.datetime64((pd.Timestamp(dates[first_validation]) - length).date(), "D")
    begins = 0 if start is None else int(np.searchsorted(dates, start))
    if first_validation - embargo <= begins:
        raise ForecastError(
            f"fold {index}: split.validation={validation} and backtest.embargo={embargo} sessions "
            f"before {dates[low]} leave no training session: the dates begin on {dates[0]}. Choose "
            "a later backtest.first or a longer backtest.train, or lower one of the two."
        )
    return Fold(
        validation=dates[first_validation],
        test=dates[low],
        train_end=dates[first_validation - embargo],
        validation_end=dates[low - embargo],
        index=index,
        train_start=start,
        test_end=dates[min(high, end)] if min(high, end) < len(dates) else None,
    )


def _date(text: str, key: str) -> np.datetime64:
    try:
        return np.datetime64(datetime.date.fromisoformat(text), "D")  # numpy would take "today"
    except ValueError as error:
        raise ForecastError(f"{key}={text!r} is no date. Write 2010-01-04.") from error


def _span(text: str, key: str, word: str) -> pd.DateOffset | None:
    """A length such as 10y, 6m or 13w; None for the word that stands for no limit."""
    if text == word:
        return None
    number, unit = text[:-1], text[-1:]
    # Four digits would lead beyond the years that a date can have.
    if unit not in ("y", "m", "w") or not number.isdecimal() or not 1 <= int(number[:4]) <= 999:
        raise ForecastError(f"{key}={text!r} is no length. Write 1y, 6m, 13w or {word}.")
    if unit == "w":
        return pd.DateOffset(weeks=int(number))
    return pd.DateOffset(months=int(number) * (12 if unit == "y" else 1))


def _later(begin: np.datetime64, step: pd.DateOffset | None, number: int) -> np.datetime64:
    # Counted from the beginning each time: adding months one by one would drift to the 28th.
    moved = pd.Timestamp(begin) + (number * step if step is not None else pd.Timedelta(0))
    return np.datetime64(moved.date(), "D")


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
    train = start if fold.train_start is None else panel.first_row(fold.train_start)
    test_stop = stop if fold.test_end is None else panel.first_row(fold.test_end)
    # Row i is known once row i + reach is: purging by date is a shift in the symbol's own rows.
    bounds = {
        "train": (np.maximum(train, start), panel.first_row(fold.train_end) - reach),
        "validation": (
            np.maximum(validation, start),
            panel.first_row(fold.validation_end) - reach,
        ),
        "test": (np.maximum(test, start), test_stop),
    }
    return {
        part: Range(low=low, high=high, entry=panel.day[np.minimum(low, stop - 1)])
        for part, (low, high) in bounds.items()
    }
