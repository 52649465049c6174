"""Heterogeneous autoregressions of daily volatility: on its means over 1, 5 and 22 sessions.

A session's volatility is its absolute return, or the root of its range variance where open, high
and low are known; there is no intraday data, so nothing here is a realised-variance HAR.

References
----------
Corsi (2009), A simple approximate long-memory model of realized volatility, J. of Financial
Econometrics 7. Corsi and Renò (2012), Discrete-time volatility forecasting with persistent leverage
effect, J. of Business & Economic Statistics 30: past falls as regressors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forecast.dataset.features import LONG_HALF_LIFE, ewma
from forecast.dataset.folds import Range
from forecast.dataset.market import Market
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.forecasts import LEVELS
from forecast.models.baselines import MIN_HISTORY, EwmaT, Tabulated
from forecast.models.block import Block, make_block
from forecast.models.distributions import StudentT
from forecast.models.paths import FACTS, path_facts
from forecast.models.pooled import (
    BOUNDS,
    Array,
    Design,
    PooledT,
    gathered,
    linear,
    log_ratio,
    market_rows,
    minimised,
    penalty,
    returns,
    with_none,
)

SESSIONS = (1, 5, 22)  # over which volatility is averaged: a day, a week, a month
# A mean over a session or more may be zero, whose log does not exist: it counts as at least this
# share of the long mean, which also keeps one quiet session from saying much.
FLOOR = 0.5


class HarPooled(PooledT):
    """Daily HAR pooled over symbols, with leverage and the market.

    Regressors: logs of the symbol's and of the market's mean volatility over 1, 5 and 22 sessions
    and of the long one, relative to the scale; mean falls over the same sessions; the log scale.
    The likelihood is that of the return itself (`PooledT`): a regression of absolute returns,
    pooled, is worse wherever the shares of days without a move differ between symbols.
    """

    def __init__(self, panel: Panel, task: Task, fit: Range) -> None:
        super().__init__(panel, task, fit, _pooled_regressors)


def _pooled_regressors(block: Block) -> Array:
    market = _of_market(block.panel.market)

    def of_symbol(panel: Panel, s: int, rows: slice) -> list[Array]:
        scale = panel.scale[rows].astype(np.float64)
        volatilities, falls = np.split(
            market[:, market_rows(panel, s, rows)], [len(market) - len(SESSIONS)]
        )
        own = _means(np.sqrt(panel.session_variance[rows]))
        return [
            *(log_ratio(v, scale) for v in (*own, *volatilities)),
            *(fall / scale for fall in _falls(returns(panel, rows))),
            *falls,
            np.log(scale),
        ]

    return gathered(block, of_symbol)


def _of_market(market: Market) -> Array:
    """Mean volatilities (percent) and falls (in units of its scale) of the market, (7, T + 1)."""
    falls = [fall / market.scale for fall in _falls(market.log_return)]
    return with_none([*_means(np.abs(market.log_return)), *falls])


def _mean(values: Array, sessions: int) -> Array:
    """Trailing mean over some sessions, or as many as there are."""
    mean: Array = pd.Series(values).rolling(sessions, min_periods=1).mean().to_numpy()
    return mean


def _means(volatility: Array) -> list[Array]:
    """Its mean over each number of sessions, floored, and the long mean."""
    long = ewma(volatility, LONG_HALF_LIFE)
    return [*(np.maximum(_mean(volatility, k), FLOOR * long) for k in SESSIONS), long]


def _falls(r: Array) -> list[Array]:
    """Mean of the falls over each number of sessions, 0 or less."""
    return [_mean(np.minimum(r, 0.0), k) for k in SESSIONS]


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """One symbol's regression.

    Attributes
    ----------
    coefficients : array of float64, shape (H, K)
    residuals : array of float64, shape (H, 25)
        Facts (see `Tabulated`) of the return over h sessions in units of expected volatility·√h.
    """

    design: Design
    coefficients: Array
    residuals: Array

    def facts(self, regressors_KN: Array) -> Array:
        """Of the return in units of scale·√h, shape (N, H, 25)."""
        design = self.design(regressors_KN)
        expected_HN = np.stack([np.exp(linear(c, design)) for c in self.coefficients])
        return expected_HN.T[..., None] * self.residuals


class HarAbs:
    """Daily HAR per symbol, log-linear and direct per horizon.

    The mean volatility over the sessions of the target, in units of the scale, is expected to be
    the exponential of a linear function of the logs of its past means. Absolute returns may be
    zero, so the coefficients are those of the exponential quasi-likelihood (Engle and Gallo 2006),
    which needs the target's mean to be right and no log of it, and not of least squares on logs.
    Quantiles are those of the training residuals around their mean, so the mean return is zero.

    Attributes
    ----------
    fallbacks : tuple of str
        Symbols with too short a history, for which `EwmaT` stands in.
    """

    def __init__(self, panel: Panel, task: Task, fit: Range) -> None:
        self._fits: dict[int, _Fit] = {}
        for s in range(len(panel.symbols)):
            found = _fit(make_block(panel, task, fit, np.array([s])))
            if found is not None:
                self._fits[s] = found
        self.fallbacks = tuple(n for s, n in enumerate(panel.symbols) if s not in self._fits)
        self._residuals = np.empty((len(task.horizons), FACTS))  # of the scale, where it stands in
        if self.fallbacks:
            self._residuals = _standing_in(EwmaT(panel, task, fit))

    def distribution(self, block: Block) -> Tabulated:
        facts = np.repeat(self._residuals[None], len(block.row), axis=0)
        regressors = gathered(block, _own_regressors)
        for s in block.symbols:
            if int(s) in self._fits:
                mine = block.symbol == s
                facts[mine] = self._fits[int(s)].facts(np.compress(mine, regressors, axis=1))
        return Tabulated(facts.reshape(-1, FACTS))


def _standing_in(other: EwmaT) -> Array:
    """Facts of the pooled t in units of scale·√h, shape (H, 25)."""
    law = StudentT(mu=0.0 * other.df, sigma=other.sigma, df=other.df)
    shortfall = [law.expected_shortfall(level) for level in LEVELS[:2]]
    facts: list[Any] = [law.mean, law.std, law.quantiles, *shortfall]
    return np.column_stack(facts)


def _own_regressors(panel: Panel, s: int, rows: slice) -> list[Array]:
    volatility = np.sqrt(panel.session_variance[rows])
    return [log_ratio(mean, panel.scale[rows].astype(np.float64)) for mean in _means(volatility)]


def _fit(block: Block) -> _Fit | None:
    """Of a block of one symbol; None where too few of its targets are known, or nothing moves."""
    raw = gathered(block, _own_regressors)
    design = Design.of(raw)
    standardised = design(raw)
    target_NH, y_NH = _mean_volatility(block), block.scaled_actual
    coefficients, residuals = [], []
    for h, horizon in enumerate(block.task.horizons):
        known = ~np.isnan(target_NH[:, h])
        target, y = target_NH[known, h], y_NH[known, h]
        chosen = np.compress(known, standardised, axis=1)
        if len(target) < MIN_HISTORY or not y.std() > 0:
            return None
        found = fit_log_linear_mean(chosen, target, penalty(horizon, len(target)))
        residual = y / np.exp(linear(found, chosen))
        coefficients.append(found)
        residuals.append(path_facts((residual - residual.mean())[None])[0, :FACTS])
    return _Fit(design=design, coefficients=np.stack(coefficients), residuals=np.stack(residuals))


def _mean_volatility(block: Block) -> Array:
    """Mean volatility over each target in units of the scale, null where it is, shape (N, H)."""
    (s,) = block.symbols
    rows = block.panel.symbol_rows(int(s))
    total = np.nancumsum(np.sqrt(block.panel.session_variance[rows]))
    horizons = np.array(block.task.horizons)
    end = block.end - rows.start
    known = ~np.isnan(block.actual)
    safe = np.where(known, end, horizons)
    mean = (total[safe] - total[safe - horizons]) / horizons
    scale = block.panel.scale[block.row].astype(np.float64)[:, None]
    return np.where(known, mean / scale, np.nan)


def fit_log_linear_mean(design_KN: Array, target_N: Array, weight: float) -> Array:
    """Coefficients of the log of an expectation by exponential quasi-likelihood.

    Parameters
    ----------
    design_KN : the constant first, which carries no penalty.
    target_N : 0 or more, not all 0.
    weight : see `penalty`.

    Returns
    -------
    array of shape (K,)
    """
    columns, rows = design_KN.shape

    def loss(coefficients: Array) -> tuple[float, Array]:
        log_mean = linear(coefficients, design_KN)
        share = target_N * np.exp(-log_mean)
        ridge = np.concatenate([[0.0], weight * coefficients[1:]])
        slope = np.einsum("kn,n->k", design_KN, 1 - share) / rows + ridge
        return float((log_mean + share).mean() + ridge @ coefficients / 2), slope

    start = np.zeros(columns)
    start[0] = np.log(target_N.mean())
    edge, middle, _ = BOUNDS
    return minimised(loss, start, [edge, *[middle] * (columns - 1)])
