"""`forecast.train` from end to end: complete, repeatable to the byte, and not to be killed."""

from __future__ import annotations

import csv
import importlib
import linecache
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from forecast import compose, list_runs, load_run
from forecast import train as door_module
from forecast.config import ForecastError, plain
from forecast.forecasts import read_blocks, read_forecasts, validate
from forecast.models.forecaster import Forecaster
from forecast.models.pipeline import make_datamodule, write_forecasts
from forecast.prices import load_prices
from forecast.run import Run
from forecast.train import train
from forecast.weights import read_weights

TINY = [
    "data=simulated", "data.n_symbols=6", "data.n_sessions=500", "horizons=[1,5]",
    "window.length=60", "window.warmup=25", "window.batch=16", "split.validation=60",
    "split.test=0.2", "model.hidden_size=4", "model.dropout=0.2", "ensemble=2", "trainer=cpu",
    "trainer.max_epochs=2", "trainer.patience=2", "progress=false",
]  # fmt: skip
FILES = {
    "config.yaml", "overrides.yaml", "environment.json", "data.json", "market.parquet",
    "history.csv", "train.log", "forecasts.parquet", "metrics.json", "timing.json", "report.html",
    "checkpoints/member-0/best.ckpt", "checkpoints/member-0/last.ckpt",
    "checkpoints/member-1/best.ckpt",  # both are continued from the first one's last
}  # fmt: skip
BYTES = ("metrics.json", "forecasts.parquet")
MODELS = {"lstm", "historical", "ewma_normal", "ewma_t", "truth"}
SCORES = {
    "rows", "crps", "crps_exact", "mae", "mae_zero", "coverage_50", "coverage_90", "log_score",
    "crps_scaled", "mae_scaled", "qlike", "interval_50", "interval_90", "fz0_01", "fz0_05",
    "hits_01", "hits_05", "pinball", "crps_exact_scaled", "pinball_scaled",
}  # fmt: skip

Train = Callable[..., Run]


def trained(outputs: Path, *overrides: str) -> Run:
    return train(compose("train", [*TINY, f"outputs={outputs}", *overrides]))


