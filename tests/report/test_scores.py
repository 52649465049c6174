from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from forecast.report.scores import score_tables
from forecast.report.summary import summary
from forecast.run import Run

Make = Callable[..., Run]


def edit(run: Run, name: str, change: Callable[[dict[str, Any]], object]) -> Run:
    content = run.json(name)
    change(content)
    run.write(name, content)
    return run


def cells(html: str, model: str) -> list[list[str]]:
    """The cells of a model's lines, marks of the best included."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    return [re.findall(r"<td[^>]*>.*?</td>", row) for row in rows if f"</span>{model}</td>" in row]


def test_the_summary_says_how_far_the_network_is_from_the_best_naive_baseline(
    make_run: Make,
) -> None:
    def set_scores(metrics: dict[str, Any]) -> None:
        for part, crps in (("validation", 0.9), ("test", 1.2)):
            scores = metrics["scores"][part]
            scores["lstm"]["1"]["crps"] = crps
            for model, value in (("historical", 1.1), ("ewma_normal", 1.0), ("ewma_t", 1.05)):
                scores[model]["1"]["crps"] = value
        metrics["scores"]["test"]["lstm"]["1"] |= {"coverage_50": 0.487, "coverage_90": 0.912}

    html = summary(edit(make_run(horizons=(1,)), "metrics.json", set_scores))
    assert "crps 10.00 % below the best naive baseline&#x27;s (ewma_normal) on validation" in html
    assert "crps 20.00 % above the best naive baseline&#x27;s (ewma_normal) on test" in html
    assert "48.7 % of the outcomes fell within its 50 % intervals and 91.2 %" in html


def test_the_summary_says_what_no_test_can_see_and_that_the_test_range_was_opened(
    make_run: Make,
) -> None:
    html = summary(make_run())
    for caution in (
        "survivors",
        "choice of symbols",
        "Revised data",
        "with hindsight",
        "Repeated looks",
        "luck",
        "has been opened",
    ):
        assert caution in html
    assert "has been opened" not in summary(make_run("lstm-1", parts={"validation": 40}))


def test_a_point_forecast_is_compared_with_no_change(make_run: Make) -> None:
    run = make_run(head="point", horizons=(1,))
    html = summary(run)
    assert "mean absolute error" in html and "that of forecasting no change on test" in html
    assert "the expectation of the log return" in html
    assert "\N{EN DASH}" in cells(score_tables(run), "lstm")[0][1]


def test_the_best_of_a_column_is_marked_and_the_truth_does_not_compete(make_run: Make) -> None:
    def add_truth(metrics: dict[str, Any]) -> None:
        scores = metrics["scores"]["test"]
        scores["truth"] = {"1": dict(scores["lstm"]["1"], crps=0.1)}
        scores["lstm"]["1"] |= {"crps": 0.2, "log_score": None}
        scores["ewma_t"]["1"] |= {"coverage_50": 0.5, "mae": 9.0}

    html = score_tables(
        edit(make_run(horizons=(1,), parts={"test": 40}), "metrics.json", add_truth)
    )
    columns = ["model", "crps", "crps_exact", "mae", "mae_zero", "coverage_50"]

    def marked(model: str, column: str) -> bool:
        return 'class="best"' in cells(html, model)[0][columns.index(column)]

    assert marked("lstm", "crps") and not marked("ewma_t", "crps")
    assert not marked("truth", "crps")
    assert marked("ewma_t", "coverage_50") and not marked("lstm", "coverage_50")
    assert not marked("ewma_t", "mae") and not marked("lstm", "mae_zero")


@pytest.mark.parametrize("dropped", [0, 1234])
def test_dropped_forecasts_are_counted(make_run: Make, dropped: int) -> None:
    run = make_run(parts={"test": 40}, horizons=(1,))
    html = score_tables(edit(run, "metrics.json", lambda m: m["dropped"].update(test=dropped)))
    assert ("dropped to make it so: 1,234 on test" in html) == bool(dropped)


def test_a_part_without_rows_says_so(make_run: Make) -> None:
    run = make_run(parts={"validation": 40, "test": 0}, horizons=(1,))
    assert "No forecast falls into this part" in score_tables(run)
    assert "nothing scored on test" in summary(run)
