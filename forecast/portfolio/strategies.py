"""Rules that turn what a model states at an origin into weights.

A rule is a pure function of an `Outlook` and of past returns: `rule(forecasts, past_returns,
**options) -> weights`, a fraction of equity per symbol. Built-in ones stand here; anybody's own is
used in the same way. What a model does not state is NaN, and such a symbol gets no weight.

Symbols that tie are treated alike: where a rule takes the best n of them and several have the n-th
best value, these share the weight of the places that are left. So neither names nor their order
decide, and where all tie a long–short portfolio is empty.

Axes: T dates, S symbols, Q levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecast.config import ForecastError
from forecast.portfolio.optimisation import best_weights, shrunk_correlation

Rule = Callable[..., np.ndarray]  # rule(forecasts: Outlook, past_returns_TS, **options) -> (S,)

PERCENT = 0.01
SORTING = ("mean", "ratio")


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """What a model states at the close of one origin; arrays are read-only.

    Attributes
    ----------
    origin : datetime64[D]
    symbols : tuple of str, (S,)
    horizon : int
        Sessions that the forecasts look ahead.
    periods : float
        Sessions a year, counted in the dates up to the origin.
    mean_S : array of float64
        Expected simple return over the target, a fraction: see `simple_mean`.
    std_S : array of float64
        Standard deviation of the log return over the target, a fraction. Where a model states
        quantiles alone, that of the normal with the same distance from the 10 % to the 90 % one.
    quantiles_SQ : array of float64
        Simple returns at the 21 levels of `forecast.schema.LEVELS`, exact.
    scale_S : array of float64
        Trailing volatility per session, a fraction.
    previous_S : array of float64
        The strategy's weights as they have drifted since it last decided; 0 at first. A rule that
        returns them keeps what is held.
    """

    origin: np.datetime64
    symbols: tuple[str, ...]
    horizon: int
    periods: float
    mean_S: np.ndarray
    std_S: np.ndarray
    quantiles_SQ: np.ndarray
    scale_S: np.ndarray
    previous_S: np.ndarray


def simple_mean(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Expected simple return from mean and standard deviation of the log return, fractions.

    exp(m + s²/2) − 1: exact for a normal log return, an approximation for any other. Without a
    standard deviation it is exp(m) − 1, which is too low by about s²/2.
    """
    with np.errstate(over="ignore"):
        return np.expm1(mean + np.nan_to_num(std) ** 2 / 2)


def long_short(
    forecasts: Outlook, past_returns_TS: np.ndarray, *, share: float, by: str
) -> np.ndarray:
    """Half the equity long in the best share of the symbols, half short in the worst.

    By expected return (`mean`) or expected return over volatility (`ratio`).
    """
    if not 0 < share <= 0.5:
        raise ForecastError(f"share={share} must be above 0 and at most 0.5.")
    if by not in SORTING:
        raise ForecastError(f"by={by} is unknown: choose {' or '.join(SORTING)}.")
    value_S = forecasts.mean_S
    if by == "ratio":
        value_S = value_S / _volatility(forecasts)
    weights_S, known = _nothing(value_S)
    if len(known) > 1:
        places = max(1, int(share * len(known) + 1e-9))  # 0.29 · 100 is 28.999… in binary
        value = value_S[known]
        weights_S[known] = (_best(value, places) - _best(-value, places)) / 2
    return weights_S


def top_k(forecasts: Outlook, past_returns_TS: np.ndarray, *, k: int) -> np.ndarray:
    """The k symbols of highest expected return in equal parts; all, where there are fewer."""
    if k < 1:
        raise ForecastError(f"k={k} must be 1 or more symbols.")
    weights_S, known = _nothing(forecasts.mean_S)
    if len(known):
        weights_S[known] = _best(forecasts.mean_S[known], min(k, len(known)))
    return weights_S


def sign(forecasts: Outlook, past_returns_TS: np.ndarray, *, volatility: float) -> np.ndarray:
    """Long where the expected return is positive, short where it is negative.

    Each position has the same volatility, by the forecast or, where a model states none, by the
    trailing one.
    """
    own_S = forecasts.std_S * np.sqrt(forecasts.periods / forecasts.horizon)
    trailing_S = forecasts.scale_S * np.sqrt(forecasts.periods)
    return _targeted(
        np.sign(forecasts.mean_S), np.where(np.isnan(own_S), trailing_S, own_S), volatility
    )


def inverse_volatility(forecasts: Outlook, past_returns_TS: np.ndarray) -> np.ndarray:
    """All symbols in proportion to one over their forecast volatility; no debt, no cash."""
    std_S = _volatility(forecasts)
    weights_S, known = _nothing(std_S)
    if len(known):
        inverse = 1 / std_S[known]
        weights_S[known] = inverse / inverse.sum()
    return weights_S


def minimum_variance(forecasts: Outlook, past_returns_TS: np.ndarray, *, window: int) -> np.ndarray:
    """The long-only portfolio of least variance: forecast volatilities, trailing correlations."""
    return _optimal(forecasts, past_returns_TS, window, None)


def mean_variance(
    forecasts: Outlook, past_returns_TS: np.ndarray, *, window: int, risk_aversion: float
) -> np.ndarray:
    """The long-only portfolio of highest expected return less risk_aversion times its variance."""
    if not 0 <= risk_aversion < np.inf:
        raise ForecastError(f"risk_aversion={risk_aversion} must be 0 or more, and finite.")
    return _optimal(forecasts, past_returns_TS, window, risk_aversion)


