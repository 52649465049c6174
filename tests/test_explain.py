"""`forecast.explain` from end to end, on tiny runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecast import compose, list_runs, load_prices
from forecast.backtest import backtest
from forecast.config import ForecastError
from forecast.explain import explain
from forecast.run import Run
from forecast.train import train

DATA = ["data=simulated", "data.process=garch", "data.n_symbols=6", "data.n_sessions=500"]
TINY = [
    *DATA, "horizons=[1,5]", "window.length=60", "window.warmup=25", "window.batch=16",
    "split.validation=80", "model.hidden_size=4", "trainer=cpu", "trainer.max_epochs=2",
    "ensemble=2", "progress=false", "threads=1", "evaluate=[validation]",
]  # fmt: skip
LOOK = ["origins=12", "lags=10", "symbols=4", "recall.seeds=0", "threads=1"]
FILES = {
    *("config.yaml", "overrides.yaml", "environment.json", "data.json", "explain.json"),
    *("memory.csv", "gates.csv", "units.csv", "impact.csv", "importance.csv"),
    *("report.html", "train.log"),
}

Explain = Callable[..., Run]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explained") / "outputs"


@pytest.fixture(scope="module")
def runs(outputs: Path, unreported: Callable[[], AbstractContextManager[None]]) -> dict[str, Run]:
    """A run of each cell."""
    with unreported():
        return {
            cell: train(compose("train", [*TINY, f"model={cell}", f"outputs={outputs}"]))
            for cell in ("rnn", "lstm", "gru")
        }


@pytest.fixture(scope="module")
def explained(outputs: Path) -> Explain:
    def explained(*overrides: str) -> Run:
        typed = [*LOOK, f"outputs={outputs}", *overrides]
        return explain(compose("explain", typed), overrides=typed)

    return explained


def named(runs: dict[str, Run]) -> str:
    return f"run=[{','.join(run.name for run in runs.values())}]"


@pytest.fixture(scope="module")
def together(runs: dict[str, Run], explained: Explain) -> Run:
    return explained(named(runs))


def test_three_cells_stand_side_by_side_in_every_table(together: Run) -> None:
    assert {p.name for p in together.path.iterdir()} == FILES
    told = together.json("explain.json")
    assert told["models"] == ["rnn", "lstm", "gru"]
    assert [row["member"] for row in told["memory"]] == [1, 2] * 3
    assert told["difference"] < 1e-5
    for name in ("memory", "impact", "importance"):
        table = pd.read_csv(together.path / f"{name}.csv")
        assert set(table["model"]) - {"gjr_t"} == {"rnn", "lstm", "gru"}
    log = (together.path / "train.log").read_text()
    assert log.count("the gradient stays below half after") == 6


def test_the_page_says_what_was_asked_and_what_came_out(together: Run) -> None:
    html = (together.path / "report.html").read_text()
    for heading in ("Summary", "Memory", "Gates", "News impact", "Features"):
        assert f"<h2>{heading}</h2>" in html
    assert "Known memory" not in html


@pytest.mark.usefixtures("no_report")
def test_the_same_runs_give_the_same_tables(together: Run, explained: Explain) -> None:
    before = {p.name: p.read_bytes() for p in together.path.glob("*.csv")}
    again = explained(*[line for line in together.overrides if line.startswith("run=")])
    assert again.name == together.name
    assert {p.name: p.read_bytes() for p in again.path.glob("*.csv")} == before


def test_a_panel_in_files_gives_the_same_tables(
    runs: dict[str, Run],
    explained: Explain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unreported: Callable[[], AbstractContextManager[None]],
) -> None:
    """Though that of the runs lay in memory; where it lies is no part of what is kept."""
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))
    monkeypatch.setattr("forecast.dataset.panel.LARGE", 1)
    found = []
    with unreported():
        for where in ("null", "false"):
            assert not list(tmp_path.glob("panels/*/values.npy"))
            result = explained(f"run={runs['gru'].name}", f"data.in_memory={where}")
            tables = [path for path in result.path.iterdir() if path.suffix in (".csv", ".json")]
            tables = [path for path in tables if path.name != "environment.json"]
            kept = {path.name: path.read_bytes() for path in (*tables, result.path / "config.yaml")}
            found.append((result.name, kept))
    assert found[0] == found[1]
    assert len(list(tmp_path.glob("panels/*/values.npy"))) == 1
    with pytest.raises(ForecastError, match="data.in_memory=perhaps is not true or false"):
        explained(f"run={runs['gru'].name}", "data.in_memory=perhaps")


def test_an_explanation_is_no_run(together: Run, outputs: Path) -> None:
    assert together.name not in set(list_runs(outputs)["run"])


def test_what_is_looked_at_leaves_no_line_in_the_ledger(
    together: Run, outputs: Path, runs: dict[str, Run]
) -> None:
    ledger = pd.read_csv(outputs / "ledger.csv")
    assert set(ledger["part"]) == {"validation"}
    assert set(ledger["run"]) == {run.name for run in runs.values()}
    first, last = together.json("explain.json")["dates"]
    low, high = runs["rnn"].data["fold"]["validation"]
    assert low <= first < last <= high


@pytest.mark.usefixtures("no_report")
def test_a_backtest_is_explained_on_its_first_fold(outputs: Path, explained: Explain) -> None:
    typed = [t for t in TINY if not t.startswith("evaluate")]
    walk = ["backtest.first=1991-06-03", "backtest.refit=3m", "backtest.models=[gru,rnn]"]
    few = [
        "backtest.baselines=[historical]",
        "backtest.jobs=1",
        "significance.benchmark=historical",
    ]
    run = backtest(compose("backtest", [*typed, *walk, *few, "ensemble=1", f"outputs={outputs}"]))
    assert len(run.data["folds"]) > 1
    told = explained(f"run={run.name}").json("explain.json")
    assert told["models"] == ["gru", "rnn"]
    assert told["dates"][1] < run.data["folds"][0]["test"][0]
    with pytest.raises(ForecastError, match="fold=9 is none of backtest-"):
        explained(f"run={run.name}", "fold=9")


def test_the_task_with_known_memory_is_trained_for_each_cell(
    runs: dict[str, Run], explained: Explain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecast.evaluation.recall.SESSIONS", 1600)
    result = explained(
        f"run={runs['rnn'].name}", "recall.seeds=1", "recall.epochs=1", "show=SIM0006"
    )
    table = pd.read_csv(result.path / "recall.csv")
    assert set(table["model"]) == {"rnn"} and table["recalled"].between(0, 1).all()
    assert result.json("explain.json")["shown"] == "SIM0006"
    assert "Known memory" in (result.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "run is null"),
        (["run=lstm-nope"], "not in"),
        (["lags=1"], "lags=1 must be 2 or more"),
        (["horizon=3"], "horizon=3 is not forecast"),
        (["show=NONE"], "show=NONE has no row"),
        (["fold=1"], "fold=1 is none of"),
        (["recall.epochs=0"], "recall.epochs=0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    runs: dict[str, Run], explained: Explain, overrides: list[str], message: str
) -> None:
    own = [] if not overrides or "run=" in overrides[0] else [f"run={runs['rnn'].name}"]
    with pytest.raises(ForecastError, match=message):
        explained(*own, *overrides)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["seed=1", "data.seed=1"], "do not have the same prices"),
        (["features.scale_half_life=30"], "do not have the same features"),
        (["horizons=[1]"], "do not have the same horizons"),
        (["model.hidden_size=5"], "another lstm than one named before it"),
        (["model=gru", "head=gaussian"], "do not have the same head"),
        (["model=gru", "loss.clip=5"], "do not have the same loss"),
        (["model=gru", "window.length=70"], "do not have the same window.length"),
        (["model=mlp"], "mlp has no memory"),
        (["head=position", "horizons=[1]", "target.delay=1"], "holds no networks that forecast"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    runs: dict[str, Run], explained: Explain, outputs: Path, other: list[str], message: str
) -> None:
    run = train(
        compose(
            "train", [*TINY, "ensemble=1", "trainer.max_epochs=1", *other, f"outputs={outputs}"]
        )
    )
    with pytest.raises(ForecastError, match=message):
        explained(f"run=[{runs['lstm'].name},{run.name}]")


@pytest.mark.usefixtures("no_report")
def test_a_head_without_a_volatility_is_refused(explained: Explain, outputs: Path) -> None:
    run = train(compose("train", [*TINY, "ensemble=1", "head=point", f"outputs={outputs}"]))
    with pytest.raises(ForecastError, match="head=point states no volatility"):
        explained(f"run={run.name}")


@pytest.mark.parametrize("place", [0, 1])
def test_a_run_is_not_trusted_with_code(
    runs: dict[str, Run], explained: Explain, outputs: Path, tmp_path: Path, place: int
) -> None:
    evil = Run(shutil.copytree(runs["rnn"].path, outputs / f"evil-{place}"))
    config, trace = evil.config, tmp_path / "executed"
    config["data"] = {**config["data"], "_target_": "os.mkdir", "path": str(trace)}
    evil.write("config.yaml", config)
    names = [runs["lstm"].name]
    names.insert(place, evil.name)
    with pytest.raises(ForecastError, match=r"uses os.mkdir, which this command would execute"):
        explained(f"run=[{','.join(names)}]")
    assert not trace.exists()
    shutil.rmtree(evil.path)


def test_a_run_named_twice_is_refused(runs: dict[str, Run], explained: Explain) -> None:
    with pytest.raises(ForecastError, match="names a run twice"):
        explained(f"run=[{runs['rnn'].name},{runs['rnn'].name}]")


@pytest.mark.usefixtures("no_report")
def test_prices_that_were_revised_since_are_told(
    outputs: Path, explained: Explain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = load_prices("simulated", process="garch", n_symbols=3, n_sessions=300).frame
    path = tmp_path / "prices.csv"
    columns = frame[["symbol", "date", "close"]]
    columns.to_csv(path, index=False)
    of_files = ["data=files", f"data.path={path}", "data.adjusted=true", "ensemble=1"]
    typed = [*TINY[4:], *of_files, f"outputs={outputs}"]
    run = train(compose("train", typed))
    assert explained(f"run={run.name}").data["warnings"] == run.data["warnings"]
    columns.assign(close=columns["close"] * 1.01).to_csv(path, index=False)
    told = explained(f"run={run.name}").data["warnings"][-1]
    assert told.startswith(f"prices were revised since {run.name}")
    assert f"warning: {told}" in capsys.readouterr().out


@pytest.mark.usefixtures("no_report")
def test_two_seeds_of_a_cell_are_told_apart(
    runs: dict[str, Run], explained: Explain, outputs: Path
) -> None:
    other = train(compose("train", [*TINY, "model=rnn", "seed=7", f"outputs={outputs}"]))
    result = explained(f"run=[{runs['rnn'].name},{other.name}]")
    memory = pd.read_csv(result.path / "memory.csv").groupby(["seed", "member"])["gradient"]
    assert [*memory.groups] == [(0, 1), (0, 2), (7, 1), (7, 2)]
    assert len({np.round(curve.sum(), 9) for _, curve in memory}) == 4


def test_the_command_ends_in_one_line_and_status_1(outputs: Path) -> None:
    command = [sys.executable, "-m", "forecast.explain", "run=lstm-nope", f"outputs={outputs}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: run 'lstm-nope' is not in")
