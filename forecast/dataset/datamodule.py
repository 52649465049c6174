"""The LightningDataModule: batches for training and the carried validation pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from forecast.config import ForecastError
from forecast.dataset.folds import Fold, Range, ranges
from forecast.dataset.panel import Panel
from forecast.dataset.windows import CarriedPass, PanelTensors, TrainingBatches, Windows


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is forecast, and how windows are cut.

    Parameters
    ----------
    horizons : tuple of int
        Sessions ahead, ascending.
    delay : int
        Sessions between origin and the start of the target: 0 for scoring and risk, 1 for trading
        at the next close.
    length, warmup : int
        Sessions of a window, and of those the first that carry no loss.
    batch : int
        Windows per step.
    """

    horizons: tuple[int, ...] = (1, 5, 20)
    delay: int = 0
    length: int = 250
    warmup: int = 40
    batch: int = 32

    def __post_init__(self) -> None:
        h = tuple(self.horizons)
        object.__setattr__(self, "horizons", h)  # a configuration hands a list
        if not h or any(not isinstance(x, int) or x < 1 for x in h) or list(h) != sorted(set(h)):
            raise ForecastError(
                f"horizons={list(h)} must be ascending whole sessions from 1, such as [1,5,20]."
            )
        if self.delay < 0:
            raise ForecastError(f"target.delay={self.delay} must be 0 or more sessions.")
        if self.warmup < 1 or self.batch < 1:
            raise ForecastError(
                f"window.warmup={self.warmup} and window.batch={self.batch} must be 1 or more."
            )
        if self.length <= self.warmup:
            raise ForecastError(
                f"window.length={self.length} is not longer than window.warmup={self.warmup}: no "
                "session would carry a loss. Lower warmup or lengthen the window."
            )

    @property
    def reach(self) -> int:
        """Sessions from an origin to its last target."""
        return self.delay + self.horizons[-1]


def standardisation(panel: Panel, train: Range) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over the training rows alone, shape (F,).

    A feature without a training value gets mean 0, a constant one its value; both deviation 1.
    """
    count, total, square = (np.zeros(panel.values.shape[1]) for _ in range(3))
    for low, high in zip(train.low, train.high, strict=True):
        block = panel.values[low : max(low, high)].astype(np.float64)
        known = ~np.isnan(block)
        block[~known] = 0.0
        count += known.sum(0)
        total += block.sum(0)
        square += (block**2).sum(0)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 0.0))
    std[~(std > 1e-6 * np.abs(mean))] = 1.0  # what rounding leaves of a constant
    return mean.astype(np.float32), std.astype(np.float32)


class PriceDataModule(pl.LightningDataModule):
    """Training windows and the carried validation pass of one fold.

    Parameters
    ----------
    panel : Panel
    fold : Fold
    task : Task
    seed : int
        Of the order of windows.

    Raises
    ------
    ForecastError
        No symbol has a training or a validation row.
    """

    def __init__(self, panel: Panel, fold: Fold, task: Task, *, seed: int) -> None:
        super().__init__()
        self.panel, self.fold, self.task, self.seed = panel, fold, task, seed
        self.ranges = ranges(panel, fold, reach=task.reach, warmup=task.warmup)
        self.require("train")
        self.require("validation")
        self.windows = Windows(self.ranges["train"], panel.offsets, task.length, task.warmup)
        self.mean_F, self.std_F = standardisation(panel, self.ranges["train"])
        self.member = 0
        self._tensors: PanelTensors | None = None

    def tensors(self, device: torch.device | str) -> PanelTensors:
        """The panel on a device, moved there once."""
        if self._tensors is None or torch.device(self._tensors.device) != torch.device(device):
            self._tensors = PanelTensors(
                self.panel, horizons=self.task.horizons, delay=self.task.delay, device=device
            )
        return self._tensors

    def _device(self) -> torch.device:
        assert self.trainer is not None
        return self.trainer.strategy.root_device

    def require(self, part: str) -> None:
        """Refuse a part without a row."""
        if not self.ranges[part].rows:
            raise ForecastError(
                f"no symbol has a row in the {part} range after window.warmup={self.task.warmup} "
                f"sessions and the purge of {self.task.reach}. Use longer histories, a smaller "
                "warmup, or another split."
            )

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same in every epoch."""
        # With one window a batch, a phase of few windows would leave batches empty.
        return min(-(-self.windows.most // self.task.batch), self.windows.fewest)

    def train_dataloader(self) -> TrainingBatches:
        trainer = self.trainer
        assert trainer is not None
        return TrainingBatches(
            self.windows,
            self.tensors(self._device()),
            steps=self.steps,
            seed=self.seed,
            member=self.member,
            steps_done=lambda: trainer.global_step,
        )

    def val_dataloader(self) -> CarriedPass:
        return CarriedPass(
            self.ranges["validation"], self.panel.offsets, self.tensors(self._device())
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Batches are gathered where the panel lies, on the device already."""
        return batch
