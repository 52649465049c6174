"""Configurations ranked by their validation objective, and how much of the ranking is luck.

References
----------
Breiman, Friedman, Olshen and Stone (1984), Classification and regression trees: of all that lie
within one standard error of the best, the simplest.
Hansen, Lunde and Nason (2011), The model confidence set, Econometrica 79.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecast.evaluation.comparison import (
    block_length,
    confidence_set,
    diebold_mariano,
    resample,
)
from forecast.evaluation.entries import Entry, entries
from forecast.evaluation.importance import importance
from forecast.evaluation.significance import FEWEST, LEVEL

MOST = 60  # configurations among which the confidence set is sought
REPETITIONS = 2000  # of its bootstrap
LONGEST = 24  # characters of a list that is shown as it is


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """Networks that can be compared: scored on the same dates of the same prices and horizons.

    Attributes
    ----------
    facts : dict
        `kind` (forecasts, or positions, whose objective is minus a Sharpe ratio), `command`,
        `data` (sha256), `source`, `symbols`, `horizons`, `delay`, `validation` (first and last
        date), `warnings`.
    ledger : dict of int
        Of these data, runs that are deleted by now included: `configurations` and `looks` on the
        validation part, `test_configurations` and `test_looks` on the test part. Traded strategies
        are counted elsewhere.
    keys : list of str
        Dotted keys in which the runs differ, but for the seed.
    table : DataFrame
        A row per configuration and model, best first: `rank, configuration, model, settings, runs,
        seeds, objective` (mean over seeds), `spread` (their standard deviation), `difference` to
        the best and its standard error `se`, `within` one of it, `chosen` (the one of these with
        fewest parameters), `mcs_p, in_mcs, parameters` (of one member), `members, fit_seconds,
        targets_per_second, opened` (runs with a test score), `test` (mean of these).
    runs : DataFrame
        A row per run and model: `run, configuration, model, rank, seed, objective, fit_seconds,
        targets_per_second, parameters, test` and a column per key.
    importance : DataFrame
        Of each key, and of the seed as the yardstick of luck.
    daily : DataFrame, dates × rows of the table
        Objective loss, seeds averaged; empty for positions.
    notes : list of str
        What is to be told beside the table.
    """

    facts: dict[str, Any]
    ledger: dict[str, int]
    keys: list[str]
    table: pd.DataFrame
    runs: pd.DataFrame
    importance: pd.DataFrame
    daily: pd.DataFrame
    notes: list[str]


def leaderboards(outputs: Path, where: Mapping[str, Any] | None = None) -> list[Board]:
    """Rank all finished runs, in groups that can be compared, the largest group first.

    Parameters
    ----------
    outputs : folder of the run folders.
    where : see `entries`. Filters hide runs, they do not lower the number of trials.

    Raises
    ------
    ForecastError
        No run fits.
    """
    found, left_out = entries(outputs, where)
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in found:
        groups.setdefault(entry.comparable, []).append(entry)
    boards = [_board(group, _counted(outputs, group[0])) for group in groups.values()]
    boards.sort(key=lambda board: -len(board.runs))
    boards[0].notes.extend(left_out)
    return boards


def _counted(outputs: Path, entry: Entry) -> dict[str, int]:
    """What the ledger tells of these data."""
    seen: dict[str, list[str]] = {"validation": [], "test": []}
    path = Path(outputs) / "ledger.csv"
    if path.exists():
        with open(path, newline="") as file:
            for line in csv.DictReader(file):
                if line["data"] == entry.data["sha256"] and "/" not in line["run"]:
                    seen.setdefault(line["part"], []).append(line["configuration"])
    return {
        "configurations": len({*seen["validation"]}),
        "looks": len(seen["validation"]),
        "test_configurations": len({*seen["test"]}),
        "test_looks": len(seen["test"]),
    }


def _board(group: Sequence[Entry], ledger: dict[str, int]) -> Board:
    first = group[0]
    keys = differing([entry.settings for entry in group])
    runs = _runs(group, keys)
    table = _means(group, keys)
    order = {
        row: rank for rank, row in enumerate(zip(table.configuration, table.model, strict=True))
    }
    runs["rank"] = [1 + order[row] for row in zip(runs.configuration, runs.model, strict=True)]
    runs = runs.sort_values(["rank", "seed"], ignore_index=True)
    notes: list[str] = []
    daily = pd.DataFrame()
    if first.kind == "forecasts":
        daily = _daily(group, order)
    reach = max(first.config["horizons"]) + first.config["target"]["delay"]
    table = _compared(table, daily, runs, reach=reach, notes=notes)
    if len({entry.rows for entry in group}) > 1:
        notes.append(
            "Not all were scored on the same rows, since their warm-up or embargo differs: "
            "standard errors are those of the dates that all have."
        )
    asked = runs[keys + (["seed"] if runs["seed"].nunique() > 1 else [])]
    if len(table) > 1:
        notes.append(
            "The best was chosen by these very scores, so it is better here than it will be."
        )
    return Board(
        facts={
            "kind": first.kind,
            "command": first.command,
            "data": first.data["sha256"],
            "source": first.data["source"],
            "symbols": len(first.data["symbols"]),
            "horizons": list(first.config["horizons"]),
            "delay": first.config["target"]["delay"],
            "validation": list(first.data["fold"]["validation"]),
            "warnings": list(first.data.get("warnings", ())),
        },
        ledger=ledger,
        keys=keys,
        table=table,
        runs=runs,
        importance=importance(asked, runs["objective"].tolist()),
        daily=daily,
        notes=notes,
    )


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys in which some configurations differ, without those that only come with another choice.

    Where `head.name` differs, the heads' own options, which others do not have, follow from it.
    """
    values = {key: [repr(of.get(key)) for of in settings] for of in settings for key in of}
    keys = [key for key, found in values.items() if len({*found}) > 1 and key != "seed"]
    named = {key.rpartition(".")[0] for key in keys if key.endswith((".name", ".cell"))}

    def follows(key: str) -> bool:
        everywhere = all(key in of for of in settings)
        return not everywhere and any(key.startswith(f"{section}.") for section in named if section)

    return sorted(key for key in keys if key.endswith((".name", ".cell")) or not follows(key))


