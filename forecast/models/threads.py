"""Compiled work shared between threads: torch's own where it uses GNU's OpenMP, else others.

Threads of OpenMP wait for their next work in a loop, for milliseconds. Others beside them would
have to share the processors with that loop.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor

from forecast.models.machine import Machine
from forecast.models.vectors import INDEX, POINTER, REALS

TOGETHER = 16  # windows that are worked on together; their gradients are added in order
REAL_OF = {getattr(torch, name): real for name, real in REALS.items()}
HEAD = 3  # numbers in front of the tasks: two functions of OpenMP, and how many tasks there are


class Work(NamedTuple):
    """A compiled function of whole numbers, and how a team of OpenMP shares calls of it."""

    call: Callable[..., None]
    shared: int  # address
    machine: Machine

    def do(self, tasks: np.ndarray) -> None:
        """Call the function with each row of whole numbers, on torch's number of threads."""
        if not len(tasks):
            return
        threads = min(torch.get_num_threads(), len(tasks))
        team = _team()
        if threads > 1 and team is not None:
            numbers = np.concatenate([[*team.functions, len(tasks)], tasks.reshape(-1)])
            numbers = np.ascontiguousarray(numbers, np.int64)
            team.parallel(self.shared, numbers.ctypes.data, threads, 0)
            return
        rows = tasks.tolist()
        started = [
            _pool(threads).submit(self._each, rows[thread::threads]) for thread in range(1, threads)
        ]
        self._each(rows[::threads])
        for thread in started:
            thread.result()

    def _each(self, rows: list[list[int]]) -> None:
        for row in rows:
            self.call(*row)


def work_of(machine: Machine, name: str, arguments: int) -> Work:
    """A function of a machine that `add_shared` was called for."""
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)
    call = signature(machine.address(name))
    return Work(call, machine.address(f"{name}_shared"), machine)


def add_shared(module: ir.Module, function: ir.Function) -> None:
    """Add what each thread of a team does: every so many-th task, from its own number on."""
    shared = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [POINTER]), f"{function.name}_shared"
    )
    (data,) = shared.args
    builder = ir.IRBuilder(shared.append_basic_block())

    def number(at: ir.Value | int) -> ir.Value:
        place = ir.Constant(INDEX, at) if isinstance(at, int) else at
        return builder.load(builder.gep(data, [place], source_etype=INDEX), typ=INDEX)

    def told(at: int) -> ir.Value:
        asked = builder.inttoptr(number(at), ir.FunctionType(ir.IntType(32), []).as_pointer())
        return builder.sext(builder.call(asked, []), INDEX)

    thread, threads, tasks = told(0), told(1), number(2)
    before = builder.block
    check, body, after = (shared.append_basic_block() for _ in range(3))
    builder.branch(check)
    builder.position_at_end(check)
    task = builder.phi(INDEX)
    task.add_incoming(thread, before)
    builder.cbranch(builder.icmp_signed("<", task, tasks), body, after)
    builder.position_at_end(body)
    first = builder.add(
        builder.mul(task, ir.Constant(INDEX, len(function.args))), ir.Constant(INDEX, HEAD)
    )
    values = []
    for i, argument in enumerate(function.args):
        value = number(builder.add(first, ir.Constant(INDEX, i)))
        values.append(builder.inttoptr(value, POINTER) if argument.type == POINTER else value)
    builder.call(function, values)
    task.add_incoming(builder.add(task, threads), builder.block)
    builder.branch(check)
    builder.position_at_end(after)
    builder.ret_void()


def check(x: Tensor, /, **others: tuple[Tensor | None, Sequence[int]]) -> None:
    """Refuse what compiled code, which sees addresses alone, would read as something else.

    Parameters
    ----------
    x : the input, whose type and device all have
    others : tensors by name, each with the shape that it must have
    """
    if x.dtype not in REAL_OF or x.device.type != "cpu":
        known = " or ".join(REALS)
        raise ValueError(f"The input is {x.dtype} on {x.device}, expected {known} on the CPU.")
    for name, (tensor, shape) in others.items():
        if tensor is None:
            continue
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, expected {x.dtype} on {x.device} "
                "as the input is."
            )
        if tensor.shape != shape:
            raise RuntimeError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}.")


def tasks(
    networks: int,
    windows: int,
    pointers: Sequence[tuple[Tensor | None, str]],
    sizes: Sequence[int],
) -> np.ndarray:
    """A task for each block of `TOGETHER` windows of each network, a row of whole numbers.

    Parameters
    ----------
    pointers : tensors, each with what its second axis counts: `window`, `block` (of windows) or,
        if it has none of them, `network`; its first axis is the network
    sizes : behind the addresses and the number of windows of the block
    """
    first = np.tile(np.arange(0, windows, TOGETHER), networks)
    network = np.repeat(np.arange(networks), len(first) // networks)
    # Of each tensor its address, and the bytes from network to network, window, and block.
    places = np.zeros((len(pointers), 4), np.int64)
    for place, (tensor, counts) in zip(places, pointers, strict=True):
        if tensor is not None:
            size = tensor.element_size()
            place[:2] = tensor.data_ptr(), size * tensor.stride(0)
            if counts != "network":
                place[2 if counts == "window" else 3] = size * tensor.stride(1)
    start, by_network, by_window, by_block = places.T
    table = np.empty((len(first), len(pointers) + 1 + len(sizes)), np.int64)
    table[:, : len(pointers)] = start + network[:, None] * by_network
    table[:, : len(pointers)] += first[:, None] * by_window + first[:, None] // TOGETHER * by_block
    table[:, len(pointers)] = np.minimum(TOGETHER, windows - first)
    table[:, len(pointers) + 1 :] = sizes
    return table


def steps(*tensors: Tensor | None) -> list[int]:
    """Numbers from window to window and from session to session of each, 0 of what is not there."""
    return [n for t in tensors for n in ((0, 0) if t is None else (t.stride(1), t.stride(2)))]


class _Team(NamedTuple):
    """GNU's OpenMP: what starts a team, and the addresses of what tells a thread its place."""

    parallel: Callable[[int, int, int, int], None]
    functions: tuple[int, int]


@cache
def _team() -> _Team | None:
    """Torch's; None where it uses another."""
    lib = Path(torch.__file__).parent
    for path in sorted([*lib.glob("lib/libgomp*"), *lib.parent.glob("torch.libs/libgomp*")]):
        with contextlib.suppress(OSError, AttributeError):
            found = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
            start = ctypes.CFUNCTYPE(
                None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
            )
            number, count = (
                ctypes.cast(getattr(found, f"omp_get_{name}"), ctypes.c_void_p).value
                for name in ("thread_num", "num_threads")
            )
            parallel = ctypes.cast(found.GOMP_parallel, ctypes.c_void_p).value
            assert number is not None and count is not None and parallel is not None
            return _Team(start(parallel), (number, count))
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="compiled")
