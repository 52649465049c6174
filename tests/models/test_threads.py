"""Compiled work is done once for each task, by whatever threads there are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from llvmlite import ir

from forecast.models import threads
from forecast.models.machine import Machine, new_module
from forecast.models.threads import Work, add_shared, work_of
from forecast.models.vectors import INDEX, POINTER, processor

pytestmark = pytest.mark.skipif(processor().bits == 0, reason="no kernels for this processor")


@cache
def work(folder: Path) -> Work:
    """Adds a number to another one in memory."""

    def build() -> ir.Module:
        module = new_module()
        kind = ir.FunctionType(ir.VoidType(), [POINTER, INDEX])
        function = ir.Function(module, kind, "add")
        builder = ir.IRBuilder(function.append_basic_block())
        place, number = function.args
        builder.store(builder.add(builder.load(place, typ=INDEX), number), place)
        builder.ret_void()
        add_shared(module, function)
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_path", lambda name: folder / name)
        return work_of(Machine("additions", build), "add", 2)


def gnu() -> bool:
    """Whether torch works with GNU's OpenMP, as its Linux packages do."""
    lib = Path(torch.__file__).parent
    beside = [*lib.glob("lib/libgomp*"), *lib.parent.glob("torch.libs/libgomp*")]
    return "OpenMP" in torch.__config__.parallel_info() and len(beside) > 0


@pytest.mark.parametrize("team", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("tasks", [0, 1, 2, 7, 100])
def test_every_task_is_done_once_on_any_number_of_threads(
    team: bool,
    count: int,
    tasks: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By torch's own threads of OpenMP, and by others where torch has none of GNU's."""
    if team and gnu():
        assert threads._team() is not None
    if not team:
        monkeypatch.setattr(threads, "_team", lambda: None)
    memory = np.arange(tasks, dtype=np.int64)
    places = memory.ctypes.data + memory.itemsize * np.arange(tasks)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        for _ in range(3):
            work(tmp_path_factory.getbasetemp()).do(
                np.stack([places, 10 * np.arange(tasks) + 1], 1)
            )
    finally:
        torch.set_num_threads(before)
    assert memory.tolist() == [n + 3 * (10 * n + 1) for n in range(tasks)]
