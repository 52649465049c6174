"""On what a run was made, and in what process."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib.metadata
import os
import platform
import subprocess
import threading
import time
from functools import cache
from pathlib import Path

PACKAGES = (
    "forecast", "torch", "pytorch-lightning", "hydra-core", "pandas", "numpy", "pyarrow", "scipy",
)  # fmt: skip
YOUNG = 50_000  # new objects after which garbage is sought


def environment(device: str) -> dict[str, str]:
    """Versions, commit and device, for a reader who wants to repeat a run."""
    # Only of our own checkout: an installed package may lie inside somebody else's.
    root, commit = Path(__file__).resolve().parents[1], ""
    if (root / ".git").exists():
        with contextlib.suppress(OSError):  # no git here
            commit = subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
            ).stdout.strip()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit or "unknown",
        "device": device,
    }


def seek_no_garbage_among_imports() -> None:
    """Collect neither as modules come nor at the end: they are a million objects that stay.

    Python seeks garbage after every 700 new objects, and several times over among all of them when
    it ends. Of a command of seconds that is more than one.
    """
    gc.set_threshold(YOUNG)
    atexit.register(gc.freeze)


@cache
def end_with(parent: int) -> None:
    """Let this process end as soon as its parent is gone, however that was killed.

    It would go on with its work beside the process of the next command, which does the same.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
