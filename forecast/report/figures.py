"""Plotly figures of a run: each function takes a table and returns a `Figure`.

Every model keeps one colour and one marker in all figures (Okabe and Ito's palette, which
colour-blind readers can tell apart), axes name their unit, and a hover shows the numbers.
Strings that come from data (symbols, model names) are escaped, because plotly reads a few
HTML tags in its texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Okabe and Ito (2008), "Color universal design"; the darker hues stand for the networks.
COLOURS = {
    "lstm": "#0072B2",
    "gru": "#D55E00",
    "rnn": "#009E73",
    "historical": "#7F7F7F",
    "ewma_normal": "#E69F00",
    "ewma_t": "#CC79A7",
    "garch_t": "#56B4E9",
    "truth": "#000000",
}
MARKERS = {
    "lstm": "circle",
    "gru": "square",
    "rnn": "diamond",
    "historical": "x-thin-open",
    "ewma_normal": "triangle-up",
    "ewma_t": "triangle-down",
    "garch_t": "star",
    "truth": "line-ew-open",
}
OTHER_COLOUR, OTHER_MARKER = "#595959", "circle-open"  # models of other people
MOST_FANS = 15
INK, FAINT = "#22272e", "#dde1e6"

BANDS = ((90, "q05", "q95", 0.16), (50, "q25", "q75", 0.34))  # percent, levels, opacity
FAN_COLUMNS = (  # what `fan_chart` needs of the Forecasts table
    *("model", "symbol", "origin", "horizon", "delay", "target_date", "price", "actual"),
    *("mean", "q05", "q25", "q50", "q75", "q95"),
)

_AXIS = {
    "gridcolor": FAINT,
    "linecolor": "#9aa3ad",
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#9aa3ad",
    "title": {"font": {"size": 13}, "standoff": 10},
    "automargin": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "title": {
            **{"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15, "weight": 600}},
            **{"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12}},
        },
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "yref": "container", "entrywidth": 0},
        "margin": {"l": 80, "r": 30, "t": 90, "b": 60},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def colour(model: str) -> str:
    """The colour of a model, the same in every figure and table."""
    return COLOURS.get(model, OTHER_COLOUR)


def fan_chart(table: pd.DataFrame, *, sessions: int = 250) -> go.Figure:
    """The price of one symbol and what the model said of it, over the last sessions.

    A quantile q (percent log return) becomes the price ``price * exp(q / 100)``. Forecasts of
    one session draw a band over all sessions; longer ones draw a few fans, spaced by a multiple
    of the longest horizon so that none overlaps the next, from the close at which the target
    starts to each horizon. Between horizons nothing was forecast: those lines are dotted.
    Without quantiles (point head) only the mean is drawn.

    Parameters
    ----------
    table : DataFrame with `FAN_COLUMNS`
        Forecasts of one symbol by one model on one part; at least one row.
    sessions : int
        Sessions shown, counted back from the newest origin.
    """
    model, symbol = escape(str(table["model"].iloc[0])), escape(str(table["symbol"].iloc[0]))
    delay, longest = int(table["delay"].iloc[0]), int(table["horizon"].max())
    close = table.drop_duplicates("origin").set_index("origin")["price"].sort_index()
    starts = pd.DataFrame(
        {
            "start": pd.Series(close.index, index=close.index).shift(-delay),
            "base": close.shift(-delay),  # a delayed target starts at a later close
        }
    ).iloc[-sessions:]
    daily = longest == 1
    if not daily:
        few = -(-sessions // (MOST_FANS * longest))
        starts = starts.dropna().iloc[:: -longest * few]
    rows = table.merge(starts, left_on="origin", right_index=True)
    rows = rows.dropna(subset=["target_date", "base"]).sort_values(["origin", "horizon"])
    centre = "q50" if rows["q50"].notna().any() else "mean"
    for column in ("mean", "actual", "q05", "q25", "q50", "q75", "q95"):
        rows[column] = rows["base"] * np.exp(rows[column].astype(float) / 100)

    figure = go.Figure()
    fans = [rows] if daily else [fan for _, fan in rows.groupby("origin")]
    for percent, lower, upper, opacity in BANDS if centre == "q50" else ():
        x, y = _outlines(fans, lower, upper, from_start=not daily)
        figure.add_scatter(
            x=x,
            y=y,
            fill="toself",
            mode="lines",
            line_width=0,
            fillcolor=_translucent(colour(model), opacity),
            name=f"{percent} % interval",
            hoverinfo="skip",
        )
    x, y, hover = _centre_lines(fans, centre, from_start=not daily)
    label = "median" if centre == "q50" else "mean"
    figure.add_scatter(
        x=x,
        y=y,
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        mode="lines" if daily else "lines+markers",
        line={"color": colour(model), "width": 1.2, "dash": "solid" if daily else "dot"},
        marker={"size": 5},
        name=label if daily else f"{label} (dotted where interpolated)",
    )
    shown = close.iloc[-sessions:]
    figure.add_scatter(
        x=_dates(shown.index),
        y=shown.to_numpy(float),
        mode="lines",
        line={"color": INK, "width": 1.4},
        name="price",
        hovertemplate="%{x|%Y-%m-%d}<br>price %{y:.2f}<extra></extra>",
    )
    known = rows.dropna(subset=["actual"]) if not daily else rows.iloc[:0]
    if len(known):
        figure.add_scatter(
            x=_dates(known["target_date"]),
            y=known["actual"].to_numpy(float),
            mode="markers",
            marker={"color": INK, "size": 5, "symbol": "circle-open"},
            name="outcome, with dividends",
            hovertemplate="%{x|%Y-%m-%d}<br>outcome %{y:.2f}<extra></extra>",
        )
    horizons = in_words(sorted(table["horizon"].unique()))
    figure.update_xaxes(title_text="session (date)", type="date")
    figure.update_yaxes(title_text="price (currency of the data)")
    title = f"{symbol}: {model} forecasts, {horizons} ahead"
    return _finish(figure, title=title, height=420)


def learning_curves(history: pd.DataFrame, *, model: str, unit: str) -> go.Figure:
    """Training and validation loss by epoch, one panel per member, the best epoch marked.

    Parameters
    ----------
    history : DataFrame with member, epoch, train_loss, validation_loss
    model : str
        The network; gives the validation curve its colour.
    unit : str
        What the loss is measured in, for the axis.
    """
    members = list(dict.fromkeys(history["member"]))
    rows, columns = _grid(len(members))
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        subplot_titles=[f"member {member}" for member in members],
        x_title="epoch",
        y_title=f"loss ({escape(unit)})",
        horizontal_spacing=0.04,
        vertical_spacing=0.25 / rows,
    )
    for position, member in enumerate(members):
        curve = history[history["member"] == member]
        best = curve[curve["validation_loss"] == curve["validation_loss"].min()].iloc[:1]
        place = {"row": position // columns + 1, "col": position % columns + 1}
        for table, column, name, style in (
            (curve, "train_loss", "training", {"line": {"color": "#7F7F7F", "dash": "dash"}}),
            (curve, "validation_loss", "validation", {"line": {"color": colour(model)}}),
            (best, "validation_loss", "best epoch", {"marker": _best_marker(model)}),
        ):
            figure.add_scatter(
                x=table["epoch"].to_numpy(),
                y=table[column].to_numpy(float),
                mode="markers" if table is best else "lines",
                name=name,
                legendgroup=name,
                showlegend=position == 0,
                hovertemplate=f"member {member}, epoch %{{x}}<br>{name} %{{y:.4f}}<extra></extra>",
                **style,
                **place,
            )
    figure.update_xaxes(dtick=max(1, int(history["epoch"].max()) // 5))  # no half epochs
    return _finish(figure, title="Learning curves", height=180 + 220 * rows)


def pit_histograms(table: pd.DataFrame) -> go.Figure:
    """Where the outcomes fell among the forecast's own levels, by horizon and model.

    The bins are the gaps between the levels (unequal, the outermost 1 % wide), so a bar is a
    density: share of outcomes over width. A calibrated forecast has 1 everywhere; a hump is a
    forecast too wide, a valley one too narrow (Diebold, Gunther and Tay 1998).

    Parameters
    ----------
    table : DataFrame with model, horizon, lower, upper, count
        A row per bin; bounds are levels in [0, 1].
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
            row=horizons.index(horizon) + 1,
            col=models.index(model) + 1,
        )
    figure.add_hline(y=1, line={"color": INK, "width": 1, "dash": "dot"}, row="all", col="all")
    figure.update_xaxes(tickformat=".0%", tickvals=[0, 0.5, 1], range=[-0.02, 1.02])
    figure.update_yaxes(range=[0, 1.05 * highest])
    return _finish(figure, title="PIT histograms", height=160 + 170 * len(horizons))


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
    rows, columns = _grid(len(horizons))
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
            marker={"symbol": MARKERS.get(str(model), OTHER_MARKER), "size": 6},
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
    figure.add_hline(y=0, line={"color": INK, "width": 1, "dash": "dot"}, row="all", col="all")
    figure.update_xaxes(tickformat=".0%", tickvals=[0, 0.25, 0.5, 0.75, 1], range=[-0.02, 1.02])
    return _finish(figure, title="Reliability of the levels", height=180 + 240 * rows)


