"""Rows come back whole, in one order, however they went in."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.evaluation.rows import Rows


def make_table() -> pd.DataFrame:
    keys = pd.MultiIndex.from_product(
        [("test", "validation"), ("lstm", "drift"), ("KO", "AAPL", "RRC"), range(8), (5, 1)]
    ).to_frame(index=False)
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "part": keys[0],
            "model": keys[1],
            "symbol": keys[2],
            "origin": np.datetime64("2020-03-02", "s") + keys[3].to_numpy().astype("m8[D]"),
            "horizon": keys[4].astype("int16"),
            "actual": np.where(rng.random(len(keys)) < 0.2, np.nan, rng.normal(size=len(keys))),
            "mean": rng.normal(size=len(keys)),
        }
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 250))
def test_a_group_is_its_known_rows_by_symbol_and_origin(seed: int, size: int) -> None:
    table = make_table()
    mixed = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    rows = Rows()
    for at in range(0, len(mixed), size):
        block = mixed.iloc[at : at + size]
        rows.add(block, {"mean": block["mean"].to_numpy()})
    for (part, model, horizon), expected in table.dropna().groupby(["part", "model", "horizon"]):
        found = rows.group(part, model, horizon)
        assert found is not None
        expected = expected.sort_values(["symbol", "origin"])
        assert found.symbols == ["AAPL", "KO", "RRC"]
        assert [found.symbols[code] for code in found.symbol] == expected["symbol"].to_list()
        np.testing.assert_array_equal(found["mean"], expected["mean"])
        days = found.day.astype("datetime64[D]").astype("datetime64[s]")
        np.testing.assert_array_equal(days, expected["origin"])


def test_groups_have_the_same_rows_where_symbols_and_origins_agree() -> None:
    table = make_table().assign(actual=1.0)
    rows = Rows()
    for model in ("lstm", "drift"):
        block = table[table["model"] == model]
        block = block[(block["symbol"] != "KO") | (block["horizon"] == 1) | (model == "lstm")]
        rows.add(block, {})
    one, same, other = (
        rows.group("test", model, horizon)
        for model, horizon in (("lstm", 1), ("drift", 1), ("drift", 5))
    )
    assert one and same and other
    assert one.same_rows(same)
    assert not one.same_rows(other)
    assert rows.group("live", "lstm", 1) is None


def test_a_summary_stands_in_canonical_order_with_null_for_what_is_undefined() -> None:
    table = make_table().assign(actual=1.0)
    rows = Rows()
    rows.add(table[table["model"] == "lstm"], {})
    rows.add(table[table["model"] == "drift"], {})
    found = rows.summary(lambda key: {"x": np.float64(key[2]), "y": {"z": np.nan}, "n": 3})
    inner = {h: {"x": float(h), "y": {"z": None}, "n": 3} for h in ("1", "5")}
    expected = {part: {m: inner for m in ("lstm", "drift")} for part in ("validation", "test")}
    assert json.dumps(found) == json.dumps(expected)


def test_rows_of_unknown_outcome_leave_nothing() -> None:
    rows = Rows()
    rows.add(make_table().assign(actual=np.nan), {})
    assert rows.summary(lambda key: key) == {}
