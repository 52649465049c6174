"""Calibration as pictures: PIT histograms, and how far levels are from what they promise."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.evaluation.calibration import EXACT_BINS
from forecast.forecasts import LEVELS
from forecast.report.style import GREY, INK, colour, finish, grid, in_words, marker, translucent
from forecast.report.tables import dashes

MOST_DENSE = 2  # the tails' bins are thin and may be much higher; hovering tells
EDGES = (0.0, *LEVELS, 1.0)


def levels_of(counted: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> pd.DataFrame:
    """The table that `reliability` draws, of what was counted by model and horizon."""
    return pd.DataFrame(
        [
            {"model": model, "horizon": horizon, "level": level, "observed": observed}
            for model, by_horizon in counted.items()
            for horizon, counts in by_horizon.items()
            for level, observed in zip(LEVELS, counts["coverage"], strict=True)
        ]
    )


def bins_of(
    counted: Mapping[str, Mapping[int, Mapping[str, Any]]], *, exact: bool = False
) -> pd.DataFrame:
    """The table that `pit_histograms` draws, of what was counted by model and horizon.

    With `exact`, of the bins of equal width that models with a distribution function have.
    """
    edges = np.linspace(0, 1, EXACT_BINS + 1).tolist() if exact else EDGES
    rows = []
    for model, by_horizon in counted.items():
        for horizon, counts in by_horizon.items():
            if exact and counts["exact"] is None:
                continue
            found = counts["exact"]["counts"] if exact else counts["pit_counts"]
            bands = counts["exact"]["bands"] if exact else counts.get("pit_bands")
            rows += [
                {
                    **{"model": model, "horizon": horizon, "lower": low, "upper": high},
                    **{"count": count, "least": least, "most": most},
                }
                for low, high, count, (least, most) in zip(
                    edges[:-1], edges[1:], found, bands or [(None, None)] * len(found), strict=True
                )
            ]
    return pd.DataFrame(rows)


def pit_histograms(table: pd.DataFrame) -> go.Figure:
    """Where the outcomes fell among the forecast's own levels, by horizon and model.

    The gaps between the levels are unequal bins, the outermost 1 % wide, so a bar is a density:
    share of outcomes over width. A calibrated forecast has 1 everywhere; a hump is a forecast too
    wide, a valley one too narrow (Diebold, Gunther and Tay 1998).

    Parameters
    ----------
    table : DataFrame with model, horizon, lower, upper, count
        A row per bin; bounds are levels in [0, 1]. Where there are columns least and most, the
        shares between which a calibrated forecast's bin lies by luck alone, they are shaded.
    """
    models, horizons = list(dict.fromkeys(table["model"])), sorted(table["horizon"].unique())
    figure = make_subplots(
        rows=len(horizons),
        cols=len(models),
        shared_xaxes=True,
        shared_yaxes="all",
        column_titles=[escape(str(model)) for model in models],
        row_titles=[in_words([horizon]) for horizon in horizons],
        x_title="level of the forecast at which the outcome fell (PIT)",
        y_title="density (1 = calibrated)",
        horizontal_spacing=0.045,
        vertical_spacing=0.12 / len(horizons),
    )
    highest, traces, rows, columns = 1.0, [], [], []
    for (horizon, model), bins in table.groupby(["horizon", "model"], sort=False):
        width = (bins["upper"] - bins["lower"]).to_numpy(float)
        share = bins["count"].to_numpy(float) / max(float(bins["count"].sum()), 1.0)
        highest = max(highest, *share / width)
        facts = np.column_stack([bins["lower"], bins["upper"], share, width, bins["count"]])
        bars = go.Bar(
            x=(bins["lower"].to_numpy(float) + bins["upper"].to_numpy(float)) / 2,
            y=share / width,
            width=width,
            marker={"color": colour(str(model)), "line": {"color": "white", "width": 0.5}},
            customdata=facts,
            hovertemplate=(
                "levels %{customdata[0]:.0%} to %{customdata[1]:.0%}<br>"
                "%{customdata[2]:.2%} of outcomes, nominal %{customdata[3]:.0%}<br>"
                "density %{y:.2f}, %{customdata[4]:,} outcomes<extra></extra>"
            ),
            name=escape(str(model)),
            showlegend=False,
        )
        banded = "least" in bins and bins["least"].notna().all()
        drawn = [bars, _band(bins, width)] if banded else [bars]
        traces += drawn
        rows += [horizons.index(horizon) + 1] * len(drawn)
        columns += [models.index(model) + 1] * len(drawn)
    figure.add_traces(traces, rows=rows, cols=columns)  # one by one, they take twice as long
    level = {"type": "line", "line": {"color": INK, "width": 1, "dash": "dot"}, "y0": 1, "y1": 1}
    figure.update_layout(
        shapes=[
            {**level, "x0": 0, "x1": 1, "xref": f"{bars.xaxis} domain", "yref": bars.yaxis}
            for bars in sorted(figure.select_traces("bar"), key=_panel)
        ]
    )
    marks = {"tickvals": [0, 0.5, 1], "ticktext": ["0", "½", "1"]}  # short: panels are narrow
    figure.update_xaxes(**marks, range=[-0.02, 1.02])
    figure.update_yaxes(range=[0, min(1.05 * highest, MOST_DENSE)])
    return finish(figure, title="PIT histograms", height=130 + 170 * len(horizons), above=70)


def _panel(trace: go.Bar) -> int:
    """The number of the panel that a trace is drawn in: x, x2, x3, …"""
    return int(trace.xaxis[1:] or 1)


def _band(bins: pd.DataFrame, width: Any) -> go.Scatter:
    """A step for each bin's band; drawn over the bars, and clear enough to see them."""
    # One outline along the lower bounds and back along the upper ones.
    corners = np.repeat([*bins["lower"], float(bins["upper"].iloc[-1])], 2)[1:-1]
    least = np.repeat(bins["least"].to_numpy(float) / width, 2)
    most = np.repeat(bins["most"].to_numpy(float) / width, 2)
    return go.Scatter(
        x=np.concatenate([corners, corners[::-1]]),
        y=np.concatenate([least, most[::-1]]),
        fill="toself",
        fillcolor=translucent(GREY, 0.25),
        mode="lines",
        line={"color": INK, "width": 0.8},
        hoverinfo="skip",
        name="95 % band",
        showlegend=False,
    )


