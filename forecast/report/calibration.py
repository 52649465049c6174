"""Calibration: how often outcomes fell where the forecasts said they would."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.evaluation.recalibration import SUFFIX
from forecast.forecasts import LEVELS
from forecast.report.markup import html_models, is_null, number
from forecast.report.roster import (
    EQUAL_INFORMATION,
    benchmark,
    best_of,
    horizons_of,
    networks,
    newest_part,
    ordered,
    scores_at,
)
from forecast.report.style import (
    GREY,
    INK,
    colour,
    embed,
    finish,
    grid,
    in_words,
    marker,
    translucent,
)
from forecast.run import Run

MOST_DENSE = 2  # the tails' bins are thin and may be much higher; hovering tells
EDGES = (0.0, *LEVELS, 1.0)
NOTE = (
    '<p class="note">Reliability: of all outcomes, a share equal to the level should lie at or '
    "below the quantile of that level. PIT histograms: each bin lies between two stated levels, "
    "the outermost are 1 % wide; a hump in the middle means forecasts too wide, high ends mean "
    "tails too thin.</p>"
)


def calibration(run: Run) -> str:
    """How to read it, and the figures of each part; of a walk-forward's newest, a table too."""
    metrics, walk_forward = run.metrics, "backtest" in run.config
    asked, html = networks(run), NOTE
    newest = newest_part(metrics)
    for part in [newest] if walk_forward and newest else metrics["parts"]:
        counted = _counted((metrics.get("calibration") or {}).get(part) or {})
        html += f"<h3>{escape(part.capitalize())}</h3>"
        if not counted:
            html += "<p>No forecast of this part states quantiles.</p>"
        elif walk_forward:
            html += _figures(counted, part, _drawn(run, part, counted, asked))
            html += _table(counted, asked)
        else:
            html += _figures(counted, part, counted)
    return html


