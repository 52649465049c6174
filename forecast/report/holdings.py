"""What was held over time, and how much of it was turned over."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from forecast.report.markup import html_text
from forecast.report.style import DIVERGING, add_choice, dates_as_text, embed, finish
from forecast.report.traded import Pair, Traded, over_dates, title_of

SMOOTHED = 21  # sessions of the mean turnover
STEPS = 180  # dates of a map of weights, at most
MOST_SYMBOLS = 40  # rows that can still be read
NOTE = (
    "Exposures are shares of equity at the close; short is drawn below zero. Turnover is the value "
    f"bought and sold in a session, mean of {SMOOTHED} sessions, % of equity."
)


def holdings(traded: Traded) -> str:
    """Exposure and turnover of all portfolios, weights of the leading model's strategies."""
    if not traded.returns:
        return "<p>No daily returns lie in the folder.</p>"
    html = f'<p class="note">{html_text(NOTE)}</p>' + embed(exposure(traded), "exposure-turnover")
    model = traded.leading[0]
    held = {
        pair: weights
        for pair in traded.pairs
        if pair[0] == model and not (weights := weights_of(traded, pair)).empty
    }
    if not held:
        return html + "<p>No positions lie in the folder.</p>"
    html += (
        '<p class="note">Weights after the fill at each close, a share of equity: blue is long, '
        "red short. "
    )
    if any(len(weights.columns) == MOST_SYMBOLS for weights in held.values()):
        html += f"Shown are the {MOST_SYMBOLS} symbols of the largest mean holding. "
    return html + "</p>" + embed(over_time(held), "weights-over-time")


def exposure(traded: Traded) -> go.Figure:
    """Long and short exposure, and turnover, of every portfolio."""
    columns = {
        "long, %": lambda rows: 100 * rows["long"],
        "short, %": lambda rows: -100 * rows["short"],
        "turnover, %": lambda rows: 100 * rows["turnover"].rolling(SMOOTHED).mean(),
    }
    return over_dates(
        traded,
        {
            name: {pair: column(rows) for pair, rows in traded.returns.items()}
            for name, column in columns.items()
        },
        title=f"Exposure and turnover, {escape(traded.part)}",
        heights=(150, 150, 150),
        numbers=(":.1f", ":.1f", ":.2f"),
    )


def weights_of(traded: Traded, pair: Pair) -> pd.DataFrame:
    """Weights of a portfolio, dates × symbols, at evenly spaced dates; empty if none are known."""
    path = traded.run.path / "positions.parquet"
    if not path.is_file() or pair not in traded.returns:
        return pd.DataFrame()
    model, strategy = pair
    wanted = [("part", "==", traded.part), ("model", "==", model), ("strategy", "==", strategy)]
    table = pd.read_parquet(path, columns=["date", "symbol", "weight"], filters=wanted)
    if table.empty:
        return pd.DataFrame()
    dates = traded.returns[pair].index
    places = np.unique(np.linspace(0, len(dates) - 1, min(STEPS, len(dates))).round().astype(int))
    wide = (
        table.astype({"symbol": str})
        .pivot(index="date", columns="symbol", values="weight")
        .reindex(dates)  # a date without a holding has no row
        .fillna(0.0)
    )
    largest = wide.abs().mean().sort_values(ascending=False, kind="stable").index[:MOST_SYMBOLS]
    return wide.iloc[places][sorted(largest)]


def over_time(held: dict[Pair, pd.DataFrame]) -> go.Figure:
    """Weights as colours, a row per symbol; the strategy to be chosen from a list.

    Parameters
    ----------
    held : portfolio -> weights, dates × symbols
    """
    figure = go.Figure()
    for pair, weights in held.items():
        percent = 100 * weights.to_numpy().T
        reach = max(float(np.quantile(np.abs(percent), 0.98)), 0.1)
        figure.add_heatmap(
            x=dates_as_text(weights.index),
            y=[escape(symbol) for symbol in weights.columns],
            z=percent.astype("float32"),
            colorscale=DIVERGING,
            reversescale=True,  # long blue
            zmin=-reach,
            zmax=reach,
            colorbar={"title": {"text": "%"}, "thickness": 12, "outlinewidth": 0},
            hovertemplate=f"%{{y}}, %{{x}}<br>%{{z:.1f}} %<extra>{escape(pair[1])}</extra>",
        )
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    figure.update_xaxes(showgrid=False, type="date", title_text="date")
    most = max(len(weights.columns) for weights in held.values())
    name = title_of(next(iter(held)))
    title = f"Weights of {escape(name)}" if len(held) == 1 else "Weights"
    finish(figure, title=title, height=140 + max(18 * most, 60), above=80)
    if len(held) > 1:
        names = [title_of(pair) for pair in held]
        choices = {name: [other == name for other in names] for name in names}
        add_choice(figure, choices, first=names[0])
    return figure
