"""Compiled modules, kept between runs: compiling takes a second and reading the result none."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import platformdirs
from llvmlite import binding, ir

CODE = ("cells", "kernels", "linear", "losses", "machine", "threads", "tiles", "vectors")
UNREACHABLE = (OSError, RuntimeError)  # platformdirs has the second where there is no home folder
MOST_KEPT = 128  # compiled files; one version of this package makes some thirty, of 50 kB each


class Machine:
    """Compiled functions, by name; the machine code lives as long as this object.

    Parameters
    ----------
    key : str
        Of all that the module follows from, but for this package's code and the processor. Its
        machine code is kept under all three in the user's folder for such things.
    build : callable
        Makes the module.
    """

    def __init__(self, key: str, build: Callable[[], ir.Module]) -> None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        features = binding.get_host_cpu_features().flatten()
        self._target = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=features, opt=3
        )
        known = (_source(), key, binding.get_host_cpu_name(), features, llvmlite.__version__)
        name = hashlib.sha256("\n".join(known).encode()).hexdigest()[:32]
        code = None
        with contextlib.suppress(*UNREACHABLE):
            code = _kept(_place(name))
        if code is None:
            code = self._compiled(build())
            with contextlib.suppress(*UNREACHABLE):  # it will be compiled again
                _keep(_place(name), code)
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), self._target)
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code))
        self._engine.finalize_object()

    def _compiled(self, module: ir.Module) -> bytes:
        parsed = binding.parse_assembly(str(module))
        options = binding.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = options.slp_vectorization = False  # it is vectors already
        passes = binding.create_pass_builder(self._target, options)
        passes.getModulePassManager().run(parsed, passes)
        return bytes(self._target.emit_object(parsed))

    def address(self, name: str) -> int:
        return int(self._engine.get_function_address(name))


def _place(name: str) -> Path:
    return platformdirs.user_cache_path("forecast") / "kernels" / f"{name}.o"


def _kept(path: Path) -> bytes | None:
    """Code that was compiled before; None where not all of it is there."""
    whole = path.read_bytes()
    with contextlib.suppress(OSError):  # another's, or in a place that is only read
        os.utime(path)  # what is used stays longest
    told, code = whole[:32], whole[32:]
    return code if hashlib.sha256(code).digest() == told else None


def _keep(path: Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    oldest = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime)
    for file in oldest[:-MOST_KEPT]:  # of other versions of this package
        file.unlink(missing_ok=True)


def new_module() -> Any:
    module = ir.Module()
    module.triple = binding.get_default_triple()
    return module


@cache
def _source() -> str:
    """Hash of all code that compiled modules follow from."""
    code = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in CODE)
    return hashlib.sha256(code).hexdigest()
