"""The page of a leaderboard: what was tried, what came out on top, and how much of it is luck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.documents import write_atomically
from forecast.report.contest import strategies
from forecast.report.leaderboard_figures import seconds, seeds, settings
from forecast.report.leaderboard_table import CONFIDENCE, table
from forecast.report.leaderboard_words import POSITIONS, difference, mean, name_of, rows_of
from forecast.report.markup import counted, date_range, html_list, html_text, is_null, number
from forecast.report.page import TEST_OPENED, fill, stamps_of
from forecast.report.style import in_words
from forecast.report.summary import ALWAYS, careful

if TYPE_CHECKING:
    from forecast.evaluation.leaderboard import Board
    from forecast.portfolio.contest import Contest

RULE = (
    "Of configurations within one standard error of the best, the one with the fewest parameters "
    "is chosen (Breiman, Friedman, Olshen and Stone 1984): its score cannot be told from the "
    "best's, and a smaller network is less likely to owe it to luck."
)
CHOSEN_BY = (
    "The best of many is chosen by the very scores shown here: on other data it will do worse than "
    "they say, the more so the more was tried."
)


def write_leaderboard(boards: Sequence[Board], contests: Sequence[Contest], path: Path) -> Path:
    """Write the page of some boards and of the strategies traded on the same outputs.

    Parameters
    ----------
    boards : networks that can be compared, the most important first; its sections lead.
    contests : strategies on the validation part of the same prices.
    path : of the HTML file, which is written whole or not at all.

    Returns
    -------
    Path
        `path`.
    """
    sections: dict[str, str] = {}
    for place, board in enumerate(boards, start=1):
        if place == 1:
            sections["Summary"] = _summary(board, ALWAYS) + _others(boards[1:])
            sections |= dict(_sections(board, place))
        else:
            sections[f"Board {place}"] = "".join(
                f"<h3>{name}</h3>{html}"
                for name, html in (("Summary", _summary(board)), *_sections(board, place))
            )
    if contests:
        sections["Strategies"] = "".join(
            strategies(contest, place) for place, contest in enumerate(contests, start=1)
        )
    all_stamps = [stamp for board in boards for stamp in stamps_of(board.facts)]
    if any(board.ledger["test_looks"] for board in boards):
        all_stamps.append(TEST_OPENED)
    write_atomically(path, fill("Leaderboard", dict.fromkeys(all_stamps), sections))
    return path


def _sections(board: Board, place: int) -> Iterator[tuple[str, str]]:
    """Heading and content of all that follows the summary of a board."""
    yield "Leaderboard", table(board, place)
    yield "Settings", settings(board, place)
    yield "Seconds", seconds(board, place)
    yield "Seeds", seeds(board, place)


def _title(board: Board) -> str:
    """Data, command, dates and horizons."""
    facts = board.facts
    delay = f", from {in_words([facts['delay']])} after the origin" if facts["delay"] else ""
    kind = "positions, " if facts["kind"] == POSITIONS else ""
    return (
        f"forecast.{facts['command']} on {counted(facts['symbols'], 'symbol')} of "
        f"{facts['source']} (data {str(facts['data'])[:10]}), {kind}validation "
        f"{date_range(facts['validation'])}, {in_words(facts['horizons'])} ahead{delay}"
    )


def _others(boards: Sequence[Board]) -> str:
    """What else is on the page, which cannot be compared with the first board."""
    if not boards:
        return ""
    lines = [f"Board {place}: {_title(board)}." for place, board in enumerate(boards, start=2)]
    return (
        "<p>Scores on other data, dates or horizons cannot be compared with these, and stand on "
        f"boards of their own:</p>{html_list(lines)}"
    )


def _summary(board: Board, cautions: Sequence[str] = ()) -> str:
    """What was compared, what came out, how often it was looked at, and what to be careful of."""
    table, rows = board.table, rows_of(board.table)
    best, chosen = rows[0], next(row for row in rows if row["chosen"])
    least, most = int(table["seeds"].min()), int(table["seeds"].max())
    each = counted(most, "seed") if least == most else f"{least} to {most} seeds"
    runs = counted(board.runs["run"].nunique(), "run")
    compared = f"{runs}, {counted(len(table), 'configuration')} of {each}: {_title(board)}."
    lines = [f"Best: {name_of(best)}, objective {mean(board, best)}."]
    if len(table) == 1:
        lines = [
            f"One configuration, {name_of(best)}, has objective {mean(board, best)}; there "
            "is nothing to compare it with."
        ]
    elif board.facts["kind"] != POSITIONS:
        lines += [_choice(board, best, chosen), _set_of(rows)]
    else:
        lines.append("Differences between Sharpe ratios are not tested here.")
    lines += list(_counts(board.ledger))
    warnings = [CHOSEN_BY] if board.ledger["configurations"] > 1 or len(table) > 1 else []
    warnings += board.facts.get("warnings") or []
    if board.ledger["test_looks"]:
        warnings.append(
            "The test range has been opened: what is chosen after reading its scores is no longer "
            "tested by them."
        )
    return (
        f"<p>{html_text(compared)}</p>{html_list(filter(None, lines))}"
        f"{careful([*warnings, *cautions])}"
    )


def _choice(board: Board, best: Mapping[Any, Any], chosen: Mapping[Any, Any]) -> str:
    """The one-standard-error choice, and why."""
    if chosen is best:
        return "No smaller network lies within one standard error of the best: the best is chosen."
    return (
        f"Chosen by the one-standard-error rule: {name_of(chosen)}, objective "
        f"{mean(board, chosen)}, {difference(board, chosen)} above the best, with "
        f"{number(chosen['parameters'], 0)} parameters where the best has "
        f"{number(best['parameters'], 0)}. {RULE}"
    )


def _set_of(rows: Sequence[Mapping[Any, Any]]) -> str:
    tested = [row for row in rows if not is_null(row["in_mcs"])]
    inside = sum(bool(row["in_mcs"]) for row in tested)
    if not tested:
        return ""
    return (
        f"{inside} of {counted(len(tested), 'configuration')} tested cannot be told from the best "
        f"(model confidence set, {CONFIDENCE})."
    )


def _counts(ledger: Mapping[str, int]) -> Iterator[str]:
    """How much was tried, from the ledger."""
    yield (
        f"The ledger counts {counted(ledger['configurations'], 'configuration')} scored on a "
        f"validation range of these data in {counted(ledger['looks'], 'look')}, runs that were "
        "deleted since included. What was tried without this ledger, nobody counts."
    )
    if ledger["test_looks"]:
        yield (
            f"Their test range was opened {counted(ledger['test_looks'], 'time')} by "
            f"{counted(ledger['test_configurations'], 'configuration')}."
        )
    else:
        yield "Their test range was never opened."
