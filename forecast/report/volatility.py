"""How far returns were said to move, and how far they moved."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from forecast.config import ForecastError
from forecast.forecasts import read_forecasts
from forecast.report.markup import html_text
from forecast.report.roster import benchmark, horizons_of, leading, scores_at
from forecast.report.style import INK, colour, embed, finish, in_words, on_a_grid
from forecast.report.tables import (
    MOST_MODELS,
    at_most,
    dashes,
    holds,
    need,
    once,
    one_part,
    the_one,
)
from forecast.run import Run

VOLATILITY_COLUMNS = (  # of the Forecasts table
    *("model", "symbol", "origin", "horizon", "target_date", "std", "realized_variance"),
)
POINTS = 1000  # of a line: every day of three years, of longer ones one in a few


def volatility_of(run: Run, part: str, symbol: str) -> str:
    """How to read it, and the volatility of one symbol by the leading model and the benchmark.

    Nothing where neither states a standard deviation.
    """
    horizon = horizons_of(run.metrics, part)[0]
    wanted = [leading(run, part), benchmark(run, scores_at(run.metrics, part, horizon))]
    table = read_forecasts(
        run.path / "forecasts.parquet",
        columns=VOLATILITY_COLUMNS,
        part=part,
        model=[model for model in wanted if model is not None],
        symbols=[symbol],
    )
    if table.loc[table["horizon"] == horizon, "std"].isna().all():
        return ""
    note = (
        f"Lines are the standard deviation stated of the return over {in_words([horizon])}, not "
        "annualised; points are what came, the root of the sum of squared daily returns."
    )
    if horizon == 1:
        note += (
            " That is the size of a single return, so points scatter widely about even a perfect "
            "line, about two in three of them below it."
        )
    return f'<p class="note">{html_text(note)}</p>' + embed(
        volatility(table, horizon=horizon), "volatility"
    )


def volatility(forecasts: pd.DataFrame, *, horizon: int = 1) -> go.Figure:
    """Stated standard deviations of one symbol over time, beside the root of what came.

    Each stands at the last session of its target; what has no such date yet is not drawn. Models
    that state no standard deviation (point heads, recalibrated copies) have no line.

    Parameters
    ----------
    forecasts : DataFrame with `VOLATILITY_COLUMNS`
        One symbol, one part and 6 models at most.
    horizon : int
        Sessions of the return whose deviation is shown, percent over all of them.

    Raises
    ------
    ForecastError
        A column or the horizon is missing, there is more than can be shown, or no model states a
        standard deviation.
    """
    need(forecasts, VOLATILITY_COLUMNS, name="forecasts")
    one_part(forecasts, name="forecasts")
    symbol = the_one(forecasts, "symbol", name="forecasts")
    holds(forecasts, "horizon", horizon, name="forecasts")
    rows = forecasts[(forecasts["horizon"] == horizon) & forecasts["target_date"].notna()]
    stated = rows[rows["std"].notna()]
    if stated.empty:
        raise ForecastError(
            f"forecasts: std is null for {symbol} {in_words([horizon])} ahead. Choose models with "
            "a density, and targets whose date is known."
        )
    models = at_most(stated, "model", MOST_MODELS, name="forecasts")
    once(rows, ("model", "target_date"), name="forecasts")
    by_date = rows.astype({"model": str}).pivot(index="target_date", columns="model", values="std")
    came = rows.groupby("target_date")["realized_variance"].first() ** 0.5
    figure = go.Figure()
    if came.notna().any():
        figure.add_scatter(
            **on_a_grid(came, points=POINTS),  # its dates are those of the lines
            mode="markers",
            marker={"color": INK, "size": 4, "opacity": 0.4},
            cliponaxis=False,  # days without a move stand on the axis
            name="actual: root of the realised variance",
            hovertemplate="%{x|%Y-%m-%d}<br>actual %{y:.2f} %<extra></extra>",
        )
    styles = dashes({model: colour(model) for model in models})
    for model in models:
        figure.add_scatter(
            **on_a_grid(by_date[model], points=POINTS),
            mode="lines",
            connectgaps=True,  # days without a session
            line={"color": colour(model), "width": 1.5, "dash": styles[model]},
            name=escape(model),
            hovertemplate=(
                f"%{{x|%Y-%m-%d}}<br>{escape(model)} %{{y:.2f}} %<br>"
                f"over {in_words([horizon])}<extra></extra>"
            ),
        )
    figure.update_xaxes(title_text="last session of the target (date)", type="date")
    figure.update_yaxes(
        title_text=f"standard deviation over {in_words([horizon])}, %", rangemode="tozero"
    )
    title = f"{escape(symbol)}: volatility over {in_words([horizon])}, stated and actual"
    return finish(figure, title=title, height=400)
