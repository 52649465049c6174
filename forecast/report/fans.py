"""Fan charts: prices of a few symbols, and what was forecast of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.evaluation.prediction_table import price_digits
from forecast.report.markup import counted, html_text
from forecast.report.roster import leading, newest_part, some_symbols
from forecast.report.style import (
    INK,
    colour,
    dates_as_text,
    embed,
    finish,
    grid,
    in_words,
    translucent,
)
from forecast.run import Run

FAN_ORIGINS = 6  # panels of a figure where the configuration names no origins
MOST_FANS = 15

BANDS = ((90, "q05", "q95", 0.16), (50, "q25", "q75", 0.34))  # percent, levels, opacity
FAN_COLUMNS = (  # what a fan needs of the Forecasts table
    *("model", "symbol", "origin", "horizon", "delay", "target_date", "price", "actual"),
    *("mean", "q05", "q25", "q50", "q75", "q95"),
)


def forecasts(run: Run) -> str:
    """Fan charts of a few symbols on the newest part that has forecasts.

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
    return f'<p class="note">{html_text(note)}</p>' + "".join(
        embed(figure, f"fan-{position}") for position, figure in enumerate(drawn, start=1)
    )


def _origins(table: pd.DataFrame, chosen: Sequence[Any] | None) -> list[pd.Timestamp]:
    """The origins named, or some spaced evenly, leaving room for a history before the first."""
    if chosen:
        return sorted({pd.Timestamp(str(date)) for date in chosen})
    dates = np.unique(table["origin"])
    places = (np.arange(FAN_ORIGINS) + 0.7) / FAN_ORIGINS * (len(dates) - 1)
    return [pd.Timestamp(dates[place]) for place in np.unique(places.astype(int))]


