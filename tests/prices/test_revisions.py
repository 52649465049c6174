"""What a second fetch of a symbol changed: the series are as a service sends them on two days."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from forecast.prices.revisions import continued, merged, rewritten
from forecast.prices.store import COLUMNS

SESSIONS = 60
PRICES = ["open", "high", "low", "close"]
Series = Callable[..., Any]
lengths = st.integers(20, SESSIONS)
some = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def series(loopback: Any) -> Series:
    """A random walk, with a dividend now and then and the splits that are asked for."""
    known: dict[int, Any] = {}

    def series(seed: int, splits: dict[int, tuple[int, int]] | None = None) -> Any:
        if seed not in known:
            walk = loopback.walk(seed, sessions=SESSIONS)
            paying = np.random.default_rng(seed).choice(SESSIONS, 4, replace=False)
            known[seed] = replace(walk, dividends={str(walk.dates[k])[:10]: 0.24 for k in paying})
        walk, on = known[seed], {}
        for row, ratio in (splits or {}).items():
            on[str(walk.dates[row])[:10]] = ratio
        there = replace(walk, splits=on)
        later = there.new_per_old(there.dates, "9999-12-31")
        for name in PRICES:
            setattr(there, name, np.round(getattr(there, name) * later, 2))
        return there

    return series


def after(series: Any, rows: int) -> pd.DataFrame:
    """What is sent on the evening of the row before: not of splits that come later."""
    return series.frame(str(series.dates[rows - 1])[:10])


def again(frame: pd.DataFrame, rows: int, overlap: int) -> pd.DataFrame:
    """The last so many of the stored rows, and everything after them."""
    return frame[rows - overlap :].reset_index(drop=True)


@given(seed=st.integers(0, 20), stored=lengths, more=st.integers(0, 10), overlap=st.integers(1, 20))
@some
def test_rows_that_came_back_as_they_were_are_nothing_to_tell(
    series: Series, seed: int, stored: int, more: int, overlap: int
) -> None:
    walk = series(seed)
    old, new = after(walk, stored), after(walk, min(stored + more, SESSIONS))
    sent = again(new, stored, overlap)
    assert rewritten(old, sent) is None
    assert_frame_equal(continued(old, sent), new)
    whole, kept = merged(old, new)
    assert_frame_equal(whole, new)
    assert kept == 0


def test_a_split_that_was_known_before_is_nothing_to_tell(series: Series) -> None:
    walk = series(1, {30: (4, 1)})
    assert rewritten(after(walk, 33), again(after(walk, 35), 33, 10)) is None


@given(
    seed=st.integers(0, 20),
    stored=st.integers(20, SESSIONS - 1),
    wait=st.integers(0, 5),
    ratio=st.sampled_from([(2, 1), (4, 1), (3, 2), (1, 10), (11, 10)]),
)
@some
def test_a_split_since_then_is_told_and_the_whole_history_moves_to_its_basis(
    series: Series, seed: int, stored: int, wait: int, ratio: tuple[int, int]
) -> None:
    row = min(stored + wait, SESSIONS - 1)
    walk = series(seed, {row: ratio})
    old, new = after(walk, stored), after(walk, SESSIONS)
    told = rewritten(old, again(new, stored, 10))
    assert told is not None and f"{walk.dates[row]}"[:10] in told and "split" in told
    assert f"{ratio[0] / ratio[1]:g}:1" in told
    whole, kept = merged(old, new)
    assert_frame_equal(whole, new)
    assert kept == 0


def test_a_split_told_late_is_seen_by_the_prices_it_moved(series: Series) -> None:
    """The row of the split was stored before the service knew that it was one."""
    walk = series(3, {40: (4, 1)})
    new = after(walk, SESSIONS)
    old = after(series(3), 45)
    told = rewritten(old, again(new, 45, 10))
    assert told is not None and "from" in told


@given(
    seed=st.integers(0, 20),
    stored=lengths,
    back=st.integers(1, 10),
    name=st.sampled_from([*PRICES, "volume", "dividend", "split", "capital_gain"]),
    by=st.sampled_from([0.5, 0.999, 1.00001, 1.01, 4.0, np.nan]),
)
@some
def test_a_number_that_came_back_otherwise_is_told_with_both_values(
    series: Series, seed: int, stored: int, back: int, name: str, by: float
) -> None:
    walk = series(seed)
    old, new = after(walk, stored), again(after(walk, stored), stored, 10)
    row = len(new) - back
    value = new.loc[row, name]
    new.loc[row, name] = value * by if value else by
    told = rewritten(old, new)
    if name == "volume" and back == 1:  # completed overnight
        assert told is None
        taken = continued(old, new)["volume"].iloc[-1]
        assert taken == value * by or np.isnan(by)
        return
    assert told is not None
    assert told.startswith(f"{name} of {new['date'].iloc[row]:%Y-%m-%d} from {value:.10g} to ")


@given(seed=st.integers(0, 20), row=st.integers(0, 9), places=st.integers(1, 2))
@some
def test_noise_of_single_precision_is_no_change(
    series: Series, seed: int, row: int, places: int
) -> None:
    old = after(series(seed), 40)
    new = again(old, 40, 10)
    new.loc[row, PRICES] = np.nextafter(
        new.loc[row, PRICES].to_numpy(np.float32), np.float32(np.inf)
    ).astype(float)
    assert rewritten(old, new) is None


@given(seed=st.integers(0, 20), back=st.integers(1, 9), count=st.integers(1, 4))
@some
def test_rows_that_vanished_are_kept_and_rows_that_appeared_are_told(
    series: Series, seed: int, back: int, count: int
) -> None:
    """A row that Yahoo no longer sends must not hide what it rewrote in the others."""
    walk = series(seed)
    old, sent = after(walk, 40), again(after(walk, 45), 40, 10)
    first = 10 - back
    gone = list(range(first, min(first + count, 10)))
    less = sent.drop(index=gone).reset_index(drop=True)
    assert rewritten(old, less) is None
    quarter = less.assign(**{name: less[name] / 4 for name in PRICES})
    assert "close" in str(rewritten(old, quarter)) or "open" in str(rewritten(old, quarter))
    lacking = old.drop(index=[30 + row for row in gone]).reset_index(drop=True)
    if gone[-1] < 9:  # else they lie behind the last stored row, and are simply new ones
        told = rewritten(lacking, sent)
        assert told == f"{len(gone)} rows new from {sent['date'].iloc[first]:%Y-%m-%d}"


def test_an_answer_without_any_stored_row_is_not_believed(series: Series) -> None:
    """Rows after a gap may lie on the basis of a split that fell into it."""
    walk = series(0)
    old = after(walk, 40)
    assert rewritten(old, old[:0]) == "nothing of what is stored came back"
    later = after(walk, 45).iloc[42:].reset_index(drop=True)
    assert rewritten(old, later) == "nothing of what is stored came back"


@given(
    seed=st.integers(0, 20),
    stored=lengths,
    lost=st.sets(st.integers(0, SESSIONS - 1), min_size=1, max_size=12),
    split=st.one_of(st.none(), st.integers(21, SESSIONS - 1)),
)
@settings(deadline=None, max_examples=120)
def test_no_session_is_lost_and_what_is_kept_lies_on_the_new_basis(
    series: Series, seed: int, stored: int, lost: set[int], split: int | None
) -> None:
    """The oracle is what the service would send if it had lost nothing."""
    walk = series(seed, None if split is None else {split: (4, 1)})
    old, truth = after(walk, stored), after(walk, SESSIONS)
    sent = truth.drop(index=sorted(lost)).reset_index(drop=True)
    whole, kept = merged(old, sent)
    assert kept == sum(row < stored for row in lost)
    there = sorted(set(range(SESSIONS)) - {row for row in lost if row >= stored})
    wanted = truth.iloc[there].reset_index(drop=True)
    assert tuple(whole.columns) == COLUMNS
    assert whole["date"].tolist() == wanted["date"].tolist()
    for name in [*PRICES, "dividend", "split", "capital_gain"]:
        assert np.allclose(whole[name], wanted[name], rtol=1e-4, atol=2e-6), name
    assert np.allclose(whole["volume"], wanted["volume"], rtol=1e-4, atol=1)
    received = whole[whole["date"].isin(sent["date"])].reset_index(drop=True)
    assert_frame_equal(received, sent)


def test_a_dividend_on_a_row_without_a_close_is_kept_too(series: Series) -> None:
    old = after(series(2), 40)
    old.loc[35, [*PRICES, "volume"]] = np.nan
    old.loc[35, "dividend"] = 2.0
    whole, kept = merged(old, after(series(2), 42).drop(index=35).reset_index(drop=True))
    assert kept == 1 and len(whole) == 42
    assert whole.loc[35, "dividend"] == 2.0


def test_histories_without_a_common_session_are_put_together_as_they_are(series: Series) -> None:
    truth = after(series(4), SESSIONS)
    whole, kept = merged(truth[:20], truth[20:].reset_index(drop=True))
    assert kept == 20
    assert_frame_equal(whole, truth)
