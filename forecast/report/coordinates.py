"""Parallel coordinates: every run of a leaderboard as a line over its settings and objective."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from forecast.report.leaderboard_words import objective, of_run, rows_of, setting, short
from forecast.report.markup import counted, is_null
from forecast.report.style import GREY, finish

if TYPE_CHECKING:
    from forecast.evaluation.leaderboard import Board

SCALE = "Cividis"  # sequential, the same to colour-blind readers
MOST_RUNS = 500  # drawn as lines
CROWD = 150  # runs, with more of which their lines are thin
MOST_AXES = 9  # of settings, beside the seed and the objective
TICKS = 10  # named values of an axis
WIDEST = 16  # characters of a tick
SPREAD = 0.6  # share of the step between two values over which runs of one value are spread
LOG = 10  # a wider range than this is drawn on a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """An axis of parallel coordinates: where each run crosses it, from 0 to 1, and its ticks."""

    name: str
    places: np.ndarray
    ticks: dict[float, str]


def coordinates(board: Board) -> go.Figure:
    """Every run as a line over one axis per setting, its seed and its objective.

    Drawn as ordinary lines: plotly's parallel coordinates lay lines of equal values over each
    other, and need WebGL, of which a browser grants a page few.
    """
    runs = board.runs.sort_values("objective", kind="stable").head(MOST_RUNS)
    axes = [_axis(name, runs[key].tolist()) for key, name in short(_shown(board)).items()]
    if runs["seed"].nunique() > 1:
        axes.append(_axis("seed", runs["seed"].tolist()))
    axes.append(_measured("objective", runs["objective"].to_numpy(float), form="#.5g"))
    places = np.array([axis.places for axis in axes]).T
    texts = [of_run(board, row) for row in rows_of(runs)]
    shades = sample_colorscale(SCALE, np.linspace(0, 1, len(runs)).tolist())
    crowd = len(runs) > CROWD
    figure = go.Figure()
    for y, text, shade in reversed(list(zip(places, texts, shades, strict=True))):  # best on top
        figure.add_scatter(
            y=y,
            text=text,
            hovertemplate="%{text}<extra></extra>",
            mode="lines+markers",
            line={"color": shade, "width": 0.8 if crowd else 1.6},
            marker={"size": 2 if crowd else 4},
            showlegend=False,
        )
    figure.add_scatter(**_colour_bar(board, runs["objective"].to_numpy()))
    figure.update_xaxes(range=[-0.15, len(axes) - 0.35], visible=False)
    figure.update_yaxes(range=[-0.04, 1.04], visible=False)
    finish(figure, title=f"{_drawn(board)}: dark lines are the best", height=470, above=100)
    figure.update_layout(margin={"l": 20, "r": 20, "b": 70}, hovermode="closest")
    for place, axis in enumerate(axes):
        figure.add_shape(
            **{"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1},
            line={"color": GREY, "width": 1},
            layer="below",
        )
        figure.add_annotation(
            text=escape(axis.name).replace("_", "_<br>") if len(axes) > 5 else escape(axis.name),
            **{"x": place, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False},
            font={"size": 12, "weight": 600},
        )
        for height, text in axis.ticks.items():
            figure.add_annotation(
                **{"text": text, "x": place, "y": height, "showarrow": False},
                **{"xanchor": "left", "xshift": 5, "font": {"size": 11}},
                **{"bgcolor": "rgba(255,255,255,0.8)", "borderpad": 1},
            )
    return figure


def _shown(board: Board) -> list[str]:
    """The keys that get an axis: all, or the most important where they are many."""
    share = dict(zip(board.importance["key"], board.importance["importance"], strict=True))
    first = sorted(board.keys, key=lambda key: -share.get(key, 0))[:MOST_AXES]
    return [key for key in board.keys if key in first]


def _axis(name: str, values: list[Any]) -> Axis:
    """An axis of settings: many numbers stand where they are, anything else at equal steps.

    Runs, which come best first, are spread around a value they share, the better ones below.
    """
    known = {value for value in values if not is_null(value)}
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
    if numeric and len(known) > TICKS:
        numbers = np.array([np.nan if is_null(value) else value for value in values], dtype=float)
        return _measured(name, numbers, log=min(known) > 0 and max(known) / min(known) > LOG)
    order = sorted(known) if numeric else sorted(known, key=str)
    texts = [setting(value) for value in values]
    named = [text for text in dict.fromkeys(map(setting, [*order, None])) if text in texts]
    step = 1 / len(named)
    places = np.empty(len(values))
    for position, text in enumerate(named):
        sharing = np.flatnonzero([other == text for other in texts])
        within = (np.arange(len(sharing)) + 0.5) / len(sharing) - 0.5
        places[sharing] = step * (position + 0.5 + SPREAD * within)
    every = -(-len(named) // TICKS)
    ticks = {step * (place + 0.5): _tick(named[place]) for place in range(0, len(named), every)}
    return Axis(name, places, ticks)


def _measured(name: str, numbers: np.ndarray, *, log: bool = False, form: str = ".3g") -> Axis:
    """An axis of numbers between the least and the largest; an unknown one breaks its line."""
    line = np.log(numbers) if log else numbers
    low, high = np.nanmin(line), np.nanmax(line)
    if low == high:
        return Axis(name, line - low + 0.5, {0.5: format(numbers[0], form)})
    share = np.linspace(0, 1, 5)
    marks = low + share * (high - low)
    texts = [format(mark, form) for mark in (np.exp(marks) if log else marks)]
    return Axis(name, (line - low) / (high - low), dict(zip(share.tolist(), texts, strict=True)))


def _tick(text: str) -> str:
    return escape(text if len(text) <= WIDEST else text[: WIDEST - 1] + "\N{HORIZONTAL ELLIPSIS}")


def _drawn(board: Board) -> str:
    count = len(board.runs)
    return (
        counted(count, "run") if count <= MOST_RUNS else f"The best {MOST_RUNS} of {count:,} runs"
    )


def _colour_bar(board: Board, objectives: np.ndarray) -> dict[str, Any]:
    """A trace without points that carries the scale of colours."""
    marks = [0.0, 0.5, 1.0]
    names = [
        f"{name} {objective(board, value)}"
        for name, value in zip(
            ("best", "median", "worst"), np.quantile(objectives, marks), strict=True
        )
    ]
    return {
        "x": [None],
        "y": [None],
        "mode": "markers",
        "showlegend": False,
        "hoverinfo": "skip",
        "marker": {
            **{"color": [0], "colorscale": SCALE, "cmin": 0, "cmax": 1, "showscale": True},
            "colorbar": {
                **{"orientation": "h", "x": 0.5, "y": -0.04, "yanchor": "top", "len": 0.6},
                **{"thickness": 10, "tickvals": marks, "ticktext": names, "outlinewidth": 0},
            },
        },
    }
