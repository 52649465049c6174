"""A configuration fitted in memory, as an audit does many times, and its reduced copies."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.folds import Fold, Range, make_fold
from forecast.dataset.market import Market
from forecast.dataset.panel import Panel
from forecast.dataset.windows import PanelTensors
from forecast.evaluation.causality import truncate
from forecast.models.block import Block, blocks
from forecast.models.configured import make_task
from forecast.models.distributions import Distribution
from forecast.models.ensemble import Ensemble, load_ensemble
from forecast.models.heads import PositionHead
from forecast.models.pipeline import fit_ensemble, make_datamodule
from forecast.models.weights import write_weights
from forecast.prices.frame import Prices
from forecast.weights import read_weights

Config = Mapping[str, Any]

LEAST = 20  # origins of a validation range, beyond its purge and embargo


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trained configuration and the data it was trained on.

    Attributes
    ----------
    arrays : dict of arrays
        All that training has left: weights, standardisation, losses by epoch.
    """

    ensemble: Ensemble
    datamodule: PriceDataModule
    arrays: dict[str, np.ndarray]

    @property
    def positions(self) -> bool:
        """Whether the networks state positions, and no distributions."""
        return isinstance(self.ensemble.head, PositionHead)

    def weights(self, *parts: str) -> pd.DataFrame:
        """Weights table of those parts that have a row, of networks that state positions."""
        filled = [part for part in parts if self.datamodule.ranges[part].rows]
        return weights_of({"audited": self.ensemble}, self.datamodule, *filled)

    def forecasts(self, *parts: str) -> pd.DataFrame:
        """Forecasts table of those parts that have a row, without baselines."""
        data = self.datamodule
        tensors = data.tensors(self.ensemble.device)
        tables = [
            forecast_rows(self.ensemble, data.panel, data.ranges[part], part=part, tensors=tensors)
            for part in parts
            if data.ranges[part].rows
        ]
        return pd.concat(tables, ignore_index=True)


def fit(
    config: Config, prices: Prices, *, fold: Fold | None = None, market: Market | None = None
) -> Trial:
    """Train in a folder that is gone afterwards."""
    datamodule = make_datamodule(config, prices, fold=fold, market=market)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fit_ensemble(config, datamodule, folder, say=lambda line: None)
        ensemble = load_ensemble(
            folder,
            members=config["ensemble"],
            task=datamodule.task,
            allow=[config["head"]["name"]],
        )
        history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
    arrays = {f"history.{column}": history[column].to_numpy() for column in history}
    for member, network in enumerate(ensemble.networks):
        for key, value in network.state_dict().items():
            arrays[f"member {member + 1}, {key}"] = value.numpy()
    return Trial(ensemble=ensemble, datamodule=datamodule, arrays=arrays)


def forecast_rows(
    ensemble: Ensemble,
    panel: Panel,
    rows: Range,
    *,
    part: str,
    fold: int = 0,
    tensors: PanelTensors | None = None,
) -> pd.DataFrame:
    """Forecasts table of an ensemble on a range of rows, in memory.

    A position stands in it as a mean, in units of scale·√h.
    """
    task = ensemble.task
    tensors = tensors or PanelTensors(
        panel, horizons=task.horizons, delay=task.delay, device=ensemble.device
    )
    tables = [
        block.table(_said(ensemble, block, rows, tensors), model="audited", part=part, fold=fold)
        for block in blocks(panel, task, rows)
    ]
    if not tables:
        raise ForecastError(f"no row of the {part} part has a scale. Use longer histories.")
    return pa.concat_tables(tables).unify_dictionaries().to_pandas(date_as_object=False)


def _said(ensemble: Ensemble, block: Block, rows: Range, tensors: PanelTensors) -> Distribution:
    if isinstance(ensemble.head, PositionHead):
        return Distribution(mean=ensemble.parameters(block, rows, tensors)[..., 0].reshape(-1))
    return ensemble.distribution(block, rows, tensors)


