"""The README's pictures, from real runs.

    python benchmarks/pictures.py         # writes benchmarks/{forecast,memory,report}.png

They come from the default run (`python -m forecast.train`), its page, and from a run of each cell
that sees nothing but returns, explained together; a second call only reads. Pictures need Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd
from playwright.sync_api import sync_playwright

from forecast import compose
from forecast.explain import explain
from forecast.report.figures import fan_chart, memory_profile
from forecast.run import Run
from forecast.train import train

HERE = Path(__file__).parent
CELLS = ("rnn", "lstm", "gru")
RETURNS = ["features=returns", "features.scale_half_life=100000", "horizons=[1]"]
WIDTH, SCALE = 900, 1.4  # of a figure, pixels, and pixels of the picture to one of it
PAGE = (1000, 1000)  # of the part of the page that is shown, pixels


def finished(outputs: str, *overrides: str) -> Run:
    typed = [*overrides, "trainer=cpu", f"outputs={outputs}"]
    return train(compose("train", typed), overrides=overrides)


def photograph(page: Path, picture: Path) -> None:
    """The top of a page, as a reader first sees it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium here: install it to take the picture")
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        shown = opened.new_page(viewport={"width": PAGE[0], "height": PAGE[1]})
        shown.goto(page.resolve().as_uri())
        shown.wait_for_timeout(1000)
        shown.screenshot(path=picture)
        opened.close()


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
    photograph(run.path / "report.html", HERE / "report.png")
    names = [
        finished(outputs, f"model={cell}", *RETURNS, "evaluate=[validation]") for cell in CELLS
    ]
    asked = ",".join(run.name for run in names)
    told = explain(compose("explain", [f"run=[{asked}]", "recall.seeds=0", f"outputs={outputs}"]))
    figure = memory_profile(pd.read_csv(told.path / "memory.csv"))
    figure.write_image(HERE / "memory.png", width=WIDTH, height=420, scale=SCALE)


if __name__ == "__main__":
    main()
