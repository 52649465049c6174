"""Small prices and panels, as functions that property tests can call many times."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike

from forecast.dataset.features import FeatureSet
from forecast.dataset.market import Market
from forecast.dataset.panel import Panel, make_panel
from forecast.prices.choice import Choice
from forecast.prices.frame import Covariate, Prices, checked, finished, long
from forecast.run import Run

PricesOf = Callable[..., Prices]
RandomPrices = Callable[..., Prices]
RandomPanel = Callable[..., Panel]
Cut = Callable[[Prices, np.datetime64], Prices]


@pytest.fixture(scope="session", autouse=True)
def _interrupts() -> None:
    """A shell that starts the tests in the background makes them, and their children, deaf."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _unreported() -> Iterator[None]:
    def blank(run: Run) -> Path:
        run.write("report.html", "")
        return run.path / "report.html"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forecast.report.page.write_report", blank)
        yield


@pytest.fixture(scope="session")
def unreported() -> Callable[[], AbstractContextManager[None]]:
    """A block in which pages are made in no time, for runs that others only start from."""
    return _unreported


@pytest.fixture
def no_report() -> Iterator[None]:
    """A page in no time, for tests that are about something else."""
    with _unreported():
        yield


@pytest.fixture(scope="module")
def no_reports() -> Iterator[None]:
    """The same for a whole file, what its tests share included."""
    with _unreported():
        yield


ALL = Choice.read(symbols=None, start=None, end=None)
BARS = ("open", "high", "low", "volume")


def weekdays(count: int, first: str = "2020-01-06") -> np.ndarray:
    return np.busday_offset(np.datetime64(first), np.arange(count), roll="forward").astype(
        "datetime64[s]"
    )


def _prices_of(
    close: Mapping[str, ArrayLike],
    *,
    dates: ArrayLike | None = None,
    calendar: str | Mapping[str, str | None] | None = None,
    covariates: Sequence[Covariate] = (),
    **columns: Mapping[str, ArrayLike],
) -> Prices:
    """Prices of one array a symbol on shared dates; where a close is NaN there is no session."""
    wide = {symbol: np.asarray(values, np.float64) for symbol, values in close.items()}
    count = len(next(iter(wide.values())))
    date = weekdays(count) if dates is None else np.asarray(dates, dtype="datetime64[s]")
    frame = long(date, wide)
    for name, values in columns.items():
        frame[name] = np.concatenate(
            [np.asarray(values[s], np.float64)[~np.isnan(wide[s])] for s in sorted(wide)]
        )
    shared = calendar if isinstance(calendar, str) else None
    frame, left_out = finished(
        checked(frame, where="test"), choice=ALL, available=wide, source="test", calendar=shared
    )
    if isinstance(calendar, Mapping):
        codes = [calendar[symbol] for symbol in frame["symbol"]]
        frame = frame.assign(calendar=pd.Categorical(codes))
    return Prices(frame=frame, source="test", covariates=tuple(covariates), left_out=left_out)


def _random_prices(
    seed: int,
    *,
    symbols: int = 4,
    sessions: int = 70,
    missing: float = 0.05,
    halts: int = 1,
    staggered: bool = True,
    bars: bool = False,
    calendar: str | None = None,
    first: str = "2020-01-06",
) -> Prices:
    """Random walks with missing sessions, long halts, late listings and early ends."""
    rng = np.random.default_rng(seed)
    dates = weekdays(sessions, first)
    close: dict[str, np.ndarray] = {}
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in BARS if bars}
    for s in range(symbols):
        shape = rng.uniform(0.5, 3) * rng.standard_t(4, sessions) * (rng.random(sessions) > 0.1)
        price = 50 * np.exp(np.cumsum(shape) / 100)
        there = rng.random(sessions) > missing
        for _ in range(halts):
            start = rng.integers(sessions)
            there[start : start + rng.integers(1, 12)] = False
        if staggered and s:
            there[: rng.integers(sessions // 2)] = False
            there[sessions - rng.integers(sessions // 4) :] = False
        there[(s * 7 + 3) % sessions] = True  # every symbol has a session
        close[f"S{s}"] = np.where(there, price, np.nan)
        if bars:
            spread = np.exp(np.abs(rng.normal(0, 0.01, (2, sessions))))
            opening = price * np.exp(rng.normal(0, 0.01, sessions))
            columns["open"][f"S{s}"] = np.where(rng.random(sessions) < 0.05, np.nan, opening)
            columns["high"][f"S{s}"] = np.maximum(price, opening) * spread[0]
            columns["low"][f"S{s}"] = np.minimum(price, opening) / spread[1]
            columns["volume"][f"S{s}"] = np.floor(rng.lognormal(3, 2, sessions))
    return _prices_of(close, dates=dates, calendar=calendar, **columns)  # type: ignore[arg-type]


def _cut(prices: Prices, date: np.datetime64) -> Prices:
    """What was known at the close of a date: no later row, no symbol listed later."""
    frame = prices.frame[(prices.frame["date"] <= date).to_numpy()].reset_index(drop=True)
    frame, _ = finished(
        frame,
        choice=ALL,
        available=prices.frame["symbol"].cat.categories,
        source="test",
        calendar=None,
    )
    covariates = tuple(
        replace(c, frame=c.frame[(c.frame["known"] <= date).to_numpy()].reset_index(drop=True))
        for c in prices.covariates
    )
    return replace(prices, frame=frame, covariates=covariates)


def _random_panel(
    seed: int,
    *,
    columns: Sequence[str] = ("return", "scale"),
    market: Market | str | None = None,
    max_gap: int = 3,
    **options: object,
) -> Panel:
    prices = _random_prices(seed, **options)  # type: ignore[arg-type]
    return make_panel(prices, FeatureSet(columns=list(columns)), market=market, max_gap=max_gap)


@pytest.fixture(scope="session")
def prices_of() -> PricesOf:
    return _prices_of


@pytest.fixture(scope="session")
def random_prices() -> RandomPrices:
    return _random_prices


@pytest.fixture(scope="session")
def random_panel() -> RandomPanel:
    return _random_panel


@pytest.fixture(scope="session")
def cut() -> Cut:
    return _cut


@pytest.fixture(scope="session")
def evenings() -> Any:
    """The module tests/evenings.py."""
    path = Path(__file__).with_name("evenings.py")
    spec = importlib.util.spec_from_file_location("evenings", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["evenings"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
