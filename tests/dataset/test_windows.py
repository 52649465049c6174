"""Windows and the carried pass against loops over rows.

Axes: B batch, L time, F features, H horizons, W windows.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forecast.dataset import windows as module
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.windows import Batch, CarriedPass, PanelTensors, TrainingBatches, Windows

RandomPanel = Callable[..., Panel]
seeds = st.integers(0, 10_000)
horizon_sets = st.sampled_from([(1,), (1, 5), (2, 3, 7), (1, 5, 20)])


def tensors_of(panel: Panel, horizons: tuple[int, ...] = (1,), delay: int = 0) -> PanelTensors:
    return PanelTensors(panel, horizons=horizons, delay=delay, device="cpu")


def random_range(panel: Panel, seed: int, *, warmup: int, from_start: bool = False) -> Range:
    """Rows of each symbol from its warm-up on, down to none."""
    rng = np.random.default_rng(seed)
    earliest, stop = panel.offsets[:-1] + warmup, panel.offsets[1:]
    low = earliest if from_start else earliest + rng.integers(0, 10, len(stop))
    return Range(low=low, high=np.minimum(stop, low + rng.integers(-5, 60, len(stop))))


def numbered(panel: Panel) -> Panel:
    """The panel whose features are the number of the row and that of its symbol."""
    symbol = np.repeat(np.arange(len(panel.symbols)), np.diff(panel.offsets))
    return replace(panel, values=np.stack([np.arange(panel.rows), symbol], 1).astype(np.float32))


def target(panel: Panel, s: int, row: int, horizon: int, delay: int) -> float | None:
    """Scaled return from `delay` to `delay + horizon` sessions after a row; None if masked."""
    start, end = row + delay, row + delay + horizon
    broken = any(
        panel.gaps[k] != panel.gaps[k - 1] for k in range(row + 1, end + 1) if k < panel.rows
    )
    if end >= panel.offsets[s + 1] or broken or np.isnan(panel.scale[row]):
        return None
    change = panel.log_price[end] - panel.log_price[start]
    return float(change / (panel.scale[row] * np.sqrt(horizon)))


def check_cell(
    panel: Panel,
    batch: Batch,
    cell: tuple[int, int],
    *,
    s: int,
    row: int,
    counts: bool,
    horizons: tuple[int, ...],
    delay: int,
) -> None:
    """One session of one window; beyond its symbol's last row that row is repeated, masked."""
    inside = row < panel.offsets[s + 1]
    shown = min(row, int(panel.offsets[s + 1]) - 1)
    np.testing.assert_array_equal(batch.x_BLF[cell].numpy(), panel.values[shown])
    np.testing.assert_array_equal(batch.scale_BL[cell].numpy(), panel.scale[shown])
    assert batch.day_BL[cell] == panel.day[shown]
    for h, horizon in enumerate(horizons):
        y = target(panel, s, row, horizon, delay) if inside and counts else None
        assert bool(batch.mask_BLH[cell][h]) == (y is not None)
        assert float(batch.y_BLH[cell][h]) == pytest.approx(
            0.0 if y is None else y, rel=2e-5, abs=1e-6
        )


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    horizons=horizon_sets,
    delay=st.integers(0, 1),
    length=st.integers(3, 30),
    warmup=st.integers(1, 29),
    phase=st.integers(0, 28),
)
def test_windows_are_those_of_a_loop_over_symbols_and_sessions(
    random_panel: RandomPanel,
    seed: int,
    horizons: tuple[int, ...],
    delay: int,
    length: int,
    warmup: int,
    phase: int,
) -> None:
    panel = random_panel(seed, symbols=3, sessions=60, columns=("return", "abs_return"))
    warmup = min(warmup, length - 1)
    some = Windows(random_range(panel, seed, warmup=warmup), panel.offsets, length, warmup)
    low_W, high_W, symbol_W = some.tiles(phase % some.stride)
    chosen = np.random.default_rng(seed).permutation(len(low_W))[:5]
    assume(len(chosen))
    batch = some.gather(
        tensors_of(panel, horizons, delay), low_W[chosen], high_W[chosen], symbol_W[chosen]
    )
    assert batch.x_BLF.shape == (len(chosen), length, 2)
    assert batch.mask_BLH.shape == batch.y_BLH.shape == (len(chosen), length, len(horizons))
    for b, w in enumerate(chosen):
        s = int(symbol_W[w])
        first = max(int(panel.offsets[s]), int(high_W[w]) - length)
        for position in range(length):
            row = first + position
            counts = bool(low_W[w] <= row < high_W[w])
            check_cell(
                panel,
                batch,
                (b, position),
                s=s,
                row=row,
                counts=counts,
                horizons=horizons,
                delay=delay,
            )


