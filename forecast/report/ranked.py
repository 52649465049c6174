"""Whether what was forecast to rise more did: outcomes by quantile of the forecast mean."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.special import ndtri

from forecast.evaluation.inference import Test, mean_test
from forecast.forecasts import names, read_forecasts
from forecast.portfolio.strategies import simple_mean
from forecast.report.markup import html_text, number
from forecast.report.style import GREY, INK, add_choice, colour, embed, finish, in_words
from forecast.report.traded import Traded

QUANTILES = 5
NOTE = (
    "At each origin the symbols are put into five groups by the simple return that was forecast, "
    "as the strategies rank them (from mean and spread of the log return), and each group's mean "
    "simple return over the same targets is shown less that of all symbols, with its 95 % interval "
    "over dates; grey is the highest group less the lowest. A model that ranks stocks well climbs "
    "from left to right; what it earns by that must still pay for the trading."
)


def ranked(traded: Traded) -> str:
    """A figure per model of the forecasts that were traded; a sentence where they are gone."""
    source = traded.run.data.get("source_run")
    if not source or (traded.config.get("head") or {}).get("name") == "position":
        return "<p>These are weights that no forecasts stand behind: there is nothing to rank.</p>"
    path = traded.run.path.parent / Path(source).name / "forecasts.parquet"
    if not path.is_file():
        return (
            f"<p>The forecasts that were traded lie in {escape(Path(source).name)}, which is no "
            "longer there.</p>"
        )
    horizon = traded.metrics.get("horizon")
    there = names(path, "model")
    asked = dict.fromkeys(model for model, _ in traded.own if model in there)
    found = {
        model: tests
        for model in asked
        if (tests := by_quantile(_rows(path, traded.part, model, horizon)))
    }
    if not found:
        return "<p>No origin has forecasts of five symbols: there is nothing to rank.</p>"
    return f'<p class="note">{html_text(NOTE)}</p>' + embed(
        bars(found, horizon=horizon, part=traded.part), "returns-by-quantile"
    )


def _rows(path: Path, part: str, model: str, horizon: int | None) -> pd.DataFrame:
    columns = ["origin", "horizon", "mean", "std", "q10", "q90", "actual"]
    table = read_forecasts(path, columns=columns, part=part, model=model)
    if table["std"].isna().all():  # as the strategies read it
        table["std"] = (table["q90"] - table["q10"]) / (2 * ndtri(0.9))
    return table[table["horizon"] == horizon] if horizon is not None else table


def by_quantile(table: pd.DataFrame) -> dict[str, Test]:
    """Mean excess outcome of each fifth of the forecasts, tested over dates.

    Parameters
    ----------
    table : DataFrame with origin, mean, std and actual (percent log returns), of one model and
        horizon; ranked by the expected simple return, as by the strategies

    Returns
    -------
    dict
        "lowest", "2" … "highest", and their "difference"; fractions, simple returns. Empty where
        no origin has five symbols.
    """
    table = table.dropna(subset=["mean", "actual"])
    mean, std = (table[name].to_numpy() / 100 for name in ("mean", "std"))
    table = table.assign(expected=simple_mean(mean, std))
    count = table.groupby("origin", observed=True)["expected"].transform("size").to_numpy()
    table = table[count >= QUANTILES]
    if table.empty:
        return {}
    origin = table["origin"].to_numpy()
    rank = table.groupby("origin", observed=True)["expected"].rank().to_numpy()  # ties share theirs
    outcome = pd.Series(np.expm1(table["actual"].to_numpy() / 100))
    excess = outcome - outcome.groupby(origin).transform("mean")
    # The middle of a rank, so that fifths of any number of symbols are as even as can be.
    group = np.floor((rank - 0.5) / count[count >= QUANTILES] * QUANTILES).astype(int)
    daily = excess.groupby([origin, group]).mean().unstack()
    daily = daily.reindex(columns=range(QUANTILES))
    labels = ["lowest", *map(str, range(2, QUANTILES)), "highest"]
    tests = {label: mean_test(daily[i].to_numpy()) for i, label in enumerate(labels)}
    spread = (daily[QUANTILES - 1] - daily[0]).to_numpy()
    return {**tests, "difference": mean_test(spread)}


def bars(found: dict[str, dict[str, Test]], *, horizon: int | None, part: str) -> go.Figure:
    """A bar per group of forecasts with its interval, the model to be chosen from a list."""
    figure = go.Figure()
    for model, tests in found.items():
        known = {label: test for label, test in tests.items() if test.dates}
        middle = [10_000 * test.mean for test in known.values()]
        high = [10_000 * test.interval()[1] for test in known.values()]
        figure.add_bar(
            x=list(known),
            y=middle,
            error_y={
                "type": "data",
                "array": [h - m for h, m in zip(high, middle, strict=True)],
                **{"color": INK, "thickness": 1.2, "width": 4},
            },
            marker={
                "color": [GREY if label == "difference" else colour(model) for label in known],
            },
            customdata=[number(test.t, 1) for test in known.values()],
            name=escape(model),
            showlegend=False,
            hovertemplate=(
                f"{escape(model)}, %{{x}}<br>%{{y:.2f}} bp, t %{{customdata}}<extra></extra>"
            ),
        )
    over = f" over {in_words([horizon])}" if horizon is not None else ""
    figure.update_yaxes(
        title_text=f"return{over} less that of all, bp",
        zeroline=True,
        zerolinecolor=INK,
        zerolinewidth=1,
    )
    figure.update_xaxes(title_text="fifth of the forecasts", type="category", showgrid=False)
    title = f"Outcome by quantile of the forecast, {escape(part)}"
    if len(found) == 1:
        title += f", {escape(next(iter(found)))}"
    finish(figure, title=title, height=380, above=80)
    if len(found) > 1:
        choices = {model: [other == model for other in found] for model in found}
        add_choice(figure, choices, first=next(iter(found)))
    return figure
