"""Who stands in a table of forecasts: networks, what each baseline may know, a few symbols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from forecast.evaluation.recalibration import SUFFIX
from forecast.report.markup import is_null
from forecast.report.style import COLOURS

if TYPE_CHECKING:
    from forecast.run import Run

BENCHMARK = "gjr_t"  # what a bank would use instead
EQUAL_INFORMATION = ("linear", "mlp", "gjr_market", "har_pooled")  # pooled, and see the market
OWN_HISTORY = (
    *("historical", "drift", "ewma_normal", "ewma_t", "garch_t", "gjr_t", "gjr_skewt"),
    *("egarch_t", "fhs", "har_abs", "mean_of_garch"),
)
TRUTH = "truth"
FEW_SYMBOLS = 4  # that stand for all where a figure can show no more


def parts_with_rows(metrics: Mapping[str, Any]) -> list[str]:
    """The parts that have a scored row, in the order of the metrics."""
    return [part for part in metrics["parts"] if horizons_of(metrics, part)]


def newest_part(metrics: Mapping[str, Any]) -> str | None:
    """The last part that has a scored row: what a report is about; None where there is none."""
    return next(reversed(parts_with_rows(metrics)), None)


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


def scores_at(metrics: Mapping[str, Any], part: str, horizon: int) -> dict[str, Mapping[str, Any]]:
    """The scores of each model on one part and horizon."""
    scores = metrics["scores"].get(part) or {}
    return {model: rows.get(str(horizon)) or {} for model, rows in scores.items()}


def networks(run: Run) -> list[str]:
    """What the run is about, in the order it was asked for: its networks, no recalibrated copy.

    In a backtest of somebody's tables these are the models that are no baseline of ours, those of
    other people before the networks that a table of ours brought along.
    """
    if "backtest" not in run.config:
        return [run.config["model"]["cell"]]
    metrics = run.metrics
    scored = {model for models in metrics["scores"].values() for model in models or {}}
    asked = [model for model in metrics.get("networks") or () if model in scored]
    return sorted(asked, key=COLOURS.__contains__) if of_tables(run) else asked


def of_tables(run: Run) -> bool:
    """Whether the forecasts were given, so that nothing is known of how they were made."""
    return bool(run.data.get("source") == "forecasts")


def role(model: str, networks: Iterable[str]) -> str:
    """What a model may know: network | recalibrated | equal | own | truth | other."""
    if model == TRUTH:
        return "truth"
    if model.endswith(SUFFIX):
        return "recalibrated"
    if model in EQUAL_INFORMATION:
        return "equal"
    if model in OWN_HISTORY:
        return "own"
    return "network" if model in set(networks) else "other"


def ordered(models: Iterable[str], networks: Iterable[str]) -> list[str]:
    """Networks first, then their recalibrated copies, baselines of equal information, the rest."""
    rank = ("network", "recalibrated", "other", "equal", "own", "truth")
    asked = list(networks)
    known = [*asked, *(m + SUFFIX for m in asked), *EQUAL_INFORMATION, *OWN_HISTORY]
    places = {model: place for place, model in enumerate(known)}
    return sorted(
        dict.fromkeys(models),
        key=lambda m: (rank.index(role(m, asked)), places.get(m, len(places)), m),
    )


def baselines(models: Iterable[str], networks: Iterable[str]) -> list[str]:
    """What the networks are compared with: neither networks nor recalibrated copies nor truth."""
    asked = list(networks)
    return [
        model
        for model in ordered(models, asked)
        if role(model, asked) not in ("network", "recalibrated", "truth")
    ]


def benchmark(run: Run, models: Iterable[str]) -> str | None:
    """`significance.benchmark`, or the nearest thing that is there; None without a baseline."""
    known = baselines(models, networks(run))
    configured = (run.config.get("significance") or {}).get("benchmark") or BENCHMARK
    wanted = (configured, BENCHMARK, "garch_t", "gjr_skewt", "ewma_t", "ewma_normal", *known)
    return next((model for model in wanted if model in known), None)


def best_of(scores: Mapping[str, Mapping[str, Any]], models: Iterable[str], key: str) -> str | None:
    """The model with the lowest score; None where none has one."""
    known = {m: scores[m][key] for m in models if not is_null((scores.get(m) or {}).get(key))}
    return min(known, key=lambda model: known[model]) if known else None


def leading(run: Run, part: str) -> str:
    """The model that figures of one model show: the configured network, whatever the scores."""
    scored, asked = list(run.metrics["scores"][part]), networks(run)
    configured = (run.config.get("model") or {}).get("cell")
    wanted = [configured, *asked] if configured in asked else asked
    return next((model for model in wanted if model in scored), scored[0])


def some_symbols(run: Run, part: str, count: int = FEW_SYMBOLS) -> list[str]:
    """Symbols that still traded when the part began, evenly spaced through the list."""
    start, _ = (run.data.get("fold") or {}).get(part) or ("", "")
    alive = [entry["symbol"] for entry in run.data["symbols"] if entry["last"] >= start]
    chosen = np.linspace(0, len(alive) - 1, min(count, len(alive))).round().astype(int)
    return [alive[index] for index in chosen]
