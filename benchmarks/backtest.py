"""The walk-forward 2010 to 2022: every network beside every baseline, over five seeds.

    python benchmarks/backtest.py          # writes benchmarks/backtest.md and the README's table

Each seed is the run of `python -m forecast.backtest experiment=headline seed=<k>`; every number
comes from its metrics.json, and a second call only reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecast import compose
from forecast.backtest import backtest
from forecast.run import Run

SEEDS = range(5)
CELLS = ("lstm", "gru", "rnn")
BANK = "gjr_t"
EQUAL = ("linear", "mlp", "gjr_market", "har_pooled")  # see what the networks see
HERE = Path(__file__).parent
COMMAND = "python benchmarks/backtest.py"
README = HERE.parent / "README.md"
MEANS = (
    "**Mean returns are not forecast.** All of this is volatility: the out-of-sample R² of the "
    "networks' daily means lies between {low:.2f} % and {high:.2f} %, beside {drift:.2f} % for the "
    "historical mean return."
)
DEVELOPMENT = (
    "**2010 to 2022 is the development range**: these years and stocks were looked at while the "
    "method was designed and built, so the table is descriptive, and the stocks are survivors."
)


def finished(seed: int, outputs: str) -> Run:
    options = ["experiment=headline", f"seed={seed}", f"outputs={outputs}", "trainer=cpu"]
    return backtest(compose("backtest", options), overrides=options[:2])


def pairs(runs: Sequence[Run], model: str, against: str, horizon: int, loss: str) -> list[Any]:
    return [
        run.metrics["significance"]["test"][str(horizon)][loss]["pairs"][model][against]
        for run in runs
    ]


def best_equal(run: Run) -> str:
    """The equal-information baseline of lowest log score, one session ahead."""
    scores = run.metrics["scores"]["test"]
    return min(EQUAL, key=lambda name: scores[name]["1"]["log_score"])


def spread(values: Sequence[float], digits: int, factor: float = 1.0) -> str:
    """Mean ± standard deviation over seeds."""
    array = factor * np.asarray(values, dtype=float)
    deviation = f" ± {array.std(ddof=1):.{digits}f}" if len(array) > 1 else ""
    return f"{array.mean():.{digits}f}{deviation}"


def comparison(runs: Sequence[Run]) -> list[str]:
    """What each network gains, with the t statistics of Diebold and Mariano."""
    rows = [("", *(f"`{cell}`" for cell in CELLS)), ("---",) * (1 + len(CELLS))]
    for horizon, loss, unit, factor, digits, share in (
        (1, "crps_exact", "exact crps, %", 100, 2, True),
        (1, "log_score", "log score, nats", 1, 4, False),
        (1, "qlike", "QLIKE", 1, 4, False),
        (5, "crps", "crps, %", 100, 2, True),
        (20, "crps", "crps, %", 100, 2, True),
    ):
        cells = []
        for cell in CELLS:
            found = pairs(runs, cell, BANK, horizon, loss)
            gain = [-pair["relative" if share else "difference"] for pair in found]
            t = [-pair["t"] for pair in found]
            cells.append(f"{spread(gain, digits, factor)} (t = {spread(t, 1)})")
        plural = "session" if horizon == 1 else "sessions"
        rows.append((f"gain over `{BANK}`, {horizon} {plural}: {unit}", *cells))
    for loss, unit in (("log_score", "log score, nats"), ("crps_exact", "exact crps, percent")):
        cells = []
        for cell in CELLS:
            found = [pairs([run], cell, best_equal(run), 1, loss)[0] for run in runs]
            gain, t = [-pair["difference"] for pair in found], [-pair["t"] for pair in found]
            cells.append(f"{spread(gain, 4)} (t = {spread(t, 1)})")
        rivals = ", ".join(f"`{name}`" for name in dict.fromkeys(map(best_equal, runs)))
        rows.append((f"gain over {rivals}, the best that sees as much: {unit}", *cells))
    for name, key in (("years won, exact crps", "years"), ("stocks won, exact crps", "symbols")):
        cells = []
        for cell in CELLS:
            found = pairs(runs, cell, BANK, 1, "crps_exact")
            cells.append(f"{spread([p[f'{key}_won'] for p in found], 1)} of {found[0][key]}")
        rows.append((f"{name}, over `{BANK}`", *cells))
    return ["| " + " | ".join(row) + " |" for row in rows]


def verdict(runs: Sequence[Run]) -> str:
    """Whether recurrence pays: the t of the log score over the best that sees as much."""
    pays = []
    for cell in CELLS:
        t = np.mean([-pairs([run], cell, best_equal(run), 1, "log_score")[0]["t"] for run in runs])
        pays.append(f"`{cell}` {'does' if t >= 2 else 'does not'} (mean t = {t:.1f})")
    return (
        "**Does recurrence pay?** Over the best model that sees as much without it, in log score "
        f"at one session and by t ≥ 2: {', '.join(pays)}."
    )


def scores(runs: Sequence[Run]) -> list[str]:
    """Every model's scores: of networks and `linear`, `mlp` over seeds, of the others once."""
    lines = [
        "| model | exact crps, 1 | log score, 1 | QLIKE, 1 | crps, 1 | crps, 5 | crps, 20 "
        "| below 1 % level, 1 | in 90 %, 1 |",
        "|" + "---|" * 9,
    ]
    tests = [run.metrics["scores"]["test"] for run in runs]
    for model in tests[0]:
        seeded = tests if model in (*CELLS, "linear", "mlp") else tests[:1]
        cells = []
        for key, horizon, digits, factor in (
            ("crps_exact", "1", 4, 1),
            ("log_score", "1", 4, 1),
            ("qlike", "1", 4, 1),
            ("crps", "1", 4, 1),
            ("crps", "5", 4, 1),
            ("crps", "20", 4, 1),
            ("hits_01", "1", 2, 100),
            ("coverage_90", "1", 1, 100),
        ):
            values = [test[model][horizon][key] for test in seeded]
            cells.append("" if None in values else spread(values, digits, factor))
        lines.append(f"| `{model}` | " + " | ".join(cells) + " |")
    return lines