def files(folder: Path) -> dict[str, int]:
    """Every file below a folder, hidden ones too, with the time of its last change."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


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
    """The run all others are compared with: both parts at once, undisturbed, on one thread."""
    return trained(outputs, "threads=1")


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a step was trained")

    monkeypatch.setattr(Forecaster, "training_step", never)


# --------------------------------------------------------------------------- the folder


def test_the_folder_is_complete_and_holds_nothing_else(run: Run) -> None:
    assert set(files(run.path)) == FILES
    assert run.parts == ("validation", "test")
    assert run.name.startswith("lstm-")


def test_the_outputs_folder_holds_runs_the_ledger_and_locks(run: Run, outputs: Path) -> None:
    assert {p.name for p in outputs.iterdir()} == {run.name, "ledger.csv", ".locks"}


def test_metrics_have_the_stated_shape(run: Run) -> None:
    metrics = run.metrics
    assert list(metrics) == ["objective", "parts", "scores", "calibration", "dropped"]
    for part in ("validation", "test"):
        scores = metrics["scores"][part]
        assert set(scores) == MODELS
        for name, by_horizon in scores.items():
            assert list(by_horizon) == ["1", "5"]
            for row in by_horizon.values():
                assert set(row) == SCORES
                assert row["rows"] == scores["lstm"]["1" if row is by_horizon["1"] else "5"]["rows"]
                undefined = {key for key, value in row.items() if value is None}
                closed_form = {
                    "crps_exact", "crps_exact_scaled", "log_score", "fz0_01", "fz0_05",
                }  # fmt: skip
                assert undefined <= (closed_form if name in ("historical", "truth") else set())
        calibration = metrics["calibration"][part]["lstm"]["1"]
        assert len(calibration["coverage"]) == 21
        assert sum(calibration["pit_counts"]) == scores["lstm"]["1"]["rows"]
    own = metrics["scores"]["validation"]["lstm"].values()
    assert metrics["objective"] == pytest.approx(np.mean([row["crps_scaled"] for row in own]))


def test_forecasts_keep_every_rule_of_the_table(run: Run) -> None:
    path = run.path / "forecasts.parquet"
    for block in read_blocks(path):
        validate(block, str(path))
    table = read_forecasts(path)
    assert set(table["model"]) == MODELS
    fold = run.data["fold"]
    for part, rows in table.groupby("part", observed=True):
        first, last = fold[part]
        assert str(rows["origin"].min().date()) >= first
        assert str(rows["origin"].max().date()) <= last
    validation = table[table["part"] == "validation"]
    assert str(validation["target_date"].max().date()) < fold["test"][0], "purged"
    assert len(run.forecasts(part="test", model="lstm", symbols=["SIM0002"])) < len(table)


def test_every_look_is_on_the_ledger_once(run: Run, outputs: Path) -> None:
    lines = [line for line in ledger(outputs) if line["run"] == run.name]
    assert [line["part"] for line in lines] == ["validation", "test"]
    assert {line["data"] for line in lines} == {run.data["sha256"]}


def test_what_is_compared_by_bytes_does_not_know_where_it_lies(run: Run) -> None:
    for text in content(run):
        for private in (str(run.path), run.name, os.getcwd()):
            assert private.encode() not in text


def test_history_timing_and_data_tell_what_happened(run: Run) -> None:
    assert list(run.history()["epoch"]) == [1, 2, 1, 2]
    timing = run.timing
    assert set(timing) == {"fit_seconds", "targets_per_second", "total_seconds"}
    assert 0 < timing["fit_seconds"] < timing["total_seconds"]
    assert run.data["source"] == "simulated"
    assert [s["symbol"] for s in run.data["symbols"]] == [f"SIM000{i}" for i in range(1, 7)]
    assert run.environment["device"] == "cpu"
    assert run.config == plain(compose("train", [*TINY, f"outputs={run.path.parent}", "threads=1"]))


def test_the_loaded_model_makes_the_forecasts_that_are_stored(run: Run, tmp_path: Path) -> None:
    ensemble = load_run(run.path).model()
    prices = load_prices(run.config["data"])
    datamodule = make_datamodule(run.config, prices)
    write_forecasts(
        tmp_path / "again.parquet",
        datamodule,
        parts=("validation", "test"),
        ensembles={"lstm": ensemble},
        truth=prices.truth,
    )
    pd.testing.assert_frame_equal(
        read_forecasts(tmp_path / "again.parquet"),
        read_forecasts(run.path / "forecasts.parquet"),
        check_exact=True,
    )


def test_a_run_is_found_and_listed(
    run: Run, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outputs.parent)
    monkeypatch.setenv("FORECAST_OUTPUTS", outputs.name)
    assert load_run(run.name[:9]).metrics == run.metrics
    row = list_runs().set_index("run").loc[run.name]
    assert row["objective"] == run.metrics["objective"]
    assert (row["model"], row["head"], row["seed"]) == ("lstm", "student_t", 0)


# ------------------------------------------------------------------ the same once more


def test_a_finished_run_is_returned_at_once(
    run: Run, outputs: Path, no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before, looks = files(run.path), ledger(outputs)
    again = trained(outputs, "threads=1")
    assert again.path == run.path
    assert files(run.path) == before
    assert ledger(outputs) == looks
    assert "is finished (validation, test); force=true starts afresh" in capsys.readouterr().out


@pytest.mark.parametrize(
    "override", ["evaluate=[test]", "evaluate=[validation]", "progress=true", "threads=2",
                 "logger=csv", "trainer.accelerator=cpu"]
)  # fmt: skip
def test_what_changes_no_result_is_the_same_run(
    run: Run, outputs: Path, no_training: None, override: str
) -> None:
    before = files(run.path)
    assert trained(outputs, override).path == run.path
    assert files(run.path) == before


@pytest.mark.usefixtures("no_report")
def test_force_starts_afresh_and_ends_in_the_same_bytes(run: Run, tmp_path: Path) -> None:
    first = trained(tmp_path)
    before = files(first.path)
    assert content(first) == content(run)
    second = trained(tmp_path, "force=true")
    after = files(second.path)
    assert set(after) == FILES
    assert all(after[name] > before[name] for name in FILES)
    assert content(second) == content(run)
    assert len(ledger(tmp_path)) == 4, "what was looked at twice is on the ledger twice"


@pytest.mark.parametrize("first", ["validation", "test"])
def test_parts_may_be_added_in_any_order(
    run: Run, tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trained(tmp_path, f"evaluate=[{first}]")
    assert one.parts == (first,)
    assert set(one.metrics["scores"]) == {first}
    assert (one.metrics["objective"] is None) == (first == "test")
    assert set(one.forecasts()["part"]) == {first}
    report = (one.path / "report.html").read_bytes()
    weights = files(one.path / "checkpoints")

    with monkeypatch.context() as patch:
        patch.setattr(Forecaster, "training_step", None)
        both = trained(tmp_path)
    assert both.path == one.path
    assert files(one.path / "checkpoints") == weights, "nothing is fit again"
    assert set(files(one.path)) == FILES
    assert content(both) == content(run)
    assert (both.path / "report.html").read_bytes() != report
    assert [line["part"] for line in ledger(tmp_path)] == [
        first, {"validation": "test", "test": "validation"}[first]
    ]  # fmt: skip


@pytest.mark.usefixtures("no_report")
def test_two_threads_give_the_same_bytes(run: Run, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    two = trained(tmp_path, "threads=2")
    assert torch.get_num_threads() == before
    assert two.name == run.name
    assert content(two) == content(run)


@pytest.mark.usefixtures("no_report")
def test_another_seed_is_another_run_of_the_same_configuration(run: Run, outputs: Path) -> None:
    other = trained(outputs, "seed=1", "threads=1")
    assert other.name != run.name
    assert content(other)[0] != content(run)[0]
    lines = ledger(outputs)
    assert len({line["configuration"] for line in lines}) == 1
    assert len({line["run"] for line in lines}) == 2


@pytest.mark.usefixtures("no_report")
def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    numbers = np.random.get_state()[1].copy()
    trained(tmp_path, "trainer.max_epochs=1").model()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (np.random.get_state()[1] == numbers).all()


def test_a_lost_report_is_written_again_without_training(
    run: Run, outputs: Path, no_training: None
) -> None:
    report = run.path / "report.html"
    page = report.read_bytes()
    report.unlink()
    trained(outputs)
    assert report.read_bytes() == page
    assert set(files(run.path)) == FILES


# ------------------------------------------------------------------------------ damage


@pytest.mark.usefixtures("no_report")
def test_damaged_metrics_are_told_and_force_mends_them(run: Run, tmp_path: Path) -> None:
    hurt = trained(tmp_path)
    metrics = hurt.path / "metrics.json"
    metrics.write_text(metrics.read_text()[:100])
    with pytest.raises(ForecastError, match=r"metrics\.json is damaged .*force=true"):
        trained(tmp_path)
    assert content(trained(tmp_path, "force=true")) == content(run)


@pytest.mark.usefixtures("no_report")
def test_a_run_that_failed_says_why_until_it_succeeds(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import forecast.models.pipeline as pipeline

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("disk on fire")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write_forecasts", broken)
        with pytest.raises(RuntimeError):
            trained(tmp_path)
    (folder,) = tmp_path.glob("lstm-*")
    assert (folder / "error.txt").read_text() == "RuntimeError: disk on fire\n"
    assert not (folder / "metrics.json").exists()
    assert list_runs(tmp_path)["parts"].tolist() == [[]]
    with pytest.raises(ForecastError, match="is not finished"):
        load_run(folder)
    again = trained(tmp_path)
    assert set(files(again.path)) == FILES, "error.txt is gone"
    assert content(again) == content(run)


# --------------------------------------------------------------------- errors at the door

WRONG = {
    "model.hidden_size=abc": 'model.hidden_size="abc" is not a whole number',
    "model.hidden_size=0": "model.hidden_size=0",
    "model.bidirectional=true": "would read the future",
    "+model.features=3": "model.features is unknown",
    "model.cell=elman": "model.cell='elman' is unknown",
    "model.dropout=1.0": "model.dropout=1.0",
    "head.name=laplace": "head.name='laplace' is unknown",
    "+head.df=3": "head.df is unknown",
    "window.length=20": "window.length=20 is not longer than window.warmup=25",
    "window.batch=0": "window.batch=0",
    "+window.stride=3": "window.stride is unknown",
    "window=5": "window=5 replaces a section",
    "horizons=5": "horizons=5 is not a list of whole numbers",
    "horizons=[]": "horizons=[]",
    "horizons=[5,1]": "horizons=[5, 1] must be ascending",
    "horizons=[0,1]": "horizons=[0, 1]",
    "horizons=[400]": "no symbol has a row in the train range",
    "target.delay=-1": "target.delay=-1",
    "split.test=2": "split.test=2",
    "split.test=monday": "split.test='monday'",
    "split.test=2090-01-01": "leaves no test session",
    "split.validation=0": "split.validation=0",
    "split.validation=100000": "leave no training session",
    "+split.dates=[1]": "split.dates is unknown",
    "optimizer.lr=0": "optimizer.lr=0",
    "optimizer.lr=fast": 'optimizer.lr="fast" is not a number',
    "optimizer.beta1=1": "optimizer.beta1=1",
    "optimizer=adam": "optimizer=adam replaces a section",
    "loss.horizon_weights=[1]": "loss.horizon_weights=[1]",
    "loss.clip=0": "loss.clip=0",
    "+loss.seed=1": "loss.seed is unknown",
    "trainer.max_epochs=0": "trainer.max_epochs=0",
    "trainer.accelerator=tpu": "trainer.accelerator='tpu'",
    "+trainer.strategy=ddp": "trainer.strategy is unknown",
    "+logger.path=x": "logger.path is unknown",
    "ensemble=0": "ensemble=0",
    "ensemble=two": 'ensemble="two" is not a whole number',
    "seed=-1": "seed=-1",
    "threads=0": "threads=0",
    "evaluate=[]": "evaluate=[] scores nothing",
    "evaluate=[live]": "'live' is no part",
    "evaluate=test": 'evaluate="test" is not a list',
    "force=maybe": 'force="maybe" is not true or false',
    "+epochs=3": "epochs is unknown",
    "features=ohlcv": "needs the column 'open'",
    "features.columns=[volatilty_2]": "'volatilty_2' is not a feature",
    "features.own=[nope.f]": "'nope.f' cannot be used",
    "features.own=[math.pi]": "it is a float, no function",
    "features.scale_floor=nan": "features.scale_floor=nan",
    "data.max_gap=-1": "data.max_gap=-1",
    "data.symbols=[SIM0001,AAPL]": "'AAPL' is not in simulated",
    "data.symbols=[TRUE]": "Quote it",
    "data.start='2050-01-01'": "no session with a close",
    "data.market=AAPL": "data.market=AAPL is no symbol of the panel",
    "data.market=[a]": 'data.market=["a"] is not text or null',
    "data.max_gap=x": 'data.max_gap="x" is not a whole number',
    "data.process=brownian": "data.process=brownian",
    "data.n_sessions=10": "leave no training session",
    "+data.foo=1": "data.foo is unknown",
    "data._target_=os.getcwd": "data.process is unknown",
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_looks_finished(typed: str, tmp_path: Path) -> None:
    with pytest.raises(ForecastError) as caught:
        trained(tmp_path, typed)
    assert WRONG[typed] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not list(tmp_path.rglob("metrics.json"))


def test_targets_that_are_all_masked_are_refused_with_the_remedy(tmp_path: Path) -> None:
    days = pd.bdate_range("1990-01-02", periods=400 * 21)[::21]
    frame = pd.DataFrame({"date": days, "A": np.exp(0.01 * np.arange(len(days)) % 7 + 3)})
    frame.to_csv(tmp_path / "monthly.csv", index=False)
    source = ["data=files", f"data.path={tmp_path / 'monthly.csv'}", "data.adjusted=true"]
    tiny = [o for o in TINY if not o.startswith("data")]
    options = [*tiny, *source, "data.calendar=XNYS", f"outputs={tmp_path / 'o'}"]
    with pytest.raises(ForecastError, match=r"over 1 sessions is known.* data\.max_gap=10"):
        train(compose("train", options))


@pytest.mark.usefixtures("no_report")
def test_an_own_feature_that_was_changed_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    names = set()
    for code in ("p.close.pct_change()", "p.close.pct_change(2)"):
        (tmp_path / "mine_changed.py").write_text(f"def f(p):\n    return {code}\n")
        sys.modules.pop("mine_changed", None)
        importlib.invalidate_caches()
        linecache.clearcache()
        short = ["features.own=[mine_changed.f]", "ensemble=1", "trainer.max_epochs=1"]
        names.add(trained(tmp_path / "o", *short, "evaluate=[validation]").name)
    assert len(names) == 2


@pytest.mark.parametrize("section", ["model", "data", "loss", "horizons"])
def test_a_missing_section_is_named(section: str, tmp_path: Path) -> None:
    config = plain(compose("train", [*TINY, f"outputs={tmp_path}"]))
    del config[section]
    with pytest.raises(ForecastError, match=f"the section {section} is missing"):
        train(config)


# ------------------------------------------------------------------------------ positions

POSITION = ["head=position", "horizons=[1]", "window.batch=60", "ensemble=1"]
TRADED = ("weights.parquet", "returns.parquet", "positions.parquet", "trades.parquet")


@pytest.fixture(scope="module")
def positions(outputs: Path) -> Run:
    """A run whose head states positions: both parts at once, on one thread."""
    return trained(outputs, *POSITION, "threads=1")


def test_a_run_of_positions_holds_weights_and_what_they_earned(
    positions: Run, outputs: Path
) -> None:
    forecasts = {"forecasts.parquet", *(name for name in FILES if "member-1" in name)}
    assert set(files(positions.path)) == (FILES - forecasts) | set(TRADED)
    metrics = positions.metrics
    assert positions.parts == ("validation", "test") and "scores" not in metrics
    own = {part: metrics["performance"][part]["lstm"]["position"] for part in positions.parts}
    assert metrics["objective"] == -own["validation"]["sharpe"]
    assert metrics["execution"] == "next_close" and not metrics["optimistic"]
    assert set(metrics["performance"]["test"]["none"]) == set(metrics["benchmark_strategies"])
    returns = pd.read_parquet(positions.path / "returns.parquet")
    mine = returns[(returns["part"] == "test") & (returns["strategy"] == "position")]
    assert np.prod(1 + mine["simple_return"]) - 1 == pytest.approx(own["test"]["total_return"])
    weights = read_weights(positions.path / "weights.parquet")
    stated = weights[weights["strategy"] == "position"]
    assert set(stated["model"]) == {"lstm"} and set(stated["part"]) == set(positions.parts)
    looks = [line for line in ledger(outputs) if line["run"] == positions.name]
    assert [line["part"] for line in looks] == ["validation", "test"]
    trial = [line for line in ledger(outputs) if line["run"] == f"{positions.name}/lstm/position"]
    assert [line["part"] for line in trial] == ["validation", "test"]
    assert "position" in (positions.path / "train.log").read_text()
    assert "</html>" in (positions.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_report")
def test_a_part_added_to_positions_later_gives_the_same_bytes_at_any_number_of_threads(
    positions: Run, tmp_path: Path
) -> None:
    trained(tmp_path, *POSITION, "threads=2", "evaluate=[test]")
    later = trained(tmp_path, *POSITION, "threads=2")
    assert later.name == positions.name
    assert content_of(later) == content_of(positions)


@pytest.mark.usefixtures("no_report")
def test_positions_of_the_validation_part_alone_earn_nothing_of_the_test_range(
    positions: Run, tmp_path: Path
) -> None:
    alone = trained(tmp_path, *POSITION, "evaluate=[validation]")
    both, returns = (
        pd.read_parquet(run.path / "returns.parquet").astype({"part": str})
        for run in (positions, alone)
    )
    before = both[(both["part"] == "validation").to_numpy()].reset_index(drop=True)
    pd.testing.assert_frame_equal(returns, before, check_dtype=False)
    assert returns["date"].max() < pd.Timestamp(alone.data["fold"]["test"][0])
    assert alone.metrics["objective"] == positions.metrics["objective"]


def test_a_finished_run_of_positions_is_returned_at_once_and_its_networks_load(
    positions: Run, outputs: Path, no_training: None
) -> None:
    assert content_of(trained(outputs, *POSITION)) == content_of(positions)
    ensemble = load_run(positions.path).model()
    with pytest.raises(ForecastError, match="states weights, no forecasts"):
        ensemble.distribution(None, None, None)  # type: ignore[arg-type]


def content_of(run: Run) -> list[bytes]:
    return [(run.path / name).read_bytes() for name in ("metrics.json", *TRADED)]


def test_the_loss_of_positions_is_what_trading_them_earns(positions: Run) -> None:
    """Up to what weights drift between closes, which the loss leaves out."""
    best = positions.history()["validation_loss"].min()
    assert positions.metrics["objective"] == pytest.approx(best, abs=0.25)


# ---------------------------------------------------------------------- killed, and resumed


@pytest.fixture(scope="module")
def dying() -> Callable[..., Any]:
    """Start tests/dying.py in a fork of a process that has everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["forecast.train", "forecast.models.pipeline", "forecast.report.page",
         "forecast.evaluation.scores", "hydra", "pyarrow.parquet", "scipy.optimize",
         "exchange_calendars"]
    )  # fmt: skip

    def start(out: Path, *overrides: str, **where: str) -> Any:
        facts = {"out": str(out), "overrides": [*TINY, *overrides], **where}
        process = context.Process(
            target=runpy.run_path,
            args=(str(Path(__file__).with_name("dying.py")),),
            kwargs={"init_globals": {"FACTS": facts}, "run_name": "__main__"},
        )
        process.start()
        return process

    return start


