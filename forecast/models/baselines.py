"""What a forecaster must beat, scored on the same rows.

A baseline is fit on a range of rows, train for the validation part and train + validation for the
test part, and then states a scaled distribution for every row of a block. Axes as in `block`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from forecast.dataset.datamodule import Task
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.forecasts import LEVELS
from forecast.models.block import Block, blocks
from forecast.models.distributions import Distribution, Gaussian, StudentT
from forecast.prices.simulated import Truth

MOST_VALUES = 200_000  # of a pooled fit per horizon; beyond, every k-th is taken
MIN_HISTORY = 250  # known targets below which `historical` uses the pooled quantiles


class Baseline(Protocol):
    """Made by a fit, knows only what its fit has seen."""

    def distribution(self, block: Block) -> Distribution:
        """Scaled distribution at every row and horizon, N·H rows."""


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
        scaled = (facts[mine] / block.unit[..., None]).reshape(-1, facts.shape[-1])
        return Distribution(mean=scaled[:, 0], std=scaled[:, 1], quantiles=scaled[:, 2:])


def _describe(percent_NH: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and the 21 quantiles of each horizon, shape (H, 23)."""
    result = np.full((percent_NH.shape[1], 2 + len(LEVELS)), np.nan)
    for h, column in enumerate(percent_NH.T):
        known = column[~np.isnan(column)]
        if len(known):
            result[h] = [known.mean(), known.std(), *np.quantile(known, LEVELS)]
    return result


class EwmaNormal:
    """Normal with mean zero and the trailing scale; nothing is fit (RiskMetrics 1996)."""

    def __init__(self, panel: Panel, task: Task, fit: Range) -> None:
        pass

    def distribution(self, block: Block) -> Distribution:
        ones = np.ones(block.unit.size)
        return Gaussian(mu=0.0 * ones, sigma=ones)


class EwmaT:
    """Student t around zero: the scale times a factor, both fit by likelihood per horizon."""

    def __init__(self, panel: Panel, task: Task, fit: Range) -> None:
        scaled = pooled(panel, task, fit, scaled=True)
        self._sigma, self._df = np.transpose([fit_t(y[~np.isnan(y)]) for y in scaled.T])

    def distribution(self, block: Block) -> Distribution:
        rows = len(block.row)
        sigma, df = np.tile(self._sigma, rows), np.tile(self._df, rows)
        return StudentT(mu=np.zeros(block.unit.size), sigma=sigma, df=df)


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


BASELINES: dict[str, type[Historical] | type[EwmaNormal] | type[EwmaT]] = {
    "historical": Historical,
    "ewma_normal": EwmaNormal,
    "ewma_t": EwmaT,
}


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
    panel: Panel, task: Task, ranges: dict[str, Range], part: str, truth: Truth | None = None
) -> dict[str, Baseline]:
    """The naive baselines of a part, fit, and the truth where the data are simulated."""
    fit = fit_range(ranges, part)
    result: dict[str, Baseline] = {name: make(panel, task, fit) for name, make in BASELINES.items()}
    if truth is not None:
        result["truth"] = TrueProcess(truth)
    return result
