"""Tables of scores, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from forecast.report.markup import Cell, date_range, html_models, is_null, number
from forecast.report.roster import (
    benchmark,
    horizons_of,
    networks,
    newest_part,
    ordered,
    scores_at,
)
from forecast.report.style import colour, in_words

if TYPE_CHECKING:
    from forecast.run import Run

Row = Mapping[str, Any]

# key, heading, digits, factor, what is best: lowest, highest, nearest to a number, or nothing
Column = tuple[str, str, int, float, float | None]
LOW, HIGH = -np.inf, np.inf
COLUMNS: tuple[Column, ...] = (
    ("crps", "crps, %", 4, 1, LOW),
    ("crps_exact", "exact crps, %", 4, 1, LOW),
    ("mae", "MAE, %", 4, 1, LOW),
    ("mae_zero", "MAE of no change, %", 4, 1, None),
    ("coverage_50", "in 50 % interval, %", 2, 100, 0.5),
    ("coverage_90", "in 90 % interval, %", 2, 100, 0.9),
    ("log_score", "log score, nats", 4, 1, LOW),
    ("crps_scaled", "crps, scaled", 4, 1, LOW),
    ("rows", "forecasts", 0, 1, None),
)
DISTRIBUTION: tuple[Column, ...] = (
    ("crps", "crps, %", 4, 1, LOW),
    ("beside", "beside {benchmark}, %", 2, 1, None),
    ("crps_exact", "exact crps, %", 4, 1, LOW),
    ("log_score", "log score, nats", 4, 1, LOW),
    ("qlike", "QLIKE", 4, 1, LOW),
    ("crps_scaled", "crps, scaled", 4, 1, LOW),
    ("coverage_50", "in 50 % interval, %", 2, 100, 0.5),
    ("coverage_90", "in 90 % interval, %", 2, 100, 0.9),
    ("interval_90", "interval score 90 %, %", 3, 1, LOW),
    ("rows", "forecasts", 0, 1, None),
)
DIRECTION: tuple[Column, ...] = (
    ("mae", "MAE, %", 4, 1, LOW),
    ("mae_zero", "MAE of no change, %", 4, 1, None),
    ("r2_zero", "R² beside zero, %", 2, 100, HIGH),
    ("r2_zero_t", "t", 1, 1, None),
    ("r2_mean", "R² beside the drift, %", 2, 100, HIGH),
    ("r2_mean_t", "t", 1, 1, None),
    ("hit_rate", "right sign, %", 2, 100, HIGH),
    ("always_up", "always up, %", 2, 100, None),
    ("hit_t", "t", 1, 1, None),
    ("ic", "IC", 3, 1, HIGH),
    ("ic_t", "t", 1, 1, None),
    ("rank_ic", "rank IC", 3, 1, HIGH),
    ("rank_ic_t", "t", 1, 1, None),
)


def score_tables(run: Run) -> str:
    """How to read them, and the tables of each part."""
    metrics, walk_forward = run.metrics, "backtest" in run.config
    lacked = metrics.get("lacked") or {}
    dropped = ", ".join(
        f"{number(rows, 0)} on {escape(part)}{_lacking(lacked.get(part) or {})}"
        for part, rows in (metrics.get("dropped") or {}).items()
        if rows
    )
    html = (
        '<p class="note">crps measures a whole distribution as the mean absolute error (MAE) '
        "measures a number. Lower is better; for the intervals, nearer to their nominal 50 % and "
        "90 %; the best of a horizon is shaded. All models are scored on the same symbols and "
        f"origins{f' (forecasts dropped to make it so: {dropped})' if dropped else ''}. Over one "
        "session, an MAE within a few tenths of a percent of that of no change is what returns "
        "allow; over longer horizons the drift of a rising market lowers it.</p>"
    )
    if walk_forward and len(metrics["parts"]) > 1:
        html += (
            f'<p class="note">The sections below are about the {escape(str(newest_part(metrics)))} '
            "part; metrics.json has as much on the others.</p>"
        )
    asked = networks(run)
    for part in reversed(metrics["parts"]) if walk_forward else metrics["parts"]:
        dates = date_range((run.data.get("fold") or {}).get(part))
        html += f"<h3>{escape(f'{part.capitalize()}, {dates}')}</h3>"
        scores = {
            horizon: scores_at(metrics, part, horizon) for horizon in horizons_of(metrics, part)
        }
        if not scores:
            html += "<p>No forecast falls into this part.</p>"
        elif walk_forward:
            html += _of_backtest(run, scores, asked)
        else:
            html += _table(scores, COLUMNS, asked)
    return html


def _lacking(rows: Mapping[str, int]) -> str:
    """Which models' missing rows made others' be dropped."""
    listed = ", ".join(f"{escape(model)} {number(count, 0)}" for model, count in rows.items())
    return f", since lacking in {listed}" if listed else ""


def _of_backtest(run: Run, scores: Mapping[int, Mapping[str, Row]], asked: Sequence[str]) -> str:
    """One table on the distributions and one on the means, networks first."""
    models = ordered((model for rows in scores.values() for model in rows), asked)
    against = benchmark(run, models)
    with_gain = {
        horizon: {
            model: {**rows[model], "beside": _beside(rows[model], rows.get(against or "", {}))}
            for model in models
            if model in rows
        }
        for horizon, rows in scores.items()
    }
    columns = [
        (column[0], column[1].format(benchmark=against), *column[2:])
        for column in DISTRIBUTION
        if column[0] != "beside" or against
    ]
    return (
        _table(with_gain, columns, asked)
        + '<p class="note">The means of the same forecasts. R² is out of sample, beside a forecast '
        "of zero and beside the mean return of the training years, with the t of Clark and West; "
        "the t of the right sign is that of Pesaran and Timmermann, clustered by date; IC is the "
        "correlation of forecast and outcome over the symbols of a date, of which it needs five. A "
        "dash stands where there is nothing to compute: beside the drift, where drift is not among "
        "the models; for the sign, where the forecast always has the same; for IC, where it is the "
        "same for all symbols. A t below 2 cannot be told from luck.</p>"
        + _table(with_gain, DIRECTION, asked)
    )


def _beside(row: Row, other: Row) -> float | None:
    """Percent by which a crps lies above another's."""
    if is_null(row.get("crps")) or not other.get("crps"):
        return None
    return float(100 * (row["crps"] / other["crps"] - 1))


