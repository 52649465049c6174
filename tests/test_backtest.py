"""`forecast.backtest` from end to end: one walk, the same bytes however it was interrupted."""

from __future__ import annotations

import contextlib
import csv
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

import forecast.models.walk as walk_module
import forecast.prices as prices_module
from forecast import backtest as door_module
from forecast import compose, load_prices, load_run
from forecast.backtest import backtest
from forecast.config import ForecastError
from forecast.evaluation.causality import OUTCOME, check_perturbation, check_truncation
from forecast.forecasts import KEY, read_blocks, read_forecasts, validate
from forecast.models.checkpoints import best_checkpoint, read_checkpoint
from forecast.models.forecaster import Forecaster
from forecast.models.walk import Step, work
from forecast.prices.frame import Prices
from forecast.run import Run
from forecast.train import train

SHARED = [
    "data=simulated", "data.n_symbols=5", "data.n_sessions=600", "horizons=[1,5]",
    "window.length=60", "window.warmup=25", "window.batch=16", "split.validation=60",
    "model.hidden_size=4", "model.dropout=0.2", "ensemble=1", "trainer=cpu",
    "trainer.max_epochs=2", "trainer.patience=2", "progress=false",
]  # fmt: skip
FIRST = "1991-06-03"
TINY = [
    *SHARED, f"backtest.first={FIRST}", "backtest.refit=4m", "backtest.jobs=1",
    "backtest.baselines=[historical,ewma_t,linear]", "significance.benchmark=ewma_t",
    "significance.repetitions=100",
]  # fmt: skip
FITS = ("lstm", "linear")
MODELS = ["lstm", "linear", "historical", "ewma_t", "truth"]
FOLDS = 3
BYTES = ("metrics.json", "forecasts.parquet", "daily.parquet", "breakdown.csv")
FILES = {
    "config.yaml", "overrides.yaml", "environment.json", "data.json", "market.parquet", "train.log",
    "forecasts.parquet", "daily.parquet", "breakdown.csv", "fluctuation.parquet", "metrics.json",
    "timing.json", "report.html",
    *(
        f"fold-0{fold}/{name}-{part}.json"
        for fold, name in itertools.product(range(FOLDS), (*FITS, "baselines"))
        for part in (("validation", "test") if fold == 0 else ("test",))
    ),
    *(
        f"fold-0{fold}/{name}/{file}"
        for fold, name in itertools.product(range(FOLDS), FITS)
        for file in (
            "history.csv", "checkpoints/member-0/best.ckpt", "checkpoints/member-0/last.ckpt",
        )
    ),
}  # fmt: skip


class Killed(BaseException):
    """Stands for an end that nothing in the package may catch."""


def walked(outputs: Path, *overrides: str) -> Run:
    return backtest(compose("backtest", [*TINY, f"outputs={outputs}", *overrides]))


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
    """The run all others are compared with: both parts at once, undisturbed, in this process."""
    return walked(outputs)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was done again")

    monkeypatch.setattr(walk_module, "work", never)