def reliability(table: pd.DataFrame) -> go.Figure:
    """Observed minus nominal share of outcomes at or below each level's quantile.

    The difference is drawn, not the observed share: against the diagonal of the usual
    diagram, errors of one or two points cannot be seen. Hovering shows both.

    Parameters
    ----------
    table : DataFrame with model, horizon, level, observed
        Levels and observed shares in [0, 1].
    """
    models, horizons = list(dict.fromkeys(table["model"])), sorted(table["horizon"].unique())
    rows, columns = grid(len(horizons))
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes="all",
        subplot_titles=[f"{in_words([horizon])} ahead" for horizon in horizons],
        x_title="nominal level",
        y_title="observed minus nominal (points)",
        horizontal_spacing=0.04,
        vertical_spacing=0.25 / rows,
    )
    styles = dashes({str(model): colour(str(model)) for model in models})
    traces, positions = [], []
    for (horizon, model), curve in table.groupby(["horizon", "model"], sort=False):
        position = horizons.index(horizon)
        level, observed = curve["level"].to_numpy(float), curve["observed"].to_numpy(float)
        trace = go.Scatter(
            x=level,
            y=100 * (observed - level),
            customdata=observed,
            mode="lines+markers",
            line={"color": colour(str(model)), "width": 1.5, "dash": styles[str(model)]},
            marker={"symbol": marker(str(model)), "size": 6},
            name=escape(str(model)),
            legendgroup=escape(str(model)),
            legendrank=models.index(model),
            showlegend=position == 0,
            hovertemplate=(
                "nominal %{x:.0%}, observed %{customdata:.2%}<br>"
                "difference %{y:+.2f} points<extra>%{fullData.name}</extra>"
            ),
        )
        traces.append(trace)
        positions.append(position)
    figure.add_traces(
        traces,
        rows=[position // columns + 1 for position in positions],
        cols=[position % columns + 1 for position in positions],
    )
    figure.update_yaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    figure.update_xaxes(tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75, 1], range=[-0.02, 1.02])
    return finish(figure, title="Reliability of the levels", height=180 + 240 * rows)
