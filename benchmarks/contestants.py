"""Who takes part in the comparison of `compare.py`, and what is measured of each.

This project and other libraries each in a process of their own that prints JSON, a plain torch loop
and the cells in this one; in turn, so that all meet the same machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import product_rate, products
from training import loop, ours, ready

from forecast import compose, load_prices
from forecast.config import plain
from forecast.models.configured import Config
from forecast.models.pipeline import make_datamodule

HERE = Path(__file__).parent
CELLS = ("lstm", "gru", "rnn")
LIBRARIES = {  # the script of each
    "darts": "darts_",
    "gluonts": "gluonts_",
    "pytorch-forecasting": "pytorch_forecasting_",
    "neuralforecast": "neuralforecast_",
}
QUANTILES = {  # scripts of those that state 19 quantiles a row; their training is not compared
    "gluonts (19 quantiles)": "gluonts_quantiles",
    "neuralforecast (19 quantiles)": "neuralforecast_quantiles",
}
BEST = "gluonts_quantiles"  # the script of lowest test crps, at so many steps
BEST_STEPS = 300
# Test crps at one session on the bundled split: the best of the other libraries, and GJR-GARCH-t.
BARS = {"best of the other libraries": 0.9946, "GJR-GARCH-t": 0.9931}
SINGLE, ENSEMBLE = "this project, one default network", "this project, default ensemble of three"
IN_MEMORY = f"{SINGLE}, not written"
SAME_WORK = (
    "experiment=many_to_one", "horizons=[1]", "model.hidden_size=64", "model.layers=2",
    "model.input_dropout=0", "model.dropout=0", "ensemble=1", "trainer.max_epochs=1",
)  # fmt: skip
SIZES = ((32, 32), (16, 64), (32, 64), (64, 64), (128, 64), (32, 256), (64, 256))  # units, batch
DEFAULT = SIZES[0]
MOST_EPOCHS = 30

# A new process begins with the peak memory of the one that starts it: here that of a small shell.
SMALL = ("sh", "-c", '"$@"; exit $?', "sh")

Figures = Mapping[str, Any]
Sizes = Mapping[tuple[str, int, int], Figures]  # by cell, units and batch


@dataclass(frozen=True)
class Peers:
    """The other libraries, where they are installed."""

    python: Path
    folder: Path

    def run(self, script: str, *, steps: int, threads: int) -> Figures:
        asked = {"STEPS": str(steps), "THREADS": str(threads)}
        return printed([str(self.python), str(self.folder / f"{script}.py")], **asked)


def printed(command: list[str], **variables: str) -> Figures:
    """All that a command prints as JSON objects, one a line.

    Raises
    ------
    RuntimeError
        The command failed; its last words are told.
    """
    done = subprocess.run(
        [*SMALL, *command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[1]).name} failed: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


def alone(*overrides: str, threads: int) -> Figures:
    """A fit of ours in a process of its own."""
    return printed([sys.executable, str(HERE / "alone.py"), *overrides, f"threads={threads}"])


def in_turn(turns: int, contestants: Mapping[str, Callable[[], Figures]]) -> dict[str, Figures]:
    """Median of each number that each contestant states; what is no number as in its last turn."""
    told: dict[str, list[Figures]] = {name: [] for name in contestants}
    for turn in range(turns):
        for name, contestant in contestants.items():
            os.sync()  # what others wrote: who waits for the disk waits for its own writing alone
            told[name].append(contestant())
            print(f"turn {turn + 1} of {turns}: {name}", file=sys.stderr, flush=True)
    return {name: medians(figures) for name, figures in told.items()}


def medians(figures: list[Figures]) -> Figures:
    return {
        key: statistics.median(f[key] for f in figures) if isinstance(value, int | float) else value
        for key, value in figures[-1].items()
    }


def same_work(turns: int, steps: int, threads: int, peers: Peers | None) -> dict[str, Figures]:
    """Fit and forecast: plain torch, this project, the other libraries."""
    config = plain(compose("train", ["trainer=cpu", *SAME_WORK]))
    datamodule = make_datamodule(config, load_prices(config["data"]))
    examples = ready(datamodule, steps)
    contestants: dict[str, Callable[[], Figures]] = {
        "plain torch loop": lambda: {
            "windows_per_second": loop(datamodule, config, examples, steps).rate
        },
        "this project": lambda: alone(*SAME_WORK, threads=threads),
        SINGLE: lambda: alone("ensemble=1", "trainer.max_epochs=1", threads=threads),
        IN_MEMORY: lambda: alone(
            "--in-memory", "ensemble=1", "trainer.max_epochs=1", threads=threads
        ),
        ENSEMBLE: lambda: alone("trainer.max_epochs=1", threads=threads),
    }
    if peers:
        for name, script in {**LIBRARIES, **QUANTILES}.items():
            contestants[name] = lambda script=script: peers.run(  # type: ignore[misc]
                script, steps=steps, threads=threads
            )
    return in_turn(turns, contestants)


def configured(cell: str, units: int, batch: int) -> Config:
    sizes = [] if (units, batch) == DEFAULT else [f"model.hidden_size={units}"]
    options = [f"model={cell}", *sizes, f"window.batch={batch}", "ensemble=1", "trainer=cpu"]
    return plain(compose("train", options))


def cells(
    turns: int, steps: int, sizes: Iterable[tuple[int, int]] = SIZES
) -> dict[tuple[str, int, int], Figures]:
    """Targets per second of each cell at each size, and the share of the machine's product rate.

    Parameters
    ----------
    steps : int
        Steps of a turn at the default's batch; fewer at larger ones, so that turns last as long.
    """
    told: dict[tuple[str, int, int], list[Figures]] = {}
    for turn in range(turns):
        ceiling = product_rate()
        for units, batch in sizes:
            for cell in CELLS:
                config = configured(cell, units, batch)
                datamodule = make_datamodule(config, load_prices(config["data"]))
                count = max(3, steps * DEFAULT[1] // batch)
                plain_loop = loop(datamodule, config, ready(datamodule, count), count)
                speed = ours(datamodule, config, count)
                work = products(cell, len(datamodule.panel.names), units) * speed.sessions
                told.setdefault((cell, units, batch), []).append(
                    {
                        "torch": plain_loop.rate,
                        "ours": speed.rate,
                        "share": work / speed.seconds / ceiling,
                        "ceiling": ceiling,
                    }
                )
        print(f"turn {turn + 1} of {turns}: cells", file=sys.stderr, flush=True)
    return {key: medians(figures) for key, figures in told.items()}


def race(turns: int, threads: int, peers: Peers | None) -> dict[str, dict[str, Figures]]:
    """For each bar the fit of fewest epochs whose test crps lies below it, and the other library.

    The test range chooses nothing: it is a stopwatch. What is scored is the network that the fit
    hands back, the best of its epochs on the validation range.
    """
    shortest: dict[str, dict[str, int]] = {bar: {} for bar in BARS}
    for cell in CELLS:
        waiting = dict(BARS)
        for epochs in range(1, MOST_EPOCHS + 1):
            crps = alone(*one(cell, epochs), threads=threads)["crps"]
            for bar in [bar for bar, value in waiting.items() if crps < value]:
                shortest[bar][cell] = epochs
                del waiting[bar]
            if not waiting:
                break
    pairs = dict.fromkeys((c, n) for found in shortest.values() for c, n in found.items())
    contestants: dict[str, Callable[[], Figures]] = {
        f"{cell}, {epochs}": lambda cell=cell, epochs=epochs: {  # type: ignore[misc]
            **alone(*one(cell, epochs), threads=threads), "epochs": epochs,
        }
        for cell, epochs in pairs
    }  # fmt: skip
    if peers:
        contestants[BEST] = lambda: peers.run(BEST, steps=BEST_STEPS, threads=threads)
    told = in_turn(turns, contestants)
    best = {BEST: told[BEST]} if BEST in told else {}
    return {
        bar: {**{cell: told[f"{cell}, {epochs}"] for cell, epochs in found.items()}, **best}
        for bar, found in shortest.items()
    }


def one(cell: str, epochs: int) -> tuple[str, ...]:
    """A single network of the default configuration."""
    return f"model={cell}", "ensemble=1", f"trainer.max_epochs={epochs}"


def members(turns: int, threads: int) -> dict[str, Figures]:
    """Seconds of fitting one network, and five."""
    return in_turn(
        turns,
        {
            str(count): lambda count=count: alone(  # type: ignore[misc]
                f"ensemble={count}", "trainer.max_epochs=5", threads=threads
            )
            for count in (1, 5)
        },
    )
