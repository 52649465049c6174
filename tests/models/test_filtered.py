"""A GARCH forecasts by its own law where it has one, by its paths beyond."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from arch.univariate import ConstantMean, SkewStudent, StudentsT
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.forecasts import LEVELS, validate
from forecast.models.baselines import EwmaT
from forecast.models.block import Block, make_block
from forecast.models.distributions import SkewedT
from forecast.models.filtered import FilteredGarch
from forecast.models.garch import SPECIFICATIONS, GarchFits
from forecast.models.paths import (
    STD,
)
from forecast.models.pool import MEMBERS, MeanOfGarch
from forecast.prices.frame import Prices

RETURNS = FeatureSet(columns=["return"])
TASK = Task(horizons=(1, 5, 20), warmup=30, length=60)
NAMES = tuple(SPECIFICATIONS)
WITH_LAW = [name for name in SPECIFICATIONS if not SPECIFICATIONS[name].quasi]
FIT_END = 1000


def until(panel: Panel, session: int, first: int = 30) -> Range:
    return Range(low=panel.offsets[:-1] + first, high=panel.offsets[:-1] + session)


def after(panel: Panel, session: int) -> Range:
    return Range(low=panel.offsets[:-1] + session, high=panel.offsets[1:])


def block_of(panel: Panel, rows: Range, task: Task = TASK) -> Block:
    return make_block(panel, task, rows, np.arange(len(panel.symbols)))


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(FIT_END, 1299))
def test_what_is_said_at_a_row_does_not_depend_on_later_prices(
    panel: Panel, ewma_t: EwmaT, seed: int, cut: int
) -> None:
    session = np.concatenate([np.arange(n) for n in np.diff(panel.offsets)])
    noise = np.random.default_rng(seed).normal(0, 9, panel.rows)
    changed = replace(panel, log_price=panel.log_price + np.where(session > cut, noise, 0.0))
    rows = Range(low=panel.offsets[:-1] + FIT_END, high=panel.offsets[:-1] + cut + 1)
    said = []
    for p in (panel, changed):
        baseline = FilteredGarch(GarchFits(p, TASK, until(p, FIT_END)), "gjr_t", ewma_t)
        said.append(baseline.facts(block_of(p, rows), slice(None)))
    assert said[0].tobytes() == said[1].tobytes()


@settings(max_examples=30, deadline=None)
@given(df=st.floats(2.1, 60), skew=st.floats(-0.9, 0.9), z=st.floats(-6, 6))
def test_archs_skewed_t_is_ours(df: float, skew: float, z: float) -> None:
    law = SkewedT(mu=[0.0], sigma=[1.0], df=[df], skew=[skew])
    parameters = np.array([df, skew])
    theirs = SkewStudent().loglikelihood(parameters, np.array([z]), np.ones(1), individual=True)
    np.testing.assert_allclose(law.nll([z]), -theirs, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(
        law.pit([z]), SkewStudent().cdf(np.array([z]), parameters), atol=1e-9
    )
    quantiles = SkewStudent().ppf(np.array(LEVELS), parameters)
    np.testing.assert_allclose(law.quantiles[0], quantiles, atol=1e-6)


@pytest.mark.parametrize("name", WITH_LAW)
def test_the_next_session_is_scored_by_the_likelihood_that_arch_maximises(
    fits: GarchFits, ewma_t: EwmaT, panel: Panel, name: str
) -> None:
    block = block_of(panel, after(panel, FIT_END))
    said = FilteredGarch(fits, name, ewma_t).distribution(block)
    frame = block.table(said, model=name, part="test", fold=0).to_pandas()
    frame = frame[(frame["horizon"] == 1) & frame["actual"].notna()]
    for s, (symbol, mine) in enumerate(frame.groupby("symbol", observed=True)):
        fit = fits.of(name)[s]
        variance = fits.variance(name)[block.row[block.symbol == s]][: len(mine)]
        shock = mine["actual"].to_numpy() - fit.mean * fit.unit
        law = {"StudentsT": StudentsT, "SkewStudent": SkewStudent}[fit.specification.law]()
        parameters = np.array(fit.law)
        expected = -law.loglikelihood(parameters, shock, variance, individual=True)
        np.testing.assert_allclose(mine["nll"], expected, rtol=1e-5, atol=1e-5, err_msg=symbol)
        z = shock / np.sqrt(variance)
        np.testing.assert_allclose(mine["pit"], law.cdf(z, parameters), atol=1e-5)
        expected = fit.mean * fit.unit + np.sqrt(variance)[:, None] * law.ppf(
            np.array(LEVELS), parameters
        )
        quantiles = mine[[c for c in mine if c.startswith("q") and c[1:].isdigit()]]
        np.testing.assert_allclose(quantiles, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(mine["std"], np.sqrt(variance), rtol=1e-5)
        for column, level in (("es01", 0.01), ("es05", 0.05)):
            below = law.partial_moment(1, law.ppf(level, parameters), parameters)
            shortfall = fit.mean * fit.unit + np.sqrt(variance) * below / level
            np.testing.assert_allclose(mine[column], shortfall, rtol=2e-3)


def test_beyond_the_next_session_there_is_no_density(
    fits: GarchFits, ewma_t: EwmaT, panel: Panel
) -> None:
    block = block_of(panel, after(panel, FIT_END))
    for name in NAMES:
        said = FilteredGarch(fits, name, ewma_t).distribution(block)
        frame = validate(block.table(said, model=name, part="test", fold=0), name).to_pandas()
        known = frame[frame["actual"].notna()]
        scored = known[["nll", "pit", "crps_exact"]].notna().all(axis=1)
        assert (scored == (known["horizon"].eq(1) & (name in WITH_LAW))).all()
        stated = frame.filter(regex="^(q[0-9]+|mean|std|es0[15])$")
        assert np.isfinite(stated).all(axis=None) and stated.shape[1] == 25
        assert (frame["es01"] < frame["q01"]).all() and (frame["es05"] < frame["q05"]).all()


def test_the_same_seed_gives_the_same_bytes_whichever_rows_are_asked_for(
    fits: GarchFits, ewma_t: EwmaT, panel: Panel
) -> None:
    again = GarchFits(panel, TASK, until(panel, FIT_END))
    whole = block_of(panel, after(panel, FIT_END))
    row = Range(low=panel.offsets[:-1] + 1100, high=panel.offsets[:-1] + [0, 1101, 0])
    few = block_of(panel, row)
    place = np.flatnonzero(whole.row == few.row[0])[0]
    makers: list[Callable[[GarchFits], Any]] = [
        lambda f: FilteredGarch(f, "egarch_t", ewma_t),
        lambda f: MeanOfGarch([FilteredGarch(f, name, ewma_t) for name in MEMBERS]),
    ]
    for make in makers:
        one, other = make(fits).distribution(whole), make(again).distribution(few)
        for attribute in ("mean", "std", "quantiles"):
            picked = getattr(one, attribute).reshape(len(whole.row), 3, -1)[place]
            assert picked.tobytes() == getattr(other, attribute).tobytes()


def test_with_a_delay_the_target_is_simulated_from_its_start_on(
    panel: Panel, fits: GarchFits
) -> None:
    task = replace(TASK, horizons=(1, 5), delay=1)
    late, ewma = (
        GarchFits(panel, task, until(panel, FIT_END)),
        EwmaT(panel, task, until(panel, 900)),
    )
    block = block_of(panel, after(panel, FIT_END), task)
    variance = np.array([1.0])
    for name in NAMES:
        said = FilteredGarch(late, name, ewma).distribution(block)
        frame = block.table(said, model=name, part="test", fold=0).to_pandas()
        assert frame[["nll", "pit", "crps_exact"]].isna().all(axis=None)
        assert np.isfinite(said.quantiles).all()
        fit = late.of(name)[0]
        assert fit.mean == fits.of(name)[0].mean  # the fit knows nothing of the delay
        step = fit.step(np.ones(len(fit.residuals)), fit.residuals)
        std = np.sqrt(step.mean() * np.mean(fit.residuals**2))
        assert late.table(name, 0).at(variance, slice(0, 2))[0, 0, STD] == pytest.approx(
            std, rel=0.03
        )


@pytest.mark.parametrize("flag", ["flag", "raises", "explosive", "infinite"])
def test_a_fit_that_fails_leaves_the_symbol_to_ewma_t(
    panel: Panel, ewma_t: EwmaT, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_fit = ConstantMean.fit

    def fit(self: Any, *args: Any, **options: Any) -> Any:
        result = true_fit(self, *args, **options)
        if flag == "raises":
            raise ValueError("no starting value")
        if flag == "flag":
            result._optim_output.status = 9
        if flag == "explosive":
            result._params[-2] = 1.2  # beta of the GARCH with a t
        if flag == "infinite":
            result._params[0] = np.nan
        return result

    monkeypatch.setattr(ConstantMean, "fit", fit)
    fits = GarchFits(panel, TASK, until(panel, FIT_END))
    block = block_of(panel, after(panel, FIT_END))
    baseline = FilteredGarch(fits, "garch_t", ewma_t)
    assert baseline.fallbacks == panel.symbols
    assert np.isnan(fits.variance("garch_t")).all()
    np.testing.assert_array_equal(fits.volatility("garch_t"), panel.scale)
    assert_same_as_ewma_t(baseline, block, ewma_t)


def assert_same_as_ewma_t(baseline: Any, block: Block, ewma_t: EwmaT) -> None:
    said, plain = baseline.distribution(block), ewma_t.distribution(block)
    np.testing.assert_allclose(said.mean, plain.mean, atol=1e-12)
    np.testing.assert_allclose(said.std, plain.std)
    np.testing.assert_allclose(said.quantiles, plain.quantiles, atol=1e-6)
    for level in LEVELS[:2]:
        shortfall = plain.expected_shortfall(level)
        np.testing.assert_allclose(said.expected_shortfall(level), shortfall, rtol=2e-3)
    y = block.scaled_actual.reshape(-1, len(TASK.horizons))[:, 0]
    for score in ("nll", "pit", "crps"):
        one, other = (getattr(d, score)(block.scaled_actual.ravel()) for d in (said, plain))
        if one is not None:
            one, other = (x.reshape(len(y), -1)[:, 0] for x in (one, other))
            np.testing.assert_allclose(one, other, atol=1e-9)


def test_short_symbols_fall_back_beside_others_that_do_not(garch_prices: Prices) -> None:
    frame = garch_prices.frame
    listed = frame.groupby("symbol", observed=True)["date"].transform("min")
    session = (frame["date"] - listed).dt.days * 5 // 7
    short = frame["symbol"].eq("SIM0002") & (session < 800)
    panel = make_panel(replace(garch_prices, frame=frame[~short].reset_index(drop=True)), RETURNS)
    fit = until(panel, 200)
    fit.high[[0, 2]] = panel.offsets[[0, 2]] + FIT_END
    fits, ewma_t = GarchFits(panel, TASK, fit), EwmaT(panel, TASK, fit)
    rows = Range(low=panel.offsets[:-1] + 300, high=panel.offsets[1:])
    alone = make_block(panel, TASK, rows, np.array([1]))
    whole = block_of(panel, rows)
    members = []
    for name in NAMES:
        baseline = FilteredGarch(fits, name, ewma_t)
        assert baseline.fallbacks == ("SIM0002",)
        assert_same_as_ewma_t(baseline, alone, ewma_t)
        said = baseline.distribution(whole)
        assert np.isfinite(said.quantiles).all()
        if name in MEMBERS:
            members.append(baseline)
    pool = MeanOfGarch(members)
    assert pool.fallbacks == ("SIM0002",)
    said, plain = pool.distribution(alone), ewma_t.distribution(alone)
    np.testing.assert_allclose(said.std, plain.std)
    np.testing.assert_allclose(said.quantiles, plain.quantiles, atol=0.01)
