"""One Forecasts table of several, in which all models state the same rows.

Scores of two models compare only on the same symbols, origins and targets. What one model lacks is
therefore taken from all, and counted. Tables are streamed: in memory stand the packed key and the
outcome of each row (24 bytes), and one row group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from forecast.config import ForecastError
from forecast.forecasts import PARTS, SCHEMA, ForecastWriter, open_parquet, validate

Keys = NDArray[np.int64]

BLOCK_SYMBOLS = 32  # symbols of a row group cut here
# What all models of a row must agree on: losses of one would otherwise be of something else.
SHARED = ("actual", "realized_variance", "scale", "delay")
ROUNDING = 1e-3  # percent, and share of it: what two tables' actuals may differ by

# A key packs, from the top: symbol, origin (days from `_EPOCH`), horizon, whether the actual is
# known. Packed numbers cannot collide, as hashes of the same width may.
_DAYS, _HORIZONS = 24, 15
_EPOCH = -(2 ** (_DAYS - 1))


class Dropped(TypedDict):
    """What alignment took from a part.

    rows : (symbol, origin, horizon) that not every model states, and that were dropped from all.
    lacked : of these, how many each model lacks; models that lack none are left out.
    """

    rows: int
    lacked: dict[str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """A row group of one model, fold and part: where it lies and which rows it holds."""

    path: Path
    number: int
    where: str
    model: str
    fold: int
    part: str
    keys: Keys
    shared: Mapping[str, NDArray[np.float32]]

    def read(self) -> pa.Table:
        # Opened each time: a walk-forward may have more tables than a process may have files.
        with open_parquet(self.path) as file:
            return file.read_row_group(self.number)


def align(paths: Sequence[Path], out: Path) -> dict[str, Dropped]:
    """Join tables into one whose models all state the same rows.

    A model counts where it states anything: one without a part or a horizon takes nothing from the
    others there. A row whose actual only some models know is one that the others lack. Row groups
    come in the order part, fold, block of symbols, model, models in the order of first appearance,
    so `out` depends on the tables and their order alone.

    Parameters
    ----------
    paths : parquet files with the columns of a Forecasts table. Their row groups may mix models,
        parts and folds, as those of pandas do; such a file is first sorted, a model at a time, into
        a copy beside `out`.
    out : the joint table, which appears whole or not at all; may be one of `paths`.

    Returns
    -------
    dict of part to Dropped

    Raises
    ------
    ForecastError
        A table breaks a rule (see `forecast.schema`); a model states a row twice or in two parts;
        two models disagree on what happened; models have no row of a part and horizon in common.
    """
    with ForecastWriter(out) as writer, ExitStack() as stack:
        symbols: dict[str, int] = {}
        groups: list[_Group] = []
        for number, path in enumerate(paths):
            groups += _groups(Path(path), Path(f"{out}.sorted-{number}"), symbols, stack)
        names = list(symbols)
        parts = {part: _by_model(group for group in groups if group.part == part) for part in PARTS}
        _check_parts(parts, names)
        dropped: dict[str, Dropped] = {}
        kept: dict[str, Keys | None] = {}
        for part, models in parts.items():
            if models:
                _check_shared(part, models, names)
                dropped[part], kept[part] = _common(part, models)
        for group in _in_order(groups):
            table, wanted = group.read(), kept[group.part]
            if wanted is not None and not (keep := _holds(wanted, group.keys)).all():
                table = validate(table, group.where).filter(pa.array(keep))
            writer.write(table, group.where)
    return dropped


def _groups(path: Path, copy: Path, symbols: dict[str, int], stack: ExitStack) -> list[_Group]:
    """The row groups of a table, sorted into a copy first where they are not as ours."""
    with open_parquet(path) as file:
        groups = _index(file, path, str(path), symbols)
        if groups is None:
            stack.callback(copy.unlink, missing_ok=True)
            _sort(file, path, copy)
    if groups is None:
        with open_parquet(copy) as file:
            groups = _index(file, copy, f"{path} sorted by key", symbols)
    assert groups is not None  # what ForecastWriter wrote block by block
    return groups


def _index(
    file: pq.ParquetFile, path: Path, where: str, symbols: dict[str, int]
) -> list[_Group] | None:
    """The row groups of a file; None where they are not of one model, fold and part each.

    None also where two of a model's row groups hold the same symbol, so that blocks of symbols have
    no order, and where a key cannot be packed, which sorting will refuse. `symbols` numbers the
    symbols, and grows.
    """
    if not file.schema_arrow.equals(SCHEMA):
        return None
    groups: list[_Group] = []
    seen: set[tuple[str, int, str, str]] = set()
    for number in range(file.num_row_groups):
        columns = ["model", "fold", "part", "symbol", "origin", "horizon", *SHARED]
        table = file.read_row_group(number, columns=columns)
        if table.num_rows == 0:
            continue
        names = {name: table[name].unique().to_pylist() for name in columns[:4]}
        unfit = (
            any(table[name].null_count for name in columns[:6])
            or any(len(names[name]) > 1 for name in columns[:3])
            or names["part"][0] not in PARTS
            or pc.min(table["horizon"]).as_py() < 1
        )
        if unfit:
            return None
        model, fold, part = (names[name][0] for name in columns[:3])
        held = {(model, fold, part, symbol) for symbol in names["symbol"]}
        if held & seen:
            return None
        seen |= held
        for symbol in names["symbol"]:
            symbols.setdefault(symbol, len(symbols))
        column = table["symbol"].combine_chunks()
        # A name may stand twice in a dictionary, and names in it need not be used.
        codes = [symbols.get(name, -1) for name in column.dictionary.to_pylist()]
        actual = table["actual"].to_numpy()
        key = np.array(codes, np.int64)[column.indices.to_numpy()]
        day = table["origin"].to_numpy().astype("datetime64[D]").astype(np.int64)
        key = (key << _DAYS) + day - _EPOCH
        key = (key << _HORIZONS) + table["horizon"].to_numpy()
        groups.append(
            _Group(
                path=path,
                number=number,
                where=where if file.num_row_groups == 1 else f"{where}, row group {number}",
                model=model,
                fold=fold,
                part=part,
                keys=(key << 1) + ~np.isnan(actual),
                shared={name: table[name].to_numpy().astype(np.float32) for name in SHARED},
            )
        )
    return groups


def _sort(file: pq.ParquetFile, path: Path, copy: Path) -> None:
    """Write a table again in row groups of one model, fold, part and block of symbols."""
    models: dict[str, list[int]] = {}  # and the row groups that hold some of it
    for number in range(file.num_row_groups):
        for model in _read(file, path, number)["model"].unique().to_pylist():
            models.setdefault(model, []).append(number)
    with ForecastWriter(copy) as writer:
        for model, numbers in models.items():
            tables = (_read(file, path, number) for number in numbers)
            table = pa.concat_tables(
                [table.filter(pc.equal(_text(table, "model"), model)) for table in tables]
            ).unify_dictionaries()
            part, symbol = _ranks(table, "part", PARTS), _ranks(table, "symbol")
            fold, day = table["fold"].to_numpy(), table["origin"].to_numpy()
            row = np.lexsort((table["horizon"].to_numpy(), day, symbol, fold, part))
            block = np.stack([part, fold, symbol // BLOCK_SYMBOLS], axis=1)[row]
            starts = np.flatnonzero((block[1:] != block[:-1]).any(axis=1)) + 1
            for rows in np.split(row, starts):
                writer.write(table.take(rows), f"{path} sorted by key, {model}")


def _read(file: pq.ParquetFile, path: Path, number: int) -> pa.Table:
    """A row group of anyone's table, in `SCHEMA`."""
    table = file.read_row_group(number)
    index = [name for name in table.column_names if name.startswith("__index_level_")]  # pandas'
    where = str(path) if file.num_row_groups == 1 else f"{path}, row group {number}"
    return validate(table.drop_columns(index), where)


