"""Seconds of a prediction from a saved run: 500 symbols in the price store, imports included.

    python benchmarks/prediction.py                   # histories of 5, 10 and 25 years
    python benchmarks/prediction.py --sessions 2520

A store of random walks is made in a temporary folder, an ensemble of 3 is trained on all of it for
one epoch, and `python -m forecast.predict` is timed as a user would wait for it: a new process, the
table, the files, the page and the live record. The store is fresh, so nothing is asked of Yahoo.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.prices.client import utc_now
from forecast.prices.exchanges import exchange_sessions, last_final
from forecast.prices.store import COLUMNS, Manifest, Store


def fill(store: Store, symbols: list[str], sessions: int) -> None:
    """Random walks that pay dividends, up to the last session that is over."""
    now = utc_now()
    last = last_final("XNYS", None, now)
    days = exchange_sessions("XNYS", np.datetime64("1970-01-01"), last)[-sessions:]
    rng = np.random.default_rng(0)
    for symbol in symbols:
        close = 50 * np.exp(np.cumsum(rng.standard_t(5, sessions) * 0.012))
        opened = close * np.exp(rng.normal(0, 0.004, sessions))
        frame = pd.DataFrame(
            {
                "date": days.astype("datetime64[s]"),
                "open": opened,
                "high": np.maximum(opened, close) * 1.005,
                "low": np.minimum(opened, close) * 0.995,
                "close": close,
                "volume": np.rint(rng.lognormal(13, 0.5, sessions)),
                "dividend": np.where(np.arange(sessions) % 63 == 5, close / 250, 0.0),
                "split": 0.0,
                "capital_gain": 0.0,
            }
        )
        stamp = f"{now}+00:00"
        manifest = Manifest(
            symbol=symbol, source="yahoo", fetched=stamp, checked=stamp, start=None,
            calendar="XNYS", timezone="America/New_York", currency="USD", instrument="EQUITY",
            exchange="NYQ",
        )  # fmt: skip
        store.write(symbol, frame[list(COLUMNS)], manifest)


def timed(sessions: int, symbols: int, repeats: int) -> tuple[float, float]:
    """Fastest and median seconds of a prediction."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"S{number:03d}" for number in range(symbols)]
        fill(Store(folder / "home"), names, sessions)
        listed = folder / "symbols.txt"
        listed.write_text("\n".join(names), encoding="utf-8")
        home = {"FORECAST_HOME": str(folder / "home"), "FORECAST_OUTPUTS": str(folder / "outputs")}
        environment = {**os.environ, **home}

        def run(door: str, *options: str) -> float:
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", f"forecast.{door}", *options],
                env=environment, check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            return time.perf_counter() - start

        run(
            "train", "data=yahoo", f"data.symbols={listed}", "trainer=cpu", "trainer.max_epochs=1",
            "evaluate=[validation]",
        )  # fmt: skip
        (trained,) = (folder / "outputs").glob("lstm-*")
        seconds = [run("predict", f"run={trained.name}") for _ in range(repeats)]
        return min(seconds), float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sessions", type=int, nargs="+", default=[1260, 2520, 6300])
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for sessions in options.sessions:
        fastest, median = timed(sessions, options.symbols, options.repeats)
        print(
            f"{options.symbols} symbols of {sessions} sessions: median {median:.2f} s, "
            f"fastest {fastest:.2f} s of {options.repeats}",
            flush=True,
        )


if __name__ == "__main__":
    main()
