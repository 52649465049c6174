"""`forecast.backtest` with a strategy: forecasts are made once, and traded as often as asked."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import forecast.models.walk as walk_module
import forecast.prices as prices_module
from forecast import compose, load_prices, load_run
from forecast.backtest import backtest
from forecast.config import ForecastError
from forecast.evaluation.causality import truncate
from forecast.prices.frame import Prices
from forecast.run import Run, list_runs
from forecast.weights import read_weights

pytestmark = pytest.mark.usefixtures("no_reports")  # the room's own tests read the real ones

PRICES = ["data=simulated", "data.n_symbols=5", "data.n_sessions=600", "data.ohlcv=true"]
JUDGE = ["significance.benchmark=ewma_t", "significance.repetitions=100"]
WALK = [
    *PRICES, "horizons=[1,5]", "window.length=60", "window.warmup=25", "window.batch=16",
    "split.validation=120", "model.hidden_size=4", "ensemble=1", "trainer=cpu",
    "trainer.max_epochs=1", "progress=false", "backtest.first=1991-06-03", "backtest.refit=6m",
    "backtest.jobs=1", "backtest.baselines=[ewma_t]", *JUDGE,
]  # fmt: skip
RULES = ["strategy=[long_short,sign]"]
BENCHMARKS = {"equal_weight", "buy_and_hold", "always_long", "sign_12m"}
FILES = {
    "config.yaml", "overrides.yaml", "environment.json", "data.json", "train.log", "timing.json",
    "weights.parquet", "returns.parquet", "positions.parquet", "trades.parquet", "risk.parquet",
    "metrics.json", "luck.json", "report.html",
}  # fmt: skip
BYTES = ("metrics.json", "weights.parquet", "returns.parquet", "positions.parquet", "risk.parquet")


def traded(outputs: Path, *overrides: str, base: Sequence[str] = (*WALK, *RULES)) -> Run:
    return backtest(compose("backtest", [*base, f"outputs={outputs}", *overrides]))


def content(run: Run) -> list[bytes]:
    return [(run.path / name).read_bytes() for name in BYTES]


def ledger(outputs: Path) -> list[dict[str, str]]:
    with open(outputs / "ledger.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def run(outputs: Path) -> Run:
    return traded(outputs)


@pytest.fixture(scope="module")
def table(run: Run, outputs: Path) -> Path:
    """The forecasts that were traded."""
    return outputs / run.data["source_run"] / "forecasts.parquet"


@pytest.fixture
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was trained")

    monkeypatch.setattr(walk_module, "work", never)


def test_forecasts_and_portfolio_have_a_folder_each(run: Run, outputs: Path) -> None:
    assert run.name.startswith("portfolio-")
    assert {path.name for path in run.path.iterdir()} == FILES
    source = load_run(run.data["source_run"], outputs)
    assert source.name.startswith("backtest-")
    assert set(source.metrics["scores"]) == {"validation", "test"} == set(run.parts)
    assert set(list_runs(outputs)["run"]) == {run.name, source.name}


def test_every_strategy_on_every_model_stands_beside_the_benchmarks(run: Run) -> None:
    for part in run.parts:
        found = run.metrics["performance"][part]
        assert {model: set(strategies) for model, strategies in found.items()} == {
            "lstm": {"long_short", "sign"},
            "ewma_t": {"long_short", "sign"},  # the benchmark of significance
            "none": BENCHMARKS,
        }
        for model, strategies in found.items():
            for strategy, values in strategies.items():
                low, high = run.metrics["intervals"][part][model][strategy]["sharpe"]
                assert low < values["sharpe"] < high
                levels = run.metrics["levels"][part][model][strategy]
                assert list(levels) == ["0", "2", "5", "10"]
                sharpes = [levels[level]["sharpe"] for level in levels]
                assert sharpes == sorted(sharpes, reverse=True)
        against = run.metrics["differences"][part]["lstm"]["sign"]
        assert set(against) == BENCHMARKS
    # Scenarios need 250 origins of the past, which the validation range has not got.
    assert set(run.metrics["risk"]["test"]) >= {"equal_weight", "long_short", "sign"}


def test_the_objective_is_minus_the_validation_sharpe_of_the_first_strategy(run: Run) -> None:
    found = run.metrics["performance"]["validation"]["lstm"]
    assert run.metrics["objective"] == -found["long_short"]["sharpe"]


def test_the_tables_agree_with_each_other(run: Run) -> None:
    returns = pd.read_parquet(run.path / "returns.parquet")
    positions = pd.read_parquet(run.path / "positions.parquet")
    weights = read_weights(run.path / "weights.parquet")
    key = ["part", "model", "strategy", "date"]
    long = positions[positions["weight"] > 0].groupby(key, observed=True)["weight"].sum()
    stated = returns.set_index(key)["long"]
    stated = stated[stated > 0]
    np.testing.assert_allclose(long.sort_index().to_numpy(), stated.sort_index().to_numpy())
    assert set(weights["symbol"]) == set(positions["symbol"])
    total = (1 + returns.groupby(key[:3], observed=True)["simple_return"].apply(
        lambda r: np.prod(1 + r) - 1
    )).loc["test", "lstm", "sign"] - 1  # fmt: skip
    told = run.metrics["performance"]["test"]["lstm"]["sign"]["total_return"]
    assert total == pytest.approx(told, abs=1e-12)


def test_other_costs_and_strategies_train_nothing_again(
    run: Run, outputs: Path, no_fit: None
) -> None:
    before = (run.path / "metrics.json").read_bytes()
    dear = traded(outputs, "costs.half_spread=20")
    assert dear.name != run.name
    assert dear.data["source_run"] == run.data["source_run"]
    for strategy, values in dear.metrics["performance"]["test"]["lstm"].items():
        assert values["sharpe"] < run.metrics["performance"]["test"]["lstm"][strategy]["sharpe"]
    assert (run.path / "metrics.json").read_bytes() == before
    again = traded(outputs)
    assert again.name == run.name


def test_the_same_command_gives_the_same_bytes_in_any_order_of_parts(
    run: Run, tmp_path: Path
) -> None:
    first = traded(tmp_path, "evaluate=[test]")
    assert first.parts == ("test",)
    assert first.metrics["objective"] is None
    whole = traded(tmp_path)
    assert (whole.name, whole.parts) == (run.name, ("validation", "test"))
    assert content(whole) == content(run)


def test_every_trial_is_on_the_ledger_and_deflates_what_was_found_before(
    tmp_path: Path, table: Path
) -> None:
    base = [*PRICES, f"forecasts={table}", *JUDGE]
    one = traded(tmp_path, "strategy=sign", base=base)
    lines = [line for line in ledger(tmp_path) if "/" in line["run"]]
    names = {f"{one.name}/{model}/sign" for model in ("lstm", "ewma_t")}
    assert {line["run"] for line in lines} == names
    assert [line["part"] for line in lines].count("test") == 2
    assert one.json("luck.json")["trials"] == 2
    metrics = (one.path / "metrics.json").read_bytes()
    # Other costs are another look at the same trial, another option is another trial.
    traded(tmp_path, "strategy=sign", "costs.commission=3", base=base)
    assert traded(tmp_path, "strategy=sign", base=base).json("luck.json")["trials"] == 2
    traded(tmp_path, "strategy=long_short", "strategy.rebalance=3", base=base)
    assert traded(tmp_path, "strategy=sign", base=base).json("luck.json")["trials"] == 4
    assert (one.path / "metrics.json").read_bytes() == metrics


def trials_of(run: Run, outputs: Path) -> dict[str, str]:
    """Configuration of every trial of a run's test part, by `<model>/<strategy>`."""
    lines = [line for line in ledger(outputs) if line["run"].startswith(f"{run.name}/")]
    return {
        line["run"].partition("/")[2]: line["configuration"]
        for line in lines
        if line["part"] == "test"
    }