def _table(
    scores: Mapping[int, Mapping[str, Row]], columns: Sequence[Column], asked: Sequence[str]
) -> str:
    """Horizon by horizon, the best of each column marked (a simulation's truth set aside)."""
    groups = {}
    for horizon, models in scores.items():
        best = {key: _best(models, key, goal) for key, *_, goal in columns}
        groups[f"horizon {in_words([horizon])}"] = {
            model: [
                Cell(number(row.get(key), digits, factor), best=model in best[key])
                for key, _, digits, factor, _ in columns
            ]
            for model, row in models.items()
        }
    heads = ("model", *(heading for _, heading, *_ in columns))
    return html_models(heads, groups, colour=colour, strong=asked)


def _best(scores: Mapping[str, Row], key: str, goal: float | None) -> set[str]:
    """The models nearest to the goal; none where there is nothing to choose between."""
    if goal is None:
        return set()
    distance: Callable[[float], float] = (
        (lambda value: value)
        if goal == LOW
        else (lambda value: -value)
        if goal == HIGH
        else (lambda value: abs(value - goal))
    )
    known = {
        model: distance(row[key])
        for model, row in scores.items()
        if model != "truth" and not is_null(row.get(key))
    }
    best = {model for model, value in known.items() if value == min(known.values())}
    return best if len(best) < len(known) else set()
