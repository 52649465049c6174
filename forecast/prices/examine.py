"""The detectors of `forecast.prices.quality` on the prices of any source."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from forecast.prices.exchanges import exchange_sessions
from forecast.prices.findings import Finding
from forecast.prices.frame import Prices
from forecast.prices.quality import inspect
from forecast.prices.sound import ACTIONS, BARS, NUMBERS


def examine(prices: Prices) -> list[Finding]:
    """What looks wrong with each symbol's prices; nothing is changed.

    Detectors want prices on one basis without jumps of splits: that of `raw_close`, or, where
    splits are columns of their own, that of the total-return close.
    """
    if prices.inspection is not None:
        return list(prices.inspection())
    if prices.source == "simulated":  # drawn on weekdays, from a process that is known
        return []
    frame = prices.frame
    names = [str(name) for name in frame["symbol"].cat.categories]
    edges = np.searchsorted(frame["symbol"].cat.codes.to_numpy(), np.arange(len(names) + 1))
    column = {name: frame[name].to_numpy() for name in NUMBERS if name in frame}
    if "raw_close" in frame and "split" in frame:
        factor = column["close"] / frame["raw_close"].to_numpy()
        column |= {name: column[name] * factor for name in BARS if name in column}
        column = {name: values for name, values in column.items() if name not in ACTIONS}
    elif "raw_close" in frame:
        column["close"] = frame["raw_close"].to_numpy()
    dates = frame["date"].to_numpy()
    calendars = frame.get("calendar")
    found: list[Finding] = []
    for name, (low, high) in zip(names, pairwise(edges), strict=True):
        absent = {n: np.full(high - low, 0.0 if n in ACTIONS else np.nan) for n in NUMBERS}
        present = {n: values[low:high] for n, values in column.items()}
        one = pd.DataFrame({"date": dates[low:high], **absent, **present}, copy=False)
        code = None if calendars is None else calendars.iloc[low]
        first, last = (day.astype("datetime64[D]") for day in (dates[low], dates[high - 1]))
        sessions = None if pd.isna(code) else exchange_sessions(str(code), first, last)
        told = inspect(name, one, sessions=sessions)
        # A source without volume lacks it by its nature.
        found += [f for f in told if f.detector != "volume" or "volume" in column]
    return found