@settings(max_examples=25, deadline=None)
@given(seed=seeds, length=st.integers(2, 30), warmup=st.integers(1, 29))
def test_every_row_of_the_range_carries_the_loss_once_at_every_phase(
    random_panel: RandomPanel, seed: int, length: int, warmup: int
) -> None:
    """And after at least `warmup` sessions of its window, or the loss would skip it."""
    panel = random_panel(seed, symbols=5)
    warmup = min(warmup, length - 1)
    wanted = random_range(panel, seed, warmup=warmup)
    windows = Windows(wanted, panel.offsets, length, warmup)
    expected = np.zeros(panel.rows, int)
    for low, high in zip(wanted.low, wanted.high, strict=True):
        expected[low : max(low, high)] = 1
    assert len(windows.tiles(0)[0]) == windows.fewest
    for phase in range(windows.stride):
        low_W, high_W, symbol_W = windows.tiles(phase)
        assert windows.fewest <= len(low_W) <= windows.most
        carried = np.zeros(panel.rows, int)
        for low, high, s in zip(low_W, high_W, symbol_W, strict=True):
            assert 0 < high - low <= windows.stride
            first = max(panel.offsets[s], high - length)
            assert low - first >= warmup and high - first <= length
            carried[low:high] += 1
        np.testing.assert_array_equal(carried, expected)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, length=st.integers(3, 30), warmup=st.integers(1, 29), epoch=st.integers(0, 5))
def test_a_rows_inputs_are_sessions_of_its_own_symbol_up_to_itself(
    random_panel: RandomPanel, seed: int, length: int, warmup: int, epoch: int
) -> None:
    panel = numbered(random_panel(seed))
    warmup = min(warmup, length - 1)
    windows = Windows(random_range(panel, seed, warmup=warmup), panel.offsets, length, warmup)
    batches = TrainingBatches(
        windows, tensors_of(panel), steps=2, seed=seed, members=lambda: (0,),
        steps_done=lambda: 2 * epoch,
    )  # fmt: skip
    for batch in (batch.only() for batch in batches):
        row_BL, symbol_BL = batch.x_BLF.unbind(-1)
        assert (symbol_BL == symbol_BL[:, :1]).all()
        step_BL = row_BL.diff(dim=1)
        assert ((step_BL == 1) | (step_BL == 0)).all()
        # Sessions repeat only beyond the symbol's last row, after everything that counts.
        repeated_BL = torch.cumsum(step_BL == 0, 1) > 0
        assert not batch.mask_BLH[:, 1:][repeated_BL].any()


@settings(max_examples=25, deadline=None)
@given(seed=seeds, length=st.integers(2, 30), warmup=st.integers(1, 29), phase=st.integers(0, 28))
def test_a_symbols_first_window_begins_at_its_first_row_as_the_carried_pass_does(
    random_panel: RandomPanel, seed: int, length: int, warmup: int, phase: int
) -> None:
    panel = numbered(random_panel(seed))
    warmup = min(warmup, length - 1)
    training = random_range(panel, seed, warmup=warmup, from_start=True)
    windows = Windows(training, panel.offsets, length, warmup)
    low_W, high_W, symbol_W = windows.tiles(phase % windows.stride)
    batch = windows.gather(tensors_of(panel), low_W, high_W, symbol_W)
    first_W = batch.x_BLF[:, 0, 0].numpy()
    for s in np.flatnonzero(training.high > training.low):
        assert first_W[symbol_W == s].min() == panel.offsets[s]


@settings(max_examples=15, deadline=None)
@given(seed=seeds, length=st.integers(2, 25))
def test_many_to_one_is_one_target_at_the_end_of_each_window(
    random_panel: RandomPanel, seed: int, length: int
) -> None:
    panel = numbered(random_panel(seed))
    training = random_range(panel, seed, warmup=length - 1)
    windows = Windows(training, panel.offsets, length, length - 1)
    low_W, high_W, symbol_W = windows.tiles(0)
    assert windows.stride == 1 and len(low_W) == training.rows == windows.most
    batch = windows.gather(tensors_of(panel), low_W, high_W, symbol_W)
    assert not batch.mask_BLH[:, :-1].any()
    np.testing.assert_array_equal(batch.x_BLF[:, -1, 0].numpy(), low_W)


# The order of batches


