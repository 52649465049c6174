"""Scenarios keep every forecast, take their order from what was known, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.config import ForecastError
from forecast.forecasts import LEVELS, QUANTILES, ForecastWriter
from forecast.portfolio.margins import cell_means
from forecast.portfolio.scenarios import Marginals, read_marginals, scenarios, tail_risk

Z = stats.norm.ppf(LEVELS)
LEAST = 100


def make(
    scores: np.ndarray, *, lag: int = 1, missing: float = 0.0, seed: int = 0, first: int = 0
) -> Marginals:
    """Normal forecasts of random width, whose outcomes have given normal scores, (T, S)."""
    rng = np.random.default_rng(seed)
    origins, symbols = scores.shape
    days = np.datetime64("2010-01-04") + np.arange(origins + lag)
    std = rng.uniform(0.5, 2, scores.shape)
    score = np.where(rng.random(scores.shape) < missing, np.nan, scores)
    known = np.broadcast_to(days[lag:, None], scores.shape)
    return Marginals(
        origins=days[:origins],
        symbols=tuple(f"S{s}" for s in range(symbols)),
        delay=0,
        stated_TS=np.broadcast_to(np.arange(origins)[:, None] >= first, scores.shape).copy(),
        quantile_TSQ=(std[..., None] * Z).astype(np.float32),
        shortfall_TS=np.where(np.arange(scores.shape[1]) % 2, std * -3.0, np.nan),
        actual_TS=score * std,
        score_TS=score,
        known_TS=np.where(np.isnan(score), np.datetime64("NaT"), known),
    )


def correlated(origins: int, symbols: int, correlation: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(origins, 1)) * np.sqrt(correlation)
    return common + rng.normal(size=(origins, symbols)) * np.sqrt(1 - correlation)


def correlations(return_SN: np.ndarray) -> np.ndarray:
    """Rank correlations of all pairs of symbols."""
    matrix = np.atleast_2d(stats.spearmanr(return_SN, axis=1).statistic)
    return matrix[np.triu_indices(len(matrix), 1)] if len(matrix) > 1 else matrix[0]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), lag=st.integers(1, 6), missing=st.sampled_from([0.0, 0.2]))
def test_every_symbol_keeps_its_forecast(seed: int, lag: int, missing: float) -> None:
    marginals = make(correlated(130, 3, 0.5, seed), lag=lag, missing=missing, seed=seed)
    for t, symbols, returns in scenarios(marginals, template=110, least=LEAST):
        quantiles = marginals.quantile_TSQ[t, symbols].astype(np.float64)
        means = cell_means(quantiles, marginals.shortfall_TS[t, symbols], returns.shape[1])
        wanted = np.expm1(means / 100)
        np.testing.assert_allclose(np.sort(returns, axis=1), wanted, rtol=1e-12, atol=1e-15)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), lag=st.integers(1, 6))
def test_the_order_is_that_of_the_past_pits(seed: int, lag: int) -> None:
    """Against ranks by scipy, origin by origin."""
    scores = correlated(140, 4, 0.4, seed)
    asked = []
    for t, symbols, returns in scenarios(make(scores, lag=lag), template=110, least=LEAST):
        known = [k for k in range(t) if k + lag < t][-110:]
        assert symbols.tolist() == [0, 1, 2, 3] and returns.shape == (4, len(known))
        np.testing.assert_array_equal(
            stats.rankdata(returns, axis=1), stats.rankdata(scores[known].T, axis=1)
        )
        asked.append(t)
    # A target that ends on the day of the origin is not known before it.
    assert asked == list(range(LEAST + lag, 140))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(110, 150), lag=st.integers(1, 5))
def test_nothing_later_matters(seed: int, cut: int, lag: int) -> None:
    whole = make(correlated(160, 3, 0.5, seed), lag=lag, missing=0.1, seed=seed)
    # What is known on the day of the last origin may be anything, too.
    unknown = whole.known_TS[: cut + 1] >= whole.origins[cut]
    early = replace(
        whole,
        origins=whole.origins[: cut + 1],
        stated_TS=whole.stated_TS[: cut + 1],
        quantile_TSQ=whole.quantile_TSQ[: cut + 1],
        shortfall_TS=whole.shortfall_TS[: cut + 1],
        actual_TS=np.where(unknown, np.nan, whole.actual_TS[: cut + 1]),
        score_TS=np.where(unknown, np.nan, whole.score_TS[: cut + 1]),
        known_TS=np.where(unknown, np.datetime64("NaT"), whole.known_TS[: cut + 1]),
    )
    options = {"template": 120, "least": LEAST}
    found = {t: returns for t, _, returns in scenarios(whole, **options) if t <= cut}
    again = {t: returns for t, _, returns in scenarios(early, **options)}
    assert found and found.keys() == again.keys()
    for t, returns in found.items():
        np.testing.assert_array_equal(returns, again[t])


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_dependence_is_that_of_the_past(correlation: float) -> None:
    marginals = make(correlated(600, 5, correlation), first=599)
    ((_, _, returns),) = scenarios(marginals)
    wanted = 6 / np.pi * np.arcsin(correlation / 2)  # rank correlation of a normal copula
    np.testing.assert_allclose(correlations(returns), wanted, atol=0.12)
    assert correlations(returns).mean() == pytest.approx(wanted, abs=0.05)


def test_a_symbol_without_a_past_depends_on_the_others_as_they_do_on_each_other() -> None:
    marginals = make(correlated(600, 12, 0.5), first=599)
    marginals.known_TS[:, 0] = "NaT"
    marginals.score_TS[:, 0] = np.nan
    ((_, symbols, returns),) = scenarios(marginals)
    pairs = np.array([stats.spearmanr(returns[0], other).statistic for other in returns[1:]])
    assert len(symbols) == 12 and abs(pairs.mean() - 0.5) < 0.08


def test_origins_that_less_than_half_of_the_symbols_share_are_no_template() -> None:
    """Weekends of a panel of shares and a currency: the currency alone has sessions."""
    scores = correlated(400, 3, 0.5)
    scores[::3, :2] = np.nan
    marginals = make(scores, first=399)
    ((_, _, returns),) = scenarios(marginals, template=200, least=LEAST)
    there = [k for k in range(398) if k % 3][-200:]
    np.testing.assert_array_equal(
        stats.rankdata(returns, axis=1), stats.rankdata(scores[there].T, axis=1)
    )


def test_only_symbols_forecast_today_take_part() -> None:
    marginals = make(correlated(200, 3, 0.5), first=199)
    marginals.stated_TS[199, 1] = False
    ((t, symbols, returns),) = scenarios(marginals, least=LEAST)
    assert (t, symbols.tolist(), returns.shape) == (199, [0, 2], (2, 198))


def test_tied_pits_do_not_look_like_dependence() -> None:
    scores = np.full((600, 2), -6.0)  # off the scale on every day
    ((_, _, returns),) = scenarios(make(scores, first=599))
    assert abs(correlations(returns)[0]) < 0.15
    ((_, _, again),) = scenarios(make(scores, first=599))
    np.testing.assert_array_equal(returns, again)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    number=st.integers(100, 600),
    level=st.sampled_from([0.01, 0.025, 0.05]),
)
def test_risk_of_scenarios_is_numpys_quantile_and_the_mean_below(
    seed: int, number: int, level: float
) -> None:
    values = np.sort(np.random.default_rng(seed).normal(size=(3, number)), axis=1)
    at_risk, shortfall = tail_risk(values[:, : int(0.05 * number + 0.5) + 1], number, level)
    quantile = np.quantile(values, level, axis=1, method="hazen")
    np.testing.assert_allclose(at_risk, quantile, rtol=1e-9)
    share, total = level * number, np.zeros(3)
    for k in range(number):
        total += values[:, k] * min(max(share - k, 0), 1)
    np.testing.assert_allclose(shortfall, total / share, rtol=1e-9)
    assert (shortfall <= at_risk).all()


@pytest.mark.parametrize("law", [stats.norm(), stats.t(4)], ids=["normal", "t4"])
@pytest.mark.parametrize(("number", "error"), [(250, 0.006), (500, 1e-3)])
def test_one_symbol_alone_has_the_risk_that_its_forecast_states(
    law: stats.rv_continuous, number: int, error: float
) -> None:
    es = law.expect(lb=-np.inf, ub=law.ppf(0.01)) / 0.01
    values = cell_means(law.ppf(LEVELS)[None], np.array([es]), number)
    for level in (0.01, 0.05):
        at_risk, _ = tail_risk(values, number, level)
        assert law.cdf(at_risk[0]) == pytest.approx(level, rel=0.015)
    assert tail_risk(values, number, 0.01)[1] == pytest.approx(es, rel=error)


def rows_of(part: str, days: range, *, fold: int = 0, std: float = 1.0) -> pd.DataFrame:
    """Normal forecasts one session ahead of two symbols; the outcome is the day's number."""
    date = np.datetime64("2020-01-01", "s") + np.array(days) * np.timedelta64(1, "D")
    block = pd.concat(
        [
            pd.DataFrame(
                {
                    "model": "lstm",
                    "fold": fold,
                    "part": part,
                    "symbol": symbol,
                    "origin": date,
                    "horizon": 1,
                    "delay": 1,
                    "target_date": date + np.timedelta64(2, "D"),
                    "price": 1.0,
                    "scale": 1.0,
                    "actual": np.array(days, float) / 10,
                    "realized_variance": 1.0,
                    "mean": 0.0,
                    "std": std,
                }
            )
            for symbol in ("A", "B")
        ],
        ignore_index=True,
    )
    return block.assign(**dict(zip(QUANTILES, std * Z, strict=True)))


