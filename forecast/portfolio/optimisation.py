"""Long-only portfolios of least variance, and of expected return less a penalty on variance.

The covariance is that of the forecast: its volatilities, and correlations of the past, which no
marginal forecast states. The optimisers are skfolio's. Axes: T dates, S symbols.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from skfolio.optimization import MeanRisk

NEGLIGIBLE = 1e-6  # weights below this are what an interior-point solver leaves of 0


def shrunk_correlation(returns_TS: np.ndarray) -> np.ndarray:
    """Correlation matrix, shrunk towards none at all (Ledoit and Wolf 2004), shape (S, S).

    Returns are divided by their own standard deviation first, so that the intensity which
    scikit-learn computes is the one for correlations. A missing return counts as an average one:
    symbols with a short history are taken to be less correlated, and the matrix stays positive
    definite.

    Parameters
    ----------
    returns_TS : simple returns; NaN where a symbol has no session.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    known_TS = ~np.isnan(returns_TS)
    count_S = np.maximum(known_TS.sum(axis=0), 1)
    centred_TS = returns_TS - np.where(known_TS, returns_TS, 0.0).sum(axis=0) / count_S
    centred_TS = np.where(known_TS, centred_TS, 0.0)
    std_S = np.sqrt((centred_TS**2).sum(axis=0) / count_S)
    scaled_TS = centred_TS / np.where(std_S > 0, std_S, 1.0)
    if len(scaled_TS) < 2:
        return np.eye(scaled_TS.shape[1])
    shrinkage = ledoit_wolf_shrinkage(scaled_TS, assume_centered=True)
    correlation_SS = (1 - shrinkage) * (scaled_TS.T @ scaled_TS) / len(scaled_TS)
    np.fill_diagonal(correlation_SS, 1.0)
    return correlation_SS


def best_weights(
    covariance_SS: np.ndarray, mean_S: np.ndarray | None = None, risk_aversion: float = 1.0
) -> np.ndarray | None:
    """Weights of 0 or more that add up to 1: of least variance, or of most utility.

    Utility is mean'w − risk_aversion · w'covariance·w, where a mean is given.

    Returns
    -------
    array of float64, shape (S,), or None
        None where the solver fails, which is warned of.
    """
    from skfolio.exceptions import OptimizationError

    if len(covariance_SS) == 1:
        return np.ones(1)
    # The optimum does not depend on the unit; the solver's tolerance does.
    unit = float(np.mean(np.diag(covariance_SS)))
    model = _optimiser(mean_S is not None)
    model.set_params(
        risk_aversion=risk_aversion,
        prior_estimator__mean_S=np.zeros(len(covariance_SS)) if mean_S is None else mean_S / unit,
        prior_estimator__covariance_SS=covariance_SS / unit,
    )
    try:
        with warnings.catch_warnings():
            # Where the optimum lies in a corner the solver may stop at 5e-5 instead of 1e-8.
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            model.fit(np.zeros((2, len(covariance_SS))))  # what it would estimate from is not used
    except OptimizationError as error:
        warnings.warn(f"no optimal weights: {' '.join(str(error).split())}", stacklevel=2)
        return None
    weights_S = np.where(model.weights_ < NEGLIGIBLE, 0.0, model.weights_)
    return weights_S / weights_S.sum()


@cache
def _optimiser(with_mean: bool) -> MeanRisk:
    """skfolio's optimiser, with moments that are handed to it in place of estimated ones."""
    from skfolio.optimization import MeanRisk, ObjectiveFunction
    from skfolio.prior import BasePrior, ReturnDistribution

    class Forecast(BasePrior):
        """Moments as they are stated."""

        def __init__(
            self, mean_S: np.ndarray | None = None, covariance_SS: np.ndarray | None = None
        ) -> None:
            self.mean_S = mean_S
            self.covariance_SS = covariance_SS

        def fit(self, X: np.ndarray, y: None = None, **fit_params: object) -> Forecast:
            self.return_distribution_ = ReturnDistribution(
                mu=self.mean_S, covariance=self.covariance_SS, returns=X
            )
            return self

    goal = ObjectiveFunction.MAXIMIZE_UTILITY if with_mean else ObjectiveFunction.MINIMIZE_RISK
    # Weights of 0 or more that add up to 1 are 1 at most: the solver need not be told.
    return MeanRisk(objective_function=goal, prior_estimator=Forecast(), max_weights=None)
