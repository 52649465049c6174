"""Functions of vectors against numpy, and compiled code that is kept for the next process."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from forecast.models.machine import Machine, new_module
from forecast.models.vectors import (
    INDEX,
    POINTER,
    REALS,
    Code,
    Vector,
    exp,
    log,
    log1p,
    processor,
    sigmoids,
    sqrt,
    tanh,
)

pytestmark = pytest.mark.skipif(processor().bits == 0, reason="no kernels for this processor")

Function = Callable[..., Sequence[Vector]]
FUNCTIONS: dict[str, tuple[int, Function]] = {
    "exp": (1, lambda x: [exp(x)]),
    "log": (1, lambda x: [log(x)]),
    "log1p": (1, lambda x: [log1p(x)]),
    "sqrt": (1, lambda x: [sqrt(x)]),
    "tanh": (1, lambda x: [tanh(x)]),
    **{f"sigmoids of {n}": (n, lambda *x: sigmoids(*x)) for n in (1, 2, 3, 4)},
}
PRECISIONS = sorted(REALS)
# What a sigmoid, and tanh by it, may be off by: some four roundings.
CLOSE = {"float32": 2.5e-7, "float64": 5e-16}


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where compiled code of these tests lies; nothing in the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("kept")
        patch.setattr(platformdirs, "user_cache_path", lambda name: folder / name)
        yield folder / "forecast" / "kernels"


def module_of(functions: dict[str, tuple[int, Function]], real: str) -> ir.Module:
    """Functions of (given, made, vectors): rows of numbers, one for each argument and result."""
    module = new_module()
    for name, (arguments, function) in functions.items():
        kind = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, INDEX])
        made = ir.Function(module, kind, name)
        code = Code(ir.IRBuilder(made.append_basic_block()), REALS[real])
        source, target, vectors = made.args
        with code.loop(vectors) as number:
            places = [
                code.times(code.plus(code.times(vectors, row), number), code.lanes)
                for row in range(arguments)
            ]
            results = function(*(code.load(code.at(source, place)) for place in places))
            for result, place in zip(results, places, strict=True):
                code.store(result, code.at(target, place))
        code.builder.ret_void()
    return module


@cache
def machine(real: str) -> Machine:
    return Machine(f"functions of {real}", lambda: module_of(FUNCTIONS, real))


def called(made: Machine, name: str, *given: np.ndarray) -> np.ndarray:
    """The results for some arrays, in rows."""
    (count,), real = given[0].shape, given[0].dtype
    lanes = processor().bits // (8 * real.itemsize)
    rows = np.zeros((len(given), -(-count // lanes) * lanes), real)
    rows[:, :count] = given
    result = np.zeros_like(rows)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    call(made.address(name))(rows.ctypes.data, result.ctypes.data, rows.shape[1] // lanes)
    return result[:, :count]


def value(name: str, x: np.ndarray) -> np.ndarray:
    return called(machine(str(x.dtype)), name, x)[0]


def units_off(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest error in units of the last place."""
    spacing = np.spacing(np.abs(exact).astype(found.dtype))
    return float(np.max(np.abs(found.astype(exact.dtype) - exact) / spacing))


def spread(real: str, low: float, high: float) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([np.linspace(low, high, 5001), random.uniform(low, high, 5000)]).astype(
        real
    )


@pytest.mark.parametrize("real", PRECISIONS)
def test_the_exponential_is_exact_to_three_units_in_the_last_place(real: str) -> None:
    x = spread(real, -20, 20)
    assert units_off(value("exp", x), np.exp(x.astype(np.longdouble))) <= 3
    limit = REALS[real].limit
    most = REALS[real].most
    ends = np.array([0, 1, -1, limit, -limit, 2 * limit, -2 * limit, most, -most], real)
    assert units_off(value("exp", ends), np.exp(ends.astype(np.longdouble))) <= 3
    assert value("exp", np.zeros(1, real))[0] == 1


@pytest.mark.parametrize("real", PRECISIONS)
def test_the_logarithm_is_exact_to_two_units_in_the_last_place(real: str) -> None:
    x = np.exp(spread(real, -60, 60))
    assert units_off(value("log", x), np.log(x.astype(np.longdouble))) <= 2
    small = np.concatenate([[0], np.exp(spread(real, -80, 20))]).astype(real)
    assert units_off(value("log1p", small), np.log1p(small.astype(np.longdouble))) <= 3
    np.testing.assert_array_equal(value("sqrt", x), np.sqrt(x))
    assert value("log", np.ones(1, real))[0] == value("log1p", np.zeros(1, real))[0] == 0


