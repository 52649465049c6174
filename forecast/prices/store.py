"""The price store: one Parquet file a symbol, which carries its own manifest.

Rows and manifest are one file, and a file is only ever replaced whole, so the two cannot disagree
after a crash. Pages carry checksums that every read compares; `verify` compares every value too.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from forecast.config import ForecastError
from forecast.prices.frame import _blocks
from forecast.prices.mapped import home_folder
from forecast.prices.names import SUFFIX, file_name, symbol_of

NUMBERS = ("open", "high", "low", "close", "volume", "dividend", "split", "capital_gain")
COLUMNS = ("date", *NUMBERS)
# Parquet knows no seconds. What was not given is null, which other readers average correctly.
DATE, NUMBER = pa.field("date", pa.timestamp("ms"), nullable=False), pa.float64()
SCHEMA = pa.schema([DATE, *(pa.field(name, NUMBER) for name in NUMBERS)])
ENCODINGS = {"date": "DELTA_BINARY_PACKED", **dict.fromkeys(NUMBERS, "BYTE_STREAM_SPLIT")}
MANIFEST, CHECKSUM = b"forecast", b"forecast.crc32"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known about the rows of one symbol.

    Attributes
    ----------
    source : "yahoo".
    fetched : when the last fetch whose rows are in the file was made; ISO 8601, UTC, seconds.
    checked : when the source was last asked and answered soundly; the same form.
    start : earliest date that was ever asked for, YYYY-MM-DD; None stands for all there is.
    calendar : exchange_calendars code; None where unknown.
    timezone : IANA name.
    instrument : EQUITY, ETF, INDEX, CURRENCY, CRYPTOCURRENCY, ...
    exchange : the source's code: NMS, NYQ, JPX, ...
    rows, first, last, sha256 : of the frame; filled in by `Store.write`. The hash depends on the
        values alone, not on how they are encoded.
    changes : one line for each time that old rows were rewritten, newest last.
    """

    symbol: str
    source: str
    fetched: str
    checked: str
    start: str | None
    calendar: str | None
    timezone: str | None
    currency: str | None
    instrument: str | None
    exchange: str | None
    rows: int = 0
    first: str = ""
    last: str = ""
    sha256: str = ""
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """The rows of one symbol and their manifest.

    Attributes
    ----------
    columns : arrays of shape (rows,), by the names of `COLUMNS`: `date` (datetime64[s], tz-naive
        session date, ascending, unique), then float64, NaN where not given: prices and `volume`
        split-adjusted as of the fetch, `dividend` and `capital_gain` in cash per share on the same
        basis, `split` in new shares per old, 0.0 where there was none.
    """

    columns: Mapping[str, np.ndarray]
    manifest: Manifest

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The columns as a table with a RangeIndex."""
        return pd.DataFrame(dict(self.columns))


class Damaged(ForecastError):
    """A file of the store that is not what was written; names it and what is wrong."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} is damaged: {problem}. Move it away and fetch the symbol again.")


