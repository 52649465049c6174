"""What a forecaster must beat, scored on the same rows.

A baseline is fit on a range of rows, train for the validation part and train + validation for the
test part, and then states a scaled distribution for every row of a block. Axes as in `block`.
The naive ones stand here; `make_baselines` makes all of them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike

from forecast.config import ForecastError
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.forecasts import LEVELS
from forecast.models.block import Block, blocks
from forecast.models.distributions import Distribution, Gaussian, StudentT
from forecast.prices.simulated import Truth

if TYPE_CHECKING:
    from forecast.models.filtered import FilteredGarch
    from forecast.models.garch import GarchFits

MOST_VALUES = 200_000  # of a pooled fit per horizon; beyond, every k-th is taken
MIN_HISTORY = 250  # known targets or returns below which a symbol's own fit is not trusted

NAIVE = ("historical", "ewma_normal", "ewma_t")
BASELINES = (  # in the order in which tables and reports list them
    "historical",
    "drift",
    "ewma_normal",
    "ewma_t",
    "garch_t",
    "gjr_t",
    "gjr_skewt",
    "egarch_t",
    "fhs",
    "har_abs",
    "gjr_market",
    "har_pooled",
    "mean_of_garch",
)


class Baseline(Protocol):
    """Made by a fit, knows only what its fit has seen."""

    def distribution(self, block: Block) -> Distribution:
        """Scaled distribution at every row and horizon, N·H rows."""


class Tabulated(Distribution):
    """A forecast known by numbers alone, expected shortfall at the two lowest levels among them.

    Parameters
    ----------
    facts : array of float64, shape (..., 25)
        Mean, standard deviation, the 21 quantiles, expected shortfall at 1 % and at 5 %.
    """

    def __init__(self, facts: np.ndarray) -> None:
        count = 2 + len(LEVELS)
        super().__init__(mean=facts[..., 0], std=facts[..., 1], quantiles=facts[..., 2:count])
        self._shortfall = dict(zip(LEVELS[:2], np.moveaxis(facts[..., count:], -1, 0), strict=True))

    def expected_shortfall(self, level: float) -> np.ndarray | None:
        return self._shortfall.get(level)


class Historical:
    """Quantiles of the fitting years, per symbol and horizon; pooled where history is short."""

    def __init__(self, panel: Panel, task: Task, fit: Range) -> None:
        sample: dict[int, np.ndarray] = {}
        for block in blocks(panel, task, fit):
            for s in block.symbols:
                actual = block.actual[block.symbol == s]
                if (~np.isnan(actual)).sum(axis=0).min() >= MIN_HISTORY:
                    sample[int(s)] = _describe(actual)
        self._of_symbol = sample
        self._pooled = _describe(pooled(panel, task, fit, scaled=False))

    def distribution(self, block: Block) -> Distribution:
        facts = np.stack([self._of_symbol.get(int(s), self._pooled) for s in block.symbols])
        mine = np.searchsorted(block.symbols, block.symbol)
        return Tabulated((facts[mine] / block.unit[..., None]).reshape(-1, facts.shape[-1]))


def _describe(percent_NH: np.ndarray) -> np.ndarray:
    """What `Tabulated` wants of each horizon's sample, shape (H, 25)."""
    result = np.full((percent_NH.shape[1], 4 + len(LEVELS)), np.nan)
    for h, column in enumerate(percent_NH.T):
        known = column[~np.isnan(column)]
        if len(known):
            quantiles = np.quantile(known, LEVELS)
            # Never empty: the smallest value does not exceed an interpolated quantile.
            shortfall = [known[known <= q].mean() for q in quantiles[:2]]
            result[h] = [known.mean(), known.std(), *quantiles, *shortfall]
    return result


class EwmaNormal:
    """Normal with mean zero and the trailing scale; nothing is fit (RiskMetrics 1996)."""

    def __init__(self, panel: Panel, task: Task, fit: Range) -> None:
        pass

    def distribution(self, block: Block) -> Distribution:
        ones = np.ones(block.unit.size)
        return Gaussian(mu=0.0 * ones, sigma=ones)


