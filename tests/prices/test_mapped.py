"""Arrays in files hold what was put there, and leave neither names nor memory behind."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecast.config import ForecastError
from forecast.prices import load_prices, mapped
from forecast.prices.mapped import home_folder, read_array, scratch, unread

MANY = 2**23  # numbers of 8 bytes: 64 MB


def resident() -> float:
    """Megabytes of files that count as this process's own."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("RssFile:")[1].split()[0]) / 1024


def until(holds: Callable[[], bool]) -> bool:
    """Whether something comes true within ten seconds."""
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


@pytest.mark.parametrize("shape", [(5,), (7, 3)])
def test_a_mapped_array_is_the_one_that_was_saved_and_cannot_be_written_to(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    saved = np.random.default_rng(0).random(shape).astype(np.float32)
    np.save(tmp_path / "saved.npy", saved)
    array = read_array(tmp_path / "saved.npy")
    assert array.dtype == saved.dtype and array.tobytes() == saved.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize("kind", ["f8", "M8[s]", "i2"])
def test_a_scratch_array_takes_any_kind_of_number_and_its_file_has_no_name(
    tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "new" / "home"
    array = scratch(folder, 1000, kind)
    array[:] = np.arange(1000).astype(kind)
    assert (array == np.arange(1000).astype(kind)).all()
    assert len(scratch(folder, 0, kind)) == 0
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_what_is_touched_does_not_stay_and_what_is_written_does(tmp_path: Path) -> None:
    before, array = resident(), scratch(tmp_path, MANY, "f8")
    for start in range(0, MANY, MANY // 8):
        array[start : start + MANY // 8] = start
    assert until(lambda: resident() < before + 8), "64 MB were written"
    assert np.array_equal(np.unique(array), np.arange(0, MANY, MANY // 8))
    np.save(tmp_path / "saved.npy", array)
    other = read_array(tmp_path / "saved.npy")
    assert other.sum() == array.sum()
    assert until(lambda: resident() < before + 8), "128 MB were read"


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_a_file_is_unread_when_the_last_of_its_arrays_is_gone(tmp_path: Path) -> None:
    def free() -> bool:
        with unread(tmp_path / "saved.npy") as is_free:
            return is_free

    assert free(), "there is no such file"
    np.save(tmp_path / "saved.npy", np.arange(9.0))
    assert free() and free()
    one, other = read_array(tmp_path / "saved.npy"), read_array(tmp_path / "saved.npy")[:2]
    assert not free()
    del one
    assert not free()
    del other
    assert free()


def test_no_room_is_told_before_anything_is_written(
    tmp_path: Path, refused: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("room can only be asked for where there is posix_fallocate")

    def full(number: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with refused(str(tmp_path), "0.06 GB", "No space left", "FORECAST_HOME", "in_memory=true"):
        scratch(tmp_path, MANY, "f8")
    (tmp_path / "file").touch()
    with refused(str(tmp_path / "file"), "FORECAST_HOME"):
        scratch(tmp_path / "file", 1, "f8")


def test_maps_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    array = scratch(tmp_path, 10, "f8")
    mine = mapped._maps[-1]
    assert mine() is not None
    del array
    assert until(lambda: mine not in mapped._maps)


def test_the_home_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))
    assert home_folder() == tmp_path and home_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    for relative in ("there", "./there"):
        monkeypatch.setenv("FORECAST_HOME", relative)
        assert home_folder() == home_folder(relative) == tmp_path / "there"
    monkeypatch.delenv("FORECAST_HOME")
    assert home_folder().name == "forecast"


@pytest.mark.parametrize("process", ["gbm", "garch", "planted", "recall"])
def test_simulated_prices_in_a_file_are_the_same_and_leave_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: str
) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))
    size = {"n_symbols": 5, "n_sessions": 300, "staggered": True, "ohlcv": True}
    here = load_prices("simulated", process=process, **size)
    there = load_prices("simulated", process=process, **size, in_memory=False)
    assert there.sha256 == here.sha256
    for name in ("date", "close", "volume"):
        assert not owned(there.frame[name].to_numpy()) and owned(here.frame[name].to_numpy())
    assert list(tmp_path.iterdir()) == []


def owned(array: np.ndarray) -> bool:
    """Whether an array's numbers lie in memory of numpy's own."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, np.ndarray)


def test_other_sources_read_prices_into_memory_all_the_same() -> None:
    assert load_prices("index", in_memory=False).sha256 == load_prices("index").sha256


def test_in_memory_is_true_or_false() -> None:
    with pytest.raises(ForecastError, match="data.in_memory=perhaps is not true or false"):
        load_prices("index", in_memory="perhaps")
