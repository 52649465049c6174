"""Calibration: how often outcomes fell where the forecasts said they would."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from forecast.evaluation.recalibration import SUFFIX
from forecast.report.levels import bins_of, levels_of, pit_histograms, reliability
from forecast.report.markup import html_models, is_null, number
from forecast.report.roster import (
    EQUAL_INFORMATION,
    benchmark,
    best_of,
    horizons_of,
    networks,
    newest_part,
    ordered,
    scores_at,
)
from forecast.report.style import colour, embed, in_words
from forecast.run import Run

NOTE = (
    '<p class="note">Reliability: of all outcomes, a share equal to the level should lie at or '
    "below the quantile of that level. PIT histograms: each bin lies between two stated levels, "
    "the outermost are 1 % wide; a hump in the middle means forecasts too wide, high ends mean "
    "tails too thin.</p>"
)


def calibration(run: Run) -> str:
    """How to read it, and the figures of each part; of a walk-forward's newest, a table too."""
    metrics, walk_forward = run.metrics, "backtest" in run.config
    asked, html = networks(run), NOTE
    newest = newest_part(metrics)
    for part in [newest] if walk_forward and newest else metrics["parts"]:
        counted = counted_in((metrics.get("calibration") or {}).get(part) or {})
        html += f"<h3>{escape(part.capitalize())}</h3>"
        if not counted:
            html += "<p>No forecast of this part states quantiles.</p>"
        elif walk_forward:
            html += _figures(counted, part, _drawn(run, part, counted, asked))
            html += _table(counted, asked)
        else:
            html += _figures(counted, part, counted)
    return html


def counted_in(calibration: Mapping[str, Any]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Model -> horizon -> what was counted, where anything was."""
    counted: dict[str, dict[int, Mapping[str, Any]]] = {}
    for model, by_horizon in calibration.items():
        for horizon, counts in (by_horizon or {}).items():
            if counts and sum(counts["pit_counts"]):
                counted.setdefault(model, {})[int(horizon)] = counts
    return counted


def _drawn(run: Run, part: str, counted: Collection[str], asked: Sequence[str]) -> list[str]:
    """The networks, a recalibrated copy of the first, the benchmark, the best that knows as much.

    Twenty models cannot be told apart in one figure; the table below it has them all.
    """
    metrics = run.metrics
    scores = scores_at(metrics, part, horizons_of(metrics, part)[0])
    wanted = [
        *asked[:3],
        *(f"{model}{SUFFIX}" for model in asked[:1]),
        benchmark(run, scores),
        best_of(scores, EQUAL_INFORMATION, "crps"),
    ]
    return [model for model in wanted if model and model in counted] or list(counted)[:6]


def _figures(
    counted: Mapping[str, Mapping[int, Mapping[str, Any]]], part: str, models: Collection[str]
) -> str:
    drawn = {model: counted[model] for model in models}
    return embed(reliability(levels_of(drawn)), f"reliability-{part}") + embed(
        pit_histograms(bins_of(drawn)), f"pit-{part}"
    )


def _table(counted: Mapping[str, Mapping[int, Mapping[str, Any]]], asked: Sequence[str]) -> str:
    """Of every model, how many bins lie outside their bands, and how full the tails are."""
    models = ordered(counted, asked)
    groups = {
        f"horizon {in_words([horizon])}": {
            model: _row(counted[model][horizon]) for model in models if horizon in counted[model]
        }
        for horizon in sorted({horizon for rows in counted.values() for horizon in rows})
    }
    heads = (
        *("model", "below 1 % level, %", "above 99 % level, %"),
        *("bins outside their band", "exact bins outside their band"),
    )
    return (
        '<p class="note">The shaded bands, and this table, allow for the dependence between the '
        "symbols of a date and between dates: one bin in twenty lies outside its 95 % band by luck "
        "alone. Exact bins are 20 of equal width, from the forecast's density.</p>"
    ) + html_models(heads, groups, colour=colour, strong=asked)


def _row(counts: Mapping[str, Any]) -> list[str]:
    total = sum(counts["pit_counts"])
    exact = counts.get("exact") or {}
    return [
        number(counts["pit_counts"][0] / total, 2, 100),
        number(counts["pit_counts"][-1] / total, 2, 100),
        _outside(counts["pit_counts"], counts.get("pit_bands")),
        _outside(exact.get("counts"), exact.get("bands")),
    ]


def _outside(counts: Sequence[float] | None, bands: Any) -> str:
    """How many bins hold a share outside their band."""
    if not counts or not bands:
        return number(None, 0)
    total = sum(counts)
    outside = sum(
        not low <= count / total <= high
        for count, (low, high) in zip(counts, bands, strict=True)
        if not is_null(low) and not is_null(high)
    )
    return f"{outside} of {len(counts)}"
