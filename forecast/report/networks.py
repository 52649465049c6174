"""Pictures of what trained networks remember, and of what moves their forecasts.

Each draws one of the tables that `forecast.explain` leaves as CSV files in its folder, and raises a
ForecastError where the table is another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.report.gates import gate_map as gate_map
from forecast.report.gates import gates as gates
from forecast.report.style import GREY, INK, WHITE, colour, finish, marker, translucent
from forecast.report.tables import need

MEMBER = ["model", "seed", "member"]
FAINTEST = 1e-6  # share of the largest gradient below which none is drawn
SIGN_ALONE = 2 / np.pi  # squared correlation of a normal number with its own sign
RECALLED = {"recalled": "share recalled", "gradient": "share of the true gradient"}
MEASURES = {
    "permutation": "rise of the loss by permutation<br>(nats, or the unit of the head)",
    "gradients": "mean absolute share in the<br>log volatility (integrated gradients)",
}
MEAN = {"width": 2.5}
ZERO = {"zeroline": True, "zerolinecolor": GREY, "zerolinewidth": 1}


def memory_profile(memory: pd.DataFrame) -> go.Figure:
    """How strongly a forecast answers inputs of the past, by lag, on a log scale.

    Thin lines are members, bold ones the mean of each model; a marker stands at the memory length
    of each member, after which its gradient stays below a half.

    Parameters
    ----------
    memory : DataFrame with model, seed, member, lag, gradient
        Lags in sessions from 0; gradients in log volatility per standard deviation of a feature.
    """
    from forecast.evaluation.memory import memory_length  # with torch, which takes seconds

    need(memory, [*MEMBER, "lag", "gradient"], name="memory")
    hover = "%{fullData.name}<br>lag %{x}: %{y:.2g}"
    figure, marks = go.Figure(), []
    for model, who, rows in _members(memory, "lag"):
        lag, gradient = rows["lag"].to_numpy(), rows["gradient"].to_numpy()
        thin = {"color": translucent(colour(model), 0.6), "width": 1}
        _add(figure, model, lag, gradient, hover, who=who, line=thin)
        length = memory_length(gradient)
        if 0 < length < np.inf:
            marks.append((model, who, length, np.interp(length, lag, gradient)))
    for model, rows in _by_model(memory):
        mean = rows.groupby("lag")["gradient"].mean()
        bold = {"color": colour(model), "width": 3}
        _add(figure, model, mean.index, mean, hover, showlegend=True, line=bold)
    for model, who, length, gradient in marks:
        told = "%{fullData.name}<br>memory length %{x:.1f} sessions"
        dot = {"color": colour(model), "symbol": f"{marker(model).removesuffix('-open')}-open"}
        _add(figure, model, [length], [gradient], told, who=who, mode="markers", marker=dot)
    highest = float(memory["gradient"].max())
    lowest = max(float(memory["gradient"].min()), FAINTEST * highest)
    last = int(memory["lag"].max())
    figure.update_xaxes(title_text="lag (sessions before the origin)", range=[-last / 60, last])
    figure.update_yaxes(
        title_text="gradient (log volatility per<br>standard deviation), log scale",
        type="log",
        range=[np.log10(lowest) - 0.1, np.log10(highest) + 0.2],
        dtick=1,
        exponentformat="power",
        tickfont_size=11,  # plotly draws powers a quarter larger
    )
    return finish(figure, title="Gradient of the forecast by lag", height=440)


def recall(recall: pd.DataFrame) -> go.Figure:
    """What is recalled of a shock by the sessions since: lines are means, points trainings.

    Parameters
    ----------
    recall : DataFrame with model, seed, first, last, recalled, gradient
        First and last session of each group of ages; the two last columns are 1 for perfect memory.
    """
    need(recall, ["model", "seed", "first", "last", *RECALLED], name="recall")
    table = recall.sort_values("first", kind="stable")
    table["age"] = [
        str(first) if first == last else f"{first}\N{EN DASH}{last}"
        for first, last in zip(table["first"], table["last"], strict=True)
    ]
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    for col, (column, axis) in enumerate(RECALLED.items(), start=1):
        place: dict[str, Any] = {"row": 1, "col": col}
        for model, rows in _by_model(table):
            mean = rows.groupby("age", sort=False)[column].mean()
            told, line = (
                "%{fullData.name}, mean<br>%{x} sessions: %{y:.3f}",
                {"color": colour(model)},
            )
            style = {"showlegend": col == 1, "line": {**line, **MEAN}, **place}
            _add(figure, model, mean.index, mean, told, **style)
            told = "%{fullData.name}, seed %{customdata}<br>%{x} sessions: %{y:.3f}"
            style = {"mode": "markers", "marker": _dot(model, 7, 0.6), "customdata": rows["seed"]}
            _add(figure, model, rows["age"], rows[column], told, **style, **place)
        figure.update_yaxes(title_text=axis, rangemode="tozero", **place)
    dotted = {"color": INK, "width": 1, "dash": "dot"}
    figure.add_hline(y=1, line=dotted, annotation_text="perfect memory", row=1, col="all")
    alone = {"annotation_text": "the sign alone", "annotation_position": "bottom left"}
    alone["annotation_bgcolor"] = translucent(WHITE, 0.75)  # lines cross it
    figure.add_hline(y=SIGN_ALONE, line=dotted, **alone, row=1, col=1)
    figure.update_xaxes(
        title_text="sessions since the shock", type="category", tickangle=0, tickfont_size=11
    )
    return finish(figure, title="What is recalled of a shock", height=400)


def news_impact(impact: pd.DataFrame) -> go.Figure:
    """The volatility forecast after a shock over that after none, by the size of the shock.

    Bold lines are means of a network's members, in a band that holds them all; GJR-GARCH is dashed.

    Parameters
    ----------
    impact : DataFrame with model, seed, member, shock, ratio
        Shocks in units of the scale; seed and member are null for GJR-GARCH.
    """
    need(impact, [*MEMBER, "shock", "ratio"], name="impact")
    figure = go.Figure()
    for model, rows in _by_model(impact):
        found = rows.groupby("shock")["ratio"].agg(["min", "max", "mean"])
        shock = found.index.to_numpy()
        line: dict[str, Any] = {"color": colour(model), "dash": "dash"}
        if rows["member"].notna().any():
            line = {"color": colour(model), **MEAN}
            # One outline along the lowest members and back along the highest.
            x, y = np.append(shock, shock[::-1]), np.append(found["min"], found["max"][::-1])
            band = {"fill": "toself", "fillcolor": translucent(colour(model), 0.15)}
            style = {**band, "line": {"width": 0}, "hoverinfo": "skip"}
            _add(figure, model, x, y, None, who=", lowest to highest", **style)
        told = "%{fullData.name} after %{x:+.2f} scales: %{y:.3f}"
        _add(figure, model, shock, found["mean"], told, showlegend=True, line=line)
    figure.update_xaxes(title_text="return of the last session (scales)", **ZERO)
    figure.update_yaxes(title_text="volatility over that<br>after no return")
    return finish(figure, title="News impact: volatility forecast after a shock", height=420)


def feature_importance(importance: pd.DataFrame) -> go.Figure:
    """What each feature does for each model: large dots are means, small ones members.

    Features stand in the order of their mean permutation; those that have none, at the bottom.

    Parameters
    ----------
    importance : DataFrame with model, seed, member, feature, permutation, gradients
        Rise of the loss, null where all symbols share the feature; share in the log volatility.
    """
    need(importance, [*MEMBER, "feature", *MEASURES], name="importance")
    measures = [measure for measure in MEASURES if importance[measure].notna().any()]
    means = importance.groupby("feature")[measures].mean()
    place = {
        feature: y
        for y, feature in enumerate(means.sort_values(measures, na_position="first").index)
    }
    models = dict(_by_model(importance))
    figure = make_subplots(rows=1, cols=len(measures), shared_yaxes=True, horizontal_spacing=0.04)
    for number, (model, rows) in enumerate(models.items()):
        lower = 0.5 * (number + 0.5) / len(models) - 0.25  # the first model is the highest
        own = rows.groupby("feature")[measures].mean().reset_index()
        for col, measure in enumerate(measures, start=1):
            for table, dot, who in (
                (rows, _dot(model, 5, 0.5), ", members"),
                (own, _dot(model, 10), ""),
            ):
                known = table[table[measure].notna()]
                _add(
                    figure,
                    model,
                    known[measure],
                    known["feature"].map(place) - lower,
                    "%{text}<br>%{fullData.name}: %{x:.2g}",
                    who=who,
                    showlegend=col == 1 and table is own,
                    mode="markers",
                    marker=dot,
                    text=known["feature"].map(escape),
                    row=1,
                    col=col,
                )
    for col, measure in enumerate(measures, start=1):
        figure.update_xaxes(title_text=MEASURES[measure], **ZERO, col=col)
    figure.update_yaxes(
        tickvals=list(place.values()),
        ticktext=[escape(feature) for feature in place],
        range=[-0.6, len(place) - 0.4],
    )
    return finish(figure, title="Importance of the features", height=190 + 26 * len(place))


def _by_model(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Models in the order in which they appear, and the rows of each."""
    for model, rows in table.groupby("model", sort=False):
        yield str(model), rows


def _members(table: pd.DataFrame, along: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Model, name and rows of each member.

    Runs that differ in their settings alone have members of the same name.
    """
    again = table.groupby([*MEMBER, along]).cumcount()
    for (model, seed, member, _), rows in table.groupby([*MEMBER, again], sort=False):
        yield str(model), f", seed {seed}, member {member}", rows.sort_values(along)


def _add(
    figure: go.Figure, model: str, x: Any, y: Any, hover: str | None, *, who: str = "", **style: Any
) -> None:
    """A trace of a model, all of whose traces share one line of the legend."""
    told = {} if hover is None else {"hovertemplate": f"{hover}<extra></extra>"}
    style = {"mode": "lines", "showlegend": False, "legendgroup": escape(model), **told, **style}
    figure.add_scatter(x=x, y=y, name=escape(f"{model}{who}"), **style)


def _dot(model: str, size: int, opacity: float = 1.0) -> dict[str, Any]:
    return {"color": colour(model), "symbol": marker(model), "size": size, "opacity": opacity}
