"""Built-in rules: what they hold, against plain loops, and what they may not depend on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import lognorm

from forecast.config import ForecastError
from forecast.portfolio import strategies as rules
from forecast.portfolio.strategies import BENCHMARKS, RULES, Outlook, simple_mean

OPTIONS: dict[str, dict[str, Any]] = {
    "long_short": {"share": 0.3, "by": "ratio"},
    "top_k": {"k": 3},
    "sign": {"volatility": 15.0},
    "inverse_volatility": {},
    "equal_weight": {},
    "buy_and_hold": {},
    "always_long": {"volatility": 10.0},
    "sign_12m": {"volatility": 10.0, "sessions": 30},
}
OPTIMISED = {
    "minimum_variance": {"window": 40},
    "mean_variance": {"window": 40, "risk_aversion": 2.0},
}


def outlook(
    seed: int, symbols: int = 8, *, unknown: float = 0.2, ties: bool = False, **changed: Any
) -> tuple[Outlook, np.ndarray]:
    """Forecasts of some symbols, none of others, and past returns with missing sessions."""
    rng = np.random.default_rng(seed)
    silent = rng.random(symbols) < unknown
    mean = rng.normal(0, 0.01, symbols)
    if ties:
        mean = np.round(mean, 2)
    past = rng.normal(0, 0.02, (60, symbols))
    past[rng.random(past.shape) < 0.1] = np.nan
    stated: dict[str, Any] = {
        "origin": np.datetime64("2020-03-04"),
        "symbols": tuple(f"S{s}" for s in range(symbols)),
        "horizon": 5,
        "periods": 252.0,
        "mean_S": np.where(silent, np.nan, mean),
        "std_S": np.where(silent, np.nan, rng.uniform(0.01, 0.05, symbols)),
        "quantiles_SQ": np.zeros((symbols, 21)),
        "scale_S": np.where(silent, np.nan, rng.uniform(0.005, 0.03, symbols)),
        "previous_S": np.zeros(symbols),
    }
    stated.update(changed)
    for value in (past, *stated.values()):
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return Outlook(**stated), past


def permuted(forecasts: Outlook, order: np.ndarray) -> Outlook:
    arrays = ("mean_S", "std_S", "quantiles_SQ", "scale_S", "previous_S")
    return replace(
        forecasts,
        symbols=tuple(forecasts.symbols[s] for s in order),
        **{name: getattr(forecasts, name)[order] for name in arrays},
    )


def test_benchmarks_and_tests_cover_all_rules() -> None:
    assert set(OPTIONS) | set(OPTIMISED) == set(RULES)
    assert list(BENCHMARKS) == ["equal_weight", "buy_and_hold", "always_long", "sign_12m"]
    assert all(rule in RULES for rule, _ in BENCHMARKS.values())


@pytest.mark.parametrize("name", RULES)
def test_what_states_nothing_gets_no_weight(name: str) -> None:
    options = OPTIONS.get(name) or OPTIMISED.get(name) or {}
    forecasts, past = outlook(3)
    weights = RULES[name](forecasts, past, **options)
    assert weights.shape == (8,) and np.isfinite(weights).all() and weights.any()
    assert not weights[np.isnan(forecasts.mean_S)].any()
    nothing, past = outlook(3, unknown=1.0)
    assert not RULES[name](nothing, past, **options).any()


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_the_order_of_symbols_decides_nothing(name: str, seed: int, ties: bool) -> None:
    forecasts, past = outlook(seed, ties=ties)
    order = np.random.default_rng(seed).permutation(8)
    weights = RULES[name](forecasts, past, **OPTIONS[name])
    other = RULES[name](permuted(forecasts, order), past[:, order], **OPTIONS[name])
    np.testing.assert_allclose(other, weights[order], rtol=1e-12, atol=1e-15)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.5))
def test_long_short_holds_the_ends_of_the_ranking(seed: int, share: float) -> None:
    forecasts, past = outlook(seed)
    weights = rules.long_short(forecasts, past, share=share, by="mean")
    ranked = sorted(
        (s for s in range(8) if not math.isnan(forecasts.mean_S[s])),
        key=lambda s: forecasts.mean_S[s],
    )
    wanted = np.zeros(8)
    if len(ranked) > 1:
        places = max(1, math.floor(round(share * len(ranked), 9)))
        wanted[ranked[:places]] = -0.5 / places
        wanted[ranked[-places:]] = 0.5 / places
    np.testing.assert_allclose(weights, wanted, atol=1e-15)
    ratio = rules.long_short(forecasts, past, share=share, by="ratio")
    sharpe = replace(forecasts, mean_S=forecasts.mean_S / forecasts.std_S)
    np.testing.assert_array_equal(ratio, rules.long_short(sharpe, past, share=share, by="mean"))


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.sampled_from([-0.01, 0.0, 0.01]), min_size=2, max_size=6),
    share=st.floats(0.05, 0.5),
    k=st.integers(1, 6),
)
def test_ties_get_the_mean_over_all_ways_to_break_them(
    values: list[float], share: float, k: int
) -> None:
    """Nudges break ties in every order; what ties must hold the average of it."""
    count = len(values)
    tied, past = outlook(0, count, unknown=0.0, mean_S=np.array(values))
    rng = np.random.default_rng(0)
    for rule, options in (
        (rules.long_short, {"share": share, "by": "mean"}),
        (rules.top_k, {"k": k}),
    ):
        broken = []
        for _ in range(300):
            nudged = np.array(values) + 1e-6 * rng.random(count)
            broken.append(rule(replace(tied, mean_S=nudged), past, **options))
        found = rule(tied, past, **options)
        np.testing.assert_allclose(found, np.mean(broken, axis=0), atol=0.15)
        assert found.sum() == pytest.approx(broken[0].sum(), abs=1e-12)
        for value in set(values):
            assert len(set(found[np.array(values) == value].round(12))) == 1


def test_where_all_tie_a_long_short_portfolio_is_empty() -> None:
    forecasts, past = outlook(0, unknown=0.0, mean_S=np.full(8, 0.01))
    assert not rules.long_short(forecasts, past, share=0.25, by="mean").any()
    np.testing.assert_allclose(rules.top_k(forecasts, past, k=3), np.full(8, 1 / 8))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_top_k_is_fully_invested_in_the_best(seed: int, k: int) -> None:
    forecasts, past = outlook(seed)
    weights = rules.top_k(forecasts, past, k=k)
    known = np.flatnonzero(~np.isnan(forecasts.mean_S))
    held = known[np.argsort(forecasts.mean_S[known])[-k:]]
    wanted = np.zeros(8)
    wanted[held] = 1 / len(held) if len(held) else 0
    np.testing.assert_allclose(weights, wanted)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_positions_have_the_volatility_asked_for(seed: int) -> None:
    """Percent a year over the number of symbols; forecasts over five sessions are annualised."""
    forecasts, past = outlook(seed)
    known = ~np.isnan(forecasts.mean_S)
    size = 0.15 / max(known.sum(), 1)
    for rule, direction, annual in (
        (rules.sign, np.sign(forecasts.mean_S), forecasts.std_S * math.sqrt(252 / 5)),
        (rules.always_long, np.ones(8), forecasts.scale_S * math.sqrt(252)),
    ):
        risk = rule(forecasts, past, volatility=15.0) * annual
        np.testing.assert_allclose(risk[known], (direction * size)[known])
    silent = replace(forecasts, std_S=np.full(8, np.nan))
    risk = rules.sign(silent, past, volatility=15.0) * forecasts.scale_S * math.sqrt(252)
    np.testing.assert_allclose(np.abs(risk[known]), size, err_msg="trailing, if none is stated")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), sessions=st.integers(1, 70))
def test_sign_12m_counts_each_symbol_in_its_own_sessions(seed: int, sessions: int) -> None:
    forecasts, past = outlook(seed)
    weights = rules.sign_12m(forecasts, past, volatility=10.0, sessions=sessions)
    signs = []
    for s in range(8):
        own = [r for r in past[:, s].tolist() if not math.isnan(r)][-sessions:]
        enough = len(own) == sessions and not math.isnan(forecasts.scale_S[s])
        growth = math.prod(1 + r for r in own)
        signs.append((1 if growth > 1 else -1) if enough else 0)
    np.testing.assert_array_equal(np.sign(weights), signs)


def test_inverse_volatility_gives_equal_risk_and_spends_all() -> None:
    forecasts, past = outlook(5)
    weights = rules.inverse_volatility(forecasts, past)
    risk = (weights * forecasts.std_S)[~np.isnan(forecasts.std_S)]
    assert weights.sum() == pytest.approx(1) and np.ptp(risk) < 1e-15


def test_buy_and_hold_decides_once() -> None:
    forecasts, past = outlook(5)
    first = rules.buy_and_hold(forecasts, past)
    np.testing.assert_array_equal(first, rules.equal_weight(forecasts, past))
    held = replace(forecasts, previous_S=np.linspace(0, 0.2, 8))
    assert rules.buy_and_hold(held, past) is held.previous_S


@pytest.mark.parametrize("name", ["long_short", "inverse_volatility", "minimum_variance"])
def test_without_volatilities_nothing_is_held_where_they_are_needed(name: str) -> None:
    forecasts, past = outlook(5, std_S=np.full(8, np.nan))
    options = (OPTIONS | OPTIMISED)[name]
    assert not RULES[name](forecasts, past, **options).any()
    assert rules.needs_volatility(name, options)


@pytest.mark.parametrize("name", [*OPTIONS, *OPTIMISED])
def test_the_rules_that_need_volatilities_are_those_that_hold_nothing_without(name: str) -> None:
    forecasts, past = outlook(5, std_S=np.full(8, np.nan))
    options = {**(OPTIONS | OPTIMISED)[name]}
    for by in ("ratio", "mean") if "by" in options else (None,):
        options |= {} if by is None else {"by": by}
        held = RULES[name](forecasts, past, **options).any()
        assert held != rules.needs_volatility(name, options)


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("long_short", "share", 0.0),
        ("long_short", "share", 0.51),
        ("long_short", "by", "median"),
        ("top_k", "k", 0),
        ("sign", "volatility", 0.0),
        ("always_long", "volatility", math.inf),
        ("sign_12m", "sessions", 0),
        ("minimum_variance", "window", 1),
        ("mean_variance", "risk_aversion", -1.0),
    ],
)
def test_options_out_of_range_are_refused(name: str, option: str, value: Any) -> None:
    forecasts, past = outlook(1)
    options = (OPTIONS | OPTIMISED)[name] | {option: value}
    with pytest.raises(ForecastError, match=f"^{option}={value} "):
        RULES[name](forecasts, past, **options)


def test_the_simple_mean_is_that_of_the_lognormal() -> None:
    mean, std = np.array([-0.02, 0.0, 0.03]), np.array([0.01, 0.02, 0.3])
    wanted = lognorm(s=std, scale=np.exp(mean)).mean() - 1
    np.testing.assert_allclose(simple_mean(mean, std), wanted)
    np.testing.assert_allclose(simple_mean(mean, np.full(3, np.nan)), np.exp(mean) - 1)
