"""Memory of a large run: a simulated panel, trained, forecast and scored in this process.

    python benchmarks/scale.py

Prints by how much the peak of resident memory grew over the imports, as a multiple of the bytes
of the features (rows × features × 4), which is what training has to hold.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time

import scipy.optimize  # noqa: F401 - imports are what the growth is measured over

import forecast.evaluation.scores  # noqa: F401
import forecast.models.pipeline  # noqa: F401
import forecast.report.page  # noqa: F401
from forecast import compose
from forecast.train import train


def peak() -> float:
    """Largest resident memory so far, MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--symbols", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--outputs", help="folder for the run; default: a temporary one")
    options = parser.parse_args()
    small = [
        "data=simulated",
        "data.process=garch",
        "data.truth=false",
        "ensemble=1",
        f"trainer.max_epochs={options.epochs}",
        "trainer=cpu",
        "progress=false",
    ]
    with tempfile.TemporaryDirectory() as folder:
        outputs = options.outputs or folder
        before, start = peak(), time.perf_counter()
        sizes = [f"data.n_symbols={options.symbols}", f"data.n_sessions={options.sessions}"]
        run = train(compose("train", [*small, *sizes, f"outputs={outputs}", "force=true"]))
        seconds = time.perf_counter() - start
        rows, features = run.data["rows"], len(run.data["features"])
        unit = rows * features * 4 / 2**20
        grown = peak() - before
        print(f"{rows:,} rows × {features} features × 4 bytes = {unit:,.0f} MB")
        print(f"peak {before:,.0f} MB after the imports, {peak():,.0f} MB at the end")
        print(
            f"growth {grown:,.0f} MB = {grown / unit:.2f} × the features; {seconds:,.0f} s in all"
        )
        fit, rate = run.timing["fit_seconds"], run.timing["targets_per_second"]
        print(f"fit {fit:,.0f} s, {rate:,.0f} targets/s, validation passes included")


if __name__ == "__main__":
    main()
