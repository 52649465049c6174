"""The README's pictures, from real runs.

    python benchmarks/pictures.py         # writes benchmarks/{forecast,memory,recall}.png

They come from the default run (`python -m forecast.train`) and from a run of each cell that sees
nothing but returns, explained together; a second call trains nothing. Pictures need Chromium.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from forecast import compose
from forecast.explain import explain
from forecast.report.figures import fan_chart, memory_profile, recall
from forecast.run import Run
from forecast.train import train

HERE = Path(__file__).parent
CELLS = ("rnn", "lstm", "gru")
RETURNS = ["features=returns", "features.scale_half_life=100000", "horizons=[1]"]
WIDTH, SCALE = 900, 1.4  # of a figure, pixels, and pixels of the picture to one of it


def finished(outputs: str, *overrides: str) -> Run:
    typed = [*overrides, "trainer=cpu", f"outputs={outputs}"]
    return train(compose("train", typed), overrides=overrides)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--outputs", default="outputs", help="folder of the run folders")
    outputs = parser.parse_args().outputs
    run = finished(outputs)
    symbol = str(run.data["symbols"][0]["symbol"])  # the first, not the prettiest
    model = str(run.config["model"]["cell"])
    own = run.forecasts(part="test", model=model, symbols=[symbol])
    fan_chart(own).write_image(HERE / "forecast.png", width=WIDTH, height=420, scale=SCALE)
    names = [
        finished(outputs, f"model={cell}", *RETURNS, "evaluate=[validation]") for cell in CELLS
    ]
    asked = ",".join(run.name for run in names)
    told = explain(compose("explain", [f"run=[{asked}]", f"outputs={outputs}"])).path
    for figure, name in (
        (memory_profile(pd.read_csv(told / "memory.csv")), "memory.png"),
        (recall(pd.read_csv(told / "recall.csv")), "recall.png"),
    ):
        figure.write_image(HERE / name, width=WIDTH, height=420, scale=SCALE)


if __name__ == "__main__":
    main()
