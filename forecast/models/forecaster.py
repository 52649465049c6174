"""The LightningModule: loss, optimiser, schedule and logging around a network and a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn

from forecast.dataset.carried import CarriedBatch
from forecast.dataset.windows import Batch
from forecast.models.heads import PositionHead, StudentTHead
from forecast.models.named_heads import make_head
from forecast.models.networks import Network, State, read_together
from forecast.models.options import Loss, Optimizer


def step_seed(seed: int, member: int, step: int, rank: int = 0) -> int:
    """Seed of one training step, so that dropout after a resume is what it would have been.

    Processes that train one network together drop different cells.
    """
    key = (seed, member, step, rank) if rank else (seed, member, step)
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class Forecaster(pl.LightningModule):
    """Trains members of an ensemble, each as if it were alone, in steps that they share.

    Batches have an axis K of the members that are still trained. All arguments are primitives, so
    checkpoints load with `weights_only`.

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
    seed : int
    members : sequence of int
        Their numbers in the ensemble, which their random numbers follow from.
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
        members: Sequence[int],
        clip: float = float("inf"),
        horizon_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.networks = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            for member in members:
                torch.manual_seed(step_seed(seed, member, -1 % 2**32))
                self.networks.append(Network(**network))
        self.head = make_head(head)
        self.optimizer_options = Optimizer(**optimizer)
        self.warmup, self.total_steps = warmup, total_steps
        self.seed, self.members, self.clip = seed, list(members), clip
        self.active = list(range(len(self.members)))  # places of those that are still trained
        weights = Loss(clip=clip, horizon_weights=horizon_weights).weights(network["horizons"])
        weight_H = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weight_H", weight_H / weight_H.mean(), persistent=False)
        self._states: list[State] | None = None
        self.devices = 1

    @property
    def network(self) -> Network:
        """The first member's."""
        return cast(Network, self.networks[0])

    @property
    def active_networks(self) -> list[Network]:
        return [cast(Network, self.networks[k]) for k in self.active]

    @property
    def active_members(self) -> list[int]:
        return [self.members[k] for k in self.active]

    def setup(self, stage: str) -> None:
        """Note how many processes train this network together."""
        self.devices = self.trainer.world_size

    def batch_loss(self, batch: Batch) -> Tensor:
        """Loss of each network's share of a training batch, shape (K,).

        Of several processes each has a share of the batch. Its loss is weighed by what counts in
        all shares, and the mean over the processes is the loss of the batch; so are the gradients,
        of which Lightning's DDP takes the mean.
        """
        raw_KBLHP = self.read(batch, self.warmup)
        total_K, weight_K = self._loss_sums(raw_KBLHP, batch, self.warmup)
        return self.devices * total_K / self._over_all(weight_K).clamp(min=1)

    def read(self, batch: Batch, warmup: int) -> Tensor:
        """What the networks make of a training batch, with dropout."""
        step, rank = self.global_step, self.global_rank
        seeds = [step_seed(self.seed, member, step, rank) for member in self.active_members]
        return read_together(self.active_networks, batch.x_BLF, warmup=warmup, seeds=seeds)[0]

    def _over_all(self, value: Tensor) -> Tensor:
        """The sum over all processes that train this network."""
        if self.devices > 1:
            distributed.all_reduce(value)
        return value

    def _loss_sums(self, raw_KBLHP: Tensor, batch: Batch, warmup: int) -> tuple[Tensor, Tensor]:
        """Sums of weighted losses and of weights, (K,) each."""
        assert not isinstance(self.head, PositionHead)  # which a PositionForecaster trains
        y = batch.y_BLH[..., warmup:, :].clamp(-self.clip, self.clip).expand(raw_KBLHP.shape[:-1])
        loss = self._losses(raw_KBLHP, y)
        weight = batch.mask_BLH[..., warmup:, :] * self.weight_H
        # Summed axis by axis: a sum over everything at once is split by the number of threads.
        total, weights = (loss * weight).sum(-1).sum(-1), weight.sum(-1).sum(-1)
        return total.sum(-1), weights.sum(-1).expand(len(total))

    def _losses(self, raw_KBLHP: Tensor, y_KBLH: Tensor) -> Tensor:
        """Elementwise, by the head's compiled pass where it has one."""
        assert not isinstance(self.head, PositionHead)
        # One derived from it may have a loss or a domain of its own.
        if type(self.head) is StudentTHead and self.network.compiled(raw_KBLHP):
            return self.head.fused_loss(raw_KBLHP, y_KBLH)
        # One by one: torch rounds the last numbers of an array otherwise than those before them.
        own = zip(raw_KBLHP, y_KBLH, strict=True)
        return torch.stack([self.head.loss(self.head.domain(raw), y) for raw, y in own])

    def on_train_epoch_start(self) -> None:
        self._train_losses = torch.zeros(len(self.active), device=self.device)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses = self.batch_loss(batch)
        self._train_losses += losses.detach()
        return losses.sum()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Each network's gradient by itself."""
        assert gradient_clip_val is not None
        for network in self.active_networks:
            nn.utils.clip_grad_norm_(network.parameters(), gradient_clip_val)

    @property
    def train_losses(self) -> Tensor:
        """Mean loss of the epoch's steps of each network, dropout included; of this process."""
        return self._train_losses / self.trainer.num_training_batches

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(2, len(self.active), device=self.device)

    def validation_step(self, step: CarriedBatch, index: int) -> None:
        """Accumulate the loss of the carried pass."""
        if self.network.memoryless and not step.wanted:
            return
        raw_KBLHP = self.carry(step)
        if step.wanted:
            self._sums += torch.stack(self._loss_sums(raw_KBLHP, step.batch, 0))

    def carry(self, step: CarriedBatch) -> Tensor:
        """What the networks make of one step of a carried pass."""
        networks = self.active_networks
        x_KBLF = step.x_BLF.expand(len(networks), *step.x_BLF.shape)
        raw_KBLHP, self._states = read_together(
            networks, x_KBLF, None if step.first else self._states
        )
        return raw_KBLHP

    def validation_losses(self) -> Tensor:
        """Of the pass that ended, shape (K,)."""
        total_K, weight_K = self._over_all(self._sums)
        return total_K / weight_K

    def on_validation_epoch_end(self) -> None:
        self._states = None
        self.validation_loss = self.validation_losses()
        self.log("validation_loss", self.validation_loss.mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with its schedule, a step at a time."""
        o = self.optimizer_options
        optimizer = torch.optim.AdamW(
            self.networks.parameters(),
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
