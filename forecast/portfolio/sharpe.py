"""Whether two Sharpe ratios differ by more than luck: the test of Ledoit and Wolf.

Axes: T sessions, N series, M resamples. Returns are simple ones over cash, fractions a session.

References
----------
Ledoit and Wolf (2008), Robust performance hypothesis testing with the Sharpe ratio, Journal of
Empirical Finance 15: delta method, prewhitened Parzen kernel with Andrews' automatic bandwidth, and
the studentised circular block bootstrap.
Andrews (1991), Heteroskedasticity and autocorrelation consistent covariance matrix estimation,
Econometrica 59. Andrews and Monahan (1992), An improved HAC estimator, Econometrica 60.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from forecast.evaluation.inference import holm

Array = NDArray[np.float64]

FEWEST = 60  # sessions below which nothing is tested
LARGEST_ROOT = 0.97  # of the prewhitening autoregression (Andrews and Monahan 1992)
STILL = 1e-10  # of a series of unit deviation: what is smaller is rounding
SAME = 1e-6  # the same of a standard error, times √T: it is the root of a difference


@dataclass(frozen=True, kw_only=True)
class SharpeTest:
    """Difference of two Sharpe ratios, and how far it lies from zero.

    Attributes
    ----------
    difference : float
        Annualised, first minus second; the ratios with the sample deviation.
    t : float
        Over its standard error, by the delta method with the prewhitened Parzen kernel.
    p : float
        Two-sided, by the studentised bootstrap: the p value to read.
    p_hac : float
        Two-sided, from `t` and the normal distribution, which rejects a little too often.

    All NaN where a series does not vary or is too short; t, p and p_hac also where two series have
    the same Sharpe ratio whatever happens, as one has that is a multiple of the other.
    """

    difference: float
    t: float
    p: float
    p_hac: float


def excess_returns(returns: pd.DataFrame, part: str) -> pd.DataFrame:
    """Net returns over cash of one part of `returns.parquet`: dates × (model, strategy)."""
    rows = returns[(returns["part"] == part).to_numpy()]
    rows = rows.astype({"model": "str", "strategy": "str"})
    rows = rows.assign(excess=rows["simple_return"] - rows["cash_return"])
    return rows.pivot(index="date", columns=["model", "strategy"], values="excess").sort_index()


def pairs_of(excess: pd.DataFrame) -> list[tuple[str, str]]:
    """(model, strategy) of each column of `excess_returns`."""
    return [(str(pair[0]), str(pair[1])) for pair in excess.columns]


def differences(
    returns: pd.DataFrame,
    *,
    part: str,
    benchmarks: Sequence[tuple[str, str]],
    periods: float,
    repetitions: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """Every strategy of a run against each benchmark.

    Parameters
    ----------
    returns : rows of `returns.parquet`.
    benchmarks : (model, strategy) of each benchmark; those that are not there are left out.
    periods : sessions a year.

    Returns
    -------
    dict
        `[model][strategy][benchmark's strategy]`: `sharpe_difference`, `t`, `p`, `p_hac` and, by
        Holm over all strategies against that benchmark, `p_holm`. Undefined: None.
    """
    table = excess_returns(returns, part)
    place = {pair: i for i, pair in enumerate(pairs_of(table))}
    there = [pair for pair in place if pair not in benchmarks]
    against = [pair for pair in benchmarks if pair in place]
    asked = [(place[a], place[b]) for b in against for a in there]
    found = sharpe_tests(
        table.to_numpy(np.float64), asked, periods=periods, repetitions=repetitions, seed=seed
    )
    result: dict[str, Any] = {}
    for k, benchmark in enumerate(against):
        tests = found[k * len(there) : (k + 1) * len(there)]
        adjusted = holm(np.array([test.p for test in tests])).tolist()
        for (model, strategy), test, p_holm in zip(there, tests, adjusted, strict=True):
            result.setdefault(model, {}).setdefault(strategy, {})[benchmark[1]] = {
                "sharpe_difference": _number(test.difference),
                "t": _number(test.t),
                "p": _number(test.p),
                "p_hac": _number(test.p_hac),
                "p_holm": _number(p_holm),
            }
    return result


def sharpe_tests(
    excess_TN: Array,
    pairs: Sequence[tuple[int, int]],
    *,
    periods: float,
    repetitions: int = 1000,
    seed: int = 0,
) -> list[SharpeTest]:
    """Test for each pair of series that their Sharpe ratios are equal.

    All pairs are tested on the same resampled sessions.

    Parameters
    ----------
    excess_TN : returns over cash, no NaN but in series that no pair names.
    pairs : columns of the two series of each test.
    periods : sessions a year.
    repetitions : resamples of the bootstrap.
    """
    excess_TN = np.asarray(excess_TN, np.float64)
    dates = len(excess_TN)
    if dates < FEWEST or not pairs:
        return [SharpeTest(difference=np.nan, t=np.nan, p=np.nan, p_hac=np.nan) for _ in pairs]
    # A Sharpe ratio has no unit; in units of the deviation neither has the bandwidth.
    deviation_N = excess_TN.std(axis=0)
    deviation_N = np.where(deviation_N > STILL * np.abs(excess_TN).max(axis=0), deviation_N, np.nan)
    scaled_TN = excess_TN / deviation_N
    moments_TN2 = np.stack([scaled_TN, scaled_TN**2], axis=-1)
    ratio_N, gradient_N2 = _ratio(moments_TN2.mean(axis=0))
    resampled = _Resampled(moments_TN2, repetitions=repetitions, seed=seed)
    # Ratios here have the population deviation, tables the sample's.
    unit = np.sqrt(periods * (dates - 1) / dates)
    tests = []
    for i, j in pairs:
        difference = float(ratio_N[i] - ratio_N[j])
        moments_T4 = np.concatenate([moments_TN2[:, i], moments_TN2[:, j]], axis=1)
        gradient_4 = np.concatenate([gradient_N2[i], -gradient_N2[j]])
        se = _standard_error(moments_T4, gradient_4)
        t = difference / se if se * np.sqrt(dates) > SAME else np.nan
        tests.append(
            SharpeTest(
                difference=float(unit * difference),
                t=t,
                p=resampled.p(i, j, difference, t),
                p_hac=float(2 * stats.norm.sf(abs(t))),
            )
        )
    return tests


def block_length(dates: int) -> int:
    """Sessions in a resampled block: the cube root of their number, the rate that is optimal for a
    variance (Künsch 1989, Annals of Statistics 17), and five at least."""
    return max(int(np.ceil(np.cbrt(dates))), 5)


class _Resampled:
    """Sharpe ratios of circular block resamples, and the variances natural to their blocks.

    The sums that a resample needs are sums over its blocks, so they are the times each block was
    drawn, times a table of the blocks.
    """

    def __init__(self, moments_TN2: Array, *, repetitions: int, seed: int) -> None:
        from arch.bootstrap import CircularBlockBootstrap

        dates = len(moments_TN2)
        self.block = block_length(dates)
        self.blocks = dates // self.block  # whole ones: the resample is that much shorter
        around = np.concatenate([moments_TN2, moments_TN2[: self.block - 1]])
        sums = np.concatenate([np.zeros_like(around[:1]), np.cumsum(around, axis=0)])
        self.sums_TN2 = sums[self.block :] - sums[: -self.block]
        self.drawn_MT = np.empty((repetitions, dates))
        bootstrap = CircularBlockBootstrap(self.block, np.arange(dates), seed=seed)
        whole = self.blocks * self.block
        for row, ((drawn,), _) in zip(self.drawn_MT, bootstrap.bootstrap(repetitions), strict=True):
            row[:] = np.bincount(drawn[: whole : self.block], minlength=dates)
        total = self.drawn_MT @ self.sums_TN2.reshape(dates, -1)
        self.total_MN2 = total.reshape(repetitions, *self.sums_TN2.shape[1:])
        self.ratio_MN, self.gradient_MN2 = _ratio(self.total_MN2 / whole)
        self.variance_NM = [self._covariance(i, i) for i in range(moments_TN2.shape[1])]

    def _covariance(self, i: int, j: int) -> Array:
        """Of the two ratios in each resample, shape (M,)."""
        products = self.sums_TN2[:, i, :, None] * self.sums_TN2[:, j, None, :]
        crossed = (self.drawn_MT @ products.reshape(len(products), 4)).reshape(-1, 2, 2)
        crossed -= self.total_MN2[:, i, :, None] * self.total_MN2[:, j, None, :] / self.blocks
        inner = np.einsum("ma,mab,mb->m", self.gradient_MN2[:, i], crossed, self.gradient_MN2[:, j])
        return inner / (self.blocks * self.block) ** 2

    def p(self, i: int, j: int, difference: float, t: float) -> float:
        """Share of resamples whose studentised distance from `difference` is |t| or more."""
        if np.isnan(t):
            return np.nan
        variance = self.variance_NM[i] + self.variance_NM[j] - 2 * self._covariance(i, j)
        distance = np.abs(self.ratio_MN[:, i] - self.ratio_MN[:, j] - difference)
        # A resample in which a series does not move counts against a difference.
        further = ~(distance < abs(t) * np.sqrt(np.maximum(variance, 0.0)))
        return float((1 + further.sum()) / (1 + len(further)))


def _ratio(moments: Array) -> tuple[Array, Array]:
    """Sharpe ratio of mean and mean square (on the last axis), and its gradient in the two."""
    mean, square = moments[..., 0], moments[..., 1]
    variance = square - mean**2
    deviation = np.sqrt(np.where(variance > STILL, variance, np.nan))
    gradient = np.stack([square, -0.5 * mean], axis=-1) / deviation[..., None] ** 3
    return mean / deviation, gradient


def _standard_error(moments_TK: Array, gradient_K: Array) -> float:
    """Of a function of means: delta method, prewhitened by a vector autoregression of order 1."""
    centred = moments_TK - moments_TK.mean(axis=0)
    if not np.isfinite(centred).all():
        return np.nan
    before, after = centred[:-1], centred[1:]
    root = np.linalg.lstsq(before, after, rcond=None)[0].T
    left, size, right = np.linalg.svd(root)
    root = left @ np.diag(np.minimum(size, LARGEST_ROOT)) @ right
    coloured = np.linalg.solve((np.eye(len(root)) - root).T, gradient_K)
    variance = float(coloured @ _parzen(after - before @ root.T) @ coloured)
    return float(np.sqrt(max(variance, 0.0) / len(moments_TK)))


def _parzen(series_TK: Array) -> Array:
    """Long-run covariance by the Parzen kernel and Andrews' bandwidth."""
    dates, count = series_TK.shape
    before, after = series_TK[:-1], series_TK[1:]
    power = np.maximum(np.sum(before**2, axis=0), np.finfo(float).tiny)
    root = np.clip(np.sum(before * after, axis=0) / power, -LARGEST_ROOT, LARGEST_ROOT)
    shock = np.mean((after - root * before) ** 2, axis=0) ** 2
    weight = float(np.sum(shock / (1 - root) ** 4))
    alpha = float(np.sum(4 * root**2 * shock / (1 - root) ** 8)) / weight if weight > 0 else 0.0
    bandwidth = min(2.6614 * (alpha * dates) ** 0.2, dates - 1.0)
    total: Array = series_TK.T @ series_TK
    for lag in range(1, int(np.ceil(bandwidth))):
        crossed = series_TK[lag:].T @ series_TK[:-lag]
        x = lag / bandwidth
        kernel = 1 - 6 * x**2 + 6 * x**3 if x <= 0.5 else 2 * (1 - x) ** 3
        total = total + kernel * (crossed + crossed.T)
    return total / (dates - count)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
