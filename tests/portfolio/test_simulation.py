"""What weights earn: a plain loop, identities of bookkeeping, and small cases by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.portfolio.simulation import EXECUTIONS, Simulation, simulate
from forecast.weights import validate_weights

NAN = np.nan
SERIES = (
    *("return_PT", "gross_return_PT", "cost_PT", "borrow_PT", "turnover_PT", "long_PT"),
    *("short_PT", "equity_PT", "cash_return_T", "positions_PTS", "traded_PTS"),
)
seeds = st.integers(0, 10_000)
executions = st.sampled_from(EXECUTIONS)
few = settings(max_examples=10, deadline=None)


def flat(quotes, rate: float = 0.0) -> np.ndarray:
    return np.full(len(quotes.dates), rate)


def stepped(quotes, seed: int) -> np.ndarray:
    """A cash rate that moves."""
    return np.random.default_rng(seed).normal(2, 3, len(quotes.dates))


@pytest.mark.parametrize("impact", [None, 1.5])
@given(seed=seeds, execution=executions)
@few
def test_equals_a_plain_loop(
    random_quotes, random_weights, costs_of, loop, impact, seed, execution
) -> None:
    quotes = random_quotes(seed, symbols=5, missing=0.15, halts=2)
    weights = random_weights(quotes, seed, pairs=3, gross=1.5)
    costs = costs_of(
        commission=3.0,
        slippage=4.0,
        borrow=5.0,
        impact=impact,
        capital=None if impact is None else 10.0,
    )
    given_ = {"costs": costs, "cash_T": stepped(quotes, seed), "execution": execution}
    found, wanted = simulate(quotes, weights, keep=True, **given_), loop(quotes, weights, **given_)
    for name in SERIES:
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), rtol=1e-12, atol=1e-12, err_msg=name
        )
    for name in ("dates_T", "marked_P", "late_P"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    assert (found.pairs, found.delisted) == (wanted.pairs, wanted.delisted)


@given(seed=seeds)
@few
def test_the_random_cases_hold_what_they_are_to_test(
    random_quotes, random_weights, costs_of, seed
) -> None:
    quotes = random_quotes(seed, symbols=8, missing=0.15, halts=2)
    found = simulate(
        quotes, random_weights(quotes, seed, pairs=4), costs=costs_of(), cash_T=flat(quotes),
        execution="next_open",
    )  # fmt: skip
    assert found.marked_P.sum() and found.late_P.sum()
    assert found.short_PT.max() > 0 and quotes.ended_S.any()


@given(seed=seeds, execution=executions)
@few
def test_what_is_shown_adds_up(random_quotes, random_weights, costs_of, seed, execution) -> None:
    quotes = random_quotes(seed, missing=0.15)
    found = simulate(
        quotes,
        random_weights(quotes, seed, pairs=3),
        costs=costs_of(commission=7.0, borrow=9.0),
        cash_T=flat(quotes, 3.0),
        execution=execution,
        keep=True,
    )
    close = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(
        found.gross_return_PT - found.cost_PT - found.borrow_PT, found.return_PT, **close
    )
    np.testing.assert_allclose(found.cost_PT, 7e-4 * found.turnover_PT, **close)
    np.testing.assert_allclose(found.equity_PT, np.cumprod(1 + found.return_PT, axis=1), **close)
    assert found.positions_PTS is not None and found.traded_PTS is not None
    np.testing.assert_allclose(np.abs(found.traded_PTS).sum(axis=2), found.turnover_PT, **close)
    held = found.positions_PTS
    np.testing.assert_allclose(np.where(held > 0, held, 0).sum(axis=2), found.long_PT, **close)
    np.testing.assert_allclose(np.where(held < 0, -held, 0).sum(axis=2), found.short_PT, **close)
    assert (found.short_PT >= 0).all() and (found.long_PT >= 0).all()
    np.testing.assert_allclose(found.return_PT[:, 0], -found.cost_PT[:, 0], **close)


@given(seed=seeds, execution=executions)
@few
def test_zero_weights_earn_cash_and_nothing_else(
    random_quotes, random_weights, costs_of, seed, execution
) -> None:
    quotes = random_quotes(seed)
    found = simulate(
        quotes,
        random_weights(quotes, seed, pairs=1, gross=0.0),
        costs=costs_of(commission=50.0, borrow=50.0),
        cash_T=stepped(quotes, seed),
        execution=execution,
    )
    earned = np.cumprod(1 + found.cash_return_T)
    np.testing.assert_array_equal(found.turnover_PT, 0)
    np.testing.assert_allclose(found.equity_PT[0], earned, rtol=1e-14)


@given(seed=seeds, execution=executions, costs=st.tuples(*[st.floats(0, 100)] * 2))
@few
def test_more_costs_are_never_more_equity(
    random_quotes, random_weights, costs_of, seed, execution, costs
) -> None:
    quotes = random_quotes(seed, missing=0.1)
    weights = random_weights(quotes, seed)
    low, high = (
        simulate(
            quotes, weights, costs=costs_of(slippage=points), cash_T=flat(quotes, 1.0),
            execution=execution,
        ).equity_PT
        for points in sorted(costs)
    )  # fmt: skip
    assert (high <= low * (1 + 1e-12)).all()
    assert costs[0] == costs[1] or (high[:, -1] < low[:, -1] + 1e-12).all()


def test_capital_counts_where_trades_move_prices_and_nowhere_else(
    random_quotes, random_weights, costs_of
) -> None:
    quotes = random_quotes(1)
    weights = random_weights(quotes, 1)

    def equity(**options: float | None) -> np.ndarray:
        costs = costs_of(slippage=5.0, **options)
        return simulate(
            quotes, weights, costs=costs, cash_T=flat(quotes), execution="next_open"
        ).equity_PT

    small, large = (equity(impact=1.0, capital=capital) for capital in (0.01, 1.0))
    assert (large[:, -1] < small[:, -1]).all()
    np.testing.assert_array_equal(equity(capital=1e9), equity())


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_weights_decided_a_session_later_earn_something_else(
    random_quotes, random_weights, costs_of, execution
) -> None:
    quotes = random_quotes(2, staggered=False, missing=0, halts=0)
    weights = random_weights(quotes, 2, pairs=1)
    later = dict(zip(quotes.dates[:-1], quotes.dates[1:], strict=True))
    moved = weights[weights["origin"] < quotes.dates[-1]].copy()
    moved["origin"] = [later[d] for d in moved["origin"].to_numpy().astype("datetime64[D]")]
    moved["origin"] = moved["origin"].astype("datetime64[s]")
    given_ = {"costs": costs_of(), "cash_T": flat(quotes), "execution": execution}
    now, then = (simulate(quotes, table, **given_).return_PT[0] for table in (weights, moved))
    assert np.abs(now[-20:] - then[-20:]).max() > 1e-4


@given(seed=seeds, execution=executions)
@few
def test_nothing_after_a_date_changes_what_came_before_it(
    random_quotes, random_weights, costs_of, seed, execution
) -> None:
    """Sessions stay where they are: whether a symbol trades tomorrow is the market's to know."""
    quotes = random_quotes(seed, missing=0.1)
    weights = random_weights(quotes, seed, pairs=2)
    rng = np.random.default_rng(seed)
    t = int(rng.integers(10, len(quotes.dates) - 5))
    noise = np.exp(np.where(np.arange(len(quotes.dates)) > t, rng.normal(0, 0.05), 0))[:, None]
    assert quotes.open_TS is not None and quotes.value_TS is not None
    changed = replace(
        quotes,
        close_TS=quotes.close_TS * noise,
        open_TS=quotes.open_TS * noise,
        value_TS=quotes.value_TS * noise,
    )
    given_ = {
        "costs": costs_of(slippage=5.0, impact=1.0, capital=10.0),
        "cash_T": flat(quotes),
        "execution": execution,
        "keep": True,
    }
    before, after = (simulate(prices, weights, **given_) for prices in (quotes, changed))
    known = before.dates_T <= quotes.dates[t]
    for name in SERIES:
        first, second = getattr(before, name), getattr(after, name)
        axis = 0 if name.endswith("_T") else 1
        np.testing.assert_array_equal(
            first.compress(known, axis=axis), second.compress(known, axis=axis), err_msg=name
        )


