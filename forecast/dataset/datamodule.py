"""The LightningDataModule: batches for training and the carried validation pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from forecast.config import ForecastError
from forecast.dataset.carried import CarriedPass
from forecast.dataset.folds import Fold, Range, ranges
from forecast.dataset.panel import Panel
from forecast.dataset.segments import Segments, full_weights
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors, TrainingBatches, Windows

LEAST_DATES = 20  # of a batch whose loss is a Sharpe ratio


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
        self.windows = self._windows()
        self.mean_F, self.std_F = standardisation(panel, self.ranges["train"])
        self.members: Callable[[], Sequence[int]] = lambda: (0,)  # that are trained together
        self._tensors: PanelTensors | None = None

    def _windows(self) -> Windows:
        """Training windows, cut symbol by symbol or at the same dates."""
        panel, task, train = self.panel, self.task, self.ranges["train"]
        if not task.dated:
            return Windows(train, panel.offsets, task.length, task.warmup)
        segments = Segments(train, panel.offsets, task.length, task.warmup, panel.day)
        dates, symbols = segments.dates(task.batch), int(np.sum(train.high > train.low))
        if dates < LEAST_DATES:
            raise ForecastError(
                f"window.batch={task.batch} holds {dates} dates of {symbols} symbols, too few for "
                f"a Sharpe ratio. Use window.batch={-(-LEAST_DATES // segments.stride) * symbols} "
                "or more, or a smaller window.warmup."
            )
        return segments

    @property
    def periods(self) -> float:
        """Sessions a year, counted on the union calendar up to the end of the training range."""
        dates = self.panel.dates[self.panel.dates < self.fold.train_end]
        years = (dates[-1] - dates[0]).astype("timedelta64[D]").astype(float) / 365.25
        return float((len(dates) - 1) / years)

    def tensors(self, device: torch.device | str) -> PanelTensors:
        """The panel on a device, moved there once."""
        if self._tensors is None or torch.device(self._tensors.device) != torch.device(device):
            task = self.task
            self._tensors = PanelTensors(
                self.panel,
                horizons=task.horizons,
                delay=task.delay,
                device=device,
                full_N=full_weights(self.panel, task.warmup) if task.dated else None,
            )
        return self._tensors

    def __getstate__(self) -> dict[str, Any]:
        """For processes that train together: each moves the panel to its own device."""
        return {**self.__dict__, "_tensors": None}

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
        return self.windows.steps(self.task.batch)

    def train_dataloader(self) -> TrainingBatches:
        trainer = self.trainer
        assert trainer is not None
        return TrainingBatches(
            self.windows,
            self.tensors(self._device()),
            steps=self.steps,
            seed=self.seed,
            members=self.members,
            steps_done=lambda: trainer.global_step,
            rank=trainer.global_rank,
            devices=trainer.world_size,
        )

    def val_dataloader(self) -> CarriedPass:
        assert self.trainer is not None
        return CarriedPass(
            self.ranges["validation"],
            self.panel.offsets,
            self.tensors(self._device()),
            rank=self.trainer.global_rank,
            devices=self.trainer.world_size,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Batches are gathered where the panel lies, on the device already."""
        return batch
