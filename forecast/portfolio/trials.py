"""What was traded before: trials, counted from the ledger, and their returns where they are left.

A trial is one traded (model, strategy). The ledger has a line for each, whose `run` is
`<folder>/<model>/<strategy>` and whose `configuration` names all that its weights follow from but
the seed; it stays when the folder is removed, so removing folders hides nothing.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from forecast.config import canonical_id, without
from forecast.portfolio.plan import Plan
from forecast.portfolio.sharpe import excess_returns, pairs_of
from forecast.portfolio.source import Source
from forecast.portfolio.strategies import FROM_PRICES
from forecast.run import Run

Pair = tuple[str, str]

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
    elsewhere : int
        Different ones on the ledger for the same part of other prices. A day more of data, or
        another list of symbols, makes other prices.
    """

    count: int
    returns: pd.DataFrame
    missing: int
    elsewhere: int = 0


# What weights do not follow from, or what is told in another way.
APART = (
    "seed", "costs", "strategy", "execution", "weights", "forecasts", "evaluate", "significance",
    "report", "recalibrate", "backtest.models", "backtest.baselines", "model.cell",
)  # fmt: skip
OF_NETWORKS = ("model", "head", "features", "optimizer", "loss", "trainer", "ensemble")


def trial_ids(
    config: Mapping[str, Any], pairs: Sequence[Pair], *, plan: Plan, source: Source, read: str
) -> dict[Pair, str]:
    """What makes a trial another one.

    Parameters
    ----------
    config : of the whole run.
    pairs : (model, strategy) traded; benchmarks, whose model is `none`, are no trials.
    read : sha256 of the code of own parts, or of the tables that the forecasts were read from.
    """
    shared = without(config["strategy"], ["rules", "models", "horizon"])
    apart = without(config, APART)
    result = {}
    for model, strategy in pairs:
        if model == FROM_PRICES:
            continue
        asked = apart if model in source.networks else without(apart, OF_NETWORKS)
        given = "" if source.weights is None else _sha256(source.weights, model, strategy)
        traded = {
            **shared,
            "horizon": source.horizon,
            "execution": plan.execution,
            "rule": config["strategy"]["rules"].get(strategy),
        }
        result[model, strategy] = canonical_id(
            {**asked, "strategy": traded},
            model=model,
            label=strategy,
            read=read + plan.own_sha256,
            # Weights of a network follow from the configuration; a table's are all there is.
            given="" if source.run is not None else given,
        )
    return result


def _sha256(weights: pd.DataFrame, model: str, strategy: str) -> str:
    """Of all weights of a strategy."""
    here = (weights["model"] == model) & (weights["strategy"] == strategy)
    rows = weights.loc[here.to_numpy(), ["part", "origin", "symbol", "weight"]]
    text = rows.to_csv(index=False, float_format="%.17g", lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()


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
    others: set[tuple[str, str]] = set()
    traded: dict[str, str] = {}  # configuration by the name of the trial; repeated, it is the same
    if path.exists():
        with open(path, newline="") as file:
            for line in csv.DictReader(file):
                if "/" not in line["run"] or line["part"] != part:
                    continue
                if line["data"] == data_sha256:
                    traded[line["run"]] = line["configuration"]
                    configurations.add(line["configuration"])
                else:
                    others.add((line["data"], line["configuration"]))
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
    missing = count - len(averaged)
    return Trials(count=count, returns=returns, missing=missing, elsewhere=len(others))


def _returns(folder: Path, part: str) -> dict[str, pd.Series]:
    """Returns over cash of a run by the name of the trial; empty where they are gone."""
    try:
        table = pd.read_parquet(folder / "returns.parquet", columns=COLUMNS)
    except (OSError, pa.ArrowException):
        return {}
    wide = excess_returns(table, part)
    return {f"{folder.name}/{'/'.join(pair)}": wide[pair].dropna() for pair in pairs_of(wide)}
