"""Fan charts: prices of a few symbols, and what was forecast of them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.report.fan import draw_fans as draw_fans  # for the page of a prediction too
from forecast.report.markup import counted, html_text
from forecast.report.roster import leading, newest_part, some_symbols
from forecast.report.style import dates_as_text, embed, finish, grid, in_words
from forecast.report.tables import need, once, one_part, the_one
from forecast.report.volatility import volatility_of
from forecast.run import Run

FAN_ORIGINS = 6  # panels of a figure where the configuration names no origins
MOST_FANS = 15

FAN_COLUMNS = (  # what a fan needs of the Forecasts table
    *("model", "symbol", "origin", "horizon", "delay", "target_date", "price", "actual"),
    *("mean", "q05", "q25", "q50", "q75", "q95"),
)


def forecasts(run: Run) -> str:
    """Fan charts of a few symbols on the newest part that has forecasts, and one's volatility.

    A run of one split shows the last sessions; a walk-forward shows chosen origins.
    """
    metrics, config = run.metrics, run.config
    part = newest_part(metrics)
    if part is None:
        return "<p>No part of this run holds forecasts.</p>"
    model = leading(run, part)
    symbols = some_symbols(run, part)
    table = run.forecasts(columns=FAN_COLUMNS, part=part, model=model, symbols=symbols)
    tables = [rows for _, rows in table.groupby("symbol", observed=True)]
    spaced = "The symbols are spaced evenly through the list, not chosen for their looks."
    if table["q05"].notna().any():
        spaced += " A band of 90 % should miss the outcome one time in ten."
    if "backtest" not in config:
        note = f"The last sessions of the {part} part. {spaced}"
        drawn = [fan_chart(rows) for rows in tables]
    else:
        chosen = (config.get("report") or {}).get("origins")
        origins = _origins(table, chosen)
        note = (
            f"What {model} said at {counted(len(origins), 'origin')} of the {part} part, "
            f"{'named by report.origins' if chosen else 'evenly spaced through it'}. {spaced}"
        )
        drawn = [fans_at(rows, origins=origins) for rows in tables]
    html = f'<p class="note">{html_text(note)}</p>' + "".join(
        embed(figure, f"fan-{position}") for position, figure in enumerate(drawn, start=1)
    )
    return html + volatility_of(run, part, symbols[0])


def _origins(table: pd.DataFrame, chosen: Sequence[Any] | None) -> list[pd.Timestamp]:
    """The origins named, or some spaced evenly, leaving room for a history before the first."""
    if chosen:
        return sorted({pd.Timestamp(str(date)) for date in chosen})
    dates = np.unique(table["origin"])
    places = (np.arange(FAN_ORIGINS) + 0.7) / FAN_ORIGINS * (len(dates) - 1)
    return [pd.Timestamp(dates[place]) for place in np.unique(places.astype(int))]


def fan_chart(forecasts: pd.DataFrame, *, sessions: int = 250) -> go.Figure:
    """The price of one symbol and what the model said of it, over the last sessions.

    A quantile q (percent log return) becomes the price ``price * exp(q / 100)``. Forecasts of
    one session draw a band over all sessions; longer ones draw a few fans, spaced by a multiple
    of the longest horizon so that none overlaps the next, from the close at which the target
    starts to each horizon. Between horizons nothing was forecast: those lines are dashed.
    Without quantiles (point head) only the mean is drawn.

    Parameters
    ----------
    forecasts : DataFrame with `FAN_COLUMNS`
        One symbol, one model and one part; at least one row.
    sessions : int
        Sessions shown, counted back from the newest origin.

    Raises
    ------
    ForecastError
        A column is missing, or there are several models, symbols or parts.
    """
    model, symbol = _whose(forecasts)
    longest = int(forecasts["horizon"].max())
    close, starts = _starts(forecasts)
    starts = starts.iloc[-sessions:]
    daily = longest == 1
    if not daily:
        few = -(-sessions // (MOST_FANS * longest))
        starts = starts.dropna().iloc[:: -longest * few]
    rows = _in_prices(forecasts, starts)
    fans = [rows] if daily else [fan for _, fan in rows.groupby("origin")]
    figure = go.Figure()
    draw_fans(figure, fans, close.iloc[-sessions:], model=model, daily=daily)
    horizons = in_words(sorted(forecasts["horizon"].unique()))
    figure.update_xaxes(title_text="session (date)", type="date")
    figure.update_yaxes(title_text="price (currency of the data)")
    title = f"{symbol}: {model} forecasts, {horizons} ahead"
    return finish(figure, title=title, height=420)


def fans_at(forecasts: pd.DataFrame, *, origins: Sequence[Any]) -> go.Figure:
    """One panel per origin: the price before and after it, and the fan stated at it.

    Parameters
    ----------
    forecasts : DataFrame with `FAN_COLUMNS`
        One symbol, one model and one part; at least one row.
    origins : sequence of dates
        Where the symbol has no forecast on a date, its last one before is shown.

    Raises
    ------
    ForecastError
        As of `fan_chart`.
    """
    model, symbol = _whose(forecasts)
    longest = int(forecasts["horizon"].max())
    close, starts = _starts(forecasts)
    places = close.index.searchsorted(pd.to_datetime(list(origins)), side="right") - 1
    shown = list(dict.fromkeys(int(place) for place in places if place >= 0)) or [0]
    rows, columns = grid(len(shown))
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=dates_as_text(close.index[shown]),
        horizontal_spacing=0.07,
        vertical_spacing=0.25 / rows,
        x_title="session (date)",
        y_title="price (currency of the data)",
    )
    before, after = max(2 * longest, 10), int(forecasts["delay"].iloc[0]) + longest
    for position, place in enumerate(shown):
        draw_fans(
            figure,
            [_in_prices(forecasts, starts.iloc[[place]])],
            close.iloc[max(place - before, 0) : place + after + 1],
            model=model,
            daily=False,
            legend=position == 0,
            row=position // columns + 1,
            col=position % columns + 1,
        )
    figure.update_xaxes(type="date", nticks=4, tickformat="%-d %b")
    horizons = in_words(sorted(forecasts["horizon"].unique()))
    title = f"{symbol}: {model} forecasts, {horizons} ahead"
    # A legend may take two lines, and the panels' dates stand below it.
    return finish(figure, title=title, height=195 + 230 * rows, above=115)


def _whose(table: pd.DataFrame) -> tuple[str, str]:
    """The one model and the one symbol of a table that has all that a fan needs, escaped."""
    need(table, FAN_COLUMNS, name="forecasts")
    one_part(table, name="forecasts")
    model, symbol = (the_one(table, column, name="forecasts") for column in ("model", "symbol"))
    once(table, ("origin", "horizon"), name="forecasts")
    return escape(model), escape(symbol)


def _starts(table: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """Prices by origin; and the date and price at which the target of each origin starts."""
    delay = int(table["delay"].iloc[0])
    close = table.drop_duplicates("origin").set_index("origin")["price"].sort_index()
    starts = pd.DataFrame(
        {
            "start": pd.Series(close.index, index=close.index).shift(-delay),
            "base": close.shift(-delay),  # a delayed target starts at a later close
        }
    )
    return close, starts


def _in_prices(table: pd.DataFrame, starts: pd.DataFrame) -> pd.DataFrame:
    """The rows of these origins, with returns as prices."""
    rows = table.merge(starts, left_on="origin", right_index=True)
    rows = rows.dropna(subset=["target_date", "base"]).sort_values(["origin", "horizon"])
    for column in ("mean", "actual", "q05", "q25", "q50", "q75", "q95"):
        rows[column] = rows["base"] * np.exp(rows[column].astype(float) / 100)
    return rows
