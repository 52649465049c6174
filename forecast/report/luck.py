"""How much of what was earned is luck, in the light of everything that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from forecast.report.markup import Cell, counted, html_list, html_text, is_null, number
from forecast.report.performance import SURVIVES
from forecast.report.style import GREY, INK, embed, finish
from forecast.report.traded import Traded, table_of

HEADS = (
    *("Sharpe ratio", "PSR", "best by luck, all trials", "DSR"),
    *("best by luck, clusters", "DSR of clusters"),
)
NOTE = (
    "The probabilistic Sharpe ratio (PSR, Bailey and López de Prado 2012) is the probability that "
    "the true Sharpe ratio is above 0, for the length, skew and raw kurtosis of the returns. Of "
    "many trials without any skill the best still has a high Sharpe ratio; the deflated one (DSR, "
    f"2014) is the probability of being above what that best is expected to be. From {SURVIVES} on "
    "it is shaded. Clusters count trials whose returns move together as one. "
    "Benchmarks were not chosen among trials and have a PSR alone."
)
OVERFIT = (
    "The probability of backtest overfitting (Bailey, Borwein, López de Prado and Zhu 2017) cuts "
    "the dates into blocks, picks the best trial on every half of them, and asks how often it is "
    "below the median on the other half: its logit is then negative. Around one half, choosing "
    "the best of these trials is worth nothing."
)


def luck(traded: Traded) -> str:
    """What was tried, what deflation leaves of each strategy, and overfitting."""
    found = traded.run.json("luck.json")
    if not found:
        return "<p>Trials were not counted: no luck.json lies in the folder.</p>"
    states = found.get("strategies") or {}
    html = html_list(_counts(found))
    if states:
        pairs = [pair for pair in traded.pairs if (states.get(pair[0]) or {}).get(pair[1])]
        rows = {
            pair: _row(states[pair[0]][pair[1]], traded.at("performance", pair)) for pair in pairs
        }
        html += f'<p class="note">{html_text(NOTE)}</p>' + table_of(traded, HEADS, rows)
    return html + _overfitting(found.get("pbo") or {})


def _counts(found: Mapping[str, Any]) -> list[str]:
    """How many trials there were, in sentences."""
    trials, series = found.get("trials") or 0, found.get("series") or 0
    lines = [
        f"{counted(trials, 'trial')} on the {found.get('part')} part of these data: distinct "
        "configurations of a model with a strategy on the ledger, seeds and costs aside. What was "
        "tried elsewhere or before, nobody counts."
    ]
    if series < trials:
        lines.append(f"The returns of {number(series, 0)} of them are still there.")
    clusters = counted(found.get("clusters") or 0, "cluster")
    lines.append(f"By the correlation of their returns they form {clusters}.")
    return lines


def _row(state: Mapping[str, Any], measured: Mapping[str, Any]) -> list[object]:
    cells: list[object] = [number(measured.get("sharpe"), 2), number(state.get("psr"), 3)]
    for maximum, deflated in (
        ("expected_maximum", "dsr"),
        ("expected_maximum_clusters", "dsr_clusters"),
    ):
        p = state.get(deflated)
        cells.append(number(state.get(maximum), 2))
        cells.append(Cell(number(p, 3), best=p is not None and p >= SURVIVES))
    return cells


def _overfitting(found: Mapping[str, Any]) -> str:
    html = f'<h3>Overfitting</h3><p class="note">{html_text(OVERFIT)}</p>'
    if is_null(found.get("value")):
        reason = found.get("not_computed") or "nothing to choose from"
        return f"{html}<p>Not computed: {escape(str(reason))}.</p>"
    lines = [
        f"Probability of backtest overfitting {number(found['value'], 0, 100)} %, over "
        f"{counted(found.get('configurations') or 0, 'trial')} and "
        f"{counted(found.get('blocks') or 0, 'block')}."
    ]
    line = found.get("degradation") or {}
    if not is_null(line.get("slope")):
        lines.append(
            "Degradation: of one point more in the Sharpe ratio of the half it was chosen on, the "
            f"best keeps {number(line['slope'], 2)} on the other half."
        )
    if not is_null(line.get("loss")):
        lines.append(f"The best loses money on {number(line['loss'], 0, 100)} % of other halves.")
    html += html_list(lines)
    return html + (embed(logits(found["logits"]), "rank-logits") if found.get("logits") else "")


def logits(pairs: Sequence[Sequence[float]]) -> go.Figure:
    """How often the chosen trial had which logit of its rank on the other half.

    Parameters
    ----------
    pairs : a logit and the number of splits that have it.
    """
    values, splits = (
        np.array(column, dtype=float) for column in zip(*sorted(map(tuple, pairs)), strict=True)
    )
    # A bar per rank, which lie closer to each other in the middle, each up to its neighbours.
    middle = (values[1:] + values[:-1]) / 2
    ends = [values[0] - 0.5, values[-1] + 0.5]
    if len(middle):
        ends = [2 * values[0] - middle[0], 2 * values[-1] - middle[-1]]
    edges = np.array([ends[0], *middle, ends[1]])
    figure = go.Figure()
    figure.add_bar(
        x=(edges[1:] + edges[:-1]) / 2,
        y=100 * splits / splits.sum(),
        width=np.diff(edges),
        marker={
            "color": [GREY if value <= 0 else "#0072B2" for value in values],
            "line": {"color": "white", "width": 1},
        },
        customdata=values,
        hovertemplate="logit %{customdata:.2f}<br>%{y:.1f} % of the splits<extra></extra>",
        showlegend=False,
    )
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_yaxes(title_text="splits, %")
    figure.update_xaxes(title_text="logit of the rank on the other half (negative: below median)")
    return finish(figure, title="The best of one half on the other", height=320, above=50)
