"""A block of the Forecasts table says what was stated and what happened, in percent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.dataset.carried import CarriedPass
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors
from forecast.forecasts import LEVELS, QUANTILES, validate
from forecast.models import block as module
from forecast.models.block import Block, blocks, make_block
from forecast.models.devices import torch_threads
from forecast.models.distributions import Distribution, Gaussian, SkewedT, StudentT

RandomPanel = Callable[..., Panel]
seeds = st.integers(0, 10_000)
tasks = st.builds(
    Task, horizons=st.sampled_from([(1,), (1, 5), (2, 3, 20)]), delay=st.integers(0, 2)
)


def random_range(panel: Panel, seed: int) -> Range:
    rng = np.random.default_rng(seed)
    stop = panel.offsets[1:]
    low = panel.offsets[:-1] + rng.integers(1, 30, len(stop))
    return Range(low=low, high=np.minimum(stop, low + rng.integers(-5, 60, len(stop))))


def random_block(panel: Panel, task: Task, seed: int) -> Block:
    return make_block(panel, task, random_range(panel, seed), np.arange(len(panel.symbols)))


@settings(max_examples=40, deadline=None)
@given(seed=seeds, task=tasks)
def test_targets_are_those_of_a_loop_over_symbols_sessions_and_horizons(
    random_panel: RandomPanel, seed: int, task: Task
) -> None:
    """Halts, late listings, early ends: what is unknown or crosses a long gap is null."""
    panel, wanted = random_panel(seed, halts=2), random_range(random_panel(seed, halts=2), seed)
    block = random_block(panel, task, seed)
    variance = block.realized_variance()
    n = 0
    for s in range(len(panel.symbols)):
        stop = int(panel.offsets[s + 1])
        for row in range(wanted.low[s], wanted.high[s]):
            if np.isnan(panel.scale[row]):
                continue  # no forecast
            assert (block.row[n], block.symbol[n]) == (row, s)
            for h, horizon in enumerate(task.horizons):
                start, end = row + task.delay, row + task.delay + horizon
                unit = float(panel.scale[row]) * np.sqrt(horizon)
                assert block.unit[n, h] == pytest.approx(unit, rel=1e-12)
                if end >= stop:
                    assert block.end[n, h] == -1
                    assert np.isnan(block.actual[n, h]) and np.isnan(variance[n, h])
                    continue
                assert block.end[n, h] == end
                daily = np.diff(panel.log_price[start : end + 1])
                assert variance[n, h] == pytest.approx(np.sum(daily**2), rel=1e-9, abs=1e-9)
                if (panel.gaps[row : end + 1] != panel.gaps[row]).any():
                    assert np.isnan(block.actual[n, h])
                else:
                    assert block.actual[n, h] == pytest.approx(daily.sum(), abs=1e-9)
            n += 1
    assert n == len(block.row)
    np.testing.assert_array_equal(block.scaled_actual, block.actual / block.unit)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, task=tasks)
def test_a_table_is_scored_on_the_targets_that_the_network_is_trained_on(
    random_panel: RandomPanel, seed: int, task: Task
) -> None:
    panel, wanted = random_panel(seed), random_range(random_panel(seed), seed)
    tensors = PanelTensors(panel, horizons=task.horizons, delay=task.delay, device="cpu")
    block = random_block(panel, task, seed)
    seen = np.full((panel.rows, len(task.horizons)), np.nan)
    for step in CarriedPass(wanted, panel.offsets, tensors):
        here = step.rows_BL >= 0
        y = np.where(step.batch.mask_BLH.numpy(), step.batch.y_BLH.numpy(), np.nan)
        seen[step.rows_BL[here]] = y[here]
    np.testing.assert_allclose(seen[block.row], block.scaled_actual, rtol=2e-5, atol=1e-5)
    unseen = np.setdiff1d(np.arange(panel.rows), block.row)
    assert np.isnan(seen[unseen]).all()


def stated(count: int, kind: str) -> Distribution:
    """Any distributions, in scaled units."""
    rng = np.random.default_rng(0)
    mu, sigma, df = (
        rng.normal(0, 0.3, count),
        rng.uniform(0.5, 2, count),
        rng.uniform(2.5, 9, count),
    )
    if kind == "gaussian":
        return Gaussian(mu=mu, sigma=sigma)
    if kind == "student_t":
        return StudentT(mu=mu, sigma=sigma, df=df)
    if kind == "skewed_t":
        return SkewedT(mu=mu, sigma=sigma, df=df, skew=rng.uniform(-0.6, 0.6, count))
    normal = Gaussian(mu=mu, sigma=sigma)
    return Distribution(mean=mu, quantiles=normal.quantiles if kind == "quantile" else None)


KINDS = ("gaussian", "student_t", "skewed_t", "quantile", "point")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(seed=seeds, task=tasks)
def test_a_table_of_any_distribution_is_a_valid_forecasts_table(
    random_panel: RandomPanel, kind: str, seed: int, task: Task
) -> None:
    panel = random_panel(seed, halts=2)
    block = random_block(panel, task, seed)
    distribution = stated(block.unit.size, kind)
    table = block.table(distribution, model="any", part="test", fold=3)
    assert validate(table, "test").equals(table)
    frame = table.to_pandas()
    horizons = len(task.horizons)
    assert len(frame) == len(block.row) * horizons
    if not len(frame):
        return
    assert set(frame["model"]) == {"any"} and set(frame["part"]) == {"test"}
    assert set(frame["fold"]) == {3} and set(frame["delay"]) == {task.delay}
    assert frame["horizon"].tolist() == list(task.horizons) * len(block.row)
    row = np.repeat(block.row, horizons)
    assert frame["symbol"].tolist() == [panel.symbols[s] for s in np.repeat(block.symbol, horizons)]
    np.testing.assert_array_equal(frame["origin"].to_numpy("M8[D]"), panel.dates[panel.day[row]])
    np.testing.assert_array_equal(frame["price"], panel.price[row])
    np.testing.assert_array_equal(frame["scale"], panel.scale[row].astype(float))
    np.testing.assert_array_equal(frame["actual"], block.actual.ravel())
    end, target = block.end.ravel(), frame["target_date"].to_numpy("M8[D]")
    np.testing.assert_array_equal(np.isnat(target), end < 0)
    np.testing.assert_array_equal(target[end >= 0], panel.dates[panel.day[end[end >= 0]]])
    known = ~np.isnan(block.actual.ravel())
    np.testing.assert_array_equal(frame["realized_variance"].notna(), known)
    for name in ("nll", "pit", "crps_exact"):
        expected = known if kind in KINDS[:3] else np.zeros(len(known), bool)
        np.testing.assert_array_equal(frame[name].notna(), expected)
    unit = block.unit.ravel()
    np.testing.assert_allclose(frame["mean"], distribution.mean * unit, rtol=1e-6)
    if distribution.std is not None:
        np.testing.assert_allclose(frame["std"], distribution.std * unit, rtol=1e-6)
    if distribution.quantiles is not None:
        for name, column in zip(QUANTILES, distribution.quantiles.T, strict=True):
            np.testing.assert_allclose(frame[name], column * unit, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("piece", "threads"), [(7, 1), (7, 3), (64, 2)])
def test_a_table_has_the_same_bits_however_it_is_cut_and_shared_between_threads(
    random_panel: RandomPanel, monkeypatch: pytest.MonkeyPatch, kind: str, piece: int, threads: int
) -> None:
    panel = random_panel(5, halts=2)
    block = random_block(panel, Task(horizons=(1, 5)), 5)
    assert block.unit.size > piece
    whole = block.table(stated(block.unit.size, kind), model="any", part="test", fold=0)
    monkeypatch.setattr(module, "PIECE", piece)
    with torch_threads(threads):
        parted = block.table(stated(block.unit.size, kind), model="any", part="test", fold=0)
    assert parted.equals(whole)


@pytest.mark.parametrize("count", [1, 20])
def test_quantiles_at_other_levels_are_refused(random_panel: RandomPanel, count: int) -> None:
    """One alone would be taken for all."""
    panel = random_panel(0, symbols=2)
    block = random_block(panel, Task(), 0)
    quantiles = np.zeros((block.unit.size, count))
    said = Distribution(mean=np.zeros(block.unit.size), quantiles=quantiles)
    with pytest.raises(ValueError, match=f"Distribution states {count} quantiles, not the 21"):
        block.table(said, model="m", part="test", fold=0)


def test_some_rows_of_a_distribution_say_what_the_whole_says_of_them() -> None:
    rows = slice(40, 75)
    for kind in KINDS[:3]:
        whole = stated(100, kind)
        assert whole.parts
        some = whole.take(rows)
        np.testing.assert_array_equal(some.mean, whole.mean[rows])
        np.testing.assert_array_equal(some.std, whole.std[rows])  # type: ignore[index]
        np.testing.assert_array_equal(some.quantiles, whole.quantiles[rows])  # type: ignore[index]
        y = np.linspace(-4, 4, 100)
        for mine, theirs in zip(some.scores(y[rows]), whole.scores(y), strict=True):
            np.testing.assert_array_equal(mine, theirs[rows])  # type: ignore[index]
        for level in (0.01, 0.03):
            theirs = whole.expected_shortfall(level)
            np.testing.assert_array_equal(some.expected_shortfall(level), theirs[rows])  # type: ignore[index]


class Shifted(Gaussian):
    """Says another mean than its parent, and not how to part it."""

    @property
    def mean(self) -> np.ndarray:
        return super().mean + 100


def test_a_distribution_of_ones_own_is_parted_only_as_it_says_itself(
    random_panel: RandomPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = random_block(random_panel(5), Task(horizons=(1, 5)), 5)
    law = Shifted(mu=np.zeros(block.unit.size), sigma=np.ones(block.unit.size))
    monkeypatch.setattr(module, "PIECE", 7)
    assert not law.parts and stated(100, "quantile").parts
    table = block.table(law, model="own", part="test", fold=0)
    np.testing.assert_allclose(table["mean"], 100 * block.unit.ravel(), rtol=1e-6)


def at_many_actuals(panel: Panel, kind: str, grid: np.ndarray) -> tuple[pa.Table, Block]:
    """One origin's forecast, had each of these returns come."""
    task = Task(horizons=(5,))
    one = random_block(panel, task, 0)
    index = int(np.flatnonzero(~np.isnan(one.actual[:, 0]))[3])
    many = replace(
        one,
        row=np.repeat(one.row[index], len(grid)),
        symbol=np.repeat(one.symbol[index], len(grid)),
        unit=np.repeat(one.unit[index : index + 1], len(grid), axis=0),
        actual=grid[:, None],
        end=np.repeat(one.end[index : index + 1], len(grid), axis=0),
    )
    rng = np.random.default_rng(1)
    mu, sigma, df = rng.normal(), rng.uniform(0.5, 2), 5.0
    distribution = {
        "gaussian": Gaussian(mu=np.full(len(grid), mu), sigma=sigma),
        "student_t": StudentT(mu=np.full(len(grid), mu), sigma=sigma, df=df),
        "skewed_t": SkewedT(mu=np.full(len(grid), mu), sigma=sigma, df=df, skew=0.4),
    }[kind]
    return many.table(distribution, model="any", part="test", fold=0), many


