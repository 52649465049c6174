"""Aligned tables hold the rows that all models state, whoever wrote them and in what order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.evaluation import alignment
from forecast.evaluation.alignment import align
from forecast.forecasts import SCHEMA, ForecastWriter, read_forecasts, validate

MakeBlock = Callable[..., pd.DataFrame]
ROW = ["part", "symbol", "origin", "horizon"]


def write(path: Path, *blocks: pd.DataFrame) -> Path:
    with ForecastWriter(path) as writer:
        for block in blocks:
            writer.write(block)
    return path


def by_pandas(path: Path, frame: pd.DataFrame, rows: int = 100) -> Path:
    """A table as other people write it: one order for all models, row groups cut anywhere."""
    frame.to_parquet(path, index=False, row_group_size=rows)
    return path


def plain(path: Path) -> pd.DataFrame:
    """Rows of a table in one order, names as text."""
    frame = read_forecasts(path).astype(dict.fromkeys(("model", "part", "symbol"), "str"))
    return frame.sort_values(["model", *ROW], ignore_index=True)


def blocks(make_block: MakeBlock, model: str, **options: Any) -> list[pd.DataFrame]:
    """Both parts, two blocks of symbols each, in canonical order."""
    return [
        make_block(model=model, part=part, symbols=symbols, start=start, **options)
        for part, start in (("validation", "2019-01-01"), ("test", "2020-01-01"))
        for symbols in (("AAPL", "KO"), ("RRC",))
    ]


def test_tables_of_equal_rows_are_joined_by_block_and_model(
    tmp_path: Path, make_block: MakeBlock
) -> None:
    lstm, gru, drift = (blocks(make_block, model) for model in ("lstm", "gru", "drift"))
    one = write(
        tmp_path / "one", *(block for pair in zip(lstm, gru, strict=True) for block in pair)
    )
    two = write(tmp_path / "two", *drift)
    out = tmp_path / "out"
    none = {"rows": 0, "lacked": {}}
    assert align([one, two], out) == {"validation": none, "test": none}
    expected = write(
        tmp_path / "expected", *(b for row in zip(lstm, gru, drift, strict=True) for b in row)
    )
    assert out.read_bytes() == expected.read_bytes()
    assert align([out], out)["test"] == none
    assert out.read_bytes() == expected.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "one", "out", "two"]


def test_folds_of_a_walk_forward_come_in_order(tmp_path: Path, make_block: MakeBlock) -> None:
    paths = []
    for fold in (1, 0):
        for model in ("lstm", "drift"):
            block = make_block(model=model, start=f"20{10 + fold}-01-01").assign(fold=fold)
            paths.append(write(tmp_path / f"{fold}{model}", block))
    align(paths, tmp_path / "out")
    found = read_forecasts(tmp_path / "out")[["fold", "model"]].drop_duplicates()
    assert found.astype(str).agg("".join, axis=1).tolist() == ["0lstm", "0drift", "1lstm", "1drift"]


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shares=st.lists(st.floats(0.5, 1), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    foreign=st.booleans(),
)
def test_a_row_stays_where_every_model_states_it(
    tmp_path_factory: pytest.TempPathFactory,
    make_block: MakeBlock,
    shares: list[float],
    seed: int,
    foreign: bool,
) -> None:
    folder = tmp_path_factory.mktemp("align")
    rng = np.random.default_rng(seed)
    frames = []
    for number, share in enumerate(shares):
        whole = pd.concat(blocks(make_block, f"m{number}"))
        frames.append(whole[rng.uniform(size=len(whole)) < share])
    if foreign:
        mixed = pd.concat(frames).sample(frac=1, random_state=seed)
        paths = [by_pandas(folder / "mixed", mixed, 400)]
    else:
        paths = [
            write(folder / str(n), *(rows for _, rows in frame.groupby("part", observed=True)))
            for n, frame in enumerate(frames)
        ]
    dropped = align(paths, folder / "out")
    stated = [set(frame[ROW].itertuples(index=False, name=None)) for frame in frames]
    common, union = set.intersection(*stated), set.union(*stated)
    found = read_forecasts(folder / "out")
    for number, frame in enumerate(frames):
        rows = pd.MultiIndex.from_frame(frame[ROW]).isin(list(common))
        mine = frame[rows].sort_values(ROW).drop(columns=["model", *ROW])
        theirs = found[found["model"] == f"m{number}"].sort_values(ROW)
        pd.testing.assert_frame_equal(
            theirs.drop(columns=["model", *ROW]).reset_index(drop=True),
            mine.reset_index(drop=True),
            check_dtype=False,
        )
    for part, said in dropped.items():
        assert said["rows"] == sum(key[0] == part for key in union - common)
        for number, own in enumerate(stated):
            lacked = sum(key[0] == part for key in union - own)
            assert said["lacked"].get(f"m{number}", 0) == lacked


def test_a_foreign_table_gives_the_same_bytes_in_any_order_of_rows(
    tmp_path: Path, make_block: MakeBlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "BLOCK_SYMBOLS", 2)
    own = [b for pair in zip(*(blocks(make_block, m) for m in "ab"), strict=True) for b in pair]
    expected = write(tmp_path / "expected", *own)
    frame = pd.concat(own, ignore_index=True)
    assert set(pq.read_table(expected).column_names) == set(frame.columns)
    for seed, rows in ((0, 1000), (1, 37)):
        order = np.random.default_rng(seed).permutation(len(frame))
        # Models appear in the order of their names: theirs is the one order that counts.
        shuffled = frame.iloc[order].sort_values("model", kind="stable")
        align([by_pandas(tmp_path / "foreign", shuffled, rows)], tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == expected.read_bytes()
    assert not list(tmp_path.glob("*sorted*"))


def test_columns_left_out_and_pandas_own_index_do_not_matter(
    tmp_path: Path, make_block: MakeBlock
) -> None:
    frame = make_block(model="mine").drop(columns=["pit", "es01"])
    frame[frame["horizon"] == 1].to_parquet(tmp_path / "mine")  # with an index of what was left
    align([write(tmp_path / "ours", make_block()), tmp_path / "mine"], tmp_path / "out")
    found = plain(tmp_path / "out")
    assert found.loc[found["model"] == "mine", "pit"].isna().all()
    assert len(found) == 30 * 3 * (2 + 1)


def test_a_model_without_a_part_or_horizon_takes_nothing_from_the_others_there(
    tmp_path: Path, make_block: MakeBlock
) -> None:
    ours = write(tmp_path / "ours", *blocks(make_block, "lstm"), *blocks(make_block, "gru"))
    frame = pd.concat(blocks(make_block, "mine"))
    frame = frame[(frame["part"] == "test") & (frame["horizon"] == 5) & (frame["symbol"] != "KO")]
    dropped = align([ours, by_pandas(tmp_path / "mine", frame)], tmp_path / "out")
    assert dropped == {
        "validation": {"rows": 0, "lacked": {}},
        "test": {"rows": 30, "lacked": {"mine": 30}},
    }
    found = read_forecasts(tmp_path / "out", part="test")
    rows = found.groupby(["model", "horizon"], observed=True).size()
    assert rows.to_dict() == {
        ("gru", 1): 90,
        ("gru", 5): 60,
        ("lstm", 1): 90,
        ("lstm", 5): 60,
        ("mine", 5): 60,
    }


def test_an_actual_that_only_some_know_is_lacking_to_the_others(
    tmp_path: Path, make_block: MakeBlock
) -> None:
    known = make_block(model="lstm")
    early = make_block(model="early")
    late = early["origin"] > early["origin"].quantile(0.8)
    early.loc[late, ["actual", "nll", "pit", "crps_exact"]] = np.nan
    expected = int((late & known["actual"].notna()).sum())
    paths = [write(tmp_path / "known", known), write(tmp_path / "early", early)]
    dropped = align(paths, tmp_path / "out")
    assert dropped == {"test": {"rows": expected, "lacked": {"early": expected}}}
    found = read_forecasts(tmp_path / "out")
    assert found["actual"].notna().groupby(found["model"], observed=True).sum().nunique() == 1


def test_models_that_disagree_on_what_happened_are_refused(
    tmp_path: Path, make_block: MakeBlock
) -> None:
    ours = write(tmp_path / "ours", make_block())
    theirs = make_block(model="mine")
    row = int(theirs["actual"].notna().to_numpy().nonzero()[0][3])
    rounded = theirs.assign(actual=theirs["actual"].astype("float32") + np.float32(2e-4))
    assert align([ours, write(tmp_path / "mine", rounded)], tmp_path / "out")["test"]["rows"] == 0
    theirs.loc[row, "actual"] += 0.01
    with pytest.raises(ForecastError, match=rf"mine, row {row} \({theirs['symbol'][row]}, 20.*, "):
        align([ours, write(tmp_path / "mine", theirs)], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q05": 9.0}, r"row 0 \(AAPL, 2020-01-01, horizon 1\): quantiles cross"),
        ({"horizon": np.int16(-1)}, "row 0 .*horizon=-1 must be at least 1"),
        ({"part": "train"}, "row 0 .*part=train is none of"),
    ],
)
def test_a_table_that_only_looks_like_ours_is_examined(
    tmp_path: Path, make_block: MakeBlock, change: dict[str, Any], message: str
) -> None:
    table = validate(make_block(), "ours")
    frame = table.to_pandas().assign(**change)
    pq.write_table(pa.Table.from_pandas(frame, schema=SCHEMA), tmp_path / "mine")
    with pytest.raises(ForecastError, match=message):
        align([tmp_path / "mine"], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="q50"), "column q50 is missing. Add it"),
        (lambda f: f.assign(q025=f["q05"]), "q025 is none of the 21 levels q01, q05, q10, …, q99"),
        (lambda f: f.assign(q50=f["q99"]), r"row 0 \(AAPL, 2020-01-01, horizon 1\): quantiles cro"),
        (
            lambda f: pd.concat([f, f.tail(1)]),
            r"row \d+ \(RRC, 2020-02-11, horizon 5\): .*stands twice. Drop one",
        ),
        (
            lambda f: f.assign(target_date=f["origin"]),
            "row 0 .*target_date=2020-01-01 is not after the origin",
        ),
        (
            lambda f: pd.concat([f, f.tail(1).assign(part="validation")]),
            "mine states RRC, 2020-02-11, horizon 5 in the parts validation and test.*Keep one",
        ),
        (
            lambda f: pd.concat([f, f.tail(1).assign(fold=3)]),
            r"mine states RRC, 2020-02-11, horizon 5 of part test twice \(fold 0 and 3\). Keep one",
        ),
        (lambda f: f.assign(part="train"), "part=train is none of"),
        (lambda f: f.assign(horizon=0), "horizon=0 must be at least 1"),
        (
            lambda f: f.assign(symbol=f["symbol"].astype(str) + "!"),
            "test, horizon 1: the models lstm, mine have no row in common",
        ),
        (lambda f: f.assign(symbol=None), "column symbol is null, not .*Convert it to text"),
    ],
)
def test_a_broken_rule_is_named_with_row_and_remedy_in_one_line(
    tmp_path: Path,
    make_block: MakeBlock,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    ours = write(tmp_path / "ours", make_block())
    frame = make_block(model="mine").astype(dict.fromkeys(("model", "part", "symbol"), "str"))
    for rows in (1000, 41):
        theirs = by_pandas(tmp_path / "theirs", change(frame), rows)
        with pytest.raises(ForecastError, match=message) as caught:
            align([ours, theirs], tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
