"""The compiled recurrence beside torch's own, and members trained together beside one by one.

    python benchmarks/recurrence.py         # writes benchmarks/recurrence.md, about ten minutes

Forward and backward of one layer over windows of 250 sessions of 20 features, in turn in one
process; a rate is that of the median turn. Products alone are counted for the fraction of the
machine's rate for a large matrix product, which is taken in the same turns. The tables decide
`networks.FUSED_UNITS`, `pipeline.TOGETHER`, which are keyed on sizes alone, and that the trials of
a sweep, unlike members, have a process and a thread each.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import joblib
import pandas as pd
import torch
from machine import products
from stacking import fitted, seconds, trial, workload
from torch import Tensor, nn

from forecast.models.devices import keep_memory
from forecast.models.recurrence import read_layer

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
FEATURES, SESSIONS = 20, 250
MOST = 2**15  # units times windows: beyond, a turn takes half a minute
TRIALS = 4
LARGE = 3072  # rows and columns of the large product
HERE = Path(__file__).resolve().parent
COMMAND = "python benchmarks/recurrence.py"


def warm(work: Callable[[], object]) -> float:
    """Seconds of the second of two calls."""
    work()
    return seconds(work)


def passes(cell: str, units: int, batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward through torch's module, and through the compiled recurrence."""
    torch.manual_seed(0)
    module = CELLS[cell](FEATURES, units, batch_first=True)
    x_BLF, slope_BLU = torch.randn(batch, SESSIONS, FEATURES), torch.randn(batch, SESSIONS, units)
    weights = [cast(list[Tensor], list(module.parameters()))]

    def theirs() -> None:
        module.zero_grad()
        module(x_BLF)[0].backward(slope_BLU)

    def ours() -> None:
        module.zero_grad()
        read_layer(cell, x_BLF[None], weights)[0].backward(slope_BLU[None])

    return theirs, ours


def rates(turns: int, sizes: list[int], batches: list[int]) -> pd.DataFrame:
    """Sessions a second of every cell and size, and what fraction of the product's rate it is."""
    large = torch.randn(LARGE, LARGE)
    rows = []
    for units in sizes:
        for batch in (b for b in batches if units * b <= MOST):
            for cell in CELLS:
                theirs, ours = passes(cell, units, batch)
                # Each once more before its turn: what went before left the caches to itself.
                works = (theirs, ours, lambda: large @ large)
                turn = [[warm(work) for work in works] for _ in range(turns)]
                torch_s, fused_s, large_s = (statistics.median(t) for t in zip(*turn, strict=True))
                count = batch * SESSIONS
                peak = 2 * LARGE**3 / large_s
                row = {
                    "units": units,
                    "batch": batch,
                    "cell": cell,
                    "torch, thousand/s": count / torch_s / 1e3,
                    "fused, thousand/s": count / fused_s / 1e3,
                    "ratio": torch_s / fused_s,
                    "of a large product": count * products(cell, FEATURES, units) / fused_s / peak,
                }
                rows.append(row)
                print(row, flush=True)
    return pd.DataFrame(rows)


def ensembles(turns: int, most: int) -> pd.DataFrame:
    """Seconds of a fit of so many members together, over that of one, bundled panel."""
    rows = []
    for cell in CELLS:
        fit = partial(fitted, *workload(cell))
        fit(1, 1)
        turn = [[fit(1, 1), *(fit(k, k) for k in range(2, most + 1))] for _ in range(turns)]
        once, *several = (statistics.median(t) for t in zip(*turn, strict=True))
        row = {"cell": cell, "one, s": once}
        row.update({f"{k} together": value / once for k, value in enumerate(several, 2)})
        rows.append(row)
        print(row, flush=True)
    return pd.DataFrame(rows)


def trials(turns: int) -> pd.DataFrame:
    """Seconds of four trials as one stack on two threads, and as two processes of a thread each."""
    rows = []
    with joblib.Parallel(n_jobs=2) as pool:

        def apart(cell: str, members: int) -> None:
            pool(joblib.delayed(trial)(cell, members) for _ in range(TRIALS))

        for cell in CELLS:
            for members in (1, 3):
                count = TRIALS * members
                config, datamodule = workload(cell)
                together = partial(fitted, config, datamodule, count, count)
                for work in (together, partial(apart, cell, members)):
                    work()
                turn = [(together(), seconds(partial(apart, cell, members))) for _ in range(turns)]
                stack_s, apart_s = (statistics.median(t) for t in zip(*turn, strict=True))
                row = {
                    "cell": cell,
                    "networks a trial": members,
                    "one stack, s": stack_s,
                    "processes, s": apart_s,
                    "ratio": stack_s / apart_s,
                }
                rows.append(row)
                print(row, flush=True)
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> list[str]:
    """As Markdown."""

    def shown(name: str, value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:,.0f}" if "thousand" in name else f"{value:.2f}"

    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    for _, row in frame.iterrows():
        lines.append("| " + " | ".join(shown(name, row[name]) for name in frame.columns) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=7, help="of one layer")
    parser.add_argument("--fit-turns", type=int, default=3, help="of whole fits")
    parser.add_argument("--units", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--members", type=int, default=8)
    options = parser.parse_args()
    keep_memory()
    told: list[str] = []

    def tell(*lines: str) -> None:
        """Kept table by table: the last one is minutes after the first."""
        told.extend([*lines, ""])
        (HERE / "recurrence.md").write_text("\n".join(told).rstrip() + "\n", encoding="utf-8")

    tell(
        f"Made by `{COMMAND}` with torch {torch.__version__} on {torch.get_num_threads()} threads.",
        "",
        "Forward and backward of one layer, sessions a second; `torch` is torch.nn's module.",
        "",
        *table(rates(options.turns, options.units, options.batch)),
    )
    tell(
        "Seconds of a fit of four epochs of so many members together, over those of one:",
        "",
        *table(ensembles(options.fit_turns, options.members)),
    )
    tell(
        f"Seconds of {TRIALS} trials of one shape, four epochs each: all networks as one stack on "
        "two threads, and trials in two processes with a thread each, as a sweep runs them:",
        "",
        *table(trials(options.fit_turns)),
    )
    print("\n".join(told))


if __name__ == "__main__":
    main()
