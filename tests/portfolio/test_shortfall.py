"""The test of expected shortfall: size, power, and the null distribution by plain simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from forecast.portfolio.scenarios import tail_risk
from forecast.portfolio.shortfall import shortfall_test

NUMBER = 500
TAIL = 26  # lowest scenarios that are kept


def risk_of(law: stats.rv_continuous, level: float) -> tuple[float, float, np.ndarray]:
    """Value-at-risk, expected shortfall and lowest scenarios; each the mean of its cell."""
    fine = law.ppf((np.arange(TAIL * 40) + 0.5) / (40 * NUMBER))
    lowest = fine.reshape(TAIL, 40).mean(axis=1)
    at_risk, shortfall = tail_risk(lowest[None], NUMBER, level)
    return float(at_risk[0]), float(shortfall[0]), lowest


def judge(
    realised: np.ndarray,
    law: stats.rv_continuous,
    level: float,
    *,
    scale: np.ndarray | float = 1.0,
    steps: int = 1,
    seed: int = 0,
) -> tuple[float, float]:
    at_risk, shortfall, lowest = risk_of(law, level)
    width = np.broadcast_to(scale, realised.shape)
    return shortfall_test(
        realised,
        at_risk * width,
        shortfall * width,
        lowest * width[:, None],
        np.full(len(realised), NUMBER),
        level=level,
        steps=steps,
        seed=seed,
    )


@pytest.mark.parametrize("law", [stats.norm(), stats.t(5)], ids=["normal", "t5"])
@pytest.mark.parametrize("level", [0.01, 0.05])
def test_true_forecasts_are_rejected_as_often_as_stated(
    law: stats.rv_continuous, level: float
) -> None:
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, 500)
    found = [
        judge(law.rvs(500, random_state=rng) * scale, law, level, scale=scale, seed=seed)
        for seed in range(150)
    ]
    excess, p = np.array(found).T
    assert np.mean(p < 0.05) < 0.1 and np.mean(p < 0.5) > 0.35
    assert abs(excess.mean()) < 4 * excess.std() / np.sqrt(len(excess))


def test_shortfalls_that_are_worse_than_stated_are_found_and_measured() -> None:
    rng = np.random.default_rng(0)
    realised = stats.t(5).rvs(3000, random_state=rng)
    excess, p = judge(realised * 1.25, stats.t(5), 0.05)
    # If value-at-risk is wrong too, so many exceedances more count as well.
    assert p < 0.01 and 0.2 < excess < 0.6
    milder, p = judge(realised * 0.75, stats.t(5), 0.05)
    assert p < 0.01 and milder < -0.15


def test_the_shape_of_the_tail_is_tested_where_the_rate_is_right() -> None:
    """Normal forecasts with the right value-at-risk of a Student t."""
    realised = stats.t(3).rvs(3000, random_state=np.random.default_rng(1))
    realised *= stats.norm.ppf(0.05) / stats.t(3).ppf(0.05)
    excess, p = judge(realised, stats.norm(), 0.05)
    assert p < 0.01 and excess > 0.1


def test_the_null_distribution_is_that_of_draws_from_the_scenarios() -> None:
    """A p value against one from outcomes drawn day by day."""
    law, level, origins = stats.t(4), 0.05, 60
    at_risk, shortfall, lowest = risk_of(law, level)
    rng = np.random.default_rng(0)
    realised = law.rvs(origins, random_state=rng) * 1.2

    def statistic(outcomes: np.ndarray) -> float:
        beyond = [max(at_risk - y, 0.0) / level for y in outcomes]
        return float(np.mean([(at_risk - b) / shortfall - 1 for b in beyond]))

    drawn = []
    for _ in range(2000):
        scenario = rng.integers(NUMBER, size=origins)
        outcomes = np.where(scenario < TAIL, lowest[np.minimum(scenario, TAIL - 1)], 0.0)
        drawn.append(statistic(outcomes))
    expected = 2 * min(
        np.mean(np.array(drawn) >= statistic(realised)),
        np.mean(np.array(drawn) <= statistic(realised)),
    )
    excess, p = judge(realised, law, level)
    assert excess == pytest.approx(statistic(realised), abs=1e-12)
    assert p == pytest.approx(min(expected, 1.0), abs=0.06)


def test_overlapping_outcomes_are_tested_in_phases_and_joined() -> None:
    rng = np.random.default_rng(0)
    scale = 1.3
    realised = stats.norm.rvs(size=400, random_state=rng) * scale
    phases = [judge(realised[phase::4], stats.norm(), 0.05)[1] for phase in range(4)]
    excess, p = judge(realised, stats.norm(), 0.05, steps=4)
    assert excess == judge(realised, stats.norm(), 0.05)[0]
    assert p == pytest.approx(min(4 * min(phases), 1.0), rel=0.5)
    # Repeating every outcome adds no evidence, once the repeated ones are no draws of their own.
    single = judge(realised, stats.norm(), 0.05)[1]
    repeated = judge(np.repeat(realised, 4), stats.norm(), 0.05, steps=4)[1]
    assert repeated >= single


def test_the_same_input_gives_the_same_p() -> None:
    realised = stats.norm.rvs(size=300, random_state=np.random.default_rng(0))
    assert judge(realised, stats.norm(), 0.05) == judge(realised, stats.norm(), 0.05)


def test_where_nothing_can_be_said_nothing_is() -> None:
    at_risk, shortfall, lowest = risk_of(stats.norm(), 0.05)
    tail = np.tile(lowest, (30, 1))
    number, v, e = np.full(30, NUMBER), np.full(30, at_risk), np.full(30, shortfall)
    few = shortfall_test(np.zeros(19), v[:19], e[:19], tail[:19], number[:19], level=0.05)
    assert few[0] < 0 and np.isnan(few[1])
    gain = shortfall_test(np.zeros(30), v, np.where(number > 0, 0.01, e), tail, number, level=0.05)
    none = shortfall_test(np.zeros(0), v[:0], e[:0], tail[:0], number[:0], level=0.05)
    assert np.isnan([*gain, *none]).all()
