"""Risk of whole portfolios: how often, and when, they lost more than was forecast."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from forecast.report import risk
from forecast.report.markup import Cell, html_models, html_text, is_null, number
from forecast.report.roster import ordered
from forecast.report.style import colour, embed, finish
from forecast.report.traded import Traded

SMALL = 0.05  # a p value below it is marked: this forecast of risk is refused
TESTS = ("kupiec_p", "independence_p", "conditional_p", "es_p")
HEADS = (
    "model",
    *(
        f"{level}: {head}".replace(" %:", "\N{NO-BREAK SPACE}%:")
        for _, level in risk.LEVELS
        for head in ("mean, %", "below, %", "t", "Kupiec", "indep.", "both", "shortfall")
    ),
)
NOTE = (
    "From each model's forecasts of single symbols, joint scenarios are drawn by the order in "
    "which past outcomes fell together (Schaake shuffle); of a portfolio held still over the "
    "target they give the value-at-risk, whose mean is shown, and the expected shortfall. A share "
    "of 1 % and 5 % of its returns should lie below. t asks whether the share is right; then p "
    "values: Kupiec, the same; Christoffersen, that exceedances do not follow each other, and "
    "both at once; and that the returns below are on average the expected shortfall. A p below "
    "5 % (*) refuses the forecast."
)


def portfolio_risk(traded: Traded) -> str:
    """A table of tests by portfolio, and the exceedances of the first one."""
    found = (traded.metrics.get("risk") or {}).get(traded.part) or {}
    asked = list(traded.metrics.get("networks") or ())
    groups = {
        f"portfolio {portfolio}": {
            model: _row(by_model[model]) for model in ordered(by_model, asked)
        }
        for portfolio, by_model in found.items()
        if by_model
    }
    if not groups:
        return (
            "<p>No risk of the portfolios was forecast: that needs forecasts with quantiles and a "
            "year of outcomes before.</p>"
        )
    html = f'<p class="note">{html_text(NOTE)}</p>'
    html += html_models(HEADS, groups, colour=colour, strong=asked)
    return html + _exceedances(traded, next(iter(found)), found)


def _row(by_level: Mapping[str, Any]) -> list[object]:
    cells: list[object] = []
    for level, _ in risk.LEVELS:
        tested = by_level.get(level) or {}
        cells += [number(tested.get("mean_var"), 2, 100), number(tested.get("rate"), 2, 100)]
        cells.append(number(tested.get("rate_t"), 1))
        cells += [_p(tested.get(test)) for test in TESTS]
    return cells


def _p(p: float | None) -> Cell:
    return Cell(number(p, 3) + ("" if is_null(p) or p is None or p >= SMALL else "*"))


def _exceedances(traded: Traded, portfolio: str, found: Mapping[str, Any]) -> str:
    """Returns of a portfolio and the forecasts of its risk by the leading model."""
    path = traded.run.path / "risk.parquet"
    models = ordered(found[portfolio], list(traded.metrics.get("networks") or ()))
    model = traded.leading[0] if traded.leading[0] in models else models[0]
    if not path.is_file():
        return ""
    wanted = [("part", "==", traded.part), ("portfolio", "==", portfolio), ("model", "==", model)]
    table = pd.read_parquet(path, filters=wanted).dropna(subset=["realised", "var01", "var05"])
    if table.empty:
        return ""
    drawn = pd.DataFrame(
        {
            "symbol": portfolio,
            "horizon": traded.metrics.get("horizon") or 1,
            "target_date": table["origin"],
            "actual": 100 * table["realised"],
            "q01": 100 * table["var01"],
            "q05": 100 * table["var05"],
        }
    )
    figure = risk.exceedances(drawn, model=model)
    figure.update_xaxes(title_text="origin (date)")
    title = f"Value-at-risk of {escape(portfolio)} by {escape(model)}, {escape(traded.part)}"
    return embed(finish(figure, title=title, height=370, above=130), "value-at-risk")
