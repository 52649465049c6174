"""What of one symbol's daily prices can be used, by its own row alone.

A row or cell goes because of what stands in its own row, so the past never depends on the future.
The frame is that of one symbol as it lies in the store: `date` and `NUMBERS`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from forecast.prices.findings import Fault, Finding, findings, many
from forecast.prices.frame import BASIS_TOLERANCE

BARS = ("open", "high", "low")
ACTIONS = ("dividend", "split", "capital_gain")
NUMBERS = (*BARS, "close", "volume", *ACTIONS)


def sound(symbol: str, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding]]:
    """The rows and cells that can be used, and a finding for everything that cannot.

    Rows without a finite, positive close are left out; their actions move to the next row that
    stays. Open, high, low and volume that are unsound or contradict their row become NaN, an
    unsound action becomes 0. What `forecast.prices.frame.checked` refuses does not remain.

    The result for the first k rows is the first part of the result for all of them, because a row
    depends on itself and on the actions of rows before it.

    Parameters
    ----------
    symbol : for the findings.
    frame : `date` (datetime64, ascending, unique) and `NUMBERS`, float64.

    Returns
    -------
    frame : the same columns; it may be empty.
    findings : what was left out, emptied or moved.
    """
    date = frame["date"].to_numpy()
    column = {name: frame[name].to_numpy(dtype=np.float64, copy=True) for name in NUMBERS}
    faults: dict[str, Fault] = {}

    unsound = np.zeros(len(date), dtype=bool)
    for name in ACTIONS:
        unsound |= _overwrite(column[name], (column[name] < 0) | np.isinf(column[name]), 0.0)
    faults["unsound_action"] = Fault(
        "severe",
        date[unsound],
        f"Negative or infinite dividend, split or capital gain in {many(unsound, 'row')}, taken "
        "as none: returns there may lack it. Look up the true value.",
    )

    close = column["close"]
    null, kept = np.isnan(close), is_price(close)
    nonpositive = ~null & ~kept
    faults["null_close"] = Fault(
        "info",
        date[null],
        f"No close in {many(null, 'row')}, left out: a date without a close is no session.",
    )
    faults["nonpositive"] = Fault(
        "severe",
        date[nonpositive],
        f"Zero, negative or infinite close in {many(nonpositive, 'row')}, left out: the return "
        "across it spans more than one session. Fetch the symbol afresh.",
    )
    if not kept.all():
        moved, pending = _move_actions(column, kept)
        faults["moved_action"] = Fault(
            "info",
            date[moved],
            f"Dividend, split or capital gain in {many(moved, 'row')} without a usable close, "
            "moved to the next session.",
        )
        faults["pending_action"] = Fault(
            "info",
            date[pending],
            f"Dividend, split or capital gain in {many(pending, 'row')} at the end without a "
            "usable close, left out until a session follows.",
        )
        date, column = date[kept], {name: values[kept] for name, values in column.items()}

    empty = np.zeros(len(date), dtype=bool)
    for name in BARS:
        empty |= _overwrite(column[name], ~is_price(column[name]) & ~np.isnan(column[name]))
    faults["empty_bar"] = Fault(
        "warn",
        date[empty],
        f"Open, high or low is zero, negative or infinite in {many(empty, 'session')} and was "
        "emptied: features of the daily range have no value there.",
    )
    contradiction = _empty_contradictions(column)
    faults["contradiction"] = Fault(
        "warn",
        date[contradiction],
        f"High below low, or close or open outside their range, in "
        f"{many(contradiction, 'session')}: the part that contradicts was emptied.",
    )
    volume = column["volume"]
    unsound = _overwrite(volume, (volume < 0) | np.isinf(volume))
    faults["unsound_volume"] = Fault(
        "warn",
        date[unsound],
        f"Negative or infinite volume in {many(unsound, 'session')}, emptied.",
    )
    return pd.DataFrame({"date": date, **column}, copy=False), findings(symbol, faults)


def is_sound(column: Mapping[str, np.ndarray]) -> bool:
    """Whether `sound` would change nothing, at a fraction of its cost.

    Parameters
    ----------
    column : arrays of one symbol by the names of `NUMBERS`.
    """
    opening, high, low, close = (column[name] for name in (*BARS, "close"))
    if not is_price(close).all():
        return False
    slack = BASIS_TOLERANCE * (1 + close)
    with np.errstate(invalid="ignore"):  # what is not given contradicts nothing
        wrong = (
            *(column[name] < 0 for name in (*ACTIONS, "volume")),
            *(column[name] <= 0 for name in BARS),
            *(np.isinf(column[name]) for name in NUMBERS),
            high < low,
            close - high > slack,
            low - close > slack,
            opening - high > slack,
            low - opening > slack,
        )
    return not any(mask.any() for mask in wrong)


def is_price(values: np.ndarray) -> np.ndarray:
    return np.asarray((values > 0) & (values < np.inf))


def _overwrite(values: np.ndarray, wrong: np.ndarray, by: float = np.nan) -> np.ndarray:
    values[wrong] = by
    return wrong


def _move_actions(column: dict[str, np.ndarray], kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add the actions of rows that go to the next row that stays, in place.

    Yahoo states all of them as of the fetch, so dividends of several dates add up and splits
    multiply. Returns the masks of rows whose action was moved, and of those with no row to move to.
    """
    acting = ~kept & np.logical_or.reduce([acts(name, column[name]) for name in ACTIONS])
    rows = np.flatnonzero(kept)
    following = np.searchsorted(rows, np.flatnonzero(acting))
    pending = np.zeros(len(kept), dtype=bool)
    pending[np.flatnonzero(acting)[following == len(rows)]] = True
    moved = acting & ~pending
    for name in ACTIONS:
        values = column[name]
        source = np.flatnonzero(moved & acts(name, values))
        target = rows[np.searchsorted(rows, source)]
        nothing = target[~acts(name, values[target])]
        values[nothing] = 1.0 if name == "split" else 0.0
        (np.multiply if name == "split" else np.add).at(values, target, values[source])
    return moved, pending


def acts(name: str, values: np.ndarray) -> np.ndarray:
    """Rows in which an action happens: a dividend above 0, a split other than 1."""
    there = values > 0
    return np.asarray(there & (values != 1) if name == "split" else there)


def _empty_contradictions(column: dict[str, np.ndarray]) -> np.ndarray:
    """Empty, in place, high and low in the wrong order or off the close, and an open off both."""
    opening, high, low, close = (column[name] for name in (*BARS, "close"))
    slack = BASIS_TOLERANCE * (1 + close)
    crossed = high < low
    _overwrite(high, crossed)
    _overwrite(low, crossed)
    below = _overwrite(high, close - high > slack)
    above = _overwrite(low, low - close > slack)
    outside = _overwrite(opening, (opening - high > slack) | (low - opening > slack))
    return np.asarray(crossed | below | above | outside)