def write(path: Path, *blocks: pd.DataFrame) -> Path:
    with ForecastWriter(path) as writer:
        for block in blocks:
            writer.write(block)
    return path


def test_a_table_becomes_arrays_and_other_parts_only_give_pits(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.parquet", rows_of("validation", range(5)), rows_of("test", range(5, 9))
    )
    found = read_marginals(path, model="lstm", part="test", horizon=1)
    assert found is not None and found.symbols == ("A", "B") and found.delay == 1
    assert found.stated_TS[:, 0].tolist() == [False] * 5 + [True] * 4
    np.testing.assert_allclose(found.score_TS[:, 1], np.arange(9) / 10, atol=1e-6)
    np.testing.assert_array_equal(found.known_TS[:, 0] - found.origins, np.timedelta64(2, "D"))
    np.testing.assert_allclose(found.quantile_TSQ[3, 0], Z, rtol=1e-6)
    assert np.isnan(found.shortfall_TS).all()
    other = write(tmp_path / "g.parquet", rows_of("test", range(5)).assign(es01=-3.0))
    stated = read_marginals(other, model="lstm", part="test", horizon=1)
    assert stated is not None and (stated.shortfall_TS == -3).all()
    first = read_marginals(path, model="lstm", part="validation", horizon=1)
    assert first is not None and first.stated_TS[:, 0].tolist() == [True] * 5 + [False] * 4


