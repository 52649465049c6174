"""What is stored, whether it is sound, and the way out of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from forecast.prices import inventory as module
from forecast.prices import load_prices
from forecast.prices.choice import Choice
from forecast.prices.inventory import EXPORTED, TABLE, chosen, export, inventory, verified
from forecast.prices.store import Manifest, Store

FRIDAY = "2024-06-28"
NOW = "2024-07-03T22:00"  # a Wednesday


def manifest(symbol: str, **more: Any) -> Manifest:
    facts: dict[str, Any] = dict(
        source="yahoo",
        fetched=f"{FRIDAY}T22:00:00+00:00",
        checked=f"{FRIDAY}T22:00:00+00:00",
        start=None,
        calendar="XNYS",
        timezone="America/New_York",
        currency="USD",
        instrument="EQUITY",
        exchange="NMS",
    )
    return Manifest(symbol=symbol, **{**facts, **more})


ALL = Choice.read(symbols=None, start=None, end=None)


@pytest.fixture(scope="module")
def frames(loopback: Any) -> dict[str, pd.DataFrame]:
    """Of AAA there is a split and a dividend, of NA a dividend on a day without a price."""
    split = loopback.walk(
        1, sessions=400, splits={"2024-03-04": (4, 1)}, dividends={"2024-05-10": 0.5}
    )
    holed = loopback.walk(2, sessions=400, dividends={"2024-05-10": 0.25})
    here = holed.dates == np.datetime64("2024-05-10")
    for name in ("open", "high", "low", "close", "volume"):
        getattr(holed, name)[here] = np.nan
    return {"AAA": split.frame(FRIDAY), "NA": holed.frame(FRIDAY)}


@pytest.fixture
def store(
    frames: dict[str, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "utc_now", lambda: np.datetime64(NOW, "s"))
    store = Store()
    for symbol, frame in frames.items():
        store.write(symbol, frame, manifest(symbol))
    return store


def test_without_names_everything_stored_is_meant(store: Store) -> None:
    assert chosen(store, None) == ["AAA", "NA"]
    assert chosen(store, ["zzz", "aaa", "AAA"]) == ["AAA", "ZZZ"]


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path, refused: Any) -> None:
    with refused("empty", "python -m forecast.fetch", str(tmp_path)):
        chosen(Store(tmp_path), None)


# Status


def test_every_symbol_has_a_row_whatever_became_of_it(
    store: Store, frames: dict[str, pd.DataFrame]
) -> None:
    store.path("NA").write_bytes(b"no parquet")
    table = inventory(store, ["AAA", "NA", "ZZZ"])
    assert tuple(table.columns) == TABLE and table["symbol"].tolist() == ["AAA", "NA", "ZZZ"]
    good, damaged, absent = table.to_dict("records")
    assert (good["state"], good["behind"], good["last"]) == ("ok", 3, FRIDAY)
    assert good["rows"] == len(frames["AAA"]) and good["calendar"] == "XNYS"
    assert "damaged" in damaged["state"] and str(store.path("NA")) in damaged["state"]
    assert absent["state"] == "not stored"
    assert table[["rows", "behind"]].isna().sum(axis=1).tolist() == [0, 2, 2]


def test_a_symbol_that_has_ended_is_not_behind(store: Store, frames: dict[str, Any]) -> None:
    gone = frames["AAA"][:100]
    checked = "2024-07-03T21:00:00+00:00"
    store.write("GONE", gone, manifest("GONE", checked=checked))
    assert inventory(store, ["GONE"])["behind"].tolist() == [0]


# Verify


def test_what_is_sound_is_called_so_and_what_is_not_is_told(
    store: Store, frames: dict[str, pd.DataFrame]
) -> None:
    content = bytearray(store.path("AAA").read_bytes())
    content[len(content) // 2] ^= 0x10
    store.path("AAA").write_bytes(content)
    table = verified(store, ["AAA", "NA", "ZZZ"])
    by = {symbol: rows for symbol, rows in table.groupby("symbol")}
    assert by["AAA"][["severity", "detector"]].to_numpy().tolist() == [["damaged", "file"]]
    assert by["ZZZ"]["severity"].tolist() == ["missing"]
    assert by["NA"]["severity"].iloc[0] == "ok"
    assert f"{len(frames['NA'])} rows" in by["NA"]["sentence"].iloc[0]
    assert set(by["NA"]["detector"]) >= {"file", "null_close", "moved_action"}
    assert not table["sentence"].str.contains("\n").any()


def test_a_value_that_was_changed_with_its_checksum_is_still_found(
    store: Store, frames: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another program would that writes the file anew, with the manifest it found."""
    import forecast.prices.store as storing

    frame = frames["AAA"].copy()
    honest = storing._sha256(frame)
    frame.loc[200, "close"] *= 1.0001
    monkeypatch.setattr(storing, "_sha256", lambda frame: honest)
    store.write("AAA", frame, manifest("AAA"))
    monkeypatch.undo()
    (severity,) = verified(store, ["AAA"])["severity"]
    assert severity == "damaged"


def test_verify_looks_at_prices_as_the_report_does(
    store: Store, frames: dict[str, pd.DataFrame]
) -> None:
    """A hundredfold unit error, and a week of sessions that is missing."""
    frame = frames["AAA"].copy()
    frame.loc[100:109, ["open", "high", "low", "close"]] *= 100
    frame = frame.drop(index=range(200, 206)).reset_index(drop=True)
    store.write("AAA", frame, manifest("AAA"))
    table = verified(store, ["AAA"])
    assert set(table["detector"]) >= {"file", "unit_error", "gaps"}
    assert table.loc[table["detector"] == "unit_error", "severity"].item() == "severe"


# Export


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_export_read_back_gives_the_same_total_returns(
    store: Store, tmp_path: Path, suffix: str
) -> None:
    """Also for a symbol that a careless reader takes for a missing value."""
    path = tmp_path / "new" / f"prices{suffix}"
    rows = export(store, ["AAA", "NA"], path, ALL)
    mine = load_prices("yahoo", symbols=["AAA", "NA"], offline=True).frame
    theirs = load_prices("files", path=str(path), adjusted=False).frame
    assert rows == len(mine) == len(theirs)
    assert_frame_equal(
        theirs[["symbol", "date"]].astype({"symbol": "str"}),
        mine[["symbol", "date"]].astype({"symbol": "str"}),
    )
    for name in ("close", "raw_close", "open", "high", "low", "volume", "dividend"):
        assert np.array_equal(theirs[name], mine[name], equal_nan=True), name


def test_an_export_has_one_row_a_session_and_no_split(
    store: Store, frames: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    export(store, ["AAA"], tmp_path / "prices.csv", ALL)
    lines = (tmp_path / "prices.csv").read_text().splitlines()
    assert lines[0] == ",".join(("symbol", *EXPORTED)) and "split" not in lines[0]
    assert len(lines) == 1 + len(frames["AAA"]) and lines[-1].startswith(f"AAA,{FRIDAY},")


def test_what_cannot_be_exported_is_refused_before_a_file_is_made(
    store: Store, tmp_path: Path, refused: Any
) -> None:
    with refused("path=", "prices.xlsx", ".csv", ".parquet"):
        export(store, ["AAA"], tmp_path / "prices.xlsx", ALL)
    with refused("ZZZ", "not in the price store"):
        export(store, ["AAA", "ZZZ"], tmp_path / "prices.csv", ALL)
    assert not list(tmp_path.glob("prices.*"))
