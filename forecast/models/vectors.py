"""A small language of vectors in LLVM's intermediate representation, compiled in this process.

Equations are written as Python expressions of `Vector`s and become machine code of the processor
at hand, without a compiler on the user's machine. Every operation is stated as it is rounded: a
product and a sum are fused only where `fma` says so, hence the same numbers in every kernel.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from llvmlite import binding, ir

INDEX = ir.IntType(64)
POINTER = ir.PointerType()


class Processor(NamedTuple):
    """What the processor at hand works with; `bits` is 0 where kernels are not supported."""

    bits: int  # of a vector
    registers: int


@cache
def processor() -> Processor:
    """The processor's vectors: AVX-512, AVX2 with fused products, or NEON."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return Processor(512, 32)
    if features.get("avx2") and features.get("fma"):
        return Processor(256, 16)
    return Processor(128, 32) if features.get("neon") else Processor(0, 0)


class Real(NamedTuple):
    """A floating-point type and what its exponential function is made of."""

    name: str
    type: ir.Type
    bytes: int
    mantissa: int  # bits
    bias: int  # of the exponent's bits
    terms: int  # of the series of exp on ± ln 2 / 2, to the last bit
    limit: float  # of an argument of a sigmoid: four exponentials multiplied stay finite
    most: float  # of an argument of exp, either way
    ln2: tuple[float, float]  # its leading bits, of which products are exact, and the rest

    @property
    def lanes(self) -> int:
        """Numbers of a vector."""
        return processor().bits // (8 * self.bytes)

    def whole(self, count: int) -> int:
        """So many numbers, rounded up to whole vectors."""
        return -(-count // self.lanes) * self.lanes


SINGLE = Real("float32", ir.FloatType(), 4, 23, 127, 8, 20.0, 80.0, (0.693359375, -2.12194440e-4))
DOUBLE = Real(
    "float64", ir.DoubleType(), 8, 52, 1023, 14, 150.0, 700.0,
    (6.93145751953125e-1, 1.42860682030941723212e-6),
)  # fmt: skip
REALS = {real.name: real for real in (SINGLE, DOUBLE)}


class Code:
    """A function under construction: memory, loops and vectors of one floating-point type."""

    def __init__(self, builder: ir.IRBuilder, real: Real) -> None:
        self.builder, self.real = builder, real
        self.lanes = real.lanes
        self.vector = ir.VectorType(real.type, self.lanes)

    def at(self, base: ir.Value, *offsets: ir.Value | int) -> ir.Value:
        """Address so many numbers beyond `base`."""
        for offset in offsets:
            number = self.index(offset)
            base = self.builder.gep(base, [number], source_etype=self.real.type)
        return base

    def index(self, number: ir.Value | int) -> ir.Value:
        return ir.Constant(INDEX, number) if isinstance(number, int) else number

    def times(self, a: ir.Value | int, b: ir.Value | int) -> ir.Value:
        return self.builder.mul(self.index(a), self.index(b))

    def plus(self, a: ir.Value | int, b: ir.Value | int) -> ir.Value:
        return self.builder.add(self.index(a), self.index(b))

    def load(self, address: ir.Value) -> Vector:
        # What a user hands over is aligned to single numbers.
        value = self.builder.load(address, typ=self.vector, align=self.real.bytes)
        return Vector(self, value)

    def store(self, vector: Vector, address: ir.Value) -> None:
        self.builder.store(vector.value, address, align=self.real.bytes)

    def prefetch(self, address: ir.Value, *, write: bool = False) -> None:
        """Bring a line of memory near before it is needed; any address is harmless."""
        whole, number = "llvm.prefetch.p0", ir.IntType(32)
        module = self.builder.module
        function = module.globals.get(whole) or ir.Function(
            module, ir.FunctionType(ir.VoidType(), [POINTER, number, number, number]), whole
        )
        arguments = [ir.Constant(number, n) for n in (int(write), 2, 1)]
        self.builder.call(function, [address, *arguments])

    def spread(self, address: ir.Value) -> Vector:
        """One number from memory in all lanes."""
        value = self.builder.load(address, typ=self.real.type, align=self.real.bytes)
        return Vector(self, self._splat(value))

    def load_columns(self, address: ir.Value, count: int) -> list[Vector]:
        """Vectors of the columns of a table, whose rows of `count` numbers lie one by one."""
        parts = [self.load(self.at(address, i * self.lanes)) for i in range(count)]
        return [
            self._chosen(parts, [row * count + column for row in range(self.lanes)])
            for column in range(count)
        ]

    def store_columns(self, columns: Sequence[Vector], address: ir.Value) -> None:
        """The way back."""
        count, lanes = len(columns), self.lanes
        for part in range(count):
            places = range(part * lanes, (part + 1) * lanes)
            chosen = self._chosen(columns, [n % count * lanes + n // count for n in places])
            self.store(chosen, self.at(address, part * lanes))

    def _chosen(self, parts: Sequence[Vector], numbers: Sequence[int]) -> Vector:
        """A vector of numbers of several, which count through one after the other."""
        lanes, made = self.lanes, parts[0].value
        for i, part in enumerate(parts):
            # So far chosen stay in their lanes; those of this part come from behind.
            order = [
                lanes + number % lanes if number // lanes == i else lane
                for lane, number in enumerate(numbers)
            ]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), order)
            made = self.builder.shuffle_vector(made, part.value, mask)
        return Vector(self, made)

    def constant(self, number: float) -> Vector:
        return Vector(self, ir.Constant(self.vector, [number] * self.lanes))

    def _splat(self, value: ir.Value) -> ir.Value:
        one = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
        )
        order = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), order)

    def variable(self, start: Vector) -> Variable:
        return Variable(self, start)

    @contextlib.contextmanager
    def loop(self, count: ir.Value | int, *, down: bool = False) -> Iterator[ir.Value]:
        """Repeat with 0, 1, … count − 1, or `down` from count − 1 to 0."""
        builder, stop = self.builder, self.index(count)
        before = builder.block
        body = builder.append_basic_block()
        after = builder.append_basic_block()
        builder.cbranch(builder.icmp_signed(">", stop, self.index(0)), body, after)
        builder.position_at_end(body)
        number = builder.phi(INDEX)
        number.add_incoming(ir.Constant(INDEX, 0), before)
        yield builder.sub(builder.sub(stop, self.index(1)), number) if down else number
        following = builder.add(number, self.index(1))
        number.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, stop), body, after)
        builder.position_at_end(after)

    def tiles(self, count: ir.Value, sizes: Sequence[int]) -> Iterator[tuple[int, ir.Value]]:
        """Size and first number of each of the tiles that make up so many, the largest first."""
        done: ir.Value = self.index(0)
        for size in sizes:
            number = self.builder.sdiv(self.builder.sub(count, done), self.index(size))
            with self.loop(number) as tile:
                yield size, self.plus(done, self.times(tile, size))
            done = self.plus(done, self.times(number, size))

    def room(self, vectors: int) -> ir.Value:
        """Memory for so many vectors on the stack, for as long as the function runs."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(self.vector, size=vectors)

    def call(self, name: str, *vectors: Vector) -> Vector:
        """An intrinsic function of LLVM on vectors."""
        whole = f"{name}.v{self.lanes}f{8 * self.real.bytes}"
        module = self.builder.module
        function = module.globals.get(whole) or ir.Function(
            module, ir.FunctionType(self.vector, [self.vector] * len(vectors)), whole
        )
        return Vector(self, self.builder.call(function, [v.value for v in vectors]))


class Variable:
    """A vector that loops change; it lives in a register."""

    def __init__(self, code: Code, start: Vector) -> None:
        self.code = code
        with code.builder.goto_entry_block():
            self.place = code.builder.alloca(code.vector)
        self.set(start)

    def set(self, vector: Vector) -> None:
        self.code.builder.store(vector.value, self.place)

    def get(self) -> Vector:
        return Vector(self.code, self.code.builder.load(self.place, typ=self.code.vector))


class Vector:
    """As many numbers as the processor works on at once; plain numbers stand for all lanes."""

    def __init__(self, code: Code, value: ir.Value) -> None:
        self.code, self.value = code, value

    def _with(self, operation: str, other: Vector | float, swapped: bool = False) -> Vector:
        operand = other if isinstance(other, Vector) else self.code.constant(other)
        a, b = (operand, self) if swapped else (self, operand)
        return Vector(self.code, getattr(self.code.builder, operation)(a.value, b.value))

    def __add__(self, other: Vector | float) -> Vector:
        return self._with("fadd", other)

    def __sub__(self, other: Vector | float) -> Vector:
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Vector:
        return self._with("fsub", other, swapped=True)

    def __mul__(self, other: Vector | float) -> Vector:
        return self._with("fmul", other)

    def __rtruediv__(self, other: float) -> Vector:
        return self._with("fdiv", other, swapped=True)

    __radd__, __rmul__ = __add__, __mul__


def fma(a: Vector, b: Vector | float, c: Vector | float) -> Vector:
    """a·b + c, rounded once."""
    b, c = (v if isinstance(v, Vector) else a.code.constant(v) for v in (b, c))
    return a.code.call("llvm.fma", a, b, c)


def exp(x: Vector) -> Vector:
    """The exponential of arguments within ± `Real.most`, to about a unit in the last place.

    x = n·ln 2 + r: the series of exp(r), times 2ⁿ. Adding 1.5 times 2 to the mantissa's bits rounds
    x / ln 2 to n and leaves n in the last bits, with the exponent's bias those of the exponent of
    2ⁿ. As a product what is no number stays none, whatever its bits are.
    """
    code, real = x.code, x.code.real
    magic = 1.5 * 2.0**real.mantissa + real.bias
    shifted = fma(x, 1 / math.log(2), magic)
    n = shifted - magic
    r = fma(n, -real.ln2[1], fma(n, -real.ln2[0], x))
    series = code.constant(1 / math.factorial(real.terms - 1))
    for power in range(real.terms - 2, -1, -1):
        series = fma(series, r, 1 / math.factorial(power))
    whole = ir.VectorType(ir.IntType(8 * real.bytes), code.lanes)
    bits = ir.Constant(whole, [real.mantissa] * code.lanes)
    exponent = code.builder.shl(code.builder.bitcast(shifted.value, whole), bits)
    return series * Vector(code, code.builder.bitcast(exponent, code.vector))


def log(x: Vector) -> Vector:
    """The natural logarithm of positive normal numbers, to about a unit in the last place.

    x = 2ⁿ·m with m within √½ … √2, and log m = 2 artanh((m − 1) / (m + 1)) by its series. Of what
    is infinite or no number, it is none.
    """
    code, real = x.code, x.code.real
    whole = ir.VectorType(ir.IntType(8 * real.bytes), code.lanes)

    def every(number: int) -> ir.Constant:
        return ir.Constant(whole, [number] * code.lanes)

    builder = code.builder
    bits = builder.bitcast(x.value, whole)
    # Bits of √½, so that taking them away moves the exponent where the mantissa is above √2.
    half = 0x3F3504F3 if real.bytes == 4 else 0x3FE6A09E667F3BCD
    above = builder.ashr(builder.sub(bits, every(half)), every(real.mantissa))
    rest = builder.sub(bits, builder.shl(above, every(real.mantissa)))
    m = Vector(code, builder.bitcast(rest, code.vector))
    n = Vector(code, builder.sitofp(above, code.vector))
    s = (m - 1.0) * (1.0 / (m + 1.0))
    square = s * s
    series = code.constant(1 / (2 * real.terms + 1))
    for power in range(2 * real.terms - 1, 0, -2):
        series = fma(series, square, 1 / power)
    of_m = fma(x, 0.0, 2.0 * s * series)  # of any finite x the product is 0
    return fma(n, real.ln2[0], fma(n, real.ln2[1], of_m))


def log1p(x: Vector) -> Vector:
    """log(1 + x) of x ≥ 0, with what rounding 1 + x lost."""
    whole = 1.0 + x
    return log(whole) + (x - (whole - 1.0)) * (1.0 / whole)


def sqrt(x: Vector) -> Vector:
    return x.code.call("llvm.sqrt", x)


def absolute(x: Vector) -> Vector:
    return x.code.call("llvm.fabs", x)


def larger(x: Vector, y: float) -> Vector:
    return x.code.call("llvm.maxnum", x, x.code.constant(y))


def within(x: Vector, limit: float) -> Vector:
    """x, at most ± limit; what is no number stays none."""
    code, builder = x.code, x.code.builder
    for sign, beyond in ((-1.0, "<"), (1.0, ">")):
        edge = code.constant(sign * limit).value
        over = builder.fcmp_ordered(beyond, x.value, edge)
        x = Vector(code, builder.select(over, edge, x.value))
    return x


def sigmoids(*arguments: Vector) -> list[Vector]:
    """1 / (1 + exp(−x)) of up to four vectors by one division, which is what costs most."""
    ones: list[Vector] = []
    for x in arguments:
        ones.append(1.0 + exp(0.0 - within(x, x.code.real.limit)))
    return _reciprocals(ones)


def _reciprocals(values: Sequence[Vector]) -> list[Vector]:
    if len(values) == 1:
        return [1.0 / values[0]]
    if len(values) == 2:
        both = 1.0 / (values[0] * values[1])
        return [both * values[1], both * values[0]]
    pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
    products = [p[0] * p[1] if len(p) == 2 else p[0] for p in pairs]
    result: list[Vector] = []
    for pair, inverse in zip(pairs, _reciprocals(products), strict=True):
        result.extend([inverse * pair[1], inverse * pair[0]] if len(pair) == 2 else [inverse])
    return result


def tanh(x: Vector) -> Vector:
    """(1 − exp(−2x)) / (1 + exp(−2x)) as a sigmoid; its error is absolute, about 1e-7 in single."""
    return from_sigmoid(sigmoids(2.0 * x)[0])


def from_sigmoid(sigmoid: Vector) -> Vector:
    """tanh(x) from the sigmoid of 2x."""
    return fma(sigmoid, 2.0, -1.0)
