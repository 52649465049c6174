"""Where forecasts are good: by year, by how volatile a stock was, and by symbol."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.report.markup import html_details, html_models, number
from forecast.report.roster import benchmark, networks, newest_part, ordered
from forecast.report.style import DIVERGING, colour, embed, finish, in_words
from forecast.run import Run

MOST_SYMBOLS = 30  # columns that can still be read
SCALES = ("low", "middle", "high")
NAMES = {"year": "year of the origin", "scale": "volatility", "symbol": "symbol"}


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
    cells = np.concatenate([table.to_numpy(float).ravel() for table in percent.values()])
    reach = max(float(np.nanquantile(np.abs(cells), 0.8)), 0.1)
    widths = [max(table.shape[1], 3) for table in percent.values()]
    figure = make_subplots(
        rows=1,
        cols=len(percent),
        column_widths=[width / sum(widths) for width in widths],
        shared_yaxes=True,
        horizontal_spacing=0.02,
    )
    for column, (by, table) in enumerate(percent.items(), start=1):
        z = table.to_numpy(float)
        figure.add_heatmap(
            x=[escape(str(value)) for value in table.columns],
            y=[escape(str(model)) for model in table.index],
            z=z.astype("float32"),
            customdata=crps[by].to_numpy("float32"),
            text=[["" if np.isnan(v) else f"{v:z.1f}" for v in row] for row in z],
            texttemplate="%{text}",
            textfont={"size": 10},
            colorscale=DIVERGING,
            zmin=-reach,
            zmax=reach,
            showscale=False,
            xgap=1,
            ygap=1,
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
