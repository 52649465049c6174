"""A model of the GARCH family as a baseline: fits and paths turned into scaled distributions.

Axes: N rows of the block, H horizons, M = N·H forecasts (horizon fastest), K facts (`paths`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from forecast.models.baselines import EwmaT, Tabulated
from forecast.models.block import Block
from forecast.models.distributions import Distribution, SkewedT
from forecast.models.garch import SPECIFICATIONS, GarchFits, one_session
from forecast.models.paths import FACTS, STD, law_facts


class Filtered(Tabulated):
    """Numbers at every horizon, and at the first one a law in closed form where there is one.

    Parameters
    ----------
    facts : array of float64, shape (M, 25)
        See `Tabulated`.
    law : Distribution, optional
        Of the N rows at the first of the horizons.
    horizons : int
    """

    def __init__(self, facts: np.ndarray, law: Distribution | None, horizons: int) -> None:
        super().__init__(facts)
        self._law, self._horizons = law, horizons

    def nll(self, y: ArrayLike) -> np.ndarray | None:
        return self._at_first(lambda law, y_N: law.nll(y_N), y)

    def pit(self, y: ArrayLike) -> np.ndarray | None:
        return self._at_first(lambda law, y_N: law.pit(y_N), y)

    def crps(self, y: ArrayLike) -> np.ndarray | None:
        return self._at_first(lambda law, y_N: law.crps(y_N), y)

    def _at_first(
        self, score: Callable[[Distribution, np.ndarray], np.ndarray | None], y: ArrayLike
    ) -> np.ndarray | None:
        """A score of the law, null beyond the first horizon."""
        if self._law is None:
            return None
        y_NH = np.asarray(y, dtype=np.float64).reshape(-1, self._horizons)
        result = np.full(y_NH.shape, np.nan)
        result[:, 0] = score(self._law, y_NH[:, 0])
        return result.reshape(-1)


class FilteredGarch:
    """A model of the GARCH family; `EwmaT` for symbols that it could not be fit to.

    Parameters
    ----------
    fits : GarchFits
    name : str
        Of a specification.
    ewma_t : EwmaT

    Attributes
    ----------
    fallbacks : tuple of str
        Symbols without a fit of their own.
    """

    def __init__(self, fits: GarchFits, name: str, ewma_t: EwmaT) -> None:
        self.fallbacks = fits.fallbacks(name)
        self._fits, self._name = fits, name
        sigma, df = ewma_t.sigma, ewma_t.df
        self._std_H, self._df_H = sigma * np.sqrt(df / (df - 2)), df
        standard_HK = np.stack([law_facts(_t_quantile(d)) for d in df])
        self._facts_HK = self._std_H[:, None] * standard_HK

    def distribution(self, block: Block) -> Filtered:
        facts = self.facts(block, slice(0, FACTS)).reshape(-1, FACTS)
        return Filtered(facts, self._law(block), len(block.task.horizons))

    def facts(self, block: Block, columns: slice) -> np.ndarray:
        """Some columns of the facts in scaled units, shape (N, H, columns)."""
        facts_HK = self._facts_HK[:, columns]
        result = np.repeat(facts_HK[None], len(block.row), axis=0)
        moves = np.arange(self._facts_HK.shape[1])[columns] != STD
        horizons_H = np.array(block.task.horizons)
        variance = self._fits.variance(self._name)
        for s, fit in self._fits.of(self._name).items():
            mine = np.flatnonzero(block.symbol == s)
            if len(mine):
                table = self._fits.table(self._name, s)
                own = table.at(variance[block.row[mine]] / fit.unit**2, columns)
                own += fit.mean * horizons_H[:, None] * moves
                result[mine] = own * fit.unit / block.unit[mine][:, :, None]
        return result

    def _law(self, block: Block) -> Distribution | None:
        """What is assumed of the next session, shape (N,)."""
        fits = self._fits.of(self._name)
        if SPECIFICATIONS[self._name].quasi or not one_session(block.task):
            return None
        unit, variance = block.unit[:, 0], self._fits.variance(self._name)[block.row]
        mu, skew = np.zeros(len(unit)), np.zeros(len(unit))
        std, df = np.full(len(unit), self._std_H[0]), np.full(len(unit), self._df_H[0])
        for s, fit in fits.items():
            mine = block.symbol == s
            mu[mine] = fit.mean * fit.unit / unit[mine]
            std[mine] = np.sqrt(variance[mine]) / unit[mine]
            df[mine], skew[mine] = [*fit.law, 0.0][:2]
        return SkewedT(mu=mu, sigma=std, df=df, skew=skew)


def _t_quantile(df: float) -> Callable[[np.ndarray], np.ndarray]:
    """Of the t with deviation 1."""
    shrink = np.sqrt((df - 2) / df)
    return lambda levels: shrink * special.stdtrit(df, levels)
