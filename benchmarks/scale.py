"""Seconds and memory of a large panel, from prices to scores, stage by stage in this process.

    python benchmarks/scale.py           # 5,000 symbols × 7,560 sessions, all in memory
    python benchmarks/scale.py --big     # 20,000 symbols, prices and panel in files
    python benchmarks/scale.py --symbols 500 --files

Prices are simulated (GJR-GARCH with open, high, low and volume; each symbol is listed at a session
drawn from the first half) and features are `ohlcv`. One LSTM of 32 units is trained for one epoch,
reads every history and states a distribution at every origin; its forecasts (with --big those of
the test range) are written and scored as a stream. Of each stage: its seconds, the largest resident
memory in it, and how much of that is anonymous; the rest are pages of files, which the system takes
back when it wants the room.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import scipy.optimize  # noqa: F401 - imports are no stage
import torch
from machine import peak

from forecast import compose
from forecast.config import plain
from forecast.dataset.facts import data_facts
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.evaluation.scores import Scores
from forecast.forecasts import ForecastWriter, read_blocks
from forecast.models.block import blocks
from forecast.models.ensemble import load_ensemble
from forecast.models.pipeline import fit_ensemble, make_datamodule
from forecast.prices import load_prices

FIXED = [
    "data=simulated",
    "data.process=garch",
    "data.truth=false",
    "data.staggered=true",
    "data.ohlcv=true",
    "features=ohlcv",
    "model=lstm",
    "model.hidden_size=32",
    "ensemble=1",
    "trainer=cpu",
    "trainer.max_epochs=1",
]


class Memory:
    """Peaks of this process's memory, MB, looked at twenty times a second."""

    def __init__(self) -> None:
        self.resident = self.anonymous = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def look(self) -> None:
        try:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        except OSError:  # only Linux tells of a stage
            self.resident = peak()
            return
        used = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
        self.resident = max(self.resident, int(used["VmRSS"][0]) / 2**10)
        self.anonymous = max(self.anonymous, int(used["RssAnon"][0]) / 2**10)

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(0.05)

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Print a line of what happens inside; what it appends to the list stands at its end."""
        self.resident, self.anonymous = 0.0, 0.0
        told: list[str] = []
        start, used = time.perf_counter(), time.process_time()
        yield told
        seconds, used = time.perf_counter() - start, time.process_time() - used
        self.look()
        print(
            f"{name:<22}{seconds:8.1f} s ({used:7.1f} of processors)   resident "
            f"{self.resident:7,.0f} MB, anonymous {self.anonymous:7,.0f} MB   {' '.join(told)}",
            flush=True,
        )


def every_origin(panel: Panel, warmup: int) -> Range:
    """All rows that carry a forecast."""
    low, high = panel.offsets[:-1] + warmup, panel.offsets[1:].copy()
    return Range(low=low, high=high, entry=panel.day[low.clip(max=high - 1)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--big", action="store_true", help="20,000 symbols, in files")
    parser.add_argument("--symbols", type=int)
    parser.add_argument("--sessions", type=int, default=7560)
    parser.add_argument("--files", action="store_true", help="prices and panel in files")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--batch", type=int, default=64, help="windows of a training step")
    parser.add_argument("--folder", help="where files go; default: a temporary folder")
    options = parser.parse_args()
    symbols = options.symbols or (20_000 if options.big else 5_000)
    files = options.files or options.big
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        os.environ["FORECAST_HOME"] = name
        sizes = [f"data.n_symbols={symbols}", f"data.n_sessions={options.sessions}"]
        asked = [*FIXED, *sizes, f"window.batch={options.batch}", f"data.in_memory={not files}"]
        run(plain(compose("train", asked)), Path(name), only_test=options.big)


def run(config: dict[str, Any], folder: Path, *, only_test: bool) -> None:
    """All stages, in the order in which `forecast.train` goes through them."""
    memory, start = Memory(), time.perf_counter()
    with memory.stage("prices") as told:
        prices = load_prices(config["data"])
        told.append(f"{len(prices.frame):,} rows")
    with memory.stage("their hash"):
        prices.sha256  # noqa: B018
    with memory.stage("features") as told:
        datamodule = make_datamodule(config, prices)
        panel, task = datamodule.panel, datamodule.task
        told.append(f"{panel.values.nbytes / 2**20:,.0f} MB of {panel.values.shape[1]} features")
    with memory.stage("facts"):
        data_facts(panel, prices, [datamodule.fold], task)
    del prices
    with memory.stage("one epoch") as told:
        fit_ensemble(config, datamodule, folder, say=lambda line: None)
        ensemble = load_ensemble(folder, members=1, task=task)
        told.append(f"{datamodule.ranges['train'].rows:,} targets, and the validation pass")
    every = every_origin(panel, task.warmup)
    tensors = datamodule.tensors("cpu")
    with memory.stage("inference") as told:
        begin, origins = time.perf_counter(), 0
        for block in blocks(panel, task, every):
            origins += len(ensemble.parameters(block, every, tensors))
        told.append(f"{origins:,} origins, {origins / (time.perf_counter() - begin):,.0f}/s")
    rows = datamodule.ranges["test"] if only_test else every
    table = folder / "forecasts.parquet"
    with memory.stage("forecasts written") as told:
        begin, count = time.perf_counter(), 0
        with ForecastWriter(table) as writer:
            for block in blocks(panel, task, rows):
                stated = ensemble.distribution(block, rows, tensors)
                writer.write(block.table(stated, model="lstm", part="test", fold=0))
                count += block.unit.size
        rate, size = count / (time.perf_counter() - begin), table.stat().st_size
        told.append(f"{count:,} rows of {size / count:.0f} bytes, {rate:,.0f}/s")
    with memory.stage("scores") as told:
        begin, scores = time.perf_counter(), Scores()
        for frame in read_blocks(table):
            scores.add(frame)
        scores.summary()
        told.append(f"{count / (time.perf_counter() - begin):,.0f} rows/s")
    print(f"{time.perf_counter() - start:,.0f} s in all, at most {peak():,.0f} MB resident")


if __name__ == "__main__":
    main()