def epoch_of(windows: Windows, tensors: PanelTensors, steps: int, **key: int) -> list[Batch]:
    done, member = key.pop("epoch") * steps + key.pop("into_epoch", 0), key.pop("member")
    batches = TrainingBatches(
        windows, tensors, steps=steps, members=lambda: (member,), steps_done=lambda: done, **key
    )
    result = [batch.only() for batch in batches]
    assert len(result) == len(batches) == steps
    return result


def same(left: list[Batch], right: list[Batch]) -> bool:
    return all(
        a.x_BLF.shape == b.x_BLF.shape
        and a.x_BLF.equal(b.x_BLF)
        and a.y_BLH.equal(b.y_BLH)
        and a.mask_BLH.equal(b.mask_BLH)
        for a, b in zip(left, right, strict=True)
    )


@settings(max_examples=15, deadline=None)
@given(seed=seeds, batch=st.integers(2, 8))
def test_the_order_depends_on_seed_member_and_epoch_alone(
    random_panel: RandomPanel, seed: int, batch: int
) -> None:
    panel = numbered(random_panel(seed, symbols=6, staggered=False))
    windows = Windows(random_range(panel, seed, warmup=4, from_start=True), panel.offsets, 12, 4)
    tensors, steps = tensors_of(panel), -(-windows.most // batch)
    assume(windows.fewest >= 6)  # or two orders might be the same by chance
    key = {"seed": seed, "member": 1, "epoch": 3}
    first = epoch_of(windows, tensors, steps, **key)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # Resumed in the middle of an epoch, and with other draws made elsewhere in the meantime.
    assert same(first, epoch_of(windows, tensors, steps, **key, into_epoch=steps - 1))
    for name in key:
        others = [
            epoch_of(windows, tensors, steps, **{**key, name: key[name] + k}) for k in (1, 2, 3)
        ]
        assert not all(same(first, other) for other in others), name


@settings(max_examples=25, deadline=None)
@given(seed=seeds, length=st.integers(2, 30), warmup=st.integers(1, 29), batch=st.integers(1, 9))
def test_an_epoch_is_a_permutation_of_its_tiles_in_parts(
    random_panel: RandomPanel, seed: int, length: int, warmup: int, batch: int
) -> None:
    """Whatever type of integer holds the order, so that runs of before are repeated bit by bit."""
    panel = random_panel(seed, symbols=5)
    warmup = min(warmup, length - 1)
    windows = Windows(random_range(panel, seed, warmup=warmup), panel.offsets, length, warmup)
    assume(windows.fewest)
    steps = windows.steps(batch)
    dealt = list(windows.deal(np.random.default_rng(seed), steps))
    random = np.random.default_rng(seed)
    tiles = windows.tiles(int(random.integers(windows.stride)))
    parts = np.array_split(random.permutation(len(tiles[0])), steps)
    for cut, part in zip(dealt, parts, strict=True):
        for found, wanted in zip(cut, tiles, strict=True):
            np.testing.assert_array_equal(found[: len(part)], wanted[part])
        assert (cut[0][len(part) :] == cut[1][len(part) :]).all(), "no row counts twice"


@pytest.mark.parametrize("count", [2**8, 2**16, 2**17])
def test_the_order_does_not_depend_on_the_type_that_holds_it(count: int) -> None:
    everything = Range(low=np.array([1]), high=np.array([count + 1]))
    windows = Windows(everything, np.array([0, count + 1]), 2, 1)
    ((low, *_),) = windows.deal(np.random.default_rng(3), 1)
    random = np.random.default_rng(3)
    random.integers(1)
    np.testing.assert_array_equal(count - low, random.permutation(count))


def test_an_epoch_on_a_cpu_holds_a_few_bytes_of_each_row(random_panel: RandomPanel) -> None:
    """Many-to-one with three members: their orders of four bytes each, and a batch."""
    rows, tensors = 200_000, tensors_of(random_panel(0))
    everything = Range(low=np.array([1]), high=np.array([rows + 1]))
    windows = Windows(everything, np.array([0, rows + 1]), 2, 1)
    batches = TrainingBatches(
        windows, tensors, steps=200, seed=0, members=lambda: (0, 1, 2), steps_done=lambda: 0
    )
    held: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "gather", lambda *bounds: held.append(bounds[0].shape))
        tracemalloc.start()
        try:
            for _ in batches:
                pass
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert held == [(3, 1000)] * 200
    assert most < 16 * rows


