"""Execute the notebooks from scratch and keep what comes out: python notebooks/execute.py [01 …].

Each is executed by a kernel of its own in a fresh folder, and its outputs are written back into the
file, figures as pictures, for which plotly's kaleido needs a Chromium. Nothing of the machine is
kept: no times of execution, versions or paths. `make notebooks` executes all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
PARAMETERS = "parameters"  # tag of the cell behind which smaller settings are put
PICTURES = """
import warnings
import kaleido, plotly.io
kaleido.start_sync_server()  # one browser for all figures; plotly's options are those of another
warnings.filterwarnings("ignore", "The kopts argument")
plotly.io.renderers["png"].width, plotly.io.renderers["png"].scale = 800, 1.25
plotly.io.renderers.default = "png"
"""
METADATA = {  # all that is kept of a notebook's
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# A folder of the root and something in it, on Unix or Windows; no web address, no a/b within words.
PLACE = re.compile(r"(?<![\w./<])/[\w.~-]+/[\w.~-]|\b[A-Za-z]:\\|file:/")


def execute(
    path: Path, folder: Path, *, first: str = "", parameters: str = "", env: Mapping[str, str]
) -> NotebookNode:
    """A notebook with the outputs of its execution in a folder.

    Parameters
    ----------
    path : the notebook, which is left as it is.
    folder : where it is executed, and leaves its files.
    first : code that is executed before all cells, and not kept.
    parameters : likewise, behind the cell with the parameters.
    env : environment of the kernel.

    Raises
    ------
    SystemExit
        A cell fails; the message names it.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = notebook.cells
    place = next(i for i, c in enumerate(cells) if PARAMETERS in c.metadata.get("tags", ()))
    before, smaller = (nbformat.v4.new_code_cell(code) for code in (first, parameters))
    notebook.cells = [before, *cells[: place + 1], smaller, *cells[place + 1 :]]
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name=METADATA["kernelspec"]["name"],
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        coalesce_streams=True,
    )
    try:
        # A profile of its own: nothing of somebody's start-up files.
        client.execute(env={**env, "IPYTHONDIR": str(folder / ".ipython")})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        begun = [c for c in code_cells(notebook) if c.execution_count is not None]
        number = sum(c is not before and c is not smaller for c in begun)
        told = str(error)
        if isinstance(error, CellExecutionError):  # without the whole traceback
            told = f"{error.ename}: {error.evalue}"
        raise SystemExit(f"{path.name}, code cell {number}: {told}") from error
    notebook.cells = cells
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def clean(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from machine to machine; it tells which code was run."""
    notebook.metadata = nbformat.from_dict({**METADATA, "executed": code_sha256(notebook)})
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    return notebook


def code_sha256(notebook: NotebookNode) -> str:
    """Of all code: outputs that were kept beside another one are out of date."""
    code = "\0".join(cell.source for cell in code_cells(notebook))
    return hashlib.sha256(code.encode()).hexdigest()


def texts(notebook: NotebookNode) -> Iterator[str]:
    """All that its outputs say in words."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield "\n".join(output.get("traceback", ()))
            yield from (
                value
                for kind, value in output.get("data", {}).items()
                if kind.startswith("text/") or kind == "image/svg+xml"
            )


def machine_paths(notebook: NotebookNode, more: Sequence[str] = ()) -> list[str]:
    """Lines of its outputs that name a place on a machine."""
    lines = [line for text in texts(notebook) for line in text.splitlines()]
    return [line for line in lines if PLACE.search(line) or any(place in line for place in more)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; without any, all")
    names = parser.parse_args().names or [""]
    found = [p for p in sorted(FOLDER.glob("*.ipynb")) if any(p.stem.startswith(n) for n in names)]
    if not found:
        sys.exit(f"no notebook begins with {', '.join(names)}")
    for path in found:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            # Networks so small that threads only wait. A path from here is one that may be shown.
            env = {"OMP_NUM_THREADS": "1", **os.environ, "FORECAST_OUTPUTS": "outputs"}
            notebook = clean(execute(path, Path(folder), first=PICTURES, env=env))
            told = machine_paths(notebook, [folder, sys.prefix, str(FOLDER.parent)])
        if told:
            sys.exit(f"{path.name} would tell of this machine: {told[0]}")
        # No split of sources into lines: that is how nbformat writes them too.
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1e6
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
