"""Two Sharpe ratios are told apart as often as luck allows, and when they differ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import CircularBlockBootstrap
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from forecast.evaluation.inference import holm
from forecast.portfolio.sharpe import (
    SharpeTest,
    block_length,
    differences,
    excess_returns,
    sharpe_tests,
)

YEAR = 252


def made(seed: int, dates: int = 400, count: int = 3) -> np.ndarray:
    """Correlated, autocorrelated returns of different size."""
    rng = np.random.default_rng(seed)
    common = rng.standard_t(5, (dates, 1))
    noise = signal.lfilter([1.0], [1.0, -0.2], rng.standard_t(5, (dates, count)), axis=0)
    return 0.01 * (0.05 + common + noise) * (1 + np.arange(count))


def one_test(returns: np.ndarray, *, repetitions: int = 99, seed: int = 0) -> SharpeTest:
    return sharpe_tests(returns, [(0, 1)], periods=YEAR, repetitions=repetitions, seed=seed)[0]


# -------------------------------------------------------------------------------- oracles


def gradient(mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Of the difference of two ratios in (mean, mean, mean square, mean square), as published."""
    spread = (square - mean**2) ** 1.5
    return np.array(
        [square[0] / spread[0], -square[1] / spread[1],
         -0.5 * mean[0] / spread[0], 0.5 * mean[1] / spread[1]]
    )  # fmt: skip


def moments(pair: np.ndarray) -> np.ndarray:
    return np.column_stack([pair, pair**2])


def parzen(x: float) -> float:
    return 1 - 6 * x**2 + 6 * x**3 if x <= 0.5 else 2 * (1 - x) ** 3


def published_error(pair: np.ndarray) -> float:
    """Standard error of the difference by the equations of the paper, in plain loops."""
    dates = len(pair)
    y = moments(pair)
    v = y - y.mean(axis=0)
    a = np.array([np.linalg.lstsq(v[:-1], v[1:, k], rcond=None)[0] for k in range(4)])
    u, d, w = np.linalg.svd(a)
    a = u @ np.diag(np.clip(d, None, 0.97)) @ w
    white = np.array([v[t] - a @ v[t - 1] for t in range(1, dates)])
    numerator = denominator = 0.0
    for k in range(4):
        x = white[:, k]
        rho = (x[1:] @ x[:-1]) / (x[:-1] @ x[:-1])
        power = np.mean((x[1:] - rho * x[:-1]) ** 2) ** 2
        numerator += 4 * rho**2 * power / (1 - rho) ** 8
        denominator += power / (1 - rho) ** 4
    n = len(white)
    width = 2.6614 * (numerator / denominator * n) ** 0.2
    psi = sum(np.outer(x, x) for x in white) / n
    lag = 1
    while lag < width:
        gamma = sum(np.outer(white[t], white[t - lag]) for t in range(lag, n)) / n
        psi = psi + parzen(lag / width) * (gamma + gamma.T)
        lag += 1
    back = np.linalg.inv(np.eye(4) - a)
    g = gradient(y.mean(axis=0)[:2], y.mean(axis=0)[2:])
    return float(np.sqrt(g @ back @ (n / (n - 4) * psi) @ back.T @ g / dates))


def published_p(pair: np.ndarray, repetitions: int, seed: int) -> float:
    """The paper's bootstrap, resample by resample and block by block."""
    dates = len(pair)
    b = block_length(dates)
    blocks = dates // b

    def ratio(x: np.ndarray) -> float:
        return float(np.subtract(*(x.mean(axis=0) / x.std(axis=0))))

    distance = abs(ratio(pair)) / published_error(pair)
    further = 1
    for (drawn,), _ in CircularBlockBootstrap(b, np.arange(dates), seed=seed).bootstrap(
        repetitions
    ):
        star = pair[drawn[: blocks * b]]
        y = moments(star)
        g = gradient(y.mean(axis=0)[:2], y.mean(axis=0)[2:])
        psi = np.zeros((4, 4))
        for k in range(blocks):
            zeta = np.sqrt(b) * (y[k * b : (k + 1) * b] - y.mean(axis=0)).mean(axis=0)
            psi += np.outer(zeta, zeta) / blocks
        error = np.sqrt(g @ psi @ g / (blocks * b))
        further += abs(ratio(star) - ratio(pair)) / error >= distance
    return further / (repetitions + 1)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_test_is_that_of_the_paper(seed: int) -> None:
    pair = made(seed, count=2)
    pair /= pair.std(axis=0)
    found = one_test(pair, seed=seed)
    ratio = pair.mean(axis=0) / pair.std(axis=0, ddof=1) * np.sqrt(YEAR)
    assert found.difference == pytest.approx(ratio[0] - ratio[1], rel=1e-9)
    plain = np.subtract(*(pair.mean(axis=0) / pair.std(axis=0)))
    assert found.t == pytest.approx(plain / published_error(pair), rel=1e-9)
    assert found.p == pytest.approx(published_p(pair, 99, seed), abs=1e-12)


