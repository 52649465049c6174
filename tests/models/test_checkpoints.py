"""Checkpoints as they are read: tensors and primitives, or nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule
from forecast.models.checkpoints import best_checkpoint
from forecast.models.ensemble import load_ensemble
from forecast.models.pipeline import fit_ensemble


class Payload:
    """Pickled, it would create a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["torch", "pickle", "torn", "empty", "other"])
def test_a_checkpoint_that_is_no_checkpoint_is_refused_and_nothing_runs(
    config: Any, datamodule: PriceDataModule, tmp_path: Path, kind: str
) -> None:
    marker, run = tmp_path / "executed", tmp_path / "run"

    def fit() -> None:
        fit_ensemble(config(), datamodule, run, say=lambda line: None)

    fit()
    for name in ("best.ckpt", "last.ckpt"):
        path = best_checkpoint(run, 0).with_name(name)
        if kind == "torch":
            torch.save({"state_dict": Payload(marker), "hyper_parameters": {}}, path)
        elif kind == "pickle":
            path.write_bytes(pickle.dumps(Payload(marker)))
        elif kind == "other":
            torch.save([1, 2, 3], path)
        else:
            os.truncate(path, 0 if kind == "empty" else 1000)
    for use in (fit, lambda: load_ensemble(run, members=1, task=datamodule.task)):
        with pytest.raises(ForecastError, match="not loaded. Repeat the run with force") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert not marker.exists()