def fan_chart(table: pd.DataFrame, *, sessions: int = 250) -> go.Figure:
    """The price of one symbol and what the model said of it, over the last sessions.

    A quantile q (percent log return) becomes the price ``price * exp(q / 100)``. Forecasts of
    one session draw a band over all sessions; longer ones draw a few fans, spaced by a multiple
    of the longest horizon so that none overlaps the next, from the close at which the target
    starts to each horizon. Between horizons nothing was forecast: those lines are dashed.
    Without quantiles (point head) only the mean is drawn.

    Parameters
    ----------
    table : DataFrame with `FAN_COLUMNS`
        Forecasts of one symbol by one model on one part; at least one row.
    sessions : int
        Sessions shown, counted back from the newest origin.
    """
    model, symbol = escape(str(table["model"].iloc[0])), escape(str(table["symbol"].iloc[0]))
    longest = int(table["horizon"].max())
    close, starts = _starts(table)
    starts = starts.iloc[-sessions:]
    daily = longest == 1
    if not daily:
        few = -(-sessions // (MOST_FANS * longest))
        starts = starts.dropna().iloc[:: -longest * few]
    rows = _in_prices(table, starts)
    fans = [rows] if daily else [fan for _, fan in rows.groupby("origin")]
    figure = go.Figure()
    draw_fans(figure, fans, close.iloc[-sessions:], model=model, daily=daily)
    horizons = in_words(sorted(table["horizon"].unique()))
    figure.update_xaxes(title_text="session (date)", type="date")
    figure.update_yaxes(title_text="price (currency of the data)")
    title = f"{symbol}: {model} forecasts, {horizons} ahead"
    return finish(figure, title=title, height=420)


def fans_at(table: pd.DataFrame, *, origins: Sequence[pd.Timestamp]) -> go.Figure:
    """One panel per origin: the price before and after it, and the fan stated at it.

    Parameters
    ----------
    table : DataFrame with `FAN_COLUMNS`
        Forecasts of one symbol by one model on one part; at least one row.
    origins : sequence of dates
        Where the symbol has no forecast on a date, its last one before is shown.
    """
    model, symbol = escape(str(table["model"].iloc[0])), escape(str(table["symbol"].iloc[0]))
    longest = int(table["horizon"].max())
    close, starts = _starts(table)
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
    before, after = max(2 * longest, 10), int(table["delay"].iloc[0]) + longest
    for position, place in enumerate(shown):
        draw_fans(
            figure,
            [_in_prices(table, starts.iloc[[place]])],
            close.iloc[max(place - before, 0) : place + after + 1],
            model=model,
            daily=False,
            legend=position == 0,
            row=position // columns + 1,
            col=position % columns + 1,
        )
    figure.update_xaxes(type="date", nticks=4, tickformat="%-d %b")
    horizons = in_words(sorted(table["horizon"].unique()))
    title = f"{symbol}: {model} forecasts, {horizons} ahead"
    return finish(figure, title=title, height=170 + 230 * rows)


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


def draw_fans(
    figure: go.Figure,
    fans: Sequence[pd.DataFrame],
    close: pd.Series,
    *,
    model: str,
    daily: bool,
    legend: bool = True,
    **place: int,
) -> None:
    """Bands, centre, price and outcomes, in one panel.

    Parameters
    ----------
    fans : DataFrames, a row per horizon
        What was stated at one origin each: `origin`, `horizon`, `start` (date of the close that
        the target starts from) and `base` (its price), `target_date`, and as prices `mean`,
        `actual`, `q05`, `q25`, `q50`, `q75`, `q95` (NaN where there is none).
    close : float, indexed by date
        The price; at least one.
    daily : bool
        Each fan is one session long: all of them are drawn as one band.
    place : row and column of the panel.
    """
    fans = [fan for fan in fans if len(fan)]  # none at an origin too near to the data's end
    digits = price_digits(close.iloc[-1])
    centre = "q50" if any(fan["q50"].notna().any() for fan in fans) else "mean"
    for percent, lower, upper, opacity in BANDS if centre == "q50" else ():
        x, y = _outlines(fans, lower, upper, from_start=not daily)
        figure.add_scatter(
            x=x,
            y=y,
            fill="toself",
            mode="lines",
            line_width=0,
            fillcolor=translucent(colour(model), opacity),
            name=f"{percent} % interval",
            legendgroup=str(percent),
            showlegend=legend,
            hoverinfo="skip",
            **place,
        )
    x, y, hover = _centre_lines(fans, centre, from_start=not daily, digits=digits)
    label = "median" if centre == "q50" else "mean"
    figure.add_scatter(
        x=x,
        y=y,
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        mode="lines" if daily else "lines+markers",
        line={"color": colour(model), "width": 1.2, "dash": "solid" if daily else "dash"},
        marker={"size": 5},
        name=label if daily else f"{label} (dashed: interpolated{_between(fans)})",
        legendgroup=label,
        showlegend=legend,
        **place,
    )
    figure.add_scatter(
        x=dates_as_text(close.index),
        y=close.to_numpy(float),
        mode="lines",
        line={"color": INK, "width": 1.4},
        name="price",
        legendgroup="price",
        showlegend=legend,
        hovertemplate=f"%{{x|%Y-%m-%d}}<br>price %{{y:,.{digits}f}}<extra></extra>",
        **place,
    )
    known = [] if daily else [fan.dropna(subset=["actual"]) for fan in fans]
    if any(map(len, known)):
        figure.add_scatter(
            x=dates_as_text(date for fan in known for date in fan["target_date"]),
            y=[float(price) for fan in known for price in fan["actual"]],
            mode="markers",
            marker={"color": INK, "size": 5, "symbol": "circle-open"},
            name="outcome, with dividends",
            legendgroup="outcome",
            showlegend=legend,
            hovertemplate=f"%{{x|%Y-%m-%d}}<br>outcome %{{y:,.{digits}f}}<extra></extra>",
            **place,
        )


def _between(fans: Iterable[pd.DataFrame]) -> str:
    """Where the fans are interpolated, in words."""
    horizons = sorted({int(horizon) for fan in fans for horizon in fan["horizon"]})
    if not horizons:
        return ""
    return f" {'up to' if len(horizons) == 1 else 'between'} {in_words(horizons)}"


def _outlines(
    fans: Iterable[pd.DataFrame], lower: str, upper: str, *, from_start: bool
) -> tuple[list[str | None], list[float | None]]:
    """One closed polygon per fan (there along `upper`, back along `lower`), None between."""
    x: list[str | None] = []
    y: list[float | None] = []
    for fan in fans:
        dates, top, bottom = dates_as_text(fan["target_date"]), list(fan[upper]), list(fan[lower])
        if from_start:
            dates = [*dates_as_text(fan["start"].iloc[:1]), *dates]
            top, bottom = [fan["base"].iloc[0], *top], [fan["base"].iloc[0], *bottom]
        x += [*dates, *reversed(dates), None]
        y += [*top, *reversed(bottom), None]
    return x, y


def _centre_lines(
    fans: Iterable[pd.DataFrame], centre: str, *, from_start: bool, digits: int
) -> tuple[list[str | None], list[float | None], list[str]]:
    """The middle of each fan and its hover texts, None between fans."""
    x: list[str | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for fan in fans:
        if from_start:
            x += dates_as_text(fan["start"].iloc[:1])
            y.append(fan["base"].iloc[0])
            hover.append("start of the target")
        x += [*dates_as_text(fan["target_date"]), None]
        y += [*fan[centre], None]
        for row, origin, date in zip(
            fan.to_dict("records"),
            dates_as_text(fan["origin"]),
            dates_as_text(fan["target_date"]),
            strict=True,
        ):
            lines = [f"{date}: {in_words([row['horizon']])} ahead, stated on {origin}"]
            lines += [f"{'median' if centre == 'q50' else 'mean'} {row[centre]:,.{digits}f}"]
            for percent, lower, upper, _ in BANDS if centre == "q50" else ():
                ends = f"{row[lower]:,.{digits}f} to {row[upper]:,.{digits}f}"
                lines.append(f"{percent} %: {ends}")
            hover.append("<br>".join(lines))
        hover.append("")
    return x, y, hover
