"""The package as it is installed: a wheel in an empty environment, called from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def output(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # With the build backend at hand nothing is fetched; without, pip fetches that alone.
    backend = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    output(*pip, "--no-deps", *backend, "--wheel-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("forecast-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and, from here, what it depends on, but not this checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(
        output(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A folder on the path: its own .pth files, the one of the editable install too, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_the_package_and_its_configuration_and_no_more(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for part in ("forecast", "conf"):
        for file in (ROOT / part).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                inside = file.relative_to(ROOT).as_posix()
                assert (inside if part == "forecast" else f"forecast/{inside}") in names
    assert "forecast/report/page.html" in names
    assert not [n for n in names if not n.startswith(("forecast/", "forecast-"))]


def test_the_installed_package_works_from_another_directory(python: Path, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nensemble: 7\n"
    )
    told = output(
        python,
        "-c",
        "import forecast, pathlib; from importlib.resources import files\n"
        "print(pathlib.Path(forecast.__file__).parent)\n"
        "print(forecast.compose('train', ['experiment=mine']).ensemble)\n"
        "print(files('forecast.report').joinpath('page.html').is_file())\n"
        "print(len(forecast.load_prices('simulated', n_symbols=2, truth=False).frame))\n"
        "print(len(forecast.list_runs()))\n"
        "from forecast.run import environment; print(environment('cpu')['commit'])",
        cwd=tmp_path,
    ).splitlines()
    assert told[0].startswith(str(python.parents[1])), "not the checkout"
    assert told[1:] == ["7", "True", "5040", "0", "unknown"]


@pytest.mark.parametrize("door", ["fetch", "predict"])
def test_the_installed_doors_to_new_prices_open(door: str, python: Path, tmp_path: Path) -> None:
    told = output(python, "-m", f"forecast.{door}", "--help", cwd=tmp_path)
    assert "data.symbols" in told
    assert not list(tmp_path.iterdir()), "help leaves no folder"


def test_the_installed_command_trains_and_reports(python: Path, tmp_path: Path) -> None:
    command = [python, "-m", "forecast.train"]
    assert "data: files, index, simulated, sp500, yahoo" in output(*command, "--help", cwd=tmp_path)
    output(
        *command, "data=simulated", "data.n_symbols=5", "data.n_sessions=300", "ensemble=1",
        "horizons=[1]", "window.length=60", "window.warmup=25", "split.validation=40",
        "trainer=cpu", "trainer.max_epochs=1", "model.hidden_size=4", "data.truth=false",
        cwd=tmp_path,
    )  # fmt: skip
    (run,) = (tmp_path / "outputs").glob("lstm-*")
    assert (run / "metrics.json").is_file()
    assert (run / "report.html").stat().st_size > 1_000_000, "plotly.js is inside"
