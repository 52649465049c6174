"""Where the milliseconds of the default run are: of a training step, and of the whole command.

    python benchmarks/profile_run.py              # or with options, as of forecast.train: model=gru

The step is the real one: its parts are told apart by hooks on the network's modules and on the
gradient that reaches the recurrence. The command is `forecast.train` in this process, after the
imports, into a temporary folder; beside it stands the same command as a user calls it.
"""

from __future__ import annotations

import argparse
import io
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

START = time.perf_counter()  # before torch and all that comes with it

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.modules.module import (  # noqa: E402
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from training import fit, replaced  # noqa: E402

import forecast.evaluation.scores  # noqa: E402, F401
import forecast.report.page  # noqa: E402, F401
from forecast import compose, load_prices  # noqa: E402
from forecast.config import plain  # noqa: E402
from forecast.dataset.datamodule import PriceDataModule  # noqa: E402
from forecast.dataset.windows import PanelTensors  # noqa: E402
from forecast.models import networks  # noqa: E402
from forecast.models.configured import Config  # noqa: E402
from forecast.models.devices import torch_threads  # noqa: E402
from forecast.models.forecaster import Forecaster  # noqa: E402
from forecast.models.pipeline import make_datamodule  # noqa: E402
from forecast.train import train  # noqa: E402

IMPORTED = time.perf_counter() - START

PARTS = (
    "gather",
    "standardise, input dropout",
    "recurrence, forward",
    "read-out",
    "loss",
    "loss and read-out, backward",
    "recurrence, backward",
    "clipping, optimiser",
    "Trainer",
)
# What the command calls, by module: the attribute is replaced by a timed one while it runs.
PHASES = (
    ("prices", "forecast.prices", "load_prices"),
    ("panel", "forecast.models.pipeline", "make_datamodule"),
    ("fit, validation included", "forecast.models.pipeline", "fit_ensemble"),
    ("forecasts", "forecast.models.pipeline", "write_forecasts"),
    ("scores", "forecast.evaluation.scores", "Scores.add"),
    ("scores", "forecast.evaluation.scores", "Scores.summary"),
    ("report", "forecast.report.page", "write_report"),
)


class Laps(pl.Callback):
    """Seconds of a step from one point to the next, by what was done between them.

    Lightning calls the points that it knows, hooks in the network the others. A step lasts from the
    end of the one before to its own end; the first of an epoch does not count.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.now: dict[str, float] = {}
        self.last = 0.0
        self.targets = 0

    def done(self, name: str) -> None:
        now = time.perf_counter()
        self.now[name] = self.now.get(name, 0.0) + now - self.last
        self.last = now

    def gathering(self) -> None:
        self.done("Trainer")

    def reading(self) -> None:
        """A layer begins, the first or another one."""
        inside = "recurrence, forward" in self.now
        self.done("recurrence, forward" if inside else "standardise, input dropout")

    def read(self, hidden: Tensor) -> None:
        """A layer is done."""
        self.done("recurrence, forward")
        self.hidden = hidden

    def on_train_batch_start(self, *_: Any) -> None:
        self.done("Trainer")

    def on_before_backward(self, *_: Any) -> None:
        self.done("loss")
        if self.hidden.requires_grad:
            self.hidden.register_hook(lambda slope: self.done("loss and read-out, backward"))

    def on_after_backward(self, *_: Any) -> None:
        self.done("recurrence, backward")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.done("clipping, optimiser")
        if batch_idx:
            self.steps.append(self.now)
            self.targets += int(batch.mask_BLH.any(-1).sum())
        self.now, self.last = {}, time.perf_counter()


@contextmanager
def watched(laps: Laps) -> Iterator[None]:
    """Points within a step: gathering, the recurrence, compiled or of torch, the read-out."""

    def gather(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            laps.gathering()
            batch = work(*arguments)
            laps.done("gather")
            return batch

        return call

    def read_layer(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            laps.reading()
            result = work(*arguments)
            laps.read(result[0])
            return result

        return call

    def whole(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            raw = work(*arguments)
            laps.done("read-out")
            return raw

        return call

    def before(module: nn.Module, given: Any) -> None:
        if isinstance(module, nn.RNNBase):
            laps.reading()

    def after(module: nn.Module, given: Any, result: Any) -> None:
        if isinstance(module, nn.RNNBase):
            laps.read(result[0])

    with ExitStack() as stack:
        stack.enter_context(replaced(PanelTensors, "gather", gather))
        stack.enter_context(replaced(Forecaster, "read", whole))
        stack.enter_context(replaced(networks, "read_layer", read_layer))
        for hook in (register_module_forward_pre_hook(before), register_module_forward_hook(after)):
            stack.callback(hook.remove)
        yield


def step_parts(
    datamodule: PriceDataModule, config: Config, steps: int
) -> tuple[dict[str, float], float]:
    """Median seconds of each part of a training step and of the whole, and its targets."""
    laps = Laps()
    with watched(laps):
        fit(datamodule, config, max(2, round(steps / datamodule.steps)), laps)
    parts = {n: statistics.median(step.get(n, 0.0) for step in laps.steps) for n in PARTS}
    parts["whole"] = statistics.median(sum(step.values()) for step in laps.steps)
    return parts, laps.targets / len(laps.steps)


def print_step(datamodule: PriceDataModule, config: Config, steps: int) -> None:
    parts, targets = step_parts(datamodule, config, steps)
    whole = parts.pop("whole")
    print(
        f"A training step: {1e3 * whole:.2f} ms for {targets:,.0f} targets of all networks, "
        f"{targets / whole:,.0f} a second"
    )
    for name, value in parts.items():
        print(f"  {name:32s} {1e3 * value:8.2f} ms {100 * value / whole:5.1f} %")


@contextmanager
def phases(spent: dict[str, float]) -> Iterator[None]:
    """Time what the command calls, while it runs; validation passes within the fit too."""

    def timed(name: str) -> Callable[..., Any]:
        def make(work: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                spent[name] -= time.perf_counter()
                try:
                    return work(*arguments, **options)
                finally:
                    spent[name] += time.perf_counter()

            return call

        return make

    def started(work: Callable[..., None]) -> Callable[..., None]:
        def call(module: pl.LightningModule) -> None:
            spent["validation"] -= time.perf_counter()
            work(module)

        return call

    def ended(work: Callable[..., None]) -> Callable[..., None]:
        def call(module: pl.LightningModule) -> None:
            work(module)
            spent["validation"] += time.perf_counter()

        return call

    with ExitStack() as stack:
        for name, module, path in PHASES:
            owner, (*classes, attribute) = import_module(module), path.split(".")
            for part in classes:
                owner = getattr(owner, part)
            stack.enter_context(replaced(owner, attribute, timed(name)))
        for attribute, make in (
            ("on_validation_epoch_start", started),
            ("on_validation_epoch_end", ended),
        ):
            stack.enter_context(replaced(Forecaster, attribute, make))
        yield


def print_command(overrides: list[str]) -> None:
    spent: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as name:
        words = [*overrides, "progress=false", f"outputs={name}/here"]
        start = time.perf_counter()
        with phases(spent), redirect_stdout(io.StringIO()):
            train(compose("train", words))
        whole = time.perf_counter() - start
        words[-1] = f"outputs={name}/there"
        start = time.perf_counter()
        command = [sys.executable, "-m", "forecast.train", *words]
        subprocess.run(command, check=True, capture_output=True)
        called = time.perf_counter() - start
    spent["fit without validation"] = spent.pop("fit, validation included") - spent["validation"]
    told = {"imports": IMPORTED, **spent}
    told["composing, files, hashes, the rest"] = whole + IMPORTED - sum(told.values())
    print(f"The command: {called:.2f} s as called, {whole + IMPORTED:.2f} s here")
    for name, value in told.items():
        print(f"  {name:32s} {1e3 * value:8.0f} ms {100 * value / (whole + IMPORTED):5.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="options of forecast.train")
    parser.add_argument("--steps", type=int, default=100, help="of which the parts are timed")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    config = plain(compose("train", ["trainer=cpu", *options.overrides]))
    threads = config["threads"] or torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads")
    print_command(["trainer=cpu", *options.overrides])  # first, since panels are kept
    datamodule = make_datamodule(config, load_prices(config["data"]))
    with torch_threads(config["threads"]):
        print_step(datamodule, config, options.steps)


if __name__ == "__main__":
    main()