def test_another_seed_is_the_same_trial(run: Run, outputs: Path) -> None:
    other = traded(outputs, "seed=1")
    assert other.name != run.name
    assert len(trials_of(run, outputs)) == 4
    assert trials_of(other, outputs) == trials_of(run, outputs)


def test_what_is_said_by_default_or_in_full_is_the_same_trial(
    run: Run, outputs: Path, no_fit: None
) -> None:
    full = traded(outputs, "execution=next_open", "strategy.horizon=1")
    assert full.name != run.name
    assert trials_of(full, outputs) == trials_of(run, outputs)


def test_no_weight_knows_a_later_price_or_forecast(
    run: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_weights(run.path / "weights.parquet")
    whole = whole[whole["part"] == "test"]
    day = np.unique(whole["origin"])[100]
    rows = pd.read_parquet(table)
    rows = rows[pd.to_datetime(rows["origin"]) <= day]
    rows.to_parquet(tmp_path / "early.parquet", index=False)

    def early(options: Any) -> Prices:
        return truncate(load_prices(options), str(day)[:10])

    monkeypatch.setattr(prices_module, "load_prices", early)
    cut = traded(
        tmp_path,
        f"forecasts={tmp_path / 'early.parquet'}",
        "evaluate=[test]",
        base=[*PRICES, *RULES, *JUDGE],
    )
    found = read_weights(cut.path / "weights.parquet")
    keys = ["model", "strategy", "origin", "symbol", "weight"]
    text = dict.fromkeys(("model", "strategy", "symbol"), str)
    expected = whole[whole["origin"] <= day][keys]
    assert len(expected) > 1000
    pd.testing.assert_frame_equal(
        found[keys].astype(text).reset_index(drop=True),
        expected.astype(text).reset_index(drop=True),
    )


def test_weights_of_anybody_are_traded_as_they_are(run: Run, tmp_path: Path, no_fit: None) -> None:
    whole = read_weights(run.path / "weights.parquet")
    mine = whole[(whole["model"] == "lstm") & (whole["strategy"] == "sign")]
    mine = mine.astype({"model": str, "strategy": str}).assign(model="mine", strategy="own")
    mine.to_parquet(tmp_path / "mine.parquet", index=False)
    found = traded(tmp_path, f"weights={tmp_path / 'mine.parquet'}", base=PRICES)
    assert set(found.metrics["performance"]["test"]) == {"mine", "none"}
    assert found.metrics["networks"] == ["mine"]
    ours, theirs = (
        r.metrics["performance"]["test"][m][s]
        for r, m, s in ((run, "lstm", "sign"), (found, "mine", "own"))
    )
    assert ours["sharpe"] == theirs["sharpe"]
    assert found.metrics["risk"] == {}
    # Holdings go on where decisions end, and other weights are another trial.
    mine[mine["origin"] < mine["origin"].max()].to_parquet(tmp_path / "less.parquet", index=False)
    less = traded(tmp_path, f"weights={tmp_path / 'less.parquet'}", base=PRICES)
    dates = [pd.read_parquet(r.path / "returns.parquet")["date"].max() for r in (less, found)]
    assert dates[0] == dates[1]
    assert trials_of(less, tmp_path) != trials_of(found, tmp_path)


def test_forecasts_of_other_prices_are_refused(table: Path, tmp_path: Path) -> None:
    base = ["data.seed=7", *PRICES, f"forecasts={table}", *JUDGE, "strategy=sign"]
    with pytest.raises(ForecastError, match="the forecasts state the price") as caught:
        traded(tmp_path, base=base)
    assert "\n" not in str(caught.value)


def test_force_begins_the_portfolio_afresh_and_keeps_the_forecasts(
    run: Run, outputs: Path, no_fit: None
) -> None:
    before = content(run)
    again = traded(outputs, "force=true")
    assert (again.name, content(again)) == (run.name, before)


def test_forecasts_that_end_before_the_fill_are_refused_before_anything_is_trained(
    tmp_path: Path, no_fit: None
) -> None:
    with pytest.raises(ForecastError, match=r"target\.delay=1") as caught:
        traded(tmp_path, "execution=next_close")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("backtest-*"))


