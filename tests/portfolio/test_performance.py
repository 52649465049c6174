"""Measures of performance against textbook equations in plain Python, scipy and statsmodels."""

from __future__ import annotations

import json
import math
import statistics
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.config import ForecastError
from forecast.evaluation.inference import cosines
from forecast.portfolio.performance import (
    break_even,
    drawdowns,
    performance,
    rolling_sharpe,
)

PERIODS = 250.0
RETURNS = st.lists(st.floats(-0.3, 0.4), min_size=2, max_size=60)


def weekdays(count: int, first: str = "2019-11-20") -> np.ndarray:
    return np.busday_offset(np.datetime64(first), np.arange(count), roll="forward")


def measured(returns: Any, **given: Any) -> dict[str, Any]:
    count = len(returns)
    told: dict[str, Any] = {
        "dates_T": weekdays(count), "cash_return_T": np.zeros(count), "periods": PERIODS,
    }  # fmt: skip
    return performance(returns, **{**told, **given})


def random_returns(seed: int, count: int = 300, mean: float = 5e-4) -> np.ndarray:
    return mean + 0.01 * np.random.default_rng(seed).standard_t(5, count)


@settings(max_examples=40, deadline=None)
@given(returns=RETURNS, cash=st.floats(-1e-4, 4e-4))
def test_every_ratio_follows_its_textbook_equation(returns: list[float], cash: float) -> None:
    found = measured(returns, cash_return_T=np.full(len(returns), cash))
    n, grown = len(returns), math.prod(1 + r for r in returns)
    excess = [r - cash for r in returns]
    spread = statistics.stdev(returns)
    below = math.sqrt(sum(min(e, 0.0) ** 2 for e in excess) / n)
    assert found["sessions"] == n
    assert found["total_return"] == pytest.approx(grown - 1, abs=1e-12)
    assert found["annual_return"] == pytest.approx(grown ** (PERIODS / n) - 1, rel=1e-9, abs=1e-12)
    assert found["mean_return"] == pytest.approx(statistics.fmean(returns) * PERIODS, abs=1e-12)
    assert found["volatility"] == pytest.approx(spread * math.sqrt(PERIODS), abs=1e-12)
    if spread > 1e-9:
        ratio = statistics.fmean(excess) / spread * math.sqrt(PERIODS)
        assert found["sharpe"] == pytest.approx(ratio, rel=1e-9, abs=1e-9)
    if below > 1e-9:
        ratio = statistics.fmean(excess) / below * math.sqrt(PERIODS)
        assert found["sortino"] == pytest.approx(ratio, rel=1e-9, abs=1e-9)
    if found["max_drawdown"] > 0:
        assert found["calmar"] * found["max_drawdown"] == pytest.approx(found["annual_return"])
    moved = [r for r in returns if abs(r) > 1e-12]
    if moved:
        assert found["hit_rate"] == pytest.approx(sum(r > 0 for r in moved) / len(moved))
    assert found["worst_day"] == min(returns)
    assert found["worst_date"] == str(weekdays(n)[returns.index(min(returns))])


@settings(max_examples=40, deadline=None)
@given(returns=RETURNS)
def test_the_drawdown_is_the_largest_fall_between_any_two_dates(returns: list[float]) -> None:
    equity = [1.0]
    for value in returns:
        equity.append(equity[-1] * (1 + value))
    fall = max(
        (1 - equity[j] / equity[i] for i in range(len(equity)) for j in range(i, len(equity))),
    )
    found = measured(returns)
    assert found["max_drawdown"] == pytest.approx(fall, abs=1e-11)
    assert -drawdowns(returns).min() == pytest.approx(fall, abs=1e-11)
    if found["max_drawdown"] == 0:
        assert found["drawdown_peak"] is found["drawdown_trough"] is None
        return
    place = {str(day): k + 1 for k, day in enumerate(weekdays(len(returns)))}
    peak, trough = place[found["drawdown_peak"]], place[found["drawdown_trough"]]
    at_peak = equity[peak] if peak > 1 else max(equity[:2])  # the start shares the first date
    assert 1 - equity[trough] / at_peak == pytest.approx(fall, abs=1e-11)
    later = [k for k in range(trough, len(equity)) if equity[k] >= at_peak * (1 - 1e-12)]
    recovery = found["drawdown_recovery"]
    assert (recovery and place[recovery]) == (later[0] if later else None)


