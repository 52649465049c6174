"""What the price store holds, whether it is sound, and a way out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.prices.choice import Choice
from forecast.prices.client import utc_now
from forecast.prices.exchanges import exchange_sessions
from forecast.prices.freshness import sessions_behind
from forecast.prices.quality import inspect
from forecast.prices.sound import sound
from forecast.prices.store import Damaged, Store

TABLE = ("symbol", "first", "last", "rows", "behind", "fetched", "calendar", "currency", "state")
# Splits stay out: these prices hold them already, and a reader would apply them twice.
EXPORTED = ("date", "open", "high", "low", "close", "volume", "dividend")


def chosen(store: Store, symbols: Sequence[str] | None) -> list[str]:
    """The symbols named, in capitals, or all that are stored.

    Raises
    ------
    ForecastError
        The store is empty.
    """
    if symbols is not None:
        return sorted({symbol.upper() for symbol in symbols})
    stored = store.symbols()
    if not stored:
        raise ForecastError(
            f"the price store {store.folder} is empty. Fetch something: "
            "python -m forecast.fetch 'data.symbols=\"AAPL,MSFT\"'."
        )
    return stored


def inventory(store: Store, symbols: Sequence[str]) -> pd.DataFrame:
    """A row a symbol from the manifests alone; `behind` counts final sessions that are missing."""
    rows, now = [], utc_now()
    for symbol in symbols:
        row: dict[str, object] = dict.fromkeys(TABLE)
        row["symbol"] = symbol
        try:
            manifest = store.manifest(symbol)
        except Damaged as error:
            row["state"] = str(error)
        else:
            if manifest is None:
                row["state"] = "not stored"
            else:
                told = {name: getattr(manifest, name) for name in TABLE if hasattr(manifest, name)}
                row |= {**told, "behind": sessions_behind(manifest, now), "state": "ok"}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(TABLE)).astype({"rows": "Int64", "behind": "Int64"})


def verified(store: Store, symbols: Sequence[str]) -> pd.DataFrame:
    """A row for each symbol that is sound, damaged or missing, and for each finding about it.

    Returns
    -------
    DataFrame
        `symbol, severity, detector, sentence`; severity `ok`, `info`, `warn`, `severe` or, for a
        file that is not what was written, `damaged`.
    """
    rows: list[tuple[str, str, str, str]] = []
    for symbol in symbols:
        try:
            store.verify(symbol)
            stored = store.read(symbol)
        except ForecastError as error:
            kind = "damaged" if isinstance(error, Damaged) else "missing"
            rows.append((symbol, kind, "file", str(error)))
            continue
        assert stored is not None
        rows.append((symbol, "ok", "file", f"{stored.manifest.rows} rows are what was written"))
        frame, findings = sound(symbol, stored.frame)
        if len(frame):
            code, days = stored.manifest.calendar, frame["date"].to_numpy("datetime64[D]")
            known = None if code is None else exchange_sessions(code, days[0], days[-1])
            findings += inspect(symbol, frame, sessions=known)
        rows += [(symbol, f.severity, f.detector, f.sentence) for f in findings]
    return pd.DataFrame(rows, columns=["symbol", "severity", "detector", "sentence"])


def export(store: Store, symbols: Sequence[str], path: Path, choice: Choice) -> int:
    """Write prices of the dates chosen as one long CSV or Parquet file.

    `data=files data.adjusted=false` reads it.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    ForecastError
        Another kind of file, or a symbol that is not stored.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ForecastError(f"path={path} must end in .csv or .parquet.")
    frames = []
    for symbol in symbols:
        stored = store.read(symbol)
        if stored is None:
            raise ForecastError(f"{symbol} is not in the price store {store.folder}. Fetch it.")
        frame, _ = sound(symbol, stored.frame)
        if choice.start is not None:
            frame = frame[(frame["date"] >= choice.start).to_numpy()]
        if choice.end is not None:
            frame = frame[(frame["date"] <= choice.end).to_numpy()]
        frame = frame[list(EXPORTED)]
        frame.insert(0, "symbol", np.full(len(frame), symbol, dtype=object))
        frames.append(frame)
    whole = pd.concat(frames, ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        whole.to_csv(path, index=False, date_format="%Y-%m-%d", lineterminator="\n")
    else:
        whole.to_parquet(path, index=False)
    return len(whole)