@given(seed=seeds, execution=executions)
@few
def test_pairs_do_not_know_of_each_other(
    random_quotes, random_weights, costs_of, seed, execution
) -> None:
    quotes = random_quotes(seed, symbols=9, missing=0.1)
    weights = random_weights(quotes, seed, pairs=3)
    given_ = {
        "costs": costs_of(slippage=5.0), "cash_T": flat(quotes), "execution": execution
    }  # fmt: skip
    together = simulate(quotes, weights, **given_)
    for p, (_, strategy) in enumerate(together.pairs):
        alone = simulate(quotes, weights[weights["strategy"] == strategy], **given_)
        common = np.flatnonzero(np.isin(together.dates_T, alone.dates_T))
        for name in ("return_PT", "turnover_PT", "long_PT", "short_PT"):
            np.testing.assert_allclose(
                getattr(together, name)[p, common],
                getattr(alone, name)[0, : len(common)],
                atol=1e-13,
                err_msg=name,
            )


@pytest.fixture
def trade(quotes_from, weights_of, costs_of):
    """Simulate decisions on closes of one or more symbols."""

    def trade(
        close,
        decisions,
        *,
        opening=None,
        dates=None,
        execution="close",
        rate=0.0,
        zero=None,
        **costs,
    ) -> Simulation:
        quotes = quotes_from(close, opening=opening, dates=dates)
        return simulate(
            quotes,
            weights_of(quotes, decisions),
            costs=costs_of(**costs),
            cash_T=flat(quotes, rate),
            execution=execution,
            delisting_return=zero,
            keep=True,
        )

    return trade