def equal_weight(forecasts: Outlook, past_returns_TS: np.ndarray) -> np.ndarray:
    """The same weight in every symbol that is traded."""
    weights_S, known = _nothing(forecasts.scale_S)
    if len(known):
        weights_S[known] = 1 / len(known)
    return weights_S


def buy_and_hold(forecasts: Outlook, past_returns_TS: np.ndarray) -> np.ndarray:
    """Equal weights, decided once and never again."""
    if forecasts.previous_S.any():
        return forecasts.previous_S
    return equal_weight(forecasts, past_returns_TS)


def always_long(
    forecasts: Outlook, past_returns_TS: np.ndarray, *, volatility: float
) -> np.ndarray:
    """Long in every symbol, each position with the same trailing volatility."""
    annual_S = forecasts.scale_S * np.sqrt(forecasts.periods)
    return _targeted(np.ones_like(annual_S), annual_S, volatility)


def sign_12m(
    forecasts: Outlook, past_returns_TS: np.ndarray, *, volatility: float, sessions: int = 252
) -> np.ndarray:
    """Long where the return over the past sessions is positive, short where it is negative.

    Each position has the same trailing volatility (Moskowitz, Ooi and Pedersen 2012, with the 252
    sessions of a year for its 12 months). No weight before a symbol has had that many.
    """
    if sessions < 1:
        raise ForecastError(f"sessions={sessions} must be 1 or more.")
    past_TS = past_returns_TS[-sessions:]
    past_S = (1 + past_TS).prod(axis=0) - 1
    if len(past_TS) < sessions:
        past_S = np.full_like(past_S, np.nan)
    for s in np.flatnonzero(np.isnan(past_S)):  # sessions are missing: go back to earlier ones
        own = past_returns_TS[:, s]
        own = own[~np.isnan(own)][-sessions:]
        past_S[s] = np.prod(1 + own) - 1 if len(own) == sessions else np.nan
    annual_S = forecasts.scale_S * np.sqrt(forecasts.periods)
    return _targeted(np.sign(past_S), annual_S, volatility)


RULES: dict[str, Rule] = {
    "long_short": long_short,
    "top_k": top_k,
    "sign": sign,
    "inverse_volatility": inverse_volatility,
    "minimum_variance": minimum_variance,
    "mean_variance": mean_variance,
    "equal_weight": equal_weight,
    "buy_and_hold": buy_and_hold,
    "always_long": always_long,
    "sign_12m": sign_12m,
}


def needs_volatility(rule: str, options: Mapping[str, Any]) -> bool:
    """Whether a built-in rule holds nothing at all without forecasts of volatility."""
    by_ratio = rule == "long_short" and options.get("by") == "ratio"
    return by_ratio or rule in ("inverse_volatility", "minimum_variance", "mean_variance")


FROM_PRICES = "none"  # the model of benchmarks, which read prices alone
# What every table shows beside the strategies.
BENCHMARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "equal_weight": ("equal_weight", {}),
    "buy_and_hold": ("buy_and_hold", {}),
    "always_long": ("always_long", {"volatility": 15.0}),
    "sign_12m": ("sign_12m", {"volatility": 15.0}),
}


def _nothing(value_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """No weights, and the symbols whose value is known."""
    return np.zeros(len(value_S)), np.flatnonzero(~np.isnan(value_S))


def _volatility(forecasts: Outlook) -> np.ndarray:
    """The forecast volatility; NaN where none is stated, or none that could be divided by."""
    return np.where(forecasts.std_S > 0, forecasts.std_S, np.nan)


def _best(value: np.ndarray, places: int) -> np.ndarray:
    """1/places for each of the best; symbols that tie for the last places share them."""
    last = np.partition(value, -places)[-places]
    above, at = value > last, value == last
    return (above + at * ((places - above.sum()) / at.sum())) / places


def _targeted(direction_S: np.ndarray, annual_S: np.ndarray, volatility: float) -> np.ndarray:
    """Positions of a volatility each (percent a year), divided by their number.

    `annual_S` is the volatility of the symbols, fractions a year. A symbol counts where direction
    and volatility are known, also with a direction of 0.
    """
    if not 0 < volatility < np.inf:
        raise ForecastError(f"volatility={volatility} must be above 0, in percent a year.")
    annual_S = np.where(annual_S > 0, annual_S, np.nan)
    weights_S, known = _nothing(direction_S * annual_S)
    if len(known):
        weights_S[known] = direction_S[known] * (PERCENT * volatility / annual_S[known])
        weights_S /= len(known)
    return weights_S


def _optimal(
    forecasts: Outlook, past_returns_TS: np.ndarray, window: int, risk_aversion: float | None
) -> np.ndarray:
    """Weights by an optimiser; what is held where it finds none."""
    if window < 2:
        raise ForecastError(f"window={window} must be 2 sessions or more.")
    std_S = _volatility(forecasts)
    with_mean = risk_aversion is not None
    weights_S, known = _nothing(std_S + forecasts.mean_S if with_mean else std_S)
    if not len(known):
        return weights_S
    std = std_S[known]
    correlation = shrunk_correlation(past_returns_TS[-window:, known])
    found = best_weights(
        correlation * np.outer(std, std),
        forecasts.mean_S[known] if with_mean else None,
        1.0 if risk_aversion is None else risk_aversion,
    )
    if found is None:
        return forecasts.previous_S
    weights_S[known] = found
    return weights_S