def ended(process: Any) -> int:
    process.join(120)
    assert process.exitcode is not None, "still running"
    return int(process.exitcode)


WRITES = [
    "config.yaml", "environment.json", "market.parquet", "data.json", "history.csv",
    "member-0/best.ckpt", "member-1/best.ckpt", "member-0/last.ckpt",
    "forecasts-new.parquet", "forecasts.parquet", "metrics.json", "timing.json", "report.html",
]  # fmt: skip


# After each of them, and before those between which something else is written or appended.
POINTS = [
    (name, when)
    for name in WRITES
    for when in ("before", "after")
    if when == "after" or name in ("member-0/best.ckpt", "forecasts.parquet", "metrics.json")
]


@pytest.mark.usefixtures("no_report")
def test_the_writes_at_which_it_is_killed_are_all_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, replace = [], os.replace

    def spy(source: Any, target: Any) -> None:
        seen.append(Path(target).as_posix())
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    trained(tmp_path)
    unknown = [
        s for s in seen if not s.endswith(tuple(f"/{w}" for w in [*WRITES, "overrides.yaml"]))
    ]
    assert not unknown


def test_killed_at_every_write_it_ends_as_if_it_never_had_been(
    run: Run, tmp_path: Path, dying: Callable[..., Any]
) -> None:
    """One folder, killed at each of its writes in turn, then left in peace."""
    out, outputs = tmp_path / "out.txt", tmp_path / "outputs"
    for name, when in POINTS:
        assert ended(dying(out, f"outputs={outputs}", name=name, when=when)) == 9, (name, when)
        complete = list(outputs.glob("*/metrics.json"))
        assert bool(complete) == (
            (name, when) == ("metrics.json", "after") or name in ("timing.json", "report.html")
        )
    assert ended(dying(out, f"outputs={outputs}")) == 0, out.read_text()
    resumed = Run(outputs / run.name)
    assert set(files(resumed.path)) == FILES, "nothing is left lying about"
    assert content(resumed) == content(run)
    assert {line["part"] for line in ledger(outputs)} == {"validation", "test"}
    without_time = [r.history().drop(columns="seconds") for r in (resumed, run)]
    assert without_time[0].equals(without_time[1])


