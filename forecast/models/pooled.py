"""Equal information without recurrence: one log-linear Student t for all symbols together.

The log of the t's scale is a linear function of what is known at the origin; a fit per horizon, by
maximum likelihood, pooled over symbols in scaled units. `GjrMarket` reads GJR volatilities and own
and market averages; `forecast.models.har.HarPooled` is the same model on other regressors.

Axes: N rows, K regressors, H horizons. Sums run over regressors one by one and without a linear
algebra library, so that a row's forecast does not depend on the rows beside it, nor a fit on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from forecast.dataset.features import RATIO_FLOOR, ewma
from forecast.dataset.folds import Range
from forecast.dataset.market import Market
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.models.baselines import MOST_VALUES
from forecast.models.block import Block, blocks, make_block
from forecast.models.distributions import StudentT

Array = NDArray[np.float64]
OfSymbol = Callable[[Panel, int, slice], list[Array]]

WIDEST = 6.0  # deviations from the fit's mean beyond which a regressor counts as this
# Targets over h sessions overlap, so T dates are about T / h draws. A coefficient's prior has the
# weight of this many of them: it is worth little at one session and much at twenty.
PRIOR_DRAWS = 20.0
LEAST_DF = 2.05
# log scale, each coefficient, log(df - LEAST_DF): so wide that they only stop what cannot be fit,
# such as prices that never move.
BOUNDS = ((-20.0, 20.0), (-3.0, 3.0), (-10.0, 6.0))

OWN_ABSOLUTE = (2, 5, 20, 60)  # half-lives, sessions
OWN_SQUARED = 250
MARKET = (5, 60, 250)
TRENDS = (5, 20)
NORMAL_ABSOLUTE = float(np.sqrt(np.pi / 2))  # deviation of a normal by its mean absolute value


@dataclass(frozen=True, kw_only=True)
class Design:
    """Turns regressors into standardised ones, by statistics of the fitting rows alone.

    Attributes
    ----------
    mean, std : array of float64, shape (K,)
        std is infinite where the fitting rows do not vary, which leaves the regressor out.
    """

    mean: Array
    std: Array

    @classmethod
    def of(cls, regressors_KN: Array) -> Design:
        known = np.isfinite(regressors_KN)
        count = np.maximum(known.sum(axis=1), 1)
        mean = np.where(known, regressors_KN, 0.0).sum(axis=1) / count
        away = np.where(known, regressors_KN - mean[:, None], 0.0)
        std = np.sqrt((away**2).sum(axis=1) / count)
        return cls(mean=mean, std=np.where(std > 1e-9 * (1 + np.abs(mean)), std, np.inf))

    def __call__(self, regressors_KN: Array) -> Array:
        """A constant and the standardised regressors, shape (1 + K, N); undefined ones are 0."""
        z = (regressors_KN - self.mean[:, None]) / self.std[:, None]
        z = np.clip(np.where(np.isfinite(z), z, 0.0), -WIDEST, WIDEST)
        return np.concatenate([np.ones((1, z.shape[1])), z])


def linear(coefficients_K: Array, design_KN: Array) -> Array:
    """Linear predictor of each row, shape (N,)."""
    value = np.zeros(design_KN.shape[1])
    for coefficient, column in zip(coefficients_K, design_KN, strict=True):
        value += coefficient * column
    return value


def penalty(horizon: int, dates: int) -> float:
    """Weight of half the squared coefficients beside the mean loss of a row."""
    return PRIOR_DRAWS * horizon / max(dates, 1)


def minimised(
    loss: Callable[[Array], tuple[float, Array]], start: Array, bounds: list[tuple[float, float]]
) -> Array:
    """Parameters of the least loss, which returns its gradient too."""
    from scipy.optimize import minimize

    options = {"maxiter": 200, "ftol": 1e-10, "gtol": 1e-6}
    with np.errstate(over="ignore"):
        best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    found: Array = best.x
    return found


def fit_log_linear_t(design_KN: Array, y_N: Array, weight: float) -> tuple[Array, float]:
    """Maximum likelihood of a t around zero whose log scale is linear.

    Parameters
    ----------
    design_KN : the constant first, which carries no penalty.
    y_N : scaled targets, all known.
    weight : see `penalty`.

    Returns
    -------
    coefficients of shape (K,), and the degrees of freedom
    """
    from scipy.special import betaln, digamma

    columns, rows = design_KN.shape
    if not rows:  # nothing to learn from: the scale itself, as good as normal
        return np.zeros(columns), 1e6

    def loss(parameters: Array) -> tuple[float, Array]:
        coefficients, excess = parameters[:-1], np.exp(parameters[-1])
        df = LEAST_DF + excess
        log_sigma = linear(coefficients, design_KN)
        square = (y_N * np.exp(-log_sigma)) ** 2 / df
        share = square / (1 + square)
        spread = float(np.mean(np.log1p(square)))
        constant = float(betaln(df / 2, 0.5) + np.log(df) / 2)
        ridge = np.concatenate([[0.0], weight * coefficients[1:]])
        value = log_sigma.mean() + constant + (df + 1) / 2 * spread
        slope = np.einsum("kn,n->k", design_KN, 1 - (df + 1) * share) / rows + ridge
        by_df = (digamma(df / 2) - digamma((df + 1) / 2) + 1 / df + spread) / 2
        by_df -= (df + 1) / (2 * df) * share.mean()
        return float(value + ridge @ coefficients / 2), np.append(slope, by_df * excess)

    start = np.zeros(columns + 1)
    start[0], start[-1] = np.log(y_N.std() + 1e-6), 1.0
    edge, middle, df = BOUNDS
    best = minimised(loss, start, [edge, *[middle] * (columns - 1), df])
    return best[:-1], float(LEAST_DF + np.exp(best[-1]))


class PooledT:
    """The log-linear t on any regressors.

    Parameters
    ----------
    regressors : function of a block, giving an array of shape (K, N)
        Each row a causal function of the panel.
    """

    def __init__(
        self, panel: Panel, task: Task, fit: Range, regressors: Callable[[Block], Array]
    ) -> None:
        self._regressors = regressors
        raw, y_NH, dates = sample(panel, task, fit, regressors)
        self._design = Design.of(raw)
        design = self._design(raw)
        fits = []
        for horizon, y in zip(task.horizons, y_NH.T, strict=True):
            known = ~np.isnan(y)
            chosen = np.compress(known, design, axis=1)
            fits.append(fit_log_linear_t(chosen, y[known], penalty(horizon, dates)))
        self.coefficients = np.stack([coefficients for coefficients, _ in fits])
        self.df = np.array([df for _, df in fits])

    def distribution(self, block: Block) -> StudentT:
        """Student t around zero, in scaled units, N·H rows."""
        design = self._design(self._regressors(block))
        sigma_NH = np.exp(np.stack([linear(c, design) for c in self.coefficients], axis=1))
        df = np.tile(self.df, len(block.row))
        return StudentT(mu=np.zeros(block.unit.size), sigma=sigma_NH.reshape(-1), df=df)


def sample(
    panel: Panel, task: Task, fit: Range, regressors: Callable[[Block], Array]
) -> tuple[Array, Array, int]:
    """Regressors (K, N) and scaled targets (N, H) of evenly thinned rows; the number of dates."""
    step = max(1, -(-fit.rows // MOST_VALUES))
    parts, targets, days = [], [], []
    for block in blocks(panel, task, fit):
        thinned = block.take(slice(None, None, step))
        parts.append(regressors(thinned))
        targets.append(thinned.scaled_actual)
        days.append(panel.day[block.row])
    if not parts:  # a block of no rows still tells how many regressors there are
        none = Range(low=fit.low, high=fit.low)
        parts.append(regressors(make_block(panel, task, none, np.array([0]))))
        return parts[0], np.empty((0, len(task.horizons))), 0
    dates = len(np.unique(np.concatenate(days)))
    return np.concatenate(parts, axis=1), np.concatenate(targets), dates


def gathered(block: Block, of_symbol: OfSymbol) -> Array:
    """Regressors at the rows of a block, shape (K, N).

    Parameters
    ----------
    of_symbol : function of the panel, a symbol and its first rows, up to the last one that the
        block asks for, giving K arrays on those rows
    """
    parts = []
    for s in block.symbols:
        mine = block.row[block.symbol == s]
        start = int(block.panel.offsets[s])
        stop = int(mine[-1]) + 1 if len(mine) else start
        columns = np.stack(of_symbol(block.panel, int(s), slice(start, stop)))
        # Not columns[:, …], whose memory would run the other way and make every sum slow.
        parts.append(np.take(columns, mine - start, axis=1))
    return np.concatenate(parts, axis=1)


def returns(panel: Panel, rows: slice) -> Array:
    """Percent log returns of one symbol's rows, null in the first."""
    return np.diff(panel.log_price[rows], prepend=np.nan)


