"""The panel store: large panels in files, named by the hash of all that they follow from.

A panel is a folder of arrays (.npy), written row by row and mapped where it is read, so it need
never be in memory as a whole. A folder appears complete or not at all. When a panel is found,
every byte is compared with its checksum before it is used, and what is damaged is made anew; a
process that is handed the folder by another one trusts that this was done, and compares nothing.

What features of somebody's own depend on cannot be known: such a panel gets no name, is found by
nobody, and goes with the process that made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import sys
import uuid
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from forecast.config import ForecastError
from forecast.dataset.features import FeatureSet
from forecast.dataset.market import Market
from forecast.dataset.panel import Panel, SymbolFacts, fill_panel
from forecast.prices.frame import Prices
from forecast.prices.mapped import home_folder, read_array, unread

# Three panels of 20,000 symbols over 30 years, or a dozen of 5,000. What was not read for longest
# goes first, and also where the disk would be full before.
MOST_BYTES = 64 * 2**30
ROW_BYTES = 36  # of a row beside its features
SMALL = ("dates", "offsets", "market_lag")
OF_THE_MARKET = ("date", "log_return", "scale")
HELD = "values.npy"  # mapped by everyone who has the panel
CHECKSUMS = "checksums.json"
LOCKS = ".locks"
LIBRARIES = ("forecast", "numpy", "pandas", "exchange_calendars")
# Whose code a panel follows from; between two versions of the package it changes too. Read now:
# what is saved to the files later is not what this process runs.
CODE = ("dataset.features", "dataset.market", "dataset.panel", "dataset.panel_store",
        "prices.exchanges")  # fmt: skip
CODE_SHA256 = hashlib.sha256(
    b"".join(Path(str(sys.modules[f"forecast.{name}"].__file__)).read_bytes() for name in CODE)
).hexdigest()


class PanelStore:
    """The folders under `<home>/panels/`.

    Parameters
    ----------
    home : by default that of `home_folder`.
    """

    def __init__(self, home: Path | str | None = None) -> None:
        self.folder = home_folder(home) / "panels"

    def panel(
        self, prices: Prices, features: FeatureSet, market: Market | str | None, max_gap: int
    ) -> Panel:
        """The panel of `make_panel`, found or made; of two processes one makes it.

        With features of somebody's own it is made, and goes when nothing in this process has it.

        Raises
        ------
        ForecastError
            As in `make_panel`; or the folder cannot be written to, or has no room.
        """
        named = not features.own
        key = panel_key(prices, features, market, max_gap) if named else uuid.uuid4().hex[:20]
        path = self.folder / key
        try:
            with self._locked(key):
                if path.is_dir():
                    if _sound(path):
                        os.utime(path / CHECKSUMS)
                        return read_panel(path)
                    print(f"{path} is damaged: the panel is made anew", flush=True)
                    shutil.rmtree(path)
                # One name a panel: what a killed process leaves is removed by the next one.
                unfinished = self.folder / f".{key}"
                shutil.rmtree(unfinished, ignore_errors=True)
                columns = [*features.columns, *features.own]
                columns += [name for covariate in prices.covariates for name in covariate.columns]
                self._make_room(key, len(prices.frame) * (ROW_BYTES + 4 * len(columns)))
                unfinished.mkdir()
                try:
                    with _Files(unfinished, len(prices.frame)) as files:
                        files.finish(fill_panel(files, prices, features, market, max_gap))
                    if named:
                        unfinished.rename(path)
                        return read_panel(path)
                    panel = read_panel(unfinished)
                    weakref.finalize(panel, self._remove, key, maker=os.getpid())
                    return panel
                except BaseException:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise
        except OSError as error:
            raise ForecastError(
                f"{self.folder} cannot be written to ({error.strerror or error}). Make room or set "
                "its permissions, set FORECAST_HOME=<folder>, or use data.in_memory=true."
            ) from error

    @contextlib.contextmanager
    def _locked(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Keep other processes from a panel; False where one has it and `wait` is not wanted."""
        import filelock

        path = self._lock_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except OSError as error:  # a timeout too; or the lock is another user's
            if not wait:
                yield False
                return
            if not isinstance(error, filelock.Timeout):
                raise
            print(f"{self.folder / key} is in use by another process: waiting", flush=True)
            lock.acquire()
        try:
            yield True
        finally:
            lock.release()

    def _lock_of(self, key: str) -> Path:
        return self.folder / LOCKS / f"{key}.lock"

    def _remove(self, key: str, *, maker: int) -> None:
        """Remove a panel without a name; a process that was forked from its maker does not."""
        if os.getpid() == maker:
            shutil.rmtree(self.folder / f".{key}", ignore_errors=True)
            self._lock_of(key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _idle(self, path: Path) -> Iterator[bool]:
        """Whether nobody makes or has a panel; until the end nobody comes to."""
        key = path.name.removeprefix(".")
        with self._locked(key, wait=False) as mine, unread(path / HELD) as free:
            yield mine and free

    def _make_room(self, key: str, wanted: int) -> None:
        """Remove panels that were not read for longest, and what killed processes left.

        Parameters
        ----------
        key : of the panel that is to be made.
        wanted : its bytes.

        Raises
        ------
        ForecastError
            The disk would be too full all the same; nothing is removed.
        """
        with contextlib.ExitStack() as held:
            total, idle = 0, []
            for path in self.folder.iterdir():
                if path.name == LOCKS or not path.is_dir():
                    continue
                # Whoever has it removes it just now, or it is another user's.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    size = sum(file.stat().st_size for file in path.iterdir())
                    total += size
                    if held.enter_context(self._idle(path)):
                        left = path.name.startswith(".")
                        read = 0.0 if left else (path / CHECKSUMS).stat().st_mtime
                        idle.append((read, path, size))
            free = shutil.disk_usage(self.folder).free
            most = free + sum(size for *_, size in idle)
            if wanted > most:
                raise ForecastError(
                    f"{self.folder} has room for {most / 2**30:.2f} GB, and a panel of "
                    f"{wanted / 2**30:.2f} GB is asked for. Make room, set FORECAST_HOME=<folder>, "
                    "or use data.in_memory=true."
                )
            for read, path, size in sorted(idle):
                free = shutil.disk_usage(self.folder).free
                if read and total + wanted <= MOST_BYTES and wanted <= free:
                    break
                shutil.rmtree(path, ignore_errors=True)
                total -= size
        self._tidy_locks(key)

    def _tidy_locks(self, key: str) -> None:
        """Remove the locks of panels that are gone, but for that of the one to be made."""
        for lock in (self.folder / LOCKS).iterdir():
            places = self.folder / lock.stem, self.folder / f".{lock.stem}"
            if lock.stem != key and not any(place.exists() for place in places):
                with self._locked(lock.stem, wait=False) as mine:
                    # Another process may have made the panel since.
                    if mine and not any(place.exists() for place in places):
                        with contextlib.suppress(OSError):  # Windows keeps what is open
                            lock.unlink()


def panel_key(
    prices: Prices, features: FeatureSet, market: Market | str | None, max_gap: int
) -> str:
    """Twenty hexadecimal digits naming a panel by all that it follows from.

    The processor is among it: with other instructions numpy's functions round differently.
    """
    covariates = [(c.columns, c.lag, c.max_age) for c in prices.covariates]
    scale = [features.scale_half_life, features.scale_floor]
    if isinstance(market, Market):
        series = [getattr(market, name).tobytes() for name in OF_THE_MARKET]
        digest = hashlib.sha256(b"".join(series)).hexdigest()
        market = f"{market.definition} of {market.calendar}: {digest}"
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    facts = [prices.sha256, covariates, list(features.columns), scale, market, max_gap]
    facts += [versions, platform.machine(), _instructions(), CODE_SHA256]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


def _instructions() -> list[str]:
    """What numpy found that the processor can do."""
    told: Any = np.show_config(mode="dicts")
    return sorted(told["SIMD Extensions"].get("found", []))


class _Files:
    """A folder of .npy files that rows are added to, and their checksums.

    Parameters
    ----------
    rows : int
        Of each column.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self._folder, self._rows = folder, rows
        self._files: dict[str, BinaryIO] = {}
        self._checksums: dict[str, int] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _write(self, name: str, content: bytes | memoryview) -> None:
        if name not in self._files:
            file = open(self._folder / name, "xb", buffering=2**20)  # noqa: SIM115
            self._files[name] = self._open.enter_context(file)
        self._files[name].write(content)
        self._checksums[name] = zlib.crc32(content, self._checksums.get(name, 0))

    def put(self, name: str, rows: slice, values: np.ndarray) -> None:
        name = f"{name}.npy"
        if name not in self._files:
            head = io.BytesIO()
            whole = {
                "descr": np.lib.format.dtype_to_descr(values.dtype),
                "fortran_order": False,
                "shape": (self._rows, *values.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(head, whole)
            self._write(name, head.getvalue())
        self._write(name, np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def arrays(self) -> dict[str, np.ndarray]:
        for file in self._files.values():
            file.flush()
        return {Path(name).stem: read_array(self._folder / name) for name in self._files}

    def finish(self, panel: Panel) -> None:
        """Add everything that has no row of its own, the checksums last."""
        whole = {name: getattr(panel, name) for name in SMALL}
        whole |= {f"market_{name}": getattr(panel.market, name) for name in OF_THE_MARKET}
        for name, array in whole.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            self._write(f"{name}.npy", content.getvalue())
        told = {
            "symbols": panel.symbols,
            "names": panel.names,
            "definition": panel.market.definition,
            "calendar": panel.market.calendar,
            "facts": [asdict(fact) for fact in panel.facts],
            "warnings": panel.warnings,
        }
        self._write("panel.json", json.dumps(told).encode())
        (self._folder / CHECKSUMS).write_text(json.dumps(self._checksums), encoding="utf-8")


def _sound(path: Path) -> bool:
    """Whether all files are what was written."""
    try:
        checksums = json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(checksums) and all(
            _checksum(path / name) == wanted for name, wanted in checksums.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb", buffering=0) as file:
        block = bytearray(2**24)
        while count := file.readinto(block):
            checksum = zlib.crc32(memoryview(block)[:count], checksum)
    return checksum


def read_panel(path: Path) -> Panel:
    """A panel of the store, mapped; other processes are handed the folder instead of its arrays.

    Raises
    ------
    ForecastError
        It is not there any more.
    """
    try:
        # The column that is held comes first: from then on no other process removes the folder.
        columns = {name: read_array(path / f"{name}.npy") for name in Panel.COLUMNS}
        told: dict[str, Any] = json.loads((path / "panel.json").read_text(encoding="utf-8"))
        series = {name: np.load(path / f"market_{name}.npy") for name in OF_THE_MARKET}
        whole = {name: np.load(path / f"{name}.npy") for name in SMALL}
    except OSError as error:
        raise ForecastError(
            f"{path} cannot be read ({error.strerror}): the panel was removed, or this process "
            "sees another FORECAST_HOME. Repeat the command, or use data.in_memory=true."
        ) from error
    panel = Panel(
        **columns,
        **whole,
        market=Market(definition=told["definition"], calendar=told["calendar"], **series),
        symbols=tuple(told["symbols"]),
        names=tuple(told["names"]),
        facts=tuple(SymbolFacts(**fact) for fact in told["facts"]),
        warnings=tuple(told["warnings"]),
    )
    vars(panel)["folder"] = path
    return panel
