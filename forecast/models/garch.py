"""The GARCH family, fit per symbol, filtered along its whole history, simulated beyond a session.

Parameters are estimated by `arch` on the symbol's percent returns of the fitting range, with a
constant mean; the variance of the next session then follows at every row from returns up to that
row. One session ahead the forecast has the model's own law. Beyond (and with a delay) it comes from
paths whose shocks are drawn from the standardised residuals of the fit (`paths`).

References
----------
Bollerslev (1987), A conditionally heteroskedastic time series model: GARCH with a Student t.
Glosten, Jagannathan and Runkle (1993), On the relation between the expected value and the
volatility of the nominal excess return: GJR. Nelson (1991), Conditional heteroskedasticity in asset
returns: EGARCH. Hansen (1994): skewed t. Barone-Adesi, Giannopoulos and Vosper (1999), VaR without
correlations for portfolios of derivative securities: filtered historical simulation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.models.baselines import MIN_HISTORY, fit_returns
from forecast.models.paths import (
    PathTable,
    law_facts,
    path_facts,
    path_sums,
    uniforms,
    variance_grid,
)

# A simulated variance is held below this many times the largest of the fit (of the first session,
# where that is more): resampled shocks may be wider than the law that kept a fit from exploding.
CAP = 100.0
SQUARE = (0.5, 2.0)  # of the mean squared standardised residual of a fit that is trusted
BOUNDS = (1e-8, 1e8)  # of a filtered variance, in units of the fit's own


@dataclass(frozen=True, kw_only=True)
class Specification:
    """What `arch` is asked to estimate.

    Attributes
    ----------
    volatility, law : names of classes in arch.univariate.
    asymmetric : whether falls count by themselves.
    start : mean, omega, alpha, (gamma,) beta and the law's parameters to begin a second attempt
        with, for returns of deviation 1.
    """

    volatility: str
    law: str
    asymmetric: bool
    start: tuple[float, ...]

    @property
    def quasi(self) -> bool:
        """Whether the law serves the estimation alone: shocks are the residuals everywhere."""
        return self.law == "Normal"

    def process(self) -> Any:
        import arch.univariate

        return getattr(arch.univariate, self.volatility)(p=1, o=int(self.asymmetric), q=1)

    def distribution(self) -> Any:
        import arch.univariate

        return getattr(arch.univariate, self.law)()


_GJR = (0.0, 0.02, 0.04, 0.06, 0.91)
SPECIFICATIONS = {
    "garch_t": Specification(
        volatility="GARCH", law="StudentsT", asymmetric=False, start=(0.0, 0.02, 0.06, 0.92, 8.0)
    ),
    "gjr_t": Specification(
        volatility="GARCH", law="StudentsT", asymmetric=True, start=(*_GJR, 8.0)
    ),
    "gjr_skewt": Specification(
        volatility="GARCH", law="SkewStudent", asymmetric=True, start=(*_GJR, 8.0, 0.0)
    ),
    "egarch_t": Specification(
        volatility="EGARCH",
        law="StudentsT",
        asymmetric=True,
        start=(0.0, 0.0, 0.12, -0.05, 0.97, 8.0),
    ),
    # Filtered historical simulation: by Gaussian quasi-likelihood, since no law is to be assumed.
    "fhs": Specification(volatility="GARCH", law="Normal", asymmetric=True, start=_GJR),
}


@dataclass(frozen=True, kw_only=True)
class GarchFit:
    """One model of one symbol, in units of the standard deviation of its fitting returns.

    Attributes
    ----------
    unit : percent.
    mean : per session.
    volatility : omega, alpha, (gamma,) beta.
    law : degrees of freedom of the t, and its skew; empty for the normal.
    residuals : of the fit, standardised, ascending.
    lowest, highest : one-step-ahead variance over the fit.
    before : variance that stands for what came before a history, the mean squared residual.
    """

    specification: Specification
    unit: float
    mean: float
    volatility: np.ndarray
    law: tuple[float, ...]
    residuals: np.ndarray
    lowest: float
    highest: float
    before: float

    def filter(self, returns: np.ndarray) -> np.ndarray:
        """Variance of the session after 0, 1, … n returns (all in percent), shape (n + 1,)."""
        process = self.specification.process()
        shocks = np.append(returns / self.unit - self.mean, 0.0)
        # Fixed bounds: those that arch would choose look at the whole sample.
        bounds = np.tile(np.array(BOUNDS), (len(shocks), 1))
        variance = np.empty(len(shocks))
        backcast = process.backcast_transform(self.before)
        process.compute_variance(self.volatility, shocks, variance, backcast, bounds)
        return variance * self.unit**2

    @property
    def step(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """From a variance and a standardised shock to the next variance."""
        omega, alpha, *rest, beta = self.volatility
        gamma = rest[0] if rest else 0.0
        if self.specification.volatility == "EGARCH":

            def next_variance(variance: np.ndarray, z: np.ndarray) -> np.ndarray:
                news = omega + alpha * (np.abs(z) - np.sqrt(2 / np.pi)) + gamma * z
                # Clipped where a number would overflow before the cap can hold it.
                return np.exp(np.clip(beta * np.log(variance) + news, -50.0, 50.0))

        else:

            def next_variance(variance: np.ndarray, z: np.ndarray) -> np.ndarray:
                return omega + variance * (beta + (alpha + gamma * (z < 0)) * z**2)

        return next_variance

    def table(self, task: Task, levels_TP: np.ndarray) -> PathTable:
        """Facts of the sums of shocks, tabulated over the variance (both in `unit`).

        Parameters
        ----------
        levels_TP : the levels at which residuals are drawn, session by session and path by path.
        """
        variance_G = variance_grid(self.lowest, self.highest)
        place_TP = (levels_TP * len(self.residuals)).astype(np.int64)
        sums = path_sums(
            variance_G,
            self.step,
            self.residuals[place_TP],
            cap_G=CAP * np.maximum(variance_G, self.highest),
            delay=task.delay,
            horizons=task.horizons,
        )
        facts_GHK = np.stack([path_facts(sums_GP) for sums_GP in sums], axis=1)
        facts_GHK /= np.sqrt(variance_G)[:, None, None]
        if one_session(task) and not self.specification.quasi:
            facts_GHK[:, 0] = law_facts(self.quantile)  # exact, where paths are not needed
        return PathTable(log_variance_G=np.log(variance_G), facts_GHK=facts_GHK)

    def quantile(self, levels: np.ndarray) -> np.ndarray:
        """Of the standardised law."""
        quantile: np.ndarray = self.specification.distribution().ppf(levels, np.array(self.law))
        return quantile


def one_session(task: Task) -> bool:
    """Whether the first horizon is the session after the origin, where the law is known."""
    return task.horizons[0] == 1 and task.delay == 0


def fit_garch(specification: Specification, returns: np.ndarray) -> GarchFit | None:
    """Estimate one model, or None where no estimate can be trusted.

    Not trusted are fits on fewer than `MIN_HISTORY` returns, those that `arch` does not flag as
    converged from either of two starting points, those not finite, those whose variance explodes,
    and those whose squared standardised residuals do not average to about 1: where prices move in
    ticks, likelihood is had without end by taking the sessions without a change for certain.
    """
    if len(returns) < MIN_HISTORY or not returns.std() > 0:
        return None
    from arch.univariate import ConstantMean

    unit = float(returns.std())
    for start in (None, np.array(specification.start)):  # None: arch searches for one
        try:
            # Whatever an optimiser warns of on its way ends in the flag. The filters are restored,
            # since arch leaves one of its own behind.
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                model = ConstantMean(
                    returns / unit,
                    volatility=specification.process(),
                    distribution=specification.distribution(),
                    rescale=False,
                )
                result = model.fit(disp="off", show_warning=False, starting_values=start)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError):
            continue
        fit = _fit(specification, unit, result)
        if result.convergence_flag == 0 and _trusted(fit):
            return fit
    return None


def _fit(specification: Specification, unit: float, result: Any) -> GarchFit:
    parameters = np.asarray(result.params, dtype=np.float64)
    split = 1 + 3 + specification.asymmetric
    variances = np.asarray(result.conditional_volatility) ** 2
    return GarchFit(
        specification=specification,
        unit=unit,
        mean=float(parameters[0]),
        volatility=parameters[1:split],
        law=tuple(float(p) for p in parameters[split:]),
        residuals=np.sort(result.resid / np.sqrt(variances)),
        lowest=float(variances.min()),
        highest=float(variances.max()),
        before=float(np.mean(result.resid**2)),
    )


def _trusted(fit: GarchFit) -> bool:
    _, alpha, *gamma, beta = fit.volatility
    persistence = beta
    if fit.specification.volatility == "GARCH":
        persistence += alpha + sum(gamma) / 2
    square = np.mean(fit.residuals**2)
    numbers = [fit.mean, *fit.volatility, *fit.law, fit.highest, fit.before, square]
    if not (np.isfinite(numbers).all() and fit.lowest > 0):
        return False
    # An integrated variance, on the edge of what arch allows, is a common and a usable estimate.
    return bool(persistence <= 1 + 1e-6 and SQUARE[0] < square < SQUARE[1])


class GarchFits:
    """All models of all symbols of a fitting range, each made when first asked for.

    Parameters
    ----------
    panel : Panel
    task : Task
    fit : Range
        Fitted are the returns of the sessions after its rows.
    seed : int
        Of the simulated paths; symbols have generators of their own.
    symbols : sequence of int, optional
        Fitted are these alone, by default all.
    """

    def __init__(
        self,
        panel: Panel,
        task: Task,
        fit: Range,
        *,
        seed: int = 0,
        symbols: Sequence[int] | None = None,
    ) -> None:
        self.panel, self.task = panel, task
        self.symbols = range(len(panel.symbols)) if symbols is None else symbols
        self._range, self._seed = fit, seed
        self._fits: dict[str, dict[int, GarchFit]] = {}
        self._variances: dict[str, np.ndarray] = {}
        self._tables: dict[tuple[str, int], PathTable] = {}

    def of(self, name: str) -> dict[int, GarchFit]:
        """Fits of a model by symbol; those that cannot be trusted are missing."""
        if name not in self._fits:
            attempts = {
                s: fit_garch(SPECIFICATIONS[name], fit_returns(self.panel, self._range, s))
                for s in self.symbols
            }
            self._fits[name] = {s: fit for s, fit in attempts.items() if fit is not None}
        return self._fits[name]

    def fallbacks(self, name: str) -> tuple[str, ...]:
        """Symbols without a fit of their own."""
        fits = self.of(name)
        return tuple(self.panel.symbols[s] for s in self.symbols if s not in fits)

    def variance(self, name: str) -> np.ndarray:
        """Variance of the next session, percent squared, known at each panel row, shape (N,).

        Null for symbols without a fit. A return across a long gap is no session's: it is not seen,
        and the variance stays as it was.
        """
        if name not in self._variances:
            panel = self.panel
            variance = np.full(panel.rows, np.nan)
            for s, fit in self.of(name).items():
                rows = panel.symbol_rows(s)
                seen = np.append(False, np.diff(panel.gaps[rows]) == 0)
                returns = np.diff(panel.log_price[rows], prepend=np.nan)[seen]
                variance[rows] = fit.filter(returns)[np.cumsum(seen)]
            self._variances[name] = variance
        return self._variances[name]

    def volatility(self, name: str) -> np.ndarray:
        """Deviation of the next session, percent, known at each panel row, shape (N,).

        The scale stands in for symbols without a fit; null where that is null.
        """
        variance = self.variance(name)
        return np.where(np.isnan(variance), self.panel.scale.astype(np.float64), np.sqrt(variance))

    def table(self, name: str, s: int) -> PathTable:
        """The simulated paths of a fitted symbol."""
        if (name, s) not in self._tables:
            levels = uniforms(self._seed, self.panel.symbols[s], self.task.reach)
            self._tables[name, s] = self.of(name)[s].table(self.task, levels)
        return self._tables[name, s]
