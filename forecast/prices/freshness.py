"""How much a stored symbol lacks at its end."""

from __future__ import annotations

import numpy as np

from forecast.prices.exchanges import following_sessions, last_final
from forecast.prices.store import Manifest

ENDED = 10  # sessions without a row after which a symbol that Yahoo answers for has ended


def sessions_missing(
    manifest: Manifest, now: np.datetime64, end: np.datetime64 | None = None
) -> np.ndarray:
    """Final sessions of its exchange, up to `end`, after the last stored one; datetime64[D]."""
    last = np.datetime64(manifest.last, "D")
    newest = last_final(manifest.calendar, manifest.timezone, now)
    if end is not None:
        newest = min(newest, end)
    if newest <= last:
        return np.array([], "datetime64[D]")
    later = following_sessions(manifest.calendar, last, int((newest - last).astype(int)))
    return later[later <= newest]


def sessions_behind(
    manifest: Manifest, now: np.datetime64, end: np.datetime64 | None = None
) -> int:
    """Final sessions up to `end` that a stored symbol lacks, as far as Yahoo may have them.

    A symbol that has `ended`, although Yahoo was asked about it since, lacks nothing.
    """
    missing = sessions_missing(manifest, now, end)
    if len(missing) > ENDED:
        checked = last_final(manifest.calendar, manifest.timezone, time_of(manifest.checked))
        missing = missing[missing > checked]
    return len(missing)


def ended(manifest: Manifest) -> bool:
    """Whether a symbol had no session for long when Yahoo was last asked about it."""
    return len(sessions_missing(manifest, time_of(manifest.checked))) > ENDED


def stamp(now: np.datetime64) -> str:
    """A time as a manifest holds it: ISO 8601, UTC, seconds."""
    return f"{now.astype('datetime64[s]')}+00:00"


def time_of(stamped: str) -> np.datetime64:
    """The time that `stamp` wrote."""
    return np.datetime64(stamped.removesuffix("+00:00"), "s")
