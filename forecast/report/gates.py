"""Pictures of what happens inside trained cells, session by session."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.config import ForecastError
from forecast.report.equity import log_scale
from forecast.report.markup import listing
from forecast.report.style import GREY, INK, WHITE, colour, dates_as_text, finish, on_a_grid
from forecast.report.tables import need

MEMORY_GATE = {"lstm": "forget", "gru": "update"}  # tells how much of its state a unit keeps
MOST_DATES = 170  # in a map of gates: a column has four pixels
# The blue half of the diverging scale, so that 0 is the background of a light and a dark page.
SEQUENTIAL = [[0, WHITE], [0.5, "#92C5DE"], [1, "#2166AC"]]


def gates(gates: pd.DataFrame, *, symbol: str | None = None) -> go.Figure:
    """Price, volatility forecast by each model and mean activity of its gates, on the same dates.

    Parameters
    ----------
    gates : DataFrame with model, date, price, volatility and a column per gate
        Of one symbol; volatility in percent, gates between 0 and 1 and null where a cell has none.
    symbol : str, optional
        For the title.
    """
    fixed = ["model", "date", "price", "volatility"]
    need(gates, fixed, name="gates")
    by_model = {
        str(model): rows.set_index(pd.to_datetime(rows["date"])).sort_index()
        for model, rows in gates.groupby("model", sort=False)
    }
    price = next(iter(by_model.values()))["price"]
    stated = {model: (colour(model), rows["volatility"]) for model, rows in by_model.items()}
    panels = {"price (currency<br>of the data)": {"price": (INK, price)}}
    panels["volatility over<br>the horizon, %"] = stated
    for model, rows in by_model.items():
        neutral = iter((INK, GREY))  # what is no memory gate
        lines = {
            f"{model} {gate}": (
                colour(model) if gate == MEMORY_GATE.get(model) else next(neutral, GREY),
                rows[gate],
            )
            for gate in gates.columns.drop(fixed)
            if rows[gate].notna().any()
        }
        if lines:
            panels[f"{escape(model)} gates, mean<br>(0 shut, 1 open)"] = lines
    count = len(panels)
    figure = make_subplots(rows=count, cols=1, shared_xaxes=True, vertical_spacing=0.24 / count)
    for row, (axis, lines) in enumerate(panels.items(), start=1):
        for name, (hue, series) in lines.items():
            figure.add_scatter(
                **on_a_grid(series, points=1000),  # every day of two years
                mode="lines",
                connectgaps=True,  # days without a session
                line={"color": hue, "width": 1.3},
                name=escape(name),
                legend=f"legend{row}",
                showlegend=row > 1,
                hovertemplate=f"%{{x|%Y-%m-%d}}<br>{escape(name)} %{{y:.4g}}<extra></extra>",
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=axis, row=row, col=1)
        (panel,) = figure.select_yaxes(row=row, col=1)
        above = {"x": 0, "y": panel.domain[1], "yanchor": "bottom"}
        figure.update_layout({f"legend{row}": {"orientation": "h", "entrywidth": 0, **above}})
    if price.max() > 3 * price.min() > 0:
        log_scale(figure, [price])
    figure.update_xaxes(type="date")
    figure.update_xaxes(title_text="session (date)", row=count, col=1)
    shown = "price, volatility and gates" if count > 2 else "price and volatility"
    title = shown.capitalize() if symbol is None else f"{escape(symbol)}: {shown}"
    return finish(figure, title=title, height=110 + 170 * count, above=50)


def gate_map(units: pd.DataFrame, model: str, gate: str) -> go.Figure:
    """Activity of one gate, unit by unit; the units that are most open on average are at the top.

    Parameters
    ----------
    units : DataFrame with model, date, gate, layer, unit, activity
    model, gate : lstm has forget, input and output; gru reset and update.
    """
    need(units, ["model", "date", "gate", "layer", "unit", "activity"], name="units")
    rows = units[(units["model"] == model) & (units["gate"] == gate)]
    if rows.empty:
        known = listing([*dict.fromkeys(units["model"] + " " + units["gate"])])
        raise ForecastError(f"units: no gate {gate} of {model}. Choose from {known}.")
    table = rows.pivot(index=["layer", "unit"], columns="date", values="activity")
    table = table.loc[table.mean(axis=1).sort_values().index]
    table = table.iloc[:, :: -(-table.shape[1] // MOST_DATES)]
    layers = rows["layer"].nunique() > 1
    axis = "layer: unit" if layers else "unit"
    figure = go.Figure()
    figure.add_heatmap(
        x=dates_as_text(table.columns),
        y=[f"{layer}: {unit}" if layers else str(unit) for layer, unit in table.index],
        z=table.to_numpy("float32"),
        colorscale=SEQUENTIAL,
        zmin=0,
        zmax=1,
        colorbar={"title": {"text": "activity", "font": {"size": 13}}, "thickness": 14},
        hovertemplate=f"%{{x|%Y-%m-%d}}<br>{axis} %{{y}}: %{{z:.2f}}<extra></extra>",
    )
    figure.update_xaxes(title_text="session (date)", type="date", showgrid=False)
    figure.update_yaxes(title_text=axis, type="category", showgrid=False)
    title = f"{escape(model)}: {escape(gate)} gate, unit by unit (0 shut, 1 open)"
    return finish(figure, title=title, height=150 + 12 * max(len(table), 12), above=50)
