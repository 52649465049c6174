"""Daily HAR: expected volatility from its own past means, quantiles from what was left over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.forecasts import LEVELS
from forecast.models import har as module
from forecast.models.baselines import EwmaT
from forecast.models.block import Block, make_block
from forecast.models.har import FLOOR, HarAbs, fit_log_linear_mean
from forecast.models.pooled import gathered
from forecast.prices.frame import Prices

PricesOf = Callable[..., Prices]
seeds = st.integers(0, 10_000)


def panel_of(prices: Prices) -> Panel:
    return make_panel(prices, FeatureSet(columns=["return"]), market=None, max_gap=3)


def rows_of(panel: Panel, low: int = 25, high: int | None = None) -> Range:
    stop = panel.offsets[1:] if high is None else panel.offsets[:-1] + high
    return Range(low=panel.offsets[:-1] + low, high=np.minimum(stop, panel.offsets[1:]))


def block_of(panel: Panel, task: Task, range: Range) -> Block:
    return make_block(panel, task, range, np.arange(len(panel.symbols)))


def test_coefficients_are_those_of_statsmodels_with_many_zeros_in_the_target() -> None:
    """A gamma regression with a log link has the first-order conditions of the exponential one."""
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    design = np.concatenate([np.ones((1, 4000)), rng.normal(size=(3, 4000))])
    mean = np.exp(np.array([0.2, 0.5, -0.3, 0.0]) @ design)
    target = mean * rng.gamma(1.0, 1.0, 4000) * (rng.random(4000) > 0.2) / 0.8
    family = sm.families.Gamma(sm.families.links.Log())
    expected = sm.GLM(np.maximum(target, 1e-12), design.T, family=family).fit(tol=1e-12)
    found = fit_log_linear_mean(design, target, 0.0)
    np.testing.assert_allclose(found, expected.params, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(seed=seeds, bars=st.booleans())
def test_regressors_are_logs_of_past_means_floored_by_a_share_of_the_long_one(
    random_prices: PricesOf, seed: int, bars: bool
) -> None:
    panel = panel_of(random_prices(seed, symbols=2, bars=bars))
    block = block_of(panel, Task(horizons=(1,)), rows_of(panel))
    got = gathered(block, module._own_regressors)
    for n in range(0, len(block.row), 7):
        first = panel.offsets[block.symbol[n]] + 1  # the first session has no return
        past = np.sqrt(panel.session_variance[first : block.row[n] + 1])
        weights = 0.5 ** (np.arange(len(past))[::-1] / 250)
        long = weights @ past / weights.sum()
        means = [max(past[-k:].mean(), FLOOR * long) for k in (1, 5, 22)]
        scale = float(panel.scale[block.row[n]])
        expected = np.log(np.maximum(np.array([*means, long]) / scale, 0.05))
        np.testing.assert_allclose(got[:, n], expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(seed=seeds, delay=st.integers(0, 2))
def test_the_target_is_the_mean_volatility_over_the_sessions_of_the_return(
    random_prices: PricesOf, seed: int, delay: int
) -> None:
    panel = panel_of(random_prices(seed, symbols=1, halts=2, bars=True))
    task = Task(horizons=(1, 5), delay=delay)
    block = block_of(panel, task, rows_of(panel))
    got = module._mean_volatility(block)
    for n in range(len(block.row)):
        for h, horizon in enumerate(task.horizons):
            start = block.row[n] + delay + 1
            if np.isnan(block.actual[n, h]):
                assert np.isnan(got[n, h])
                continue
            volatility = np.sqrt(panel.session_variance[start : start + horizon])
            expected = volatility.mean() / panel.scale[block.row[n]]
            assert got[n, h] == pytest.approx(expected, rel=1e-6)


def test_quantiles_are_those_of_the_training_residuals_around_their_mean(
    random_prices: PricesOf,
) -> None:
    """On the training rows, returns less their mean in residuals hit every level."""
    task = Task(horizons=(1, 5))
    panel = panel_of(random_prices(0, symbols=2, sessions=900, halts=0, staggered=False))
    fit = rows_of(panel, high=800)
    model = HarAbs(panel, task, fit)
    assert model.fallbacks == ()
    for s in range(len(panel.symbols)):
        block = make_block(panel, task, fit, np.array([s]))
        law = model.distribution(block)
        shape = block.unit.shape
        std, quantiles = law.std.reshape(shape), law.quantiles.reshape(*shape, 21)  # type: ignore[union-attr]
        residual = block.scaled_actual / std
        residual = residual - residual.mean(axis=0)
        np.testing.assert_allclose(residual.std(axis=0), 1, rtol=1e-6)
        np.testing.assert_allclose(law.mean, 0, atol=1e-9)
        # A tenth of the returns are zero, so residuals are tied and a level may fall within a tie.
        ratio, slack = quantiles / std[..., None], 2 / len(block.row)
        below = (residual[..., None] < ratio - 1e-9).mean(axis=0)
        up_to = (residual[..., None] <= ratio + 1e-9).mean(axis=0)
        assert (below - slack <= LEVELS).all() and (up_to + slack >= LEVELS).all()
        for level, q in zip(LEVELS[:2], (0, 1), strict=True):
            shortfall = law.expected_shortfall(level).reshape(shape) / std  # type: ignore[union-attr]
            for h in range(2):
                tail = np.sort(residual[:, h])[: int(level * len(residual))]
                assert shortfall[0, h] == pytest.approx(tail.mean(), rel=0.1)
                assert shortfall[0, h] <= quantiles[0, h, q] / std[0, h]


def test_volatility_that_comes_in_clusters_is_expected_to_stay(prices_of: PricesOf) -> None:
    rng = np.random.default_rng(1)
    calm = np.repeat(rng.permutation(np.tile([0.5, 2.0], 10)), 50)
    returns = calm * rng.normal(size=1000)
    panel = panel_of(prices_of({"A": 50 * np.exp(np.cumsum(returns) / 100)}))
    task = Task(horizons=(1, 5))
    block = block_of(panel, task, rows_of(panel))
    law = HarAbs(panel, task, rows_of(panel, high=900)).distribution(block)
    std = law.std.reshape(block.unit.shape) * block.unit  # type: ignore[union-attr]
    middle = np.arange(1000)[block.row] % 50 > 25  # long after a change
    for h in range(2):
        wild, quiet = (std[middle & (calm[block.row] == c), h].mean() for c in (2.0, 0.5))
        assert 2.5 < wild / quiet < 5


def test_symbols_with_too_short_a_history_or_no_moves_get_the_pooled_t_and_are_named(
    prices_of: PricesOf,
) -> None:
    rng = np.random.default_rng(2)
    close = {name: 50 * np.exp(np.cumsum(rng.normal(0, 0.01, 500))) for name in "ABC"}
    close["B"][:300] = np.nan
    close["C"][:] = 50.0
    panel = panel_of(prices_of(close))
    task = Task(horizons=(1, 5))
    fit = rows_of(panel, high=400)
    model, other = HarAbs(panel, task, fit), EwmaT(panel, task, fit)
    assert model.fallbacks == ("B", "C")
    for s in (1, 2):
        block = make_block(panel, task, rows_of(panel), np.array([s]))
        got, expected = model.distribution(block), other.distribution(block)
        np.testing.assert_allclose(got.quantiles, expected.quantiles, rtol=1e-12)  # type: ignore[arg-type]
        np.testing.assert_allclose(got.std, expected.std, rtol=1e-12)  # type: ignore[arg-type]
        for level in LEVELS[:2]:
            shortfall = expected.expected_shortfall(level)
            np.testing.assert_allclose(got.expected_shortfall(level), shortfall, rtol=1e-12)  # type: ignore[arg-type]
    law = model.distribution(block)
    assert law.nll(block.scaled_actual.ravel()) is None  # no density is stated
