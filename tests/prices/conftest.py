from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from forecast.config import ForecastError

Write = Callable[[str, str], str]
Refused = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a text file and return its path."""

    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def refused() -> Refused:
    """The block raises one ForecastError, on one line, that names every one of the words."""

    @contextmanager
    def refused(*words: str) -> Iterator[None]:
        with pytest.raises(ForecastError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert [word for word in words if word not in message] == [], message

    return refused


@pytest.fixture(scope="session")
def loopback() -> Any:
    """The module tests/loopback.py."""
    spec = importlib.util.spec_from_file_location(
        "loopback", Path(__file__).parents[1] / "loopback.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loopback"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def yahoo(loopback: Any, tmp_path: Path) -> Iterator[Any]:
    """A Yahoo of our own, open, that knows no symbol yet."""
    with loopback.open_yahoo(tmp_path) as yahoo:
        yield yahoo
