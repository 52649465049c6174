"""Processes that train one network together: as one would, and not to be killed.

Where there is no dropout they give what one process gives but for the order in which float32
numbers are added: losses within 1e-6, weights within 1e-4 of their size (here 2e-7 and 2e-5).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from forecast import compose, load_prices
from forecast.config import ForecastError, plain
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.windows import Batch, TrainingBatches
from forecast.models.checkpoints import best_checkpoint, read_checkpoint
from forecast.models.forecaster import Forecaster
from forecast.models.parallel import Processes
from forecast.models.pipeline import fit_ensemble, make_datamodule

# Three blocks of symbols are validated by two processes, and some batches have an odd number of
# windows.
OVERRIDES = [
    "data=simulated", "data.process=garch", "data.n_symbols=70", "data.n_sessions=400",
    "data.staggered=true", "horizons=[1,5]", "window.length=60", "window.warmup=25",
    "window.batch=33", "split.validation=60", "model.hidden_size=4", "model.layers=2",
    "model.dropout=0", "model.input_dropout=0", "optimizer.lr=0.001", "trainer=ddp",
    "trainer.accelerator=cpu", "trainer.max_epochs=5", "trainer.patience=5", "ensemble=1",
]  # fmt: skip


def trained(folder: Path, *overrides: str) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """History and weights; where a run was interrupted it is continued."""
    config = plain(compose("train", [*OVERRIDES, *overrides]))
    datamodule = make_datamodule(config, load_prices(config["data"]))
    fit_ensemble(config, datamodule, folder, say=lambda line: None)
    history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
    return history, read_checkpoint(best_checkpoint(folder, 0))["state_dict"]


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def killed(command: list[str], outputs: Path) -> tuple[int, int]:
    """Kill a command after an epoch; how many processes it had, and has 5 seconds later at most."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as parent:
        while parent.poll() is None and not list(outputs.glob("*/checkpoints/*/last.ckpt")):
            time.sleep(0.005)
        started = children(parent.pid)
        parent.send_signal(signal.SIGKILL)
    deadline, left = time.monotonic() + 5, started
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
        time.sleep(0.02)
    return len(started), len(left)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_two_processes_train_as_one_does_and_when_killed_go_on_as_if_never_killed(
    tmp_path: Path,
) -> None:
    outputs = tmp_path / "killed"
    command = [sys.executable, "-m", "forecast.train", *OVERRIDES, f"outputs={outputs}"]
    with ThreadPoolExecutor() as pool:  # most of the time is that of imports
        job = pool.submit(killed, command, outputs)
        one_history, one_weights = trained(tmp_path / "one", "trainer.devices=1")
        history, weights = trained(tmp_path / "whole")
        started, left = job.result()
    assert started >= 2 and left == 0

    pd.testing.assert_frame_equal(history, one_history, rtol=1e-6)
    for name, value in one_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)

    (run,) = outputs.glob("lstm-*")
    assert 1 <= len(pd.read_csv(run / "history.csv")) < len(history), "killed in the middle"
    again, weights_again = trained(run)
    pd.testing.assert_frame_equal(again, history, check_exact=True)
    assert all(torch.equal(value, weights_again[name]) for name, value in weights.items())


@pytest.mark.parametrize("devices", [2, 3, 40])
def test_gradients_of_all_shares_together_are_those_of_the_batch(
    datamodule: PriceDataModule, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However unequal what counts in the shares is; 40 processes are more than windows."""
    task, tensors = datamodule.task, datamodule.tensors("cpu")
    arguments = {"windows": datamodule.windows, "tensors": tensors, "steps": datamodule.steps}
    arguments |= {"seed": 0, "members": lambda: (0,), "steps_done": lambda: 0}
    optimizer = plain(compose("train"))["optimizer"]
    network = {"cell": "lstm", "features": tensors.values_NF.shape[1], "hidden_size": 4}
    module = Forecaster(
        network={**network, "horizons": 2, "parameters": 3}, head={"name": "student_t"},
        optimizer=optimizer, warmup=task.warmup, total_steps=1, seed=0, members=[0],
        horizon_weights=[1.0, 0.2],
    )  # fmt: skip

    def gradients(batch: Batch) -> list[torch.Tensor]:
        module.zero_grad()
        module.batch_loss(batch).backward()
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]

    def thinned(batch: Batch, rank: int) -> Batch:
        """All but the first share lose nearly all of what counts."""
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        values["mask_BLH"] = batch.mask_BLH.clone()
        values["mask_BLH"][:, :, : -2 if rank else None] &= rank == 0
        return Batch(**values)

    shares = [
        thinned(next(iter(TrainingBatches(**arguments, rank=rank, devices=devices))), rank)
        for rank in range(devices)
    ]
    together = Batch(
        **{
            name: torch.cat([getattr(share, name) for share in shares], dim=1)
            for name in ("x_BLF", "y_BLH", "mask_BLH", "scale_BL", "day_BL")
        }
    )
    expected = gradients(together)
    counts = together.mask_BLH[:, :, task.warmup :] * module.weight_H
    module.devices = devices
    monkeypatch.setattr(module, "_over_all", lambda weight: counts.sum())
    of_shares = [gradients(share) for share in shares]
    for i, whole in enumerate(expected):
        mean = torch.stack([each[i] for each in of_shares]).mean(0)
        torch.testing.assert_close(mean, whole, rtol=1e-4, atol=1e-7)


# --------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ProcessRaisedException(
                "\n\n-- Process 0 terminated with the following error:\nTraceback (most recent "
                "call last):\n  …\nforecast.config.ForecastError: member 1: the loss became nan.\n",
                0,
                1,
            ),
            r"^member 1: the loss became nan\.$",
        ),
        (
            ProcessExitedException("", 0, 1, exit_code=-9, signal_name="SIGKILL"),
            "was killed, perhaps for want of memory",
        ),
        (ProcessExitedException("", 0, 1, exit_code=1), "could not start"),
    ],
)
def test_what_went_wrong_in_a_process_is_told_in_one_line(error: Exception, said: str) -> None:
    port = os.environ.get("MASTER_PORT")
    with pytest.raises(ForecastError, match=said), Processes(cpu=True, devices=2).watched():
        os.environ["MASTER_PORT"] = "1"
        raise error
    assert os.environ.get("MASTER_PORT") == port


def test_what_is_no_error_of_ours_keeps_its_traceback() -> None:
    error = ProcessRaisedException("-- Process 1 …\nValueError: what", 1, 1)
    with pytest.raises(ProcessRaisedException), Processes(cpu=True, devices=2).watched():
        raise error
