"""What a recurrence asks of a machine, and what the machine at hand gives at most.

`compare.py` and `gpu.py` state speeds as fractions of these ceilings, measured in the same run.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import torch

GATES = {"rnn": 1, "gru": 3, "lstm": 4}  # products a unit and session takes with its inputs
# Numbers a unit and session leaves for the way back: state, gates, what is inside a gate, memory.
KEPT = {"rnn": 1, "gru": 5, "lstm": 6}

Mark = float | torch.cuda.Event


def products(cell: str, features: int, units: int, layers: int = 1) -> int:
    """Floating-point operations of training on one session of one window, products alone.

    A product of n inputs with m units is n·m multiplications and as many additions. There and back
    it is taken for the sums, for the weights' gradient and for the gradient of what was read: the
    state, and the layer below, but not the features.
    """
    total = 0
    for layer in range(layers):
        inputs = units if layer else features
        read = 2 * (inputs + units) + units + (inputs if layer else 0)
        total += 2 * GATES[cell] * units * read
    return total


def moved(cell: str, features: int, units: int, layers: int = 1, *, size: int = 4) -> int:
    """Bytes that training on one session of one window brings to or from memory, at least.

    As if weights and the state between two sessions never left the processor: forward reads the
    inputs and writes what is kept; backward reads that and the slope of the state, and writes the
    slopes of the sums; the weights' gradient reads these, the inputs and the states.

    Parameters
    ----------
    size : int
        Bytes of a number.
    """
    numbers = 0
    for layer in range(layers):
        inputs = units if layer else features
        forward = inputs + KEPT[cell] * units
        backward = KEPT[cell] * units + units + GATES[cell] * units + (inputs if layer else 0)
        gradient = GATES[cell] * units + inputs + units
        numbers += forward + backward + gradient
    return size * numbers


def peak() -> float:
    """Largest resident memory of this process so far, MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


def mark(device: torch.device | str) -> Mark:
    """Now: on a GPU the time at which all work asked for so far is done, without waiting for it."""
    if torch.device(device).type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(first: Mark, last: Mark) -> float:
    """Seconds between two marks of one device; waits for the last one."""
    if isinstance(first, float) or isinstance(last, float):
        assert isinstance(first, float) and isinstance(last, float)
        return last - first
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def fastest(work: Callable[[], object], device: torch.device | str, repeats: int) -> float:
    """Seconds of the fastest of some calls, after one that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        first = mark(device)
        work()
        seconds.append(between(first, mark(device)))
    return min(seconds)


def product_rate(
    device: torch.device | str = "cpu",
    *,
    size: int = 4096,
    dtype: torch.dtype = torch.float32,
    repeats: int = 3,
) -> float:
    """Operations per second of a product of two large square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / fastest(lambda: a @ b, device, repeats)


def copy_rate(device: torch.device | str = "cpu", *, bytes: int = 2**30, repeats: int = 5) -> float:
    """Bytes per second of a large copy, what is read and what is written together."""
    source = torch.ones(bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * bytes / fastest(lambda: target.copy_(source), device, repeats)
