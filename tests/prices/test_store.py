"""Also runs as a script, in processes that are to die or to compete: see the end of the file."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import forecast.prices.store as module
from forecast.config import ForecastError
from forecast.prices.names import LONGEST, file_name, symbol_of
from forecast.prices.store import COLUMNS, Damaged, Manifest, Store

DAY = np.timedelta64(1, "D")
APPENDS = 12
SYMBOLS = (
    *("AAPL", "BRK-B", "^GSPC", "EURUSD=X", "7203.T", "TRUE", "NA", "000001.SZ", "BTC-USD", "ES=F"),
    *(
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        ".hidden",
        "A.",
        "A ",
        " ",
        "A/B",
        "A\\B",
        "C:\\x",
        "A:B",
    ),
    *("CON", "con", "Con", "NUL.T", "COM1.PA", "com1.pa", "LPT9", "AUX", "PRN.", "CON.x.y", "CONE"),
    *(
        "%41",
        "A%",
        "%",
        "a",
        "A",
        "é",
        "É",
        "e\u0301",
        "日本",
        "\0",
        "A\nB",
        "\ud800",
        "🙂",
        '*?<>|"',
    ),
)


def rows(count: int = 40, *, seed: int = 0, first: str = "2024-01-01") -> pd.DataFrame:
    """A store frame whose values look like prices, some not given."""
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, count)))
    frame = pd.DataFrame(
        {
            "date": (np.datetime64(first) + DAY * np.arange(count)).astype("datetime64[s]"),
            "open": close,
            "high": close * 1.1,
            "low": close * 0.9,
            "close": close * rng.uniform(0.9, 1.1, count),
            "volume": np.floor(rng.lognormal(9, 1, count)),
            "dividend": np.where(np.arange(count) % 20 == 5, 0.25, 0.0),
            "split": 0.0,
            "capital_gain": 0.0,
        }
    )
    frame.loc[frame.index % 7 == 3, ["open", "volume"]] = np.nan
    return frame


def manifest(symbol: str = "AAPL", **fields: Any) -> Manifest:
    facts: dict[str, Any] = dict(
        source="yahoo",
        fetched="2026-11-27T12:00:00+00:00",
        checked="2026-11-27T12:00:00+00:00",
        start=None,
        calendar="XNYS",
        timezone="America/New_York",
        currency="USD",
        instrument="EQUITY",
        exchange="NMS",
    )
    return Manifest(symbol=symbol, **{**facts, **fields})


OLD, NEW = rows(40), rows(45, seed=1)


def holds(store: Store, frame: pd.DataFrame, symbol: str = "AAPL") -> bool:
    """Whether the file is sound and its rows and manifest are those of the frame."""
    stored = store.read(symbol)
    assert stored is not None
    store.verify(symbol)
    assert stored.manifest == store.manifest(symbol)
    return stored.manifest.rows == len(frame) and stored.frame.equals(frame)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "home")
    store.write("AAPL", OLD, manifest())
    return store


values = st.floats(width=64) | st.sampled_from([0.0, -0.0, np.nan, np.inf, 5e-324])


@settings(max_examples=60, deadline=None)
@given(
    days=st.sets(st.integers(-40_000, 40_000), min_size=1, max_size=12),
    data=st.data(),
    symbol=st.sampled_from(SYMBOLS),
    changes=st.lists(st.text(), max_size=3).map(tuple),
)
def test_what_is_written_is_read_again_in_every_bit(
    tmp_path_factory: pytest.TempPathFactory,
    days: set[int],
    data: st.DataObject,
    symbol: str,
    changes: tuple[str, ...],
) -> None:
    date = (np.datetime64("2000-01-01") + DAY * np.array(sorted(days))).astype("datetime64[s]")
    column = st.lists(values, min_size=len(days), max_size=len(days))
    numbers = {name: np.array(data.draw(column), dtype=float) for name in COLUMNS[1:]}
    frame = pd.DataFrame({"date": date, **numbers})
    store = Store(tmp_path_factory.mktemp("home"))
    written = store.write(symbol, frame, manifest(symbol, changes=changes, start="2000-01-03"))
    stored = store.read(symbol)
    assert stored is not None
    pd.testing.assert_frame_equal(stored.frame, frame, check_exact=True)
    assert all(
        (np.signbit(stored.frame[n]) == np.signbit(frame[n]))[frame[n] == 0].all() for n in numbers
    )
    pd.testing.assert_frame_equal(written.frame, frame, check_exact=True)
    assert stored.manifest == written.manifest == store.manifest(symbol)
    assert stored.manifest.changes == changes
    assert (stored.manifest.first, stored.manifest.last) == (str(date[0])[:10], str(date[-1])[:10])
    store.verify(symbol)
    assert store.symbols() == [symbol]


def test_a_frame_that_was_read_can_be_changed(store: Store) -> None:
    stored = store.read("AAPL")
    assert stored is not None
    stored.frame.loc[0, "close"] = 1.0
    stored.frame["volume"] += 1.0
    assert stored.frame["close"].iloc[0] == 1.0
    assert holds(store, OLD)


def test_the_index_of_a_frame_is_not_stored(store: Store) -> None:
    written = store.write("AAPL", NEW.set_index(np.arange(45) * 3), manifest())
    assert holds(store, NEW)
    pd.testing.assert_frame_equal(written.frame, NEW)


def test_the_hash_is_of_the_values_and_not_of_their_encoding(store: Store) -> None:
    def hash_of(frame: pd.DataFrame) -> str:
        return store.write("AAPL", frame, manifest()).manifest.sha256

    other_nan = np.array([0xFFF8_0000_0000_0001], dtype="<u8").view("<f8")[0]
    same = OLD.assign(split=-0.0, open=np.where(OLD["open"].isna(), other_nan, OLD["open"]))
    hashes = {hash_of(OLD), hash_of(same)}
    assert len(hashes) == 1
    for name in COLUMNS:
        other = OLD.copy()
        other.loc[39, name] = other.loc[39, name] + (DAY if name == "date" else 1e-9)
        if name == "volume":
            other.loc[39, name] = np.nan
        hashes.add(hash_of(other))
    assert len(hashes) == 1 + len(COLUMNS)


def test_there_is_nothing_before_the_first_write(
    tmp_path: Path, refused: Callable[..., Any]
) -> None:
    store = Store(tmp_path / "home")
    assert store.read("AAPL") is None
    assert store.manifest("AAPL") is None
    assert store.symbols() == []
    assert not store.home.exists()
    with refused("AAPL", str(store.folder), "Fetch"):
        store.verify("AAPL")
    with refused("AAPL.parquet", "no such file"):
        store.set_aside("AAPL")


def test_the_home_is_the_environments_else_the_users_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "elsewhere"))
    assert Store().folder == tmp_path / "elsewhere" / "prices"
    assert Store(tmp_path / "given").folder == tmp_path / "given" / "prices"
    for name in ("FORECAST_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    default = Path(platformdirs.user_data_dir("forecast", appauthor=False))
    assert Store().folder == default / "prices"
    monkeypatch.setenv("FORECAST_HOME", "~/mine")
    assert Store().home == Path("~/mine").expanduser()


def test_any_reader_of_parquet_can_read_a_file(store: Store) -> None:
    frame = pd.read_parquet(store.path("AAPL"))
    assert tuple(frame.columns) == COLUMNS
    pd.testing.assert_frame_equal(frame, OLD.assign(date=OLD["date"].astype("datetime64[ms]")))
    # What is not given is null, not NaN: SQL would give the mean of NaN as NaN.
    assert pq.read_table(store.path("AAPL")).column("open").null_count == OLD["open"].isna().sum()


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (OLD.iloc[:0], "no rows"),
        (OLD.drop(columns="split"), "columns"),
        (OLD[[*COLUMNS[::-1]]], "columns"),
        (OLD.assign(symbol="AAPL"), "columns"),
        (OLD.assign(volume=1), "volume is int64"),
        (OLD.assign(date=OLD["date"].astype("datetime64[ns]")), "date is datetime64[ns]"),
        (OLD.assign(date=OLD["date"].dt.tz_localize("UTC")), "date is datetime64[s, UTC]"),
        (OLD.assign(date=OLD["date"] + np.timedelta64(9, "h")), "time of day"),
        (OLD.assign(date=OLD["date"].where(OLD.index != 3)), "missing"),
        (OLD.iloc[[0, 1, 1, 2]], "2024-01-02 does not come after"),
        (OLD.iloc[[0, 2, 1, 3]], "2024-01-02 does not come after"),
    ],
)
def test_a_frame_of_another_form_is_refused_and_the_old_rows_stay(
    store: Store, frame: pd.DataFrame, word: str, refused: Callable[..., Any]
) -> None:
    with refused("AAPL", word):
        store.write("AAPL", frame, manifest())
    assert holds(store, OLD)


def test_another_symbols_manifest_is_refused(store: Store, refused: Callable[..., Any]) -> None:
    with refused("AAPL", "MSFT"):
        store.write("AAPL", NEW, manifest("MSFT"))
    assert holds(store, OLD)


# --- names ---------------------------------------------------------------------------------------

symbols = st.sampled_from(SYMBOLS) | st.text(st.characters(), min_size=1, max_size=20)


@given(symbol=symbols)
def test_a_file_name_is_safe_everywhere_and_names_its_symbol(symbol: str) -> None:
    name = file_name(symbol)
    assert symbol_of(name) == symbol
    assert re.fullmatch(r"[A-Z0-9%-]([A-Z0-9.%-]*[A-Z0-9%-])?\.parquet", name)
    assert name.split(".")[0] not in {"CON", "PRN", "AUX", "NUL", "COM1", "COM9", "LPT1", "LPT9"}


@given(one=symbols, other=symbols)
def test_no_two_symbols_share_a_file_where_case_and_accents_are_ignored(
    one: str, other: str
) -> None:
    def folded(symbol: str) -> str:
        return unicodedata.normalize("NFKD", file_name(symbol)).casefold()

    assert (one == other) == (folded(one) == folded(other))


@given(name=st.text(st.sampled_from("Aa.%4152cF-/"), max_size=8) | st.text(max_size=8))
def test_a_name_that_no_symbol_gives_has_no_symbol(name: str) -> None:
    try:
        symbol = symbol_of(f"{name}.parquet")
    except ForecastError as error:
        assert "\n" not in str(error)
    else:
        assert file_name(symbol) == f"{name}.parquet"


def test_common_symbols_have_readable_names() -> None:
    names = {symbol: file_name(symbol) for symbol in ("BRK-B", "7203.T", "^GSPC", "COM1.PA")}
    assert names == {
        "BRK-B": "BRK-B.parquet",
        "7203.T": "7203.T.parquet",
        "^GSPC": "%5EGSPC.parquet",
        "COM1.PA": "%43OM1.PA.parquet",
    }


def test_an_empty_or_overlong_symbol_is_refused(store: Store, refused: Callable[..., Any]) -> None:
    with refused("empty"):
        store.read("")
    with refused("too long", "aaaa"):
        store.read("a" * 100)
    longest = "A" * (LONGEST - len(".parquet"))
    with refused("too long"):
        store.read(longest + "A")
    store.write(longest, OLD, manifest(longest))
    assert holds(store, OLD, longest)
    assert len(store.set_aside(longest).name) <= 255


def test_foreign_files_are_passed_over(store: Store) -> None:
    foreign = ("notes.txt", "aapl.parquet", "%41.parquet", ".parquet", ".MSFT.parquet.tmp")
    for name in (*foreign, "AAPL.parquet.damaged-20261127T120000Z", "MSFT.parquet.bak"):
        (store.folder / name).write_text("not ours")
    (store.folder / "FOLDER.parquet").mkdir()
    assert store.symbols() == ["AAPL"]


# --- writes that fail ----------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_write_that_is_killed_at_any_line_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    with run("die", str(tmp_path)) as process:
        process.wait(timeout=120)
    assert process.returncode == 0
    outcomes = []
    for home in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        store = Store(home)
        old = holds(store, OLD)
        assert old or holds(store, NEW), home
        outcomes.append(old)
        assert store.symbols() == ["AAPL"]
        store.write("AAPL", NEW, manifest())
        assert holds(store, NEW)
        assert [path.name for path in store.folder.iterdir()] == ["AAPL.parquet"]
    assert len(outcomes) > 30
    # Before the rename all is old, after it all is new.
    assert outcomes == sorted(outcomes, reverse=True)
    assert len(set(outcomes)) == 2


def test_the_rest_of_a_killed_write_is_of_no_account(store: Store) -> None:
    content = store.path("AAPL").read_bytes()
    rest = store.folder / ".AAPL.parquet.tmp"
    for length in (
        0,
        1,
        4,
        100,
        len(content) // 2,
        len(content) - 1,
        len(content),
        len(content) * 3,
    ):
        rest.write_bytes((content * 3)[:length])
        assert holds(store, OLD)
        assert store.symbols() == ["AAPL"]
        store.write("AAPL", NEW, manifest())
        assert holds(store, NEW)
        assert not rest.exists()
        store.write("AAPL", OLD, manifest())


@contextlib.contextmanager
def failing(step: str, error: BaseException) -> Iterator[None]:
    """A step of writing raises; `write` after 100 bytes are there."""

    def fail(*_: Any) -> None:
        raise error

    @contextlib.contextmanager
    def opened(path: Path, mode: str) -> Iterator[Any]:
        with open(path, mode) as file:
            yield SimpleNamespace(write=lambda text: fail(file.write(memoryview(text)[:100])))

    with pytest.MonkeyPatch.context() as patch:
        if step in ("open", "write"):
            patch.setattr(module, "open", fail if step == "open" else opened, raising=False)
        else:
            patch.setattr(os, step, fail)
        yield


STEPS = ("open", "write", "fsync", "replace")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_disk_is_one_line_and_the_old_file_stays(
    store: Store, step: str, number: int, refused: Callable[..., Any]
) -> None:
    problem = os.strerror(number)
    with (
        failing(step, OSError(number, problem)),
        refused(str(store.folder), problem, "FORECAST_HOME"),
    ):
        store.write("AAPL", NEW, manifest())
    assert [path.name for path in store.folder.iterdir()] == ["AAPL.parquet"]
    assert holds(store, OLD)
    store.write("AAPL", NEW, manifest())
    assert holds(store, NEW)


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_write_cleans_up_and_lets_others_write(store: Store, step: str) -> None:
    with failing(step, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        store.write("AAPL", NEW, manifest())
    assert [path.name for path in store.folder.iterdir()] == ["AAPL.parquet"]
    assert holds(store, OLD)
    with run("append", str(store.home), "1") as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(store.read("AAPL").frame) == len(OLD) + APPENDS  # type: ignore[union-attr]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_disk_that_is_really_full_leaves_the_old_file(
    store: Store, refused: Callable[..., Any]
) -> None:
    (store.folder / ".AAPL.parquet.tmp").symlink_to("/dev/full")
    with refused(str(store.folder), os.strerror(errno.ENOSPC)):
        store.write("AAPL", NEW, manifest())
    assert [path.name for path in store.folder.iterdir()] == ["AAPL.parquet"]
    assert holds(store, OLD)


def test_a_home_that_is_no_folder_is_one_line(tmp_path: Path, refused: Callable[..., Any]) -> None:
    (tmp_path / "home").write_text("a file")
    with refused(str(tmp_path / "home" / "prices"), "FORECAST_HOME"):
        Store(tmp_path / "home").write("AAPL", OLD, manifest())


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_return(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(number: int) -> None:
        folder = stat.S_ISDIR(os.fstat(number).st_mode)
        steps.append("folder" if folder else f"{os.fstat(number).st_size} bytes")
        fsync(number)

    def renamed(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    store.write("AAPL", NEW, manifest())
    assert steps == [f"{store.path('AAPL').stat().st_size} bytes", "rename", "folder"]


def test_a_file_system_that_cannot_sync_folders_is_enough(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def files_only(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(number)

    monkeypatch.setattr(os, "fsync", files_only)
    store.write("AAPL", NEW, manifest())
    assert holds(store, NEW)


# --- several writers -----------------------------------------------------------------------------


def test_two_processes_that_append_to_one_symbol_lose_nothing(store: Store) -> None:
    with store.lock("AAPL"):
        writers = [run("append", str(store.home), str(tag)) for tag in (1, 2)]
        for writer in writers:
            assert writer.stdout is not None
            assert (
                "AAPL: another process is writing its prices: waiting" in writer.stdout.readline()
            )
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    stored = store.read("AAPL")
    assert stored is not None
    store.verify("AAPL")
    assert stored.frame["split"].value_counts().to_dict() == {0.0: 40, 1.0: APPENDS, 2.0: APPENDS}
    assert len(stored.manifest.changes) == 2 * APPENDS


def test_two_threads_take_turns_and_other_symbols_do_not_wait(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = threading.Thread(target=lambda: store.write("AAPL", NEW, manifest()))
    with store.lock("AAPL"):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        store.write("MSFT", OLD, manifest("MSFT"))
        with Store(store.home).lock("AAPL"):  # the thread that holds it may enter again
            assert holds(store, OLD)
    thread.join(30)
    assert holds(store, NEW)
    assert capsys.readouterr().out.count("waiting\n") == 1


def test_a_reader_never_waits_for_a_writer(store: Store) -> None:
    with store.lock("AAPL"):
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(holds(store, OLD)))
        thread.start()
        thread.join(30)
    assert seen == [True]


# --- damage --------------------------------------------------------------------------------------


def test_a_flipped_byte_is_found_or_changes_nothing(store: Store) -> None:
    path = store.path("AAPL")
    content, before = path.read_bytes(), store.manifest("AAPL")
    rng = np.random.default_rng(0)
    found = 0
    for position in range(int(rng.integers(3)), len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            stored = store.read("AAPL")
            store.verify("AAPL")
        except Damaged as error:
            assert "\n" not in str(error)
            assert str(path) in str(error)
            found += 1
        else:
            assert stored is not None
            pd.testing.assert_frame_equal(stored.frame, OLD, check_exact=True)
            assert stored.manifest == before
    assert found > len(content) / 3 / 2


def test_a_truncated_file_is_found_by_reading_it(store: Store) -> None:
    path = store.path("AAPL")
    content = path.read_bytes()
    for length in (*range(0, len(content), 37), len(content) - 1):
        path.write_bytes(content[:length])
        for look in (store.read, store.manifest, store.verify):
            with pytest.raises(Damaged, match=re.escape(str(path))):
                look("AAPL")


def test_reading_finds_a_page_that_is_not_the_one_that_was_written(store: Store) -> None:
    path = store.path("AAPL")
    content = bytearray(path.read_bytes())
    offset = pq.read_metadata(path).row_group(0).column(4).data_page_offset
    content[offset + 60] ^= 1
    path.write_bytes(content)
    assert store.manifest("AAPL") is not None
    with pytest.raises(Damaged, match="checksum"):
        store.read("AAPL")


def test_verify_finds_values_that_reading_cannot_doubt(store: Store) -> None:
    stored = store.read("AAPL")
    assert stored is not None
    other = stored.frame.assign(close=stored.frame["close"] + 0.01)
    store.path("AAPL").write_bytes(module._encoded(other, stored.manifest))
    assert store.read("AAPL") is not None
    with pytest.raises(Damaged, match="values"):
        store.verify("AAPL")


def test_a_manifest_of_other_rows_is_found_by_reading(store: Store) -> None:
    stored = store.read("AAPL")
    assert stored is not None
    for wrong in ({"rows": 39}, {"first": "2023-12-29"}, {"last": "2025-01-01"}):
        content = module._encoded(stored.frame, replace(stored.manifest, **wrong))
        store.path("AAPL").write_bytes(content)
        with pytest.raises(Damaged, match="manifest"):
            store.read("AAPL")


def test_a_file_of_another_symbol_or_maker_is_not_taken_for_ours(store: Store) -> None:
    store.path("MSFT").write_bytes(store.path("AAPL").read_bytes())
    with pytest.raises(Damaged, match="it holds 'AAPL'"):
        store.read("MSFT")
    OLD.to_parquet(store.path("MSFT"))
    with pytest.raises(Damaged, match="columns|manifest"):
        store.read("MSFT")
    store.path("MSFT").write_text("date,close\n")
    with pytest.raises(Damaged, match="MSFT"):
        store.manifest("MSFT")


def test_a_file_that_cannot_be_opened_is_not_called_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., Any]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with refused(str(store.path("AAPL")), os.strerror(errno.EACCES)):
        store.read("AAPL")
    with pytest.raises(ForecastError) as caught:
        store.manifest("AAPL")
    assert not isinstance(caught.value, Damaged)


def test_a_damaged_file_is_set_aside_whole_and_never_over_another(store: Store) -> None:
    kept = {}
    for number in range(4):
        content = f"damage {number}".encode()
        store.path("AAPL").write_bytes(content)
        kept[store.set_aside("AAPL")] = content
        assert store.read("AAPL") is None
    assert len(kept) == 4
    for path, content in kept.items():
        assert re.fullmatch(r"AAPL\.parquet\.damaged-\d{8}T\d{6}Z(-\d+)?", path.name)
        assert path.read_bytes() == content
    assert store.symbols() == []
    store.write("AAPL", NEW, manifest())
    assert holds(store, NEW)
    assert all(path.exists() for path in kept)


# --- what the other processes do -----------------------------------------------------------------


def die(home: str) -> None:
    """Write in children that die as by `kill -9` at the first line of writing, the second, ..."""
    import filelock  # noqa: F401  # once, not in every child

    code, number = 9, 0
    while code == 9:
        number += 1
        child = os.fork()
        if not child:
            store = Store(Path(home) / str(number))
            store.write("AAPL", OLD, manifest())
            sys.settrace(killer(number))
            store.write("AAPL", NEW, manifest())
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code)


def killer(left: int) -> Callable[..., Any]:
    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        code = frame.f_code
        if code.co_filename != module.__file__ or code.co_name not in ("write", "lock", "_sync"):
            return None
        left -= event == "line"
        if left == 0:
            os._exit(9)
        return trace

    return trace


def append(home: str, tag: str) -> None:
    store = Store(home)
    for number in range(APPENDS):
        with store.lock("AAPL"):
            stored = store.read("AAPL")
            assert stored is not None
            last = stored.frame.iloc[[-1]]
            more = last.assign(date=last["date"] + pd.Timedelta(days=1), split=float(tag))
            frame = pd.concat([stored.frame, more.astype({"date": "datetime64[s]"})])
            changes = (*stored.manifest.changes, f"{tag}: {number}")
            store.write("AAPL", frame, replace(stored.manifest, changes=changes))


if __name__ == "__main__":
    {"die": die, "append": append}[sys.argv[1]](*sys.argv[2:])
