"""Paths, and what is read off them, against plain loops, closed forms and arch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from arch.univariate import ConstantMean, SkewStudent
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.forecasts import LEVELS
from forecast.models.baselines import EwmaT, fit_returns
from forecast.models.distributions import SkewedT
from forecast.models.garch import CAP, SPECIFICATIONS, GarchFit, GarchFits
from forecast.models.paths import (
    FACTS,
    PATHS,
    STD,
    WEIGHTS,
    law_facts,
    path_facts,
    path_sums,
    uniforms,
)

TASK = Task(horizons=(1, 5, 20), warmup=30, length=60)
NAMES = tuple(SPECIFICATIONS)


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


def textbook(fit: GarchFit, v: float, z: float) -> float:
    """The next variance, in the units of the fit."""
    omega, alpha, *gamma, beta = fit.volatility
    g = gamma[0] if gamma else 0.0
    if fit.specification.volatility == "EGARCH":
        news = alpha * (abs(z) - np.sqrt(2 / np.pi)) + g * z
        return float(np.exp(omega + news + beta * np.log(v)))
    return float(omega + (alpha + g * (z < 0)) * z**2 * v + beta * v)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("delay", [0, 2])
def test_paths_are_those_of_a_plain_loop(fits: GarchFits, name: str, delay: int) -> None:
    fit, horizons = fits.of(name)[0], (1, 3, 7)
    rng = np.random.default_rng(0)
    z_TP = rng.standard_t(5, size=(delay + 7, 4))
    variance_G = np.array([0.2, 1.0, 5.0])
    cap_G = 3 * variance_G
    sums = path_sums(variance_G, fit.step, z_TP, cap_G=cap_G, delay=delay, horizons=horizons)
    for h, sums_GP in zip(horizons, sums, strict=True):
        for g, start in enumerate(variance_G):
            for path in range(4):
                v, total = start, 0.0
                for t in range(delay + h):
                    total += np.sqrt(v) * z_TP[t, path] * (t >= delay)
                    v = min(textbook(fit, v, z_TP[t, path]), cap_G[g])
                assert sums_GP[g, path] == pytest.approx(total)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(100, 3000))
def test_facts_of_paths_are_those_of_the_sample(seed: int, count: int) -> None:
    sample = np.random.default_rng(seed).standard_t(4, size=(1, count))
    (facts,) = path_facts(sample)
    assert facts[0] == pytest.approx(sample.mean()) and facts[STD] == pytest.approx(sample.std())
    np.testing.assert_allclose(facts[2:23], np.quantile(sample, LEVELS))
    assert WEIGHTS.sum() == pytest.approx(1)
    assert WEIGHTS @ facts[FACTS:] == pytest.approx(sample.mean(), abs=1e-9)
    ordered = np.sort(sample[0])
    for fact, level in zip(facts[23:25], LEVELS[:2], strict=True):
        whole, part = divmod(level * count, 1)
        total = ordered[: int(whole)].sum() + part * ordered[int(whole)]
        assert fact == pytest.approx(total / (level * count))
    assert (np.diff(facts[FACTS:]) >= -1e-9).all()


@pytest.mark.parametrize("df", [2.5, 4.0, 30.0])
def test_facts_of_a_law_are_its_moments_quantiles_and_shortfall(df: float) -> None:
    law = SkewedT(mu=[0.0], sigma=[1.0], df=[df], skew=[-0.2])
    facts = law_facts(lambda levels: SkewStudent().ppf(levels, np.array([df, -0.2])))
    np.testing.assert_allclose(facts[2:23], law.quantiles[0], atol=1e-5)
    shortfall = [law.expected_shortfall(level)[0] for level in LEVELS[:2]]
    np.testing.assert_allclose(facts[23:25], shortfall, rtol=2e-3)
    assert WEIGHTS @ facts[FACTS:] == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_simulated_quantiles_agree_with_archs_bootstrap(
    fits: GarchFits, ewma_t: EwmaT, panel: Panel, name: str
) -> None:
    """Both draw residuals of the same fit, arch at the end of its sample from all of them."""
    fit = fits.of(name)[1]
    returns = fit_returns(panel, until(panel, 1000), 1)
    other = arch_model(name, returns).fix(percent_parameters(fit))
    ahead = other.forecast(
        horizon=20,
        method="bootstrap",
        simulations=20_000,
        random_state=np.random.RandomState(0),
        reindex=False,
    )
    variance = ahead.variance.to_numpy()[:, 0] / fit.unit**2
    facts = fits.table(name, 1).at(variance, slice(0, FACTS))[0]
    for h, horizon in ((1, 5), (2, 20)):
        sums = ahead.simulations.values[0, :, :horizon].sum(axis=1)
        std, mean = sums.std(), fit.mean * fit.unit * horizon
        assert fit.unit * facts[h, STD] == pytest.approx(std, rel=0.03)
        assert fit.unit * facts[h, 0] + mean == pytest.approx(sums.mean(), abs=0.03 * std)
        quantiles = fit.unit * facts[h, 4:21] + mean
        np.testing.assert_allclose(quantiles, np.quantile(sums, LEVELS[2:-2]), atol=0.06 * std)


def test_the_variance_of_simulated_sums_is_the_closed_form(fits: GarchFits) -> None:
    """E[v(t)] of a GARCH reverts to its long-run level; shocks drawn have a known mean square."""
    name = "garch_t"
    fit = fits.of(name)[0]
    omega, alpha, beta = fit.volatility
    square = np.mean(fit.residuals**2)
    variance = np.array([0.3, 1.0, 4.0])
    facts = fits.table(name, 0).at(variance, slice(0, FACTS))
    for h, horizon in ((1, 5), (2, 20)):
        v, total = variance.copy(), np.zeros(3)
        for _ in range(horizon):
            total += square * v
            v = omega + (alpha * square + beta) * v
        np.testing.assert_allclose(facts[:, h, STD], np.sqrt(total), rtol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_between_and_beyond_the_grid_the_table_follows_the_paths(
    fits: GarchFits, panel: Panel, name: str
) -> None:
    fit, table = fits.of(name)[0], fits.table(name, 0)
    middle = np.exp(table.log_variance_G[:-1] + np.diff(table.log_variance_G) / 2)
    levels = uniforms(0, panel.symbols[0], TASK.reach)
    z_TP = fit.residuals[(levels * len(fit.residuals)).astype(int)]
    cap_G = CAP * np.maximum(middle, fit.highest)
    sums = path_sums(middle, fit.step, z_TP, cap_G=cap_G, delay=0, horizons=TASK.horizons)
    for h, sums_GP in enumerate(sums):
        if h or name == "fhs":
            exact, said = path_facts(sums_GP), table.at(middle, slice(None))[:, h]
            # Of their deviation, also where the order of a few extreme paths changes.
            ratio = np.abs(said - exact)[:, :FACTS] / exact[:, [STD]]
            assert ratio.max() < 0.03 and ratio.mean() < 0.003
    ends = np.exp(table.log_variance_G[[0, -1]])
    np.testing.assert_allclose(
        table.at(ends * [1e-3, 1e3], slice(None)),
        table.at(ends, slice(None)) * np.sqrt([1e-3, 1e3])[:, None, None],
    )


@settings(max_examples=40, deadline=None)
@given(log_variance=st.floats(-25, 25), name=st.sampled_from(NAMES))
def test_quantiles_never_cross(fits: GarchFits, log_variance: float, name: str) -> None:
    facts = fits.table(name, 0).at(np.exp([log_variance]), slice(None))
    assert (np.diff(facts[..., 2:23]) >= 0).all()
    assert (facts[..., 23] <= facts[..., 2]).all() and (facts[..., STD] > 0).all()


def test_random_levels_are_shared_by_models_and_belong_to_a_symbol() -> None:
    levels = uniforms(0, "A", 5)
    assert levels.shape == (5, PATHS) and PATHS >= 2000
    for session in levels:
        np.testing.assert_array_equal(np.sort((session * PATHS).astype(int)), np.arange(PATHS))
    uniforms.cache_clear()
    assert uniforms(0, "A", 5).tobytes() == levels.tobytes()
    for other in (uniforms(0, "B", 5), uniforms(1, "A", 5)):
        assert abs(np.corrcoef(levels.ravel(), other.ravel())[0, 1]) < 0.05
