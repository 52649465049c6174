"""Trains in a process of its own and dies there as by `kill -9`, or waits, where it is told to.

Run by tests/test_train.py with these globals: OVERRIDES, what is typed; NAME, a file of the run
folder at whose writing the process dies, WHEN, "before" or "after" its rename; HOLD, a file that is
created before the first training step, which then waits until `<HOLD>.go` is there; OUT, where
standard output goes. None is none.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

OVERRIDES: list[str]
NAME: str | None
WHEN: str | None
HOLD: str | None
OUT: str


def die_at(name: str, when: str | None) -> None:
    replace = os.replace

    def replace_and_die(source: Any, target: Any, **options: Any) -> None:
        here = Path(target).as_posix().endswith(f"/{name}")
        if here and when == "before":
            os._exit(9)
        replace(source, target, **options)
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


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    # Not closed: what is printed reaches the file whatever happens.
    sys.stdout = sys.stderr = open(OUT, "a", buffering=1)  # noqa: SIM115
    if NAME is not None:
        die_at(NAME, WHEN)
    if HOLD is not None:
        hold_at(Path(HOLD))
    from forecast import compose
    from forecast.train import train

    train(compose("train", OVERRIDES))
