"""Direction against loops over dates, scipy and statsmodels; size under nulls, planted signals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from forecast.config import ForecastError
from forecast.evaluation.direction import DIRECTION, Direction
from forecast.evaluation.inference import mean_test

Found = dict[str, float | None]


def make_table(
    mean: Any, actual: Any, *, scale: Any = 1.0, model: str = "lstm", horizon: int = 1
) -> pd.DataFrame:
    """Rows of arrays of shape (dates, symbols)."""
    actual = np.asarray(actual, np.float64)
    dates, symbols = actual.shape
    days = pd.bdate_range("2015-01-01", periods=dates).to_numpy().astype("datetime64[s]")
    wide = {name: np.broadcast_to(x, actual.shape) for name, x in (("mean", mean), ("s", scale))}
    block = pd.DataFrame(
        {
            "part": "test",
            "model": model,
            "symbol": np.tile([f"S{s:02d}" for s in range(symbols)], dates),
            "origin": np.repeat(days, symbols),
            "horizon": np.int16(horizon),
            "actual": actual.ravel(),
            "mean": wide["mean"].ravel().astype(np.float32),
            "scale": wide["s"].ravel().astype(np.float64),
        }
    )
    return block.astype(dict.fromkeys(("part", "model", "symbol"), "category"))


def summary(*blocks: pd.DataFrame) -> dict[str, Any]:
    direction = Direction()
    for block in blocks:
        direction.add(block)
    return direction.summary().get("test", {})


def describe(*blocks: pd.DataFrame, model: str = "lstm") -> Found:
    (found,) = summary(*blocks)[model].values()
    return found


def returns(seed: int, dates: int, symbols: int, horizon: int = 1) -> np.ndarray:
    """Heavy-tailed returns over h sessions which half of their variance is common to."""
    rng = np.random.default_rng(seed)
    shape = dates + horizon, symbols
    daily = rng.standard_t(5, shape) + rng.standard_t(5, (shape[0], 1))
    sums = np.cumsum(daily, axis=0)
    return sums[horizon:] - sums[:-horizon]


def persistent(seed: int, dates: int, symbols: int) -> np.ndarray:
    """Means that change slowly, as those of networks do."""
    rng = np.random.default_rng((seed, 1))
    noise = rng.normal(size=(dates, symbols)) + rng.normal(size=(dates, 1))
    noise[0] /= np.sqrt(1 - 0.8**2)
    return 0.1 * signal.lfilter([1], [1, -0.8], noise, axis=0)


def by_hand(rows: pd.DataFrame, drift: np.ndarray) -> dict[str, float]:
    """Every value from its definition, date by date."""
    rows = rows.assign(drift=drift)
    up, said = rows["actual"] > 0, rows["mean"] > 0
    by_date = [day for _, day in rows.groupby("origin")]
    found: dict[str, float] = {
        "hit_rate": np.mean([a == b for a, b in zip(up, said, strict=True)]),
        "always_up": up.mean(),
    }
    for name in ("zero", "mean"):
        reference = rows["drift"] * (name == "mean")
        old, new = (rows["actual"] - reference) ** 2, (rows["actual"] - rows["mean"]) ** 2
        adjusted = old - (new - (reference - rows["mean"]) ** 2)
        test = mean_test(adjusted.groupby(rows["origin"]).mean().to_numpy())
        found[f"r2_{name}"] = 1 - new.sum() / old.sum()
        found[f"r2_{name}_t"] = test.t
        found[f"r2_{name}_p"] = 1 - stats.t.cdf(test.t, test.dof)
    typical = [np.mean([(d[c] > 0).mean() for d in by_date]) for c in ("mean", "actual")]
    timing = [
        np.mean(((d["mean"] > 0) - typical[0]) * ((d["actual"] > 0) - typical[1])) for d in by_date
    ]
    test = mean_test(np.array(timing))
    found["hit_t"], found["hit_p"] = test.t, 1 - stats.t.cdf(test.t, test.dof)
    for name, statistic in (("ic", stats.pearsonr), ("rank_ic", stats.spearmanr)):
        series = [
            statistic(d["mean"] / d["scale"], d["actual"] / d["scale"])[0]
            for d in by_date
            if len(d) >= 5 and (d["mean"] / d["scale"]).nunique() > 1 and d["actual"].nunique() > 1
        ]
        test = mean_test(np.array(series))
        found[name], found[f"{name}_t"] = test.mean, test.t
    return found


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_value_is_what_its_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    actual = returns(seed, 40, 8).round(1)  # with ties, and returns of zero
    actual[rng.random(actual.shape) < 0.25] = np.nan  # dates of few symbols
    mean = persistent(seed, 40, 8).round(1)
    scale = rng.choice([0.5, 1.0, 2.0], actual.shape)
    block = make_table(mean, actual, scale=scale)
    drift = make_table(rng.normal(0, 0.05, 8), actual, scale=scale, model="drift")
    expected = by_hand(
        block.dropna().astype({"mean": float}),
        drift.dropna()["mean"].to_numpy(np.float64),
    )
    found = describe(block, drift)
    assert tuple(found) == DIRECTION
    assert found == pytest.approx({name: expected[name] for name in DIRECTION}, rel=1e-4, abs=1e-6)


def test_the_timing_test_is_that_of_a_regression_clustered_by_date() -> None:
    ratios = []
    for seed in range(40):
        actual, mean = returns(seed, 400, 6), persistent(seed, 400, 6)
        x, y = ((values > 0).ravel().astype(float) for values in (mean, actual))
        fit = sm.OLS(y, sm.add_constant(x)).fit(
            cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(400), 6)}
        )
        found = describe(make_table(mean, actual))["hit_t"]
        assert found is not None and found * fit.tvalues[1] > 0
        ratios.append(found / fit.tvalues[1])
    # Standard errors from 21 cosines scatter by a sixth around those of independent clusters.
    assert np.median(ratios) == pytest.approx(1, abs=0.1)
    assert np.std(ratios) < 0.35


@pytest.mark.parametrize("horizon", [1, 5])
def test_means_without_skill_are_called_skilled_about_as_often_as_stated(horizon: int) -> None:
    names = ("r2_zero_p", "r2_mean_p", "hit_p", "ic_t", "rank_ic_t")
    rejected = np.zeros(len(names))
    tests = 200
    for seed in range(tests):
        actual = returns(seed, 400, 6, horizon)
        block = make_table(persistent(seed, 400, 6), actual, horizon=horizon)
        drift = make_table(0.02, actual, model="drift", horizon=horizon)
        found = describe(block, drift)
        critical = stats.t.isf(0.05, 21)
        values = [found[name] for name in names]
        rejected += [
            value > critical if name.endswith("_t") else value < 0.05
            for name, value in zip(names, values, strict=True)
            if value is not None
        ]
    assert (rejected / tests < 0.09).all(), rejected / tests
    assert (rejected / tests > 0.01).all(), rejected / tests


def test_a_planted_signal_is_found_and_measured() -> None:
    rng = np.random.default_rng(0)
    planted = rng.normal(size=(1000, 20))
    actual = planted + 20 * rng.normal(size=planted.shape)
    drift = make_table(0.0, actual, model="drift")
    found = describe(make_table(planted, actual), drift)
    for name in ("r2_zero_p", "r2_mean_p", "hit_p"):
        value = found[name]
        assert value is not None and value < 0.001
    for name in ("ic", "rank_ic"):
        assert found[name] == pytest.approx(1 / np.sqrt(401), abs=0.02)
    assert found["r2_zero"] == pytest.approx(1 / 401, abs=0.0015)
    shrunk = describe(make_table(0.3 * planted, actual), drift)
    for name in ("hit_rate", "hit_t", "ic_t", "rank_ic_t"):  # no matter of size
        assert shrunk[name] == pytest.approx(found[name])


def test_correlations_are_of_scaled_numbers() -> None:
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=12))
    actual, mean = rng.normal(size=(100, 12)), rng.normal(size=(100, 12))
    plain = describe(make_table(mean, actual))
    found = describe(make_table(mean * scale, actual * scale, scale=scale))
    assert found["ic"] == pytest.approx(plain["ic"], rel=1e-5)
    assert found["rank_ic"] == pytest.approx(plain["rank_ic"], rel=1e-5)
    assert found["hit_t"] == plain["hit_t"]


def test_a_constant_forecast_has_no_skill_to_test() -> None:
    actual = returns(0, 100, 6)
    scale = np.exp(np.random.default_rng(0).normal(size=actual.shape))
    zero = describe(make_table(0.0, actual))
    assert {name for name, value in zero.items() if value is not None} == {"r2_zero", "always_up"}
    assert zero["r2_zero"] == 0
    # Constant in scaled units: in percent it differs from symbol to symbol, by rounding after / s.
    up = describe(make_table(0.03 * scale, actual, scale=scale))
    assert up["hit_rate"] == up["always_up"]
    assert [up[name] for name in ("hit_t", "hit_p", "ic", "rank_ic", "ic_t")] == [None] * 5


def test_one_odd_date_is_no_evidence() -> None:
    actual = returns(1, 300, 10)
    mean = np.full_like(actual, 0.1)
    mean[120] = -0.1
    actual[120] = -np.abs(actual[120])
    value = describe(make_table(mean, actual))["hit_t"]
    assert value is not None and abs(value) < 2


def test_cross_sections_need_five_symbols_and_tests_twenty_dates() -> None:
    four = describe(make_table(persistent(0, 60, 4), returns(0, 60, 4)))
    assert four["ic"] is None and four["rank_ic_t"] is None
    assert four["r2_zero_t"] is not None
    short = describe(make_table(persistent(0, 19, 6), returns(0, 19, 6)))
    assert short["ic"] is not None and short["hit_rate"] is not None
    assert [short[name] for name in DIRECTION if name.endswith(("_t", "_p"))] == [None] * 8


def test_drift_is_the_reference_of_r2_mean() -> None:
    actual = returns(0, 60, 6) + 0.3
    block, drift = make_table(persistent(0, 60, 6), actual), make_table(0.3, actual, model="drift")
    assert describe(block)["r2_mean"] is None
    own = describe(block, drift, model="drift")
    assert own["r2_mean"] == 0 and own["r2_mean_t"] is None
    zero = describe(make_table(0.0, actual), drift)
    value = zero["r2_mean"]
    assert value is not None and value < 0
    with pytest.raises(ForecastError, match="test, horizon 1: lstm and drift have different rows"):
        summary(block.iloc[1:], drift)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(50, 900))
def test_order_and_blocks_do_not_matter(seed: int, size: int) -> None:
    blocks = [
        make_table(persistent(h, 30, 6), returns(h, 30, 6, h), model=model, horizon=h)
        for h in (1, 5)
        for model in ("lstm", "drift")
    ]
    mixed = pd.concat(blocks).sample(frac=1, random_state=seed)
    pieces = [mixed.iloc[at : at + size] for at in range(0, len(mixed), size)]
    whole, split = summary(*blocks), summary(*pieces)
    for model in ("lstm", "drift"):
        for horizon in ("1", "5"):
            assert split[model][horizon] == whole[model][horizon]


def test_only_known_outcomes_count_and_the_summary_is_plain() -> None:
    block = make_table(persistent(0, 60, 6), returns(0, 60, 6))
    unknown = block.assign(actual=np.nan, origin=block["origin"] + np.timedelta64(365, "D"))
    found = summary(pd.concat([block, unknown]))
    assert found == summary(block)
    assert json.loads(json.dumps(found)) == found
    assert summary(unknown) == {}
