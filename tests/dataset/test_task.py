"""What can be forecast, and what cannot."""

from __future__ import annotations

from typing import Any

import pytest

from forecast.config import ForecastError
from forecast.dataset.task import Task


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"horizons": ()}, r"horizons=\[\] must be ascending"),
        ({"horizons": (5, 1)}, r"horizons=\[5, 1\] must be ascending"),
        ({"horizons": (1, 1)}, "must be ascending"),
        ({"horizons": (0, 1)}, "must be ascending"),
        ({"horizons": (1.5,)}, "must be ascending"),
        ({"delay": -1}, "target.delay=-1"),
        ({"warmup": 0}, "window.warmup=0"),
        ({"batch": 0}, "window.batch=0"),
        ({"length": 40, "warmup": 40}, "window.length=40 is not longer than window.warmup=40"),
    ],
)
def test_a_task_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ForecastError, match=words):
        Task(**options)


def test_a_task_reaches_to_its_last_target() -> None:
    assert Task(horizons=[1, 5], delay=1).reach == 6  # type: ignore[arg-type]
    assert Task(horizons=[1, 5]).horizons == (1, 5)  # type: ignore[arg-type]
