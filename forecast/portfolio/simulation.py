"""What decided weights earn: holdings, orders, cash and costs, session by session.

Orders are numbers of shares fixed at the close of the decision, so they know nothing of what comes
after it. Prices are on a total-return basis: a "share" reinvests its dividends, and a short pays
them. Amounts are fractions of the equity at the start unless a name says otherwise.

Axes: T dates, S symbols, P (model, strategy) pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from forecast.config import ForecastError, nearest
from forecast.portfolio.book import Book
from forecast.portfolio.costs import DAYS_A_YEAR, Costs, impact_rates
from forecast.portfolio.quotes import Quotes
from forecast.portfolio.schedule import Schedule, schedule

EXECUTIONS = ("next_open", "next_close", "close")
PERCENT = 1e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation:
    """Daily results of every pair over the same dates, at the close and after fills.

    Attributes
    ----------
    dates_T : array of datetime64[D]
        From the first origin of any pair on, itself with return 0 (less the cost of a fill at its
        close).
    pairs : tuple of (model, strategy), (P,)
    symbols : tuple of str, (S,)
    return_PT, gross_return_PT : simple returns; gross ones are before trading costs and borrow.
    cash_return_T : return of cash in the session, what excess returns are over.
    cost_PT, borrow_PT, turnover_PT : trading costs, borrow and value traded, as fractions of the
        equity at the close before.
    long_PT, short_PT : exposures as fractions of equity, both 0 or more.
    equity_PT : starts at 1.
    positions_PTS : fraction of equity, signed; None unless kept.
    traded_PTS : fraction of the equity at the close before, signed; None unless kept.
    marked_P : sessions × symbols that were held without a price and stood at the last one.
    late_P : orders that found no price at their fill and waited.
    delisted : symbols that some pair held when they ended.
    """

    dates_T: np.ndarray
    pairs: tuple[tuple[str, str], ...]
    symbols: tuple[str, ...]
    return_PT: np.ndarray
    gross_return_PT: np.ndarray
    cash_return_T: np.ndarray
    cost_PT: np.ndarray
    borrow_PT: np.ndarray
    turnover_PT: np.ndarray
    long_PT: np.ndarray
    short_PT: np.ndarray
    equity_PT: np.ndarray
    positions_PTS: np.ndarray | None
    traded_PTS: np.ndarray | None
    marked_P: np.ndarray
    late_P: np.ndarray
    delisted: tuple[str, ...]


def simulate(
    quotes: Quotes,
    weights: pd.DataFrame,
    *,
    costs: Costs,
    cash_T: np.ndarray,
    execution: str,
    delisting_return: float | None = None,
    keep: bool = False,
    max_gross: float | None = None,
    until: np.datetime64 | None = None,
) -> Simulation:
    """Trade the weights of any number of pairs side by side.

    A session goes: cash and shorts bear interest since the close before; what was decided at the
    close before is filled, at the open (`next_open`) or the close (`next_close`); everything is
    marked to the close; new weights are turned into orders, which with `close` fill at once. An
    order without a price at its fill waits for the next one, or until a new decision replaces it.
    A symbol that has ended returns `delisting_return` on the next date and becomes cash.

    Parameters
    ----------
    weights : validated Weights table of one part.
    cash_T : percent a year known at the close of each date of the quotes.
    execution : one of `EXECUTIONS`; `close` is optimistic, since it trades at the very price on
        which it decided.
    delisting_return : percent; None: that of `costs`.
    keep : whether positions and trades are kept too, (P, T, S) each.
    max_gross : the most that a pair's absolute weights may add up to; None: anything.
    until : the last date, as far as the data reach; None: when the fill of the last origin has had
        a session to earn in.

    Returns
    -------
    Simulation
        From the first origin of any pair until that date, or the data ends. Until its own first
        origin a pair holds cash; after its last one it goes on to hold what it holds.

    Raises
    ------
    ForecastError
        From `schedule`; an unknown execution; a last date before the first origin; opens, values
        traded or cash rates that are needed and missing; a pair that has lost all its equity.
    """
    if execution not in EXECUTIONS:
        raise ForecastError(f"execution={execution} is unknown{nearest(execution, EXECUTIONS)}")
    plan = schedule(weights, quotes, max_gross)
    end = _end(plan, quotes.dates, execution, until)
    span = slice(plan.first, end + 1)
    dates_T, close_TS = quotes.dates[span], quotes.close_TS[span]
    fill_TS = _opens(quotes, plan)[span] if execution == "next_open" else close_TS
    closed_TS, filled_TS = ~np.isnan(close_TS), ~np.isnan(fill_TS)
    mark_TS = pd.DataFrame(quotes.close_TS).ffill().fillna(1.0).to_numpy()[span]
    fill_TS = np.where(filled_TS, fill_TS, 0.0)
    all_closed_T, all_filled_T = closed_TS.all(axis=1), filled_TS.all(axis=1)
    cash_return_T, borrow_T = _interest(dates_T, np.asarray(cash_T)[span], costs)
    impact_TS = None if costs.impact is None else _impact(quotes, plan, costs)
    # What is known before the fill: at the close before, or at the close that it is.
    known = plan.first - (execution != "close")
    if delisting_return is None:
        delisting_return = costs.delisting_return
    ends: dict[int, list[int]] = {}
    for s in np.flatnonzero(quotes.ended_S).tolist():
        ends.setdefault(int(quotes.last_S[s]) + 1 - plan.first, []).append(s)

    shape = len(dates_T), len(plan.pairs)
    equity_TP, long_TP, short_TP = np.empty(shape), np.empty(shape), np.empty(shape)
    cost_TP, borrow_TP, turnover_TP = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    full = (shape[1], shape[0], len(quotes.symbols))
    positions_PTS, traded_PTS = (np.zeros(full), np.zeros(full)) if keep else (None, None)
    marked_P = np.zeros(shape[1], dtype=np.int64)
    late_P = np.zeros(shape[1], dtype=np.int64)
    delisted: set[str] = set()
    book = Book(shape[1], len(quotes.symbols))
    before_P = book.equity_P
    for t in range(len(dates_T)):
        mark_S = mark_TS[t]
        if t:
            borrow_TP[t] = book.accrue(cash_return_T[t], borrow_T[t])
        for s in ends.get(t, ()):
            if book.retire(s, mark_S[s] * (1 + delisting_return * PERCENT)):
                delisted.add(quotes.symbols[s])
        if not all_closed_T[t]:
            marked_P += np.count_nonzero((book.shares_PS != 0) & ~closed_TS[t], axis=1)
        if execution == "close":
            book.mark(mark_S)
            book.decide(plan.decided(plan.first + t), mark_S)
        if book.waiting:
            if not all_filled_T[t]:
                late_P += book.late(mark_S, filled_TS[t])
            traded_PS = book.fill(fill_TS[t], filled_TS[t])
            value_PS = np.abs(traded_PS)
            turnover_TP[t] = value_PS.sum(axis=1)
            cost_TP[t] = costs.linear * turnover_TP[t]
            if impact_TS is not None:
                cost_TP[t] += (impact_TS[known + t] * value_PS**1.5).sum(axis=1)
            book.cash_P -= cost_TP[t]
            if traded_PTS is not None:
                traded_PTS[:, t] = traded_PS / before_P[:, None]
        value_PS = book.mark(mark_S)
        if not (book.equity_P > 0).all():
            model, strategy = plan.pairs[int((book.equity_P > 0).argmin())]
            raise ForecastError(
                f"{model}/{strategy} has lost all its equity by {dates_T[t]}. Lower "
                "strategy.max_gross, or costs.capital where costs.impact counts."
            )
        if positions_PTS is not None:
            positions_PTS[:, t] = value_PS / book.equity_P[:, None]
        before_P = equity_TP[t] = book.equity_P
        long_TP[t], short_TP[t] = book.long_P, book.short_P
        if execution != "close":
            book.decide(plan.decided(plan.first + t), mark_S)

    before_TP = np.vstack([np.ones(shape[1]), equity_TP[:-1]])
    return Simulation(
        dates_T=dates_T,
        pairs=plan.pairs,
        symbols=quotes.symbols,
        return_PT=(equity_TP / before_TP - 1).T,
        gross_return_PT=((equity_TP + cost_TP + borrow_TP) / before_TP - 1).T,
        cash_return_T=cash_return_T,
        cost_PT=(cost_TP / before_TP).T,
        borrow_PT=(borrow_TP / before_TP).T,
        turnover_PT=(turnover_TP / before_TP).T,
        long_PT=(long_TP / equity_TP).T,
        short_PT=(short_TP / equity_TP).T,
        equity_PT=equity_TP.T,
        positions_PTS=positions_PTS,
        traded_PTS=traded_PTS,
        marked_P=marked_P,
        late_P=late_P,
        delisted=tuple(sorted(delisted)),
    )


def _end(plan: Schedule, dates: np.ndarray, execution: str, until: np.datetime64 | None) -> int:
    """Index of the last date that is simulated."""
    if until is None:
        return min(plan.last + (2 if execution == "next_close" else 1), len(dates) - 1)
    end = int(np.searchsorted(dates, until, side="right")) - 1
    if end < plan.first:
        raise ForecastError(
            f"until={until} lies before the first decision, {dates[plan.first]}. Simulate longer."
        )
    return end


def _opens(quotes: Quotes, plan: Schedule) -> np.ndarray:
    """Opens, of which every weighted symbol has some."""
    remedy = "Set execution=next_close, or map data.columns.open."
    if quotes.open_TS is None:
        raise ForecastError(f"execution=next_open needs opens; the prices have none. {remedy}")
    without_S = np.isnan(quotes.open_TS).all(axis=0) & plan.weighted_TS.any(axis=0)
    if without_S.any():
        symbol = quotes.symbols[int(without_S.argmax())]
        raise ForecastError(f"execution=next_open needs opens; {symbol} has none. {remedy}")
    return quotes.open_TS


def _interest(
    dates_T: np.ndarray, cash_T: np.ndarray, costs: Costs
) -> tuple[np.ndarray, np.ndarray]:
    """What cash earns, and shorts pay, between the dates; each rate as of the date before."""
    if not np.isfinite(cash_T[:-1]).all():
        raise ForecastError(
            f"costs.cash is not known on {dates_T[np.isfinite(cash_T).argmin()]}. Give earlier "
            "rates, or begin to trade later."
        )
    years_T = np.diff(dates_T, prepend=dates_T[0]).astype(np.float64) / DAYS_A_YEAR
    return (
        np.append(0.0, cash_T[:-1]) * PERCENT * years_T,
        np.full(len(dates_T), costs.borrow) * PERCENT * years_T,
    )


def _impact(quotes: Quotes, plan: Schedule, costs: Costs) -> np.ndarray:
    """Cost of trading a value v, over v ** 1.5, where v is a fraction of the equity at the start.

    As of the close of each date of the quotes, (T, S).
    """
    assert costs.impact is not None and costs.capital is not None
    rate_TS = impact_rates(quotes) * costs.impact * math.sqrt(costs.capital)
    unknown = np.argwhere(np.isnan(rate_TS) & plan.weighted_TS)
    if len(unknown):
        t, s = unknown[0]
        raise ForecastError(
            f"costs.impact needs a volume and a return before a trade; {quotes.symbols[s]} has "
            f"none by {quotes.dates[t]}. Take costs=basis_points, or leave the symbol out."
        )
    return np.nan_to_num(rate_TS)  # of what is never traded
