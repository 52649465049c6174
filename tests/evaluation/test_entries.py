"""What of a folder is ranked, and that nothing in it can stop the others from being ranked."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast import compose
from forecast.config import ForecastError, plain
from forecast.evaluation.entries import Entry, entries
from forecast.evaluation.leaderboard import leaderboards
from forecast.evaluation.scores import Scores, objective
from forecast.forecasts import ForecastWriter
from forecast.run import Run

Finished = Callable[..., Run]
DAYS = 24
FOLD = {"validation": ["2020-01-01", "2020-02-03"], "test": ["2020-02-04", "2020-03-01"]}


@pytest.fixture(scope="module")
def configs() -> dict[str, dict[str, Any]]:
    return {name: plain(compose(name, ["horizons=[1,5]"])) for name in ("train", "backtest")}


@pytest.fixture
def finished(
    tmp_path: Path, configs: dict[str, dict[str, Any]], make_block: Callable[..., pd.DataFrame]
) -> Finished:
    """A finished run of forecast.train, or with several models of forecast.backtest."""

    def make(
        name: str, models: tuple[str, ...] = ("lstm",), part: str = "validation", **changed: Any
    ) -> Run:
        several = len(models) > 1
        config = deepcopy(configs["backtest" if several else "train"])
        if several:
            config["backtest"]["models"] = list(models)
        else:
            config["model"]["cell"] = models[0]
        config |= changed
        run, scores = Run(tmp_path / name), Scores()
        run.path.mkdir()
        with ForecastWriter(run.path / "forecasts.parquet") as writer:
            for model in models:
                block = make_block(model=model, part=part, days=DAYS)
                for column in ("nll", "pit", "crps_exact"):
                    block[column] = block[column].fillna(0.0)
                writer.write(block.assign(actual=block["actual"].fillna(0.0)))
                scores.add(block)
        found = scores.summary()["scores"]
        run.write("config.yaml", config)
        data = {"sha256": "f00d", "source": "sp500", "symbols": [{}], "features": ["return"]}
        folds = [{"index": k, "targets": 1000} for k in range(2)]
        run.write("data.json", {**data, "fold": FOLD, "folds": folds})
        run.write("timing.json", {"fit_seconds": 8.0, "targets_per_second": 500.0})
        first = objective(found, models[0]) if part == "validation" else None
        fits: dict[str, Any] = {}
        for place, model in enumerate(models if several else ()):
            fits[model] = [{"fold": k, "folder": f"fold-{k:02d}/{model}"} for k in range(2)]
            for fit in fits[model]:  # three epochs of 1, 2, … seconds in each fold
                (run.path / fit["folder"]).mkdir(parents=True)
                history = pd.DataFrame({"epoch": range(3), "seconds": 1.0 + place})
                run.write(f"{fit['folder']}/history.csv", history)
        facts = {"objective": first, "parts": [part], "scores": found, "fits": fits}
        run.write("metrics.json", facts)
        return run

    return make


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edited(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "metrics cut short": lambda path: truncate(path / "metrics.json"),
    "metrics of somebody else": lambda path: (path / "metrics.json").write_text('{"loss": 1}'),
    "metrics that are a list": lambda path: (path / "metrics.json").write_text("[1]"),
    "configuration missing": lambda path: (path / "config.yaml").unlink(),
    "configuration no mapping": lambda path: (path / "config.yaml").write_text("- 1\n"),
    "configuration no YAML": lambda path: (path / "config.yaml").write_bytes(b"\xff: ["),
    "data missing": lambda path: (path / "data.json").unlink(),
    "forecasts missing": lambda path: (path / "forecasts.parquet").unlink(),
    "forecasts cut short": lambda path: truncate(path / "forecasts.parquet"),
    "forecasts no table": lambda path: (path / "forecasts.parquet").write_bytes(b"no table"),
    "timing cut short": lambda path: truncate(path / "timing.json"),
    "scores without their rows": lambda path: (path / "metrics.json").write_text(
        (path / "metrics.json").read_text().replace('"rows"', '"lines"')
    ),
    "warnings that are none": lambda path: edited(path / "data.json", warnings=None),
}


def test_whatever_is_damaged_is_named_and_the_others_are_ranked(
    finished: Finished, tmp_path: Path
) -> None:
    finished("lstm-good")
    for number, damage in enumerate(DAMAGES.values()):
        damage(finished(f"lstm-bad-{number}").path)
    (board,) = leaderboards(tmp_path)
    assert board.runs["run"].tolist() == ["lstm-good"]
    named = [note.partition(" is left out")[0] for note in board.notes if "left out" in note]
    assert sorted(named) == sorted(f"lstm-bad-{number}" for number in range(len(DAMAGES)))


def test_where_nothing_else_is_left_the_damage_is_told(finished: Finished, tmp_path: Path) -> None:
    run = finished("lstm-only")
    (run.path / "forecasts.parquet").unlink()
    with pytest.raises(ForecastError, match="lstm-only is left out"):
        entries(tmp_path)
    (run.path / "metrics.json").write_text("{")
    with pytest.raises(ForecastError, match="no finished run .* lstm-only is left out"):
        entries(tmp_path)


def test_only_networks_that_are_scored_on_validation_are_ranked(
    finished: Finished, tmp_path: Path
) -> None:
    finished("lstm-good")
    finished("lstm-test", part="test")
    finished("backtest-given", ("lstm", "gru"), forecasts="table.parquet")
    finished("backtest-weights", weights="weights.csv")
    portfolio = finished("portfolio-a")
    portfolio.write("data.json", {**portfolio.data, "source_run": "lstm-good"})
    finished(".lstm-removed")
    (tmp_path / "lstm-unfinished").mkdir()
    found, notes = entries(tmp_path)
    assert [entry.run.name for entry in found] == ["lstm-good"]
    assert notes == ["lstm-test is left out: it has no score on the validation part."]


def test_each_network_of_a_backtest_is_ranked_by_what_is_its_own(
    finished: Finished, tmp_path: Path
) -> None:
    run = finished("backtest-a", ("gru", "lstm"))
    found, _ = entries(tmp_path)
    assert [entry.model for entry in found] == ["gru", "lstm"]
    scores = run.metrics["scores"]
    assert [entry.objective for entry in found] == [objective(scores, m) for m in ("gru", "lstm")]
    # Two folds of three epochs over 1000 targets, of one second each and of two.
    assert [entry.speed for entry in found] == [(6.0, 1000.0), (12.0, 500.0)]
    (board,) = leaderboards(tmp_path)
    assert len(board.table) == 2 and board.keys == ["model.cell"]
    assert board.table["configuration"].nunique() == 1
    (only,), _ = entries(tmp_path, {"model": {"cell": "gru"}})
    assert only.model == "gru"


def test_other_commands_horizons_and_delays_stand_apart(finished: Finished, tmp_path: Path) -> None:
    finished("backtest-a", ("gru", "lstm"))
    finished("lstm-a")
    finished("lstm-b", horizons=[5])
    finished("lstm-c", target={"delay": 1})
    facts = [board.facts for board in leaderboards(tmp_path)]
    found = [(of["command"], of["horizons"], of["delay"]) for of in facts]
    assert found[0] == ("backtest", [1, 5], 0), "the largest group is first"
    assert sorted(found[1:]) == [("train", [1, 5], 0), ("train", [1, 5], 1), ("train", [5], 0)]


def test_positions_are_ranked_by_minus_their_sharpe_ratio_and_the_best_is_chosen(
    finished: Finished, tmp_path: Path
) -> None:
    traded = {"volatility": 15.0, "cost": 5.0}
    for number, sharpe in enumerate((0.4, 0.9)):
        run = finished(f"lstm-{number}", head={"name": "position", **traded}, seed=number)
        config = {**run.config, "horizons": [1], "target": {"delay": 1}}
        config["model"]["hidden_size"] = 8 + number
        run.write("config.yaml", config)
        performance = {"lstm": {"position": {"sharpe": sharpe}}}
        parts = ["validation", "test"][: number + 1]
        found = {"objective": -sharpe, "performance": dict.fromkeys(parts, performance)}
        run.write("metrics.json", {"parts": parts, **found})
        (run.path / "forecasts.parquet").unlink()
    (board,) = leaderboards(tmp_path)
    assert board.facts["kind"] == "positions" and board.daily.empty
    assert board.table["objective"].tolist() == [-0.9, -0.4]
    assert board.table["chosen"].tolist() == [True, False]
    assert board.table["test"].tolist()[0] == -0.9 and np.isnan(board.table["test"].iloc[1])
    assert any("no standard errors, since Sharpe ratios" in note for note in board.notes)


def test_a_filter_knows_lists_and_keys_that_only_some_have(
    finished: Finished, tmp_path: Path
) -> None:
    finished("lstm-a", head={"name": "point", "loss": "mae"})
    finished("lstm-b", horizons=[1, 5])

    def names(where: dict[str, Any]) -> list[str]:
        found: list[Entry] = entries(tmp_path, where)[0]
        return [entry.run.name for entry in found]

    assert names({"head.loss": "mae"}) == ["lstm-a"]
    assert names({"horizons": [1, 5]}) == ["lstm-a", "lstm-b"]
    assert names({"horizons": [[1, 5], [1]]}) == ["lstm-a", "lstm-b"]
    assert names({"head.name": ["quantile", "point"]}) == ["lstm-a"]
    with pytest.raises(ForecastError, match="fits none"):
        names({"horizons": [1]})
