"""Training through the project's own door, timed from within, and in a plain torch loop.

What `compare.py`, `gpu.py` and `profile_run.py` measure. The plain loop runs over ready tensors: no
data module, no gather, no Trainer. Both train the same layers with the same head, loss, optimiser
and clipping; the plain loop's are modules of `torch.nn`.

Axes: B batch, L time, F features, U units, H horizons, P head parameters.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from machine import Mark, between, mark
from torch import Tensor, nn

from forecast.dataset.datamodule import PriceDataModule
from forecast.models.configured import Config
from forecast.models.heads import PositionHead
from forecast.models.named_heads import make_head
from forecast.models.pipeline import fit_ensemble

TORCH = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
MOST_READY = 20  # batches that the plain loop has in memory

Example = tuple[Tensor, Tensor]  # features of a batch, and its scaled targets after the warm-up


@dataclass(frozen=True)
class Speed:
    """What was trained in some seconds.

    Attributes
    ----------
    targets : int
        Origins that carried a target, of all networks.
    sessions : int
        Sessions of all windows, those of the warm-up included.
    steps : int
    seconds : float
    """

    targets: int
    sessions: int
    steps: int
    seconds: float

    @property
    def rate(self) -> float:
        """Targets per second."""
        return self.targets / self.seconds


class Clock(pl.Callback):
    """Training of all epochs but the first, which warms up, and no validation.

    An epoch lasts from before its first batch is gathered to the end of its last step. On a GPU
    nothing is waited for before `speed` is asked for.
    """

    def __init__(self) -> None:
        self.targets: list[Tensor] = []
        self.sessions = 0
        self.epochs: list[tuple[Mark, Mark]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.start = mark(module.device)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.current_epoch == 0:
            return
        self.targets.append(batch.mask_BLH.any(-1).sum())
        self.sessions += batch.x_BLF.shape[:-1].numel()
        if trainer.is_last_batch:
            self.epochs.append((self.start, mark(module.device)))

    @property
    def speed(self) -> Speed:
        return Speed(
            targets=sum(int(count) for count in self.targets),
            sessions=self.sessions,
            steps=len(self.targets),
            seconds=sum(between(*epoch) for epoch in self.epochs),
        )


@contextmanager
def replaced(owner: Any, attribute: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """For a while what `make` makes of an attribute, in its place."""
    before = getattr(owner, attribute)
    setattr(owner, attribute, make(before))
    try:
        yield
    finally:
        setattr(owner, attribute, before)


def fit(
    datamodule: PriceDataModule, config: Config, epochs: int, *callbacks: pl.Callback
) -> list[dict[str, str]]:
    """Train so many epochs as `forecast.train` does; the rows of its history."""
    trainer = {**config["trainer"], "max_epochs": epochs, "patience": epochs}
    with (
        tempfile.TemporaryDirectory() as name,
        replaced(pl.LightningModule, "configure_callbacks", lambda own: lambda module: callbacks),
    ):
        fit_ensemble({**config, "trainer": trainer}, datamodule, Path(name), say=lambda line: None)
        with open(Path(name) / "history.csv", newline="") as file:
            return list(csv.DictReader(file))


def ours(datamodule: PriceDataModule, config: Config, steps: int) -> Speed:
    """Speed of about so many steps, in whole epochs."""
    clock = Clock()
    fit(datamodule, config, 1 + max(1, round(steps / datamodule.steps)), clock)
    return clock.speed


class Plain(nn.Module):
    """The network as one writes it with `torch.nn`."""

    def __init__(self, features: int, outputs: int, model: Config) -> None:
        super().__init__()
        units, layers = model["hidden_size"], model["layers"]
        between = model["dropout"] if layers > 1 else 0.0
        self.recurrence = TORCH[model["cell"]](
            features, units, layers, batch_first=True, dropout=between
        )
        self.input_dropout, self.dropout = (
            nn.Dropout(model[name]) for name in ("input_dropout", "dropout")
        )
        self.skip = nn.Linear(features, outputs, bias=False)
        self.readout = nn.Linear(units, outputs)

    def forward(self, x_BLF: Tensor, warmup: int) -> Tensor:
        x_BLF = x_BLF * self.input_dropout(torch.ones_like(x_BLF[:, :1]))
        hidden_BLU, _ = self.recurrence(x_BLF)
        hidden_BLU = hidden_BLU[:, warmup:]
        hidden_BLU = hidden_BLU * self.dropout(torch.ones_like(hidden_BLU[:, :1]))
        return self.readout(hidden_BLU) + self.skip(x_BLF[:, warmup:])


def loop(
    datamodule: PriceDataModule, config: Config, examples: Sequence[Example], steps: int
) -> Speed:
    """Speed of a plain loop over ready tensors."""
    head, options = make_head(config["head"]), config["optimizer"]
    assert not isinstance(head, PositionHead)
    warmup, horizons = datamodule.task.warmup, len(datamodule.task.horizons)
    mean_F, std_F = (torch.from_numpy(a) for a in (datamodule.mean_F, datamodule.std_F))
    network = Plain(len(mean_F), horizons * head.size, config["model"])
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=options["lr"],
        betas=(options["beta1"], options["beta2"]),
        weight_decay=options["weight_decay"],
        fused=True,
    )

    def step(x_BLF: Tensor, y_BLH: Tensor) -> None:
        x_BLF = torch.nan_to_num((x_BLF - mean_F) / std_F)
        raw_BLHP = network(x_BLF, warmup).unflatten(-1, (horizons, head.size))
        loss = head.loss(head.domain(raw_BLHP), y_BLH).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), options["clip"])
        optimizer.step()

    step(*examples[0])
    start = time.perf_counter()
    for example in islice(cycle(examples), steps):
        step(*example)
    seconds = time.perf_counter() - start
    x_BLF, y_BLH = examples[0]
    return Speed(
        targets=steps * y_BLH.shape[:-1].numel(),
        sessions=steps * x_BLF.shape[:-1].numel(),
        steps=steps,
        seconds=seconds,
    )


def ready(datamodule: PriceDataModule, steps: int) -> list[Example]:
    """Batches of windows that lie anywhere in the training range."""
    panel, task, train = datamodule.panel, datamodule.task, datamodule.ranges["train"]
    bounds = zip(train.low, train.high, panel.offsets[:-1] + task.length, strict=True)
    last = np.concatenate([np.arange(max(low, whole), high) for low, high, whole in bounds])
    drawn = np.random.default_rng(0).choice(last, (min(steps, MOST_READY), task.batch))
    examples = []
    for last_B in drawn:
        rows_BL = last_B[:, None] + np.arange(1 - task.length, 1)
        origin_BL1 = rows_BL[:, task.warmup :, None] + task.delay
        change_BLH = panel.log_price[origin_BL1 + task.horizons] - panel.log_price[origin_BL1]
        unit_BLH = panel.scale[origin_BL1 - task.delay] * np.sqrt(task.horizons)
        y_BLH = (change_BLH / unit_BLH).astype(np.float32)
        examples.append((torch.from_numpy(panel.values[rows_BL]), torch.from_numpy(y_BLH)))
    return examples