@pytest.mark.parametrize("kind", KINDS[:3])
def test_nll_is_minus_the_log_density_of_the_percent_return(
    random_panel: RandomPanel, kind: str
) -> None:
    """It integrates to one over percent, and its integral up to a return is the pit."""
    unit = at_many_actuals(random_panel(0), kind, np.zeros(1))[1].unit[0, 0]
    grid = unit * np.sinh(np.linspace(-7, 7, 4001))  # fine in the middle, far into the tails
    frame = at_many_actuals(random_panel(0), kind, grid)[0].to_pandas()
    density = np.exp(-frame["nll"].to_numpy(np.float64))
    steps = np.diff(grid) * (density[1:] + density[:-1]) / 2
    assert unit > 1.5 and steps.sum() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(np.cumsum(steps), frame["pit"].to_numpy()[1:], atol=1e-4)
    # crps is the integral of (F - 1[y <= x])^2, here at the return nearest to zero.
    middle = len(grid) // 2
    squared = (frame["pit"].to_numpy(np.float64) - (grid >= grid[middle])) ** 2
    crps = np.sum(np.diff(grid) * (squared[1:] + squared[:-1]) / 2)
    assert frame["crps_exact"][middle] == pytest.approx(crps, rel=2e-3)


def test_scores_of_a_normal_are_scipys_and_scoringrules_in_percent(
    random_panel: RandomPanel,
) -> None:
    block = random_block(random_panel(4), Task(horizons=(1, 5)), 4)
    distribution = stated(block.unit.size, "gaussian")
    frame = block.table(distribution, model="any", part="test", fold=0).to_pandas()
    frame = frame[frame["actual"].notna()].astype({"mean": float, "std": float})
    assert len(frame) > 50
    law = stats.norm(frame["mean"], frame["std"])
    np.testing.assert_allclose(frame["nll"], -law.logpdf(frame["actual"]), atol=1e-5)
    np.testing.assert_allclose(frame["pit"], law.cdf(frame["actual"]), atol=1e-5)
    crps = scoringrules.crps_normal(*(frame[c].to_numpy() for c in ("actual", "mean", "std")))
    np.testing.assert_allclose(frame["crps_exact"], crps, rtol=1e-4)
    for level, name in ((0.01, "es01"), (0.05, "es05")):
        shortfall = frame["mean"] - frame["std"] * stats.norm.pdf(stats.norm.ppf(level)) / level
        np.testing.assert_allclose(frame[name], shortfall, rtol=1e-5)
    assert LEVELS[:2] == (0.01, 0.05)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, task=tasks, start=st.integers(0, 5), step=st.integers(1, 4))
