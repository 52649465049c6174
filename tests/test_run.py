"""The run folder: whole or not there, locked, loaded without executing anything, on the ledger."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast import compose, list_runs, load_run
from forecast.config import ForecastError, plain
from forecast.documents import write_atomically
from forecast.run import LEDGER, Run, environment, prune_runs, run_name

CONFIG = {"model": {"cell": "lstm"}, "head": {"name": "point"}, "horizons": [1], "seed": 0}
DATA = {"source": "simulated", "sha256": "f00d"}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    """Make a run folder by hand."""

    def make(name: str, *, objective: float | None = None, finished: bool = True) -> Run:
        run = Run(tmp_path / name)
        run.write("config.yaml", CONFIG)
        run.write("overrides.yaml", ["model=lstm"])
        run.write("data.json", DATA)
        if finished:
            run.write("metrics.json", {"objective": objective, "parts": ["validation"]})
        return run

    return make


# -------------------------------------------------------------------------------- writing


def test_a_file_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.json"
    write_atomically(file, "old")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(file, "new")
    assert file.read_text() == "old"
    write_atomically(file, "new")
    assert file.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"], "what was cut short is gone"


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    )
)
@settings(max_examples=40, deadline=None)
def test_undefined_numbers_become_null_and_the_rest_survives(
    value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = Run(tmp_path_factory.getbasetemp() / "json")
    run.write("metrics.json", {"value": value})

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(same, a, b))
        return b is None if isinstance(a, float) and not np.isfinite(a) else a == b

    assert same(value, run.metrics["value"])


def test_what_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    run = Run(tmp_path / "nothing")
    assert (run.config, run.overrides, run.metrics, run.data, run.parts) == ({}, [], {}, {}, ())


# ------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "content", [b"", b'{"objective": 0.5, "par', b"5", b"null", b"[1, 2]", b"\xff\xfe\x00", b"NaNa"]
)
def test_damaged_metrics_are_said_to_be_damaged(make: Callable[..., Run], content: bytes) -> None:
    run = make("lstm-0123456789")
    (run.path / "metrics.json").write_bytes(content)
    with pytest.raises(ForecastError, match=r"metrics\.json is damaged .*force=true") as caught:
        run.parts  # noqa: B018
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml"])
@pytest.mark.parametrize(
    "payload",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "a: [1, 2",
        "a: !!python/name:os.system x",
    ],
)
def test_yaml_that_would_run_code_is_refused_and_nothing_runs(
    make: Callable[..., Run], tmp_path: Path, name: str, payload: str
) -> None:
    run, marker = make("lstm-0123456789"), tmp_path / "executed"
    (run.path / name).write_text(payload.format(marker=marker))
    opened = load_run("lstm-0123456789", outputs=tmp_path)
    with pytest.raises(ForecastError, match=rf"{name} is damaged") as caught:
        getattr(opened, name.removesuffix(".yaml"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ForecastError, match=rf"{name} is damaged"):
        list_runs(tmp_path)
    assert not marker.exists()


def test_loading_instantiates_nothing_that_a_configuration_names(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run, marker = make("lstm-0123456789"), tmp_path / "executed"
    run.write("config.yaml", {**CONFIG, "data": {"_target_": "os.mkdir", "path": str(marker)}})
    assert load_run(run.path).config["data"]["_target_"] == "os.mkdir"
    assert not marker.exists()


# -------------------------------------------------------------------- finding and pruning


def test_a_run_is_found_by_path_name_and_beginning(
    make: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("lstm-0123456789")
    make("lstm-0199999999")
    for spelled in (run.path, str(run.path), "lstm-0123456789", "lstm-012"):
        assert load_run(spelled, outputs=tmp_path).path == run.path
    monkeypatch.setenv("FORECAST_OUTPUTS", str(tmp_path))
    assert load_run("lstm-012").path == run.path


def test_a_whole_name_is_no_ambiguous_beginning(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make("lstm-01")
    make("lstm-0123456789")
    assert load_run("lstm-01", outputs=tmp_path).path == run.path


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        ("lstm-01", "'lstm-01' is ambiguous"),
        ("gru", "'gru' is not in"),
        ("lstm-02", "lstm-02 is not finished"),
    ],
)
def test_a_run_that_cannot_be_opened_says_why(
    make: Callable[..., Run], tmp_path: Path, spelled: str, said: str
) -> None:
    make("lstm-0123456789")
    make("lstm-0199999999")
    make("lstm-02", finished=False)
    with pytest.raises(ForecastError, match=said):
        load_run(spelled, outputs=tmp_path)
    with pytest.raises(ForecastError, match="there are none"):
        load_run(spelled, outputs=tmp_path / "empty")


def test_runs_are_listed_best_first_and_unfinished_last(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    make("a", objective=0.7)
    make("b", finished=False)
    make("c", objective=0.5)
    make("d", objective=None)
    (tmp_path / "no run").mkdir()
    table = list_runs(tmp_path)
    assert list(table["run"])[:2] == ["c", "a"]
    assert set(table["run"]) == set("abcd")
    assert list(table["parts"])[0] == ["validation"]
    assert table["overrides"][0] == "model=lstm"
    assert list_runs(tmp_path / "nowhere").empty


def test_pruning_removes_unfinished_runs_and_those_named(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    make("done")
    make("half", finished=False)
    assert prune_runs(tmp_path) == ["half"]
    assert not (tmp_path / "half").exists()
    assert prune_runs(tmp_path) == []
    assert prune_runs(tmp_path, runs=["done"]) == ["done"]
    assert list_runs(tmp_path).empty


def test_a_damaged_run_can_be_pruned_by_name(make: Callable[..., Run], tmp_path: Path) -> None:
    (make("bad").path / "metrics.json").write_text("{")
    assert prune_runs(tmp_path, runs=["bad"]) == ["bad"]


def test_a_run_in_progress_is_not_pruned(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make("busy", finished=False)
    with run.lock():
        assert prune_runs(tmp_path) == []
    assert prune_runs(tmp_path) == ["busy"]


def test_a_run_whose_removal_was_cut_short_is_no_run(
    make: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("lstm-0123456789", objective=0.1)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run.clear()
    assert list_runs(tmp_path).empty
    with pytest.raises(ForecastError, match="there are none"):
        load_run("lstm", outputs=tmp_path)
    make("lstm-0123456789").clear()
    assert [p.name for p in tmp_path.iterdir() if "lstm" in p.name and p.is_dir()] == []


# ------------------------------------------------------------------------------- locking


def test_the_second_of_two_waits_until_the_first_is_done(
    make: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run, order = make("lstm-0123456789"), []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with Run(run.path).lock():
            order.append("second")

    thread = threading.Thread(target=second)
    with run.lock():
        thread.start()
        assert waiting.wait(10)
        thread.join(0.3)
        assert thread.is_alive()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "being worked on by another process: waiting" in capsys.readouterr().out


def test_a_lock_is_given_back_after_an_error(make: Callable[..., Run]) -> None:
    run = make("lstm-0123456789")
    with pytest.raises(ValueError, match="oops"), run.lock():
        raise ValueError("oops")
    with Run(run.path).lock():
        pass


# ------------------------------------------------------------------------ name and ledger


def test_a_run_is_named_by_its_prefix_and_an_id_of_all_that_matters() -> None:
    config = plain(compose("train", ["model=gru"]))
    name = run_name("gru", config, data="a", device="cpu")
    assert name.startswith("gru-")
    assert len(name) == len("gru-") + 10
    unseen = {**config, "force": True, "outputs": "x"}
    assert name == run_name("gru", unseen, data="a", device="cpu")
    others = [
        run_name("gru", config, data="b", device="cpu"),
        run_name("gru", config, data="a", device="cuda H100"),
        run_name("gru", config, data="a", device="cpu", own="code"),
        run_name("gru", {**config, "seed": 1}, data="a", device="cpu"),
    ]
    assert len({name, *others}) == 5


def ledger(folder: Path) -> list[dict[str, str]]:
    with open(folder / "ledger.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_look_is_on_the_ledger_and_stays_there(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    run = make("lstm-0123456789")
    run.record("validation", "2001-01-01", "2002-01-01")
    run.record("test", "2002-01-02", "2003-01-01")
    run.clear()
    lines = ledger(tmp_path)
    assert tuple(lines[0]) == LEDGER
    assert [(line["run"], line["part"], line["data"]) for line in lines] == [
        ("lstm-0123456789", "validation", "f00d"),
        ("lstm-0123456789", "test", "f00d"),
    ]
    assert lines[1]["first"] == "2002-01-02"


def test_the_ledger_counts_configurations_not_seeds(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    for name, changes in {"a": {}, "b": {"seed": 1}, "c": {"horizons": [5]}}.items():
        run = make(name)
        run.write("config.yaml", {**CONFIG, **changes})
        run.record("validation", "", "")
    a, b, c = (line["configuration"] for line in ledger(tmp_path))
    assert a == b != c


# ----------------------------------------------------------------------------- environment


def test_the_environment_is_flat_and_names_versions_and_commit() -> None:
    facts = environment("cpu")
    assert {"python", "forecast", "torch", "commit", "device"} <= set(facts)
    assert all(isinstance(value, str) for value in facts.values())
    assert json.loads(json.dumps(facts)) == facts
    assert yaml.safe_load(yaml.safe_dump(facts)) == facts


def test_a_machine_without_git_has_an_environment_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment("cpu")["commit"] == "unknown"


# ----------------------------------------------------------------------- nested facts as tables

NESTED = {
    "parts": ["test"],
    "scores": {
        "test": {
            "lstm": {"1": {"crps": 0.5, "log_score": 1.0}, "5": {"crps": 1.5, "log_score": 2.0}},
            "historical": {"1": {"crps": 0.75, "log_score": None}},
        },
    },
    "returns": {"lstm": {"mean": 0.5, "yearly": {"2020": 1.0}}, "gru": {"mean": 0.25}},
}


def test_what_is_nested_in_a_file_becomes_a_table_with_its_keys_as_index(
    make: Callable[..., Run],
) -> None:
    run = make("lstm-0123456789")
    run.write("metrics.json", NESTED)
    run.write("luck.json", {"strategies": {"lstm": {"sign": {"dsr": 0.5}}}})
    scores = run.table("scores", "test")
    assert scores.index.tolist() == [("lstm", "1"), ("lstm", "5"), ("historical", "1")]
    assert scores["crps"].tolist() == [0.5, 1.5, 0.75]
    assert np.isnan(scores.loc[("historical", "1"), "log_score"])
    assert run.table("scores", "test", "lstm").index.tolist() == ["1", "5"]
    assert run.table("scores", "test", "lstm", "5")["crps"].tolist() == [1.5]
    assert run.table("returns").to_dict() == {"mean": {"lstm": 0.5, "gru": 0.25}}, "nothing deeper"
    assert run.table("strategies", file="luck.json").loc[("lstm", "sign"), "dsr"] == 0.5


@pytest.mark.parametrize(
    ("branch", "told"),
    [
        (["score"], "'score' is not in metrics.json: did you mean scores?"),
        (["scores", "validation"], "'validation' is not in metrics.json.scores; known are test."),
        (["parts"], "metrics.json.parts holds no table"),
        (["parts", "test"], "'test' is not in metrics.json.parts; there is nothing"),
    ],
)
def test_a_key_that_leads_to_no_table_is_named(
    branch: list[str], told: str, make: Callable[..., Run]
) -> None:
    run = make("lstm-0123456789")
    run.write("metrics.json", NESTED)
    with pytest.raises(ForecastError, match=re.escape(told)):
        run.table(*branch)
