"""A price store that grows by a session an evening, and the clock on the wall beside it.

Nothing is asked of Yahoo: what a fetch would have brought is written into the store, and every
configuration has `data.offline=true`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast import compose
from forecast.prices.exchanges import exchange_sessions, final_at
from forecast.prices.store import COLUMNS, Manifest, Store
from forecast.run import Run
from forecast.train import train

SESSIONS = exchange_sessions("XNYS", np.datetime64("2023-01-03"), np.datetime64("2024-09-30"))
TRAINED = 340  # sessions when the run is trained; 2024-05-09 is its last
TEST = "2024-02-15"
SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF")
STRANGER = "ZZZ"  # in the store, and never in a run
LISTED = {"EEE": 60, "FFF": 325}  # FFF is past its warm-up after the run alone
TINY = [
    "data=yahoo", f"data.symbols=[{','.join(SYMBOLS)}]", "data.offline=true", "horizons=[1,5]",
    "window.length=60", "window.warmup=25", "window.batch=16", "split.validation=60",
    f"split.test={TEST}", "model.hidden_size=4", "model.dropout=0.0", "ensemble=2", "trainer=cpu",
    "trainer.max_epochs=2", "trainer.patience=2", "progress=false", "threads=1",
]  # fmt: skip
# What becomes known later, and what a part is called.
LATER = ("part", "target_date", "actual", "realized_variance", "nll", "pit", "crps_exact")
KEY = ["model", "symbol", "origin", "horizon"]


def _series(seed: int, first: int) -> pd.DataFrame:
    """A symbol's whole history as Yahoo would send it after the last session."""
    rng = np.random.default_rng(seed)
    days = SESSIONS[first:]
    close = 50 * np.exp(np.cumsum(0.01 * rng.standard_t(5, len(days))))
    spread = np.exp(np.abs(rng.normal(0, 0.003, (2, len(days)))))
    opening = close * np.exp(rng.normal(0, 0.003, len(days)))
    frame = pd.DataFrame(
        {
            "date": days.astype("datetime64[s]"),
            "open": opening,
            "high": np.maximum(opening, close) * spread[0],
            "low": np.minimum(opening, close) / spread[1],
            "close": close,
            "volume": np.floor(rng.lognormal(9, 1, len(days))),
            "dividend": np.where(np.arange(len(days)) % 62 == 30, 0.4, 0.0),
            "split": 0.0,
            "capital_gain": 0.0,
        }
    )
    return frame[list(COLUMNS)]


@dataclass
class Evenings:
    """The world: a store under `home`, run folders under `outputs`, and what time it is."""

    home: Path
    outputs: Path
    now: np.datetime64 = field(default_factory=lambda: np.datetime64("2024-05-09T22:00:00", "s"))
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, symbol in enumerate((*SYMBOLS, STRANGER)):
            self.frames[symbol] = _series(number, LISTED.get(symbol, 0))

    def evening(
        self,
        sessions: int,
        *,
        symbols: Sequence[str] = (*SYMBOLS, STRANGER),
        frames: Mapping[str, pd.DataFrame] | None = None,
    ) -> np.datetime64:
        """Store the first so many sessions, and make it the hour after the last; its date."""
        day = SESSIONS[sessions - 1]
        self.now = (final_at("XNYS", None, day) + np.timedelta64(30, "m")).astype("datetime64[s]")
        store = Store(self.home)
        for symbol in symbols:
            frame = (self.frames | dict(frames or {}))[symbol]
            stamp = f"{self.now}+00:00"
            manifest = Manifest(
                symbol=symbol, source="yahoo", fetched=stamp, checked=stamp, start=None,
                calendar="XNYS", timezone="America/New_York", currency="USD", instrument="EQUITY",
                exchange="NYQ",
            )  # fmt: skip
            known = frame[(frame["date"] <= day.astype("datetime64[s]")).to_numpy()]
            if len(known):
                store.write(symbol, known, manifest)
        return day

    def split(self, symbol: str, sessions: int, ratio: float = 4.0) -> pd.DataFrame:
        """A symbol's history as it is sent after a split before the so-manieth session."""
        frame = self.frames[symbol].copy()
        day = SESSIONS[sessions - 1].astype("datetime64[s]")
        frame[["open", "high", "low", "close", "dividend"]] /= ratio
        frame["volume"] *= ratio
        frame.loc[(frame["date"] == day).to_numpy(), "split"] = ratio
        return frame

    def train(self, *overrides: str) -> Run:
        """A run on what is stored, without the page, which is no part of what is tested by it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("forecast.report.page.write_report", lambda run: run.path)
            return train(compose("train", [*TINY, f"outputs={self.outputs}", *overrides]))

    @contextmanager
    def at_home(self) -> Any:
        """The store and the clock in place of the machine's own."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FORECAST_HOME", str(self.home))
            for module in ("client", "yahoo"):
                patch.setattr(f"forecast.prices.{module}.utc_now", lambda: self.now)
            yield self


def rows(path_or_frame: Path | pd.DataFrame) -> pd.DataFrame:
    """Forecasts by key, sorted, without what becomes known later."""
    from forecast.forecasts import read_forecasts

    frame = read_forecasts(path_or_frame) if isinstance(path_or_frame, Path) else path_or_frame
    frame = frame.astype({"model": str, "symbol": str})
    frame["origin"] = pd.to_datetime(frame["origin"]).astype("datetime64[s]")
    return frame.drop(columns=[*LATER, "fold"]).set_index(KEY).sort_index()
