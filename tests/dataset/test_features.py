"""Features are causal, stand for what their names say, and refuse what they cannot use."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError, config_dir
from forecast.dataset import features
from forecast.dataset.features import FEATURES, NEEDS, FeatureSet, History, ewma, join, scale
from forecast.prices.frame import Covariate

SETS = ("close", "ohlcv", "returns")
seeds = st.integers(0, 10_000)


def feature_set(name: str) -> FeatureSet:
    options = yaml.safe_load((config_dir() / "features" / f"{name}.yaml").read_text())
    return FeatureSet(**options)


def random_history(seed: int, n: int = 60, *, raw: bool = False) -> History:
    """A symbol with flat spells, unknown opens and volumes, and a market with holes."""
    rng = np.random.default_rng(seed)
    close = 40 * np.exp(np.cumsum(rng.standard_t(3, n) * (rng.random(n) > 0.3)) / 100)
    opening = close * np.exp(rng.normal(0, 0.01, n))
    columns = {
        "close": close * (1.7 if raw else 1.0),
        "open": np.where(rng.random(n) < 0.1, np.nan, opening),
        "high": np.maximum(close, opening) * np.exp(np.abs(rng.normal(0, 0.01, n))),
        "low": np.minimum(close, opening) * np.exp(-np.abs(rng.normal(0, 0.01, n))),
        "volume": np.where(rng.random(n) < 0.2, 0.0, rng.lognormal(3, 2, n)),
    }
    if raw:
        columns["raw_close"] = close
    market = np.where(rng.random(n) < 0.2, np.nan, rng.normal(0, 1, n))
    return History(
        date=np.busday_offset(np.datetime64("2020-01-06"), np.arange(n)).astype("datetime64[D]"),
        columns=columns,
        market=market,
        market_scale=np.where(np.isnan(market), np.nan, rng.uniform(0.5, 2, n)),
    )


def until(history: History, stop: int) -> History:
    return History(
        date=history.date[:stop],
        columns={name: values[:stop] for name, values in history.columns.items()},
        market=history.market[:stop],
        market_scale=history.market_scale[:stop],
    )


def altered_from(history: History, start: int, seed: int) -> History:
    """The same history up to `start`, and another one afterwards."""
    other = random_history(seed, len(history))

    def spliced(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return np.concatenate([mine[:start], theirs[start:]])

    return History(
        date=history.date,
        columns={n: spliced(v, other.columns[n]) for n, v in history.columns.items()},
        market=spliced(history.market, other.market),
        market_scale=spliced(history.market_scale, other.market_scale),
    )


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, stop=st.integers(1, 59))
def test_a_row_does_not_change_when_later_rows_are_removed_or_altered(
    name: str, seed: int, stop: int
) -> None:
    features, history = feature_set(name), random_history(seed)
    whole, _ = features.compute(history, "S", ())
    for other in (until(history, stop), altered_from(history, stop, seed + 1)):
        rows, _ = features.compute(other, "S", ())
        assert rows[:stop].tobytes() == whole[:stop].tobytes()
        assert other.scale[:stop].tobytes() == history.scale[:stop].tobytes()


@settings(max_examples=25, deadline=None)
@given(seed=seeds, half_life=st.sampled_from([2.0, 20.0, 250.0]))
def test_ewma_is_the_weighted_mean_written_out(seed: int, half_life: float) -> None:
    values = np.random.default_rng(seed).normal(size=40)
    values[: seed % 5] = np.nan
    result = ewma(values, half_life)
    for t in range(40):
        weight = 0.5 ** ((t - np.arange(t + 1)) / half_life) * ~np.isnan(values[: t + 1])
        if weight.sum() == 0:
            assert np.isnan(result[t])
        else:
            expected = np.nansum(weight * values[: t + 1]) / weight.sum()
            assert result[t] == pytest.approx(expected, rel=1e-10, abs=1e-14)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, floor=st.sampled_from([0.01, 0.5, 5.0]))
def test_scale_is_a_floored_and_bias_corrected_ewma_of_half_life_20(
    seed: int, floor: float
) -> None:
    rng = np.random.default_rng(seed)
    close = 10 * np.exp(np.cumsum(rng.normal(0, 0.02, 250)))
    close[40 + seed % 30 :] = close[40 + seed % 30]  # halted: the EWMA decays to both its floors
    history = History(
        date=np.arange(250).astype("datetime64[D]"),
        columns={"close": close},
        market=np.full(250, np.nan),
        market_scale=np.full(250, np.nan),
        scale_floor=floor,
    )
    hits = 0
    for t in range(250):
        if t < 20:
            assert np.isnan(history.scale[t])
            continue
        trailing = {}
        for half_life in (20, 250):
            total = weights = 0.0
            for k in range(1, t + 1):
                weight = 0.5 ** ((t - k) / half_life)
                total += weight * (100 * math.log(close[k] / close[k - 1])) ** 2
                weights += weight
            trailing[half_life] = math.sqrt(total / weights)
        lowest = max(0.1 * trailing[250], floor)
        hits += trailing[20] < lowest
        assert history.scale[t] == pytest.approx(max(trailing[20], lowest), rel=1e-9)
    assert history.floor_hits == hits


def test_a_price_that_never_moves_has_the_floor_as_scale_and_every_session_is_a_hit() -> None:
    value, hits = scale(np.append(np.nan, np.zeros(49)), half_life=20.0, floor=0.01)
    np.testing.assert_array_equal(value, [np.nan] * 20 + [0.01] * 30)
    assert hits == 30


def bars(n: int = 40, **changes: np.ndarray) -> History:
    """Every session has the same bar around its own close."""
    raw = 105 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.03, n)))
    columns = {
        "close": raw,
        "open": raw * 100 / 105,
        "high": raw * 110 / 105,
        "low": raw * 95 / 105,
        "volume": np.full(n, 1000.0),
    }
    return History(
        date=np.arange(n).astype("datetime64[D]"),
        columns=columns | changes,
        market=np.full(n, np.nan),
        market_scale=np.full(n, np.nan),
    )


def test_range_volatilities_are_the_textbook_ones_on_one_bar() -> None:
    history = bars()
    o, h, low, c = 100.0, 110.0, 95.0, 105.0
    garman_klass = 0.5 * np.log(h / low) ** 2 - (2 * np.log(2) - 1) * np.log(c / o) ** 2
    rogers_satchell = np.log(h / c) * np.log(h / o) + np.log(low / c) * np.log(low / o)
    for name, variance in (("garman_klass", garman_klass), ("rogers_satchell", rogers_satchell)):
        volatility = np.exp(FEATURES[name](history)) * history.scale
        np.testing.assert_allclose(volatility[20:], 100 * np.sqrt(variance), rtol=1e-10)


@pytest.mark.parametrize("name", NEEDS)
def test_bars_are_measured_against_the_close_on_their_own_basis(name: str) -> None:
    """A total-return close is compounded forward; open, high and low are as quoted."""
    quoted = bars()
    raw = quoted.columns["close"]
    total = bars(close=3.0 * raw, raw_close=raw)
    np.testing.assert_allclose(FEATURES[name](total), FEATURES[name](quoted), rtol=1e-9)


def test_absolute_volatility_is_that_of_normal_returns_and_heeds_a_jump_less() -> None:
    rng = np.random.default_rng(3)
    returns = rng.normal(0, 1.5, 4000)
    returns[-1] = 30.0
    history = History(
        date=np.arange(4001).astype("datetime64[D]"),
        columns={"close": 50 * np.exp(np.cumsum(np.append(0, returns)) / 100)},
        market=np.full(4001, np.nan),
        market_scale=np.full(4001, np.nan),
    )
    assert history.absolute(250.0)[-2] == pytest.approx(1.5, rel=0.15)
    assert history.volatility(250.0)[-2] == pytest.approx(1.5, rel=0.15)
    assert history.absolute(20.0)[-1] < 0.6 * history.volatility(20.0)[-1]


@pytest.mark.parametrize("half_life", [5, 20])
def test_trends_are_mean_returns_in_units_of_volatility(half_life: int) -> None:
    history = random_history(11)
    for name, returns, unit in (
        (f"trend_{half_life}", history.log_return, history.scale),
        (f"market_trend_{half_life}", history.market, history.market_scale),
    ):
        t = len(history) - 1
        weight = 0.5 ** ((t - np.arange(t + 1)) / half_life) * ~np.isnan(returns)
        expected = np.nansum(weight * returns) / weight.sum() / unit[t]
        assert FEATURES[name](history)[t] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("half_life", [5, 60, 250])
def test_market_volatilities_are_measured_against_the_symbols_scale(half_life: int) -> None:
    history = random_history(12)
    t = len(history) - 1
    weight = 0.5 ** ((t - np.arange(t + 1)) / half_life) * ~np.isnan(history.market)
    volatility = np.sqrt(np.nansum(weight * history.market**2) / weight.sum())
    column = FEATURES[f"market_volatility_{half_life}"](history)
    assert column[t] == pytest.approx(np.log(volatility / history.scale[t]), rel=1e-9)


def test_overnight_and_intraday_returns_make_the_sessions_return() -> None:
    history = bars()
    overnight = FEATURES["overnight"](history) * history.scale
    np.testing.assert_allclose(
        overnight[20:] + 100 * np.log(105 / 100), history.log_return[20:], rtol=1e-10
    )


def test_log_ratios_stop_at_their_floor_and_undefined_values_are_null() -> None:
    history = bars(open=np.full(40, 105.0), high=np.full(40, 105.0), low=np.full(40, 105.0))
    history.columns["close"][:] = 105.0  # no range, no return: the ratio's logarithm has no value
    values, names = feature_set("ohlcv").compute(history, "S", ())
    column = dict(zip(names, values.T, strict=True))
    np.testing.assert_array_equal(column["garman_klass"][20:], np.float32(np.log(0.05)))
    np.testing.assert_array_equal(column["volatility_5"][20:], np.float32(np.log(0.05)))
    assert np.isnan(column["market_return"]).all() and np.isnan(column["market_volatility"]).all()
    assert values.dtype == np.float32 and not np.isinf(values).any()
    history.market[:], history.market_scale[:] = 1.0, 0.0
    values, names = feature_set("close").compute(history, "S", ())
    assert np.isnan(values[:, names.index("market_return")]).all()


@pytest.mark.parametrize("name", NEEDS)
def test_a_column_that_a_feature_needs_and_the_source_lacks_is_named(name: str) -> None:
    features = FeatureSet(columns=["return", name])
    available = ["symbol", "date", "close", *NEEDS[name]]
    features.check_source(available, "files")
    for column in NEEDS[name]:
        lacking = [c for c in available if c != column]
        with pytest.raises(ForecastError, match=f"'{name}' needs the column '{column}'.*files"):
            features.check_source(lacking, "files")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": ["retrun"]}, "'retrun' is not a feature"),
        ({"columns": []}, "both empty"),
        ({"columns": ["return"], "scale_floor": 0.0}, "features.scale_floor=0.0"),
        ({"columns": ["return"], "scale_half_life": -1.0}, "features.scale_half_life=-1.0"),
        ({"columns": [], "own": ["no_module.f"]}, "no_module.f"),
        ({"columns": [], "own": ["numpy.no_function"]}, "numpy.no_function"),
        ({"columns": [], "own": ["plain"]}, "plain"),
    ],
)
def test_a_wrong_feature_set_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ForecastError, match=words):
        FeatureSet(**options)


OWN = """
import numpy as np
import pandas as pd

