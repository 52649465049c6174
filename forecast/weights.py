"""The Weights table: fractions of equity per symbol, decided at an origin's close.

What strategies and position heads hand to the simulation, and what anyone may hand in instead.
Within an origin that has rows a missing symbol is 0; an origin without rows is no rebalancing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from forecast.config import ForecastError
from forecast.forecasts import open_parquet
from forecast.schema import PARTS

WEIGHTS_KEY = ("model", "strategy", "fold", "part", "origin", "symbol")
NAMES = ("model", "strategy", "part", "symbol")


def validate_weights(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Refuse a table that breaks a rule of Weights; return it in canonical types and order.

    Parameters
    ----------
    table : the columns of `WEIGHTS_KEY` and `weight`, a fraction of equity; others are refused.
    where : the file or strategy it comes from, for messages.

    Returns
    -------
    DataFrame
        Names as text categoricals with sorted categories, `fold` int16, `origin` datetime64[s],
        `weight` float64; sorted by part (validation first), model, strategy, origin, symbol.

    Raises
    ------
    ForecastError
        Names the rule, a row that breaks it and the remedy.
    """
    wanted = (*WEIGHTS_KEY, "weight")
    for name in wanted:
        if name not in table:
            raise ForecastError(f"{where}: column {name} is missing. Add it.")
    for column in table:
        if column not in wanted:
            raise ForecastError(f"{where}: {column} is no column of a Weights table. Drop it.")
    if table.empty:
        raise ForecastError(f"{where}: there is no weight. Give a row per origin and symbol.")
    table = table.reset_index(drop=True)
    no_dates = (
        f"{where}: column origin is {table['origin'].dtype}, not dates. Convert it to session "
        "dates without time of day or zone."
    )
    if pd.api.types.is_numeric_dtype(table["origin"]):
        raise ForecastError(no_dates)
    try:
        weight = table["weight"].to_numpy(dtype=np.float64, na_value=np.nan)
        stamp: pd.Series = pd.to_datetime(table["origin"], format="ISO8601")
        fold = table["fold"].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ForecastError(f"{where}: {reason}. Correct the column's values.") from error
    if stamp.dt.tz is not None:
        raise ForecastError(no_dates)
    origin = stamp.to_numpy().astype("datetime64[s]")
    text = {name: _names(table[name]) for name in NAMES}

    def row(i: int) -> str:
        named = (str(text[name].iloc[i]) for name in ("model", "strategy", "symbol"))
        return f"{where}, row {i} ({', '.join(named)}, {str(origin[i])[:10]})"

    def refuse(wrong: np.ndarray, rule: str) -> None:
        if wrong.any():
            i = int(wrong.argmax())
            raise ForecastError(f"{row(i)}: {rule.format(**table.iloc[i])}")

    refuse(
        ~np.isfinite(weight), "weight={weight} is not finite. Give a fraction of equity, or no row."
    )
    for name in NAMES:
        refuse(text[name].isna().to_numpy(), f"{name} is null. Name it.")
    refuse(np.isnat(origin), "origin is null. Give a session date.")
    refuse(
        origin != origin.astype("datetime64[D]"),
        "origin={origin} has a time of day. Give a session date.",
    )
    refuse(
        ~np.isin(fold, np.arange(1 << 15)),
        "fold={fold} is no whole number from 0 on. Give 0 outside walk-forwards.",
    )
    refuse(
        ~text["part"].isin(PARTS).to_numpy(),
        f"part={{part}} is none of {', '.join(PARTS)}. Correct it.",
    )
    result = pd.DataFrame(
        {
            "model": text["model"],
            "strategy": text["strategy"],
            "fold": fold.astype(np.int16),
            "part": text["part"],
            "origin": origin,
            "symbol": text["symbol"],
            "weight": weight,
        }
    )
    place = result["part"].map({part: i for i, part in enumerate(PARTS)}).astype(np.int8)
    order = ["place", "model", "strategy", "origin", "symbol"]
    result = result.assign(place=place).sort_values(order, kind="stable").drop(columns="place")
    # One decision an origin: folds do not overlap, so the fold is no part of what must be unique.
    twice = result.duplicated(["part", "model", "strategy", "origin", "symbol"]).to_numpy()
    if twice.any():
        i = int(result.index[int(twice.argmax())])
        raise ForecastError(f"{row(i)}: the same key stands twice. Drop one.")
    return result.reset_index(drop=True)


def _names(column: pd.Series) -> pd.Series:
    """A column as text categories, sorted and all of them used."""
    column = column.astype("category").cat.remove_unused_categories()
    names, place = np.unique([str(name) for name in column.cat.categories], return_inverse=True)
    codes = np.append(place, -1)[column.cat.codes.to_numpy()]  # the code of null is -1
    categories = pd.Index(names.tolist(), dtype="str")
    return pd.Series(pd.Categorical.from_codes(codes, categories=categories), index=column.index)


def write_weights(path: Path, table: pd.DataFrame) -> None:
    """Write a validated table; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    table.to_parquet(temporary, index=False, compression="zstd")
    os.replace(temporary, path)


def join_weights(tables: Iterable[Path], out: Path, *, parts: Sequence[str]) -> None:
    """One table of several, with the parts wanted."""
    whole = pd.concat([read_weights(path).astype(dict.fromkeys(NAMES, str)) for path in tables])
    write_weights(out, validate_weights(whole[whole["part"].isin(parts)], str(out)))


def read_weights(path: str | Path) -> pd.DataFrame:
    """Read and validate a Weights table.

    Raises
    ------
    ForecastError
        Where the file is missing, is no parquet or breaks a rule of `validate_weights`.
    """
    with open_parquet(path) as file:
        try:
            table = file.read().to_pandas()
        except pa.ArrowException as error:
            raise ForecastError(f"{path}: {' '.join(str(error).split())}") from error
    return validate_weights(table, str(path))