def into_readme(name: str, text: str) -> None:
    """Put a text between the README's marks of this name."""
    begin, end = f"<!-- {name}: made by {COMMAND} -->", f"<!-- /{name} -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    README.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--outputs", default="outputs", help="folder of the run folders")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, from 0")
    options = parser.parse_args()
    runs = [finished(seed, options.outputs) for seed in range(options.seeds)]
    tests = [run.metrics["scores"]["test"] for run in runs]
    r2 = [100 * test[cell]["1"]["r2_zero"] for test in tests for cell in CELLS]
    first, last = runs[0].data["fold"]["test"]
    folds = len(runs[0].data["folds"])
    told = [
        f"{len(runs[0].data['symbols'])} stocks, {first} to {last}, {folds} yearly refits, mean ± "
        f"standard deviation over seeds 0 … {len(runs) - 1}; t statistics of Diebold and Mariano "
        f"on daily means over the stocks, positive where the network is better. Made by `{COMMAND}`"
        " from the runs of `python -m forecast.backtest experiment=headline seed=<k>`.",
    ]
    means = MEANS.format(low=min(r2), high=max(r2), drift=100 * tests[0]["drift"]["1"]["r2_zero"])
    short = [*told, "", *comparison(runs), "", f"{verdict(runs)} {means} {DEVELOPMENT}"]
    every = ["Every model, horizons in sessions:", "", *scores(runs)]
    text = "\n".join([*short, "", *every])
    (HERE / "backtest.md").write_text(text + "\n", encoding="utf-8")
    into_readme("headline", "\n".join(short))
    into_readme("backtest", "\n".join(every))
    print(text)


if __name__ == "__main__":
    main()