def test_another_device_is_sent_the_same_in_one_piece(random_panel: RandomPanel) -> None:
    panel = numbered(random_panel(1, symbols=6))
    windows = Windows(random_range(panel, 1, warmup=4, from_start=True), panel.offsets, 12, 4)
    batches = TrainingBatches(
        windows, tensors_of(panel), steps=5, seed=0, members=lambda: (), steps_done=lambda: 0
    )
    wanted = list(batches._bounds(0, 0))
    sent = list(batches._sent(batches._bounds(0, 0)))
    assert len({bounds.untyped_storage().data_ptr() for bounds in sent}) == 1
    for bounds, there in zip(wanted, sent, strict=True):
        np.testing.assert_array_equal(there.numpy(), bounds)


def test_every_epoch_has_the_same_number_of_batches_and_none_is_empty(
    random_panel: RandomPanel,
) -> None:
    panel = numbered(random_panel(1, symbols=6))
    windows = Windows(random_range(panel, 1, warmup=4, from_start=True), panel.offsets, 12, 4)
    steps = -(-windows.most // 3)
    phases = set()
    for epoch in range(12):
        batches = epoch_of(windows, tensors_of(panel), steps, seed=0, member=0, epoch=epoch)
        assert len(batches) == steps
        assert {len(b.x_BLF) for b in batches} == {-(-windows.most // steps)}, "all of one size"
        phases.add(tuple(sorted(float(row) for b in batches for row in b.x_BLF[:, -1, 0])))
    assert len(phases) > 3  # the tiling moves from epoch to epoch


@settings(max_examples=25, deadline=None)
@given(seed=seeds, length=st.integers(2, 30), warmup=st.integers(1, 29), batch=st.integers(1, 9))
def test_an_epoch_counts_every_row_once_whatever_fills_its_batches(
    random_panel: RandomPanel, seed: int, length: int, warmup: int, batch: int
) -> None:
    panel = random_panel(seed, symbols=5)
    warmup = min(warmup, length - 1)
    wanted = random_range(panel, seed, warmup=warmup)
    assume((wanted.high > wanted.low).any())
    windows = Windows(wanted, panel.offsets, length, warmup)
    steps = windows.steps(batch)
    for epoch in range(4):
        dealt = list(windows.deal(np.random.default_rng(epoch), steps))
        assert len(dealt) == steps
        assert {len(part) for cut in dealt for part in cut} == {-(-windows.most // steps)}
        rows = [np.arange(low, high) for cut in dealt for low, high in zip(*cut[:2], strict=True)]
        expected = [np.arange(a, max(a, b)) for a, b in zip(wanted.low, wanted.high, strict=True)]
        np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.concatenate(expected))


def test_members_trained_together_see_what_each_would_see_alone(random_panel: RandomPanel) -> None:
    """Also those that are left when another one has stopped."""
    panel = numbered(random_panel(1, symbols=6))
    windows = Windows(random_range(panel, 1, warmup=4, from_start=True), panel.offsets, 12, 4)
    tensors, trained, done = tensors_of(panel), [0, 1, 2], 0
    steps = windows.steps(3)
    batches = TrainingBatches(
        windows, tensors, steps=steps, seed=5, members=lambda: trained, steps_done=lambda: done
    )
    for members in ([0, 1, 2], [0, 2], [2]):
        trained, epoch = members, done // steps
        together = list(batches)
        for k, member in enumerate(members):
            alone = epoch_of(windows, tensors, steps, seed=5, member=member, epoch=epoch)
            own = [Batch(*(f[k] for f in vars(b).values() if f is not None)) for b in together]
            assert same(own, alone)
            assert all(torch.equal(a.day_BL, b.day_BL) for a, b in zip(own, alone, strict=True))
        done += steps


# The carried pass


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    block=st.integers(1, 4),
    sessions=st.integers(5, 80),
    horizons=horizon_sets,
    delay=st.integers(0, 1),
)
def test_a_carried_pass_reads_each_history_in_order_and_each_wanted_row_once(
    random_panel: RandomPanel,
    seed: int,
    block: int,
    sessions: int,
    horizons: tuple[int, ...],
    delay: int,
) -> None:
    panel = numbered(random_panel(seed, symbols=5))
    wanted = random_range(panel, seed, warmup=21)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SYMBOLS", block)
        patch.setattr(module, "BLOCK_SESSIONS", sessions)
        carried = CarriedPass(wanted, panel.offsets, tensors_of(panel, horizons, delay))
        steps = list(carried)
        assert len(steps) == len(carried)
    read: list[list[int]] = []  # rows read in each line of the blocks since their state was zero
    visited: list[int] = []
    for step in steps:
        assert step.batch.x_BLF.shape[:2] == step.rows_BL.shape == (block, sessions)
        if step.first:
            read += [[] for _ in range(block)]
        row_BL, symbol_BL = step.batch.x_BLF.numpy().transpose(2, 0, 1).astype(int)
        assert step.wanted == bool((step.rows_BL >= 0).any())
        for b in range(block):
            history = read[b - block]
            for position in range(sessions):
                row, s = step.rows_BL[b, position], int(symbol_BL[b, position])
                if not history or history[-1] != row_BL[b, position]:
                    history.append(int(row_BL[b, position]))
                if row >= 0:
                    assert row == row_BL[b, position]
                    visited.append(int(row))
                    assert history == list(range(panel.offsets[s], row + 1))
                    check_cell(
                        panel, step.batch, (b, position),
                        s=s, row=int(row), counts=True, horizons=horizons, delay=delay,
                    )  # fmt: skip
                else:
                    assert not step.batch.mask_BLH[b, position].any()
    expected = [np.arange(a, max(a, b)) for a, b in zip(wanted.low, wanted.high, strict=True)]
    assert sorted(visited) == np.concatenate(expected).tolist()
    assert sum(step.first for step in steps) == len(wanted.blocks(block))


def test_a_carried_pass_of_some_symbols_visits_those_alone(random_panel: RandomPanel) -> None:
    panel = numbered(random_panel(2, symbols=5))
    everything = Range(low=panel.offsets[:-1], high=panel.offsets[1:])
    (step,) = CarriedPass(everything, panel.offsets, tensors_of(panel), symbols=np.array([1, 3]))
    rows = step.rows_BL[step.rows_BL >= 0]
    expected = [np.arange(*panel.offsets[s : s + 2]) for s in (1, 3)]
    np.testing.assert_array_equal(rows, np.concatenate(expected))


def test_a_carried_pass_has_one_shape_whatever_the_panel(random_panel: RandomPanel) -> None:
    """Products over differently shaped blocks may round differently."""
    shapes = set()
    for symbols, sessions in ((1, 30), (5, 90)):
        panel = random_panel(0, symbols=symbols, sessions=sessions)
        everything = Range(low=panel.offsets[:-1], high=panel.offsets[1:])
        shapes |= {
            s.rows_BL.shape for s in CarriedPass(everything, panel.offsets, tensors_of(panel))
        }
    assert shapes == {(module.BLOCK_SYMBOLS, module.BLOCK_SESSIONS)}


# Shares of processes that train together


@settings(max_examples=25, deadline=None)
@given(seed=seeds, steps=st.integers(1, 12), devices=st.integers(1, 5))
def test_processes_share_the_windows_of_every_batch_and_each_has_a_step(
    random_panel: RandomPanel, seed: int, steps: int, devices: int
) -> None:
    panel = numbered(random_panel(seed, symbols=5))
    windows = Windows(random_range(panel, seed, warmup=5), panel.offsets, 25, 5)
    assume(windows.fewest >= steps)
    key = {"seed": seed, "members": lambda: (0,), "steps": steps, "steps_done": lambda: 0}
    tensors = tensors_of(panel)

    def dealt(**share: int) -> list[Batch]:
        return [batch.only() for batch in TrainingBatches(windows, tensors, **share, **key)]

    whole = dealt()
    shares = [dealt(rank=rank, devices=devices) for rank in range(devices)]

    def counted(batches: list[Batch]) -> list[list[float]]:
        """Inputs, targets and whether they count, of each window with a target."""
        tables = [torch.cat([b.x_BLF, b.y_BLH, b.mask_BLH], dim=2) for b in batches]
        return sorted(w.flatten().tolist() for t in tables for w in t if w[:, -1].any())

    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert counted(parts) == counted([batch])
        sizes = [len(part.x_BLF) for part in parts]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
        idle = devices - min(len(batch.x_BLF), devices)
        assert all(not part.mask_BLH.any() for part in parts[devices - idle :])


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_processes_share_the_blocks_of_a_carried_pass_and_each_has_a_step(
    random_panel: RandomPanel, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_SYMBOLS", 2)
    panel = numbered(random_panel(2, symbols=5))
    wanted = Range(low=panel.offsets[:-1] + 3, high=panel.offsets[1:])
    visited: list[int] = []
    for rank in range(devices):
        share = CarriedPass(wanted, panel.offsets, tensors_of(panel), rank=rank, devices=devices)
        steps = list(share)
        assert len(steps) == len(share) >= 1
        for step in steps:
            assert step.wanted == bool((step.rows_BL >= 0).any()) == (rank < 3)
            assert step.batch.mask_BLH.any() == (rank < 3)
            visited += step.rows_BL[step.rows_BL >= 0].tolist()
    expected = [np.arange(a, b) for a, b in zip(wanted.low, wanted.high, strict=True)]
    assert sorted(visited) == np.concatenate(expected).tolist()
