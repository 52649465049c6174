"""Tests of predictive ability against plain loops, arch, scipy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.evaluation.comparison import (
    FLUCTUATION_05,
    WINDOW,
    autocovariances,
    block_length,
    confidence_set,
    diebold_mariano,
    fluctuation,
    hln,
    resample,
    superiority,
)

DATES, BLOCK, SEED = 400, 20, 3


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    return resample(DATES, BLOCK, repetitions=500, seed=SEED)


def make_losses(*means: float, seed: int = 0, dates: int = DATES) -> np.ndarray:
    """Losses (dates × models) that share most of their variation, as losses on one outcome do."""
    rng = np.random.default_rng(seed)
    common = rng.standard_t(5, (dates, 1))
    return common + np.asarray(means) + 0.5 * rng.normal(size=(dates, len(means)))


def studentised(benchmark: np.ndarray, losses: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Losses relative to the benchmark in units of their resampled standard error."""
    worse = losses - benchmark[:, None]
    error = (draws @ worse / len(worse) - worse.mean(axis=0)).std(axis=0, mean=0)
    return worse / error


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5))
def test_exchanging_two_models_turns_the_sign_and_a_common_loss_changes_nothing(
    seed: int, shift: float
) -> None:
    a, b = make_losses(0, 0.05, seed=seed).T
    one, other, moved = diebold_mariano(a, b), diebold_mariano(b, a), diebold_mariano(a + 1, b + 1)
    assert (one.mean, one.t, one.p) == pytest.approx((-other.mean, -other.t, other.p))
    assert (one.mean, one.t) == pytest.approx((moved.mean, moved.t), rel=1e-9)
    for horizon in (1, 5):
        t, p = hln(a, b, horizon)
        assert (-t, p) == pytest.approx(hln(b, a, horizon), nan_ok=True)
        assert (t, p) == pytest.approx(hln(a + shift, b + shift, horizon), rel=1e-8, nan_ok=True)


def test_hln_one_session_ahead_is_the_paired_t_test() -> None:
    a, b = make_losses(0, 0.05).T
    expected = stats.ttest_rel(a, b)
    assert hln(a, b, 1) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12)


@pytest.mark.parametrize("horizon", [2, 5, 20])
def test_hln_is_its_textbook_equation(horizon: int) -> None:
    a, b = make_losses(0, 0.05, seed=horizon).T
    d = np.convolve(a - b, np.ones(horizon))[:DATES]
    n, mean = len(d), sum(d) / len(d)
    gamma = [
        sum((d[i] - mean) * (d[i - k] - mean) for i in range(k, n)) / n for k in range(horizon)
    ]
    plain = mean / np.sqrt((gamma[0] + 2 * sum(gamma[1:])) / n)
    corrected = plain * np.sqrt((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n)
    t, p = hln(d, np.zeros(n), horizon)
    assert t == pytest.approx(corrected)
    assert p == pytest.approx(2 * stats.t.sf(abs(corrected), n - 1))


@pytest.mark.parametrize(
    ("series", "horizon"),
    [
        (np.tile([1.0, -1.0], 50), 2),  # γ0 + 2 γ1 < 0
        (np.full(100, 0.1), 1),  # no variation but rounding
        (np.arange(8.0), 5),  # fewer dates than lags need
    ],
)
def test_hln_is_undefined_where_its_variance_is_not_positive(
    series: np.ndarray, horizon: int
) -> None:
    assert np.isnan(hln(series, np.zeros(len(series)), horizon)).all()


def test_autocovariances_are_those_of_statsmodels_column_by_column() -> None:
    from statsmodels.tsa.stattools import acovf

    series = make_losses(0, 1, 2).cumsum(axis=0)
    expected = [acovf(column, adjusted=False, fft=False, nlag=6) for column in series.T]
    np.testing.assert_allclose(autocovariances(series, 6), np.transpose(expected), rtol=1e-10)


def test_fluctuation_is_the_standardised_mean_of_every_window() -> None:
    a, b = make_losses(0, 0.05).T
    found = fluctuation(a, b, window=0.25)
    test = diebold_mariano(a, b)
    deviation = test.se * np.sqrt(DATES)
    expected = [
        (a - b)[i : i + 100].sum() / np.sqrt(100) / deviation for i in range(DATES - 100 + 1)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert fluctuation(a, b, window=1.0) == pytest.approx([test.t])  # one window: Diebold–Mariano


def test_fluctuation_finds_an_advantage_that_changes_sides() -> None:
    a, b = make_losses(0, 0, dates=2000).T
    a = a + np.where(np.arange(2000) < 1000, -0.3, 0.3)
    assert abs(diebold_mariano(a, b).t) < 2
    statistic = fluctuation(a, b)
    assert statistic[0] < -FLUCTUATION_05[WINDOW] and statistic[-1] > FLUCTUATION_05[WINDOW]


def test_fluctuation_rejects_equal_models_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 1000))
    largest = [np.abs(fluctuation(series, np.zeros(1000))).max() for series in noise]
    assert 0.02 < np.mean(np.array(largest) > FLUCTUATION_05[WINDOW]) < 0.10


def test_fluctuation_of_a_constant_difference_is_undefined() -> None:
    a = make_losses(0)[:, 0]
    assert np.isnan(fluctuation(a, a)).all()
    assert np.isnan(fluctuation(a, a + 0.1)).all()


def test_every_repetition_draws_as_many_dates_as_there_are_and_all_dates_alike(
    draws: np.ndarray,
) -> None:
    assert (draws.sum(axis=1) == DATES).all()
    assert draws.mean(axis=0) == pytest.approx(np.ones(DATES), abs=6 / np.sqrt(len(draws)))
    assert (draws == resample(DATES, BLOCK, repetitions=500, seed=SEED)).all()


