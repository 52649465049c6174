from __future__ import annotations

from collections.abc import Callable

import pytest

from forecast.models.baselines import BASELINES
from forecast.models.networks import MEMORYLESS
from forecast.report import roster
from forecast.report.style import COLOURS
from forecast.run import Run

Make = Callable[..., Run]


def test_networks_stand_first_then_who_knows_as_much_then_the_rest() -> None:
    models = ["truth", "historical", "gjr_t", "mlp", "gru_conformal", "other", "gru", "lstm"]
    assert roster.ordered(models, ["lstm", "gru"]) == [
        *("lstm", "gru", "gru_conformal", "other", "mlp", "historical", "gjr_t", "truth"),
    ]
    assert roster.baselines(models, ["lstm", "gru"]) == ["other", "mlp", "historical", "gjr_t"]


def test_every_baseline_has_its_role_and_its_colour() -> None:
    pooled = [name for name in BASELINES if name in roster.EQUAL_INFORMATION]
    assert set(roster.EQUAL_INFORMATION) == {*MEMORYLESS, *pooled}
    assert tuple(name for name in BASELINES if name not in pooled) == roster.OWN_HISTORY
    assert {*BASELINES, *MEMORYLESS, "truth"} <= set(COLOURS)


@pytest.mark.parametrize(
    ("models", "configured", "benchmark"),
    [
        (["lstm", "ewma_t", "gjr_t"], None, "gjr_t"),
        (["lstm", "ewma_t", "gjr_t"], "ewma_t", "ewma_t"),
        (["lstm", "ewma_t", "historical"], "absent", "ewma_t"),
        (["lstm", "prophet"], None, "prophet"),
        (["lstm", "lstm_conformal", "truth"], None, None),
        ([], None, None),
    ],
)
def test_the_benchmark_is_the_configured_one_or_the_nearest_to_it(
    make_backtest: Make, models: list[str], configured: str | None, benchmark: str | None
) -> None:
    run = make_backtest()
    run.write("config.yaml", {**run.config, "significance": {"benchmark": configured}})
    assert roster.benchmark(run, models) == benchmark


def test_the_networks_of_a_backtest_are_those_that_were_scored(make_backtest: Make) -> None:
    run = make_backtest()
    assert roster.networks(run) == ["lstm", "gru"]
    run.write("metrics.json", {**run.metrics, "networks": ["gru", "lstm", "rnn"]})
    assert roster.networks(run) == ["gru", "lstm"]
    run.write("metrics.json", {**run.metrics, "networks": []})
    assert roster.leading(run, "test") == "lstm"  # then the first of the table


def test_the_model_shown_is_the_configured_one_and_not_the_best(make_backtest: Make) -> None:
    run = make_backtest()
    run.write("config.yaml", {**run.config, "model": {"cell": "gru"}})
    assert roster.leading(run, "test") == "gru"


def test_of_joined_tables_the_model_of_other_people_leads(make_backtest: Make) -> None:
    models = {"lstm": 0.1, "prophet": 0.2, "gjr_t": 0.3}
    run = make_backtest(models=models, networks=("lstm", "prophet"), symbols=("BA",), table=True)
    assert roster.networks(run) == ["prophet", "lstm"]
    assert roster.leading(run, "test") == "prophet"


def test_symbols_are_spaced_evenly(make_backtest: Make) -> None:
    run = make_backtest(table=True)
    assert roster.some_symbols(run, "test", count=3) == ["AAPL", "KO", "XOM"]
