"""What `data.json` tells of prices, panel and folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from forecast.config import ForecastError
from forecast.dataset.folds import Fold, ranges
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.prices.examine import examine
from forecast.prices.frame import Prices


def data_facts(panel: Panel, prices: Prices, folds: Sequence[Fold], task: Task) -> dict[str, Any]:
    """Source, symbols, dates, folds and warnings, in primitives.

    `fold` has the dates of all folds together, but validation is the first fold's: the one in
    which choices are made.
    """
    told: list[dict[str, Any]] = []
    reached = np.zeros(len(panel.symbols), bool)
    for fold in folds:
        found = ranges(panel, fold, reach=task.reach, warmup=task.warmup)
        reached |= np.any([r.high > r.low for r in found.values()], axis=0)
        for part, rows in found.items():
            if not rows.rows:
                raise ForecastError(
                    f"fold {fold.index} (test from {fold.test}): no symbol has a {part} row after "
                    f"window.warmup={task.warmup} sessions and the purge of {task.reach}. Use "
                    "longer histories, a smaller warmup or other dates."
                )
        told.append(
            {"index": fold.index, "targets": found["train"].rows, **_dates(panel.dates, fold)}
        )
    short = [
        {"symbol": s, "reason": f"no session left after window.warmup={task.warmup}"}
        for s, some in zip(panel.symbols, reached, strict=True)
        if not some
    ]
    first, last = told[0], told[-1]
    calendar, market = prices.frame.get("calendar"), panel.market
    return {
        "source": prices.source,
        "sha256": prices.sha256,
        "calendars": [] if calendar is None else list(calendar.cat.categories),
        "rows": panel.rows,
        "targets": last["targets"],
        "dates": {"first": str(panel.dates[0]), "last": str(panel.dates[-1])},
        "fold": {
            "train": [first["train"][0], last["train"][1]],
            "validation": first["validation"],
            "test": [first["test"][0], last["test"][1]],
        },
        "folds": told,
        "features": list(panel.names),
        "market": {
            "definition": market.definition,
            "first": str(market.date[0]) if len(market.date) else None,
            "last": str(market.date[-1]) if len(market.date) else None,
        },
        "symbols": [asdict(symbol) for symbol in panel.facts],
        "left_out": [{"symbol": s, "reason": r} for s, r in prices.left_out] + short,
        "quality": [
            {**asdict(found), "dates": list(found.dates)}
            for found in (*prices.findings, *examine(prices))
        ],
        "warnings": [*prices.warnings, *panel.warnings],
    }


def _dates(dates: np.ndarray, fold: Fold) -> dict[str, list[str]]:
    """First and last date of each range of a fold."""
    first = {
        "train": dates[0] if fold.train_start is None else fold.train_start,
        "validation": fold.validation,
        "test": fold.test,
    }
    stop = {"train": fold.train_end, "validation": fold.validation_end, "test": fold.test_end}
    return {
        part: [
            str(dates[dates >= first[part]][0]),
            str(dates[-1] if stop[part] is None else dates[dates < stop[part]][-1]),
        ]
        for part in first
    }
