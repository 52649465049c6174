"""Every command of the README parses and composes; the marked ones run, with a reduced override.

A block is marked by the line `<!-- tested with: overrides -->` before it. Its commands run in turn,
in one folder, in the order of the README; runs that they name stand for the newest of that cell.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from forecast import compose, load_prices
from forecast.config import config_dir

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.compile(
    r"(?:<!-- tested with: (?P<mark>.*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.S
)
COMMAND = re.compile(r"python -m forecast\.(\w+)")
ALWAYS = ("threads=1", "progress=false", "trainer=cpu", "ensemble=1")  # of commands that have them


@dataclass(frozen=True)
class Command:
    """A command line of the README."""

    name: str
    overrides: tuple[str, ...]
    mark: str | None

    @property
    def swept(self) -> bool:
        return "-m" in self.overrides

    @property
    def typed(self) -> list[str]:
        return [word for word in self.overrides if word not in ("-m", "--help")]

    def __str__(self) -> str:
        return " ".join([self.name, *self.overrides])


def commands() -> Iterator[Command]:
    """Those of code blocks, and of running text where they are whole."""
    for block in BLOCKS.finditer(README):
        if not block["language"]:
            for line in block["text"].replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["python", "-m"] and words[2].startswith("forecast."):
                    name = words[2].removeprefix("forecast.")
                    yield Command(name, tuple(words[3:]), block["mark"])
    text = BLOCKS.sub("", README)
    for line in re.findall(r"`(python -m forecast\.[^`]+)`", text):
        if not re.search(r"[<…]", line):
            words = shlex.split(line)
            yield Command(words[2].removeprefix("forecast."), tuple(words[3:]), None)


ALL = list(dict.fromkeys(commands()))
MARKED = [command for command in ALL if command.mark is not None]


def one_of_each(typed: list[str]) -> list[str]:
    """The first value of every sweep."""
    first = []
    for override in OverridesParser.create().parse_overrides(typed):
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        key = override.get_key_element()
        first.append(f"{key}={next(iter(values))}" if values else str(override.input_line))
    return first


@pytest.mark.parametrize("command", ALL, ids=str)
def test_a_command_composes(command: Command) -> None:
    typed = one_of_each(command.typed)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = hydra_compose(command.name, overrides=typed, return_hydra_config=True)
    assert cfg.hydra.job.config_name == command.name
    assert hasattr(importlib.import_module(f"forecast.{command.name}"), command.name)
    assert command.swept or typed == command.typed, "a list of values without -m"


def test_there_are_commands_of_every_door() -> None:
    doors = {p.stem for p in config_dir().glob("*.yaml")} - {"forecaster", "trading"}
    assert {command.name for command in ALL} == doors
    assert len(ALL) > 40 and len(MARKED) >= 6


@pytest.mark.parametrize(
    "path", sorted({*re.findall(r"python ((?:benchmarks|notebooks)/\S+?\.py)", README)})
)
def test_a_script_is_there(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("target", sorted({*re.findall(r"(?:^|`)make ([\w-]+)", README, re.M)}))
def test_a_target_is_there(target: str) -> None:
    benchmark = ROOT / "benchmarks" / f"{target.removeprefix('bench-')}.py"
    assert benchmark.is_file() or f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("target", sorted({*re.findall(r"\]\(([^)\s]+)\)", README)}))
def test_a_link_leads_somewhere(target: str) -> None:
    if target.startswith("#"):
        headings = re.findall(r"^##+ (.+)$", README, re.M)
        slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
        assert target[1:] in slugs
    elif not target.startswith("https://"):
        assert (ROOT / target).is_file()


@pytest.mark.parametrize(
    "text", [b["text"] for b in BLOCKS.finditer(README) if b["language"] == "python"]
)
def test_python_uses_names_that_are_there(text: str) -> None:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "compose":
            compose(*[ast.literal_eval(argument) for argument in node.args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the commands are typed, with the files that they name."""
    folder = tmp_path_factory.mktemp("readme")
    frame = load_prices("sp500", symbols="AAPL,JPM,KO,WMT,XOM", start="2019-01-02").frame
    (folder / "prices").mkdir()
    for symbol, rows in frame.groupby("symbol", observed=True):
        named = rows[["symbol", "date", "close"]].set_axis(
            ["ticker", "date", "adjusted_close"], axis=1
        )
        named.to_csv(folder / "prices" / f"{symbol}.csv", index=False)
    dates = frame["date"].unique()
    vix = pd.DataFrame(
        {"date": dates, "vix": 20 + np.random.default_rng(0).normal(size=len(dates))}
    )
    vix.to_csv(folder / "vix.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FORECAST_OUTPUTS", str(folder / "outputs"))
        yield folder


def run_of(name: str, folder: Path) -> str:
    """The newest run of a cell, in place of the README's."""
    cell = name.partition("-")[0]
    found = max(folder.glob(f"outputs/{cell}-*/metrics.json"), key=lambda p: p.stat().st_mtime)
    return found.parent.name


@pytest.mark.usefixtures("no_report")
def test_the_marked_commands_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    for command in MARKED:
        assert not command.swept
        named = (
            re.sub(r"\w+-0123456789", lambda m: run_of(m[0], folder), w) for w in command.typed
        )
        keys = set(hydra_keys(command.name))
        shared = (word for word in ALWAYS if word.partition("=")[0] in keys)
        reduced = [*shared, *shlex.split(command.mark or "")]
        door: Any = getattr(importlib.import_module(f"forecast.{command.name}"), command.name)
        done.append(door(compose(command.name, [*chain(named, reduced)])))
    assert len(done) == len(MARKED)
    made = {path.parent.name.partition("-")[0] for path in folder.glob("outputs/*/*.html")}
    assert {"lstm", "explain", "predict", "leaderboard"} <= made


def hydra_keys(name: str) -> list[str]:
    """Top-level keys of a command, and its groups."""
    return [str(key) for key in compose(name)]
