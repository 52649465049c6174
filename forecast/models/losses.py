"""The loss of the default head as one compiled pass, with its slopes.

As a chain of torch's operations the negative log likelihood of a Student t costs as much as the
recurrence; the same equations stand in `heads.StudentTHead`, which they are tested against. There
are no slopes by the target, and no second derivatives.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from llvmlite import ir
from torch import Tensor
from torch.autograd.function import once_differentiable

from forecast.models.machine import Machine, new_module
from forecast.models.threads import REAL_OF, Work, add_shared, check, work_of
from forecast.models.vectors import (
    INDEX,
    POINTER,
    Code,
    Real,
    Vector,
    absolute,
    exp,
    fma,
    larger,
    log,
    log1p,
    sigmoids,
    sqrt,
    within,
)

SHARE = 256  # vectors that a thread works on at a time


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
    check(raw_P, y=(y, raw_P.shape[:-1]), raw=(raw_P, (*y.shape, 3)))
    return cast(Tensor, _StudentT.apply(raw_P, y, bounds))


class _StudentT(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw_P: Tensor, y: Tensor, bounds: Bounds) -> Tensor:
        count = y.numel()
        real = REAL_OF[raw_P.dtype]
        room, share = real.whole(count), SHARE * real.lanes
        raw, target, slopes = (raw_P.new_empty(room, *shape) for shape in ((3,), (), (3,)))
        for memory, given in ((raw, raw_P.reshape(-1, 3)), (target, y.reshape(-1))):
            memory[:count] = given
            memory[count:] = 0
        loss = torch.empty_like(target)
        first = np.arange(0, room, share)
        columns = [
            memory.data_ptr() + memory.element_size() * memory.stride(0) * first
            for memory in (raw, target, loss, slopes)
        ]
        vectors = np.minimum(share, room - first) // real.lanes
        _work(real, bounds).do(np.stack([*columns, vectors], 1))
        ctx.save_for_backward(slopes[:count])
        return loss[:count].view(y.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (slope,), (by_raw,) = slopes, ctx.saved_tensors
        return (by_raw * slope.reshape(-1, 1)).view(*slope.shape, 3), None, None


@cache
def _work(real: Real, bounds: Bounds) -> Work:
    """The compiled pass over memory as `_StudentT.forward` lays it out."""

    def build() -> ir.Module:
        module = new_module()
        arguments = [POINTER, POINTER, POINTER, POINTER, INDEX]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), "student_t")
        builder = ir.IRBuilder(function.append_basic_block())
        code = Code(builder, real)
        raw, target, loss, slopes, count = function.args
        with code.loop(count) as block:
            place = code.times(block, code.lanes)
            triple = code.times(place, 3)
            mean, spread, tails = code.load_columns(code.at(raw, triple), 3)
            y = code.load(code.at(target, place))
            made, *by_raw = _student_t(bounds, mean, spread, tails, y)
            code.store(made, code.at(loss, place))
            code.store_columns(by_raw, code.at(slopes, triple))
        builder.ret_void()
        add_shared(module, function)
        return module

    return work_of(Machine(f"student_t {real.name} {bounds}", build), "student_t", 5)


def _student_t(
    bounds: Bounds, mean: Vector, spread: Vector, tails: Vector, y: Vector
) -> tuple[Vector, Vector, Vector, Vector]:
    """Loss and its slopes by the three raw outputs."""
    steep, share = sigmoids(spread + bounds.sigma_shift, tails + bounds.tail_shift)
    shifted = spread + bounds.sigma_shift
    softplus = larger(shifted, 0.0) + log1p(
        exp(0.0 - within(absolute(shifted), spread.code.real.most))
    )
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