def two(history):
    change = np.log(history["close"]).diff()
    history["close"] = 0.0  # spoils only its own copy
    return pd.DataFrame({"change": change, "weekday": history["date"].dt.day_of_week})

def one(history):
    return history["volume"].rename(None)

def short(history):
    return history[["close"]].iloc[1:]

def number(history):
    return 1.0

def missing(history):
    return history["sentiment"]

def broken(history):
    raise ZeroDivisionError("two\\nlines")

def text(history):
    return history["date"].dt.day_name().to_frame("name")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_features.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_own_features_stand_behind_the_built_in_ones_under_their_dotted_names() -> None:
    features = FeatureSet(columns=["scale"], own=["own_features.two", "own_features.one"])
    history = random_history(0)
    told = pd.DataFrame({"known": history.date.astype("datetime64[s]"), "vix": 1.0})
    vix = Covariate(name="vix.csv", frame=told, columns=("vix",), lag=0, max_age=0)
    values, names = features.compute(history, "S", [vix])
    assert names == [
        "scale",
        "own_features.two.change",
        "own_features.two.weekday",
        "own_features.one.value",
        "vix",
    ]
    np.testing.assert_array_equal(values[:, 1], (history.log_return / 100).astype(np.float32))
    np.testing.assert_array_equal(values[:5, 2], np.arange(5))
    np.testing.assert_array_equal(values[:, 3], history.columns["volume"].astype(np.float32))
    np.testing.assert_array_equal(values[:, 4], 1)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "ended in KeyError for S: 'sentiment'. .* columns date, .*close"),
        ("broken", "ended in ZeroDivisionError for S: two lines."),
    ],
)
def test_an_own_feature_that_fails_is_told_in_one_line(name: str, words: str) -> None:
    features = FeatureSet(columns=[], own=[f"own_features.{name}"])
    with pytest.raises(ForecastError, match=f"own_features.{name} {words}") as caught:
        features.compute(random_history(0), "S", ())
    assert "\n" not in str(caught.value) and caught.value.__cause__ is not None


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "words"),
    [("short", "59 rows for S, which has 60"), ("number", "no rows for S"), ("text", "'name'")],
)
def test_an_own_feature_that_is_no_column_on_the_same_rows_is_refused(
    name: str, words: str
) -> None:
    features = FeatureSet(columns=[], own=[f"own_features.{name}"])
    with pytest.raises(ForecastError, match=f"own_features.{name}.*{words}"):
        features.compute(random_history(0), "S", ())


