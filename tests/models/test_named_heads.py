"""Heads by the names that configurations and checkpoints hold."""

from __future__ import annotations

import pytest

from forecast.config import ForecastError
from forecast.models.heads import BUILT_IN
from forecast.models.named_heads import make_head, own_head_sha256, require_allowed


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ForecastError, match="head.name='laplace' is unknown: choose student_t"):
        make_head({"name": "laplace"})


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_head_needs_no_leave_and_has_no_code_of_its_own(name: str) -> None:
    require_allowed(name, [], "run")
    assert own_head_sha256(name) == ""


def test_an_own_head_needs_leave_by_its_whole_name() -> None:
    require_allowed("mine.Head", ["other.Head", "mine.Head"], "run")
    for allow in ([], ["mine"], ["Head"], ["mine.Head2"]):
        with pytest.raises(ForecastError, match=r"^run: .*allow=\['mine\.Head'\]") as caught:
            require_allowed("mine.Head", allow, "run")
        assert "\n" not in str(caught.value)