@pytest.fixture
def steps_done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the steps that are worked on, as they begin."""
    done: list[str] = []

    def spy(step: Step, **options: Any) -> list[str]:
        done.append(f"fold {step.fold.index}, {step.model}")
        return work(step, **options)

    monkeypatch.setattr(walk_module, "work", spy)
    return done


# --------------------------------------------------------------------------- the folder


def test_the_folder_is_complete_and_holds_nothing_else(run: Run, outputs: Path) -> None:
    assert set(files(run.path)) == FILES
    assert run.parts == ("validation", "test")
    assert run.name.startswith("backtest-")
    assert {p.name for p in outputs.iterdir()} == {run.name, "ledger.csv", ".locks"}


def test_all_models_are_scored_on_the_same_rows_of_all_folds(run: Run) -> None:
    path = run.path / "forecasts.parquet"
    for block in read_blocks(path):
        validate(block, str(path))
    table = read_forecasts(path).astype({"model": str, "part": str, "symbol": str})
    keys = {
        model: set(map(tuple, rows[["fold", "part", "symbol", "origin", "horizon"]].to_numpy()))
        for model, rows in table.groupby("model")
    }
    assert set(keys) == set(MODELS)
    assert len({frozenset(found) for found in keys.values()}) == 1
    assert set(table.loc[table["part"] == "validation", "fold"]) == {0}, "where choices are made"
    for told in run.data["folds"]:
        for part in ("validation", "test")[told["index"] > 0 :]:
            rows = table[(table["part"] == part) & (table["fold"] == told["index"])]
            origins = [str(day.date()) for day in (rows["origin"].min(), rows["origin"].max())]
            assert told[part][0] == origins[0]
            # What lies behind is purged, and at the end of the data has no known target.
            assert told[part][1] >= origins[1]
    for part, models in run.metrics["scores"].items():
        assert list(models) == MODELS
        for horizon in ("1", "5"):
            rows = {models[m][horizon]["rows"] for m in MODELS}
            known = table[(table["part"] == part) & (table["horizon"] == int(horizon))]
            assert rows == {int(known["actual"].notna().sum()) / len(MODELS)}


def test_metrics_tell_fits_scores_and_significance(run: Run) -> None:
    metrics = run.metrics
    assert metrics["parts"] == ["validation", "test"]
    assert metrics["networks"] == ["lstm"]
    assert {name: [f["fold"] for f in fits] for name, fits in metrics["fits"].items()} == {
        name: list(range(FOLDS)) for name in FITS
    }
    assert metrics["dropped"] == {"validation": 0, "test": 0}
    assert metrics["fallbacks"] == {}
    for section in ("scores", "calibration", "risk", "significance"):
        assert list(metrics[section]) == ["validation", "test"]
    pairs = metrics["significance"]["test"]["1"]["crps"]["pairs"]
    assert set(pairs) == {"lstm"}
    assert set(pairs["lstm"]) == set(MODELS) - {"lstm"}


def test_the_objective_is_the_validation_score_of_the_first_model(run: Run) -> None:
    own = run.metrics["scores"]["validation"]["lstm"].values()
    assert run.metrics["objective"] == pytest.approx(np.mean([row["crps_scaled"] for row in own]))


def test_every_look_is_on_the_ledger_once(run: Run, outputs: Path) -> None:
    lines = [line for line in ledger(outputs) if line["run"] == run.name]
    assert [line["part"] for line in lines] == ["validation", "test"]
    assert {line["data"] for line in lines} == {run.data["sha256"]}
    folds = run.data["folds"]
    assert [lines[0]["first"], lines[0]["last"]] == folds[0]["validation"]
    assert [lines[1]["first"], lines[1]["last"]] == [FIRST, folds[-1]["test"][1]]


def test_what_is_compared_by_bytes_does_not_know_where_it_lies(run: Run) -> None:
    for text in content(run):
        for private in (str(run.path), run.name, os.getcwd()):
            assert private.encode() not in text


def test_timing_counts_every_fit(run: Run) -> None:
    timing = run.timing
    assert 0 < timing["fit_seconds"] < timing["total_seconds"]
    epochs = len(FITS) * 2
    targets = sum(epochs * fold["targets"] for fold in run.data["folds"])
    assert timing["targets_per_second"] == pytest.approx(targets / timing["fit_seconds"])


def test_the_networks_of_any_fold_can_be_loaded(run: Run) -> None:
    loaded = load_run(run.path)
    for cell, fold in itertools.product(FITS, range(FOLDS)):
        path = best_checkpoint(run.path / f"fold-0{fold}" / cell, 0)
        state = read_checkpoint(path)["state_dict"]
        (network,) = loaded.model(cell, fold=fold).networks
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[f"network.{name}"])
    newest = loaded.model().networks[0].mean_F
    assert torch.equal(newest, loaded.model("lstm", fold=FOLDS - 1).networks[0].mean_F)
    with pytest.raises(ForecastError, match="has no networks gru: there are lstm, linear"):
        loaded.model("gru")


# ------------------------------------------------------------------------------ the method


def test_fold_0_is_what_training_makes_of_the_same_split(run: Run, tmp_path: Path) -> None:
    """The same bits, from the network and from the baselines; training's test range is longer."""
    once = train(compose("train", [*SHARED, f"split.test={FIRST}", f"outputs={tmp_path}"]))
    mine, theirs = (
        read_forecasts(r.path / "forecasts.parquet").astype({"model": str, "part": str})
        for r in (run, once)
    )
    mine = mine[(mine["fold"] == 0) & (mine["model"] != "linear")].set_index(list(KEY))
    theirs = theirs.set_index(list(KEY)).loc[mine.index]
    assert {m for m, *_ in mine.index} == {"lstm", "historical", "ewma_t", "truth"}
    pd.testing.assert_frame_equal(mine, theirs, check_exact=True)


