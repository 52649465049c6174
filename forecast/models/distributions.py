"""Predictive distributions, evaluated row by row in numpy and float64.

What a head or a baseline states about one horizon, in the unit of its parameters (the networks'
are scaled units). Only elementwise operations on contiguous arrays are used, so a row's numbers do
not depend on the rows beside it, to the last bit. All arrays have one shape, here called (N,);
quantiles have a last axis of the 21 `LEVELS` more.

References
----------
Hansen (1994), Autoregressive conditional density estimation, Int. Economic Review 35.
Jordan, Krüger and Lerch (2019), Evaluating probabilistic forecasts with scoringRules, J. of
Statistical Software 90: closed forms of the continuous ranked probability score.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from forecast.forecasts import LEVELS
from forecast.models import standard_t

Array = NDArray[np.float64]
Factor = Array | float  # of each row, or of all


class Distribution:
    """A forecast known by some of its mean, standard deviation and quantiles alone.

    Parameters
    ----------
    mean : shape (N,)
    std : shape (N,), or None where not stated
    quantiles : shape (N, 21), at `LEVELS`, or None where not stated
    """

    def __init__(
        self,
        *,
        mean: ArrayLike,
        std: ArrayLike | None = None,
        quantiles: ArrayLike | None = None,
    ) -> None:
        self._stated = (
            _contiguous(mean),
            None if std is None else _contiguous(std),
            None if quantiles is None else _contiguous(quantiles),
        )

    @property
    def mean(self) -> Array:
        return self._stated[0]

    @property
    def std(self) -> Array | None:
        return self._stated[1]

    @property
    def quantiles(self) -> Array | None:
        return self._stated[2]

    def take(self, rows: slice) -> Distribution:
        """Some rows, as a distribution that says the same of them."""
        std, quantiles = (None if v is None else v[rows] for v in (self.std, self.quantiles))
        return Distribution(mean=self.mean[rows], std=std, quantiles=quantiles)

    @property
    def parts(self) -> bool:
        """Whether its own class says how to take some rows: a parent's way knows nothing of it."""
        return "take" in vars(type(self))

    def scores(self, y: ArrayLike) -> tuple[Array | None, Array | None, Array | None]:
        """`nll`, `pit` and `crps`; who overrides one where these share work overrides this too."""
        return self.nll(y), self.pit(y), self.crps(y)

    def nll(self, y: ArrayLike) -> Array | None:
        """Negative log density at `y` in nats; None where there is no density."""
        return None

    def pit(self, y: ArrayLike) -> Array | None:
        """Distribution function at `y`; None where it is not known."""
        return None

    def crps(self, y: ArrayLike) -> Array | None:
        """Continuous ranked probability score at `y`, exact; None where it is not known."""
        return None

    def expected_shortfall(self, level: float) -> Array | None:
        """Mean of the outcomes below the quantile at `level` (0.005 to 0.5), or None."""
        return None


class Gaussian(Distribution):
    """Normal distribution with mean `mu` and standard deviation `sigma`."""

    def __init__(self, *, mu: ArrayLike, sigma: ArrayLike) -> None:
        self._mu, self._sigma = _together(mu, sigma)

    @property
    def mean(self) -> Array:
        return self._mu

    @property
    def std(self) -> Array:
        return self._sigma

    @cached_property
    def quantiles(self) -> Array:
        quantiles: Array = self._mu[..., None] + self._sigma[..., None] * special.ndtri(LEVELS)
        return quantiles

    def take(self, rows: slice) -> Gaussian:
        return Gaussian(mu=self._mu[rows], sigma=self._sigma[rows])

    def nll(self, y: ArrayLike) -> Array:
        z = (_contiguous(y) - self._mu) / self._sigma
        nll: Array = z**2 / 2 + np.log(self._sigma) + np.log(2 * np.pi) / 2
        return nll

    def pit(self, y: ArrayLike) -> Array:
        probability: Array = special.ndtr((_contiguous(y) - self._mu) / self._sigma)
        return probability

    def crps(self, y: ArrayLike) -> Array:
        z = (_contiguous(y) - self._mu) / self._sigma
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        crps: Array = z * (2 * special.ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)
        return self._sigma * crps

    def expected_shortfall(self, level: float) -> Array:
        density = np.exp(-(special.ndtri(level) ** 2) / 2) / np.sqrt(2 * np.pi)
        return self._mu - self._sigma * float(density / level)


