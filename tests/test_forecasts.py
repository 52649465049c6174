"""The Forecasts table: what it refuses, and that bytes depend on the rows alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from forecast import forecasts
from forecast.config import ForecastError
from forecast.evaluation.scores import Scores
from forecast.forecasts import (
    INNER,
    LEVELS,
    OPTIONAL,
    QUANTILES,
    SCHEMA,
    ForecastWriter,
    combine,
    read_blocks,
    read_forecasts,
    validate,
)
from forecast.schema import examine


def make_block(
    *,
    model: str = "lstm",
    part: str = "test",
    symbols: tuple[str, ...] = ("AAPL", "BRK/B"),
    days: int = 6,
    horizons: tuple[int, ...] = (1, 5),
    fold: int = 0,
    first: str = "2020-01-02",
    seed: int = 0,
) -> pd.DataFrame:
    """Plausible forecasts, the actual of the last `max(horizons)` origins unknown."""
    rng = np.random.default_rng(seed)
    dates = pd.bdate_range(first, periods=days).to_numpy().astype("datetime64[s]")
    keys = pd.MultiIndex.from_product([symbols, range(days), horizons]).to_frame(index=False)
    at, horizon = keys[1].to_numpy(), keys[2].to_numpy()
    end = at + horizon
    known = end < days
    n = len(keys)
    std = rng.uniform(0.5, 2, n)
    block = pd.DataFrame(
        {
            "model": model,
            "fold": fold,
            "part": part,
            "symbol": keys[0],
            "origin": dates[at],
            "horizon": horizon,
            "delay": 0,
            "target_date": np.where(known, dates[np.minimum(end, days - 1)], np.datetime64("NaT")),
            "price": rng.uniform(1, 100, n),
            "scale": rng.uniform(0.5, 2, n),
            "actual": np.where(known, rng.normal(size=n), np.nan),
            "realized_variance": np.where(known, rng.uniform(size=n), np.nan),
            "mean": 0.0,
            "std": std,
        }
    )
    quantiles = pd.DataFrame(std[:, None] * ndtri(np.array(LEVELS)), columns=list(QUANTILES))
    others = pd.DataFrame(rng.uniform(size=(n, len(OPTIONAL))), columns=list(OPTIONAL))
    others.loc[~known, ["nll", "pit", "crps_exact"]] = np.nan
    return pd.concat([block, quantiles, others], axis=1)


def write(path: Path, *blocks: pd.DataFrame | pa.Table) -> Path:
    with ForecastWriter(path) as writer:
        for block in blocks:
            writer.write(block)
    return path


def test_the_levels_are_nineteen_inner_ones_and_two_tails() -> None:
    assert list(LEVELS) == pytest.approx([0.01, *np.arange(0.05, 0.96, 0.05), 0.99])
    assert len(INNER) == 19
    assert QUANTILES[:3] == ("q01", "q05", "q10")
    assert QUANTILES[-2:] == ("q95", "q99")


@settings(max_examples=15, deadline=None)
@given(
    symbols=st.lists(st.text("AB./-é0", min_size=1, max_size=4), min_size=1, unique=True),
    horizons=st.sets(st.integers(1, 20), min_size=1, max_size=3),
    days=st.integers(1, 8),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    symbols: list[str],
    horizons: set[int],
    days: int,
) -> None:
    block = make_block(symbols=tuple(symbols), horizons=tuple(horizons), days=days)
    path = write(tmp_path_factory.mktemp("t") / "f.parquet", block)
    found = read_forecasts(path)
    assert list(found.columns) == SCHEMA.names
    for name in SCHEMA.names:
        if SCHEMA.field(name).type == pa.float32():
            np.testing.assert_array_equal(found[name], block[name].astype("float32"))
        else:
            assert found[name].astype(block[name].dtype).equals(block[name]), name
    assert found["origin"].dtype == "datetime64[s]"
    assert list(found["symbol"].cat.categories) == sorted(symbols)


def test_a_row_group_read_and_written_again_has_the_same_bytes(tmp_path: Path) -> None:
    blocks = [make_block(model=model) for model in ("lstm", "historical")]
    path = write(tmp_path / "a.parquet", *blocks)
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(group) for group in range(file.num_row_groups)]
    again = write(tmp_path / "b.parquet", *groups)
    frames = write(tmp_path / "c.parquet", *read_blocks(path))
    assert path.read_bytes() == again.read_bytes() == frames.read_bytes()


@pytest.mark.parametrize("order", list(permutations(forecasts.PARTS)))
def test_adding_parts_in_any_order_gives_the_bytes_of_writing_them_at_once(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    def blocks(part: str) -> list[pd.DataFrame]:
        return [
            make_block(part=part, symbols=symbols, model=model, seed=len(part))
            for symbols in (("C", "A"), ("B",))
            for model in ("lstm", "historical")
        ]

    whole = write(tmp_path / "whole", *(b for part in forecasts.PARTS for b in blocks(part)))
    grown = write(tmp_path / "grown", *blocks(order[0]))
    for part in order[1:]:
        combine([grown, write(tmp_path / part, *blocks(part))], grown)
    assert grown.read_bytes() == whole.read_bytes()


def test_combine_takes_only_the_parts_wanted_of_a_table(tmp_path: Path) -> None:
    # A crash between publishing forecasts and metrics leaves a part that is made again.
    old = write(tmp_path / "old", make_block(part="validation"), make_block(part="test"))
    new = write(tmp_path / "new", make_block(part="test", seed=1))
    combine({old: ["validation"], new: ["test"]}, old)
    expected = write(tmp_path / "x", make_block(part="validation"), make_block(seed=1))
    assert old.read_bytes() == expected.read_bytes()


def test_overlapping_keys_are_refused_and_leave_the_table_as_it_was(tmp_path: Path) -> None:
    old = write(tmp_path / "old", make_block())
    before = old.read_bytes()
    new = write(tmp_path / "new", make_block(symbols=("AAPL",), first="2020-01-09"))
    with pytest.raises(ForecastError, match=r"AAPL 1 has forecasts from 2020-01-09 to 2020-01-09"):
        combine([old, new], old)
    assert old.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    later = write(tmp_path / "later", make_block(first="2020-02-03"))
    combine([old, later], tmp_path / "both")
    assert len(read_forecasts(tmp_path / "both")) == 2 * len(make_block())


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", make_block())
    before = path.read_bytes()
    with pytest.raises(RuntimeError), ForecastWriter(path) as writer:
        writer.write(make_block(seed=1))
        raise RuntimeError
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.parquet"]


def test_an_error_of_the_encoder_is_raised_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: pq.ParquetWriter, table: pa.Table, **_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    for blocks in (1, 2):  # it is met at the end, or by the next block
        with (
            pytest.raises(OSError, match="No space left"),
            ForecastWriter(tmp_path / "f.parquet") as writer,
        ):
            for number in range(blocks):
                writer.write(make_block(symbols=(f"S{number}",)))
        assert list(tmp_path.iterdir()) == []


def test_a_frame_may_be_filled_anew_while_it_is_still_being_encoded(tmp_path: Path) -> None:
    frame = make_block(days=5_000)
    expected = write(tmp_path / "expected.parquet", frame).read_bytes()
    with ForecastWriter(tmp_path / "f.parquet") as writer:
        writer.write(frame)
        frame.loc[:, ["price", "mean", "q50"]] = 7.0
    assert (tmp_path / "f.parquet").read_bytes() == expected


def test_reading_streams_one_block_at_a_time_and_skips_unwanted_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path / "f.parquet",
        *(
            make_block(part=part, symbols=symbols, model=model)
            for part in ("validation", "test")
            for symbols in (("A", "B", "C"), ("D", "E"))
            for model in ("gru", "historical", "rnn")
        ),
    )
    read = []
    original = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    stream = read_blocks(path)
    next(stream)
    assert read == [0]
    stream.close()
    read.clear()
    found = read_forecasts(
        path, part="test", model="historical", symbols=["B"], columns=["symbol", "q50", "origin"]
    )
    assert read == [7]
    assert list(found.columns) == ["symbol", "q50", "origin"]
    assert set(found["symbol"]) == {"B"}
    assert len(found) == len(make_block(symbols=("B",)))
    assert read_forecasts(path, symbols=["nobody"]).empty
    read.clear()
    assert set(read_forecasts(path, part="test", model=["rnn", "gru"])["model"]) == {"rnn", "gru"}
    assert read == [6, 8, 9, 11]


class AtOnce:
    """An executor that does its work before it goes on: peaks do not depend on a race."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def submit(self, work: Callable[..., Any], *given: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*given, **named))
        return done

    def shutdown(self) -> None:
        """Nothing is left to wait for."""


