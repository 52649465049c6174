"""The door that ranks runs, and opens the test range of the one that was chosen."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast import compose
from forecast.config import ForecastError
from forecast.leaderboard import leaderboard, open_test
from forecast.run import Run, load_run
from forecast.train import train

pytestmark = pytest.mark.usefixtures("no_reports")  # the room's own tests read the real ones

SMALL = [
    "horizons=[1,5]", "window.length=60", "window.warmup=25", "window.batch=16",
    "split.validation=80", "split.test=0.2", "model.hidden_size=2", "ensemble=1", "trainer=cpu",
    "trainer.max_epochs=1", "trainer.patience=1", "progress=false",
]  # fmt: skip
SIMULATED = [*SMALL, "data=simulated", "data.n_symbols=6", "data.n_sessions=500"]


def made(outputs: Path, *typed: str, parts: str = "[validation]") -> Run:
    return train(compose("train", [*typed, f"evaluate={parts}", f"outputs={outputs}"]))


def ranked(outputs: Path, *typed: str) -> list[Any]:
    return leaderboard(compose("leaderboard", [f"outputs={outputs}", *typed]))


def ledger(outputs: Path) -> list[tuple[str, str]]:
    with open(outputs / "ledger.csv", newline="") as file:
        return [(line["run"], line["part"]) for line in csv.DictReader(file)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("swept")
    for cell in ("lstm", "rnn"):
        for seed in (0, 1):
            made(outputs, *SIMULATED, f"model={cell}", f"seed={seed}")
    return outputs


def test_it_leaves_tables_and_a_page(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (board,) = ranked(swept)
    folder = swept / "leaderboard"
    table, runs = (pd.read_csv(folder / f"{name}.csv") for name in ("leaderboard", "runs"))
    assert table["model"].tolist() == board.table["model"].tolist()
    assert sorted(" ".join(table["runs"]).split()) == sorted(runs["run"])
    assert (folder / "leaderboard.html").stat().st_size > 100_000
    said = capsys.readouterr().out
    assert "2 configurations scored on the validation part" in said
    assert "the test range was never opened" in said


def test_the_test_part_is_opened_once_and_the_ledger_keeps_it(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (board,) = ranked(swept)
    run = load_run(board.table["runs"].iloc[0][0], swept)
    before, lines = run.metrics, ledger(swept)
    checkpoint = run.path / "checkpoints" / "member-0" / "best.ckpt"
    written = checkpoint.stat().st_mtime_ns
    (board,) = ranked(swept, f"open={run.name}")
    after = load_run(run.name, swept).metrics
    assert ledger(swept) == [*lines, (run.name, "test")]
    assert after["parts"] == ["validation", "test"]
    assert after["scores"]["validation"] == before["scores"]["validation"]
    assert checkpoint.stat().st_mtime_ns == written, "nothing is trained"
    assert board.table["opened"].tolist().count(1) == 1
    assert (board.ledger["test_looks"], board.ledger["test_configurations"]) == (1, 1)
    capsys.readouterr()
    ranked(swept, f"open={run.name}")
    assert "is open already" in capsys.readouterr().out
    assert len(ledger(swept)) == len(lines) + 1


def prices(path: Path, sessions: int, *, changed: int | None = None) -> Path:
    rng = np.random.default_rng(0)
    close = 50 * np.exp(np.cumsum(0.01 * rng.standard_t(5, (600, 5)), axis=0))
    if changed is not None:
        close[changed] *= 1.01
    dates = pd.bdate_range("2010-01-04", periods=600)
    pd.DataFrame(close, index=dates, columns=list("ABCDE")).iloc[:sessions].to_csv(
        path, index_label="date"
    )
    return path


def files(path: Path) -> list[str]:
    return [*SMALL, "data=files", f"data.path={path}", "data.adjusted=true", "data.calendar=null"]


def test_a_source_that_went_on_is_opened_as_far_as_the_run_saw_it(tmp_path: Path) -> None:
    run = made(tmp_path / "out", *files(prices(tmp_path / "p.csv", 550)))
    prices(tmp_path / "p.csv", 600)
    opened = open_test(run)
    assert (opened.name, opened.parts) == (run.name, ("validation", "test"))
    whole = made(
        tmp_path / "whole", *files(prices(tmp_path / "p.csv", 550)), parts="[validation,test]"
    )
    assert opened.metrics == whole.metrics


def test_revised_prices_are_refused_before_anything_is_looked_at(tmp_path: Path) -> None:
    outputs = tmp_path / "out"
    run = made(outputs, *files(prices(tmp_path / "p.csv", 550)))
    prices(tmp_path / "p.csv", 550, changed=100)
    before = (ledger(outputs), sorted(os.listdir(outputs)))
    with pytest.raises(ForecastError, match=rf"run {run.name} would now be .* prices") as caught:
        open_test(run)
    assert "\n" not in str(caught.value)
    assert (ledger(outputs), sorted(os.listdir(outputs))) == before


def test_a_backtest_is_opened_by_its_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def walk(cfg: Any, **options: Any) -> None:
        seen.update(options, evaluate=cfg["evaluate"], outputs=cfg["outputs"])

    monkeypatch.setattr("forecast.backtest.backtest", walk)
    monkeypatch.setattr("forecast.evaluation.subject.load_prices", _prices_of_hash("f00d"))
    run = Run(tmp_path / "backtest-0123456789")
    run.write("config.yaml", {"backtest": {}, "data": {"end": None}, "evaluate": ["validation"]})
    run.write("data.json", {"sha256": "f00d", "dates": {"last": "2020-01-02"}})
    run.write("metrics.json", {"parts": ["validation"]})
    open_test(run)
    assert seen["names"] == [run.name]
    assert seen["evaluate"] == ["validation", "test"] and seen["outputs"] == str(tmp_path)
    assert seen["prices"].sha256 == "f00d"


def _prices_of_hash(sha256: str) -> Callable[..., Any]:
    class Held:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.sha256 = sha256

    return Held


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["open=lstm-nothing"], "is not in"),
        (["rows=0"], "rows=0 must be 1 or more"),
        (["where={model.cell: gru}"], "fits none of 4 networks"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(swept: Path, typed: list[str], said: str) -> None:
    with pytest.raises(ForecastError, match=said) as caught:
        ranked(swept, *typed)
    assert "\n" not in str(caught.value)
