"""Files that are written whole or not at all, and what lies nested in them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, nearest

if TYPE_CHECKING:
    import pandas as pd


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new one, never part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name, so that what a kill leaves behind is overwritten by the next attempt.
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def finite(value: Any) -> Any:
    """Undefined numbers become null: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not (-sys.float_info.max <= value <= sys.float_info.max):
        return None
    return value


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, without executing anything of it; None where there is no file."""
    import yaml

    try:
        # The same loader, ten times as fast where PyYAML was built with libyaml.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ForecastError(
            f"{path} is damaged: {' '.join(str(error).split())}. Repeat the run with force=true."
        ) from error


def sha256_of(key: str, paths: Sequence[Path]) -> str:
    """Of the bytes of some files, which the option `key` names."""
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise ForecastError(f"{key}={path}: no such file. Correct the path.")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def table_of(
    document: Mapping[str, Any], branch: Sequence[str], *, where: str, file: str
) -> pd.DataFrame:
    """What is nested in a document as a table; see `Run.table`.

    Parameters
    ----------
    branch : keys that lead to what is wanted; none for all.
    where, file : whose document it is, and its name; for messages.

    Raises
    ------
    ForecastError
        A key leads nowhere, or to no mapping.
    """
    import pandas as pd

    node: Any = document
    for place, key in enumerate(branch):
        known = list(node) if isinstance(node, Mapping) else []
        if key not in known:
            path = ".".join((file, *branch[:place]))
            raise ForecastError(f"{where}: {key!r} is not in {path}{nearest(key, known)}")
        node = node[key]
    rows = list(_rows(node)) if isinstance(node, Mapping) else []
    if not rows:
        raise ForecastError(
            f"{where}: {'.'.join((file, *branch))} holds no table. Name the keys that lead to one."
        )
    index = [keys if len(keys) != 1 else keys[0] for keys, _ in rows]
    table = pd.DataFrame([values for _, values in rows])
    return table.set_axis(pd.Index(index)) if rows[0][0] else table


def _rows(
    node: Mapping[str, Any], keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The first mappings on every way that hold values of their own, and the keys to them."""
    values = {key: value for key, value in node.items() if not isinstance(value, Mapping)}
    if values:
        yield keys, values
        return
    for key, value in node.items():
        yield from _rows(value, (*keys, key))
