"""Value-at-risk tests against plain loops; size of true forecasts, power against wrong ones."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from forecast.evaluation.risk import Risk, likelihood_ratios

TESTS = ("kupiec", "independence", "conditional")


def make_table(
    actual: Any, q05: Any, q01: Any = None, *, horizon: int = 1, delay: int = 0, model: str = "lstm"
) -> pd.DataFrame:
    """Rows of arrays of shape (dates, symbols)."""
    actual = np.asarray(actual, np.float64)
    dates, symbols = actual.shape
    days = pd.bdate_range("2010-01-01", periods=dates).to_numpy().astype("datetime64[s]")
    q01 = q05 if q01 is None else q01
    block = pd.DataFrame(
        {
            "part": "test",
            "model": model,
            "symbol": np.tile([f"S{s:02d}" for s in range(symbols)], dates),
            "origin": np.repeat(days, symbols),
            "horizon": np.int16(horizon),
            "delay": np.int16(delay),
            "actual": actual.ravel(),
            "q01": np.broadcast_to(q01, actual.shape).ravel().astype(np.float32),
            "q05": np.broadcast_to(q05, actual.shape).ravel().astype(np.float32),
        }
    )
    return block.astype(dict.fromkeys(("part", "model", "symbol"), "category"))


def describe(*blocks: pd.DataFrame, level: str = "05") -> dict[str, Any]:
    risk = Risk()
    for block in blocks:
        risk.add(block)
    ((found,),) = (models.values() for models in risk.summary()["test"].values())
    return found[level]


def overlapping(seed: int, dates: int, symbols: int, horizon: int) -> np.ndarray:
    sums = np.cumsum(np.random.default_rng(seed).normal(size=(dates + horizon, symbols)), axis=0)
    return sums[horizon:] - sums[:-horizon]


def log_likelihood(hits: list[int], chances: list[float]) -> float:
    return sum(math.log(p if hit else 1 - p) for hit, p in zip(hits, chances, strict=True))


def by_hand(hits: list[int], level: float) -> dict[str, float]:
    """p values by multiplying the probabilities of every draw."""
    n, later, before = len(hits), hits[1:], hits[:-1]
    pairs = list(zip(before, later, strict=True))
    after = [
        sum(b for a, b in pairs if a == state) / max(before.count(state), 1) for state in (0, 1)
    ]
    own = log_likelihood(hits, [sum(hits) / n] * n)
    kupiec = -2 * (log_likelihood(hits, [level] * n) - own)
    markov = log_likelihood(later, [after[state] for state in before])
    independent = log_likelihood(later, [sum(later) / (n - 1)] * (n - 1))
    stated = log_likelihood(later, [level] * (n - 1))
    return {
        "kupiec": stats.chi2.sf(kupiec, 1),
        "independence": stats.chi2.sf(-2 * (independent - markov), 1),
        "conditional": stats.chi2.sf(-2 * (stated - markov), 2),
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=20, max_size=60))
def test_one_symbol_is_tested_by_the_textbook_likelihoods(hits: list[int]) -> None:
    found = describe(make_table(-np.array(hits)[:, None], -0.5))
    assert found["rate"] == np.mean(hits)
    expected = by_hand(hits, 0.05)
    for name in TESTS:
        assert found["symbols"]["S00"][f"{name}_p"] == pytest.approx(expected[name], abs=1e-9)


def test_kupiec_equals_its_published_regions() -> None:
    """Kupiec (1995): 255 days at 1 % are not rejected at 5 % below seven exceedances."""
    hits = np.arange(12)
    ratio, _, _ = likelihood_ratios(np.full(12, 255), hits, np.zeros((4, 12)), 0.01)
    accepted = hits[ratio < stats.chi2.isf(0.05, 1)]
    assert accepted.tolist() == [1, 2, 3, 4, 5, 6]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=2, max_size=60), st.sampled_from([0.01, 0.05]))
def test_the_conditional_ratio_is_the_sum_of_the_others_after_the_first_draw(
    hits: list[int], level: float
) -> None:
    x = np.array(hits)
    step = np.bincount(2 * x[:-1] + x[1:], minlength=4)[:, None]
    _, independence, conditional = likelihood_ratios(len(x), x.sum(), step, level)
    kupiec, _, _ = likelihood_ratios(len(x) - 1, x[1:].sum(), step, level)
    np.testing.assert_allclose(conditional, kupiec + independence, atol=1e-9)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), horizon=st.integers(1, 4), delay=st.integers(0, 2))
def test_phases_are_joined_by_bonferroni_and_symbols_by_holm(
    seed: int, horizon: int, delay: int
) -> None:
    actual = overlapping(seed, 220, 3, horizon)
    actual[np.random.default_rng(seed).random(actual.shape) < 0.2] = np.nan
    quantile = -1.3 * np.sqrt(horizon)
    found = describe(make_table(actual, quantile, horizon=horizon, delay=delay))
    steps = horizon + delay
    joined: dict[str, list[float]] = {name: [] for name in TESTS}
    for column in actual.T:
        hits = (column[~np.isnan(column)] < quantile).astype(int)
        phases = [by_hand(hits[phase::steps].tolist(), 0.05) for phase in range(steps)]
        for name in TESTS:
            joined[name].append(min(1.0, steps * min(phase[name] for phase in phases)))
    for name in TESTS:
        expected = multipletests(joined[name], method="holm")[1]
        values = [symbol[f"{name}_p"] for symbol in found["symbols"].values()]
        np.testing.assert_allclose(values, expected, atol=1e-9)
        assert found[f"{name}_rejected"] == np.sum(expected <= 0.05)


def test_true_quantiles_are_rejected_about_as_often_as_stated() -> None:
    hits = np.random.default_rng(0).random((2000, 3000)) < 0.05
    step = 2 * hits[:, :-1] + hits[:, 1:]
    counts = np.stack([(step == state).sum(axis=1) for state in range(4)])
    ratios = likelihood_ratios(np.full(2000, 3000), hits.sum(axis=1), counts, 0.05)
    for ratio, degrees in zip(ratios, (1, 1, 2), strict=True):
        assert 0.03 < np.mean(stats.chi2.sf(ratio, degrees) < 0.05) < 0.08


@pytest.mark.parametrize("horizon", [1, 5])
def test_overlapping_targets_of_true_forecasts_are_no_clusters(horizon: int) -> None:
    quantile = stats.norm.ppf(0.05) * np.sqrt(horizon)
    false, blind, tables = 0, 0, 20
    for seed in range(tables):
        block = make_table(overlapping(seed, 1000, 5, horizon), quantile, horizon=horizon)
        found = describe(block)
        false += max(found[f"{name}_rejected"] for name in TESTS) > 0
        blind += describe(block.assign(horizon=np.int16(1)))["independence_rejected"] == 5
    assert false <= 5  # three families at 5 % each
    assert blind == (0 if horizon == 1 else tables)  # had every date been taken for a draw


def test_the_pooled_rate_is_clustered_by_date() -> None:
    rejected, tables = 0, 200
    for seed in range(tables):
        common = np.random.default_rng(seed).normal(size=(300, 1))
        found = describe(make_table(np.repeat(common, 10, axis=1), stats.norm.ppf(0.05)))
        rejected += found["rate_p"] < 0.05
    assert 0.02 < rejected / tables < 0.12  # exceedances are rare, so above 5 %; not 50 %


def test_risk_stated_too_low_is_found() -> None:
    actual = np.random.default_rng(0).normal(size=(1000, 6))
    table = make_table(actual, stats.norm.ppf(0.1), stats.norm.ppf(0.04))
    for level, rate in (("05", 0.1), ("01", 0.04)):
        found = describe(table, level=level)
        assert found["rate"] == pytest.approx(rate, abs=0.01)
        assert found["rate_t"] > 4 and found["rate_p"] < 0.001
        assert found["kupiec_rejected"] == found["conditional_rejected"] == 6
        assert found["independence_rejected"] == 0


def test_clustered_exceedances_are_found_where_their_number_is_right() -> None:
    rng = np.random.default_rng(0)
    calm = np.repeat(rng.random((100, 4)) < 0.9, 25, axis=0)  # 2500 dates in spells of 25
    actual = np.where(rng.random(calm.shape) < np.where(calm, 0.0, 0.5), -1.0, 1.0)
    found = describe(make_table(actual, 0.0))
    assert found["independence_rejected"] == found["conditional_rejected"] == 4
    assert abs(found["rate_t"]) < 2


def test_a_model_without_quantiles_has_no_risk() -> None:
    risk = Risk()
    risk.add(make_table(np.zeros((30, 2)), np.nan))
    risk.add(make_table(np.zeros((30, 2)), -1.0, model="garch_t"))
    found = risk.summary()["test"]
    assert found["lstm"] == {"1": None}
    assert found["garch_t"]["1"]["05"]["rate"] == 0
    assert found["garch_t"]["1"]["05"]["rate_t"] is None


def test_symbols_with_too_few_draws_are_not_tested() -> None:
    actual = np.random.default_rng(0).normal(size=(99, 3))
    actual[:80, 0] = np.nan
    found = describe(make_table(actual, -1.6))["symbols"]
    assert found["S00"]["kupiec_p"] is None and found["S00"]["rate"] is not None
    assert found["S01"]["kupiec_p"] is not None
    five = describe(make_table(actual, -1.6, horizon=5))["symbols"]  # 19 or 20 draws in a phase
    assert five["S01"]["conditional_p"] is not None
    six = describe(make_table(actual, -1.6, horizon=6))
    assert {row["kupiec_p"] for row in six["symbols"].values()} == {None}
    assert six["kupiec_rejected"] == 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(20, 500))
def test_order_and_blocks_do_not_matter(seed: int, size: int) -> None:
    block = make_table(overlapping(0, 150, 4, 2), -2.0, -3.0, horizon=2)
    mixed = block.sample(frac=1, random_state=seed)
    pieces = [mixed.iloc[at : at + size] for at in range(0, len(mixed), size)]
    for level in ("01", "05"):
        assert describe(*pieces, level=level) == describe(block, level=level)


def test_only_known_outcomes_count_and_the_summary_is_plain() -> None:
    block = make_table(overlapping(0, 150, 4, 1), -1.6)
    unknown = block.assign(actual=np.nan, origin=block["origin"] + np.timedelta64(365, "D"))
    found = describe(block, unknown)
    assert found == describe(block)
    assert json.loads(json.dumps(found)) == found
    assert list(found["symbols"]) == ["S00", "S01", "S02", "S03"]
