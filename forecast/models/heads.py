"""Heads: what turns the network's raw outputs into a distribution, and the loss that trains it.

One of them, `position`, states no distribution but a position.

A head has a number of parameters per horizon, a map of raw outputs to their domain, a loss of the
mapped parameters, and the distribution they state. All of it is in scaled units, target divided by
(scale · √h). Heads hold no weights, and their arithmetic follows dtype and device of its input.

Tensors end in an axis of P parameters, written `_P`, over any axes in front (batch B, time L,
horizon H); `_Q` is an axis of the 21 `LEVELS`. Losses are elementwise: they drop the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor
from torch.nn import functional

from forecast.config import ForecastError
from forecast.forecasts import LEVELS
from forecast.models.distributions import Distribution, Gaussian, SkewedT, StudentT
from forecast.models.losses import Bounds, student_t_loss

# Bounds that keep the losses and their gradients finite, wide of anything returns show.
_SIGMA_LOWEST = 1e-3
_TAIL_BOUNDS = 1e-3, 1 / 2.05  # of 1 / df: beyond 1000 it is a normal, at 2 there is no variance
_SKEW_BOUND = 0.9
# So that raw 0 is a standard deviation of 1 and 6 degrees of freedom.
_SIGMA_SHIFT = math.log(math.expm1(1 - _SIGMA_LOWEST))
_TAIL_SHIFT = special.logit((1 / 6 - _TAIL_BOUNDS[0]) / (_TAIL_BOUNDS[1] - _TAIL_BOUNDS[0])).item()
# Raw outputs move the mean this much more slowly than the spread. Returns say little of their mean
# and much of their variance; at equal rates a network learns the noise of the first.
_MEAN_RATE = 0.1


class Head(Protocol):
    """What the network needs of a head; one's own needs no more.

    With one method more, `volatility(parameters_P) -> Tensor` (standard deviation in scaled units,
    elementwise), `forecast.explain` can look into its networks.
    """

    @property
    def size(self) -> int:
        """Parameters per horizon."""

    def domain(self, raw_P: Tensor) -> Tensor:
        """Map unbounded outputs to parameters; 0 is a sensible start, about a unit spread."""

    def loss(self, parameters_P: Tensor, y: Tensor) -> Tensor:
        """Loss of the parameters at targets `y`, elementwise."""

    def distribution(self, parameters: NDArray[Any]) -> Distribution:
        """What parameters of shape (N, P) state."""

    def start(self, y: NDArray[Any]) -> list[float]:
        """Raw outputs, P of them, that fit targets `y` without looking at any feature."""


class StudentTHead:
    """Student t: mean, standard deviation and degrees of freedom; the loss is the exact nll.

    With the standard deviation for the second parameter, as in the other heads, targets of unit
    variance are met from the first step whatever the tails; the scale of the t in its place ends
    at the same likelihood, later.
    """

    size = 3

    def domain(self, raw_P: Tensor) -> Tensor:
        mu, sigma, df = raw_P.unbind(-1)
        return torch.stack([_MEAN_RATE * mu, _positive(sigma), _degrees(df)], dim=-1)

    def fused_loss(self, raw_P: Tensor, y: Tensor) -> Tensor:
        """`loss` of `domain`, compiled as one pass with its slopes."""
        low, high = _TAIL_BOUNDS
        bounds = Bounds(_MEAN_RATE, _SIGMA_LOWEST, _SIGMA_SHIFT, low, high - low, _TAIL_SHIFT)
        return student_t_loss(raw_P, y, bounds)

    def loss(self, parameters_P: Tensor, y: Tensor) -> Tensor:
        mu, sigma, df = parameters_P.unbind(-1)
        scale = sigma * ((df - 2) / df).sqrt()
        return scale.log() - _log_density((y - mu) / scale, df)

    def volatility(self, parameters_P: Tensor) -> Tensor:
        return parameters_P[..., 1]

    def distribution(self, parameters: NDArray[Any]) -> Distribution:
        mu, sigma, df = np.moveaxis(np.asarray(parameters, dtype=np.float64), -1, 0)
        return StudentT(mu=mu, sigma=sigma * np.sqrt((df - 2) / df), df=df)

    def start(self, y: NDArray[Any]) -> list[float]:
        return [*_raw_moments(y), 0.0]


class SkewedTHead:
    """Hansen's (1994) skewed t: mean, standard deviation, degrees of freedom and skew."""

    size = 4

    def domain(self, raw_P: Tensor) -> Tensor:
        mu, sigma, df, skew = raw_P.unbind(-1)
        skew = _SKEW_BOUND * torch.tanh(skew)
        return torch.stack([_MEAN_RATE * mu, _positive(sigma), _degrees(df), skew], dim=-1)

    def loss(self, parameters_P: Tensor, y: Tensor) -> Tensor:
        mu, sigma, df, skew = parameters_P.unbind(-1)
        # As two halves of a t joined at the mode, which is the same density.
        upper = df / (df - 1) * _log_density(torch.zeros_like(df), df).exp()  # E[max(0, T)]
        drift = 4 * skew * upper
        width = sigma / (df / (df - 2) * (1 + 3 * skew.square()) - drift.square()).sqrt()
        z = (y - mu) / width + drift
        t = z / torch.where(z < 0, 1 - skew, 1 + skew)
        return width.log() - _log_density(t, df)

    def volatility(self, parameters_P: Tensor) -> Tensor:
        return parameters_P[..., 1]

    def distribution(self, parameters: NDArray[Any]) -> Distribution:
        mu, sigma, df, skew = np.moveaxis(np.asarray(parameters, dtype=np.float64), -1, 0)
        return SkewedT(mu=mu, sigma=sigma, df=df, skew=skew)

    def start(self, y: NDArray[Any]) -> list[float]:
        return [*_raw_moments(y), 0.0, 0.0]