@pytest.mark.parametrize("real", PRECISIONS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_what_is_no_number_stays_none_whatever_its_bits_are(real: str, data: st.DataObject) -> None:
    """An exponent, or a part of one, added to those of a NaN would make a number of it."""
    mantissa, size = REALS[real].mantissa, REALS[real].bytes
    payload = data.draw(st.integers(1, 2**mantissa - 1))
    sign = data.draw(st.sampled_from([0, 1])) << (8 * size - 1)
    exponent = (2 ** (8 * size - 1 - mantissa) - 1) << mantissa
    x = np.array([sign | exponent | payload], f"u{size}").view(real)
    assert np.isnan(x).all()
    for name, (count, _) in FUNCTIONS.items():
        assert np.isnan(called(machine(real), name, *[x] * count)).all(), name
    assert not np.isfinite(value("log", np.array([np.inf], real))).any()


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x.astype(np.longdouble)))


@pytest.mark.parametrize("real", PRECISIONS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_sigmoids_by_one_division_are_each_what_it_would_be_alone(count: int, real: str) -> None:
    random = np.random.default_rng(count)
    given = [random.permutation(spread(real, -25, 25)) for _ in range(count)]
    found = called(machine(real), f"sigmoids of {count}", *given)
    for x, own in zip(given, found, strict=True):
        assert np.abs(own - sigmoid(x)).max() < CLOSE[real]


@pytest.mark.parametrize("real", PRECISIONS)
def test_sigmoids_and_tanh_are_at_rest_beyond_the_limit_and_at_infinity(real: str) -> None:
    """Also where all four that share a division are at their ends."""
    limit = REALS[real].limit
    ends = np.array([limit, 2 * limit, 1e30, np.inf, 0], real)
    ends = np.concatenate([ends, -ends])
    for count in (1, 2, 3, 4):
        found = called(machine(real), f"sigmoids of {count}", *[ends] * count)
        assert np.abs(found - sigmoid(ends)).max() < CLOSE[real]
    assert np.abs(value("tanh", ends) - np.tanh(ends)).max() < CLOSE[real]
    half, nothing = value("sigmoids of 1", np.zeros(1, real)), value("tanh", np.zeros(1, real))
    assert half[0] == 0.5 and nothing[0] == 0


@pytest.mark.parametrize("real", PRECISIONS)
def test_tanh_is_close_in_absolute_terms(real: str) -> None:
    x = spread(real, -12, 12)
    assert np.abs(value("tanh", x) - np.tanh(x.astype(np.longdouble))).max() < CLOSE[real]


@pytest.mark.parametrize("real", PRECISIONS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_number_has_a_sigmoid_and_tanh(real: str, data: st.DataObject) -> None:
    width = 8 * REALS[real].bytes
    x = np.array(data.draw(st.lists(st.floats(width=width), min_size=1, max_size=40)), real)
    for name, exact in (("sigmoids of 1", sigmoid(x)), ("tanh", np.tanh(x))):
        found, known = value(name, x), ~np.isnan(x)
        np.testing.assert_array_equal(np.isnan(found), ~known)
        assert (np.abs(found - exact)[known] < CLOSE[real]).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_columns_of_a_table_are_read_and_written_in_place(count: int) -> None:
    lanes = processor().bits // 32

    def twice(code: Code, address: ir.Value) -> None:
        columns = code.load_columns(address, count)
        made = [column * float(i + 1) for i, column in enumerate(columns)]
        code.store_columns(made, address)

    def build() -> ir.Module:
        module = new_module()
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), "twice")
        code = Code(ir.IRBuilder(function.append_basic_block()), REALS["float32"])
        twice(code, function.args[0])
        code.builder.ret_void()
        return module

    made = Machine(f"{count} columns", build)
    table = np.arange(lanes * count, dtype=np.float32).reshape(lanes, count)
    expected = table * np.arange(1, count + 1)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(made.address("twice"))(table.ctypes.data)
    np.testing.assert_array_equal(table, expected)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 60), down=st.booleans())
def test_loops_and_tiles_visit_every_number_once(count: int, down: bool) -> None:
    made = visitor(down)
    visited = np.full(3 * 60 + 1, -1.0)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(made.address("visit"))
    call(visited.ctypes.data, count)
    order = visited[:count][::-1] if down else visited[:count]
    assert order.tolist() == list(range(count))
    assert visited[60 : 60 + count].tolist() == [1.0] * count
    assert (visited[count:60] == -1).all() and (visited[60 + count :] == -1).all()


@cache
def visitor(down: bool) -> Machine:
    """Writes the numbers of a loop in order, and a 1 where a tile has a number."""

    def build() -> ir.Module:
        module = new_module()
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, INDEX]), "visit")
        code = Code(ir.IRBuilder(function.append_basic_block()), REALS["float64"])
        memory, count = function.args
        place = code.builder.alloca(INDEX)
        code.builder.store(code.index(0), place)

        def write(number: ir.Value, at: ir.Value) -> None:
            code.builder.store(code.builder.sitofp(number, code.real.type), code.at(memory, at))

        with code.loop(count, down=down) as number:
            at = code.builder.load(place, typ=INDEX)
            write(number, at)
            code.builder.store(code.plus(at, 1), place)
        for size, first in code.tiles(count, (8, 3, 1)):
            for i in range(size):
                write(code.index(1), code.plus(code.plus(first, i), 60))
        code.builder.ret_void()
        return module

    return Machine(f"visits {down}", build)


