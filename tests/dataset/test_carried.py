"""The carried pass against loops over rows.

Axes: B symbols of a block, L its sessions, H horizons.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.dataset import carried as module
from forecast.dataset.carried import CarriedPass
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.windows import PanelTensors

RandomPanel = Callable[..., Panel]
TensorsOf = Callable[..., PanelTensors]
RandomRange = Callable[..., Range]
Numbered = Callable[[Panel], Panel]
CheckCell = Callable[..., None]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    block=st.integers(1, 4),
    sessions=st.integers(5, 80),
    horizons=st.sampled_from([(1,), (1, 5), (2, 3, 7), (1, 5, 20)]),
    delay=st.integers(0, 1),
)
def test_a_carried_pass_reads_each_history_in_order_and_each_wanted_row_once(
    random_panel: RandomPanel,
    tensors_of: TensorsOf,
    random_range: RandomRange,
    numbered: Numbered,
    check_cell: CheckCell,
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


def test_a_carried_pass_of_some_symbols_visits_those_alone(
    random_panel: RandomPanel, tensors_of: TensorsOf, numbered: Numbered
) -> None:
    panel = numbered(random_panel(2, symbols=5))
    everything = Range(low=panel.offsets[:-1], high=panel.offsets[1:])
    (step,) = CarriedPass(everything, panel.offsets, tensors_of(panel), symbols=np.array([1, 3]))
    rows = step.rows_BL[step.rows_BL >= 0]
    expected = [np.arange(*panel.offsets[s : s + 2]) for s in (1, 3)]
    np.testing.assert_array_equal(rows, np.concatenate(expected))


def test_a_carried_pass_has_one_shape_whatever_the_panel(
    random_panel: RandomPanel, tensors_of: TensorsOf
) -> None:
    """Products over differently shaped blocks may round differently."""
    shapes = set()
    for symbols, sessions in ((1, 30), (5, 90)):
        panel = random_panel(0, symbols=symbols, sessions=sessions)
        everything = Range(low=panel.offsets[:-1], high=panel.offsets[1:])
        shapes |= {
            s.rows_BL.shape for s in CarriedPass(everything, panel.offsets, tensors_of(panel))
        }
    assert shapes == {(module.BLOCK_SYMBOLS, module.BLOCK_SESSIONS)}


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_processes_share_the_blocks_of_a_carried_pass_and_each_has_a_step(
    random_panel: RandomPanel,
    tensors_of: TensorsOf,
    numbered: Numbered,
    devices: int,
    monkeypatch: pytest.MonkeyPatch,
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
