"""What a configuration says of training, and what is refused before anything is read or written.

Nothing here loads Lightning: a finished run is returned without it.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from forecast.config import ForecastError, check, instantiate
from forecast.dataset.features import FeatureSet
from forecast.dataset.panel import make_panel
from forecast.models.choice import states_positions
from forecast.models.configured import Config, make_task
from forecast.models.devices import resolve_device
from forecast.models.loggers import check_logger
from forecast.models.named_heads import make_head, own_head_sha256
from forecast.models.networks import Network
from forecast.models.recurrence import compiles
from forecast.prices import OF_THE_PANEL

MODEL = (
    "cell", "hidden_size", "layers", "dropout", "input_dropout", "skip", "bidirectional", "kernel",
)  # fmt: skip
PRECISIONS = ("tf32", "float32", "bf16")
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


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How errors are weighed.

    Parameters
    ----------
    clip : float
        Scaled targets beyond ± this count as this in the loss: a stock that did not trade for
        months and then jumped is no hundred-sigma event to learn from.
    horizon_weights : sequence of float, optional
        Weight of each horizon in the loss; equal by default.
    """

    clip: float = math.inf
    horizon_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ForecastError(f"loss.clip={self.clip} must be above 0 scaled units.")

    def weights(self, horizons: int) -> list[float]:
        """One weight for each of so many horizons.

        Raises
        ------
        ForecastError
            There are more or fewer, all are 0, or one is negative or not finite.
        """
        given = self.horizon_weights
        weights = [1.0] * horizons if given is None else list(given)
        sound = all(0 <= w < math.inf for w in weights) and sum(weights) > 0
        if len(weights) != horizons or not sound:
            raise ForecastError(
                f"loss.horizon_weights={weights} must hold one finite weight ≥ 0 for each of the "
                f"{horizons} horizons, not all 0."
            )
        return weights


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long and where to train.

    Parameters
    ----------
    accelerator : str
        auto | cpu | gpu.
    max_epochs : int
        Passes over the training rows at most.
    patience : int
        Epochs without a better validation loss before a member stops.
    detect_anomaly : bool
        Stop at the operation that makes a NaN.
    devices : int
        Processes, or GPUs, that train one network together.
    precision : str
        Of products on a GPU while it trains: tf32 | float32 | bf16.
    """

    accelerator: str
    max_epochs: int
    patience: int
    detect_anomaly: bool = False
    devices: int = 1
    precision: str = "tf32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ForecastError(
                f"trainer.precision={self.precision!r} is unknown: choose {', '.join(PRECISIONS)}."
            )
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise ForecastError(
                f"trainer.accelerator={self.accelerator!r} is unknown: choose auto, cpu or gpu."
            )
        if self.max_epochs < 1 or self.patience < 1:
            raise ForecastError(
                f"trainer.max_epochs={self.max_epochs} and trainer.patience={self.patience} must "
                "be 1 or more."
            )
        if self.devices < 1:
            raise ForecastError(f"trainer.devices={self.devices} must be 1 or more.")


def loss_options(config: Config) -> dict[str, Any]:
    """The section `loss`, horizons weighted by 1/h unless it says otherwise.

    Targets over h sessions overlap, so as many of them hold 1/h of the information; at equal
    weights early stopping follows the noise of the longest horizon.
    """
    options = dict(config["loss"])
    if options["horizon_weights"] is None:
        options["horizon_weights"] = [1 / h for h in config["horizons"]]
    return options


def check_options(config: Config) -> tuple[str, str]:
    """Refuse wrong options before anything is read or written.

    Returns
    -------
    device : str
        What the trainer's accelerator means here.
    own : str
        sha256 of the code of own features and of an own head; empty without any.
    """
    task, head = make_task(config), make_head(config["head"])
    check(config["model"], "model", Network, only=MODEL)
    instantiate(config["optimizer"], "optimizer", Optimizer)
    features = instantiate(config["features"], "features", FeatureSet)
    check(config["loss"], "loss", Loss, only=("clip", "horizon_weights"))
    # Refuses wrong values, with nobody's random numbers; on the meta device the first draw would
    # import torch's compiler.
    sizes: dict[str, Any] = {"features": 1, "horizons": len(task.horizons), "parameters": head.size}
    try:
        with torch.random.fork_rng(devices=[]):
            Network(**config["model"], **sizes)
    except RuntimeError as error:  # torch has no class of its own for want of memory on a CPU
        model = config["model"]
        raise ForecastError(
            f"model.hidden_size={model['hidden_size']} and model.layers={model['layers']}: a "
            "network of so many weights does not fit into memory. Use fewer units or layers."
        ) from error
    Loss(**loss_options(config)).weights(len(task.horizons))
    panel = {k: v for k, v in config["data"].items() if k in OF_THE_PANEL}
    check(panel, "data", make_panel, only=OF_THE_PANEL)
    check_logger(config["logger"])
    options = cast(TrainerOptions, instantiate(config["trainer"], "trainer", TrainerOptions))
    own = features.own_sha256 + own_head_sha256(config["head"]["name"])
    device = resolve_device(options.accelerator)
    if options.devices > 1:
        _check_several(config, options.devices, device)
    if config["model"]["kernel"] == "fused" and (device != "cpu" or not compiles(torch.empty(0))):
        raise ForecastError(
            "model.kernel=fused is for CPUs with AVX2, AVX-512 or NEON. Use model.kernel=auto."
        )
    return device, own


def _check_several(config: Config, devices: int, device: str) -> None:
    """Refuse what several devices cannot train together, or cannot be started from here."""
    asked = f"trainer.devices={devices}"
    if "backtest" in config:
        raise ForecastError(
            f"{asked} trains one network of forecast.train; a backtest is parallel over its fits: "
            "leave trainer=ddp out and use backtest.jobs."
        )
    if states_positions(config):
        raise ForecastError(
            f"{asked} with head=position: a Sharpe ratio over all dates cannot be split between "
            "devices. Leave trainer=ddp out."
        )
    if device != "cpu" and torch.cuda.device_count() < devices:
        raise ForecastError(
            f"{asked}: torch sees {torch.cuda.device_count()} GPU here. Use as many, or "
            "trainer.accelerator=cpu."
        )
    if not _importable():
        raise ForecastError(
            f"{asked} starts processes, which import what starts them: that cannot be a notebook, "
            "standard input, or a script that calls train without the line if __name__ == "
            "'__main__': before it. Use python -m forecast.train, or add the line."
        )


def _importable() -> bool:
    """Whether a process that is started here can import the program without running it again.

    Without the line it would come by here, and wait for the lock of the one that started it.
    """
    again = getattr(multiprocessing.current_process(), "_inheriting", False)
    file = getattr(sys.modules["__main__"], "__file__", None)
    return not (again or hasattr(sys, "ps1") or (file is not None and not Path(file).exists()))
