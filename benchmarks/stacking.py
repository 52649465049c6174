"""A fit of some members, so many of them at once: what `recurrence.py` times here and in processes.

A pool's processes find what they run by its name, so it stands in a module of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from training import replaced

from forecast import compose, load_prices
from forecast.config import plain
from forecast.dataset.datamodule import PriceDataModule
from forecast.models import pipeline
from forecast.models.configured import Config
from forecast.models.pipeline import fit_ensemble, make_datamodule


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@cache
def workload(cell: str) -> tuple[Config, PriceDataModule]:
    """Four epochs on the bundled panel."""
    config = plain(compose("train", [f"model={cell}", "trainer=cpu", "trainer.max_epochs=4"]))
    return config, make_datamodule(config, load_prices("sp500"))


def fitted(config: Config, datamodule: PriceDataModule, members: int, together: int) -> float:
    """Seconds of a fit of so many members, so many of them at once."""
    asked = {**config, "ensemble": members}
    stacked = replaced(pipeline, "TOGETHER", lambda _: together)
    with tempfile.TemporaryDirectory() as folder, stacked:
        return seconds(lambda: fit_ensemble(asked, datamodule, Path(folder), say=lambda line: None))


def trial(cell: str, members: int) -> None:
    """One trial of a sweep in a process of a pool, whose workers keep prices and panel."""
    torch.set_num_threads(1)
    config, datamodule = workload(cell)
    fitted(config, datamodule, members, members)
