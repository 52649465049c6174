"""The standard Student t: density, and quantiles twenty times as fast as scipy's.

`df` > 2 are degrees of freedom; all is elementwise, in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import special

from forecast.forecasts import LEVELS

Array = NDArray[np.float64]

_LOWEST = 0.005  # level of a t that a level of 0.01 can fall on under full skew


def log_beta(df: Array) -> Array:
    """log B(½, df / 2), which peak and spread have in common."""
    log_beta: Array = special.betaln(0.5, df / 2)
    return log_beta


def log_peak(df: Array, log_beta: Array) -> Array:
    """Log density at 0."""
    log_peak: Array = -(log_beta + np.log(df) / 2)
    return log_peak


def log_density(t: Array, df: Array, log_peak: Array) -> Array:
    """Log density, from that at 0."""
    log_density: Array = log_peak - (df + 1) / 2 * np.log1p(t**2 / df)
    return log_density


def ratio(df: Array) -> Array:
    """Ratio of quantiles to the normal's, as coefficients of a polynomial in the level.

    Returns
    -------
    array with the coefficients in front of the axes of `df`, for `quantile`
    """
    return _polynomials(_TABLE.T, _unit_df(df))


def quantile(level: Array, ratio: Array) -> Array:
    """Quantiles at levels from 0.005 to 0.5, or their mirror images above."""
    z: Array = special.ndtri(level)
    return z * _horner(ratio, _unit_level(z))


def below_median(df: Array) -> Array:
    """Quantiles at the `LEVELS` below the median, in front of the axes of `df`.

    At a given level the table is a polynomial in 1 / df alone.
    """
    return _polynomials(_BELOW_MEDIAN, _unit_df(df))


def _quantile_table(degree_level: int = 10, degree_df: int = 12) -> Array:
    """Ratio of the t quantile to the normal one, as a polynomial in two variables.

    The ratio is an even, smooth function of the normal quantile and a smooth one of 1 / df, so
    interpolation at Chebyshev nodes is within 1e-9 of scipy for levels from 0.005 and df from 2,
    and twenty times as fast.

    Returns
    -------
    coefficients of shape (degree_level, degree_df), of powers of the two variables of
    `_unit_level` and `_unit_df`, which run from -1 to 1
    """
    level, df = (np.cos(np.pi * (np.arange(n) + 0.5) / n) for n in (degree_level, degree_df))
    z = np.sqrt((level + 1) / 2) * special.ndtri(_LOWEST)
    ratio = special.stdtrit(4 / (df + 1), special.ndtr(z)[:, None]) / z[:, None]
    along_level = np.linalg.solve(chebyshev.chebvander(level, degree_level - 1), ratio)
    both = np.linalg.solve(chebyshev.chebvander(df, degree_df - 1), along_level.T).T
    powers = np.stack([chebyshev.cheb2poly(row) for row in both])
    return np.stack([chebyshev.cheb2poly(column) for column in powers.T], axis=1)


def _unit_level(z: Array) -> Array:
    unit: Array = 2 * (z / special.ndtri(_LOWEST)) ** 2 - 1
    return unit


def _unit_df(df: Array) -> Array:
    return 4 / df - 1


def _polynomials(coefficients: Array, x: Array) -> Array:
    """Several polynomials, a column of coefficients each; an axis for them in front of x's."""
    return _horner(coefficients.reshape(*coefficients.shape, *[1] * x.ndim), x)


def _horner(coefficients: Iterable[Any], x: Array) -> Array:
    """Polynomial with the given coefficients, lowest power first, of shapes that go with x."""
    order = list(coefficients)
    value = np.zeros(np.broadcast_shapes(np.shape(order[0]), np.shape(x)))
    for coefficient in reversed(order):
        value *= x
        value += coefficient
    return value


_TABLE = _quantile_table()
_BELOW = special.ndtri(LEVELS[: len(LEVELS) // 2])
_BELOW_MEDIAN = _BELOW * np.stack([_horner(row, _unit_level(_BELOW)) for row in _TABLE.T])
