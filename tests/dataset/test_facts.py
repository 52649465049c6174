"""What `data.json` tells: dates and rows of every fold, and whom nothing was left of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset.facts import data_facts
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import make_fold, ranges, walk_forward
from forecast.dataset.panel import make_panel
from forecast.dataset.task import Task
from forecast.prices.examine import examine
from forecast.prices.findings import Finding
from forecast.prices.frame import Prices

TASK = Task(horizons=(1, 3), length=20, warmup=5, batch=4)
RETURNS = FeatureSet(columns=["return"])


def test_symbols_without_a_row_in_any_range_are_listed_as_left_out(
    prices_of: Callable[..., Prices],
) -> None:
    """The first `warmup` sessions of a symbol are in no range."""
    price = np.linspace(10, 12, 60)
    days = np.arange(60)
    close = {
        "LONG": price,
        "FIVE": np.where((days >= 20) & (days < 25), price, np.nan),
        "LATE5": np.where(days >= 55, price, np.nan),
        "LATE6": np.where(days >= 54, price, np.nan),
    }
    prices = prices_of(close)
    panel = make_panel(prices, RETURNS, market=None)
    fold = make_fold(panel.dates, validation=12, test=0.2)
    facts = data_facts(panel, prices, [fold], TASK)
    reason = "no session left after window.warmup=5"
    assert facts["left_out"] == [
        {"symbol": "FIVE", "reason": reason}, {"symbol": "LATE5", "reason": reason}
    ]  # fmt: skip


def test_a_symbol_that_one_fold_reaches_is_not_left_out(prices_of: Callable[..., Prices]) -> None:
    days = np.arange(100)
    price = np.linspace(10, 12, 100)
    prices = prices_of({"LONG": price, "LATE": np.where(days >= 85, price, np.nan)})
    panel = make_panel(prices, RETURNS, market=None)
    first, second = (
        make_fold(panel.dates[:end], validation=12, test=str(panel.dates[end - 20]))
        for end in (80, 100)
    )
    assert data_facts(panel, prices, [first, second], TASK)["left_out"] == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), refit=st.sampled_from(["1w", "3w", "1m", "never"]))
def test_every_fold_is_told_by_its_dates_and_targets(
    random_prices: Callable[..., Prices], seed: int, refit: str
) -> None:
    prices = random_prices(seed, symbols=3, sessions=120, staggered=False)
    panel = make_panel(prices, RETURNS, market=None)
    first = str(panel.dates[80])
    folds = list(walk_forward(panel.dates, first=first, refit=refit, validation=20, embargo=2))
    facts = data_facts(panel, prices, folds, TASK)
    assert json.loads(json.dumps(facts)) == facts
    assert [f["index"] for f in facts["folds"]] == list(range(len(folds)))
    for told, fold in zip(facts["folds"], folds, strict=True):
        train = ranges(panel, fold, reach=TASK.reach, warmup=TASK.warmup)["train"]
        assert told["targets"] == train.rows
        assert told["train"] == [
            str(panel.dates[0]),
            str(panel.dates[panel.dates < fold.train_end][-1]),
        ]
        assert told["validation"][0] == str(fold.validation)
        assert told["test"][0] == str(fold.test)
    whole = facts["fold"]
    assert whole["validation"] == facts["folds"][0]["validation"], "in which choices are made"
    assert whole["test"] == [first, str(panel.dates[-1])]
    assert whole["train"] == [str(panel.dates[0]), facts["folds"][-1]["train"][1]]
    tests = [np.datetime64(d) for told in facts["folds"] for d in told["test"]]
    assert tests == sorted(tests)


def test_a_fold_without_a_row_is_named(prices_of: Callable[..., Prices]) -> None:
    """A session of the calendar need not be one of a symbol that is past its warm-up."""
    days = np.arange(120)
    price = np.linspace(10, 12, 120)
    prices = prices_of({
        "A": np.where(days < 90, price, np.nan),
        "B": np.where(days >= 90, price, np.nan),
    })  # fmt: skip
    panel = make_panel(prices, RETURNS, market=None)
    folds = list(walk_forward(panel.dates, first=str(panel.dates[70]), refit="1w", validation=20))
    with pytest.raises(ForecastError, match=r"^fold 4 .*: no symbol has a test row") as error:
        data_facts(panel, prices, folds, TASK)
    assert "\n" not in str(error.value)


def facts_of(prices: Prices) -> dict[str, Any]:
    panel = make_panel(prices, RETURNS, market=None)
    return data_facts(panel, prices, [make_fold(panel.dates, validation=30, test=0.2)], TASK)


def walk(seed: int) -> np.ndarray:
    """Prices that move by about 1 % a session."""
    return 50 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, 200)))


def test_quality_names_the_symbol_and_the_session_of_a_wrong_price(
    prices_of: Callable[..., Prices],
) -> None:
    wrong = walk(1)
    wrong[120] *= 3
    prices = prices_of({"GOOD": walk(0), "WRONG": wrong})
    facts = facts_of(prices)
    dates = prices.frame["date"][prices.frame["symbol"] == "WRONG"].to_numpy()
    (spike,) = (found for found in facts["quality"] if found["detector"] == "spike")
    assert spike["symbol"] == "WRONG" and spike["severity"] == "severe"
    assert spike["count"] == 1 and spike["dates"] == [str(dates[120])[:10]]
    assert not [f for f in facts["quality"] if f["symbol"] == "GOOD"]


def test_quality_begins_with_what_the_source_left_out_or_emptied(
    prices_of: Callable[..., Prices],
) -> None:
    """Detectors see only what is left: what went before is the source's to tell."""
    told = Finding(
        symbol="A", detector="close", severity="warn", sentence="1 row without a close, left out.",
        count=1, dates=("2020-02-03",),
    )  # fmt: skip
    wrong = walk(2)
    wrong[50] *= 4
    prices = replace(prices_of({"A": wrong}), findings=(told,))
    seen = examine(prices)
    assert seen, "a price of four times the others is seen"
    quality = facts_of(prices)["quality"]
    assert json.loads(json.dumps(quality)) == quality, "primitives, as data.json gives them back"
    assert quality == json.loads(json.dumps([asdict(found) for found in (told, *seen)]))


def test_sound_prices_have_an_empty_list_of_quality(prices_of: Callable[..., Prices]) -> None:
    assert facts_of(prices_of({"A": walk(3), "B": walk(4)}))["quality"] == []


def test_quality_is_told_and_changes_neither_rows_nor_folds(
    prices_of: Callable[..., Prices],
) -> None:
    finding = Finding(
        symbol="A", detector="close", severity="severe", sentence="-", count=9, dates=()
    )
    prices = prices_of({"A": walk(5)})
    plain, told = facts_of(prices), facts_of(replace(prices, findings=(finding,)))
    assert len(told.pop("quality")) == 1 + len(plain.pop("quality"))
    assert told == plain
