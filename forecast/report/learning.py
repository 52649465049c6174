"""Learning curves of a training run."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.report.style import colour, embed, finish, grid
from forecast.report.tables import need
from forecast.run import Run

UNITS = {  # of the loss of heads without a density; the others' is in nats
    "quantile": "scaled units",
    "point": "scaled units",
    "position": "minus the Sharpe ratio, a year",
}


def learning(run: Run) -> str:
    """How to read the losses, and their curves."""
    history = run.history()
    if history.empty:
        return "<p>No epoch was finished.</p>"
    unit = UNITS.get(run.config["head"]["name"], "nats per target")
    figure = learning_curves(history, model=run.config["model"]["cell"], unit=unit)
    return (
        '<p class="note">The validation loss is taken in one pass over each symbol\'s whole '
        "history, without dropout, and decides when to stop and which epoch to keep; the training "
        "loss is taken with dropout, over windows and other years: only its course compares.</p>"
    ) + embed(figure, "learning-curves")


def learning_curves(history: pd.DataFrame, *, model: str, unit: str) -> go.Figure:
    """Training and validation loss by epoch, one panel per member, the best epoch marked.

    Parameters
    ----------
    history : DataFrame with member, epoch, train_loss, validation_loss
    model : str
        The network; gives the validation curve its colour.
    unit : str
        What the loss is measured in, for the axis.

    Raises
    ------
    ForecastError
        A column is missing, or there is no epoch.
    """
    need(history, ("member", "epoch", "train_loss", "validation_loss"), name="history")
    members = list(dict.fromkeys(history["member"]))
    rows, columns = grid(len(members))
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
    return finish(figure, title="Learning curves", height=180 + 220 * rows)


def _best_marker(model: str) -> dict[str, object]:
    return {"color": colour(model), "size": 11, "symbol": "star"}