class EwmaT:
    """Student t around zero: the scale times a factor, both fit by likelihood per horizon.

    Attributes
    ----------
    sigma, df : array of float64, shape (H,)
        Scale, in scaled units, and degrees of freedom of the t.
    """

    def __init__(self, panel: Panel, task: Task, fit: Range) -> None:
        scaled = pooled(panel, task, fit, scaled=True)
        self.sigma, self.df = np.transpose([fit_t(y[~np.isnan(y)]) for y in scaled.T])

    def distribution(self, block: Block) -> Distribution:
        return self.around(np.zeros(block.unit.size))

    def around(self, mu_M: np.ndarray) -> Distribution:
        """The same t with other means, in scaled units."""
        rows = len(mu_M) // len(self.sigma)
        return StudentT(mu=mu_M, sigma=np.tile(self.sigma, rows), df=np.tile(self.df, rows))


class Drift:
    """`EwmaT` around the mean of the fitting years instead of zero.

    The mean is the symbol's mean return per session times the horizon, that of all symbols'
    returns where history is short: what the out-of-sample R² of a mean is taken against.
    """

    def __init__(self, panel: Panel, task: Task, fit: Range, ewma_t: EwmaT) -> None:
        self._ewma_t = ewma_t
        own = [fit_returns(panel, fit, s) for s in range(len(panel.symbols))]
        everything = np.concatenate(own) if own else np.empty(0)
        pooled_mean = everything.mean() if len(everything) else 0.0
        self._mean_S = np.array([r.mean() if len(r) >= MIN_HISTORY else pooled_mean for r in own])

    def distribution(self, block: Block) -> Distribution:
        mean_NH = self._mean_S[block.symbol][:, None] * np.array(block.task.horizons)
        return self._ewma_t.around((mean_NH / block.unit).reshape(-1))


def fit_returns(panel: Panel, fit: Range, s: int) -> np.ndarray:
    """A symbol's percent returns of the sessions that follow a fitting row, none across a gap."""
    low, high = int(fit.low[s]), int(min(fit.high[s], panel.offsets[s + 1] - 1))
    if high <= low:
        return np.empty(0)
    returns = np.diff(panel.log_price[low : high + 1])
    return returns[np.diff(panel.gaps[low : high + 1]) == 0]


def fit_t(y: np.ndarray) -> tuple[float, float]:
    """Scale and degrees of freedom of a t around zero by maximum likelihood."""
    from scipy.optimize import minimize
    from scipy.special import betaln

    squared = y**2

    def loss(raw: np.ndarray) -> float:
        sigma, df = np.exp(raw[0]), 2.05 + np.exp(raw[1])
        spread = np.mean(np.log1p(squared / (df * sigma**2)))
        return float(raw[0] + betaln(df / 2, 0.5) + np.log(df) / 2 + (df + 1) / 2 * spread)

    start = [np.log(np.std(y) + 1e-6), 1.0]
    best = minimize(loss, start, method="Nelder-Mead", bounds=[(-20, 20), (-10, 6)]).x
    return float(np.exp(best[0])), float(2.05 + np.exp(best[1]))


class TrueProcess:
    """The simulator's own predictive distribution: what no forecaster can beat but by luck."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def distribution(self, block: Block) -> Distribution:
        return _True(self._truth, block)


class _True(Distribution):
    """The simulator's distributions of a block, scaled."""

    def __init__(self, truth: Truth, block: Block) -> None:
        panel, task = block.panel, block.task
        dates = panel.dates[panel.day[block.row]]
        self._unit = block.unit
        # By horizon, then by symbol: the order of rows within a horizon is that of the block.
        self._parts = [
            [
                truth.distribution(panel.symbols[s], dates[block.symbol == s], h, task.delay)
                for s in block.symbols
            ]
            for h in task.horizons
        ]
        quantiles = self._gather("quantiles") / block.unit[..., None]
        super().__init__(
            mean=(self._gather("mean") / block.unit).reshape(-1),
            std=(self._gather("std") / block.unit).reshape(-1),
            quantiles=quantiles.reshape(-1, quantiles.shape[-1]),
        )

    def _gather(self, name: str) -> np.ndarray:
        """An attribute in percent, shape (N, H) or (N, H, 21)."""
        return np.stack(
            [np.concatenate([getattr(p, name) for p in parts]) for parts in self._parts], axis=1
        )

    def _at(self, name: str, y: ArrayLike) -> np.ndarray | None:
        """A function of the percent return, null at horizons where it has no closed form."""
        percent = np.asarray(y).reshape(self._unit.shape) * self._unit
        result = np.full(percent.shape, np.nan)
        for h, parts in enumerate(self._parts):
            edges = np.cumsum([0, *(len(p.mean) for p in parts)])
            for p, low, high in zip(parts, edges[:-1], edges[1:], strict=True):
                function = getattr(p, name)
                if function is not None:
                    result[low:high, h] = function(percent[low:high, h])
        return None if np.isnan(result).all() else result

    def nll(self, y: ArrayLike) -> np.ndarray | None:
        value = self._at("nll", y)
        return None if value is None else (value - np.log(self._unit)).reshape(-1)

    def pit(self, y: ArrayLike) -> np.ndarray | None:
        value = self._at("pit", y)
        return None if value is None else value.reshape(-1)


