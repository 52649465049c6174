"""Options are refused before anything is read or written, and before Lightning is loaded."""

from __future__ import annotations

import math
import multiprocessing
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast import compose
from forecast.config import ForecastError, plain
from forecast.models import options, recurrence
from forecast.models.options import Optimizer, TrainerOptions, check_options
from forecast.models.vectors import Processor

OPTIMIZER: dict[str, Any] = {
    "lr": 0.01, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.99,
    "schedule": "constant", "warmup_steps": 0, "clip": 1.0,
}  # fmt: skip


def test_options_are_checked_without_lightning() -> None:
    """A finished run is returned at once: importing Lightning takes longer than all the rest."""
    code = (
        "import sys\n"
        "from forecast import compose\n"
        "from forecast.config import plain\n"
        "from forecast.models.options import check_options\n"
        "assert check_options(plain(compose('train', ['trainer=cpu']))) == ('cpu', '')\n"
        "slow = ('pytorch_lightning', 'lightning_fabric', 'torch._dynamo', 'scipy.stats')\n"
        "assert not [name for name in slow if name in sys.modules]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_network_that_no_memory_holds_is_refused_in_one_line() -> None:
    config = plain(compose("train", ["trainer=cpu", "model.hidden_size=10000000"]))
    with pytest.raises(ForecastError, match=r"^model\.hidden_size=10000000 and .*Use fewer"):
        check_options(config)


# ------------------------------------------------------------------------------ schedule


def optimizer(**options: Any) -> Optimizer:
    return Optimizer(**{**OPTIMIZER, **options})


@given(step=st.integers(0, 500), total=st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_schedules_run_from_1_to_0(step: int, total: int) -> None:
    done = min(step / total, 1)
    assert optimizer(schedule="constant").factor(step, total) == 1
    assert optimizer(schedule="linear").factor(step, total) == pytest.approx(1 - done)
    cosine = optimizer(schedule="cosine").factor(step, total)
    assert cosine == pytest.approx((1 + math.cos(math.pi * done)) / 2)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_rises_over_the_warmup_steps_and_never_is_zero_before_the_end(
    schedule: str,
) -> None:
    made = optimizer(schedule=schedule, warmup_steps=10)
    rises = [made.factor(step, 1000) for step in range(12)]
    assert rises[0] == pytest.approx(0.1)
    assert all(a < b for a, b in zip(rises[:9], rises[1:10], strict=True))
    assert all(made.factor(step, 100) > 0 for step in range(100))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0), ("lr", -1.0), ("lr", math.nan), ("lr", math.inf), ("clip", 0.0),
        ("weight_decay", -1.0), ("weight_decay", math.nan), ("beta1", 1.0), ("beta1", -0.1),
        ("beta2", 2.0), ("warmup_steps", -1), ("schedule", "steps"),
    ],
)  # fmt: skip
def test_values_that_the_optimiser_cannot_take_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ForecastError, match=rf"optimizer\.{key}") as caught:
        optimizer(**{key: value})
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------- trainer


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accelerator": "tpu"}, "trainer.accelerator='tpu'"),
        ({"max_epochs": 0}, "trainer.max_epochs=0"),
        ({"patience": 0}, "trainer.patience=0"),
        ({"devices": 0}, "trainer.devices=0"),
    ],
)
def test_wrong_options_of_the_trainer_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ForecastError, match=said):
        TrainerOptions(**{"accelerator": "cpu", "max_epochs": 1, "patience": 1, **changes})


@pytest.mark.parametrize(("bits", "device"), [(0, "cpu"), (512, "cuda some")])
def test_compiled_kernels_are_refused_where_there_are_none(
    bits: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "resolve_device", lambda accelerator: device)
    monkeypatch.setattr(recurrence, "processor", lambda: Processor(bits, 32))
    for kernel in ("auto", "torch"):
        check_options(plain(compose("train", [f"model.kernel={kernel}"])))
    with pytest.raises(ForecastError, match=r"kernel=fused is for CPUs.*Use model\.kernel=auto"):
        check_options(plain(compose("train", ["model.kernel=fused"])))


def options_of(*overrides: str, name: str = "train") -> dict[str, Any]:
    return plain(compose(name, ["trainer=ddp", "trainer.accelerator=cpu", *overrides]))


def test_several_devices_train_forecasts_from_the_command_line() -> None:
    assert check_options(options_of()) == ("cpu", "")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (("train", "head=position", "horizons=[1]", "target.delay=1"), "head=position: a Sharpe"),
        (("backtest",), "parallel over its fits: leave trainer=ddp out and use backtest.jobs"),
        (("train", "trainer.devices=1.5"), "trainer.devices=1.5 is not a whole number"),
    ],
)
def test_what_several_devices_cannot_train_is_refused(config: tuple[str, ...], said: str) -> None:
    name, *overrides = config
    with pytest.raises(ForecastError, match=said) as caught:
        check_options(options_of(*overrides, name=name))
    assert "\n" not in str(caught.value)


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ForecastError, match=r"trainer\.devices=2: torch sees 1 GPU here"):
        check_options(options_of("trainer.accelerator=gpu"))


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (sys, "ps1", ">>> "),  # a notebook
        (sys.modules["__main__"], "__file__", "<stdin>"),
        (multiprocessing.current_process(), "_inheriting", True),  # a script without the line
    ],
)
def test_processes_are_not_started_by_what_they_cannot_import(
    where: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, value, raising=False)
    with pytest.raises(ForecastError, match="import what starts them"):
        check_options(options_of())
    assert check_options(options_of("trainer.devices=1")) == ("cpu", "")