def test_dates_of_a_drawdown_are_those_of_its_peak_its_trough_and_its_recovery() -> None:
    found = measured([0.1, -0.2, -0.1, 0.2, 0.3, -0.05])
    days = [str(day) for day in weekdays(6)]
    assert found["max_drawdown"] == pytest.approx(0.28)
    assert found["drawdown_peak"] == days[0]
    assert found["drawdown_trough"] == days[2]
    assert found["drawdown_recovery"] == days[4]
    assert measured([0.1, -0.2, -0.1, 0.2, 0.1])["drawdown_recovery"] is None


def test_a_loss_in_the_first_session_is_a_drawdown() -> None:
    found = measured([-0.1, 0.05, 0.01])
    assert found["max_drawdown"] == pytest.approx(0.1)
    assert found["drawdown_peak"] == found["drawdown_trough"] == str(weekdays(1)[0])


@pytest.mark.parametrize("seed", range(3))
def test_skew_and_raw_kurtosis_are_those_of_scipy(seed: int) -> None:
    returns = random_returns(seed)
    found = measured(returns)
    assert found["skew"] == pytest.approx(stats.skew(returns))
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(returns, fisher=False))


def test_the_kurtosis_of_normal_returns_is_three() -> None:
    returns = 0.01 * np.random.default_rng(0).normal(size=50_000)
    assert measured(returns)["kurtosis"] == pytest.approx(3, abs=0.1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), leverage=st.floats(0.1, 3))
def test_the_sharpe_ratio_is_of_excess_returns_and_leverage_does_not_change_it(
    seed: int, leverage: float
) -> None:
    cash = np.random.default_rng(seed).uniform(0, 3e-4, 200)
    excess = random_returns(seed, 200)
    plain = measured(excess)
    levered = measured(cash + leverage * excess, cash_return_T=cash)
    assert levered["sharpe"] == pytest.approx(plain["sharpe"], rel=1e-9)
    assert levered["sortino"] == pytest.approx(plain["sortino"], rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(2, 900))
