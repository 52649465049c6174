"""Batches of whole dates against loops over rows, and what a full position weighs.

Axes: N rows, T dates, W windows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range, make_fold
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.segments import STALE, Segments, full_weights
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors, TrainingBatches
from forecast.prices.frame import Prices

RandomPanel = Callable[..., Panel]
RandomPrices = Callable[..., Prices]
PricesOf = Callable[..., Prices]
Cut = Callable[[Prices, np.datetime64], Prices]

seeds = st.integers(0, 10_000)
shapes = {"seed": seeds, "length": st.integers(2, 30), "warmup": st.integers(1, 29)}


def segments_of(panel: Panel, seed: int, length: int, warmup: int) -> Segments:
    """Segments over a range that begins and ends anywhere in each symbol, or holds none of it."""
    rng = np.random.default_rng(seed)
    warmup = min(warmup, length - 1)
    low = panel.offsets[:-1] + warmup + rng.integers(0, 10, len(panel.symbols))
    high = np.minimum(panel.offsets[1:], low + rng.integers(-5, 60, len(low)))
    assume((high > low).any())
    return Segments(Range(low=low, high=high), panel.offsets, length, warmup, panel.day)


def rows_of(panel: Panel, segments: Segments) -> list[int]:
    bounds = zip(segments.range.low, segments.range.high, strict=True)
    return [row for low, high in bounds for row in range(low, max(low, high))]


@settings(max_examples=25, deadline=None)
@given(**shapes)
def test_every_row_carries_the_loss_once_and_warm_at_every_phase(
    random_panel: RandomPanel, seed: int, length: int, warmup: int
) -> None:
    panel = random_panel(seed, symbols=5)
    segments = segments_of(panel, seed, length, warmup)
    for phase in range(segments.stride):
        low_W, high_W, symbol_W = segments.tiles(phase)
        tiles = list(zip(low_W, high_W, symbol_W, strict=True))
        carried = [row for low, high, _ in tiles for row in range(low, high)]
        assert sorted(carried) == rows_of(panel, segments)
        for low, high, s in tiles:
            first = max(panel.offsets[s], high - length)
            assert low - first >= segments.warmup and high - first <= length


@settings(max_examples=25, deadline=None)
@given(**shapes, batch=st.integers(1, 20))
def test_an_epoch_deals_whole_dates_in_batches_that_are_never_empty(
    random_panel: RandomPanel, seed: int, length: int, warmup: int, batch: int
) -> None:
    """All rows of a date are in one batch, and no window reaches beyond its segment."""
    panel = random_panel(seed, symbols=5)
    segments = segments_of(panel, seed, length, warmup)
    steps = segments.steps(batch)
    for epoch in range(4):
        dealt = list(segments.deal(np.random.default_rng(epoch), steps))
        assert len(dealt) == steps
        batch_of: dict[int, int] = {}
        seen = []
        for number, (low_B, high_B, _) in enumerate(dealt):
            assert len(low_B)
            for low, high in zip(low_B, high_B, strict=True):
                assert panel.day[high - 1] - panel.day[low] < segments.stride
                for row in range(low, high):
                    seen.append(row)
                    assert batch_of.setdefault(int(panel.day[row]), number) == number
        assert sorted(seen) == rows_of(panel, segments)


@settings(max_examples=15, deadline=None)
@given(**shapes, batch=st.integers(1, 40))
def test_a_batch_holds_the_segments_that_fit_and_one_at_least(
    random_panel: RandomPanel, seed: int, length: int, warmup: int, batch: int
) -> None:
    panel = random_panel(seed, symbols=5, staggered=False)
    segments = segments_of(panel, seed, length, warmup)
    symbols = int((segments.range.high > segments.range.low).sum())
    for low_B, _, symbol_B in segments.deal(np.random.default_rng(seed), segments.steps(batch)):
        # Never more but where the phases differ in their number of segments, then by one.
        assert len(low_B) <= max(batch, symbols) + symbols
        assert set(symbol_B) <= set(np.flatnonzero(segments.range.high > segments.range.low))


def test_the_order_of_segments_depends_on_seed_member_and_epoch_alone(
    random_panel: RandomPanel,
) -> None:
    panel = random_panel(3, symbols=5, sessions=90, staggered=False)
    low = panel.offsets[:-1] + 25
    segments = Segments(Range(low=low, high=panel.offsets[1:]), panel.offsets, 30, 25, panel.day)
    tensors = PanelTensors(panel, horizons=(1,), delay=1, device="cpu")
    steps = segments.steps(10)

    def days(seed: int = 0, member: int = 0, done: int = 0) -> list[list[int]]:
        batches = TrainingBatches(
            segments, tensors, steps=steps, seed=seed, members=lambda: (member,),
            steps_done=lambda: done,
        )  # fmt: skip
        return [batch.only().day_BL[:, -1].tolist() for batch in batches]

    first = days()
    torch.manual_seed(1), np.random.seed(1)
    assert days() == first == days(done=steps - 1), "resumed in the middle of the epoch"
    assert first not in (days(seed=1), days(member=1), days(done=steps))


# ------------------------------------------------------------------------ what a position weighs


def counted(panel: Panel, warmup: int, row: int) -> int:
    """Symbols with a position at the date of a row: stated within the last dates, in a loop."""
    date, found = panel.day[row], 0
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        before = [i for i in range(rows.start, rows.stop) if panel.day[i] <= date]
        if before and before[-1] - rows.start >= warmup and not np.isnan(panel.scale[before[-1]]):
            found += bool(date - panel.day[before[-1]] <= STALE)
    return found


@settings(max_examples=15, deadline=None)
@given(seed=seeds, warmup=st.integers(1, 40))
def test_a_full_position_is_one_over_scale_and_number_of_positions(
    random_panel: RandomPanel, seed: int, warmup: int
) -> None:
    panel = random_panel(seed)
    full_N = full_weights(panel, warmup)
    for s in range(len(panel.symbols)):
        for row in range(*panel.offsets[s : s + 2]):
            if row - panel.offsets[s] < warmup or np.isnan(panel.scale[row]):
                assert full_N[row] == 0
            else:
                expected = 1 / (panel.scale[row] * counted(panel, warmup, row))
                assert full_N[row] == pytest.approx(expected, rel=1e-6)


def test_full_weights_lie_where_the_panel_does(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, asked = full_weights(panel, 25), []

    def empty(panel: Panel, kind: str, *axes: int) -> np.ndarray:
        asked.append((panel.rows, *axes))
        return np.full((panel.rows, *axes), np.nan, kind)

    monkeypatch.setattr(Panel, "empty", empty)
    assert full_weights(panel, 25).tobytes() == here.tobytes()
    assert asked == [(panel.rows,)]


@settings(max_examples=10, deadline=None)
@given(seed=seeds, at=st.integers(30, 69))
def test_it_knows_nothing_of_what_follows(
    random_prices: RandomPrices, cut: Cut, seed: int, at: int
) -> None:
    """Not even which symbols will end, or be listed later."""
    prices = random_prices(seed)
    features = FeatureSet(columns=["return"])
    whole = make_panel(prices, features, market=None, max_gap=3)
    known = make_panel(
        cut(prices, whole.dates[min(at, len(whole.dates) - 1)]), features, market=None, max_gap=3
    )
    later, now = full_weights(whole, 22), full_weights(known, 22)
    for s, symbol in enumerate(known.symbols):
        same = whole.offsets[whole.symbols.index(symbol)] + np.arange(
            known.offsets[s + 1] - known.offsets[s]
        )
        np.testing.assert_array_equal(now[known.symbol_rows(s)], later[same])


def test_a_symbol_that_does_not_trade_is_counted_on_for_a_week(prices_of: PricesOf) -> None:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, (2, 60)), axis=1))
    close[1, 40:52] = np.nan
    panel = make_panel(
        prices_of({"A": close[0], "B": close[1]}), FeatureSet(columns=["return"]), market=None
    )
    number = 1 / (full_weights(panel, 25)[:60] * panel.scale[:60])[38:54]
    np.testing.assert_allclose(
        number, [2, 2] + [2] * STALE + [1] * (12 - STALE) + [2, 2], rtol=1e-6
    )


# ------------------------------------------------------------------------------- the datamodule


@pytest.fixture(scope="module")
def panel(random_panel: RandomPanel) -> Panel:
    return random_panel(0, symbols=5, sessions=300, staggered=False, halts=0)


def datamodule(panel: Panel, **options: int) -> PriceDataModule:
    fold = make_fold(panel.dates, validation=60, test=0.2)
    task = Task(horizons=(1,), delay=1, dated=True, **options)
    return PriceDataModule(panel, fold, task, seed=0)


def test_only_a_dated_task_has_segments_and_full_weights(panel: Panel) -> None:
    dated = datamodule(panel, length=60, warmup=25, batch=16)
    assert isinstance(dated.windows, Segments)
    batch = next(dated.windows.deal(np.random.default_rng(0), dated.steps))
    full_BL = dated.windows.gather(dated.tensors("cpu"), *batch).full_BL
    assert full_BL is not None and bool((full_BL[:, 30:] > 0).all())
    usual = PriceDataModule(panel, dated.fold, Task(horizons=(1,), length=60, warmup=25), seed=0)
    assert type(usual.windows) is not Segments and usual.tensors("cpu").full_N is None


def test_periods_are_counted_before_the_validation_range(panel: Panel) -> None:
    module = datamodule(panel, length=60, warmup=25)
    before = panel.dates[panel.dates < module.fold.train_end]
    years = (before[-1] - before[0]).astype(int) / 365.25
    assert module.periods == pytest.approx((len(before) - 1) / years)
    assert module.periods == pytest.approx(261, abs=2), "weekdays of a year"


def test_batches_of_few_dates_are_refused_with_the_remedy(panel: Panel) -> None:
    with pytest.raises(
        ForecastError, match=r"holds 2 dates of 5 symbols.*window\.batch=50"
    ) as told:
        datamodule(panel, length=30, warmup=28, batch=9)
    assert "\n" not in str(told.value)
    datamodule(panel, length=30, warmup=28, batch=50)
