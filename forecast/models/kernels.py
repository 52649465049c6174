"""Recurrences over time, compiled: a few windows at a time, all state in the first-level cache.

The sums of a session are products of the weights with its features and with the state before. They
are taken for a tile of windows and one vector of units of every gate at once, in registers, and the
cell's equations follow on the same registers; nothing but states and gates touches memory. A
window's numbers do not depend on the tile it is in, so they do not depend on threads.

What lies where in memory stands in `tiles`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from llvmlite import ir

from forecast.models.cells import backward, forward
from forecast.models.machine import Machine, new_module
from forecast.models.threads import Work, work_of
from forecast.models.tiles import (
    CARRIED,
    POINTERS,
    SIZES,
    Arguments,
    Pass,
    rows_that_fit,
)
from forecast.models.vectors import REALS, Code, fma, processor

LARGEST_GROUP = 4  # vectors of units that are worked on together where gates are few
SESSIONS = 8  # after so many the way back adds to the gradient, while they lie in the cache


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


class _Forward(Pass):
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
        return rows_that_fit(own.sums * self.together, weights * self.together)

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


class _Backward(Pass):
    name = "backward"

    def time(self, code: Code, a: Arguments) -> None:
        builder = code.builder
        function, inner, b = self.function_of("gradient")
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
        return rows_that_fit(self.group, self.group)

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
