"""The LightningModule: loss, optimiser, schedule and logging around a network and a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed

from forecast.dataset.windows import Batch, CarriedBatch
from forecast.models.heads import PositionHead
from forecast.models.named_heads import make_head
from forecast.models.networks import Network, State
from forecast.models.options import Loss, Optimizer


def step_seed(seed: int, member: int, step: int, rank: int = 0) -> int:
    """Seed of one training step, so that dropout after a resume is what it would have been.

    Processes that train one network together drop different cells.
    """
    key = (seed, member, step, rank) if rank else (seed, member, step)
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


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
        weights = Loss(clip=clip, horizon_weights=horizon_weights).weights(network["horizons"])
        weight_H = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weight_H", weight_H / weight_H.mean(), persistent=False)
        self._state: State | None = None
        self.devices = 1

    def setup(self, stage: str) -> None:
        """Note how many processes train this network together."""
        self.devices = self.trainer.world_size

    def batch_loss(self, batch: Batch) -> Tensor:
        """Loss of a training batch, a scalar.

        Of several processes each has a share of the batch. Its loss is weighed by what counts in
        all shares, and the mean over the processes is the loss of the batch; so are the gradients,
        of which Lightning's DDP takes the mean.
        """
        raw_BLHP, _ = self.network(batch.x_BLF, warmup=self.warmup)
        total, weight = self._loss_sums(raw_BLHP, batch, self.warmup)
        return self.devices * total / self._over_all(weight).clamp(min=1)

    def _over_all(self, value: Tensor) -> Tensor:
        """The sum over all processes that train this network."""
        if self.devices > 1:
            distributed.all_reduce(value)
        return value

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
        seed = step_seed(self.seed, self.member, self.global_step, self.global_rank)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        loss = self.batch_loss(batch)
        self.train_loss += loss.detach()
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train_loss", self.mean_train_loss, sync_dist=True)

    @property
    def mean_train_loss(self) -> Tensor:
        """Mean loss of the epoch's steps, dropout included; of this process's shares."""
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
        total, weight = self._over_all(self._sums)
        self.log("validation_loss", total / weight, prog_bar=True)

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
