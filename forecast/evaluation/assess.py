"""All that a Forecasts table says of the models in it, but for comparisons between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from forecast.config import ForecastError
from forecast.evaluation.breakdown import Breakdown, terciles
from forecast.evaluation.direction import Direction
from forecast.evaluation.risk import Risk
from forecast.evaluation.scores import SCORES, Scores
from forecast.forecasts import read_blocks


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What a table was found to be worth.

    Attributes
    ----------
    metrics : dict
        `scores`, `calibration` and `risk`, each by part, model and horizon (as text) in plain
        numbers, null where undefined: parts of `metrics.json`.
    daily : DataFrame
        part, model, horizon, origin, rows and every one of `SCORES`: means over the symbols of an
        origin date, NaN where undefined.
    breakdown : DataFrame
        part, model, horizon, by (year, symbol or scale), value, rows and mean scores.
    delay : int
        Sessions between origin and target, the most of any row.
    """

    metrics: dict[str, Any]
    daily: pd.DataFrame
    breakdown: pd.DataFrame
    delay: int


def assess(path: str | Path) -> Assessment:
    """Score every part, model and horizon of a Forecasts table, as a stream of its blocks.

    Raises
    ------
    ForecastError
        From `read_blocks`; where no actual is known; and where the models of a part and horizon
        are not scored on the same rows.
    """
    cuts = terciles(read_blocks(path, columns=("part", "model", "scale", "actual")))
    if not cuts:
        raise ForecastError(
            f"{path}: no row has a known actual. Give a table whose targets have come to pass."
        )
    scores, breakdown, direction, risk = Scores(), Breakdown(cuts), Direction(), Risk()
    delay = 0
    for block in read_blocks(path):
        delay = max(delay, int(block["delay"].max()))
        for accumulator in (scores, breakdown, direction, risk):
            accumulator.add(block)
    # First, since it checks that the models have the same rows, which the others take for granted.
    metrics = scores.summary()
    for part, models in direction.summary().items():
        for model, horizons in models.items():
            for horizon, found in horizons.items():
                metrics["scores"][part][model][horizon].update(found)
    metrics["risk"] = risk.summary()
    return Assessment(
        metrics=metrics, daily=_daily(scores), breakdown=breakdown.table(), delay=delay
    )


def _daily(scores: Scores) -> pd.DataFrame:
    """The daily means of everything scored, one below the other."""
    tables = []
    for part, model, horizon in scores.keys:
        table = scores.daily(part, model, horizon).reset_index()
        tables.append(table.assign(part=part, model=model, horizon=horizon))
    columns = ["part", "model", "horizon", "origin", "rows", *SCORES]
    return pd.concat(tables, ignore_index=True)[columns]


def table_facts(path: str | Path) -> dict[str, Any]:
    """What `data.json` can tell of a table whose prices are not at hand.

    A row is an origin of a symbol, however many models and horizons state something at it.
    """
    columns = ("part", "symbol", "origin", "model", "horizon")
    spans: list[pd.DataFrame] = []
    for block in read_blocks(path, columns=columns):
        by = block.groupby(["part", "symbol", "model", "horizon"], observed=True)["origin"]
        spans.append(by.agg(["min", "max", "size"]).reset_index().astype({"part": str}))
    rows = pd.concat(spans, ignore_index=True)

    def span(of: pd.DataFrame) -> list[str]:
        return [str(of["min"].min().date()), str(of["max"].max().date())]

    def origins(of: pd.DataFrame) -> int:
        return int(of.groupby("horizon")["size"].sum().max())  # a long horizon may lack the last

    first = rows["model"].iloc[0]
    symbols = rows[rows["model"] == first].astype({"symbol": str}).groupby("symbol")
    return {
        "rows": sum(origins(of) for _, of in symbols),
        "dates": dict(zip(("first", "last"), span(rows), strict=True)),
        "fold": {part: span(of) for part, of in rows.groupby("part")},
        "symbols": [
            {
                "symbol": name,
                "first": span(of)[0],
                "last": span(of)[1],
                "rows": origins(of),
            }
            for name, of in symbols
        ],
        "warnings": [],
    }
