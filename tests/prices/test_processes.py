"""The true distributions against the paths they claim to describe."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from forecast.config import ForecastError
from forecast.forecasts import LEVELS
from forecast.prices.processes import STRENGTH, Garch, Normal, Process, Recall

GARCH = Garch(
    seed=3, drift=0.02, omega=0.05, alpha=0.05, gamma=0.1, beta=0.85, df=6.0, paths=50_000
)
PROCESSES: dict[str, Process] = {
    "gbm": Normal(seed=3, drift=0.05, volatility=1.5),
    "planted": Normal(seed=3, drift=0.05, volatility=1.5, ic=0.6),
    "garch": GARCH,
    "recall": Recall(seed=3, drift=0.05, volatility=1.5, longest=30),
}
SIZES = [(1, 0), (5, 0), (1, 1), (3, 2)]


def targets(
    process: Process, horizon: int, delay: int, n_symbols: int = 60, n_sessions: int = 2400
) -> tuple[np.ndarray, np.ndarray]:
    """Non-overlapping targets of many symbols and what was known before each, (N,) and (N,)."""
    draw = process.draw(range(n_symbols), n_sessions)
    total = np.cumsum(draw.returns_BT, axis=1)
    origins = np.arange(20, n_sessions - horizon - delay, horizon + delay)
    y = total[:, origins + delay + horizon] - total[:, origins + delay]
    return y.ravel(), draw.known_BT[:, origins].ravel()


@pytest.mark.parametrize(
    ("name", "size"),
    [pair for pair in product(PROCESSES, SIZES) if pair[0] != "recall" or pair[1] == SIZES[0]],
)
def test_true_quantiles_cover_what_they_say(name: str, size: tuple[int, int]) -> None:
    y, known = targets(PROCESSES[name], *size)
    truth = PROCESSES[name].distribution(known, *size)
    share = (y[:, None] <= truth.quantiles).mean(axis=0)
    levels = np.asarray(LEVELS)
    slack = 4 * np.sqrt(levels * (1 - levels) / len(y)) + 0.005 * (truth.pit is None)
    assert (np.abs(share - levels) < slack).all()
    assert (np.diff(truth.quantiles, axis=1) > 0).all()
    z = (y - truth.mean) / truth.std
    assert abs(z.mean()) < 4 / np.sqrt(len(y))
    assert abs(z.std() - 1) < 0.03


@pytest.mark.parametrize(
    ("name", "horizon"),
    [("gbm", 1), ("gbm", 5), ("planted", 1), ("planted", 5), ("garch", 1), ("recall", 1)],
)
def test_pit_is_uniform_and_agrees_with_density_and_quantiles(name: str, horizon: int) -> None:
    y, known = targets(PROCESSES[name], horizon, 0)
    truth = PROCESSES[name].distribution(known, horizon, 0)
    assert truth.pit is not None and truth.nll is not None
    assert stats.kstest(truth.pit(y), "uniform").pvalue > 0.01
    np.testing.assert_allclose(truth.pit(truth.quantiles[:, 3]), LEVELS[3], rtol=1e-9)
    step = 1e-4
    slope = (truth.pit(y + step) - truth.pit(y - step)) / (2 * step)
    np.testing.assert_allclose(np.exp(-truth.nll(y)), slope, rtol=1e-4, atol=1e-9)


def test_the_signal_has_its_information_coefficient_on_the_next_return_alone() -> None:
    process = Normal(seed=1, drift=0.0, volatility=2.0, ic=0.1)
    draw = process.draw(range(400), 500)
    signal, returns = draw.known_BT, draw.returns_BT
    per_date = [np.corrcoef(signal[:, t], returns[:, t + 1])[0, 1] for t in range(499)]
    assert abs(np.mean(per_date) - 0.1) < 4 * np.std(per_date) / np.sqrt(499)
    for lag in (0, 2):
        other = np.corrcoef(signal[:, : 500 - lag].ravel(), returns[:, lag:].ravel())[0, 1]
        assert abs(other) < 4 / np.sqrt(signal.size)
    assert abs(returns.std() - 2.0) < 0.02


def test_garch_variance_is_the_one_its_parameters_promise() -> None:
    draw = GARCH.draw(range(300), 1500)
    assert abs((draw.returns_BT - 0.02).var() / GARCH.variance - 1) < 0.05
    standard = (draw.returns_BT - 0.02) / np.sqrt(draw.variance_BT)
    assert abs(standard.var() - 1) < 0.03
    # Leverage: the variance after a fall exceeds that after an equal rise.
    fall, rise = (GARCH.step(np.array(1.0), np.array(z))[1] for z in (-1.0, 1.0))
    assert fall - rise == pytest.approx(GARCH.gamma)


def test_the_tabulated_quantiles_equal_brute_force_paths_from_one_origin() -> None:
    rng = np.random.default_rng(0)
    variance = np.full(200_000, 4.0)
    total = np.zeros_like(variance)
    for session in range(6):
        shock, variance = GARCH.step(variance, GARCH.innovations(rng, len(variance)))
        total += shock if session >= 1 else 0.0
    truth = GARCH.distribution(np.array([4.0]), 5, 1)
    expected = np.quantile(total + 5 * GARCH.drift, LEVELS)
    np.testing.assert_allclose(truth.quantiles[0], expected, atol=0.03 * truth.std[0])
    np.testing.assert_allclose(truth.std[0], total.std(), rtol=0.02)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_path_depends_on_its_seed_and_number_alone(name: str) -> None:
    process = PROCESSES[name]
    many, one = process.draw(range(5), 200), process.draw([3], 120)
    for field in ("returns_BT", "variance_BT", "known_BT"):
        np.testing.assert_array_equal(getattr(many, field)[3, :120], getattr(one, field)[0])
    assert not np.array_equal(many.returns_BT[0], many.returns_BT[1])


def test_an_answer_was_told_once_within_the_longest_delay_and_by_nothing_since() -> None:
    process = Recall(seed=5, drift=0.0, volatility=1.0, longest=40)
    shock, question, log_volatility = process.told(7, 4000)
    told, asked = np.flatnonzero(shock), np.flatnonzero(question)
    assert len(told) - len(asked) in (0, 1) and len(asked) > 100
    delay = asked + 1 - told[: len(asked)]
    assert delay.min() == 1 and 30 < delay.max() <= 40
    assert (told[1 : len(asked)] > asked[:-1]).all(), "one shock is under way at a time"
    assert log_volatility[asked] == pytest.approx(STRENGTH * shock[told[: len(asked)]])
    others = np.setdiff1d(np.arange(4000), asked)
    assert not log_volatility[others].any()
    # As many of every octave: the delay is uniform in its logarithm.
    assert np.mean(delay == 1) == pytest.approx(np.log(2) / np.log(41), abs=0.08)


def test_volatility_of_a_recall_follows_what_was_told() -> None:
    process = Recall(seed=5, drift=0.1, volatility=2.0, longest=20)
    draw = process.draw(range(400), 400)
    z = (draw.returns_BT[:, 1:] - 0.1) / (2.0 * np.exp(draw.known_BT[:, :-1]))
    answers = draw.signals["question"][:, :-1] == 1
    for group in (z[answers], z[~answers]):
        assert abs(group.std() - 1) < 5 / np.sqrt(2 * len(group))
    assert set(draw.signals) == {"shock", "question"}


def test_a_recall_has_a_true_distribution_of_the_next_session_alone() -> None:
    with pytest.raises(ForecastError, match="horizons=\\[1\\] and target.delay=0"):
        PROCESSES["recall"].distribution(np.zeros(1), 5, 0)
