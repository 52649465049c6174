from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.prices.files import files

Write = Callable[[str, str], str]
Refused = Callable[..., Any]
LONG = """date,symbol,close
2020-01-02,B,10
2020-01-02,A,1
2020-01-03,A,2
2020-01-06,B,11
2020-01-06,A,
"""


def as_tuples(frame: pd.DataFrame) -> list[tuple[str, str, float]]:
    days = frame["date"].dt.strftime("%Y-%m-%d")
    return list(zip(frame["symbol"].astype(str), days, frame["close"], strict=True))


EXPECTED = [
    ("A", "2020-01-02", 1.0),
    ("A", "2020-01-03", 2.0),
    ("B", "2020-01-02", 10.0),
    ("B", "2020-01-06", 11.0),
]


def layouts(folder: Path) -> dict[str, str]:
    """The same prices in every form that is read."""
    frame = pd.read_csv(io.StringIO(LONG))
    wide = frame.pivot(index="date", columns="symbol", values="close")
    (folder / "long.csv").write_text(LONG)
    (folder / "long.csv.gz").write_bytes(gzip.compress(LONG.encode()))
    frame.to_parquet(folder / "long.parquet", index=False)
    frame.assign(symbol=frame["symbol"].astype("category")).set_index("date").to_parquet(
        folder / "indexed.pq"
    )
    wide.to_csv(folder / "wide.csv")
    wide.to_parquet(folder / "wide.parquet")
    for symbol, rows in frame.groupby("symbol"):
        (folder / "each").mkdir(exist_ok=True)
        rows[["date", "close"]].to_csv(folder / "each" / f"{symbol}.csv", index=False)
    for year, rows in frame.groupby(frame["date"].str[-1]):
        (folder / "years").mkdir(exist_ok=True)
        rows.to_csv(folder / "years" / f"{year}.csv", index=False)
    names = ("long.csv", "long.csv.gz", "long.parquet", "indexed.pq", "wide.csv", "wide.parquet")
    paths = {name: str(folder / name) for name in names}
    return paths | {glob: str(folder / glob) for glob in ("each/*.csv", "years/?.csv")}


def test_every_layout_gives_the_same_prices(tmp_path: Path) -> None:
    hashes = set()
    for name, path in layouts(tmp_path).items():
        prices = files(path=path, adjusted=True, calendar="NYSE")
        assert as_tuples(prices.frame) == EXPECTED, name
        assert set(prices.frame["calendar"]) == {"XNYS"}
        assert isinstance(prices.frame.index, pd.RangeIndex)
        assert any("read as wide" in note for note in prices.warnings) == name.startswith("wide")
        hashes.add(prices.sha256)
    assert len(hashes) == 1


def test_choosing_picks_the_same_rows_from_every_layout(tmp_path: Path) -> None:
    for name, path in layouts(tmp_path).items():
        prices = files(path=path, adjusted=True, symbols="A,B", start="2020-01-03")
        assert as_tuples(prices.frame) == [EXPECTED[1], EXPECTED[3]], name
        prices = files(path=path, adjusted=True, symbols=["B"], end="2020-01-02")
        assert as_tuples(prices.frame) == [EXPECTED[2]], name
        prices = files(
            path=path, adjusted=True, symbols="A,B", end="2020-01-06", start="2020-01-04"
        )
        assert [symbol for symbol, _ in prices.left_out] == ["A"], name


def test_faults_of_every_layout_are_refused(tmp_path: Path, refused: Refused) -> None:
    for path in layouts(tmp_path).values():
        with refused("'XX' is not in", "It has A, B."):
            files(path=path, adjusted=True, symbols="XX")
        with refused("no session", "2030-01-01"):
            files(path=path, adjusted=True, start="2030-01-01")


