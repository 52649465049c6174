"""Ranges are fixed by date, and no target of one reaches into the next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset.folds import Fold, Range, make_fold, ranges
from forecast.dataset.panel import Panel

RandomPanel = Callable[..., Panel]
seeds = st.integers(0, 10_000)
DATES = np.busday_offset(np.datetime64("2020-01-06"), np.arange(100)).astype("datetime64[D]")


@st.composite
def folds(draw: st.DrawFn, dates: np.ndarray) -> Fold:
    test = draw(st.integers(2, len(dates) - 1))
    validation = draw(st.integers(1, test - 1))
    embargo = draw(st.integers(0, min(validation, test - validation) - 1))
    return make_fold(dates, validation=validation, test=str(dates[test]), embargo=embargo)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), seed=seeds, reach=st.integers(1, 8), warmup=st.integers(1, 25))
def test_purge_removes_every_row_whose_last_target_is_not_known_in_time_and_no_other(
    random_panel: RandomPanel, data: st.DataObject, seed: int, reach: int, warmup: int
) -> None:
    """Row by row, over symbols that were halted, came late or left early."""
    panel = random_panel(seed, halts=2)
    fold = data.draw(folds(panel.dates))
    part = ranges(panel, fold, reach=reach, warmup=warmup)
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        date = panel.dates[panel.day[rows]]
        for i in range(len(date)):
            last_target = date[i + reach] if i + reach < len(date) else None
            expected = {
                "train": last_target is not None and last_target < fold.train_end,
                "validation": date[i] >= fold.validation
                and last_target is not None
                and last_target < fold.validation_end,
                "test": date[i] >= fold.test,
            }
            for name, wanted in expected.items():
                inside = part[name].low[s] <= rows.start + i < part[name].high[s]
                assert inside == (wanted and i >= warmup), (name, panel.symbols[s], date[i])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=seeds, reach=st.integers(1, 8), warmup=st.integers(1, 25))
def test_ranges_are_disjoint_and_a_symbol_listed_later_has_no_row_before(
    random_panel: RandomPanel, data: st.DataObject, seed: int, reach: int, warmup: int
) -> None:
    panel = random_panel(seed)
    fold = data.draw(folds(panel.dates))
    part = ranges(panel, fold, reach=reach, warmup=warmup)
    times_used = np.zeros(panel.rows, int)
    for some in part.values():
        chosen = [np.arange(a, max(a, b)) for a, b in zip(some.low, some.high, strict=True)]
        times_used[np.concatenate(chosen)] += 1
        assert some.rows == sum(map(len, chosen))
    assert times_used.max() <= 1
    for s in range(len(panel.symbols)):
        if panel.dates[panel.day[panel.offsets[s]]] >= fold.test:
            for name in ("train", "validation"):
                assert part[name].high[s] <= part[name].low[s]


def test_embargo_keeps_targets_away_from_the_next_range() -> None:
    fold = make_fold(DATES, validation=20, test=0.2, embargo=3)
    assert (fold.validation, fold.test) == (DATES[60], DATES[80])
    assert (fold.train_end, fold.validation_end) == (DATES[57], DATES[77])


def test_the_test_range_begins_at_a_share_of_the_dates_or_at_a_date() -> None:
    for test in (0.2, str(DATES[80]), str(DATES[79] + 1)):
        fold = make_fold(DATES, validation=20, test=test)
        assert (fold.validation, fold.test) == (DATES[60], DATES[80])
        assert (fold.train_end, fold.validation_end) == (DATES[60], DATES[80])
    weekend = make_fold(DATES, validation=20, test="2020-04-25")
    assert weekend.test == np.datetime64("2020-04-27")


@settings(max_examples=50, deadline=None)
@given(total=st.integers(10, 300), percent=st.integers(1, 90))
@example(total=100, percent=90)
def test_a_share_is_at_least_itself_and_at_most_one_session_more(total: int, percent: int) -> None:
    dates = np.arange(total).astype("datetime64[D]")
    assume(total * (100 - percent) >= 200)  # a session is left for training
    fold = make_fold(dates, validation=1, test=percent / 100)
    sessions = int((dates >= fold.test).sum())
    assert 0 <= 100 * sessions - percent * total < 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test": "soon"}, "split.test='soon' is neither a fraction nor a date"),
        ({"test": 0.0}, "split.test=0.0 is no fraction"),
        ({"test": 1}, "split.test=1 is no fraction"),
        ({"test": 2016}, "split.test=2016 is no fraction"),
        ({"test": float("nan")}, "split.test=nan is no fraction"),
        ({"test": "2031-01-01"}, "split.test=2031-01-01 leaves no test session"),
        ({"test": "2019-01-01"}, "leave no training session"),
        ({"validation": 80}, "split.validation=80 and split.test=0.2 leave no training session"),
        ({"validation": 79, "embargo": 1}, "leave no training session"),
        ({"validation": 0}, "split.validation=0 must be at least 1"),
        ({"validation": 20, "embargo": -1}, "split.embargo=-1 at least 0"),
        ({"validation": 20, "embargo": 20}, "split.embargo=20 leaves no validation session"),
    ],
)
def test_a_split_with_an_empty_range_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ForecastError, match=words):
        make_fold(DATES, **options)  # type: ignore[arg-type]


def test_more_data_moves_no_date_of_a_fold_that_was_given_one() -> None:
    later = make_fold(DATES, validation=20, test=str(DATES[60]))
    assert make_fold(DATES[:80], validation=20, test=str(DATES[60])) == later


@settings(max_examples=25, deadline=None)
@given(seed=seeds, size=st.integers(1, 5))
def test_blocks_hold_every_symbol_with_a_row_once_in_order(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = rng.integers(0, 10, 20), rng.integers(0, 10, 20)
    blocks = Range(low=low, high=high).blocks(size)
    assert all(1 <= len(block) <= size for block in blocks)
    together = np.concatenate(blocks) if blocks else np.array([])
    np.testing.assert_array_equal(together, np.flatnonzero(high > low))
