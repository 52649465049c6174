"""Recurrences over time, compiled: a few windows at a time, all state in the first-level cache.

The sums of a session are products of the weights with its features and with the state before. They
are taken for a tile of windows and one vector of units of every gate at once, in registers, and the
cell's equations follow on the same registers; nothing but states and gates touches memory. A
window's numbers do not depend on the tile it is in, so they do not depend on threads.

Memory, in numbers; T sessions, F features, U units rounded up to whole vectors:

- features (windows, T, F), in any order of windows and sessions
- states (windows, T + 1, U): the state before each session, and the last
- kept (windows, T + 1, sums · U): what the way back needs, then derivatives by the sums
- memory (windows, T + 1, U): of the LSTM, the memory before each session
- weights: in the order in which they are read
- slopes (windows, T, U): derivatives of the loss by the states
- carry, memory_carry (windows, U): derivatives by state and memory, handed from session to session
- gradient (F + 1 + U, sums · U): by weights of the features, constants, and weights of the state
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import NamedTuple

from llvmlite import ir

from forecast.models.cells import CELLS, Cell, backward, forward
from forecast.models.machine import Machine, new_module
from forecast.models.threads import Work, add_shared, work_of
from forecast.models.vectors import (
    INDEX,
    POINTER,
    REALS,
    Code,
    Real,
    Vector,
    fma,
    processor,
)

Arguments = dict[str, ir.Value]

MOST_ROWS = 12  # of a tile: enough to hide the latency of a product
LARGEST_GROUP = 4  # vectors of units that are worked on together where gates are few

SESSIONS = 8  # after so many the way back adds to the gradient, while they lie in the cache

POINTERS = (
    "features", "states", "kept", "memory", "weights", "slopes", "carry", "memory_carry",
    "gradient",
)  # fmt: skip
STEPPED = ("features", "states", "kept", "memory", "slopes")  # move with window and session
CARRIED = ("carry", "memory_carry")  # with the window
SIZES = (
    "windows", "sessions", "inputs", "units",
    *(f"{name}_{axis}" for name in STEPPED for axis in ("window", "step")),
)  # fmt: skip


class Kernels(NamedTuple):
    """Compiled passes; both take `POINTERS` and `SIZES`."""

    forward: Work
    backward: Work


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

    machine = Machine(f"recurrence {cell} {real} {group}", build)
    count = len(POINTERS) + len(SIZES)
    return Kernels(work_of(machine, "forward", count), work_of(machine, "backward", count))


class _Pass(ABC):
    """One of the two ways through time: a loop over sessions, one over tiles, and their code."""

    name: str

    def __init__(self, module: ir.Module, cell: str, real: Real, group: int) -> None:
        self.module, self.cell, self.real, self.group = module, cell, real, group
        self.equations: Cell = CELLS[cell]
        self.type = ir.FunctionType(
            ir.VoidType(), [*[POINTER] * len(POINTERS), *[INDEX] * len(SIZES)]
        )

    @property
    @abstractmethod
    def most(self) -> int:
        """Rows of a tile, by the registers that their sums need."""

    @abstractmethod
    def tile(self, code: Code, a: Arguments, rows: int) -> None:
        """The code of one session of so many windows."""

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
        function, code, a = self._function(self.name)
        self.time(code, a)
        code.builder.ret_void()
        add_shared(self.module, function)

    @abstractmethod
    def time(self, code: Code, a: Arguments) -> None:
        """The loop over sessions."""

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
        for name in STEPPED:
            first = code.times(window, a[f"{name}_window"])
            moved[name] = code.at(a[name], first, code.times(session, a[f"{name}_step"]))
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
        chosen: range,
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
        own = self.equations
        weights = max(len(own.of_features), len(own.of_state))
        return _rows_that_fit(own.sums * self.together, weights * self.together)

    def tile(self, code: Code, a: Arguments, rows: int) -> None:
        own, together = self.equations, self.together
        width = together * code.lanes
        features, states, kept, memory = (
            [code.at(a[name], code.times(a[f"{name}_window"], r)) for r in range(rows)]
            for name in ("features", "states", "kept", "memory")
        )
        of_features = code.index(own.sums * width)
        of_state = code.plus(of_features, code.times(a["inputs"], len(own.of_features) * width))
        size = code.plus(of_state, code.times(a["units"], len(own.of_state) * width))
        with code.loop(code.builder.sdiv(a["units"], code.index(width))) as group:
            weights = code.at(a["weights"], code.times(group, size))
            constants = [
                [
                    code.load(code.at(weights, (unit * own.sums + s) * code.lanes))
                    for s in range(own.sums)
                ]
                for unit in range(together)
            ]
            sums = [constants for _ in range(rows)]
            for numbers, count, chosen, offset in (
                (features, a["inputs"], own.of_features, of_features),
                (states, a["units"], own.of_state, of_state),
            ):
                place = code.at(weights, offset)
                sums = self.products(code, sums, numbers, place, count, chosen)
            for r in range(rows):
                for unit in range(together):
                    place = code.plus(code.times(group, width), unit * code.lanes)
                    made = forward(
                        self.cell,
                        sums[r][unit],
                        code.load(code.at(states[r], place)) if self.cell == "gru" else None,
                        code.load(code.at(memory[r], place)) if own.memory else None,
                    )
                    code.store(made.state, code.at(states[r], a["states_step"], place))
                    if made.memory is not None:
                        code.store(made.memory, code.at(memory[r], a["memory_step"], place))
                    for s, value in enumerate(made.kept):
                        here = code.at(kept[r], code.times(a["units"], s), place)
                        code.store(value, here)
                        code.prefetch(code.at(here, a["kept_step"]), write=True)


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
        """Add the products of derivatives with features, 1 and states, of some sessions."""
        own, width = self.equations, code.times(a["units"], self.equations.sums)
        ones = code.at(a["gradient"], code.times(a["inputs"], width))
        self.block(code, a, a["features"], "features", a["inputs"], a["gradient"], own.of_features)
        self.block(code, a, None, "", code.index(1), ones, range(own.sums))
        after = code.at(ones, width)
        self.block(code, a, a["states"], "states", a["units"], after, own.of_state)

    def block(
        self,
        code: Code,
        a: Arguments,
        numbers: ir.Value | None,
        name: str,
        count: ir.Value,
        gradient: ir.Value,
        chosen: range,
    ) -> None:
        """The gradient of some sums by so many columns of numbers, a tile in registers at a time.

        Without numbers they are all 1.
        """
        builder, lanes = code.builder, code.lanes
        few = processor().registers < 32
        # A tile is 4 vectors of sums by 4 columns, or fewer vectors by 8.
        group = len(chosen) if len(chosen) > 1 else self.group
        group = 2 if group == 4 and few else group
        least = 4 if group > 3 or few else 8
        vectors = code.times(a["units"], len(chosen))
        done: ir.Value = code.index(0)
        for columns in (least, 1):
            tiles = builder.sdiv(builder.sub(count, done), code.index(columns))
            with (
                code.loop(builder.sdiv(vectors, code.index(group * lanes))) as number,
                code.loop(tiles) as tile,
            ):
                column = code.plus(done, code.times(tile, columns))
                at = code.plus(
                    code.times(number, group * lanes), code.times(a["units"], chosen.start)
                )
                self.outer(code, a, numbers, name, column, at, gradient, columns, group)
            done = code.plus(done, code.times(tiles, columns))

    def outer(
        self,
        code: Code,
        a: Arguments,
        numbers: ir.Value | None,
        name: str,
        column: ir.Value,
        at: ir.Value,
        gradient: ir.Value,
        columns: int,
        group: int,
    ) -> None:
        """One tile: the sum over windows and sessions of columns by vectors of derivatives."""
        width = code.times(a["units"], self.equations.sums)
        held = [[code.variable(code.constant(0.0)) for _ in range(group)] for _ in range(columns)]
        with code.loop(a["windows"]) as window, code.loop(a["sessions"]) as session:
            slopes = code.at(
                a["kept"],
                code.times(window, a["kept_window"]),
                code.times(session, a["kept_step"]),
                at,
            )
            row = None
            if numbers is not None:
                row = code.at(
                    numbers,
                    code.times(window, a[f"{name}_window"]),
                    code.times(session, a[f"{name}_step"]),
                    column,
                )
            by_sums = [code.load(code.at(slopes, v * code.lanes)) for v in range(group)]
            for c, own in enumerate(held):
                number = code.constant(1.0) if row is None else code.spread(code.at(row, c))
                for variable, slope in zip(own, by_sums, strict=True):
                    variable.set(fma(number, slope, variable.get()))
        for c, own in enumerate(held):
            total = code.at(gradient, code.times(code.plus(column, c), width), at)
            for v, variable in enumerate(own):
                here = code.at(total, v * code.lanes)
                code.store(code.load(here) + variable.get(), here)

    @property
    def most(self) -> int:
        return _rows_that_fit(self.group, self.group)

    def tile(self, code: Code, a: Arguments, rows: int) -> None:
        own, lanes = self.equations, code.lanes
        with (
            code.loop(rows) as r,
            code.loop(code.builder.sdiv(a["units"], code.index(lanes))) as unit,
        ):
            place = code.times(unit, lanes)
            before = code.at(a["states"], code.times(a["states_window"], r), place)
            kept = code.at(a["kept"], code.times(a["kept_window"], r), place)
            memory = code.at(a["memory"], code.times(a["memory_window"], r), place)
            carry, memory_carry = (
                code.at(a[name], code.times(a["units"], r), place) for name in CARRIED
            )
            slopes = code.at(a["slopes"], code.times(a["slopes_window"], r), place)
            places = [code.at(kept, code.times(a["units"], s)) for s in range(own.sums)]
            # Sessions of all windows lie far apart: too many streams for the processor to foresee.
            for name, addresses in (
                ("kept", places),
                ("slopes", [slopes]),
                ("memory", [memory] if own.memory else []),
                ("states", [before]),
            ):
                back = code.times(a[f"{name}_step"], -1)
                for address in addresses:
                    code.prefetch(code.at(address, back))
            made = backward(
                self.cell,
                code.load(slopes) + code.load(carry),
                [code.load(p) for p in places] if self.cell != "rnn" else [],
                state=code.load(code.at(before, a["states_step"])),
                before=code.load(before),
                memory=code.load(code.at(memory, a["memory_step"])) if own.memory else None,
                memory_before=code.load(memory) if own.memory else None,
                memory_slope=code.load(memory_carry) if own.memory else None,
            )
            for p, value in zip(places, made.sums, strict=True):
                code.store(value, p)
            code.store(made.state or code.constant(0.0), carry)
            if made.memory is not None:
                code.store(made.memory, memory_carry)
        count = code.times(a["units"], len(own.of_state))
        with code.loop(code.builder.sdiv(a["units"], code.index(self.group * lanes))) as group:
            first = code.times(group, self.group * lanes)
            carries = [
                [code.at(a["carry"], code.times(a["units"], r), first, unit * lanes)
                 for unit in range(self.group)]
                for r in range(rows)
            ]  # fmt: skip
            sums = [[[code.load(place)] for place in row_] for row_ in carries]
            first_sum = code.times(a["units"], own.of_state.start)
            numbers = [
                code.at(a["kept"], code.times(a["kept_window"], r), first_sum) for r in range(rows)
            ]
            weights = code.at(a["weights"], code.times(count, first))
            sums = self.products(code, sums, numbers, weights, count, range(1))
            for places_, row_ in zip(carries, sums, strict=True):
                for place, values in zip(places_, row_, strict=True):
                    code.store(values[0], place)
