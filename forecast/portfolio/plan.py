"""What is traded, how and at what cost: read and refused before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecast.config import ForecastError, canonical_id, instantiate, without
from forecast.portfolio.costs import Costs, cash_rate
from forecast.portfolio.decisions import Limits, check_fill
from forecast.portfolio.quotes import Quotes, quotes_of
from forecast.portfolio.simulation import EXECUTIONS
from forecast.portfolio.strategies import FROM_PRICES
from forecast.prices.frame import Prices

SECTIONS = ("strategy", "costs", "execution", "weights")  # of the configuration


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is traded, how and at what cost.

    Attributes
    ----------
    limits : Limits
        The section `strategy`.
    costs : Costs
    execution : str
    quotes : Quotes
    cash_T : array of float64
        Rate known at each date's close, percent a year.
    """

    limits: Limits
    costs: Costs
    execution: str
    quotes: Quotes
    cash_T: np.ndarray

    @property
    def optimistic(self) -> bool:
        """Whether fills are at the very close that decisions are made with."""
        return self.execution == "close"


def make_plan(config: Mapping[str, Any], prices: Prices) -> Plan:
    """Read the sections that trading has, before anything is fitted.

    Raises
    ------
    ForecastError
        A value that is wrong, or does not go with these prices.
    """
    limits = instantiate(config["strategy"], "strategy", Limits)
    costs = instantiate(config["costs"], "costs", Costs)
    quotes, asked = quotes_of(prices), config["execution"]
    if asked not in (None, *EXECUTIONS):
        raise ForecastError(
            f"execution={asked} is unknown: choose {', '.join(EXECUTIONS)}, or null for the next "
            "open where opens exist, else the next close."
        )
    if asked == "next_open" and quotes.open_TS is None:
        raise ForecastError(
            "execution=next_open: these prices have no opens. Use execution=next_close."
        )
    if costs.impact is not None and quotes.value_TS is None:
        raise ForecastError(
            f"costs.impact={costs.impact} needs volumes, and these prices have none. Use "
            "costs=basis_points, or data with a column volume."
        )
    return Plan(
        limits=limits,
        costs=costs,
        execution=asked or ("next_close" if quotes.open_TS is None else "next_open"),
        quotes=quotes,
        cash_T=cash_rate(costs.cash, prices, quotes.dates),
    )


def check_horizon(plan: Plan, *, horizons: Sequence[int], delays: Sequence[int]) -> int:
    """The horizon that is traded; refuses one whose target ends at or before the fill."""
    horizon = plan.limits.horizon or min(horizons)
    if horizon not in horizons:
        raise ForecastError(
            f"strategy.horizon={horizon} is not forecast: choose from "
            f"{', '.join(map(str, horizons))}."
        )
    for delay in delays:
        check_fill(horizon=horizon, delay=delay, execution=plan.execution)
    return horizon


def trial_ids(
    config: Mapping[str, Any], pairs: Sequence[tuple[str, str]], *, source: str, execution: str
) -> dict[tuple[str, str], str]:
    """What makes a trial another one: all but the seed and the costs.

    Parameters
    ----------
    config : mapping
        Of the whole run.
    pairs : (model, strategy) traded, benchmarks left out.
    source : what forecasts or weights were read, where nothing was fitted.
    """
    apart = without(config, ["seed", "costs", "strategy", "evaluate", "significance"])
    shared = without(config["strategy"], ["rules", "models"])
    rules = config["strategy"]["rules"]
    return {
        (model, strategy): canonical_id(
            {**apart, "strategy": {**shared, "rule": rules.get(strategy), "execution": execution}},
            model=model,
            label=strategy,
            source=source,
        )
        for model, strategy in pairs
        if model != FROM_PRICES
    }


def facts(prices: Prices, quotes: Quotes) -> dict[str, Any]:
    """What `data.json` tells of prices that nothing was fitted on."""
    known_TS = ~np.isnan(quotes.close_TS)
    first_S = np.argmax(known_TS, axis=0)
    return {
        "source": prices.source,
        "sha256": prices.sha256,
        "rows": int(known_TS.sum()),
        "dates": {"first": str(quotes.dates[0]), "last": str(quotes.dates[-1])},
        "symbols": [
            {
                "symbol": symbol,
                "first": str(quotes.dates[first_S[s]]),
                "last": str(quotes.dates[quotes.last_S[s]]),
                "rows": int(known_TS[:, s].sum()),
            }
            for s, symbol in enumerate(quotes.symbols)
        ],
        "warnings": list(prices.warnings),
        "left_out": [{"symbol": s, "reason": reason} for s, reason in prices.left_out],
    }
