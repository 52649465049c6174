"""What was asked of a run, what came out, and what to be careful about, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forecast.report.markup import counted, date_range, html_list, html_text, is_null, number
from forecast.report.roster import horizons_of, scores_at
from forecast.report.style import in_words

if TYPE_CHECKING:
    from forecast.run import Run

# What no test of a run can see; every report says it.
ALWAYS = (
    "The choice of symbols: whoever chose them knew which companies would matter later.",
    "Revised data: prices as they are stored today may differ from those known at the time.",
    "Constants chosen with hindsight: half-lives, window lengths and defaults were set by people "
    "who had seen such data.",
    "Repeated looks: each further look at the test range makes its scores a little less of a "
    "test. The ledger in the outputs folder counts them.",
)
UNTESTED = "Luck: differences below stand without a significance test; part of each is luck."


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
        f"over the next {in_words(horizons)}. The data hold "
        f"{counted(len(data['symbols']), 'symbol')} of the source {data['source']}, "
        f"{date_range(data['dates'])}. Scored on "
        f"{' and '.join(f'{part} ({ranges.get(part)})' for part in parts)}:"
    )
    outcomes = [_outcome(metrics, cell, horizon) for horizon in horizons]
    cautions = [*data["warnings"]]
    if "test" in parts:
        cautions.append(opened(str(ranges.get("test"))))
    return (
        f"<p>{html_text(asked)}</p>{html_list(outcomes)}{careful([*cautions, *ALWAYS, UNTESTED])}"
    )


def careful(cautions: list[str]) -> str:
    """The box of cautions."""
    return (
        f'<div class="careful"><strong>What to be careful about</strong>{html_list(cautions)}</div>'
    )


def opened(dates: str) -> str:
    """The caution that a test range is no longer unseen."""
    return (
        f"The test range, {dates}, has been opened: what is chosen after reading this page is no "
        "longer tested by it."
    )


def _outcome(metrics: Mapping[str, Any], network: str, horizon: int) -> str:
    """The network beside the best naive baseline on every part, and its intervals on the last."""
    clauses, intervals = [], ""
    for part in metrics["parts"]:
        scores = scores_at(metrics, part, horizon)
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
        else:
            clauses.append(f"{beside_no_change(own) or 'nothing scored'} on {part}")
        if not is_null(own.get("coverage_50")) and not is_null(own.get("coverage_90")):
            intervals = (
                f" On {part}, {number(own['coverage_50'], 1, 100)} % of the outcomes fell within "
                f"its 50 % intervals and {number(own['coverage_90'], 1, 100)} % within its 90 % "
                "intervals."
            )
    return f"Over {in_words([horizon])}: {', '.join(clauses)}.{intervals}"


def beside_no_change(row: Mapping[str, Any]) -> str | None:
    """How a model's mean fared, which is all that a point forecast can be asked."""
    if is_null(row.get("mae")) or is_null(row.get("mae_zero")):
        return None
    return (
        f"mean absolute error {_beside(row['mae'], row['mae_zero'])} that of forecasting no change"
    )


def _beside(value: float, other: float) -> str:
    percent = 100 * (value / other - 1) if other else 0.0
    return f"{abs(percent):.2f} % {'below' if percent < 0 else 'above'}"
