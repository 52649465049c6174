"""Notebooks: executed from scratch on a reduced setting, committed as they were executed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
LARGEST = 1.5e6  # bytes of a committed notebook
FIGURE, PICTURE = "application/vnd.plotly.v1+json", "image/png"

SMALL = [
    "data.symbols=[AAPL,JPM,KO,MSFT,XOM]", "window.length=50", "window.warmup=20",
    "window.batch=64", "split.validation=90", "model.hidden_size=3", "ensemble=1",
    "trainer.max_epochs=1",
]  # fmt: skip
RECENT = [*SMALL, "data.start=2020-06-01"]
REDUCED: dict[str, dict[str, Any]] = {  # in place of the parameters of each
    "01_quickstart": {"reduced": RECENT},
    "02_backtest": {
        "reduced": [
            *RECENT, "backtest.first=2022-06-01", "backtest.refit=never", "backtest.jobs=1",
            "backtest.baselines=[ewma_t,gjr_t]", "significance.repetitions=100",
        ],
    },
    "03_architecture_sweep": {"reduced": RECENT, "sizes": [2], "seeds": [0]},
    "04_memory": {
        "reduced": RECENT,
        "looked": ["symbols=2", "origins=4", "lags=8", "recall.seeds=1", "recall.epochs=1"],
    },
    "05_your_own": {
        "reduced": [*SMALL, "data.start=2019-06-01"],
        "walked": [
            "backtest.jobs=1", "backtest.refit=never", "backtest.baselines=[ewma_t]",
            "significance.benchmark=ewma_t", "significance.repetitions=100",
        ],
        "checked": [
            "audit.symbols=2", "audit.sessions=150", "audit.epochs=1", "audit.origins=20",
            "audit.planted_symbols=2", "audit.planted_sessions=200", "audit.planted_epochs=1",
        ],
    },
}  # fmt: skip
SAID = {  # what has to come out of them, whatever the setting
    "01_quickstart": ["validation, 20 sessions ahead", "for  median", "test, 1 session ahead"],
    "02_backtest": ["chosen: ", "after costs", "p_holm", "dsr"],
    "03_architecture_sweep": ["3 looks", "never opened", "opened 1 time by 1 configuration"],
    "04_memory": ["the gradient stays below half", "recalled", "gjr_t"],
    "05_your_own": ["pass  features", "fail  features", "status: fail", "pass  strategy"],
}


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    """The module notebooks/execute.py."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> list[str]:
    """What a cell shows: words, figures (pictures once committed), tables."""
    found = []
    for output in cell.outputs:
        shown = output.get("data", {})
        figure = FIGURE in shown or PICTURE in shown
        table = "table" if "text/html" in shown else output.output_type
        found.append("figure" if figure else output.get("name", table))
    return found


def statements(name: str) -> Iterator[ast.AST]:
    """Of all cells but those that write a file."""
    for cell in code(committed(name)):
        lines = [line for line in cell.source.splitlines() if not line.startswith("%%capture")]
        if not cell.source.startswith("%%writefile"):
            yield from ast.walk(ast.parse("\n".join(lines)))


def test_every_notebook_is_tested() -> None:
    assert [path.stem for path in sorted(FOLDER.glob("*.ipynb"))] == [*REDUCED] == [*SAID]


@pytest.mark.parametrize("name", REDUCED)
def test_a_notebook_runs_from_scratch_and_shows_what_the_committed_one_shows(
    name: str, execute: ModuleType, tmp_path: Path
) -> None:
    smaller = "\n".join(f"{key} = {value!r}" for key, value in REDUCED[name].items())
    environment = {
        **os.environ,
        "FORECAST_OUTPUTS": "outputs",
        "OMP_NUM_THREADS": "1",
        "PLOTLY_RENDERER": "plotly_mimetype",
    }
    notebook = execute.execute(
        FOLDER / f"{name}.ipynb", tmp_path, parameters=smaller, env=environment
    )
    cells, before = code(notebook), code(committed(name))
    assert [cell.source for cell in cells] == [cell.source for cell in before]
    assert all(cell.execution_count for cell in cells)
    assert [kinds(cell) for cell in cells] == [kinds(cell) for cell in before]
    figures = [
        output.data[FIGURE]
        for cell in cells
        for output in cell.outputs
        if FIGURE in output.get("data", {})
    ]
    assert figures
    for figure in figures:
        assert figure["data"], f"nothing is drawn in {figure['layout']['title']['text']!r}"
    said = "\n".join(execute.texts(notebook))
    assert [words for words in SAID[name] if words not in said] == []


