"""What a leaderboard reads of a run: its settings, its objective, its losses by date."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecast.config import NOT_IN_ID, ForecastError, canonical_id, nearest, without
from forecast.evaluation.scores import objective
from forecast.forecasts import INNER, read_forecasts
from forecast.models.choice import networks_of, states_positions
from forecast.models.heads import BUILT_IN
from forecast.models.named_heads import make_head
from forecast.models.networks import Network
from forecast.run import Run

INNER_NAMES = [f"q{round(100 * level):02d}" for level in INNER]
Settings = dict[str, Any]  # values by dotted key
DAMAGED = (ForecastError, KeyError, TypeError, ValueError, AttributeError, OSError)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network of one finished run.

    Attributes
    ----------
    run : Run
    model : str
        A cell.
    config : dict
        The run's, read once.
    """

    run: Run
    model: str
    config: Mapping[str, Any]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return self.run.metrics

    @cached_property
    def data(self) -> dict[str, Any]:
        return self.run.data

    @property
    def kind(self) -> str:
        """`forecasts`, or `positions`, whose objective is minus a Sharpe ratio."""
        return "positions" if states_positions(self.config) else "forecasts"

    @property
    def command(self) -> str:
        return "backtest" if "backtest" in self.config else "train"

    @cached_property
    def configuration(self) -> str:
        """What the ledger calls it: everything but the seed."""
        return canonical_id(without(self.config, ["seed"]))

    @property
    def comparable(self) -> tuple[Any, ...]:
        """What two entries must share to be compared."""
        return (
            self.data["sha256"],
            self.command,
            self.kind,
            tuple(self.data["fold"]["validation"]),
            tuple(self.config["horizons"]),
            self.config["target"]["delay"],
        )

    @cached_property
    def objective(self) -> float | None:
        """What sweeps minimise, on the validation part."""
        if "validation" not in self.metrics["parts"]:
            return None
        if self.kind == "positions":
            value = self.metrics.get("objective")
            return None if value is None else float(value)
        return objective(self.metrics["scores"], self.model)

    @property
    def test(self) -> float | None:
        """The same on the test part; None while that is not opened."""
        if "test" not in self.run.parts:
            return None
        if self.kind == "positions":
            found = self.metrics["performance"]["test"].get(self.model, {})
            sharpe = next((of["sharpe"] for of in found.values()), None)
            return None if sharpe is None else -float(sharpe)
        return objective(self.metrics["scores"], self.model, part="test")

    @cached_property
    def values(self) -> Settings:
        """The configuration by dotted key; of several networks the cell is this one's."""
        return {**dict(flat(self.config)), "model.cell": self.model}

    @cached_property
    def settings(self) -> Settings:
        """Values by dotted key, of all that makes a configuration another one."""
        return {**dict(flat(without(self.config, NOT_IN_ID))), "model.cell": self.model}

    @property
    def rows(self) -> tuple[int, ...]:
        """Scored rows of each horizon; empty for positions."""
        scores = self.metrics.get("scores", {}).get("validation", {}).get(self.model, {})
        return tuple(row["rows"] for row in scores.values())

    @cached_property
    def speed(self) -> tuple[float, float]:
        """Seconds of its fits and the targets it trained on in a second; NaN where unknown."""
        if self.command == "train":
            told = self.run.timing
            found = [told.get("fit_seconds"), told.get("targets_per_second")]
            return float(found[0] or np.nan), float(found[1] or np.nan)
        targets = {fold["index"]: fold["targets"] for fold in self.data["folds"]}
        seconds, trained = 0.0, 0
        for fit in self.metrics["fits"][self.model]:
            with open(self.run.path / fit["folder"] / "history.csv", newline="") as file:
                epochs = [float(row["seconds"] or 0) for row in csv.DictReader(file)]
            seconds += sum(epochs)
            trained += len(epochs) * targets[fit["fold"]]
        return (seconds, trained / seconds) if seconds else (np.nan, np.nan)

    @cached_property
    def losses(self) -> pd.Series:
        """Objective loss of each validation date: mean over symbols, then over horizons."""
        table = read_forecasts(
            self.run.path / "forecasts.parquet",
            columns=["origin", "horizon", "scale", "actual", "mean", *INNER_NAMES],
            part="validation",
            model=self.model,
        )
        table = table[table["actual"].notna()]
        actual = table["actual"].to_numpy()
        states = table[INNER_NAMES].to_numpy()
        if np.isnan(states).all():  # of a point mass the crps is the absolute error
            loss = np.abs(actual - table["mean"].to_numpy())
        else:
            error = actual[:, None] - states
            level = np.asarray(INNER)
            loss = 2 * np.maximum(level * error, (level - 1) * error).mean(axis=1)
        unit = table["scale"].to_numpy() * np.sqrt(table["horizon"].to_numpy(np.float64))
        by_horizon = (
            pd.Series(loss / unit).groupby(
                [table["origin"].to_numpy(), table["horizon"].to_numpy()]
            )
        ).mean()
        known = by_horizon.unstack().mean(axis=1, skipna=False).dropna()
        if known.empty:
            raise ForecastError(f"{self.run.name} has no validation forecasts of {self.model}.")
        return known

    @cached_property
    def parameters(self) -> int | None:
        """Numbers that training moves, of one member; None with a head of somebody's own."""
        import torch

        if self.config["head"]["name"] not in BUILT_IN:
            return None  # nothing of a run is executed
        network: dict[str, Any] = {
            **self.config["model"],
            "cell": self.model,
            "features": len(self.data["features"]),
            "horizons": len(self.config["horizons"]),
            "parameters": make_head(self.config["head"]).size,
        }
        with torch.device("meta"):
            built = Network(**network)
        return sum(p.numel() for p in built.parameters() if p.requires_grad)

    def read(self) -> None:
        """Read all that is to be shown, so that a damaged folder is found before it is ranked."""
        if self.kind == "forecasts":
            _ = self.losses
        _ = self.test, self.parameters, self.speed, self.configuration
        _ = self.config["seed"], self.config["ensemble"], self.data["source"], self.data["symbols"]
        _ = self.rows, list(self.data.get("warnings", ()))


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of values that are no non-empty mappings."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def entries(outputs: Path, where: Mapping[str, Any] | None = None) -> tuple[list[Entry], list[str]]:
    """All networks with a validation score under `outputs`, and what was left out and why.

    Parameters
    ----------
    where : mapping, optional
        Values by dotted key, or nested: only runs whose configuration has them; a list means any
        of its values.

    Raises
    ------
    ForecastError
        There is none, or `where` names a key that no run has.
    """
    found: list[Entry] = []
    notes: list[str] = []
    for path in sorted(p.parent for p in Path(outputs).glob("*/metrics.json")):
        if path.name.startswith("."):
            continue
        try:
            made = _of_run(Run(path))
        except DAMAGED:
            notes.append(_damaged(path))
            continue
        found += [entry for entry in made if entry.objective is not None]
        if any(entry.objective is None for entry in made):
            notes.append(f"{path.name} is left out: it has no score on the validation part.")
    if not found:
        raise ForecastError(
            f"outputs={outputs} holds no finished run with a validation score. Train some: "
            f"python -m forecast.train -m sweep=architectures.{''.join(f' {n}' for n in notes[:1])}"
        )
    asked = dict(flat(where or {}))
    known = {key for entry in found for key in entry.values}
    for key in asked:
        if key not in known:
            raise ForecastError(f"where: no run has the key {key}{nearest(key, sorted(known))}")
    kept = [entry for entry in found if fits(entry.values, asked)]
    if not kept:
        typed = json.dumps(asked, ensure_ascii=False)
        raise ForecastError(
            f"where={typed} fits none of {len(found)} networks. Leave some of it out."
        )
    whole = []
    for entry in kept:
        try:
            entry.read()
        except DAMAGED:
            notes.append(_damaged(entry.run.path))
            continue
        whole.append(entry)
    if not whole:
        raise ForecastError(f"{notes[-1]} No other run is there to be ranked.")
    return whole, list(dict.fromkeys(notes))


def _damaged(path: Path) -> str:
    return (
        f"{path.name} is left out: its files are damaged or of another version. Repeat its command "
        "with force=true, or remove it."
    )


def _of_run(run: Run) -> list[Entry]:
    """The networks of a run; none of a portfolio, of scored tables and of other commands."""
    config, metrics = run.config, run.metrics
    if not (isinstance(metrics["parts"], list) and isinstance(config, dict) and config):
        raise ForecastError(f"{run.name} is no run.")
    if "model" not in config or config.get("forecasts") or config.get("weights"):
        return []
    if run.data.get("source_run") is not None:  # its forecasts are a run of their own
        return []
    models = networks_of(config) if "backtest" in config else [config["model"]["cell"]]
    made = [Entry(run=run, model=model, config=config) for model in models]
    _ = [(entry.comparable, entry.objective) for entry in made]  # damage is found here
    return made


def fits(values: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a configuration has the values asked for, both by dotted key."""

    def same(value: Any, wanted: Any) -> bool:
        several = isinstance(wanted, Sequence) and not isinstance(wanted, str)
        return bool(value == wanted or (several and value in wanted))

    return all(key in values and same(values[key], wanted) for key, wanted in asked.items())
