"""Linear layers of several networks over all sessions of their windows, as one compiled pass.

Products with as few columns as a head has parameters are what matrix libraries are slowest at; and
as one long sum over all windows a weight's gradient would be split by the number of threads. There
are no slopes by a mask, and no second derivatives.

Axes: K networks, B windows, L time, U inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from llvmlite import ir
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from forecast.models.machine import Machine, new_module
from forecast.models.threads import (
    REAL_OF,
    TOGETHER,
    Work,
    add_shared,
    check,
    steps,
    tasks,
    work_of,
)
from forecast.models.vectors import (
    INDEX,
    POINTER,
    REALS,
    Code,
    Real,
    Variable,
    fma,
)

ROWS = (12, 4, 1)  # sessions of a tile, as long as there are so many left
COLUMNS = (8, 1)  # inputs of a tile of the gradient
BLOCK = 512  # inputs whose weights lie in the first-level cache, and on a thread's stack

POINTERS = ("x", "weights", "mask", "y", "slopes", "by_x", "gradient")
STEPPED = ("x", "mask", "y", "slopes", "by_x")  # move with the window
SIZES = ("windows", "sessions", "inputs", "outputs", "padded", *(
    f"{name}_{axis}" for name in STEPPED for axis in ("window", "step")
))  # fmt: skip


def linear_together(
    x_KBLU: Tensor, layers: Sequence[nn.Linear], mask_KB1U: Tensor | None
) -> Tensor:
    """(x · mask) Wᵀ + b of K networks, shape (K, B, L, O).

    Parameters
    ----------
    mask_KB1U : what inputs of a whole window are multiplied with; 1 by default
    """
    k, b, length, _ = x_KBLU.shape
    o, u = layers[0].weight.shape
    check(x_KBLU, x=(x_KBLU, (len(layers), b, length, u)), mask=(mask_KB1U, (k, b, 1, u)))
    for layer in layers:
        check(x_KBLU, weight=(layer.weight, (o, u)), bias=(layer.bias, (o,)))
    weights = [t for layer in layers for t in (layer.weight, layer.bias) if t is not None]
    return cast(Tensor, _Linear.apply(x_KBLU, mask_KB1U, *weights))


class _Kernels(NamedTuple):
    forward: Work
    backward: Work


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, *weights: Tensor) -> Tensor:
        k, b, length, u = x.shape
        x = x if x.stride(-1) == 1 else x.contiguous()
        each = len(weights) // k
        weight = torch.stack(weights[::each])
        o = weight.shape[1]
        real = REAL_OF[x.dtype]
        padded, room = real.whole(u), real.whole(o)
        masks = x.new_ones(k, b, 1, padded)
        if mask is not None:
            masks[..., :u] = mask
        # By vectors of outputs, and the constants behind: (K, vectors, U + 1, lanes)
        whole = x.new_zeros(k, room, u + 1)
        whole[:, :o, :u] = weight
        if each > 1:
            whole[:, :o, u] = torch.stack(weights[1::each])
        packed = whole.unflatten(1, (-1, real.lanes)).transpose(2, 3).contiguous()
        y = x.new_empty(k, b, length, room)
        _run(_kernels(real.name).forward, x, packed, masks, padded, y=y)
        ctx.save_for_backward(x, masks, weight)
        ctx.constants = each > 1
        return y[..., :o]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        x, masks, weight = ctx.saved_tensors
        k, b, length, u = x.shape
        o, padded = weight.shape[1], masks.shape[-1]
        real = REAL_OF[x.dtype]
        room = real.whole(o)
        if room > o or slope.stride(-1) != 1:
            slope = nn.functional.pad(slope, (0, room - o)).contiguous()
        # By vectors of inputs: (K, vectors, O, lanes)
        packed = nn.functional.pad(weight, (0, padded - u)).unflatten(2, (-1, real.lanes))
        packed = packed.transpose(1, 2).contiguous()
        by_x = x.new_empty(k, b, length, padded) if ctx.needs_input_grad[0] else None
        gradient = x.new_zeros(k, -(-b // TOGETHER), u + 1, room)
        work = _kernels(real.name).backward
        _run(work, x, packed, masks, padded, slopes=slope, by_x=by_x, gradient=gradient)
        total = gradient.sum(1)
        by_weights = []
        for own in total:
            by_weights.append(own[:u, :o].t())
            if ctx.constants:
                by_weights.append(own[u, :o])
        return (None if by_x is None else by_x[..., :u], None, *by_weights)


def _run(
    work: Work,
    x: Tensor,
    weights: Tensor,
    masks: Tensor,
    padded: int,
    *,
    y: Tensor | None = None,
    slopes: Tensor | None = None,
    by_x: Tensor | None = None,
    gradient: Tensor | None = None,
) -> None:
    """Call a kernel on blocks of the windows of all networks."""
    networks, windows, sessions, inputs = x.shape
    pointers = [
        (x, "window"), (weights, "network"), (masks, "window"), (y, "window"), (slopes, "window"),
        (by_x, "window"), (gradient, "block"),
    ]  # fmt: skip
    # Forward it fills whole vectors of outputs; backward it adds as many as there are.
    outputs = weights.shape[2] if y is None else y.shape[-1]
    sizes = [sessions, inputs, outputs, padded, *steps(x, masks, y, slopes, by_x)]
    work.do(tasks(networks, windows, pointers, sizes))


@cache
def _kernels(real: str) -> _Kernels:
    """The passes, compiled on the first call."""

    def build() -> ir.Module:
        module = new_module()
        for name, body in (("forward", _forward), ("backward", _backward)):
            add_shared(module, _function(module, REALS[real], name, body))
        return module

    machine = Machine(f"linear {real}", build)
    count = len(POINTERS) + len(SIZES)
    return _Kernels(work_of(machine, "forward", count), work_of(machine, "backward", count))


def _function(module: ir.Module, real: Real, name: str, body: Any) -> ir.Function:
    """A function that does something for each window of a block."""
    arguments = [*[POINTER] * len(POINTERS), *[INDEX] * len(SIZES)]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    builder = ir.IRBuilder(function.append_basic_block())
    start = function.append_basic_block()
    builder.branch(start)
    builder.position_at_end(start)
    code = Code(builder, real)
    a = dict(zip((*POINTERS, *SIZES), function.args, strict=True))
    with code.loop(a["windows"]) as window:
        moved = {n: code.at(a[n], code.times(window, a[f"{n}_window"])) for n in STEPPED}
        body(code, {**a, **moved})
    builder.ret_void()
    return function


def _forward(code: Code, a: dict[str, ir.Value]) -> None:
    lanes, builder = code.lanes, code.builder
    # The window's own weights, which its mask is part of, stay in the cache while it is read.
    own = code.room(BLOCK)
    # Without inputs there is one block all the same, of constants.
    blocks = code.plus(builder.sdiv(code.plus(a["inputs"], -1), code.index(BLOCK)), 1)
    with (
        code.loop(builder.sdiv(a["outputs"], code.index(lanes))) as vector,
        code.loop(blocks) as block,
    ):
        start, later = code.times(block, BLOCK), builder.icmp_signed(">", block, code.index(0))
        rest = builder.sub(a["inputs"], start)
        whole = builder.icmp_signed(">", rest, code.index(BLOCK))
        count = builder.select(whole, code.index(BLOCK), rest)
        rows = code.times(code.plus(a["inputs"], 1), lanes)
        weights = code.at(a["weights"], code.times(vector, rows))
        constants = code.load(code.at(weights, code.times(a["inputs"], lanes)))
        with code.loop(count) as u:
            place, number = code.times(u, lanes), code.plus(start, u)
            weight = code.load(code.at(weights, code.times(number, lanes)))
            code.store(weight * code.spread(code.at(a["mask"], number)), code.at(own, place))
        for size, first in code.tiles(a["sessions"], ROWS):
            x = [code.at(row, start) for row in _rows(code, a, "x", first, size)]
            outputs = code.times(vector, lanes)
            y = [code.at(row, outputs) for row in _rows(code, a, "y", first, size)]
            sums = [code.variable(constants) for _ in y]
            with builder.if_then(later):  # go on with what the block before left
                for variable, place in zip(sums, y, strict=True):
                    variable.set(code.load(place))
            _products(code, x, own, count, sums)
            for variable, place in zip(sums, y, strict=True):
                code.store(variable.get(), place)


def _backward(code: Code, a: dict[str, ir.Value]) -> None:
    lanes, builder = code.lanes, code.builder
    wanted = builder.icmp_unsigned("!=", builder.ptrtoint(a["by_x"], INDEX), code.index(0))
    inputs = builder.select(wanted, builder.sdiv(a["padded"], code.index(lanes)), code.index(0))
    with code.loop(inputs) as vector:
        place = code.times(vector, lanes)
        weights = code.at(a["weights"], code.times(place, a["outputs"]))
        mask = code.load(code.at(a["mask"], place))
        for size, first in code.tiles(a["sessions"], ROWS):
            slopes = _rows(code, a, "slopes", first, size)
            sums = [code.variable(code.constant(0.0)) for _ in slopes]
            _products(code, slopes, weights, a["outputs"], sums)
            for variable, row in zip(sums, _rows(code, a, "by_x", first, size), strict=True):
                code.store(variable.get() * mask, code.at(row, place))
    # As many vectors of outputs as there are, whole ones.
    vectors_ = builder.sdiv(code.plus(a["outputs"], lanes - 1), code.index(lanes))
    width = code.times(vectors_, lanes)
    with code.loop(vectors_) as vector:
        place = code.times(vector, lanes)
        for size, first in code.tiles(a["inputs"], COLUMNS):
            held = [code.variable(code.constant(0.0)) for _ in range(size)]
            with code.loop(a["sessions"]) as session:
                slope = _at(code, a, "slopes", session, place)
                x = code.at(a["x"], code.times(session, a["x_step"]), first)
                for c, variable in enumerate(held):
                    number = code.spread(code.at(x, c))
                    variable.set(fma(number, code.load(slope), variable.get()))
            for c, variable in enumerate(held):
                column = code.plus(first, c)
                mask = code.spread(code.at(a["mask"], column))
                here = code.at(a["gradient"], code.times(column, width), place)
                code.store(fma(variable.get(), mask, code.load(here)), here)
        constant = code.variable(code.constant(0.0))
        with code.loop(a["sessions"]) as session:
            constant.set(constant.get() + code.load(_at(code, a, "slopes", session, place)))
        here = code.at(a["gradient"], code.times(a["inputs"], width), place)
        code.store(code.load(here) + constant.get(), here)


def _at(
    code: Code, a: dict[str, ir.Value], name: str, session: ir.Value, place: ir.Value
) -> ir.Value:
    return code.at(a[name], code.times(session, a[f"{name}_step"]), place)


def _rows(
    code: Code, a: dict[str, ir.Value], name: str, first: ir.Value, size: int
) -> list[ir.Value]:
    """Addresses of so many sessions."""
    start = code.at(a[name], code.times(first, a[f"{name}_step"]))
    return [code.at(start, code.times(a[f"{name}_step"], r)) for r in range(size)]


def _products(
    code: Code, rows: list[ir.Value], weights: ir.Value, count: ir.Value, sums: list[Variable]
) -> None:
    """Add to each row's sum `count` products with one vector of weights each, in registers."""
    with code.loop(count) as k:
        weight = code.load(code.at(weights, code.times(k, code.lanes)))
        for variable, row in zip(sums, rows, strict=True):
            variable.set(fma(code.spread(code.at(row, k)), weight, variable.get()))
