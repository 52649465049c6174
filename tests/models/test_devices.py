"""The device that is meant, and the threads."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest
import torch

from forecast.config import ForecastError
from forecast.models.devices import gpu_precision, keep_memory, resolve_device, torch_threads


def test_the_device_is_what_the_accelerator_means_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("cpu") == resolve_device("auto") == "cpu"
    with pytest.raises(ForecastError, match="trainer=gpu: torch sees no GPU here"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert resolve_device("auto") == resolve_device("gpu") == "cuda Some GPU"
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("count", [1, 3, None])
def test_threads_are_set_for_a_while_and_come_back_after_an_error_too(count: int | None) -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(count):
        assert torch.get_num_threads() == (count or before)
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("precision", "rounds"), [("tf32", True), ("float32", False)])
def test_a_gpu_rounds_for_a_while_and_afterwards_as_before(precision: str, rounds: bool) -> None:
    def rounded() -> tuple[bool, bool]:
        return torch.get_float32_matmul_precision() == "high", torch.backends.cudnn.allow_tf32

    before = rounded()
    with pytest.raises(KeyError), gpu_precision(precision):
        assert rounded() == (rounds, rounds)
        raise KeyError
    assert rounded() == before


class Library:
    """A C library that notes what is asked of its memory."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, option: int, size: int) -> int:
        self.asked.append((option, size))
        return 1


def test_freed_memory_is_kept_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_memory.__wrapped__()
    assert sorted(library.asked) == [(-3, 2**28), (-1, 2**29)]  # M_MMAP_, M_TRIM_THRESHOLD


def no_library(name: Any) -> Any:
    raise OSError("no such library")


@pytest.mark.parametrize(
    ("platform", "library"),
    [("linux", lambda name: object()), ("linux", no_library), ("darwin", no_library)],
)
def test_elsewhere_memory_is_left_as_it_is(
    platform: str, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", library)
    keep_memory.__wrapped__()
    monkeypatch.undo()
    keep_memory.__wrapped__()  # and here it works, or does nothing
    assert torch.ones(2**20).sum() == 2**20
