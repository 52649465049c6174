"""A sweep gives the same bytes wherever its trials run, and goes on where it was killed."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from forecast import compose
from forecast.config import config_dir, plain
from forecast.run import Run
from forecast.train import main

TINY = [
    "data=simulated", "data.n_symbols=6", "data.n_sessions=500", "horizons=[1,5]",
    "window.length=60", "window.warmup=25", "window.batch=16", "split.validation=60",
    "model.hidden_size=2", "ensemble=1", "trainer=cpu", "trainer.max_epochs=1",
    "trainer.patience=1", "progress=false",
]  # fmt: skip
TRIALS = [*TINY, "model=rnn,lstm", "seed=0,1"]
BYTES = ("metrics.json", "forecasts.parquet")


def start(*typed: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "forecast.train", "-m", *typed],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def sweep(*typed: str, cwd: Path, status: int = 0, **variables: str) -> tuple[str, str]:
    with start(*typed, cwd=cwd, **variables) as done:
        out, err = done.communicate(timeout=150)
    assert done.returncode == status, out + err
    return out, err


def here(*typed: str, cwd: Path, status: int = 0) -> None:
    """The same in this process, which has what trials import; so have the children it keeps."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        # Said, since kept children may have begun with another test's environment.
        patch.setattr(sys, "argv", ["train", "-m", *typed, "outputs=outputs"])
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    root.handlers[:], root.level = handlers, level
    assert code == status


def content(cwd: Path) -> dict[str, list[str]]:
    """Hashes of the bytes of every finished run."""
    runs = sorted(p.parent for p in (cwd / "outputs").glob("*/metrics.json"))
    return {
        run.name: [hashlib.sha256((run / name).read_bytes()).hexdigest() for name in BYTES]
        for run in runs
    }


def of_rnn(runs: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: files for name, files in runs.items() if name.startswith("rnn")}


def times(cwd: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (cwd / "outputs").glob("*/*") if p.is_file()}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The runs of a sweep, one after the other in one process."""
    cwd = tmp_path_factory.mktemp("serial")
    here(*TRIALS, cwd=cwd)
    found = content(cwd)
    assert len(found) == 4
    return found


# ---------------------------------------------------------------------------- launchers


def test_submitit_gives_the_bytes_of_serial(serial: dict[str, list[str]], tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    sweep(*TRIALS, "model=rnn", "seed=1", "hydra/launcher=submitit_local", cwd=tmp_path)
    found = content(tmp_path)
    assert len(found) == 1 and found.items() <= of_rnn(serial).items()


SBATCH = """#!{python}
import os, re, subprocess, sys
text = open(sys.argv[-1]).read()
first, last = map(int, (re.search(r"--array=(\\d+)-(\\d+)", text) or [0, 0, 0]).groups())
for task in range(first, last + 1):
    log = open("{folder}/%d.log" % task, "w")
    subprocess.Popen(["bash", sys.argv[-1]], stdout=log, stderr=log, start_new_session=True, env={{
        **os.environ, "SLURM_JOB_ID": "70%d" % task, "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here",
        "SLURM_NTASKS": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}})
print("Submitted batch job 7")
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for i in 0 1; do echo "7_$i|RUNNING|here"; done
"""


@pytest.fixture
def slurm(tmp_path: Path) -> str:
    """A PATH on which what Slurm is asked for is done by processes of this machine."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "sbatch": SBATCH.format(python=sys.executable, folder=folder),
        "srun": SRUN,
        "sacct": SACCT,
        "squeue": "#!/bin/bash\n",
        "scancel": "#!/bin/bash\n",
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_slurm_gives_the_bytes_of_serial(
    serial: dict[str, list[str]], tmp_path: Path, slurm: str
) -> None:
    pytest.importorskip("submitit")
    sweep(
        *TRIALS, "model=rnn", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5",
        "hydra.launcher.partition=cpu", cwd=tmp_path, PATH=slurm,
    )  # fmt: skip
    assert content(tmp_path) == of_rnn(serial)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes, each with room for one trial."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8},
    )
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    yield cluster
    cluster.shutdown()


def test_two_nodes_of_ray_give_the_bytes_of_serial_though_one_is_killed(
    serial: dict[str, list[str]], tmp_path: Path, cluster: Any
) -> None:
    typed = [
        *TRIALS, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}",
        "+hydra.launcher.ray.remote.num_cpus=1",
    ]  # fmt: skip
    with start(*typed, cwd=tmp_path) as running:
        finished: dict[str, int] = {}
        deadline = time.monotonic() + 120
        while not finished and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.05)
            finished = {
                str(p): p.stat().st_mtime_ns for p in (tmp_path / "outputs").glob("*/report.html")
            }
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 0, out + err
    assert content(tmp_path) == serial
    assert all(Path(name).stat().st_mtime_ns == when for name, when in finished.items())


# ------------------------------------------------------------------- kills and failures