def test_more_symbols_take_no_more_memory_to_write_and_to_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three or twelve blocks of the same size, one after the other."""
    monkeypatch.setattr(forecasts, "ThreadPoolExecutor", AtOnce)
    peaks = []
    for count in (1, 3, 12):  # the first imports what the others use
        names = [f"S{number:02d}" for number in range(8 * count)]
        tracemalloc.start()
        with ForecastWriter(tmp_path / "f.parquet") as writer:
            for first in range(0, len(names), 8):
                writer.write(make_block(symbols=tuple(names[first : first + 8]), days=150))
        scores = Scores()
        for block in read_blocks(tmp_path / "f.parquet"):
            scores.add(block)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


def test_values_read_can_be_changed(tmp_path: Path) -> None:
    found = read_forecasts(write(tmp_path / "f.parquet", make_block()))
    found.loc[0, ["price", "q50"]] = 1.0
    assert found.loc[0, "price"] == 1


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", make_block().head(0))
    assert list(read_blocks(path)) == []
    assert list(read_forecasts(path).columns) == SCHEMA.names


def test_other_widths_and_missing_optional_columns_are_accepted() -> None:
    block = make_block().drop(columns=list(OPTIONAL))
    table = validate(block, "mine")
    assert table.schema == SCHEMA
    assert table["nll"].null_count == table.num_rows
    narrow = block.astype({"price": "float32", "fold": "int8", "symbol": "category"})
    narrow["origin"] = narrow["origin"].astype("datetime64[ns]")
    assert validate(narrow, "mine")["origin"].equals(table["origin"])
    objects = block.assign(origin=[stamp.date() for stamp in block["origin"]])
    assert validate(objects, "mine")["origin"].equals(table["origin"])


@pytest.mark.parametrize(
    "dictionary", [["BRK/B", "AAPL"], ["unused", "BRK/B", "AAPL"], ["BRK/B", "AAPL", "BRK/B"]]
)
def test_names_are_stored_in_the_order_in_which_they_appear(dictionary: list[str]) -> None:
    """However a dictionary orders, repeats or adds names."""
    block = make_block()
    copies = {name: [i for i, n in enumerate(dictionary) if n == name] for name in dictionary}
    place = [copies[name][i % len(copies[name])] for i, name in enumerate(block["symbol"])]
    names = pa.DictionaryArray.from_arrays(pa.array(place, pa.int8()), pa.array(dictionary))
    plain = pa.Table.from_pandas(block, preserve_index=False)
    table = plain.set_column(plain.column_names.index("symbol"), "symbol", names)
    stored = validate(table, "f")["symbol"].chunk(0)
    assert stored.dictionary.to_pylist() == ["AAPL", "BRK/B"]
    assert stored.equals(validate(block, "f")["symbol"].chunk(0))


def test_a_name_that_a_dictionary_holds_as_null_is_null() -> None:
    plain = pa.Table.from_pandas(make_block(), preserve_index=False)
    place = pa.array(np.arange(plain.num_rows, dtype=np.int32) % 2)
    names = pa.DictionaryArray.from_arrays(place, pa.array(["AAPL", None]))
    with pytest.raises(ForecastError, match="row 1: symbol is null"):
        validate(plain.set_column(plain.column_names.index("symbol"), "symbol", names), "f")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), days=st.integers(1, 40))
def test_first_and_last_origins_are_those_of_a_loop_whatever_the_order(
    seed: int, days: int
) -> None:
    parts = [make_block(fold=fold, days=days) for fold in (0, 1, 32767)]
    parts.append(make_block(model="gru", days=days, horizons=(20, 250)))
    block = pd.concat(parts).sample(frac=0.7, random_state=seed)
    if seed % 2:  # as forecasts of several folds would stand in one table by date
        block = block.sort_values("origin", kind="stable")
    _, spans = examine(block, "f")
    expected: dict[tuple[object, ...], list[int]] = {}
    for row in block.itertuples():
        key = (row.model, row.fold, row.part, row.symbol, row.horizon)
        expected.setdefault(key, []).append((row.origin - pd.Timestamp(0)).days)
    assert spans == {key: (min(of), max(of)) for key, of in expected.items()}
    again = pd.concat([block, block.sample(1, random_state=seed)])
    with pytest.raises(ForecastError, match="stands twice"):
        examine(again, "f")


def test_models_of_one_block_may_state_different_columns() -> None:
    point = make_block(model="point").assign(**dict.fromkeys((*QUANTILES, "std"), np.nan))
    mixed = pd.concat([make_block(), point], ignore_index=True)
    validate(mixed, "mine")
    mixed.loc[len(mixed) - 1, "std"] = 1.0
    with pytest.raises(ForecastError, match=r"row 25 .*std is null here but not in every row"):
        validate(mixed, "mine")


def test_heads_may_leave_out_a_column_for_a_whole_horizon() -> None:
    validate(make_block().assign(**dict.fromkeys((*QUANTILES, "std", *OPTIONAL), np.nan)), "point")
    block = make_block()
    block.loc[block["horizon"] == 5, "nll"] = np.nan
    validate(block, "simulated garch")


def at(row: int, **values: Any) -> pd.DataFrame:
    block = make_block()
    for name, value in values.items():
        block.loc[row, name] = value
    return block


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (make_block().drop(columns="q50"), "column q50 is missing"),
        (make_block().assign(note=1), "note is no column"),
        (make_block().assign(q03=0.0), "q03 is none of the 21 levels q01, q05, q10, …, q99. Give"),
        (make_block().rename(columns={"q05": "q025"}), "q025 is none of the 21 levels"),
        (make_block().assign(price="12"), "column price is .*, not double. Convert it to numbers"),
        (make_block().assign(horizon=1.5), "column horizon is double, not int16"),
        (make_block().assign(fold=40_000), "column fold is int64, not int16"),
        (make_block().assign(symbol=1), "column symbol is int64.*Convert it to text"),
        (make_block().assign(origin="2020-01-02"), "column origin is .*dates without time of day"),
        (
            make_block().assign(origin=pd.Timestamp("2020-01-02 16:00")),
            "column origin is .*without time of day",
        ),
        (
            make_block().assign(origin=pd.Timestamp("2020-01-02", tz="UTC")),
            "column origin is .*or zone",
        ),
        (make_block().assign(symbol=[1, *"x" * 23]), "Give every column one name and type"),
        (at(3, symbol=None), "row 3: symbol is null"),
        (at(3, scale=np.nan), "row 3: scale is null"),
        (at(2, q50=np.inf), r"row 2 \(AAPL, 2020-01-03, horizon 1\): q50 is infinite"),
        (at(2, actual=-np.inf), "actual is infinite"),
        (at(2, mean=1e300), "mean is infinite"),
        (at(2, q50=9.0), r"row 2 .*quantiles cross .*q50=9.0.*Sort them"),
        (at(2, q50=np.nan), "q50 is null here but not in every row of its horizon"),
        (make_block().assign(q50=np.nan), "some quantiles are null"),
        (at(2, std=np.nan), "std is null here"),
        (at(2, nll=np.nan), "nll is null here"),
        (at(2, target_date=pd.Timestamp("2020-01-03")), "target_date=2020-01-03 is not after"),
        (at(2, target_date=pd.NaT), "actual=.* has no target_date"),
        (at(2, price=0.0), "price=0.0 must be above 0"),
        (at(2, std=-1.0), "std=-1.0 must be at least 0"),
        (at(2, horizon=0), "horizon=0 must be at least 1"),
        (at(2, pit=1.5), "pit=1.5 must be at most 1"),
        (at(2, part="train"), "part=train is none of validation, test, live"),
        (at(2, origin=pd.Timestamp("2020-01-02")), "row 2 .*stands twice. Drop one"),
    ],
)
def test_a_broken_rule_is_named_with_row_and_remedy_in_one_line(
    block: pd.DataFrame, message: str
) -> None:
    with pytest.raises(ForecastError, match=message) as caught:
        validate(block, "mine.parquet")
    assert str(caught.value).startswith("mine.parquet")
    assert "\n" not in str(caught.value)


def test_a_row_group_holds_one_model_and_part(tmp_path: Path) -> None:
    mixed = pd.concat([make_block(), make_block(model="gru")])
    validate(mixed, "mine")
    with pytest.raises(ForecastError, match="mixes"):
        write(tmp_path / "f.parquet", mixed)


def test_files_that_are_no_forecasts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    for name, message in (("none", "no such file"), ("text", "not a parq"), ("other", "no Forec")):
        with pytest.raises(ForecastError, match=message):
            read_forecasts(tmp_path / name)
    path = write(tmp_path / "f.parquet", make_block())
    with pytest.raises(ForecastError, match="no column q51"):
        read_forecasts(path, columns=["q51"])
