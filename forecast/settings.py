"""Keys of the configuration that commands share, and those of a backtest."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forecast.config import ForecastError
from forecast.run import PARTS

SECTIONS = (
    "data", "features", "model", "head", "trainer", "logger",
    "horizons", "target", "window", "split", "optimizer", "loss",
)  # fmt: skip
BACKTEST_SECTIONS = (*SECTIONS, "backtest", "significance", "strategy", "costs", "report")
RECALIBRATIONS = ("none", "conformal")
EXECUTORS = ("processes", "ray")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The top-level keys that are no section; their meaning stands in conf/forecaster.yaml."""

    ensemble: int
    seed: int
    threads: int | None
    evaluate: Sequence[str] | None
    force: bool
    outputs: str
    progress: bool

    def __post_init__(self) -> None:
        if self.ensemble < 1:
            raise ForecastError(f"ensemble={self.ensemble} must be 1 or more members.")
        if self.seed < 0:
            raise ForecastError(f"seed={self.seed} must be 0 or more.")
        if self.threads is not None and self.threads < 1:
            raise ForecastError(f"threads={self.threads} must be 1 or more, or null.")
        if self.evaluate is not None and not self.evaluate:
            raise ForecastError(f"evaluate=[] scores nothing: choose {', '.join(PARTS)}, or null.")
        for part in self.evaluate or ():
            if part not in PARTS:
                raise ForecastError(f"evaluate: {part!r} is no part: choose {', '.join(PARTS)}.")

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts to score, in canonical order."""
        return tuple(p for p in PARTS if self.evaluate is None or p in self.evaluate)


def check_sections(config: Mapping[str, Any], sections: Sequence[str] = SECTIONS) -> None:
    """Refuse a configuration without one of its sections, or with a value in place of one."""
    for name in sections:
        if name not in config:
            raise ForecastError(f"the section {name} is missing. Do not remove it.")
        if name != "horizons" and not isinstance(config[name], Mapping):
            raise ForecastError(
                f"{name}={config[name]} replaces a section. Set its keys: {name}.<key>=<value>."
            )


@dataclass(frozen=True, kw_only=True)
class Backtest(Settings):
    """The top-level keys of a backtest; their meaning stands in conf/."""

    forecasts: str | Sequence[str] | None
    weights: str | None
    execution: str | None
    recalibrate: str

    @property
    def walked(self) -> bool:
        """Whether networks are trained, rather than tables read."""
        return self.forecasts is None and self.weights is None

    @property
    def live(self) -> bool:
        """Whether the live record is scored: `live`, or `live:<run>`."""
        return isinstance(self.forecasts, str) and self.forecasts.partition(":")[0] == "live"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recalibrate not in RECALIBRATIONS:
            raise ForecastError(
                f"recalibrate={self.recalibrate} is unknown: choose {', '.join(RECALIBRATIONS)}."
            )
        if self.forecasts is not None and not self.forecasts:
            raise ForecastError(
                "forecasts names no table: give a path or a list of them, or null to walk forward."
            )
        if self.forecasts is not None and self.weights is not None:
            raise ForecastError(
                f"weights={self.weights} and forecasts={self.forecasts}: weights are traded as "
                "they are. Leave one of them out."
            )


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The section `backtest`; its meaning stands in conf/backtest.yaml."""

    first: str | int
    last: str | int | None
    refit: str | int
    train: str | int
    embargo: int
    models: Sequence[str] | None
    baselines: Sequence[str]
    mlp_widths: Sequence[int]
    warm_start: bool
    jobs: int | str
    executor: str
    ray_address: str | None

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ForecastError(
                f"backtest.executor={self.executor} is unknown: choose {', '.join(EXECUTORS)}."
            )
        if self.jobs != "auto" and not (isinstance(self.jobs, int) and self.jobs >= 1):
            raise ForecastError(
                f"backtest.jobs={self.jobs} must be auto or a number of processes, 1 or more."
            )
        if self.models is not None and not self.models:
            raise ForecastError("backtest.models=[] names no network: name one, or write null.")
        if not self.mlp_widths or min(self.mlp_widths) < 1:
            raise ForecastError(
                f"backtest.mlp_widths={list(self.mlp_widths)} must be hidden sizes of 1 or more."
            )


@dataclass(frozen=True, kw_only=True)
class Report:
    """The section `report`; its meaning stands in conf/backtest.yaml."""

    origins: Sequence[str] | None

    def __post_init__(self) -> None:
        for origin in self.origins or ():
            try:
                datetime.date.fromisoformat(origin)
            except ValueError as error:
                raise ForecastError(
                    f"report.origins: {origin!r} is no date. Write 2020-03-16."
                ) from error


@dataclass(frozen=True, kw_only=True)
class Significance:
    """The section `significance`; its meaning stands in conf/backtest.yaml."""

    benchmark: str
    repetitions: int
    seed: int

    def __post_init__(self) -> None:
        if self.repetitions < 100 or self.seed < 0:
            raise ForecastError(
                f"significance.repetitions={self.repetitions} must be 100 or more, "
                f"significance.seed={self.seed} 0 or more."
            )