# Covariates


def random_covariate(seed: int, *, lag: int, max_age: int, per_symbol: bool) -> Covariate:
    """Values on any day of the week, from before the first session to after the last."""
    rng = np.random.default_rng(seed)
    day = np.arange("2019-12-20", "2020-04-20", dtype="datetime64[D]")
    rows = []
    for symbol in ("A", "B", "C") if per_symbol else ("",):
        known = np.sort(rng.choice(day, rng.integers(1, 40), replace=False))
        value = np.where(
            rng.random((2, len(known))) < 0.2, np.nan, rng.normal(size=(2, len(known)))
        )
        rows.append(
            pd.DataFrame(
                {"known": known.astype("datetime64[s]"), "x": value[0], "y": value[1]}
            ).assign(symbol=symbol)
        )
    frame = pd.concat(rows, ignore_index=True)
    frame["symbol"] = frame["symbol"].astype("category")
    if not per_symbol:
        frame = frame.drop(columns="symbol")
    return Covariate(name="x.csv", frame=frame, columns=("x", "y"), lag=lag, max_age=max_age)


def joined_naively(covariate: Covariate, symbol: str, dates: np.ndarray, column: str) -> np.ndarray:
    result = np.full(len(dates), np.nan)
    for row in covariate.frame.itertuples():  # in order of time: what was known later prevails
        value = getattr(row, column)
        if np.isnan(value) or getattr(row, "symbol", symbol) != symbol:
            continue
        known = np.datetime64(str(row.known), "D")
        later = [t for t, date in enumerate(dates) if date >= known]
        for age, t in enumerate(later[covariate.lag :]):
            result[t] = value if age <= covariate.max_age else np.nan
    return result


