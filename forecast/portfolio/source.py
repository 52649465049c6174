"""What is traded: the forecasts of a run, or a Weights table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from forecast.config import ForecastError
from forecast.forecasts import names, read_forecasts
from forecast.portfolio.plan import Plan, check_horizon
from forecast.portfolio.strategies import FROM_PRICES
from forecast.run import PARTS, Run
from forecast.weights import read_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What is traded.

    Attributes
    ----------
    run : Run, optional
        That the forecasts or weights are from.
    networks : models that are somebody's own.
    parts : parts that there are.
    forecasts, models, horizon : a Forecasts table, and what of it is traded.
    weights : a Weights table instead.
    """

    run: Run | None
    networks: Sequence[str]
    parts: Sequence[str]
    forecasts: Path | None = None
    models: Sequence[str] = ()
    horizon: int | None = None
    weights: pd.DataFrame | None = None

    @classmethod
    def of(cls, run: Run | None, given: str | None, plan: Plan, benchmark: str) -> Source:
        """Of a finished run, or of a given Weights table.

        Parameters
        ----------
        benchmark : model whose forecasts are traded beside the networks', unless it says which.
        """
        table = None if run is None else run.path / "forecasts.parquet"
        if run is None or table is None or not table.is_file():
            path = Path(given) if run is None and given else Path(run.path if run else "")
            weights = read_weights(path if run is None else path / "weights.parquet")
            # Those of a portfolio hold the benchmarks, which are made anew.
            weights = weights[(weights["model"] != FROM_PRICES).to_numpy()]
            parts = [part for part in PARTS if part in set(weights["part"].astype(str))]
            models = list(dict.fromkeys(weights["model"].astype(str)))
            own = list(run.metrics["networks"]) if run is not None else models
            return cls(run=run, networks=own, parts=parts, weights=weights)
        targets = read_forecasts(table, columns=["horizon", "delay"]).drop_duplicates()
        horizon = check_horizon(
            plan,
            horizons=sorted(set(targets["horizon"].tolist())),
            delays=sorted(set(targets["delay"].tolist())),
        )
        known, networks = names(table, "model"), list(run.metrics["networks"])
        wanted = plan.limits.models or [
            *networks,
            *(name for name in [benchmark] if name in known and name not in networks),
        ]
        for name in wanted:
            if name not in known:
                raise ForecastError(
                    f"strategy.models: {name!r} states no forecast here. Choose from "
                    f"{', '.join(known)}."
                )
        return cls(
            run=run,
            networks=networks,
            parts=run.parts,
            forecasts=table,
            models=list(wanted),
            horizon=horizon,
        )
