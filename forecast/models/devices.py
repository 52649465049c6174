"""What torch computes on: the device and the threads of the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from forecast.config import ForecastError


def resolve_device(accelerator: str) -> str:
    """`cpu`, or the GPU's name: what `trainer.accelerator` means on this machine."""
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return f"cuda {torch.cuda.get_device_name()}"
    if accelerator == "gpu":
        raise ForecastError(
            "trainer=gpu: torch sees no GPU here. Use trainer=cpu, or install the torch build for "
            "your GPU (see pytorch.org, Get started)."
        )
    return "cpu"


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use as many threads on the CPU, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
