"""GARCH fits and their filter are those of arch, on rows that were known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from arch.univariate import ConstantMean

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.models.baselines import fit_returns
from forecast.models.garch import SPECIFICATIONS, GarchFit, GarchFits, fit_garch
from forecast.prices.simulated import simulated

TASK = Task(horizons=(1, 5, 20), warmup=30, length=60)
NAMES = tuple(SPECIFICATIONS)
FIT_END = 1000


def until(panel: Panel, session: int, first: int = 30) -> Range:
    return Range(low=panel.offsets[:-1] + first, high=panel.offsets[:-1] + session)


def arch_model(name: str, returns: np.ndarray) -> Any:
    """The model as its users write it, on percent returns."""
    made = SPECIFICATIONS[name]
    return ConstantMean(
        returns, volatility=made.process(), distribution=made.distribution(), rescale=False
    )


def percent_parameters(fit: GarchFit) -> np.ndarray:
    """A fit's parameters for returns in percent."""
    volatility = fit.volatility.copy()
    if fit.specification.volatility == "EGARCH":
        volatility[0] += (1 - volatility[-1]) * 2 * np.log(fit.unit)
    else:
        volatility[0] *= fit.unit**2
    return np.concatenate([[fit.mean * fit.unit], volatility, fit.law])


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_is_as_likely_as_archs_own_on_percent_returns(
    fits: GarchFits, panel: Panel, name: str
) -> None:
    for s, fit in fits.of(name).items():
        returns = fit_returns(panel, until(panel, FIT_END), s)
        model = arch_model(name, returns)
        best = model.fit(disp="off").loglikelihood
        assert model.fix(percent_parameters(fit)).loglikelihood == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_the_filter_gives_archs_conditional_volatility(
    fits: GarchFits, panel: Panel, name: str
) -> None:
    fit = fits.of(name)[0]
    returns = fit_returns(panel, until(panel, FIT_END), 0)
    model = arch_model(name, returns)
    other = model.fix(percent_parameters(fit))
    squared = (returns[:75] - returns.mean()) ** 2  # arch's way to begin a history
    weight = 0.94 ** np.arange(75)
    before = (squared * weight).sum() / weight.sum() / fit.unit**2
    own = np.sqrt(replace(fit, before=before).filter(returns))
    np.testing.assert_allclose(own[:-1], other.conditional_volatility, rtol=1e-8)
    ahead = other.forecast(horizon=1, reindex=False).variance.to_numpy()[0, 0]
    assert own[-1] ** 2 == pytest.approx(ahead, rel=1e-8)


def textbook(fit: GarchFit, v: float, z: float) -> float:
    """The next variance, in the units of the fit."""
    omega, alpha, *gamma, beta = fit.volatility
    g = gamma[0] if gamma else 0.0
    if fit.specification.volatility == "EGARCH":
        news = alpha * (abs(z) - np.sqrt(2 / np.pi)) + g * z
        return float(np.exp(omega + news + beta * np.log(v)))
    return float(omega + (alpha + g * (z < 0)) * z**2 * v + beta * v)


@pytest.mark.parametrize("name", NAMES)
def test_the_variance_at_a_row_follows_the_textbook_recursion_up_to_it(
    fits: GarchFits, panel: Panel, name: str
) -> None:
    for s, fit in fits.of(name).items():
        rows = panel.symbol_rows(s)
        said = fits.variance(name)[rows] / fit.unit**2
        shocks = np.diff(panel.log_price[rows]) / fit.unit - fit.mean
        expected = [textbook(fit, v, e / np.sqrt(v)) for v, e in zip(said, shocks, strict=False)]
        np.testing.assert_allclose(said[1:], expected, rtol=1e-9)
        assert 0.1 * fit.before < said[0] < 2 * fit.before


def test_a_return_across_a_long_gap_is_not_seen(panel: Panel) -> None:
    broken = replace(panel, gaps=panel.gaps + (np.arange(panel.rows) >= 700).astype(np.int32))
    jump = np.where(np.arange(panel.rows) >= 700, 50.0, 0.0)  # while nobody traded
    jumped = replace(broken, log_price=broken.log_price + jump)
    one, other = (GarchFits(p, TASK, until(p, FIT_END)) for p in (broken, jumped))
    for name in NAMES:
        variance = one.variance(name)
        np.testing.assert_allclose(other.variance(name), variance, rtol=1e-4)
        assert variance[700] == variance[699]


def test_untrusted_fits_are_refused_without_a_warning() -> None:
    rng = np.random.default_rng(0)
    ticks = np.where(rng.random(1000) < 0.8, 0.0, rng.normal(0, 3, 1000))
    wild = np.append(rng.normal(0, 1, 600), 1e6)
    for returns in (rng.normal(size=249), np.zeros(500), ticks, wild):
        for specification in SPECIFICATIONS.values():
            fit = fit_garch(specification, returns)
            assert fit is None or 0.5 < np.mean(fit.residuals**2) < 2
    assert fit_garch(SPECIFICATIONS["gjr_t"], rng.normal(size=249)) is None
    assert fit_garch(SPECIFICATIONS["gjr_t"], np.zeros(500)) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_does_not_depend_on_the_unit_of_returns(name: str) -> None:
    returns = simulated(process="garch", n_symbols=1, n_sessions=800).frame["close"].to_numpy()
    returns = 100 * np.diff(np.log(returns))
    one, other = (fit_garch(SPECIFICATIONS[name], k * returns) for k in (1.0, 1 / 64))
    assert one is not None and other is not None
    np.testing.assert_allclose(one.volatility, other.volatility)
    assert one.unit == pytest.approx(64 * other.unit)
