"""The pool's distribution function is the average of its members'."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.forecasts import LEVELS
from forecast.models.baselines import EwmaT
from forecast.models.block import Block, make_block
from forecast.models.filtered import FilteredGarch
from forecast.models.garch import GarchFits
from forecast.models.paths import (
    FACTS,
    law_facts,
)
from forecast.models.pool import MEMBERS, MeanOfGarch, pool_facts, pool_moments

TASK = Task(horizons=(1, 5, 20), warmup=30, length=60)
FIT_END = 1000


def after(panel: Panel, session: int) -> Range:
    return Range(low=panel.offsets[:-1] + session, high=panel.offsets[1:])


def block_of(panel: Panel, rows: Range, task: Task = TASK) -> Block:
    return make_block(panel, task, rows, np.arange(len(panel.symbols)))


def test_the_pools_density_and_probability_are_the_members_averages(
    fits: GarchFits, ewma_t: EwmaT, panel: Panel
) -> None:
    block = block_of(panel, after(panel, FIT_END))
    members = [FilteredGarch(fits, name, ewma_t) for name in MEMBERS]
    y = np.nan_to_num(block.scaled_actual).ravel()
    pool, said = MeanOfGarch(members).distribution(block), [m.distribution(block) for m in members]
    nll, pit = pool.nll(y), pool.pit(y)
    assert nll is not None and pit is not None and pool.crps(y) is None
    first = np.arange(len(y)) % 3 == 0
    assert np.isnan(nll[~first]).all() and np.isnan(pit[~first]).all()
    np.testing.assert_allclose(
        nll[first], -np.log(np.mean([np.exp(-d.nll(y)[first]) for d in said], axis=0))
    )
    np.testing.assert_allclose(pit[first], np.mean([d.pit(y)[first] for d in said], axis=0))
    # The stated quantiles are those of that distribution function.
    for level, quantile in zip(LEVELS, pool.quantiles.T, strict=True):
        reached = pool.pit(quantile)[first]
        np.testing.assert_allclose(reached, level, atol=0.02 * min(level, 1 - level) + 2e-4)


@settings(max_examples=10, deadline=None)
@given(
    mu=st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=4),
    sigma=st.lists(st.floats(0.8, 1.4), min_size=4, max_size=4),
)
def test_the_quantiles_of_a_pool_of_normals_solve_its_distribution_function(
    mu: list[float], sigma: list[float]
) -> None:
    laws = [stats.norm(m, s) for m, s in zip(mu, sigma, strict=False)]
    standard = law_facts(stats.norm.ppf)[FACTS:]
    cells = np.concatenate([m + s * standard for m, s in zip(mu, sigma, strict=False)])
    (facts,) = pool_facts(cells[None])
    mean, std = pool_moments(np.array([mu]), np.array([sigma[: len(mu)]]))[0]
    for level, fact in zip(LEVELS, facts, strict=False):
        exact = optimize.brentq(lambda x, p=level: np.mean([f.cdf(x) for f in laws]) - p, -30, 30)
        outermost = level in (LEVELS[0], LEVELS[-1])
        assert fact == pytest.approx(exact, abs=(0.04 if outermost else 0.025) * std)
        if level in LEVELS[:2]:
            below = [m * f.cdf(exact) - s**2 * f.pdf(exact)
                     for m, s, f in zip(mu, sigma, laws, strict=False)]  # fmt: skip
            shortfall = facts[len(LEVELS) + LEVELS.index(level)]
            assert shortfall == pytest.approx(np.mean(below) / level, abs=0.01 * std)
    assert mean == pytest.approx(np.mean(mu))
    assert std**2 == pytest.approx(
        np.mean([f.var() + f.mean() ** 2 for f in laws]) - np.mean(mu) ** 2
    )
