"""Where a run comes from: its data, its configuration, and the machine it ran on."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from forecast.report.markup import (
    Html,
    counted,
    date_range,
    html_facts,
    html_list,
    html_table,
    html_text,
    number,
)
from forecast.run import Run

TABLE_SYMBOLS = 500  # a longer table of symbols is cut, and says so


def data(run: Run) -> str:
    """Where the prices come from, the ranges, and a row of facts per symbol.

    A backtest of somebody's table knows less: what is not in `data.json` is left out.
    """
    facts = run.data
    html = html_facts(_facts(facts))
    if facts.get("symbols"):
        html += _symbols(facts["symbols"])
    if facts.get("quality"):
        html += _quality(facts["quality"])
    if facts.get("left_out"):
        html += "<h3>Left out</h3>" + html_list(
            f"{row['symbol']}: {row['reason']}" for row in facts["left_out"]
        )
    return html


def _quality(findings: list[Mapping[str, Any]]) -> str:
    """What detectors say of the prices, the worst first."""
    order = {"severe": 0, "warn": 1, "info": 2}
    worst = sorted(findings, key=lambda finding: order[finding["severity"]])
    rows = [
        [f["symbol"], f["severity"], f["sentence"], _some_dates(f)] for f in worst[:TABLE_SYMBOLS]
    ]
    html = "<h3>Quality of the prices</h3>" + html_table(
        ["symbol", "severity", "what was found", "dates"], rows, wrap=True
    )
    if len(worst) > TABLE_SYMBOLS:
        html += f"<p>The first {TABLE_SYMBOLS} are shown; data.json lists all.</p>"
    return html + (
        '<p class="note">Detectors of unusual prices look at whole histories and change nothing; '
        "what says that rows were left out or emptied goes by these rows alone.</p>"
    )


def _some_dates(finding: Mapping[str, Any]) -> Html:
    dates = list(finding["dates"])
    more = f" and {finding['count'] - len(dates):,} more" if finding["count"] > len(dates) else ""
    return Html(html_text(", ".join(dates) + more))


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    market = facts.get("market") or {}
    shown: dict[str, Any] = {
        "source": facts.get("source"),
        "sha256 of what was read": facts.get("sha256"),
    }
    if "calendars" in facts:
        calendars = ", ".join(map(str, facts["calendars"]))
        shown["exchange calendars"] = calendars or "union of the dates"
    if "dates" in facts:
        shown["dates"] = date_range(facts["dates"])
    if "rows" in facts:
        shown["rows (sessions of all symbols)"] = facts["rows"]
    if len(facts.get("folds") or ()) < 2:  # else each has its own, in the table of folds
        ranges = facts.get("fold") or {}
        shown |= {f"{part} range": date_range(dates) for part, dates in ranges.items()}
    if "features" in facts:
        shown["features"] = ", ".join(map(str, facts["features"]))
        shown["market"] = (
            f"{market['definition']}, {date_range(market)}" if market.get("definition") else "none"
        )
    return shown | {"warnings": "; ".join(map(str, facts.get("warnings") or ())) or "none"}


# key, heading, digits (None: text), factor
SYMBOL_COLUMNS: tuple[tuple[str, str, int | None, float], ...] = (
    *(("symbol", "symbol", None, 1), ("first", "first", None, 1), ("last", "last", None, 1)),
    *(("rows", "rows", 0, 1), ("floor_hits", "floor hits", 0, 1), ("gaps", "gaps", 0, 1)),
    ("zero_returns", "zero returns, %", 2, 100),
)


def _symbols(symbols: list[Mapping[str, Any]]) -> str:
    known = [column for column in SYMBOL_COLUMNS if column[0] in symbols[0]]
    html = f"<h3>{counted(len(symbols), 'symbol')}</h3>" + html_table(
        [heading for _, heading, *_ in known],
        [
            [
                str(entry[key]) if digits is None else number(entry[key], digits, factor)
                for key, _, digits, factor in known
            ]
            for entry in symbols[:TABLE_SYMBOLS]
        ],
    )
    if len(symbols) > TABLE_SYMBOLS:
        html += f"<p>The first {TABLE_SYMBOLS} are shown; data.json lists all.</p>"
    if "floor_hits" not in symbols[0]:
        return html
    return html + (
        '<p class="note">A floor hit is a session whose volatility scale was raised to its floor; '
        "a gap is a hole in a symbol's history longer than data.max_gap, masked as a target. Many "
        "zero returns point to coarse ticks or stale prices.</p>"
    )


def configuration(run: Run) -> str:
    """The two files as they lie in the folder: what was typed, and what it resolved to."""
    typed, resolved = (
        path.read_text(encoding="utf-8") if path.is_file() else ""
        for path in (run.path / "overrides.yaml", run.path / "config.yaml")
    )
    return (
        f"<h3>What was typed</h3><pre>{escape(typed)}</pre>"
        f"<h3>Resolved</h3><pre>{escape(resolved)}</pre>"
    )


def environment(run: Run) -> str:
    """Versions and device; then the wall-clock figures."""
    return html_facts(run.environment) + "<h3>Timing</h3>" + html_facts(run.timing)
