"""The loss of the default head as one compiled pass, with its slopes.

As a chain of torch's operations the negative log likelihood of a Student t costs as much as the
recurrence; the same equations stand in `heads.StudentTHead`, which they are tested against.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from llvmlite import ir
from torch import Tensor

from forecast.models import vectors
from forecast.models.vectors import (
    INDEX,
    POINTER,
    REALS,
    Code,
    Machine,
    Vector,
    absolute,
    exp,
    fma,
    larger,
    log,
    log1p,
    new_module,
    sigmoids,
    sqrt,
)


class Bounds(NamedTuple):
    """Constants of the head's map from raw outputs to parameters."""

    mean_rate: float
    sigma_lowest: float
    sigma_shift: float  # softplus(raw + shift) + lowest is 1 at raw 0
    tail_lowest: float  # of 1 / df
    tail_width: float
    tail_shift: float


def student_t_loss(raw_P: Tensor, y: Tensor, bounds: Bounds) -> Tensor:
    """Negative log likelihood of a Student t, elementwise, from raw outputs.

    Parameters
    ----------
    raw_P : Tensor of shape (…, 3), on the CPU
    y : Tensor of shape (…)
    """
    return cast(Tensor, _StudentT.apply(raw_P, y, bounds))


class _StudentT(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw_P: Tensor, y: Tensor, bounds: Bounds) -> Tensor:
        count, shape = y.numel(), y.shape
        kernel, lanes = _kernel(str(raw_P.dtype).removeprefix("torch."), bounds)
        room = -(-count // lanes) * lanes
        # raw mean, spread and tails, target, loss, and the slopes by the first three
        memory = raw_P.new_empty(8, room)
        memory[:3, :count] = raw_P.reshape(count, 3).t()
        memory[3, :count] = y.reshape(count)
        memory[:4, count:] = 0
        kernel(memory.data_ptr(), room)
        ctx.slopes = memory[5:, :count]
        return memory[4, :count].view(shape)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = slopes
        by_raw = slope.new_empty(*slope.shape, 3)
        torch.mul(ctx.slopes.t(), slope.reshape(-1, 1), out=by_raw.view(-1, 3))
        return by_raw, None, None


@cache
def _kernel(real: str, bounds: Bounds) -> tuple[Callable[[int, int], None], int]:
    """The compiled pass over memory as `_StudentT.forward` lays it out, and its lanes."""
    files = (Path(str(vectors.__file__)), Path(__file__))
    source = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def build() -> ir.Module:
        module = new_module()
        function = ir.Function(
            module, ir.FunctionType(ir.VoidType(), [POINTER, INDEX]), "student_t"
        )
        builder = ir.IRBuilder(function.append_basic_block())
        code = Code(builder, REALS[real])
        memory, count = function.args
        with code.loop(builder.sdiv(count, code.index(code.lanes))) as block:
            place = code.at(memory, code.times(block, code.lanes))
            rows = [code.at(place, code.times(count, i)) for i in range(8)]
            made = _student_t(bounds, *(code.load(row) for row in rows[:4]))
            for row, value in zip(rows[4:], made, strict=True):
                code.store(value, row)
        builder.ret_void()
        return module

    machine = Machine("\n".join([source, real, repr(bounds)]), build)
    run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(machine.address("student_t"))
    run.machine = machine  # type: ignore[attr-defined]  # its code lives as long as the function
    return run, vectors.processor().bits // (8 * REALS[real].bytes)


def _student_t(
    bounds: Bounds, mean: Vector, spread: Vector, tails: Vector, y: Vector
) -> tuple[Vector, Vector, Vector, Vector]:
    """Loss and its slopes by the three raw outputs."""
    steep, share = sigmoids(spread + bounds.sigma_shift, tails + bounds.tail_shift)
    shifted = spread + bounds.sigma_shift
    softplus = larger(shifted, 0.0) + log1p(exp(0.0 - absolute(shifted)))
    sigma = softplus + bounds.sigma_lowest
    inverse = fma(share, bounds.tail_width, bounds.tail_lowest)  # 1 / df
    df = 1.0 / inverse
    narrow = fma(inverse, -2.0, 1.0)  # (df − 2) / df
    scale = sigma * sqrt(narrow)
    per_scale = 1.0 / scale
    t = (y - bounds.mean_rate * mean) * per_scale
    q = t * t * inverse
    tail = log1p(q)
    ratio, by_half = _gamma_ratio(0.5 * df)
    loss = log(scale) - ratio + 0.5 * log(math.pi * df) + 0.5 * (df + 1.0) * tail
    by_t = (df + 1.0) * t * inverse * (1.0 / (1.0 + q))
    by_log_scale = 1.0 - t * by_t
    by_df = 0.5 * (
        inverse + tail - by_half - t * by_t * inverse
    ) + by_log_scale * inverse * inverse * (1.0 / narrow)
    by_tails = by_df * df * df * fma(share, share, 0.0 - share) * bounds.tail_width
    return (
        loss,
        by_t * per_scale * -bounds.mean_rate,
        by_log_scale * steep * (1.0 / sigma),
        by_tails,
    )


def _gamma_ratio(a: Vector) -> tuple[Vector, Vector]:
    """log Γ(a + ½) − log Γ(a) and its slope, by the series at a + 3 (see `heads`)."""
    b = a + 3.0
    per_b = 1.0 / b
    square = per_b * per_b
    coefficients = (1 / 8, -1 / 192, 1 / 640, -17 / 14336)
    series = slope = a.code.constant(0.0)
    for power, coefficient in reversed(list(enumerate(coefficients))):
        series = fma(series, square, coefficient)
        slope = fma(slope, square, (2 * power + 1) * coefficient)
    above, below = a * (a + 1.0) * (a + 2.0), (a + 0.5) * (a + 1.5) * (a + 2.5)
    value = 0.5 * log(b) - series * per_b + log(above * (1.0 / below))
    by_a = fma(slope, square, 0.5 * per_b)
    for step in (0.0, 1.0, 2.0):  # 1 / (a + k) − 1 / (a + k + ½)
        by_a = by_a + 0.5 * (1.0 / ((a + step) * (a + step + 0.5)))
    return value, by_a
