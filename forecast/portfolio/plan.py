"""What is traded, how and at what cost: read and refused before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forecast.config import ForecastError, instantiate
from forecast.models.choice import states_positions
from forecast.portfolio.costs import Costs, cash_rate
from forecast.portfolio.decisions import Limits, check_fill
from forecast.portfolio.quotes import Quotes, quotes_of
from forecast.portfolio.rules import own_rules_sha256
from forecast.portfolio.simulation import EXECUTIONS
from forecast.prices.frame import Prices


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
    own_sha256 : str
        Of the code of own rules; empty without any.
    """

    limits: Limits
    costs: Costs
    execution: str
    quotes: Quotes
    cash_T: np.ndarray
    own_sha256: str = ""

    @property
    def optimistic(self) -> bool:
        """Whether fills are at the very close that decisions are made with."""
        return self.execution == "close"


def check_options(config: Mapping[str, Any]) -> tuple[Limits, Costs, str | None]:
    """Read the sections that trading has; refuse what is wrong whatever the prices are."""
    limits = instantiate(config["strategy"], "strategy", Limits)
    costs = instantiate(config["costs"], "costs", Costs)
    execution = config["execution"]
    if execution not in (None, *EXECUTIONS):
        raise ForecastError(
            f"execution={execution} is unknown: choose {', '.join(EXECUTIONS)}, or null for the "
            "next open where opens exist, else the next close."
        )
    return limits, costs, execution


def make_plan(config: Mapping[str, Any], prices: Prices, *, walked: bool) -> Plan:
    """What is traded, before anything is fitted.

    A head that states positions learns to trade every session at the next close, so that is what
    is done then, and what the benchmarks beside it do.

    Parameters
    ----------
    walked : whether forecasts or positions are yet to be made, as the configuration says.

    Raises
    ------
    ForecastError
        A value that is wrong, or does not go with these prices; and forecasts to be made whose
        targets would end at or before the fill.
    """
    limits, costs, execution = check_options(config)
    quotes = quotes_of(prices)
    if walked and states_positions(config):
        limits, execution = replace(limits, rebalance=1), execution or "next_close"
    if execution == "next_open" and not quotes.opens:
        raise ForecastError(
            "execution=next_open: not all of these symbols have opens. Use execution=next_close."
        )
    if costs.impact is not None and quotes.value_TS is None:
        raise ForecastError(
            f"costs.impact={costs.impact} needs volumes, and these prices have none. Use "
            "costs=basis_points, or data with a column volume."
        )
    plan = Plan(
        limits=limits,
        costs=costs,
        execution=execution or ("next_open" if quotes.opens else "next_close"),
        quotes=quotes,
        cash_T=cash_rate(costs.cash, prices, quotes.dates),
        own_sha256=own_rules_sha256(limits.rules),
    )
    if walked and limits.rules:
        delays = [config["target"]["delay"]]
        check_horizon(plan, horizons=config["horizons"], delays=delays)
    return plan


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
