"""A pass over windows and sessions, tile by tile: what both ways through time have in common.

A tile is a few windows, whose sums stay in registers while they are taken.

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

from llvmlite import ir

from forecast.models.cells import CELLS, Cell
from forecast.models.threads import add_shared
from forecast.models.vectors import INDEX, POINTER, Code, Real, Vector, fma, processor

Arguments = dict[str, ir.Value]

MOST_ROWS = 12  # of a tile: enough to hide the latency of a product
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


class Pass(ABC):
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

    def function_of(self, name: str) -> tuple[ir.Function, Code, Arguments]:
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
            function, code, a = self.function_of(f"{self.name}_{rows}")
            function.linkage = "internal"
            self.tile(code, a, rows)
            code.builder.ret_void()
            self.tiles.append(function)
        function, code, a = self.function_of(self.name)
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


def rows_that_fit(sums: int, weights: int) -> int:
    """Windows whose sums fit the registers, beside so many vectors of weights."""
    return max(1, min(MOST_ROWS, (processor().registers - 1 - weights) // sums))