@pytest.mark.parametrize("name", REDUCED)
def test_a_committed_notebook_has_the_outputs_of_its_code_and_nothing_of_a_machine(
    name: str, execute: ModuleType
) -> None:
    notebook = committed(name)
    cells = code(notebook)
    assert notebook.metadata["executed"] == execute.code_sha256(notebook), "make notebooks"
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert any("figure" in kinds(cell) for cell in cells)
    assert not any(name in ("error", "stderr") for cell in cells for name in kinds(cell))
    assert execute.machine_paths(notebook) == []
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    for cell in cells:
        for output in cell.outputs:
            if "figure" in kinds(cell) and PICTURE in output.get("data", {}):
                assert b64decode(output.data[PICTURE]).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", REDUCED)
def test_a_notebook_uses_the_public_names_of_the_package_and_defines_no_helpers(name: str) -> None:
    for statement in statements(name):
        assert not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Lambda)
        if isinstance(statement, ast.Attribute):
            assert not statement.attr.startswith("_")
        if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("forecast"):
            names = [*str(statement.module).split("."), *(each.name for each in statement.names)]
            assert not any(part.startswith("_") for part in names)
            for each in statement.names:
                assert hasattr(importlib.import_module(str(statement.module)), each.name)


def test_from_prices_to_a_figure_takes_ten_lines() -> None:
    first = code(committed("01_quickstart"))[1]
    assert "load_prices" in first.source and "figure" in kinds(first)
    assert len(first.source.split("\n")) <= 10


def small(*sources: str) -> Any:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    return nbformat.v4.new_notebook(cells=cells)


def test_what_is_put_behind_the_parameters_counts_and_is_not_kept(
    execute: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "small.ipynb"
    nbformat.write(small("size = 10", "print(size * unit)\nsize"), path)
    done = execute.execute(path, tmp_path, first="unit = 3", parameters="size = 2", env=os.environ)
    assert [cell.source for cell in done.cells] == ["size = 10", "print(size * unit)\nsize"]
    assert done.cells[1].outputs[0].text == "6\n"
    cleaned = execute.clean(done)
    assert [cell.execution_count for cell in cleaned.cells] == [1, 2]
    assert cleaned.cells[1].outputs[1].execution_count == 2
    assert "version" not in cleaned.metadata["language_info"]
    assert cleaned.metadata["executed"] == execute.code_sha256(small("size = 10", cells(done)))


def cells(notebook: Any) -> str:
    return str(notebook.cells[1].source)


def test_an_error_names_notebook_and_cell(execute: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "small.ipynb"
    nbformat.write(small("size = 10", "1 / 0"), path)
    with pytest.raises(SystemExit, match=r"small.ipynb, code cell 2: (?s:.*)ZeroDivisionError"):
        execute.execute(path, tmp_path, env=os.environ)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("report: outputs/lstm-0123456789/report.html\n", []),
        ("fine\nreport: /tmp/x/report.html\n", ["report: /tmp/x/report.html"]),
        ("in D:\\data\n", ["in D:\\data"]),
        ("elsewhere/here\n", ["elsewhere/here"]),
    ],
)
def test_places_on_the_machine_are_found_in_outputs(
    text: str, told: Sequence[str], execute: ModuleType
) -> None:
    notebook = small("print()")
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text=text)]
    assert execute.machine_paths(notebook, ["elsewhere"]) == told
