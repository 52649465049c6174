"""Whether value-at-risk is exceeded as often as it says, and not in clusters.

A row exceeds value-at-risk at a level where its return lies below that quantile. Symbols are tested
one by one on draws that would be independent under perfect forecasts: over one session, all of
them; over h, every h-th, which gives h sequences whose p values are joined by Bonferroni.

References
----------
Kupiec (1995), Techniques for verifying the accuracy of risk measurement models, Journal of
Derivatives 3. Christoffersen (1998), Evaluating interval forecasts, International Economic Review
39. Holm (1979), Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.special import xlog1py, xlogy

from forecast.evaluation.daily import Key
from forecast.evaluation.inference import FEWEST, holm, mean_test
from forecast.evaluation.rows import Group, Rows

Array = NDArray[np.float64]

RISK_LEVELS = {"01": 0.01, "05": 0.05}
TESTS = ("kupiec", "independence", "conditional")
SIZE = 0.05  # of the tests of all symbols together


class Risk:
    """Running exceedances of value-at-risk at 1 % and 5 %.

    Keeps ten bytes per row. `COLUMNS` of a Forecasts table are all that it reads.
    """

    COLUMNS = ("part", "model", "symbol", "origin", "horizon", "delay", "actual", "q01", "q05")

    def __init__(self) -> None:
        self._rows = Rows()
        self._delay = 0

    def add(self, block: pd.DataFrame) -> None:
        """Add rows of a Forecasts table; those whose actual is unknown are left out."""
        actual = block["actual"].to_numpy()
        self._delay = max(self._delay, int(block["delay"].max()))
        hits = {}
        for level in RISK_LEVELS:
            quantile = block[f"q{level}"].to_numpy()
            hits[level] = np.where(np.isnan(quantile), -1, actual < quantile).astype(np.int8)
        self._rows.add(block, hits)

    def summary(self) -> dict[str, Any]:
        """Exceedances and their tests by part, model, horizon and level; null without quantiles.

        `rate`, `rate_t` and `rate_p` are of the share of rows that exceed, its t and two-sided p
        clustered by date. `symbols` has of each symbol its rate and three p values, adjusted by
        Holm for the number of symbols and null below 20 draws, and `*_rejected` counts those of at
        most 5 %: that the rate is the level (Kupiec), that an exceedance does not make the next one
        more or less likely, and both at once (Christoffersen).
        """

        def describe(key: Key) -> dict[str, Any] | None:
            group = self._rows.group(*key)
            assert group is not None
            if any((group[level] < 0).any() for level in RISK_LEVELS):
                return None
            # What happens between an origin and the end of its target moves both that exceedance
            # and those of every origin before that end, so with a delay draws lie further apart.
            steps = key[2] + self._delay
            return {
                level: _level(group, group[level] > 0, share, steps)
                for level, share in RISK_LEVELS.items()
            }

        return self._rows.summary(describe)


def _level(group: Group, hit: NDArray[np.bool_], level: float, steps: int) -> dict[str, Any]:
    _, date = np.unique(group.day, return_inverse=True)
    pooled = mean_test(np.bincount(date, hit - level) / np.bincount(date))
    number = len(group.symbols)
    rows = np.bincount(group.symbol, minlength=number)
    there = np.flatnonzero(rows)
    rate = np.bincount(group.symbol, hit, number)[there] / rows[there]
    p = {
        name: holm(values[there])
        for name, values in symbol_tests(group.symbol, hit, level, steps, number).items()
    }
    return {
        "rate": float(hit.mean()),
        "rate_t": pooled.t,
        "rate_p": pooled.p,
        **{f"{name}_rejected": int((values <= SIZE).sum()) for name, values in p.items()},
        "symbols": {
            group.symbols[symbol]: {
                "rate": rate[row],
                **{f"{name}_p": values[row] for name, values in p.items()},
            }
            for row, symbol in enumerate(there.tolist())
        },
    }


def symbol_tests(
    symbol: NDArray[Any], hit: NDArray[np.bool_], level: float, steps: int, symbols: int
) -> dict[str, Array]:
    """p values of each symbol, joined over its phases; NaN where no phase has enough draws.

    Parameters
    ----------
    symbol : array of int, shape (n,)
        Ascending; within a symbol rows are in order of their origin.
    hit : array of bool, shape (n,)
    level : float
        Probability that is to be tested.
    steps : int
        Rows between two draws of one phase. Rows of the symbol itself are counted, so that missing
        sessions never let two targets overlap.
    symbols : int
    """
    start = np.searchsorted(symbol, np.arange(symbols))
    phase = symbol * steps + (np.arange(len(symbol)) - start[symbol]) % steps
    cells = symbols * steps
    rows = np.bincount(phase, minlength=cells)
    hits = np.bincount(phase, hit, cells)
    follows = np.flatnonzero(symbol[:-steps] == symbol[steps:])
    step = 2 * hit[follows] + hit[follows + steps]
    count = np.bincount(phase[follows] * 4 + step, minlength=4 * cells).reshape(cells, 4)
    ratio = dict(zip(TESTS, likelihood_ratios(rows, hits, count.T, level), strict=True))
    found = {}
    for name, degrees in zip(TESTS, (1, 1, 2), strict=True):
        p = np.where(rows < FEWEST, np.nan, stats.chi2.sf(ratio[name], degrees))
        by_phase = p.reshape(symbols, steps)
        tested = np.sum(~np.isnan(by_phase), axis=1)
        least = np.fmin.reduce(by_phase, axis=1)
        found[name] = np.where(tested > 0, np.minimum(tested * least, 1), np.nan)
    return found


def likelihood_ratios(
    rows: NDArray[Any], hits: NDArray[Any], transitions: NDArray[Any], level: float
) -> tuple[Array, Array, Array]:
    """Likelihood ratios of sequences of exceedances.

    Parameters
    ----------
    rows, hits : array, shape (n,)
        Length of each sequence and its number of exceedances.
    transitions : array, shape (4, n)
        Numbers of neighbours (0, 0), (0, 1), (1, 0) and (1, 1), where 1 exceeds.
    level : float

    Returns
    -------
    kupiec, independence, conditional : array, shape (n,)
        Chi-square with 1, 1 and 2 degrees of freedom under their nulls. The last two are
        conditional on the first draw. Sequences without exceedances show no dependence: 0. Where
        two in a row are hardly to be expected (below some 600 draws at 5 %; always at 1 %),
        independence is rejected too seldom: 2 % of the time at a nominal 5 %.
    """
    calm, into, out, stay = transitions

    def own(hits: NDArray[Any], misses: NDArray[Any]) -> Array:
        """Largest log likelihood of independent draws."""
        rate = hits / np.maximum(hits + misses, 1)
        return xlogy(hits, rate) + xlog1py(misses, -rate)

    def stated(hits: NDArray[Any], misses: NDArray[Any]) -> Array:
        return hits * np.log(level) + misses * np.log1p(-level)

    markov = own(into, calm) + own(stay, out)
    kupiec = 2 * (own(hits, rows - hits) - stated(hits, rows - hits))
    independence = 2 * (markov - own(into + stay, calm + out))
    conditional = 2 * (markov - stated(into + stay, calm + out))
    return np.maximum(kupiec, 0), np.maximum(independence, 0), np.maximum(conditional, 0)
