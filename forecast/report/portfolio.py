"""The page of a run that traded: what it earned after costs, and how much of that is luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from forecast.report.backtest import CHOSEN, DEVELOPMENT
from forecast.report.costs import costs
from forecast.report.equity import equity, years
from forecast.report.holdings import holdings
from forecast.report.learning import learning
from forecast.report.luck import UNDEFLATED, deflated, elsewhere, luck
from forecast.report.markup import (
    counted,
    date_range,
    html_list,
    html_text,
    is_null,
    listing,
    number,
)
from forecast.report.performance import SMALL, SURVIVES, delisting, performance, survives
from forecast.report.ranked import ranked
from forecast.report.scenarios import portfolio_risk
from forecast.report.style import in_words
from forecast.report.summary import ALWAYS, careful, opened
from forecast.report.traded import Pair, Traded, title_of, traded_in
from forecast.run import Run

FILLS = {
    "next_open": "filled at the next open",
    "next_close": "filled at the next close",
    "close": "filled at that same close",
}
OPTIMISTIC = (
    "Execution at the close is optimistic: orders are filled at the very prices that they were "
    "decided with, which nobody can do."
)
SELECTED = (
    "Luck: of many strategies the best is the luckiest. Its interval and its PSR do not know of "
    "the others; the deflated Sharpe ratio does, as far as the ledger goes."
)
MOST_NAMES = 6  # that a sentence lists


def sections(run: Run) -> dict[str, str]:
    """The sections of the page but for those on where the run comes from."""
    if not any(run.metrics["performance"].values()):
        return {"Summary": "<p>No part of this run has a portfolio: nothing was traded.</p>"}
    traded = traded_in(run)
    html = {
        "Summary": summary(traded),
        "Performance": performance(traded) + delisting(traded),
        "Equity": equity(traded),
        "Years": years(traded),
        "Costs": costs(traded),
        "Holdings": holdings(traded),
    }
    if "strategy" not in traded.config and (run.path / "history.csv").is_file():
        return {**html, "Learning": learning(run)}
    return {
        **html,
        "Ranking": ranked(traded),
        "Luck": luck(traded),
        "Risk": portfolio_risk(traded),
    }


def summary(traded: Traded) -> str:
    """What was traded and at what cost, what survives costs and deflation, then the cautions."""
    data, parts = traded.run.data, traded.metrics["parts"]
    dates = (data.get("fold") or {}).get(traded.part)
    outcomes = [_first(traded), _above_zero(traded), _deflated(traded), *_compared(traded)]
    outcomes += [*_counted(traded)]
    if traded.metrics.get("optimistic"):
        outcomes.insert(0, OPTIMISTIC)
    cautions = [*(data.get("warnings") or ())]
    if "test" in parts:
        cautions.append(opened(date_range(dates)))
    first, last = dates or ("", "")
    if data.get("source") == "sp500" and first <= DEVELOPMENT[1] and last >= DEVELOPMENT[0]:
        cautions.append(CHOSEN)
    others = [part for part in parts if part != traded.part]
    also = f" metrics.json has as much on {listing(others)}." if others else ""
    return (
        f"<p>{html_text(_asked(traded, date_range(dates)))}</p>"
        f"{html_list([line for line in outcomes if line])}"
        f'<p class="note">This page is about the {escape(traded.part)} part.{also}</p>'
        f"{careful([*cautions, *ALWAYS, SELECTED])}"
    )


def _asked(traded: Traded, dates: str) -> str:
    """Strategies, models, execution and costs."""
    strategies = list(dict.fromkeys(strategy for _, strategy in traded.own))
    models = list(dict.fromkeys(model for model, _ in traded.own))
    metrics, benchmarks = traded.metrics, traded.benchmarks
    if "strategy" not in traded.config:
        what = f"The positions that {listing(models)} states"
    elif not strategies:
        what = "No strategy of its own"
    else:
        horizon, few = metrics.get("horizon"), len(strategies) <= MOST_NAMES
        stated = f"forecasts over {in_words([horizon])}" if horizon else "weights"
        which = listing(strategies) if few else f"{len(strategies)} strategies"
        what = f"{which} on the {stated} of {listing(models)}"
    beside = f", and {counted(len(benchmarks), 'benchmark')}" if benchmarks else ""
    execution = metrics.get("execution") or "next_close"
    symbols = traded.run.data.get("symbols") or ()
    held = f", with {counted(len(symbols), 'symbol')}" if symbols else ""
    return (
        f"{what}{beside}{held}. Weights are decided at the close of a session and "
        f"{FILLS.get(execution, execution)}{_costs(traded.config)}. On the {traded.part} part, "
        f"{dates}:"
    )


def _costs(config: Mapping[str, Any]) -> str:
    """The configured costs in words."""
    found = config.get("costs")
    if not found:
        paid = (config.get("head") or {}).get("cost")
        return "" if is_null(paid) else f", at {number(paid, 1)} basis points of the value traded"
    linear = {
        name.replace("_", "-"): float(found.get(name) or 0.0)
        for name in ("commission", "half_spread", "slippage")
    }
    kinds = [f"{name} {value:g}" for name, value in linear.items() if value]
    text = f", at {sum(linear.values()):g} basis points of the value traded"
    text += f" ({listing(kinds)})" if kinds else ""
    if found.get("impact"):
        text += (
            f" and a square-root impact of {found['impact']:g} with a capital of "
            f"{number(found.get('capital'), 0)}"
        )
    cash = found.get("cash")
    earns = f"the rate {cash}" if isinstance(cash, str) else f"{number(cash, 2)} %"
    return f"{text}; shorts pay {number(found.get('borrow'), 2)} % a year, cash earns {earns}"


def _first(traded: Traded) -> str:
    """The leading portfolio beside equal weight."""
    shown = [traded.leading]
    shown += [pair for pair in traded.benchmarks if pair[1] == "equal_weight" and pair not in shown]
    said = []
    for pair in shown:
        row, interval = traded.at("performance", pair), traded.at("intervals", pair)
        low, high = interval.get("sharpe") or (None, None)
        within = (
            ""
            if is_null(low) or is_null(high)
            else f" (95 % interval {number(low, 2)} to {number(high, 2)})"
        )
        said.append(
            f"{title_of(pair)} has a Sharpe ratio of {number(row.get('sharpe'), 2)}{within} and "
            f"earned {number(row.get('annual_return'), 1, 100)} % a year"
        )
    return f"The first named, whatever the others earned: {'; '.join(said)}."


def _above_zero(traded: Traded) -> str:
    """Whose intervals lie above zero; benchmarks too, since a market that rose lifts all."""
    low = {pair: (traded.at("intervals", pair).get("sharpe") or [None])[0] for pair in traded.pairs}
    known = [pair for pair in traded.own if low[pair] is not None]
    if not known:
        return ""
    above = [pair for pair in known if low[pair] > 0]
    beside = [pair for pair in traded.benchmarks if low[pair] is not None and low[pair] > 0]
    return (
        f"After costs, {len(above)} of {counted(len(known), 'portfolio')} "
        f"{'has' if len(above) == 1 else 'have'} a Sharpe ratio whose 95 % interval lies above 0"
        f"{_names(above)}; of the {len(traded.benchmarks)} benchmarks, which take no forecast, "
        f"{len(beside)}{_names(beside)}."
    )


def _deflated(traded: Traded) -> str:
    """Which strategies survive both deflations, and that the rest may be luck."""
    found = traded.run.json("luck.json")
    if not found or found.get("part") != traded.part:
        return ""
    states = found.get("strategies") or {}
    trials, clusters = counted(found.get("trials") or 0, "trial"), found.get("clusters")
    if not deflated(found):
        text = (
            f"The Sharpe ratio deflated by {trials} is {UNDEFLATED}: what was earned may be luck."
        )
    else:
        left = [
            pair for pair in traded.own if survives((states.get(pair[0]) or {}).get(pair[1]) or {})
        ]
        grouped = "" if clusters is None else f" and by {counted(clusters, 'cluster')} of them"
        text = (
            f"Deflated by {trials}{grouped}, {len(left)} of {len(traded.own)} "
            f"survive{'s' if len(left) == 1 else ''} at {SURVIVES}{_names(left)}."
        )
        if len(left) < len(traded.own):
            text += " What does not survive may be luck."
    return f"{text} {elsewhere(found)}".strip()


def _compared(traded: Traded) -> list[str]:
    """Who differs from each of the two benchmarks that take no forecasts but scale and sign."""
    lines = []
    for benchmark in ("always_long", "sign_12m"):
        better: list[Pair] = []
        worse: list[Pair] = []
        tested = 0
        for pair in traded.own:
            row = traded.at("differences", pair).get(benchmark) or {}
            p, gap = row.get("p_holm"), row.get("sharpe_difference")
            if p is None or gap is None:
                continue
            tested += 1
            if p < SMALL:
                (better if gap > 0 else worse).append(pair)
        if tested:
            lines.append(
                f"Beside {benchmark}, the Sharpe ratio of {len(better)} of {tested} is higher"
                f"{_names(better)} and that of {len(worse)} lower{_names(worse)} by more than "
                f"luck (Ledoit and Wolf, p below 5 % after Holm over these {tested})."
            )
    return lines


def _counted(traded: Traded) -> list[str]:
    """Prices that were missing, and symbols that ended."""
    rows = [traded.at("performance", pair) for pair in traded.pairs]
    marked = max((row.get("marked") or 0 for row in rows), default=0)
    late = max((row.get("late") or 0 for row in rows), default=0)
    lines = []
    if marked or late:
        lines.append(
            f"Missing prices: a portfolio held up to {number(marked, 0)} times a symbol that had "
            f"no session, at its last price, and up to {number(late, 0)} of its orders waited for "
            "a price."
        )
    ended = (traded.metrics.get("delisting") or {}).get("symbols") or ()
    if ended:
        share = number((traded.metrics["delisting"] or {}).get("return"), 0, 100)
        lines.append(f"Ended while held, at a return of {share} %: {listing(list(ended))}.")
    return lines


def _names(pairs: Sequence[Pair]) -> str:
    """ ": a on b, c on d and 3 more"; nothing of none."""
    names = [title_of(pair) for pair in pairs]
    if len(names) > MOST_NAMES:
        names = [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]
    return f" ({listing(names)})" if names else ""
