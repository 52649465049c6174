"""Columns from outside the prices, such as VIX, rates or sentiment, with when they were known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.prices.frame import FIELDS, Covariate
from forecast.prices.tables import column_names, read_columns

KEYS = ("path", "columns", "lag", "max_age")
KEPT = ("date", "known_at", "known", "symbol")
LAG = 1  # sessions; a value of the origin's own date is often published after its close
MAX_AGE = 5  # sessions; about a week


def load_covariates(
    specs: Sequence[Mapping[str, object]] | None,
    prices: pd.DataFrame,
    *,
    taken: Sequence[str] = (),
) -> tuple[tuple[Covariate, ...], tuple[str, ...]]:
    """Read `data.covariates`.

    Parameters
    ----------
    specs : one mapping a file. `path`: CSV or Parquet. It has a column `date`, the session date at
        whose close the values are known, or `known_at`, the time they were published, in the
        exchange's zone; a time of day after 00:00 counts as the next calendar day, because the
        close may have passed. With a column `symbol` the values are each symbol's own, else
        everybody's. Rows are in order of time, per symbol. `columns`: a list of value columns, or
        null for all others. `lag`: sessions between known and used, default 1, 0 only if said.
        `max_age`: sessions that a value is carried forward, default 5.
    prices : frame of `Prices`.
    taken : names of columns that the source brings itself.

    Returns
    -------
    covariates : without rows for symbols that have no prices or known after the last price.
    warnings : one line for each file with symbols that have no prices.

    Raises
    ------
    ForecastError
        Unknown keys, missing or clashing columns, stamps out of order or twice, infinite values.
    """
    covariates: list[Covariate] = []
    warnings: list[str] = []
    owner = dict.fromkeys(taken, "the simulation's own")
    for number, spec in enumerate(specs or ()):
        covariate, note = _load(f"data.covariates[{number}]", spec, prices)
        for column in covariate.columns:
            if column in FIELDS or column in owner:
                raise ForecastError(
                    f"{covariate.name}: column '{column}' clashes with "
                    f"{owner.get(column, 'the prices')}. Rename it in the file."
                )
            owner[column] = covariate.name
        covariates.append(covariate)
        warnings.extend(note)
    return tuple(covariates), tuple(warnings)


def _load(
    key: str, spec: Mapping[str, object], prices: pd.DataFrame
) -> tuple[Covariate, list[str]]:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("path"), str):
        raise ForecastError(f"{key} needs a path: {{path: vix.csv, columns: [vix]}}.")
    for name in spec:
        if name not in KEYS:
            raise ForecastError(f"{key}.{name} is unknown. Known are: {', '.join(KEYS)}.")
    lag, max_age = (_sessions(key, spec, name) for name in ("lag", "max_age"))
    path = Path(str(spec["path"])).expanduser()
    names = column_names(path)
    stamp = [name for name in ("date", "known_at") if name in names]
    if len(stamp) != 1:
        raise ForecastError(
            f"{path}: {' and '.join(stamp) or 'neither date nor known_at'} among its columns. "
            "Keep exactly one of date and known_at."
        )
    columns = _columns(key, spec.get("columns"), path, names)
    text = ["symbol"] if "symbol" in names else []
    table = read_columns(path, text=text, stamps=stamp, numbers=columns)
    table = table.rename(columns={stamp[0]: "known"})[["known", *text, *columns]]
    notes: list[str] = []
    if text:
        symbol = table["symbol"].cat
        table["symbol"] = symbol.reorder_categories(sorted(symbol.categories))
        table = table.sort_values("symbol", kind="stable", ignore_index=True)
    _check(path, stamp[0], table, columns)
    if text:
        table, notes = _with_prices(path, table, prices)
    # At midnight a stamp is its date's own; later in the day the close may have passed already.
    table["known"] = table["known"].dt.ceil("D").astype("datetime64[s]")
    table = table[(table["known"] <= prices["date"].max()).to_numpy()].reset_index(drop=True)
    if table.empty:
        raise ForecastError(
            f"{path}: nothing in it was known by {prices['date'].max():%Y-%m-%d}, the last price. "
            "Give earlier values, or later prices."
        )
    # Several stamps of one day become known together: the newest of each column counts.
    by = [*text, "known"]
    if table.duplicated(by).any():
        table = table.groupby(by, observed=True, as_index=False).last()
    covariate = Covariate(name=path.name, frame=table, columns=columns, lag=lag, max_age=max_age)
    return covariate, notes


def _sessions(key: str, spec: Mapping[str, object], name: str) -> int:
    value = spec.get(name, LAG if name == "lag" else MAX_AGE)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ForecastError(f"{key}.{name}={value} is no number of sessions. Give 0, 1, 2, ...")
    return value


def _columns(key: str, typed: object, path: Path, names: list[str]) -> tuple[str, ...]:
    if not isinstance(typed, str | Sequence | None):
        raise ForecastError(f"{key}.columns={typed} is no list of names. Write [vix, rate].")
    if typed is None:
        columns = [name for name in names if name not in KEPT]
    else:
        columns = [typed] if isinstance(typed, str) else list(cast(Sequence[str], typed))
    if not columns or len(set(columns)) < len(columns):
        raise ForecastError(f"{key}.columns={columns}: name one or more columns of {path}, once.")
    for name in columns:
        if name not in names or name in KEPT:
            raise ForecastError(
                f"{path}: {key}.columns has '{name}', which is no value column of the file. "
                f"Choose among: {', '.join(repr(other) for other in names if other not in KEPT)}."
            )
    return tuple(columns)


def _check(path: Path, stamp: str, table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    known = table["known"].to_numpy()
    same = np.ones(max(len(table) - 1, 0), dtype=bool)
    if "symbol" in table:
        same = np.diff(table["symbol"].cat.codes.to_numpy()) == 0
    step = np.diff(known)
    problems = [
        (np.append(False, same & (step == np.timedelta64(0))), "appears twice. Keep one row"),
        (np.append(False, same & (step < np.timedelta64(0))), "comes after a later one. Sort"),
    ]
    if stamp == "date":
        late = known != known.astype("datetime64[D]")
        problems.append((late, "has a time of day. Name the column known_at"))
    for name in columns:
        infinite = np.isinf(table[name].to_numpy())
        problems.append((infinite, f"has an infinite {name}. Correct it, or leave it empty"))
    for wrong, problem in problems:
        if wrong.any():
            row = table.iloc[int(wrong.argmax())]
            symbol = f" {row['symbol']}" if "symbol" in table else ""
            raise ForecastError(f"{path}:{symbol} {stamp}={row['known']} {problem}.")


def _with_prices(
    path: Path, table: pd.DataFrame, prices: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    priced = prices["symbol"].cat.categories
    others = [name for name in table["symbol"].cat.categories if name not in priced]
    if not others:
        return table, []
    shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
    if len(others) == len(table["symbol"].cat.categories):
        raise ForecastError(
            f"{path}: none of its symbols ({shown}) has prices. Write them as the prices do."
        )
    table = table[table["symbol"].isin(priced).to_numpy()].reset_index(drop=True)
    table["symbol"] = table["symbol"].cat.remove_unused_categories()
    return table, [f"{path.name}: {len(others)} symbols of this covariate have no prices: {shown}"]
