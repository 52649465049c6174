"""A tiny configuration and its data, of which every number that matters is set here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forecast import compose, load_prices
from forecast.config import plain
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.models.baselines import EwmaT
from forecast.models.garch import GarchFits
from forecast.models.pipeline import make_datamodule
from forecast.prices.frame import Prices
from forecast.prices.simulated import simulated

Config = dict[str, Any]
MakeConfig = Callable[..., Config]

TINY = [
    "data=simulated",
    "data.process=garch",
    "data.n_symbols=6",
    "data.n_sessions=500",
    "data.staggered=true",
    "horizons=[1,5]",
    "target.delay=0",
    "window.length=60",
    "window.warmup=25",
    "window.batch=8",
    "split.validation=60",
    "split.test=0.2",
    "split.embargo=0",
    "model.hidden_size=4",
    "model.layers=1",
    "model.dropout=0.0",
    "model.input_dropout=0.0",
    "optimizer.lr=0.01",
    "optimizer.weight_decay=0.001",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=0",
    "optimizer.clip=1.0",
    "loss.horizon_weights=null",
    "loss.clip=20.0",
    "trainer=cpu",
    "trainer.max_epochs=3",
    "trainer.patience=3",
    "ensemble=1",
    "seed=0",
    "progress=false",
]


@pytest.fixture(scope="session")
def config() -> MakeConfig:
    """The tiny configuration with further overrides."""

    def config(*overrides: str) -> Config:
        return plain(compose("train", [*TINY, *overrides]))

    return config


@pytest.fixture(scope="session")
def prices(config: MakeConfig) -> Prices:
    return load_prices(config()["data"])


@pytest.fixture
def datamodule(config: MakeConfig, prices: Prices) -> PriceDataModule:
    return make_datamodule(config(), prices)


# What the GARCH family is tested on: fit on sessions 30 to 1000 of 1300, forecast afterwards.


@pytest.fixture(scope="session")
def garch_prices() -> Prices:
    return simulated(process="garch", n_symbols=3, n_sessions=1300, drift=0.05, seed=3)


@pytest.fixture(scope="session")
def panel(garch_prices: Prices) -> Panel:
    return make_panel(garch_prices, FeatureSet(columns=["return"]), market=None)


@pytest.fixture(scope="session")
def fit_rows(panel: Panel) -> Range:
    return Range(low=panel.offsets[:-1] + 30, high=panel.offsets[:-1] + 1000)


@pytest.fixture(scope="session")
def fits(panel: Panel, fit_rows: Range) -> GarchFits:
    return GarchFits(panel, Task(horizons=(1, 5, 20), warmup=30, length=60), fit_rows)


@pytest.fixture(scope="session")
def ewma_t(fits: GarchFits, fit_rows: Range) -> EwmaT:
    return EwmaT(fits.panel, fits.task, fit_rows)
