"""How equity grew and fell, and when it was earned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from forecast.portfolio.performance import drawdowns, rolling_sharpe
from forecast.report.markup import html_table, html_text, number
from forecast.report.style import DIVERGING, GREY, embed, finish
from forecast.report.traded import Pair, Traded, over_dates, title_of

WINDOW = 252  # sessions of the rolling Sharpe ratio
EQUITY, DRAWDOWN = "equity, log scale", "drawdown, %"  # titles of the two panels' axes
HEIGHTS, NUMBERS = (320, 170), (":.3f", ":.1f")  # of the panels, pixels; how a hover shows values
NOTE = (
    "Equity after costs on a logarithmic scale, 1 at the first close, and below it the share that "
    "has been lost since its highest value. The benchmarks, grey, read prices alone and pay the "
    "same costs."
)
CHOICE = " At the top right a model is chosen, or a strategy to see it on every model."
ROLLING = (
    f"The Sharpe ratio of the {WINDOW} sessions up to each date. With no skill at all it lies "
    "outside ±2 on one date in twenty."
)
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def equity(traded: Traded) -> str:
    """Equity with drawdowns, and the rolling Sharpe ratio."""
    if not traded.returns:
        return "<p>No daily returns lie in the folder.</p>"
    note = NOTE + (CHOICE if len({model for model, _ in traded.own}) > 1 else "")
    html = f'<p class="note">{html_text(note)}</p>' + embed(grown(traded), "equity-curves")
    if max(map(len, traded.returns.values())) <= WINDOW:
        return html + f"<p>There are too few sessions for one of {WINDOW}.</p>"
    return (
        html
        + f'<p class="note">{html_text(ROLLING)}</p>'
        + embed(rolling(traded), "rolling-sharpe")
    )


def grown(traded: Traded) -> go.Figure:
    """Compounded equity of every portfolio on a log scale, drawdowns below."""
    panels = growth({pair: rows["simple_return"] for pair, rows in traded.returns.items()})
    figure = over_dates(
        traded,
        panels,
        title=f"Equity after costs, {escape(traded.part)}",
        heights=HEIGHTS,
        numbers=NUMBERS,
    )
    log_scale(figure, panels[EQUITY].values())
    return figure


def growth(net: Mapping[Pair, pd.Series]) -> dict[str, dict[Pair, pd.Series]]:
    """Compounded equity, and the share lost since its highest value, of every portfolio.

    Parameters
    ----------
    net : simple returns after costs, fractions, by ascending dates.

    Returns
    -------
    dict
        Title of the axis -> portfolio -> values by date.
    """
    return {
        EQUITY: {pair: (1 + series).cumprod() for pair, series in net.items()},
        DRAWDOWN: {
            pair: pd.Series(100 * drawdowns(series.to_numpy()), index=series.index)
            for pair, series in net.items()
        },
    }


def log_scale(figure: go.Figure, curves: Iterable[pd.Series]) -> None:
    """Make the upper y axis, which shows these curves, logarithmic."""
    ticks = _ticks([float(value) for series in curves for value in series])
    figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks], row=1)


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers for a logarithmic axis, closer to each other where it is short.

    Plotly's own are powers of ten, or digits without their power.
    """
    low, high = min(values), max(values)
    if high / low < 2.5:
        apart = max(high - low, low / 100) / 6
        power = 10.0 ** np.floor(np.log10(apart))
        step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= apart)
        first = int(low // step)
        return [float(f"{step * i:.6g}") for i in range(max(first, 1), int(high // step) + 2)]
    digits = (1, 1.5, 2, 3, 5, 7) if high / low < 20 else (1, 2, 5)
    powers = range(int(np.floor(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    return [digit * 10.0**power for power in powers for digit in digits]


def rolling(traded: Traded) -> go.Figure:
    """The Sharpe ratio of the past year at every date."""
    periods = float(traded.metrics.get("periods") or WINDOW)
    curves = {}
    for pair, rows in traded.returns.items():
        values = rolling_sharpe(
            rows["simple_return"].to_numpy(),
            WINDOW,
            periods=periods,
            cash=rows["cash_return"].to_numpy(),
        )
        curves[pair] = pd.Series(values, index=rows.index).iloc[WINDOW - 1 :]
    figure = over_dates(
        traded,
        {"Sharpe ratio, a year": curves},
        title=f"Sharpe ratio of the past {WINDOW} sessions, {escape(traded.part)}",
        heights=(260,),
        numbers=(":.2f",),
    )
    figure.update_yaxes(zeroline=True, zerolinecolor=GREY, zerolinewidth=1)
    return figure


def years(traded: Traded) -> str:
    """Months of the leading portfolio, and its years beside the benchmarks'."""
    shown = [traded.leading, *(pair for pair in traded.benchmarks if pair != traded.leading)]
    yearly = {pair: traded.at("performance", pair).get("yearly") or {} for pair in shown}
    monthly = traded.at("performance", traded.leading).get("monthly") or {}
    html = (
        f'<p class="note">Returns after costs, compounded, of {escape(title_of(traded.leading))}: '
        "the first strategy on the first network, whatever it earned.</p>"
    )
    if monthly:
        html += embed(by_month(monthly, title=title_of(traded.leading)), "monthly-returns")
    listed = sorted({year for found in yearly.values() for year in found})
    return html + html_table(
        ("year", *(f"{title_of(pair)}, %" for pair in shown)),
        [(year, *(number(yearly[pair].get(year), 1, 100) for pair in shown)) for year in listed],
    )


def by_month(monthly: dict[str, float], *, title: str) -> go.Figure:
    """Returns by year and month as colours and numbers.

    Parameters
    ----------
    monthly : {"2015-03": return}, fractions
    """
    listed = sorted({month[:4] for month in monthly})
    z = np.array(
        [
            [100 * monthly.get(f"{year}-{month:02d}", np.nan) for month in range(1, 13)]
            for year in listed
        ]
    )
    reach = max(float(np.nanquantile(np.abs(z), 0.9)), 0.1)
    figure = go.Figure()
    figure.add_heatmap(
        x=list(MONTHS),
        y=listed,
        z=z.astype("float32"),
        text=[["" if np.isnan(value) else f"{value:z.1f}" for value in row] for row in z],
        texttemplate="%{text}",
        textfont={"size": 11},
        colorscale=DIVERGING,
        reversescale=True,  # gains blue, as everywhere what is better
        zmin=-reach,
        zmax=reach,
        showscale=False,
        xgap=1,
        ygap=1,
        hovertemplate="%{x} %{y}<br>%{z:.2f} %<extra></extra>",
    )
    figure.update_xaxes(side="bottom", showgrid=False, type="category", title_text="month")
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category", title_text="year")
    title = f"Monthly returns of {escape(title)}, %"
    return finish(figure, title=title, height=130 + 24 * len(listed), above=50)
