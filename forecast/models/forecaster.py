"""The LightningModule: loss, optimiser, schedule and logging around a network and a head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from forecast.config import ForecastError
from forecast.dataset.windows import Batch, CarriedBatch
from forecast.models.heads import PositionHead
from forecast.models.named_heads import make_head
from forecast.models.networks import Network, State

SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter 2019), its warm-up and schedule.

    Parameters
    ----------
    lr, weight_decay : float
    beta1, beta2 : float
        Decay of the means of gradients and of their squares.
    schedule : str
        constant | linear | cosine, to 0 at the last step.
    warmup_steps : int
        Steps over which the rate rises from 0.
    clip : float
        Largest norm of a gradient.
    """

    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    schedule: str
    warmup_steps: int
    clip: float

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ForecastError(
                f"optimizer.schedule={self.schedule!r} is unknown: choose {', '.join(SCHEDULES)}."
            )
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ForecastError(
                    f"optimizer.{name}={getattr(self, name)} must be above 0 and finite."
                )
        for name in ("weight_decay", "warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ForecastError(
                    f"optimizer.{name}={getattr(self, name)} must be 0 or more and finite."
                )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ForecastError(
                    f"optimizer.{name}={getattr(self, name)} must lie in 0 … 1, 1 excluded."
                )

    def factor(self, step: int, total_steps: int) -> float:
        """What the rate is multiplied with at a step."""
        rise = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        done = min(step / max(total_steps, 1), 1.0)
        if self.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * done))
        return rise * (1 - done if self.schedule == "linear" else 1.0)


def step_seed(seed: int, member: int, step: int) -> int:
    """Seed of one training step, so that dropout after a resume is what it would have been."""
    return int(np.random.SeedSequence((seed, member, step)).generate_state(1, np.uint64)[0] >> 1)


class Forecaster(pl.LightningModule):
    """Trains one member. All arguments are primitives, so checkpoints load with `weights_only`.

    Parameters
    ----------
    network : mapping
        Arguments of `Network`.
    head : mapping
        `name` and arguments of the head.
    optimizer : mapping
        Arguments of `Optimizer`.
    warmup : int
        Sessions of a window that carry no loss.
    total_steps : int
        Steps after which the schedule has run out.
    seed, member : int
    clip : float
        Scaled targets beyond ± this count as this in the loss: a stock that did not trade for
        months and then jumped is no hundred-sigma event to learn from.
    horizon_weights : sequence of float, optional
        Weight of each horizon in the loss; equal by default.
    """

    weight_H: Tensor

    def __init__(
        self,
        *,
        network: Mapping[str, Any],
        head: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        warmup: int,
        total_steps: int,
        seed: int,
        member: int,
        clip: float = float("inf"),
        horizon_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed, member, -1 % 2**32))
            self.network = Network(**network)
        self.head = make_head(head)
        self.optimizer_options = Optimizer(**optimizer)
        self.warmup, self.total_steps = warmup, total_steps
        self.seed, self.member, self.clip = seed, member, clip
        if not clip > 0:
            raise ForecastError(f"loss.clip={clip} must be above 0 scaled units.")
        count = network["horizons"]
        weights = [1.0] * count if horizon_weights is None else list(horizon_weights)
        sound = all(0 <= w < math.inf for w in weights) and sum(weights) > 0
        if len(weights) != count or not sound:
            raise ForecastError(
                f"loss.horizon_weights={weights} must hold one finite weight ≥ 0 for each of the "
                f"{count} horizons, not all 0."
            )
        weight_H = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weight_H", weight_H / weight_H.mean(), persistent=False)
        self._state: State | None = None

    def batch_loss(self, batch: Batch) -> Tensor:
        """Loss of a training batch, a scalar."""
        raw_BLHP, _ = self.network(batch.x_BLF, warmup=self.warmup)
        total, weight = self._loss_sums(raw_BLHP, batch, self.warmup)
        return total / weight.clamp(min=1)

    def _loss_sums(self, raw_BLHP: Tensor, batch: Batch, warmup: int) -> tuple[Tensor, Tensor]:
        assert not isinstance(self.head, PositionHead)  # which a PositionForecaster trains
        mask_BLH = batch.mask_BLH[:, warmup:]
        y_BLH = batch.y_BLH[:, warmup:].clamp(-self.clip, self.clip)
        loss_BLH = self.head.loss(self.head.domain(raw_BLHP), y_BLH)
        weight_BLH = mask_BLH * self.weight_H
        # Summed axis by axis: a sum over everything at once is split by the number of threads.
        return (loss_BLH * weight_BLH).sum(-1).sum(-1).sum(), weight_BLH.sum(-1).sum(-1).sum()

    def on_train_epoch_start(self) -> None:
        self.train_loss = torch.zeros((), device=self.device)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        # The device's own generator: torch.manual_seed notes a stack trace for every other one.
        seed = step_seed(self.seed, self.member, self.global_step)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        loss = self.batch_loss(batch)
        self.train_loss += loss.detach()
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train_loss", self.mean_train_loss)

    @property
    def mean_train_loss(self) -> Tensor:
        """Mean loss of the epoch's steps, dropout included."""
        return self.train_loss / self.trainer.num_training_batches

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(2, device=self.device)

    def validation_step(self, step: CarriedBatch, index: int) -> None:
        """Accumulate the loss of the carried pass."""
        if self.network.memoryless and not step.wanted:
            return
        raw_BLHP, self._state = self.network(step.x_BLF, None if step.first else self._state)
        if step.wanted:
            self._sums += torch.stack(self._loss_sums(raw_BLHP, step.batch, 0))

    def on_validation_epoch_end(self) -> None:
        self._state = None
        self.log("validation_loss", self._sums[0] / self._sums[1], prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with its schedule, a step at a time."""
        o = self.optimizer_options
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=o.lr,
            betas=(o.beta1, o.beta2),
            weight_decay=o.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: o.factor(step, self.total_steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
