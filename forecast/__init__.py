"""Probabilistic stock-price forecasts by recurrent networks, with honest backtests.

>>> from forecast import compose, load_run, list_runs, load_prices
>>> from forecast.train import train
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecast.config import compose
    from forecast.prices import load_prices
    from forecast.run import list_runs, load_run

# On some processors MKL splits sums by the number of threads; so it rounds alike with any. It is
# read at MKL's first call, which may be long after torch was imported.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_HOMES = {
    "compose": "forecast.config",
    "load_prices": "forecast.prices",
    "list_runs": "forecast.run",
    "load_run": "forecast.run",
}

__all__ = ["compose", "list_runs", "load_prices", "load_run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'forecast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
