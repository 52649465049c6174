"""The device that is meant, and the threads."""

from __future__ import annotations

import pytest
import torch

from forecast.config import ForecastError
from forecast.models.devices import resolve_device, torch_threads


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