def test_a_fill_at_the_very_close_is_called_optimistic(table: Path, tmp_path: Path) -> None:
    found = traded(
        tmp_path, f"forecasts={table}", "execution=close", "strategy=sign", "evaluate=[test]",
        base=[*PRICES, *JUDGE],
    )  # fmt: skip
    assert found.metrics["optimistic"] is True
    assert "optimistic" in (found.path / "train.log").read_text(encoding="utf-8")


WRONG = {
    "NaN weight": (lambda t: t.assign(weight=np.nan), r"weight=nan is not finite"),
    "infinite weight": (lambda t: t.assign(weight=np.inf), r"weight=inf is not finite"),
    "unknown symbol": (lambda t: t.assign(symbol="NOBODY"), r"NOBODY"),
    "origin outside the data": (
        lambda t: t.assign(origin=t["origin"] + pd.Timedelta(days=36500)),
        r"20\d\d-",
    ),
    "gross above the cap": (lambda t: t.assign(weight=1.0), r"max_gross"),
    "twice": (lambda t: pd.concat([t, t]), r"stands twice"),
    "no column": (lambda t: t.drop(columns="weight"), r"column weight is missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_weights_are_one_line(run: Run, tmp_path: Path, name: str) -> None:
    whole = read_weights(run.path / "weights.parquet")
    good = whole[(whole["model"] == "lstm") & (whole["part"] == "test")]
    good = good[good["strategy"] == "sign"].astype(dict.fromkeys(("model", "symbol"), str))
    change, message = WRONG[name]
    change(good).to_parquet(tmp_path / "bad.parquet", index=False)
    with pytest.raises(ForecastError, match=message) as caught:
        traded(tmp_path, f"weights={tmp_path / 'bad.parquet'}", base=PRICES)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("portfolio-*/metrics.json"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["costs.commission=-1"], r"costs\.commission=-1"),
        (["costs.impact=1"], r"set costs\.capital"),
        (["costs.cash=tbill"], r"costs\.cash=tbill"),
        (["execution=tomorrow"], r"execution=tomorrow is unknown"),
        (["strategy.horizon=7"], r"strategy\.horizon=7"),
        (["strategy.models=[nobody]"], r"nobody"),
        (["strategy.rules.sign.volatilty=3"], r"volatilty"),
        (["weights=nowhere.parquet"], r"weights|nowhere"),
    ],
)
def test_bad_options_are_one_line(
    typed: list[str], message: str, table: Path, tmp_path: Path
) -> None:
    prefix = "+" if "volatilty" in typed[0] else ""
    base = [*PRICES, "strategy=sign", *([] if "weights" in typed[0] else [f"forecasts={table}"])]
    with pytest.raises(ForecastError, match=message) as caught:
        traded(tmp_path, prefix + typed[0], base=base)
    assert "\n" not in str(caught.value)


def test_a_position_head_is_walked_forward_and_traded(tmp_path: Path) -> None:
    found = traded(
        tmp_path, "head=position", "backtest.baselines=[linear,ewma_t]",
        base=[o for o in WALK if not o.startswith(("horizons", "backtest.baselines"))],
    )  # fmt: skip
    assert set(found.metrics["performance"]["test"]) == {"lstm", "linear", "none"}
    assert list(found.metrics["performance"]["test"]["lstm"]) == ["position"]
    source = load_run(found.data["source_run"], tmp_path)
    weights = read_weights(source.path / "weights.parquet")
    assert set(weights["model"]) == {"lstm", "linear"}
    assert not (source.path / "forecasts.parquet").exists()
    assert set(found.metrics["differences"]["test"]["lstm"]["position"]) == BENCHMARKS
    assert json.loads((found.path / "luck.json").read_text())["trials"] == 2
