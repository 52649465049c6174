from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.prices.tables import column_names, read_columns

Write = Callable[[str, str], str]
WORDS = ["NA", "nan", "TRUE", "NULL", "000001", "None", "1e5", ".", "../../x", "<b>", "BRK/B"]


def parquet(path: Path, **columns: Any) -> Path:
    pa.parquet.write_table(pa.table(columns), path)
    return path


def test_words_that_look_like_something_else_survive_as_symbols(write: Write) -> None:
    text = "s,d,x\n" + "".join(f"{word},2020-01-02,1\n" for word in WORDS)
    path = Path(write("a.csv", text))
    frame = read_columns(path, text=["s"], stamps=["d"], numbers=["x"])
    assert frame["s"].astype(str).tolist() == WORDS
    twin = parquet(path.with_suffix(".parquet"), s=WORDS, d=["2020-01-02"] * 11, x=[1.0] * 11)
    again = read_columns(twin, text=["s"], stamps=["d"], numbers=["x"])
    assert again["s"].astype(str).tolist() == WORDS


@settings(max_examples=25, deadline=None)
@given(
    day=st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    clock=st.sampled_from(["", "T00:00:00", " 23:59", " 16:00:00.123456"]),
    zone=st.sampled_from(["", "Z", "+09:00", "-0500", " UTC"]),
)
def test_a_stamp_is_the_wall_time_of_its_own_zone(
    tmp_path_factory: pytest.TempPathFactory, day: Any, clock: str, zone: str
) -> None:
    stamp = f"{day.isoformat()}{clock}{zone if clock else ''}"
    path = tmp_path_factory.mktemp("stamps") / "a.csv"
    path.write_text(f"d\n{stamp}\n")
    frame = read_columns(path, text=[], stamps=["d"], numbers=[])
    assert frame["d"].dtype == "datetime64[s]"
    assert frame["d"][0] == pd.Timestamp(f"{day.isoformat()}T{(clock[1:] or '00:00')[:8]}")


def test_parquet_stamps_of_every_type_agree(tmp_path: Path) -> None:
    days = pd.to_datetime(["1969-12-31", "2020-01-02"])
    kinds: dict[str, Any] = {
        "date32": pa.array(days.date, pa.date32()),
        "date64": pa.array(days.date, pa.date64()),
        "ns": pa.array(days, pa.timestamp("ns")),
        "zone": pa.array(days.tz_localize("Asia/Tokyo"), pa.timestamp("us", "Asia/Tokyo")),
        "text": pa.array(["1969-12-31", "2020-01-02"]),
        "large": pa.array(["19691231", "20200102"], pa.large_string()),
        "whole": pa.array([19691231, 20200102]),
        "words": pa.array(["1969-12-31", "2020-01-02"]).dictionary_encode(),
    }
    path = parquet(tmp_path / "a.parquet", **kinds)
    frame = read_columns(path, text=[], stamps=list(kinds), numbers=[])
    for name in kinds:
        assert frame[name].dtype == "datetime64[s]"
        assert frame[name].tolist() == list(days), name


@pytest.mark.parametrize(
    "stamp", ["", "01/02/2020", "2020-13-01", "2020-02-30", "2020", "2020-01", "1577923200"]
)
def test_a_stamp_that_is_no_date_is_refused_with_its_row(
    write: Write, stamp: str, refused: Callable[..., Any]
) -> None:
    path = Path(write("a.csv", f"d,x\n2020-01-01,1\n{stamp},2\n"))
    with refused("a.csv", f"d='{stamp}'", "row 2"):
        read_columns(path, text=[], stamps=["d"], numbers=["x"])


@pytest.mark.parametrize("word", ["abc", "1,5", "12.3.4", "$5"])
def test_a_word_among_numbers_is_refused_with_its_row(
    write: Write, word: str, refused: Callable[..., Any]
) -> None:
    path = Path(write("a.csv", f'd,x\n2020-01-01,\n2020-01-02,"{word}"\n'))
    with refused("a.csv", f"x='{word}'", "row 2", "not a number"):
        read_columns(path, text=[], stamps=["d"], numbers=["x"])


def test_every_spelling_of_no_number_is_nan(write: Write) -> None:
    path = Path(write("a.csv", 'd,x\n1,\n1,""\n1,NA\n1,nan\n1,.\n1,null\n1,3\n'))
    values = read_columns(path, text=[], stamps=[], numbers=["x"])["x"].to_numpy()
    np.testing.assert_array_equal(values, [np.nan] * 6 + [3.0])


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "not readable"), ("a,b\n1,2,3\n", "not readable"), ("a,a\n1,2\n", "'a' appears twice")],
)
def test_malformed_files_are_refused(write: Write, text: str, word: str) -> None:
    with pytest.raises(ForecastError, match=word):
        column_names(Path(write("a.csv", text)))
    with pytest.raises(ForecastError, match="not readable"):
        column_names(Path(write("a.parquet", "no parquet")))


def test_a_file_without_rows_is_refused(write: Write) -> None:
    with pytest.raises(ForecastError, match="no rows"):
        read_columns(Path(write("a.csv", "a,b\n")), text=["a"], stamps=[], numbers=["b"])


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemError('executed')",)


def test_pickled_payloads_are_refused_and_not_opened(tmp_path: Path) -> None:
    payload = pa.array([pickle.dumps(Bomb())], pa.binary())
    path = parquet(tmp_path / "a.parquet", payload=payload, number=[1])
    for role in ("text", "stamps", "numbers"):
        roles: dict[str, list[str]] = {"text": [], "stamps": [], "numbers": [], role: ["payload"]}
        with pytest.raises(ForecastError, match=r"payload.*binary"):
            read_columns(path, **roles)
    with pytest.raises(ForecastError, match="000001"):
        read_columns(path, text=["number"], stamps=[], numbers=[])
