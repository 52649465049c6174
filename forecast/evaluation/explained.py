"""Trained networks that are looked into, and the rows they are looked at on.

They are looked at on the validation range, so that what is learnt from it may be used to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecast.config import ForecastError, canonical_id, instantiate, without
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range, ranges
from forecast.dataset.market import read_market
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors
from forecast.evaluation.subject import prices_of, require_own
from forecast.models.choice import networks_of, states_positions
from forecast.models.configured import folds_of, make_task, panel_of
from forecast.models.networks import MEMORYLESS, Network
from forecast.prices.frame import Prices
from forecast.run import Run

GOLDEN = (5**0.5 - 1) / 2  # its multiples, less whole numbers, fill an interval evenly


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One trained network.

    Attributes
    ----------
    model : str
        Its cell.
    seed, number : int
        The run's seed, and which member of its ensemble, from 1.
    """

    model: str
    seed: int
    number: int
    network: Network
    head: Any

    @property
    def key(self) -> dict[str, Any]:
        """What names it in a table."""
        return {"model": self.model, "seed": self.seed, "member": self.number}

    def log_volatility(self, raw_HP: Tensor, horizon: int) -> Tensor:
        """Log of the stated standard deviation in scaled units, of one horizon by its place."""
        stated: Tensor = self.head.volatility(self.head.domain(raw_HP[..., horizon, :]))
        return stated.log()

    @torch.no_grad()
    def stated(self, x_BLF: Tensor, horizon: int) -> np.ndarray:
        """Standard deviation in scaled units after every session of histories, shape (B, L)."""
        raw_BLHP, _ = self.network(x_BLF)
        return self.log_volatility(raw_BLHP, horizon).double().exp().numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """Members that read the same panel.

    Attributes
    ----------
    config : mapping
        Of the first run.
    rows, train : Range
        The validation range, which is looked at, and the rows that were trained on.
    members : list of Member
        Those of a cell next to each other.
    horizon : int
        Place of the horizon looked at.
    """

    config: Mapping[str, Any]
    prices: Prices
    panel: Panel
    task: Task
    rows: Range
    train: Range
    members: list[Member]
    horizon: int

    @cached_property
    def tensors(self) -> PanelTensors:
        return PanelTensors(
            self.panel, horizons=self.task.horizons, delay=self.task.delay, device="cpu"
        )

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(member.model for member in self.members))

    @property
    def features(self) -> FeatureSet:
        found: FeatureSet = instantiate(self.config["features"], "features", FeatureSet)
        return found

    def first(self, model: str) -> Member:
        """The first member of a cell."""
        return next(member for member in self.members if member.model == model)

    def symbols(self, most: int) -> np.ndarray:
        """Some symbols with a row to look at, spaced evenly through the panel, shape (S,)."""
        known = np.flatnonzero(self.rows.high > self.rows.low)
        return known[np.unique(np.linspace(0, len(known) - 1, most).round().astype(int))]

    def origins(self, symbols: np.ndarray, count: int, *, before: int) -> np.ndarray:
        """Panel rows spread over symbols and dates, `before` sessions after each one's first.

        The grids of the symbols are shifted against each other, so that they share few dates.

        Returns
        -------
        array of int64
            As many as asked for at most.
        """
        if count < len(symbols):
            symbols = symbols[np.linspace(0, len(symbols) - 1, count).astype(int)]
        each = count // len(symbols)
        found = []
        for number, s in enumerate(symbols):
            low = max(int(self.rows.low[s]), int(self.panel.offsets[s]) + before)
            row = np.arange(low, int(self.rows.high[s]))
            row = row[~np.isnan(self.panel.scale[row - 1])]
            if len(row):
                share = (np.arange(each) + number * GOLDEN % 1) / each
                found.append(row[np.unique((share * len(row)).astype(int))])
        if not found:
            raise ForecastError(
                f"no symbol has {before} sessions before an origin of the validation range: lower "
                "lags, or explain a run with longer histories."
            )
        return np.concatenate(found)

    def symbol_of(self, row_N: np.ndarray) -> np.ndarray:
        """Symbol of each panel row."""
        return np.searchsorted(self.panel.offsets, row_N, side="right") - 1


