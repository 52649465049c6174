"""The head that a configuration or a checkpoint names: a built-in one, or a user's own.

An own head is code, so a run that was trained with one is loaded only by somebody who names it:
`load_run(..., allow=["my_module.MyHead"])`.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from forecast.config import ForecastError, instantiate
from forecast.models.heads import BUILT_IN, Head, PositionHead
from forecast.models.own_heads import own_head


def make_head(options: Mapping[str, Any]) -> Head | PositionHead:
    """The head named by `options["name"]`, with the rest as its arguments.

    A name with a dot is that of a class of the user's own, which is imported and tried.
    """
    arguments = dict(options)
    name = str(arguments.pop("name"))
    if name in BUILT_IN:
        return cast(Head | PositionHead, instantiate(arguments, "head", BUILT_IN[name]))
    if "." in name:
        return own_head(name, arguments)
    raise ForecastError(
        f"head.name={name!r} is unknown: choose {', '.join(BUILT_IN)}, or module.Class of your own."
    )


def own_head_sha256(name: str) -> str:
    """Hash of the file that an own head stands in; empty for a built-in one."""
    if name in BUILT_IN:
        return ""
    file = importlib.import_module(name.rpartition(".")[0]).__file__
    return hashlib.sha256(b"" if file is None else Path(file).read_bytes()).hexdigest()


def require_allowed(name: str, allow: Sequence[str], where: str) -> None:
    """Refuse the head of a stored run that is neither built in nor allowed by name."""
    if name not in BUILT_IN and name not in allow:
        raise ForecastError(
            f"{where}: its head {name} is code of somebody's own, which loading a run does not "
            f"execute. If you trust it: load_run(..., allow=[{name!r}])."
        )
