"""One step of a walk-forward: a network, or all baselines, of one fold.

A step leaves its files in a folder of its own and needs nothing from other steps (but, with a warm
start, from the same network one fold before), so steps run in any order, in any process, on any
machine that sees the folder, with the same bytes.
"""

from __future__ import annotations

import csv
import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.folds import Fold
from forecast.dataset.panel import Panel
from forecast.documents import write_atomically
from forecast.models.choice import states_positions
from forecast.models.configured import make_task
from forecast.models.devices import torch_threads
from forecast.models.ensemble import Ensemble, load_ensemble
from forecast.models.networks import MEMORYLESS
from forecast.models.pipeline import fit_ensemble, write_forecasts
from forecast.models.weights import write_weights
from forecast.prices.simulated import Truth

CLASSICAL = "baselines"  # the step that fits all baselines which are no networks
COLD = (CLASSICAL, "mlp")  # never start warm: the width of mlp is chosen anew in every fold
# Wall-clock seconds of a step relative to an LSTM's: the long ones go first.
COST = {"gru": 1.0, "rnn": 0.8, "lstm": 1.0, CLASSICAL: 2.0, "mlp": 0.6, "linear": 0.4}


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one process does at a time.

    Attributes
    ----------
    fold : Fold
    model : str
        A cell, or `baselines`.
    parts : tuple of str
        To forecast: validation, test.
    before : int, optional
        Fold whose networks this one starts from.
    """

    fold: Fold
    model: str
    parts: tuple[str, ...]
    before: int | None = None

    def table(self, folder: Path, part: str) -> Path:
        """Where the forecasts or weights of a part go; there once they are complete."""
        return _fold_folder(folder, self.fold.index) / f"{self.model}-{part}.parquet"

    def facts(self, folder: Path, part: str) -> dict[str, Any]:
        """What is to be told of a finished part."""
        path = self.table(folder, part).with_suffix(".json")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def done(self, folder: Path) -> bool:
        """Whether every part is forecast; the facts are written after the table."""
        return all(
            self.table(folder, part).with_suffix(ending).exists()
            for part in self.parts
            for ending in (".parquet", ".json")
        )

    @property
    def name(self) -> str:
        return f"fold {self.fold.index} ({self.fold.test}), {self.model}"


def _fold_folder(folder: Path, fold: int) -> Path:
    return folder / f"fold-{fold:02d}"


def work(
    step: Step,
    *,
    config: Mapping[str, Any],
    panel: Panel,
    folder: Path,
    truth: Truth | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> list[str]:
    """Fit what is not fitted, forecast what is not forecast.

    Parameters
    ----------
    config : mapping
        Of `forecast.backtest`, resolved.
    folder : Path
        The run folder.

    Returns
    -------
    list of str
        Lines for the log.
    """
    lines: list[str] = []
    fold = _fold_folder(folder, step.fold.index)
    fold.mkdir(parents=True, exist_ok=True)
    with torch_threads(threads):
        datamodule = PriceDataModule(panel, step.fold, make_task(config), seed=config["seed"])
        told: dict[str, Any] = {}
        ensembles: dict[str, Ensemble] = {}
        if step.model != CLASSICAL:
            before = None if step.before is None else _fold_folder(folder, step.before)
            ensembles[step.model], told = _network(
                step.model, config, datamodule, fold, before, device, lines
            )
        for part in step.parts:
            table = step.table(folder, part)
            if states_positions(config):
                written = write_weights(table, datamodule, parts=[part], ensembles=ensembles)
            else:
                written = write_forecasts(
                    table,
                    datamodule,
                    parts=[part],
                    ensembles=ensembles,
                    baselines=[] if ensembles else own_baselines(config),
                    truth=None if ensembles else truth,
                )
            facts = {
                **told,
                "dropped": written.dropped[part],
                "fallbacks": written.fallbacks,
            }
            write_atomically(table.with_suffix(".json"), json.dumps(facts))
    return lines


def chained(
    folds: Sequence[Fold], models: Sequence[str], parts: Sequence[str], *, warm_start: bool
) -> list[list[Step]]:
    """All steps, in chains that must be kept, the longest first.

    Validation is forecast on the first fold alone: the later ones' choices were made on dates that
    the first had for its test.
    """
    chains: dict[tuple[str, int], list[Step]] = {}
    for fold in folds:
        wanted = tuple(part for part in parts if part == "test" or fold.index == 0)
        for model in models if wanted else ():
            warm = warm_start and model not in COLD
            before = fold.index - 1 if warm and fold.index else None
            step = Step(fold=fold, model=model, parts=wanted, before=before)
            chains.setdefault((model, 0 if warm else fold.index), []).append(step)

    def cost(chain: list[Step]) -> float:
        # Later folds have more to train on.
        return -sum(COST[step.model] * (8 + step.fold.index) for step in chain)

    return sorted(chains.values(), key=cost)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a step: lines for the log, or why it failed."""

    step: Step
    lines: Sequence[str] = ()
    error: str = ""


