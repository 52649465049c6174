"""Inference on the mean of dependent dates against plain sums, statsmodels and known sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import signal, stats
from statsmodels.stats.multitest import multipletests

from forecast.evaluation.inference import FEWEST, cosines, holm, long_run_variance, mean_test

SERIES = hnp.arrays(
    np.float64, st.integers(FEWEST, 80), elements=st.floats(-10, 10).map(lambda x: round(x, 3))
)


def by_cosines(series: np.ndarray) -> float:
    """Lazarus et al. (2018): the mean square of the first B weights of type-II cosines."""
    dates = len(series)
    weights = [
        np.sqrt(2 / dates)
        * sum(x * np.cos(np.pi * j * (t - 0.5) / dates) for t, x in enumerate(series, start=1))
        for j in range(1, int(0.4 * dates ** (2 / 3)) + 1)
    ]
    return float(np.mean(np.square(weights)))


def autoregression(rho: float, count: int, dates: int, seed: int = 0) -> np.ndarray:
    """Stationary AR(1) series of mean zero, shape (count, dates)."""
    noise = np.random.default_rng(seed).normal(size=(count, dates))
    noise[:, 0] /= np.sqrt(1 - rho**2)
    return signal.lfilter([1], [1, -rho], noise, axis=1)


def overlapping(horizon: int, count: int, dates: int, seed: int = 0) -> np.ndarray:
    """MA(h - 1) series, as errors over h sessions are, shape (count, dates)."""
    noise = np.random.default_rng(seed).normal(size=(count, dates + horizon))
    sums = np.cumsum(noise, axis=1)
    return sums[:, horizon:] - sums[:, :-horizon]


@settings(max_examples=30, deadline=None)
@given(SERIES)
def test_the_variance_is_the_mean_square_of_the_first_cosine_weights(series: np.ndarray) -> None:
    assert long_run_variance(series) == pytest.approx(by_cosines(series), rel=1e-9, abs=1e-12)


def test_the_number_of_cosines_grows_as_two_thirds_of_the_dates() -> None:
    assert [cosines(dates) for dates in (1, 20, 100, 3300)] == [1, 2, 8, 88]


def test_columns_are_alone() -> None:
    series = np.random.default_rng(0).normal(size=(50, 3))
    expected = [long_run_variance(column) for column in series.T]
    np.testing.assert_allclose(long_run_variance(series), expected)


def test_the_variance_allows_for_dependence_and_does_not_see_the_mean() -> None:
    series = autoregression(0.5, 400, 2000)
    found = long_run_variance(series.T)
    assert found.mean() == pytest.approx(1 / (1 - 0.5) ** 2, rel=0.05)
    np.testing.assert_allclose(long_run_variance(series.T + 7), found, rtol=1e-6)


@pytest.mark.parametrize(
    "null",
    [
        autoregression(0.0, 2000, 500),
        autoregression(0.5, 2000, 1000),
        autoregression(-0.3, 2000, 500),
        overlapping(5, 2000, 1000),
        overlapping(20, 1000, 3300),
    ],
    ids=["independent", "AR 0.5", "AR -0.3", "MA 5", "MA 20"],
)
def test_a_true_null_is_rejected_about_as_often_as_stated(null: np.ndarray) -> None:
    p = np.array([mean_test(series).p for series in null])
    assert 0.03 < np.mean(p < 0.05) < 0.08
    naive = np.abs(stats.ttest_1samp(null, 0, axis=1).statistic)
    if abs(np.corrcoef(null[0, 1:], null[0, :-1])[0, 1]) > 0.4:
        assert np.mean(naive > 1.96) > 0.2  # what taking dates for independent would do


@settings(max_examples=30, deadline=None)
@given(SERIES, st.floats(0.01, 100))
def test_t_has_the_sign_of_the_mean_and_no_unit(series: np.ndarray, factor: float) -> None:
    one, other = mean_test(series), mean_test(-factor * series)
    if np.isnan(one.t):  # constant
        assert np.ptp(series) < 1e-9
        return
    assert other.t == pytest.approx(-one.t, rel=1e-6, abs=1e-9)
    assert other.p == pytest.approx(one.p, rel=1e-6)
    assert one.t == pytest.approx(one.mean / one.se)
    assert one.p == pytest.approx(2 * stats.t.sf(abs(one.t), cosines(len(series))))


def test_the_interval_leaves_out_zero_where_the_test_rejects() -> None:
    for series in autoregression(0.3, 200, 100, seed=1) + 0.3:
        test = mean_test(series)
        low, high = test.interval(0.95)
        assert (low > 0 or high < 0) == (test.p < 0.05)
        assert (low + high) / 2 == pytest.approx(test.mean)


def test_dates_without_a_value_are_left_out() -> None:
    series = np.random.default_rng(0).normal(size=60)
    holes = np.insert(series, [0, 10, 10, 60], np.nan)
    assert mean_test(holes) == mean_test(series)


@pytest.mark.parametrize(
    "series",
    [np.zeros(100), np.full(100, 0.1), np.full(100, np.nan), np.zeros(0)],
    ids=["zero", "constant", "unknown", "empty"],
)
def test_what_does_not_vary_is_not_tested(series: np.ndarray) -> None:
    test = mean_test(series)
    assert np.isnan(test.t) and np.isnan(test.p)


def test_too_few_dates_give_a_mean_and_no_test() -> None:
    series = np.random.default_rng(0).normal(size=FEWEST)
    assert np.isfinite(mean_test(series).p)
    short = mean_test(series[1:])
    assert short.mean == pytest.approx(series[1:].mean())
    assert np.isnan([short.se, short.t, short.p, *short.interval()]).all()
    assert short.dates == FEWEST - 1


@settings(max_examples=12, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1)))
def test_holm_equals_statsmodels(p: np.ndarray) -> None:
    expected = multipletests(p, method="holm")[1]
    np.testing.assert_allclose(holm(p), expected, rtol=1e-12)


def test_holm_counts_only_what_was_tested_and_keeps_the_shape() -> None:
    p = np.array([[np.nan, 0.01, 0.04], [0.03, np.nan, 0.5]])
    found = holm(p)
    known = ~np.isnan(p)
    np.testing.assert_allclose(found[known], multipletests(p[known], method="holm")[1])
    assert found.shape == p.shape and np.isnan(found[~known]).all()
    assert holm(np.zeros(0)).size == 0
