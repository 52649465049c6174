"""A leaderboard as text for the terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd

from forecast.evaluation.leaderboard import Board


def text(board: Board, *, most: int = 20) -> str:
    """The best configurations, a line each, under what they are of and above what is to be told.

    Parameters
    ----------
    most : lines of the table.
    """
    facts, table = board.facts, board.table.head(most)
    opened = bool((board.table["opened"] > 0).any())
    ahead = ", ".join(map(str, facts["horizons"]))
    ahead += " session ahead" if facts["horizons"] == [1] else " sessions ahead"
    delay = f", from {facts['delay']} on" if facts["delay"] else ""
    score = "minus the Sharpe ratio" if facts["kind"] == "positions" else "crps ÷ scale"
    last = "     test" if opened else ""
    lines = [
        f"{facts['source']}, {facts['symbols']} symbols, forecast.{facts['command']}, "
        f"{ahead}{delay}: {score} on {' to '.join(facts['validation'])}",
        counted(board.ledger),
        "",
        f"{'':5} {'model':<6}{'seeds':>6}{'objective':>10}{'±':>8}{'behind':>8}{'se':>8}"
        f"{'MCS p':>6}{'weights':>8}{'fit s':>7}{'k/s':>5}{last}  settings",
    ]
    for row in table.to_dict("records"):
        mark = ("*" if row["chosen"] else " ") + ("=" if row["in_mcs"] is True else " ")
        rate = row["targets_per_second"] / 1000
        cells = (
            f"{mark}{row['rank']:>3} {row['model']:<6}{row['seeds']:>6}{row['objective']:>10.5f}"
            f"{_number(row['spread'], 8, 5)}{_number(row['difference'], 8, 5)}"
            f"{_number(row['se'], 8, 5)}{_number(row['mcs_p'], 6, 2)}"
            f"{_number(row['parameters'], 8, 0)}{_number(row['fit_seconds'], 7, 1)}"
            f"{_number(rate, 5, 0)}"
        )
        cells += _number(row["test"], 9, 5) if opened else ""
        lines.append(f"{cells}  {row['settings']}".rstrip())
    if len(board.table) > most:
        lines.append(f"{len(board.table) - most} more stand in the page and in leaderboard.csv.")
    legend = "* fewest weights within one standard error of the best"
    if (board.table["in_mcs"] == True).any():  # noqa: E712  (None where it was not sought)
        legend += "; = in the model confidence set (90 %)"
    chosen = board.table.loc[board.table["chosen"], "runs"].iloc[0][0]
    return "\n".join(
        [
            *lines,
            legend,
            "± of the seeds, se of what it is behind; k/s: thousand targets trained on in a second",
            *board.notes,
            *([] if opened else [f"score its test part, once: open={chosen}"]),
        ]
    )


def counted(ledger: dict[str, int]) -> str:
    """How many configurations were tried and how often the test range was opened, in a sentence."""

    def of(number: int, noun: str) -> str:
        return f"{number:,} {noun}{'' if number == 1 else 's'}"

    told = (
        f"by the ledger {of(ledger['configurations'], 'configuration')} scored on the validation "
        f"part of these data ({of(ledger['looks'], 'look')})"
    )
    if not ledger["test_looks"]:
        return f"{told}; the test range was never opened"
    return (
        f"{told}; the test range opened {of(ledger['test_looks'], 'time')} by "
        f"{of(ledger['test_configurations'], 'configuration')}"
    )


def _number(value: Any, width: int, digits: int) -> str:
    return f"{'–':>{width}}" if pd.isna(value) else f"{value:>{width}.{digits}f}"
