"""Tables of what was traded: how it did, beside the benchmarks, at other costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from forecast.report.markup import NULL, Cell, html_details, html_text, is_null, number
from forecast.report.traded import Pair, Traded, table_of

SURVIVES = 0.95  # a deflated Sharpe ratio from here on is called skill
SMALL = 0.05  # a p value below it is shaded
HEADS = (
    *("Sharpe ratio", "95 % interval", "return, % a year", "volatility, % a year"),
    *("largest drawdown, %", "turnover a year", "costs, % of gain", "break-even, bp"),
)
MEASURES: tuple[tuple[str, str, int, float], ...] = (
    ("total_return", "total return, %", 1, 100),
    ("sortino", "Sortino", 2, 1),
    ("calmar", "Calmar", 2, 1),
    ("skew", "skew", 2, 1),
    ("kurtosis", "kurtosis", 1, 1),
    ("hit_rate", "days up, %", 1, 100),
    ("worst_day", "worst day, %", 1, 100),
    ("gross", "gross, %", 0, 100),
    ("net", "net, %", 0, 100),
    ("beta", "beta", 2, 1),
    ("alpha", "alpha, % a year", 1, 100),
    ("alpha_t", "t", 1, 1),
    ("late", "late orders", 0, 1),
    ("marked", "marked", 0, 1),
)
DATES = ("drawdown_peak", "drawdown_trough", "drawdown_recovery")
NOTE = (
    "After all costs. The Sharpe ratio is that of the returns over cash, arithmetic, for a year; "
    "its interval comes from a stationary block bootstrap and is shaded where it lies above 0. "
    "Intervals of the volatility, which metrics.json has, are too narrow wherever calm and wild "
    "times last. The return is compounded. Turnover is the value bought and sold in a year as a "
    "multiple of equity; costs are trading costs and borrow as a share of what was gained over "
    "cash before them; the break-even is the cost of trading, in basis points of the value traded, "
    "at which nothing is left over cash. \N{EN DASH} there means that no cost is low enough: it "
    "earns less than cash even without costs of trading, or does not trade."
)
LUCK_NOTE = (
    "PSR is one minus the p value of a one-sided test of a true Sharpe ratio of 0 or less, as if "
    "this had been the only strategy ever tried; DSR (deflated) tests against the best that so "
    "many trials find by luck. Neither is the probability of skill. "
)
SHADED = f"DSR is shaded from {SURVIVES} on"
BY_BOTH = ", if that of clusters in the section Luck is as high"
LESS_NOTE = (
    "The Sharpe ratio less that of each benchmark, with the p value of Ledoit and Wolf (2008), "
    "shaded below 5 %. It allows for the number of comparisons in its own column (Holm), with one "
    "benchmark, and not for the number of columns."
)
MORE_NOTE = (
    "Kurtosis is raw (3 for a normal distribution). Gross and net are mean exposures, shares of "
    "equity. Beta and alpha are taken to equal weight, over cash. A late order waited for a "
    "symbol's next price; a marked holding had no price on a date and kept its last one."
)


def performance(traded: Traded) -> str:
    """Results, then luck and differences to the benchmarks, then all other measures."""
    lines = {pair: _line(traded, pair) for pair in traded.pairs}
    html = f'<p class="note">{html_text(NOTE)}</p>' + table_of(traded, HEADS, lines)
    luck = _luck(traded)
    states = luck.get("strategies") or {}
    compared = [
        name
        for _, name in traded.benchmarks
        if any(name in traded.at("differences", pair) for pair in traded.own)
    ]
    if traded.own and (states or compared):
        heads = [*(("PSR", "DSR") if states else ())]
        heads += [f"less {name} (p)" for name in compared]
        rows = {
            pair: [
                *(_deflated((states.get(pair[0]) or {}).get(pair[1]) or {}) if states else ()),
                *(_beside(traded.at("differences", pair).get(name) or {}) for name in compared),
            ]
            for pair in traded.own
        }
        both = "" if is_null(luck.get("clusters")) else BY_BOTH
        note = f"{LUCK_NOTE}{SHADED}{both}. " if states else ""
        note += LESS_NOTE if compared else ""
        html += f'<h3>Luck and benchmarks</h3><p class="note">{html_text(note)}</p>'
        html += table_of(traded, heads, rows)
    return html + _more(traded)


def _line(traded: Traded, pair: Pair) -> list[object]:
    row, intervals = traded.at("performance", pair), traded.at("intervals", pair)
    return [
        number(row.get("sharpe"), 2),
        between(intervals.get("sharpe")),
        number(row.get("annual_return"), 1, 100),
        number(row.get("volatility"), 1, 100),
        number(row.get("max_drawdown"), 1, 100),
        number(row.get("turnover"), 1),
        number(row.get("cost_share"), 0, 100),
        number(row.get("break_even"), 1),
    ]


def between(interval: Sequence[float | None] | None, digits: int = 2) -> Cell:
    """An interval as text, marked where all of it is above zero."""
    low, high = interval or (None, None)
    if low is None or high is None:
        return Cell(NULL)
    return Cell(f"{number(low, digits)} to {number(high, digits)}", best=low > 0)


def _luck(traded: Traded) -> Mapping[str, Any]:
    """The content of luck.json, if it is about this part."""
    luck = traded.run.json("luck.json")
    return luck if luck.get("part", traded.part) == traded.part else {}


def survives(state: Mapping[str, Any]) -> bool:
    """Whether luck does not explain a strategy: by all trials, and by their clusters.

    Each deflation alone errs: all trials count what moves together many times, and few clusters
    forget that their best members were chosen. Where no clusters could be told, trials decide.
    """
    trials, clusters = state.get("dsr"), state.get("dsr_clusters")
    if trials is None or trials < SURVIVES:
        return False
    return clusters is None or clusters >= SURVIVES


def _deflated(row: Mapping[str, Any]) -> list[object]:
    return [number(row.get("psr"), 3), Cell(number(row.get("dsr"), 3), best=survives(row))]


def _beside(tested: Mapping[str, Any]) -> Cell:
    """A difference and its p."""
    if is_null(tested.get("sharpe_difference")):
        return Cell(NULL)
    p = tested.get("p_holm")
    text = f"{number(tested['sharpe_difference'], 2)} ({number(p, 3)})"
    return Cell(text, best=p is not None and p < SMALL)


def _more(traded: Traded) -> str:
    """Every other measure, behind a click."""
    heads = (*(heading for _, heading, *_ in MEASURES), "deepest fall: from, to, until")
    rows = {}
    for pair in traded.pairs:
        row = traded.at("performance", pair)
        rows[pair] = [
            *(number(row.get(key), digits, factor) for key, _, digits, factor in MEASURES),
            ", ".join(str(row.get(date) or NULL) for date in DATES),
        ]
    body = f'<p class="note">{html_text(MORE_NOTE)}</p>' + table_of(traded, heads, rows)
    return html_details("Other measures", body)


def delisting(traded: Traded) -> str:
    """Sharpe ratios where holdings that ended returned nothing instead; empty if none did."""
    found = traded.metrics.get("delisting") or {}
    if not found.get("symbols"):
        return ""
    at_zero = (found.get("sharpe_at_zero") or {}).get(traded.part) or {}
    named = ", ".join(escape(str(symbol)) for symbol in found["symbols"])
    share = number(found.get("return"), 0, 100)
    rows = {
        pair: [
            number(traded.at("performance", pair).get("sharpe"), 2),
            number((at_zero.get(pair[0]) or {}).get(pair[1]), 2),
        ]
        for pair in traded.pairs
    }
    return (
        f"<h3>Delisting</h3><p>Ended before the panel while held: {named}. Such a holding returned "
        f"{share} % on the next date and became cash; beside it, what comes out where it returned "
        f"nothing instead.</p>"
        + table_of(traded, (f"Sharpe ratio at {share} %", "Sharpe ratio at 0 %"), rows)
    )
