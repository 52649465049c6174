"""`forecast.audit` from end to end: what it prints, leaves and returns, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from forecast import compose, list_runs, load_run
from forecast.audit import audit
from forecast.backtest import backtest
from forecast.config import ForecastError
from forecast.forecasts import ForecastWriter
from forecast.run import Run, prune_runs
from forecast.train import train
from forecast.weights import read_weights, write_weights

TINY = [
    "data=simulated", "data.process=garch", "data.n_symbols=6", "data.n_sessions=500",
    "horizons=[1,5]", "window.length=60", "window.warmup=25", "window.batch=16",
    "split.validation=60", "split.test=0.2", "model.hidden_size=4", "trainer=cpu",
    "ensemble=1", "trainer.max_epochs=1", "progress=false",
]  # fmt: skip
SMALL = [
    "audit.sessions=150",
    "audit.epochs=1",
    "audit.null_panels=0",
    "audit.planted_coefficient=0",
]
CHECKS = [
    "folds", "features", "truncation", "perturbation", "statistics", "history", "survivors",
    "vintage", "ticks", "test range",
]  # fmt: skip
OF_A_RUN = ["data", "folds", "stored statistics", "stored", *CHECKS[1:]]
OF_A_RULE = ["fill", "strategy", "placebo"]
Unreported = Callable[[], AbstractContextManager[None]]

OF_A_TABLE = ["folds", "source", "survivors", "vintage", "test range"]


def audited(outputs: Path, *overrides: str) -> Run:
    typed = [*SMALL, f"outputs={outputs}", *overrides]
    return audit(compose("audit", typed), overrides=typed)


def names(result: Run) -> list[str]:
    return [line["name"] for line in result.json("audit.json")["lines"]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module", autouse=True)
def own_parts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_parts.py").write_text(
        "from forecast.models.heads import GaussianHead\n"
        "tomorrow = lambda p: p.close.shift(-1) / p.close\n"
        "quoted = lambda p: p.raw_close\n"
        "class Head(GaussianHead):\n    pass\n"
        "import numpy as np\n"
        "from forecast.prices import load_prices\n"
        "def rule(forecasts, past_returns):\n"
        "    return np.nan_to_num(np.sign(forecasts.mean_S)) / len(forecasts.mean_S)\n"
        "from functools import cache\n"
        "@cache\n"
        "def later():\n"
        "    frame = load_prices('simulated', process='garch', n_symbols=6, n_sessions=500).frame\n"
        "    close = frame.pivot(index='date', columns='symbol', values='close')\n"
        "    return close.pct_change().shift(-1)\n"
        "def peeking(forecasts, past_returns):\n"
        "    known = later()[list(forecasts.symbols)].loc[str(forecasts.origin)]\n"
        "    return np.nan_to_num(known.to_numpy())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def run(outputs: Path, unreported: Unreported) -> Run:
    """A run with a head of its user's own."""
    typed = [*TINY, "head.name=own_parts.Head", f"outputs={outputs}"]
    with unreported():
        return train(compose("train", typed), overrides=typed)


