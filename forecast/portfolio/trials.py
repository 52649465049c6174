"""What was traded before: trials, counted from the ledger, and their returns where they are left.

A trial is one traded (model, strategy). The ledger has a line for each, whose `run` is
`<folder>/<model>/<strategy>` and whose `configuration` names everything but the seed and the costs;
it stays when the folder is removed, so removing folders hides nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from forecast.portfolio.sharpe import excess_returns, pairs_of
from forecast.portfolio.strategies import FROM_PRICES
from forecast.run import Run

COLUMNS = ["part", "model", "strategy", "date", "simple_return", "cash_return"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """Configurations that were traded on one part of the same prices.

    Attributes
    ----------
    count : int
        Different ones on the ledger.
    returns : DataFrame, dates × configurations
        Simple returns over cash, fractions; the mean of a configuration's runs, which differ in
        their seed or costs; NaN on dates that it did not trade.
    missing : int
        Those of `count` whose returns are gone.
    """

    count: int
    returns: pd.DataFrame
    missing: int


def record_trials(
    run: Run, part: str, first: str, last: str, trials: Mapping[tuple[str, str], str]
) -> None:
    """Append a line to the ledger for each (model, strategy) that is traded: its configuration.

    Benchmarks, whose model is `none`, are no trials.
    """
    lines = {
        f"{run.name}/{model}/{strategy}": configuration
        for (model, strategy), configuration in trials.items()
        if model != FROM_PRICES
    }
    if lines:
        run.record(part, first, last, trials=lines)


def trials(outputs: Path, data_sha256: str, part: str) -> Trials:
    """All trials on one part of the prices of that hash, by the ledger in `outputs`."""
    path = Path(outputs) / "ledger.csv"
    configurations: set[str] = set()
    traded: dict[str, str] = {}  # configuration by the name of the trial; repeated, it is the same
    if path.exists():
        with open(path, newline="") as file:
            for line in csv.DictReader(file):
                if "/" in line["run"] and (line["data"], line["part"]) == (data_sha256, part):
                    traded[line["run"]] = line["configuration"]
                    configurations.add(line["configuration"])
    found: dict[str, list[pd.Series]] = {}
    for folder in sorted({name.partition("/")[0] for name in traded}):
        for name, series in _returns(Path(outputs) / folder, part).items():
            if name in traded:
                found.setdefault(traded[name], []).append(series)
    averaged = {
        configuration: pd.concat(found[configuration], axis=1).mean(axis=1)
        for configuration in sorted(found)
    }
    returns = pd.DataFrame(averaged).sort_index()
    count = len(configurations)
    return Trials(count=count, returns=returns, missing=count - len(averaged))


def _returns(folder: Path, part: str) -> dict[str, pd.Series]:
    """Returns over cash of a run by the name of the trial; empty where they are gone."""
    try:
        table = pd.read_parquet(folder / "returns.parquet", columns=COLUMNS)
    except (OSError, pa.ArrowException):
        return {}
    wide = excess_returns(table, part)
    return {f"{folder.name}/{'/'.join(pair)}": wide[pair].dropna() for pair in pairs_of(wide)}