class SplitT(Distribution):
    """Two halves of a Student t, of different width, joined at the mode.

    It is mode + width · Z, where Z has the density f(z / l) below 0 and f(z / r) above, with f that
    of the t, l = 1 - skew and r = 1 + skew. `width` > 0, `df` > 2 (infinity is the normal) and
    -1 < `skew` < 1, all of shape (N,).
    """

    def __init__(
        self, *, mode: ArrayLike, width: ArrayLike, df: ArrayLike, skew: ArrayLike
    ) -> None:
        self._mode, self._width, df, self._skew = _together(mode, width, df, skew)
        self._df = np.minimum(df, 1e8)  # where it is the normal to 1e-8, and still a number
        self._left: Factor = 1 - self._skew
        self._right: Factor = 1 + self._skew

    @cached_property
    def _log_beta(self) -> Array:
        return standard_t.log_beta(self._df)

    @cached_property
    def _log_peak(self) -> Array:
        """Log density of the t at 0."""
        return standard_t.log_peak(self._df, self._log_beta)

    def _log_density(self, t: Array) -> Array:
        """Log density of the t."""
        return standard_t.log_density(t, self._df, self._log_peak)

    @cached_property
    def _moments(self) -> tuple[Array, Array, Array]:
        return _moments(self._df, self._skew, self._log_peak)

    @property
    def mean(self) -> Array:
        return self._mode + self._width * self._moments[1]

    @property
    def std(self) -> Array:
        return self._width * self._moments[2]

    def take(self, rows: slice) -> SplitT:
        mode, width, df, skew = (v[rows] for v in (self._mode, self._width, self._df, self._skew))
        return SplitT(mode=mode, width=width, df=df, skew=skew)

    @cached_property
    def quantiles(self) -> Array:
        columns = []
        for level in LEVELS:
            below, half, tail = self._side(level)
            t = self._t(level, tail)
            columns.append(self._mode + self._width * np.where(below, half * t, -half * t))
        return np.moveaxis(np.stack(columns), 0, -1)

    @cached_property
    def _ratio(self) -> Array:
        return standard_t.ratio(self._df)

    def _t(self, level: float, tail: Array) -> Array:
        """Quantiles of the t at `tail`, which a level falls on."""
        return standard_t.quantile(tail, self._ratio)

    def _half(self, below: Any) -> Factor:
        """Width of the half below the mode or above."""
        return np.where(below, self._left, self._right)

    def _side(self, level: float) -> tuple[Any, Factor, Array]:
        """Whether the quantile lies below the mode, the width of its half, its level in a t."""
        below = level < self._left / 2
        half = self._half(below)
        return below, half, np.where(below, level, 1 - level) / half

    def _standard(self, y: ArrayLike) -> tuple[Array, Array, Factor]:
        """y in widths from the mode, as the value of a t, and the width of its half."""
        z = (_contiguous(y) - self._mode) / self._width
        half = self._half(z < 0)
        return z, z / half, half

    def _tail(self, t: Array, half: Factor) -> Array:
        """Probability beyond y, away from the mode."""
        tail: Array = half * special.stdtr(self._df, -np.abs(t))
        return tail

    def _beyond(self, t: Array, half: Factor, log_density: Array) -> Array:
        """∫ |z| f over the tail past the value of a t."""
        df = self._df
        beyond: Array = half**2 * np.exp(log_density) * (df + t**2) / (df - 1)
        return beyond

    def nll(self, y: ArrayLike) -> Array:
        _, t, _ = self._standard(y)
        return self._nll(self._log_density(t))

    def pit(self, y: ArrayLike) -> Array:
        z, t, half = self._standard(y)
        return _probability(z, self._tail(t, half))

    def crps(self, y: ArrayLike) -> Array:
        z, t, half = self._standard(y)
        return self._crps(z, self._tail(t, half), self._beyond(t, half, self._log_density(t)))

    def scores(self, y: ArrayLike) -> tuple[Array, Array, Array]:
        z, t, half = self._standard(y)
        tail, log_density = self._tail(t, half), self._log_density(t)
        crps = self._crps(z, tail, self._beyond(t, half, log_density))
        return self._nll(log_density), _probability(z, tail), crps

    def _nll(self, log_density: Array) -> Array:
        nll: Array = np.log(self._width) - log_density
        return nll

    def _crps(self, z: Array, tail: Array, beyond: Array) -> Array:
        # E|Z - z| - E|Z - Z'| / 2. The second is ∫ F (1 - F), for a t K = 2 (J - ∫ T² below 0)
        # with J = E[max(0, T)], so each half adds half³ (K / 2 - J) + half² J.
        df = self._df
        upper, drift, _ = self._moments
        spread = np.exp(special.betaln(0.5, df - 0.5) - 2 * self._log_beta)
        spread = np.sqrt(df) / (df - 1) * spread - upper
        spread = (self._left**3 + self._right**3) * spread
        spread = spread + (self._left**2 + self._right**2) * upper
        sign = np.where(z < 0, -1.0, 1.0)
        distance = sign * (z * (1 - 2 * tail) - drift) + 2 * beyond
        crps: Array = self._width * (distance - spread)
        return crps

    def expected_shortfall(self, level: float) -> Array:
        below, half, tail = self._side(level)
        t = self._t(level, tail)
        beyond = self._beyond(t, half, self._log_density(t))
        partial = np.where(below, -beyond, self._moments[1] - beyond)
        shortfall: Array = self._mode + self._width * partial / level
        return shortfall