class GaussianHead:
    """Normal: mean and standard deviation."""

    size = 2

    def domain(self, raw_P: Tensor) -> Tensor:
        mu, sigma = raw_P.unbind(-1)
        return torch.stack([_MEAN_RATE * mu, _positive(sigma)], dim=-1)

    def loss(self, parameters_P: Tensor, y: Tensor) -> Tensor:
        mu, sigma = parameters_P.unbind(-1)
        return ((y - mu) / sigma).square() / 2 + sigma.log() + math.log(2 * math.pi) / 2

    def volatility(self, parameters_P: Tensor) -> Tensor:
        return parameters_P[..., 1]

    def distribution(self, parameters: NDArray[Any]) -> Distribution:
        mu, sigma = np.moveaxis(np.asarray(parameters, dtype=np.float64), -1, 0)
        return Gaussian(mu=mu, sigma=sigma)

    def start(self, y: NDArray[Any]) -> list[float]:
        return _raw_moments(y)


class QuantileHead:
    """The 21 levels themselves, which cannot cross: positive steps outwards from the median.

    The loss is twice the mean pinball loss over the levels; there is no density.
    """

    size = len(LEVELS)
    _median = len(LEVELS) // 2

    def domain(self, raw_P: Tensor) -> Tensor:
        # softplus(bias) is the step between standard normal quantiles, the start at raw = 0.
        step = [high - low for low, high in pairwise(special.ndtri(LEVELS).tolist())]
        bias = raw_P.new_tensor([math.log(math.expm1(value)) for value in step])
        median = _MEAN_RATE * raw_P[..., self._median, None]
        others = torch.cat([raw_P[..., : self._median], raw_P[..., self._median + 1 :]], dim=-1)
        step_down, step_up = functional.softplus(others + bias).tensor_split([self._median], dim=-1)
        down = step_down.flip(-1).cumsum(-1).flip(-1)
        return torch.cat([median - down, median, median + step_up.cumsum(-1)], dim=-1)

    def loss(self, parameters_P: Tensor, y: Tensor) -> Tensor:
        error_Q = y[..., None] - parameters_P
        level_Q = parameters_P.new_tensor(LEVELS)
        return 2 * torch.maximum(level_Q * error_Q, (level_Q - 1) * error_Q).mean(-1)

    def volatility(self, parameters_P: Tensor) -> Tensor:
        """That of the normal with as wide an 80 % interval, as strategies read it."""
        low, high = LEVELS.index(0.1), LEVELS.index(0.9)
        width = parameters_P[..., high] - parameters_P[..., low]
        return width / (2 * float(special.ndtri(0.9)))

    def distribution(self, parameters: NDArray[Any]) -> Distribution:
        quantiles = np.asarray(parameters, dtype=np.float64)
        return Distribution(mean=quantiles[..., 1:-1].mean(-1), quantiles=quantiles)

    def start(self, y: NDArray[Any]) -> list[float]:
        quantiles = np.quantile(y, LEVELS)
        # Steps between quantiles as the domain builds them, kept above 0 for ties.
        step = np.maximum(np.diff(quantiles), 1e-3)
        normal = np.diff(special.ndtri(LEVELS))
        raw = np.log(np.expm1(step)) - np.log(np.expm1(normal))
        middle = quantiles[self._median] / _MEAN_RATE
        return [float(x) for x in (*raw[: self._median], middle, *raw[self._median :])]


