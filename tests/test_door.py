"""What a command line answers: errors in a line, an exit status, and how a sweep ended."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forecast.config import ForecastError
from forecast.door import door
from forecast.environment import YOUNG


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, list[str]]]]:
    """Open a door in this process; its exit status and the lines on stderr."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.chdir(tmp_path)

    def call(command: Callable[..., Any], *typed: str, full: str = "0") -> tuple[int, list[str]]:
        monkeypatch.setenv("HYDRA_FULL_ERROR", full)
        monkeypatch.setattr(sys, "argv", ["train", *typed])
        status = 0
        try:
            door("train", command)()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, capfd.readouterr().err.splitlines()

    yield call
    root.handlers[:], root.level = handlers, level


def fail(cfg: Any) -> None:
    raise ForecastError(f"ensemble={cfg.ensemble} is wrong:\nmend it.")


def test_an_error_is_one_line_and_status_1(call: Any) -> None:
    assert call(fail, "ensemble=5") == (1, ["error: ensemble=5 is wrong: mend it."])


def test_an_error_of_the_command_line_is_one_line_and_status_1(call: Any) -> None:
    said = ["error: model=lsmt is no choice: did you mean lstm?"]
    assert call(fail, "model=lsmt") == (1, said)
    assert call(fail, "head=null")[0] == 1


def test_among_what_is_imported_no_garbage_is_sought(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That took a tenth of the imports, and most of a second at the end."""
    threshold, at_end = gc.get_threshold(), []
    monkeypatch.setattr(atexit, "register", at_end.append)
    seen: list[int] = []
    assert call(lambda cfg: seen.append(gc.get_threshold()[0])) == (0, [])
    gc.set_threshold(*threshold)
    assert seen == [YOUNG] and gc.freeze in at_end


def test_the_traceback_is_shown_on_demand(call: Any) -> None:
    with pytest.raises(ForecastError):
        call(fail, full="1")


def test_a_bug_is_not_dressed_up_as_the_users_error(call: Any) -> None:
    def broken(cfg: Any) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        call(broken)


def test_ctrl_c_is_one_line_and_status_130(call: Any) -> None:
    def interrupted(cfg: Any) -> None:
        raise KeyboardInterrupt

    status, lines = call(interrupted)
    assert status == 130
    assert lines == ["interrupted: the same command continues where this one stopped"]


def test_a_failed_job_of_a_sweep_is_told_and_the_others_go_on(call: Any) -> None:
    seen = []

    def sometimes(cfg: Any) -> float:
        seen.append(cfg.ensemble)
        if cfg.ensemble == 2:
            fail(cfg)
        return 0.0

    status, lines = call(sometimes, "-m", "ensemble=1,2,3")
    assert seen == [1, 2, 3]
    assert status == 1
    assert "error: #1 ensemble=2: ensemble=2 is wrong: mend it." in lines
    assert not any("Traceback" in line for line in lines)


def test_a_command_runs_where_it_is_called_and_leaves_nothing_of_hydras(
    call: Any, tmp_path: Path
) -> None:
    where = []
    assert call(lambda cfg: where.append(os.getcwd()), "outputs=here") == (0, [])
    assert where == [str(tmp_path)]
    assert list((tmp_path / "here").iterdir()) == []


# ------------------------------------------------------------------------------- sweeps


def left(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / ".multirun").rglob("*-error.txt"))


def test_a_sweep_ends_with_a_table_of_its_failures_and_keeps_what_went_wrong(
    call: Any, tmp_path: Path
) -> None:
    def sometimes(cfg: Any) -> float:
        if cfg.ensemble == 2:
            fail(cfg)
        if cfg.ensemble == 3:
            raise ZeroDivisionError("a bug")
        return float(cfg.ensemble)

    status, lines = call(sometimes, "-m", "ensemble=1,2,3")
    assert status == 1
    table = lines[lines.index("sweep: 1 trials finished, 2 failed") :]
    assert table[1:5] == [
        "  #1  ensemble=2",
        "      ensemble=2 is wrong: mend it.",
        "  #2  ensemble=3",
        "      ZeroDivisionError: a bug",
    ]
    assert "error: #2 ensemble=3: ZeroDivisionError: a bug" in lines
    assert [p.name for p in left(tmp_path)] == ["1-error.txt", "2-error.txt"]
    assert "Traceback" in left(tmp_path)[1].read_text()


def test_a_sweep_without_a_failure_leaves_nothing_of_its_own(call: Any, tmp_path: Path) -> None:
    assert call(lambda cfg: 0.5, "-m", "ensemble=1,2")[0] == 0
    assert list((tmp_path / "outputs").iterdir()) == []


def test_a_trial_scores_the_validation_part_unless_parts_are_typed(call: Any) -> None:
    seen = []
    assert call(lambda cfg: seen.append(cfg.evaluate), "-m", "seed=0,1")[0] == 0
    assert call(lambda cfg: seen.append(cfg.evaluate), "-m", "seed=0", "evaluate=[test]")[0] == 0
    assert call(lambda cfg: seen.append(cfg.evaluate), "seed=0")[0] == 0
    assert seen == [["validation"], ["validation"], ["test"], None]


def test_trials_in_this_process_keep_torchs_own_choice_of_threads(call: Any) -> None:
    seen = []
    assert call(lambda cfg: seen.append(cfg.threads), "-m", "seed=0,1")[0] == 0
    assert seen == [None, None]


def test_several_devices_and_several_trials_exclude_each_other(call: Any) -> None:
    seen: list[Any] = []
    status, lines = call(seen.append, "-m", "seed=0,1", "trainer=ddp")
    assert (status, seen) == (1, [])
    (line,) = lines
    assert line.startswith("error: trainer.devices=2 with -m") and "joblib" in line


def test_ctrl_c_in_a_sweep_says_what_is_done(call: Any) -> None:
    def interrupted(cfg: Any) -> float:
        if cfg.seed == 1:
            raise KeyboardInterrupt
        return 0.0

    status, lines = call(interrupted, "-m", "seed=0,1,2")
    assert status == 130
    assert lines == ["interrupted: the same command continues where this one stopped"]


def test_a_sweep_over_folders_counts_its_failures_too(call: Any) -> None:
    status, lines = call(fail, "-m", "outputs=here,there")
    assert status == 1
    assert "sweep: 0 trials finished, 2 failed" in lines


def test_a_failed_trial_does_not_keep_a_sweep_from_its_next_batch(call: Any) -> None:
    status, lines = call(fail, "-m", "seed=0,1,2", "hydra.sweeper.max_batch_size=1")
    assert status == 1
    assert "sweep: 0 trials finished, 3 failed" in lines


@pytest.mark.parametrize(
    ("choice", "extra"),
    [("hydra/launcher=ray", "ray"), ("hydra/launcher=submitit_slurm", "submitit")],
)
def test_a_launcher_that_is_not_installed_names_its_extra(choice: str, extra: str) -> None:
    from hydra.errors import MissingConfigException

    from forecast.config import one_line

    error = MissingConfigException("missing", choice.replace("=", "/"), ["basic", "joblib"])
    assert one_line(error) == f"{choice} is not installed: pip install 'forecast[{extra}]'"
