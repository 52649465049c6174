"""PIT histograms against plain counting, and their bands against what chance does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forecast.evaluation.calibration import BINS, EXACT_BINS, Calibration
from forecast.evaluation.inference import mean_test
from forecast.forecasts import LEVELS, QUANTILES

MakeBlock = Callable[..., pd.DataFrame]
EXPECTED = np.diff((0, *LEVELS, 1))


def calibration(*blocks: pd.DataFrame) -> dict[str, Any]:
    found = Calibration()
    for block in blocks:
        found.add(block)
    return found.summary()


def normal_forecasts(actual_TS: np.ndarray, *, std: float = 1.0) -> pd.DataFrame:
    """Forecasts N(0, std²) of a panel of outcomes, over one session."""
    days, symbols = actual_TS.shape
    actual = actual_TS.ravel()
    return pd.DataFrame(
        {
            "model": "lstm",
            "part": "test",
            "symbol": np.tile([f"S{s}" for s in range(symbols)], days),
            "origin": np.repeat(pd.bdate_range("2000-01-03", periods=days), symbols),
            "horizon": 1,
            "actual": actual,
            **{q: std * stats.norm.ppf(u) for u, q in zip(LEVELS, QUANTILES, strict=True)},
            "pit": stats.norm.cdf(actual / std),
        }
    )


def crises(
    random: np.random.Generator, *, days: int = 1000, symbols: int = 20, steps: int = 1
) -> np.ndarray:
    """Standard normal outcomes over some sessions, four fifths of whose variance is shared."""
    common = random.standard_normal((days + steps - 1, 1))
    own = random.standard_normal((days + steps - 1, symbols))
    session = np.sqrt(0.8) * common + np.sqrt(0.2) * own
    return np.lib.stride_tricks.sliding_window_view(session, steps, 0).sum(axis=2) / np.sqrt(steps)


def test_it_counts_actuals_at_and_between_the_levels(make_block: MakeBlock) -> None:
    block = make_block(horizons=(1,))
    block.loc[3, "actual"] = float(block.loc[3, "q50"])  # a tie lies at or below the level
    found = calibration(block)["test"]["lstm"]["1"]
    known = block.dropna(subset="actual")
    below = known["actual"].to_numpy()[:, None] <= known[list(QUANTILES)].to_numpy(dtype="float64")
    assert found["coverage"] == pytest.approx(below.mean(axis=0).tolist())
    assert found["pit_counts"] == np.bincount(21 - below.sum(axis=1), minlength=22).tolist()
    assert sum(found["pit_counts"]) == len(known)


def test_an_exact_histogram_has_twenty_bins_and_their_ends(make_block: MakeBlock) -> None:
    block = make_block(horizons=(1,), days=200).dropna(subset="actual").reset_index(drop=True)
    block.loc[:2, "pit"] = [0.0, 1.0, 0.5]
    exact = calibration(block)["test"]["lstm"]["1"]["exact"]
    counts, _ = np.histogram(block["pit"], np.linspace(0, 1, EXACT_BINS + 1))
    assert exact["counts"] == counts.tolist()
    assert len(exact["bands"]) == len(exact["t"]) == EXACT_BINS


def test_without_a_distribution_function_there_is_no_exact_histogram(
    make_block: MakeBlock,
) -> None:
    block = make_block()
    block.loc[block["horizon"] == 5, "pit"] = np.nan
    found = calibration(block)["test"]["lstm"]
    assert found["1"]["exact"] is not None
    assert found["5"]["exact"] is None
    assert found["5"]["coverage"] is not None


def test_a_point_model_has_no_calibration(make_block: MakeBlock) -> None:
    point = make_block().assign(**dict.fromkeys((*QUANTILES, "pit"), np.nan))
    assert calibration(point) == {"test": {"lstm": {"1": None, "5": None}}}


def test_bands_are_those_of_the_daily_shares() -> None:
    """With as many rows on every date: expected share ± t times the error of the mean share."""
    block = normal_forecasts(crises(np.random.default_rng(0), days=400))
    found = calibration(block)["test"]["lstm"]["1"]
    edges = block[list(QUANTILES)].iloc[0].to_numpy()
    bins = np.searchsorted(edges, block["actual"].to_numpy())
    for b in range(BINS):
        daily = pd.Series(bins == b).groupby(block["origin"]).mean().to_numpy()
        test = mean_test(daily - EXPECTED[b])
        reach = stats.t.ppf(0.975, test.dof) * test.se
        low, high = found["pit_bands"][b]
        assert low == pytest.approx(max(EXPECTED[b] - reach, 0))
        assert high == pytest.approx(EXPECTED[b] + reach)
        assert found["pit_t"][b] == pytest.approx(test.t)
        share = found["pit_counts"][b] / len(block)
        assert (low <= share <= high) == (abs(test.t) <= stats.t.ppf(0.975, test.dof))


def test_days_without_a_bin_give_it_no_band() -> None:
    """Nothing is known of the error of a share that never varied, or of very few dates."""
    actual = np.full((100, 5), 0.01)
    found = calibration(normal_forecasts(actual))["test"]["lstm"]["1"]
    assert found["pit_bands"][0] == [None, None]
    assert found["pit_t"][0] is None
    short = calibration(normal_forecasts(crises(np.random.default_rng(0), days=10)))
    assert short["test"]["lstm"]["1"]["pit_t"] == [None] * BINS


def test_dates_may_have_any_number_of_symbols() -> None:
    """A date of one row counts as one row, not as much as a date of twenty."""
    random = np.random.default_rng(1)
    block = normal_forecasts(crises(random, days=400))
    thin = block["origin"] < block["origin"].iloc[len(block) // 2]
    block = block[~thin | (random.uniform(size=len(block)) < 0.1)]
    found = calibration(block)["test"]["lstm"]["1"]
    share = np.array(found["pit_counts"]) / len(block)
    low, high = np.array(found["pit_bands"], dtype=float).T
    reach = (high - low)[1:-1] / 2  # the outer bands may be cut off at zero
    dof = 0.4 * block["origin"].nunique() ** (2 / 3) // 1
    t = (share - EXPECTED)[1:-1] / reach * stats.t.ppf(0.975, dof)
    np.testing.assert_allclose(t, found["pit_t"][1:-1])


@pytest.mark.parametrize("steps", [1, 5])
def test_true_forecasts_leave_the_bands_as_often_as_they_should(steps: int) -> None:
    """Nominally 5 %, although symbols fall together and targets overlap.

    Bands that took every row for a draw would be left by a quarter of the bins and more.
    """
    random = np.random.default_rng(2)
    outside, naive = [], []
    for _ in range(40):
        block = normal_forecasts(crises(random, steps=steps))
        found = calibration(block)["test"]["lstm"]["1"]
        for shares, bands, expected in (
            (found["pit_counts"], found["pit_bands"], EXPECTED),
            (found["exact"]["counts"], found["exact"]["bands"], np.full(EXACT_BINS, 0.05)),
        ):
            share, (low, high) = np.array(shares) / len(block), np.transpose(bands)
            outside += list((share < low) | (share > high))
            binomial = 1.96 * np.sqrt(expected * (1 - expected) / len(block))
            naive += list(np.abs(share - expected) > binomial)
    assert 0.025 < np.mean(outside) < 0.085
    assert np.mean(naive) > 0.2


def test_the_pit_of_true_forecasts_is_uniform() -> None:
    """No bin of either histogram is off by more than the largest of so many t's would be."""
    block = normal_forecasts(np.random.default_rng(3).standard_normal((2000, 20)))
    found = calibration(block)["test"]["lstm"]["1"]
    limit = stats.t.ppf(1 - 0.001 / (2 * (BINS + EXACT_BINS)), 63)
    assert np.abs(found["pit_t"]).max() < limit
    assert np.abs(found["exact"]["t"]).max() < limit
    assert stats.chisquare(found["exact"]["counts"]).pvalue > 0.001
    assert stats.chisquare(found["pit_counts"], EXPECTED * len(block)).pvalue > 0.001
    assert found["coverage"] == pytest.approx(LEVELS, abs=0.01)


def test_forecasts_that_are_too_narrow_are_found_out() -> None:
    block = normal_forecasts(crises(np.random.default_rng(4)), std=0.8)
    found = calibration(block)["test"]["lstm"]["1"]
    for outer in (0, -1):
        assert found["pit_t"][outer] > 3
        assert found["pit_counts"][outer] / len(block) > found["pit_bands"][outer][1]
        assert found["exact"]["counts"][outer] / len(block) > found["exact"]["bands"][outer][1]
