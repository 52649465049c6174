"""All that is measured of networks, and that none of it has seen the test range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.config import ForecastError
from forecast.evaluation.causality import truncate
from forecast.evaluation.explained import Explained, Member
from forecast.evaluation.explanation import Explanation, explain
from forecast.evaluation.gates import GATES
from forecast.evaluation.impact import SHOCKS

MakeExplained = Callable[..., Explained]
ASKED: dict[str, Any] = {"symbols": 4, "origins": 12, "lags": 10, "say": lambda line: None}


@pytest.fixture(scope="module")
def several(make_explained: MakeExplained) -> Explained:
    """Two members of each cell on the same panel."""
    of = {cell: make_explained(cell, members=2, n_sessions=800) for cell in GATES}
    return replace(of["rnn"], members=[m for found in of.values() for m in found.members])


@pytest.fixture(scope="module")
def found(several: Explained) -> Explanation:
    return explain(several, **ASKED)


def test_every_member_has_its_rows_in_every_table(found: Explanation) -> None:
    members = [(cell, 0, number) for cell in GATES for number in (1, 2)]
    for table in (found.memory, found.impact, found.importance):
        keys = table[["model", "seed", "member"]].drop_duplicates().dropna()
        assert [(m, int(s), int(k)) for m, s, k in keys.itertuples(index=False)] == members
    assert found.memory["lag"].tolist() == list(range(11)) * 6
    assert found.impact["shock"].unique() == pytest.approx(SHOCKS)
    told = found.facts["memory"]
    assert [(row["model"], row["seed"], row["member"]) for row in told] == members
    assert all(0 <= row["length"] <= row["reach"] for row in told)
    assert found.facts["delay"] == 0


def test_the_benchmark_stands_beside_the_news_impact_of_one_session_alone(
    several: Explained, found: Explanation
) -> None:
    assert (found.impact["model"] == "gjr_t").sum() == len(SHOCKS)
    assert found.impact["ratio"].notna().all()
    assert set(found.facts["unfit"]) < set(found.facts["symbols"]), "they are in no curve"
    longer = explain(replace(several, horizon=1, members=several.members[:1]), **ASKED)
    assert "gjr_t" not in set(longer.impact["model"])
    assert longer.facts["horizon"] == 5


def test_origins_are_spread_over_dates_and_no_more_than_asked_for(several: Explained) -> None:
    symbols = several.symbols(6)
    for count in (3, 12, 40):
        rows = several.origins(symbols, count, before=20)
        dates = several.panel.day[rows]
        assert 0.7 * count <= len(rows) <= count and len(set(rows)) == len(rows)
        assert len(set(dates)) >= 0.7 * len(rows)
        low, high = dates.min(), dates.max()
        assert high - low > 0.5 * (several.panel.day[several.rows.high[symbols] - 1].max() - low)


def test_without_a_fit_that_can_be_trusted_nothing_stands_beside_the_networks(
    make_explained: MakeExplained,
) -> None:
    found = explain(make_explained("gru"), **ASKED)  # histories are too short for one
    assert set(found.impact["model"]) == {"gru"} and found.facts["unfit"] == []


def test_gates_are_those_of_one_symbol_beside_its_price_and_forecast(
    several: Explained, found: Explanation
) -> None:
    panel, rows = several.panel, several.rows
    s = panel.symbols.index(found.facts["shown"])
    own = slice(int(rows.low[s]), int(rows.high[s]))
    for cell, names in GATES.items():
        table = found.gates[found.gates["model"] == cell]
        assert table["price"].tolist() == panel.price[own].tolist()
        assert table["date"].to_numpy().astype("datetime64[D]").tolist() == (
            panel.dates[panel.day[own]].astype("datetime64[D]").tolist()
        )
        present = [name for name in ("forget", "input", "output", "reset", "update")
                   if table[name].notna().any()]  # fmt: skip
        assert set(present) == set(names)
        units = found.units[found.units["model"] == cell]
        for name in names:
            mean = units[units["gate"] == name].groupby("date")["activity"].mean()
            assert mean.to_numpy() == pytest.approx(table[name].to_numpy(), abs=1e-6)
            assert units["activity"].between(0, 1).all()
    member = several.first("lstm")
    history = several.tensors.inputs(
        panel.offsets[[s]], panel.offsets[[s + 1]], int(rows.high[s] - panel.offsets[s])
    )
    stated = member.stated(history, 0)[0, int(rows.low[s] - panel.offsets[s]) :]
    table = found.gates[found.gates["model"] == "lstm"]
    expected = stated * panel.scale[own]
    assert table["volatility"].to_numpy() == pytest.approx(expected, rel=1e-5)


def test_nothing_after_the_validation_range_is_read(
    several: Explained, make_explained: MakeExplained, found: Explanation
) -> None:
    panel = several.panel
    last = max(panel.day[several.rows.high[s] - 1] for s in range(6)) + several.task.reach
    prices = truncate(several.prices, panel.dates[last])
    earlier = make_explained("rnn", prices=prices)
    assert len(earlier.panel.day) < len(panel.day)
    moved = earlier.panel.offsets[:-1] - panel.offsets[:-1]
    again = explain(
        replace(
            several,
            prices=prices,
            panel=earlier.panel,
            rows=replace(
                several.rows, low=several.rows.low + moved, high=several.rows.high + moved
            ),
            train=replace(
                several.train, low=several.train.low + moved, high=several.train.high + moved
            ),
        ),
        **ASKED,
    )
    assert again.facts == found.facts
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table, check_exact=True, obj=name)


def test_a_symbol_to_show_is_looked_at_too(several: Explained) -> None:
    one = replace(several, members=several.members[:1])
    name = several.panel.symbols[5]
    found = explain(one, **{**ASKED, "symbols": 1, "show": name})
    assert found.facts["shown"] == name and found.facts["symbols"] == ["SIM0001", name]
    with pytest.raises(ForecastError, match="show=NONE has no row .* SIM0001"):
        explain(one, **{**ASKED, "show": "NONE"})


def test_histories_too_short_for_the_lags_are_refused(several: Explained) -> None:
    with pytest.raises(ForecastError, match="no symbol has 801 sessions before an origin"):
        explain(several, **{**ASKED, "lags": 800})


def test_members_are_told_as_they_come(several: Explained) -> None:
    lines: list[str] = []
    explain(replace(several, members=several.members[:2]), **{**ASKED, "say": lines.append})
    assert [line.partition(":")[0] for line in lines] == [
        "rnn, seed 0, member 1",
        "rnn, seed 0, member 2",
    ]
    assert isinstance(several.members[0], Member) and np.isfinite(several.horizon)