@given(dates=st.integers(1, 20_000), horizon=st.integers(1, 250))
def test_blocks_are_long_against_forecast_and_sample(dates: int, horizon: int) -> None:
    assert block_length(dates, horizon) >= max(np.sqrt(dates), 3 * horizon)


@pytest.mark.parametrize("means", [(0, 0, 0), (-0.05, 0, 0.05), (-0.01, 0.5, 1.0)])
def test_spa_is_that_of_arch_on_studentised_losses(
    means: tuple[float, ...], draws: np.ndarray
) -> None:
    from arch.bootstrap import SPA

    benchmark, losses = np.split(make_losses(0, *means, seed=1), [1], axis=1)
    found = superiority(benchmark[:, 0], losses, draws)
    oracle = SPA(
        np.zeros(DATES),
        studentised(benchmark[:, 0], losses, draws),
        block_size=BLOCK,
        reps=len(draws),
        seed=SEED,
    )
    oracle.compute()
    expected = oracle.pvalues.to_dict()
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)


def test_stepm_is_that_of_arch_on_studentised_losses(draws: np.ndarray) -> None:
    from arch.bootstrap import StepM

    benchmark, losses = np.split(make_losses(0, -0.6, -0.13, -0.09, 0, 0.3), [1], axis=1)
    found = superiority(benchmark[:, 0], losses, draws)
    oracle = StepM(
        np.zeros(DATES),
        studentised(benchmark[:, 0], losses, draws),
        block_size=BLOCK,
        reps=len(draws),
        seed=SEED,
    )
    oracle.compute()
    assert np.flatnonzero(found.superior).tolist() == oracle.superior_models
    assert 0 < found.superior.sum() < 5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0, 0.2), level=st.sampled_from([0.05, 0.2]))
def test_some_model_is_superior_where_the_consistent_spa_rejects(
    seed: int, gain: float, level: float
) -> None:
    resampled = resample(DATES, BLOCK, repetitions=99, seed=seed)
    losses = make_losses(0, -gain, 0, 0.3, seed=seed)
    found = superiority(losses[:, 0], losses[:, 1:], resampled, level=level)
    assert found.lower <= found.consistent <= found.upper
    if abs(found.consistent - level) > 0.02:  # away from the interpolation between repetitions
        assert found.superior.any() == (found.consistent < level)


def test_where_the_benchmark_is_best_nothing_speaks_against_it(draws: np.ndarray) -> None:
    losses = make_losses(0, 0.1, 1.0)
    found = superiority(losses[:, 0], losses[:, 1:], draws)
    assert found.lower == found.consistent == found.upper == 1
    assert not found.superior.any()


def test_all_models_may_be_superior(draws: np.ndarray) -> None:
    losses = make_losses(0, -1, -0.8, -0.15)
    assert superiority(losses[:, 0], losses[:, 1:], draws).superior.all()


def test_an_erratic_model_does_not_hide_a_better_one(draws: np.ndarray) -> None:
    losses = make_losses(0, -0.2, 0)
    before = superiority(losses[:, 0], losses[:, 1:], draws)
    losses[:, 2] = losses[:, 0] + 100 * (losses[:, 2] - losses[:, 0])
    after = superiority(losses[:, 0], losses[:, 1:], draws)
    assert after.superior.tolist() == before.superior.tolist() and after.superior[0]
    assert after.consistent == before.consistent < 0.01


def test_among_equal_models_one_is_rarely_found_superior(draws: np.ndarray) -> None:
    found = [make_losses(0, 0, 0, 0, 0, seed=seed) for seed in range(150)]
    p = np.array([superiority(x[:, 0], x[:, 1:], draws).consistent for x in found])
    assert np.mean(p < 0.05) < 0.12
    assert np.mean(p < 0.5) > 0.3  # and the test is not merely timid


@pytest.mark.parametrize("means", [(0, 0, 0, 0), (0, 0.05, 0.1, 0.5), (1, 0, 0.04, 0.02)])
def test_the_confidence_set_is_that_of_arch(means: tuple[float, ...], draws: np.ndarray) -> None:
    from arch.bootstrap import MCS

    losses = make_losses(*means)
    oracle = MCS(losses, 0.1, block_size=BLOCK, reps=len(draws), seed=SEED)
    oracle.compute()
    expected = oracle.pvalues["Pvalue"].sort_index().to_numpy()
    assert confidence_set(losses, draws) == pytest.approx(expected)


def test_the_confidence_set_keeps_the_best_and_drops_the_worst(draws: np.ndarray) -> None:
    losses = make_losses(0, 0, 1.0)
    losses[:, 1] += losses[:, 0].mean() - losses[:, 1].mean() + 0.01
    p = confidence_set(losses, draws)
    assert p[0] == 1 and p[1] > 0.1 and p[2] < 0.01


def test_the_confidence_set_does_not_depend_on_the_order_of_the_models(draws: np.ndarray) -> None:
    losses, order = make_losses(0, 0.05, 0.1, 0.02), [2, 0, 3, 1]
    assert confidence_set(losses[:, order], draws) == pytest.approx(
        confidence_set(losses, draws)[order]
    )


def test_models_that_do_not_differ_are_equally_good(draws: np.ndarray) -> None:
    same = np.repeat(make_losses(0), 3, axis=1)
    assert (confidence_set(same, draws) == 1).all()
    found = superiority(same[:, 0], same[:, 1:], draws)
    assert not found.superior.any() and np.isfinite(found.consistent)
