"""`forecast.predict` from end to end: each evening states what a backtest would have stated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from forecast import compose, list_runs, load_prices
from forecast.backtest import backtest
from forecast.config import ForecastError
from forecast.dataset.folds import ranges
from forecast.dataset.windows import PanelTensors
from forecast.evaluation.live import LIVE_SCHEMA
from forecast.forecasts import read_forecasts
from forecast.models.baselines import EwmaNormal
from forecast.models.block import blocks
from forecast.models.configured import folds_of, panel_of
from forecast.predict import predict
from forecast.run import Run

FILES = {
    "config.yaml", "overrides.yaml", "environment.json", "forecasts.parquet", "history.parquet",
    "prediction.json", "predictions.csv", "predictions.json", "report.html",
}  # fmt: skip
EVENINGS = (341, 342, 350, 351, 352, 365)  # FFF is past its warm-up in the fourth
LAST = 365

World = Any
Predict = Callable[..., Run]


@pytest.fixture(scope="module")
def world(evenings: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    world = evenings.Evenings(home=folder / "home", outputs=folder / "outputs")
    with world.at_home():
        yield world


@pytest.fixture(scope="module")
def run(world: World, evenings: Any) -> Run:
    """An ensemble of two on all that was known when it was trained."""
    world.evening(evenings.TRAINED)
    run: Run = world.train()
    return run


@pytest.fixture
def predicted(run: Run, tmp_path: Path) -> Predict:
    """Predict by the run, into a folder of the test's own."""

    def predicted(*overrides: str, by: Run = run) -> Run:
        return predict(
            compose("predict", [f"run={by.path}", f"outputs={tmp_path}", "threads=2", *overrides])
        )

    return predicted


def told(run: Run) -> dict[str, Any]:
    return run.json("prediction.json")


def records(outputs: Path) -> list[Path]:
    return sorted((outputs / "live").glob("*"))


@pytest.fixture(scope="module")
def passed(world: World, evenings: Any) -> Callable[..., pd.DataFrame]:
    """All origins of the test range in one pass over all sessions, by the networks of a run."""

    def passed(run: Run, cell: str = "lstm") -> pd.DataFrame:
        world.evening(LAST + 5)
        section = {**run.config["data"], "end": None}
        panel = panel_of(run.config, load_prices(section))
        ensemble = run.model(cell if "backtest" in run.config else None)
        task = ensemble.task
        # The newest of the run's own folds, which a longer walk would have ended.
        number = len(run.data["folds"]) - 1
        fold = replace(folds_of(run.config, panel.dates)[number], test_end=None)
        rows = ranges(panel, fold, reach=task.reach, warmup=task.warmup)["test"]
        tensors = PanelTensors(panel, horizons=task.horizons, delay=task.delay, device="cpu")
        baseline, tables = EwmaNormal(panel, task, rows), []
        for block in blocks(panel, task, rows):
            own, beside = ensemble.distribution(block, rows, tensors), baseline.distribution(block)
            tables.append(block.table(own, model=cell, part="test", fold=0))
            tables.append(block.table(beside, model="ewma_normal", part="test", fold=0))
        frame: pd.DataFrame = evenings.rows(pa.concat_tables(tables).to_pandas())
        return frame

    return passed