def log_ratio(volatility: Array, scale: Array) -> Array:
    """log(volatility / scale), floored as the networks' features are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = np.log(np.maximum(volatility / scale, RATIO_FLOOR))
    return ratio


def market_rows(panel: Panel, s: int, rows: slice) -> NDArray[np.int64]:
    """Row of the market's series that a symbol sees at each session; -1 where there is none."""
    market = panel.market
    count = np.arange(len(market.date), dtype=np.float64)
    dates = panel.dates[panel.day[rows]]
    seen, _ = replace(market, log_return=count).at(dates, lag=int(panel.market_lag[s]))
    return np.where(np.isnan(seen), -1, seen).astype(np.int64)


def with_none(columns: list[Array]) -> Array:
    """The market's columns with a null at the end, where row -1 finds it."""
    return np.pad(np.stack(columns), ((0, 0), (0, 1)), constant_values=np.nan)


class GjrMarket(PooledT):
    """GJR's volatility and the averages that the networks see, in one pooled regression.

    Regressors, volatilities as log ratios to the scale: GJR's; own EWMAs of absolute and of squared
    returns; the market's EWMAs; the trends of the symbol and of the market, that is their average
    return in units of their volatility, which carry the leverage effect, and their squares, since
    returns that run in one direction are not all of the variance to come; the log scale itself.

    Parameters
    ----------
    volatility_N : array of float64, shape (N,)
        Per row of the panel, GJR's standard deviation of the next session, percent; null where it
        has none.
    """

    fallbacks: tuple[str, ...] = ()  # symbols for which something else stands for GJR

    def __init__(self, panel: Panel, task: Task, fit: Range, volatility_N: Array) -> None:
        super().__init__(panel, task, fit, partial(_gjr_market, volatility_N=volatility_N))