@settings(max_examples=50, deadline=None)
@given(
    seed=seeds,
    lag=st.integers(0, 3),
    max_age=st.integers(0, 6),
    per_symbol=st.booleans(),
    symbol=st.sampled_from(["A", "C", "unlisted"]),
)
def test_a_join_is_the_newest_value_known_and_not_too_old(
    seed: int, lag: int, max_age: int, per_symbol: bool, symbol: str
) -> None:
    covariate = random_covariate(seed, lag=lag, max_age=max_age, per_symbol=per_symbol)
    rng = np.random.default_rng(seed)
    dates = np.busday_offset(np.datetime64("2020-01-06"), np.flatnonzero(rng.random(60) > 0.2))
    for values, column in zip(join(covariate, symbol, dates), ("x", "y"), strict=True):
        np.testing.assert_array_equal(values, joined_naively(covariate, symbol, dates, column))


@settings(max_examples=25, deadline=None)
@given(seed=seeds, lag=st.integers(0, 2), stop=st.integers(1, 50), per_symbol=st.booleans())
def test_a_join_does_not_change_when_later_sessions_or_later_values_are_removed(
    seed: int, lag: int, stop: int, per_symbol: bool
) -> None:
    covariate = random_covariate(seed, lag=lag, max_age=3, per_symbol=per_symbol)
    dates = np.busday_offset(np.datetime64("2020-01-06"), np.arange(60))
    known = covariate.frame["known"].to_numpy() <= dates[stop - 1].astype("datetime64[s]")
    past = Covariate(
        name="x.csv",
        frame=covariate.frame[known].reset_index(drop=True),
        columns=covariate.columns,
        lag=lag,
        max_age=3,
    )
    for whole, short in zip(
        join(covariate, "B", dates), join(past, "B", dates[:stop]), strict=True
    ):
        np.testing.assert_array_equal(whole[:stop], short)