@pytest.fixture
def walk_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> Callable[[Prices], pd.DataFrame]:
    """A whole walk-forward as a function of prices alone; once for equal prices."""
    kept: dict[str, pd.DataFrame] = {}

    def walk_on(prices: Prices) -> pd.DataFrame:
        if prices.sha256 not in kept:
            monkeypatch.setattr(prices_module, "load_prices", lambda section: prices)
            run = walked(
                tmp_path, "data.truth=false", "recalibrate=conformal", "trainer.max_epochs=1"
            )  # fmt: skip
            table = read_forecasts(run.path / "forecasts.parquet")
            kept[prices.sha256] = table.astype({"model": str, "part": str, "symbol": str})
        return kept[prices.sha256]

    return walk_on


def test_no_forecast_of_a_walk_knows_a_later_price(
    walk_on: Callable[[Prices], pd.DataFrame],
) -> None:
    """Neither of networks nor baselines nor recalibrated copies, in this fold or the ones before.

    The date lies within the second fold, whose networks are trained on the dates before it.
    """
    prices, date = load_prices("simulated", n_symbols=5, n_sessions=600, truth=False), "1991-12-02"
    found = check_truncation(walk_on, prices, last=date)
    assert found is None, str(found)

    def before(some: Prices) -> dict[str, np.ndarray]:
        table = walk_on(some)
        table = table[table["origin"] < date].drop(columns=[*OUTCOME])
        assert set(table["fold"]) == {0, 1} and len(set(table["model"])) == 8
        return {str(name): table[name].to_numpy() for name in table}

    found = check_perturbation(before, prices, first=date)
    assert found is None, str(found)


