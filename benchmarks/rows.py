"""Forecast rows per second without a refit: one network, the whole history, 21 levels a row.

    python benchmarks/rows.py              # one row is a symbol, an origin and a horizon

Counted is the way from the panel to Arrow tables of the Forecasts schema, and once more with
validation and writing to disk. The network is one LSTM of 32 units; its weights do not matter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from forecast import compose, load_prices
from forecast.config import plain
from forecast.dataset.folds import Range
from forecast.forecasts import ForecastWriter
from forecast.models.block import blocks
from forecast.models.ensemble import load_ensemble
from forecast.models.pipeline import fit_ensemble, make_datamodule

OPTIONS = ["ensemble=1", "trainer=cpu", "trainer.max_epochs=1", "logger=csv"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="the fastest of so many counts")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = plain(compose("train", OPTIONS))
    datamodule = make_datamodule(config, load_prices(config["data"]))
    panel, task = datamodule.panel, datamodule.task
    every = Range(low=panel.offsets[:-1] + task.warmup, high=panel.offsets[1:].copy())
    with tempfile.TemporaryDirectory() as name:
        fit_ensemble(config, datamodule, Path(name), say=lambda line: None)
        ensemble = load_ensemble(Path(name), members=1, task=task)
        tensors = datamodule.tensors("cpu")
        best: dict[str, float] = {}
        rows = 0
        for _ in range(options.repeats):
            start = time.perf_counter()
            tables = [
                block.table(
                    ensemble.distribution(block, every, tensors), model="lstm", part="test", fold=0
                )
                for block in blocks(panel, task, every)
            ]
            made = time.perf_counter() - start
            with ForecastWriter(Path(name) / "forecasts.parquet") as writer:
                for table in tables:
                    writer.write(table)
            written = time.perf_counter() - start
            rows = sum(table.num_rows for table in tables)
            for key, seconds in (("forecast", made), ("forecast and written", written)):
                best[key] = min(best.get(key, seconds), seconds)
    for key, seconds in best.items():
        print(f"{key}: {rows:,} rows in {seconds:.2f} s, {rows / seconds:,.0f} rows/s")


if __name__ == "__main__":
    main()
