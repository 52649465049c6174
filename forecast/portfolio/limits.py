"""What all rules share: caps, horizon, rebalancing, and forecasts that come too late to trade.

Axis: S symbols.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecast.config import ForecastError
from forecast.portfolio.rules import check_entry


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The section `strategy`: what all rules share; its meaning stands in conf/.

    Parameters
    ----------
    models : sequence of str, optional
        Whose forecasts are traded.
    horizon : int, optional
        Sessions; None: the shortest of the table.
    rebalance : int
        Sessions between the decisions of a tranche; so many tranches decide in turn.
    max_position, max_gross, max_net : float, optional
        Caps on a weight, on the sum of absolute weights and on the absolute sum of weights.
    stale : int
        Dates for which a forecast stays valid while the symbol has no session.
    rules : mapping
        label: {rule, its options, turnover}.
    """

    models: Sequence[str] | None
    horizon: int | None
    rebalance: int
    max_position: float | None
    max_gross: float | None
    max_net: float | None
    stale: int
    rules: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.models is not None and not self.models:
            raise ForecastError("strategy.models=[] trades nothing: name a model, or write null.")
        for name in ("horizon", "rebalance"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ForecastError(f"strategy.{name}={value} must be 1 session or more.")
        for name in ("max_position", "max_gross", "max_net"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ForecastError(
                    f"strategy.{name}={value} must be 0 or more, as a fraction of equity, or null."
                )
        if self.stale < 0:
            raise ForecastError(f"strategy.stale={self.stale} must be 0 sessions or more.")
        for label, entry in self.rules.items():
            check_entry(label, entry)

    def capped(self, weights_S: np.ndarray) -> np.ndarray:
        """Weights within the caps: positions cut, then the heavier side, then all scaled down."""
        if self.max_position is not None and np.abs(weights_S).max() > self.max_position:
            weights_S = np.clip(weights_S, -self.max_position, self.max_position)
        # Exact sums: a symbol that is not listed yet must not change a bit of another's weight.
        values = weights_S.tolist()
        gross, net = math.fsum(map(abs, values)), math.fsum(values)
        if self.max_net is not None and abs(net) > self.max_net:
            heavy_S = weights_S > 0 if net > 0 else weights_S < 0
            heavier = (gross + abs(net)) / 2
            cut = abs(net) - self.max_net
            weights_S = np.where(heavy_S, weights_S * (1 - cut / heavier), weights_S)
            gross -= cut
        if self.max_gross is not None and gross > self.max_gross:
            weights_S = weights_S * (self.max_gross / gross)
        return weights_S


def check_fill(*, horizon: int, delay: int, execution: str) -> None:
    """Refuse forecasts whose target is over when the decision is filled.

    The target of origin t lies between the closes of t + delay and t + delay + horizon; fills are
    at the open of t + 1 (`next_open`), at its close (`next_close`) or at the close of t (`close`).
    """
    if execution == "next_close" and delay + horizon <= 1:
        raise ForecastError(
            "execution=next_close fills at the very close at which the targets of "
            f"strategy.horizon={horizon}, target.delay={delay} end. Forecast what comes after the "
            "fill (target.delay=1), or a longer strategy.horizon, or take execution=next_open."
        )
