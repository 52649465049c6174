"""Cells of a forecast: means of what the table states, and of a tail as fat as it tells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from forecast.evaluation.recalibration import between
from forecast.forecasts import LEVELS
from forecast.portfolio.margins import cell_means

Z = stats.norm.ppf(LEVELS)
UNSTATED = np.array([np.nan])
NUMBERS = [100, 250, 307, 500]


def quantiles(law: stats.rv_continuous) -> np.ndarray:
    return np.asarray(law.ppf(LEVELS))[None]


def shortfall(law: stats.rv_continuous, level: float) -> np.ndarray:
    return np.array([integrate.quad(law.ppf, 0, level)[0] / level])


def lowest(values: np.ndarray, level: float) -> float:
    return float(values[: round(level * len(values))].mean())


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("stated", [True, False])
def test_a_normal_keeps_its_cells(number: int, stated: bool) -> None:
    es = shortfall(stats.norm(), 0.01) if stated else UNSTATED
    edge = stats.norm.pdf(stats.norm.ppf(np.arange(number + 1) / number))
    found = cell_means(quantiles(stats.norm()), es, number)
    np.testing.assert_allclose(found[0], -np.diff(edge) * number, atol=1e-6)


@pytest.mark.parametrize("number", NUMBERS)
def test_between_5_and_95_percent_cells_are_means_of_straight_lines(number: int) -> None:
    stated = np.sort(np.random.default_rng(0).normal(size=(1, len(LEVELS))))
    level = (np.arange(number * 200) + 0.5) / (number * 200)
    segment, weight = between(stats.norm.ppf(level))
    fine = stated[0, segment] + weight * (stated[0, segment + 1] - stated[0, segment])
    wanted = fine.reshape(number, 200).mean(axis=1)
    inside = slice(number // 20 + 1, -number // 20 - 1)
    found = cell_means(stated, UNSTATED, number)[0]
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-3)


@pytest.mark.parametrize("df", [3, 4, 5, 8])
@pytest.mark.parametrize("number", [100, 500])
def test_the_stated_shortfall_is_met_and_the_one_at_5_percent_follows(df: int, number: int) -> None:
    law = stats.t(df)
    es = shortfall(law, 0.01)
    found = cell_means(quantiles(law), es, number)[0]
    assert lowest(found, 0.01) == pytest.approx(es[0], rel=1e-9)
    assert lowest(found, 0.05) == pytest.approx(shortfall(law, 0.05)[0], rel=2e-3)


@pytest.mark.parametrize(("df", "error"), [(3, 0.03), (4, 0.02), (5, 0.012), (8, 0.005)])
def test_what_is_not_stated_comes_from_the_spacing_on_both_sides(df: int, error: float) -> None:
    law = stats.t(df)
    es = shortfall(law, 0.01)[0]
    found = cell_means(quantiles(law), UNSTATED, 500)[0]
    assert lowest(found, 0.01) == pytest.approx(es, rel=error)
    np.testing.assert_allclose(found, -found[::-1], rtol=1e-9, atol=1e-9)


def test_the_upper_tail_has_its_own_fatness() -> None:
    stated = quantiles(stats.norm())
    stated[:, 11:] = stats.t(4).ppf(LEVELS[11:]) / stats.t(4).ppf(0.9) * Z[18]
    found = cell_means(stated, shortfall(stats.norm(), 0.01), 500)[0]
    normal = cell_means(quantiles(stats.norm()), UNSTATED, 500)[0]
    np.testing.assert_allclose(found[:250], normal[:250], atol=1e-6)
    assert found[-5:].mean() > 1.2 * normal[-5:].mean()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ties=st.booleans(),
    excess=st.sampled_from([np.nan, 0.0, 0.01, 1.0, 50.0]),
    number=st.integers(100, 600),
)
def test_any_forecast_gives_values_that_rise_and_keep_its_quantiles_and_shortfall(
    seed: int, ties: bool, excess: float, number: int
) -> None:
    drawn = np.random.default_rng(seed).standard_t(3, size=(4, len(LEVELS)))
    stated = np.sort(drawn.round() if ties else drawn, axis=1)
    es = stated[:, 0] - excess
    found = cell_means(stated, es, number)
    assert found.shape == (4, number) and np.isfinite(found).all()
    assert (np.diff(found, axis=1) >= -1e-12).all()
    # Cells that lie between two stated levels lie between the two quantiles.
    for i, (low, high) in enumerate(zip(LEVELS, LEVELS[1:], strict=False)):
        cells = found[:, round(np.ceil(low * number - 1e-9)) : int(high * number + 1e-9)]
        assert (cells >= stated[:, [i]] - 1e-9).all() and (cells <= stated[:, [i + 1]] + 1e-9).all()
    whole = cell_means(stated, es, 500)
    if not np.isnan(excess):
        np.testing.assert_allclose(whole[:, :5].mean(axis=1), es, rtol=1e-9, atol=1e-9)


def test_a_shortfall_above_its_quantile_cannot_be_met_and_leaves_no_tail() -> None:
    found = cell_means(quantiles(stats.norm()), np.array([0.0]), 500)[0]
    np.testing.assert_allclose(found[:5], Z[0])
    still = cell_means(np.zeros((1, len(LEVELS))), UNSTATED, 500)
    np.testing.assert_array_equal(still, 0.0)


def test_symbols_do_not_mix() -> None:
    stated = np.concatenate([quantiles(stats.norm()), quantiles(stats.t(4)) * 2 + 1])
    es = np.array([np.nan, 1 + 2 * shortfall(stats.t(4), 0.01)[0]])
    both = cell_means(stated, es, 300)
    for s in range(2):
        np.testing.assert_array_equal(both[[s]], cell_means(stated[[s]], es[[s]], 300))
