"""Processes that returns are drawn from, each with the distribution that nobody could beat.

Every symbol has generators of its own, seeded by (seed, number of the symbol, stream), and draws
from them session by session. So its path depends neither on how many symbols are simulated nor on
how many sessions, and a shorter simulation is the beginning of a longer one.

Axes: B symbols, T sessions, N origins, Q levels, G nodes, P paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from forecast.config import ForecastError

RETURNS, SIGNAL, BARS, LISTING = range(4)  # streams
STRENGTH = 0.7  # of a recalled shock: log volatility of its answer per unit of it
APART = 5.0  # mean sessions from an answer to the next shock
NODES = 24  # variances at which the quantiles of a GARCH path are tabulated
HIGHEST = 1000.0  # largest of them, as a multiple of the unconditional variance

Score = Callable[[np.ndarray], np.ndarray]


def generator(seed: int, number: int, stream: int) -> np.random.Generator:
    """The generator of one stream of one symbol."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, stream)))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueDistribution:
    """Distribution of percent log returns given everything known at N origins.

    Attributes
    ----------
    mean, std : shape (N,), percent, exact.
    quantiles : shape (N, 21), percent, at `forecast.forecasts.LEVELS`.
    nll, pit : functions of returns of shape (N,), percent: minus log density in nats, and
        distribution function; None where the process has no closed form.
    """

    mean: np.ndarray
    std: np.ndarray
    quantiles: np.ndarray
    nll: Score | None
    pit: Score | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """What one process gave to B symbols over T sessions.

    Attributes
    ----------
    returns_BT : log return into each session, percent.
    variance_BT : its variance given the sessions before (and no signal), percent squared.
    known_BT : what the close of each session tells about the sessions after it.
    signals : what a close tells beside its prices, by name, shape (B, T) each.
    """

    returns_BT: np.ndarray
    variance_BT: np.ndarray
    known_BT: np.ndarray
    signals: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Normal:
    """Independent normal returns (geometric Brownian motion), partly foretold by a signal.

    return(t+1) = drift + volatility * (ic * signal(t) + sqrt(1 - ic^2) * noise(t+1)), signal and
    noise standard normal and independent across symbols and sessions. ic is the correlation of the
    signal with the next return on each date; 0 is geometric Brownian motion.
    """

    seed: int
    drift: float
    volatility: float
    ic: float | None = None  # None: no signal is drawn; 0: one that tells nothing

    def draw(self, numbers: Sequence[int], n_sessions: int) -> Draw:
        """Paths of the symbols with these numbers from the first session on."""
        shape = (len(numbers), n_sessions)
        returns_BT, signal_BT = np.empty(shape), np.zeros(shape)
        for row, number in enumerate(numbers):
            shock = generator(self.seed, number, RETURNS).standard_normal(n_sessions)
            if self.ic is not None:
                signal = generator(self.seed, number, SIGNAL).standard_normal(n_sessions + 1)
                shock = self.ic * signal[:-1] + np.sqrt(1 - self.ic**2) * shock
                signal_BT[row] = signal[1:]
            returns_BT[row] = self.drift + self.volatility * shock
        variance_BT = np.broadcast_to(self.volatility**2, shape)
        signals = {} if self.ic is None else {"signal": signal_BT}
        return Draw(
            returns_BT=returns_BT, variance_BT=variance_BT, known_BT=signal_BT, signals=signals
        )

    def distribution(self, known_N: np.ndarray, horizon: int, delay: int) -> TrueDistribution:
        """Of the sum of returns delay + 1 ... delay + horizon sessions after each origin."""
        from scipy.stats import norm

        # The signal is about the next session only.
        told = self.ic if self.ic is not None and delay == 0 else 0.0
        mean = horizon * self.drift + self.volatility * told * known_N
        std = np.full(len(known_N), self.volatility * np.sqrt(horizon - told**2))
        return _closed_form(norm, mean, std, std)


