"""The standard t against scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forecast.forecasts import LEVELS
from forecast.models import standard_t

dfs = st.lists(st.floats(2.01, 1e8), min_size=1, max_size=5).map(np.array)


@given(df=dfs, level=st.floats(0.005, 0.995))
def test_quantiles_are_scipys_from_the_lowest_level_that_skew_can_reach(
    df: np.ndarray, level: float
) -> None:
    got = standard_t.quantile(np.full_like(df, level), standard_t.ratio(df))
    np.testing.assert_allclose(got, stats.t.ppf(level, df), rtol=1e-8, atol=1e-9)


@given(df=dfs)
def test_quantiles_below_the_median_are_those_of_the_stored_levels(df: np.ndarray) -> None:
    got = standard_t.below_median(df)
    expected = [stats.t.ppf(level, df) for level in LEVELS if level < 0.5]
    np.testing.assert_allclose(got, expected, rtol=1e-8)


@given(df=dfs, t=st.floats(-50, 50))
def test_the_density_is_scipys(df: np.ndarray, t: float) -> None:
    peak = standard_t.log_peak(df, standard_t.log_beta(df))
    got = standard_t.log_density(np.full_like(df, t), df, peak)
    # scipy's own loses digits in the normalising constant of many degrees of freedom.
    np.testing.assert_allclose(got, stats.t.logpdf(t, df), rtol=1e-6, atol=1e-6)
