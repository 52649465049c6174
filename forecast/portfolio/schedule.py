"""A Weights table as decisions by date, checked against the prices it is to be traded at.

Axes: T dates, S symbols, P (model, strategy) pairs, N rows of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.portfolio.quotes import Quotes

ROUNDING = 1e-9  # by which the sum of weights may pass a cap
DECISION = ("part", "model", "strategy", "origin")  # what names one in a Weights table


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """What each pair wants to hold, by the date of the decision.

    Attributes
    ----------
    pairs : tuple of (model, strategy), (P,)
    first, last : int
        Indices into the dates of the first and last decision of any pair.
    """

    pairs: tuple[tuple[str, str], ...]
    first: int
    last: int
    _symbols: int
    _start_T: np.ndarray  # the rows of date t are _start_T[t] … _start_T[t + 1]
    _cell_N: np.ndarray  # pair × S + symbol
    _weight_N: np.ndarray

    @cached_property
    def weighted_TS(self) -> np.ndarray:
        """Where some pair gives a symbol a weight at a date of the quotes."""
        dates = len(self._start_T) - 1
        t_N = np.repeat(np.arange(dates), np.diff(self._start_T))
        result = np.zeros((dates, self._symbols), dtype=bool)
        some_N = self._weight_N != 0
        result[t_N[some_N], self._cell_N[some_N] % self._symbols] = True
        return result

    def decided(self, t: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Which pairs decide at date t, (P,), and their weights, (P, S); None where none does."""
        rows = slice(self._start_T[t], self._start_T[t + 1])
        if rows.start == rows.stop:
            return None
        weight_PS = np.zeros((len(self.pairs), self._symbols))
        weight_PS.ravel()[self._cell_N[rows]] = self._weight_N[rows]
        decides_P = np.zeros(len(self.pairs), dtype=bool)
        decides_P[self._cell_N[rows] // self._symbols] = True
        return decides_P, weight_PS


def schedule(weights: pd.DataFrame, quotes: Quotes, max_gross: float | None = None) -> Schedule:
    """Decisions of a validated Weights table of one part.

    Parameters
    ----------
    max_gross : the most that a pair's absolute weights may add up to; None: anything.

    Raises
    ------
    ForecastError
        No row; more parts than one; a symbol without prices; an origin that is no date of the
        prices; a weight before a symbol's first session or after it ended; a sum above
        `max_gross`. Names the first row in the table's order.
    """
    if weights.empty:
        raise ForecastError("weights: there is none to trade. Give a row per origin and symbol.")
    part_N, parts = _codes(weights["part"])
    traded = np.flatnonzero(np.bincount(part_N))
    if len(traded) > 1:
        both = " and ".join(parts[i] for i in traded)
        raise ForecastError(f"weights: parts {both} cannot be traded at once. Simulate one.")
    model_N, models = _codes(weights["model"])
    strategy_N, strategies = _codes(weights["strategy"])
    name_N, names = _codes(weights["symbol"])
    weight_N = weights["weight"].to_numpy(dtype=np.float64)
    origin_N = weights["origin"].to_numpy().astype("datetime64[D]")
    pair_N = model_N * np.int32(len(strategies)) + strategy_N

    def refuse(row: int, what: str) -> NoReturn:
        model, strategy = models[model_N[row]], strategies[strategy_N[row]]
        raise ForecastError(f"weights of {model}/{strategy} at {origin_N[row]}: {what}")

    column = {name: s for s, name in enumerate(quotes.symbols)}
    symbol_N = np.array([column.get(name, -1) for name in names], dtype=np.int32)[name_N]
    if symbol_N.min() < 0:
        row = int((symbol_N < 0).argmax())
        refuse(row, f"{names[name_N[row]]} has no prices. Add them to data, or drop the symbol.")

    t_N = _places(origin_N, quotes.dates)
    if t_N.min() < 0:
        refuse(
            int((t_N < 0).argmax()),
            f"the origin is no date of the prices, {quotes.dates[0]} … {quotes.dates[-1]}. Give "
            "the prices on which the weights were decided, or drop the origin.",
        )

    last_S = np.where(quotes.ended_S, quotes.last_S, len(quotes.dates)).astype(np.int32)
    early_N = t_N < quotes.first_S.astype(np.int32)[symbol_N]
    wrong_N = (early_N | (t_N > last_S[symbol_N])) & (weight_N != 0)
    if wrong_N.any():
        row = int(wrong_N.argmax())
        s = symbol_N[row]
        when = (
            f"has no session before {quotes.dates[quotes.first_S[s]]}"
            if early_N[row]
            else f"ended on {quotes.dates[quotes.last_S[s]]}"
        )
        refuse(row, f"{quotes.symbols[s]} {when}. Drop its weight of {weight_N[row]:g} there.")

    if max_gross is not None:
        cell_N = pair_N * np.int32(len(quotes.dates)) + t_N
        gross = np.bincount(cell_N, weights=np.abs(weight_N))
        if gross.max() > max_gross + ROUNDING:
            row = int((cell_N == gross.argmax()).argmax())
            refuse(
                row,
                f"absolute weights add up to {gross.max():.6g}, more than "
                f"strategy.max_gross={max_gross:g}. Scale them down, or raise the cap.",
            )

    used = np.flatnonzero(np.bincount(pair_N))
    place = np.zeros(len(models) * len(strategies), dtype=np.int32)
    place[used] = np.arange(len(used))
    cell_N = place[pair_N] * np.int32(len(quotes.symbols)) + symbol_N
    if len(used) > 1:  # the table is in order of pair first
        order = np.argsort(t_N, kind="stable")
        t_N, cell_N, weight_N = t_N[order], cell_N[order], weight_N[order]
    return Schedule(
        pairs=tuple((models[i // len(strategies)], strategies[i % len(strategies)]) for i in used),
        first=int(t_N[0]),
        last=int(t_N[-1]),
        _symbols=len(quotes.symbols),
        _start_T=np.searchsorted(t_N, np.arange(len(quotes.dates) + 1)),
        _cell_N=cell_N,
        _weight_N=weight_N,
    )


def still_traded(weights: pd.DataFrame, quotes: Quotes) -> pd.DataFrame:
    """A Weights table without rows of symbols that have ended before the origin.

    Of a decision that has no other rows one is kept, with weight 0: whatever else is held is sold.
    """
    ends = pd.Series(quotes.dates[quotes.last_S].astype("datetime64[s]"), index=quotes.symbols)
    symbol = weights["symbol"].astype("category").cat
    end = ends[quotes.ended_S].reindex(symbol.categories).to_numpy()
    over = weights["origin"].to_numpy() > end[symbol.codes.to_numpy()]  # never later than NaT
    if not over.any():
        return weights
    by = [weights[name] for name in DECISION]
    alone = pd.Series(over, index=weights.index).groupby(by, observed=True).transform("all")
    kept = alone.to_numpy() & ~weights.duplicated([*DECISION]).to_numpy()
    zeroed = weights.assign(weight=np.where(kept, 0.0, weights["weight"]))
    return zeroed[~over | kept].reset_index(drop=True)


def _codes(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Each row's place among the column's names, and the names."""
    column = column.astype("category")
    return column.cat.codes.to_numpy().astype(np.int32), [str(x) for x in column.cat.categories]


def _places(day_N: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Index of each day among ascending dates, int32; −1 where it is none of them."""
    first, last = dates[0], dates[-1]
    place = np.full(int((last - first).astype(np.int64)) + 2, -1, dtype=np.int32)
    place[(dates - first).astype(np.int64)] = np.arange(len(dates))
    if day_N.min() < first or day_N.max() > last:
        after = last + np.timedelta64(1, "D")  # the last place, which is no date
        day_N = np.where((day_N < first) | (day_N > last), after, day_N)
    return place[(day_N - first).astype(np.int64)]
