"""Where a run folder keeps the weights of its members, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from forecast.config import ForecastError


def best_checkpoint(folder: Path, member: int) -> Path:
    """Where a run folder keeps the weights of a member's best epoch."""
    return folder / "checkpoints" / f"member-{member}" / "best.ckpt"


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Tensors and primitives of a checkpoint; nothing in it is executed.

    Raises
    ------
    ForecastError
        It is damaged, or holds anything else, such as code.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        state["state_dict"], state["hyper_parameters"]
    except Exception as error:
        raise ForecastError(
            f"{path} is damaged, or holds more than tensors and primitives: it is not loaded. "
            "Repeat the run with force=true."
        ) from error
    return state


def network_state(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights and buffers of the network of a member's checkpoint, by their names in it."""
    return {
        name.removeprefix("network."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
