"""What torch computes on: the device and the threads of the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from functools import cache

import torch

from forecast.config import ForecastError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


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
    keep_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def gpu_precision(precision: str) -> Iterator[None]:
    """Let a GPU round the factors of its products to TF32, or not; afterwards as before.

    Forecasts are made with `float32`, whatever a network was trained with.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    rounded = precision == "tf32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@cache
def keep_memory() -> None:
    """Let this process keep freed memory for the next step, where the C library is glibc.

    By default it hands blocks of megabytes back to the kernel at once, and takes them again page by
    page, filled with zeros: half the time of a training step on a virtual machine. What is larger
    than a quarter of a gigabyte is still given back.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option, size in ((_MMAP_THRESHOLD, 2**28), (_TRIM_THRESHOLD, 2**29)):
            mallopt(option, size)