def weights_of(
    ensembles: Mapping[str, Ensemble], datamodule: PriceDataModule, *parts: str
) -> pd.DataFrame:
    """Weights table of networks that state positions, in memory."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "weights.parquet"
        write_weights(path, datamodule, parts=parts, ensembles=ensembles)
        return read_weights(path)


def small(config: Config, *, epochs: int, **changes: Any) -> dict[str, Any]:
    """The configuration with one member, on the CPU, for so many epochs at most."""
    patience = min(config["trainer"]["patience"], epochs)
    trainer = {"accelerator": "cpu", "devices": 1, "max_epochs": epochs, "patience": patience}
    return {
        **config,
        "ensemble": 1,
        "logger": {"name": "csv"},
        "trainer": {**config["trainer"], **trainer},
        **changes,
    }


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A reduced copy of what is audited: few symbols, some sessions around a first test origin.

    Attributes
    ----------
    whole : Prices
        The copy's symbols with all of their history up to the copy's last session.
    prices : Prices
        The sessions that the copy is trained and tested on.
    """

    config: dict[str, Any]
    whole: Prices
    prices: Prices
    fold: Fold

    @property
    def dates(self) -> np.ndarray:
        return session_dates(self.prices)

    def fit(self, prices: Prices) -> Trial:
        return fit(self.config, prices, fold=self.fold)

    def __str__(self) -> str:
        symbols = self.prices.frame["symbol"].nunique()
        epochs = self.config["trainer"]["max_epochs"]
        return (
            f"{self.config['model']['cell']}, {symbols} symbol{'s' * (symbols > 1)}, "
            f"{self.dates[0]} to {self.dates[-1]}, one member, {epochs} epoch{'s' * (epochs > 1)}"
        )


def reduced(
    config: Config,
    prices: Prices,
    fold: Fold,
    *,
    embargo: int,
    symbols: int,
    sessions: int,
    epochs: int,
) -> Copy:
    """A copy that trains in seconds, by the same code and the same options.

    Parameters
    ----------
    fold : Fold
        Whose first test origin is the copy's too.
    symbols : int
        Spread evenly over those with the longest histories, and the market's own.
    sessions : int
        Before the first test origin, beyond the warm-up; a quarter of them for validation (more
        where the longest horizon asks for it), and as many again tested.
    """
    dates = session_dates(prices)
    first_test = int(np.searchsorted(dates, fold.test))
    quarter = max(1, sessions // 4)
    low = max(0, first_test - sessions - int(config["window"]["warmup"]))
    last = dates[min(first_test + quarter, len(dates)) - 1]
    frame = prices.frame
    inside = (frame["date"] >= dates[low]) & (frame["date"] <= last)
    rows = frame["symbol"][inside].value_counts().sort_index(kind="stable")
    full = rows.index[rows >= 0.9 * rows.max()]
    chosen = [str(full[i]) for i in np.linspace(0, len(full) - 1, symbols).round().astype(int)]
    market = config["data"]["market"]
    kept = frame["symbol"].isin([*chosen, *([market] if market in rows.index else [])])
    whole = truncate(replace(prices, frame=frame[kept.to_numpy()], truth=None), last)
    recent = (whole.frame["date"] >= dates[low]).to_numpy()
    copied = truncate(replace(whole, frame=whole.frame[recent]), last)
    # A quarter may be shorter than the purge, which would leave no validation origin.
    validation = max(quarter, make_task(config).reach + embargo + LEAST)
    validation = min(config["split"]["validation"], validation)
    return Copy(
        config=small(config, epochs=epochs),
        whole=whole,
        prices=copied,
        fold=make_fold(
            session_dates(copied),
            validation=validation,
            test=str(fold.test),
            embargo=min(embargo, validation - 1),
        ),
    )


def session_dates(prices: Prices) -> np.ndarray:
    """Dates on which any symbol has a price, datetime64[D], ascending."""
    return np.unique(prices.frame["date"].to_numpy()).astype("datetime64[D]")