def open_explained(
    runs: Sequence[Run],
    *,
    fold: int,
    horizon: int | None,
    in_memory: bool | None = None,
    option: str = "allow",
) -> Explained:
    """Networks of some runs on the validation range of a fold, with the prices of the first.

    Nothing that only a run's folder asks for is executed, unless the run allows it by name.

    Parameters
    ----------
    runs : sequence of Run
        Trained on the same data, features and horizons.
    fold : int
        Of backtests: 0 is the first, whose validation range precedes all that was tested.
    horizon : int, optional
        Sessions; by default the shortest.
    in_memory : bool, optional
        Where prices and panel lie; by default as of the first run.
    option : name of the option that allows own parts, for messages.

    Raises
    ------
    ForecastError
        Runs that do not read the same, or that have no recurrent network which states a volatility.
    """
    first = runs[0]
    members: list[Member] = []
    configurations: dict[str, str] = {}
    for run in runs:
        _check(run, first, fold)
        require_own(run.config, run.name, run.allow, option=option)
        cells = networks_of(run.config) if "backtest" in run.config else [None]
        for cell in cells:
            model = cell or run.config["model"]["cell"]
            if model in MEMORYLESS:
                raise ForecastError(f"{run.name}: {model} has no memory to look into.")
            own = canonical_id(without(run.config, ["seed"]))
            if configurations.setdefault(model, own) != own:
                raise ForecastError(
                    f"{run.name} is another {model} than one named before it, by more than its "
                    "seed: explain them one by one."
                )
            ensemble = run.model(cell, fold=fold)
            if not hasattr(ensemble.head, "volatility"):
                raise ForecastError(
                    f"{run.name}: head={run.config['head']['name']} states no volatility to "
                    "explain. Train with student_t, skewed_t, gaussian or quantile, or give your "
                    "head a method volatility(parameters)."
                )
            members += [
                Member(
                    model=model,
                    seed=int(run.config["seed"]),
                    number=number,
                    network=network,
                    head=ensemble.head,
                )
                for number, network in enumerate(ensemble.networks, start=1)
            ]
    config, task = first.config, make_task(first.config)
    if horizon is not None and horizon not in task.horizons:
        raise ForecastError(
            f"horizon={horizon} is not forecast by {first.name}: choose from "
            f"{', '.join(map(str, task.horizons))}."
        )
    if in_memory is not None:
        config = {**config, "data": {**config["data"], "in_memory": in_memory}}
    prices = prices_of(first, in_memory=in_memory)
    market = read_market(first.path / "market.parquet")
    panel = panel_of(config, prices, market=market)
    if list(panel.names) != first.data["features"]:
        raise ForecastError(
            f"{first.name} was trained on {', '.join(first.data['features'])}; its prices now give "
            f"{', '.join(panel.names)}."
        )
    folds = folds_of(config, panel.dates)
    found = ranges(panel, folds[fold], reach=task.reach, warmup=task.warmup)
    if not found["validation"].rows:
        raise ForecastError(f"{first.name} has no row in its validation range to look at.")
    order = list(dict.fromkeys(member.model for member in members))
    return Explained(
        config=config,
        prices=prices,
        panel=panel,
        task=task,
        rows=found["validation"],
        train=found["train"],
        members=sorted(members, key=lambda member: order.index(member.model)),
        horizon=0 if horizon is None else task.horizons.index(horizon),
    )


def _check(run: Run, first: Run, fold: int) -> None:
    """Refuse what has no networks that forecast, or reads something else than the first run."""
    config, data = run.config, run.data
    if data.get("source_run"):
        raise ForecastError(
            f"run {run.name} trades the forecasts of {data['source_run']}: explain that one."
        )
    if "head" not in config or states_positions(config) or not data.get("features"):
        raise ForecastError(
            f"run {run.name} holds no networks that forecast. Name one that was trained, with "
            "another head than position."
        )
    if not 0 <= fold < len(data["folds"]):
        count = len(data["folds"])
        raise ForecastError(
            f"fold={fold} is none of {run.name}, which has {count}: choose 0 to {count - 1}."
        )
    of_first = _read(first, fold)
    for what, own in _read(run, fold).items():
        if own != of_first[what]:
            raise ForecastError(
                f"{run.name} and {first.name} do not have the same {what}: explain them one by one."
            )


def _read(run: Run, fold: int) -> dict[str, Any]:
    """All that networks read and are measured by, which those side by side must share."""
    config, data = run.config, run.data
    ranges = data["folds"][fold] if fold < len(data["folds"]) else {}
    return {
        "prices": data["sha256"],
        "features": config["features"],
        "data.market": config["data"]["market"],
        "data.max_gap": config["data"]["max_gap"],
        "horizons": config["horizons"],
        "target.delay": config["target"]["delay"],
        "window.length": config["window"]["length"],
        "window.warmup": config["window"]["warmup"],
        "head": config["head"],
        "loss": config["loss"],
        "training and validation ranges": [ranges.get(name) for name in ("train", "validation")],
    }