# ------------------------------------------------------------------------- what is kept


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    return tmp_path / "forecast" / "kernels"


class Built:
    """Makes a function, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> ir.Module:
        self.count += 1
        return module_of({"sqrt": FUNCTIONS["sqrt"]}, "float64")


def works(made: Machine) -> bool:
    return bool(called(made, "sqrt", np.array([4.0, 9.0])).tolist() == [[2.0, 3.0]])


def test_what_one_compiled_others_read_and_each_key_has_its_own(folder: Path) -> None:
    first, again, other = Built(), Built(), Built()
    assert works(Machine("a", first)) and works(Machine("a", again)) and works(Machine("b", other))
    assert (first.count, again.count, other.count) == (1, 0, 1)
    assert sorted(path.suffix for path in folder.iterdir()) == [".o", ".o"], "and nothing else"


def test_another_process_reads_what_this_one_compiled(folder: Path) -> None:
    Machine("a", Built())
    code = (
        "import sys, platformdirs\n"
        "from pathlib import Path\n"
        "from forecast.models.machine import Machine\n"
        "platformdirs.user_cache_path = lambda name: Path(sys.argv[1])\n"
        "print(Machine('a', lambda: sys.exit('compiled again')).address('sqrt') != 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.parent)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "other"])
def test_what_is_damaged_is_compiled_again(folder: Path, damage: str) -> None:
    Machine("a", Built())
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "changed": whole[:-1] + bytes([whole[-1] ^ 1]),
            "other": b"what another program left here, longer than a checksum is",
        }[damage]
    )
    built = Built()
    assert works(Machine("a", built)) and built.count == 1
    assert path.read_bytes() == whole


def test_what_was_kept_longest_makes_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecast.models.machine.MOST_KEPT", 2)
    for age, key in ((3, "a"), (2, "b"), (1, "c")):
        known = set(folder.iterdir()) if folder.exists() else set()
        Machine(key, Built())
        (new,) = set(folder.iterdir()) - known
        os.utime(new, (time.time() - age, time.time() - age))
    assert len(list(folder.iterdir())) == 2
    built = Built()
    for key in "cb":
        Machine(key, built)
    assert built.count == 0
    Machine("a", built)
    assert built.count == 1


def test_what_is_used_stays_longest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecast.models.machine.MOST_KEPT", 2)
    for age, key in ((3, "a"), (2, "b")):
        known = set(folder.iterdir()) if folder.exists() else set()
        Machine(key, Built())
        (new,) = set(folder.iterdir()) - known
        os.utime(new, (time.time() - age, time.time() - age))
    used = Built()
    Machine("a", used)
    Machine("c", Built())
    Machine("a", used)
    assert used.count == 0
    Machine("b", used)
    assert used.count == 1


def test_code_that_may_only_be_read_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine("a", Built())

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    built = Built()
    assert works(Machine("a", built)) and built.count == 0


@pytest.mark.parametrize("failing", ["write", "move"])
def test_a_failed_write_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Neither where the disk is full nor where the file cannot be moved to its place."""

    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:1000])
        raise OSError("no space left on device")

    def refused(*_: object) -> None:
        raise PermissionError

    if failing == "move":
        monkeypatch.setattr(os, "replace", refused)
    else:
        monkeypatch.setattr(Path, "write_bytes", full)
    assert works(Machine("a", Built()))
    assert list(folder.iterdir()) == []


def test_where_there_is_no_home_folder_everything_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(name: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    built = Built()
    for _ in range(2):
        assert works(Machine("a", built))
    assert built.count == 2


def test_where_nothing_can_be_kept_everything_works(folder: Path) -> None:
    folder.parent.write_text("a file in the place of the folder")
    built = Built()
    for _ in range(2):
        assert works(Machine("a", built))
    assert built.count == 2


def test_a_processor_without_such_vectors_is_told_by_no_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llvmlite import binding

    def bits(*features: str) -> int:
        monkeypatch.setattr(binding, "get_host_cpu_features", lambda: dict.fromkeys(features, True))
        return processor.__wrapped__().bits

    assert bits("avx512f", "avx2", "fma") == 512
    assert bits("avx2", "fma") == 256
    assert bits("avx2") == bits("sse2") == bits() == 0, "products must be rounded once"
    assert bits("neon") == 128
    assert math.log2(processor().bits).is_integer()