CLOSE = (100.0, 110.0, 99.0, 120.0, 132.0)
OPEN = (100.0, 105.0, 100.0, 110.0, 125.0)
STAY = {0: {"A": 1.0}, 3: {"B": 0.0}}


@pytest.mark.parametrize(
    ("execution", "start", "price"),
    [("close", 0, 100), ("next_open", 1, 105), ("next_close", 1, 110)],
)
def test_buy_and_hold_is_the_total_return_since_the_fill(
    quotes_from, weights_of, costs_of, execution, start, price
) -> None:
    quotes = quotes_from({"A": CLOSE, "B": CLOSE}, opening={"A": OPEN, "B": OPEN})
    waits = weights_of(quotes, {3: {"B": 0.0}}, strategy="waits")  # so that the dates go on
    weights = pd.concat([weights_of(quotes, {0: {"A": 1.0}}).astype({"symbol": str}), waits])
    found = simulate(quotes, weights, costs=costs_of(), cash_T=flat(quotes), execution=execution)
    assert found.pairs == (("lstm", "mine"), ("lstm", "waits"))
    shares = 1 / CLOSE[0]  # fixed at the close of the decision
    np.testing.assert_array_equal(found.equity_PT[0, :start], 1)
    np.testing.assert_allclose(
        found.equity_PT[0, start:], 1 + shares * (np.array(CLOSE[start:]) - price), rtol=1e-14
    )
    np.testing.assert_array_equal(found.equity_PT[1], 1)
    assert found.turnover_PT[0].sum() == pytest.approx(shares * price)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_long_and_a_short_mirror_each_other_on_the_first_day(trade, execution) -> None:
    long, short = (
        trade({"A": CLOSE}, {0: {"A": w}}, opening={"A": OPEN}, execution=execution).return_PT[0]
        for w in (0.6, -0.6)
    )
    day = {"close": 1, "next_open": 1, "next_close": 2}[execution]
    assert long[day] == pytest.approx(-short[day], rel=1e-13)
    assert abs(long[day]) > 0.02
    np.testing.assert_array_equal(long[:day], 0)


