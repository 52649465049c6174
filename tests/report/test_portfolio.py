from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from forecast.report.portfolio import sections, summary
from forecast.report.traded import traded_in
from forecast.run import Run

Make = Callable[..., Run]


def told(run: Run) -> str:
    return re.sub("<[^>]*>", "", summary(traded_in(run)))


def test_it_is_said_what_was_traded_when_and_at_what_cost(make_portfolio: Make) -> None:
    text = told(make_portfolio())
    for part in (
        "long_short, sign and inverse_volatility on the forecasts over 1 session of lstm, gru and",
        "4 benchmarks, with 5 symbols",
        "filled at the next open",
        "5 basis points of the value traded (commission 1, half-spread 2 and slippage 2)",
        "shorts pay 0.50 % a year, cash earns 0.00 %",
    ):
        assert part in text


def test_what_survives_is_named_and_the_rest_is_called_luck(make_portfolio: Make) -> None:
    run = make_portfolio()
    metrics, luck = run.metrics, run.json("luck.json")
    for model in metrics["intervals"]["test"]:
        for interval in metrics["intervals"]["test"][model].values():
            interval["sharpe"] = [-1.0, 0.5]
    metrics["intervals"]["test"]["none"]["always_long"]["sharpe"] = [0.2, 0.9]
    run.write("metrics.json", metrics)
    text = told(run)
    # A benchmark is no strategy of this run.
    assert "0 of 9 portfolios have a Sharpe ratio whose 95 % interval lies above 0; of" in text
    assert "which take no forecast, 1 (always_long)" in text
    # By clusters alone all of them would.
    assert "Deflated by 31 trials and by 4 clusters of them, 0 of 9 survive at 0.95." in text
    assert "What does not survive may be luck" in text
    metrics["intervals"]["test"]["gru"]["sign"]["sharpe"] = [0.2, 0.9]
    metrics["differences"]["test"]["gru"]["sign"]["always_long"] |= {"p_holm": 0.01}
    luck["strategies"]["gru"]["sign"]["dsr"] = 0.96
    run.write("metrics.json", metrics)
    run.write("luck.json", luck)
    text = told(run)
    assert "1 of 9 portfolios has a Sharpe ratio" in text and "(sign on gru)" in text
    assert "by 4 clusters of them, 1 of 9 survives at 0.95 (sign on gru)" in text
    assert "Beside always_long, the Sharpe ratio of 0 of 9 is higher and that of 1 lower" in text


def test_a_long_list_of_survivors_is_cut(make_portfolio: Make) -> None:
    run = make_portfolio()
    found = run.json("luck.json")
    for states in found["strategies"].values():
        for state in states.values():
            state["dsr"] = 0.97
    run.write("luck.json", found)
    assert "sign on gru and 4 more)" in told(run)


def test_an_unknown_deflation_is_no_failed_one(make_portfolio: Make) -> None:
    run = make_portfolio()
    found = {**run.json("luck.json"), "clusters": None, "elsewhere": 3}
    for states in found["strategies"].values():
        for state in states.values():
            state |= {"dsr": None, "dsr_clusters": None}
    run.write("luck.json", found)
    text = told(run)
    assert "deflated by 31 trials is not computed (fewer than two trials have returns of 60" in text
    assert "surviv" not in text.split("not computed")[1].split("3 more trials")[0]
    assert "3 more trials on other cuts of data stand on this ledger" in text
    assert "cluster" not in text


@pytest.mark.parametrize("execution", ["next_open", "next_close", "close"])
def test_only_execution_at_the_close_is_called_optimistic(
    make_portfolio: Make, execution: str
) -> None:
    run = make_portfolio()
    metrics = {**run.metrics, "execution": execution, "optimistic": execution == "close"}
    run.write("metrics.json", metrics)
    assert ("optimistic" in told(run)) == (execution == "close")


def test_missing_prices_and_ends_are_counted(make_portfolio: Make) -> None:
    text = told(make_portfolio(delisted=True))
    assert "held up to 2 times a symbol that had no session" in text
    assert "Ended while held, at a return of -30 %: RRC." in text


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        ({"commission": 0.5, "impact": 1.0, "capital": 1e7}, "capital of 10,000,000"),
        ({"commission": 0.0, "cash": "tbill"}, "at 0 basis points of the value traded; shorts"),
        ({"cash": "tbill"}, "cash earns the rate tbill"),
    ],
)
def test_costs_are_told_as_configured(
    make_portfolio: Make, costs: dict[str, Any], words: str
) -> None:
    run = make_portfolio()
    known = {"commission": 0.0, "half_spread": 0.0, "slippage": 0.0, "borrow": 0.5, "cash": 0.0}
    run.write("config.yaml", {**run.config, "costs": {**known, **costs}})
    assert words in told(run)


def test_nothing_traded_is_said(make_portfolio: Make) -> None:
    run = make_portfolio()
    run.write("metrics.json", {**run.metrics, "performance": {}})
    assert list(sections(run)) == ["Summary"] and "nothing was traded" in sections(run)["Summary"]
