"""How differences between models built up over the years, and whether they came and went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.report.markup import html_text, number
from forecast.report.roster import baselines, benchmark, networks, newest_part
from forecast.report.style import (
    INK,
    add_choice,
    colour,
    dates_as_text,
    embed,
    finish,
    in_words,
    on_a_grid,
)
from forecast.run import Run

LOSSES = {"crps": "crps, %", "log_score": "log score, nats", "qlike": "QLIKE"}
POINTS = 500  # of a line: about one in seven sessions of 13 years
NOTE = (
    "A network's loss less a baseline's, from daily.parquet, the baseline to be chosen at the top "
    "right of each figure. The sums run over the origins: a line falls while the network is "
    "better, and a gain that rests on a few days shows as a cliff."
)


def over_time(run: Run) -> str:
    """Cumulative loss differences and fluctuation statistics of the newest part that has dates."""
    path, asked = run.path / "daily.parquet", networks(run)
    part = newest_part(run.metrics)
    if part is None or not path.is_file():
        return "<p>No losses by date lie in the folder.</p>"
    wanted = ["part", "model", "horizon", "origin", *LOSSES]
    daily = pd.read_parquet(path, columns=wanted, filters=[("part", "==", part)])
    others = baselines(daily["model"].astype(str).unique(), asked)
    asked = [model for model in asked if (daily["model"] == model).any()]
    if not asked or not others:
        return "<p>No network stands beside a baseline here: there is no difference to follow.</p>"
    first = benchmark(run, others) or others[0]
    fluctuations = _fluctuations(run, part, asked, others)
    critical = (run.metrics.get("fluctuation") or {}).get("critical_05")
    html = f'<p class="note">{html_text(NOTE)}</p>' + (
        _how_to_read(run) if len(fluctuations) else ""
    )
    for horizon in sorted(daily["horizon"].unique()):
        title = f"{part}, {in_words([horizon])} ahead"
        curves = cumulative(daily[daily["horizon"] == horizon], asked, others)
        if len(curves):
            figure = against_each(
                curves, first=first, title=f"Summed loss difference: {title}", unit=LOSSES
            )
            html += embed(figure, f"summed-{horizon}")
        curves = fluctuations[fluctuations["horizon"] == horizon]
        if len(curves):
            unit = {loss: f"{name.split(',')[0]}: statistic" for loss, name in LOSSES.items()}
            figure = against_each(
                curves,
                first=first,
                title=f"Fluctuation: {title}",
                unit=unit,
                x_title="middle of the window (date)",
                critical=critical,
            )
            html += embed(figure, f"fluctuation-{horizon}")
    return html


def _how_to_read(run: Run) -> str:
    tested = run.metrics.get("fluctuation") or {}
    return (
        '<p class="note">The fluctuation statistic (Giacomini and Rossi 2010) is the same '
        f"difference over a moving window of {number(tested.get('window'), 0, 100)} % of the "
        "dates, standardised, at the window's middle. Where it leaves the dashed lines the two "
        "models were not equally good throughout (5 %): below, the network was better.</p>"
    )


def _fluctuations(run: Run, part: str, asked: Sequence[str], others: Sequence[str]) -> pd.DataFrame:
    """Rows loss, model, against, date, value; none where nothing was tested."""
    path = run.path / "fluctuation.parquet"
    columns = ["horizon", "loss", "model", "against", "date", "statistic"]
    table = (
        pd.read_parquet(path, columns=columns, filters=[("part", "==", part)])
        if path.is_file()
        else pd.DataFrame(columns=columns)
    )
    kept = (
        table["loss"].isin(list(LOSSES))
        & table["model"].isin(list(asked))
        & table["against"].isin(list(others))
    )
    return table[kept].rename(columns={"statistic": "value"}).dropna(subset=["value"])


def cumulative(
    daily: pd.DataFrame,
    asked: Sequence[str],
    others: Sequence[str],
    *,
    losses: Iterable[str] = tuple(LOSSES),
) -> pd.DataFrame:
    """Running sums of each network's loss less each baseline's, over dates that have both.

    Parameters
    ----------
    daily : DataFrame with model, origin and the losses, of one part and horizon

    Returns
    -------
    DataFrame with loss, model, against, date, value
    """
    keys, dates, sums = [], [], []
    for loss in losses:
        by_date = daily.pivot(index="origin", columns="model", values=loss)
        for model, other in product(asked, others):
            if model in by_date and other in by_date:
                difference = by_date[model].to_numpy() - by_date[other].to_numpy()
                known = ~np.isnan(difference)
                keys.append((loss, model, other))
                dates.append(by_date.index[known])
                sums.append(difference[known].cumsum())
    if not keys:
        return pd.DataFrame()
    lengths = [len(line) for line in sums]
    columns = zip(("loss", "model", "against"), zip(*keys, strict=True), strict=True)
    return pd.DataFrame(
        {
            "date": np.concatenate(dates),
            "value": np.concatenate(sums),
            **{name: pd.Categorical(values).repeat(lengths) for name, values in columns},
        }
    )


def against_each(
    curves: pd.DataFrame,
    *,
    first: str,
    title: str,
    unit: dict[str, str],
    x_title: str = "origin (date)",
    critical: float | None = None,
) -> go.Figure:
    """A panel per loss, a line per network, the baseline to be chosen from a list.

    Parameters
    ----------
    curves : DataFrame with loss, model, against, date (ascending within a line), value
    first : the baseline shown at first, where it has lines.
    unit : loss -> title of its axis
    critical : draws dashed lines at it, on both sides of zero.
    """
    losses = [loss for loss in unit if (curves["loss"] == loss).any()]
    models, others = (list(curves[name].unique()) for name in ("model", "against"))
    figure = make_subplots(
        rows=len(losses), cols=1, shared_xaxes=True, vertical_spacing=0.12 / len(losses)
    )
    traces: list[dict[str, Any]] = []
    rows: list[int] = []
    drawn: list[str | None] = []
    keys = ["loss", "model", "against"]
    for key, line in curves.set_index("date").groupby(keys, sort=False, observed=True)["value"]:
        loss, model, other = map(str, key)
        trace = {
            "type": "scatter",
            **on_a_grid(line, points=POINTS),
            "mode": "lines",
            "connectgaps": True,  # days without a session
            "line": {"color": colour(model), "width": 1.5},
            "name": escape(model),
            "legendgroup": escape(model),
            "legendrank": models.index(model),
            "showlegend": loss == losses[0],
            "hovertemplate": (
                f"%{{x|%Y-%m-%d}}<br>{escape(model)} less {escape(other)} %{{y:.3f}}<extra></extra>"
            ),
        }
        traces.append(trace)
        rows.append(losses.index(loss) + 1)
        drawn.append(other)
    figure.add_traces(traces, rows=rows, cols=1)  # one by one takes longer
    for row, loss in enumerate(losses, start=1):
        figure.update_yaxes(title_text=unit[loss], row=row, col=1)
        for level in () if critical is None else (critical, -critical):
            # Lines and no shapes, so that the axis always has them in sight.
            figure.add_scatter(
                x=dates_as_text([curves["date"].min(), curves["date"].max()]),
                y=[level, level],
                mode="lines",
                line={"color": INK, "width": 1, "dash": "dash"},
                hoverinfo="skip",
                showlegend=False,
                row=row,
                col=1,
            )
            drawn.append(None)  # belongs to every baseline
    figure.update_yaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1)
    figure.update_xaxes(type="date")
    figure.update_xaxes(title_text=x_title, row=len(losses), col=1)
    finish(figure, title=title, height=150 + 170 * len(losses))
    choices = {f"against {other}": [o in (other, None) for o in drawn] for other in others}
    wanted = f"against {first}"
    add_choice(figure, choices, first=wanted if wanted in choices else next(iter(choices)))
    return figure