@dataclass(frozen=True, kw_only=True)
class Garch:
    """GJR-GARCH(1,1) with standardised Student-t innovations: volatility clusters, falls add more.

    return = drift + e, e = sqrt(v) z, v(t+1) = omega + (alpha + gamma 1[e(t) < 0]) e(t)^2
    + beta v(t), z Student-t with `df` degrees of freedom and unit variance. The first variance is
    the unconditional one (Glosten, Jagannathan & Runkle 1993; Bollerslev 1987).
    """

    seed: int
    drift: float
    omega: float
    alpha: float
    gamma: float
    beta: float
    df: float
    paths: int

    @property
    def persistence(self) -> float:
        """Share of a variance's distance from the unconditional one left a session later."""
        return self.alpha + self.gamma / 2 + self.beta

    @property
    def variance(self) -> float:
        """Unconditional variance, percent squared."""
        return self.omega / (1 - self.persistence)

    def innovations(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Student-t draws with unit variance."""
        return np.asarray(rng.standard_t(self.df, size) * np.sqrt((self.df - 2) / self.df))

    def step(self, variance: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One session: the innovation of the return, and the variance of the next one."""
        shock = np.sqrt(variance) * z
        response = np.where(shock < 0, self.alpha + self.gamma, self.alpha)
        return shock, self.omega + response * shock**2 + self.beta * variance

    def draw(self, numbers: Sequence[int], n_sessions: int) -> Draw:
        """Paths of the symbols with these numbers from the first session on."""
        z_TB = np.empty((n_sessions, len(numbers)))
        for column, number in enumerate(numbers):
            rng = generator(self.seed, number, RETURNS)
            z_TB[:, column] = self.innovations(rng, n_sessions)
        variance_TB = np.full((n_sessions + 1, len(numbers)), self.variance)
        for t in range(n_sessions):
            z_TB[t], variance_TB[t + 1] = self.step(variance_TB[t], z_TB[t])
        return Draw(
            returns_BT=self.drift + z_TB.T,
            variance_BT=variance_TB[:-1].T,
            known_BT=variance_TB[1:].T,
        )

    def distribution(self, known_N: np.ndarray, horizon: int, delay: int) -> TrueDistribution:
        """One session ahead an exact t; else mean and std exact, quantiles simulated.

        All that is known is the next session's variance, so the quantiles of the standardised
        return are a smooth function of it: it is tabulated once and interpolated. Beyond the
        largest node omega no longer matters and that function is flat.
        """
        from scipy.stats import t

        mean = np.full(len(known_N), horizon * self.drift)
        std = np.sqrt(self._total_variance(known_N, horizon, delay))
        if (horizon, delay) == (1, 0):
            return _closed_form(t(self.df), mean, std, std * np.sqrt((self.df - 2) / self.df))
        log_variance_G, quantiles_GQ = _tabulated(self, horizon, delay)
        standard_NQ = np.stack(
            [np.interp(np.log(known_N), log_variance_G, column) for column in quantiles_GQ.T], 1
        )
        quantiles_NQ = mean[:, None] + std[:, None] * standard_NQ
        return TrueDistribution(mean=mean, std=std, quantiles=quantiles_NQ, nll=None, pit=None)

    def _total_variance(self, known: np.ndarray, horizon: int, delay: int) -> np.ndarray:
        """Variance of the target: the sum of persistence^k over its sessions, reverting."""
        weight = float((self.persistence ** np.arange(delay, delay + horizon)).sum())
        return np.asarray(horizon * self.variance + weight * (known - self.variance))


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Normal returns with answers: sessions whose volatility was told by a shock long before.

    A shock, a standard normal number, is told at the close of one session; `longest` sessions
    later at most, after a delay that is uniform in its logarithm, the close of the session before
    the answer tells that the next session is one. The answer's log volatility is that of all other
    sessions plus 0.7 times the shock. Between the two nothing tells of it, and no other shock
    comes, so that a forecaster must keep one number for a known time (after the long-lag tasks of
    Hochreiter and Schmidhuber 1997).
    """

    seed: int
    drift: float
    volatility: float  # of a session that is no answer
    longest: int

    def told(self, number: int, n_sessions: int) -> np.ndarray:
        """Shock and question at each session's close, and the log volatility of the next session.

        Returns
        -------
        array of float64, shape (3, n_sessions)
            The shock, 0 without one; 1 where the next session is an answer, else 0; what is added
            to the log volatility of the next session.
        """
        told = np.zeros((3, n_sessions))
        rng = generator(self.seed, number, SIGNAL)
        session = -1
        while True:
            apart, delay = rng.geometric(1 / APART), rng.uniform(0, np.log(self.longest + 1))
            shock = rng.standard_normal()
            session += int(apart)
            if session >= n_sessions:
                return told
            told[0, session] = shock
            session += int(np.exp(delay)) - 1  # the close before the answer
            if session < n_sessions:
                told[1:, session] = 1.0, STRENGTH * shock
            session += 1

    def draw(self, numbers: Sequence[int], n_sessions: int) -> Draw:
        """Paths of the symbols with these numbers from the first session on."""
        told_3BT = np.stack([self.told(number, n_sessions) for number in numbers], axis=1)
        shock_BT, question_BT, log_BT = told_3BT
        noise_BT = np.stack(
            [generator(self.seed, n, RETURNS).standard_normal(n_sessions) for n in numbers]
        )
        into_BT = np.concatenate([np.zeros((len(numbers), 1)), log_BT[:, :-1]], axis=1)
        std_BT = self.volatility * np.exp(into_BT)
        return Draw(
            returns_BT=self.drift + std_BT * noise_BT,
            variance_BT=std_BT**2,
            known_BT=log_BT,
            signals={"shock": shock_BT, "question": question_BT},
        )

    def distribution(self, known_N: np.ndarray, horizon: int, delay: int) -> TrueDistribution:
        """Of the next session, of which alone all that matters is known."""
        from scipy.stats import norm

        if (horizon, delay) != (1, 0):
            raise ForecastError(
                "data.process=recall has a true distribution of the next session alone: use "
                "horizons=[1] and target.delay=0, or data.truth=false."
            )
        std = self.volatility * np.exp(known_N)
        return _closed_form(norm, np.full(len(known_N), self.drift), std, std)


Process = Normal | Garch | Recall


@lru_cache(maxsize=64)
def _tabulated(process: Garch, horizon: int, delay: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of the standardised target at some values of the next session's variance.

    All nodes share the same innovations, so that what is left of sampling error is as smooth in
    the variance as the truth. Drawn session by session: memory is nodes x paths.
    """
    from forecast.forecasts import LEVELS

    lowest = process.omega / (1 - process.beta)  # what a variance decays to without any shock
    node_G = np.geomspace(lowest, HIGHEST * process.variance, NODES)
    rng = generator(process.seed, horizon, delay + LISTING + 1)
    variance_GP = np.repeat(node_G[:, None], process.paths, axis=1)
    total_GP = np.zeros_like(variance_GP)
    for session in range(delay + horizon):
        z_P = process.innovations(rng, process.paths)
        shock_GP, variance_GP = process.step(variance_GP, z_P)
        if session >= delay:
            total_GP += shock_GP
    quantiles_QG = np.quantile(total_GP, LEVELS, axis=1)
    std_G = np.sqrt(process._total_variance(node_G, horizon, delay))
    return np.log(node_G), quantiles_QG.T / std_G[:, None]


def _closed_form(
    family: Any, mean: np.ndarray, std: np.ndarray, scale: np.ndarray
) -> TrueDistribution:
    """A location-scale family of scipy around `mean`."""
    from forecast.forecasts import LEVELS

    return TrueDistribution(
        mean=mean,
        std=std,
        quantiles=mean[:, None] + scale[:, None] * family.ppf(np.asarray(LEVELS)),
        nll=lambda y: np.log(scale) - family.logpdf((y - mean) / scale),
        pit=lambda y: family.cdf((y - mean) / scale),
    )
