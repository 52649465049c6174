"""Optimised portfolios against closed forms and another optimiser; shrinkage against sklearn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf

from forecast.portfolio.optimisation import best_weights, shrunk_correlation
from forecast.portfolio.strategies import Outlook, mean_variance, minimum_variance


def covariance_of(seed: int, symbols: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(symbols, symbols)) + 0.7
    std = rng.uniform(0.005, 0.05, symbols)
    inner = factor @ factor.T + 0.3 * np.eye(symbols)
    scale = std / np.sqrt(np.diag(inner))
    return inner * np.outer(scale, scale)


def by_slsqp(covariance: np.ndarray, mean: np.ndarray, aversion: float) -> np.ndarray:
    count = len(mean)
    unit = np.diag(covariance).mean()
    result = minimize(
        lambda w: (aversion * w @ covariance @ w - mean @ w) / unit,
        np.full(count, 1 / count),
        jac=lambda w: (2 * aversion * covariance @ w - mean) / unit,
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return result.x


@settings(max_examples=10, deadline=None)
@given(a=st.floats(0.005, 0.05), b=st.floats(0.005, 0.05), rho=st.floats(-0.9, 0.9))
def test_two_symbols_of_least_variance_have_a_closed_form(a: float, b: float, rho: float) -> None:
    found = best_weights(np.array([[a * a, rho * a * b], [rho * a * b, b * b]]))
    wanted = np.clip((b * b - rho * a * b) / (a * a + b * b - 2 * rho * a * b), 0, 1)
    assert found is not None
    np.testing.assert_allclose(found, [wanted, 1 - wanted], atol=5e-5)  # what the solver stops at


@pytest.mark.parametrize("seed", range(6))
def test_optimum_is_that_of_another_optimiser(seed: int) -> None:
    covariance = covariance_of(seed, 7)
    mean = np.random.default_rng(seed).normal(0, 0.002, 7)
    for aversion, stated in ((1.0, None), (2.0, mean), (20.0, mean)):
        found = best_weights(covariance, stated, aversion)
        other = by_slsqp(covariance, np.zeros(7) if stated is None else mean, aversion)
        assert found is not None and found.min() >= 0 and found.sum() == pytest.approx(1)
        np.testing.assert_allclose(found, other, atol=2e-4)


def test_the_unit_of_returns_does_not_matter() -> None:
    covariance, mean = covariance_of(1, 5), np.linspace(-0.002, 0.003, 5)
    one, two = best_weights(covariance, mean, 3.0), best_weights(1e6 * covariance, 1e6 * mean, 3.0)
    assert one is not None and two is not None
    np.testing.assert_allclose(one, two, atol=1e-7)


def test_least_variance_of_equally_correlated_symbols_falls_with_their_volatility() -> None:
    std = np.array([0.01, 0.02, 0.03, 0.04])
    found = best_weights(np.outer(std, std) * (0.2 + 0.8 * np.eye(4)))
    assert found is not None and (np.diff(found) < 0).all()


def test_correlation_is_shrunk_as_sklearn_shrinks_standardised_returns() -> None:
    returns = np.random.default_rng(0).multivariate_normal(np.zeros(4), covariance_of(2, 4), 80)
    standard = (returns - returns.mean(axis=0)) / returns.std(axis=0)
    np.testing.assert_allclose(
        shrunk_correlation(returns), ledoit_wolf(standard, assume_centered=True)[0]
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), sessions=st.integers(0, 30), missing=st.floats(0, 1))
def test_correlations_stay_positive_definite_whatever_is_missing(
    seed: int, sessions: int, missing: float
) -> None:
    rng = np.random.default_rng(seed)
    returns = rng.normal(size=(sessions, 5)) + rng.normal(size=(sessions, 1))
    returns[rng.random(returns.shape) < missing] = np.nan
    found = shrunk_correlation(returns)
    np.testing.assert_array_equal(np.diag(found), 1)
    np.testing.assert_allclose(found, found.T)
    assert np.linalg.eigvalsh(found).min() > -1e-12


def outlook(std: np.ndarray, mean: np.ndarray, previous: np.ndarray) -> Outlook:
    return Outlook(
        origin=np.datetime64("2020-03-04"),
        symbols=tuple("ABCD"),
        horizon=1,
        periods=252.0,
        mean_S=mean,
        std_S=std,
        quantiles_SQ=np.zeros((4, 21)),
        scale_S=std,
        previous_S=previous,
    )


def test_rules_hand_over_forecast_volatilities_and_the_correlation_of_the_window() -> None:
    past = np.random.default_rng(0).multivariate_normal(np.zeros(4), covariance_of(2, 4), 80)
    std, mean = np.array([0.02, np.nan, 0.01, 0.03]), np.array([0.001, 0.0, -0.001, 0.002])
    stated = outlook(std, mean, np.zeros(4))
    known = [0, 2, 3]
    covariance = shrunk_correlation(past[-50:, known]) * np.outer(std[known], std[known])
    for found, wanted in (
        (minimum_variance(stated, past, window=50), best_weights(covariance)),
        (
            mean_variance(stated, past, window=50, risk_aversion=5.0),
            best_weights(covariance, mean[known], 5.0),
        ),
    ):
        np.testing.assert_array_equal(found[known], wanted)
        assert found[1] == 0


def test_where_the_solver_fails_what_is_held_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from skfolio.exceptions import ConvexOptimizationError
    from skfolio.optimization import MeanRisk

    def fail(*_: object) -> None:
        raise ConvexOptimizationError("no\nsolution")

    monkeypatch.setattr(MeanRisk, "fit", fail)
    stated = outlook(np.full(4, 0.02), np.zeros(4), np.array([0.5, 0.0, 0.3, 0.2]))
    with pytest.warns(UserWarning, match="no optimal weights: no solution"):
        found = minimum_variance(stated, np.zeros((10, 4)), window=10)
    assert found is stated.previous_S
