"""Which models a backtest has, by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forecast.config import ForecastError
from forecast.models.baselines import BASELINES
from forecast.models.networks import CELLS, MEMORYLESS

POSITION = "position"  # the head that states weights


def networks_of(config: Mapping[str, Any]) -> list[str]:
    """The networks asked for; the memoryless ones among the baselines stand there."""
    return list(config["backtest"]["models"] or [config["model"]["cell"]])


def trained_of(config: Mapping[str, Any]) -> list[str]:
    """All networks that are trained, memoryless baselines included."""
    others = [name for name in config["backtest"]["baselines"] if name in MEMORYLESS]
    return [*networks_of(config), *others]


def states_positions(config: Mapping[str, Any]) -> bool:
    """Whether the head states positions, so that there are weights and no forecasts."""
    return str(config["head"]["name"]) == POSITION


def check_models(config: Mapping[str, Any], suffix: str) -> None:
    """Refuse a model that is unknown or named twice.

    Parameters
    ----------
    suffix : of the names of recalibrated copies, which may be the benchmark too.
    """
    cells, baselines = networks_of(config), list(config["backtest"]["baselines"])
    known = [*BASELINES, *MEMORYLESS]
    for key, names, choices in (("models", cells, CELLS), ("baselines", baselines, known)):
        for name in names:
            if name not in choices:
                raise ForecastError(
                    f"backtest.{key}: {name!r} is unknown. Choose from {', '.join(choices)}."
                )
            if [*cells, *baselines].count(name) > 1:
                raise ForecastError(
                    f"backtest.{key}: {name!r} stands twice in backtest.models and "
                    "backtest.baselines. Name it once."
                )
    judges = [*known, *CELLS, "truth"]
    if config["significance"]["benchmark"].removesuffix(suffix) not in judges:
        raise ForecastError(
            f"significance.benchmark={config['significance']['benchmark']} is no model. Choose "
            f"from {', '.join(dict.fromkeys(judges))}."
        )