def _gjr_market(block: Block, *, volatility_N: Array) -> Array:
    market = _of_market(block.panel.market)

    def of_symbol(panel: Panel, s: int, rows: slice) -> list[Array]:
        r, scale = returns(panel, rows), panel.scale[rows].astype(np.float64)
        volatilities, trends = np.split(market[:, market_rows(panel, s, rows)], [len(MARKET)])
        own = [NORMAL_ABSOLUTE * ewma(np.abs(r), h) for h in OWN_ABSOLUTE]
        own.append(np.sqrt(ewma(r**2, OWN_SQUARED)))
        trends = np.stack([*(ewma(r, h) / scale for h in TRENDS), *trends])
        return [
            *(log_ratio(v, scale) for v in (volatility_N[rows], *own, *volatilities)),
            *trends,
            *trends[len(TRENDS) - 1 :: len(TRENDS)] ** 2,  # of the slow ones
            np.log(scale),
        ]

    return gathered(block, of_symbol)


def _of_market(market: Market) -> Array:
    """Volatilities (percent) and trends of the market, shape (5, T + 1)."""
    volatilities = [np.sqrt(ewma(market.log_return**2, h)) for h in MARKET]
    return with_none([*volatilities, *(ewma(market.log_return, h) / market.scale for h in TRENDS)])