def test_a_killed_sweep_leaves_no_orphan_goes_on_where_it_was_and_then_trains_nothing(
    serial: dict[str, list[str]], tmp_path: Path
) -> None:
    typed = [*TRIALS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    with start(*typed, cwd=tmp_path) as running:
        deadline = time.monotonic() + 60
        while not content(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGKILL)
    time.sleep(1)
    assert not _children_of(running.pid), "its workers end with it"
    finished = [tmp_path / "outputs" / name / "metrics.json" for name in content(tmp_path)]
    written = [path.stat().st_mtime_ns for path in finished]
    out, _ = sweep(*typed, cwd=tmp_path)
    assert content(tmp_path) == serial
    assert [path.stat().st_mtime_ns for path in finished] == written
    assert "sweep: 4 trials finished, 0 failed" in out
    before = times(tmp_path)
    here(*TRIALS, cwd=tmp_path)
    assert times(tmp_path) == before


def _children_of(session: int) -> list[int]:
    """Processes of a session that train."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(") ")[2].split()
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[3]) == session and b"resource_tracker" not in line and fields[0] != "Z":
            found.append(int(path.name))
    return found


def test_a_failed_trial_is_told_and_the_others_finish(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = [*TINY, "model.hidden_size=2,0,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    here(*typed, cwd=tmp_path, status=1)
    out, err = capfd.readouterr()
    assert len(content(tmp_path)) == 2
    assert "sweep: 2 trials finished, 1 failed" in err
    assert err.count("model.hidden_size=0 ") >= 1 and "Traceback" not in err + out
    (left,) = (tmp_path / "outputs" / ".multirun").glob("*/1-error.txt")
    assert "model.hidden_size=0" in left.read_text()


# ------------------------------------------------------------------------------- optuna


OPTUNA = [*TINY, "sweep=optuna", "hydra.sweeper.n_trials=4", "model.layers=1"]


def trials(out: str) -> list[str]:
    """Objective of each trial by its number."""
    lines = [line.partition(": objective ")[::2] for line in out.splitlines() if line[:1] == "#"]
    return sorted(f"{run} {rest.partition(',')[0]}" for run, rest in lines)


def test_the_same_search_proposes_the_same_trials_wherever_it_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    typed = [t for t in OPTUNA if not t.startswith(("model.hidden_size", "ensemble"))]
    typed += ["model.hidden_size=choice(2, 3, 4)"]
    here(*typed, cwd=tmp_path)
    told = trials(capfd.readouterr().out)
    assert len(told) == 4
    before = times(tmp_path)
    here(*typed, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path)
    assert trials(capfd.readouterr().out) == told
    assert times(tmp_path) == before, "finished trials return at once"


def test_failed_trials_do_not_end_a_search(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    typed = [t for t in OPTUNA if not t.startswith("window.length")]
    here(*typed, "window.length=choice(5, 6, 7, 60)", cwd=tmp_path, status=1)
    err = capfd.readouterr().err
    table = err[err.index("sweep: ") :].splitlines()
    finished, failed = int(table[0].split()[1]), int(table[0].split()[4])
    assert finished + failed == 4 and failed >= 1
    assert "is not longer than window.warmup=25" in err


# ------------------------------------------------------------------------------ configs


def grid(name: str, *typed: str) -> list[list[str]]:
    """Overrides of each trial of a sweep."""
    cfg = compose_with_hydra(name)
    params = [f"{key}={value}" for key, value in cfg["sweeper"]["params"].items()]
    parsed = OverridesParser.create().parse_overrides([*params, *typed])
    (trials,) = BasicSweeper.split_arguments(parsed, None)
    return trials


def compose_with_hydra(name: str) -> dict[str, Any]:
    import yaml

    with open(config_dir() / "sweep" / f"{name}.yaml") as file:
        return dict(yaml.safe_load(file)["hydra"])


@pytest.mark.parametrize(
    ("name", "trials"), [("architectures", 48), ("heads", 12), ("features", 6)]
)
def test_a_sweep_is_the_grid_of_its_file_and_every_trial_composes(name: str, trials: int) -> None:
    found = grid(name)
    assert len(found) == trials
    configs = [
        plain(compose("train", [f"sweep={name}", *typed])) for typed in found[:: trials // 6]
    ]
    assert all(config["ensemble"] == 1 for config in configs)
    compose("backtest", [f"sweep={name}", *found[0]])


def test_architectures_are_24_with_two_seeds_and_typed_lists_take_their_place() -> None:
    apart = {
        tuple(t for t in trial if not t.startswith("seed=")) for trial in grid("architectures")
    }
    assert len(apart) == 24
    assert len(grid("architectures", "model=lstm", "seed=0,1,2")) == 8 * 3


def test_a_sweep_needs_no_flag_and_scores_validation_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 0,1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *TINY, "sweep=mine"])
    main()
    runs = [Run(p) for p in (tmp_path / "outputs").glob("lstm-*")]
    assert [run.parts for run in runs] == [("validation",)] * 2
    shutil.rmtree(tmp_path / "outputs")
