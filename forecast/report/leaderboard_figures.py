"""Figures of a leaderboard: settings of all runs and what they matter, seconds, and luck."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from forecast.report.coordinates import LOG, MOST_AXES, MOST_RUNS, coordinates
from forecast.report.leaderboard_words import (
    objective_of,
    of_configuration,
    of_run,
    rows_of,
    short,
)
from forecast.report.markup import html_text
from forecast.report.style import FAINT, GREY, INK, colour, embed, finish, marker, translucent

if TYPE_CHECKING:
    from forecast.evaluation.leaderboard import Board

MOST_BARS = 20
SLATE = "#44546a"  # bars that are no model's
AXES = (
    "Each line is a run. Where an axis has few values, they stand at equal steps, and runs that "
    "share one are spread a little around it, the better ones below. The last axis is the "
    "objective: low is good, and the darker a line, the better its rank."
)
SHARES = (
    "How much of the variance of the objective between single runs a random forest loses out of "
    "its bag when the values of one setting are shuffled. The seed is among the settings, as the "
    "yardstick of luck: what is no longer than its bar has shown nothing."
)
FEW = "The importance of the settings is not computed: it takes eight runs that differ in any."
FRONT = (
    "A point is a configuration, its bar the standard deviation over the seeds, the ring the one "
    "that is chosen. No configuration lies below and to the left of the dotted line. Seconds "
    "compare only between runs of one machine that was otherwise idle."
)
FAN = (
    "Configurations by rank. The grey band spans the seeds of each: where the line climbs by less "
    "than the band is wide, the order is luck."
)
ONE_SEED = (
    "Configurations by rank. No configuration has a second seed, so nothing here tells how much of "
    "the order is luck: add seeds (seed=0,1,2)."
)
WITHIN = " What lies below the dotted line is within one standard error of the best."


def settings(board: Board, place: int) -> str:
    """What all runs were made of, and which of it matters."""
    if len(board.runs) < 2 or not board.keys:
        return "<p>No two runs with different settings: there is nothing to draw.</p>"
    note = AXES
    if len(board.keys) > MOST_AXES:
        note += f" The {MOST_AXES} most important of {len(board.keys)} settings have an axis."
    if len(board.runs) > MOST_RUNS:
        note += f" The best {MOST_RUNS} of {len(board.runs):,} runs are drawn."
    html = f'<p class="note">{html_text(note)}</p>'
    html += embed(coordinates(board), f"coordinates-{place}")
    if board.importance.empty:
        return f"{html}<p>{FEW}</p>"
    note = f'<p class="note">{html_text(SHARES)}</p>'
    return html + note + embed(importance(board), f"importance-{place}")


def seconds(board: Board, place: int) -> str:
    """Whether more seconds buy a better score."""
    known = int(board.table["fit_seconds"].notna().sum())
    if known < 2:
        return "<p>Fewer than two configurations have known seconds: there is nothing to draw.</p>"
    note = FRONT
    if known < len(board.table):
        note += f" The seconds of {len(board.table) - known} configurations are unknown."
    return f'<p class="note">{html_text(note)}</p>' + embed(
        against_seconds(board), f"seconds-{place}"
    )


def seeds(board: Board, place: int) -> str:
    """How far the seeds of one configuration lie apart, beside how far configurations do."""
    if len(board.runs) < 2:
        return "<p>One run alone says nothing of luck: add seeds (seed=0,1,2).</p>"
    note = FAN if (board.table["seeds"] > 1).any() else ONE_SEED
    note += WITHIN if board.table["se"].iloc[1:].notna().any() else ""
    return f'<p class="note">{html_text(note)}</p>' + embed(fan(board), f"seeds-{place}")


def importance(board: Board) -> go.Figure:
    """A bar per setting, the longest at the top, the seed in grey."""
    table = board.importance.head(MOST_BARS)
    names = short(table["key"].tolist())
    figure = go.Figure()
    figure.add_bar(
        x=100 * table["importance"].to_numpy(float),
        y=[escape(names[key]) for key in table["key"]],
        orientation="h",
        marker={"color": [GREY if key == "seed" else SLATE for key in table["key"]]},
        customdata=[escape(key) for key in table["key"]],
        hovertemplate="%{customdata}<br>%{x:.1f} % of the variance<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title_text="share of the variance of the objective, %", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    title = "Importance of each setting (grey: the seed, which is luck)"
    if not (table["key"] == "seed").any():
        title = "Importance of each setting"
    return finish(figure, title=title, height=140 + 28 * len(table), above=50)


def against_seconds(board: Board) -> go.Figure:
    """Objective against the seconds of a fit, and the front of those no other one beats in both."""
    table = board.table[board.table["fit_seconds"].notna()]
    figure = go.Figure()
    front = pareto(table["fit_seconds"].to_numpy(float), table["objective"].to_numpy(float))
    best = table.iloc[front]
    figure.add_scatter(
        # Whoever has more seconds does at least as well.
        x=[*best["fit_seconds"], table["fit_seconds"].max()],
        y=[*best["objective"], best["objective"].iloc[-1]],
        mode="lines",
        line={"shape": "hv", "color": INK, "width": 1.2, "dash": "dot"},
        name="Pareto front",
        hoverinfo="skip",
    )
    for model, rows in table.groupby("model", sort=False):
        hue = colour(str(model))
        figure.add_scatter(
            x=rows["fit_seconds"].to_numpy(float),
            y=rows["objective"].to_numpy(float),
            error_y={
                "type": "data",
                "array": rows["spread"].fillna(0).to_numpy(float),
                **{"color": translucent(hue, 0.45), "thickness": 1.2, "width": 3},
            },
            mode="markers",
            marker={"color": hue, "symbol": marker(str(model)), "size": 9},
            name=escape(str(model)),
            text=[of_configuration(board, row) for row in rows_of(rows)],
            hovertemplate="%{text}<extra></extra>",
        )
    _ring(figure, table, x="fit_seconds")
    low, high = table["fit_seconds"].min(), table["fit_seconds"].max()
    if low > 0 and high / low > LOG:
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        texts = [f"{tick:g}" for tick in ticks]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=texts)
    figure.update_xaxes(title_text="seconds of a fit, mean over the seeds")
    figure.update_yaxes(title_text=f"objective ({objective_of(board)})")
    return _finished(figure, "Objective against the seconds of a fit")


def pareto(cost: np.ndarray, loss: np.ndarray) -> list[int]:
    """Places of those that no other one beats in cost and loss, cheapest first."""
    front: list[int] = []
    for place in np.lexsort((loss, cost)).tolist():
        if not front or loss[place] < loss[front[-1]]:
            front.append(place)
    return front


def fan(board: Board) -> go.Figure:
    """Mean objective by rank, what its seeds span, and each of them."""
    table = board.table
    rank = np.arange(1, len(table) + 1)
    who = ["configuration", "model"]
    places = table[who].assign(place=rank)
    runs = board.runs.merge(places, on=who)
    span = runs.groupby("place")["objective"].agg(["min", "max"]).reindex(rank)
    figure = go.Figure()
    figure.add_scatter(
        x=[*rank, *rank[::-1]],
        y=[*span["max"], *span["min"][::-1]],
        **{"fill": "toself", "fillcolor": FAINT, "mode": "lines", "line": {"width": 0}},
        **{"name": "span of seeds", "hoverinfo": "skip"},
    )
    figure.add_scatter(
        x=rank,
        y=table["objective"].to_numpy(float),
        mode="lines",
        line={"color": INK, "width": 1.4},
        name="mean",
        text=[of_configuration(board, row) for row in rows_of(table)],
        hovertemplate="%{text}<extra></extra>",
    )
    se = table["se"].to_numpy(float)
    if np.isfinite(se[1:]).any():
        limit = table["objective"].iloc[0] + se
        limit[0] = np.nan if len(se) == 1 else limit[1]
        figure.add_scatter(
            x=rank,
            y=limit,
            mode="lines",
            line={"color": INK, "width": 1.2, "dash": "dot"},
            name="best + one s. e.",
            hovertemplate="best + one standard error %{y:.5f}<extra></extra>",
        )
    for model, rows in runs.groupby("model", sort=False):
        figure.add_scatter(
            x=rows["place"].to_numpy(),
            y=rows["objective"].to_numpy(float),
            mode="markers",
            marker={"color": colour(str(model)), "symbol": marker(str(model)), "size": 7},
            name=escape(str(model)),
            text=[of_run(board, row) for row in rows_of(rows)],
            hovertemplate="%{text}<extra></extra>",
        )
    _ring(figure, table.assign(place=rank), x="place")
    figure.update_xaxes(
        **{"title_text": "rank (1 is the best)", "range": [0.5, len(table) + 0.5]},
        **{"tick0": 1, "dtick": -(-len(table) // 12)},
    )
    figure.update_yaxes(title_text=f"objective ({objective_of(board)})")
    return _finished(figure, "What the seed alone changes")


def _finished(figure: go.Figure, title: str) -> go.Figure:
    """Room for a legend of four names a row, which is what a narrow page has."""
    above = 70 + 20 * -(-len(figure.data) // 4)
    return finish(figure, title=title, height=370 + above, above=above)


def _ring(figure: go.Figure, table: pd.DataFrame, *, x: str) -> None:
    """A ring around the configuration that the one-standard-error rule chooses."""
    chosen = table[table["chosen"]]
    figure.add_scatter(
        x=chosen[x].to_numpy(float),
        y=chosen["objective"].to_numpy(float),
        mode="markers",
        marker={"symbol": "circle-open", "size": 18, "color": INK, "line": {"width": 1.6}},
        name="chosen",
        hoverinfo="skip",
    )
