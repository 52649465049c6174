"""Walking through the origins: nothing later counts, tranches drift, tables are whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.forecasts import ForecastWriter
from forecast.portfolio.decisions import (
    Limits,
    decide,
    decide_all,
    decide_benchmarks,
    still_traded,
)
from forecast.portfolio.quotes import Quotes, quotes_of
from forecast.portfolio.strategies import BENCHMARKS, Outlook
from forecast.prices.frame import Prices
from forecast.schema import LEVELS, QUANTILES

QuotesOf = Callable[..., Quotes]
RULES: dict[str, dict[str, Any]] = {
    "ranked": {"rule": "long_short", "share": 0.3, "by": "ratio"},
    "best": {"rule": "top_k", "k": 2, "turnover": 0.3},
    "signs": {"rule": "sign", "volatility": 20.0},
    "calm": {"rule": "inverse_volatility"},
}


def limits_of(**changed: Any) -> Limits:
    given: dict[str, Any] = {
        "models": None,
        "horizon": None,
        "rebalance": 1,
        "max_position": None,
        "max_gross": None,
        "max_net": None,
        "stale": 3,
        "rules": RULES,
    }
    return Limits(**given | changed)


def forecasts_of(
    quotes: Quotes,
    seed: int,
    *,
    models: tuple[str, ...] = ("lstm",),
    horizons: tuple[int, ...] = (1, 5),
    first: int = 21,
    part: str = "test",
) -> pd.DataFrame:
    """A Forecasts table of random statements at most sessions of every symbol."""
    rng = np.random.default_rng(seed)
    tables = []
    for model in models:
        for s, symbol in enumerate(quotes.symbols):
            rows = np.flatnonzero(~np.isnan(quotes.close_TS[:, s]))
            rows = rows[(rows >= first) & (rng.random(len(rows)) < 0.95)]
            for horizon in horizons:
                mean = rng.normal(0.02, 1, len(rows)).astype(np.float32)
                std = rng.uniform(0.5, 3, len(rows)).astype(np.float32)
                stated = {"mean": mean, "std": std, "scale": rng.uniform(0.5, 3, len(rows))}
                for level, name in zip(LEVELS, QUANTILES, strict=True):
                    stated[name] = mean + np.float32(math.log(level / (1 - level))) * std
                table = pd.DataFrame(stated).assign(
                    model=model,
                    symbol=symbol,
                    horizon=horizon,
                    origin=quotes.dates[rows].astype("datetime64[s]"),
                    fold=rows // 30,
                )
                tables.append(table)
    missing = dict.fromkeys(("target_date", "actual", "realized_variance"), None)
    whole = pd.concat(tables, ignore_index=True)
    return whole.assign(part=part, delay=1, price=1.0, **missing)


def wide(weights: pd.DataFrame, quotes: Quotes) -> pd.DataFrame:
    """Origins with rows × all symbols."""
    named = weights.astype({"symbol": str})
    table = named.pivot(index="origin", columns="symbol", values="weight")
    return table.reindex(columns=list(quotes.symbols)).fillna(0.0)


def decided(
    table: pd.DataFrame, quotes: Quotes, label: str, limits: Limits, **options: Any
) -> pd.DataFrame:
    entry = {key: value for key, value in RULES[label].items() if key != "rule"} | options
    weights = decide(
        table,
        quotes,
        model="lstm",
        strategy=label,
        rule=RULES[label]["rule"],
        options=entry,
        settings=limits,
        part="test",
    )
    return wide(weights, quotes)


@pytest.mark.parametrize("label", [*RULES, "none"])
@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 1000),
    share=st.floats(0.4, 0.95),
    rebalance=st.sampled_from([1, 3]),
    capped=st.booleans(),
)
def test_nothing_later_changes_a_bit(
    random_prices: Callable[..., Prices],
    cut: Callable[[Prices, np.datetime64], Prices],
    label: str,
    seed: int,
    share: float,
    rebalance: int,
    capped: bool,
) -> None:
    """Forecasts and prices cut at a date, halts and late listings included."""
    prices = random_prices(seed, symbols=6, sessions=80)
    quotes = quotes_of(prices)
    table = forecasts_of(quotes, seed)
    caps = {"max_position": 0.4, "max_gross": 0.8, "max_net": 0.2} if capped else {}
    limits = limits_of(rebalance=rebalance, **caps)
    day = table["origin"].sort_values().iloc[int(share * len(table))]
    earlier = table[(table["origin"] <= day).to_numpy()]
    before = quotes_of(cut(prices, day.to_numpy()))
    for rule in ("always_long", "equal_weight") if label == "none" else (label,):
        if label == "none":
            options = dict(BENCHMARKS[rule][1])
            shared: dict[str, Any] = {
                "model": "none", "strategy": rule, "rule": rule, "options": options,
                "settings": limits, "part": "test",
            }  # fmt: skip
            whole = wide(decide(table, quotes, **shared), quotes)
            known = wide(decide(earlier, before, **shared), quotes)
        else:
            whole = decided(table, quotes, rule, limits)
            known = decided(earlier, before, rule, limits).reindex(columns=whole.columns)
        upto = whole[whole.index <= day]
        assert len(upto) and upto.index.equals(known.index)
        np.testing.assert_array_equal(upto.to_numpy(), known.fillna(0.0).to_numpy())


def by_loop(
    quotes: Quotes,
    targets: Mapping[int, Mapping[str, float]],
    *,
    rebalance: int,
    turnover: float | None,
) -> dict[int, dict[str, float]]:
    """What is held when these targets come at dates, tranche by tranche and symbol by symbol."""
    price = pd.DataFrame(quotes.close_TS, columns=list(quotes.symbols)).ffill()

    def moved(book: dict[str, float], a: int, b: int) -> dict[str, float]:
        growth = {s: price[s].iat[b] / price[s].iat[a] for s in book}
        return {s: v * (1.0 if math.isnan(growth[s]) else growth[s]) for s, v in book.items()}

    zero = dict.fromkeys(quotes.symbols, 0.0)
    tranches = [{"cash": 1 / rebalance, "book": dict(zero)} for _ in range(rebalance)]
    held, result, last = dict(zero), {}, None
    for o, (t, target) in enumerate(targets.items()):
        if last is not None:
            for tranche in tranches:
                tranche["book"] = moved(tranche["book"], last, t)
            cash = 1 - sum(held.values())
            held = moved(held, last, t)
            worth = cash + sum(held.values())
            held = {s: v / worth for s, v in held.items()}
        last = t
        for j, tranche in enumerate(tranches):
            if o == 0 or o % rebalance == j:
                worth = tranche["cash"] + sum(tranche["book"].values())
                tranche["book"] = {s: worth * target[s] for s in zero}
                tranche["cash"] = worth - sum(tranche["book"].values())
        whole = sum(x["cash"] + sum(x["book"].values()) for x in tranches)
        want = {s: sum(x["book"][s] for x in tranches) / whole for s in zero}
        change = sum(abs(want[s] - held[s]) for s in zero)
        step = 1.0 if turnover is None else min(1.0, turnover / change) if change else 1.0
        held = {s: held[s] + step * (want[s] - held[s]) for s in zero}
        result[t] = held
    return result


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rebalance=st.integers(1, 4),
    turnover=st.none() | st.floats(0.05, 0.6),
    every=st.integers(1, 3),
)
def test_tranches_drift_and_turnover_is_limited_as_in_a_plain_loop(
    random_prices: Callable[..., Prices],
    seed: int,
    rebalance: int,
    turnover: float | None,
    every: int,
) -> None:
    quotes = quotes_of(random_prices(seed, symbols=4, sessions=60, halts=0, staggered=False))
    table = forecasts_of(quotes, seed, horizons=(1,))
    place = np.searchsorted(quotes.dates, table["origin"].to_numpy().astype("datetime64[D]"))
    table = table[place % every == 0]
    limits = limits_of(stale=60)  # so that nothing is gone in between
    label = "signs"
    targets = decided(table, quotes, label, limits)
    found = decided(table, quotes, label, replace(limits, rebalance=rebalance), turnover=turnover)
    dates = np.searchsorted(quotes.dates, targets.index.to_numpy().astype("datetime64[D]"))
    wanted = by_loop(
        quotes,
        {int(t): dict(row) for t, (_, row) in zip(dates, targets.iterrows(), strict=True)},
        rebalance=rebalance,
        turnover=turnover,
    )
    loop = pd.DataFrame(wanted).T[list(quotes.symbols)]
    np.testing.assert_allclose(found.to_numpy(), loop.to_numpy(), atol=1e-12)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), rebalance=st.integers(1, 4))
def test_what_is_stated_is_within_the_caps_though_books_drift(
    random_prices: Callable[..., Prices], seed: int, rebalance: int
) -> None:
    quotes = quotes_of(random_prices(seed, symbols=5))
    caps = {"max_position": 0.2, "max_gross": 0.5, "max_net": 0.1}
    limits = limits_of(rebalance=rebalance, **caps)
    for label in RULES:
        weights = decided(forecasts_of(quotes, seed), quotes, label, limits).to_numpy()
        assert np.abs(weights).max() <= 0.2 + 1e-12
        assert np.abs(weights).sum(axis=1).max() <= 0.5 + 1e-12
        assert np.abs(weights.sum(axis=1)).max() <= 0.1 + 1e-12


def test_rules_see_the_past_alone_and_what_they_hold(random_prices: Callable[..., Prices]) -> None:
    quotes = quotes_of(random_prices(3, symbols=3, staggered=False, halts=0, missing=0.0))
    table = forecasts_of(quotes, 0)
    calls: list[tuple[Outlook, np.ndarray, np.ndarray]] = []

    def rule(forecasts: Outlook, past_returns: np.ndarray) -> np.ndarray:
        weights = np.random.default_rng(len(calls)).normal(0, 0.3, 3)
        calls.append((forecasts, past_returns, weights))
        return weights

    decide(
        table, quotes, model="lstm", strategy="x", rule=rule, options={}, settings=limits_of(),
        part="test",
    )  # fmt: skip
    for call, (forecasts, past, _) in enumerate(calls):
        rows = int(np.searchsorted(quotes.dates, forecasts.origin)) + 1
        np.testing.assert_array_equal(past, quotes.returns_TS[:rows])
        assert not past.flags.writeable
        if call:
            before, _, weights = calls[call - 1]
            since = int(np.searchsorted(quotes.dates, before.origin)) + 1
            value = weights * np.prod(1 + past[since:], axis=0)
            equity = 1 - weights.sum() + value.sum()
            np.testing.assert_allclose(forecasts.previous_S, value / equity, atol=1e-14)
    assert not calls[0][0].previous_S.any() and len(calls) > 30


@pytest.mark.parametrize("rebalance", [1, 5])
def test_buy_and_hold_is_decided_once(random_prices: Callable[..., Prices], rebalance: int) -> None:
    quotes = quotes_of(random_prices(1, symbols=3, staggered=False))
    table = forecasts_of(quotes, 0)
    weights = decide_benchmarks(table, quotes, limits=limits_of(rebalance=rebalance), part="test")
    held = weights[weights["strategy"] == "buy_and_hold"]
    assert set(held["origin"]) == {weights["origin"].min()}
    others = weights[weights["strategy"] == "equal_weight"]
    assert others["origin"].nunique() == table["origin"].nunique()


def test_a_portfolio_of_cash_has_a_row_of_zero(quotes_from: QuotesOf) -> None:
    quotes = quotes_from({"A": np.linspace(10, 20, 30), "B": np.linspace(5, 6, 30)})
    table = forecasts_of(quotes, 0, horizons=(1,))

    def nothing(forecasts: Outlook, past_returns: np.ndarray) -> np.ndarray:
        return np.full(2, 0.1 * (forecasts.origin < quotes.dates[25]))

    shared: dict[str, Any] = {"model": "lstm", "strategy": "x", "options": {}, "part": "test"}
    weights = decide(table, quotes, rule=nothing, settings=limits_of(), **shared)
    gone = weights[weights["origin"] >= pd.Timestamp(quotes.dates[25])]
    assert gone["weight"].tolist() == [0.0]  # once: what is held already needs no decision
    never = decide(
        table, quotes, rule=lambda *_: np.zeros(2), settings=limits_of(rebalance=3), **shared
    )
    assert never["weight"].tolist() == [0.0]


def test_what_has_ended_is_left_out_where_it_is_traded(quotes_from: QuotesOf) -> None:
    """Its last forecast is valid for some dates more, and no other weight knows that it ended."""
    price = np.linspace(10, 20, 40)
    ended = np.where(np.arange(40) > 30, np.nan, price)
    quotes = quotes_from({"A": price, "B": ended, "C": price[::-1]})
    table = forecasts_of(quotes, 0, horizons=(1,), first=0)
    table = table[(table["origin"] >= pd.Timestamp(quotes.dates[21])).to_numpy()]
    for rebalance in (1, 4):
        limits = limits_of(rules={"calm": RULES["calm"]}, rebalance=rebalance)
        known = decided(table, quotes, "calm", limits)
        weights = decide_all(table, quotes, limits=limits, part="test")
        traded = wide(weights[weights["strategy"] == "calm"], quotes)
        last = pd.Timestamp(quotes.dates[30])
        assert (known["B"][known.index > last] > 0).sum() == 3 and not traded["B"][
            traded.index > last
        ].any()
        pd.testing.assert_frame_equal(known.drop(columns="B"), traded.drop(columns="B"))
        assert traded.loc[traded.index > last].sum(axis=1).iloc[0] < 0.95
        assert traded.sum(axis=1).iloc[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    "weights, told",
    [
        (
            np.zeros(2),
            r"strategy x returns ndarray of shape \(2,\) at 2020-02-04. Return one number",
        ),
        (None, r"strategy x returns NoneType of shape \(\)"),
        (["a", "b", "c"], "strategy x returns list"),
        (np.array([0, np.nan, 0]), "strategy x gives B the weight nan at 2020-02-04"),
        ([0, 0, math.inf], "strategy x gives C the weight inf"),
        ([0, 0, 0.1], "strategy x holds C at 2020-02-04, before its first session"),
    ],
)
def test_weights_that_are_none_are_refused(quotes_from: QuotesOf, weights: Any, told: str) -> None:
    late = np.where(np.arange(40) < 30, np.nan, 5.0)
    quotes = quotes_from({"A": np.full(40, 9.0), "B": np.full(40, 8.0), "C": late})
    table = forecasts_of(quotes, 0, horizons=(1,))
    with pytest.raises(ForecastError, match=told):
        decide(
            table, quotes, model="lstm", strategy="x", rule=lambda *_: weights, options={},
            settings=limits_of(), part="test",
        )  # fmt: skip


def test_all_models_rules_and_benchmarks_stand_in_one_table(
    random_prices: Callable[..., Prices], tmp_path: Path
) -> None:
    quotes = quotes_of(random_prices(2, symbols=4))
    table = forecasts_of(quotes, 0, models=("gru", "lstm"))
    with ForecastWriter(tmp_path / "forecasts.parquet") as writer:
        for _, block in table.groupby(["model", "fold"]):
            writer.write(block.assign(price=1.0, target_date=pd.NaT))
    limits = limits_of(rebalance=2)
    weights = decide_all(tmp_path / "forecasts.parquet", quotes, limits=limits, part="test")
    pairs = set(zip(weights["model"].astype(str), weights["strategy"].astype(str), strict=True))
    assert pairs == {(m, r) for m in ("gru", "lstm") for r in RULES} | {
        ("none", b) for b in BENCHMARKS
    }
    pd.testing.assert_frame_equal(weights, decide_all(table, quotes, limits=limits, part="test"))
    own = weights[(weights["model"] == "lstm") & (weights["strategy"] == "ranked")]
    held = decided(table, quotes, "ranked", limits)
    for t, s in np.argwhere(wide(own, quotes).to_numpy() != held.to_numpy()):
        assert held.index[t].to_numpy().astype("datetime64[D]") > quotes.dates[quotes.last_S[s]]
    some = decide_all(
        table, quotes, limits=replace(limits, models=["gru"], rules={}), part="test", horizon=5
    )
    assert set(some["model"].astype(str)) == {"none"}
    folds = own.merge(table[["symbol", "origin", "fold"]].drop_duplicates(), on="origin")
    assert (folds["fold_x"] == folds["fold_y"]).all()


def test_several_processes_give_the_same_table(random_prices: Callable[..., Prices]) -> None:
    quotes = quotes_of(random_prices(2, symbols=4))
    table = forecasts_of(quotes, 0, models=("gru", "lstm"))
    limits = limits_of(rules={"calm": RULES["calm"]})
    one, two = (decide_all(table, quotes, limits=limits, part="test", jobs=j) for j in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_the_horizon_is_the_shortest_unless_another_is_asked_for(
    random_prices: Callable[..., Prices],
) -> None:
    quotes = quotes_of(random_prices(2, symbols=4))
    table = forecasts_of(quotes, 0)
    shortest = decided(table, quotes, "ranked", limits_of())
    longer = decided(table, quotes, "ranked", limits_of(horizon=5))
    alone = decided(table[table["horizon"] == 5], quotes, "ranked", limits_of())
    pd.testing.assert_frame_equal(longer, alone)
    assert not shortest.equals(longer)
    with pytest.raises(ForecastError, match=r"strategy.horizon=3 is not forecast by lstm: .* 1, 5"):
        decided(table, quotes, "ranked", limits_of(horizon=3))
    with pytest.raises(ForecastError, match="part validation has no rows of lstm"):
        decide_all(table, quotes, limits=limits_of(), part="validation")


def test_benchmarks_go_with_given_weights_too(random_prices: Callable[..., Prices]) -> None:
    quotes = quotes_of(random_prices(2, symbols=4, staggered=False, missing=0, halts=0))
    table = forecasts_of(quotes, 0)
    given = decide_all(table, quotes, limits=limits_of(), part="test")
    weights = decide_benchmarks(given, quotes, limits=limits_of(), part="test")
    assert set(weights["strategy"].astype(str)) == set(BENCHMARKS)
    assert set(weights["origin"]) <= set(given["origin"])
    equal = weights[weights["strategy"] == "equal_weight"]
    assert equal.groupby("origin")["weight"].sum().round(12).eq(1).all()


def test_benchmarks_beside_rare_weights_decide_on_every_date(
    random_prices: Callable[..., Prices],
) -> None:
    """So a monthly table is compared with what daily decisions earn, in sessions of `rebalance`."""
    quotes = quotes_of(random_prices(2, symbols=4, staggered=False))
    daily = pd.DataFrame({"origin": quotes.dates[25:60].astype("datetime64[s]"), "weight": 0.5})
    daily = daily.assign(
        model="own", strategy="rare", part="test", symbol="S0", fold=np.arange(35) // 14
    )
    rare = daily.iloc[::14]
    for rebalance in (1, 3):
        shared: dict[str, Any] = {"limits": limits_of(rebalance=rebalance), "part": "test"}
        last = daily["origin"].iloc[-1].to_numpy().astype("datetime64[D]")
        often = decide_benchmarks(daily, quotes, **shared)
        seldom = decide_benchmarks(rare, quotes, until=last, **shared)
        pd.testing.assert_frame_equal(often, seldom)
        till_last = decide_benchmarks(rare, quotes, **shared)
        kept = (often["origin"] <= rare["origin"].iloc[-1]).to_numpy()
        pd.testing.assert_frame_equal(till_last, often[kept].reset_index(drop=True))
    longer = decide_benchmarks(
        rare, quotes, limits=limits_of(), part="test", until=quotes.dates[-1] + 9
    )
    equal = longer[longer["strategy"] == "equal_weight"]
    assert equal["origin"].nunique() == len(quotes.dates) - 25
    assert equal["fold"].iloc[-1] == 2


def test_a_holiday_of_an_exchange_on_the_last_date_ends_nobody(quotes_from: QuotesOf) -> None:
    price = np.linspace(10, 20, 40)
    closed = np.where(np.arange(40) > 38, np.nan, price)
    quotes = quotes_from({"A": price, "B": closed, "C": price[::-1]})
    table = forecasts_of(quotes, 0, horizons=(1,), first=0)
    limits = limits_of(rules={"calm": RULES["calm"]})
    last = pd.Timestamp(quotes.dates[-1])
    for codes, held in ((("XLON", "XNYS", "XLON"), True), (("XLON", "XLON", "XLON"), False)):
        known = replace(quotes, calendars=codes)
        weights = decide_all(table, known, limits=limits, part="test")
        calm = wide(weights[weights["strategy"] == "calm"], known)
        given = wide(still_traded(weights[weights["strategy"] == "calm"], known), known)
        pd.testing.assert_frame_equal(calm, given)
        assert (calm.loc[last, "B"] > 0) == held
    beside = decide_benchmarks(
        weights, replace(quotes, calendars=("XLON", "XNYS", "XLON")), limits=limits, part="test"
    )
    assert "B" in set(beside.loc[beside["origin"] == last, "symbol"])


def test_of_weights_the_rows_of_what_has_ended_are_dropped(
    quotes_from: QuotesOf, weights_of: Callable[..., pd.DataFrame]
) -> None:
    """A decision that holds nothing else stays one: what it no longer holds is sold."""
    quotes = quotes_from({"A": [1.0] * 5, "B": [1, 1, 1, math.nan, math.nan]})
    weights = weights_of(quotes, {2: {"A": 0.5, "B": 0.5}, 3: {"A": 0.4, "B": 0.6}, 4: {"B": 1.0}})
    found = still_traded(weights, quotes)
    told = list(zip(found["origin"].dt.day, found["symbol"], found["weight"], strict=True))
    assert told == [(8, "A", 0.5), (8, "B", 0.5), (9, "A", 0.4), (10, "B", 0.0)]
    pd.testing.assert_frame_equal(still_traded(found, quotes), found)
    alive = weights[weights["symbol"] == "A"]
    assert still_traded(alive, quotes) is alive


@pytest.mark.parametrize("label", ["ranked", "calm"])
def test_an_origin_without_volatilities_has_no_weights_and_a_model_without_is_refused(
    random_prices: Callable[..., Prices], label: str
) -> None:
    quotes = quotes_of(random_prices(2, symbols=4, staggered=False))
    table = forecasts_of(quotes, 0, horizons=(1,))
    day = table["origin"].sort_values().iloc[len(table) // 2]
    silent = [*QUANTILES, "std"]
    some = table.copy()
    some.loc[some["origin"] == day, silent] = np.nan
    limits = limits_of(stale=0, rules={label: RULES[label]})
    weights, whole = (decided(given, quotes, label, limits) for given in (some, table))
    assert not weights.loc[day].any() and whole.loc[day].any()
    pd.testing.assert_frame_equal(weights.drop(index=day), whole.drop(index=day))
    none = table.assign(**dict.fromkeys(silent, np.nan))
    refusal = rf"strategy.rules.{label}.rule=\w+ needs forecasts of volatility, which lstm does not"
    with pytest.raises(ForecastError, match=refusal):
        decided(none, quotes, label, limits)
    with pytest.raises(ForecastError, match=refusal):
        decide_all(none, quotes, limits=limits, part="test")
    assert decided(none, quotes, "signs", limits).to_numpy().any()
