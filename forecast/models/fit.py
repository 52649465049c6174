"""Training members of an ensemble: Lightning's Trainer, checkpoints, resume and `history.csv`."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule
from forecast.documents import write_atomically
from forecast.models.checkpoints import best_checkpoint, network_state, read_checkpoint
from forecast.models.devices import gpu_precision, resolve_device
from forecast.models.forecaster import Forecaster
from forecast.models.heads import POSITION
from forecast.models.networks import Network
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


class Members(pl.Callback):
    """What becomes of each member: its history, its best weights, and when it stops.

    A member stops after `patience` epochs without a better validation loss; the others go on. Its
    best weights are written as if it was trained alone: a file for `read_checkpoint`, which holds
    the network and what it was made with, and nothing of Lightning.
    """

    def __init__(
        self, folder: Path, members: Sequence[int], *, patience: int, loggers: Sequence[Any]
    ) -> None:
        self.folder, self.members, self.patience = folder, list(members), patience
        self.loggers = loggers
        self.path = folder / "history.csv"
        self.best = [math.inf] * len(self.members)
        self.waited = [0] * len(self.members)

    @property
    def last(self) -> Path:
        """The checkpoint that the members are continued from, all of them."""
        return self._last(self.members[0])

    def _last(self, member: int) -> Path:
        return best_checkpoint(self.folder, member).with_name("last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.waited = list(state_dict["best"]), list(state_dict["waited"])

    def finished(self, steps: int) -> list[int]:
        """Those of the members whose checkpoint, alone or with others, leaves nothing to do."""
        done: list[int] = []
        for member in self.members:
            path = self._last(member)
            state = read_checkpoint(path) if path.exists() else None
            if state is not None:
                waited = state["callbacks"][self.state_key]["waited"]
                if min(waited) >= self.patience or state["global_step"] >= steps:
                    done.extend(state["hyper_parameters"]["members"])
        return [member for member in self.members if member in done]

    def rows(self) -> list[dict[str, str]]:
        """Of all members, as far as they are whole, in order."""
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if all(row.get(n) for n in HISTORY)]
        return sorted(rows, key=lambda row: (int(row["member"]), int(row["step"])))

    def keep(self, step: int | None) -> None:
        """Write the history anew: of these members up to a step, if one is given, and in order."""
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, HISTORY)
        table.writeheader()
        for row in self.rows():
            own = int(row["member"]) in self.members
            if not own or step is None or int(row["step"]) <= step:
                table.writerow(row)
        if not self.path.exists() or self.path.read_bytes() != text.getvalue().encode():
            write_atomically(self.path, text.getvalue())

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Forecaster)
        module.active = [k for k, waited in enumerate(self.waited) if waited < self.patience]
        for logger, member in zip(self.loggers, self.members, strict=bool(self.loggers)):
            logger.log_hyperparams(hyper_parameters(module, member))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._finalize("success")

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._finalize("failed")

    def _finalize(self, status: str) -> None:
        for logger in self.loggers:
            logger.finalize(status)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Forecaster)
        train_losses = trainer.strategy.reduce(module.train_losses, reduce_op="mean")
        losses, step = module.validation_loss.tolist(), trainer.global_step
        seconds = (time.perf_counter() - self._start) / len(losses)
        rows = []
        for k, train_loss, loss in zip(
            module.active, cast(Tensor, train_losses).tolist(), losses, strict=True
        ):
            if not math.isfinite(loss):
                # Before a checkpoint is written, so that the same command ends here again.
                raise ForecastError(
                    f"member {self.members[k] + 1}: the validation loss became {loss}. Lower "
                    f"optimizer.lr={module.optimizer_options.lr} or optimizer.clip="
                    f"{module.optimizer_options.clip}, or find the operation with trainer=debug."
                )
            rows.append(
                {
                    "member": self.members[k],
                    "epoch": step // trainer.num_training_batches,
                    "step": step,
                    "train_loss": train_loss,
                    "validation_loss": loss,
                    "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                    "seconds": seconds,
                }
            )
        if trainer.is_global_zero:
            self._write(module, rows, step)
        for k, loss in zip(module.active, losses, strict=True):
            better = loss < self.best[k]
            self.best[k] = loss if better else self.best[k]
            self.waited[k] = 0 if better else self.waited[k] + 1
        module.active = [k for k in module.active if self.waited[k] < self.patience]
        trainer.should_stop = not module.active
        trainer.save_checkpoint(self.last)

    def _write(self, module: Forecaster, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Rows of the history, and the weights of those that became better."""
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, HISTORY).writerows(rows)
        for k, row in zip(module.active, rows, strict=True):
            member = self.members[k]
            if row["validation_loss"] < self.best[k]:
                network = module.networks[k].state_dict()
                checkpoint = {
                    "state_dict": {f"network.{name}": value for name, value in network.items()},
                    "hyper_parameters": hyper_parameters(module, member),
                    "global_step": step,
                }
                AtomicCheckpoints().save_checkpoint(
                    checkpoint, best_checkpoint(self.folder, member)
                )
            if self.loggers:
                told = {name: row[name] for name in ("train_loss", "validation_loss")}
                self.loggers[k].log_metrics({**told, "epoch": row["epoch"]}, step=step)

    def said(self, steps: int) -> list[str]:
        """A line for each member."""
        lines = []
        for member in self.members:
            rows = [row for row in self.rows() if int(row["member"]) == member]
            best = read_checkpoint(best_checkpoint(self.folder, member))["global_step"]
            loss = min(float(row["validation_loss"]) for row in rows)
            seconds = sum(float(row["seconds"]) for row in rows)
            lines.append(
                f"member {member + 1}: best validation loss {loss:.5f} in epoch {best // steps} "
                f"of {len(rows)}, {seconds:.1f} s"
            )
        return lines


