"""Caps hold and change no more than they must; forecasts that come too late are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forecast.config import ForecastError, instantiate
from forecast.portfolio.limits import Limits, check_fill

WEIGHTS = arrays(np.float64, 6, elements=st.floats(-3, 3).map(lambda x: round(x, 3)))
CAP = st.none() | st.floats(0.01, 3)
FREE: dict[str, Any] = {
    "models": None,
    "horizon": None,
    "rebalance": 1,
    "max_position": None,
    "max_gross": None,
    "max_net": None,
    "stale": 5,
    "rules": {},
}


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS, position=CAP, gross=CAP, net=st.just(0.0) | CAP)
def test_caps_hold_and_no_position_grows_or_turns(
    weights: np.ndarray, position: float | None, gross: float | None, net: float | None
) -> None:
    limits = Limits(**FREE | {"max_position": position, "max_gross": gross, "max_net": net})
    found = limits.capped(weights)
    assert position is None or np.abs(found).max() <= position + 1e-12
    assert gross is None or np.abs(found).sum() <= gross + 1e-12
    assert net is None or abs(found.sum()) <= net + 1e-12
    assert (found * weights >= 0).all() and (np.abs(found) <= np.abs(weights) + 1e-12).all()
    np.testing.assert_allclose(limits.capped(found), found, atol=1e-12)
    within = (
        (position is None or np.abs(weights).max() <= position)
        and (gross is None or np.abs(weights).sum() <= gross)
        and (net is None or abs(weights.sum()) <= net)
    )
    if within:
        np.testing.assert_array_equal(found, weights)


def test_net_is_cut_on_the_heavier_side_and_gross_on_both() -> None:
    weights = np.array([0.6, 0.4, -0.2])
    net = Limits(**FREE | {"max_net": 0.3}).capped(weights)
    np.testing.assert_allclose(net, [0.3, 0.2, -0.2])
    np.testing.assert_allclose(Limits(**FREE | {"max_net": 0.3}).capped(-weights), -net)
    gross = Limits(**FREE | {"max_gross": 0.6}).capped(weights)
    np.testing.assert_allclose(gross, weights / 2)


def test_a_symbol_that_is_not_there_changes_no_bit() -> None:
    limits = Limits(**FREE | {"max_gross": 0.7, "max_net": 0.1})
    weights = np.random.default_rng(0).normal(0, 0.3, 41)
    wider = np.insert(weights, np.arange(0, 40, 3), 0.0)
    np.testing.assert_array_equal(limits.capped(wider)[wider != 0], limits.capped(weights))


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"models": []}, r"strategy.models=\[\] trades nothing"),
        ({"models": "lstm"}, r"Write strategy.models=\[lstm\]"),
        ({"horizon": 0}, "strategy.horizon=0 must be 1"),
        ({"rebalance": 0}, "strategy.rebalance=0 must be 1"),
        ({"max_gross": -1.0}, "strategy.max_gross=-1.0 must be 0 or more"),
        ({"max_net": float("inf")}, "strategy.max_net=inf must"),
        ({"stale": -1}, "strategy.stale=-1 must be 0"),
        ({"caps": 1}, "strategy.caps is unknown"),
        ({"rules": {"a": {"rule": "top_k"}}}, r"strategy.rules.a.k is missing"),
    ],
)
def test_values_that_make_no_sense_are_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ForecastError, match=told) as caught:
        instantiate(FREE | changed, "strategy", Limits)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("execution", ["next_open", "next_close", "close"])
@pytest.mark.parametrize("horizon", [1, 5])
@pytest.mark.parametrize("delay", [0, 1])
def test_only_what_ends_at_the_fill_is_refused(execution: str, horizon: int, delay: int) -> None:
    """Between which closes, counted from the origin, the target and the fill lie."""
    filled = {"close": 0.0, "next_open": 0.5, "next_close": 1.0}[execution]
    late = delay + horizon <= filled
    told = None
    try:
        check_fill(horizon=horizon, delay=delay, execution=execution)
    except ForecastError as error:
        told = str(error)
    assert (told is not None) == late
    if told is not None:
        for remedy in ("target.delay=1", "a longer strategy.horizon", "execution=next_open"):
            assert remedy in told