@pytest.mark.usefixtures("no_report")
def test_killed_while_a_part_is_added_the_other_part_stays_whole(
    run: Run, tmp_path: Path, dying: Callable[..., Any]
) -> None:
    out = tmp_path / "out.txt"
    one = trained(tmp_path, "evaluate=[validation]")
    metrics = one.metrics
    adding = ("forecasts-new.parquet", "forecasts.parquet", "metrics.json", "report.html")
    for name, when in [point for point in POINTS if point[0] in adding]:
        assert ended(dying(out, f"outputs={tmp_path}", name=name, when=when)) == 9, (name, when)
        if one.parts == ("validation",):
            assert one.metrics == metrics
            assert set(one.forecasts(part="validation")["model"]) == MODELS
    assert one.parts == ("validation", "test")
    trained(tmp_path)
    assert set(files(one.path)) == FILES
    assert content(one) == content(run)


def test_of_two_processes_the_second_waits_and_returns_the_finished_run(
    run: Run, tmp_path: Path, dying: Callable[..., Any]
) -> None:
    outs = tmp_path / "first.txt", tmp_path / "second.txt"
    hold, outputs = tmp_path / "hold", tmp_path / "outputs"
    first = dying(outs[0], f"outputs={outputs}", hold=str(hold))
    deadline = time.monotonic() + 60
    while not hold.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = dying(outs[1], f"outputs={outputs}")
    while "waiting" not in (outs[1].read_text() if outs[1].exists() else ""):
        assert time.monotonic() < deadline, outs[1].read_text()
        time.sleep(0.01)
    (tmp_path / "hold.go").touch()
    assert [ended(first), ended(second)] == [0, 0]
    assert "is finished (validation, test)" in outs[1].read_text()
    assert len(ledger(outputs)) == 2
    assert content(Run(outputs / run.name)) == content(run)