class StudentT(SplitT):
    """Student t with mean `mu`, scale `sigma` (not its standard deviation) and `df` > 2."""

    def __init__(self, *, mu: ArrayLike, sigma: ArrayLike, df: ArrayLike) -> None:
        super().__init__(mode=mu, width=sigma, df=df, skew=0.0)
        self._left = self._right = 1.0  # of all rows: no array has to be worked through for it

    def _half(self, below: Any) -> float:
        return 1.0

    def take(self, rows: slice) -> StudentT:
        return StudentT(mu=self._mode[rows], sigma=self._width[rows], df=self._df[rows])

    @cached_property
    def _lower(self) -> Array:
        # Symmetry leaves ten levels.
        return standard_t.below_median(self._df)

    def _t(self, level: float, tail: Array) -> Array:
        if level in LEVELS[: len(self._lower)]:
            lower: Array = self._lower[LEVELS.index(level)]
            return lower
        return super()._t(level, np.full_like(self._df, tail))

    @cached_property
    def quantiles(self) -> Array:
        lower = self._lower
        t = np.concatenate([lower, np.zeros_like(lower[:1]), -lower[::-1]])
        # All levels in few operations, between which threads have to wait for each other.
        t *= self._width
        t += self._mode
        return np.moveaxis(t, 0, -1)


class SkewedT(SplitT):
    """Hansen's skewed t with mean `mu`, standard deviation `sigma`, `df` > 2, -1 < `skew` < 1."""

    def __init__(self, *, mu: ArrayLike, sigma: ArrayLike, df: ArrayLike, skew: ArrayLike) -> None:
        mu, sigma, df, skew = _together(mu, sigma, df, skew)
        df = np.minimum(df, 1e8)
        _, drift, std = _moments(df, skew, standard_t.log_peak(df, standard_t.log_beta(df)))
        width = sigma / std
        super().__init__(mode=mu - width * drift, width=width, df=df, skew=skew)

    take = SplitT.take


def _together(*values: ArrayLike) -> tuple[Array, ...]:
    return tuple(_contiguous(value) for value in np.broadcast_arrays(*values))


def _contiguous(value: ArrayLike) -> Array:
    # numpy may round a function differently on strided arrays than on contiguous ones.
    return np.asarray(value, dtype=np.float64, order="C")


def _probability(z: Array, tail: Array) -> Array:
    """Distribution function of what has the probability `tail` beyond it."""
    return np.where(z < 0, tail, 1 - tail)


def _moments(df: Array, skew: Array, log_peak: Array) -> tuple[Array, Array, Array]:
    """E[max(0, T)] of the t itself; mean and standard deviation of the split t of width 1."""
    upper = df / (df - 1) * np.exp(log_peak)
    drift = 4 * skew * upper
    return upper, drift, np.sqrt(df / (df - 2) * (1 + 3 * skew**2) - drift**2)