def _outlines(
    fans: Iterable[pd.DataFrame], lower: str, upper: str, *, from_start: bool
) -> tuple[list[str | None], list[float | None]]:
    """One closed polygon per fan (there along `upper`, back along `lower`), None between."""
    x: list[str | None] = []
    y: list[float | None] = []
    for fan in fans:
        dates, top, bottom = _dates(fan["target_date"]), list(fan[upper]), list(fan[lower])
        if from_start:
            dates = [*_dates(fan["start"].iloc[:1]), *dates]
            top, bottom = [fan["base"].iloc[0], *top], [fan["base"].iloc[0], *bottom]
        x += [*dates, *reversed(dates), None]
        y += [*top, *reversed(bottom), None]
    return x, y


def _centre_lines(
    fans: Iterable[pd.DataFrame], centre: str, *, from_start: bool
) -> tuple[list[str | None], list[float | None], list[str]]:
    """The middle of each fan and its hover texts, None between fans."""
    x: list[str | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for fan in fans:
        if from_start:
            x += _dates(fan["start"].iloc[:1])
            y.append(fan["base"].iloc[0])
            hover.append("start of the target")
        x += [*_dates(fan["target_date"]), None]
        y += [*fan[centre], None]
        for row, origin, date in zip(
            fan.to_dict("records"), _dates(fan["origin"]), _dates(fan["target_date"]), strict=True
        ):
            lines = [f"{date}: {in_words([row['horizon']])} after the origin {origin}"]
            lines += [f"{'median' if centre == 'q50' else 'mean'} {row[centre]:.2f}"]
            for percent, lower, upper, _ in BANDS if centre == "q50" else ():
                lines.append(f"{percent} %: {row[lower]:.2f} to {row[upper]:.2f}")
            hover.append("<br>".join(lines))
        hover.append("")
    return x, y, hover


def _finish(figure: go.Figure, *, title: str, height: int) -> go.Figure:
    """The common look: title, below it the legend, below it the panels."""
    figure.update_layout(template=TEMPLATE, title_text=title, height=height)
    figure.update_layout(legend={"y": 1 - 38 / height, "yanchor": "top"})
    figure.update_annotations(font_size=13)
    # plotly puts the common title of the y axes where their numbers may lie.
    figure.update_annotations(selector={"xshift": -40}, xshift=-58)
    return figure


def _grid(panels: int) -> tuple[int, int]:
    """Rows and columns for so many panels; three in a row stay readable at 800 pixels."""
    columns = min(max(panels, 1), 3)
    return -(-max(panels, 1) // columns), columns


def _best_marker(model: str) -> dict[str, object]:
    return {"color": colour(model), "size": 11, "symbol": "star"}


def _dates(dates: Iterable[object]) -> list[str]:
    """Session dates as text: small, and the same bytes under every version of pandas."""
    return [str(pd.Timestamp(date).date()) for date in dates]  # type: ignore[arg-type]


def in_words(horizons: Iterable[int]) -> str:
    """[1] -> "1 session"; [1, 5, 20] -> "1, 5 and 20 sessions"."""
    numbers = [str(int(horizon)) for horizon in horizons]
    listed = " and ".join([", ".join(numbers[:-1]), *numbers[-1:]][-len(numbers) :])
    return f"{listed} session{'' if numbers == ['1'] else 's'}"


def _translucent(hexadecimal: str, opacity: float) -> str:
    red, green, blue = (int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