def one_value(known: str, *, lag: int, max_age: int = 2) -> Covariate:
    frame = pd.DataFrame({"known": [np.datetime64(known, "s")], "x": [7.0]})
    return Covariate(name="x.csv", frame=frame, columns=("x",), lag=lag, max_age=max_age)


# Monday 2020-01-06 to Friday, Monday to Friday; Wednesday the 8th is a holiday.
WEEK = np.array([f"2020-01-{d:02d}" for d in (6, 7, 9, 10, 13, 14, 15)], "datetime64[D]")


@pytest.mark.parametrize(
    ("known", "lag", "used_on"),
    [
        ("2020-01-07", 0, (7, 9, 10)),
        ("2020-01-07", 1, (9, 10, 13)),  # not at its own session's close
        ("2020-01-08", 0, (9, 10, 13)),  # a holiday: the next session's close
        ("2020-01-08", 1, (10, 13, 14)),
        ("2020-01-11", 0, (13, 14, 15)),  # a Saturday
        ("2020-01-11", 1, (14, 15)),
        ("2020-01-15", 0, (15,)),
        ("2020-01-15", 1, ()),
        ("2020-01-16", 0, ()),  # after the last session
    ],
)
def test_a_value_is_used_lag_sessions_after_it_is_known_and_two_sessions_more(
    known: str, lag: int, used_on: tuple[int, ...]
) -> None:
    (column,) = join(one_value(known, lag=lag), "S", WEEK)
    used = WEEK[~np.isnan(column)]
    assert tuple(int(str(day)[-2:]) for day in used) == used_on
    assert (column[~np.isnan(column)] == 7.0).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), half_life=st.floats(0.5, 300), rows=st.integers(0, 80))
def test_ewma_has_the_bits_of_the_public_way_of_pandas(
    seed: int, half_life: float, rows: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(rows) < 0.2, np.nan, rng.standard_t(3, rows))
    public = pd.Series(values).ewm(halflife=half_life, adjust=True).mean().to_numpy()
    np.testing.assert_array_equal(ewma(values, half_life), public)


def test_ewma_takes_the_public_way_where_the_compiled_one_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pandas._libs.window.aggregations", None)
    features._ewma.cache_clear()
    try:
        values = np.array([np.nan, 1.0, 2.0])
        assert features._ewma() is features._public_ewma
        np.testing.assert_allclose(ewma(values, 1.0), [np.nan, 1.0, 5 / 3])
    finally:
        features._ewma.cache_clear()
