"""This project beside a plain torch loop and four other libraries, in turn, in one sitting.

    python benchmarks/compare.py                                      # the project and plain torch
    python benchmarks/compare.py --peers-python PATH --peers FOLDER   # and the other libraries
    python benchmarks/compare.py … --write        # benchmarks/compare.md and the README's table

FOLDER holds a script for each library, `darts_.py`, `gluonts_.py`, `neuralforecast_.py`,
`pytorch_forecasting_.py`, `gluonts_quantiles.py` and `neuralforecast_quantiles.py`, which are no
part of the project, and what they read. Each does the same work (a two-layer LSTM of 64 units,
windows of 60 sessions, batches of 256, one target a window, the bundled stocks, STEPS steps on
THREADS threads) and prints JSON lines with the keys of `alone.py`; PATH is the Python that has the
libraries. Each measurement is the median of some turns, in each of which every contestant has one.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from contestants import (
    BARS,
    BEST,
    BEST_STEPS,
    CELLS,
    DEFAULT,
    ENSEMBLE,
    IN_MEMORY,
    LIBRARIES,
    MOST_EPOCHS,
    QUANTILES,
    SINGLE,
    Figures,
    Peers,
    Sizes,
    cells,
    members,
    race,
    same_work,
)

from forecast.models.devices import torch_threads

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
COMMAND = "python benchmarks/compare.py"
BEGIN, END = f"<!-- speed: made by {COMMAND} -->", "<!-- /speed -->"
ABSENT = "not measured here: see --peers"

WIDE = (64, 64)  # units, batch

Table = list[str]


def per_second(found: Figures, key: str = "n_test_forecasts") -> float:
    return float(found[key]) / float(found["eval_seconds"])


def work_table(found: Mapping[str, Figures]) -> Table:
    """Training, forecasting and memory of all that do the same work."""
    lines = [
        "| | training, windows/s | forecasts, origins/s | rows/s | peak memory of the fit, MB |",
        "|---|---|---|---|---|",
    ]
    own = (SINGLE, IN_MEMORY, ENSEMBLE)
    for name in ("plain torch loop", "this project", *own, *LIBRARIES, *QUANTILES):
        if name not in found:
            lines.append(f"| {name} | {ABSENT} | | | |")
            continue
        f = found[name]
        training = "" if name in (*own, *QUANTILES) else f"{f['windows_per_second']:,.0f}"
        if "eval_seconds" not in f:
            lines.append(f"| {name} | {training} | | | |")
            continue
        lines.append(
            f"| {name}{version(f)} | {training} | {per_second(f):,.0f} "
            f"| {per_second(f, rows_of(f)):,.0f} | {f['peak_rss_mb']:,.0f} |"
        )
    return lines


def rows_of(found: Figures) -> str:
    """The key of the rows stated; others state one number an origin."""
    return "n_test_rows" if "n_test_rows" in found else "n_test_forecasts"


def version(found: Figures) -> str:
    return f" {found['version']}" if "version" in found else ""


def cells_table(found: Sizes) -> Table:
    lines = [
        "| cell | units | batch | plain torch loop, targets/s | this project | ratio "
        "| share of the product rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for (cell, units, batch), f in found.items():
        name = f"`{cell}`" + (", default" if (units, batch) == DEFAULT else "")
        lines.append(
            f"| {name} | {units} | {batch} | {f['torch']:,.0f} | {f['ours']:,.0f} "
            f"| {f['ours'] / f['torch']:.2f} | {100 * f['share']:.0f} % |"
        )
    return lines


def race_table(found: Mapping[str, Mapping[str, Figures]]) -> Table:
    lines = [
        "| test crps below | | epochs | crps | seconds of fitting | of "
        f"`{BEST}` at {BEST_STEPS} steps |",
        "|---|---|---|---|---|---|",
    ]
    for bar, contestants in found.items():
        peer = contestants.get(BEST)
        for cell in CELLS:
            if cell not in contestants:
                lines.append(f"| {BARS[bar]} ({bar}) | `{cell}` | not within {MOST_EPOCHS} | | | |")
                continue
            f = contestants[cell]
            against = f"1/{peer['fit_seconds'] / f['fit_seconds']:.0f}" if peer else ABSENT
            lines.append(
                f"| {BARS[bar]} ({bar}) | `{cell}` | {f['epochs']:.0f} | {f['crps']:.4f} "
                f"| {f['fit_seconds']:.2f} | {against} |"
            )
    peer = next(iter(found.values())).get(BEST)
    if peer:
        name = f"{peer['library']}{version(peer)}"
        lines.append(f"| | {name} | | {peer['pinball19x2']:.4f} | {peer['fit_seconds']:.1f} | 1 |")
    else:
        lines.append(f"| | `{BEST}` | | | {ABSENT} | |")
    return lines


def members_line(found: Mapping[str, Figures]) -> str:
    single, five = found["1"]["fit_seconds"], found["5"]["fit_seconds"]
    return (
        f"Five networks of five epochs: {five:.1f} s, {five / single:.2f} × one ({single:.1f} s)."
    )


def ratios(
    work: Mapping[str, Figures],
    sizes: Sizes,
    reached: Mapping[str, Mapping[str, Figures]],
    ensemble: Mapping[str, Figures],
) -> Table:
    """The README's short table: ratios alone, since seconds are a machine's."""
    mine, default = work["this project"], work[ENSEMBLE]
    rate = mine["windows_per_second"]

    def rows_over_libraries(found: Figures) -> str:
        made = per_second(found, rows_of(found))
        return over_libraries(lambda f: made / per_second(f), (*LIBRARIES, *QUANTILES))

    def memory_over(found: Figures) -> str:
        return over_libraries(lambda f: f["peak_rss_mb"] / found["peak_rss_mb"])

    def over_libraries(ratio: Callable[[Figures], float], of: Iterable[str] = LIBRARIES) -> str:
        found = {name: ratio(work[name]) for name in of if name in work}
        told = [f"{name} {x:,.0f}" if x >= 100 else f"{name} {x:.3g}" for name, x in found.items()]
        return ", ".join(told) or ABSENT

    rows = {
        "training, LSTM 64 × 2, 60 sessions, batch 256, one target a window: windows a second over "
        "a plain torch loop's": f"{rate / work['plain torch loop']['windows_per_second']:.2f}",
        "the same, over other libraries'": over_libraries(lambda f: rate / f["windows_per_second"]),
        "training the default network: targets a second over those of torch's own module in a "
        "plain loop": each(sizes, DEFAULT, lambda f: f"{f['ours'] / f['torch']:.2f}"),
        "training with 64 units, batch 64: share of the rate of a large matrix product": each(
            sizes, WIDE, lambda f: f"{100 * f['share']:.0f} %"
        ),
    }
    for bar, found in reached.items():
        peer, cell = found.get(BEST), found.get("lstm")
        rows[
            f"seconds of fitting of `{BEST}` over the `lstm`'s to a crps below {BARS[bar]} ({bar})"
        ] = f"{peer['fit_seconds'] / cell['fit_seconds']:.0f}" if peer and cell else ABSENT
    five, single_seconds = (ensemble[count]["fit_seconds"] for count in ("5", "1"))
    rows |= {
        "seconds of fitting five networks over one": f"{five / single_seconds:.2f}",
        "rows forecast in a second without refit, LSTM 64 × 2, over other libraries'": (
            rows_over_libraries(mine)
        ),
        "the same, the default network, three horizons": rows_over_libraries(work[SINGLE]),
        "the same, before it is validated and written": rows_over_libraries(work[IN_MEMORY]),
        "the same, the default ensemble of three": rows_over_libraries(default),
        "peak memory of other libraries' fits over that of the same work, imports included": (
            memory_over(mine)
        ),
        "the same, over that of the default ensemble's fit": memory_over(default),
    }
    return ["| | × |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def each(sizes: Sizes, size: tuple[int, int], told: Callable[[Figures], str]) -> str:
    """What is told of every cell at a size."""
    return ", ".join(f"`{cell}` {told(f)}" for (cell, *at), f in sizes.items() if tuple(at) == size)


def into(text: str, table: str) -> str:
    """The README's text with a table between its marks; as it is where it has not both."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}" if found and ended else text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5, help="of the cells beside torch's modules")
    parser.add_argument("--process-turns", type=int, default=3, help="of what has its own process")
    parser.add_argument("--steps", type=int, default=40, help="of a turn, in this process")
    parser.add_argument("--peer-steps", type=int, default=150, help="of the other libraries' fits")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--peers-python", type=Path, help="Python that has the other libraries")
    parser.add_argument("--peers", type=Path, help="folder of their scripts")
    parser.add_argument("--write", action="store_true", help="compare.md and the README's table")
    options = parser.parse_args()
    if (options.peers is None) != (options.peers_python is None):
        parser.error("--peers and --peers-python belong together")
    peers = Peers(options.peers_python, options.peers) if options.peers else None
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    with torch_threads(options.threads):
        compare(options, peers)