def test_a_walk_that_did_know_would_be_found_out(
    walk_on: Callable[[Prices], pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test is one that can fail: here training reaches into the test range."""
    from dataclasses import replace

    import forecast.models.configured as configured

    honest = configured.walk_forward

    def greedy(dates: np.ndarray, **options: Any) -> Iterator[Any]:
        for fold in honest(dates, **options):
            yield replace(fold, train_end=fold.test + np.timedelta64(40, "D"))

    monkeypatch.setattr(configured, "walk_forward", greedy)
    prices = load_prices("simulated", n_symbols=5, n_sessions=600, truth=False)
    assert check_truncation(walk_on, prices, last="1991-06-20") is not None


# ------------------------------------------------------------------ the same once more


def test_a_finished_run_is_returned_at_once(
    run: Run, outputs: Path, no_work: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before, looks = files(run.path), ledger(outputs)
    assert walked(outputs).path == run.path
    assert files(run.path) == before
    assert ledger(outputs) == looks
    assert "is finished (validation, test); force=true starts afresh" in capsys.readouterr().out


@pytest.mark.parametrize(
    "override",
    ["evaluate=[test]", "threads=2", "backtest.jobs=2", "backtest.executor=ray", "progress=true"],
)
def test_what_changes_no_result_is_the_same_run(
    run: Run, outputs: Path, no_work: None, override: str
) -> None:
    before = files(run.path)
    assert walked(outputs, override).path == run.path
    assert files(run.path) == before


def test_another_figure_is_drawn_without_a_fit(run: Run, outputs: Path, no_work: None) -> None:
    page, before = (run.path / "report.html").read_bytes(), files(run.path)
    dates = "report.origins=['1991-08-08','1992-02-03']"
    assert walked(outputs, dates).path == run.path
    changed = {name for name, time in files(run.path).items() if time != before[name]}
    assert changed == {"config.yaml", "report.html"}
    text = (run.path / "report.html").read_bytes()
    assert text != page and b"1991-08-08" in text
    walked(outputs)
    assert (run.path / "report.html").read_bytes() == page


def test_force_starts_afresh_and_ends_in_the_same_bytes(
    run: Run, tmp_path: Path, no_report: None, steps_done: list[str]
) -> None:
    walked(tmp_path)
    assert content(walked(tmp_path, "force=true")) == content(run)
    assert len(steps_done) == 2 * FOLDS * 3
    assert len(ledger(tmp_path)) == 4, "what was looked at twice is on the ledger twice"


@pytest.mark.parametrize("recalibrate", ["none", "conformal"])
def test_parts_in_any_order_end_in_the_same_bytes(
    run: Run,
    tmp_path: Path,
    no_report: None,
    recalibrate: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, whole, last = [f"recalibrate={recalibrate}"], run, "aligned.parquet"
    if recalibrate == "conformal":
        last = "recalibrated.parquet"
        options += ["backtest.baselines=[ewma_t]", "data.truth=false"]
        whole = walked(tmp_path / "both", *options)
        models = ["lstm", "ewma_t", "lstm_conformal", "ewma_t_conformal"]
        assert list(whole.metrics["scores"]["test"]) == models
        assert list(whole.metrics["significance"]["test"]["1"]["crps"]["pairs"]) == models[::2]
    for first in ("validation", "test"):
        one = walked(tmp_path / first, *options, f"evaluate=[{first}]")
        assert one.parts == (first,)
        assert set(one.metrics["scores"]) == {first}
        assert (one.metrics["objective"] is None) == (first == "test")
        assert set(one.forecasts()["part"]) == {first}
        if first == "validation":
            assert {p.name for p in one.path.glob("fold-*")} == {"fold-00"}, "what it takes"
        trained, table = files(one.path / "fold-00" / "lstm"), one.forecasts()
        with monkeypatch.context() as patch:
            kill_at(patch, last, when="after")
            with pytest.raises(Killed):
                walked(tmp_path / first, *options)
        assert one.parts == (first,), "killed while a part is added, the other stays whole"
        pd.testing.assert_frame_equal(one.forecasts(), table)
        both = walked(tmp_path / first, *options)
        assert both.path == one.path
        assert files(one.path / "fold-00" / "lstm") == trained, "nothing is fit again"
        assert set(files(both.path)) == set(files(whole.path))
        assert content(both) == content(whole)
        other = {"validation": "test", "test": "validation"}[first]
        assert [line["part"] for line in ledger(tmp_path / first)] == [first, other]


def test_training_leaves_the_callers_random_numbers_and_threads_alone(
    tmp_path: Path, no_report: None
) -> None:
    torch.manual_seed(3)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    numbers = np.random.get_state()[1].copy()
    walked(tmp_path, "trainer.max_epochs=1", "evaluate=[validation]", "threads=2")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert (np.random.get_state()[1] == numbers).all()


# --------------------------------------------------------------- killed, failed, resumed

STEP = [
    f"{name}-{part}" for name in ("baselines", "lstm", "linear") for part in ("validation", "test")
]
WRITES = [
    "config.yaml", "overrides.yaml", "environment.json", "market.parquet", "data.json",
    # In the order of the steps, the longest first.
    *(f"{step}.{ending}" for step in STEP[:2] for ending in ("parquet", "json")),
    "history.csv", "best.ckpt", "last.ckpt", "timing.json",
    *(f"{step}.{ending}" for step in STEP[2:] for ending in ("parquet", "json")),
    "aligned.parquet", "forecasts.parquet", "daily.parquet", "fluctuation.parquet",
    "breakdown.csv", "metrics.json", "report.html",
]  # fmt: skip


def kill_at(patch: pytest.MonkeyPatch, name: str, *, when: str) -> None:
    """Let the process end as a file of some name is put in its place, or once it is there."""
    replace = os.replace

    def replace_and_die(source: Any, target: Any) -> None:
        here = Path(target).name == name
        if here and when == "before":
            raise Killed
        replace(source, target)
        if here:
            raise Killed

    patch.setattr(os, "replace", replace_and_die)


def test_the_writes_at_which_it_is_killed_are_all_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, replace = set(), os.replace

    def spy(source: Any, target: Any) -> None:
        seen.add(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    walked(tmp_path, "trainer.max_epochs=1")
    assert seen == set(WRITES)


def test_killed_at_every_write_it_ends_as_if_it_never_had_been(
    run: Run, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder, killed at writes of every name in turn, then left in peace."""
    points = [
        (name, when)
        for name in WRITES
        for when in ("before", "after")
        if when == "after" or name in ("lstm-test.json", "forecasts.parquet", "metrics.json")
    ]
    for name, when in points:
        with monkeypatch.context() as patch:
            kill_at(patch, name, when=when)
            with pytest.raises(Killed):
                walked(tmp_path)
        complete = bool(list(tmp_path.glob("*/metrics.json")))
        assert complete == ((name, when) in [("metrics.json", "after"), ("report.html", "after")])
    resumed = walked(tmp_path)
    assert set(files(resumed.path)) == FILES, "nothing is left lying about"
    assert content(resumed) == content(run)
    assert {line["part"] for line in ledger(tmp_path)} == {"validation", "test"}


def test_killed_after_every_step_it_does_the_others_alone(
    run: Run, tmp_path: Path, no_report: None, steps_done: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from forecast.models import executors

    once = executors.outcomes

    def first_alone(*arguments: Any) -> Iterator[Any]:
        for outcome in once(*arguments):
            yield outcome
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(executors, "outcomes", first_alone)
        for _ in range(FOLDS * 3):
            with pytest.raises(Killed):
                walked(tmp_path)
    resumed = walked(tmp_path)
    assert len(steps_done) == len(set(steps_done)) == FOLDS * 3
    assert content(resumed) == content(run)


def test_killed_within_a_fit_it_continues_there(
    run: Run, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, trained = Forecaster.training_step, 0

    def counted(self: Forecaster, batch: Any, index: int) -> Any:
        nonlocal trained
        trained += 1
        if trained in fatal:
            raise Killed
        return original(self, batch, index)

    monkeypatch.setattr(Forecaster, "training_step", counted)
    fatal: tuple[int, ...] = ()
    walked(tmp_path / "whole")
    steps, trained = trained, 0
    fatal = tuple(range(steps // 5, steps, steps // 4))
    for _ in fatal:
        with pytest.raises(Killed):
            walked(tmp_path / "killed")
    assert content(walked(tmp_path / "killed")) == content(run)
    assert trained < 2 * steps


def test_a_failed_step_names_itself_and_the_others_are_kept(
    run: Run, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    broken = {("lstm", 1), ("baselines", 2)}
    done = []

    def sometimes(step: Step, **options: Any) -> list[str]:
        done.append((step.model, step.fold.index))
        if done[-1] in broken:
            raise ForecastError("it rains.") if step.model == "lstm" else ZeroDivisionError("oh")
        return work(step, **options)

    monkeypatch.setattr(walk_module, "work", sometimes)
    with pytest.raises(ForecastError) as caught:
        walked(tmp_path)
    message = str(caught.value)
    first = f"fold 1 ({run.data['folds'][1]['test'][0]}), lstm: it rains. "
    second = f"fold 2 ({run.data['folds'][2]['test'][0]}), baselines: ZeroDivisionError: oh ("
    assert message.startswith(first) or message.startswith(second)
    assert "2 of 9 fits failed, the others are kept: mend the cause and repeat" in message
    assert "\n" not in message
    out = capsys.readouterr().out
    assert first.strip() in out and second in out, "each is told as it fails"
    (folder,) = tmp_path.glob("backtest-*")
    assert message in (folder / "error.txt").read_text()
    assert not (folder / "metrics.json").exists()
    failed, broken = broken, set()
    done.clear()
    mended = walked(tmp_path)
    assert set(done) == failed
    assert content(mended) == content(run)
    assert set(files(mended.path)) == FILES, "error.txt is gone"


def test_with_a_warm_start_the_folds_after_a_failed_one_wait(
    tmp_path: Path, no_report: None, steps_done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["backtest.warm_start=true", "backtest.baselines=[ewma_t]", "trainer.max_epochs=1"]
    whole = walked(tmp_path / "whole", *options)
    state = [
        read_checkpoint(best_checkpoint(whole.path / f"fold-0{k}" / "lstm", 0)) for k in (0, 2)
    ]
    first, last = (s["state_dict"]["network.mean_F"] for s in state)
    assert torch.equal(first, last), "the first fold's standardisation is kept by all"
    steps_done.clear()
    spied = walk_module.work

    def failing(step: Step, **given: Any) -> list[str]:
        if (step.model, step.fold.index) == ("lstm", 1):
            raise ForecastError("out of ink.")
        return spied(step, **given)

    with monkeypatch.context() as patch:
        patch.setattr(walk_module, "work", failing)
        with pytest.raises(ForecastError, match="fold 1 .*, lstm: out of ink"):
            walked(tmp_path / "broken", *options)
    assert [name for name in steps_done if "lstm" in name] == ["fold 0, lstm"]
    mended = walked(tmp_path / "broken", *options)
    assert content(mended) == content(whole)


# ---------------------------------------------------------------------- where it is worked on


def test_several_processes_give_the_same_bytes(run: Run, tmp_path: Path, no_report: None) -> None:
    two = walked(tmp_path, "backtest.jobs=2")
    assert two.name == run.name
    assert content(two) == content(run)


def test_a_ray_cluster_of_two_nodes_gives_the_same_bytes(
    run: Run, tmp_path: Path, no_report: None
) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        there = walked(
            tmp_path,
            "backtest.executor=ray",
            f"backtest.ray_address='{cluster.address}'",
            "backtest.jobs=auto",
        )
        assert not ray.is_initialized(), "what was opened is closed"
    finally:
        cluster.shutdown()
    assert there.name == run.name
    assert content(there) == content(run)


def start(cwd: Path, *typed: str) -> subprocess.Popen[str]:
    """The command line in a session of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "forecast.backtest", *typed],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def alive(session: int) -> list[str]:
    """Command lines of the processes of a session that have not ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def test_ctrl_c_and_kill_leave_no_process_behind_and_the_same_command_continues(
    run: Run, tmp_path: Path, no_report: None
) -> None:
    """With two processes at work; Ctrl-C reaches all of a terminal's, a kill the first alone."""
    for blow in (signal.SIGINT, signal.SIGKILL):
        before = set(tmp_path.rglob("last.ckpt"))
        process = start(tmp_path, *TINY, "backtest.jobs=2")
        deadline = time.monotonic() + 120
        while set(tmp_path.rglob("last.ckpt")) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        if blow == signal.SIGINT:
            os.killpg(process.pid, blow)
        else:
            process.kill()
        _, error = process.communicate(timeout=60)
        deadline = time.monotonic() + 20
        while (left := alive(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left
        if blow == signal.SIGINT:
            assert process.returncode == 130
            assert error == "interrupted: the same command continues where this one stopped\n"
        else:
            assert process.returncode == -signal.SIGKILL
        assert not list(tmp_path.rglob("metrics.json"))
        assert not list(tmp_path.rglob("error.txt"))
    resumed = walked(tmp_path / "outputs")
    assert resumed.name == run.name
    assert content(resumed) == content(run)
    assert set(files(resumed.path)) == FILES


# ------------------------------------------------------------------------- tables of others


def scored(outputs: Path, tables: Any, *overrides: str) -> Run:
    """Score tables that are there; what would be trained does not matter."""
    given = tables if isinstance(tables, str | Path) else [str(t) for t in tables]
    config = compose(
        "backtest",
        [
            f"outputs={outputs}", "significance.benchmark=ewma_t", "significance.repetitions=100",
            *overrides,
        ],
    )  # fmt: skip
    config.forecasts = str(given) if isinstance(given, Path) else given
    return backtest(config)


@pytest.fixture(scope="module")
def table(run: Run) -> pd.DataFrame:
    return read_forecasts(run.path / "forecasts.parquet")


def test_a_table_is_scored_as_the_run_that_made_it(run: Run, tmp_path: Path, no_work: None) -> None:
    given = scored(tmp_path, run.path / "forecasts.parquet")
    assert given.parts == run.parts
    told = {"fits", "fallbacks", "networks", "dropped", "lacked", "unscaled"}
    mine, theirs = ({k: v for k, v in r.metrics.items() if k not in told} for r in (given, run))
    assert mine == theirs
    for name in BYTES[1:]:
        assert (given.path / name).read_bytes() == (run.path / name).read_bytes()
    assert given.metrics["networks"] == ["lstm"]
    assert given.metrics["fits"] == given.metrics["fallbacks"] == {}
    assert [line["part"] for line in ledger(tmp_path)] == ["validation", "test"]
    before = files(given.path)
    assert set(before) == {name for name in FILES if "/" not in name} - {"market.parquet"}
    again = scored(tmp_path, [run.path / "forecasts.parquet"])
    assert again.path == given.path and files(given.path) == before


def test_tables_are_joined_and_what_one_model_lacks_is_dropped_from_all(
    run: Run, table: pd.DataFrame, tmp_path: Path, no_report: None
) -> None:
    """Written with pandas, in any order of rows: nothing but the columns is asked for."""
    mine = table[table["model"] == "lstm"].assign(model="ours")
    dates = np.sort(mine.loc[mine["part"] == "test", "origin"].unique())
    late = mine[(mine["part"] == "test") & (mine["origin"] > dates[9])]
    late.sample(frac=1, random_state=0).to_parquet(tmp_path / "ours.parquet", index=False)
    others = table[table["model"].isin(["ewma_t", "historical"])]
    others.to_parquet(tmp_path / "others.parquet", index=False)
    given = scored(
        tmp_path / "o", [tmp_path / "ours.parquet", tmp_path / "others.parquet"], "evaluate=[test]"
    )
    metrics = given.metrics
    assert metrics["parts"] == ["test"] and metrics["objective"] is None
    assert metrics["networks"] == ["ours"]
    assert set(metrics["scores"]["test"]) == {"ours", "ewma_t", "historical"}
    assert metrics["dropped"]["test"] == 10 * 5 * 2, "dates, symbols, horizons"
    pairs = metrics["significance"]["test"]["1"]["crps"]["pairs"]
    assert {a: set(b) for a, b in pairs.items()} == {"ours": {"ewma_t", "historical"}}


def without_a_column(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="q05")


def with_a_crossing_quantile(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(q05=table["q10"] + 1)


def with_a_row_twice(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[:1]], ignore_index=True)


def with_a_target_before_its_origin(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(target_date=table["origin"] - pd.Timedelta(days=1))


def with_a_row_in_two_parts(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[:1].assign(part="validation")], ignore_index=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_a_column, "q05"),
        (with_a_crossing_quantile, "cross"),
        (with_a_row_twice, "twice"),
        (with_a_target_before_its_origin, "origin"),
        (with_a_row_in_two_parts, "parts"),
    ],
)
def test_a_bad_table_is_one_line(
    table: pd.DataFrame, tmp_path: Path, spoil: Callable[..., pd.DataFrame], words: str
) -> None:
    some = table[(table["model"] == "ewma_t") & (table["part"] == "test")].iloc[:40]
    spoil(some).to_parquet(tmp_path / "bad.parquet", index=False)
    with pytest.raises(ForecastError, match=words) as caught:
        scored(tmp_path / "o", tmp_path / "bad.parquet")
    assert "\n" not in str(caught.value)
    assert "bad.parquet" in str(caught.value)
    assert not list(tmp_path.rglob("metrics.json"))


def test_a_table_that_is_not_there_or_has_no_such_part_is_one_line(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(ForecastError, match=r"nowhere\.parquet: no such file"):
        scored(tmp_path / "o", tmp_path / "nowhere.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ForecastError, match=r"text\.parquet"):
        scored(tmp_path / "o", tmp_path / "text.parquet")
    some = table[(table["model"] == "ewma_t") & (table["part"] == "test")]
    some.to_parquet(tmp_path / "test.parquet", index=False)
    with pytest.raises(ForecastError, match="no row of validation; there are test"):
        scored(tmp_path / "o", tmp_path / "test.parquet", "evaluate=[validation]")


# --------------------------------------------------------------------- errors at the door

WRONG = {
    "backtest.models=[elman]": "backtest.models: 'elman' is unknown. Choose from rnn, lstm, gru",
    "backtest.models=[lstm,lstm]": "'lstm' stands twice in backtest.models and backtest.baselines",
    "backtest.baselines=[lstm]": "'lstm' stands twice in backtest.models and backtest.baselines",
    "backtest.baselines=[arima]": "backtest.baselines: 'arima' is unknown",
    "backtest.baselines=[ewma_t,ewma_t]": "backtest.baselines: 'ewma_t' stands twice",
    "backtest.models=[linear]": "'linear' stands twice in backtest.models and backtest.baselines",
    "backtest.executor=spark": "backtest.executor=spark is unknown: choose processes, ray",
    "backtest.jobs=0": "backtest.jobs=0 must be auto",
    "backtest.first=soon": "backtest.first='soon' is no date",
    "backtest.first=2040-01-01": "leave no test session",
    "backtest.last=1991-01-01": "leave no test session",
    "backtest.train=10d": "backtest.train='10d' is no length",
    "backtest.embargo=60": "backtest.embargo=60",
    "split.validation=5000": "leave no training session",
    "window.length=25": "window.length=25 is not longer than window.warmup=25",
    "horizons=[60]": "no symbol has a validation row",
    "+backtest.step=1": "backtest.step is unknown",
    "+split.test=0.2": "split.test is unknown",
    "backtest=5": "backtest=5 replaces a section",
    "recalibrate=isotonic": "recalibrate=isotonic is unknown: choose none, conformal",
    "significance.repetitions=5": "significance.repetitions=5",
    "+report.colour=red": "report.colour is unknown",
    "model.hidden_size=0": "model.hidden_size=0",
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_looks_finished(typed: str, tmp_path: Path) -> None:
    with pytest.raises(ForecastError) as caught:
        walked(tmp_path, typed)
    assert WRONG[typed] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("metrics.json"))


# ------------------------------------------------------------------------- command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The command line in this process; its exit status."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.chdir(tmp_path)

    def here(*typed: str) -> int:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["backtest", *typed])
        try:
            door_module.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    yield here
    root.handlers[:], root.level = handlers, level


def test_a_sweep_fits_the_first_fold_and_scores_its_validation_part_alone(
    tmp_path: Path, here: Callable[..., int], no_report: None, steps_done: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    typed = ["-m", *TINY, "trainer.max_epochs=1"]
    assert here(*typed, "model=rnn,lstm", "model.hidden_size=2,0") == 1
    told = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(told) == 2 and all("model.hidden_size=0" in line for line in told)
    assert {name.partition(",")[0] for name in steps_done} == {"fold 0"}
    runs = [Run(p) for p in (tmp_path / "outputs").glob("backtest-*")]
    assert {r.config["model"]["cell"] for r in runs} == {"rnn", "lstm"}
    assert [r.parts for r in runs] == [("validation",)] * 2
    assert {line["part"] for line in ledger(tmp_path / "outputs")} == {"validation"}
    steps_done.clear()
    assert here(*typed, "model=rnn,lstm", "model.hidden_size=2") == 0
    assert not steps_done, "a second call returns at once"


def test_an_error_on_the_command_line_is_one_line_and_status_1(
    here: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert here("backtest.first=soon", "data=simulated") == 1
    error = capfd.readouterr().err
    assert error == "error: backtest.first='soon' is no date. Write 2010-01-04.\n"
