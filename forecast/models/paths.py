"""The return over the next sessions, from simulated paths tabulated over today's variance.

Given its parameters, what a GARCH says of the sessions to come depends on the one-step-ahead
variance alone. So the paths are drawn once from a grid of variances, and a forecast is looked up:
fast, smooth in the variance, and the same whichever rows are asked for together.

Axes: G variances of the grid, P paths, T sessions, H horizons, K facts, N rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from forecast.forecasts import LEVELS

PATHS = 4000
GRID = 32  # an interval is then a third in log variance, and a quantile within 0.3 %
BELOW, ABOVE = 1 / 8, 20.0  # of the smallest and largest variance of the fit: where the grid ends

# Columns of a table: what `Tabulated` wants, then the means of cells of known probability, narrow
# in the tails, from which a pool is built.
FACTS = 4 + len(LEVELS)
EDGES = np.concatenate([[0.0], special.ndtr(np.linspace(-3.0, 3.0, 61)), [1.0]])
WEIGHTS = np.diff(EDGES)
STD = 1  # the only column that a shift of the distribution leaves alone

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class PathTable:
    """Facts of the return over each horizon, in units of today's volatility.

    Attributes
    ----------
    log_variance_G : evenly spaced.
    facts_GHK : ÷ the square root of the variance; K is FACTS and the cells.
    """

    log_variance_G: np.ndarray
    facts_GHK: np.ndarray

    def at(self, variance_N: np.ndarray, columns: slice) -> np.ndarray:
        """Facts at other variances, linear in the log; beyond the grid as at its end, rescaled.

        Linear, so that quantiles which do not cross on the grid do not cross between.
        """
        log_variance_G = self.log_variance_G
        last = len(log_variance_G) - 1
        spacing = (log_variance_G[-1] - log_variance_G[0]) / last
        place_N = np.clip((np.log(variance_N) - log_variance_G[0]) / spacing, 0, last)
        below_N = np.minimum(place_N.astype(np.int64), last - 1)
        weight = (place_N - below_N)[:, None, None]
        facts = self.facts_GHK[..., columns]
        between = (1 - weight) * facts[below_N] + weight * facts[below_N + 1]
        return between * np.sqrt(variance_N)[:, None, None]


def variance_grid(lowest: float, highest: float) -> np.ndarray:
    """Variances that cover those of a fit and what may lie beyond, shape (G,)."""
    return np.exp(np.linspace(np.log(BELOW * lowest), np.log(ABOVE * highest), GRID))


@lru_cache(maxsize=32)
def uniforms(seed: int, symbol: str, sessions: int) -> np.ndarray:
    """Random levels of each session and path, shape (T, P), the same for every model.

    Each session's levels hit every 1/P-th of the unit interval once (a Latin hypercube: McKay,
    Beckman and Conover 1979), which leaves less to chance than independent draws.
    """
    rng = np.random.default_rng([seed, zlib.crc32(symbol.encode())])
    strata = rng.permuted(np.tile(np.arange(PATHS), (sessions, 1)), axis=1)
    levels = (strata + rng.random((sessions, PATHS))) / PATHS
    levels.flags.writeable = False  # it is handed out again
    return levels


def path_sums(
    variance_G: np.ndarray,
    step: Step,
    z_TP: np.ndarray,
    *,
    cap_G: np.ndarray,
    delay: int,
    horizons: tuple[int, ...],
) -> Iterator[np.ndarray]:
    """Sums of the shocks of sessions delay + 1 … delay + h for each horizon, shape (G, P).

    Parameters
    ----------
    variance_G : of the first session.
    step : a session's variance and standardised shock to the next session's variance.
    z_TP : standardised shocks.
    cap_G : no variance beyond the first exceeds it.
    """
    variance = np.repeat(variance_G[:, None], z_TP.shape[1], axis=1)
    total, shock = np.zeros_like(variance), np.empty_like(variance)
    for t, z_P in enumerate(z_TP[: delay + horizons[-1]]):
        if t >= delay:
            np.sqrt(variance, out=shock)
            shock *= z_P
            total += shock
        if t + 1 - delay in horizons:
            yield total.copy()
        variance = step(variance, z_P)
        np.minimum(variance, cap_G[:, None], out=variance)


def path_facts(sums_GP: np.ndarray) -> np.ndarray:
    """Facts of equally likely outcomes, shape (G, K)."""
    ordered = np.sort(sums_GP, axis=1)
    count = ordered.shape[1]
    total = np.zeros((len(ordered), count + 1))  # integral of the quantile function
    np.cumsum(ordered / count, axis=1, out=total[:, 1:])

    def up_to(levels: np.ndarray) -> np.ndarray:
        return _between(total, levels * count)

    lowest = np.array(LEVELS[:2])
    return np.concatenate(
        [
            ordered.mean(axis=1, keepdims=True),
            ordered.std(axis=1, keepdims=True),
            _between(ordered, np.array(LEVELS) * (count - 1)),
            up_to(lowest) / lowest,
            np.diff(up_to(EDGES), axis=1) / WEIGHTS,
        ],
        axis=1,
    )


def _between(values_GP: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Columns at fractional places, linearly between the two beside."""
    below = np.minimum(place.astype(np.int64), values_GP.shape[1] - 2)
    weight = place - below
    return (1 - weight) * values_GP[:, below] + weight * values_GP[:, below + 1]


def law_facts(quantile: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The same facts of a law with mean 0 and deviation 1, by its quantile function, shape (K,)."""
    node, weight = np.polynomial.legendre.leggauss(12)
    place = (node + 1) / 2
    share, width = place**2 * (3 - 2 * place), 3 * place * (1 - place) * weight

    def mean_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        # Nodes crowd at both ends, since the quantile function has no bound at 0 and 1.
        level = low[:, None] + (high - low)[:, None] * share
        return (quantile(level.ravel()).reshape(level.shape) * width).sum(axis=1)

    lowest = np.array(LEVELS[:2])
    levels = np.array(LEVELS)
    return np.concatenate(
        [
            [0.0, 1.0],
            quantile(levels),
            mean_between(np.zeros(2), lowest),
            mean_between(EDGES[:-1], EDGES[1:]),
        ]
    )