def attempt(chain: Sequence[Step], **options: Any) -> list[Outcome]:
    """Do steps one after the other; after a failure the rest of them waits.

    Errors come back as text: raised in a process of its own, one would end all others.
    """
    outcomes: list[Outcome] = []
    for step in chain:
        try:
            outcomes.append(Outcome(step=step, lines=work(step, **options)))
        except ForecastError as error:
            outcomes.append(Outcome(step=step, error=str(error)))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            place = f"{Path(where.filename).name}:{where.lineno}"
            outcomes.append(Outcome(step=step, error=f"{what} ({place})"))
        if outcomes[-1].error:
            break
    return outcomes


def own_baselines(config: Mapping[str, Any]) -> list[str]:
    """Baselines that are no networks."""
    return [name for name in config["backtest"]["baselines"] if name not in MEMORYLESS]


def _network(
    cell: str,
    config: Mapping[str, Any],
    datamodule: PriceDataModule,
    fold: Path,
    before: Path | None,
    device: str,
    lines: list[str],
) -> tuple[Ensemble, dict[str, Any]]:
    """The trained ensemble of a cell; the width of `mlp` is the one of the best first member."""

    def fit(width: int, members: int) -> Path:
        folder = fold / (f"mlp-{width}" if cell == "mlp" else cell)
        fit_ensemble(
            {
                **config,
                "ensemble": members,
                "model": {**config["model"], "cell": cell, "hidden_size": width},
            },
            datamodule,
            folder,
            start=None if before is None else before / folder.name,
            say=lambda line: lines.append(f"fold {datamodule.fold.index}, {folder.name}, {line}"),
        )
        return folder

    width, members = config["model"]["hidden_size"], config["ensemble"]
    if cell == "mlp":
        widths: Sequence[int] = config["backtest"]["mlp_widths"]
        width = min(widths, key=lambda w: _best_losses(fit(w, 1))[0])
    folder = fit(width, members)
    ensemble = load_ensemble(
        folder,
        members=members,
        task=datamodule.task,
        device=device,
        allow=[config["head"]["name"]],
    )
    losses = _best_losses(folder)
    return ensemble, {
        "hidden_size": width,
        "validation_loss": losses,
        "folder": f"{fold.name}/{folder.name}",
    }


def _best_losses(folder: Path) -> list[float]:
    """Best validation loss of each member."""
    best: dict[int, float] = {}
    with open(folder / "history.csv", newline="") as file:
        for row in csv.DictReader(file):
            member, loss = int(row["member"]), float(row["validation_loss"])
            best[member] = min(best.get(member, loss), loss)
    return [best[member] for member in sorted(best)]


def told(steps: Sequence[Step], folder: Path) -> dict[str, Any]:
    """How the fits of all steps ended."""
    folds: dict[str, list[dict[str, Any]]] = {}
    fallbacks: dict[str, dict[str, list[str]]] = {}
    unscaled: dict[str, int] = {}  # rows that carry no forecast of any model
    for step in steps:
        facts = [step.facts(folder, part) for part in step.parts]
        for part, fact in zip(step.parts, facts, strict=True):
            if step.model == steps[0].model:
                unscaled[part] = unscaled.get(part, 0) + fact["dropped"]
            for name, symbols in fact["fallbacks"].items():
                failed = fallbacks.setdefault(name, {}).setdefault(str(step.fold.index), [])
                failed[:] = sorted({*failed, *symbols})
        if step.model != CLASSICAL:
            fit = {key: facts[0][key] for key in ("folder", "hidden_size", "validation_loss")}
            folds.setdefault(step.model, []).append({"fold": step.fold.index, **fit})
    return {"fits": folds, "fallbacks": fallbacks, "unscaled": unscaled}


def timing(
    folder: Path, folds: Sequence[Mapping[str, Any]], total_seconds: float
) -> dict[str, float | None]:
    """Wall-clock figures of all fits: what they took, and the targets trained on in a second."""
    seconds, targets = 0.0, 0
    for fold in folds:
        for path in sorted(_fold_folder(folder, fold["index"]).glob("*/history.csv")):
            with open(path, newline="") as file:
                rows = list(csv.DictReader(file))
            seconds += sum(float(row["seconds"] or 0) for row in rows)
            targets += len(rows) * fold["targets"]
    return {
        "fit_seconds": seconds,
        "targets_per_second": targets / seconds if seconds else None,
        "total_seconds": total_seconds,
    }
