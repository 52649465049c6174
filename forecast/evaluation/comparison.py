"""Tests of which forecasts lose less: of two models, of many against one, of many among themselves.

Everything reads losses that are already averaged over the symbols of a date, in shape (T,) for one
model or (T, K) for K models on the same dates.

SPA, StepM and the confidence set all need nothing but the models' mean losses in resampled dates,
so dates are drawn once (by `arch`) and the tests are sums over them. `arch` has classes of the same
names, which the tests compare with; they are not used because its SPA (8.0.0) maximises means that
are not studentised, so that one erratic model drowns the others, its StepM fails where the last
model is found superior in a later step, and each class draws its dates anew.

References
----------
Diebold and Mariano (1995), Comparing predictive accuracy, JBES 13.
Harvey, Leybourne and Newbold (1997), Testing the equality of prediction mean squared errors,
International Journal of Forecasting 13.
Giacomini and Rossi (2010), Forecast comparisons in unstable environments, Journal of Applied
Econometrics 25.
Hansen (2005), A test for superior predictive ability, JBES 23.
Romano and Wolf (2005), Stepwise multiple testing as formalized data snooping, Econometrica 73, with
the centring of Hsu, Hsu and Kuan (2010), Journal of Empirical Finance 17.
Hansen, Lunde and Nason (2011), The model confidence set, Econometrica 79.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from forecast.evaluation.inference import Test, long_run_variance, mean_test

Array = NDArray[np.float64]

WINDOW = 0.3  # share of the dates in one window of the fluctuation test
# Two-sided critical values at 5 % by share, Giacomini and Rossi (2010), table I. They simulated on
# a coarse grid: 10,000 Brownian paths of 2000 steps give 3.10 in place of 3.012.
FLUCTUATION_05 = {
    0.1: 3.393, 0.2: 3.179, 0.3: 3.012, 0.4: 2.890, 0.5: 2.779, 0.6: 2.634, 0.7: 2.560,
    0.8: 2.433, 0.9: 2.248,
}  # fmt: skip


def diebold_mariano(a: Array, b: Array) -> Test:
    """Whether two models' mean losses differ; the mean is a − b, negative where a is better."""
    return mean_test(np.asarray(a, np.float64) - np.asarray(b, np.float64))


def hln(a: Array, b: Array, horizon: int) -> tuple[float, float]:
    """Diebold–Mariano statistic of Harvey, Leybourne and Newbold (1997), and its p value.

    Takes the errors of h-session forecasts to be dependent over h − 1 lags and no further, all of
    equal weight, and t(T − 1). NaN where the variance so estimated is not positive, or there are
    too few dates for the lags.
    """
    series = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    dates = len(series)
    if dates <= 2 * horizon:
        return np.nan, np.nan
    own, *crossed = autocovariances(series, horizon - 1)
    variance = float(own + 2 * sum(crossed)) / dates
    if not variance > 1e-24 * float(series.mean()) ** 2:  # of a constant series: rounding alone
        return np.nan, np.nan
    small = (dates + 1 - 2 * horizon + horizon * (horizon - 1) / dates) / dates
    t = float(series.mean()) * np.sqrt(small / variance)
    return float(t), float(2 * special.stdtr(dates - 1, -abs(t)))


def autocovariances(series: Array, lags: int) -> Array:
    """Autocovariances of each column at lags 0 … `lags`, sums over T terms divided by T."""
    centred = series - series.mean(axis=0)
    dates = len(centred)
    return np.stack(
        [np.sum(centred[: dates - k] * centred[k:], axis=0) / dates for k in range(lags + 1)]
    )


def fluctuation(a: Array, b: Array, *, window: float = WINDOW) -> Array:
    """Giacomini–Rossi statistic: the loss difference a − b of a moving window, standardised.

    Parameters
    ----------
    a, b : array, shape (T,)
    window : float
        Length m of the window as a share of T.

    Returns
    -------
    array, shape (T − m + 1,)
        Of the windows in order; their first dates are 0 … T − m. NaN where nothing varies. The two
        are equally good at all times where the largest absolute value stays below
        `FLUCTUATION_05[window]`, at 5 %.
    """
    series = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    length = round(window * len(series))
    variance = float(long_run_variance(series))
    if not variance > 1e-24 * float(series.mean()) ** 2 * len(series):
        return np.full(len(series) - length + 1, np.nan)
    sums = np.concatenate([[0.0], np.cumsum(series)])
    return (sums[length:] - sums[:-length]) / np.sqrt(length * variance)


