"""What there is to say of one symbol's prices, in sentences that a report can print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SEVERITIES = ("info", "warn", "severe")
SHOWN = 5  # dates in a finding: enough to look it up, few enough for a line


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing, about the prices of one symbol.

    Attributes
    ----------
    symbol : whose prices.
    detector : what found it, such as `spike`; one finding a detector and symbol.
    severity : of `SEVERITIES`: "info" needs nothing, "warn" is worth a look, "severe" makes returns
        that nobody earned.
    sentence : what, how often and what it means or what to do, without the symbol.
    count : rows or sessions concerned.
    dates : the first `SHOWN` of them, ISO.
    """

    symbol: str
    detector: str
    severity: str
    sentence: str
    count: int
    dates: tuple[str, ...]


class Fault(NamedTuple):
    """What one detector sees: nothing where `dates` is empty."""

    severity: str
    dates: np.ndarray
    sentence: str


def findings(symbol: str, faults: Mapping[str, Fault | None]) -> list[Finding]:
    """Of what detectors see, by their names; where they see nothing there is no finding."""
    return [
        Finding(
            symbol=symbol,
            detector=name,
            severity=fault.severity,
            sentence=fault.sentence,
            count=len(fault.dates),
            dates=tuple(np.datetime_as_string(fault.dates[:SHOWN], unit="D").tolist()),
        )
        for name, fault in faults.items()
        if fault is not None and len(fault.dates)
    ]


def many(which: np.ndarray | int, noun: str) -> str:
    """1 row; 3 rows: a number, or how many are true."""
    count = int(np.sum(which))
    return f"{count} {noun}" + ("" if count == 1 else "s")
