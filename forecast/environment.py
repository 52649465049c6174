"""On what a run was made."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "forecast", "torch", "pytorch-lightning", "hydra-core", "pandas", "numpy", "pyarrow", "scipy",
)  # fmt: skip


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
