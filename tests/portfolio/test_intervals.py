"""Bootstrap intervals against a plain loop over repetitions, asymptotics and simulated coverage."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap, optimal_block_length
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from forecast.config import ForecastError
from forecast.portfolio import intervals as module
from forecast.portfolio.intervals import MEASURES, block_length, intervals
from forecast.portfolio.performance import performance

PERIODS = 250.0


def random_returns(seed: int, series: int, sessions: int, mean: float = 5e-4) -> np.ndarray:
    """Fat-tailed returns (P, T) with a common part."""
    rng = np.random.default_rng(seed)
    common = rng.standard_t(6, sessions)
    return mean + 0.005 * (common + rng.standard_t(6, (series, sessions)))


def garch(rng: np.random.Generator, series: int, sessions: int) -> np.ndarray:
    """GARCH(1,1) of unit variance, 0.05 and 0.9, normal."""
    shocks = rng.normal(size=(sessions + 200, series))
    variance, returns = np.ones(series), np.empty_like(shocks)
    for t, shock in enumerate(shocks):
        returns[t] = np.sqrt(variance) * shock
        variance = 0.05 + 0.05 * returns[t] ** 2 + 0.9 * variance
    return returns[200:].T


def test_intervals_are_percentiles_of_the_measures_of_each_drawn_path() -> None:
    net, cash = random_returns(0, 3, 120), np.random.default_rng(1).uniform(0, 2e-4, 120)
    found = intervals(net, cash_return_T=cash, periods=PERIODS, repetitions=230, seed=7)
    bootstrap = StationaryBootstrap(block_length(net.T), np.arange(120), seed=7)
    drawn = [index for (index,), _ in bootstrap.bootstrap(230)]
    dates = np.arange("2020-01-01", 120, dtype="datetime64[D]")
    for series, told in zip(net, found, strict=True):
        paths = [
            performance(series[i], dates_T=dates, cash_return_T=cash[i], periods=PERIODS)
            for i in drawn
        ]
        for name in MEASURES:
            expected = np.percentile([path[name] for path in paths], [2.5, 97.5])
            assert told[name] == pytest.approx(expected, rel=1e-10)


def test_the_same_seed_gives_the_same_bytes_however_many_are_held_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = random_returns(0, 4, 150)
    given_ = {"cash_return_T": np.zeros(150), "periods": PERIODS, "repetitions": 120}
    once = intervals(net, **given_, seed=3)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "AT_ONCE", 7)
    assert intervals(net, **given_, seed=3) == once  # type: ignore[arg-type]
    assert intervals(net, **given_, seed=4) != once  # type: ignore[arg-type]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), leverage=st.floats(0.2, 2))
def test_all_series_are_drawn_by_the_same_dates(seed: int, leverage: float) -> None:
    one = random_returns(seed, 1, 100)
    a, b = intervals(
        np.concatenate([one, leverage * one]),
        cash_return_T=np.zeros(100), periods=PERIODS, repetitions=60,
    )  # fmt: skip
    assert a["sharpe"] == pytest.approx(b["sharpe"], rel=1e-9)
    assert leverage * np.asarray(a["volatility"]) == pytest.approx(b["volatility"], rel=1e-9)


def test_measures_that_are_not_asked_for_are_left_out_and_change_no_other() -> None:
    net, cash = random_returns(2, 2, 80), np.zeros(80)
    every = intervals(net, cash_return_T=cash, periods=PERIODS, repetitions=50)
    some = intervals(net, cash_return_T=cash, periods=PERIODS, repetitions=50, measures=("sharpe",))
    assert some == [{"sharpe": told["sharpe"]} for told in every]


def test_cash_has_no_sharpe_interval_and_few_sessions_have_none() -> None:
    cash = np.full(60, 1e-4)
    (told,) = intervals(cash[None], cash_return_T=cash, periods=PERIODS, repetitions=20)
    assert told["sharpe"] is None
    assert told["max_drawdown"] == [0.0, 0.0]
    assert np.copysign(1, told["max_drawdown"]).tolist() == [1, 1]  # no minus zero in a file
    (few,) = intervals(random_returns(0, 1, 19), cash_return_T=np.zeros(19), periods=PERIODS)
    assert few == dict.fromkeys(MEASURES)


@pytest.mark.parametrize(("traded", "known"), [(1, False), (40, True)])
def test_what_hardly_ever_moves_has_no_sharpe_interval(traded: int, known: bool) -> None:
    """Of draws that miss its one session nothing is known, so nothing is of the percentiles."""
    net = np.zeros((1, 60))
    net[0, :traded] = random_returns(0, 1, traded)
    (told,) = intervals(net, cash_return_T=np.zeros(60), periods=PERIODS, repetitions=200)
    assert (told["sharpe"] is not None) == known
    assert told["volatility"] is not None and told["annual_return"] is not None


def test_log_returns_in_percent_and_cash_of_another_length_are_refused() -> None:
    with pytest.raises(ForecastError, match="expm1"):
        intervals(100 * random_returns(0, 2, 200), cash_return_T=np.zeros(200), periods=PERIODS)
    with pytest.raises(ForecastError, match="cash_return_T has shape"):
        intervals(random_returns(0, 2, 50), cash_return_T=np.zeros(2), periods=PERIODS)


def test_blocks_grow_with_persistence_and_one_erratic_series_does_not_decide() -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=(1000, 5))
    persistent = lfilter([1], [1, -0.9], noise, axis=0)
    assert block_length(noise) < 20
    assert block_length(persistent) > 2 * block_length(noise)
    assert block_length(np.column_stack([noise, persistent[:, 0]])) < 20
    assert block_length(np.zeros((100, 2))) == module.SHORTEST


def test_the_block_suits_the_mean_and_the_variance_of_a_series() -> None:
    returns = 0.01 * garch(np.random.default_rng(3), 1, 2000).T
    mean, squares = (
        float(optimal_block_length(values)["stationary"].iloc[0])
        for values in (returns, returns**2)
    )
    assert squares > mean
    assert block_length(returns) == max(round(squares), module.SHORTEST)


def test_under_independence_the_width_is_the_asymptotic_one() -> None:
    """Lo (2002), The statistics of Sharpe ratios: variance (1 + SR²/2) / T a session."""
    net = 0.001 + 0.01 * np.random.default_rng(5).normal(size=(40, 1500))
    found = intervals(
        net, cash_return_T=np.zeros(1500), periods=1.0, measures=("sharpe",), repetitions=400
    )
    widths = [told["sharpe"][1] - told["sharpe"][0] for told in found]  # type: ignore[index]
    ratio = net.mean(axis=1) / net.std(axis=1, ddof=1)
    asymptotic = 2 * 1.96 * np.sqrt((1 + ratio**2 / 2) / 1500)
    assert np.mean(widths) == pytest.approx(np.mean(asymptotic), rel=0.1)


def test_the_interval_of_a_persistent_volatility_is_too_narrow_as_is_said() -> None:
    rng = np.random.default_rng(3)
    variance, shocks = np.ones(100), rng.standard_t(6, (1050, 100)) / np.sqrt(1.5)
    for t in range(len(shocks)):
        shocks[t] *= np.sqrt(variance)
        variance = 0.02 + 0.08 * shocks[t] ** 2 + 0.9 * variance
    found = intervals(
        0.01 * shocks[300:].T, cash_return_T=np.zeros(750), periods=1.0,
        measures=("volatility",), repetitions=300,
    )  # fmt: skip
    bounds = np.array([told["volatility"] for told in found])
    assert 0.3 < ((bounds[:, 0] <= 0.01) & (bounds[:, 1] >= 0.01)).mean() < 0.8


@pytest.mark.parametrize("kind", ["independent", "autocorrelated", "garch"])
def test_the_sharpe_interval_covers_the_true_ratio_about_as_often_as_it_says(kind: str) -> None:
    """400 histories of four years; in all, the 95 % interval may miss a little more often."""
    rng = np.random.default_rng(11)
    series, sessions, ratio = 400, 1000, 0.06
    if kind == "independent":
        shocks = rng.standard_t(6, (series, sessions)) / np.sqrt(1.5)
    elif kind == "autocorrelated":
        shocks = lfilter([np.sqrt(1 - 0.15**2)], [1, -0.15], rng.normal(size=(series, sessions)))
    else:
        shocks = garch(rng, series, sessions)
    found = intervals(
        0.01 * (shocks + ratio), cash_return_T=np.zeros(sessions), periods=1.0,
        measures=("sharpe",), repetitions=400,
    )  # fmt: skip
    bounds = np.array([told["sharpe"] for told in found])
    covered = (bounds[:, 0] <= ratio) & (ratio <= bounds[:, 1])
    assert 0.9 <= covered.mean() <= 0.98


def test_memory_does_not_grow_with_repetitions() -> None:
    net = random_returns(0, 30, 500)
    tracemalloc.start()
    intervals(net, cash_return_T=np.zeros(500), periods=PERIODS, repetitions=600)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # all drawn paths at once would be 72 MB
