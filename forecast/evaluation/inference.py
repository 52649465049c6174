"""Whether the mean of a series of dates differs from zero, however its dates depend on each other.

Everything that is tested is first averaged over the symbols of a date: one day's errors are one
draw, and what is left to allow for is dependence over time.

References
----------
Lazarus, Lewis, Stock and Watson (2018), HAR inference: recommendations for practice, Journal of
Business & Economic Statistics 36: the equal-weighted cosine (EWC) variance and its t critical
values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

Array = NDArray[np.float64]

FEWEST = 20  # dates below which nothing is tested


@dataclass(frozen=True, kw_only=True)
class Test:
    """A mean and how far it lies from zero.

    Attributes
    ----------
    mean, se : float
        Mean over dates and its standard error.
    t, p : float
        t statistic and its two-sided p value; NaN where there are too few dates or no variation.
    dof : int
        Degrees of freedom of the t.
    dates : int
    """

    mean: float
    se: float
    t: float
    p: float
    dof: int
    dates: int

    __test__ = False  # no test of pytest's

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of the mean."""
        reach = float(special.stdtrit(max(self.dof, 1), (1 + level) / 2)) * self.se
        return self.mean - reach, self.mean + reach


def cosines(dates: int) -> int:
    """B of the EWC estimator, ⌊0.4 T^(2/3)⌋."""
    return max(int(0.4 * dates ** (2 / 3)), 1)


def long_run_variance(series: Array) -> Array:
    """EWC estimate of the long-run variance of each column.

    Parameters
    ----------
    series : array, shape (T,) or (T, n)

    Returns
    -------
    array of shape () or (n,)
        Of √T times the mean; the cosines do not see the mean itself.
    """
    # scipy's orthonormal DCT-II is √(2/T) Σ x_t cos(π j (t − ½) / T) for j ≥ 1.
    weights = fft.dct(np.asarray(series, np.float64), axis=0, norm="ortho")
    variance: Array = np.mean(weights[1 : cosines(len(weights)) + 1] ** 2, axis=0)
    return variance


def mean_test(series: Array) -> Test:
    """t test that the mean of a series of dates is zero; dates with NaN are left out."""
    series = np.asarray(series, np.float64)
    series = series[~np.isnan(series)]
    dates = len(series)
    mean = float(series.mean()) if dates else float("nan")
    if dates < FEWEST:
        return Test(mean=mean, se=np.nan, t=np.nan, p=np.nan, dof=0, dates=dates)
    dof = cosines(dates)
    se = float(np.sqrt(long_run_variance(series) / dates))
    if not se > 1e-12 * abs(mean):  # a constant series, up to rounding
        return Test(mean=mean, se=se, t=np.nan, p=np.nan, dof=dof, dates=dates)
    t = mean / se
    p = float(2 * special.stdtr(dof, -abs(t)))
    return Test(mean=mean, se=se, t=t, p=p, dof=dof, dates=dates)


def holm(p: Array) -> Array:
    """p values adjusted for their number (Holm 1979); NaN stays NaN and is not counted."""
    p = np.asarray(p, np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p.ravel()))
    order = known[np.argsort(p.ravel()[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p.ravel()[order]
    adjusted.ravel()[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
