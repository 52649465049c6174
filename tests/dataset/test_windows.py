"""Windows against loops over rows.

Axes: B batch, L time, F features, H horizons, W windows.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.windows import Batch, PanelTensors, TrainingBatches, Windows

RandomPanel = Callable[..., Panel]
TensorsOf = Callable[..., PanelTensors]
RandomRange = Callable[..., Range]
Numbered = Callable[[Panel], Panel]
CheckCell = Callable[..., None]
seeds = st.integers(0, 10_000)
horizon_sets = st.sampled_from([(1,), (1, 5), (2, 3, 7), (1, 5, 20)])


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
    tensors_of: TensorsOf,
    random_range: RandomRange,
    check_cell: CheckCell,
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
    random_panel: RandomPanel, random_range: RandomRange, seed: int, length: int, warmup: int
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
    random_panel: RandomPanel,
    tensors_of: TensorsOf,
    random_range: RandomRange,
    numbered: Numbered,
    seed: int,
    length: int,
    warmup: int,
    epoch: int,
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
    random_panel: RandomPanel,
    tensors_of: TensorsOf,
    random_range: RandomRange,
    numbered: Numbered,
    seed: int,
    length: int,
    warmup: int,
    phase: int,
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
    random_panel: RandomPanel,
    tensors_of: TensorsOf,
    random_range: RandomRange,
    numbered: Numbered,
    seed: int,
    length: int,
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
    random_panel: RandomPanel,
    tensors_of: TensorsOf,
    random_range: RandomRange,
    numbered: Numbered,
    seed: int,
    batch: int,
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
    random_panel: RandomPanel,
    random_range: RandomRange,
    seed: int,
    length: int,
    warmup: int,
    batch: int,
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


def test_an_epoch_on_a_cpu_holds_a_few_bytes_of_each_row(
    random_panel: RandomPanel, tensors_of: TensorsOf
) -> None:
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


def test_another_device_is_sent_the_same_in_one_piece(
    random_panel: RandomPanel, tensors_of: TensorsOf, random_range: RandomRange, numbered: Numbered
) -> None:
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
    tensors_of: TensorsOf,
    random_range: RandomRange,
    numbered: Numbered,
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
    random_panel: RandomPanel,
    random_range: RandomRange,
    seed: int,
    length: int,
    warmup: int,
    batch: int,
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


def test_members_trained_together_see_what_each_would_see_alone(
    random_panel: RandomPanel, tensors_of: TensorsOf, random_range: RandomRange, numbered: Numbered
) -> None:
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


# Shares of processes that train together


@settings(max_examples=25, deadline=None)
@given(seed=seeds, steps=st.integers(1, 12), devices=st.integers(1, 5))
def test_processes_share_the_windows_of_every_batch_and_each_has_a_step(
    random_panel: RandomPanel,
    tensors_of: TensorsOf,
    random_range: RandomRange,
    numbered: Numbered,
    seed: int,
    steps: int,
    devices: int,
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