def pooled(panel: Panel, task: Task, fit: Range, *, scaled: bool) -> np.ndarray:
    """Targets of all symbols' rows, thinned evenly to what a fit needs, shape (≤ 200,000, H)."""
    step = max(1, -(-fit.rows // MOST_VALUES))
    parts = [
        (block.scaled_actual if scaled else block.actual)[::step]
        for block in blocks(panel, task, fit)
    ]
    return np.concatenate(parts) if parts else np.empty((0, len(task.horizons)))


def fit_range(ranges: dict[str, Range], part: str) -> Range:
    """Rows a baseline is fit on for a part: train, and for the test part validation too."""
    train = ranges["train"]
    if part == "validation":
        return train
    validation = ranges["validation"]
    return Range(low=train.low, high=np.maximum(train.high, validation.high))


def make_baselines(
    panel: Panel,
    task: Task,
    ranges: dict[str, Range],
    part: str,
    *,
    names: Iterable[str] = NAIVE,
    truth: Truth | None = None,
    seed: int = 0,
) -> dict[str, Baseline]:
    """Baselines of a part, fit, in the order of `BASELINES`.

    Parameters
    ----------
    ranges : dict of Range
        `fit_range` says which of them are fit on.
    names : names among `BASELINES`.
    truth : Truth, optional
        Where the data are simulated: adds `truth`, last, where it can state all horizons.
    seed : int
        Of the simulated paths of the GARCH family.

    Raises
    ------
    ForecastError
        An unknown name.
    """
    wanted = list(names)
    for name in wanted:
        if name not in BASELINES:
            raise ForecastError(
                f"backtest.baselines: {name!r} is no baseline. Choose among {', '.join(BASELINES)}."
            )
    fit = fit_range(ranges, part)
    # What several baselines stand on is loaded and fit once, and only if one of them is asked for.
    ewma_t = cache(lambda: EwmaT(panel, task, fit))

    @cache
    def garch() -> GarchFits:
        from forecast.models.garch import GarchFits

        return GarchFits(panel, task, fit, seed=seed)

    @cache
    def filtered(name: str) -> FilteredGarch:
        from forecast.models.filtered import FilteredGarch

        return FilteredGarch(garch(), name, ewma_t())

    def har_abs() -> Baseline:
        from forecast.models.har import HarAbs

        return HarAbs(panel, task, fit)

    def gjr_market() -> Baseline:
        from forecast.models.pooled import GjrMarket

        baseline = GjrMarket(panel, task, fit, garch().volatility("gjr_t"))
        baseline.fallbacks = garch().fallbacks("gjr_t")  # there the scale stands for volatility
        return baseline

    def har_pooled() -> Baseline:
        from forecast.models.har import HarPooled

        return HarPooled(panel, task, fit)

    def mean_of_garch() -> Baseline:
        from forecast.models.pool import MEMBERS, MeanOfGarch

        return MeanOfGarch([filtered(name) for name in MEMBERS])

    make: dict[str, Callable[[], Baseline]] = {
        "historical": lambda: Historical(panel, task, fit),
        "drift": lambda: Drift(panel, task, fit, ewma_t()),
        "ewma_normal": lambda: EwmaNormal(panel, task, fit),
        "ewma_t": ewma_t,
        "garch_t": lambda: filtered("garch_t"),
        "gjr_t": lambda: filtered("gjr_t"),
        "gjr_skewt": lambda: filtered("gjr_skewt"),
        "egarch_t": lambda: filtered("egarch_t"),
        "fhs": lambda: filtered("fhs"),
        "har_abs": har_abs,
        "gjr_market": gjr_market,
        "har_pooled": har_pooled,
        "mean_of_garch": mean_of_garch,
    }
    result = {name: make[name]() for name in BASELINES if name in wanted}
    if truth is not None and truth.states(task.horizons, task.delay):
        result["truth"] = TrueProcess(truth)
    return result
