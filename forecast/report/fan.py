"""How fans are drawn: bands, centre, price and outcomes of what was stated at some origins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import plotly.graph_objects as go

from forecast.evaluation.prediction_table import price_digits
from forecast.report.style import INK, colour, dates_as_text, in_words, translucent

BANDS = ((90, "q05", "q95", 0.16), (50, "q25", "q75", 0.34))  # percent, levels, opacity


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
