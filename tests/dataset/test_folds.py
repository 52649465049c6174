"""Ranges are fixed by date, and no target of one reaches into the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset.folds import Fold, Range, make_fold, ranges, walk_forward
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


# ---------------------------------------------------------------------------- walk-forward

YEARS = np.busday_offset(np.datetime64("2000-01-03"), np.arange(1500)).astype("datetime64[D]")


@st.composite
def walks(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """A calendar with holidays, and how to walk through it."""
    seed = draw(st.integers(0, 10_000))
    dates = YEARS[np.sort(np.random.default_rng(seed).choice(1500, 1200, replace=False))]
    validation = draw(st.integers(1, 200))
    first = dates[0] + np.timedelta64(draw(st.integers(900, 1400)), "D")
    last = draw(st.none() | st.integers(20, 700).map(lambda d: str(first + np.timedelta64(d, "D"))))
    return dates, {
        "first": str(first),
        "last": last,
        "refit": draw(st.sampled_from(["1y", "6m", "1m", "13w", "1w", "never"])),
        "train": draw(st.sampled_from(["expanding", "1y", "18m", "70w"])),
        "validation": validation,
        "embargo": draw(st.integers(0, min(20, validation - 1))),
    }


@settings(max_examples=60, deadline=None)
@given(walk=walks())
def test_test_ranges_follow_one_another_without_hole_or_overlap(
    walk: tuple[np.ndarray, dict[str, Any]],
) -> None:
    dates, options = walk
    folds = list(walk_forward(dates, **options))
    assert [fold.index for fold in folds] == list(range(len(folds)))
    tested = np.concatenate([
        dates[(dates >= fold.test) & (dates < (fold.test_end or dates[-1] + 1))] for fold in folds
    ])  # fmt: skip
    last = options["last"] or str(dates[-1])
    wanted = dates[(dates >= np.datetime64(options["first"])) & (dates <= np.datetime64(last))]
    np.testing.assert_array_equal(tested, wanted)
    if options["refit"] == "never":
        assert len(folds) == 1


@settings(max_examples=60, deadline=None)
@given(walk=walks())
def test_every_fold_is_fitted_on_what_lies_before_its_test_range(
    walk: tuple[np.ndarray, dict[str, Any]],
) -> None:
    dates, options = walk
    for fold in walk_forward(dates, **options):
        validation, test = np.searchsorted(dates, [fold.validation, fold.test])
        assert test - validation == options["validation"]
        assert fold.train_end == dates[validation - options["embargo"]]
        assert fold.validation_end == dates[test - options["embargo"]]
        if options["train"] == "expanding":
            assert fold.train_start is None
        else:
            length = {"1y": 365, "18m": 548, "70w": 490}[options["train"]]
            back = (fold.validation - fold.train_start).astype(int)
            assert abs(back - length) <= 2, "as long before each validation range"
            assert fold.train_start < fold.train_end


@settings(max_examples=40, deadline=None)
@given(walk=walks(), more=st.integers(0, 700))
def test_more_data_moves_no_earlier_fold(
    walk: tuple[np.ndarray, dict[str, Any]], more: int
) -> None:
    """But the end of what was the last test range, which the data had cut short."""
    dates, options = walk
    end = int(np.searchsorted(dates, np.datetime64(options["first"]))) + 1 + more
    before = list(walk_forward(dates[:end], **options))
    after = list(walk_forward(dates, **options))
    assert before[:-1] == after[: len(before) - 1]
    assert replace(before[-1], test_end=None) == replace(after[len(before) - 1], test_end=None)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, refit=st.sampled_from(["1w", "3w", "1m"]), embargo=st.integers(0, 5))
def test_walking_forward_no_row_that_is_fitted_on_knows_a_later_session(
    random_panel: RandomPanel, seed: int, refit: str, embargo: int
) -> None:
    """Row by row: the last target of what is fitted on lies before the next range's embargo."""
    panel, reach = random_panel(seed, sessions=140, halts=2), 3
    first = str(panel.dates[100])
    options = {"train": "2m", "validation": 15, "embargo": embargo}
    tested = np.zeros(panel.rows, int)
    for fold in walk_forward(panel.dates, first=first, refit=refit, **options):
        found = ranges(panel, fold, reach=reach, warmup=5)
        validation, test = np.searchsorted(panel.dates, [fold.validation, fold.test])
        for part, next_range in (("train", validation), ("validation", test)):
            for low, high in zip(found[part].low, found[part].high, strict=True):
                targets = panel.day[low + reach : high + reach]
                assert (targets < next_range - embargo).all()
        assert (panel.dates[panel.day[found["train"].low]] >= fold.train_start).all()
        for low, high in zip(found["test"].low, found["test"].high, strict=True):
            tested[low : max(low, high)] += 1
    late = panel.day >= 100
    warm = np.concatenate([np.arange(n) >= 5 for n in np.diff(panel.offsets)])
    np.testing.assert_array_equal(tested, late & warm)