@pytest.mark.parametrize(
    ("execution", "dates"), [("close", 3), ("next_open", 3), ("next_close", 4)]
)
def test_the_dates_go_on_until_the_last_decision_has_earned(trade, execution, dates) -> None:
    decisions = {0: {"A": 1.0}, 1: {"A": 0.5}}
    found = trade({"A": CLOSE}, decisions, opening={"A": OPEN}, execution=execution)
    assert len(found.dates_T) == dates
    late = trade({"A": CLOSE}, {4: {"A": 1.0}}, opening={"A": OPEN}, execution=execution)
    assert len(late.dates_T) == 1


def test_holdings_drift_until_the_next_decision(trade) -> None:
    close = {"A": [100, 200, 200, 200], "B": [100, 100, 100, 50]}
    found = trade(close, {0: {"A": 0.5, "B": 0.5}, 2: {"A": 0.5, "B": 0.5}})
    np.testing.assert_allclose(found.positions_PTS[0, 1], [2 / 3, 1 / 3])
    np.testing.assert_allclose(found.equity_PT[0], [1, 1.5, 1.5, 1.125])
    np.testing.assert_allclose(found.traded_PTS[0, 2], [-1 / 6, 1 / 6])
    np.testing.assert_allclose(found.turnover_PT[0], [1, 0, 1 / 3, 0])


def test_an_order_is_a_number_of_shares_that_a_gap_does_not_change(trade) -> None:
    found = trade(
        {"A": [100, 400, 400]}, {0: {"A": 1.0}}, opening={"A": [100, 300, 400]},
        execution="next_open", commission=100.0,
    )  # fmt: skip
    assert found.traded_PTS[0, 1, 0] == pytest.approx(3)
    assert found.cost_PT[0, 1] == pytest.approx(0.03)
    assert found.equity_PT[0, 1] == pytest.approx(1 - 3 - 0.03 + 4)


class TestMissingPrices:
    close = {"A": [100, NAN, NAN, 110, 121], "B": [10, 10, 10, 10, 10]}

    def test_a_holding_stands_at_its_last_price_and_is_counted(self, trade) -> None:
        found = trade(self.close, {0: {"A": 1.0}, 4: {"A": 1.0}})
        np.testing.assert_allclose(found.return_PT[0], [0, 0, 0, 0.1, 0.1])
        assert (found.marked_P[0], found.late_P[0]) == (2, 0)

    def test_an_order_waits_for_its_next_price_and_is_counted_once(self, trade) -> None:
        found = trade(self.close, {0: {"A": 0.5}, 4: {"B": 0.0}}, execution="next_close")
        np.testing.assert_allclose(found.traded_PTS[0, :, 0], [0, 0, 0, 0.55, 0])
        assert (found.marked_P[0], found.late_P[0]) == (0, 1)

    def test_a_new_decision_replaces_an_order_that_waits(self, trade) -> None:
        found = trade(self.close, {0: {"A": 0.5}, 2: {"A": 0.1}}, execution="next_close")
        np.testing.assert_allclose(found.traded_PTS[0, :, 0], [0, 0, 0, 0.11, 0])
        assert found.late_P[0] == 1

    def test_an_open_that_is_missing_is_waited_for(self, trade) -> None:
        close = {"A": [100, 100, 100, 100]}
        opening = {"A": [100, NAN, 90, 100]}
        decisions = {0: {"A": 1.0}, 2: {"A": 1.0}}
        found = trade(close, decisions, opening=opening, execution="next_open")
        np.testing.assert_allclose(found.equity_PT[0], [1, 1, 1.1, 1.1])
        assert (found.marked_P[0], found.late_P[0]) == (0, 1)