def hyper_parameters(module: Forecaster, member: int) -> dict[str, Any]:
    """Arguments of a `Forecaster` of this member alone."""
    return {**module.hparams, "members": [member]}


def fit_members(
    datamodule: PriceDataModule,
    *,
    folder: Path,
    members: Sequence[int],
    network: Mapping[str, Any],
    head: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    loss: Mapping[str, Any],
    options: TrainerOptions,
    loggers: Sequence[Any] = (),
    start: Path | None = None,
    progress: bool = False,
) -> list[str]:
    """Train members of an ensemble together, or continue them where they were interrupted.

    Each ends with the weights that it would have if it were trained alone.

    Parameters
    ----------
    folder : Path
        The run folder: `checkpoints/member-<k>/best.ckpt` and `history.csv` go there, and beside
        the first member's best checkpoint `last.ckpt`, from which all of them are continued.
    loggers : sequence of Lightning's loggers, optional
        One for each member.
    start : Path, optional
        The folder of members of the same network to begin with, standardisation included.

    Returns
    -------
    list of str
        A line for each member; none if they were finished before.

    Raises
    ------
    ForecastError
        The validation loss is no number, or a checkpoint is damaged.
    KeyboardInterrupt
        Ctrl-C; the next call continues.
    """
    told = Members(folder, members, patience=options.patience, loggers=loggers)
    total = datamodule.steps * options.max_epochs
    if done := told.finished(total):
        told.keep(None)  # in order; the process may have been killed before
        left = [k for k, member in enumerate(members) if member not in done]
        members, loggers = [members[k] for k in left], [loggers[k] for k in left if loggers]
        if not members:
            return []
        told = Members(folder, members, patience=options.patience, loggers=loggers)
    state = read_checkpoint(told.last) if told.last.exists() else None
    if state is not None and state["hyper_parameters"]["members"] != list(members):
        state = None
    told.keep(0 if state is None else int(state["global_step"]))
    arguments = {
        "network": network,
        "head": head,
        "optimizer": optimizer,
        "warmup": datamodule.task.warmup,
        "total_steps": total,
        "seed": datamodule.seed,
        "members": list(members),
        **loss,
    }
    module = (
        PositionForecaster(
            periods=datamodule.periods, dates=len(datamodule.panel.dates), **arguments
        )
        if head["name"] == POSITION
        else Forecaster(**arguments)
    )
    for member, own in zip(members, module.networks, strict=True):
        assert isinstance(own, Network)
        if start is None:
            own.standardise_with(datamodule.mean_F, datamodule.std_F)
        else:
            own.load_state_dict(network_state(read_checkpoint(best_checkpoint(start, member))))
    # No lambda: processes that train together are sent the datamodule.
    datamodule.members = partial(getattr, module, "active_members")
    cpu = resolve_device(options.accelerator) == "cpu"
    several = Processes(cpu=cpu, devices=options.devices) if options.devices > 1 else None
    watched = several.watched() if several else contextlib.nullcontext()
    on_interrupt = signal.getsignal(signal.SIGINT)
    rounded = contextlib.nullcontext() if cpu else gpu_precision(options.precision)
    # Each step seeds the global generator; a notebook's own must come back as it was.
    with torch.random.fork_rng(), warnings.catch_warnings(), watched, rounded:
        quiet()
        trainer = pl.Trainer(
            accelerator="cpu" if cpu else "gpu",
            devices=options.devices,
            strategy=several or "auto",
            use_distributed_sampler=False,  # each process takes its share of every batch
            max_epochs=options.max_epochs,
            precision="bf16-mixed" if options.precision == "bf16" and not cpu else "32-true",
            gradient_clip_val=optimizer["clip"],
            detect_anomaly=options.detect_anomaly,
            callbacks=[told],
            # This machine's own processes, also as a job of a cluster.
            plugins=[AtomicCheckpoints(), LightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            default_root_dir=folder,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=progress,
        )
        try:
            trainer.fit(
                module, datamodule, ckpt_path=None if state is None else told.last,
                weights_only=True,
            )  # fmt: skip
        except SystemExit:
            # Lightning makes Ctrl-C an exit of the whole program, and is deaf to the next one.
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from None
    told.keep(None)
    return told.said(datamodule.steps)  # from files: the trainer knows nothing of other processes
