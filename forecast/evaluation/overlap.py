"""Do ranges that must be apart overlap? In a configuration's folds, in a run's facts and table.

Nothing here uses the code that cuts the ranges: dates are counted again from the panel and from
what a run has stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.evaluation.audit import Line
from forecast.forecasts import read_blocks

NAME = "folds"
Ranges = Mapping[str, Range]


def check_ranges(panel: Panel, folds: Sequence[Ranges], *, reach: int, embargo: int) -> Line:
    """Rows of every fold: the last target of a range against the first origin of the next.

    Parameters
    ----------
    folds : sequence of mappings
        Rows of train, validation and test, fold by fold.
    reach : int
        Sessions from an origin to its last target.
    embargo : int
        Sessions of the panel's calendar that must lie between, beyond that.
    """
    problems: list[str] = []
    for number, fold in enumerate(folds):
        for part, following in (("train", "validation"), ("validation", "test")):
            ends, begin = (
                _last_targets(panel, fold[part], reach),
                _first_origin(panel, fold[following]),
            )
            if ends is None or begin is None:
                empty = part if ends is None else following
                problems.append(f"fold {number} has no {empty} row")
                continue
            late = int(ends.max())
            if late >= begin:
                problems.append(
                    f"fold {number}: a target of the {part} range is known on "
                    f"{panel.dates[min(late, len(panel.dates) - 1)]}, when the {following} range "
                    f"has begun ({panel.dates[begin]})"
                )
            elif begin - late <= embargo:
                problems.append(
                    f"fold {number}: {begin - late - 1} sessions lie between {part} and "
                    f"{following}, the embargo is {embargo}"
                )
    for number, (one, other) in enumerate(pairwise(folds)):
        a, b = one["test"], other["test"]
        both = np.minimum(a.high, b.high) > np.maximum(a.low, b.low)
        if (both & (a.high > a.low) & (b.high > b.low)).any():
            problems.append(f"the test ranges of folds {number} and {number + 1} share rows")
    several = f"{len(folds)} folds" if len(folds) > 1 else "one fold"
    return _line(
        problems,
        f"{several}: every target of a range is known before the next range begins.",
    )


def check_facts(folds: Iterable[Mapping[str, Sequence[str]]]) -> Line:
    """The ranges of dates that a run states in data.json."""
    problems, before = [], ""
    for number, fold in enumerate(folds):
        for one, other in (("train", "validation"), ("validation", "test")):
            if fold[one][1] >= fold[other][0]:
                problems.append(
                    f"data.json, fold {number}: {one} ends on {fold[one][1]}, {other} begins on "
                    f"{fold[other][0]}"
                )
        if fold["test"][0] <= before:
            problems.append(f"data.json: the test range of fold {number} begins by {before}")
        before = fold["test"][1]
    return _line(problems, "the ranges in data.json follow one another.")


def check_table(path: Path) -> Line:
    """Origins and target dates of a Forecasts table, by fold and part."""
    spans: dict[tuple[int, str], list[str]] = {}
    for block in read_blocks(path, columns=["fold", "part", "origin", "target_date"]):
        for (fold, part), rows in block.groupby(["fold", "part"], observed=True):
            low, high = rows["origin"].min(), rows["origin"].max()
            known = [] if rows["target_date"].isna().all() else [rows["target_date"].max()]
            found = [f"{day:%Y-%m-%d}" for day in (low, high, *known)]
            old = spans.setdefault((int(str(fold)), str(part)), [found[0], found[1], ""])
            old[:] = [min(old[0], found[0]), max(old[1], found[1]), max(old[2], *found[2:], "")]
    problems = []
    tests = sorted((fold, span) for (fold, part), span in spans.items() if part == "test")
    for fold, span in tests:
        validation = spans.get((fold, "validation"))
        if validation is not None and validation[2] >= span[0]:
            problems.append(
                f"forecasts.parquet, fold {fold}: a validation target is known on {validation[2]}, "
                f"the first test origin is {span[0]}"
            )
    for (fold, one), (other, two) in pairwise(sorted(tests, key=lambda entry: entry[1][0])):
        if two[0] <= one[1]:
            problems.append(
                f"forecasts.parquet: the test origins of folds {fold} and {other} overlap, "
                f"{two[0]} to {min(one[1], two[1])}"
            )
    return _line(problems, "no part of the Forecasts table reaches into another.")


def joined(lines: Sequence[Line], good: str | None = None) -> Line:
    """Several lines of one check as one: the worst, or what holds for all of them."""
    for status in ("fail", "warn"):
        for line in lines:
            if line.status == status:
                return line
    sentence = good or "; ".join(line.sentence.removesuffix(".") for line in lines) + "."
    return Line(status="pass", name=lines[0].name, sentence=sentence)


def _last_targets(panel: Panel, rows: Range, reach: int) -> np.ndarray | None:
    """Day, in the panel's calendar, of each symbol's last target; beyond its data: past the end."""
    some = rows.high > rows.low
    if not some.any():
        return None
    end, stop = rows.high[some] - 1 + reach, panel.offsets[1:][some]
    days: np.ndarray = np.where(end < stop, panel.day[np.minimum(end, stop - 1)], len(panel.dates))
    return days


def _first_origin(panel: Panel, rows: Range) -> int | None:
    some = rows.high > rows.low
    return int(panel.day[rows.low[some]].min()) if some.any() else None


def _line(problems: Sequence[str], good: str) -> Line:
    if not problems:
        return Line(status="pass", name=NAME, sentence=good)
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    return Line(status="fail", name=NAME, sentence=f"{problems[0]}{more}.")
