"""Blocks of a Forecasts table with every column, of which nothing is null but some actuals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forecast.forecasts import LEVELS, OPTIONAL, QUANTILES, SCHEMA

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