# ------------------------------------------------------------------------------ properties


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
def test_leverage_changes_nothing_and_order_only_the_sign(seed: int, scale: float) -> None:
    pair = made(seed, dates=150, count=2)
    found, levered = one_test(pair), one_test(pair * np.array([scale, 1.0]))
    assert levered.t == pytest.approx(found.t, rel=1e-6)
    assert levered.difference == pytest.approx(found.difference, rel=1e-6)
    turned = one_test(pair[:, ::-1])
    assert (turned.t, turned.difference) == pytest.approx((-found.t, -found.difference), rel=1e-6)
    assert turned.p == pytest.approx(found.p, abs=0.011)


def test_a_pair_is_tested_alike_alone_and_among_others() -> None:
    returns = made(3)
    both = sharpe_tests(returns, [(0, 1), (2, 1)], periods=YEAR, repetitions=99)
    assert both[0].p == one_test(returns[:, :2]).p
    assert both == sharpe_tests(returns, [(0, 1), (2, 1)], periods=YEAR, repetitions=99)


def test_what_cannot_differ_by_luck_is_not_tested() -> None:
    returns = made(0)
    with_cash = np.column_stack([returns[:, 0], np.zeros(len(returns)), 3 * returns[:, 0]])
    cash, multiple = sharpe_tests(with_cash, [(0, 1), (0, 2)], periods=YEAR, repetitions=19)
    assert np.isnan([cash.difference, cash.t, cash.p, cash.p_hac]).all()
    assert multiple.difference == pytest.approx(0, abs=1e-9)
    assert np.isnan([multiple.t, multiple.p, multiple.p_hac]).all()
    assert np.isnan(one_test(returns[:59]).difference), "too few sessions"


def test_one_who_trades_on_few_days_is_tested_nevertheless() -> None:
    pair = made(1, count=2)
    pair[10:, 1] = 0.0
    assert 0 < one_test(pair).p <= 1


def garch(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    noise = rng.standard_t(6, shape) / np.sqrt(1.5)
    variance = np.ones(shape[1])
    for row in noise:
        row *= np.sqrt(variance)
        variance = 0.02 + 0.08 * row**2 + 0.90 * variance
    return noise


def pairs_of(process: str, samples: int, gain: float) -> np.ndarray:
    rng = np.random.default_rng(11)
    shape = 750, samples

    def drawn() -> np.ndarray:
        if process == "garch":
            return garch(rng, shape)
        noise = rng.standard_t(5, shape)
        return signal.lfilter([1.0], [1.0, -0.2], noise, axis=0) if process == "ar" else noise

    common = drawn()
    result = np.stack([common + drawn() + 0.03, 2 * (common + drawn() + 0.03 + gain)], axis=-1)
    return result.reshape(shape[0], -1)


@pytest.mark.parametrize("process", ["t", "garch", "ar"])
def test_equally_good_series_are_told_apart_in_one_of_twenty_samples(process: str) -> None:
    asked = [(2 * k, 2 * k + 1) for k in range(250)]
    tests = sharpe_tests(pairs_of(process, 250, 0.0), asked, periods=YEAR, repetitions=299)
    for p in ([test.p for test in tests], [test.p_hac for test in tests]):
        assert 0.015 < np.mean(np.array(p) < 0.05) < 0.095  # 5 % ± 3 standard errors
    better = sharpe_tests(pairs_of(process, 20, 0.3), asked[:20], periods=YEAR, repetitions=299)
    assert np.mean([test.p < 0.05 for test in better]) > 0.8


# ------------------------------------------------------------------------------ the table


def long(returns: np.ndarray, pairs: list[tuple[str, str]], cash: float = 0.0) -> pd.DataFrame:
    dates = pd.bdate_range("2015-01-01", periods=len(returns))
    tables = [
        pd.DataFrame(
            {
                "part": "test",
                "model": model,
                "strategy": strategy,
                "date": dates,
                "simple_return": returns[:, k] + cash,
                "cash_return": cash,
            }
        )
        for k, (model, strategy) in enumerate(pairs)
    ]
    return pd.concat(tables)


def test_every_strategy_meets_every_benchmark_and_holm_counts_them() -> None:
    returns = made(5, count=4)
    pairs = [("lstm", "sign"), ("gru", "sign"), ("none", "always_long"), ("none", "sign_12m")]
    table = long(returns, pairs, cash=0.0001)
    found = differences(
        table, part="test", benchmarks=[*pairs[2:], ("none", "gone")], periods=YEAR, repetitions=99
    )
    assert {model: set(found[model]["sign"]) for model in found} == {
        "lstm": {"always_long", "sign_12m"},
        "gru": {"always_long", "sign_12m"},
    }
    alone = sharpe_tests(returns, [(0, 2), (1, 2)], periods=YEAR, repetitions=99)
    entry = found["lstm"]["sign"]["always_long"]
    assert entry["t"] == pytest.approx(alone[0].t, rel=1e-6), "returns are over cash"
    adjusted = holm(np.array([test.p for test in alone]))
    told = [found[model]["sign"]["always_long"]["p_holm"] for model in ("lstm", "gru")]
    assert told == pytest.approx(adjusted.tolist())


def test_what_is_undefined_is_none_in_the_table() -> None:
    returns = made(5, count=2)
    returns[:, 0] = 0.0
    table = long(returns, [("lstm", "sign"), ("none", "always_long")])
    found = differences(
        table, part="test", benchmarks=[("none", "always_long")], periods=YEAR, repetitions=9
    )
    assert set(found["lstm"]["sign"]["always_long"].values()) == {None}
    assert excess_returns(table, "validation").empty
