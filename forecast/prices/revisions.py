"""Two fetches of one symbol: what the second rewrote, and what it no longer holds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forecast.prices.store import COLUMNS

RELATIVE = 1e-6  # below it, a number came back as it was
VALUES = COLUMNS[1:]
PRICED = ("open", "high", "low", "close", "dividend", "capital_gain")  # per share


def rewritten(stored: pd.DataFrame, frame: pd.DataFrame) -> str | None:
    """What of the stored rows came back otherwise, or a split that moves them; None for nothing.

    Only of the dates that both cover; where there is none, that is told. The volume of the newest
    stored session is no matter, it is completed overnight; nor is a row that no longer comes: it
    is kept.
    """
    date = frame["date"].to_numpy()
    new = date > stored["date"].to_numpy()[-1]
    split = new & (frame["split"].to_numpy() != 0)
    if split.any():
        row = frame[split].iloc[0]
        return f"split {row['split']:g}:1 on {row['date']:%Y-%m-%d}"
    both = stored.merge(frame[~new], on="date", suffixes=("", "_now"))
    if both.empty:
        return "nothing of what is stored came back"
    known = frame["date"].isin(stored["date"]).to_numpy()
    fresh = frame[~new & ~known & (date >= stored["date"].to_numpy()[0])]
    if len(fresh):
        return f"{len(fresh)} rows new from {fresh['date'].iloc[0]:%Y-%m-%d}"
    for name in VALUES:
        was, now = both[name].to_numpy(), both[f"{name}_now"].to_numpy()
        same = np.isclose(was, now, rtol=RELATIVE, atol=0.0, equal_nan=True)
        if name == "volume":
            same |= (both["date"] == stored["date"].iloc[-1]).to_numpy()
        if not same.all():
            at = int(np.argmin(same))
            return (
                f"{name} of {both['date'].iloc[at]:%Y-%m-%d} from {was[at]:.10g} to {now[at]:.10g}"
            )
    return None


def continued(stored: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Stored rows and what has come since, where nothing was `rewritten`."""
    last = stored["date"].iloc[-1]
    joined = pd.concat([stored, frame[(frame["date"] > last).to_numpy()]], ignore_index=True)
    again = frame.loc[(frame["date"] == last).to_numpy(), "volume"]
    if len(again):
        joined.loc[len(stored) - 1, "volume"] = again.iloc[0]
    return joined


def merged(stored: pd.DataFrame, whole: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """A newly fetched history, with the stored sessions that Yahoo no longer sends.

    These are brought to the new basis, which differs by one factor: 1 unless there was a split.
    """
    lost = stored[~stored["date"].isin(whole["date"])]
    if not len(lost):
        return whole, 0
    both = stored.merge(whole, on="date", suffixes=("", "_now"))
    both = both[both["close"].notna() & both["close_now"].notna()]
    factor = float((both["close_now"] / both["close"]).median()) if len(both) else 1.0
    factor = 1.0 if np.isclose(factor, 1.0, rtol=1e-4) else factor  # rounding
    moved = lost.copy()
    for name in PRICED:
        moved[name] = lost[name] * factor
    moved["volume"] = lost["volume"] / factor
    frame = pd.concat([whole, moved]).sort_values("date", ignore_index=True)
    return frame[list(COLUMNS)], len(moved)
