"""Holdings between decisions: weights drift with prices, and tranches decide in turn.

Sums over symbols are exact ones: a symbol that is not listed yet must not change a bit of another's
weight. Axes: S symbols, K tranches.
"""

from __future__ import annotations

import math

import numpy as np


class Tranches:
    """Parts of the equity, each decided every K-th origin, which drift in between.

    Every tranche starts with the first decision. Cash earns nothing here and trading costs
    nothing: the books say how the next orders are shared, not what is earned.
    """

    def __init__(self, count: int, symbols: int) -> None:
        self._value_KS = np.zeros((count, symbols))
        self._cash_K = np.full(count, 1 / count)

    def drift(self, growth_S: np.ndarray, gone_S: np.ndarray) -> None:
        """Move with prices; what is gone turns into cash."""
        self._value_KS *= growth_S
        if gone_S.any():
            lost_KS = self._value_KS * gone_S
            if lost_KS.any():
                self._cash_K += [math.fsum(lost) for lost in lost_KS.tolist()]
                self._value_KS[:, gone_S] = 0.0

    def decide(self, o: int, weights_S: np.ndarray) -> np.ndarray:
        """Give one tranche, at first all, these weights; return those of the whole."""
        count = len(self._cash_K)
        equity = [
            max(cash + math.fsum(value), 0.0)  # nothing is left to one that lost more
            for cash, value in zip(self._cash_K, self._value_KS.tolist(), strict=True)
        ]
        cash = 1 - math.fsum(weights_S.tolist())
        for k in range(count) if o == 0 else (o % count,):
            self._value_KS[k] = equity[k] * weights_S
            self._cash_K[k] = equity[k] * cash
        total = math.fsum(equity)
        return self._value_KS.sum(axis=0) / total if total > 0 else np.zeros_like(weights_S)


def drifted(weights_S: np.ndarray, growth_S: np.ndarray, gone_S: np.ndarray) -> np.ndarray:
    """Weights after prices have moved; what is gone is cash."""
    value_S = weights_S * growth_S
    equity = 1 + math.fsum((value_S - weights_S).tolist())
    value_S[gone_S] = 0.0
    return value_S / equity if equity > 0 else np.zeros_like(value_S)
