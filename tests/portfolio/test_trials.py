"""Trials are counted from the ledger, so that removing what did not work hides nothing."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecast.portfolio.trials import record_trials, trials
from forecast.run import LEDGER, Run

DATES = pd.bdate_range("2015-01-01", periods=5)
Traded = Callable[..., Run]


def table(returns: dict[tuple[str, str], list[float]], part: str, cash: float) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "part": part,
                "model": model,
                "strategy": strategy,
                "date": DATES[: len(values)],
                "simple_return": values,
                "gross_return": 0.5,
                "cash_return": cash,
            }
        )
        for (model, strategy), values in returns.items()
    ]
    return pd.concat(frames)


@pytest.fixture
def traded(tmp_path: Path) -> Traded:
    """A run that was traded and stands on the ledger."""

    def make(
        name: str,
        returns: dict[tuple[str, str], list[float]],
        configurations: dict[tuple[str, str], str],
        *,
        part: str = "test",
        sha256: str = "f00d",
        cash: float = 0.0,
    ) -> Run:
        run = Run(tmp_path / name)
        run.write("data.json", {"sha256": sha256})
        run.write("config.yaml", {"seed": 0})
        run.write("returns.parquet", table(returns, part, cash))
        record_trials(run, part, "2015-01-01", "2015-01-07", configurations)
        return run

    return make


SIGN = ("lstm", "sign")


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "ledger.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_each_traded_strategy_is_a_line_and_benchmarks_are_none(
    traded: Traded, tmp_path: Path
) -> None:
    returns = {SIGN: [0.1], ("gru", "top_k"): [0.1], ("none", "sign_12m"): [0.1]}
    traded("portfolio-a", returns, {pair: f"c-{pair[0]}" for pair in returns})
    assert tuple(lines(tmp_path)[0]) == LEDGER
    assert [(line["run"], line["configuration"], line["data"]) for line in lines(tmp_path)] == [
        ("portfolio-a/lstm/sign", "c-lstm", "f00d"),
        ("portfolio-a/gru/top_k", "c-gru", "f00d"),
    ]
    assert {line["part"] for line in lines(tmp_path)} == {"test"}
    traded("portfolio-b", {("none", "sign_12m"): [0.1]}, {("none", "sign_12m"): "c"})
    assert len(lines(tmp_path)) == 2


def test_seeds_are_averaged_over_cash(traded: Traded, tmp_path: Path) -> None:
    traded("portfolio-a", {SIGN: [0.1, 0.2, 0.3]}, {SIGN: "c1"}, cash=0.05)
    traded("portfolio-b", {SIGN: [0.3, 0.2]}, {SIGN: "c1"}, cash=0.05)
    traded("portfolio-c", {SIGN: [0.0, 0.0]}, {SIGN: "c2"})
    found = trials(tmp_path, "f00d", "test")
    assert (found.count, found.missing) == (2, 0)
    np.testing.assert_allclose(found.returns["c1"], [0.15, 0.15, 0.25])
    np.testing.assert_array_equal(found.returns["c2"], [0.0, 0.0, np.nan])
    assert found.returns.index.equals(pd.DatetimeIndex(DATES[:3]))


def test_a_repeated_command_is_no_further_trial(traded: Traded, tmp_path: Path) -> None:
    for _ in range(2):
        traded("portfolio-a", {SIGN: [0.1, 0.2]}, {SIGN: "c1"})
    assert len(lines(tmp_path)) == 2
    found = trials(tmp_path, "f00d", "test")
    assert found.count == 1
    np.testing.assert_allclose(found.returns["c1"], [0.1, 0.2])


def test_other_data_other_parts_and_mere_looks_are_not_counted(
    traded: Traded, tmp_path: Path
) -> None:
    run = traded("portfolio-a", {SIGN: [0.1]}, {SIGN: "c1"})
    traded("portfolio-b", {SIGN: [0.1]}, {SIGN: "c2"}, sha256="beef")
    traded("portfolio-c", {SIGN: [0.1]}, {SIGN: "c3"}, part="validation")
    run.record("test", "2015-01-01", "2015-01-07")
    found = trials(tmp_path, "f00d", "test")
    assert found.count == 1 and list(found.returns) == ["c1"]
    assert trials(tmp_path, "f00d", "validation").count == 1


def test_removing_a_folder_hides_nothing(traded: Traded, tmp_path: Path) -> None:
    traded("portfolio-a", {SIGN: [0.1]}, {SIGN: "c1"})
    run = traded("portfolio-b", {SIGN: [0.2]}, {SIGN: "c2"})
    shutil.rmtree(run.path)
    broken = traded("portfolio-c", {SIGN: [0.2]}, {SIGN: "c3"})
    (broken.path / "returns.parquet").write_text("no table")
    found = trials(tmp_path, "f00d", "test")
    assert (found.count, found.missing) == (3, 2) and list(found.returns) == ["c1"]


def test_a_name_with_a_slash_is_found_again(traded: Traded, tmp_path: Path) -> None:
    pair = ("somebody/large", "sign")
    traded("portfolio-a", {pair: [0.1]}, {pair: "c1"})
    assert list(trials(tmp_path, "f00d", "test").returns) == ["c1"]


def test_nothing_was_traded_where_there_is_no_ledger(tmp_path: Path) -> None:
    found = trials(tmp_path, "f00d", "test")
    assert (found.count, found.missing) == (0, 0) and found.returns.empty