class TestDelisting:
    close = {"A": [100, 100, NAN, NAN], "B": [10, 10, 10, 10]}
    hold = {0: {"A": 0.5}, 3: {"B": 0.0}}

    def test_the_holding_loses_then_and_becomes_cash_without_cost(self, trade) -> None:
        found = trade(self.close, self.hold, commission=10.0)
        assert found.return_PT[0, 2] == pytest.approx(-0.3 * found.positions_PTS[0, 1, 0])
        assert found.cost_PT[0, 2] == found.long_PT[0, 2] == found.return_PT[0, 3] == 0
        assert found.delisted == ("A",)
        assert (found.marked_P[0], found.late_P[0]) == (0, 0)

    def test_another_return_can_be_asked_for(self, trade) -> None:
        found = trade(self.close, self.hold, zero=0.0)
        np.testing.assert_array_equal(found.return_PT[0], 0)

    def test_a_short_earns_what_the_symbol_lost(self, trade) -> None:
        found = trade(self.close, {0: {"A": -0.5}, 3: {"B": 0.0}})
        assert found.return_PT[0, 2] == pytest.approx(0.15)

    def test_an_order_that_waits_is_dropped(self, trade) -> None:
        found = trade(self.close, {1: {"A": 1.0}, 3: {"B": 0.0}}, execution="next_close")
        np.testing.assert_array_equal(found.turnover_PT, 0)
        assert found.delisted == () and found.late_P[0] == 0

    def test_a_symbol_that_nobody_held_is_not_counted(self, trade) -> None:
        assert trade(self.close, {0: {"B": 1.0}, 3: {"B": 0.0}}).delisted == ()

    def test_a_holiday_of_its_exchange_at_the_end_is_no_delisting(
        self, quotes_from, weights_of, costs_of
    ) -> None:
        close = {"A": [100, 100, NAN], "B": [10, 10, NAN], "C": [1, 1, 1]}
        quotes = replace(quotes_from(close), calendars=("XNYS", "XNYS", "XLON"))
        weights = weights_of(quotes, {0: {"A": 1.0}, 2: {"A": 1.0}})
        found = simulate(quotes, weights, costs=costs_of(), cash_T=flat(quotes), execution="close")
        np.testing.assert_array_equal(found.return_PT, 0)
        assert (found.delisted, found.marked_P[0]) == ((), 1)


def test_interest_counts_calendar_days_at_the_rate_known_before(
    quotes_from, weights_of, costs_of
) -> None:
    days = ["2020-01-09", "2020-01-10", "2020-01-13", "2020-01-14"]  # a weekend between
    quotes = quotes_from({"A": [10.0] * 4}, dates=days)
    found = simulate(
        quotes,
        weights_of(quotes, {0: {"A": 0.25}, 3: {"A": 0.25}}),
        costs=costs_of(),
        cash_T=np.array([3.65, 7.3, 36.5, NAN]),  # the last is not earned in these dates
        execution="close",
    )
    np.testing.assert_allclose(found.cash_return_T, [0, 1e-4, 6e-4, 1e-3])
    assert found.return_PT[0, 1] == pytest.approx(0.75e-4)


def test_shorts_pay_borrow_and_their_proceeds_earn_cash(trade) -> None:
    found = trade({"A": [10.0] * 2}, {0: {"A": -1.0}}, rate=3.65, borrow=7.3)
    np.testing.assert_allclose(found.borrow_PT[0], [0, 2e-4])
    assert found.gross_return_PT[0, 1] == pytest.approx(2e-4)
    assert found.return_PT[0, 1] == pytest.approx(0, abs=1e-15)
    assert (found.long_PT[0, 1], found.short_PT[0, 1]) == (0, pytest.approx(1))


def test_the_square_root_law_by_hand(quotes_from, weights_of, costs_of) -> None:
    quotes = quotes_from({"A": [100.0, 103.0, 103.0]}, value={"A": [1e6, 3e6, 9e9]})
    found = simulate(
        quotes,
        weights_of(quotes, {1: {"A": 0.5}}),
        costs=costs_of(impact=0.8, capital=1e5),
        cash_T=flat(quotes),
        execution="next_close",
    )
    share = 0.5 * 1e5 / 2e6  # of the mean of what was traded until the decision
    assert found.cost_PT[0, 1] == pytest.approx(0.5 * 0.8 * 0.03 * share**0.5)


