"""The panel store: large panels in files, named by the hash of all that they follow from.

A panel is a folder of arrays (.npy), written row by row and mapped where it is read, so it need
never be in memory as a whole. A folder appears complete or not at all, and every byte is compared
with its checksum before it is used; what is damaged is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import sys
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
from forecast.prices.mapped import home_folder, read_array

# Three panels of 20,000 symbols over 30 years, or a dozen of 5,000. What was not read for longest
# goes first, and also where the disk would be full before.
MOST_BYTES = 64 * 2**30
ROW_BYTES = 36  # of a row beside its features
SMALL = ("dates", "offsets", "market_lag")
OF_THE_MARKET = ("date", "log_return", "scale")
CHECKSUMS = "checksums.json"
LIBRARIES = ("forecast", "numpy", "pandas", "exchange_calendars")
# Whose code a panel follows from; between two versions of the package it changes too.
CODE = ("dataset.features", "dataset.market", "dataset.panel", "dataset.panel_store",
        "prices.exchanges")  # fmt: skip


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

        Raises
        ------
        ForecastError
            As in `make_panel`; or the folder cannot be written to.
        """
        key = panel_key(prices, features, market, max_gap)
        path = self.folder / key
        try:
            with self._locked(key):
                if path.is_dir():
                    if _sound(path):
                        os.utime(path / CHECKSUMS)
                        return read_panel(path)
                    print(f"{path} is damaged: the panel is made anew", flush=True)
                    shutil.rmtree(path)
                columns = [*features.columns, *features.own]
                columns += [name for covariate in prices.covariates for name in covariate.columns]
                self._make_room(len(prices.frame) * (ROW_BYTES + 4 * len(columns)))
                # One name a panel: what a killed process leaves is removed by the next one.
                unfinished = self.folder / f".{key}"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                try:
                    with _Files(unfinished, len(prices.frame)) as files:
                        files.finish(fill_panel(files, prices, features, market, max_gap))
                    unfinished.rename(path)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
                return read_panel(path)
        except OSError as error:
            raise ForecastError(
                f"{self.folder} cannot be written to ({error.strerror or error}). Make room or set "
                "its permissions, set FORECAST_HOME=<folder>, or use data.in_memory=true."
            ) from error

    @contextlib.contextmanager
    def _locked(self, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Keep other processes from a panel; False where one has it and `wait` is not wanted."""
        import filelock

        locks = self.folder / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(locks / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if not wait:
                yield False
                return
            print(f"{self.folder / key} is in use by another process: waiting", flush=True)
            lock.acquire()
        try:
            yield True
        finally:
            lock.release()

    def _make_room(self, wanted: int) -> None:
        """Remove panels that were not read for longest, and what killed processes left."""
        found = []
        for path in self.folder.iterdir():
            key = path.name.removeprefix(".")
            if path.name != ".locks" and path.is_dir():
                with contextlib.suppress(FileNotFoundError):  # another process removes it too
                    read = (path / CHECKSUMS).stat().st_mtime if path.name == key else 0.0
                    size = sum(file.stat().st_size for file in path.iterdir())
                    found.append((read, key, path, size))
        total = sum(size for *_, size in found)
        for read, key, path, size in sorted(found):
            free = shutil.disk_usage(self.folder).free
            if read and total + wanted <= MOST_BYTES and wanted <= free:
                break
            with self._locked(key, wait=False) as mine:
                if mine:
                    shutil.rmtree(path, ignore_errors=True)
                    total -= size


def panel_key(
    prices: Prices, features: FeatureSet, market: Market | str | None, max_gap: int
) -> str:
    """Twenty hexadecimal digits naming a panel by all that it follows from."""
    covariates = [(c.columns, c.lag, c.max_age) for c in prices.covariates]
    own = [list(features.columns), list(features.own), features.own_sha256]
    scale = [features.scale_half_life, features.scale_floor]
    if isinstance(market, Market):
        series = [getattr(market, name).tobytes() for name in OF_THE_MARKET]
        digest = hashlib.sha256(b"".join(series)).hexdigest()
        market = f"{market.definition} of {market.calendar}: {digest}"
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    code = [Path(str(sys.modules[f"forecast.{name}"].__file__)).read_bytes() for name in CODE]
    facts = [prices.sha256, covariates, own, scale, market, max_gap, versions]
    digest = hashlib.sha256(json.dumps(facts).encode() + b"".join(code)).hexdigest()
    return digest[:20]


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
        told: dict[str, Any] = json.loads((path / "panel.json").read_text(encoding="utf-8"))
        series = {name: np.load(path / f"market_{name}.npy") for name in OF_THE_MARKET}
        whole = {name: np.load(path / f"{name}.npy") for name in SMALL}
        columns = {name: read_array(path / f"{name}.npy") for name in Panel.COLUMNS}
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