def test_choosing_leaves_out_rows_that_would_be_refused(write: Write, refused: Refused) -> None:
    path = write("a.csv", "date,symbol,close\n2000-01-03,A,1\n2000-01-04,A,2\n2000-01-04,B,-1\n")
    with refused("a.csv", "B", "2000-01-04", "close=-1", "data.symbols"):
        files(path=path, adjusted=True)
    assert len(files(path=path, adjusted=True, symbols="A").frame) == 2


def test_columns_are_found_by_name_or_mapped(write: Write, refused: Refused) -> None:
    text = "Date, Ticker,Close,Adj Close,Volume\n2020-01-02,A,20,10,5\n"
    path = write("yahoo.csv", text)
    with refused("'Close' and 'Adj Close'", "data.columns.close"):
        files(path=path, adjusted=True)
    frame = files(path=path, adjusted=True, columns={"close": "Adj Close"}).frame
    assert frame["close"].tolist() == [10.0] and "raw_close" not in frame
    mapped = files(path=path, adjusted=True, columns={"raw_close": "Close", "date": None}).frame
    assert (mapped["close"].tolist(), mapped["raw_close"].tolist()) == ([10.0], [20.0])
    assert mapped["volume"].tolist() == [5.0]
    assert files(path=path, adjusted=False).frame["close"].tolist() == [20.0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"close": "Closs"}, ("Closs", "'close'")),
        ({"clos": "close"}, ("data.columns.clos", "Known")),
        ({"close": 3}, ("data.columns.close=3",)),
        ({"raw_close": "close"}, ("no close column",)),
        ({"date": "close"}, ("no close column",)),
        ({"volume": "symbol"}, ("symbol='B'", "row 1", "not a number")),
    ],
)
def test_wrong_mappings_are_refused(
    write: Write, refused: Refused, columns: Any, words: tuple[str, ...]
) -> None:
    with refused(*words):
        files(path=write("a.csv", LONG), adjusted=True, columns=columns)


def test_missing_columns_are_refused(write: Write, refused: Refused) -> None:
    with refused("no date column", "data.columns.date"):
        files(path=write("a.csv", "day,symbol,close\n2020-01-02,A,1\n"), adjusted=True)
    with refused("no close column", "data.columns.close"):
        files(path=write("b.csv", "date,symbol,price\n2020-01-02,A,1\n"), adjusted=True)
    with refused("no close column"):
        files(path=write("c.csv", "date,open,high,low,last\n2020-01-02,1,1,1,1\n"), adjusted=True)


def test_wide_symbols_may_bear_the_names_of_fields(write: Write) -> None:
    path = write("wide.csv", "Date,HD,LOW,OPEN,NA\n2020-01-02,1,2,3,\n2020-01-03,1,2,3,4\n")
    symbols = files(path=path, adjusted=True).frame["symbol"].cat.categories
    assert list(symbols) == ["HD", "LOW", "NA", "OPEN"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (None, ("data.path is null",)),
        ("nowhere.csv", ("nowhere.csv", "no such file")),
        ("nowhere/*.csv", ("nowhere/*.csv",)),
        (".", ("folder", "*.csv")),
    ],
)
def test_missing_files_are_refused(
    path: str | None, words: tuple[str, ...], refused: Refused
) -> None:
    with refused(*words):
        files(path=path, adjusted=True)


def test_whether_closes_are_adjusted_is_never_guessed(write: Write, refused: Refused) -> None:
    path = write("a.csv", LONG)
    with refused("data.adjusted=null", "never guessed"):
        files(path=path)
    with refused("data.calendar=XNYX", "XNYS"):
        files(path=path, adjusted=True, calendar="XNYX")
    raw = write("b.csv", "date,symbol,close,raw_close\n2020-01-02,A,1,2\n")
    with refused("data.adjusted=false"):
        files(path=raw, adjusted=False)


