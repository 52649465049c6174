"""Strategies of a leaderboard: what was traded, and how much of it is luck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forecast.report.leaderboard_words import rows_of
from forecast.report.luck import OVERFIT, elsewhere, logits
from forecast.report.markup import (
    Cell,
    counted,
    date_range,
    html_list,
    html_table,
    html_text,
    is_null,
    number,
)
from forecast.report.performance import survives
from forecast.report.style import embed

if TYPE_CHECKING:
    from forecast.portfolio.contest import Contest

MOST = 200  # rows of a table
HEADS = ("Sharpe ratio", "return, % a year", "largest drawdown, %", "turnover a year")
MEASURES = {  # digits and factor
    "sharpe": (2, 1.0),
    "annual_return": (1, 100.0),
    "max_drawdown": (1, 100.0),
    "turnover": (1, 1.0),
}
NOTE = (
    "After costs, on the validation part. The Sharpe ratio is that of the returns over cash, for a "
    "year; turnover is the value traded in a year as a multiple of equity. PSR is one minus the p "
    "value of a one-sided test of a true Sharpe ratio of 0 or less, as if this had been the only "
    "strategy ever tried; DSR (deflated) tests against the best that so many trials find by luck, "
    "and that of clusters counts trials whose returns move together as one. These come from p "
    "values and are no probabilities of skill. A DSR is shaded where both are 0.95 or more."
)


def strategies(contest: Contest, place: int) -> str:
    """A table of what was traded, the benchmarks apart, and the odds that it is overfitted."""
    facts, found, table = contest.facts, contest.luck, contest.table
    title = (
        f"{counted(facts['symbols'], 'symbol')} of {facts['source']} (data "
        f"{str(facts['data'])[:10]}), {facts['part']} {date_range(facts['dates'])}"
    )
    counts = (
        f"{counted(found.get('trials') or 0, 'trial')} stand on the ledger: distinct "
        "configurations of a model with a strategy, seeds and costs aside. The returns of "
        f"{found.get('series') or 0:,} are still there"
    )
    if not is_null(found.get("clusters")):
        counts += f", in {counted(found['clusters'], 'cluster')} of returns that move together"
    lines = [f"{counts}.", *filter(None, [elsewhere(found)]), *contest.notes]
    own = table[~table["benchmark"]]
    html = f"<h3>{html_text(title)}</h3>{html_list(lines)}"
    html += f'<p class="note">{html_text(NOTE)}</p>'
    if len(own):
        heads = ("strategy", "model", "run", *HEADS, "PSR", "DSR", "DSR of clusters")
        html += html_table(heads, (_traded(row) for row in rows_of(own.head(MOST))))
        if len(own) > MOST:
            html += f"<p>The first {MOST} of {len(own):,} are shown.</p>"
    else:
        html += "<p>Nothing but benchmarks was traded.</p>"
    benchmarks = rows_of(table[table["benchmark"]].head(MOST))
    if benchmarks:
        rows = ([row["strategy"], row["run"], *_measures(row)] for row in benchmarks)
        html += "<p>Benchmarks, which nobody chose among trials:</p>"
        html += html_table(("strategy", "run", *HEADS, "PSR"), rows)
    return html + _overfitting(found.get("pbo") or {}, place)


def _measures(row: Mapping[Any, Any]) -> list[object]:
    return [
        *(number(row[key], digits, factor) for key, (digits, factor) in MEASURES.items()),
        number(row["psr"], 3),
    ]


def _traded(row: Mapping[Any, Any]) -> list[object]:
    """The cells of a strategy; shaded where luck explains it by neither of its deflations."""
    deflated = {key: None if is_null(row[key]) else row[key] for key in ("dsr", "dsr_clusters")}
    shaded = survives(deflated)
    return [
        *(row["strategy"], row["model"], row["run"]),
        *_measures(row),
        *(Cell(number(value, 3), best=shaded) for value in deflated.values()),
    ]


def _overfitting(found: Mapping[str, Any], place: int) -> str:
    """The probability of backtest overfitting, and the ranks it comes from."""
    if is_null(found.get("value")):
        reason = found.get("not_computed") or "nothing to choose from"
        text = f"The probability of backtest overfitting is not computed: {reason}."
        return f"<p>{html_text(text)}</p>"
    text = (
        f"Probability of backtest overfitting {number(found['value'], 0, 100)} %, over "
        f"{counted(found.get('configurations') or 0, 'trial')} and "
        f"{counted(found.get('blocks') or 0, 'block')}."
    )
    html = f'<p>{text}</p><p class="note">{html_text(OVERFIT)}</p>'
    pairs = found.get("logits")
    return html + (embed(logits(pairs), f"rank-logits-{place}") if pairs else "")
