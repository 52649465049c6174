"""The best of many configurations is followed into the sessions it was not chosen in."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.portfolio.overfitting import BLOCKS, overfitting


def noise(seed: int, dates: int = 320, count: int = 12) -> np.ndarray:
    return 0.01 * np.random.default_rng(seed).standard_t(5, (dates, count))


def plain(returns: np.ndarray, blocks: int, purge: int) -> tuple[list[float], list[float]]:
    """The definition, one split after another: logits, and ratios inside and outside."""
    border = np.linspace(0, len(returns), blocks + 1).astype(int)
    parts = [returns[border[k] + (purge if k else 0) : border[k + 1]] for k in range(blocks)]
    logits, points = [], []
    for chosen in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[k] for k in chosen])
        outside = np.concatenate([parts[k] for k in range(blocks) if k not in chosen])
        best = int(np.argmax(inside.mean(axis=0) / inside.std(axis=0, ddof=1)))
        there = outside.mean(axis=0) / outside.std(axis=0, ddof=1)
        share = stats.rankdata(there)[best] / (returns.shape[1] + 1)
        logits.append(float(np.log(share / (1 - share))))
        points.append(((inside.mean(axis=0) / inside.std(axis=0, ddof=1))[best], there[best]))
    inside, outside = np.array(points).T
    return logits, [inside.mean(), outside.mean(), float((outside < 0).mean())]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), purge=st.integers(0, 5), dates=st.integers(100, 110))
def test_it_is_the_definition(seed: int, purge: int, dates: int) -> None:
    returns = noise(seed, dates)
    found = overfitting(returns, blocks=6, purge=purge)
    logits, rest = plain(returns, 6, purge)
    assert found is not None
    np.testing.assert_allclose(found.logits, logits, atol=1e-12)
    assert [found.inside, found.outside, found.loss] == pytest.approx(rest, abs=1e-9)
    assert found.value == np.mean(np.array(logits) <= 1e-12)


def test_there_are_12870_splits_of_16_blocks() -> None:
    found = overfitting(noise(0))
    assert found is not None and found.logits.shape == (12870,) and BLOCKS == 16
    assert found.configurations == 12


def test_the_best_of_noise_is_below_the_median_every_second_time() -> None:
    found = [overfitting(noise(seed, count=20), blocks=8) for seed in range(300)]
    values = [one.value for one in found if one is not None]
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)  # 4 standard errors
    assert np.mean([one.inside for one in found if one is not None]) > 0.05
    outside = [one.outside for one in found if one is not None]
    assert abs(np.mean(outside)) < 4 * np.std(outside) / np.sqrt(len(outside))


def test_one_that_is_truly_better_stays_best() -> None:
    returns = noise(0, dates=2500, count=20)
    returns[:, 7] += 0.002
    found = overfitting(returns)
    assert found is not None and found.value < 0.001 and found.loss < 0.001
    ratio = returns[:, 7].mean() / returns[:, 7].std()
    assert found.inside == pytest.approx(ratio, rel=0.02)
    assert found.outside == pytest.approx(ratio, rel=0.02)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(1e-3, 1e3))
def test_leverage_and_order_change_nothing(seed: int, scale: float) -> None:
    returns = noise(seed)
    first, second = overfitting(returns, blocks=8), overfitting(returns[:, ::-1] * scale, blocks=8)
    assert first is not None and second is not None
    assert first.value == second.value
    np.testing.assert_allclose(first.logits, second.logits)


def test_what_was_dropped_at_a_border_plays_no_part() -> None:
    returns = noise(1)
    other = returns.copy()
    other[[20, 21, 22, 40, 300]] += 10  # the first three sessions after a border; blocks have 20
    assert overfitting(returns, purge=3) is not None
    a, b = overfitting(returns, purge=3), overfitting(other, purge=3)
    assert a is not None and b is not None
    np.testing.assert_array_equal(a.logits, b.logits)
    kept, changed = overfitting(returns), overfitting(other)
    assert kept is not None and changed is not None and (kept.logits != changed.logits).any()


def test_it_is_not_computed_of_few_configurations_or_sessions() -> None:
    assert overfitting(noise(0, count=9)) is None
    assert overfitting(noise(0, dates=159)) is None
    assert overfitting(noise(0, dates=320), purge=11) is None


def test_one_who_holds_cash_is_neither_best_nor_an_error() -> None:
    returns = noise(2)
    returns[:, 3] = 0.0
    returns[:, 5] += 0.01
    found = overfitting(returns)
    assert found is not None and np.isfinite(found.logits).all() and found.value < 0.01


def test_a_hundred_times_the_same_is_no_skill() -> None:
    found = overfitting(np.repeat(noise(0, count=1), 10, axis=1))
    assert found is not None and (found.logits == 0).mean() > 0.99
    assert found.inside == pytest.approx(found.outside, abs=1e-12)