def shown(values: Sequence[Any]) -> list[Any]:
    """Settings as values of a table: lists as text, long ones as their length.

    Of different lists that would look the same, all but the first are numbered.
    """
    names: dict[str, str] = {}  # by what they stand for
    alike: Counter[str] = Counter()
    for value in values:
        whole = json.dumps(value)
        if isinstance(value, list | Mapping) and whole not in names:
            name = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            name = name if len(name) <= LONGEST else f"{len(value)} of them"
            alike[name] += 1
            names[whole] = name if alike[name] == 1 else f"{name} ({alike[name]})"
    return [names.get(json.dumps(value), value) for value in values]


def _runs(group: Sequence[Entry], keys: Sequence[str]) -> pd.DataFrame:
    columns = {key: shown([entry.settings.get(key) for entry in group]) for key in keys}
    return pd.DataFrame(
        [
            {
                "run": entry.run.name,
                "configuration": entry.configuration,
                "model": entry.model,
                "rank": 0,
                "seed": entry.config["seed"],
                "objective": entry.objective,
                "fit_seconds": entry.speed[0],
                "targets_per_second": entry.speed[1],
                "parameters": entry.parameters,
                "test": entry.test,
                **{key: values[place] for key, values in columns.items()},
            }
            for place, entry in enumerate(group)
        ]
    )


