"""Strategies are ranked on validation, and deflated by everything that was tried there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecast.portfolio.contest import contests, text
from forecast.portfolio.luck import expected_maximum, probabilistic
from forecast.portfolio.trials import record_trials
from forecast.run import Run

DATES = pd.bdate_range("2015-01-01", periods=240)
Trade = Callable[..., Run]


@pytest.fixture
def trade(tmp_path: Path) -> Trade:
    """A portfolio run of one strategy and a benchmark, on the ledger."""

    def make(
        seed: int, *, mean: float = 0.0, sha256: str = "f00d", part: str = "validation"
    ) -> Run:
        run = Run(tmp_path / f"portfolio-{seed:010d}")
        returns = {
            ("lstm", "top_k"): mean + 0.01 * np.random.default_rng(seed).normal(size=len(DATES)),
            ("none", "buy_and_hold"): 0.01 * np.random.default_rng(99).normal(size=len(DATES)),
        }
        run.write("config.yaml", {"seed": seed, "model": {"hidden_size": seed}})
        run.write("data.json", {"sha256": sha256, "source": "sp500", "symbols": [{}, {}]})
        frames = [
            pd.DataFrame(
                {
                    "part": part,
                    "model": model,
                    "strategy": strategy,
                    "date": DATES,
                    "simple_return": values,
                    "cash_return": 0.0,
                }
            )
            for (model, strategy), values in returns.items()
        ]
        run.write("returns.parquet", pd.concat(frames))
        performance: dict[str, dict[str, dict[str, float]]] = {}
        for (model, strategy), values in returns.items():
            performance.setdefault(model, {})[strategy] = {
                "sharpe": float(values.mean() / values.std(ddof=1) * np.sqrt(252)),
                "annual_return": float(values.mean() * 252),
                "max_drawdown": 0.1,
                "turnover": 2.0,
            }
        first, last = str(DATES[0].date()), str(DATES[-1].date())
        record_trials(run, part, first, last, {("lstm", "top_k"): f"c{seed}"})
        run.write(
            "metrics.json",
            {"parts": [part], "performance": {part: performance}, "periods": 252.0, "purge": 1},
        )
        return run

    return make


def test_the_highest_sharpe_ratio_is_first_and_a_benchmark_stands_once(
    trade: Trade, tmp_path: Path
) -> None:
    for seed, mean in ((1, 0.0), (2, 0.002), (3, 0.001)):
        trade(seed, mean=mean)
    (contest,) = contests(tmp_path)
    own = contest.table[~contest.table["benchmark"]]
    assert own["run"].tolist()[0] == "portfolio-0000000002"
    assert contest.table["sharpe"].is_monotonic_decreasing
    assert contest.table["benchmark"].sum() == 1
    assert contest.facts["dates"] == [str(DATES[0].date()), str(DATES[-1].date())]


def test_the_deflated_ratio_counts_trials_that_were_deleted(trade: Trade, tmp_path: Path) -> None:
    runs = [trade(seed, mean=0.0005 * seed) for seed in range(1, 6)]
    shutil.rmtree(runs[0].path)
    (contest,) = contests(tmp_path)
    assert (contest.luck["trials"], contest.luck["series"]) == (5, 4)
    assert "1 of 5 trials are gone" in contest.notes[0]
    kept = {run.name: pd.read_parquet(run.path / "returns.parquet") for run in runs[1:]}
    mine = {
        name: table.loc[table["model"] == "lstm", "simple_return"].to_numpy()
        for name, table in kept.items()
    }
    ratios = np.array([values.mean() / values.std(ddof=1) for values in mine.values()])
    expected = expected_maximum(5, ratios)
    for row in contest.table[~contest.table["benchmark"]].to_dict("records"):
        assert row["dsr"] == pytest.approx(probabilistic(mine[row["run"]], expected))
        assert row["dsr"] < row["psr"]
    assert contest.table.loc[contest.table["benchmark"], "dsr"].isna().all()


def test_overfitting_is_computed_from_ten_trials_on(trade: Trade, tmp_path: Path) -> None:
    for seed in range(1, 10):
        trade(seed)
    (contest,) = contests(tmp_path)
    assert "not_computed" in contest.luck["pbo"] and "not computed" in text(contest)
    trade(10)
    (contest,) = contests(tmp_path)
    assert 0 <= contest.luck["pbo"]["value"] <= 1
    assert f"{contest.luck['pbo']['value']:.2f}" in text(contest)


def test_filters_hide_runs_but_no_trials(trade: Trade, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        trade(seed)
    (contest,) = contests(tmp_path, {"model.hidden_size": [1, 2]})
    assert (~contest.table["benchmark"]).sum() == 2
    assert contest.luck["trials"] == 3


def test_other_prices_are_another_contest_and_the_test_part_none(
    trade: Trade, tmp_path: Path
) -> None:
    trade(1)
    trade(2, sha256="beef")
    trade(3, part="test")
    found = contests(tmp_path)
    assert sorted(contest.facts["data"] for contest in found) == ["beef", "f00d"]
    assert all(contest.luck["trials"] == 1 for contest in found)
    assert contests(tmp_path / "nowhere") == []


DAMAGES: dict[str, Callable[[Run], object]] = {
    "returns no table": lambda run: (run.path / "returns.parquet").write_bytes(b"PAR1 no"),
    "returns of another part": lambda run: run.write(
        "returns.parquet", pd.read_parquet(run.path / "returns.parquet").assign(part="live")
    ),
    "metrics cut short": lambda run: (run.path / "metrics.json").write_text("{"),
    "figures of another version": lambda run: (run.path / "metrics.json").write_text(
        (run.path / "metrics.json").read_text().replace("turnover", "traded")
    ),
    "data missing": lambda run: (run.path / "data.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_named(
    trade: Trade, tmp_path: Path, damage: Callable[[Run], object]
) -> None:
    good, broken = trade(1), trade(2)
    damage(broken)
    (contest,) = contests(tmp_path)
    assert set(contest.table["run"]) == {good.name}
    assert any(broken.name in note for note in contest.notes)


def test_a_run_that_is_not_finished_is_not_shown_but_its_trial_counts(
    trade: Trade, tmp_path: Path
) -> None:
    good, other = trade(1), trade(2)
    (other.path / "metrics.json").unlink()
    (contest,) = contests(tmp_path)
    assert set(contest.table["run"]) == {good.name} and contest.luck["trials"] == 2


def test_where_every_run_is_damaged_there_is_no_contest(trade: Trade, tmp_path: Path) -> None:
    (trade(1).path / "returns.parquet").write_bytes(b"PAR1 no")
    run = trade(2)
    run.write("metrics.json", {"parts": ["validation"], "periods": 252.0})
    assert contests(tmp_path) == []


def test_ratios_of_other_dates_are_told_apart(trade: Trade, tmp_path: Path) -> None:
    runs = [trade(1), trade(2)]
    table = pd.read_parquet(runs[1].path / "returns.parquet")
    runs[1].write("returns.parquet", table[table["date"] <= DATES[99]])
    (contest,) = contests(tmp_path)
    first, last, earlier = (str(DATES[day].date()) for day in (0, -1, 99))
    assert contest.facts["dates"] == [first, last]
    assert contest.notes[-1].endswith(f": {first} to {earlier}; {first} to {last}.")
