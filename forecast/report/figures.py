"""Figures for notebooks: each function takes a table and returns a plotly figure.

    from forecast import load_run
    from forecast.report.figures import dark, fan_chart

    run = load_run("lstm-0123456789")
    fan_chart(run.forecasts(part="test", model="lstm", symbols=["AAPL"]))

A table is what a run gives, cut to what one figure can show: `run.forecasts(...)`,
`pd.read_parquet(run.path / "daily.parquet")` of a backtest, `returns.parquet` of a portfolio,
`run.history()` and the CSV files of an explanation. A table that lacks something, or holds too
much, is refused with the remedy. Every model keeps one colour in all figures; numbers stand in the
hover texts. `dark(figure)` is a figure on a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.config import ForecastError
from forecast.evaluation.calibration import Calibration
from forecast.forecasts import QUANTILES
from forecast.portfolio.performance import calendar_returns
from forecast.report import levels
from forecast.report.breakdown import score_map
from forecast.report.calibration import counted_in
from forecast.report.courses import cumulative
from forecast.report.equity import HEIGHTS, NUMBERS, by_month, growth, log_scale
from forecast.report.fans import fan_chart, fans_at
from forecast.report.gates import gate_map, gates
from forecast.report.learning import learning_curves
from forecast.report.markup import listing
from forecast.report.networks import feature_importance, memory_profile, news_impact, recall
from forecast.report.style import INK, colour, dark, finish, in_words, on_a_grid
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
from forecast.report.traded import GREYS, NONE, Pair, title_of
from forecast.report.volatility import POINTS, volatility

__all__ = [
    "dark",
    "equity",
    "fan_chart",
    "fans_at",
    "feature_importance",
    "gate_map",
    "gates",
    "learning_curves",
    "loss_difference",
    "memory_profile",
    "monthly",
    "news_impact",
    "pit",
    "recall",
    "reliability",
    "score_map",
    "volatility",
]

CALIBRATION_COLUMNS = ("model", "part", "origin", "horizon", "actual", "pit", *QUANTILES)
RETURN_COLUMNS = ("model", "strategy", "date", "simple_return")
UNITS = {  # of the losses in daily.parquet
    **dict.fromkeys(("crps", "crps_exact", "mae", "interval_50", "interval_90"), "%"),
    **dict.fromkeys(("crps_scaled", "crps_exact_scaled", "mae_scaled"), "scaled units"),
    "log_score": "nats",
    **dict.fromkeys(("qlike", "fz0_01", "fz0_05"), "no unit"),
}
MOST_LINES = 10  # portfolios in one figure
BENCHMARKS = GREYS[2]  # their colour, which no model has


def pit(forecasts: pd.DataFrame, *, exact: bool = False) -> go.Figure:
    """PIT histograms: where outcomes fell among the levels that were stated, by model and horizon.

    A calibrated forecast has a density of 1 everywhere, but for luck: the shaded band, which allows
    for symbols that move together and dates that depend on each other, holds 95 bins of 100.

    Parameters
    ----------
    forecasts : DataFrame with `CALIBRATION_COLUMNS`
        One part, 6 models at most, any symbols. Models without quantiles are not drawn.
    exact : bool
        Bins of equal width by the column `pit`, of models with a density, in place of the gaps
        between the stated quantiles.

    Raises
    ------
    ForecastError
        A column is missing, there are several parts or too many models, or no row counts.
    """
    bins = levels.bins_of(_counted(forecasts), exact=exact)
    if bins.empty:
        raise ForecastError("forecasts: pit is null for every model. Choose exact=False.")
    return levels.pit_histograms(bins)


def reliability(forecasts: pd.DataFrame) -> go.Figure:
    """The share of outcomes at or below each quantile, less its level, by horizon and model.

    Parameters
    ----------
    forecasts : DataFrame with `CALIBRATION_COLUMNS`
        One part, 6 models at most, any symbols. Models without quantiles are not drawn.

    Raises
    ------
    ForecastError
        As of `pit`.
    """
    return levels.reliability(levels.levels_of(_counted(forecasts)))


def _counted(forecasts: pd.DataFrame) -> Mapping[str, Mapping[int, Mapping[str, Any]]]:
    """Outcomes among the levels, by model and horizon."""
    need(forecasts, CALIBRATION_COLUMNS, name="forecasts")
    part = the_one(forecasts, "part", name="forecasts")
    models = at_most(forecasts, "model", MOST_MODELS, name="forecasts")
    calibration = Calibration()
    calibration.add(forecasts)
    counted = counted_in(calibration.summary().get(part) or {})
    if not counted:
        raise ForecastError(
            "forecasts: no row has both quantiles and a known actual. Choose models that state a "
            "distribution, on dates that have passed."
        )
    return {model: counted[model] for model in models if model in counted}


def loss_difference(
    daily: pd.DataFrame, *, model: str, against: str, loss: str = "crps"
) -> go.Figure:
    """Summed difference of two models' daily mean losses, a line per horizon.

    A line falls while `model` is better, and a gain that rests on a few days shows as a cliff.

    Parameters
    ----------
    daily : DataFrame with model, horizon, origin and the loss
        Rows of one part of a backtest's `daily.parquet`: means over the symbols of a date.
    model, against : str
    loss : str
        One of `UNITS`.

    Raises
    ------
    ForecastError
        A column or model is missing, there are several parts, the loss is none of `UNITS`, or the
        models have it on no common date.
    """
    if loss not in UNITS:
        raise ForecastError(f"loss={loss!r} is no loss: choose from {listing([*UNITS])}.")
    need(daily, ("model", "horizon", "origin", loss), name="daily")
    part = one_part(daily, name="daily")
    for name in (model, against):
        holds(daily, "model", name, name="daily")
    once(daily, ("model", "horizon", "origin"), name="daily")
    curves: dict[int, pd.Series] = {}
    for horizon in sorted(daily["horizon"].unique()):
        rows = daily[daily["horizon"] == horizon]
        found = cumulative(rows, [model], [against], losses=[loss])
        if len(found):
            curves[int(horizon)] = found.set_index("date")["value"]
    if not curves:
        raise ForecastError(
            f"daily: {model} and {against} have {loss} on no common date. Choose a loss that both "
            "state."
        )
    styles = dashes(dict.fromkeys(curves, colour(model)))
    figure = go.Figure()
    for horizon, line in curves.items():
        ahead = f"{in_words([horizon])} ahead"
        figure.add_scatter(
            **on_a_grid(line, points=POINTS),
            mode="lines",
            connectgaps=True,  # days without a session
            line={"color": colour(model), "width": 1.5, "dash": styles[horizon]},
            name=ahead,
            hovertemplate=f"%{{x|%Y-%m-%d}}<br>{ahead}: %{{y:.3f}}<extra></extra>",
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title_text="origin (date)", type="date")
    figure.update_yaxes(
        title_text=f"summed difference, {UNITS[loss]}",
        **{"zeroline": True, "zerolinecolor": INK, "zerolinewidth": 1},
    )
    title = f"{loss} of {escape(model)} less {escape(against)}, summed{_of(part)}"
    return finish(figure, title=title, height=400)


def equity(returns: pd.DataFrame) -> go.Figure:
    """Compounded equity after costs on a logarithmic scale, drawdowns below.

    Lines have the colour of their model, and its strategies differ in their dashes; benchmarks
    (model `none`) are grey.

    Parameters
    ----------
    returns : DataFrame with `RETURN_COLUMNS`
        Rows of one part of a portfolio's `returns.parquet`, 10 pairs of model and strategy at most.

    Raises
    ------
    ForecastError
        A column is missing, there are several parts, or too many portfolios.
    """
    part, net = _net(returns)
    if len(net) > MOST_LINES:
        raise ForecastError(
            f"returns: {len(net)} pairs of model and strategy, and the figure shows {MOST_LINES} "
            "at most. Choose some models or strategies."
        )
    panels = growth(net)
    hues = {pair: BENCHMARKS if pair[0] == NONE else colour(pair[0]) for pair in net}
    styles = dashes(hues)
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=list(HEIGHTS), vertical_spacing=0.04
    )
    for row, (axis, curves) in enumerate(panels.items(), start=1):
        for pair, curve in curves.items():
            who = escape(title_of(pair))
            figure.add_scatter(
                **on_a_grid(curve, points=POINTS),
                mode="lines",
                connectgaps=True,  # days without a session
                line={"color": hues[pair], "width": 1.5, "dash": styles[pair]},
                name=who,
                legendgroup=who,
                showlegend=row == 1,
                hovertemplate=f"%{{x|%Y-%m-%d}}<br>{who} %{{y{NUMBERS[row - 1]}}}<extra></extra>",
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=axis, row=row, col=1)
    log_scale(figure, panels[next(iter(panels))].values())
    figure.update_xaxes(type="date")
    figure.update_xaxes(title_text="date", row=2, col=1)
    return finish(figure, title=f"Equity after costs{_of(part)}", height=sum(HEIGHTS) + 150)


def monthly(returns: pd.DataFrame) -> go.Figure:
    """Returns after costs of one portfolio by year and month, percent, as colours and numbers.

    Parameters
    ----------
    returns : DataFrame with `RETURN_COLUMNS`
        Rows of one part, model and strategy of a portfolio's `returns.parquet`.

    Raises
    ------
    ForecastError
        A column is missing, or there are several parts, models or strategies.
    """
    _, net = _net(returns)
    for column in ("model", "strategy"):
        the_one(returns, column, name="returns")
    ((pair, series),) = net.items()
    found = calendar_returns(series.to_numpy(), series.index.to_numpy("datetime64[D]"), "M")
    return by_month(found, title=title_of(pair))


def _net(returns: pd.DataFrame) -> tuple[str | None, dict[Pair, pd.Series]]:
    """The part, and daily returns after costs of every portfolio by ascending dates."""
    need(returns, RETURN_COLUMNS, name="returns")
    part = one_part(returns, name="returns")
    once(returns, ("model", "strategy", "date"), name="returns")
    table = returns.astype({"model": str, "strategy": str})
    return part, {
        (str(model), str(strategy)): rows.set_index("date")["simple_return"].sort_index()
        for (model, strategy), rows in table.groupby(["model", "strategy"], sort=False)
    }


def _of(part: str | None) -> str:
    return "" if part is None else f" ({escape(part)})"