def assert_bits(mine: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Every number the same, to the last bit."""
    assert list(mine.columns) == list(theirs.columns) and len(mine)
    theirs = theirs.loc[mine.index]
    for name in mine.columns:
        assert mine[name].to_numpy().tobytes() == theirs[name].to_numpy().tobytes(), name


# ------------------------------------------------------------------ the same as a backtest


@pytest.mark.usefixtures("no_report")
def test_evening_by_evening_it_states_what_a_backtest_states_bit_for_bit(
    world: World, evenings: Any, run: Run, predicted: Predict, passed: Any
) -> None:
    """The networks, and the market carried on, know each evening what they know in the end."""
    everything = passed(run)
    for number, sessions in enumerate(EVENINGS):
        day = world.evening(sessions)
        mine = evenings.rows(predicted(f"threads={1 + number % 2}").path / "forecasts.parquet")
        symbols = set(evenings.SYMBOLS) - (set() if sessions > 350 else {"FFF"})
        expected = {
            (model, symbol, pd.Timestamp(day), horizon)
            for model in ("lstm", "ewma_normal")
            for symbol in symbols
            for horizon in (1, 5)
        }
        assert set(mine.index) == expected
        assert_bits(mine, everything)


@pytest.mark.usefixtures("no_report")
def test_at_an_earlier_end_it_states_what_the_run_stored_for_its_test_range(
    world: World, evenings: Any, run: Run, predicted: Predict
) -> None:
    """Its market, too, is then the stored one up to that date."""
    world.evening(LAST)
    stored = evenings.rows(run.path / "forecasts.parquet")
    for day in ("2024-02-15", "2024-03-28", "2024-05-09"):
        prediction = predicted(f"data.end={day}")
        mine = evenings.rows(prediction.path / "forecasts.parquet")
        assert set(mine.index.get_level_values("symbol")) == set(evenings.SYMBOLS) - {"FFF"}
        assert_bits(mine, stored)


@pytest.mark.usefixtures("no_report")
def test_after_a_split_it_states_the_same_but_for_rounding(
    world: World, evenings: Any, run: Run, predicted: Predict
) -> None:
    """All old prices and dividends are then a quarter, and no return is anything else."""
    world.evening(352)
    before = evenings.rows(predicted().path / "forecasts.parquet")
    world.evening(352, frames={"BBB": world.split("BBB", 352)})
    after = evenings.rows(predicted("record=false").path / "forecasts.parquet")
    world.evening(352)
    quarter = before.index.get_level_values("symbol") == "BBB"
    np.testing.assert_allclose(after["price"], before["price"] / np.where(quarter, 4, 1))
    for name in before.columns.drop("price"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.usefixtures("no_report")
def test_fewer_symbols_see_the_market_of_all(
    world: World, evenings: Any, run: Run, predicted: Predict
) -> None:
    """What defines the market is read beside them, and is not forecast."""
    world.evening(352)
    everyone = evenings.rows(predicted().path / "forecasts.parquet")
    alone = evenings.rows(predicted("data.symbols=CCC").path / "forecasts.parquet")
    assert set(alone.index.get_level_values("symbol")) == {"CCC"}
    pd.testing.assert_frame_equal(alone, everyone.loc[alone.index], rtol=1e-6)


@pytest.mark.usefixtures("no_report")
def test_a_symbol_that_the_run_never_saw_is_forecast_with_a_warning(
    world: World, evenings: Any, run: Run, predicted: Predict
) -> None:
    """As if the run's networks read a panel with it, beside the run's market."""
    world.evening(352)
    prediction = predicted('data.symbols="ZZZ,AAA"')
    mine = evenings.rows(prediction.path / "forecasts.parquet")
    assert set(mine.index.get_level_values("symbol")) == {"AAA", "ZZZ"}
    assert "symbols that the run never saw: ZZZ" in told(prediction)["warnings"]
    everyone = evenings.rows(predicted().path / "forecasts.parquet")
    own = mine[mine.index.get_level_values("symbol") == "AAA"]
    pd.testing.assert_frame_equal(own, everyone.loc[own.index], rtol=1e-6)


# ------------------------------------------------------------------ the folder


def test_the_folder_holds_the_prediction_in_every_form(
    world: World, evenings: Any, run: Run, predicted: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    day = world.evening(342)
    prediction = predicted()
    printed = capsys.readouterr().out
    assert {path.name for path in prediction.path.iterdir()} == FILES
    assert prediction.name.startswith("predict-")
    shown = pd.read_csv(prediction.path / "predictions.csv")
    assert shown["symbol"].tolist() == sorted([*(set(evenings.SYMBOLS) - {"FFF"})] * 2)
    assert shown["horizon"].tolist() == [1, 5] * 5
    assert set(shown["origin"]) == {str(day)}
    # The exchange's calendar: 2024-05-13 is a Monday.
    assert shown["expected_date"].tolist() == ["2024-05-14", "2024-05-20"] * 5
    last = {s: f["close"].iloc[341 - evenings.LISTED.get(s, 0)] for s, f in world.frames.items()}
    assert shown["price"].tolist() == pytest.approx([last[s] for s in shown["symbol"]])
    assert shown["probability_of_rise"].between(0, 1).all()

    facts = json.loads((prediction.path / "predictions.json").read_text())
    pd.testing.assert_frame_equal(pd.DataFrame(facts.pop("forecasts")), shown)
    assert facts == told(prediction)
    assert facts["run"] == run.name and facts["model"] == "lstm" and facts["part"] == "live"
    assert facts["recorded"] is True and facts["recorded_reason"] is None
    assert facts["made_at"] == f"{world.now}+00:00"
    assert facts["horizons"] == [1, 5] and facts["delay"] == 0 and facts["rows"] == 10
    assert facts["warnings"] == []
    assert [entry["symbol"] for entry in facts["left_out"]] == ["FFF"]  # in its warm-up yet

    stored = read_forecasts(prediction.path / "forecasts.parquet")  # the rules of the table hold
    assert set(stored["part"]) == {"live"} and set(stored["fold"]) == {0}
    assert stored["target_date"].isna().all() and stored["actual"].isna().all()
    history = pd.read_parquet(prediction.path / "history.parquet")
    assert list(history.columns) == ["symbol", "date", "price"]
    assert history.groupby("symbol").size().to_dict() == {
        s: 120 if s != "FFF" else 17 for s in evenings.SYMBOLS
    }
    ends = history.groupby("symbol")["price"].last()
    assert ends.to_dict() == pytest.approx({s: last[s] for s in evenings.SYMBOLS})
    page = (prediction.path / "report.html").read_text()
    assert run.name in page and "AAA" in page and "2024-05-20" in page
    for symbol in set(evenings.SYMBOLS) - {"FFF"}:
        assert f"\n{symbol} " in printed
    assert "1 session ahead" in printed and "5 sessions ahead" in printed
    assert f"report: {prediction.path / 'report.html'}" in printed


@pytest.mark.usefixtures("no_report")
def test_a_prediction_is_no_run(world: World, predicted: Predict, tmp_path: Path) -> None:
    """It is listed nowhere, and nobody predicts by it."""
    world.evening(342)
    prediction = predicted()
    assert list_runs(tmp_path).empty
    with pytest.raises(ForecastError, match="not finished|not in"):
        predicted(by=prediction)


@pytest.mark.usefixtures("no_report")
def test_the_record_holds_the_same_rows_with_when_and_by_what(
    world: World, evenings: Any, run: Run, predicted: Predict, tmp_path: Path
) -> None:
    day = world.evening(342)
    prediction = predicted()
    (path,) = records(tmp_path)
    assert path.name.startswith(f"{day}-{run.name}-")
    table = pq.read_table(path)
    assert table.schema.names == LIVE_SCHEMA.names
    frame = table.to_pandas()
    shown = pd.read_csv(prediction.path / "predictions.csv")
    assert [str(d) for d in frame["expected_date"]] == shown["expected_date"].tolist() * 2
    assert set(frame["run"]) == {run.name}
    assert set(frame["made_at"]) == {pd.Timestamp(world.now, tz="UTC")}
    assert set(frame["data_hash"]) == {told(prediction)["data_hash"]}
    stored = evenings.rows(prediction.path / "forecasts.parquet")
    added = ["expected_date", "made_at", "run", "data_hash", "parameters"]
    pd.testing.assert_frame_equal(
        evenings.rows(frame.drop(columns=added)), stored, check_exact=True
    )


@pytest.mark.usefixtures("no_report")
def test_an_evening_repeated_keeps_the_record_of_its_first_time(
    world: World, predicted: Predict, tmp_path: Path
) -> None:
    world.evening(342)
    first = predicted()
    (path,) = records(tmp_path)
    bytes_then, made_then = path.read_bytes(), told(first)["made_at"]
    world.now = world.now + np.timedelta64(600, "s")
    second = predicted()
    assert second.path == first.path and told(second)["made_at"] > made_then
    assert records(tmp_path) == [path] and path.read_bytes() == bytes_then


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("minutes", "recorded"), [(-1, True), (0, False), (1, False)], ids=["before", "at", "after"]
)
def test_what_is_predicted_once_the_exchange_has_opened_is_no_evidence(
    world: World, predicted: Predict, tmp_path: Path, minutes: int, recorded: bool
) -> None:
    """New York opens at 13:30 UTC in summer; 2024-05-13 is followed by a session."""
    world.evening(342)
    world.now = np.datetime64("2024-05-14T13:30:00", "s") + np.timedelta64(60 * minutes, "s")
    prediction = predicted()
    assert bool(records(tmp_path)) is told(prediction)["recorded"] is recorded
    reason = None if recorded else "10 of 10 targets had begun"
    assert told(prediction)["recorded_reason"] == reason


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("override", ["record=false", "data.end=2024-04-30", "data.end=2024-05-13"])
def test_nothing_is_recorded_that_was_not_asked_for_or_is_past(
    world: World, predicted: Predict, tmp_path: Path, override: str
) -> None:
    world.evening(342)
    prediction = predicted(override)
    assert not records(tmp_path)
    assert told(prediction)["recorded"] is False and told(prediction)["recorded_reason"]
    assert pd.read_csv(prediction.path / "predictions.csv")["median_price"].notna().all()


@pytest.mark.usefixtures("no_report")
def test_old_prices_are_told_or_refused(world: World, evenings: Any, predicted: Predict) -> None:
    world.evening(352)
    world.evening(345, symbols=["BBB"])  # its fetch has failed since
    world.evening(352, symbols=["AAA"])
    warnings = told(predicted())["warnings"]
    assert any("BBB" in w and "2024-05-16" in w and "7 sessions" in w for w in warnings), warnings
    with pytest.raises(ForecastError, match=r"^BBB: prices end on 2024-05-16.*data.max_age=3"):
        predicted("data.max_age=3")
    world.evening(352)


# ------------------------------------------------------------------ other runs


@pytest.fixture(scope="module")
def walk(world: World, evenings: Any, run: Run) -> Run:
    """Two networks, refitted once."""
    world.evening(evenings.TRAINED)
    overrides = [
        *(o for o in evenings.TINY if not o.startswith("split.test")), f"outputs={world.outputs}",
        "ensemble=1", "trainer.max_epochs=1", "backtest.first=2024-02-15", "backtest.refit=2m",
        "backtest.models=[lstm,gru]", "backtest.baselines=[ewma_normal]", "backtest.jobs=1",
        "significance.benchmark=ewma_normal", "significance.repetitions=100",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forecast.report.page.write_report", lambda run: run.path)
        return backtest(compose("backtest", overrides))


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_newest_fold_of_a_backtest_goes_on_bit_for_bit(
    world: World, evenings: Any, walk: Run, predicted: Predict, passed: Any, cell: str
) -> None:
    overrides = ["network=gru"] if cell == "gru" else []
    assert len(walk.data["folds"]) == 2
    everything = passed(walk, cell)
    for sessions in (341, 351):
        world.evening(sessions)
        prediction = predicted(*overrides, by=walk)
        assert told(prediction)["model"] == cell
        assert_bits(evenings.rows(prediction.path / "forecasts.parquet"), everything)
    stored = evenings.rows(walk.path / "forecasts.parquet")
    prediction = predicted(*overrides, "data.end=2024-05-02", by=walk)
    assert_bits(evenings.rows(prediction.path / "forecasts.parquet"), stored)


def test_a_network_that_the_backtest_does_not_have_is_named(walk: Run, predicted: Predict) -> None:
    with pytest.raises(ForecastError, match="rnn.*lstm, gru") as caught:
        predicted("network=rnn", by=walk)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("head", ["quantile", "point"])
def test_heads_without_a_density_are_predicted_too(
    world: World, evenings: Any, predicted: Predict, passed: Any, head: str
) -> None:
    world.evening(evenings.TRAINED)
    own = world.train(f"head={head}", "ensemble=1", "trainer.max_epochs=1", "evaluate=[test]")
    everything = passed(own)
    world.evening(352)
    prediction = predicted(by=own)
    assert_bits(evenings.rows(prediction.path / "forecasts.parquet"), everything)
    shown = pd.read_csv(prediction.path / "predictions.csv")
    states = head == "quantile"
    for name in ("low_50", "high_90", "probability_of_rise"):
        assert shown[name].notna().all() == states and shown[name].isna().all() != states
    assert shown["median_price"].notna().all()
    assert "AAA" in (prediction.path / "report.html").read_text()


@pytest.mark.parametrize("market", ["AAA", None])
@pytest.mark.usefixtures("no_report")
def test_any_market_is_carried_on(
    world: World, evenings: Any, predicted: Predict, passed: Any, market: str | None
) -> None:
    """That of a symbol, read beside the one that is asked for; or none."""
    world.evening(evenings.TRAINED)
    name = "null" if market is None else market
    own = world.train(
        f"data.market={name}", "ensemble=1", "trainer.max_epochs=1", "evaluate=[test]"
    )
    everything = passed(own)
    world.evening(352)
    assert_bits(evenings.rows(predicted(by=own).path / "forecasts.parquet"), everything)
    alone = evenings.rows(predicted("data.symbols=DDD", by=own).path / "forecasts.parquet")
    pd.testing.assert_frame_equal(alone, everything.loc[alone.index], rtol=1e-6)


def copy_of(run: Run, folder: Path, **changes: Any) -> Run:
    """The folder of a run, whose configuration says something else."""
    shutil.copytree(run.path, folder / run.name)
    copied = Run(folder / run.name)
    facts = {key: changes.pop(key) for key in ("source",) if key in changes}
    copied.write("data.json", {**run.data, **facts})
    (copied.path / "config.yaml").write_text(yaml.safe_dump({**run.config, **changes}))
    return copied


def test_positions_are_refused(run: Run, predicted: Predict, tmp_path: Path) -> None:
    head = {"name": "position", "volatility": 10.0, "cost": 5.0}
    other = copy_of(run, tmp_path, head=head)
    with pytest.raises(ForecastError, match="holds no networks that forecast") as caught:
        predicted(by=other)
    assert "\n" not in str(caught.value) and run.name in str(caught.value)


def test_an_option_that_the_runs_prices_do_not_have_is_refused(
    run: Run, predicted: Predict, tmp_path: Path
) -> None:
    section = dict(compose("train", ["data=sp500"])["data"])
    other = copy_of(
        run, tmp_path, source="sp500", data={k: v for k, v in section.items() if k != "covariates"}
    )
    with pytest.raises(ForecastError, match="data.offline=True does not go with") as caught:
        predicted("data.offline=true", by=other)
    assert "data=sp500" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_report")
def test_the_same_prices_from_a_file_give_the_same_forecast(
    world: World, evenings: Any, run: Run, predicted: Predict, tmp_path: Path
) -> None:
    """Another source is a warning, and no other forecast."""
    world.evening(352)
    files = []
    for symbol in evenings.SYMBOLS:
        known = world.frames[symbol][world.frames[symbol]["date"] <= "2024-05-28"]
        files.append(known.assign(symbol=symbol).drop(columns=["split", "capital_gain"]))
    path = tmp_path / "prices.csv"
    pd.concat(files).to_csv(path, index=False)
    options = ["data=files", f"data.path={path}", "data.adjusted=false", "data.calendar=XNYS"]
    prediction = predicted(*options)
    assert "the run was trained on data=yahoo, not on data=files" in told(prediction)["warnings"]
    mine = evenings.rows(prediction.path / "forecasts.parquet")
    theirs = evenings.rows(predicted().path / "forecasts.parquet")
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-5)


@pytest.mark.usefixtures("no_report")
def test_a_panel_in_files_gives_the_same_forecast(
    world: World, predicted: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the run's own lay in memory; where it lies is no part of what is kept."""
    world.evening(352)
    files = ("forecasts.parquet", "predictions.csv", "config.yaml")
    here = predicted()
    kept = [(here.path / name).read_bytes() for name in files]
    monkeypatch.setattr("forecast.dataset.panel.LARGE", 1)
    there = predicted("data.in_memory=false")
    assert there.name == here.name
    assert [(there.path / name).read_bytes() for name in files] == kept
    assert len(list((world.home / "panels").glob("*/values.npy"))) == 1
    with pytest.raises(ForecastError, match="data.in_memory=perhaps is not true or false"):
        predicted("data.in_memory=perhaps")


# ------------------------------------------------------------------ what can be wrong


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["run=null"], ["run is null"]),
        (["run=lstm-nothere"], ["lstm-nothere", "is not in"]),
        (["network=gru"], ["gru"]),
        (["data.symbols=NOSUCH"], ["NOSUCH", "not in the price store"]),
        (["data.end=tomorrow"], ["tomorrow"]),
        (["data.end=2022-01-01"], ["2022-01-01"]),
        (["threads=0"], ["threads=0"]),
        (["threads=-1"], ["threads=-1"]),
        (["record=perhaps"], ["record", "perhaps"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_what_is_wrong_is_told_in_one_line(
    world: World, predicted: Predict, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    world.evening(342)
    with pytest.raises(ForecastError) as caught:
        predicted(*overrides)
    message = str(caught.value)
    assert "\n" not in message and [w for w in words if w not in message] == [], message
    assert not records(tmp_path)


def test_a_misspelt_option_is_told_in_one_line(run: Run) -> None:
    with pytest.raises(ForecastError, match="network") as caught:
        compose("predict", [f"run={run.path}", "netwrok=gru"])
    assert "\n" not in str(caught.value)


def test_a_symbol_within_its_warm_up_is_named(
    world: World, predicted: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has prices, and no forecast yet: that is said, not left to be noticed."""
    world.evening(342)
    facts = told(predicted())
    assert "FFF" in capsys.readouterr().out
    assert "FFF" in json.dumps(facts["left_out"] + facts["warnings"])
    with pytest.raises(ForecastError, match="FFF"):
        predicted("data.symbols=FFF")


# ------------------------------------------------------------------ the command


def command(*overrides: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FORECAST_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "forecast.predict", *overrides],
        env=environment, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def test_the_command_prints_a_table_and_where_everything_is(
    world: World, run: Run, tmp_path: Path
) -> None:
    """By the real clock all of it is long past, so it is told and nothing is recorded."""
    world.evening(342)
    done = command(f"run={run.path}", f"outputs={tmp_path}", "data.symbols=BBB", home=world.home)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (folder,) = tmp_path.glob("predict-*")
    assert {path.name for path in folder.iterdir()} == FILES
    assert "BBB" in done.stdout and f"report: {folder / 'report.html'}" in done.stdout
    assert "warning: the newest close of BBB is of 2024-05-13" in done.stdout
    assert "not recorded: 2 of 2 targets had begun" in done.stdout
    assert not (tmp_path / "live").exists()
    assert Run(folder).overrides == [f"run={run.path}", f"outputs={tmp_path}", "data.symbols=BBB"]


def test_the_command_fails_in_one_line(tmp_path: Path) -> None:
    done = command("run=lstm-nothere", f"outputs={tmp_path}", home=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and "lstm-nothere" in done.stderr
