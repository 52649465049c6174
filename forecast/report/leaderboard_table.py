"""The table of a leaderboard: every configuration by rank, its runs, and the chosen one's test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from forecast.evaluation.significance import LEVEL
from forecast.report.leaderboard_words import (
    POSITIONS,
    difference,
    mean,
    name_of,
    objective,
    objective_of,
    rows_of,
)
from forecast.report.markup import (
    NULL,
    Cell,
    Html,
    Number,
    counted,
    html_details,
    html_list,
    html_models,
    html_table,
    html_text,
    is_null,
    number,
)
from forecast.report.style import colour

if TYPE_CHECKING:
    from forecast.evaluation.leaderboard import Board

MOST = 200  # rows of a table
CONFIDENCE = f"{100 * (1 - LEVEL):.0f}\N{NO-BREAK SPACE}%"  # of the model confidence set
LOSSES = {
    "forecasts": (
        "The objective is the validation crps in units of the scale, a mean over the horizons (of "
        "point forecasts the absolute error, which is the crps of a point)"
    ),
    POSITIONS: "The objective is minus the net Sharpe ratio of a year on the validation range",
}
NOTE = (
    "{loss}: low is good. \N{PLUS-MINUS SIGN} beside it is the standard deviation over the seeds, "
    "which luck alone makes. Parameters are those of one member, seconds and targets a second a "
    "mean over the seeds, on whatever machine each run was fit. The best of a column is shaded; "
    "the line in bold is the one that is chosen."
)
ERRORS = (
    " The difference to the best stands beside its standard error (s. e.), which allows neither "
    "for the number of configurations nor for the choice of the best."
)
SETS = (
    " The model confidence set (Hansen, Lunde and Nason 2011) allows for both: out is what can be "
    f"told from the best with {CONFIDENCE} confidence."
)


def table(board: Board, place: int) -> str:
    """The ranking, the names of its runs, and how the test range of the chosen one is opened.

    Beside the page lie the tables of all boards in full, named by their `place`.
    """
    shown = board.table.head(MOST)
    tested = bool(board.table["se"].iloc[1:].notna().any())
    in_set, opened = bool(shown["in_mcs"].notna().any()), bool((shown["opened"] > 0).any())
    heads = ["rank, model, settings", "seeds", "objective", "to the best"]
    heads += ["one s.\N{NO-BREAK SPACE}e."] if tested else []
    heads += [f"{CONFIDENCE} set, p"] if in_set else []
    heads += ["parameters", "seconds", "targets/s"]
    heads += ["test (seeds opened)"] if opened else []
    best = shown[["objective", "parameters", "fit_seconds"]].astype(float).min().to_dict()
    best["targets_per_second"] = shown["targets_per_second"].max()
    lines, hues, strong = {}, {}, []
    for row in rows_of(shown):
        name = f"{row['rank']}  {name_of(row)}"
        lines[name] = list(_cells(board, row, tested, in_set, opened, best))
        hues[name] = colour(str(row["model"]))
        strong += [name] if row["chosen"] else []
    loss = LOSSES.get(board.facts["kind"], "")
    note = NOTE.format(loss=loss) + ERRORS * tested + SETS * in_set
    group = f"objective: {objective_of(board)}"
    html = f'<p class="note">{html_text(note)}</p>'
    html += html_models(heads, {group: lines}, colour=hues.__getitem__, strong=strong)
    if len(board.table) > MOST:
        csv = "leaderboard.csv" if place == 1 else f"leaderboard-{place}.csv"
        html += (
            f"<p>The first {MOST} are shown; {csv}, beside this page, lists all "
            f"{len(board.table):,}.</p>"
        )
    html += html_list(board.notes) if board.notes else ""
    return html + _names(board) + _open(board)


def _cells(
    board: Board,
    row: Mapping[Any, Any],
    tested: bool,
    in_set: bool,
    opened: bool,
    best: Mapping[Any, Any],
) -> Iterator[object]:
    """The cells of a line, after its name."""
    first = row["difference"] == 0
    names = escape(", ".join(row["runs"]))
    yield Html(f'<span title="{names}">{row["seeds"]}</span>')
    yield Cell(mean(board, row), best=row["objective"] == best["objective"])
    yield NULL if first else difference(board, row)
    if tested:
        place = "best" if first else "within" if row["within"] else "beyond"
        if row["chosen"]:
            place = "best, chosen" if first else "chosen"
        yield NULL if is_null(row["se"]) and not first else place
    if in_set:
        inside = "in" if row["in_mcs"] else "out"
        yield NULL if is_null(row["in_mcs"]) else f"{inside}, {number(row['mcs_p'], 2)}"
    members = f" \N{MULTIPLICATION SIGN} {row['members']}" if row["members"] != 1 else ""
    for column, digits, after in (
        ("parameters", 0, members),
        ("fit_seconds", 1, ""),
        ("targets_per_second", 0, ""),
    ):
        text = number(row[column], digits)
        if after and not is_null(row[column]):
            text = Number(text + after, row[column])
        yield Cell(text, best=row[column] == best[column])
    if opened:
        yield f"{objective(board, row['test'])} ({row['opened']})" if row["opened"] else NULL


def _names(board: Board) -> str:
    """The runs of every configuration, behind a click."""
    rows = [
        (f"{row['rank']}  {name_of(row)}", ", ".join(row["runs"]))
        for row in rows_of(board.table.head(MOST))
    ]
    body = html_table(("rank, model, settings", "runs, by seed"), rows, wrap=True)
    return html_details("Names of the runs", body)


def _open(board: Board) -> str:
    """The command that scores the test range of the configuration that was chosen."""
    row = next(row for row in rows_of(board.table) if row["chosen"])
    if row["opened"]:
        return (
            f"<p>The test part of the chosen configuration is scored, of {row['opened']} of "
            f"{counted(row['seeds'], 'run')}.</p>"
        )
    return (
        "<p>The test range of the chosen configuration is not opened yet. Once nothing is left to "
        "choose, this scores it, and the ledger counts it:</p>"
        f"<pre>python -m forecast.leaderboard open={escape(str(row['runs'][0]))}</pre>"
    )
