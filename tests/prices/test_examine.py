"""The detectors on whole sources: silent about good prices, and about one basis only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.prices import load_prices
from forecast.prices.examine import examine
from forecast.prices.frame import Prices, total_return

SESSIONS = 600


@pytest.fixture(scope="module")
def index() -> Prices:
    return load_prices("index")


@pytest.fixture(scope="module")
def walk(loopback: Any) -> Any:
    return loopback.walk(3, sessions=SESSIONS)


def quoted(walk: Any, *, ratio: float, columns: tuple[str, ...] = ("split",)) -> Prices:
    """Prices as quoted, that fall by a ratio on one date, with the split told or not."""
    at = 300
    before = np.where(np.arange(SESSIONS) < at, ratio, 1.0)
    bar = {name: getattr(walk, name) * before for name in ("open", "high", "low", "close")}
    frame = pd.DataFrame(
        {
            "symbol": pd.Categorical(["AAA"] * SESSIONS),
            "date": walk.dates,
            **bar,
            "volume": walk.volume / before,
            "split": np.where(np.arange(SESSIONS) == at, ratio, 1.0),
            "calendar": pd.Categorical(["XNYS"] * SESSIONS),
        }
    )
    frame = frame.drop(columns=[name for name in ("split",) if name not in columns])
    return Prices(frame=total_return(frame) if columns else frame, source="files")


def detectors(prices: Prices) -> set[str]:
    return {finding.detector for finding in examine(prices)}


def test_nothing_is_wrong_with_the_bundled_index(index: Prices) -> None:
    assert [finding for finding in examine(index) if finding.severity != "info"] == []


def test_nothing_is_looked_for_in_simulated_prices() -> None:
    assert examine(load_prices("simulated", n_symbols=2, n_sessions=300)) == []


@pytest.mark.parametrize(
    ("detector", "rows", "by"),
    [("unit_error", slice(1000, 1020), 100.0), ("spike", slice(1500, 1501), 1.8)],
)
def test_what_was_corrupted_is_told_of_its_symbol_and_nothing_is_changed(
    index: Prices, detector: str, rows: slice, by: float
) -> None:
    frame = index.frame.copy()
    names = [n for n in ("open", "high", "low", "close", "raw_close") if n in frame]
    frame.loc[frame.index[rows], names] *= by
    prices = replace(index, frame=frame)
    kept = frame.copy()
    (found,) = [finding for finding in examine(prices) if finding.detector == detector]
    assert found.symbol == str(frame["symbol"].iloc[rows.start])
    assert f"{frame['date'].iloc[rows.start]:%Y-%m-%d}" in found.dates
    pd.testing.assert_frame_equal(frame, kept)


def test_missing_sessions_are_told_where_the_calendar_is_known(walk: Any) -> None:
    whole = quoted(walk, ratio=1.0)
    frame = whole.frame.drop(index=range(100, 110)).reset_index(drop=True)
    (found,) = [f for f in examine(replace(whole, frame=frame)) if f.detector == "gaps"]
    assert found.count == 10
    unknown = replace(whole, frame=frame.drop(columns="calendar"))
    assert "gaps" not in detectors(unknown)


@pytest.mark.parametrize("ratio", [4.0, 0.1])
def test_a_split_in_a_column_of_its_own_is_put_on_one_basis(walk: Any, ratio: float) -> None:
    """The quoted prices jump, the returns do not: there is nothing to tell."""
    assert examine(quoted(walk, ratio=ratio)) == examine(quoted(walk, ratio=1.0)) == []


def test_a_split_that_nobody_told_is_told(walk: Any) -> None:
    assert "unrecorded_split" in detectors(quoted(walk, ratio=4.0, columns=()))


def test_a_source_without_volume_does_not_lack_it(walk: Any) -> None:
    prices = quoted(walk, ratio=1.0)
    assert "volume" not in detectors(replace(prices, frame=prices.frame.drop(columns="volume")))
    empty = replace(prices, frame=prices.frame.assign(volume=np.nan))
    assert "volume" in detectors(empty)