def test_rows_out_of_order_or_twice_are_refused(write: Write, refused: Refused) -> None:
    with refused("a.csv", "A", "2020-01-02", "Sort"):
        files(path=write("a.csv", "date,A\n2020-01-03,1\n2020-01-02,2\n"), adjusted=True)
    intraday = "date,symbol,close\n2020-01-02 10:00,A,1\n2020-01-02 16:00,A,2\n"
    with refused("b.csv", "A", "2020-01-02", "twice"):
        files(path=write("b.csv", intraday), adjusted=True)
    write("part1.csv", "date,symbol,close\n2020-01-02,A,1\n2020-01-03,A,1\n")
    both = write("part2.csv", "date,symbol,close\n2020-01-03,A,1\n").replace("2.csv", "?.csv")
    with refused("part1.csv", "part2.csv", "A", "2020-01-03", "twice"):
        files(path=both, adjusted=True)


def test_unadjusted_closes_become_total_returns_and_stay_as_raw(write: Write) -> None:
    path = write(
        "a.csv",
        "date,symbol,close,dividend,split\n"
        "2020-01-02,A,100,7,3\n"  # before the first return: no effect
        "2020-01-03,A,99,1,\n"  # 99 + 1: nothing gained
        "2020-01-06,A,50,0,2\n"
        "2020-01-07,A,49,2,0\n"
        "2020-01-02,B,5,,\n",
    )
    prices = files(path=path, adjusted=False)
    close = prices.frame["close"].to_numpy()
    np.testing.assert_allclose(close[:4], 100 * np.cumprod([1, 1, 100 / 99, 51 / 50]), rtol=1e-14)
    assert close[4] == 5.0
    assert prices.frame["raw_close"].tolist() == [100, 99, 50, 49, 5]
    assert not any("price returns" in note for note in prices.warnings)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 999), cut=st.integers(2, 19), symbols=st.booleans())
def test_no_later_action_or_listing_moves_an_old_price(
    tmp_path: Path, seed: int, cut: int, symbols: bool
) -> None:
    rng = np.random.default_rng(seed)
    days = np.datetime64("2020-01-01") + np.arange(20)
    table = pd.DataFrame(
        {
            "date": np.repeat(days, 2),
            "symbol": np.tile(["A", "B"], 20),
            "close": rng.uniform(5, 50, 40),
            "dividend": rng.uniform(0, 1, 40) * (rng.random(40) < 0.2),
            "split": rng.choice([0, 1, 2, 0.5], 40),
        }
    )
    table = table[(table["symbol"] == "B") | (table["date"] >= days[5])]  # A is listed later
    path = tmp_path / "full.parquet"
    table.to_parquet(path, index=False)
    full = files(path=str(path), adjusted=False).frame
    known = table[table["date"] < days[cut]]
    if symbols or cut <= 5:
        known = known[known["symbol"] == "B"]
    known.to_parquet(path, index=False)
    early = files(path=str(path), adjusted=False).frame
    merged = early.merge(full.astype({"symbol": str}), on=["symbol", "date"])
    assert len(merged) == len(early)
    np.testing.assert_array_equal(merged["close_x"], merged["close_y"])


def test_what_is_missing_for_total_returns_is_said(write: Write) -> None:
    plain = files(path=write("a.csv", LONG), adjusted=False)
    assert "raw_close" not in plain.frame
    assert any("price returns" in n and "splits count" in n for n in plain.warnings)
    split = write("b.csv", "date,symbol,close,Stock Splits\n2020-01-02,A,1,1\n2020-01-03,A,1,2\n")
    prices = files(path=split, adjusted=False)
    assert prices.frame["close"].tolist() == [1.0, 2.0]
    assert any("price returns" in n and "splits" not in n for n in prices.warnings)


def test_mixed_adjusted_and_raw_columns_are_refused(write: Write, refused: Refused) -> None:
    header = "date,symbol,open,high,low,close,paid\n"
    path = write("a.csv", header + "2020-01-02,A,100,101,99,80,100\n")
    with refused("a.csv", "A", "2020-01-02", "80", "99", "mixed", "data.columns.raw_close"):
        files(path=path, adjusted=True)
    frame = files(path=path, adjusted=True, columns={"raw_close": "paid"}).frame
    assert frame["close"].tolist() == [80.0]
