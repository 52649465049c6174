"""The pooled log-linear t is fit by likelihood and sees neither other rows nor the future."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.dataset.features import FeatureSet, ewma
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.models import pooled as module
from forecast.models.baselines import fit_t
from forecast.models.block import Block, make_block
from forecast.models.distributions import StudentT
from forecast.models.har import HarAbs, HarPooled
from forecast.models.pooled import (
    LEAST_DF,
    WIDEST,
    Design,
    GjrMarket,
    PooledT,
    fit_log_linear_t,
    penalty,
)
from forecast.prices.frame import Prices

pytestmark = pytest.mark.filterwarnings(
    "ignore:Series.values returning:pandas.errors.Pandas4Warning"  # in exchange_calendars
)
PricesOf = Callable[..., Prices]
Model = PooledT | HarAbs
MODELS = ("gjr_market", "har_pooled", "har_abs")
seeds = st.integers(0, 10_000)


def panel_of(prices: Prices, market: str | None = "equal_weight") -> Panel:
    return make_panel(prices, FeatureSet(columns=["return"]), market=market, max_gap=3)


def volatility(panel: Panel) -> np.ndarray:
    """Some causal volatility at every row, unknown for the last symbol."""
    result = np.full(panel.rows, np.nan)
    for s in range(len(panel.symbols) - 1):
        rows = panel.symbol_rows(s)
        result[rows] = np.sqrt(ewma(np.diff(panel.log_price[rows], prepend=np.nan) ** 2, 9))
    return result


def fitted(name: str, panel: Panel, task: Task, fit: Range) -> Model:
    if name == "gjr_market":
        return GjrMarket(panel, task, fit, volatility(panel))
    return HarPooled(panel, task, fit) if name == "har_pooled" else HarAbs(panel, task, fit)


def until(panel: Panel, day: int, task: Task) -> Range:
    """Rows whose targets are known on a day."""
    high = panel.first_row(panel.dates[day]) - task.reach
    return Range(low=panel.offsets[:-1] + 25, high=high)


def whole(panel: Panel, task: Task) -> Block:
    everything = Range(low=panel.offsets[:-1], high=panel.offsets[1:])
    return make_block(panel, task, everything, np.arange(len(panel.symbols)))


def numbers(model: Model, block: Block) -> np.ndarray:
    """Everything that is stated, shape (N, H, 25)."""
    law = model.distribution(block)
    parts = [law.mean, law.std, *law.quantiles.T]  # type: ignore[misc, union-attr]
    parts += [law.expected_shortfall(level) for level in (0.01, 0.05)]
    return np.stack(parts, axis=-1).reshape(*block.unit.shape, 25)


def drawn(seed: int, rows: int, coefficients: list[float], df: float) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(len(coefficients) - 1, rows))
    design = np.concatenate([np.ones((1, rows)), raw])
    return design, np.exp(np.array(coefficients) @ design) * rng.standard_t(df, rows)


# The fit


@settings(max_examples=5, deadline=None)
@given(seed=seeds, df=st.floats(3, 20), weight=st.sampled_from([0.0, 0.01, 1.0]))
def test_no_other_parameters_have_a_higher_penalised_likelihood(
    seed: int, df: float, weight: float
) -> None:
    design, y = drawn(seed, 3000, [0.3, 0.2, -0.4], df)
    coefficients, found_df = fit_log_linear_t(design, y, weight)

    def loss(b: np.ndarray, excess: float) -> float:
        law = stats.t(LEAST_DF + excess, scale=np.exp(b @ design))
        return float(-law.logpdf(y).mean() + weight / 2 * np.sum(b[1:] ** 2))

    excess = found_df - LEAST_DF
    best = loss(coefficients, excess)
    for step in (0.01, -0.01):
        for change in np.eye(3) * step:
            assert loss(coefficients + change, excess) > best
        assert loss(coefficients, excess * np.exp(10 * step)) > best


def test_what_was_planted_is_found() -> None:
    design, y = drawn(0, 100_000, [-0.2, 0.3, 0.0, -0.1], 5.0)
    coefficients, df = fit_log_linear_t(design, y, 0.0)
    np.testing.assert_allclose(coefficients, [-0.2, 0.3, 0.0, -0.1], atol=0.01)
    assert df == pytest.approx(5.0, rel=0.05)


def test_without_regressors_it_is_the_pooled_t_of_the_scale() -> None:
    y = 1.3 * np.random.default_rng(1).standard_t(4, 5000)
    coefficients, df = fit_log_linear_t(np.ones((1, len(y))), y, 0.0)
    sigma, other_df = fit_t(y)
    assert np.exp(coefficients[0]) == pytest.approx(sigma, rel=1e-3)
    assert df == pytest.approx(other_df, rel=1e-2)


def test_the_penalty_is_a_prior_that_weighs_as_much_as_a_number_of_independent_draws() -> None:
    assert penalty(5, 1000) == pytest.approx(5 * penalty(1, 1000))
    assert penalty(1, 2000) == pytest.approx(penalty(1, 1000) / 2)
    design, y = drawn(2, 2000, [0.0, 0.5], 5.0)
    near, far = (fit_log_linear_t(design, y, weight)[0][1] for weight in (0.0, 1.0))
    assert 0 < far < near


def test_prices_that_never_move_and_no_prices_at_all_end_in_finite_numbers() -> None:
    design, _ = drawn(0, 400, [0.0, 0.1, 0.1], 5.0)
    coefficients, df = fit_log_linear_t(design, np.zeros(400), 0.01)
    assert np.isfinite(coefficients).all() and LEAST_DF < df < np.inf
    coefficients, df = fit_log_linear_t(design[:, :0], np.empty(0), 0.01)
    assert coefficients.tolist() == [0, 0, 0] and df > 1000


# The design


def test_regressors_are_standardised_by_the_fitting_rows_and_undefined_ones_are_their_mean() -> (
    None
):
    rng = np.random.default_rng(0)
    raw = np.stack([rng.normal(3, 2, 1000), rng.normal(-1, 0.1, 1000), np.full(1000, 7.0)])
    raw[0, :5] = np.nan
    design = Design.of(raw)
    z = design(raw)
    np.testing.assert_array_equal(z[0], 1)
    np.testing.assert_allclose(z[1, 5:].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(z[1:3, 5:].std(axis=1), 1, rtol=0.01)
    assert (z[1, :5] == 0).all() and (z[3] == 0).all()
    far = design(np.array([[1e9], [-np.inf], [8.0]]))
    assert far.ravel().tolist() == [1, WIDEST, 0, 0]


# What a forecast may depend on


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=3, deadline=None)
@given(seed=seeds, delay=st.integers(0, 1))
def test_a_forecast_and_its_fit_are_the_same_whatever_comes_later(
    random_prices: PricesOf, cut: Callable[..., Prices], name: str, seed: int, delay: int
) -> None:
    prices = random_prices(seed, symbols=6, sessions=420, staggered=False, bars=bool(seed % 2))
    task = Task(horizons=(1, 5), delay=delay)
    full = panel_of(prices)
    last = 370
    past = panel_of(cut(prices, full.dates[last]))
    assert past.symbols == full.symbols
    later = fitted(name, full, task, until(full, 350, task))
    sooner = fitted(name, past, task, until(past, 350, task))
    known = whole(past, task)
    everything = whole(full, task)
    of_past = full.day[everything.row] <= last
    expected = numbers(later, everything)[of_past]
    assert np.isfinite(expected).all() and len(expected) == len(known.row)
    assert numbers(sooner, known).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_a_forecast_does_not_depend_on_the_rows_beside_it(
    random_prices: PricesOf, name: str
) -> None:
    task = Task(horizons=(1, 5))
    panel = panel_of(random_prices(3, symbols=6, sessions=420, staggered=False))
    model = fitted(name, panel, task, until(panel, 350, task))
    block = whole(panel, task)
    together = numbers(model, block)
    for rows in (slice(7, None, 3), slice(100, 101)):
        assert numbers(model, block.take(rows)).tobytes() == together[rows].tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_without_a_market_and_with_symbols_listed_late_all_is_finite(
    random_prices: PricesOf, name: str
) -> None:
    task = Task(horizons=(2, 5), delay=2)
    prices = random_prices(5, symbols=5, sessions=420, halts=3)
    for market in (None, "S0", "equal_weight"):
        panel = panel_of(prices, market)
        stated = numbers(fitted(name, panel, task, until(panel, 350, task)), whole(panel, task))
        assert np.isfinite(stated).all()
        assert (np.diff(stated[..., 2:23]) >= 0).all()
        assert (stated[..., 23:] <= stated[..., 2:4]).all()


@pytest.mark.parametrize("name", MODELS)
def test_without_a_fitting_row_all_is_still_stated(random_prices: PricesOf, name: str) -> None:
    panel = panel_of(random_prices(0, symbols=3))
    task = Task(horizons=(1,))
    low = panel.offsets[:-1]
    # A symbol's own regression falls back on a t that needs some target.
    fit = Range(low=low, high=low + (40 if name == "har_abs" else 0))
    assert np.isfinite(numbers(fitted(name, panel, task, fit), whole(panel, task))).all()


# The models


def test_the_scale_is_the_exponential_of_the_standardised_regressors(
    random_prices: PricesOf,
) -> None:
    task = Task(horizons=(1, 5))
    panel = panel_of(random_prices(1, symbols=6, sessions=300))
    model = GjrMarket(panel, task, until(panel, 250, task), volatility(panel))
    block = whole(panel, task)
    raw = module._gjr_market(block, volatility_N=volatility(panel))
    design = np.concatenate([np.ones((1, len(block.row))), model._design(raw)[1:]])
    sigma = np.exp(design.T @ model.coefficients.T)
    law = StudentT(mu=0.0, sigma=sigma, df=np.broadcast_to(model.df, sigma.shape))
    got = model.distribution(block)
    assert got.std is not None and law.std is not None
    np.testing.assert_allclose(got.std, law.std.ravel(), rtol=1e-12)
    y = np.random.default_rng(0).normal(size=sigma.size)
    expected = stats.t.logpdf(y, np.tile(model.df, len(sigma)), scale=sigma.ravel())
    np.testing.assert_allclose(got.nll(y), -expected, rtol=1e-9)


def test_a_pooled_fit_takes_evenly_spaced_rows_where_there_are_too_many(
    random_prices: PricesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(horizons=(1,))
    panel = panel_of(random_prices(1, symbols=6, sessions=300))
    fit = until(panel, 250, task)
    every, targets, dates = module.sample(panel, task, fit, _first_return)
    monkeypatch.setattr(module, "MOST_VALUES", fit.rows // 2)
    some, thinned, same_dates = module.sample(panel, task, fit, _first_return)
    step = -(-fit.rows // (fit.rows // 2))
    np.testing.assert_array_equal(some, every[:, ::step])
    np.testing.assert_array_equal(thinned, targets[::step])
    assert dates == same_dates


def _first_return(block: Block) -> np.ndarray:
    return module.gathered(block, lambda panel, s, rows: [module.returns(panel, rows)])


def test_the_market_is_seen_a_session_late_by_exchanges_that_close_before_its_own(
    prices_of: PricesOf,
) -> None:
    rng = np.random.default_rng(0)
    close = {f"S{i}": 50 * np.exp(np.cumsum(rng.normal(0, 0.01, 60))) for i in range(2)}
    panel = panel_of(prices_of(close, calendar={"S0": "XNYS", "S1": "XTKS"}), "S0")
    for s, lag in enumerate((0, 1)):
        seen = module.market_rows(panel, s, panel.symbol_rows(s))
        # The market begins with its first return, on the second date.
        np.testing.assert_array_equal(seen, np.maximum(np.arange(60) - 1 - lag, -1))
