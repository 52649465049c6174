"""One fit and its test forecasts in a process of their own; prints one line of JSON.

    python benchmarks/alone.py experiment=many_to_one 'horizons=[1]' ensemble=1

The arguments are options of `python -m forecast.train`. The keys are those that the scripts of
other libraries print for `compare.py`: fit_seconds is the whole call that trains, validation and
checkpoints included, peak_rss_mb the largest resident memory up to its end, imports included, and
eval_seconds the way from trained networks to a validated table of test forecasts on disk; with
`--in-memory` in front of the options, to the tables that would be validated and written.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from machine import peak

from forecast import compose, load_prices
from forecast.config import plain
from forecast.evaluation.scores import Scores
from forecast.forecasts import ForecastWriter, read_blocks
from forecast.models.block import blocks
from forecast.models.devices import torch_threads
from forecast.models.ensemble import load_ensemble
from forecast.models.pipeline import fit_ensemble, make_datamodule, write_forecasts


def figures(options: list[str], *, in_memory: bool = False) -> dict[str, Any]:
    """What the fit of a configuration took and scored."""
    config = plain(compose("train", ["trainer=cpu", *options]))
    cell = config["model"]["cell"]
    start = time.perf_counter()
    datamodule = make_datamodule(config, load_prices(config["data"]))
    prepared = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, torch_threads(config["threads"]):
        folder, path = Path(name), Path(name) / "forecasts.parquet"
        fit_from = time.perf_counter()
        fit_ensemble(config, datamodule, folder, say=lambda line: None)
        fitted = time.perf_counter()
        most = peak()
        ensemble = load_ensemble(folder, members=config["ensemble"], task=datamodule.task)
        if in_memory:
            rows, tensors = datamodule.ranges["test"], datamodule.tensors("cpu")
            tables = [
                block.table(
                    ensemble.distribution(block, rows, tensors), model=cell, part="test", fold=0
                )
                for block in blocks(datamodule.panel, datamodule.task, rows)
            ]
        else:
            write_forecasts(
                path, datamodule, parts=["test"], ensembles={cell: ensemble}, baselines=()
            )
        stated = time.perf_counter()
        if in_memory:
            with ForecastWriter(path) as writer:
                for table in tables:
                    writer.write(table)
        passes = len((folder / "history.csv").read_text(encoding="utf-8").splitlines()) - 1
        scores = Scores()
        for block in read_blocks(path):
            scores.add(block)
    found = scores.summary()["scores"]["test"][cell]
    first = str(config["horizons"][0])
    windows = passes * datamodule.ranges["train"].rows
    return {
        "library": "forecast",
        "windows": windows,  # targets; in many-to-one training each is a window of its own
        "windows_per_second": windows / (fitted - fit_from),
        "fit_seconds": fitted - fit_from,
        "prep_seconds": prepared - start,
        "peak_rss_mb": most,
        "eval_seconds": stated - fitted,
        "n_test_forecasts": found[first]["rows"],
        "n_test_rows": sum(score["rows"] for score in found.values()),
        "crps": found[first]["crps"],
    }


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    options = sys.argv[1:]
    in_memory = options[:1] == ["--in-memory"]
    print(json.dumps(figures(options[in_memory:], in_memory=in_memory)))


if __name__ == "__main__":
    main()
