"""`forecast.backtest forecasts=live`: the only evidence that nobody can have tuned, scored."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast import compose, load_run
from forecast.backtest import backtest
from forecast.config import ForecastError, canonical_id, without
from forecast.forecasts import read_forecasts
from forecast.predict import predict
from forecast.run import Run, prune_runs

EVENINGS = range(345, 359)  # 14 of them, FFF from the seventh on
NOW = 361  # three sessions later

World = Any


def scored(world: World, *overrides: str) -> Run:
    asked = ["forecasts=live", "significance.repetitions=100", f"outputs={world.outputs}"]
    return backtest(compose("backtest", [*asked, *overrides]))


def named(run: Run) -> str:
    """What a run's networks are called in the record: as those trained anew on newer data."""
    return f"{run.config['model']['cell']}-{canonical_id(without(run.config, ['seed']))}"


def ledger(world: World) -> list[dict[str, str]]:
    with open(world.outputs / "ledger.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def world(evenings: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A run that was trained, and its record of fourteen evenings."""
    folder = tmp_path_factory.mktemp("world")
    world = evenings.Evenings(home=folder / "home", outputs=folder / "outputs")
    with world.at_home(), pytest.MonkeyPatch.context() as patch:
        world.evening(evenings.TRAINED)
        world.run = world.train("ensemble=1")
        with patch.context() as pages:
            pages.setattr("forecast.report.page.write_report", lambda run: run.path)
            for sessions in EVENINGS:
                world.evening(sessions)
                predict(compose("predict", [f"run={world.run.name}", f"outputs={world.outputs}"]))
        yield world


@pytest.fixture(scope="module")
def live(world: World) -> Run:
    world.evening(NOW)
    return scored(world)


def test_the_record_is_scored_beside_the_benchmark(live: Run, world: World) -> None:
    name = named(world.run)
    assert live.parts == ("live",) and live.name.startswith("backtest-")
    scores = live.metrics["scores"]["live"]
    assert set(scores) == {name, "ewma_normal"}
    for model in scores:
        for horizon in ("1", "5"):
            for score in ("crps", "crps_exact", "log_score", "mae", "coverage_50", "coverage_90"):
                assert np.isfinite(scores[model][horizon][score]), (model, horizon, score)
    assert live.metrics["networks"] == [name]
    assert live.data["source"] == "live" and set(live.data["fold"]) == {"live"}
    stored = read_forecasts(live.path / "forecasts.parquet")
    crps = stored[(stored["model"] == name) & (stored["horizon"] == 1)]["crps_exact"].mean()
    assert scores[name]["1"]["crps_exact"] == pytest.approx(crps)
    daily = pd.read_parquet(live.path / "daily.parquet")
    assert set(daily["part"]) == {"live"} and set(daily["model"]) == set(scores)


def test_outcomes_are_the_total_returns_that_followed(
    live: Run, world: World, evenings: Any
) -> None:
    """By hand from what was stored: dividends are paid into the return, none are looked up."""
    stored = read_forecasts(live.path / "forecasts.parquet")
    assert set(stored["part"]) == {"live"}
    per_evening = len({(k, s) for k in EVENINGS for s in evenings.SYMBOLS if s != "FFF" or k > 350})
    assert len(stored) == 2 * 2 * per_evening
    paid = 0
    for row in stored[stored["model"] == named(world.run)].itertuples():
        frame = world.frames[row.symbol]
        at = int(np.flatnonzero(frame["date"] == row.origin)[0])
        until = at + row.horizon
        last = int(np.flatnonzero(frame["date"] == pd.Timestamp(evenings.SESSIONS[NOW - 1]))[0])
        if until > last:
            assert np.isnan(row.actual) and pd.isna(row.target_date)
            continue
        close, dividend = frame["close"].to_numpy(), frame["dividend"].to_numpy()
        growth = np.prod(
            [(close[k] + dividend[k]) / close[k - 1] for k in range(at + 1, until + 1)]
        )
        assert row.actual == pytest.approx(100 * np.log(growth), abs=1e-9)
        assert row.target_date == frame["date"].iloc[until]
        paid += bool(dividend[at + 1 : until + 1].any())
    assert paid > 0


def test_the_look_is_on_the_ledger(live: Run, world: World, evenings: Any) -> None:
    looks = [line for line in ledger(world) if line["part"] == "live"]
    assert [line["run"] for line in looks][:1] == [live.name]
    first, last = (str(evenings.SESSIONS[k - 1]) for k in (EVENINGS[0], EVENINGS[-1]))
    assert (looks[0]["first"], looks[0]["last"]) == (first, last)


def test_the_page_tells_what_the_record_is(live: Run, world: World) -> None:
    page = (live.path / "report.html").read_text()
    assert named(world.run) in page and "live record" in page and "ewma_normal" in page
    assert any("live record" in line for line in live.data["warnings"])


def test_without_news_the_finished_folder_is_returned(
    live: Run, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.evening(NOW)
    before = {path: path.stat().st_mtime_ns for path in live.path.iterdir()}
    looks = ledger(world)
    again = scored(world)
    assert again.path == live.path and "is finished (live)" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in live.path.iterdir()} == before
    assert ledger(world) == looks


@pytest.mark.usefixtures("no_report")
def test_with_news_it_is_another_look(live: Run, world: World) -> None:
    """More of the same predictions are known, and what was known stays as it was."""
    world.evening(NOW + 4)
    later = scored(world)
    world.evening(NOW)
    assert later.path != live.path
    assert ledger(world)[-1]["run"] == later.name and ledger(world)[-1]["part"] == "live"
    key = ["model", "symbol", "origin", "horizon"]
    old, new = (
        read_forecasts(run.path / "forecasts.parquet").astype({"model": str, "symbol": str})
        for run in (live, later)
    )
    old, new = old.set_index(key), new.set_index(key)
    known = old.index[old["actual"].notna()]
    pd.testing.assert_frame_equal(old.loc[known], new.loc[known], check_exact=True)
    assert new["actual"].notna().sum() > len(known)


@pytest.mark.usefixtures("no_report")
def test_the_predictions_of_one_run_are_scored_alone(live: Run, world: World) -> None:
    """A second run's record is not looked at, by name or by the beginning of it."""
    world.evening(357)
    other = world.train("ensemble=1", "model=gru", "trainer.max_epochs=1", "evaluate=[test]")
    predict(compose("predict", [f"run={other.name}", f"outputs={world.outputs}"]))
    world.evening(NOW)
    alone = scored(world, f"forecasts=live:{world.run.name}")
    assert set(alone.metrics["scores"]["live"]) == {named(world.run), "ewma_normal"}
    theirs = scored(world, "forecasts=live:gru")
    assert set(theirs.metrics["scores"]["live"]) == {named(other), "ewma_normal"}
    both = scored(world)
    assert set(both.metrics["scores"]["live"]) == {named(world.run), named(other), "ewma_normal"}
    for path in (world.outputs / "live").glob(f"*{other.name}*"):
        path.unlink()


def test_a_run_without_predictions_is_named(world: World) -> None:
    world.evening(NOW)
    with pytest.raises(ForecastError, match=r"no live forecast of rnn-0.*predict") as caught:
        scored(world, "forecasts=live:rnn-0000000000")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strategy", ["top_k", "all"])
def test_the_record_is_scored_and_not_traded(world: World, strategy: str) -> None:
    with pytest.raises(ForecastError, match="forecasts=live is scored, not traded") as caught:
        scored(world, f"strategy={strategy}")
    assert "\n" not in str(caught.value)


def test_nothing_is_scored_before_a_target_is_known(
    world: World, evenings: Any, tmp_path: Path
) -> None:
    """One line with the date to wait for; no folder, and no look on the ledger."""
    world.evening(352)
    predict(compose("predict", [f"run={world.run.path}", f"outputs={tmp_path}"]))
    with pytest.raises(ForecastError, match="is expected on 2024-05-29") as caught:
        backtest(compose("backtest", ["forecasts=live", f"outputs={tmp_path}"]))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("backtest-*")) and not (tmp_path / "ledger.csv").exists()
    world.evening(NOW)


def test_without_a_record_it_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match=r"no live forecast.*forecast\.predict run="):
        backtest(compose("backtest", ["forecasts=live", f"outputs={tmp_path}"]))


@pytest.mark.usefixtures("no_report")
def test_a_split_since_the_predictions_changes_no_score(live: Run, world: World) -> None:
    """What was refetched on another basis still has the same returns."""
    world.evening(NOW, frames={"AAA": world.split("AAA", 360)})
    after = scored(world)
    world.evening(NOW)
    for model, horizons in live.metrics["scores"]["live"].items():
        for horizon, scores in horizons.items():
            mine = after.metrics["scores"]["live"][model][horizon]
            numbers = {k: v for k, v in scores.items() if isinstance(v, float)}
            assert numbers == pytest.approx({k: mine[k] for k in numbers}, rel=1e-6)


def test_pruning_leaves_the_record_alone(live: Run, world: World) -> None:
    """It cannot be made again."""
    before = sorted(path.name for path in (world.outputs / "live").glob("*.parquet"))
    assert len(before) == len(EVENINGS)
    prune_runs(world.outputs)
    assert sorted(p.name for p in (world.outputs / "live").glob("*.parquet")) == before
    assert load_run(live.name, world.outputs).parts == ("live",)
