"""`torch.nn.RNN`, `LSTM` and `GRU` with the recurrence over time as one compiled pass on the CPU.

The same weights and numbers as torch's own modules, several networks of one shape at once, and
gradients that do not depend on the number of threads.

Axes: K networks, B windows, L time, F features, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from forecast.models.cells import CELLS, Cell
from forecast.models.kernels import group_of, kernels
from forecast.models.vectors import REALS, processor

TOGETHER = 16  # windows that are worked on together; their gradients are added in order
DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def compiles(x: Tensor) -> bool:
    """Whether recurrences over such numbers are compiled here."""
    return x.device.type == "cpu" and x.dtype in DTYPES and processor().bits > 0


class Layout(NamedTuple):
    """Sizes of a pass and of a row [0 …, features, 1, state]."""

    cell: str
    features: int
    units: int
    padded: int  # units, in whole vectors
    front: int  # first column of the state
    lanes: int
    group: int

    @property
    def equations(self) -> Cell:
        return CELLS[self.cell]

    @property
    def first(self) -> int:
        """Column of the first feature; behind the last one stands the 1."""
        return self.front - 1 - self.features

    @property
    def width(self) -> int:
        return self.front + self.padded


def layout_of(cell: str, features: int, units: int, dtype: torch.dtype) -> Layout:
    """The layout of a layer."""
    lanes = processor().bits // (8 * REALS[DTYPES[dtype]].bytes)
    padded, front = (-(-n // lanes) * lanes for n in (units, features + 1))
    return Layout(cell, features, units, padded, front, lanes, group_of(padded, lanes))


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
    gates, lanes = len(cell.gates), layout.lanes
    sizes = np.cumsum([0, gates * u * f, gates * u * u, gates * u, gates * u])
    zero = int(sizes[-1])
    ih, hh, bias_ih, bias_hh = (
        np.arange(low, high).reshape(shape)
        for low, high, shape in zip(
            sizes[:-1], sizes[1:], ((gates, u, f), (gates, u, u), (gates, u), (gates, u)),
            strict=True,
        )
    )  # fmt: skip
    # Weights and their places in the gradient: of all sums by the columns of a row.
    whole = np.full((2, cell.sums, p, layout.width), zero)
    place = np.arange(layout.width * cell.sums * p).reshape(layout.width, cell.sums, p)
    places = [np.empty_like(a) for a in (ih, hh, bias_ih, bias_hh)]
    features, one = slice(layout.first, layout.front - 1), layout.front - 1
    state = slice(layout.front, layout.front + u)
    for gate, (s, t) in enumerate(zip(cell.gates, cell.state_gates, strict=True)):
        whole[0, s, :u, features], whole[0, t, :u, state] = ih[gate], hh[gate]
        whole[0, s, :u, one], whole[int(s == t), t, :u, one] = bias_ih[gate], bias_hh[gate]
        places[0][gate], places[1][gate] = place[features, s, :u].T, place[state, t, :u].T
        places[2][gate], places[3][gate] = place[one, s, :u], place[one, t, :u]
    together = layout.group if cell.sums == 1 else 1
    read: list[list[np.ndarray]] = [[], []]
    for part in cell.parts:
        columns = slice(
            layout.first if part.features else one, None if part.state else layout.front
        )
        for several, parts in zip(whole, read, strict=True):
            chosen = several[part.sums[0] : part.sums[-1] + 1, :, columns].copy()
            if not part.features:  # a bias counts once, where the features are read
                chosen[[i for i, s in enumerate(part.sums) if s in cell.parts[0].sums], :, 0] = zero
            # (sums, blocks, units together, lanes, columns)
            chosen = chosen.reshape(len(chosen), -1, together, lanes, chosen.shape[-1])
            parts.append(chosen.transpose(1, 4, 2, 0, 3).reshape(p // (lanes * together), -1))
    low, high = cell.state_sums
    back = whole[0, low:high, :, layout.front :].reshape((high - low) * p, -1, layout.group * lanes)
    low, high = cell.parts[0].sums[0], cell.parts[0].sums[-1] + 1
    first, second = (torch.from_numpy(np.concatenate(parts, 1).reshape(-1)) for parts in read)
    return Order(
        first,
        second,
        torch.from_numpy(back.transpose(1, 0, 2).reshape(-1).copy()),
        torch.from_numpy(whole[0, low:high, :, features].reshape(-1, f).copy()),
        torch.from_numpy(np.concatenate([a.reshape(-1) for a in places])),
    )


class Pass(NamedTuple):
    """What the way forward leaves: see `kernels`; each with axes K, B."""

    rows: Tensor
    kept: Tensor
    memory: Tensor


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="recurrence")


def _run(
    run: Callable[..., None],
    layout: Layout,
    made: Pass,
    weights: Tensor,
    sessions: int,
    *,
    slopes: Tensor | None = None,
    carry: Tensor | None = None,
    memory_carry: Tensor | None = None,
    gradient: Tensor | None = None,
) -> None:
    """Call a kernel on blocks of the windows of all networks, on torch's number of threads."""
    networks, windows = made.rows.shape[:2]
    size = made.rows.element_size()

    def of(tensor: Tensor | None, k: int, place: int) -> int:
        if tensor is None:
            return 0
        return tensor.data_ptr() + size * (k * tensor.stride(0) + place * tensor.stride(1))

    def step(tensor: Tensor | None) -> tuple[int, int]:
        return (0, 0) if tensor is None else (tensor.stride(1), tensor.stride(2))

    def work(k: int, block: int) -> None:
        first = block * TOGETHER
        run(
            *(of(tensor, k, first) for tensor in made),
            weights.data_ptr() + size * k * weights.stride(0),
            *(of(tensor, k, first) for tensor in (slopes, carry, memory_carry)),
            of(gradient, k, block),
            min(TOGETHER, windows - first),
            sessions,
            layout.features,
            layout.padded,
            *step(made.rows),
            *step(made.kept),
            *step(made.memory),
            *step(slopes),
        )

    def share(tasks: Sequence[tuple[int, int]]) -> None:
        for k, block in tasks:
            work(k, block)

    tasks = [(k, block) for k in range(networks) for block in range(-(-windows // TOGETHER))]
    threads = min(torch.get_num_threads(), len(tasks))
    own, *others = [tasks[i::threads] for i in range(threads)]
    pool = _pool(torch.get_num_threads())
    started = [pool.submit(share, rest) for rest in others]
    share(own)
    for other in started:
        other.result()


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
        cell, order = layout.equations, order_of(layout)
        k, b, length, _ = x.shape
        p, front = layout.padded, layout.front
        zero = x.new_zeros(1)
        pieces = [w.reshape(-1) for w in weights]
        each = len(pieces) // k
        flat = torch.cat([t for i in range(k) for t in (*pieces[i * each : (i + 1) * each], zero)])
        flat = flat.view(k, -1)
        rows = x.new_empty(k, b, length + 1, layout.width)
        rows[:, :, :length, layout.first : front - 1] = x
        rows[:, :, :length, front - 1] = 1
        if state is None:
            rows[:, :, 0, front:] = 0
        else:
            rows[:, :, 0, front:] = nn.functional.pad(state, (0, p - layout.units))
        steps = length + 1 if remember else 1
        # Steps of a power of two would meet in few places of the cache.
        kept = x.new_empty(k, b, steps, cell.sums * p + layout.lanes)
        memories = x.new_empty(k, b, steps, p) if cell.memory else kept
        if cell.memory:
            memories[:, :, 0] = 0
            if memory is not None:
                memories[:, :, 0, : layout.units] = memory
        made = Pass(rows, kept, memories)
        if not remember:  # one session's place, written again and again
            made = Pass(rows, _still(kept), _still(memories))
        kernel = kernels(layout.cell, DTYPES[x.dtype], layout.group)
        packed = flat.index_select(1, order.forward) + flat.index_select(1, order.more)
        _run(kernel.forward, layout, made, packed, length)
        ctx.layout, ctx.made, ctx.flat, ctx.length = layout, made, flat, length
        ctx.shapes = [w.shape for w in weights[:each]]
        hidden = rows[:, :, 1:, front : front + layout.units]
        last = memories[:, :, -1, : layout.units] if cell.memory else zero
        return hidden, last

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        layout, made, length, flat = ctx.layout, ctx.made, ctx.length, ctx.flat
        cell, order = layout.equations, order_of(layout)
        k, b = made.rows.shape[:2]
        p, u = layout.padded, layout.units
        by_hidden, by_memory = slopes
        if u != p or by_hidden.stride(-1) != 1:
            by_hidden = nn.functional.pad(by_hidden, (0, p - u)).contiguous()
        carry = by_hidden.new_zeros(k, b, p)
        memory_carry = by_hidden.new_zeros(k, b, p)
        if cell.memory:
            memory_carry[..., :u] = by_memory
        gradient = by_hidden.new_zeros(k, -(-b // TOGETHER), layout.width, cell.sums * p)
        kernel = kernels(layout.cell, DTYPES[carry.dtype], layout.group)
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
            low, high = cell.parts[0].sums[0], cell.parts[0].sums[-1] + 1
            of_features = flat[:, order.of_features]
            by_x = made.kept[:, :, :length, low * p : high * p] @ of_features[:, None]
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
    layout = layout_of(cell, x_KBLF.shape[-1], weights[0][1].shape[-1], x_KBLF.dtype)
    flat = [w for own in weights for w in own]
    given = [t for t in (x_KBLF, state_KBU, memory_KBU, *flat) if t is not None]
    remember = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    made = _Layer.apply(layout, remember, x_KBLF, state_KBU, memory_KBU, *flat)
    return cast(tuple[Tensor, Tensor], made)
