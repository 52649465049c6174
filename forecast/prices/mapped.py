"""Arrays that lie in files instead of memory.

A page of such a file comes into memory when it is touched, and counts as this process's own from
then on, until the system wants the room. So that it does not pile up, touched pages are handed back
a few times a second: where there is room the system keeps them at hand all the same.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from forecast.config import ForecastError

if sys.platform != "win32":
    import fcntl

INTERVAL = 0.2  # seconds between two rounds; reading a gigabyte a second leaves 200 MB resident
_maps: list[weakref.ref[mmap.mmap]] = []
_lock = threading.Lock()


def read_array(path: Path) -> np.ndarray:
    """An array of a .npy file, mapped: nothing is read before it is touched, nothing written.

    For as long as some of the array is there, in this process or one forked from it, `unread` says
    that the file is not.

    Raises
    ------
    OSError, ValueError
        There is no such file, or it is none.
    """
    with open(path, "rb") as file:
        if sys.platform != "win32":
            # The map keeps the file open on its own account, and with it the lock.
            fcntl.flock(file, fcntl.LOCK_SH)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        array: np.ndarray = np.frombuffer(mapped, dtype, offset=file.tell()).reshape(shape)
    _hand_back(mapped)
    return array


@contextlib.contextmanager
def unread(path: Path) -> Iterator[bool]:
    """Whether no process has a file mapped; until the end `read_array` waits.

    A file that is not there is mapped by none, and one that this user may not write to counts as
    mapped. Without locks of the system (Windows) none does; there, a mapped file cannot be removed.
    """
    if sys.platform == "win32" or not path.exists():
        yield True
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "r+b"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            free = False
        else:
            free = True
        yield free


def scratch(folder: Path, rows: int, kind: str | np.dtype) -> np.ndarray:
    """An array to be filled, in a file without a name: it goes with the array.

    Raises
    ------
    ForecastError
        There is no room for it, or no right to write there.
    """
    size = max(rows * np.dtype(kind).itemsize, 1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                # A write to a page for which the disk has no room would end the process.
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise ForecastError(
            f"{folder} has no place for a file of {size / 2**30:.2f} GB ({error.strerror}). "
            "Make room, set FORECAST_HOME=<folder>, or use data.in_memory=true."
        ) from error
    _hand_back(mapped)
    return np.frombuffer(mapped, kind, rows)


def home_folder(home: Path | str | None = None) -> Path:
    """What is kept between commands lies here: by default FORECAST_HOME, else the user's data."""
    home = home or os.environ.get("FORECAST_HOME")
    if not home:
        import platformdirs

        home = platformdirs.user_data_dir("forecast", appauthor=False)
    # Processes that are handed a file may work in another folder than this one.
    return Path(home).expanduser().absolute()


def _hand_back(mapped: mmap.mmap) -> None:
    """From now on, until the map is gone."""
    with _lock:
        _maps.append(weakref.ref(mapped))
    if hasattr(mmap, "MADV_DONTNEED"):
        _start()


@cache
def _start() -> None:
    threading.Thread(target=_rounds, name="mapped", daemon=True).start()


def _rounds() -> None:
    while True:
        time.sleep(INTERVAL)
        with _lock:
            _maps[:] = [reference for reference in _maps if reference() is not None]
            for reference in _maps:
                mapped = reference()
                if mapped is not None:
                    # What was written stays written: the system's cache of a file is one for all.
                    mapped.madvise(mmap.MADV_DONTNEED)
                del mapped
