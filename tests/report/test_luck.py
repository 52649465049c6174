from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forecast.report.luck import logits, luck
from forecast.report.performance import performance
from forecast.report.traded import traded_in
from forecast.run import Run

Make = Callable[..., Run]


def test_trials_clusters_and_overfitting_are_told(make_portfolio: Make) -> None:
    html = luck(traded_in(make_portfolio()))
    for text in (
        *("31 trials on the test part", "The returns of 29 of them", "4 clusters"),
        *("overfitting 44 %, over 12 trials and 16 blocks", "0.960"),
        "of 1.21 on it and of 0.14 on the other half; on 40 % of other halves it earns less than",
    ):
        assert text in html
    assert "other cuts of data" not in html
    assert 'id="rank-logits"' in html


def test_what_was_not_computed_says_why(make_portfolio: Make) -> None:
    html = luck(traded_in(make_portfolio(pbo=False)))
    assert "Not computed: fewer than ten configurations." in html and "rank-logits" not in html
    assert "Trials were not counted" in luck(traded_in(make_portfolio("other", luck=False)))


def test_trials_on_other_cuts_of_data_are_told(make_portfolio: Make) -> None:
    run = make_portfolio()
    run.write("luck.json", {**run.json("luck.json"), "elsewhere": 7})
    assert "7 more trials on other cuts of data stand on this ledger" in luck(traded_in(run))
    run.write("luck.json", {**run.json("luck.json"), "elsewhere": 1})
    assert "1 more trial on other cuts of data stands" in luck(traded_in(run))


@pytest.mark.parametrize(
    ("trials", "clusters", "shaded"), [(0.96, 0.96, 2), (0.96, 0.9, 0), (0.9, 0.96, 0)]
)
def test_only_who_survives_by_trials_and_clusters_is_shaded(
    make_portfolio: Make, trials: float, clusters: float, shaded: int
) -> None:
    run = make_portfolio()
    found = run.json("luck.json")
    found["strategies"]["gru"]["sign"] |= {"dsr": trials, "dsr_clusters": clusters}
    run.write("luck.json", found)
    assert luck(traded_in(run)).count('class="best"') == shaded


def test_of_clusters_that_were_not_made_nothing_is_said(make_portfolio: Make) -> None:
    run = make_portfolio()
    found = run.json("luck.json")
    found |= {"clusters": None, "sharpe_variance": None}
    for states in found["strategies"].values():
        for state in states.values():
            state |= {key: None for key in state if key != "psr"}
    run.write("luck.json", found)
    html = luck(traded_in(run))
    assert "cluster" not in (html + performance(traded_in(run))).lower()
    assert "not computed (fewer than two trials have returns of 60 sessions)" in html


def test_benchmarks_have_a_probability_of_their_own_alone(make_portfolio: Make) -> None:
    run = make_portfolio()
    found = run.json("luck.json")
    found["strategies"]["none"] = {"equal_weight": {"psr": 0.77, "dsr": None}}
    run.write("luck.json", found)
    html = luck(traded_in(run))
    line = html.split("equal_weight</td>")[1].split("</tr>")[0]
    assert line.count("\N{EN DASH}") == 4 and "0.770" in line


@pytest.mark.parametrize("values", [[-1.0, 0.0, 2.0], [0.4]])
def test_bars_touch_and_hold_all_splits(values: list[float]) -> None:
    (bar,) = logits([[value, 3] for value in reversed(values)]).data
    x, width = np.asarray(bar.x), np.asarray(bar.width)
    np.testing.assert_allclose((x + width / 2)[:-1], (x - width / 2)[1:])
    assert sum(bar.y) == pytest.approx(100)
    left, right = x - width / 2, x + width / 2
    assert all(a < v < b for a, v, b in zip(left, values, right, strict=True))