def block_length(dates: int, horizon: int) -> int:
    """Mean length of a resampled block: long against a forecast and against the dependence."""
    return int(np.ceil(max(np.sqrt(dates), 3 * horizon)))


def resample(dates: int, block: int, *, repetitions: int, seed: int) -> Array:
    """How often each date is drawn in each repetition of the stationary bootstrap, shape (R, T)."""
    from arch.bootstrap import StationaryBootstrap

    bootstrap = StationaryBootstrap(block, np.arange(dates), seed=seed)
    draws = np.empty((repetitions, dates))
    for row, ((drawn,), _) in zip(draws, bootstrap.bootstrap(repetitions), strict=True):
        row[:] = np.bincount(drawn, minlength=dates)
    return draws


@dataclass(frozen=True, kw_only=True, eq=False)
class Superiority:
    """Which of K models beat a benchmark, allowing for the choice among them.

    Attributes
    ----------
    lower, consistent, upper : float
        SPA p values of "none beats the benchmark" (Hansen 2005); his test is the consistent one.
        1 where no model's mean loss is below the benchmark's.
    superior : bool array, shape (K,)
        StepM at 5 % (Romano and Wolf 2005), centred like the consistent SPA, so that some model is
        superior where that one rejects.
    """

    lower: float
    consistent: float
    upper: float
    superior: NDArray[np.bool_]


def superiority(
    benchmark: Array, losses: Array, draws: Array, *, level: float = 0.05
) -> Superiority:
    """SPA and StepM of K models against a benchmark.

    Parameters
    ----------
    benchmark : array, shape (T,)
    losses : array, shape (T, K)
    draws : array, shape (R, T)
        Of `resample`.
    level : float
        Familywise error of StepM.
    """
    gains = benchmark[:, None] - losses
    mean = gains.mean(axis=0)
    drawn = draws @ gains / len(gains)
    error = _spread(drawn - mean)
    z = mean / error
    # A model that loses far more than the benchmark is none that might be as good. It is not moved
    # to the border of the null like the others, so it has no say in what the largest may be.
    far = z < -np.sqrt(2 * np.log(np.log(len(gains))))
    centres = {"lower": np.maximum(mean, 0), "consistent": np.where(far, 0, mean), "upper": mean}
    best = float(z.max())
    p = {}
    for name, centre in centres.items():
        null = ((drawn - centre) / error).max(axis=1)
        p[name] = float(np.mean(null > best)) if best > 0 else 1.0
    null = (drawn - centres["consistent"]) / error
    superior = np.zeros(len(z), bool)
    while not superior.all():
        critical = max(float(np.quantile(null[:, ~superior].max(axis=1), 1 - level)), 0.0)
        found = ~superior & (z > critical)
        if not found.any():
            break
        superior |= found
    return Superiority(**p, superior=superior)


def confidence_set(losses: Array, draws: Array) -> Array:
    """Model confidence set: p value of each model, which is in the set of level α where p > α.

    The range statistic: the largest studentised difference between two models left decides, and
    the model that lost in it goes.

    Parameters
    ----------
    losses : array, shape (T, K)
    draws : array, shape (R, T)

    Returns
    -------
    array, shape (K,)
        The last model left has 1.
    """
    mean = losses.mean(axis=0)
    drawn = draws @ (losses - mean) / len(losses)
    noise = drawn[:, :, None] - drawn[:, None, :]
    error = _spread(noise)
    z = (mean[:, None] - mean) / error
    noise /= error
    p = np.ones(len(mean))
    left, reached = np.arange(len(mean)), 0.0
    while len(left) > 1:
        pairs = z[np.ix_(left, left)]
        null = noise[:, left[:, None], left].max(axis=(1, 2))
        reached = max(reached, float(np.mean(null >= pairs.max())))
        worst = int(np.unravel_index(pairs.argmax(), pairs.shape)[0])
        p[left[worst]] = reached
        left = np.delete(left, worst)
    return p


def _spread(deviations: Array) -> Array:
    """Root mean square over repetitions; 1 where two models do not differ at all."""
    spread = np.sqrt(np.mean(deviations**2, axis=0))
    return np.where(spread > 0, spread, 1.0)
