"""Loggers by name: an extra that is absent, or an option that is unknown, is told in one line."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import Logger

from forecast.config import ForecastError
from forecast.models import loggers, pipeline
from forecast.models.checkpoints import best_checkpoint, read_checkpoint
from forecast.models.forecaster import Forecaster
from forecast.models.loggers import check_logger, make_logger
from forecast.models.pipeline import fit_ensemble, make_datamodule
from forecast.prices.frame import Prices

MLFLOW = {"name": "mlflow", "tracking_uri": None, "experiment_name": "forecast"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether extras are there."""

    def installed(there: bool) -> None:
        spec = object() if there else None
        monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: spec)

    return installed


def test_the_csv_logger_is_none_of_lightnings(tmp_path: Path) -> None:
    assert make_logger({"name": "csv"}, tmp_path, 0) is False


@pytest.mark.parametrize("options", [{"name": "tensorboard"}, MLFLOW])
def test_a_missing_extra_is_one_line_with_the_command(
    options: dict[str, Any], installed: Callable[[bool], None]
) -> None:
    installed(False)
    name = options["name"]
    with pytest.raises(ForecastError) as caught:
        check_logger(options)
    assert str(caught.value) == (
        f"logger={name} is not installed: pip install -e '.[{name}]' (without a clone "
        f"'forecast[{name}]'), or use logger=csv."
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "wandb"}, "logger.name='wandb' is unknown: choose csv, tensorboard, mlflow"),
        ({}, "logger.name=None is unknown"),
        ({"name": "csv", "path": "x"}, "logger.path is unknown"),
        ({"name": "mlflow"}, "logger.tracking_uri is missing"),
        ({**MLFLOW, "experiment_name": 3}, "logger.experiment_name=3 is not text"),
    ],
)
def test_an_unknown_logger_or_option_is_refused(
    options: dict[str, Any], said: str, installed: Callable[[bool], None]
) -> None:
    installed(True)
    with pytest.raises(ForecastError, match=said):
        check_logger(options)


def test_checking_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_logger({"name": "csv"})
    if importlib.util.find_spec("tensorboard"):
        check_logger({"name": "tensorboard"})
    assert list(tmp_path.iterdir()) == []


class Spy(Logger):
    """Notes what it is told of a run's end."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[str] = []
        self.metrics: list[int] = []

    @property
    def name(self) -> str:
        return "spy"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.metrics.append(step or 0)

    def finalize(self, status: str) -> None:
        self.ends.append(status)


@pytest.mark.parametrize(("added", "end"), [(0.0, "success"), (math.nan, "failed")])
def test_the_logger_of_each_member_is_told_how_its_run_ended(
    config: Any,
    prices: Prices,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    added: float,
    end: str,
) -> None:
    spies, losses = [Spy(), Spy()], Forecaster.validation_losses
    monkeypatch.setattr(pipeline, "make_logger", lambda options, folder, member: spies[member])
    monkeypatch.setattr(Forecaster, "validation_losses", lambda self: losses(self) + added)
    chosen = config("trainer.max_epochs=2", "ensemble=2")
    data = make_datamodule(chosen, prices)
    ended = pytest.raises(ForecastError) if end == "failed" else contextlib.nullcontext()
    with ended:
        fit_ensemble(chosen, data, tmp_path, say=lambda line: None)
    assert [spy.ends for spy in spies] == [[end], [end]]
    assert all(len(spy.metrics) == (2 if end == "success" else 0) for spy in spies)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs the extra")
def test_tensorboard_files_lie_in_the_run_folder_and_change_no_bit(
    config: Any, prices: Prices, tmp_path: Path
) -> None:
    weights = []
    for name in ("csv", "tensorboard"):
        chosen = config(f"logger={name}", "trainer.max_epochs=2")
        folder = tmp_path / name
        fit_ensemble(chosen, make_datamodule(chosen, prices), folder, say=lambda line: None)
        weights.append(read_checkpoint(best_checkpoint(folder, 0))["state_dict"])
    events = list((tmp_path / "tensorboard" / "tensorboard" / "member-0").glob("events*"))
    assert len(events) == 1
    assert events[0].stat().st_size > 100
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