@given(seed=seeds, execution=executions)
@few
def test_what_is_held_goes_on_after_the_last_decision_until_a_date(
    random_quotes, random_weights, weights_of, costs_of, seed, execution
) -> None:
    """As if a pair that never trades had gone on deciding; what is simulated anyway is the same."""
    quotes = random_quotes(seed, symbols=4)
    table = random_weights(quotes, seed, pairs=1)
    table = table[table["origin"] <= pd.Timestamp(quotes.dates[40])]
    given_ = {"costs": costs_of(commission=5.0), "cash_T": flat(quotes, 2.0)}
    given_["execution"] = execution
    day = quotes.dates[60]
    cash = weights_of(quotes, {60: {"S0": 0.0}}, strategy="cash").astype({"strategy": str})
    both = validate_weights(pd.concat([table.astype({"strategy": str}), cash]), "both")
    wanted = simulate(quotes, both, **given_)
    until = simulate(quotes, table, until=day, **given_)
    short = simulate(quotes, table, **given_)
    assert until.dates_T[-1] == day > short.dates_T[-1]
    place = wanted.pairs.index(until.pairs[0])
    rows = len(until.dates_T)
    np.testing.assert_array_equal(until.return_PT[0], wanted.return_PT[place, :rows])
    np.testing.assert_array_equal(short.return_PT, until.return_PT[:, : len(short.dates_T)])


def test_the_last_date_is_at_most_that_of_the_data(quotes_from, weights_of, costs_of) -> None:
    quotes = quotes_from({"A": [10.0, 11.0, 12.0, 13.0]})
    weights = weights_of(quotes, {1: {"A": 1.0}})
    given_ = {"costs": costs_of(), "cash_T": flat(quotes), "execution": "close"}
    for until in ("2020-01-12", "2031-01-01"):  # a Sunday after the last date
        found = simulate(quotes, weights, until=np.datetime64(until), **given_)
        assert found.dates_T[-1] == quotes.dates[-1]
    first = simulate(quotes, weights, until=quotes.dates[1], **given_)
    np.testing.assert_array_equal(first.dates_T, quotes.dates[1:2])
    with pytest.raises(ForecastError, match="until=2020-01-06 lies before .*, 2020-01-07"):
        simulate(quotes, weights, until=quotes.dates[0], **given_)


