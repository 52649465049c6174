"""Naive baselines know what their fitting rows told, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.config import ForecastError
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range, make_fold, ranges
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.forecasts import LEVELS, validate
from forecast.models import baselines as module
from forecast.models.baselines import (
    BASELINES,
    NAIVE,
    Drift,
    EwmaNormal,
    EwmaT,
    Historical,
    fit_range,
    fit_returns,
    fit_t,
    make_baselines,
    pooled,
)
from forecast.models.block import Block, blocks
from forecast.prices.frame import Prices
from forecast.prices.simulated import PROCESSES, simulated

RandomPanel = Callable[..., Panel]
seeds = st.integers(0, 10_000)
TASK = Task(horizons=(1, 5), warmup=5, length=30)
RETURNS = FeatureSet(columns=["return"])
SIMPLE = ("historical", "drift", "ewma_normal", "ewma_t")  # those of this file


def split(panel: Panel, task: Task = TASK) -> dict[str, Range]:
    fold = make_fold(panel.dates, validation=20, test=0.25)
    return ranges(panel, fold, reach=task.reach, warmup=task.warmup)


def only_block(panel: Panel, part: Range, task: Task = TASK) -> Block:
    (block,) = blocks(panel, task, part)
    return block


def known_targets(panel: Panel, fit: Range, s: int, horizon: int) -> np.ndarray:
    """Percent returns of the fitting rows that have a scale, row by row."""
    result = []
    for row in range(fit.low[s], fit.high[s]):
        end = row + horizon
        if not np.isnan(panel.scale[row]) and panel.gaps[end] == panel.gaps[row]:
            result.append(panel.log_price[end] - panel.log_price[row])
    return np.array(result)


@pytest.mark.parametrize("part", ["validation", "test"])
@settings(max_examples=15, deadline=None)
@given(seed=seeds, shortest=st.sampled_from([20, 60, 1000]))
def test_historical_states_the_quantiles_of_the_fitting_rows(
    random_panel: RandomPanel, part: str, seed: int, shortest: int
) -> None:
    """Train for the validation part, train and validation for the test part."""
    panel = random_panel(seed, symbols=3, sessions=150)
    rows = split(panel)
    fit = Range(low=rows["train"].low, high=rows["train"].high)
    if part == "test":
        fit = Range(low=fit.low, high=np.maximum(fit.high, rows["validation"].high))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_HISTORY", shortest)
        block = only_block(panel, rows[part])
        stated = make_baselines(panel, TASK, rows, part)["historical"].distribution(block)
    assert stated.quantiles is not None and stated.std is not None
    of = {
        (s, horizon): known_targets(panel, fit, s, horizon)
        for s in range(3)
        for horizon in TASK.horizons
    }
    unit = block.unit.ravel()
    for n, s in enumerate(np.repeat(block.symbol, 2)):
        horizon = TASK.horizons[n % 2]
        enough = min(len(of[s, h]) for h in TASK.horizons) >= shortest
        sample = of[s, horizon] if enough else np.concatenate([of[k, horizon] for k in range(3)])
        expected = np.quantile(sample, LEVELS)
        np.testing.assert_allclose(stated.quantiles[n] * unit[n], expected, rtol=1e-9, atol=1e-9)
        assert stated.mean[n] * unit[n] == pytest.approx(sample.mean(), abs=1e-9)
        assert stated.std[n] * unit[n] == pytest.approx(sample.std())
        for level, quantile in zip(LEVELS[:2], expected[:2], strict=True):
            shortfall = stated.expected_shortfall(level)
            assert shortfall is not None
            assert shortfall[n] * unit[n] == pytest.approx(sample[sample <= quantile].mean())


def test_fitting_rows_end_before_the_part_begins(random_panel: RandomPanel) -> None:
    panel = random_panel(0, sessions=150)
    rows = split(panel)
    assert fit_range(rows, "validation") is rows["train"]
    both = fit_range(rows, "test")
    fold = make_fold(panel.dates, validation=20, test=0.25)
    for s in range(len(panel.symbols)):
        if both.high[s] > both.low[s]:
            last_target = panel.dates[panel.day[both.high[s] - 1 + TASK.reach]]
            assert last_target < fold.test
            assert both.high[s] + TASK.reach <= panel.offsets[s + 1]


@pytest.mark.parametrize("part", ["validation", "test"])
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_no_baselines_fit_depends_on_prices_of_the_part_it_is_scored_on(
    random_prices: Callable[..., Prices], part: str, seed: int
) -> None:
    prices = random_prices(seed, symbols=5, sessions=150)
    first = make_panel(prices, RETURNS, market=None)
    fold = make_fold(first.dates, validation=20, test=0.25)
    start = {"validation": fold.validation, "test": fold.test}[part]
    late = (prices.frame["date"] >= start).to_numpy()
    factor = np.where(late, np.exp(np.random.default_rng(seed).normal(0, 0.2, len(late))), 1)
    changed = replace(prices, frame=prices.frame.assign(close=prices.frame["close"] * factor))
    second = make_panel(changed, RETURNS, market=None)
    block = only_block(first, ranges(first, fold, reach=TASK.reach, warmup=TASK.warmup)["train"])
    said = []
    for panel in (first, second):
        rows = ranges(panel, fold, reach=TASK.reach, warmup=TASK.warmup)
        fitted = make_baselines(panel, TASK, rows, part, names=SIMPLE)
        # Of one and the same block, so that only the fits can differ.
        said.append({name: b.distribution(block) for name, b in fitted.items()})
    for name in SIMPLE:
        one, other = said[0][name], said[1][name]
        for attribute in ("mean", "std", "quantiles"):
            left, right = getattr(one, attribute), getattr(other, attribute)
            assert left.tobytes() == right.tobytes(), (name, attribute)


def t_loss(y: np.ndarray, sigma: float, df: float) -> float:
    return float(-np.mean(stats.t.logpdf(y, df, scale=sigma)))


@pytest.mark.parametrize("df", [3.0, 6.0, 100.0])
def test_the_t_is_fit_as_likely_as_scipys(df: float) -> None:
    y = 1.3 * stats.t.rvs(df, size=3000, random_state=np.random.default_rng(0))
    sigma, fitted = fit_t(y)
    other, _, scale = stats.t.fit(y, floc=0)
    assert t_loss(y, sigma, fitted) <= t_loss(y, scale, other) + 1e-5
    assert sigma == pytest.approx(1.3, rel=0.1)


def test_the_t_keeps_its_variance_where_the_sample_has_none() -> None:
    """Two degrees of freedom or fewer would leave the forecast without a deviation."""
    sigma, df = fit_t(stats.cauchy.rvs(size=2000, random_state=np.random.default_rng(0)))
    assert df > 2.05 and 0.5 < sigma < 2


def test_ewma_t_is_fit_by_horizon_on_scaled_targets_of_the_fitting_rows(
    random_panel: RandomPanel,
) -> None:
    panel = random_panel(3, sessions=300, staggered=False)
    rows = split(panel)
    block = only_block(panel, rows["test"])
    said = EwmaT(panel, TASK, rows["train"]).distribution(block)
    fitting = only_block(panel, rows["train"])
    assert said.quantiles is not None
    for h, horizon in enumerate(TASK.horizons):
        y = [
            known_targets(panel, Range(low=np.array([r]), high=np.array([r + 1])), 0, horizon)
            / (panel.scale[r] * np.sqrt(horizon))
            for r in fitting.row
        ]
        sigma, df = fit_t(np.concatenate(y))
        level = said.quantiles.reshape(-1, 2, len(LEVELS))[:, h]
        expected = sigma * stats.t.ppf(LEVELS, df)
        np.testing.assert_allclose(level, np.tile(expected, (len(block.row), 1)), atol=1e-3)
        np.testing.assert_array_equal(said.mean, 0)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, shortest=st.sampled_from([20, 60, 1000]))
def test_drift_is_ewma_t_around_the_mean_return_of_the_fitting_years(
    random_panel: RandomPanel, seed: int, shortest: int
) -> None:
    panel = random_panel(seed, symbols=3, sessions=150)
    rows = split(panel)
    block = only_block(panel, rows["test"])
    ewma_t = EwmaT(panel, TASK, rows["train"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_HISTORY", shortest)
        said = Drift(panel, TASK, rows["train"], ewma_t).distribution(block)
    plain = ewma_t.distribution(block)
    returns = [fit_returns(panel, rows["train"], s) for s in range(3)]
    assert said.quantiles is not None and plain.quantiles is not None
    unit = block.unit.ravel()
    for n, s in enumerate(np.repeat(block.symbol, 2)):
        sample = returns[s] if len(returns[s]) >= shortest else np.concatenate(returns)
        mean = sample.mean() * TASK.horizons[n % 2] / unit[n]
        assert said.mean[n] == pytest.approx(mean)
        np.testing.assert_allclose(said.quantiles[n], plain.quantiles[n] + mean, atol=1e-12)
    np.testing.assert_array_equal(said.std, plain.std)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_returns_of_a_fit_follow_its_rows_and_span_no_gap(
    random_panel: RandomPanel, seed: int
) -> None:
    panel = random_panel(seed, symbols=3, sessions=60)
    rng = np.random.default_rng(seed)
    panel = replace(panel, gaps=np.cumsum(rng.random(panel.rows) < 0.1).astype(np.int32))
    everything = Range(low=panel.offsets[:-1] + 2, high=panel.offsets[1:])
    for s in range(len(panel.symbols)):
        expected = [
            panel.log_price[row + 1] - panel.log_price[row]
            for row in range(everything.low[s], everything.high[s])
            if row + 1 < panel.offsets[s + 1] and panel.gaps[row + 1] == panel.gaps[row]
        ]
        np.testing.assert_array_equal(fit_returns(panel, everything, s), expected)


def test_baselines_are_made_by_name_in_one_order(random_panel: RandomPanel) -> None:
    panel = random_panel(1, sessions=150)
    rows = split(panel)
    assert list(make_baselines(panel, TASK, rows, "test")) == list(NAIVE)
    asked = ["ewma_t", "drift", "historical", "drift"]
    made = make_baselines(panel, TASK, rows, "test", names=asked)
    assert list(made) == ["historical", "drift", "ewma_t"]
    assert make_baselines(panel, TASK, rows, "test", names=[]) == {}


def test_all_baselines_can_be_made_though_no_symbol_has_history_enough(
    random_panel: RandomPanel,
) -> None:
    panel = random_panel(1, symbols=6, sessions=150)
    rows = split(panel)
    made = make_baselines(panel, TASK, rows, "test", names=BASELINES)
    assert list(made) == list(BASELINES)
    block = only_block(panel, rows["test"])
    for name, baseline in made.items():
        said = baseline.distribution(block)
        assert said.quantiles is not None and np.isfinite(said.quantiles).all(), name
        for level in LEVELS[:2]:
            shortfall = said.expected_shortfall(level)
            assert shortfall is not None and np.isfinite(shortfall).all(), name


def test_an_unknown_baseline_is_refused_by_name(random_panel: RandomPanel) -> None:
    panel = random_panel(1, sessions=150)
    with pytest.raises(ForecastError, match=r"^backtest.baselines: 'garch' is no baseline.*fhs"):
        make_baselines(panel, TASK, split(panel), "test", names=["garch"])


def test_ewma_normal_is_a_normal_with_the_trailing_scale(random_panel: RandomPanel) -> None:
    panel = random_panel(3, sessions=150)
    rows = split(panel)
    block = only_block(panel, rows["test"])
    said = EwmaNormal(panel, TASK, rows["train"]).distribution(block)
    frame = block.table(said, model="ewma_normal", part="test", fold=0).to_pandas()
    spread = frame["scale"] * np.sqrt(frame["horizon"])
    assert (frame["mean"] == 0).all()
    np.testing.assert_allclose(frame["std"], spread, rtol=1e-6)
    np.testing.assert_allclose(frame["q05"], spread * stats.norm.ppf(0.05), rtol=1e-6)
    known = frame["actual"].notna()
    law = stats.norm(0, spread[known])
    np.testing.assert_allclose(frame["nll"][known], -law.logpdf(frame["actual"][known]), atol=1e-5)


def test_all_models_of_a_part_state_the_same_rows_and_a_valid_table(
    random_panel: RandomPanel,
) -> None:
    panel = random_panel(5, sessions=150)
    rows = split(panel)
    for part in ("validation", "test"):
        block = only_block(panel, rows[part])
        keys = []
        for name, baseline in make_baselines(panel, TASK, rows, part, names=SIMPLE).items():
            table = block.table(baseline.distribution(block), model=name, part=part, fold=0)
            keys.append(validate(table, name).select(["symbol", "origin", "horizon", "actual"]))
        assert all(key.equals(keys[0]) for key in keys)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, most=st.integers(3, 400))
def test_pooled_targets_are_thinned_evenly_to_what_a_fit_needs(
    random_panel: RandomPanel, seed: int, most: int
) -> None:
    panel = random_panel(seed)
    everything = Range(low=panel.offsets[:-1], high=panel.offsets[1:])
    whole = pooled(panel, TASK, everything, scaled=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_VALUES", most)
        thinned = pooled(panel, TASK, everything, scaled=False)
    assert len(thinned) <= most
    step = -(-everything.rows // most)
    np.testing.assert_array_equal(thinned, whole[::step])


# Simulated data


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("delay", [0, 1])
def test_truth_states_the_simulators_own_distribution(process: str, delay: int) -> None:
    options: dict[str, Any] = {"information_coefficient": 0.5} if process == "planted" else {}
    prices = simulated(
        process=process, n_symbols=5, n_sessions=150, staggered=True, truth_paths=500, **options
    )
    task = replace(TASK, delay=delay)
    if process == "recall":
        if delay:
            assert prices.truth is not None and not prices.truth.states([1], delay)
            return
        task = replace(task, horizons=(1,))
    panel = make_panel(prices, RETURNS, market=None)
    rows = split(panel, task)
    truth = prices.truth
    assert truth is not None
    block = only_block(panel, rows["validation"], task)
    said = make_baselines(panel, task, rows, "validation", truth=truth)["truth"].distribution(block)
    table = block.table(said, model="truth", part="validation", fold=0)
    frame = validate(table, "truth").to_pandas()
    assert frame["actual"].notna().all() and frame["symbol"].nunique() > 2
    for (symbol, horizon), mine in frame.groupby(["symbol", "horizon"], observed=True):
        own = truth.distribution(symbol, mine["origin"].to_numpy("M8[D]"), horizon, delay)
        np.testing.assert_allclose(mine["mean"], own.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mine["std"], own.std, rtol=1e-5)
        for name, level in (("q01", 0), ("q50", 10), ("q99", 20)):
            np.testing.assert_allclose(mine[name], own.quantiles[:, level], rtol=1e-5, atol=1e-5)
        for name, score in (("nll", own.nll), ("pit", own.pit)):
            if score is None:
                assert mine[name].isna().all()
            else:
                np.testing.assert_allclose(mine[name], score(mine["actual"].to_numpy()), atol=1e-5)


def test_a_truth_that_cannot_state_all_horizons_is_not_scored() -> None:
    prices = simulated(process="recall", n_symbols=3, n_sessions=150)
    panel = make_panel(prices, RETURNS, market=None)
    rows = split(panel, TASK)
    assert max(TASK.horizons) > 1
    assert "truth" not in make_baselines(panel, TASK, rows, "validation", truth=prices.truth)


def test_historical_quantiles_of_simulated_returns_are_those_of_the_process() -> None:
    prices = simulated(n_symbols=2, n_sessions=3000, volatility=2.0)
    panel = make_panel(prices, RETURNS, market=None)
    rows = split(panel)
    block = only_block(panel, rows["test"])
    said = Historical(panel, TASK, rows["train"]).distribution(block)
    quantiles = (said.quantiles * block.unit.reshape(-1, 1)).reshape(-1, 2, len(LEVELS))[:, 0]
    np.testing.assert_allclose(
        quantiles[:, 2:-2].mean(0), 2 * stats.norm.ppf(LEVELS[2:-2]), atol=0.15
    )
