"""Trains in a process of its own and dies there as by `kill -9`, or waits, where it is told to.

Run by tests/test_train.py with a global FACTS: `overrides`, what is typed; `out`, where standard
output goes; `name`, a file of the run folder at whose writing the process dies, and `when`, before
or after its rename; `hold`, a file that is created before the first training step, which then
waits until `<hold>.go` is there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any


def die_at(name: str, when: str) -> None:
    replace = os.replace

    def replace_and_die(source: Any, target: Any) -> None:
        here = Path(target).as_posix().endswith(f"/{name}")
        if here and when == "before":
            os._exit(9)
        replace(source, target)
        if here:
            os._exit(9)

    os.replace = replace_and_die  # type: ignore[assignment]


def hold_at(marker: Path) -> None:
    from forecast.models.forecaster import Forecaster

    step = Forecaster.training_step

    def held(self: Forecaster, batch: Any, index: int) -> Any:
        marker.touch()
        while not marker.with_name(f"{marker.name}.go").exists():
            time.sleep(0.005)
        return step(self, batch, index)

    Forecaster.training_step = held  # type: ignore[method-assign]


def blank(run: Any) -> Path:
    run.write("report.html", "")
    return Path(run.path / "report.html")


def main(overrides: list[str], out: str, **where: str) -> None:
    import torch

    import forecast.report.page
    from forecast import compose
    from forecast.train import train

    torch.set_num_threads(1)
    forecast.report.page.write_report = blank  # a page is written like any other file
    # Never closed: what is printed reaches the file whatever happens.
    sys.stdout = sys.stderr = open(out, "a", buffering=1)  # noqa: SIM115
    if "name" in where:
        die_at(where["name"], where["when"])
    if "hold" in where:
        hold_at(Path(where["hold"]))
    train(compose("train", overrides))


if __name__ == "__main__":
    main(**globals()["FACTS"])
