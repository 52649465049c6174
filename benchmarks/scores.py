"""Test scores of the defaults: mean and spread over five seeds, beside the naive baselines.

    python benchmarks/scores.py            # writes benchmarks/scores.md and the README's table

Every number comes from a finished run folder; a second call only reads. The defaults were chosen
by `benchmarks/defaults.py`, on data that end before the first test origin.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from forecast import compose
from forecast.run import Run
from forecast.train import train

SEEDS = range(5)
CELLS = ("lstm", "gru", "rnn")
HERE = Path(__file__).parent
COMMAND = "python benchmarks/scores.py"
BEGIN, END = "<!-- scores: made by python benchmarks/scores.py -->", "<!-- /scores -->"
# The goals, crps at each horizon.
GOALS = {
    ("lstm", "1, 5, 20"): (0.9873, 2.231, 4.545),
    ("gru", "1, 5, 20"): (0.9873, 2.231, 4.545),
    ("rnn", "1, 5, 20"): (0.9893, 2.235, 4.549),
    ("lstm", "1"): (0.9863,),
    ("gru", "1"): (0.9863,),
    ("rnn", "1"): (0.9875,),
}


def runs(cell: str, horizons: str, outputs: str) -> list[Run]:
    made = []
    for seed in SEEDS:
        options = [f"model={cell}", f"seed={seed}", f"outputs={outputs}", "progress=false"]
        made.append(train(compose("train", [*options, f"horizons=[{horizons}]", "trainer=cpu"])))
    return made


def row(name: str, horizons: str, values: np.ndarray, goals: tuple[float, ...] = ()) -> str:
    """One table row: mean ± standard deviation over seeds at each horizon."""
    cells = []
    for h in range(3):
        if h >= values.shape[1]:
            cells.append("")
            continue
        mean, spread = values[:, h].mean(), values[:, h].std(ddof=1) if len(values) > 1 else 0.0
        text = f"{mean:.4f}" + (f" ± {spread:.4f}" if spread else "")
        cells.append(text + (f" (≤ {goals[h]:g})" if goals else ""))
    return f"| {name} | {horizons} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--outputs", default="outputs", help="folder of the run folders")
    options = parser.parse_args()
    lines = [
        f"Test `crps`, percent; mean ± standard deviation over seeds 0 … {len(SEEDS) - 1}, "
        f"ensembles of 3. In brackets: the goal. Made by `{COMMAND}`.",
        "",
        "| model | horizons trained | 1 session | 5 sessions | 20 sessions |",
        "|---|---|---|---|---|",
    ]
    baselines: dict[str, np.ndarray] = {}
    for horizons in ("1, 5, 20", "1"):
        for cell in CELLS:
            finished = runs(cell, horizons.replace(" ", ""), options.outputs)
            scores = [run.metrics["scores"]["test"] for run in finished]
            values = np.array([[s[cell][h]["crps"] for h in horizons.split(", ")] for s in scores])
            lines.append(row(f"`{cell}`", horizons, values, GOALS[cell, horizons]))
            if horizons != "1":
                for name in ("historical", "ewma_normal", "ewma_t"):
                    baselines[name] = np.array(
                        [[scores[0][name][h]["crps"] for h in ("1", "5", "20")]]
                    )
    lines += [row(f"`{name}`", "", values) for name, values in baselines.items()]
    text = "\n".join(lines) + "\n"
    (HERE / "scores.md").write_text(text, encoding="utf-8")
    readme = HERE.parent / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
