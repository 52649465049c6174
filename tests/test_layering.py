"""The house of the design: data flows down the rooms, and no import runs against it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "forecast"
ROOMS = ("prices", "dataset", "models", "evaluation", "portfolio", "report")
SHARED = (
    "config", "documents", "environment", "schema", "forecasts", "weights", "run", "settings",
    "door",
)  # fmt: skip
# library: the only room that may know it
OWNERS = {"yfinance": "prices", "plotly": "report"}
# The one import against the flow: Run.model() rebuilds networks when it is asked to.
EXCEPTION = ("run", "Run.model", "models")


@dataclass(frozen=True)
class Import:
    """One imported module, where it stands, and in which function, class or type check."""

    file: Path
    line: int
    module: str
    scope: str

    @property
    def place(self) -> str:
        """Room, door or shared file that imports."""
        return place_of(self.file)

    @property
    def target(self) -> str | None:
        """Room, door or shared file of ours that is imported; None for other packages."""
        parts = self.module.split(".")
        return None if parts[0] != "forecast" else (parts[1] if len(parts) > 1 else "forecast")

    def __str__(self) -> str:
        return f"{self.file.relative_to(PACKAGE.parent)}:{self.line} imports {self.module}"


def place_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).parts
    return "forecast" if parts == ("__init__.py",) else parts[0].removesuffix(".py")


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or folder of ours: `from forecast import train` is a door."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return name.startswith("forecast.") and (path.is_dir() or path.with_suffix(".py").is_file())


def imports_of(file: Path) -> Iterator[Import]:
    def visit(node: ast.AST, scope: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{scope}.{child.name}".lstrip(".")
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = "TYPE_CHECKING"
            elif isinstance(child, ast.Import):
                for name in child.names:
                    yield Import(file, child.lineno, name.name, scope)
            elif isinstance(child, ast.ImportFrom):
                yield from from_import(child, scope)
            yield from visit(child, inner)

    def from_import(node: ast.ImportFrom, scope: str) -> Iterator[Import]:
        assert not node.level, f"{file}:{node.lineno} imports relatively; rooms are named in full"
        assert node.module is not None
        for name in node.names:
            full = f"{node.module}.{name.name}"
            yield Import(file, node.lineno, full if is_module(full) else node.module, scope)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), "")


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for file in FILES for found in imports_of(file)]
DOORS = {
    place_of(file)
    for file in FILES
    if file.parent == PACKAGE and place_of(file) not in (*SHARED, "forecast")
}


def executed(found: Import) -> bool:
    return found.scope != "TYPE_CHECKING"


def test_the_package_consists_of_the_rooms_doors_and_shared_files_of_the_design() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").is_file()}
    assert folders <= set(ROOMS), "a room that the design does not know"
    assert not {"utils", "common", "helpers", "misc"} & {file.stem for file in FILES}
    assert {"train", "backtest", "audit", "explain", "fetch", "predict", "leaderboard"} == DOORS


@pytest.mark.parametrize("room", [r for r in ROOMS if (PACKAGE / r).is_dir()])
def test_a_room_imports_only_itself_rooms_above_and_the_shared_files(room: str) -> None:
    allowed = {*ROOMS[: ROOMS.index(room) + 1], *SHARED}
    wrong = [
        str(found)
        for found in IMPORTS
        if found.place == room and found.target is not None and found.target not in allowed
    ]
    assert not wrong, wrong


def test_nobody_imports_a_door_but_the_one_that_opens_the_test_range() -> None:
    found = {(f.place, f.scope, f.target) for f in IMPORTS if f.target in DOORS}
    assert found == {("leaderboard", "open_test", door) for door in ("train", "backtest")}


def test_shared_files_import_no_room_but_for_the_one_named_exception() -> None:
    shared = [f for f in IMPORTS if f.place in SHARED and f.target in ROOMS and executed(f)]
    found = {(f.place, f.scope, f.target) for f in shared}
    assert found == {EXCEPTION}


def test_shared_files_import_each_other_in_no_circle() -> None:
    for found in IMPORTS:
        if found.place in SHARED and found.target in SHARED and executed(found):
            assert SHARED.index(str(found.target)) < SHARED.index(found.place), str(found)


def test_the_package_itself_imports_nothing_when_it_is_imported() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.place == "forecast" and found.target is not None and executed(found)
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(("library", "room"), OWNERS.items())
def test_only_one_room_knows_a_library(library: str, room: str) -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.module.split(".")[0] == library and found.place != room
    ]
    assert not wrong, wrong


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    shipped = [*FILES, *PACKAGE.parent.glob("conf/**/*.yaml")]
    wrong = [
        str(file)
        for file in shipped
        if any(home in file.read_text(encoding="utf-8") for home in ("/home/", "/Users/", "/tmp/"))
    ]
    assert not wrong, wrong
