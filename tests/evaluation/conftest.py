"""Blocks of a Forecasts table, and networks to look into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from forecast.dataset.datamodule import standardisation
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import make_fold, ranges
from forecast.dataset.market import make_market
from forecast.dataset.panel import make_panel
from forecast.dataset.task import Task
from forecast.evaluation.explained import Explained, Member
from forecast.forecasts import LEVELS, OPTIONAL, QUANTILES, SCHEMA
from forecast.models.named_heads import make_head
from forecast.models.networks import Network
from forecast.prices.frame import Prices
from forecast.prices.simulated import simulated

MakeBlock = Callable[..., pd.DataFrame]


@pytest.fixture(scope="session")
def make_block() -> MakeBlock:
    """Normal forecasts; actuals do not depend on the model, and a tenth of them is unknown."""

    def make(
        *,
        model: str = "lstm",
        part: str = "test",
        symbols: tuple[str, ...] = ("AAPL", "KO", "RRC"),
        days: int = 30,
        horizons: tuple[int, ...] = (1, 5),
        start: str = "2020-01-01",
        seed: int = 0,
    ) -> pd.DataFrame:
        keys = pd.MultiIndex.from_product([symbols, range(days), horizons]).to_frame(index=False)
        dates = pd.bdate_range(start, periods=days + max(horizons))
        dates = dates.to_numpy().astype("datetime64[s]")
        n = len(keys)
        outcome = np.random.default_rng((7, *part.encode()))
        known = outcome.uniform(size=n) > 0.1
        rng = np.random.default_rng((seed, *model.encode()))
        mean, std = rng.normal(0, 0.1, n).round(1), rng.uniform(0.5, 2, n)
        block = pd.DataFrame(
            {
                "model": model,
                "fold": 0,
                "part": part,
                "symbol": keys[0],
                "origin": dates[keys[1]],
                "horizon": keys[2].astype("int16"),
                "delay": 0,
                "target_date": dates[keys[1] + keys[2]],
                "price": 10.0,
                "scale": outcome.uniform(0.5, 2, n),
                "actual": np.where(known, outcome.normal(size=n).round(1), np.nan),
                "realized_variance": np.where(known, outcome.chisquare(1, n), np.nan),
                "mean": mean.astype("float32"),
                "std": std.astype("float32"),
            }
        ).astype({"model": "category", "part": "category", "symbol": "category"})
        values = mean[:, None] + std[:, None] * stats.norm.ppf(LEVELS)
        quantiles = pd.DataFrame(values.astype("float32"), columns=list(QUANTILES))
        others = pd.DataFrame(rng.uniform(size=(n, 5)).astype("float32"), columns=list(OPTIONAL))
        for name, factor in (("es01", 2.7), ("es05", 2.1)):  # of a normal, nearly
            others[name] = (mean - factor * std).astype("float32")
        for name in ("nll", "pit", "crps_exact"):
            others[name] = others[name].where(known)
        return pd.concat([block, quantiles, others], axis=1)[SCHEMA.names]

    return make


MakeExplained = Callable[..., Explained]
COLUMNS = ("return", "abs_return", "volatility_5", "market_return")


@pytest.fixture(scope="session")
def make_explained() -> MakeExplained:
    """Networks with weights of luck alone, on a simulated panel of staggered histories."""

    def make(
        cell: str = "lstm",
        *,
        layers: int = 1,
        columns: Sequence[str] = COLUMNS,
        head: str = "student_t",
        prices: Prices | None = None,
        members: int = 1,
        spread: float = 1.0,
        **options: Any,
    ) -> Explained:
        prices = prices or simulated(
            **{"process": "garch", "n_symbols": 6, "n_sessions": 400, "staggered": True, **options}
        )
        market = make_market(prices, "equal_weight", half_life=20.0)
        panel = make_panel(prices, FeatureSet(columns=list(columns)), market=market)
        task = Task(horizons=(1, 5), delay=0, length=50, warmup=20, batch=8)
        fold = make_fold(panel.dates, validation=80, test=0.2)
        found = ranges(panel, fold, reach=task.reach, warmup=task.warmup)
        used = make_head({"name": head})
        torch.manual_seed(0)
        networks = []
        for _ in range(members):
            network = Network(
                cell=cell,
                features=len(panel.names),
                horizons=2,
                parameters=used.size,
                hidden_size=5,
                layers=layers,
                input_dropout=0.5,
            ).eval()
            network.standardise_with(*standardisation(panel, found["train"]))
            with torch.no_grad():
                for name, weight in network.named_parameters():
                    weight.normal_(0, spread / weight.shape[-1] ** 0.5 if "weight" in name else 0.1)
            networks.append(network)
        return Explained(
            config={
                "features": {"columns": list(columns), "own": []},
                "loss": {"clip": 20.0},
            },
            prices=prices,
            panel=panel,
            task=task,
            rows=found["validation"],
            train=found["train"],
            members=[
                Member(model=cell, seed=0, number=number, network=network, head=used)
                for number, network in enumerate(networks, start=1)
            ],
            horizon=0,
        )

    return make
