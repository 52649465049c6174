"""What came out of a run, in words and in tables of scores."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from forecast.report import figures
from forecast.report.markup import date_range, html_list, html_text, is_null, number

if TYPE_CHECKING:
    from forecast.run import Run

BEST, NETWORK = ' class="best" title="best"', ' class="network"'

# What no test of a run can see; every report says it.
ALWAYS = (
    "The choice of symbols: whoever chose them knew which companies would matter later.",
    "Revised data: prices as they are stored today may differ from those known at the time.",
    "Constants chosen with hindsight: half-lives, window lengths and defaults were set by people "
    "who had seen such data.",
    "Repeated looks: each further look at the test range makes its scores a little less of a "
    "test. The ledger in the outputs folder counts them.",
    "Luck: differences below stand without a significance test; part of each is luck.",
)

# key, heading, digits, factor, what is best: lowest, nearest to a number, or nothing
COLUMNS: tuple[tuple[str, str, int, float, float | None], ...] = (
    ("crps", "crps, %", 4, 1, -np.inf),
    ("crps_exact", "exact crps, %", 4, 1, -np.inf),
    ("mae", "MAE, %", 4, 1, -np.inf),
    ("mae_zero", "MAE of no change, %", 4, 1, None),
    ("coverage_50", "in 50 % interval, %", 2, 100, 0.5),
    ("coverage_90", "in 90 % interval, %", 2, 100, 0.9),
    ("log_score", "log score, nats", 4, 1, -np.inf),
    ("crps_scaled", "crps, scaled", 4, 1, -np.inf),
    ("rows", "forecasts", 0, 1, None),
)


def summary(run: Run) -> str:
    """One paragraph on what was asked, a line per horizon on what came out, then the cautions."""
    config, data, metrics = run.config, run.data, run.metrics
    cell, head, parts = config["model"]["cell"], config["head"]["name"], metrics["parts"]
    members, ranges = config["ensemble"], {p: date_range(d) for p, d in data["fold"].items()}
    horizons = sorted({horizon for part in parts for horizon in horizons_of(metrics, part)})
    asked = (
        f"{f'An ensemble of {members} {cell} networks' if members > 1 else f'One {cell} network'} "
        f"with the head {head} learned from {ranges.get('train')} to state, at the close of every "
        f"session, the {'expectation' if head == 'point' else 'distribution'} of the log return "
        f"over the next {figures.in_words(horizons)}. The data are {len(data['symbols']):,} "
        f"symbols of the source {data['source']}, {date_range(data['dates'])}. Scored on "
        f"{' and '.join(f'{part} ({ranges.get(part)})' for part in parts)}:"
    )
    outcomes = [_outcome(metrics, cell, horizon) for horizon in horizons]
    cautions = [*data["warnings"]]
    if "test" in parts:
        cautions.append(
            f"The test range, {ranges.get('test')}, has been opened: what is chosen after reading "
            "this page is no longer tested by it."
        )
    return (
        f"<p>{html_text(asked)}</p>{html_list(outcomes)}"
        '<div class="careful"><strong>What to be careful about</strong>'
        f"{html_list([*cautions, *ALWAYS])}</div>"
    )


def _outcome(metrics: Mapping[str, Any], network: str, horizon: int) -> str:
    """The network beside the best naive baseline on every part, and its intervals on the last."""
    clauses, intervals = [], ""
    for part in metrics["parts"]:
        scores = _at(metrics, part, horizon)
        own = scores.get(network, {})
        naive = {
            model: row["crps"]
            for model, row in scores.items()
            if model not in (network, "truth") and not is_null(row.get("crps"))
        }
        if not is_null(own.get("crps")) and naive:
            best = min(naive, key=lambda model: naive[model])
            clauses.append(
                f"crps {_beside(own['crps'], naive[best])} the best naive baseline's ({best}) "
                f"on {part}"
            )
        elif not is_null(own.get("mae")) and not is_null(own.get("mae_zero")):
            clauses.append(
                f"mean absolute error {_beside(own['mae'], own['mae_zero'])} that of forecasting "
                f"no change on {part}"
            )
        else:
            clauses.append(f"nothing scored on {part}")
        if not is_null(own.get("coverage_50")) and not is_null(own.get("coverage_90")):
            intervals = (
                f" On {part}, {number(own['coverage_50'], 1, 100)} % of the outcomes fell within "
                f"its 50 % intervals and {number(own['coverage_90'], 1, 100)} % within its 90 % "
                "intervals."
            )
    return f"Over {figures.in_words([horizon])}: {', '.join(clauses)}.{intervals}"


def _at(metrics: Mapping[str, Any], part: str, horizon: int) -> dict[str, Mapping[str, Any]]:
    """The scores of each model on one part and horizon."""
    scores = metrics["scores"].get(part) or {}
    return {model: rows.get(str(horizon)) or {} for model, rows in scores.items()}


def _beside(value: float, other: float) -> str:
    percent = 100 * (value / other - 1) if other else 0.0
    return f"{abs(percent):.2f} % {'below' if percent < 0 else 'above'}"


def score_tables(run: Run) -> str:
    """How to read them, and a table per part."""
    metrics, fold, network = run.metrics, run.data["fold"], run.config["model"]["cell"]
    dropped = ", ".join(
        f"{number(rows, 0)} on {escape(part)}" for part, rows in metrics["dropped"].items() if rows
    )
    html = (
        '<p class="note">crps measures a whole distribution as the mean absolute error (MAE) '
        "measures a number. Lower is better; for the intervals, nearer to their nominal 50 % and "
        "90 %; the best of a horizon is shaded. All models are scored on the same symbols and "
        f"origins{f' (forecasts dropped to make it so: {dropped})' if dropped else ''}. Over one "
        "session, an MAE within a few tenths of a percent of that of no change is what returns "
        "allow; over longer horizons the drift of a rising market lowers it.</p>"
    )
    for part in metrics["parts"]:
        horizons = horizons_of(metrics, part)
        html += f"<h3>{escape(f'{part.capitalize()}, {date_range(fold.get(part))}')}</h3>"
        html += (
            _score_table({horizon: _at(metrics, part, horizon) for horizon in horizons}, network)
            if horizons
            else "<p>No forecast falls into this part.</p>"
        )
    return html


def _score_table(scores: Mapping[int, Mapping[str, Mapping[str, Any]]], network: str) -> str:
    """Horizon by horizon, the best of each column marked (a simulation's truth set aside)."""
    head = "".join(f'<th scope="col">{heading}</th>' for _, heading, *_ in COLUMNS)
    html = f'<thead><tr><th scope="col">model</th>{head}</tr></thead>'
    for horizon, models in scores.items():
        best = {key: _best(models, key, goal) for key, *_, goal in COLUMNS}
        html += (
            f'<tbody><tr class="group"><th scope="rowgroup" colspan="{len(COLUMNS) + 1}">'
            f"horizon {figures.in_words([horizon])}</th></tr>"
        )
        for model, row in models.items():
            swatch = f'<span class="swatch" style="background: {figures.colour(model)}"></span>'
            html += f"<tr{NETWORK if model == network else ''}><td>{swatch}{escape(model)}</td>"
            for key, _, digits, factor, _ in COLUMNS:
                mark = BEST if model in best[key] else ""
                html += f"<td{mark}>{number(row.get(key), digits, factor)}</td>"
            html += "</tr>"
        html += "</tbody>"
    return f'<div class="scroll"><table>{html}</table></div>'


def _best(scores: Mapping[str, Mapping[str, Any]], key: str, goal: float | None) -> set[str]:
    """The models nearest to the goal; none where there is nothing to choose between."""
    if goal is None:
        return set()
    known = {
        model: row[key] if goal == -np.inf else abs(row[key] - goal)
        for model, row in scores.items()
        if model != "truth" and not is_null(row.get(key))
    }
    best = {model for model, value in known.items() if value == min(known.values())}
    return best if len(best) < len(known) else set()


def horizons_of(metrics: Mapping[str, Any], part: str) -> list[int]:
    """Horizons of which any model of this part has a scored row."""
    scores = metrics["scores"].get(part) or {}
    return sorted(
        {
            int(horizon)
            for by_horizon in scores.values()
            for horizon, row in by_horizon.items()
            if row and row.get("rows")
        }
    )