def test_a_configuration_is_audited_line_by_line(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = audited(outputs, *TINY)
    told = result.json("audit.json")
    assert names(result) == CHECKS
    assert told["status"] == "warn", "the simulated history is too short for one of the checks"
    assert {line["status"] for line in told["lines"]} == {"pass", "warn"}
    printed = capsys.readouterr().out
    for line in told["lines"]:
        assert f"{line['status']}  {line['name']}: {line['sentence']}" in printed.splitlines()
    assert f"report: {result.path / 'report.html'}" in printed.splitlines()
    assert "audit: warn" in (result.path / "report.html").read_text(encoding="utf-8")
    assert set(result.environment) >= {"python", "torch"} and result.overrides == [
        *SMALL, f"outputs={outputs}", *TINY,
    ]  # fmt: skip


def test_the_same_audit_leaves_the_same_bytes(outputs: Path) -> None:
    results = [audited(outputs, *TINY) for _ in range(2)]
    assert results[0].path == results[1].path
    bytes_of = [(r.path / "audit.json").read_bytes() for r in results]
    assert bytes_of[0] == bytes_of[1]


def test_simulated_checks_follow_their_switches(outputs: Path) -> None:
    both = ["audit.null_panels=2", "audit.null_sessions=450", "audit.null_epochs=1",
        "audit.planted_coefficient=0.2", "audit.planted_sessions=450",
        "audit.planted_epochs=1"]  # fmt: skip
    found = names(audited(outputs, *TINY, *both))
    assert found == [*CHECKS[:6], "null", "planted", *CHECKS[6:]]


def test_a_finished_audit_is_no_run_and_a_cut_off_one_is_pruned(
    outputs: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = audited(outputs, *TINY)
    assert result.name not in set(list_runs(outputs)["run"])
    assert prune_runs(outputs) == []
    (result.path / "audit.json").unlink()
    assert prune_runs(outputs) == [result.name]
    assert load_run(run.name, outputs).name == run.name


def test_a_run_is_audited_with_what_it_has_stored(outputs: Path, run: Run) -> None:
    result = audited(outputs, f"run={run.name}", "audit.allow=[own_parts.Head]")
    told = result.json("audit.json")
    assert told["audited"] == run.name
    assert names(result) == OF_A_RUN
    assert not [line for line in told["lines"] if line["status"] == "fail"]


def test_a_run_whose_folds_overlap_fails(outputs: Path, run: Run, tmp_path: Path) -> None:
    data = run.data
    text = (run.path / "data.json").read_text()
    wrong = {**data, "folds": [{**data["folds"][0], "validation": data["folds"][0]["test"]}]}
    try:
        (run.path / "data.json").write_text(json.dumps(wrong))
        result = audited(outputs, f"run={run.name}", "audit.allow=[own_parts.Head]")
    finally:
        (run.path / "data.json").write_text(text)
    assert result.json("audit.json")["status"] == "fail"
    (line,) = [x for x in result.json("audit.json")["lines"] if x["name"] == "folds"]
    assert "data.json, fold 0: validation ends on" in line["sentence"]


def test_nothing_that_a_run_names_is_executed_unless_allowed(outputs: Path, run: Run) -> None:
    with pytest.raises(ForecastError, match=r"audit\.allow=\[own_parts\.Head\]") as caught:
        audited(outputs, f"run={run.name}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ForecastError, match=r"load_run\(\.\.\., allow="):
        load_run(run.name, outputs).model()
    assert load_run(run.name, outputs, allow=["own_parts.Head"]).model().head is not None
    assert train(
        compose("train", [*TINY, "head.name=own_parts.Head", f"outputs={outputs}"])
    ).model()


def test_a_run_that_names_another_source_is_not_read(
    outputs: Path, run: Run, tmp_path: Path
) -> None:
    copy = Run(tmp_path / "lstm-0000000000")
    config = {**run.config, "data": {**run.config["data"], "_target_": "os.mkdir"}}
    config["head"] = {"name": "student_t"}
    copy.write("config.yaml", config)
    copy.write("data.json", run.data)
    copy.write("metrics.json", run.metrics)
    with pytest.raises(ForecastError, match=r"uses os\.mkdir, which this command would execute"):
        audited(outputs, f"run={copy.path}")


WALK = [t for t in TINY if not t.startswith("split.test")] + [
    "backtest.first=1991-03-01", "backtest.refit=4m", "backtest.jobs=1",
    "backtest.models=[rnn,gru]", "backtest.baselines=[ewma_t]", "evaluate=[test]",
    "significance.benchmark=ewma_t", "significance.repetitions=100", "head=point",
]  # fmt: skip


@pytest.fixture(scope="module")
def walk(outputs: Path, unreported: Unreported) -> Run:
    with unreported():
        return backtest(compose("backtest", [*WALK, f"outputs={outputs}"]))


@pytest.mark.usefixtures("no_report")
def test_every_fold_of_a_backtest_is_audited(outputs: Path, walk: Run) -> None:
    told = audited(outputs, f"run={walk.name}").json("audit.json")["lines"]
    assert [line["name"] for line in told] == [*OF_A_RUN, "last price", "last price"]
    sentences = {line["name"]: line["sentence"] for line in reversed(told)}
    assert sentences["folds"].startswith(f"{len(walk.data['folds'])} folds")
    assert f"with {2 * len(walk.data['folds'])} ensembles" in sentences["stored statistics"]
    assert "forecasts of rnn, gru (folds 0, 1, 2 of 3, " in sentences["stored"]
    assert "a reduced copy (rnn, " in sentences["truncation"]
    assert {line["status"] for line in told} == {"pass", "warn"}


def test_every_fold_s_forecasts_are_made_again(walk: Run, tmp_path: Path) -> None:
    from forecast.evaluation.stored import check_stored
    from forecast.evaluation.trial import session_dates
    from forecast.models.configured import folds_of
    from forecast.prices import load_prices

    copy = Run(shutil.copytree(walk.path, tmp_path / walk.name))
    prices = load_prices(walk.config["data"])
    folds = folds_of(walk.config, session_dates(prices))
    table = walk.forecasts()
    assert len(folds) == 3, "the first, the middle and the last"
    for number in range(len(folds)):
        wrong = (table["fold"] == number) & (table["model"] == "gru")
        mean = table["mean"].where(~wrong, table["mean"] + 0.1 * table["scale"])
        with ForecastWriter(copy.path / "forecasts.parquet") as writer:
            for _, block in table.assign(mean=mean).groupby(["fold", "model"], observed=True):
                writer.write(block)
        line = check_stored(copy, walk.config, prices, folds)[1]
        assert line.status == "fail" and f"of gru, fold {number}, are not" in line.sentence


@pytest.mark.usefixtures("no_report")
def test_given_tables_are_not_said_to_be_free_of_the_future(outputs: Path, walk: Run) -> None:
    table = walk.path / "forecasts.parquet"
    given = backtest(compose("backtest", [f"forecasts={table}", *WALK, f"outputs={outputs}"]))
    told = audited(outputs, f"run={given.name}").json("audit.json")
    assert [line["name"] for line in told["lines"]][:5] == OF_A_TABLE
    source = told["lines"][1]
    assert source["status"] == "warn"
    assert "not checked: whether these forecasts know the future" in source["sentence"]
    assert "these tables opened 1 time" in told["lines"][4]["sentence"]


# ----------------------------------------------------------------------- what is traded

OWN = "+strategy.rules.mine.rule=own_parts"
POSITIONS = [t for t in TINY if not t.startswith("horizons")] + ["head=position"]


def of(result: Run, name: str) -> dict[str, Any]:
    """The line of a check, the worst if there are several."""
    order = ["fail", "warn", "pass"]
    found = [line for line in result.json("audit.json")["lines"] if line["name"] == name]
    return min(found, key=lambda line: order.index(line["status"]))


@pytest.mark.usefixtures("no_report")
def test_rules_are_tried_on_the_copy_s_forecasts(outputs: Path) -> None:
    result = audited(outputs, *TINY, "target.delay=1", "strategy=sign", f"{OWN}.rule")
    assert names(result) == [*CHECKS[:6], *OF_A_RULE, *CHECKS[6:]]
    for name in OF_A_RULE:
        assert of(result, name)["status"] == "pass"
    assert of(result, "strategy")["sentence"].startswith("sign, mine, on forecasts of lstm, ")


@pytest.mark.usefixtures("no_report")
def test_a_rule_that_loads_the_prices_itself_fails(outputs: Path) -> None:
    result = audited(outputs, *TINY, "horizons=[1]", f"{OWN}.peeking")
    assert result.json("audit.json")["status"] == "fail"
    assert of(result, "strategy")["status"] == "pass", "cutting off its inputs is not enough"
    assert "mine, on forecasts of lstm" in of(result, "placebo")["sentence"]
    assert of(result, "placebo")["status"] == "fail"
    line = of(result, "fill")
    assert line["status"] == "fail" and "target.delay=1" in line["sentence"]


@pytest.fixture(scope="module")
def traded(outputs: Path, walk: Run, unreported: Unreported) -> Run:
    """A portfolio of the walk-forward's forecasts, by a rule of its user's own."""
    typed = [*WALK, "strategy.horizon=5", f"{OWN}.rule", f"outputs={outputs}"]
    with unreported():
        return backtest(compose("backtest", typed))


@pytest.mark.usefixtures("no_report")
def test_a_portfolio_is_audited_with_what_it_traded(
    outputs: Path, walk: Run, traded: Run, tmp_path: Path
) -> None:
    assert traded.data["source_run"] == walk.name
    with pytest.raises(
        ForecastError, match=r"uses own_parts\.rule.*audit\.allow=\[own_parts\.rule"
    ):
        audited(outputs, f"run={traded.name}")
    result = audited(outputs, f"run={traded.name}", "audit.allow=[own_parts.rule]")
    assert result.json("audit.json")["audited"] == traded.name
    assert names(result) == [*OF_A_RUN[:9], *OF_A_RULE, *CHECKS[6:], "last price", "last price"]
    assert "mine, on stored test forecasts of rnn: " in of(result, "strategy")["sentence"]
    assert "strategies traded on it" in of(result, "test range")["sentence"]
    alone = shutil.copytree(traded.path, tmp_path / traded.name)
    with pytest.raises(ForecastError, match=f"run '{walk.name}' is not in"):
        audited(outputs, f"run={alone}", "audit.allow=[own_parts.rule]")


def test_rules_on_other_prices_are_said_to_be_unchecked(
    outputs: Path, traded: Run, walk: Run, tmp_path: Path
) -> None:
    for run in (traded, walk):
        copy = Run(shutil.copytree(run.path, tmp_path / run.name))
        config = {**run.config, "data": {**run.config["data"], "seed": 5}}
        copy.write("config.yaml", config)
    path = tmp_path / traded.name
    result = audited(outputs, f"run={path}", "audit.allow=[own_parts.rule]")
    line = of(result, "fill")
    assert line["status"] == "warn" and "nor strategy and placebo" in line["sentence"]
    assert "strategy" not in names(result) and "stored" not in names(result)


@pytest.mark.usefixtures("no_report")
def test_given_forecasts_and_weights_are_not_said_to_be_free_of_the_future(
    outputs: Path, walk: Run, traded: Run, tmp_path: Path
) -> None:
    table = walk.path / "forecasts.parquet"
    rules = ["strategy=sign", "strategy.horizon=5"]
    typed = [f"forecasts={table}", *WALK, *rules, f"outputs={outputs}"]
    run = backtest(compose("backtest", typed))
    found = names(audited(outputs, f"run={run.name}"))
    assert found[:8] == [*OF_A_TABLE[:4], *OF_A_RULE, "test range"]
    path, weights = tmp_path / "weights.parquet", read_weights(traded.path / "weights.parquet")
    write_weights(path, weights[weights["model"] == "gru"])
    typed = [f"weights={path}", *WALK, f"outputs={outputs}"]
    result = audited(outputs, f"run={backtest(compose('backtest', typed)).name}")
    assert names(result) == OF_A_TABLE[1:]
    assert "whether these weights know the future" in of(result, "source")["sentence"]


@pytest.mark.usefixtures("no_report")
def test_positions_are_audited_as_forecasts_are(outputs: Path) -> None:
    simulations = ["audit.null_panels=1", "audit.null_sessions=450", "audit.null_epochs=1",
        "audit.planted_coefficient=0.2"]  # fmt: skip
    result = audited(outputs, *POSITIONS, *simulations)
    assert names(result) == [*CHECKS[:6], "null", "planted", *CHECKS[6:]]
    assert not [line for line in result.json("audit.json")["lines"] if line["status"] == "fail"]
    assert "the weights that all prices give" in of(result, "truncation")["sentence"]
    assert "positions earned" in of(result, "null")["sentence"]
    planted = of(result, "planted")
    assert planted["status"] == "warn" and "not checked" in planted["sentence"]
    leaking = audited(outputs, *POSITIONS, "features.own=[own_parts.tomorrow]")
    assert of(leaking, "truncation")["status"] == "fail"
    with pytest.raises(ForecastError, match="head=position states weights already"):
        audited(outputs, *POSITIONS, "strategy=sign")


@pytest.mark.usefixtures("no_report")
def test_stored_positions_are_made_again(outputs: Path, tmp_path: Path) -> None:
    once = [t for t in WALK if not t.startswith(("horizons", "head", "backtest.models"))]
    typed = [*once, "head=position", "backtest.refit=never", f"outputs={outputs}"]
    portfolio = backtest(compose("backtest", typed))
    source = load_run(portfolio.data["source_run"], outputs)
    result = audited(outputs, f"run={portfolio.name}")
    assert names(result) == OF_A_RUN
    assert "stored test weights of lstm" in of(result, "stored")["sentence"]
    assert of(result, "stored")["status"] == "pass"
    for run in (portfolio, source):
        shutil.copytree(run.path, tmp_path / run.name)
    table = read_weights(source.path / "weights.parquet")
    write_weights(
        tmp_path / source.name / "weights.parquet", table.assign(weight=table["weight"] * 1.01)
    )
    wrong = audited(outputs, f"run={tmp_path / portfolio.name}")
    assert of(wrong, "stored")["status"] == "fail"


@pytest.mark.parametrize("typed", ["model=gru", "experiment=quick", "strategy=sign", "seed=3"])
def test_a_run_brings_its_own_configuration(outputs: Path, run: Run, typed: str) -> None:
    with pytest.raises(ForecastError, match=f"does not go with run={run.name}") as caught:
        audited(outputs, f"run={run.name}", typed)
    assert typed in str(caught.value)


@pytest.mark.parametrize(("typed", "told"), [
    ("audit.symbols=0", "audit.symbols=0 must be 1 or more"),
    ("audit.null_panels=-1", "audit.null_panels=-1 must be 0 or more"),
    ("audit.planted_coefficient=1", "planted_coefficient=1 from 0 to 1"),
    ("audit.allow=x", r'audit\.allow="x" is not a list of texts'),
    ("audit.origins=0", "audit.origins=0 must be 1 or more"),
    ("strategy=sign execution=never", "execution=never is unknown: choose next_open"),
    ("strategy=sign strategy.rules.sign.rule=sing", r"rule=sing is unknown: did you mean sign\?"),
    ("+strategy.rules.mine.rule=own_parts.none", r"rule=own_parts\.none cannot be used"),
    ("run=lstm-nothing", "run 'lstm-nothing' is not in"),
])  # fmt: skip
def test_wrong_options_are_refused_by_name(outputs: Path, typed: str, told: str) -> None:
    with pytest.raises(ForecastError, match=told) as caught:
        audited(outputs, *typed.split())
    assert "\n" not in str(caught.value)


def test_a_feature_that_simulated_prices_cannot_feed_is_said_to_be_unchecked(
    outputs: Path, tmp_path: Path
) -> None:
    from forecast.prices import load_prices

    file = tmp_path / "quoted.csv"
    frame = load_prices("simulated", n_symbols=5, n_sessions=500).frame
    frame.assign(raw_close=frame["close"]).to_csv(file, index=False)
    files = [t for t in TINY if not t.startswith("data")]
    result = audited(outputs, "data=files", f"data.path={file}", "data.adjusted=true", *files,
        "features.own=[own_parts.quoted]", "audit.null_panels=1")  # fmt: skip
    (line,) = [x for x in result.json("audit.json")["lines"] if x["name"] == "null"]
    assert line["status"] == "warn" and "raw_close" in line["sentence"]


def test_what_is_too_short_for_a_copy_is_said_and_the_audit_ends(outputs: Path) -> None:
    both = ["audit.sessions=80", "audit.null_panels=1", "audit.null_sessions=100"]
    result = audited(outputs, *TINY, "horizons=[1,50]", "split.validation=90", *both)
    lines = {line["name"]: line for line in result.json("audit.json")["lines"]}
    (first,) = {"features", "truncation"} & {
        name for name, line in lines.items() if "not checked" in line["sentence"]
    }
    assert lines[first]["status"] == "warn" and "nor " in lines[first]["sentence"]
    assert lines[first]["sentence"].endswith("raise audit.sessions.")
    assert lines["null"]["status"] == "warn"
    assert lines["null"]["sentence"].endswith("raise audit.null_sessions.")
    assert "test range" in lines


def test_a_run_from_a_gpu_is_audited_without_one(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    typed = [t for t in TINY if t != "trainer=cpu"]
    assert names(audited(outputs, *typed, "trainer=gpu"))[0] == "folds"


def test_the_command_ends_with_1_on_a_fail_and_without_more_words(
    own_parts: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "forecast.audit", *TINY, *SMALL, f"outputs={tmp_path}"]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(
        [*command, "features.own=[own_parts.tomorrow]"],
        cwd=own_parts,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    assert "fail  features: " in done.stdout and "own_parts.tomorrow.close" in done.stdout
    assert done.stderr == ""
