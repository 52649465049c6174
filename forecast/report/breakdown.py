"""Where forecasts are good: by year, by how volatile a stock was, and by symbol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.config import ForecastError
from forecast.evaluation.scores import pinball, score_rows
from forecast.forecasts import QUANTILES
from forecast.report.markup import html_details, html_models, listing, number
from forecast.report.roster import benchmark, networks, newest_part, ordered
from forecast.report.style import DIVERGING, colour, embed, finish, in_words
from forecast.report.tables import at_most, holds, need, once, one_part
from forecast.run import Run

MOST_SYMBOLS = 30  # columns that can still be read
SCALES = ("low", "middle", "high")
NAMES = {"year": "year of the origin", "scale": "volatility", "symbol": "symbol"}
RATIOS = (  # losses that are never below 0
    *("crps", "crps_exact", "crps_scaled", "crps_exact_scaled", "mae", "mae_scaled"),
    *("interval_50", "interval_90"),
)
MAP_COLUMNS = (  # of the Forecasts table
    *("model", "symbol", "origin", "horizon", "scale", "actual", "realized_variance"),
    *("mean", "std", *QUANTILES, "nll", "crps_exact", "es01", "es05"),
)


def where(run: Run) -> str:
    """crps by year, volatility and symbol beside the benchmark, of the newest part with rows."""
    path, asked = run.path / "breakdown.csv", networks(run)
    part = newest_part(run.metrics)
    if part is None or not path.is_file():
        return "<p>No losses by year and symbol lie in the folder.</p>"
    # A symbol may be called NA.
    table = pd.read_csv(path, dtype={"value": str}, keep_default_na=False, na_values={"crps": [""]})
    table = table[(table["part"] == part) & table["crps"].notna()]
    if table.empty:
        return "<p>No forecast of this part states quantiles.</p>"
    models = ordered(table["model"].unique(), asked)
    other = benchmark(run, models)
    html = ""
    for horizon, rows in table.groupby("horizon"):
        html += f"<h3>{escape(part.capitalize())}, {in_words([int(str(horizon))])} ahead</h3>"
        if other is not None and len(models) > 1:
            crps = {by: _wide(rows, by, models) for by in NAMES if (rows["by"] == by).any()}
            for figure_of in (["year", "scale"], ["symbol"]):
                shown = {by: crps[by] for by in figure_of if by in crps}
                if shown:
                    figure = beside(shown, other)
                    html += embed(figure, f"{figure_of[0]}-{horizon}")
        years = _wide(rows, "year", models)
        heads = ("model", *years.columns)
        cells = {m: [number(value, 3) for value in years.loc[m]] for m in years.index}
        html += html_details(
            "crps by year, %",
            html_models(heads, {"year of the origin": cells}, colour=colour, strong=asked),
        )
    return (_how_to_read(other) if other is not None else "") + html


def _how_to_read(other: str) -> str:
    return (
        '<p class="note">Losses differ more between years and stocks than between models, so the '
        f"figures show each crps beside that of {escape(other)}: blue is better. The volatility of "
        "a forecast is its scale at the origin, in terciles of all forecasts. Colours end where "
        "four fifths of the cells lie.</p>"
    )


def _wide(rows: pd.DataFrame, by: str, models: Sequence[str]) -> pd.DataFrame:
    """crps, models × values; a long list of symbols is thinned evenly."""
    wide = rows[rows["by"] == by].pivot(index="model", columns="value", values="crps")
    columns = sorted(wide.columns, key=SCALES.index) if by == "scale" else sorted(wide.columns)
    if by == "symbol" and len(columns) > MOST_SYMBOLS:
        places = np.linspace(0, len(columns) - 1, MOST_SYMBOLS).round().astype(int)
        columns = [columns[place] for place in places]
    return wide.reindex(index=[m for m in models if m in wide.index], columns=columns)


def beside(crps: dict[str, pd.DataFrame], other: str) -> go.Figure:
    """Percent by which each model's crps lies above another's, as colours and numbers.

    Parameters
    ----------
    crps : what the columns are ("year", ...) -> models × columns
    other : the model that is compared with, in every table's index.
    """
    percent = {by: 100 * (table / table.loc[other] - 1) for by, table in crps.items()}
    reach = _reach(percent.values())
    widths = [max(table.shape[1], 3) for table in percent.values()]
    figure = make_subplots(
        rows=1,
        cols=len(percent),
        column_widths=[width / sum(widths) for width in widths],
        shared_yaxes=True,
        horizontal_spacing=0.02,
    )
    for column, (by, table) in enumerate(percent.items(), start=1):
        figure.add_heatmap(
            **_cells(table, reach),
            customdata=crps[by].to_numpy("float32"),
            hovertemplate=(
                "%{y}, %{x}<br>crps %{customdata:.4f} %<br>"
                f"%{{z:+.2f}} % beside {escape(other)}<extra></extra>"
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=NAMES[by], type="category", col=column)
        if by == "symbol":
            figure.update_xaxes(tickangle=-60, col=column)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    by = " and ".join(NAMES[by].split(" ")[0] for by in percent)
    title = f"crps beside {escape(other)}, %, by {by}"
    return finish(figure, title=title, height=130 + 22 * max(map(len, percent.values())), above=50)


def _reach(tables: Iterable[pd.DataFrame]) -> float:
    """Where colours end: at what four fifths of the cells do not exceed."""
    cells = np.concatenate([table.to_numpy(float).ravel() for table in tables])
    return max(float(np.nanquantile(np.abs(cells), 0.8)), 0.1)


def _cells(percent: pd.DataFrame, reach: float) -> dict[str, Any]:
    """The trace of a table: a number in each cell, blue below 0 and red above."""
    z = percent.to_numpy(float)
    return {
        "x": [escape(str(value)) for value in percent.columns],
        "y": [escape(str(value)) for value in percent.index],
        "z": z.astype("float32"),
        "text": [["" if np.isnan(v) else f"{v:z.1f}" for v in row] for row in z],
        "texttemplate": "%{text}",
        "textfont": {"size": 10},
        "colorscale": DIVERGING,
        "zmin": -reach,
        "zmax": reach,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }


def score_map(
    forecasts: pd.DataFrame,
    *,
    model: str,
    against: str,
    by: tuple[str, str] = ("year", "symbol"),
    loss: str = "crps",
    horizon: int = 1,
) -> go.Figure:
    """Percent by which one model's mean loss lies above another's, in cells of years and symbols.

    Losses are averaged over the forecasts that both models have. Blue is better; colours end where
    four fifths of the cells lie.

    Parameters
    ----------
    forecasts : DataFrame with `MAP_COLUMNS`
        Both models on one part; 30 symbols at most where `by` names them.
    model, against : str
    by : two of year | scale | symbol
        What stands at the side and what below. The scale is that of the origin, in terciles.
    loss : str
        One of `RATIOS`; other losses may be 0 or less, so that there is no percentage of them.
    horizon : int
        Sessions ahead.

    Raises
    ------
    ForecastError
        A column, a model or the horizon is missing, a choice is none of those above, a model does
        not state what the loss needs, or there is more than can be shown.
    """
    need(forecasts, MAP_COLUMNS, name="forecasts")
    one_part(forecasts, name="forecasts")
    if loss not in RATIOS:
        raise ForecastError(f"loss={loss!r} has no percentages: choose from {listing(RATIOS)}.")
    if len(by) != 2 or len({*by} & {*NAMES}) != 2:
        raise ForecastError(f"by={by!r}: name two of {listing([*NAMES])}.")
    for column, value in (("model", model), ("model", against), ("horizon", horizon)):
        holds(forecasts, column, value, name="forecasts")
    shown = forecasts[(forecasts["horizon"] == horizon) & forecasts["actual"].notna()]
    losses = {}
    for name in (model, against):
        rows = shown[shown["model"] == name].astype({"symbol": str})
        once(rows, ("model", "symbol", "origin"), name="forecasts")
        rows = rows.assign(loss=score_rows(rows, pinball(rows))[loss])
        losses[name] = rows.set_index(["symbol", "origin"])[["loss", "scale"]].dropna()
    pairs = losses[model].join(losses[against]["loss"].rename("other"), how="inner")
    if pairs.empty:
        raise ForecastError(
            f"forecasts: no row has {loss} of both {model} and {against}, {in_words([horizon])} "
            "ahead. Choose models that state it, on dates whose actual is known."
        )
    low, high = np.quantile(pairs["scale"], [1 / 3, 2 / 3], method="inverted_cdf")
    pairs = pairs.reset_index()
    pairs["year"] = pairs["origin"].dt.year.astype(str)
    pairs["scale"] = np.array(SCALES)[1 * (pairs["scale"] > low) + (pairs["scale"] > high)]
    if "symbol" in by:
        at_most(pairs, "symbol", MOST_SYMBOLS, name="forecasts")
    cells = pairs.groupby(list(by))[["loss", "other"]].agg(["mean", "size"])
    mine, other, count = (
        _in_order(cells[column].unstack(), by)
        for column in (("loss", "mean"), ("other", "mean"), ("loss", "size"))
    )
    percent = 100 * (mine / other - 1)
    figure = go.Figure()
    figure.add_heatmap(
        **_cells(percent, _reach([percent])),
        customdata=np.stack([mine, other, count], axis=2),
        hovertemplate=(
            f"%{{y}}, %{{x}}<br>{loss}: {escape(model)} %{{customdata[0]:.4f}}, "
            f"{escape(against)} %{{customdata[1]:.4f}}<br>"
            "%{z:+.2f} % over %{customdata[2]:,} forecasts<extra></extra>"
        ),
    )
    down, across = by
    figure.update_xaxes(title_text=NAMES[across], type="category", showgrid=False)
    figure.update_yaxes(
        title_text=NAMES[down], type="category", showgrid=False, autorange="reversed"
    )
    if across == "symbol":
        figure.update_xaxes(tickangle=-60)
    title = (
        f"{loss} of {escape(model)} beside {escape(against)}, {in_words([horizon])} ahead: "
        "difference, %"
    )
    return finish(figure, title=title, height=150 + 22 * len(percent), above=50)


def _in_order(table: pd.DataFrame, by: tuple[str, str]) -> pd.DataFrame:
    """Terciles from low to high; everything else is sorted already."""
    down, across = by
    if down == "scale":
        table = table.reindex([scale for scale in SCALES if scale in table.index])
    if across == "scale":
        table = table[[scale for scale in SCALES if scale in table.columns]]
    return table
