"""Seconds of `sweep=architectures` on the bundled stocks: one after the other, and with joblib.

    python benchmarks/sweep.py                        # serial, joblib, and joblib once more
    python benchmarks/sweep.py --serial no            # leaves out the longest part
    python benchmarks/sweep.py --keep outputs         # keeps the runs of joblib
    python benchmarks/sweep.py --picture outputs      # README's picture, from the runs of a folder

Each way starts from an empty folder and is timed as a user would wait for it, imports included.
The metrics of every run must be the same bytes in both ways. The picture is the leaderboard's page
in headless Chromium, from the table on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PICTURE = Path(__file__).with_name("leaderboard.png")
WIDTH, HEIGHT = 1000, 1930  # pixels of the page that are shown, from its table on


def timed(outputs: Path, *options: str) -> float:
    """Wall-clock seconds of a sweep that must succeed."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "forecast.train", "-m", "sweep=architectures", *options],
        env={**os.environ, "FORECAST_OUTPUTS": str(outputs)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def metrics(outputs: Path) -> dict[str, bytes]:
    """The metrics of every run by its name."""
    return {path.parent.name: path.read_bytes() for path in outputs.glob("*/metrics.json")}


def picture(outputs: Path) -> None:
    """Make the leaderboard of some runs and take a picture of it."""
    subprocess.run(
        [sys.executable, "-m", "forecast.leaderboard", "rows=30", f"outputs={outputs}"], check=True
    )
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium here: install it to take the picture")
    text = (outputs / "leaderboard" / "leaderboard.html").read_text(encoding="utf-8")
    page = (outputs / "leaderboard" / "picture.html").resolve()
    shown = "<style>#summary, nav { display: none }</style></head>"
    page.write_text(text.replace("</head>", shown, 1), encoding="utf-8")
    subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--screenshot={PICTURE}", f"--window-size={WIDTH},{HEIGHT}"),
            "--virtual-time-budget=8000",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
    )
    page.unlink()
    print(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--serial", choices=("yes", "no"), default="yes")
    parser.add_argument("--keep", type=Path, help="folder for the runs of joblib")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("options", nargs="*", help="of forecast.train, behind the sweep's own")
    given = parser.parse_args()
    if given.picture is not None:
        picture(given.picture)
        return
    with tempfile.TemporaryDirectory() as folder:
        parallel, serial = given.keep or Path(folder) / "joblib", Path(folder) / "serial"
        joblib = timed(parallel, "hydra/launcher=joblib", *given.options)
        again = timed(parallel, "hydra/launcher=joblib", *given.options)
        print(f"joblib: {joblib:.1f} s, {len(metrics(parallel))} runs; once more: {again:.1f} s")
        if given.serial == "yes":
            one = timed(serial, *given.options)
            same = "the same bytes" if metrics(serial) == metrics(parallel) else "OTHER BYTES"
            print(f"serial: {one:.1f} s, {one / joblib:.2f} x as long, {same}")


if __name__ == "__main__":
    main()
