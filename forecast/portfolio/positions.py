"""Stated positions traded as they were learned: at the next close, at the costs of their loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from forecast.portfolio.costs import Costs
from forecast.portfolio.limits import Limits
from forecast.portfolio.plan import Plan
from forecast.portfolio.quotes import Quotes
from forecast.portfolio.schedule import still_traded
from forecast.portfolio.source import Source
from forecast.portfolio.trading import trade
from forecast.run import Run

DELISTING_RETURN = -30.0  # percent, as in conf/costs


def trade_positions(
    run: Run, quotes: Quotes, weights: pd.DataFrame, *, cost: float, parts: list[str]
) -> dict[str, Any]:
    """Trade the weights of one network beside the benchmarks; tables go to the run's folder.

    Cash earns nothing, shorts borrow for nothing and nothing is capped, as in the loss.

    Parameters
    ----------
    weights : Weights table of the parts.
    cost : basis points of the value traded.

    Returns
    -------
    dict
        `metrics.json` but for its parts.
    """
    costs = Costs(
        commission=cost,
        half_spread=0.0,
        slippage=0.0,
        impact=None,
        capital=None,
        borrow=0.0,
        cash=0.0,
        delisting_return=DELISTING_RETURN,
        levels=(),
    )
    limits = Limits(
        models=None,
        horizon=None,
        rebalance=1,
        max_position=None,
        max_gross=None,
        max_net=None,
        stale=5,
        rules={},
    )
    plan = Plan(
        limits=limits,
        costs=costs,
        execution="next_close",
        quotes=quotes,
        cash_T=np.zeros(len(quotes.dates)),
    )
    networks = list(dict.fromkeys(weights["model"].astype(str)))
    listed = still_traded(weights, quotes)
    # Of this run: a part ends with its decisions, and never holds on into the next one.
    source = Source(run=run, networks=networks, parts=parts, weights=listed)
    return trade(run, plan, source, parts=parts)