def test_years_and_months_compound_to_the_whole(seed: int, count: int) -> None:
    returns = random_returns(seed, count)
    found = measured(returns)
    for table in (found["yearly"], found["monthly"]):
        grown = math.prod(1 + value for value in table.values())
        assert grown - 1 == pytest.approx(found["total_return"], abs=1e-9)
    frame = pd.Series(1 + returns, index=pd.DatetimeIndex(weekdays(count)))
    for name, table in {"Y": found["yearly"], "M": found["monthly"]}.items():
        grouped = frame.groupby(frame.index.to_period(name)).prod() - 1
        assert table == pytest.approx({str(k): v for k, v in grouped.items()}, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_at_the_break_even_cost_nothing_over_cash_is_earned(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gross = random_returns(seed, mean=6e-3)
    cash, borrow = rng.uniform(0, 2e-4, (2, 300))
    turnover = rng.uniform(0, 0.5, 300)
    basis_points = break_even(gross, cash=cash, turnover_T=turnover, borrow_T=borrow)
    assert basis_points is not None
    net = gross - borrow - turnover * basis_points / 1e4
    assert np.mean(net - cash) == pytest.approx(0, abs=1e-15)
    found = measured(
        net, cash_return_T=cash, gross_return_T=gross, turnover_T=turnover, borrow_T=borrow,
        cost_T=turnover * basis_points / 1e4,
    )  # fmt: skip
    assert found["break_even"] == pytest.approx(basis_points)
    assert found["cost_share"] == pytest.approx(1)
    assert found["sharpe"] == pytest.approx(0, abs=1e-10)


def test_without_trades_or_with_a_gross_loss_no_cost_breaks_even() -> None:
    gains, losses = np.full(30, 1e-3), np.full(30, -1e-3)
    assert break_even(gains, cash=0.0, turnover_T=np.zeros(30)) is None
    assert break_even(losses, cash=0.0, turnover_T=np.ones(30)) is None
    found = measured(losses - 1e-4, gross_return_T=losses, turnover_T=np.full(30, 0.1))
    assert found["cost_share"] is found["break_even"] is None


def test_turnover_costs_and_exposure_are_averages_over_all_sessions() -> None:
    returns = random_returns(1, 3)
    found = measured(
        returns, turnover_T=[2.0, 0.0, 1.0], cost_T=[0.002, 0.0, 0.001], borrow_T=[0.0, 1e-5, 2e-5],
        long_T=[1.0, 1.0, 0.4], short_T=[0.0, 0.5, 0.1], gross_return_T=returns + 0.001,
    )  # fmt: skip
    assert found["turnover"] == pytest.approx(PERIODS)
    assert found["cost"] == pytest.approx(0.001 * PERIODS)
    assert found["borrow"] == pytest.approx(1e-5 * PERIODS)
    assert found["gross"] == pytest.approx(1.0)
    assert found["net"] == pytest.approx(0.6)


@pytest.mark.parametrize("seed", range(4))
def test_beta_and_alpha_are_least_squares_and_their_t_allows_for_dependence(seed: int) -> None:
    cash = np.full(300, 1e-4)
    benchmark = random_returns(seed + 10)
    noise = np.convolve(random_returns(seed, 302, 0.0), np.ones(3) / 3, mode="valid")
    returns = cash + 2e-4 + 0.7 * (benchmark - cash) + noise
    found = measured(returns, cash_return_T=cash, benchmark_T=benchmark)
    design = sm.add_constant(benchmark - cash)
    fit = sm.OLS(returns - cash, design).fit()
    assert found["alpha"] == pytest.approx(fit.params[0] * PERIODS)
    assert found["beta"] == pytest.approx(fit.params[1])
    # The sandwich, its filling by cosine regressions on every score written out.
    scores = design * fit.resid[:, None]
    number, count = cosines(300), 300
    filling = np.zeros((2, 2))
    for j in range(1, number + 1):
        wave = [
            math.sqrt(2 / count) * math.cos(math.pi * j * (t + 0.5) / count) for t in range(300)
        ]
        weighted = np.asarray(wave) @ scores
        filling += np.outer(weighted, weighted) / number
    bread = np.linalg.inv(design.T @ design)
    error = math.sqrt((count * bread @ filling @ bread)[0, 0])
    assert found["alpha_t"] == pytest.approx(fit.params[0] / error)
    p = 2 * stats.t.sf(abs(fit.params[0] / error), number)
    assert found["alpha_p"] == pytest.approx(p)


def test_a_benchmark_against_itself_has_beta_one_and_no_alpha() -> None:
    returns = random_returns(3)
    found = measured(returns, benchmark_T=returns)
    assert found["beta"] == pytest.approx(1)
    assert found["alpha"] == pytest.approx(0, abs=1e-12)
    assert found["alpha_t"] is None


def test_cash_alone_has_no_ratio_and_nothing_is_nan() -> None:
    cash = np.full(60, 1e-4)
    found = measured(cash, cash_return_T=cash, benchmark_T=cash)
    undefined = ("sharpe", "sortino", "calmar", "skew", "kurtosis", "beta", "alpha", "alpha_t")
    assert {found[name] for name in undefined} == {None}
    assert found["max_drawdown"] == 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("count", [1, 2, 19])
def test_few_sessions_are_measured_without_nan(count: int) -> None:
    found = measured(random_returns(0, count), benchmark_T=random_returns(1, count))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["alpha_t"] is None


def test_the_rolling_sharpe_ratio_is_that_of_the_sessions_up_to_each() -> None:
    returns, cash = random_returns(5, 80), np.full(80, 1e-4)
    found = rolling_sharpe(returns, 30, periods=PERIODS, cash=cash)
    assert np.isnan(found[:29]).all()
    for t in (29, 50, 79):
        window = slice(t - 29, t + 1)
        alone = measured(returns[window], cash_return_T=cash[window])["sharpe"]
        assert found[t] == pytest.approx(alone, rel=1e-12)
    assert np.isnan(rolling_sharpe(returns, 81, periods=PERIODS)).all()


def test_the_rolling_sharpe_ratio_is_undefined_where_all_is_cash_again() -> None:
    cash = 1e-4 * np.random.default_rng(0).random(120)
    returns = cash + np.where(np.arange(120) < 60, random_returns(0, 120), 0.0)
    found = rolling_sharpe(returns, 20, periods=PERIODS, cash=cash)
    assert np.isfinite(found[19:79]).all()
    assert np.isnan(found[79:]).all()


def test_log_returns_are_refused_as_returns_and_as_benchmark() -> None:
    log = pd.Series([0.01, 0.02], name="log_return")
    with pytest.raises(ForecastError, match="simple_return_T: column log_return"):
        measured(log)
    with pytest.raises(ForecastError, match="benchmark_T: column log_return"):
        measured([0.01, 0.02], benchmark_T=log)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cash_return_T": [0.0]}, "cash_return_T has shape"),
        ({"turnover_T": [0.1, 0.2, 0.3]}, "turnover_T has shape"),
        ({"cost_T": [0.1, math.nan]}, "cost_T contains nan"),
        ({"dates_T": ["2020-01-02"]}, "must ascend"),
        ({"dates_T": [date(2020, 1, 2), date(2020, 1, 2) - timedelta(1)]}, "must ascend"),
    ],
)
def test_series_of_another_length_and_dates_out_of_order_are_refused(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ForecastError, match=said) as refusal:
        measured([0.01, 0.02], **given)
    assert "\n" not in str(refusal.value)
