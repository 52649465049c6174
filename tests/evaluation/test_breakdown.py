"""A breakdown against scoring its rows alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.evaluation.breakdown import BROKEN_DOWN, TERCILES, Breakdown, terciles
from forecast.evaluation.scores import Scores

MakeBlock = Callable[..., pd.DataFrame]


def table_of(*blocks: pd.DataFrame) -> pd.DataFrame:
    breakdown = Breakdown(terciles(blocks))
    for block in blocks:
        breakdown.add(block)
    return breakdown.table()


def test_every_line_is_the_score_of_its_rows_alone(make_block: MakeBlock) -> None:
    block = make_block(days=300, start="2019-11-01")
    found = table_of(block)
    known = block["actual"].notna()
    low, high = np.quantile(block.loc[known, "scale"], [1 / 3, 2 / 3], method="inverted_cdf")
    group = pd.cut(block["scale"], [0, low + 1e-6, high + 1e-6, np.inf], labels=TERCILES)
    member = {
        "year": block["origin"].dt.year.astype(str),
        "symbol": block["symbol"].astype(str),
        "scale": group.astype(str),
    }
    assert found.groupby("by")["value"].unique().map(list).to_dict() == {
        "year": ["2019", "2020"],
        "symbol": ["AAPL", "KO", "RRC"],
        "scale": list(TERCILES),
    }
    for line in found.itertuples():
        scores = Scores()
        scores.add(block[(member[line.by] == line.value) & (block["horizon"] == line.horizon)])
        alone = scores.summary()["scores"]["test"]["lstm"][str(line.horizon)]
        assert line.rows == alone["rows"]
        for name in BROKEN_DOWN:
            assert getattr(line, name) == pytest.approx(alone[name], rel=1e-12)


def test_every_kind_has_all_rows(make_block: MakeBlock) -> None:
    block = make_block(days=300, start="2019-11-01")
    rows = table_of(block).groupby(["by", "horizon"])["rows"].sum().unstack()
    expected = block.dropna(subset="actual").groupby("horizon").size()
    for by in ("year", "symbol", "scale"):
        assert rows.loc[by].to_dict() == expected.to_dict()


def test_terciles_are_thirds_of_the_rows_of_a_part(make_block: MakeBlock) -> None:
    blocks = [make_block(part="validation"), make_block(days=100)]
    rows = table_of(*blocks).query("by == 'scale'").groupby(["part", "value"])["rows"].sum()
    for part in ("validation", "test"):
        assert rows[part].max() - rows[part].min() <= 1
    cuts = terciles(blocks)
    assert cuts["validation"] != cuts["test"]


def test_terciles_do_not_depend_on_the_number_of_models(make_block: MakeBlock) -> None:
    blocks = [make_block(model=model) for model in ("lstm", "gru", "historical")]
    assert terciles(blocks) == terciles(blocks[:1])
    mixed = pd.concat([block.astype({"model": str}) for block in blocks])
    assert terciles([mixed]) == terciles(blocks[:1])
    assert terciles([blocks[0].assign(actual=np.nan)]) == {}


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(80, 400))
def test_it_does_not_depend_on_how_rows_are_split_or_mixed(
    make_block: MakeBlock, seed: int, size: int
) -> None:
    blocks = [
        make_block(model=model, part=part)
        for part in ("test", "validation")
        for model in ("historical", "lstm")
    ]
    mixed = pd.concat([block.astype({"model": str, "part": str}) for block in blocks])
    mixed = mixed.sample(frac=1, random_state=seed)
    pieces = [mixed.iloc[at : at + size] for at in range(0, len(mixed), size)]
    order = ["part", "model", "horizon", "by", "value"]
    whole, split = (table_of(*b).sort_values(order, ignore_index=True) for b in (blocks, pieces))
    pd.testing.assert_frame_equal(whole, split, rtol=1e-12)


def test_lines_stand_in_order(make_block: MakeBlock) -> None:
    blocks = [make_block(model=m, part=p) for p in ("test", "validation") for m in ("lstm", "gru")]
    found = table_of(*blocks)
    assert list(found) == ["part", "model", "horizon", "by", "value", "rows", *BROKEN_DOWN]
    heads = found[["part", "model", "horizon"]].drop_duplicates().to_numpy().tolist()
    assert heads == [
        [part, model, horizon]
        for part in ("validation", "test")
        for model in ("lstm", "gru")
        for horizon in (1, 5)
    ]
    first = found.iloc[:7]
    assert first["by"].tolist() == ["year", *["symbol"] * 3, *["scale"] * 3]
    assert first["value"].tolist() == ["2020", "AAPL", "KO", "RRC", *TERCILES]


def test_what_is_undefined_is_nan_and_the_rest_stands(make_block: MakeBlock) -> None:
    block = make_block()
    block.loc[block["horizon"] == 5, "nll"] = np.nan
    found = table_of(block).set_index("horizon")
    assert found.loc[5, "log_score"].isna().all()
    assert found.loc[1, "log_score"].notna().all()
    assert found["crps"].notna().all()
