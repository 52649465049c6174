"""The Weights table: what is refused, and that what is kept is canonical."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.weights import WEIGHTS_KEY, read_weights, validate_weights, write_weights


def table(**changed: object) -> pd.DataFrame:
    """Four rows of two origins and two symbols; a column changed in its last row."""
    frame = pd.DataFrame(
        {
            "model": "lstm",
            "strategy": "sign",
            "fold": 0,
            "part": "test",
            "origin": pd.to_datetime(["2020-01-06", "2020-01-06", "2020-01-07", "2020-01-07"]),
            "symbol": ["A", "B"] * 2,
            "weight": [0.5, -0.5, 0.25, 0.0],
        }
    )
    for name, value in changed.items():
        column = frame[name].astype(object)
        column.iloc[3] = value
        frame[name] = column
    return frame


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"weight": np.nan}, "weight=nan is not finite"),
        ({"weight": -np.inf}, "weight=-inf is not finite"),
        ({"weight": None}, "weight=None is not finite"),
        ({"origin": pd.NaT}, "origin is null"),
        ({"origin": pd.Timestamp("2020-01-07 15:30")}, "15:30:00 has a time of day"),
        ({"part": "train"}, "part=train is none of validation, test, live"),
        ({"symbol": None}, "symbol is null"),
        ({"fold": 0.5}, "fold=0.5 is no whole number"),
        ({"fold": 70_000}, "fold=70000 is no whole number"),
        ({"symbol": "A"}, "the same key stands twice"),
        ({"symbol": "A", "fold": 1}, "the same key stands twice"),  # two decisions at one origin
    ],
)
def test_a_row_that_breaks_a_rule_is_named(changed, words) -> None:
    with pytest.raises(ForecastError) as caught:
        validate_weights(table(**changed), "mine.parquet")
    message = str(caught.value)
    assert message.startswith("mine.parquet, row 3 (lstm, sign, ") and words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (table().drop(columns="fold"), "column fold is missing"),
        (table().assign(price=1.0), "price is no column of a Weights table"),
        (table().iloc[:0], "there is no weight"),
        (table().assign(weight="much"), "could not convert string to float: 'much'"),
        (table().assign(origin=20200106), "origin is int64, not dates"),
        (table().assign(origin=table()["origin"].dt.tz_localize("UTC")), "UTC], not dates"),
        (table().assign(origin="someday"), "someday"),
    ],
)
def test_a_column_that_breaks_a_rule_is_named(frame, words) -> None:
    with pytest.raises(ForecastError) as caught:
        validate_weights(frame, "mine.parquet")
    message = str(caught.value)
    assert message.startswith("mine.parquet: ") and words in message and "\n" not in message


def test_rows_are_counted_from_the_top_whatever_the_index(tmp_path: Path) -> None:
    frame = table(symbol="A")
    frame.index = pd.Index([7, 7, 3, 1])
    with pytest.raises(ForecastError, match="row 3 "):
        validate_weights(frame, "mine")


def test_the_result_is_canonical() -> None:
    frame = pd.concat(
        [table().assign(part="validation", strategy="b"), table().assign(model="gru")]
    )
    frame["symbol"] = frame["symbol"].astype(pd.CategoricalDtype(["Z", "B", "A"]))
    found = validate_weights(frame, "mine")
    assert list(found.columns) == [*WEIGHTS_KEY, "weight"]
    assert list(found.index) == list(range(8))
    assert found["part"].tolist() == ["validation"] * 4 + ["test"] * 4
    assert found["symbol"].tolist() == ["A", "B"] * 4
    assert list(found["symbol"].cat.categories) == ["A", "B"]
    assert list(found["model"].cat.categories) == ["gru", "lstm"]
    types = found.dtypes.astype(str).to_dict()
    assert (types["fold"], types["origin"], types["weight"]) == (
        "int16",
        "datetime64[s]",
        "float64",
    )


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_order_and_kinds_of_columns_do_not_matter(seed) -> None:
    wanted = validate_weights(table(), "mine")
    rng = np.random.default_rng(seed)
    shuffled = table().sample(frac=1, random_state=int(rng.integers(1000)))
    shuffled = shuffled[rng.permutation(shuffled.columns)]
    if seed % 2:
        shuffled["origin"] = shuffled["origin"].dt.strftime("%Y-%m-%d")
        shuffled = shuffled.astype({"symbol": "category", "fold": "float64", "weight": "float32"})
    pd.testing.assert_frame_equal(validate_weights(shuffled, "mine"), wanted)
    pd.testing.assert_frame_equal(validate_weights(wanted, "mine"), wanted)


def test_what_is_written_is_read_and_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    wanted = validate_weights(table(), "mine")
    for name in ("a.parquet", "b.parquet"):
        write_weights(tmp_path / name, wanted)
    pd.testing.assert_frame_equal(read_weights(tmp_path / "a.parquet"), wanted)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match="nothing.parquet: no such file"):
        read_weights(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("symbol,weight\n")
    with pytest.raises(ForecastError, match="text.parquet: not a parquet file"):
        read_weights(tmp_path / "text.parquet")
    table(weight=np.nan).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ForecastError, match="bad.parquet, row 3 .*not finite"):
        read_weights(tmp_path / "bad.parquet")