def compare(options: argparse.Namespace, peers: Peers | None) -> None:
    """Measure, print table by table, and keep what was asked to be kept."""
    told: Table = []

    def tell(*lines: str) -> None:
        told.extend(lines)
        print("\n".join(lines), flush=True)

    processes, threads = options.process_turns, options.threads
    given = " --peers-python PATH --peers FOLDER" if peers else ""
    tell(
        f"Made by `{COMMAND}{given}`: torch {torch.__version__}, Python "
        f"{platform.python_version()}, {threads} threads of {os.cpu_count()} cores; medians of "
        f"{options.turns} turns in this process and {processes} of processes of their own. Compare "
        "only figures of one sitting.",
        "",
    )
    sizes = cells(options.turns, options.steps)
    ceiling = statistics.median(f["ceiling"] for f in sizes.values())
    tell(
        "## Cells",
        "",
        "Windows of 250 sessions with 210 targets each, 20 features, three horizons. The product "
        "rate is that of float32 matrices of 4096 × 4096, measured in every turn: "
        f"{ceiling / 1e9:,.0f} billion operations a second.",
        "",
        *cells_table(sizes),
        "",
    )
    work = same_work(processes, options.peer_steps, threads, peers)
    tell(
        "## Same work",
        "",
        "LSTM 64 × 2, windows of 60 sessions, batch 256, one target a window; rates over the whole "
        "call that fits. Forecasts are those of the test range without refit. A row is one horizon "
        "of one origin: here 28 numbers (mean, deviation, 21 levels, shortfalls, scores) in a "
        "validated table on disk, elsewhere one number; the default network has three horizons.",
        "",
        *work_table(work),
        "",
    )
    reached = race(processes, threads, peers)
    tell(
        "## Seconds to a score",
        "",
        "The default configuration with a single network: the fewest epochs after which the test "
        "crps at one session, which chooses nothing, lies below the bar. Seconds are of the whole "
        "call that fits in a new process, validation and checkpoints included.",
        "",
        *race_table(reached),
        "",
    )
    ensemble = members(processes, threads)
    tell("## An ensemble", "", members_line(ensemble))
    short = "\n".join(ratios(work, sizes, reached, ensemble))
    print(f"\n{short}")
    if options.write:
        (HERE / "compare.md").write_text("\n".join(told) + "\n", encoding="utf-8")
        README.write_text(into(README.read_text(encoding="utf-8"), short), encoding="utf-8")


if __name__ == "__main__":
    main()