class TestRefusals:
    close = {"A": [NAN, 10.0, 10.0, NAN], "B": [10.0, 10.0, 10.0, 10.0]}

    @pytest.mark.parametrize(
        ("decisions", "words"),
        [
            ({1: {"A": 1.0, "Z": 1.0}}, ("Z has no prices", "drop")),
            ({0: {"A": 0.5}}, ("A has no session before 2020-01-07", "0.5")),
            ({3: {"A": -0.5}}, ("A ended on 2020-01-08", "-0.5")),
            ({1: {"A": -1.0, "B": 1.1}}, ("2.1", "strategy.max_gross=2", "2020-01-07")),
        ],
    )
    def test_of_weights(self, quotes_from, weights_of, costs_of, decisions, words) -> None:
        quotes = quotes_from(self.close)
        table = weights_of(quotes, decisions)
        for execution in EXECUTIONS:
            with pytest.raises(ForecastError) as caught:
                simulate(
                    replace(quotes, open_TS=quotes.close_TS), table, costs=costs_of(),
                    cash_T=flat(quotes), execution=execution, max_gross=2.0,
                )  # fmt: skip
            message = str(caught.value)
            assert "\n" not in message and "lstm/mine" in message
            assert [word for word in words if word not in message] == [], message

    def test_nothing_is_said_of_zero_weights_and_of_sums_that_rounding_lifts(
        self, quotes_from, weights_of, costs_of
    ) -> None:
        quotes = quotes_from(self.close)
        weights = weights_of(quotes, {0: {"A": 0.0, "B": 1.0}, 1: {"A": 0.1 + 0.2, "B": 0.7}})
        found = simulate(
            quotes, weights, costs=costs_of(), cash_T=flat(quotes), execution="close", max_gross=1
        )
        np.testing.assert_array_equal(found.return_PT[0, :3], 0)

    @pytest.mark.parametrize("day", ["2019-01-01", "2020-01-11", "2031-01-01"])
    def test_of_origins_that_are_no_dates(self, quotes_from, weights_of, costs_of, day) -> None:
        quotes = quotes_from(self.close | {"C": [1.0] * 4})
        weights = weights_of(quotes, {1: {"C": 1.0}, 2: {"C": 1.0}})
        weights.loc[1, "origin"] = np.datetime64(day)
        with pytest.raises(ForecastError, match=f"at {day}.*no date of the prices, 2020-01-06 … "):
            simulate(quotes, weights, costs=costs_of(), cash_T=flat(quotes), execution="close")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"execution": "next_opne"}, "next_opne is unknown: did you mean next_open?"),
            ({"execution": "next_open"}, "needs opens; the prices have none. Set execution"),
            ({"costs": {"impact": 1.0, "capital": 1.0}}, "needs volumes; the prices have none"),
            ({"cash_T": np.array([NAN, 0.0, 0.0, 0.0])}, "not known on 2020-01-06"),
        ],
    )
    def test_of_what_the_prices_lack(
        self, quotes_from, weights_of, costs_of, options, words
    ) -> None:
        quotes = quotes_from(self.close)
        given_ = {"execution": "close", "cash_T": flat(quotes), **options}
        given_["costs"] = costs_of(**options.get("costs", {}))
        with pytest.raises(ForecastError) as caught:
            simulate(quotes, weights_of(quotes, {0: {"B": 1.0}}), **given_)
        assert words in str(caught.value) and "\n" not in str(caught.value)

    def test_of_one_symbol_without_opens(self, quotes_from, weights_of, costs_of) -> None:
        quotes = quotes_from(self.close, opening={"A": [NAN, 1, 1, NAN], "B": [NAN] * 4})
        with pytest.raises(ForecastError, match="needs opens; B has none"):
            simulate(
                quotes, weights_of(quotes, {1: {"A": 1.0, "B": 0.1}}), costs=costs_of(),
                cash_T=flat(quotes), execution="next_open",
            )  # fmt: skip

    def test_of_impact_before_anything_is_known_of_a_symbol(
        self, quotes_from, weights_of, costs_of
    ) -> None:
        quotes = quotes_from(self.close, value={"A": [NAN, 0, 5, 5], "B": [5] * 4})
        with pytest.raises(ForecastError, match="costs.impact needs .* A has none by 2020-01-07"):
            simulate(
                quotes, weights_of(quotes, {1: {"A": 1.0}}), execution="close",
                costs=costs_of(impact=1.0, capital=1.0), cash_T=flat(quotes),
            )  # fmt: skip

    def test_of_two_parts(self, quotes_from, weights_of, costs_of) -> None:
        quotes = quotes_from(self.close)
        tables = [weights_of(quotes, {1: {"B": 1.0}}, part=p) for p in ("test", "validation")]
        both = pd.concat([t.astype({"part": str}) for t in tables])
        with pytest.raises(ForecastError, match="parts test and validation"):
            simulate(quotes, both, costs=costs_of(), cash_T=flat(quotes), execution="close")

    def test_of_a_loss_of_everything(self, trade) -> None:
        with pytest.raises(ForecastError, match="lstm/mine has lost all its equity by 2020-01-07"):
            trade({"A": [10, 40, 40]}, {0: {"A": -0.5}})

    def test_of_nothing(self, quotes_from, weights_of, costs_of) -> None:
        quotes = quotes_from(self.close)
        none = weights_of(quotes, {1: {"B": 1.0}}).iloc[:0]
        with pytest.raises(ForecastError, match="weights: there is none to trade"):
            simulate(quotes, none, costs=costs_of(), cash_T=flat(quotes), execution="close")
