from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from forecast.report.backtest import folds, summary
from forecast.report.provenance import data
from forecast.report.scores import score_tables
from forecast.run import Run

Make = Callable[..., Run]


def with_pair(run: Run, model: str, other: str, t: float | None) -> Run:
    """The same run, where this pair has this t over one session."""
    metrics = run.metrics
    pair = metrics["significance"]["test"]["1"]["crps"]["pairs"][model][other]
    pair.update(t=t, relative=-0.01)
    run.write("metrics.json", metrics)
    return run


@pytest.mark.parametrize(
    ("t", "said"),
    [
        (-5.04, "lstm wins (crps 1.00 % lower, t\N{NO-BREAK SPACE}-5.0)"),
        (-1.99, "lstm shows no more than luck (crps 1.00 % lower, t\N{NO-BREAK SPACE}-2.0)"),
        (None, "lstm is untested"),
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


def test_one_fold_is_never_refitted_and_one_of_anything_has_no_plural(make_backtest: Make) -> None:
    run = make_backtest(symbols=("BA",), models={"lstm": 0.1, "gjr_t": 0.2}, years=(2019,))
    html = summary(run)
    assert "lstm and 1 baseline, each" in html and "The data hold 1 symbol of" in html
    assert "1 fold, never refitted, trained on all earlier data" in html
    assert "<h3>1 symbol</h3>" in data(run)


def test_a_network_of_a_point_is_compared_with_no_change(make_backtest: Make) -> None:
    run = make_backtest()
    metrics = run.metrics
    for model in ("lstm", "gru"):
        for row in metrics["scores"]["test"][model].values():
            row["crps"] = None
    metrics["scores"]["test"]["lstm"]["1"] |= {"mae": 0.99, "mae_zero": 1.0}
    run.write("metrics.json", metrics)
    html = summary(run)
    assert "the expectation of the log return" in html and "distribution" not in html
    said = "lstm has a mean absolute error 1.00 % below that of forecasting no change; gru has a"
    assert f"Over 1 session: {said}" in html
    assert "lowest" not in html


def test_given_tables_were_chosen_by_no_sweep_of_ours(make_backtest: Make) -> None:
    run = make_backtest(models={"lstm": 0.1, "gjr_t": 0.2}, table=True)
    html = summary(run)
    assert "has been opened" in html and "by a sweep" not in html and "folds" not in html
    assert "The tables hold 5 symbols" in html


def test_ranges_of_several_folds_stand_in_their_table_alone(make_backtest: Make) -> None:
    assert "test range" not in data(make_backtest())
    one = make_backtest("one", symbols=("BA",), models={"lstm": 0.1, "gjr_t": 0.2}, years=(2019,))
    assert "test range" in data(one)


def test_the_cautions_are_those_of_a_backtest(make_backtest: Make) -> None:
    html = summary(make_backtest())
    for caution in (
        *("survivors", "choice of symbols", "Revised data", "with hindsight", "Repeated looks"),
        *("has been opened", "cannot be told from luck", "looked at while the method was designed"),
        "chosen by a sweep of backtests was chosen on dates before",
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


def test_a_table_without_networks_names_the_best_of_those_that_have_a_crps(
    make_backtest: Make,
) -> None:
    models = {"gjr_t": 0.1, "drift": 0.2, "ewma_t": 0.3, "truth": 0.0}
    run = make_backtest(models=models, networks=(), table=True)
    metrics = run.metrics
    scores = metrics["scores"]["test"]
    scores["gjr_t"]["1"]["crps"], scores["ewma_t"]["1"]["crps"] = 0.5, 0.6
    scores["drift"]["1"]["crps"] = None
    run.write("metrics.json", metrics)
    assert "Over 1 session: crps of gjr_t 0.5000 %, the lowest of 2." in summary(run)
    scores["ewma_t"]["1"]["crps"] = None
    run.write("metrics.json", metrics)
    assert "Over 1 session: crps of gjr_t 0.5000 %." in summary(run)


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
    assert "beside gjr_t, %" in html and '<td data-value="-50">-50.00</td>' in html
    assert html.index("<h3>Test,") < html.index("<h3>Validation,")
    assert "rank IC" in html


def test_scores_name_the_models_that_lacked_rows(make_backtest: Make) -> None:
    run = make_backtest()
    lacked = {"dropped": {"test": 1234, "validation": 0}, "lacked": {"test": {"<fhs>": 17}}}
    run.write("metrics.json", {**run.metrics, **lacked})
    assert "1,234 on test, since lacking in &lt;fhs&gt; 17)" in score_tables(run)
