"""Prices as a portfolio sees them: where sessions are, and on which basis opens stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.portfolio.quotes import quotes_of

NAN = np.nan


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_every_price_stands_at_its_date_and_symbol(random_prices, seed) -> None:
    prices = random_prices(seed, bars=True, missing=0.2)
    quotes = quotes_of(prices)
    place = {day: t for t, day in enumerate(quotes.dates.tolist())}
    seen = np.zeros(quotes.close_TS.shape, dtype=bool)
    for row in prices.frame.itertuples():
        at = place[row.date.date()], quotes.symbols.index(str(row.symbol))
        seen[at] = True
        assert quotes.close_TS[at] == row.close
        np.testing.assert_equal(quotes.open_TS[at], row.open)
        assert quotes.value_TS[at] == row.volume * row.close
    for values in (quotes.close_TS, quotes.open_TS, quotes.value_TS):
        assert np.isnan(values[~seen]).all()
    assert (np.diff(quotes.dates) > np.timedelta64(0)).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_returns_compound_to_the_change_of_the_close(random_prices, seed) -> None:
    quotes = quotes_of(random_prices(seed, missing=0.2))
    known = ~np.isnan(quotes.close_TS)
    for s in range(len(quotes.symbols)):
        first, last = quotes.first_S[s], quotes.last_S[s]
        assert known[first, s] and known[last, s]
        assert not known[:first, s].any() and not known[last + 1 :, s].any()
        returns = quotes.returns_TS[:, s]
        np.testing.assert_array_equal(
            np.isnan(returns), ~known[:, s] | (np.arange(70) == first)[: len(returns)]
        )
        total = quotes.close_TS[last, s] / quotes.close_TS[first, s]
        assert np.nanprod(1 + returns) == pytest.approx(total)
    with pytest.raises(ValueError, match="read-only"):
        quotes.returns_TS[0] = 0


def test_opens_are_moved_to_the_total_return_basis_of_the_close(prices_of) -> None:
    """Over a dividend of 10 on the second day, which closes quote and total returns do not."""
    prices = prices_of(
        {"A": [100.0, 100.0, 110.0]},
        raw_close={"A": [100.0, 90.0, NAN]},
        open={"A": [98.0, 81.0, 99.0]},
        volume={"A": [1.0, 2.0, NAN]},
    )
    quotes = quotes_of(prices)
    # Without a quoted close, the close is the quotation.
    np.testing.assert_allclose(quotes.open_TS[:, 0], [98, 90, 99])
    np.testing.assert_allclose(quotes.value_TS[:, 0], [100, 180, NAN])


def test_what_is_not_known_at_all_is_none(prices_of) -> None:
    quotes = quotes_of(prices_of({"A": [1.0, 2.0]}))
    assert (quotes.open_TS, quotes.value_TS) == (None, None)
    empty = quotes_of(prices_of({"A": [1.0, 2.0]}, open={"A": [NAN, NAN]}))
    assert empty.open_TS is None


def test_a_year_has_as_many_periods_as_the_data_has_sessions(prices_of) -> None:
    weekdays = np.busday_offset("2000-01-03", np.arange(2609), roll="forward")
    assert quotes_of(prices_of({"A": np.ones(2609)}, dates=weekdays)).periods == pytest.approx(
        260.9, abs=0.2
    )
    assert quotes_of(prices_of({"A": [1.0]})).periods == 252


def test_raw_opens_beside_adjusted_closes_are_refused(prices_of) -> None:
    """Whoever bought at such an open would earn the adjustment at the close."""
    raw = np.linspace(100, 140, 40)
    adjusted = np.where(np.arange(40) < 30, raw / 2, raw)  # a split of 2 for 1
    close, opens = {"A": raw, "B": adjusted}, {"A": raw, "B": raw}
    with pytest.raises(ForecastError, match="^B: .* 100 % apart .*data.columns.raw_close=") as told:
        quotes_of(prices_of(close, open=opens))
    assert "\n" not in str(told.value)
    quotes = quotes_of(prices_of(close, open=opens, raw_close=opens))
    np.testing.assert_allclose(quotes.open_TS, quotes.close_TS)
    one = np.where(np.arange(40) == 7, 2.0, 1.0)  # a wild session is none of another basis
    assert quotes_of(prices_of(close, open={"A": raw * one, "B": adjusted})).opens


def test_opens_are_there_if_every_symbol_has_one(prices_of) -> None:
    close = {"A": [1.0, 1.0], "B": [1.0, 1.0]}
    assert not quotes_of(prices_of(close)).opens
    assert not quotes_of(prices_of(close, open={"A": [1.0, 1.0], "B": [NAN, NAN]})).opens
    assert quotes_of(prices_of(close, open={"A": [1.0, 1.0], "B": [NAN, 1.0]})).opens


class TestEnds:
    close = {
        "A": [1, 1, 1, NAN, NAN],
        "B": [1, 1, 1, 1, NAN],
        "C": [1, 1, 1, 1, 1],
        "D": [1, NAN, NAN, NAN, NAN],
    }

    def test_on_one_calendar_a_symbol_ends_before_the_data_do(self, prices_of) -> None:
        quotes = quotes_of(prices_of({n: np.array(v, float) for n, v in self.close.items()}))
        assert quotes.ended_S.tolist() == [True, True, False, True]

    def test_an_exchange_without_later_sessions_ends_nobody(self, prices_of) -> None:
        codes = {"A": "XNYS", "B": "XNYS", "C": "XLON", "D": "XTKS"}
        close = {n: np.array(v, float) for n, v in self.close.items()}
        quotes = quotes_of(prices_of(close, calendar=codes))
        assert quotes.calendars == ("XNYS", "XNYS", "XLON", "XTKS")
        assert quotes.ended_S.tolist() == [True, False, False, False]
        assert replace(quotes, calendars=None).ended_S.tolist() == [True, True, False, True]
