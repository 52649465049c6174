"""`torch.nn.RNN`, `LSTM` and `GRU` with the recurrence over time as one compiled pass on the CPU.

The same weights and numbers as torch's own modules, several networks of one shape at once, and
gradients that do not depend on the number of threads. There are no second derivatives.

Axes: K networks, B windows, L time, F features, U units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from forecast.models.cells import CELLS, Cell
from forecast.models.kernels import group_of, kernels
from forecast.models.threads import REAL_OF, TOGETHER, Work, check, steps, tasks
from forecast.models.vectors import processor

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def compiles(x: Tensor) -> bool:
    """Whether recurrences over such numbers are compiled here."""
    return x.device.type == "cpu" and x.dtype in REAL_OF and processor().bits > 0


class Layout(NamedTuple):
    """Sizes of a pass."""

    cell: str
    features: int
    units: int
    padded: int  # units, in whole vectors
    lanes: int
    group: int

    @property
    def equations(self) -> Cell:
        return CELLS[self.cell]


def layout_of(cell: str, features: int, units: int, dtype: torch.dtype) -> Layout:
    """The layout of a layer."""
    real = REAL_OF[dtype]
    padded, lanes = real.whole(units), real.lanes
    return Layout(cell, features, units, padded, lanes, group_of(padded, lanes))


class Order(NamedTuple):
    """Where each number of a kernel's memory comes from, as indices.

    Attributes
    ----------
    forward, more : of the weights for the way forward, each the sum of two of
        [weight_ih, weight_hh, bias_ih, bias_hh, 0]
    backward : of those for the way back
    of_features : of the weights by features, (sums · U, F)
    gradient : of the gradient by [weight_ih, weight_hh, bias_ih, bias_hh]
    """

    forward: Tensor
    more: Tensor
    backward: Tensor
    of_features: Tensor
    gradient: Tensor


@cache
def order_of(layout: Layout) -> Order:
    """The order of weights in which the kernels read them."""
    cell, u, f, p = layout.equations, layout.units, layout.features, layout.padded
    gates, columns = len(cell.gates), layout.features + 1 + layout.padded
    shapes = ((gates, u, f), (gates, u, u), (gates, u), (gates, u))
    ends = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    zero = int(ends[-1])
    weights = [
        np.arange(low, high).reshape(shape)
        for low, high, shape in zip(ends[:-1], ends[1:], shapes, strict=True)
    ]
    # Weights, constants and their places in the gradient: of all sums by [features, 1, state].
    whole = np.full((2, cell.sums, p, columns), zero)
    place = np.arange(columns * cell.sums * p).reshape(columns, cell.sums, p)
    places = [np.empty_like(a) for a in weights]
    for gate, (s, t) in enumerate(zip(cell.gates, cell.state_gates, strict=True)):
        state = slice(f + 1, f + 1 + u)
        whole[0, s, :u, :f], whole[0, t, :u, state] = weights[0][gate], weights[1][gate]
        # Where a sum has two constants they are added.
        whole[0, s, :u, f], whole[int(s == t), t, :u, f] = weights[2][gate], weights[3][gate]
        places[0][gate], places[1][gate] = place[:f, s, :u].T, place[state, t, :u].T
        places[2][gate], places[3][gate] = place[f, s, :u], place[f, t, :u]
    together = layout.group if cell.sums == 1 else 1

    def read(whole: np.ndarray) -> Tensor:
        """Group of units by group: constants, weights of the features, weights of the state."""
        parts = []
        for sums, column in (
            (range(cell.sums), slice(f, f + 1)),
            (cell.of_features, slice(f)),
            (cell.of_state, slice(f + 1, None)),
        ):
            # (sums, blocks, units together, lanes, columns)
            chosen = whole[sums.start : sums.stop, :, column]
            chosen = chosen.reshape(len(sums), -1, together, layout.lanes, chosen.shape[-1])
            parts.append(chosen.transpose(1, 4, 2, 0, 3).reshape(chosen.shape[1], -1))
        return torch.from_numpy(np.concatenate(parts, 1).reshape(-1))

    back = whole[0, cell.of_state.start : cell.of_state.stop, :, f + 1 :]
    back = back.reshape(len(cell.of_state) * p, -1, layout.group * layout.lanes)
    of_features = whole[0, cell.of_features.start : cell.of_features.stop, :, :f]
    return Order(
        read(whole[0]),
        read(whole[1]),
        torch.from_numpy(back.transpose(1, 0, 2).reshape(-1).copy()),
        torch.from_numpy(of_features.reshape(-1, f).copy()),
        torch.from_numpy(np.concatenate([a.reshape(-1) for a in places])),
    )


class Trace(NamedTuple):
    """What the way forward leaves, and the way back works on: see `tiles`; each with axes K, B."""

    features: Tensor
    states: Tensor
    kept: Tensor
    memory: Tensor


def _run(
    work: Work,
    layout: Layout,
    made: Trace,
    weights: Tensor,
    sessions: int,
    *,
    slopes: Tensor | None = None,
    carry: Tensor | None = None,
    memory_carry: Tensor | None = None,
    gradient: Tensor | None = None,
) -> None:
    """Call a kernel on blocks of the windows of all networks."""
    networks, windows = made.states.shape[:2]
    pointers = [
        *((tensor, "window") for tensor in made),
        (weights, "network"),
        *((tensor, "window") for tensor in (slopes, carry, memory_carry)),
        (gradient, "block"),
    ]
    sizes = [sessions, layout.features, layout.padded, *steps(*made, slopes)]
    work.do(tasks(networks, windows, pointers, sizes))


def _forward(layout: Layout, made: Trace, flat: Tensor) -> None:
    """The way forward, from the weights of each network one after the other."""
    order, x = order_of(layout), made.features
    packed = flat.index_select(1, order.forward) + flat.index_select(1, order.more)
    kernel = kernels(layout.cell, REAL_OF[x.dtype].name, layout.group)
    _run(kernel.forward, layout, made, packed, x.shape[2])


class _Layer(torch.autograd.Function):
    """One recurrent layer of K networks."""

    @staticmethod
    def forward(
        ctx: Any,
        layout: Layout,
        remember: bool,
        x: Tensor,
        state: Tensor | None,
        memory: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        cell = layout.equations
        k, b, length, _ = x.shape
        p, u = layout.padded, layout.units
        x = x if x.stride(-1) == 1 else x.contiguous()
        zero = x.new_zeros(1)
        each = len(weights) // k
        pieces = [(*weights[i * each : (i + 1) * each], zero) for i in range(k)]
        flat = torch.cat([w.reshape(-1) for own in pieces for w in own]).view(k, -1)
        states = x.new_empty(k, b, length + 1, p)
        states[:, :, 0] = 0
        if state is not None:
            states[:, :, 0, :u] = state
        places = length + 1 if remember else 1
        # Steps of a power of two would meet in few places of the cache.
        kept = x.new_empty(k, b, places, cell.sums * p + layout.lanes)
        memories = x.new_empty(k, b, places, p) if cell.memory else kept
        if cell.memory:
            memories[:, :, 0] = 0
            if memory is not None:
                memories[:, :, 0, :u] = memory
        made = Trace(x, states, kept, memories)
        if not remember:  # one session's place, written again and again
            made = Trace(x, states, _still(kept), _still(memories))
        _forward(layout, made, flat)
        ctx.save_for_backward(*made, flat)
        ctx.layout, ctx.spent = layout, False
        ctx.shapes = [w.shape for w in weights[:each]]
        last = memories[:, :, -1, :u] if cell.memory else zero
        return states[:, :, 1:, :u], last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        *trace, flat = ctx.saved_tensors
        layout, made = ctx.layout, Trace(*trace)
        if ctx.spent:  # the way back writes over what the way forward kept for it
            _forward(layout, made, flat)
        ctx.spent = True
        cell, order = layout.equations, order_of(layout)
        k, b, length, f = made.features.shape
        p, u = layout.padded, layout.units
        by_hidden, by_memory = slopes
        if u != p or by_hidden.stride(-1) != 1:
            by_hidden = nn.functional.pad(by_hidden, (0, p - u)).contiguous()
        carry = by_hidden.new_zeros(k, b, p)
        memory_carry = by_hidden.new_zeros(k, b, p)
        if cell.memory:
            memory_carry[..., :u] = by_memory
        gradient = by_hidden.new_zeros(k, -(-b // TOGETHER), f + 1 + p, cell.sums * p)
        kernel = kernels(layout.cell, REAL_OF[carry.dtype].name, layout.group)
        _run(
            kernel.backward, layout, made, flat.index_select(1, order.backward), length,
            slopes=by_hidden, carry=carry, memory_carry=memory_carry, gradient=gradient,
        )  # fmt: skip
        total = gradient.sum(1).flatten(1).index_select(1, order.gradient)
        pieces = total.split([shape.numel() for shape in ctx.shapes], 1)
        by_weights = [
            t[i].view(s) for i in range(k) for t, s in zip(pieces, ctx.shapes, strict=True)
        ]
        by_x = None
        if ctx.needs_input_grad[2]:
            sums = slice(cell.of_features.start * p, cell.of_features.stop * p)
            by_x = made.kept[:, :, :length, sums] @ flat[:, order.of_features][:, None]
        return (
            None,
            None,
            by_x,
            carry[..., :u] if ctx.needs_input_grad[3] else None,
            memory_carry[..., :u] if ctx.needs_input_grad[4] else None,
            *by_weights,
        )


def _still(tensor: Tensor) -> Tensor:
    """A view whose sessions all lie in the same place."""
    k, b, _, width = tensor.shape
    return tensor.as_strided((k, b, 1, width), (b * width, width, 0, 1))


def read_layer(
    cell: str,
    x_KBLF: Tensor,
    weights: Sequence[Sequence[Tensor]],
    state_KBU: Tensor | None = None,
    memory_KBU: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One recurrent layer of K networks.

    Parameters
    ----------
    cell : "rnn", "lstm" or "gru"
    weights : for each network torch's weight_ih, weight_hh, bias_ih and bias_hh
    state_KBU, memory_KBU : state before the first session (and the LSTM's memory); 0 by default

    Returns
    -------
    state_KBLU : after each session
    memory_KBU : after the last session; of the LSTM alone
    """
    k, b, length, _ = x_KBLF.shape
    (_, f), (_, u) = weights[0][0].shape, weights[0][1].shape
    shape, width = (k, b, u), len(CELLS[cell].gates) * u
    check(
        x_KBLF,
        x=(x_KBLF, (len(weights), b, max(length, 1), f)),
        state=(state_KBU, shape),
        memory=(memory_KBU, shape),
    )
    shapes = ((width, f), (width, u), (width,), (width,))
    for own in weights:
        check(x_KBLF, **dict(zip(WEIGHTS, zip(own, shapes, strict=True), strict=True)))
    layout = layout_of(cell, f, u, x_KBLF.dtype)
    flat = [w for own in weights for w in own]
    given = [t for t in (x_KBLF, state_KBU, memory_KBU, *flat) if t is not None]
    remember = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    made = _Layer.apply(layout, remember, x_KBLF, state_KBU, memory_KBU, *flat)
    return cast(tuple[Tensor, Tensor], made)