class PointHead:
    """One number and no distribution.

    Parameters
    ----------
    loss : "mse", "mae" or "huber" (squared within one scaled unit, absolute beyond).
    """

    size = 1

    def __init__(self, *, loss: str = "mse") -> None:
        losses: dict[str, Callable[..., Tensor]] = {
            "mse": functional.mse_loss,
            "mae": functional.l1_loss,
            "huber": functional.huber_loss,
        }
        if loss not in losses:
            raise ForecastError(f"head.loss={loss} is unknown. Use one of {', '.join(losses)}.")
        self._loss = losses[loss]

    def domain(self, raw_P: Tensor) -> Tensor:
        return _MEAN_RATE * raw_P

    def loss(self, parameters_P: Tensor, y: Tensor) -> Tensor:
        return self._loss(parameters_P[..., 0], y, reduction="none")

    def distribution(self, parameters: NDArray[Any]) -> Distribution:
        return Distribution(mean=np.asarray(parameters)[..., 0])

    def start(self, y: NDArray[Any]) -> list[float]:
        middle = np.median(y) if self._loss is functional.l1_loss else np.mean(y)
        return [float(middle) / _MEAN_RATE]


class PositionHead:
    """A position between −1 and 1 and no distribution; `models.position` has its loss.

    Parameters
    ----------
    volatility : float
        Percent a year: a full position in one of N symbols weighs this, over the symbol's own
        trailing volatility, over N.
    cost : float
        Basis points of the value traded.
    """

    size = 1

    def __init__(self, *, volatility: float, cost: float) -> None:
        if not 0 < volatility < math.inf:
            raise ForecastError(
                f"head.volatility={volatility} must be above 0 percent a year, and finite."
            )
        if not 0 <= cost < math.inf:
            raise ForecastError(f"head.cost={cost} must be 0 or more basis points, and finite.")
        self.volatility, self.cost = volatility, cost

    def domain(self, raw_P: Tensor) -> Tensor:
        return torch.tanh(raw_P)

    def weights(self, position: Any, full: Any, periods: float) -> Any:
        """Fractions of equity, of tensors or arrays.

        Parameters
        ----------
        full : what a full position weighs at a volatility of 1 % per session.
        periods : sessions a year.
        """
        return position * (full * (self.volatility / math.sqrt(periods)))

    def start(self, y: NDArray[Any]) -> list[float]:
        # Always long, a benchmark of its own, so that training begins at what takes no skill. Half
        # a position: of a constant one the size means nothing to a Sharpe ratio, and there is room
        # on both sides.
        return [math.atanh(0.5)]


# Heads that state a distribution.
HEADS: dict[str, Callable[..., Head]] = {
    "student_t": StudentTHead,
    "skewed_t": SkewedTHead,
    "gaussian": GaussianHead,
    "quantile": QuantileHead,
    "point": PointHead,
}
POSITION = "position"
BUILT_IN: dict[str, Callable[..., Head | PositionHead]] = {**HEADS, POSITION: PositionHead}


def _positive(raw: Tensor) -> Tensor:
    """1 at raw = 0, and bounded away from 0."""
    return functional.softplus(raw + _SIGMA_SHIFT) + _SIGMA_LOWEST


def _raw_moments(y: NDArray[Any]) -> list[float]:
    """Raw outputs whose mean and standard deviation are those of `y`."""
    spread = max(float(np.std(y)), 2 * _SIGMA_LOWEST) - _SIGMA_LOWEST
    raw = math.log(math.expm1(spread)) - _SIGMA_SHIFT
    return [float(np.mean(y)) / _MEAN_RATE, raw]


def _degrees(raw: Tensor) -> Tensor:
    """Degrees of freedom, 6 at raw = 0: their inverse is bounded and moves evenly with raw."""
    low, high = _TAIL_BOUNDS
    return 1 / (low + (high - low) * torch.sigmoid(raw + _TAIL_SHIFT))


def _log_density(t: Tensor, df: Tensor) -> Tensor:
    """Log density of the standard t.

    The ratio Γ(a + ½) / Γ(a), a = df / 2, comes from its asymptotic series at a + 3 and the
    recurrence back: within 1e-8, where differences of lgamma lose three digits in float32.
    """
    a = df / 2
    b = a + 3
    series = 1 / 8 - (1 / 192 - (1 / 640 - 17 / 14336 / b**2) / b**2) / b**2
    back = a * (a + 1) * (a + 2) / ((a + 0.5) * (a + 1.5) * (a + 2.5))
    ratio = b.log() / 2 - series / b + back.log()
    return ratio - (math.pi * df).log() / 2 - (df + 1) / 2 * torch.log1p(t.square() / df)
