"""Training one member: Lightning's Trainer, checkpoints, resume and `history.csv`."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import signal
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule
from forecast.documents import write_atomically
from forecast.models.checkpoints import best_checkpoint, read_checkpoint
from forecast.models.devices import resolve_device
from forecast.models.forecaster import Forecaster
from forecast.models.heads import POSITION
from forecast.models.options import TrainerOptions
from forecast.models.parallel import Processes, quiet
from forecast.models.position import PositionForecaster

HISTORY = ("member", "epoch", "step", "train_loss", "validation_loss", "learning_rate", "seconds")


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the checkpoint and renames.

    Lightning writes to the system's folder for temporary files and moves, which between two file
    systems is a copy that a kill can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        temporary = Path(f"{path}.tmp")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, temporary)
        os.replace(temporary, path)


class History(pl.Callback):
    """Appends one line an epoch; on a resume, lines after the checkpoint are cut."""

    def __init__(self, path: Path, member: int) -> None:
        self.path, self.member = path, member

    def cut_back(self, step: int) -> None:
        """Keep earlier members, and this one up to a step."""
        kept = []
        if self.path.exists():
            with open(self.path, newline="") as file:
                for row in csv.DictReader(file):
                    whole = all(row.get(name) for name in HISTORY)
                    if whole and (int(row["member"]), int(row["step"])) <= (self.member, step):
                        kept.append(row)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, HISTORY)
        table.writeheader()
        table.writerows(kept)
        write_atomically(self.path, text.getvalue())

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Forecaster)
        train_loss = trainer.strategy.reduce(module.mean_train_loss, reduce_op="mean")
        loss = float(trainer.callback_metrics["validation_loss"])
        if not math.isfinite(loss):
            # Before a checkpoint is written, so that the same command ends here again.
            raise ForecastError(
                f"member {self.member + 1}: the validation loss became {loss}. Lower optimizer.lr="
                f"{module.optimizer_options.lr} or optimizer.clip={module.optimizer_options.clip}, "
                "or find the operation with trainer=debug."
            )
        row = {
            "member": self.member,
            "epoch": trainer.global_step // trainer.num_training_batches,
            "step": trainer.global_step,
            "train_loss": float(train_loss),
            "validation_loss": loss,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.perf_counter() - self._start,
        }
        if trainer.is_global_zero:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, HISTORY).writerow(row)

    def losses(self) -> list[float]:
        """Validation loss of each epoch of this member."""
        with open(self.path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["member"]) == self.member]
        return [float(row["validation_loss"]) for row in rows]


def fit_member(
    datamodule: PriceDataModule,
    *,
    folder: Path,
    member: int,
    network: Mapping[str, Any],
    head: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    loss: Mapping[str, Any],
    options: TrainerOptions,
    logger: Any = False,
    start: Path | None = None,
    progress: bool = False,
) -> str:
    """Train one member, or continue it where it was interrupted.

    Parameters
    ----------
    folder : Path
        The run folder: `checkpoints/member-<k>/{best,last}.ckpt` and `history.csv` go there.
    start : Path, optional
        A checkpoint of the same network to begin with, its standardisation included.

    Returns
    -------
    str
        One line for the terminal; empty if the member was finished before.

    Raises
    ------
    ForecastError
        The validation loss is no number, or a checkpoint is damaged.
    KeyboardInterrupt
        Ctrl-C; the next call continues.
    """
    checkpoints = best_checkpoint(folder, member).parent
    last = checkpoints / "last.ckpt"
    state = read_checkpoint(last) if last.exists() else None
    stopper = EarlyStopping(
        "validation_loss",
        patience=options.patience,
        check_on_train_epoch_end=True,
    )
    if state is not None and _finished(state, stopper, options, datamodule.steps):
        return ""
    if state is not None and _moved(state, checkpoints):
        state = None
    history = History(folder / "history.csv", member)
    history.cut_back(0 if state is None else int(state["global_step"]))
    arguments = {
        "network": network,
        "head": head,
        "optimizer": optimizer,
        "warmup": datamodule.task.warmup,
        "total_steps": datamodule.steps * options.max_epochs,
        "seed": datamodule.seed,
        "member": member,
        **loss,
    }
    module = (
        PositionForecaster(
            periods=datamodule.periods, dates=len(datamodule.panel.dates), **arguments
        )
        if head["name"] == POSITION
        else Forecaster(**arguments)
    )
    if start is None:
        module.network.standardise_with(datamodule.mean_F, datamodule.std_F)
    else:
        module.load_state_dict(read_checkpoint(start)["state_dict"])
    datamodule.member = member
    # Two, since Lightning's save_last saves no epoch that is not among the best.
    keeper, latest = (
        ModelCheckpoint(
            dirpath=checkpoints,
            filename=name,
            monitor=monitor,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        for name, monitor in (("best", "validation_loss"), ("last", None))
    )
    cpu = resolve_device(options.accelerator) == "cpu"
    several = Processes(cpu=cpu, devices=options.devices) if options.devices > 1 else None
    watched = several.watched() if several else contextlib.nullcontext()
    began, on_interrupt = time.perf_counter(), signal.getsignal(signal.SIGINT)
    # Each step seeds the global generator; a notebook's own must come back as it was.
    with torch.random.fork_rng(), warnings.catch_warnings(), watched:
        quiet()
        trainer = pl.Trainer(
            accelerator="cpu" if cpu else "gpu",
            devices=options.devices,
            strategy=several or "auto",
            use_distributed_sampler=False,  # each process takes its share of every batch
            max_epochs=options.max_epochs,
            gradient_clip_val=optimizer["clip"],
            detect_anomaly=options.detect_anomaly,
            callbacks=[history, stopper, keeper, latest],
            # This machine's own processes, also as a job of a cluster.
            plugins=[AtomicCheckpoints(), LightningEnvironment()],
            logger=logger,
            default_root_dir=folder,
            log_every_n_steps=datamodule.steps,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=progress,
        )
        try:
            trainer.fit(
                module, datamodule, ckpt_path=None if state is None else last, weights_only=True
            )
        except SystemExit:
            # Lightning makes Ctrl-C an exit of the whole program, and is deaf to the next one.
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from None
    losses = history.losses()  # the trainer knows nothing of what other processes did
    best = read_checkpoint(checkpoints / "best.ckpt")["global_step"]
    return (
        f"member {member + 1}: best validation loss {min(losses):.5f} in epoch "
        f"{best // datamodule.steps} of {len(losses)}, {time.perf_counter() - began:.1f} s"
    )


def _moved(state: Mapping[str, Any], folder: Path) -> bool:
    """Whether a checkpoint was written under another path.

    Lightning then forgets the best score; such a member starts afresh, which costs seconds and
    keeps the bytes.
    """
    keeper = next(v for k, v in state["callbacks"].items() if k.startswith("ModelCheckpoint"))
    return Path(keeper["dirpath"]) != folder.resolve()


def _finished(
    state: dict[str, Any], stopper: EarlyStopping, options: TrainerOptions, steps: int
) -> bool:
    """Whether a checkpoint is a member's last: killed after it was written, before the next."""
    waited = state["callbacks"][stopper.state_key]["wait_count"]
    return bool(waited >= options.patience or state["global_step"] >= options.max_epochs * steps)