def test_a_part_keeps_its_own_forecasts_where_another_has_some_too(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.parquet", rows_of("test", range(5)), rows_of("live", range(3, 8), std=2.0)
    )
    for part, width in (("test", [1.0] * 5 + [2.0] * 3), ("live", [1.0] * 3 + [2.0] * 5)):
        found = read_marginals(path, model="lstm", part=part, horizon=1)
        assert found is not None
        np.testing.assert_allclose(found.quantile_TSQ[:, 0, 0] / Z[0], width, rtol=1e-6)


def test_validation_rows_of_later_folds_do_not_count(tmp_path: Path) -> None:
    one = [rows_of("validation", range(5)), rows_of("test", range(5, 9))]
    other = [
        rows_of("validation", range(3, 9), fold=1, std=3.0),
        rows_of("test", range(9, 12), fold=1),
    ]
    found = read_marginals(
        write(tmp_path / "f.parquet", one[0], other[0], one[1], other[1]),
        model="lstm",
        part="test",
        horizon=1,
    )
    assert found is not None
    np.testing.assert_allclose(found.score_TS[:, 0], np.arange(12) / 10, atol=1e-6)
    np.testing.assert_allclose(found.quantile_TSQ[:, 0, 0], Z[0], rtol=1e-6)


def test_a_model_without_quantiles_has_no_scenarios(tmp_path: Path) -> None:
    block = rows_of("test", range(5)).assign(**dict.fromkeys((*QUANTILES, "std"), np.nan))
    path = write(tmp_path / "f.parquet", block)
    assert read_marginals(path, model="lstm", part="test", horizon=1) is None


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", rows_of("test", range(5)))
    for asked in (
        {"model": "gru", "part": "test", "horizon": 1},
        {"model": "lstm", "part": "validation", "horizon": 1},
        {"model": "lstm", "part": "test", "horizon": 5},
    ):
        with pytest.raises(ForecastError, match="sessions ahead, from which") as error:
            read_marginals(path, **asked)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    for template, least in ((500, 99), (200, 250)):
        with pytest.raises(ForecastError, match=f"least {least} of the last {template} origins"):
            next(scenarios(make(np.zeros((5, 1))), template=template, least=least))
