"""How fast portfolios are simulated, and beside a plain loop.

    python benchmarks/simulation.py

One strategy on a wide panel, and many strategies on one of the bundled panel's size; weights are
dense and decided daily. The table of weights is validated beforehand and read within the time,
which is that of the processor, single-threaded. The loop over dates and symbols is that of the
tests, on a panel that it can do.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecast.portfolio.costs import Costs
from forecast.portfolio.quotes import Quotes
from forecast.portfolio.simulation import EXECUTIONS, simulate

LOOP = Path(__file__).parents[1] / "tests" / "portfolio" / "conftest.py"
WIDE, MANY, SMALL = (10_000, 500, 1), (3300, 20, 60), (1000, 100, 1)  # dates, symbols, pairs
COSTS = Costs(
    commission=1.0,
    half_spread=2.0,
    slippage=2.0,
    impact=None,
    capital=None,
    borrow=0.5,
    cash=2.0,
    delisting_return=-30.0,
    levels=[],
)


def market(dates: int, symbols: int, pairs: int) -> tuple[Quotes, pd.DataFrame]:
    """Random walks, and weights of both signs for every symbol at every date."""
    rng = np.random.default_rng(0)
    day = np.busday_offset("1980-01-02", np.arange(dates), roll="forward")
    names = [f"S{s:03d}" for s in range(symbols)]
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, (dates, symbols)), axis=0))
    opening = close * np.exp(rng.normal(0, 0.003, close.shape))
    quotes = Quotes(dates=day, symbols=tuple(names), close_TS=close, open_TS=opening)
    strategies = [f"strategy {p:02d}" for p in range(pairs)]
    weight = rng.normal(0, 1, (pairs, dates, symbols))
    weight /= np.abs(weight).sum(axis=2, keepdims=True)
    p, t, s = (axis.ravel() for axis in np.indices(weight.shape, dtype=np.int32))
    table = pd.DataFrame(
        {
            "model": pd.Categorical.from_codes(0 * p, categories=pd.Index(["lstm"])),
            "strategy": pd.Categorical.from_codes(p, categories=pd.Index(strategies)),
            "fold": np.int16(0),
            "part": pd.Categorical.from_codes(0 * p, categories=pd.Index(["test"])),
            "origin": day.astype("datetime64[s]")[t],
            "symbol": pd.Categorical.from_codes(s, categories=pd.Index(names)),
            "weight": weight.ravel(),
        }
    )
    return quotes, table


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Processor time of the fastest of some calls."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    specification = importlib.util.spec_from_file_location("loop", LOOP)
    assert specification is not None and specification.loader is not None
    loop = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loop)
    for size in (WIDE, MANY, SMALL):
        quotes, table = market(*size)
        cash = np.full(len(quotes.dates), 2.0)
        print("{:,} dates × {} symbols, strategies: {}".format(*size))
        for execution in EXECUTIONS:
            arguments: dict[str, Any] = {"costs": COSTS, "cash_T": cash, "execution": execution}
            fast = seconds(partial(simulate, quotes, table, **arguments), repeats)
            line = f"  {execution:<10} {fast:6.3f} s"
            if size == SMALL:
                slow = seconds(partial(loop.plain_loop, quotes, table, **arguments), 1)
                line += f", plain loop {slow:6.3f} s: {slow / fast:.0f} times as long"
            print(line)


if __name__ == "__main__":
    main()
