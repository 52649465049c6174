from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from forecast.report.significance import significance, t_matrix
from forecast.run import Run

Make = Callable[..., Run]


def cells(html: str, model: str) -> list[list[str]]:
    """The cells of a model's lines, without markup."""
    rows = re.findall(rf"</span>{model}</td>(.*?)</tr>", html)
    return [re.sub("<[^>]*>", "|", row).strip("|").split("||") for row in rows]


def test_every_pair_of_a_network_has_its_line(make_backtest: Make) -> None:
    run = make_backtest()
    html = significance(run)
    pairs = run.metrics["significance"]["test"]["1"]["crps"]["pairs"]["lstm"]
    assert html.count("<details") == 2 * 5  # horizons and losses
    assert html.count("lstm less \N{HORIZONTAL ELLIPSIS}") == 10
    pair = pairs["historical"]
    line = cells(html, "historical")[0]
    assert line[0].startswith(f"{pair['difference']:.4f} \N{PLUS-MINUS SIGN}")
    assert line[1] == f"{100 * pair['relative']:.2f}"
    assert line[2] == f"{pair['t']:.1f}"
    assert line[6:8] == ["2 of 2", f"{pair['symbols_won']} of 5"]
    assert line[9] == f"{pair['without_2020']['t']:.1f}"


def test_only_the_newest_part_is_tested_in_the_report(make_backtest: Make) -> None:
    html = significance(make_backtest())
    assert "<h3>Test, 1 session ahead</h3>" in html and "Validation" not in html
    only = significance(make_backtest("v", parts=("validation",)))
    assert "<h3>Validation, 1 session ahead</h3>" in only


def test_sets_of_models_are_named(make_backtest: Make) -> None:
    run = make_backtest()

    def name(metrics: dict[str, Any]) -> dict[str, Any]:
        tests = metrics["significance"]["test"]["1"]["crps"]
        tests["spa"] = {"benchmark": "gjr_t", "p": {"consistent": 0.0421}}
        tests["stepm"] = {"benchmark": "gjr_t", "superior": []}
        tests["mcs"] = {"level": 0.1, "included": ["lstm", "mlp"], "p": {}}
        return metrics

    run.write("metrics.json", name(run.metrics))
    html = significance(run)
    cells = '<td>gjr_t</td><td data-value="0.0421">0.042</td><td>none</td><td>lstm, mlp</td>'
    assert cells in html
    assert "confidence set, 10 %" in html


def test_a_p_of_zero_is_below_what_the_bootstrap_can_tell(make_backtest: Make) -> None:
    run = make_backtest()
    metrics = run.metrics
    metrics["significance"]["test"]["1"]["crps"]["spa"]["p"] = {"consistent": 0.0}
    run.write("metrics.json", metrics)
    assert "<td>gjr_t</td><td>&lt;\N{NO-BREAK SPACE}0.001</td>" in significance(run)
    run.write("config.yaml", {**run.config, "significance": {"repetitions": 2000}})
    assert "<td>gjr_t</td><td>&lt;\N{NO-BREAK SPACE}0.0005</td>" in significance(run)


def test_small_p_values_are_shaded(make_backtest: Make) -> None:
    run = make_backtest()
    metrics = run.metrics
    pairs = metrics["significance"]["test"]["1"]["crps"]["pairs"]["lstm"]
    pairs["gjr_t"]["p_holm"], pairs["mlp"]["p_holm"] = 0.04, 0.06
    run.write("metrics.json", metrics)
    html = significance(run)
    assert '<td data-value="0.04" class="best" title="best">0.040</td>' in html
    assert '<td data-value="0.06">0.060</td>' in html


def test_the_matrix_holds_t_and_stars_what_survives_holm() -> None:
    tests = {
        "crps": {
            "t_matrix": {"gjr_t": {"lstm": 4.24}, "lstm": {"gjr_t": -4.24}},
            "p_matrix_holm": {"gjr_t": {"lstm": 0.01}, "lstm": {"gjr_t": 0.01}},
        },
        "qlike": {"t_matrix": {"a": {"b": -12.3}, "b": {"a": 12.3}}, "p_matrix_holm": None},
    }
    figure = t_matrix(tests, ["lstm"])
    crps, qlike = figure.data
    assert list(crps.y) == list(crps.x) == ["lstm", "gjr_t"]
    assert [list(row) for row in crps.text] == [["", "-4.2*"], ["4.2*", ""]] and np.isnan(
        crps.z[0][0]
    )
    assert [list(row) for row in qlike.text] == [["", "-12"], ["12", ""]]
    assert (crps.visible, qlike.visible) == (True, False)
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["crps", "QLIKE"]


def test_where_nothing_was_tested_it_says_so(make_backtest: Make) -> None:
    run = make_backtest()
    for tests in (None, {}, {"test": {"1": {"crps": None}}}, {"test": {"1": None}}):
        run.write("metrics.json", {**run.metrics, "significance": tests})
        assert "Nothing was tested" in significance(run)
    one = make_backtest("one", models={"lstm": 0.1})
    assert "Nothing was tested" in significance(one)
