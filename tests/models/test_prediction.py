"""What is stated at the last closes is what a pass over all origins states there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors
from forecast.forecasts import LEVELS, QUANTILES
from forecast.models.baselines import EwmaNormal
from forecast.models.block import blocks
from forecast.models.devices import torch_threads
from forecast.models.distributions import Distribution, Gaussian, SkewedT, StudentT
from forecast.models.ensemble import Ensemble
from forecast.models.named_heads import make_head
from forecast.models.networks import Network
from forecast.models.prediction import (
    Prediction,
    last_rows,
    predict_last,
    probability_of_rise,
    summary,
)
from forecast.prices.frame import Prices

PricesOf = Callable[..., Prices]
TASK = Task(horizons=(1, 5), length=60, warmup=25)
COLUMNS = ("return", "scale")
# What is known only later, and what a prediction is called.
LATER = ("part", "target_date", "actual", "realized_variance", "nll", "pit", "crps_exact")
seeds = st.integers(0, 10_000)


def panel_of(prices: Prices) -> Panel:
    return make_panel(prices, FeatureSet(columns=list(COLUMNS)), market=None)


def ensemble_of(cell: str = "lstm", head: str = "student_t", *, members: int = 2) -> Ensemble:
    """Networks that were never trained, whose outputs depend on all they are given."""
    maker = make_head({"name": head})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        networks = [
            Network(
                cell=cell, features=len(COLUMNS), horizons=len(TASK.horizons),
                parameters=maker.size, hidden_size=4, layers=1, dropout=0.0, input_dropout=0.0,
                skip=True, bidirectional=False,
            )
            for _ in range(members)
        ]  # fmt: skip
    return Ensemble(networks, maker, TASK)


def all_rows(panel: Panel, since: np.datetime64) -> Range:
    """Every origin from a date on, as a test range has them."""
    low = np.maximum(panel.first_row(since), panel.offsets[:-1] + TASK.warmup)
    stop = panel.offsets[1:]
    return Range(low=low, high=stop, entry=panel.day[np.minimum(low, stop - 1)])


def passed(ensemble: Ensemble, panel: Panel, since: np.datetime64) -> pd.DataFrame:
    """Forecasts of all origins, by symbol, origin and horizon: networks, then the benchmark."""
    rows = all_rows(panel, since)
    tensors = PanelTensors(panel, horizons=TASK.horizons, delay=TASK.delay, device="cpu")
    baseline = EwmaNormal(panel, TASK, rows)
    tables = []
    for block in blocks(panel, TASK, rows):
        own = ensemble.distribution(block, rows, tensors)
        tables.append(block.table(own, model="net", part="test", fold=0))
        beside = baseline.distribution(block)
        tables.append(block.table(beside, model="ewma_normal", part="test", fold=0))
    return table_of(pa.concat_tables(tables))


def table_of(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas().astype({"model": str, "symbol": str}).drop(columns=list(LATER))
    return frame.set_index(["model", "symbol", "origin", "horizon"]).sort_index()


def stated(prediction: Prediction) -> pd.DataFrame:
    return table_of(pa.concat_tables([prediction.own, prediction.beside]))


# The rows


@settings(max_examples=40, deadline=None)
@given(seed=seeds, since=st.integers(0, 69))
def test_the_last_rows_are_those_of_symbols_past_their_warm_up(
    random_prices: PricesOf, seed: int, since: int
) -> None:
    panel = panel_of(random_prices(seed, symbols=6))
    day = panel.dates[min(since, len(panel.dates) - 1)]
    rows = last_rows(panel, TASK, day)
    for s in range(6):
        count = panel.offsets[s + 1] - panel.offsets[s]
        expected = [] if count <= TASK.warmup else [panel.offsets[s + 1] - 1]
        assert list(range(rows.low[s], rows.high[s])) == expected


@settings(max_examples=40, deadline=None)
@given(seed=seeds, since=st.integers(0, 69))
def test_symbols_keep_the_places_that_a_pass_over_all_origins_gives_them(
    random_prices: PricesOf, seed: int, since: int
) -> None:
    """A product may round by place; those that ended before are not in that pass, so come last."""
    panel = panel_of(random_prices(seed, symbols=8))
    day = panel.dates[min(since, len(panel.dates) - 1)]
    rows, whole = last_rows(panel, TASK, day), all_rows(panel, day)
    there = whole.ordered(np.flatnonzero(whole.high > whole.low))
    everyone = rows.ordered(np.flatnonzero(rows.high > rows.low))
    assert list(everyone[: len(there)]) == list(there)


# The numbers


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_last_closes_are_those_of_a_pass_over_all_origins_bit_for_bit(
    random_prices: PricesOf, cut: Callable[..., Prices], cell: str, threads: int
) -> None:
    """Evening by evening, while later prices change nothing: listed late, halted, some ended."""
    prices, ensemble = random_prices(11, symbols=40, sessions=150), ensemble_of(cell)
    whole = panel_of(prices)
    since = whole.dates[70]
    everything = passed(ensemble, whole, since)
    compared = 0
    for evening in whole.dates[[100, 101, 120, 149]]:
        panel = panel_of(cut(prices, evening.astype("datetime64[s]")))
        with torch_threads(threads):
            prediction = predict_last(
                ensemble, panel, model="net", since=str(since), threads=threads
            )
        mine = stated(prediction)
        # An origin before all of the range was never in the pass.
        mine = mine[mine.index.get_level_values("origin") >= pd.Timestamp(since).date()]
        theirs = everything.loc[mine.index]
        for name in mine.columns:
            assert mine[name].to_numpy().tobytes() == theirs[name].to_numpy().tobytes(), name
        compared += len(mine)
    assert compared > 4 * 30  # two models and two horizons of most of 40 symbols


@settings(max_examples=8, deadline=None)
@given(seed=seeds, head=st.sampled_from(["student_t", "quantile", "point"]))
def test_random_panels_give_the_same_bits(random_prices: PricesOf, seed: int, head: str) -> None:
    ensemble = ensemble_of("gru", head, members=1)
    panel = panel_of(random_prices(seed, symbols=7, sessions=90))
    since = panel.dates[50]
    predict = partial(predict_last, ensemble, panel, model="net", since=str(since))
    one, two = predict(threads=1), predict(threads=2)
    assert one.own.equals(two.own) and one.beside.equals(two.beside)
    assert one.parameters_MP.tobytes() == two.parameters_MP.tobytes()
    mine = stated(one)
    mine = mine[mine.index.get_level_values("origin") >= pd.Timestamp(since).date()]
    theirs = passed(ensemble, panel, since).loc[mine.index]
    pd.testing.assert_frame_equal(mine, theirs, check_exact=True)


def test_a_prediction_is_a_live_part_in_the_order_of_symbols_and_horizons(
    random_prices: PricesOf,
) -> None:
    ensemble = ensemble_of()
    panel = panel_of(random_prices(3, symbols=40, sessions=100))
    prediction = predict_last(ensemble, panel, model="net", since="2020-03-02", threads=2)
    for table, model in ((prediction.own, "net"), (prediction.beside, "ewma_normal")):
        frame = table.to_pandas()
        assert set(frame["model"]) == {model}
        assert set(frame["part"]) == {"live"} and set(frame["fold"]) == {0}
        keys = list(zip(frame["symbol"].astype(str), frame["horizon"], strict=True))
        assert keys == sorted(keys) and len(set(keys)) == len(keys)
        assert (
            frame[["target_date", "actual", "realized_variance", "nll", "pit"]]
            .isna()
            .all(axis=None)
        )
    # The parameters lie behind their own rows.
    unit = prediction.own["scale"].to_numpy() * np.sqrt(
        prediction.own["horizon"].to_numpy().astype(float)
    )
    said = ensemble.head.distribution(prediction.parameters_MP)
    assert (said.mean * unit).astype(np.float32).tobytes() == (
        prediction.own["mean"].to_numpy().tobytes()
    )
    assert prediction.rise_M.tobytes() == probability_of_rise(said, len(unit)).tobytes()


def test_a_panel_within_its_warm_up_has_no_forecast(random_prices: PricesOf) -> None:
    panel = panel_of(random_prices(3, symbols=3, sessions=TASK.warmup))
    prediction = predict_last(ensemble_of(), panel, model="net", since="2020-01-06", threads=1)
    assert prediction.own.num_rows == prediction.beside.num_rows == len(prediction.rise_M) == 0
    assert prediction.parameters_MP.shape == (0, 3)
    assert summary(prediction, np.array([], "datetime64[D]")).empty


# What is told of it


@settings(max_examples=40, deadline=None)
@given(
    mu=st.floats(-3, 3), sigma=st.floats(0.1, 3), df=st.floats(2.1, 60), skew=st.floats(-0.9, 0.9)
)
def test_the_probability_of_a_rise_is_that_of_the_distribution(
    mu: float, sigma: float, df: float, skew: float
) -> None:
    m, s, d = np.array([mu]), np.array([sigma]), np.array([df])
    t = stats.t(df, loc=mu, scale=sigma)
    assert probability_of_rise(StudentT(mu=m, sigma=s, df=d), 1) == pytest.approx(t.sf(0.0))
    normal = probability_of_rise(Gaussian(mu=m, sigma=s), 1)
    assert normal == pytest.approx(stats.norm.sf(0.0, mu, sigma))
    skewed = SkewedT(mu=m, sigma=s, df=d, skew=np.array([skew]))
    levels = skewed.quantiles
    assert levels is not None
    rise = probability_of_rise(skewed, 1)[0]
    # Its own quantiles enclose it.
    below = np.searchsorted(levels[0], 0.0)
    low = LEVELS[below - 1] if below else 0.0
    high = LEVELS[below] if below < len(LEVELS) else 1.0
    assert low - 1e-9 <= 1 - rise <= high + 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=seeds, shift=st.floats(-3, 3))
def test_between_quantiles_the_probability_of_a_rise_is_interpolated(
    seed: int, shift: float
) -> None:
    quantiles = np.sort(np.random.default_rng(seed).normal(shift, 1, (5, len(LEVELS))), axis=1)
    rise = probability_of_rise(Distribution(mean=np.zeros(5), quantiles=quantiles), 5)
    for row, found in zip(quantiles, rise, strict=True):
        if row[0] >= 0:
            assert found == pytest.approx(0.99)  # more is not known
        elif row[-1] <= 0:
            assert found == pytest.approx(0.01)
        else:
            k = int(np.searchsorted(row, 0.0))
            share = (0.0 - row[k - 1]) / (row[k] - row[k - 1])
            assert found == pytest.approx(1 - (LEVELS[k - 1] + share * (LEVELS[k] - LEVELS[k - 1])))


def test_a_mean_alone_has_no_probability_of_a_rise() -> None:
    assert np.isnan(probability_of_rise(Distribution(mean=np.ones(3)), 3)).all()


@pytest.mark.parametrize("head", ["student_t", "quantile", "point"])
def test_the_summary_is_the_prediction_in_prices(random_prices: PricesOf, head: str) -> None:
    panel = panel_of(random_prices(5, symbols=5, sessions=90))
    prediction = predict_last(
        ensemble_of("rnn", head), panel, model="net", since="2020-03-02", threads=1
    )
    told: Any = prediction.own.to_pandas()
    expected = np.array(told["origin"], "datetime64[D]") + told["horizon"].to_numpy()
    shown = summary(prediction, expected)
    assert shown["symbol"].tolist() == told["symbol"].tolist()
    assert shown["origin"].tolist() == [str(day) for day in told["origin"]]
    assert shown["expected_date"].tolist() == expected.astype(str).tolist()
    last = {
        s: panel.price[stop - 1] for s, stop in zip(panel.symbols, panel.offsets[1:], strict=True)
    }
    assert shown["price"].tolist() == [last[symbol] for symbol in shown["symbol"]]
    ends = {"low_90": "q05", "low_50": "q25", "high_50": "q75", "high_90": "q95"}
    if head == "point":
        ends["median_price"] = "mean"
        assert shown["probability_of_rise"].isna().all()
        assert told[list(QUANTILES)].isna().all(axis=None)
    else:
        ends["median_price"] = "q50"
        order = shown[["low_90", "low_50", "median_price", "high_50", "high_90"]].to_numpy()
        assert (np.diff(order, axis=1) >= 0).all()
        rises, rise = shown["median_price"] > shown["price"], shown["probability_of_rise"]
        assert ((rise > 0.5) == rises).all()
    for column, level in ends.items():
        priced = told["price"] * np.exp(told[level].astype(float) / 100)
        np.testing.assert_allclose(shown[column], priced, rtol=1e-12)
    np.testing.assert_array_equal(shown["mean_return"], told["mean"].astype(float))
    np.testing.assert_array_equal(shown["median_return"], told["q50"].astype(float))
    np.testing.assert_array_equal(shown["volatility"], told["std"].astype(float))
