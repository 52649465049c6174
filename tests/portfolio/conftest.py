"""Small quotes and weights, and the simulation as a plain loop over dates and symbols."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike

from forecast.portfolio.costs import Costs
from forecast.portfolio.quotes import Quotes, quotes_of
from forecast.weights import validate_weights

QuotesOf = Callable[..., Quotes]
WeightsOf = Callable[..., pd.DataFrame]
CostsOf = Callable[..., Costs]
Shares = dict[int, float]


def _quotes_of(
    close: Mapping[str, ArrayLike],
    *,
    opening: Mapping[str, ArrayLike] | None = None,
    value: Mapping[str, ArrayLike] | None = None,
    dates: ArrayLike | None = None,
) -> Quotes:
    """Quotes of one array a symbol over weekdays from a Monday on; NaN: no session."""

    def wide(columns: Mapping[str, ArrayLike]) -> np.ndarray:
        return np.column_stack([np.asarray(columns[name], np.float64) for name in close])

    count = len(wide(close))
    weekdays = np.busday_offset("2020-01-06", np.arange(count), roll="forward")
    return Quotes(
        dates=weekdays if dates is None else np.asarray(dates, dtype="datetime64[D]"),
        symbols=tuple(close),
        close_TS=wide(close),
        open_TS=None if opening is None else wide(opening),
        value_TS=None if value is None else wide(value),
    )


def _weights_of(
    quotes: Quotes,
    decisions: Mapping[int, Mapping[str, float]],
    *,
    model: str = "lstm",
    strategy: str = "mine",
    part: str = "test",
) -> pd.DataFrame:
    """Weights decided at some dates, given by their place among those of the quotes."""
    rows = [(quotes.dates[t], s, w) for t, named in decisions.items() for s, w in named.items()]
    table = pd.DataFrame(rows, columns=["origin", "symbol", "weight"])
    return validate_weights(
        table.assign(model=model, strategy=strategy, fold=0, part=part), "weights"
    )


def _random_weights(
    quotes: Quotes, seed: int, *, pairs: int = 2, first: int = 3, gross: float = 1.0
) -> pd.DataFrame:
    """Weights of both signs at some dates, of symbols that are listed and have not ended."""
    rng = np.random.default_rng(seed)
    tables = []
    for p in range(pairs):
        decisions = {}
        begin = first + int(rng.integers(4)) * p
        every = int(rng.integers(1, 5))
        for t in range(begin, len(quotes.dates), every):
            listed = (quotes.first_S <= t) & (t <= quotes.last_S)
            chosen = np.flatnonzero(listed & (rng.random(len(quotes.symbols)) < 0.8))
            size = rng.normal(0, 1, len(chosen))
            size *= gross * rng.random() / max(1e-9, np.abs(size).sum())
            if len(chosen):
                named = zip(chosen.tolist(), size.tolist(), strict=True)
                decisions[t] = {quotes.symbols[s]: w for s, w in named}
        tables.append(_weights_of(quotes, decisions, strategy=f"random {p}"))
    table = pd.concat([t.astype({n: str for n in ("strategy", "symbol")}) for t in tables])
    return validate_weights(table, "weights")


def _costs_of(**changed: Any) -> Costs:
    """No costs but those given, all per unit as in the section `costs`."""
    nothing = Costs(
        commission=0.0,
        half_spread=0.0,
        slippage=0.0,
        impact=None,
        capital=None,
        borrow=0.0,
        cash=0.0,
        delisting_return=-30.0,
        levels=[],
    )
    return replace(nothing, **changed)


def plain_loop(
    quotes: Quotes,
    weights: pd.DataFrame,
    *,
    costs: Costs,
    cash_T: np.ndarray,
    execution: str,
    delisting_return: float | None = None,
) -> SimpleNamespace:
    """What `simulate` gives with keep=True, one pair, date and symbol after the other."""
    place = {day: t for t, day in enumerate(quotes.dates.tolist())}
    columns = range(len(quotes.symbols))
    close = [[None if math.isnan(x) else x for x in row] for row in quotes.close_TS.tolist()]
    fill = close
    if execution == "next_open":
        assert quotes.open_TS is not None
        fill = [[None if math.isnan(x) else x for x in row] for row in quotes.open_TS.tolist()]
    wanted: dict[tuple[str, str], dict[int, Shares]] = {}
    for row in weights.itertuples():
        decisions = wanted.setdefault((str(row.model), str(row.strategy)), {})
        decided = decisions.setdefault(place[row.origin.date()], {})
        decided[quotes.symbols.index(str(row.symbol))] = row.weight
    origins = [t for decisions in wanted.values() for t in decisions]
    first = min(origins)
    end = min(max(origins) + (2 if execution == "next_close" else 1), len(quotes.dates) - 1)
    final = {s: max(t for t in place.values() if close[t][s] is not None) for s in columns}
    delisting = (costs.delisting_return if delisting_return is None else delisting_return) / 100

    def volatility(s: int, t: int) -> float | None:
        """Root mean square of the last 20 returns by t."""
        price = [close[u][s] for u in range(t + 1) if close[u][s] is not None]
        squares = [(b / a - 1) ** 2 for a, b in zip(price[:-1], price[1:], strict=True)][-20:]
        return math.sqrt(sum(squares) / len(squares)) if squares else None

    def volatility_over_root_value(s: int, t: int) -> float:
        own = volatility(s, t)
        if own is None:
            others = [volatility(other, t) for other in columns]
            own = float(np.median([x for x in others if x is not None]))
        values = [quotes.value_TS[u, s] for u in range(t + 1) if close[u][s] is not None][-20:]
        return own / math.sqrt(sum(values) / len(values))

    result: dict[str, list] = {}
    delisted = set()
    marked, late = [], []
    for pair in sorted(wanted):
        shares: Shares = dict.fromkeys(columns, 0.0)
        orders: Shares = {}
        new: set[int] = set()
        price: Shares = {}
        for t in range(first):
            price.update({s: close[t][s] for s in columns if close[t][s] is not None})
        cash, equity, shorts, marks, waits = 1.0, 1.0, 0.0, 0, 0
        series: dict[str, list] = {}
        for t in range(first, end + 1):
            before = equity
            borrow, rate = 0.0, 0.0
            if t > first:
                years = (quotes.dates[t] - quotes.dates[t - 1]).astype(int) / 365
                rate = cash_T[t - 1] / 100 * years
                borrow = shorts * costs.borrow / 100 * years
                cash = cash * (1 + rate) - borrow
            for s in columns:
                if final[s] == t - 1:
                    if shares[s] != 0:
                        delisted.add(quotes.symbols[s])
                    cash += shares[s] * price[s] * (1 + delisting)
                    shares[s] = 0.0
                    orders.pop(s, None)
                if shares[s] != 0 and close[t][s] is None:
                    marks += 1
                if close[t][s] is not None:
                    price[s] = close[t][s]

            decided = wanted[pair].get(t)
            size = _worth(cash, shares, price)
            if execution == "close" and decided is not None:
                orders = _orders(decided, size, shares, price)
                new = set(orders)
            cost, traded = 0.0, dict.fromkeys(columns, 0.0)
            for s in list(orders):
                if fill[t][s] is None:
                    waits += s in new and abs(orders[s]) * price[s] > 1e-12 * size
                    continue
                amount = orders.pop(s)
                shares[s] += amount
                traded[s] = amount * fill[t][s]
                cash -= traded[s]
                paid = abs(traded[s]) * costs.linear
                if costs.impact is not None and traded[s] != 0:
                    known = t if execution == "close" else t - 1
                    share = math.sqrt(abs(traded[s]) * costs.capital)
                    factor = volatility_over_root_value(s, known) * share
                    paid += costs.impact * factor * abs(traded[s])
                cost += paid
            new.clear()
            cash -= cost
            equity = _worth(cash, shares, price)
            if execution != "close" and decided is not None:
                orders = _orders(decided, equity, shares, price)
                new = set(orders)
            shorts = sum(max(0.0, -shares[s] * price[s]) for s in columns if s in price)
            longs = sum(max(0.0, shares[s] * price[s]) for s in columns if s in price)
            for name, value in {
                "return_PT": equity / before - 1,
                "gross_return_PT": (equity + cost + borrow) / before - 1,
                "cash_return_T": rate,
                "cost_PT": cost / before,
                "borrow_PT": borrow / before,
                "turnover_PT": sum(abs(v) for v in traded.values()) / before,
                "long_PT": longs / equity,
                "short_PT": shorts / equity,
                "equity_PT": equity,
                "positions_PTS": [shares[s] * price.get(s, 0.0) / equity for s in columns],
                "traded_PTS": [traded[s] / before for s in columns],
            }.items():
                series.setdefault(name, []).append(value)
        for name, values in series.items():
            result.setdefault(name, []).append(values)
        marked.append(marks)
        late.append(waits)
    cash_return = result.pop("cash_return_T")[0]
    return SimpleNamespace(
        **{name: np.array(values) for name, values in result.items()},
        cash_return_T=np.array(cash_return),
        dates_T=quotes.dates[first : end + 1],
        pairs=tuple(sorted(wanted)),
        marked_P=np.array(marked),
        late_P=np.array(late),
        delisted=tuple(sorted(delisted)),
    )


def _worth(cash: float, shares: Shares, price: Shares) -> float:
    return cash + sum(count * price[s] for s, count in shares.items() if count != 0)


def _orders(decided: Shares, equity: float, shares: Shares, price: Shares) -> Shares:
    return {s: decided.get(s, 0.0) * equity / price[s] - shares[s] for s in price}


@pytest.fixture(scope="session")
def quotes_from() -> QuotesOf:
    return _quotes_of


@pytest.fixture(scope="session")
def weights_of() -> WeightsOf:
    return _weights_of


@pytest.fixture(scope="session")
def random_weights() -> WeightsOf:
    return _random_weights


@pytest.fixture(scope="session")
def costs_of() -> CostsOf:
    return _costs_of


@pytest.fixture(scope="session")
def loop() -> Callable[..., SimpleNamespace]:
    return plain_loop


@pytest.fixture(scope="session")
def random_quotes(random_prices: Callable[..., Any]) -> QuotesOf:
    """Random walks with opens and volumes, missing sessions and opens, halts, early ends."""

    def make(seed: int, **options: Any) -> Quotes:
        quotes = quotes_of(random_prices(seed, bars=True, **options))
        assert quotes.value_TS is not None
        return replace(quotes, value_TS=quotes.value_TS + 1e3)  # no session without a trade

    return make
