"""What simulated portfolios were worth: measures, intervals, other costs, other delistings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.portfolio.costs import Costs
from forecast.portfolio.intervals import intervals
from forecast.portfolio.performance import performance
from forecast.portfolio.plan import Plan
from forecast.portfolio.simulation import Simulation, simulate
from forecast.portfolio.strategies import FROM_PRICES

REPETITIONS = 2000  # of the stationary bootstrap
BENCHMARK = (FROM_PRICES, "equal_weight")  # that beta and alpha are taken to
SHOWN = ("sharpe", "annual_return", "max_drawdown")  # at other costs


def judge(
    plan: Plan, weights: pd.DataFrame, held: Simulation, *, until: np.datetime64 | None = None
) -> dict[str, Any]:
    """Judge every pair of a part.

    Parameters
    ----------
    weights : Weights of the part, `equal_weight` among them.
    held : their simulation at the costs of the plan.
    until : last date simulated, where it is not that of the last decisions.

    Returns
    -------
    dict
        `performance` and `intervals` at the plan's costs, `levels` at others, each by model and
        strategy; `delisting`: symbols that ended while held, and `sharpe_at_zero`, had they
        returned nothing then; None where none did.
    """

    def again(costs: Costs, delisting_return: float | None = None) -> Simulation:
        return simulate(
            plan.quotes,
            weights,
            costs=costs,
            cash_T=plan.cash_T,
            execution=plan.execution,
            delisting_return=delisting_return,
            until=until,
        )

    measured = measures(held, periods=plan.quotes.periods)
    levels: list[dict[str, Any]] = [{} for _ in held.pairs]
    for level in plan.costs.levels:
        try:
            simulation = again(plan.costs.at(level))
        except ForecastError as error:
            raise ForecastError(f"costs.levels: at {level:g} basis points {error}") from error
        found = measures(simulation, periods=plan.quotes.periods)
        for row, values, bound in zip(levels, found, bounds(plan, simulation), strict=True):
            shown = {key: values[key] for key in SHOWN}
            row[f"{level:g}"] = {**shown, "sharpe_interval": bound["sharpe"]}
    delisting = None
    if held.delisted:
        mild = measures(again(plan.costs, 0.0), periods=plan.quotes.periods)
        at_zero = nested(held.pairs, [values["sharpe"] for values in mild])
        delisting = {"symbols": list(held.delisted), "sharpe_at_zero": at_zero}
    return {
        "performance": nested(held.pairs, measured),
        "intervals": nested(held.pairs, bounds(plan, held)),
        "levels": nested(held.pairs, levels),
        "delisting": delisting,
    }


def measures(simulation: Simulation, *, periods: float) -> list[dict[str, Any]]:
    """Performance of every pair, beside what it could not trade as asked."""
    at = simulation.pairs.index(BENCHMARK) if BENCHMARK in simulation.pairs else None
    begin = first_session(simulation)
    return [
        {
            **performance(
                simulation.return_PT[p, begin:],
                dates_T=simulation.dates_T[begin:],
                cash_return_T=simulation.cash_return_T[begin:],
                gross_return_T=simulation.gross_return_PT[p, begin:],
                turnover_T=simulation.turnover_PT[p, begin:],
                cost_T=simulation.cost_PT[p, begin:],
                borrow_T=simulation.borrow_PT[p, begin:],
                long_T=simulation.long_PT[p, begin:],
                short_T=simulation.short_PT[p, begin:],
                benchmark_T=None if at is None else simulation.return_PT[at, begin:],
                periods=periods,
            ),
            "marked": int(simulation.marked_P[p]),
            "late": int(simulation.late_P[p]),
        }
        for p in range(len(simulation.pairs))
    ]


def first_session(simulation: Simulation) -> int:
    """Index of the first date with a return.

    On the first origin nothing happens but a fill at its very close.
    """
    return 0 if simulation.turnover_PT[:, 0].any() else 1


def bounds(plan: Plan, simulation: Simulation) -> list[dict[str, list[float] | None]]:
    """Bootstrap intervals of every pair."""
    begin = first_session(simulation)
    return intervals(
        simulation.return_PT[:, begin:],
        cash_return_T=simulation.cash_return_T[begin:],
        periods=plan.quotes.periods,
        repetitions=REPETITIONS,
        seed=0,
    )


def nested(pairs: Sequence[tuple[str, str]], values: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Values of pairs by model, then strategy."""
    result: dict[str, dict[str, Any]] = {}
    for (model, strategy), value in zip(pairs, values, strict=True):
        result.setdefault(model, {})[strategy] = value
    return result
