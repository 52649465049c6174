"""What is left at other costs of trading, and at which nothing is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from forecast.report.markup import NULL, Cell, html_details, html_text, is_null, number
from forecast.report.performance import between
from forecast.report.style import GREY, embed
from forecast.report.traded import Line, Traded, table_of, title_of, with_choice

NOTE = (
    "The same decisions traded at other costs, in basis points of the value traded, all else "
    "unchanged; in brackets the 95 % interval, shaded where it lies above 0. In the figure a cross "
    "marks the break-even, at which nothing is left over cash; what earns less than cash before "
    "costs of trading has none."
)
REACH = 3  # the figure ends at this many times the highest level


def costs(traded: Traded) -> str:
    """A table by level of costs, and Sharpe ratios against costs."""
    levels = sorted(
        {level for pair in traded.pairs for level in traded.at("levels", pair)}, key=float
    )
    if not levels:
        return "<p>Only the configured costs were simulated.</p>"
    cells = {
        pair: [traded.at("levels", pair).get(level) or {} for level in levels]
        for pair in traded.pairs
    }
    ratios = {pair: [_with_interval(cell) for cell in row] for pair, row in cells.items()}
    others = {
        pair: [
            number(cell.get(key), 1, 100)
            for key in ("annual_return", "max_drawdown")
            for cell in row
        ]
        for pair, row in cells.items()
    }
    heads = [f"return at {level} bp, % a year" for level in levels]
    heads += [f"largest drawdown at {level} bp, %" for level in levels]
    return (
        f'<p class="note">{html_text(NOTE)}</p>'
        + table_of(traded, [f"Sharpe ratio at {level} bp" for level in levels], ratios)
        + html_details("Returns and drawdowns", table_of(traded, heads, others))
        + embed(against_costs(traded, levels), "sharpe-against-costs")
    )


def _with_interval(cell: Mapping[str, Any]) -> Cell:
    interval, text = between(cell.get("sharpe_interval"), 1), number(cell.get("sharpe"), 2)
    return Cell(text if interval.text == NULL else f"{text} ({interval.text})", best=interval.best)


def _told(cell: Mapping[str, Any]) -> str:
    interval = between(cell.get("sharpe_interval")).text
    return f"Sharpe ratio {number(cell['sharpe'], 2)} ({interval})"


def against_costs(traded: Traded, levels: Sequence[str]) -> go.Figure:
    """Sharpe ratio against the cost of trading, break-evens marked.

    Parameters
    ----------
    levels : keys of the levels, basis points as text, ascending.
    """
    figure = go.Figure()
    edge = max(float(levels[-1]) * REACH, 1.0)

    def draw(line: Line) -> None:
        found = traded.at("levels", line.pair)
        drawn = [
            (float(level), found[level]["sharpe"], "circle", _told(found[level]))
            for level in levels
            if not is_null((found.get(level) or {}).get("sharpe"))
        ]
        even = traded.at("performance", line.pair).get("break_even")
        if drawn and not is_null(even) and 0 < even <= edge:
            drawn.append((float(even), 0.0, "x", "break-even"))
        if not drawn:
            return
        x, y, symbols, told = zip(*sorted(drawn), strict=True)
        figure.add_scatter(
            **line.style(legend=True),
            x=x,
            y=y,
            customdata=told,
            mode="lines+markers",
            marker={"symbol": symbols, "size": 7, "color": line.colour},
            hovertemplate=(
                f"{escape(title_of(line.pair))}<br>%{{x:.1f}} bp: %{{customdata}}<extra></extra>"
            ),
        )

    figure.update_yaxes(
        title_text="Sharpe ratio, a year", zeroline=True, zerolinecolor=GREY, zerolinewidth=1
    )
    figure.update_xaxes(title_text="cost of trading, basis points of the value traded")
    title = f"Sharpe ratio against costs, {escape(traded.part)}"
    return with_choice(figure, traded, draw, title=title, height=300)
