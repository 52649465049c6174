"""The books of portfolios side by side: shares, orders that wait for a price, and cash.

Axes: S symbols, P portfolios.
"""

from __future__ import annotations

import numpy as np

DUST = 1e-12  # of equity: a smaller order is what rounding left of one


class Book:
    """Shares, waiting orders and cash of every pair, from one unit of cash each on.

    Attributes
    ----------
    shares_PS, order_PS : held, and ordered but not yet filled; signed.
    cash_P : what is not held in shares, proceeds of shorts among it.
    equity_P, long_P, short_P : as of the last marking.
    waiting : whether any order is open.
    """

    def __init__(self, pairs: int, symbols: int) -> None:
        self.shares_PS = np.zeros((pairs, symbols))
        self.order_PS = np.zeros((pairs, symbols))
        self.cash_P = np.ones(pairs)
        self.equity_P = np.ones(pairs)
        self.long_P = np.zeros(pairs)
        self.short_P = np.zeros(pairs)
        self.fresh_P = np.zeros(pairs, dtype=bool)  # decided since the last fill
        self.waiting = False

    def accrue(self, cash_return: float, borrow: float) -> np.ndarray:
        """Interest on cash, and what shorts pay, which is returned."""
        borrow_P = self.short_P * borrow
        self.cash_P += self.cash_P * cash_return - borrow_P
        return borrow_P

    def retire(self, s: int, price: float) -> bool:
        """Turn what is held of an ended symbol into cash; whether anything was."""
        held = bool(self.shares_PS[:, s].any())
        self.cash_P += self.shares_PS[:, s] * price
        self.shares_PS[:, s] = self.order_PS[:, s] = 0.0
        return held

    def late(self, mark_S: np.ndarray, there_S: np.ndarray) -> np.ndarray:
        """How many new orders find no price."""
        size_PS = np.abs(self.order_PS) * mark_S
        return np.count_nonzero(
            self.fresh_P[:, None] & ~there_S & (size_PS > DUST * self.equity_P[:, None]), axis=1
        )

    def fill(self, price_S: np.ndarray, there_S: np.ndarray) -> np.ndarray:
        """Trade what has a price (0 where there is none); the values traded, signed, (P, S)."""
        traded_PS = self.order_PS * price_S
        self.cash_P -= traded_PS.sum(axis=1)
        self.shares_PS += self.order_PS * there_S
        self.order_PS = self.order_PS * ~there_S
        self.fresh_P[:] = False
        self.waiting = bool(self.order_PS.any())
        return traded_PS

    def mark(self, price_S: np.ndarray) -> np.ndarray:
        """Value what is held; signed values, (P, S)."""
        value_PS = self.shares_PS * price_S
        long_PS = np.maximum(value_PS, 0.0)
        self.long_P = long_PS.sum(axis=1)
        self.short_P = (long_PS - value_PS).sum(axis=1)
        self.equity_P = self.cash_P + self.long_P - self.short_P
        return value_PS

    def decide(self, decision: tuple[np.ndarray, np.ndarray] | None, price_S: np.ndarray) -> None:
        """Replace the orders of the pairs that decide by what their weights want."""
        if decision is None:
            return
        decides_P, weight_PS = decision
        wanted_PS = weight_PS * self.equity_P[:, None] / price_S
        self.order_PS = np.where(decides_P[:, None], wanted_PS - self.shares_PS, self.order_PS)
        self.fresh_P = decides_P
        self.waiting = True