def _means(group: Sequence[Entry], keys: Sequence[str]) -> pd.DataFrame:
    """A row per configuration and model, seeds averaged, best first."""
    by_row: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(group, key=lambda e: e.config["seed"]):
        by_row.setdefault((entry.configuration, entry.model), []).append(entry)
    rows = []
    short = _short(keys)
    told = {key: shown([entry.settings.get(key) for entry in group]) for key in short}
    place = {id(entry): index for index, entry in enumerate(group)}
    for (configuration, model), of in by_row.items():
        scores = _by_seed([entry.config["seed"] for entry in of], [e.objective for e in of])
        tests = [test for entry in of if (test := entry.test) is not None]
        settings = [f"{short[key]}={_typed(told[key][place[id(of[0])]])}" for key in short]
        rows.append(
            {
                "configuration": configuration,
                "model": model,
                "settings": " ".join(settings),
                "runs": [entry.run.name for entry in of],
                "seeds": len(scores),
                "objective": float(scores.mean()),
                "spread": float(scores.std(ddof=1)) if len(scores) > 1 else np.nan,
                "parameters": of[0].parameters,
                "members": of[0].config["ensemble"],
                "fit_seconds": float(np.mean([entry.speed[0] for entry in of])),
                "targets_per_second": float(np.mean([entry.speed[1] for entry in of])),
                "opened": len(tests),
                "test": float(np.mean(tests)) if tests else np.nan,
            }
        )
    table = pd.DataFrame(rows).sort_values(["objective", "configuration"], ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def _by_seed(seeds: Sequence[int], scores: Sequence[float | None]) -> np.ndarray:
    """One score a seed: a network repeated elsewhere tells nothing of the seeds."""
    found = pd.Series(np.array(scores, np.float64))
    return found.groupby(list(seeds)).mean().to_numpy()


def _short(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key where that is one alone, else all of it; the model has a column."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    names = {}
    for key in keys:
        if key == "model.cell":
            continue
        section, _, name = key.rpartition(".")
        names[key] = section if name == "name" else name if last[name] == 1 else key
    return names


def _typed(value: Any) -> str:
    """A setting as it is typed; of a number four digits."""
    if isinstance(value, float):
        return format(value, ".4g")
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _daily(group: Sequence[Entry], order: Mapping[tuple[str, str], int]) -> pd.DataFrame:
    """Losses of the dates that all have, shape dates × configurations."""
    found: dict[int, list[pd.Series]] = {}
    for entry in group:
        found.setdefault(order[entry.configuration, entry.model], []).append(entry.losses)
    columns = {
        row: pd.concat(found[row], axis=1).mean(axis=1, skipna=False) for row in sorted(found)
    }
    return pd.DataFrame(columns).dropna()


def _compared(
    table: pd.DataFrame, daily: pd.DataFrame, runs: pd.DataFrame, *, reach: int, notes: list[str]
) -> pd.DataFrame:
    """Add the difference to the best with its standard error, the choice and the confidence set."""
    count = len(table)
    difference = (table["objective"] - table["objective"].iloc[0]).to_numpy()
    error = np.full(count, np.nan)
    dates = len(daily)
    if dates < FEWEST and count > 1:
        what = f"fewer than {FEWEST} dates are scored" if dates else "Sharpe ratios are ranked"
        notes.append(f"Differences have no standard errors, since {what}: the best is chosen.")
    if dates >= FEWEST and count > 1:
        noise = _seed_variance(runs)
        if noise is None:
            notes.append(
                "No configuration has two seeds: standard errors are those of the dates alone."
            )
        seeds = 1 / table["seeds"].to_numpy()
        best = daily[0].to_numpy()
        for row in range(1, count):
            se = diebold_mariano(daily[row].to_numpy(), best).se
            error[row] = np.sqrt(se**2 + (noise or 0.0) * (seeds[row] + seeds[0]))
    within = np.concatenate([[True], difference[1:] <= np.nan_to_num(error[1:], nan=-1.0)])
    smallest = table["parameters"].astype(float).fillna(np.inf).where(within, np.inf).to_numpy()
    chosen = int(np.flatnonzero(within & (smallest == smallest[within].min()))[0])
    p, inside = np.full(count, np.nan), np.full(count, None, dtype=object)
    if dates >= FEWEST and count > 1:
        most = min(count, MOST)
        draws = resample(dates, block_length(dates, reach), repetitions=REPETITIONS, seed=0)
        p[:most] = confidence_set(daily.to_numpy()[:, :most], draws)
        inside[:most] = [bool(value > LEVEL) for value in p[:most]]
        if most < count:
            notes.append(f"The model confidence set was sought among the best {most}.")
    return table.assign(
        difference=difference,
        se=error,
        within=within,
        chosen=np.arange(count) == chosen,
        mcs_p=p,
        in_mcs=inside,
    )


def _seed_variance(runs: pd.DataFrame) -> float | None:
    """Variance of the objective over seeds, pooled over configurations; None without any two."""
    seeds = runs.groupby(["configuration", "model", "seed"])["objective"].mean()
    groups = seeds.groupby(["configuration", "model"])
    free = (groups.count() - 1).to_numpy()
    if not free.sum():
        return None
    return float((groups.var().fillna(0.0).to_numpy() * free).sum() / free.sum())
