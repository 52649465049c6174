"""What trained networks state at each symbol's last session.

Axes: N symbols that have a forecast, H horizons, M = N·H forecasts (horizon fastest), P parameters
of the head.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors
from forecast.forecasts import LEVELS, SCHEMA
from forecast.models.baselines import EwmaNormal
from forecast.models.block import blocks
from forecast.models.distributions import Distribution
from forecast.models.ensemble import Ensemble
from forecast.models.heads import PositionHead

PART = "live"
BESIDE = "ewma_normal"  # the one benchmark that needs no fit


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Forecasts from the last closes, M rows in the order of symbols and horizons.

    Attributes
    ----------
    model : str
        Name of the networks.
    own, beside : pyarrow.Table
        Forecasts tables of part `live`: of the networks, and of `BESIDE` on the same rows.
    parameters_MP : array of float64
        The head's parameters behind `own`, in scaled units.
    rise_M : array of float64
        Probability of a return above zero; null where nothing but a mean is stated.
    """

    model: str
    own: pa.Table
    beside: pa.Table
    parameters_MP: np.ndarray
    rise_M: np.ndarray


def last_rows(panel: Panel, task: Task, since: np.datetime64) -> Range:
    """The last row of each symbol that is past its warm-up.

    Symbols keep the order in which they enter the range of origins from `since` on, the one of a
    pass over all of these, so that both give the same bits.
    """
    stop = panel.offsets[1:].copy()
    first = np.maximum(panel.first_row(since), panel.offsets[:-1] + task.warmup)
    ready = stop - 1 >= panel.offsets[:-1] + task.warmup
    # What had ended before then is in no such pass, so it comes last.
    entry = np.where(first < stop, panel.day[np.minimum(first, stop - 1)], len(panel.dates))
    return Range(low=np.where(ready, stop - 1, stop), high=stop, entry=entry)


def predict_last(
    ensemble: Ensemble, panel: Panel, *, model: str, since: str, threads: int
) -> Prediction:
    """Forecast from each symbol's last session; its whole history is read for the state.

    Parameters
    ----------
    model : str
        Name of the networks in the table.
    threads : int
        Blocks of symbols that are worked on at once.
    since : YYYY-MM-DD
        First origin of the range that the run's forecasts go on from: that of its (last) test.
    """
    task, head = ensemble.task, ensemble.head
    assert not isinstance(head, PositionHead)
    rows = last_rows(panel, task, np.datetime64(since, "D"))
    tensors = PanelTensors(panel, horizons=task.horizons, delay=task.delay, device=ensemble.device)
    baseline = EwmaNormal(panel, task, rows)
    own, beside = [SCHEMA.empty_table()], [SCHEMA.empty_table()]
    parameters, rises = [np.zeros((0, head.size))], [np.zeros(0)]
    found = list(blocks(panel, task, rows))
    # Blocks beside each other, one thread each: inside a block, threads would meet at every session
    # of the recurrence, and wait there for whatever else the machine does.
    with ThreadPoolExecutor(threads) as pool:
        stated = pool.map(lambda block: ensemble.parameters(block, rows, tensors), found)
        stated_NHP = list(stated)
    for block, parameters_NHP in zip(found, stated_NHP, strict=True):
        parameters_MP = parameters_NHP.reshape(-1, head.size)
        said = head.distribution(parameters_MP)
        own.append(block.table(said, model=model, part=PART, fold=0))
        beside.append(block.table(baseline.distribution(block), model=BESIDE, part=PART, fold=0))
        parameters.append(parameters_MP)
        rises.append(probability_of_rise(said, len(parameters_MP)))
    whole = pa.concat_tables(own).unify_dictionaries()
    # Blocks hold symbols as they entered the range; a reader looks for them by name.
    order = pc.sort_indices(
        whole.select(["symbol", "horizon"]).set_column(
            0, "symbol", whole["symbol"].cast(pa.string())
        ),
        sort_keys=[("symbol", "ascending"), ("horizon", "ascending")],
    )
    return Prediction(
        model=model,
        own=whole.take(order),
        beside=pa.concat_tables(beside).unify_dictionaries().take(order),
        parameters_MP=np.concatenate(parameters)[order.to_numpy()],
        rise_M=np.concatenate(rises)[order.to_numpy()],
    )


def probability_of_rise(distribution: Distribution, count: int) -> np.ndarray:
    """Probability of a return above zero, shape (count,).

    Between levels by interpolation where only quantiles are stated; beyond the outermost ones no
    more than their level is known, which stands for it.
    """
    below = distribution.pit(np.zeros(count))
    if below is not None:
        return 1.0 - below
    if distribution.quantiles is None:
        return np.full(count, np.nan)
    return np.array([1.0 - np.interp(0.0, q, LEVELS) for q in distribution.quantiles])


def summary(prediction: Prediction, expected_M: np.ndarray) -> pd.DataFrame:
    """A line per symbol and horizon, in prices; the columns of `predictions.csv`.

    Parameters
    ----------
    expected_M : array of datetime64[D]
        Dates on which the targets are expected to be known.
    """
    told = prediction.own.to_pandas()
    price = told["price"].to_numpy()

    def priced(column: str) -> np.ndarray:
        return price * np.exp(told[column].to_numpy(np.float64) / 100)

    point = told["q50"].isna().all()
    return pd.DataFrame(
        {
            "symbol": told["symbol"].astype(str),
            "origin": pd.to_datetime(told["origin"]).dt.strftime("%Y-%m-%d"),
            "horizon": told["horizon"].to_numpy(),
            "expected_date": [str(date) for date in expected_M],
            "price": price,
            "median_price": priced("mean" if point else "q50"),
            "low_50": priced("q25"),
            "high_50": priced("q75"),
            "low_90": priced("q05"),
            "high_90": priced("q95"),
            "probability_of_rise": prediction.rise_M,
            "volatility": told["std"].to_numpy(np.float64),
            "mean_return": told["mean"].to_numpy(np.float64),
            "median_return": told["q50"].to_numpy(np.float64),
        }
    )
