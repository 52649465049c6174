"""Functions that the tests of windows and of the carried pass share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.windows import Batch, PanelTensors


def _tensors_of(panel: Panel, horizons: tuple[int, ...] = (1,), delay: int = 0) -> PanelTensors:
    return PanelTensors(panel, horizons=horizons, delay=delay, device="cpu")


def _random_range(panel: Panel, seed: int, *, warmup: int, from_start: bool = False) -> Range:
    """Rows of each symbol from its warm-up on, down to none."""
    rng = np.random.default_rng(seed)
    earliest, stop = panel.offsets[:-1] + warmup, panel.offsets[1:]
    low = earliest if from_start else earliest + rng.integers(0, 10, len(stop))
    return Range(low=low, high=np.minimum(stop, low + rng.integers(-5, 60, len(stop))))


def _numbered(panel: Panel) -> Panel:
    """The panel whose features are the number of the row and that of its symbol."""
    symbol = np.repeat(np.arange(len(panel.symbols)), np.diff(panel.offsets))
    return replace(panel, values=np.stack([np.arange(panel.rows), symbol], 1).astype(np.float32))


def _target(panel: Panel, s: int, row: int, horizon: int, delay: int) -> float | None:
    """Scaled return from `delay` to `delay + horizon` sessions after a row; None if masked."""
    start, end = row + delay, row + delay + horizon
    broken = any(
        panel.gaps[k] != panel.gaps[k - 1] for k in range(row + 1, end + 1) if k < panel.rows
    )
    if end >= panel.offsets[s + 1] or broken or np.isnan(panel.scale[row]):
        return None
    change = panel.log_price[end] - panel.log_price[start]
    return float(change / (panel.scale[row] * np.sqrt(horizon)))


def _check_cell(
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
        y = _target(panel, s, row, horizon, delay) if inside and counts else None
        assert bool(batch.mask_BLH[cell][h]) == (y is not None)
        assert float(batch.y_BLH[cell][h]) == pytest.approx(
            0.0 if y is None else y, rel=2e-5, abs=1e-6
        )


@pytest.fixture(scope="session")
def tensors_of() -> Callable[..., object]:
    return _tensors_of


@pytest.fixture(scope="session")
def random_range() -> Callable[..., object]:
    return _random_range


@pytest.fixture(scope="session")
def numbered() -> Callable[..., object]:
    return _numbered


@pytest.fixture(scope="session")
def check_cell() -> Callable[..., object]:
    return _check_cell
