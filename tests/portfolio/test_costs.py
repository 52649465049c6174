"""What trading costs: the section's checks, rates of cash and the square-root law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.portfolio.costs import cash_rate, impact_rates
from forecast.prices.frame import Covariate, Prices

NAN = np.nan


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("commission", -1.0),
        ("half_spread", NAN),
        ("slippage", np.inf),
        ("impact", -0.1),
        ("borrow", -5.0),
        ("capital", 0.0),
        ("cash", NAN),
        ("delisting_return", -100.5),
        ("levels", [0, -2]),
    ],
)
def test_a_cost_out_of_range_is_named(costs_of, name, value) -> None:
    with pytest.raises(ForecastError) as caught:
        costs_of(**{name: value})
    message = str(caught.value)
    assert f"costs.{name}" in message and "must be" in message and "\n" not in message
    assert str(value[-1] if name == "levels" else value) in message


def test_impact_needs_the_size_of_the_trades(costs_of) -> None:
    with pytest.raises(ForecastError, match="costs.impact=1.0 needs .*: set costs.capital"):
        costs_of(impact=1.0)


def test_linear_costs_are_a_sum_in_fractions_and_a_level_takes_their_place(costs_of) -> None:
    costs = costs_of(
        commission=1.0, half_spread=2.5, slippage=4.0, impact=1.0, capital=1e6, borrow=3.0
    )
    assert costs.linear == pytest.approx(7.5e-4)
    level = costs.at(10)
    assert level.linear == pytest.approx(1e-3)
    assert (level.impact, level.borrow) == (None, 3.0)


@pytest.fixture
def with_rate(prices_of):
    """Six weekdays of prices and a rate that is known on the second and the fourth."""

    def make(name: str = "bill", **columns: object) -> Prices:
        known = np.array(["2020-01-07", "2020-01-08", "2020-01-09"], dtype="datetime64[s]")
        frame = pd.DataFrame({"known": known, name: [2.0, NAN, 3.0], **columns})
        rates = Covariate(name="rates.csv", frame=frame, columns=(name,), lag=1, max_age=1)
        return prices_of({"A": np.full(6, 10.0)}, covariates=[rates])

    return make


def days(prices: Prices) -> np.ndarray:
    return prices.frame["date"].to_numpy().astype("datetime64[D]")


def test_a_rate_holds_from_the_day_on_which_it_is_known(with_rate) -> None:
    found = cash_rate("bill", with_rate(), days(with_rate()))
    np.testing.assert_array_equal(found, [NAN, 2, 2, 3, 3, 3])


def test_a_number_is_the_rate_of_every_day(with_rate) -> None:
    np.testing.assert_array_equal(cash_rate(1.5, with_rate(), days(with_rate())), [1.5] * 6)


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("bill", {}, "did you mean bill?"),
        ("bill", {"symbol": pd.Categorical(["A"] * 3)}, "all symbols: add it to data.covariates"),
    ],
)
def test_a_rate_that_is_none_is_refused(with_rate, name, columns, words) -> None:
    prices = with_rate(name, **columns)
    asked = "bil" if not columns else "bill"
    with pytest.raises(ForecastError) as caught:
        cash_rate(asked, prices, days(prices))
    assert f"costs.cash={asked}" in str(caught.value) and words in str(caught.value)


def test_a_rate_without_any_covariates_says_where_to_add_it(prices_of) -> None:
    prices = prices_of({"A": np.full(6, 10.0)})
    with pytest.raises(ForecastError, match="^costs.cash=bill .*: add it to data.covariates, in a"):
        cash_rate("bill", prices, days(prices))


@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_impact_follows_the_last_twenty_sessions(random_quotes, seed) -> None:
    quotes = random_quotes(seed, symbols=3, missing=0.2)
    found = impact_rates(quotes)
    for s in range(3):
        close = pd.Series(quotes.close_TS[:, s]).dropna()
        value = pd.Series(quotes.value_TS[:, s]).loc[close.index]
        variance = (close.pct_change() ** 2).rolling(20, min_periods=1).mean()
        wanted = np.sqrt(variance / value.rolling(20, min_periods=1).mean())
        wanted = wanted.reindex(range(len(quotes.dates))).ffill()
        after = np.arange(len(wanted)) >= close.index[1] if len(close) > 1 else slice(0)
        np.testing.assert_allclose(found[after, s], wanted[after], rtol=1e-9)


def test_a_new_symbol_moves_like_the_others(quotes_from) -> None:
    close = {"A": [100, 102, 102], "B": [10, 10.4, 10.4], "C": [NAN, 5, 5.5]}
    quotes = quotes_from(close, value={name: [1, 1, 1] for name in close})
    found = impact_rates(quotes)
    assert np.isnan(found[0]).all()  # nobody has moved yet
    assert found[1, 2] == pytest.approx(0.03)  # the median of 0.02 and 0.04
    assert found[2, 2] == pytest.approx(0.1)


def test_where_nothing_is_traded_the_last_known_value_counts(quotes_from) -> None:
    close = np.resize([100.0, 101.0], 60)
    volume = np.where(np.arange(60) < 20, 4.0, 0.0)
    found = impact_rates(quotes_from({"A": close}, value={"A": volume}))[:, 0]
    assert np.isfinite(found[1:]).all() and (np.diff(found[38:]) == 0).sum() > 15


def test_impact_without_volumes_is_refused(quotes_from) -> None:
    quotes = quotes_from({"A": [1.0, 2.0]})
    assert quotes.value_TS is None
    with pytest.raises(ForecastError, match="costs.impact needs volumes"):
        impact_rates(replace(quotes, value_TS=None))
