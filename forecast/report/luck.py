"""How much of what was earned is luck, in the light of everything that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from forecast.report.markup import Cell, counted, html_list, html_text, is_null, number
from forecast.report.performance import SURVIVES, survives
from forecast.report.style import GREY, INK, embed, finish
from forecast.report.traded import Traded, table_of

HEADS = ("Sharpe ratio", "PSR", "best by luck, all trials", "DSR")
CLUSTER_HEADS = ("best by luck, clusters", "DSR of clusters")
NOTE = (
    "The probabilistic Sharpe ratio (PSR, Bailey and López de Prado 2012) is one minus the p value "
    "of a one-sided test of a true Sharpe ratio of 0 or less, for the length, skew and raw "
    "kurtosis of the returns; it is not the probability of skill. Of many trials without any skill "
    "the best still has a high Sharpe ratio; the deflated one (DSR, 2014) tests against what that "
    "best is expected to be. Benchmarks were not chosen among trials and have a PSR alone. "
)
SHADED = f"A DSR of {SURVIVES} or more is shaded."
CLUSTERED = (
    "Clusters count trials whose returns move together as one; where they are few, up to 7.5 % of "
    f"the best without skill reach {SURVIVES} by theirs, which therefore does not count alone: "
    f"shaded is who has {SURVIVES} or more in both."
)
UNDEFLATED = "not computed (fewer than two trials have returns of 60 sessions)"
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
        grouped = not is_null(found.get("clusters"))
        rows = {
            pair: _row(states[pair[0]][pair[1]], traded.at("performance", pair), grouped)
            for pair in pairs
        }
        note = html_text(NOTE + (CLUSTERED if grouped else SHADED))
        heads = (*HEADS, *(CLUSTER_HEADS if grouped else ()))
        html += f'<p class="note">{note}</p>' + table_of(traded, heads, rows)
    return html + _overfitting(found.get("pbo") or {})


def _counts(found: Mapping[str, Any]) -> list[str]:
    """How many trials there were, in sentences."""
    trials, series = found.get("trials") or 0, found.get("series") or 0
    lines = [
        f"{counted(trials, 'trial')} on the {found.get('part')} part of these data: distinct "
        "configurations of a model with a strategy on the ledger, seeds and costs aside. What was "
        "tried without this ledger, nobody counts."
    ]
    lines += [text] if (text := elsewhere(found)) else []
    if series < trials:
        lines.append(f"The returns of {number(series, 0)} of them are still there.")
    if deflated(found):
        if not is_null(found.get("clusters")):
            clusters = counted(found["clusters"], "cluster")
            lines.append(f"By the correlation of their returns they form {clusters}.")
    elif trials:
        lines.append(f"The deflated Sharpe ratio is {UNDEFLATED}.")
    return lines


def elsewhere(found: Mapping[str, Any]) -> str:
    """What luck.json says of trials on other data that count for nothing here; empty if none."""
    more = found.get("elsewhere") or 0
    stand = "stands" if more == 1 else "stand"
    return (
        f"{counted(more, 'more trial')} on other cuts of data {stand} on this ledger; a changed "
        "start, symbol list or a refresh makes another cut."
        if more
        else ""
    )


def deflated(found: Mapping[str, Any]) -> bool:
    """Whether luck.json has the deflated Sharpe ratio of any strategy."""
    states = (found.get("strategies") or {}).values()
    return any(not is_null(state.get("dsr")) for by_name in states for state in by_name.values())


def _row(state: Mapping[str, Any], measured: Mapping[str, Any], grouped: bool) -> list[object]:
    cells: list[object] = [number(measured.get("sharpe"), 2), number(state.get("psr"), 3)]
    for kind in ("", "_clusters") if grouped else ("",):
        cells.append(number(state.get(f"expected_maximum{kind}"), 2))
        cells.append(Cell(number(state.get(f"dsr{kind}"), 3), best=survives(state)))
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
    if not is_null(found.get("inside")):
        lines.append(
            "The best of a half has a mean Sharpe ratio, for a year, of "
            f"{number(found['inside'], 2)} on it and of {number(found.get('outside'), 2)} on the "
            f"other half; on {number(found.get('loss'), 0, 100)} % of other halves it earns less "
            "than cash."
        )
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
