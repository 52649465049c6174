"""Recurrences over time, compiled: a few windows at a time, all state in the first-level cache.

The sums of a session are products of a row [features, 1, state before] with the weights. They are
taken for a tile of rows and one vector of units of every gate at once, in registers, and the
cell's equations follow on the same registers; nothing but states and gates touches memory. A row's
numbers do not depend on the tile it is in, so they do not depend on threads.

Memory, in numbers; T sessions, U units rounded up to whole vectors:

- rows (windows, T + 1, width): [0 …, features, 1, state before], the state in the last U
- kept (windows, T + 1, sums · U): what the way back needs, then derivatives by the sums
- memory (windows, T + 1, U): of the LSTM, the memory before each session
- weights: in the order in which they are read
- gradient (width, sums · U): by the weights; only columns and sums that belong together count
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from llvmlite import ir

from forecast.models import cells, vectors
from forecast.models.cells import CELLS, Cell, backward, forward
from forecast.models.vectors import (
    INDEX,
    POINTER,
    REALS,
    Code,
    Machine,
    Real,
    Vector,
    fma,
    new_module,
    processor,
)

Arguments = dict[str, ir.Value]

MOST_ROWS = 12  # of a tile: enough to hide the latency of a product
LARGEST_GROUP = 4  # vectors of units that are worked on together where gates are few

SESSIONS = 8  # after so many the way back adds to the gradient, while they lie in the cache
COLUMNS = 8  # of a row: the gradient's tiles begin at their multiples

POINTERS = ("rows", "kept", "memory", "weights", "slopes", "carry", "memory_carry", "gradient")
SIZES = (
    "windows", "sessions", "features", "units", "rows_window", "rows_step", "kept_window",
    "kept_step", "memory_window", "memory_step", "slopes_window", "slopes_step",
)  # fmt: skip
# What moves with the session and the window.
STEPPED = {"rows": "rows", "kept": "kept", "memory": "memory", "slopes": "slopes"}
CARRIED = ("carry", "memory_carry")  # (windows, U)


class Kernels(NamedTuple):
    """Compiled passes; both take `POINTERS` and `SIZES`, as whole numbers."""

    forward: Callable[..., None]
    backward: Callable[..., None]
    machine: Machine


def group_of(units: int, lanes: int) -> int:
    """Vectors of units that are worked on together: as many as divide the layer."""
    vectors = units // lanes
    return next(g for g in range(LARGEST_GROUP, 0, -1) if vectors % g == 0)


@cache
def kernels(cell: str, real: str, group: int) -> Kernels:
    """The passes of a cell, compiled on the first call."""

    def build() -> ir.Module:
        module = new_module()
        for way in (_Forward, _Backward):
            way(module, cell, REALS[real], group).build()
        return module

    machine = Machine("\n".join([_source(), cell, real, str(group)]), build)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * (len(POINTERS) + len(SIZES)))
    return Kernels(
        signature(machine.address("forward")), signature(machine.address("backward")), machine
    )


@cache
def _source() -> str:
    """Hash of the code that the kernels follow from."""
    files = [Path(str(module.__file__)) for module in (cells, vectors)]
    code = b"".join(path.read_bytes() for path in (*files, Path(__file__)))
    return hashlib.sha256(code).hexdigest()


class _Pass:
    """One of the two ways through time: a loop over sessions, one over tiles, and their code."""

    name: str
    down: bool

    def __init__(self, module: ir.Module, cell: str, real: Real, group: int) -> None:
        self.module, self.cell, self.real, self.group = module, cell, real, group
        self.equations: Cell = CELLS[cell]
        self.type = ir.FunctionType(
            ir.VoidType(), [*[POINTER] * len(POINTERS), *[INDEX] * len(SIZES)]
        )

    @property
    def most(self) -> int:
        """Rows of a tile, by the registers that their sums need."""
        raise NotImplementedError

    def tile(self, code: Code, a: Arguments, rows: int) -> None:
        raise NotImplementedError

    def _function(self, name: str) -> tuple[ir.Function, Code, Arguments]:
        function = ir.Function(self.module, self.type, name)
        builder = ir.IRBuilder(function.append_basic_block())
        start = function.append_basic_block()
        builder.branch(start)
        builder.position_at_end(start)
        named = dict(zip((*POINTERS, *SIZES), function.args, strict=True))
        return function, Code(builder, self.real), named

    def build(self) -> None:
        self.tiles = []
        for rows in range(1, self.most + 1):
            function, code, a = self._function(f"{self.name}_{rows}")
            function.linkage = "internal"
            self.tile(code, a, rows)
            code.builder.ret_void()
            self.tiles.append(function)
        _, code, a = self._function(self.name)
        self.time(code, a)
        code.builder.ret_void()

    def time(self, code: Code, a: Arguments) -> None:
        raise NotImplementedError

    def session(self, code: Code, a: Arguments, session: ir.Value) -> None:
        """One session of all windows, in as few tiles as there can be, as equal as they can be."""
        builder = code.builder
        count = builder.sdiv(code.plus(a["windows"], self.most - 1), code.index(self.most))
        least, extra = builder.sdiv(a["windows"], count), builder.srem(a["windows"], count)
        with code.loop(count) as number:
            larger = builder.icmp_signed("<", number, extra)
            size = code.plus(least, builder.zext(larger, INDEX))
            first = code.plus(code.times(number, least), builder.select(larger, number, extra))
            moved = self.moved(code, a, first, session)
            done = builder.append_basic_block()
            choice = builder.switch(size, done)
            for rows, function in enumerate(self.tiles, 1):
                block = builder.append_basic_block()
                builder.position_at_end(block)
                builder.call(function, list(moved.values()))
                builder.branch(done)
                choice.add_case(code.index(rows), block)
            builder.position_at_end(done)

    def moved(
        self, code: Code, a: Arguments, window: ir.Value | int, session: ir.Value
    ) -> Arguments:
        """The arguments seen from a window and a session."""
        moved = dict(a)
        for name, step in STEPPED.items():
            first = code.times(window, a[f"{step}_window"])
            moved[name] = code.at(a[name], first, code.times(session, a[f"{step}_step"]))
        for name in CARRIED:
            moved[name] = code.at(a[name], code.times(window, a["units"]))
        return moved

    def products(
        self,
        code: Code,
        sums: list[list[list[Vector]]],
        rows: list[ir.Value],
        weights: ir.Value,
        count: ir.Value,
        chosen: tuple[int, ...],
    ) -> list[list[list[Vector]]]:
        """Add `count` products to sums[row][vector of units][chosen], which stay in registers.

        Parameters
        ----------
        rows : addresses of the numbers that are multiplied, one of each row
        weights : address of the weights, (count, units of the group, chosen, lanes)
        """
        held = [[{s: code.variable(unit[s]) for s in chosen} for unit in row] for row in sums]
        with code.loop(count) as k:
            address = code.at(weights, code.times(k, len(sums[0]) * len(chosen) * code.lanes))
            weight = [
                {
                    s: code.load(code.at(address, (unit * len(chosen) + place) * code.lanes))
                    for place, s in enumerate(chosen)
                }
                for unit in range(len(sums[0]))
            ]
            for row, numbers in zip(held, rows, strict=True):
                number = code.spread(code.at(numbers, k))
                for unit, own in zip(row, weight, strict=True):
                    for s in chosen:
                        unit[s].set(fma(number, own[s], unit[s].get()))
        return [
            [
                [unit[s].get() if s in unit else before for s, before in enumerate(old)]
                for unit, old in zip(row, olds, strict=True)
            ]
            for row, olds in zip(held, sums, strict=True)
        ]


def _rows_that_fit(sums: int, weights: int) -> int:
    return max(1, min(MOST_ROWS, (processor().registers - 1 - weights) // sums))


class _Forward(_Pass):
    name = "forward"

    def time(self, code: Code, a: Arguments) -> None:
        with code.loop(a["sessions"]) as session:
            self.session(code, a, session)

    @property
    def together(self) -> int:
        return self.group if self.equations.sums == 1 else 1

    @property
    def most(self) -> int:
        sums = self.equations.sums * self.together
        widest = max(len(part.sums) for part in self.equations.parts) * self.together
        return _rows_that_fit(sums, widest)

    def tile(self, code: Code, a: Arguments, rows: int) -> None:
        own, together, lanes = self.equations, self.together, code.lanes
        one = code.builder.sub(code.builder.sub(a["rows_step"], a["units"]), code.index(1))
        row = [code.at(a["rows"], code.times(a["rows_window"], r)) for r in range(rows)]
        kept = [code.at(a["kept"], code.times(a["kept_window"], r)) for r in range(rows)]
        memory = [code.at(a["memory"], code.times(a["memory_window"], r)) for r in range(rows)]
        parts = []
        size: ir.Value | int = 0
        for part in own.parts:
            count = code.index(1)
            if part.features:
                count = code.plus(count, a["features"])
            if part.state:
                count = code.plus(count, a["units"])
            first = code.builder.sub(one, a["features"]) if part.features else one
            parts.append((part.sums, first, count, size))
            size = code.plus(size, code.times(count, len(part.sums) * together * lanes))
        groups = code.builder.sdiv(a["units"], code.index(together * lanes))
        with code.loop(groups) as group:
            weights = code.at(a["weights"], code.times(group, size))
            zero = code.constant(0.0)
            sums = [[[zero] * own.sums for _ in range(together)] for _ in range(rows)]
            for chosen, first, count, offset in parts:
                places = [code.at(r, first) for r in row]
                sums = self.products(code, sums, places, code.at(weights, offset), count, chosen)
            for r in range(rows):
                for unit in range(together):
                    place = code.plus(code.times(group, together * lanes), unit * lanes)
                    state = code.plus(code.plus(one, 1), place)
                    after = code.at(memory[r], a["memory_step"], place)
                    made = forward(
                        self.cell,
                        sums[r][unit],
                        code.load(code.at(row[r], state)) if self.cell == "gru" else None,
                        code.load(code.at(memory[r], place)) if own.memory else None,
                    )
                    code.store(made.state, code.at(row[r], a["rows_step"], state))
                    if made.memory is not None:
                        code.store(made.memory, after)
                    for s, value in enumerate(made.kept):
                        code.store(value, code.at(kept[r], code.times(a["units"], s), place))


class _Backward(_Pass):
    name = "backward"

    def time(self, code: Code, a: Arguments) -> None:
        builder = code.builder
        function, inner, b = self._function("gradient")
        function.linkage = "internal"
        self.gradient(inner, b)
        inner.builder.ret_void()
        chunks = builder.sdiv(code.plus(a["sessions"], SESSIONS - 1), code.index(SESSIONS))
        with code.loop(chunks, down=True) as chunk:
            first = code.times(chunk, SESSIONS)
            rest = builder.sub(a["sessions"], first)
            few = builder.icmp_signed("<", rest, code.index(SESSIONS))
            count = builder.select(few, rest, code.index(SESSIONS))
            with code.loop(count, down=True) as number:
                self.session(code, a, code.plus(first, number))
            moved = {**self.moved(code, a, 0, first), "sessions": count}
            builder.call(function, list(moved.values()))

    def gradient(self, code: Code, a: Arguments) -> None:
        """Add the products of derivatives and rows of some sessions of all windows."""
        own, front = self.equations, code.builder.sub(a["rows_step"], a["units"])
        first = code.builder.sub(front, code.plus(a["features"], 1))
        first = code.times(code.builder.sdiv(first, code.index(COLUMNS)), COLUMNS)
        low, high = own.state_sums
        self.block(code, a, first, front, 0, own.sums)
        self.block(code, a, front, a["rows_step"], low, high)

    def block(
        self, code: Code, a: Arguments, first: ir.Value, last: ir.Value, low: int, high: int
    ) -> None:
        """The gradient of some sums by some columns, a tile in registers at a time."""
        builder, lanes = code.builder, code.lanes
        # Registers hold a tile of 4 vectors of sums by 4 columns, or fewer vectors by 8.
        group = self.group if high - low == 1 or self.group * (high - low) > 4 else high - low
        group = 2 if group == 4 and processor().registers < 32 else group
        columns = 4 if group > 3 or processor().registers < 32 else COLUMNS
        vectors = code.times(a["units"], high - low)
        with (
            code.loop(builder.sdiv(vectors, code.index(group * lanes))) as number,
            code.loop(builder.sdiv(builder.sub(last, first), code.index(columns))) as place,
        ):
            at = code.plus(code.times(number, group * lanes), code.times(a["units"], low))
            column = code.plus(first, code.times(place, columns))
            width = code.times(a["units"], self.equations.sums)
            totals = [
                code.at(a["gradient"], code.times(code.plus(column, c), width), at)
                for c in range(columns)
            ]
            held = [[code.variable(code.constant(0.0)) for _ in range(group)] for _ in totals]
            with code.loop(a["windows"]) as window, code.loop(a["sessions"]) as session:
                moved = self.moved(code, a, window, session)
                row, by_sums = code.at(moved["rows"], column), code.at(moved["kept"], at)
                slopes = [code.load(code.at(by_sums, v * lanes)) for v in range(group)]
                for c, own in enumerate(held):
                    number_ = code.spread(code.at(row, c))
                    for variable, slope in zip(own, slopes, strict=True):
                        variable.set(fma(number_, slope, variable.get()))
            for total, own in zip(totals, held, strict=True):
                for v, variable in enumerate(own):
                    here = code.at(total, v * lanes)
                    code.store(code.load(here) + variable.get(), here)

    @property
    def most(self) -> int:
        return _rows_that_fit(self.group, self.group)

    def tile(self, code: Code, a: Arguments, rows: int) -> None:
        own, lanes = self.equations, code.lanes
        front = code.builder.sub(a["rows_step"], a["units"])
        low, high = own.state_sums
        with (
            code.loop(rows) as r,
            code.loop(code.builder.sdiv(a["units"], code.index(lanes))) as unit,
        ):
            place = code.times(unit, lanes)
            row = code.at(a["rows"], code.times(a["rows_window"], r), front, place)
            kept = code.at(a["kept"], code.times(a["kept_window"], r), place)
            memory = code.at(a["memory"], code.times(a["memory_window"], r), place)
            carry, memory_carry = (
                code.at(a[name], code.times(a["units"], r), place) for name in CARRIED
            )
            slopes = code.at(a["slopes"], code.times(a["slopes_window"], r), place)
            places = [code.at(kept, code.times(a["units"], s)) for s in range(own.sums)]
            made = backward(
                self.cell,
                code.load(slopes) + code.load(carry),
                [code.load(p) for p in places] if self.cell != "rnn" else [],
                state=code.load(code.at(row, a["rows_step"])),
                before=code.load(row),
                memory=code.load(code.at(memory, a["memory_step"])) if own.memory else None,
                memory_before=code.load(memory) if own.memory else None,
                memory_slope=code.load(memory_carry) if own.memory else None,
            )
            for p, value in zip(places, made.sums, strict=True):
                code.store(value, p)
            code.store(made.state or code.constant(0.0), carry)
            if made.memory is not None:
                code.store(made.memory, memory_carry)
        count = code.times(a["units"], high - low)
        with code.loop(code.builder.sdiv(a["units"], code.index(self.group * lanes))) as group:
            first = code.times(group, self.group * lanes)
            carries = [
                [code.at(a["carry"], code.times(a["units"], r), first, unit * lanes)
                 for unit in range(self.group)]
                for r in range(rows)
            ]  # fmt: skip
            sums = [[[code.load(place)] for place in row_] for row_ in carries]
            numbers = [
                code.at(a["kept"], code.times(a["kept_window"], r), code.times(a["units"], low))
                for r in range(rows)
            ]
            weights = code.at(a["weights"], code.times(count, first))
            sums = self.products(code, sums, numbers, weights, count, (0,))
            for places_, row_ in zip(carries, sums, strict=True):
                for place, values in zip(places_, row_, strict=True):
                    code.store(values[0], place)
