"""The task, the panel and the folds that a configuration states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from forecast.config import ForecastError, canonical_id, check, instantiate
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Fold, make_fold, walk_forward
from forecast.dataset.market import Market
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.models.choice import states_positions
from forecast.prices.frame import Prices

Config = Mapping[str, Any]

_newest: dict[str, Panel] = {}  # the panel that was asked for last, by all that it follows from


def make_task(config: Config) -> Task:
    """The task that the sections `horizons`, `target` and `window` state.

    Raises
    ------
    ForecastError
        Positions with another target than the return between the next two closes.
    """
    window, target = dict(config["window"]), dict(config["target"])
    check(window, "window", Task, only=("length", "warmup", "batch"))
    check(target, "target", Task, only=("delay",))
    asked = {"horizons": config["horizons"], **target, **window, "dated": states_positions(config)}
    task = cast(Task, instantiate(asked, "", Task))
    if task.dated and (task.horizons != (1,) or task.delay != 1):
        raise ForecastError(
            f"head=position trades every session at the next close: horizons={list(task.horizons)} "
            f"and target.delay={task.delay} do not fit it. Use horizons=[1] and target.delay=1."
        )
    return task


def panel_of(config: Config, prices: Prices, *, market: Market | None = None) -> Panel:
    """The panel of a configuration; every fold of a walk-forward reads the same one.

    So do the runs of a process that ask for the same one after the other: the newest panel is kept,
    but for those with features of somebody's own.
    """
    features = instantiate(config["features"], "features", FeatureSet)
    data = config["data"]
    # A run of before has no such key.
    in_memory = data.get("in_memory", True)
    asked = {"market": data["market"], "max_gap": data["max_gap"], "in_memory": in_memory}
    if market is not None:
        asked["market"] = market
    if market is not None or features.own:  # what own features read, only they know
        return make_panel(prices, features, **asked)
    # Of covariates the hash of the prices knows the values, not from when on they are known.
    key = canonical_id(
        {"data": config["data"], "features": config["features"]},
        prices=prices.sha256,
        in_memory=str(in_memory),
    )
    if key not in _newest:
        _newest.clear()  # first: two panels may be more than there is memory
        _newest[key] = make_panel(prices, features, **asked)
    return _newest[key]


def folds_of(config: Config, dates: np.ndarray) -> list[Fold]:
    """The folds of a configuration on the union calendar: one of `split`, or those of a walk."""
    if "backtest" not in config:
        return [make_fold(dates, **config["split"])]
    keys = ("first", "last", "refit", "train", "embargo")
    walk = {key: config["backtest"][key] for key in keys}
    return list(walk_forward(dates, **walk, validation=config["split"]["validation"]))