def test_some_origins_of_a_block_are_those_rows_of_its_table(
    random_panel: RandomPanel, seed: int, task: Task, start: int, step: int
) -> None:
    block = random_block(random_panel(seed, halts=2), task, seed)
    rows = slice(start, None, step)
    some, horizons = block.take(rows), len(task.horizons)
    whole, part = (
        b.table(stated(b.unit.size, "point"), model="any", part="test", fold=0).drop(["mean"])
        for b in (block, some)
    )
    index = np.arange(whole.num_rows).reshape(-1, horizons)[rows].reshape(-1)
    assert part.to_pylist() == whole.take(index).to_pylist()


def test_realised_variance_is_of_closes_even_where_ranges_are_known(
    random_panel: RandomPanel,
) -> None:
    """QLIKE compares models of all sources on one proxy."""
    closes, bars = (random_panel(3, bars=True), random_panel(3, bars=True))
    bars = replace(bars, session_variance=bars.session_variance * 2)
    first, second = (random_block(p, Task(), 3).realized_variance() for p in (closes, bars))
    np.testing.assert_array_equal(first, second)
    assert not np.isnan(first).all()


@settings(max_examples=25, deadline=None)
@given(seed=seeds, size=st.integers(1, 4))
def test_blocks_hold_every_row_with_a_scale_once_and_none_is_empty(
    random_panel: RandomPanel, seed: int, size: int
) -> None:
    panel = random_panel(seed, symbols=6)
    wanted = random_range(panel, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SYMBOLS", size)
        parts = list(blocks(panel, Task(), wanted))
    assert all(len(part.row) and len(part.symbols) <= size for part in parts)
    rows = [np.arange(a, max(a, b)) for a, b in zip(wanted.low, wanted.high, strict=True)]
    expected = [row for row in np.concatenate(rows) if not np.isnan(panel.scale[row])]
    got = np.concatenate([part.row for part in parts]) if parts else np.array([])
    np.testing.assert_array_equal(got, expected)
