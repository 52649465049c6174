from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from forecast.report.backtest import folds, summary
from forecast.report.scores import score_tables
from forecast.run import Run

Make = Callable[..., Run]


def with_pair(run: Run, model: str, other: str, t: float | None) -> Run:
    """The same run, where this pair has this t over one session."""
    metrics = run.metrics
    metrics["scores"]["test"][model]["1"]["crps"] = 0.99
    metrics["scores"]["test"][other]["1"]["crps"] = 1.0
    metrics["significance"]["test"]["1"]["crps"]["pairs"][model][other]["t"] = t
    run.write("metrics.json", metrics)
    return run


@pytest.mark.parametrize(
    ("t", "said"),
    [
        (-5.04, "lstm wins (crps 1.00 % lower, t\N{NO-BREAK SPACE}-5.0)"),
        (2.5, "lstm loses (crps 1.00 % lower, t\N{NO-BREAK SPACE}2.5)"),
        (-1.99, "lstm shows no more than luck (crps 1.00 % lower, t\N{NO-BREAK SPACE}-2.0)"),
        (None, "lstm is untested (crps 1.00 % lower)"),
    ],
)
def test_the_summary_says_who_wins_and_what_is_luck(
    make_backtest: Make, t: float | None, said: str
) -> None:
    html = summary(with_pair(make_backtest(), "lstm", "gjr_t", t))
    assert f"Over 1 session: against gjr_t, {said}" in html
    assert "against mlp, the best baseline of equal information" in html


def test_the_summary_says_what_was_asked(make_backtest: Make) -> None:
    html = summary(make_backtest())
    assert "lstm and gru and 5 baselines" in html
    assert "2 folds, refitted every 1y, each trained on all earlier data" in html
    assert "5 symbols of the source sp500" in html


def test_the_cautions_are_those_of_a_backtest(make_backtest: Make) -> None:
    html = summary(make_backtest())
    for caution in (
        *("survivors", "choice of symbols", "Revised data", "with hindsight", "Repeated looks"),
        *("has been opened", "cannot be told from luck", "looked at while the method was designed"),
        "chosen on dates before",
    ):
        assert caution in html
    assert "without a significance test" not in html


def test_the_development_range_is_named_only_where_it_was_looked_at(make_backtest: Make) -> None:
    run = make_backtest()
    words = "looked at while the method was designed"
    run.write("data.json", {**run.data, "source": "yahoo"})
    assert words not in summary(run)
    later = {"test": ["2023-01-01", "2024-12-31"]}
    run.write("data.json", {**run.data, "source": "sp500", "fold": later})
    assert words not in summary(run)


def test_the_means_are_said_to_be_what_they_are(make_backtest: Make) -> None:
    run = make_backtest()
    r2 = run.metrics["scores"]["test"]["lstm"]["1"]["r2_zero"]
    assert f"beside a forecast of zero lstm {100 * r2:.2f} %" in summary(run)


def test_a_table_without_baselines_names_its_best(make_backtest: Make) -> None:
    run = make_backtest(models={"lstm": 0.1}, table=True)
    html = summary(run)
    assert "crps of lstm" in html and "the lowest of 1" in html


def test_every_fold_has_its_dates_epochs_and_fallbacks(make_backtest: Make) -> None:
    html = folds(make_backtest())
    assert "<td>1</td><td>1990-01-02 to 2019-05-31</td>" in html
    assert "2020-01-01 to 2020-12-31</td>" in html
    assert re.search(r"<td>lstm \d+, gru \d+</td>", html)
    assert "fold 1: RRC" in html and "fold 0" not in html
    assert "nothing was trained here" in folds(make_backtest("t", table=True))


def test_a_fold_without_history_has_a_dash(make_backtest: Make) -> None:
    run = make_backtest()
    for path in run.path.glob("fold-00/*/history.csv"):
        path.unlink()
    assert "\N{EN DASH}</td><td>0</td>" in folds(run)


def test_scores_name_the_distance_to_the_benchmark(make_backtest: Make) -> None:
    def row(metrics: dict[str, Any]) -> dict[str, Any]:
        metrics["scores"]["test"]["lstm"]["1"]["crps"] = 0.5
        metrics["scores"]["test"]["gjr_t"]["1"]["crps"] = 1.0
        return metrics

    run = make_backtest()
    run.write("metrics.json", row(run.metrics))
    html = score_tables(run)
    assert "beside gjr_t, %" in html and "<td>-50.00</td>" in html
    assert html.index("<h3>Test,") < html.index("<h3>Validation,")
    assert "rank IC" in html


def test_scores_name_the_models_that_lacked_rows(make_backtest: Make) -> None:
    run = make_backtest()
    lacked = {"dropped": {"test": 1234, "validation": 0}, "lacked": {"test": {"<fhs>": 17}}}
    run.write("metrics.json", {**run.metrics, **lacked})
    assert "1,234 on test, since lacking in &lt;fhs&gt; 17)" in score_tables(run)
