"""How the configurations of a board, its runs and its objective are told in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from forecast.report.markup import NULL, counted, is_null, number

if TYPE_CHECKING:
    from forecast.evaluation.leaderboard import Board

POSITIONS = "positions"  # the kind of a board whose networks state positions
DIGITS = {POSITIONS: 3}  # of an objective; else 5


def objective_of(board: Board) -> str:
    """What the networks are ranked by."""
    if board.facts["kind"] == POSITIONS:
        return "minus the net Sharpe ratio, a year"
    return "validation crps, scaled units"


def objective(board: Board, value: Any) -> str:
    """An objective, or a difference of two, as text."""
    return number(value, DIGITS.get(board.facts["kind"], 5))


def name_of(row: Mapping[Any, Any]) -> str:
    """A configuration in words: its model and what sets it apart."""
    return f"{row['model']} {row['settings']}".strip()


def rows_of(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of a table, each by column name."""
    return table.to_dict("records")


def mean(board: Board, row: Mapping[Any, Any]) -> str:
    """Mean objective of a configuration, with its spread where several seeds have one."""
    return _give_or_take(board, row["objective"], row["spread"])


def difference(board: Board, row: Mapping[Any, Any]) -> str:
    """Difference to the best, with its standard error where there is one."""
    return _give_or_take(board, row["difference"], row["se"])


def _give_or_take(board: Board, value: Any, error: Any) -> str:
    text = objective(board, value)
    if is_null(error):
        return text
    return f"{text} \N{PLUS-MINUS SIGN} {objective(board, error)}"


def short(keys: Sequence[str]) -> dict[str, str]:
    """Key -> its last part, where no other key ends alike; a part's name is called by the part."""
    parts = [key.removesuffix(".name").rpartition(".")[2] for key in keys]
    return {
        key: part if parts.count(part) == 1 else key for key, part in zip(keys, parts, strict=True)
    }


def setting(value: Any) -> str:
    """The value of a key of the configuration."""
    if is_null(value):
        return NULL
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def of_run(board: Board, row: Mapping[Any, Any]) -> str:
    """What a hover says of a run."""
    lines = [str(row["run"]), f"{row['model']}, seed {setting(row['seed'])}, rank {row['rank']}"]
    lines += [f"{name} = {setting(row[key])}" for key, name in short(board.keys).items()]
    lines.append(f"objective {objective(board, row['objective'])}")
    return "<br>".join(map(escape, lines))


def of_configuration(board: Board, row: Mapping[Any, Any]) -> str:
    """What a hover says of a configuration."""
    lines = [
        f"{row['rank']}: {name_of(row)}",
        f"objective {mean(board, row)}, {counted(row['seeds'], 'seed')}",
        f"{number(row['fit_seconds'], 1)} s, {number(row['parameters'], 0)} parameters",
    ]
    return "<br>".join(map(escape, lines))
