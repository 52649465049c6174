from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.prices.bundled import index
from forecast.prices.covariates import load_covariates
from forecast.prices.frame import long

Write = Callable[[str, str], str]
Refused = Callable[..., Any]
DAYS = np.arange("2020-01-01", "2020-01-31", dtype="datetime64[D]").astype("datetime64[s]")
PRICES = long(DAYS, {"A": np.ones(30), "B": np.ones(30)})


def test_a_value_for_all_is_known_at_the_close_of_its_date(write: Write) -> None:
    path = write("vix.csv", "date,vix,rate\n2020-01-02,20,\n2020-01-03,.,1\n2020-02-03,9,9\n")
    (vix,), warnings = load_covariates([{"path": path, "columns": ["vix"]}], PRICES)
    assert (vix.name, vix.columns, vix.lag, vix.max_age) == ("vix.csv", ("vix",), 1, 5)
    assert list(vix.frame.columns) == ["known", "vix"]
    # What is known after the last price can be used at no origin.
    assert vix.frame["known"].tolist() == [pd.Timestamp("2020-01-02"), pd.Timestamp("2020-01-03")]
    np.testing.assert_array_equal(vix.frame["vix"], [20.0, np.nan])
    assert vix.frame["known"].dtype == "datetime64[s]" and warnings == ()


def test_null_takes_every_column_and_lag_0_only_if_said(write: Write) -> None:
    path = write("vix.csv", "date,vix,rate\n2020-01-02,20,1\n")
    (vix,), _ = load_covariates([{"path": path, "lag": 0, "max_age": 2}], PRICES)
    assert (vix.columns, vix.lag, vix.max_age) == (("vix", "rate"), 0, 2)


def test_a_time_of_day_is_known_the_next_day_and_the_newest_value_counts(write: Write) -> None:
    path = write(
        "news.csv",
        "known_at,mood,count\n"
        "2020-01-02,1,1\n"
        "2020-01-02 09:00,2,2\n"
        "2020-01-02 18:00:00-05:00,3,\n"
        "2020-01-03T00:00:00,4,4\n"
        "2020-01-03 00:00:01,5,5\n",
    )
    (news,), _ = load_covariates([{"path": path, "columns": ["mood", "count"]}], PRICES)
    days = news.frame["known"].dt.day
    assert days.tolist() == [2, 3, 4]
    assert news.frame["mood"].tolist() == [1, 4, 5]
    path = write("late.csv", "known_at,a,b\n2020-01-02 09:00,2,2\n2020-01-02 18:00,3,\n")
    (late,), _ = load_covariates([{"path": path}], PRICES)
    assert late.frame[["a", "b"]].to_numpy().tolist() == [[3.0, 2.0]]


def test_values_of_symbols_stay_theirs_and_strangers_are_named(write: Write) -> None:
    text = "date,symbol,mood\n2020-01-02,B,1\n2020-01-02,NA,2\n2020-01-02,A,3\n2020-01-03,A,4\n"
    (mood,), warnings = load_covariates([{"path": write("mood.csv", text)}], PRICES)
    assert mood.frame["symbol"].astype(str).tolist() == ["A", "A", "B"]
    assert mood.frame["mood"].tolist() == [3.0, 4.0, 1.0]
    assert list(mood.frame["symbol"].cat.categories) == ["A", "B"]
    (note,) = warnings
    assert "mood.csv" in note and "NA" in note


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("date,x\n2020-01-03,1\n2020-01-02,1\n", ("2020-01-02", "Sort")),
        ("date,x\n2020-01-03,1\n2020-01-03,1\n", ("2020-01-03", "twice")),
        ("date,symbol,x\n2020-01-03,A,1\n2020-01-03,A,1\n", ("A", "2020-01-03", "twice")),
        ("date,x\n2020-01-03,inf\n", ("2020-01-03", "infinite x")),
        ("date,x\n2020-01-03 16:00,1\n", ("time of day", "known_at")),
        ("date,x\n2020-01-03,high\n", ("'high'", "row 1")),
        ("day,x\n2020-01-03,1\n", ("neither date nor known_at",)),
        ("date,known_at,x\n2020-01-03,2020-01-03,1\n", ("exactly one",)),
        ("date,symbol,x\n2020-01-03,C,1\n", ("none of its symbols", "C")),
        ("date\n2020-01-03\n", ("columns",)),
        ("date,x\n2021-01-03,1\n", ("2020-01-30", "known")),
        ("date,volume\n2020-01-03,1\n", ("'volume' clashes",)),
    ],
)
def test_unsound_covariates_are_refused(
    write: Write, refused: Refused, text: str, words: tuple[str, ...]
) -> None:
    with refused("x.csv", *words):
        load_covariates([{"path": write("x.csv", text)}], PRICES)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ("needs a path",)),
        ({"path": "nowhere.csv"}, ("nowhere.csv", "no such file")),
        ({"columns": ["y"]}, ("'y'", "'x'")),
        ({"columns": ["date"]}, ("'date'",)),
        ({"columns": ["x", "x"]}, ("once",)),
        ({"columns": 3}, ("no list",)),
        ({"lag": -1}, ("lag=-1",)),
        ({"lag": True}, ("lag=True",)),
        ({"max_age": 1.5}, ("max_age=1.5",)),
        ({"delay": 1}, ("delay is unknown",)),
    ],
)
def test_malformed_requests_are_refused(
    write: Write, refused: Refused, spec: dict[str, Any], words: tuple[str, ...]
) -> None:
    path = write("x.csv", "date,x\n2020-01-03,1\n")
    with refused(*words):
        load_covariates([{"path": path, **spec} if spec else spec], PRICES)


def test_two_covariates_of_one_name_clash(write: Write, refused: Refused) -> None:
    path = write("x.csv", "date,x\n2020-01-03,1\n")
    with refused("'x' clashes", "x.csv"):
        load_covariates([{"path": path}, {"path": path}], PRICES)


def test_covariates_enter_the_hash_of_the_prices(write: Write) -> None:
    specs = [{"path": write("x.csv", "date,x\n2018-01-03,1\n")}]
    first = index(symbols="^GSPC", start="2018-01-01", covariates=specs).sha256
    write("x.csv", "date,x\n2018-01-03,2\n")
    assert index(symbols="^GSPC", start="2018-01-01", covariates=specs).sha256 != first
