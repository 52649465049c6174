"""Sums per date against pandas' groupby."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.evaluation.daily import DailySums, scored_rows

MakeBlock = Callable[..., pd.DataFrame]


def mixed(make_block: MakeBlock, seed: int) -> pd.DataFrame:
    """Rows of two parts, two models and two horizons in any order, names as plain text."""
    blocks = [
        make_block(model=model, part=part, start=start)
        for part, start in (("test", "2020-01-01"), ("validation", "2019-06-03"))
        for model in ("lstm", "historical")
    ]
    table = pd.concat([b.astype({"model": str, "part": str}) for b in blocks])
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def test_groups_and_sums_are_those_of_groupby(make_block: MakeBlock) -> None:
    table = mixed(make_block, seed=0)
    rows = scored_rows(table)
    assert rows is not None
    known = table.dropna(subset="actual")
    np.testing.assert_array_equal(rows.block["actual"], known["actual"])
    names = list(zip(known["part"], known["model"], known["horizon"].tolist(), strict=True))
    assert [rows.keys[g] for g in rows.group] == names
    dates = (rows.first + rows.day).astype("datetime64[D]")
    np.testing.assert_array_equal(dates, known["origin"].to_numpy().astype("datetime64[D]"))
    sums, counts = rows.by_date(known["actual"].to_numpy()), rows.by_date(None)
    assert sums.shape == counts.shape == (8, rows.days)
    by = known.groupby(["part", "model", "horizon", "origin"])["actual"]
    for (*key, origin), total in by.sum().items():
        cell = rows.keys.index(tuple(key)), (origin.value // 86_400_000_000_000) - rows.first
        assert np.isclose(sums[cell], total)
        assert counts[cell] == by.size()[(*key, origin)]
    assert counts.sum() == len(known)


def test_a_block_without_known_actuals_has_no_rows(make_block: MakeBlock) -> None:
    assert scored_rows(make_block().assign(actual=np.nan)) is None
    assert scored_rows(make_block().iloc[:0]) is None


@settings(max_examples=40, deadline=None)
@given(spans=st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 20)), min_size=1, max_size=8))
def test_daily_sums_cover_whatever_days_come_in_any_order(spans: list[tuple[int, int]]) -> None:
    sums, expected = DailySums(2), dict[int, float]()
    for first, length in spans:
        values = np.arange(1.0, 2 * length + 1).reshape(length, 2)
        sums.add(first, values)
        for day, row in enumerate(values, first):
            expected[day] = expected.get(day, 0.0) + float(row[1])
    assert sums.first == min(expected)
    assert len(sums.values) == max(expected) - min(expected) + 1
    for day, total in zip(range(sums.first, max(expected) + 1), sums.values[:, 1], strict=True):
        assert total == expected.get(day, 0.0)
