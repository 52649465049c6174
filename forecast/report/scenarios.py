"""Risk of whole portfolios: how often, and when, they lost more than was forecast."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from forecast.report import risk
from forecast.report.markup import Cell, Number, html_models, html_text, is_null, number
from forecast.report.roster import ordered
from forecast.report.style import colour, embed, finish
from forecast.report.traded import Traded

SMALL = 0.05  # a p value below it is marked: this forecast of risk is refused
TESTS = ("kupiec_p", "independence_p", "conditional_p")
HEADS = (
    *("model", "VaR, %", "below, %", "t", "Kupiec", "independence", "both"),
    *("ES, %", "excess, %", "shortfall"),
)
NOTE = (
    "From each model's forecasts of single symbols, joint scenarios are drawn by the order in "
    "which past outcomes fell together (Schaake shuffle). The risk is that of the weights decided "
    "at an origin, held still over the target window: of value-at-risk (VaR) and expected "
    "shortfall (ES) the means are shown. Only origins with a decision count; buy_and_hold, which "
    "decides once, is left out. A share of 1 % and 5 % of the returns should lie below VaR. t "
    "asks whether the share is right; then p values: Kupiec, the same; Christoffersen, that "
    "exceedances do not follow each other, and both at once. The excess is by how much losses "
    "beyond VaR came out worse than ES, as a share of it, counting their size and their number "
    "together, and the p value of shortfall asks about both together. A p below 5 % (*) refuses "
    "the forecast."
)
LOST = (
    " Lost are origins that were left out because a symbol held had no forecast there, or an "
    "outcome that is unknown."
)


def portfolio_risk(traded: Traded) -> str:
    """A table of tests by portfolio, and the exceedances of the first one."""
    found = (traded.metrics.get("risk") or {}).get(traded.part) or {}
    asked = list(traded.metrics.get("networks") or ())
    lost = any(
        tested.get("origins_lost")
        for by_model in found.values()
        for by_level in by_model.values()
        for tested in by_level.values()
    )
    groups = {
        f"portfolio {portfolio}, {name}": {
            model: _row(by_model[model], level, lost) for model in ordered(by_model, asked)
        }
        for portfolio, by_model in found.items()
        if by_model
        for level, name in risk.LEVELS
    }
    if not groups:
        return (
            "<p>No risk of the portfolios was forecast: that needs forecasts with quantiles and a "
            "year of outcomes before.</p>"
        )
    html = f'<p class="note">{html_text(NOTE + (LOST if lost else ""))}</p>'
    heads = (*HEADS, *(("lost",) if lost else ()))
    html += html_models(heads, groups, colour=colour, strong=asked)
    return html + _exceedances(traded, next(iter(found)), found)


def _row(by_level: Mapping[str, Any], level: str, lost: bool) -> list[object]:
    tested = by_level.get(level) or {}
    return [
        number(tested.get("mean_var"), 2, 100),
        number(tested.get("rate"), 2, 100),
        number(tested.get("rate_t"), 1),
        *(_p(tested.get(test)) for test in TESTS),
        number(tested.get("mean_es"), 2, 100),
        number(tested.get("es_excess"), 0, 100),
        _p(tested.get("es_p")),
        *([number(tested.get("origins_lost") or 0, 0)] if lost else ()),
    ]


def _p(p: float | None) -> Cell:
    star = "" if is_null(p) or p is None or p >= SMALL else "*"
    return Cell(Number(number(p, 3) + star, p))


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
