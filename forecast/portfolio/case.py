"""What rules are tried on: forecasts and prices as they are, cut off, changed, and as noise.

Axes: T dates, S symbols, R decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.evaluation.causality import perturb, truncate
from forecast.forecasts import QUANTILES
from forecast.portfolio.decisions import Limits, decide
from forecast.portfolio.quotes import Quotes, quotes_of
from forecast.portfolio.strategies import Rule
from forecast.prices.frame import Prices

AFTER = 10  # origins of changed data that are decided at too
STATED = ["scale", "mean", "std", *QUANTILES]  # what a rule sees of a Forecasts table
PART = "test"


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What rules are tried on.

    Parameters
    ----------
    forecasts : DataFrame
        Forecasts table of one model, its parts one after the other.
    prices : Prices
        Of its symbols, up to its last origin and beyond.
    limits : Limits
        The section `strategy`. Decisions are tried at every origin, whatever `rebalance` says.
    execution : str
    origins : int
        The last ones of the table that are decided at.
    where : str
        Whose forecasts these are, for sentences.
    seed : int
        Of changes and of noise.
    """

    forecasts: pd.DataFrame
    prices: Prices
    limits: Limits
    execution: str | None
    origins: int
    where: str
    seed: int = 0

    @cached_property
    def table(self) -> pd.DataFrame:
        """Rows of the horizon that is traded, at the origins that are tried."""
        table = self.forecasts
        horizon = self.limits.horizon or table["horizon"].min()
        table = table[table["horizon"] == horizon]
        if table.empty:
            known = ", ".join(map(str, sorted(self.forecasts["horizon"].unique())))
            raise ForecastError(f"strategy.horizon={horizon} is not forecast: choose from {known}.")
        first = np.unique(table["origin"])[-self.origins :][0]
        kept = table[table["origin"] >= first]
        return kept.assign(part=PART, fold=0).reset_index(drop=True)

    @cached_property
    def quotes(self) -> Quotes:
        return quotes_of(self.prices)

    @cached_property
    def days(self) -> np.ndarray:
        """The origins, datetime64[D], ascending."""
        return np.unique(self.table["origin"]).astype("datetime64[D]")

    @property
    def horizon(self) -> int:
        return int(self.table["horizon"].iloc[0])

    @property
    def delay(self) -> int:
        return int(self.table["delay"].iloc[0])

    def decided(self, rule: Rule, table: pd.DataFrame, quotes: Quotes) -> pd.DataFrame:
        """What a rule wants to hold, origins × symbols."""
        weights = decide(
            table,
            quotes,
            model=str(table["model"].iloc[0]),
            strategy="audited",
            rule=rule,
            options={},
            settings=replace(self.limits, rebalance=1),
            part=PART,
        )
        names = weights.astype({"symbol": str})
        wide = names.pivot(index="origin", columns="symbol", values="weight")
        return wide.reindex(columns=list(self.quotes.symbols)).fillna(0.0)

    def until(self, day: np.datetime64) -> tuple[pd.DataFrame, Quotes]:
        """Forecasts and prices as they were at the close of a day; what is later is not known."""
        return _until(self.table, day), quotes_of(truncate(self.prices, day))

    def changed(self, day: np.datetime64) -> tuple[pd.DataFrame, Quotes]:
        """Other prices after a day, and other forecasts at a few origins after it."""
        random = np.random.default_rng(self.seed)
        table = _until(self.table, self.days[self.days > day][:AFTER][-1])
        later = np.flatnonzero((table["origin"] > pd.Timestamp(day)).to_numpy())
        stated = table[STATED].to_numpy()
        stated[later] = stated[random.integers(len(table), size=len(later))]
        table[STATED] = stated
        return table, quotes_of(perturb(self.prices, day + 1, seed=self.seed))

    def noise(self) -> tuple[pd.DataFrame, Quotes]:
        """Forecasts and returns of the same sessions that are those of other dates and symbols.

        So they look like real ones in all but time: a rule on them works as it does.
        """
        random, table = np.random.default_rng(self.seed), self.table.copy()
        table[STATED] = table[STATED].to_numpy()[random.permutation(len(table))]
        returns_TS = self.quotes.returns_TS
        known_TS = ~np.isnan(returns_TS)
        growth_TS = np.ones_like(returns_TS)
        growth_TS[known_TS] += random.permutation(returns_TS[known_TS])
        there_TS = ~np.isnan(self.quotes.close_TS)
        close_TS = np.where(there_TS, 100 * np.cumprod(growth_TS, axis=0), np.nan)
        return table, replace(self.quotes, close_TS=close_TS, open_TS=None, value_TS=None)

    def ahead(self, origins: pd.Index[pd.Timestamp], sessions: int) -> np.ndarray:
        """Real simple returns over the dates after each origin's close, (R, S); 0 where unknown."""
        close = pd.DataFrame(self.quotes.close_TS).ffill().to_numpy()
        row = np.searchsorted(self.quotes.dates, origins.to_numpy().astype("datetime64[D]"))
        later = np.minimum(row + sessions, len(close) - 1)
        return np.nan_to_num(close[later] / close[row] - 1)


def _until(table: pd.DataFrame, day: np.datetime64) -> pd.DataFrame:
    table = table[(table["origin"] <= pd.Timestamp(day)).to_numpy()].reset_index(drop=True)
    return table.assign(symbol=table["symbol"].astype(str).astype("category"))
