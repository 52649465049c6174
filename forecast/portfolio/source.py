"""What is traded: the forecasts of a run, or a Weights table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.forecasts import names, read_forecasts
from forecast.portfolio.plan import Plan, check_horizon
from forecast.portfolio.strategies import FROM_PRICES
from forecast.prices.frame import Prices
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
    reach : sessions from an origin to the end of its target; 1 of weights.
    weights : a Weights table instead.
    """

    run: Run | None
    networks: Sequence[str]
    parts: Sequence[str]
    forecasts: Path | None = None
    models: Sequence[str] = ()
    horizon: int | None = None
    reach: int = 1
    weights: pd.DataFrame | None = None

    @classmethod
    def of(
        cls, run: Run | None, given: str | None, plan: Plan, *, benchmark: str, prices: Prices
    ) -> Source:
        """What a run has, or where there is none a Weights table."""
        if run is None:
            return cls.of_weights(Path(str(given)))
        if (run.path / "weights.parquet").is_file():
            return cls.of_weights(run.path / "weights.parquet", run)
        source = cls.of_forecasts(run, plan, benchmark=benchmark)
        source.check_prices(prices)
        return source

    @classmethod
    def of_weights(cls, path: Path, run: Run | None = None) -> Source:
        """A Weights table, of anybody or of a run whose networks state positions."""
        weights = read_weights(path)
        # Those of a portfolio hold the benchmarks, which are made anew.
        weights = weights[(weights["model"] != FROM_PRICES).to_numpy()]
        if weights.empty:
            raise ForecastError(
                f"{path}: all weights are of the model {FROM_PRICES}, which benchmarks have; they "
                "are made anew. Give your weights another model's name."
            )
        models = list(dict.fromkeys(weights["model"].astype(str)))
        return cls(
            run=run,
            networks=models if run is None else list(run.metrics["networks"]),
            parts=[part for part in PARTS if part in set(weights["part"].astype(str))],
            weights=weights,
        )

    @classmethod
    def of_forecasts(cls, run: Run, plan: Plan, *, benchmark: str) -> Source:
        """The Forecasts table of a run.

        Parameters
        ----------
        benchmark : model whose forecasts are traded beside the networks', unless it says which.
        """
        table = run.path / "forecasts.parquet"
        targets = read_forecasts(table, columns=["horizon", "delay"]).drop_duplicates()
        delays = sorted(set(targets["delay"].tolist()))
        horizon = check_horizon(
            plan, horizons=sorted(set(targets["horizon"].tolist())), delays=delays
        )
        known, networks = names(table, "model"), list(run.metrics["networks"])
        usual = [*networks, *(name for name in [benchmark] if name in known)]
        wanted = list(dict.fromkeys(plan.limits.models or usual))
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
            models=wanted,
            horizon=horizon,
            reach=horizon + delays[-1],
        )

    def check_prices(self, prices: Prices) -> None:
        """Refuse forecasts that were made on other prices than those they are traded at.

        The price that a forecast states is the quoted close of its origin.
        """
        if self.forecasts is None:
            return
        stated = read_forecasts(
            self.forecasts, columns=["symbol", "origin", "price"], model=self.models[0]
        ).drop_duplicates(["symbol", "origin"])
        frame = prices.frame
        quoted = frame["close"]
        if "raw_close" in frame:
            quoted = frame["raw_close"].fillna(quoted)
        known = pd.DataFrame(
            {"symbol": frame["symbol"].astype(str), "origin": frame["date"], "quoted": quoted}
        )
        both = stated.astype({"symbol": str}).merge(known, on=["symbol", "origin"], how="left")
        wrong = ~np.isclose(both["price"], both["quoted"], rtol=1e-6)
        if wrong.any():
            row = both.iloc[int(wrong.argmax())]
            raise ForecastError(
                f"{row['symbol']} on {row['origin'].date()}: the forecasts state the price "
                f"{row['price']:g}, data has {row['quoted']:g}. Give the prices that the forecasts "
                "were made on."
            )
