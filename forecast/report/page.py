"""The report of a run: one self-contained HTML page, made from the files of its folder alone.

The page loads nothing: plotly.js stands in it once, and a content security policy refuses every
other script and every address. Figures lie in it as JSON that is read, never executed. Whatever
comes from data or configuration is escaped. The same files give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape, unescape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from forecast.forecasts import LEVELS
from forecast.report import figures
from forecast.report.markup import date_range, html_facts, html_list, html_table, number
from forecast.report.scores import horizons_of, score_tables, summary
from forecast.run import Run, write_atomically

FAN_SYMBOLS = 4
TABLE_SYMBOLS = 500  # a longer table of symbols is cut, and says so
SCALED_LOSS = ("quantile", "point")  # heads without a density; the others' loss is in nats

PIT_NOTE = (
    '<p class="note">Reliability: of all outcomes, a share equal to the level should lie at or '
    "below the quantile of that level. PIT histograms: each bin lies between two stated levels, "
    "the outermost are 1 % wide; a hump in the middle means forecasts too wide, high ends mean "
    "tails too thin.</p>"
)
# plotly.js would offer to send a figure to its makers' cloud.
DRAWING = """
for (const script of document.querySelectorAll('script[data-figure]')) {
  const figure = JSON.parse(script.textContent);
  Plotly.newPlot(script.previousElementSibling, figure.data, figure.layout,
    {responsive: true, displaylogo: false, plotlyServerURL: '', showSendToCloud: false,
      modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']]});
}
"""


def write_report(run: Run) -> Path:
    """Write `report.html` into a finished run's folder, whole or not at all; return its path."""
    sections = {
        "Summary": summary(run),
        "Scores": score_tables(run),
        "Forecasts": _fans(run),
        "Learning": _learning(run),
        "Calibration": _calibration(run),
        "Data": _data(run),
        "Configuration": _configuration(run),
        "Environment": html_facts(run.environment) + "<h3>Timing</h3>" + html_facts(run.timing),
    }
    links = "".join(f'<li><a href="#{name.lower()}">{name}</a></li>' for name in sections)
    body = f'{_title(run)}<nav aria-label="contents"><ul>{links}</ul></nav>' + "".join(
        f'<section id="{name.lower()}"><h2>{name}</h2>{html}</section>\n'
        for name, html in sections.items()
    )
    plotly = get_plotlyjs()
    page = Template(files("forecast.report").joinpath("page.html").read_text("utf-8")).substitute(
        policy=_policy(plotly, DRAWING),
        title=escape(run.name),
        body=body,
        plotly=plotly,
        drawing=DRAWING,
    )
    write_atomically(run.path / "report.html", page)
    return run.path / "report.html"


def _policy(*scripts: str) -> str:
    """Run these scripts and no other; load nothing from anywhere."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _title(run: Run) -> str:
    """The run's name, and stamps nobody should miss."""
    data, stamps = run.data, []
    if any("surviv" in warning.lower() for warning in data["warnings"]):
        stamps.append("survivors only")
    if data["source"] == "simulated":
        stamps.append("simulated data")
    if "test" in run.metrics["parts"]:
        stamps.append("test range opened")
    return f"<h1>{escape(run.name)}</h1>" + "".join(
        f'<span class="stamp">{stamp}</span>' for stamp in stamps
    )


def _fans(run: Run) -> str:
    """Fan charts of a few symbols on the newest part that has forecasts."""
    metrics, data, network = run.metrics, run.data, run.config["model"]["cell"]
    for part in reversed(metrics["parts"]):
        if not horizons_of(metrics, part):
            continue
        symbols = _some_symbols(data, part)
        table = run.forecasts(
            columns=figures.FAN_COLUMNS, part=part, model=network, symbols=symbols
        )
        charts = [
            _figure(figures.fan_chart(rows), f"fan-{position}")
            for position, (_, rows) in enumerate(table.groupby("symbol", observed=True), start=1)
        ]
        if charts:
            return (
                f'<p class="note">The last sessions of the {escape(part)} part. The symbols are '
                f"spaced evenly through the list of {len(data['symbols']):,}, not chosen for "
                "their looks. A band of 90 % should miss the outcome one time in ten.</p>"
            ) + "".join(charts)
    return "<p>No part of this run holds forecasts.</p>"


def _some_symbols(data: Mapping[str, Any], part: str) -> list[str]:
    """Symbols that still traded when the part began, evenly spaced through the list."""
    start, _ = data["fold"].get(part) or ("", "")
    alive = [entry["symbol"] for entry in data["symbols"] if entry["last"] >= start]
    chosen = np.linspace(0, len(alive) - 1, min(FAN_SYMBOLS, len(alive))).round().astype(int)
    return [alive[index] for index in chosen]


def _learning(run: Run) -> str:
    history = run.history()
    if history.empty:
        return "<p>No epoch was finished.</p>"
    unit = "scaled units" if run.config["head"]["name"] in SCALED_LOSS else "nats per target"
    figure = figures.learning_curves(history, model=run.config["model"]["cell"], unit=unit)
    return (
        '<p class="note">The validation loss is taken in one pass over each symbol\'s whole '
        "history, without dropout, and decides when to stop and which epoch to keep; the training "
        "loss is taken with dropout, over windows and other years: only its course compares.</p>"
    ) + _figure(figure, "learning-curves")


def _calibration(run: Run) -> str:
    """How to read it, and the figures of each part."""
    metrics = run.metrics
    return PIT_NOTE + "".join(
        f"<h3>{escape(part.capitalize())}</h3>"
        + _calibration_figures(metrics["calibration"].get(part) or {}, part)
        for part in metrics["parts"]
    )


def _calibration_figures(calibration: Mapping[str, Any], part: str) -> str:
    """PIT histograms and reliability of every model that states quantiles."""
    edges = (0.0, *LEVELS, 1.0)
    bins, levels = [], []
    for model, by_horizon in calibration.items():
        for horizon, counts in (by_horizon or {}).items():
            if not counts or not sum(counts["pit_counts"]):
                continue
            key = {"model": model, "horizon": int(horizon)}
            bins += [
                {**key, "lower": low, "upper": high, "count": count}
                for low, high, count in zip(
                    edges[:-1], edges[1:], counts["pit_counts"], strict=True
                )
            ]
            levels += [
                {**key, "level": level, "observed": observed}
                for level, observed in zip(LEVELS, counts["coverage"], strict=True)
            ]
    if not bins:
        return "<p>No forecast of this part states quantiles.</p>"
    return _figure(figures.reliability(pd.DataFrame(levels)), f"reliability-{part}") + _figure(
        figures.pit_histograms(pd.DataFrame(bins)), f"pit-{part}"
    )


def _figure(figure: go.Figure, name: str) -> str:
    """The figure as JSON beside the element it is drawn in.

    plotly writes <, > and / as escapes, so no text in it can end the script element; the engine
    is named because another one, where installed, would give other bytes.
    """
    label = escape(unescape(figure.layout.title.text))
    return (
        f'<div class="figure"><div id="{escape(name)}" role="img" aria-label="{label}" '
        f'style="height: {figure.layout.height}px"></div><script type="application/json" '
        f"data-figure>{figure.to_json(engine='json')}</script></div>\n"
    )


def _data(run: Run) -> str:
    """Where the prices come from, the ranges, and a row of facts per symbol."""
    data = run.data
    market = data.get("market") or {}
    html = html_facts(
        {
            "source": data["source"],
            "sha256 of what was read": data["sha256"],
            "exchange calendars": ", ".join(map(str, data["calendars"])) or "union of the dates",
            "dates": date_range(data["dates"]),
            "rows (sessions of all symbols)": data["rows"],
            **{f"{part} range": date_range(dates) for part, dates in data["fold"].items()},
            "features": ", ".join(map(str, data["features"])),
            "market": f"{market['definition']}, {date_range(market)}"
            if market.get("definition")
            else "none",
            "warnings": "; ".join(map(str, data["warnings"])) or "none",
        }
    )
    symbols = data["symbols"]
    html += f"<h3>{len(symbols):,} symbols</h3>" + html_table(
        ("symbol", "first", "last", "rows", "floor hits", "gaps", "zero returns, %"),
        [
            (
                *(str(entry[key]) for key in ("symbol", "first", "last")),
                *(number(entry[key], 0) for key in ("rows", "floor_hits", "gaps")),
                number(entry["zero_returns"], 2, 100),
            )
            for entry in symbols[:TABLE_SYMBOLS]
        ],
    )
    if len(symbols) > TABLE_SYMBOLS:
        html += f"<p>The first {TABLE_SYMBOLS} are shown; data.json lists all.</p>"
    html += (
        '<p class="note">A floor hit is a session whose volatility scale was raised to its floor; '
        "a gap is a hole in a symbol's history longer than data.max_gap, masked as a target. Many "
        "zero returns point to coarse ticks or stale prices.</p>"
    )
    if data["left_out"]:
        html += "<h3>Left out</h3>" + html_list(
            f"{row['symbol']}: {row['reason']}" for row in data["left_out"]
        )
    return html


def _configuration(run: Run) -> str:
    """The two files as they lie in the folder: what was typed, and what it resolved to."""
    typed = (run.path / "overrides.yaml").read_text(encoding="utf-8")
    resolved = (run.path / "config.yaml").read_text(encoding="utf-8")
    return (
        f"<h3>What was typed</h3><pre>{escape(typed)}</pre>"
        f"<h3>Resolved</h3><pre>{escape(resolved)}</pre>"
    )