# ------------------------------------------------------------------------- command line


def command(*typed: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forecast.train", *typed],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The command line in this process; its exit status."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.chdir(tmp_path)

    def here(*typed: str) -> int:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["train", *typed])
        try:
            door_module.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    yield here
    root.handlers[:], root.level = handlers, level


def test_an_error_on_the_command_line_is_one_line_and_status_1(tmp_path: Path) -> None:
    done = command("data.symbols=[AAPX]", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == ("error: data.symbols: 'AAPX' is not in sp500. Did you mean 'AAPL'?\n")
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.usefixtures("no_report")
def test_ctrl_c_is_one_line_and_the_same_command_continues(
    tmp_path: Path, here: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feature of the user's presses Ctrl-C as soon as the first checkpoint lies on the disk."""
    (tmp_path / "mine.py").write_text(
        "import glob, os, signal, threading, time\n"
        "def press():\n"
        "    while not glob.glob('outputs/lstm-*/checkpoints/member-0/last.ckpt'):\n"
        "        time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "def feature(prices):\n"
        "    if os.environ.get('PRESS') and threading.active_count() < 2:\n"
        "        threading.Thread(target=press, daemon=True).start()\n"
        "    return prices.close.pct_change()\n"
    )
    typed = [
        *TINY, "features.own=[mine.feature]", "ensemble=1", "trainer.max_epochs=30",
        "trainer.patience=30",
    ]  # fmt: skip
    stopped = command(*typed, cwd=tmp_path, PRESS="1")
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.stderr == "interrupted: the same command continues where this one stopped\n"
    (folder,) = (tmp_path / "outputs").glob("lstm-*")
    assert not (folder / "metrics.json").exists()
    assert not (folder / "error.txt").exists()
    done = len(Run(folder).history())
    assert 0 < done < 30

    monkeypatch.syspath_prepend(tmp_path)
    assert here(*typed) == 0
    resumed = Run(folder)
    assert list(resumed.history()["epoch"]) == list(range(1, 31))
    assert here(*typed, "outputs=undisturbed") == 0
    (undisturbed,) = (tmp_path / "undisturbed").glob("lstm-*")
    assert content(resumed) == content(Run(undisturbed))


@pytest.mark.usefixtures("no_report")
def test_a_sweep_scores_validation_only_and_outlives_a_failing_job(
    tmp_path: Path, here: Callable[..., int], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    typed = ["-m", *TINY, "ensemble=1", "trainer.max_epochs=1", "model=rnn,lstm,gru"]
    assert here(*typed, "model.hidden_size=2,0,3") == 1
    error = capfd.readouterr().err
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(told) == 3, "one line for each job that failed"
    assert all("model.hidden_size=0" in line for line in told)
    assert "Traceback" not in error

    runs = [Run(p) for p in sorted((tmp_path / "outputs").glob("*-*")) if p.is_dir()]
    made = {(r.config["model"]["cell"], r.config["model"]["hidden_size"]) for r in runs}
    assert made == {(cell, size) for cell in ("rnn", "lstm", "gru") for size in (2, 3)}
    assert len(runs) == 6, "never two in one folder"
    assert {r.parts for r in runs} == {("validation",)}
    assert {line["part"] for line in ledger(tmp_path / "outputs")} == {"validation"}

    monkeypatch.setattr(Forecaster, "training_step", None)
    before = files(tmp_path / "outputs")
    assert here(*typed, "model.hidden_size=2,3") == 0
    after = files(tmp_path / "outputs")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {".multirun/multirun.yaml"}, "a second call returns at once"


@pytest.mark.usefixtures("no_report")
def test_a_sweep_scores_the_test_part_only_when_it_is_typed(
    tmp_path: Path, here: Callable[..., int]
) -> None:
    typed = [*TINY, "ensemble=1", "trainer.max_epochs=1", "seed=0,1", "evaluate=[test]", "-m"]
    (tmp_path / "conf").mkdir()  # which is looked into wherever -m stands
    assert here(*typed) == 0
    runs = [Run(p) for p in (tmp_path / "outputs").glob("lstm-*")]
    assert [r.parts for r in runs] == [("test",)] * 2


@pytest.mark.usefixtures("no_report")
def test_own_experiments_are_found_where_the_command_is_called(
    tmp_path: Path, here: Callable[..., int]
) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: gru\nensemble: 1\n"
    )
    typed = [t for t in TINY if not t.startswith("ensemble")]
    assert here(*typed, "experiment=mine", "evaluate=[validation]") == 0
    table = list_runs()
    assert table["model"].tolist() == ["gru"]
    assert load_run("gru").config["ensemble"] == 1
    assert load_run("gru").overrides == [*typed, "experiment=mine", "evaluate=[validation]"]
    train_again = compose("train", [*typed, "experiment=mine"])
    assert train_again.model.cell == "gru"


# ------------------------------------------------------------------------ hostile symbols

NASTY = [
    "../../x", "BRK/B", "<b>", "CON", "a b", "ünï", "NUL.txt", "'quoted'", "$(touch owned)",
    "</script><script>alert(1)</script>", "%s{0}", "NA", "TRUE", "000001",
]  # fmt: skip


def test_symbols_of_any_spelling_are_safe_in_paths_and_pages(tmp_path: Path) -> None:
    simulated = load_prices("simulated", n_symbols=len(NASTY), n_sessions=300, truth=False).frame
    spelled = dict(zip(simulated["symbol"].cat.categories, NASTY, strict=True))
    table = simulated[["date", "symbol", "close"]].assign(
        symbol=simulated["symbol"].astype(str).map(spelled)
    )
    table.to_csv(tmp_path / "prices.csv", index=False)
    known = np.unique(table["date"].to_numpy())
    pd.DataFrame({"date": known, "vix": np.arange(len(known)) % 7.0}).to_csv(
        tmp_path / "vix.csv", index=False
    )
    outputs = tmp_path / "outputs"
    own = [t for t in TINY if not t.startswith("data")]
    run = train(
        compose(
            "train",
            [
                *own, "data=files", f"data.path={tmp_path / 'prices.csv'}", "data.adjusted=true",
                f"data.covariates=[{{path: {tmp_path / 'vix.csv'}}}]", f"outputs={outputs}",
                "split.validation=50",
            ],
        )
    )  # fmt: skip
    assert set(files(run.path)) == FILES
    assert {p.name for p in tmp_path.iterdir()} == {"prices.csv", "vix.csv", "outputs"}
    assert {p.name for p in outputs.iterdir()} == {run.name, "ledger.csv", ".locks"}
    assert [s["symbol"] for s in run.data["symbols"]] == sorted(NASTY)
    assert run.data["features"][-1] == "vix"
    assert set(run.forecasts()["symbol"]) == set(NASTY)
    for symbol in ("../../x", "<b>", "NA", "000001"):
        assert set(run.forecasts(symbols=[symbol])["symbol"]) == {symbol}
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in page
    assert "<td><b></td>" not in page
    assert "&lt;b&gt;" in page
