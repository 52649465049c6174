"""Value at risk: how often, and when, returns fell below the low quantiles."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.report.markup import NULL, html_models, is_null, number
from forecast.report.roster import (
    horizons_of,
    leading,
    networks,
    newest_part,
    ordered,
    scores_at,
    some_symbols,
)
from forecast.report.style import GREY, INK, colour, embed, finish, in_words, on_a_grid, translucent
from forecast.run import Run

LEVELS = (("01", "1 %"), ("05", "5 %"))
HEADS = (
    "model",
    *(
        f"{level}: {head}"
        for _, level in LEVELS
        for head in ("below, %", "t", "Kupiec", "indep.", "both", "FZ0")
    ),
)
NOTE = (
    '<p class="note">A share of 1 % and 5 % of the returns should lie below these quantiles. t '
    "asks whether the share over all symbols is right, clustered by date. Then the number of "
    "symbols for which a test refuses, at 5 % after Holm: Kupiec, that the share is right; "
    "Christoffersen, that exceedances do not follow each other; and both at once. Beyond one "
    "session, tests of a symbol use non-overlapping returns. FZ0 is the loss of the quantile and "
    "the expected shortfall together (Fissler and Ziegel 2016), lower is better.</p>"
)


def risk(run: Run) -> str:
    """A table of tests on the newest part, and the exceedances of a few symbols."""
    metrics, asked = run.metrics, networks(run)
    part = newest_part(metrics)
    if part is None:
        return "<p>No outcome is known.</p>"
    found = (metrics.get("risk") or {}).get(part) or {}
    groups = {
        f"horizon {in_words([horizon])}": {
            model: _row(found[model][str(horizon)], scores_at(metrics, part, horizon)[model])
            for model in ordered(found, asked)
            if (found[model] or {}).get(str(horizon))
        }
        for horizon in horizons_of(metrics, part)
    }
    if not any(groups.values()):
        return "<p>No forecast states the quantiles of 1 % and 5 %.</p>"
    return (
        NOTE
        + html_models(HEADS, groups, colour=colour, strong=asked)
        + _exceedances(run, part, horizons_of(metrics, part)[0])
    )


def _row(by_level: Mapping[str, Any], scores: Mapping[str, Any]) -> list[str]:
    cells: list[str] = []
    for level, _ in LEVELS:
        tested = by_level.get(level) or {}
        symbols = len(tested.get("symbols") or ())
        cells += [number(tested.get("rate"), 2, 100), number(tested.get("rate_t"), 1)]
        for name in ("kupiec", "independence", "conditional"):
            refused = tested.get(f"{name}_rejected")
            cells.append(NULL if is_null(refused) else f"{refused}/{symbols}")
        cells.append(number(scores.get(f"fz0_{level}"), 3))
    return cells


def _exceedances(run: Run, part: str, horizon: int) -> str:
    """A figure of a few symbols; nothing where the model shown states no quantiles."""
    model = leading(run, part)
    table = run.forecasts(
        columns=("symbol", "origin", "horizon", "target_date", "actual", "q01", "q05"),
        part=part,
        model=model,
        symbols=some_symbols(run, part),
    )
    table = table[(table["horizon"] == horizon)].dropna(subset=["actual", "q01", "q05"])
    if table.empty:
        return ""
    return (
        f'<p class="note">The returns of a few symbols over {in_words([horizon])} and the two '
        f"quantiles of {escape(model)}; the symbols are spaced evenly through the list. Marks that "
        "come in clusters tell of a forecast that is slow to see risk rise.</p>"
    ) + embed(exceedances(table, model=model), f"exceedances-{horizon}")


def exceedances(table: pd.DataFrame, *, model: str) -> go.Figure:
    """Returns, the quantiles of 1 % and 5 %, and the returns below them; a panel per symbol.

    Parameters
    ----------
    table : DataFrame with symbol, horizon, target_date, actual, q01, q05
        Of one horizon; of a longer one than a session, every h-th row is drawn.
    """
    horizon = int(table["horizon"].iloc[0])
    symbols = list(table["symbol"].astype(str).unique())
    figure = make_subplots(
        rows=len(symbols),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.2 / len(symbols) / 2,
        subplot_titles=[escape(symbol) for symbol in symbols],
        y_title=f"return over {in_words([horizon])}, %",
    )
    hue = colour(model)
    for row, (_, rows) in enumerate(table.groupby("symbol", observed=True, sort=False), start=1):
        rows = rows.sort_values("target_date").iloc[::horizon].set_index("target_date")
        dated = "%{x|%Y-%m-%d}<br>"
        grid = {"points": 1 << 20, "row": row, "col": 1}
        _line(figure, rows["actual"], "return", {"size": 2.5, "color": GREY}, dated, **grid)
        _line(figure, rows["q05"], "5 % quantile", {"color": hue, "width": 0.8}, dated, **grid)
        _line(
            figure,
            rows["q01"],
            "1 % quantile",
            {"color": translucent(hue, 0.5), "width": 0.8},
            dated,
            **grid,
        )
        for name, low, high, symbol in (
            ("below 5 %", "q01", "q05", "circle-open"),
            ("below 1 %", None, "q01", "x"),
        ):
            there = rows["actual"] < rows[high]
            there &= True if low is None else rows["actual"] >= rows[low]
            hit = rows[there]
            figure.add_scatter(
                x=[str(date.date()) for date in hit.index],
                y=hit["actual"].to_numpy("float32"),
                mode="markers",
                marker={"symbol": symbol, "size": 5, "color": INK},
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                hovertemplate=dated + "return %{y:.2f} %<extra>" + name + "</extra>",
                row=row,
                col=1,
            )
    figure.update_xaxes(type="date")
    figure.update_xaxes(title_text="end of the return (date)", row=len(symbols), col=1)
    title = f"Exceedances of the low quantiles of {escape(model)}"
    return finish(figure, title=title, height=150 + 170 * len(symbols))


def _line(
    figure: go.Figure,
    series: pd.Series,
    name: str,
    style: dict[str, object],
    dated: str,
    *,
    points: int,
    row: int,
    col: int,
) -> None:
    """A series as points where its style has a size, as a line where it has a width."""
    dots = "size" in style
    figure.add_scatter(
        **on_a_grid(series, points=points),
        mode="markers" if dots else "lines",
        connectgaps=not dots,
        **{"marker" if dots else "line": style},
        name=name,
        legendgroup=name,
        showlegend=row == 1,
        hovertemplate=dated + name + " %{y:.2f} %<extra></extra>",
        row=row,
        col=col,
    )