def _text(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table[name].cast(pa.string())


def _ranks(table: pa.Table, name: str, order: Sequence[str] = ()) -> Keys:
    """Place of each row's name in `order`, or among the sorted names."""
    column = table[name].combine_chunks()
    names = column.dictionary.to_pylist()
    place = {name: rank for rank, name in enumerate(order or sorted(names))}
    ranks: Keys = np.array([place[name] for name in names], np.int64)[column.indices.to_numpy()]
    return ranks


def _by_model(groups: Iterator[_Group]) -> dict[str, list[_Group]]:
    models: dict[str, list[_Group]] = {}
    for group in groups:
        models.setdefault(group.model, []).append(group)
    return models


def _in_order(groups: Sequence[_Group]) -> list[_Group]:
    """Row groups by part, fold, block of symbols and model."""
    models = {name: rank for rank, name in enumerate(dict.fromkeys(g.model for g in groups))}
    blocks: dict[tuple[str, int, str], int] = {}
    order = []
    for index, group in enumerate(groups):
        held = group.part, group.fold, group.model
        block = blocks[held] = blocks.get(held, -1) + 1  # the n-th of a model is its n-th block
        place = PARTS.index(group.part), group.fold, block, models[group.model], index
        order.append((place, group))
    return [group for _, group in sorted(order, key=lambda entry: entry[0])]


def _check_parts(parts: Mapping[str, dict[str, list[_Group]]], names: Sequence[str]) -> None:
    """Refuse a row that a model states twice, be it in two folds or in two parts."""
    for model in {model: None for models in parts.values() for model in models}:
        seen: dict[str, Keys] = {}
        for part, models in parts.items():
            if model not in models:
                continue
            mine = np.sort(np.concatenate([group.keys >> 1 for group in models[model]]))
            twice = mine[1:][mine[1:] == mine[:-1]]
            if len(twice):
                holding = [g for g in models[model] if (g.keys >> 1 == twice[0]).any()]
                where = dict.fromkeys(group.where for group in holding)
                folds = dict.fromkeys(group.fold for group in holding)
                raise ForecastError(
                    f"{' and '.join(where)}: {model} states {_name(twice[0], names)} of part "
                    f"{part} twice (fold {' and '.join(map(str, folds))}). Keep one of them."
                )
            for other, theirs in seen.items():
                both = np.intersect1d(theirs, mine, assume_unique=True)
                if len(both):
                    raise ForecastError(
                        f"{models[model][0].where}: {model} states {_name(both[0], names)} in the "
                        f"parts {other} and {part}, and no score mixes parts. Keep one of them."
                    )
            seen[part] = mine


def _check_shared(part: str, models: Mapping[str, list[_Group]], names: Sequence[str]) -> None:
    """Refuse models that disagree on what happened, or on what scores are measured in."""
    everyone = np.unique(np.concatenate([g.keys for groups in models.values() for g in groups]))
    for name in SHARED:
        value = np.full(len(everyone), np.nan, np.float32)
        first = np.zeros(len(everyone), np.int16)  # the model that stated it
        for rank, (model, groups) in enumerate(models.items()):
            for group in groups:
                own, row = group.shared[name], np.searchsorted(everyone, group.keys)
                new = np.isnan(value[row])
                value[row[new]], first[row[new]] = own[new], rank
                far = np.abs(own - value[row]) > ROUNDING * (1 + np.abs(value[row]))
                if far.any():
                    at = int(far.argmax())
                    other = list(models)[first[row[at]]]
                    raise ForecastError(
                        f"{group.where}, row {at} ({_name(group.keys[at] >> 1, names)}): "
                        f"{name}={own[at]:.6g} for {model} but {value[row[at]]:.6g} for {other}, "
                        f"{part}. Make both from the same prices, in percent log returns."
                    )


def _common(part: str, models: Mapping[str, list[_Group]]) -> tuple[Dropped, Keys | None]:
    """What is dropped of a part, and the keys that stay, sorted; None where all do.

    Raises
    ------
    ForecastError
        Where nothing stays of a horizon.
    """
    stated = {name: np.concatenate([g.keys for g in groups]) for name, groups in models.items()}
    horizons = {name: np.unique(_horizon(keys)) for name, keys in stated.items()}
    union, count = np.unique(np.concatenate(list(stated.values())), return_counts=True)
    needed = np.bincount(np.concatenate(list(horizons.values())))  # models of each horizon
    stays = count == needed[_horizon(union)]
    if stays.all():
        return Dropped(rows=0, lacked={}), None
    kept, gone = union[stays], union[~stays]
    for horizon in np.flatnonzero(needed):
        if not (_horizon(kept) == horizon).any():
            mine = [name for name in models if horizon in horizons[name]]
            raise ForecastError(
                f"{part}, horizon {horizon}: the models {', '.join(mine)} have no row in common. "
                "Forecast the same symbols and origin dates, or leave out the one that differs."
            )
    # Where some know the actual and some do not, that of the former is the row, and sorts last.
    best = gone[np.append(np.diff(gone >> 1) != 0, True)]
    lacked = {
        name: int(np.isin(_horizon(best), horizons[name]).sum() - np.isin(best, keys).sum())
        for name, keys in stated.items()
    }
    return Dropped(rows=len(best), lacked={name: n for name, n in lacked.items() if n}), kept


def _holds(sorted_keys: Keys, keys: Keys) -> NDArray[np.bool_]:
    """Whether each key is among sorted ones."""
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    held: NDArray[np.bool_] = sorted_keys[at] == keys
    return held


def _horizon(keys: Keys) -> Keys:
    return (keys >> 1) & (2**_HORIZONS - 1)


def _name(key: Any, names: Sequence[str]) -> str:
    """A key without its lowest bit, in words."""
    horizon, rest = int(key) & (2**_HORIZONS - 1), int(key) >> _HORIZONS
    day = np.datetime64((rest & (2**_DAYS - 1)) + _EPOCH, "D")
    return f"{names[rest >> _DAYS]}, {day}, horizon {horizon}"