def _counted(calibration: Mapping[str, Any]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Model -> horizon -> what was counted, where anything was."""
    counted: dict[str, dict[int, Mapping[str, Any]]] = {}
    for model, by_horizon in calibration.items():
        for horizon, counts in (by_horizon or {}).items():
            if counts and sum(counts["pit_counts"]):
                counted.setdefault(model, {})[int(horizon)] = counts
    return counted


def _drawn(run: Run, part: str, counted: Collection[str], asked: Sequence[str]) -> list[str]:
    """The networks, a recalibrated copy of the first, the benchmark, the best that knows as much.

    Twenty models cannot be told apart in one figure; the table below it has them all.
    """
    metrics = run.metrics
    scores = scores_at(metrics, part, horizons_of(metrics, part)[0])
    wanted = [
        *asked[:3],
        *(f"{model}{SUFFIX}" for model in asked[:1]),
        benchmark(run, scores),
        best_of(scores, EQUAL_INFORMATION, "crps"),
    ]
    return [model for model in wanted if model and model in counted] or list(counted)[:6]


def _figures(
    counted: Mapping[str, Mapping[int, Mapping[str, Any]]], part: str, models: Collection[str]
) -> str:
    bins, levels = [], []
    for model in models:
        for horizon, counts in counted[model].items():
            key = {"model": model, "horizon": horizon}
            bands = counts.get("pit_bands") or [(None, None)] * len(counts["pit_counts"])
            bins += [
                {**key, "lower": low, "upper": high, "count": count, "least": least, "most": most}
                for low, high, count, (least, most) in zip(
                    EDGES[:-1], EDGES[1:], counts["pit_counts"], bands, strict=True
                )
            ]
            levels += [
                {**key, "level": level, "observed": observed}
                for level, observed in zip(LEVELS, counts["coverage"], strict=True)
            ]
    return embed(reliability(pd.DataFrame(levels)), f"reliability-{part}") + embed(
        pit_histograms(pd.DataFrame(bins)), f"pit-{part}"
    )


def _table(counted: Mapping[str, Mapping[int, Mapping[str, Any]]], asked: Sequence[str]) -> str:
    """Of every model, how many bins lie outside their bands, and how full the tails are."""
    models = ordered(counted, asked)
    groups = {
        f"horizon {in_words([horizon])}": {
            model: _row(counted[model][horizon]) for model in models if horizon in counted[model]
        }
        for horizon in sorted({horizon for rows in counted.values() for horizon in rows})
    }
    heads = (
        *("model", "below 1 % level, %", "above 99 % level, %"),
        *("bins outside their band", "exact bins outside their band"),
    )
    return (
        '<p class="note">The shaded bands, and this table, allow for the dependence between the '
        "symbols of a date and between dates: one bin in twenty lies outside its 95 % band by luck "
        "alone. Exact bins are 20 of equal width, from the forecast's density.</p>"
    ) + html_models(heads, groups, colour=colour, strong=asked)


def _row(counts: Mapping[str, Any]) -> list[str]:
    total = sum(counts["pit_counts"])
    exact = counts.get("exact") or {}
    return [
        number(counts["pit_counts"][0] / total, 2, 100),
        number(counts["pit_counts"][-1] / total, 2, 100),
        _outside(counts["pit_counts"], counts.get("pit_bands")),
        _outside(exact.get("counts"), exact.get("bands")),
    ]


def _outside(counts: Sequence[float] | None, bands: Any) -> str:
    """How many bins hold a share outside their band."""
    if not counts or not bands:
        return number(None, 0)
    total = sum(counts)
    outside = sum(
        not low <= count / total <= high
        for count, (low, high) in zip(counts, bands, strict=True)
        if not is_null(low) and not is_null(high)
    )
    return f"{outside} of {len(counts)}"


def pit_histograms(table: pd.DataFrame) -> go.Figure:
    """Where the outcomes fell among the forecast's own levels, by horizon and model.

    The bins are the gaps between the levels (unequal, the outermost 1 % wide), so a bar is a
    density: share of outcomes over width. A calibrated forecast has 1 everywhere; a hump is a
    forecast too wide, a valley one too narrow (Diebold, Gunther and Tay 1998).

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
    highest = 1.0
    for (horizon, model), bins in table.groupby(["horizon", "model"], sort=False):
        width = (bins["upper"] - bins["lower"]).to_numpy(float)
        share = bins["count"].to_numpy(float) / max(float(bins["count"].sum()), 1.0)
        highest = max(highest, *share / width)
        facts = np.column_stack([bins["lower"], bins["upper"], share, width, bins["count"]])
        place = {"row": horizons.index(horizon) + 1, "col": models.index(model) + 1}
        figure.add_bar(
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
            **place,
        )
        if "least" in bins and bins["least"].notna().all():
            _add_band(figure, bins, width, **place)
    figure.add_hline(y=1, line={"color": INK, "width": 1, "dash": "dot"}, row="all", col="all")
    marks = {"tickvals": [0, 0.5, 1], "ticktext": ["0", "½", "1"]}  # short: panels are narrow
    figure.update_xaxes(**marks, range=[-0.02, 1.02])
    figure.update_yaxes(range=[0, min(1.05 * highest, MOST_DENSE)])
    return finish(figure, title="PIT histograms", height=130 + 170 * len(horizons), above=70)


def _add_band(figure: go.Figure, bins: pd.DataFrame, width: Any, **place: int) -> None:
    """A step for each bin's band; drawn over the bars, and clear enough to see them."""
    # One outline along the lower bounds and back along the upper ones.
    corners = np.repeat([*bins["lower"], float(bins["upper"].iloc[-1])], 2)[1:-1]
    least = np.repeat(bins["least"].to_numpy(float) / width, 2)
    most = np.repeat(bins["most"].to_numpy(float) / width, 2)
    figure.add_scatter(
        x=np.concatenate([corners, corners[::-1]]),
        y=np.concatenate([least, most[::-1]]),
        fill="toself",
        fillcolor=translucent(GREY, 0.25),
        mode="lines",
        line={"color": INK, "width": 0.8},
        hoverinfo="skip",
        name="95 % band",
        showlegend=False,
        **place,
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
    for (horizon, model), curve in table.groupby(["horizon", "model"], sort=False):
        position = horizons.index(horizon)
        level, observed = curve["level"].to_numpy(float), curve["observed"].to_numpy(float)
        figure.add_scatter(
            x=level,
            y=100 * (observed - level),
            customdata=observed,
            mode="lines+markers",
            line={"color": colour(str(model)), "width": 1.5},
            marker={"symbol": marker(str(model)), "size": 6},
            name=escape(str(model)),
            legendgroup=escape(str(model)),
            legendrank=models.index(model),
            showlegend=position == 0,
            hovertemplate=(
                "nominal %{x:.0%}, observed %{customdata:.2%}<br>"
                "difference %{y:+.2f} points<extra>%{fullData.name}</extra>"
            ),
            row=position // columns + 1,
            col=position % columns + 1,
        )
    figure.update_yaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    figure.update_xaxes(tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75, 1], range=[-0.02, 1.02])
    return finish(figure, title="Reliability of the levels", height=180 + 240 * rows)