def test_folds_begin_on_the_same_day_of_every_month() -> None:
    folds = walk_forward(YEARS, first="2003-01-31", refit="1m", validation=50)
    begins = [fold.test for fold in folds][:4]
    assert [str(b) for b in begins] == ["2003-01-31", "2003-02-28", "2003-03-31", "2003-04-30"]


def test_walking_once_is_the_split_of_training() -> None:
    """Fold 0 of a walk is the fold that `split` gives with the same dates."""
    (walked,) = walk_forward(YEARS, first="2004-01-05", refit="never", validation=50, embargo=3)
    assert walked == make_fold(YEARS, validation=50, test="2004-01-05", embargo=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"first": "soon"}, "backtest.first='soon' is no date"),
        ({"first": "today"}, "backtest.first='today' is no date"),
        ({"last": "2003-13-01"}, "backtest.last='2003-13-01' is no date"),
        ({"refit": "yearly"}, "backtest.refit='yearly' is no length. Write 1y, 6m, 13w or never"),
        ({"refit": "expanding"}, "backtest.refit='expanding' is no length"),
        ({"refit": "0y"}, "backtest.refit='0y' is no length"),
        ({"refit": "-1y"}, "backtest.refit='-1y' is no length"),
        ({"refit": ""}, "backtest.refit='' is no length"),
        ({"refit": "10000y"}, "backtest.refit='10000y' is no length"),
        ({"train": "1.5y"}, "backtest.train='1.5y' is no length.*or expanding"),
        ({"train": "10d"}, "backtest.train='10d' is no length"),
        ({"first": "2031-01-01"}, "backtest.first=2031-01-01 leave no test session"),
        ({"last": "2002-12-31"}, "backtest.first=2003-01-01 and backtest.last=2002-12-31 leave no"),
        ({"last": "1990-01-01"}, "and backtest.last=1990-01-01 leave no test session"),
        ({"first": "1990-01-01"}, "fold 0: .* leave no training session: .* begin on 2000-01-03"),
        ({"validation": 5000}, "fold 0: split.validation=5000 .* leave no training session"),
        ({"validation": 0}, "split.validation=0 must be at least 1"),
        ({"embargo": -1}, "backtest.embargo=-1 at least 0"),
        ({"embargo": 50}, "backtest.embargo=50 at least 0 and below it"),
        ({"embargo": 100_000}, "backtest.embargo=100000 at least 0 and below it"),
        ({"validation": 700, "embargo": 500}, "fold 0: .*embargo=500 sessions .* leave no train"),
        ({"train": "1w", "embargo": 9}, "fold 0: .* leave no training session.* longer backtest.t"),
    ],
)
def test_a_walk_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    chosen = {"first": "2003-01-01", "validation": 50, **options}
    with pytest.raises(ForecastError, match=words) as caught:
        list(walk_forward(YEARS, **chosen))
    assert "\n" not in str(caught.value)