class Store:
    """The files under `<home>/prices/`.

    Parameters
    ----------
    home : by default that of `home_folder`.
    """

    def __init__(self, home: Path | str | None = None) -> None:
        self.home = home_folder(home)
        self.folder = self.home / "prices"

    def symbols(self) -> list[str]:
        """The symbols that have a file, sorted; files that are not ours are passed over."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(ForecastError):
                if path.is_file():
                    found.append(symbol_of(path.name))
        return sorted(found)

    def path(self, symbol: str) -> Path:
        return self.folder / file_name(symbol)

    def read(self, symbol: str) -> Stored | None:
        """Rows and manifest of a symbol; None where there is no file.

        Every page is compared with its checksum, but not the values with their hash: `verify`
        does that, at half as much again.

        Raises
        ------
        Damaged
            The file is not one that `write` left.
        ForecastError
            The file cannot be read.
        """
        found = self._load(symbol, COLUMNS)
        if found is None:
            return None
        table, manifest = found
        values = {name: table.column(name).to_numpy() for name in COLUMNS}
        values["date"] = dates = values["date"].astype("datetime64[s]")
        problem = _disorder(dates)
        if problem is None and _extent(dates) != (manifest.rows, manifest.first, manifest.last):
            problem = "its rows are not those of its manifest"
        if problem is not None:
            raise Damaged(self.path(symbol), problem)
        return Stored(columns=values, manifest=manifest)

    def manifest(self, symbol: str) -> Manifest | None:
        """The manifest alone, from the file's footer; raises as `read`."""
        found = self._load(symbol, ())
        return None if found is None else found[1]

    def verify(self, symbol: str) -> None:
        """Read everything and compare every value with the hash that was written.

        Raises as `read`, and a ForecastError where there is no file.
        """
        stored = self.read(symbol)
        if stored is None:
            raise ForecastError(f"{symbol}: no prices in {self.folder}. Fetch them first.")
        if _sha256(stored.frame) != stored.manifest.sha256:
            raise Damaged(self.path(symbol), "its values are not those that were written")

    def write(self, symbol: str, frame: pd.DataFrame, manifest: Manifest) -> Stored:
        """Replace the file of a symbol: afterwards the old one or the new one is there, whole.

        Returns what `read` would give.

        Parameters
        ----------
        frame : as in `Stored`; its index is not kept.
        manifest : `rows`, `first`, `last` and `sha256` are filled in from the frame.

        Raises
        ------
        ForecastError
            A frame of another form, another symbol's manifest, or no place to write to.
        """
        problem = _malformed(frame) or _disorder(frame["date"].to_numpy())
        if manifest.symbol != symbol:
            problem = f"the manifest is that of {manifest.symbol!r}"
        if problem is not None:
            raise ForecastError(f"{symbol}: rows to be stored are refused: {problem}.")
        frame = frame.reset_index(drop=True)
        rows, first, last = _extent(frame["date"].to_numpy())
        manifest = replace(manifest, rows=rows, first=first, last=last, sha256=_sha256(frame))
        content = _encoded(frame, manifest)
        path = self.path(symbol)
        # One name a symbol, so what a killed write leaves is overwritten by the next one.
        temporary = path.with_name(f".{path.name}.tmp")
        with self.lock(symbol):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with open(temporary, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except OSError as error:
                raise self._unwritable(error) from error
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            _sync(self.folder)
        columns = {name: frame[name].to_numpy() for name in COLUMNS}
        return Stored(columns=columns, manifest=manifest)

    @contextlib.contextmanager
    def lock(self, symbol: str, *, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Keep other writers of a symbol out; a second one says so and waits.

        To be held from reading old rows to writing new ones; `write` and `set_aside` take it
        themselves where their thread does not hold it yet.
        """
        import filelock

        folder = self.home / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = file_name(symbol).removesuffix(SUFFIX) + ".lock"
            lock = filelock.FileLock(folder / name, is_singleton=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                print(f"{symbol}: another process is writing its prices: waiting", flush=True)
                while not lock.is_locked:
                    with contextlib.suppress(filelock.Timeout):
                        lock.acquire(timeout=0.5)
                    if cancelled():
                        lock.release()
                        raise ForecastError(f"{symbol}: interrupted while waiting.") from None
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def set_aside(self, symbol: str) -> Path:
        """Rename a damaged file to `<name>.damaged-<UTC time>[-n]`; returns where it lies now."""
        path = self.path(symbol)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        name, number = f"{path.name}.damaged-{stamp}", 1
        with self.lock(symbol):
            target = path.with_name(name)
            while target.exists():
                number += 1
                target = path.with_name(f"{name}-{number}")
            try:
                path.rename(target)
            except FileNotFoundError as error:
                raise ForecastError(f"{path}: no such file, so none to set aside.") from error
            except OSError as error:
                raise self._unwritable(error) from error
        return target

    def _load(self, symbol: str, columns: Sequence[str]) -> tuple[pa.Table, Manifest] | None:
        path = self.path(symbol)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
                if not file.schema_arrow.equals(SCHEMA):
                    raise Damaged(path, "its columns are not those of a file of prices")
                manifest = _manifest(path, file.metadata.metadata or {})
                table = file.read(columns, use_threads=False)
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError, ValueError) as error:
            # The system's errors have a number, and the file may be sound.
            if isinstance(error, OSError) and error.errno is not None:
                raise ForecastError(
                    f"{path} cannot be read ({error.strerror}). Check its permissions and the disk."
                ) from error
            raise Damaged(path, " ".join(str(error).split())) from error
        if manifest.symbol != symbol:
            raise Damaged(path, f"it holds {manifest.symbol!r}")
        return table, manifest

    def _unwritable(self, error: OSError) -> ForecastError:
        return ForecastError(
            f"{self.folder} cannot be written to ({error.strerror or error}). Make room or set its "
            "permissions, or put the store elsewhere: FORECAST_HOME=<folder>."
        )


def _malformed(frame: pd.DataFrame) -> str | None:
    """What is wrong with the columns of a frame."""
    if tuple(frame.columns) != COLUMNS:
        return f"columns {list(frame.columns)}, not {list(COLUMNS)}"
    for name, wanted in {"date": "datetime64[s]", **dict.fromkeys(NUMBERS, "float64")}.items():
        if frame[name].dtype != wanted:
            return f"{name} is {frame[name].dtype}, not {wanted}"
    return None


def _disorder(dates: np.ndarray) -> str | None:
    """What is wrong with the dates of a frame."""
    if not len(dates):
        return "no rows"
    if np.isnat(dates).any() or (dates.astype("int64") % 86_400).any():
        return "a date is missing or has a time of day"
    falls = np.flatnonzero(np.diff(dates) <= np.timedelta64(0))
    if len(falls):
        date = dates[falls[0] + 1].astype("datetime64[D]")
        return f"{date} does not come after the date before it"
    return None


def _extent(dates: np.ndarray) -> tuple[int, str, str]:
    first, last = dates[[0, -1]].astype("datetime64[D]").astype(str)
    return len(dates), str(first), str(last)


def _sha256(frame: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for name in COLUMNS:
        digest.update(f"{name};{len(frame)};".encode())
        for block in _blocks(frame[name]):
            digest.update(block)
    return digest.hexdigest()


def _encoded(frame: pd.DataFrame, manifest: Manifest) -> pa.Buffer:
    """The bytes of a file, made in memory so that a full disk is met in one place."""
    columns = [pa.array(frame[name].to_numpy(), from_pandas=True) for name in COLUMNS]
    columns[0] = columns[0].cast(DATE.type)
    text = json.dumps(asdict(manifest)).encode()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        column_encoding=ENCODINGS,
        write_page_checksum=True,
        # Nothing of this is needed, and in the footer no checksum would guard it.
        write_statistics=False,
        store_schema=False,
    ) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), row_group_size=len(frame))
        writer.add_key_value_metadata({MANIFEST: text, CHECKSUM: _checksum(text)})
    return sink.getvalue()


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def _manifest(path: Path, entries: Mapping[bytes, bytes]) -> Manifest:
    text = entries.get(MANIFEST)
    if text is None or entries.get(CHECKSUM) != _checksum(text):
        raise Damaged(path, "its manifest is missing or not the one that was written")
    try:
        fields = json.loads(text)
        return Manifest(**{**fields, "changes": tuple(fields["changes"])})
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(path, f"its manifest is of another version ({error})") from error


def _sync(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can: the file is whole either way."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
