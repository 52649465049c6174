"""A task with known memory: how much of a shock do networks recall, by the sessions since?

Networks of each cell are trained on simulated prices (`data.process=recall`) in which the
volatility of some sessions was told up to 100 sessions before and by nothing since. They see the
return, the shock when it is told, and a mark on the session before its answer.

Axes: N answers, K lags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.evaluation.explained import Explained, Member
from forecast.evaluation.gates import unroll
from forecast.evaluation.memory import gradient
from forecast.evaluation.trial import Trial, fit, small
from forecast.prices.frame import Prices
from forecast.prices.processes import STRENGTH
from forecast.prices.simulated import simulated

SPLIT = {"validation": 500, "test": 0.5, "embargo": 0}
SYMBOLS, SESSIONS = 20, 5000
LONGEST = 100  # sessions from a shock to its answer
# One scale for all sessions, so that no shock moves it.
RETURNS = {"columns": ["return"], "own": [], "scale_half_life": 1e5}
EDGES = (1, 2, 4, 7, 13, 26, 51, LONGEST + 1)  # first ages of the groups of answers


def recall(
    config: Mapping[str, Any], cells: Sequence[str], *, seed: int, epochs: int
) -> pd.DataFrame:
    """Train a network of each cell on the task and measure what it recalls.

    Parameters
    ----------
    config : that of a run, whose network and optimiser are used.
    seed : of networks and prices.
    epochs : trained at most.

    Returns
    -------
    DataFrame with model, seed, first and last (sessions since the shock), answers, recalled and
        gradient: the squared correlation of the stated log volatility with the shock, and its
        slope with respect to the shock (the median one) as a share of the true slope; perfect
        memory has 1 and 1, and a network that keeps the sign alone 0.64 and 0
    """
    prices = simulated(
        process="recall", n_symbols=SYMBOLS, n_sessions=SESSIONS, longest=LONGEST, seed=seed
    )
    tables = []
    for cell in cells:
        trial = fit(_task(config, cell, seed=seed, epochs=epochs), prices)
        tables.append(_measured(trial, prices, cell, seed))
    return pd.concat(tables, ignore_index=True)


def _task(config: Mapping[str, Any], cell: str, *, seed: int, epochs: int) -> dict[str, Any]:
    """The run's network and optimiser on the task; there is nothing to be dropped out."""
    patient = {**config, "trainer": {**config["trainer"], "patience": epochs}}
    return small(
        patient,
        epochs=epochs,
        seed=seed,
        data={"market": None, "max_gap": 10},
        features={**RETURNS, "scale_floor": config["features"]["scale_floor"]},
        model={**config["model"], "cell": cell, "dropout": 0.0, "input_dropout": 0.0},
        head={"name": "gaussian"},
        horizons=[1],
        target={"delay": 0},
        window={"length": 250, "warmup": 40, "batch": 32},
        loss={**config["loss"], "horizon_weights": None},
        split=SPLIT,
    )


def answers(prices: Prices) -> pd.DataFrame:
    """Questions of a recall: symbol, date of the close, shock, and its age at the answer."""
    told = prices.covariates[0].frame
    session = told.groupby("symbol", observed=True).cumcount()
    known = told["shock"] != 0
    shock = told["shock"].where(known).groupby(told["symbol"], observed=True).ffill()
    since = session.where(known).groupby(told["symbol"], observed=True).ffill()
    table = told[["symbol", "known"]].assign(shock=shock, age=session - since + 1)
    asked = table[(told["question"] == 1).to_numpy()]
    return asked.rename(columns={"known": "date"}).astype({"age": int}).reset_index(drop=True)


def _measured(trial: Trial, prices: Prices, cell: str, seed: int) -> pd.DataFrame:
    panel, rows = trial.datamodule.panel, trial.datamodule.ranges["test"]
    asked = answers(prices)
    symbol = asked["symbol"].cat.codes.to_numpy().astype(np.int64)
    day = np.searchsorted(panel.dates, asked["date"].to_numpy().astype("datetime64[D]"))
    row = panel.offsets[symbol] + day  # all symbols trade on all days
    age = asked["age"].to_numpy()
    kept = (row >= rows.low[symbol]) & (row < rows.high[symbol])
    row, age, shock = row[kept], age[kept], asked["shock"].to_numpy()[kept]
    stated = _log_volatility(trial, row)
    slope = slopes(trial, row, age)
    found = []
    for first, after in pairwise(EDGES):
        group = (age >= first) & (age < after)
        if group.sum() < 3:
            raise ForecastError(f"recall: fewer than 3 answers after {first} sessions or more.")
        correlation = np.corrcoef(stated[group], shock[group])[0, 1] if stated[group].std() else 0.0
        found.append(
            {
                "model": cell,
                "seed": seed,
                "first": first,
                "last": after - 1,
                "answers": int(group.sum()),
                "recalled": float(correlation**2),
                "gradient": float(np.median(slope[group]) / STRENGTH),
            }
        )
    return pd.DataFrame(found)


def _log_volatility(trial: Trial, row_N: np.ndarray) -> np.ndarray:
    """Stated in scaled units at some rows of the test range, which are sorted by symbol."""
    table = trial.forecasts("test")
    panel = trial.datamodule.panel
    code = pd.Categorical(table["symbol"].astype(str), categories=panel.symbols).codes
    day = np.searchsorted(panel.dates, table["origin"].to_numpy().astype("datetime64[D]"))
    scaled = table["std"].to_numpy(np.float64) / table["scale"].to_numpy(np.float64)
    return np.asarray(pd.Series(np.log(scaled), panel.offsets[code] + day).loc[row_N])


def slopes(trial: Trial, row_N: np.ndarray, age_N: np.ndarray) -> np.ndarray:
    """∂ log volatility at each answer's close ∂ the shock when it was told."""
    data, network = trial.datamodule, trial.ensemble.networks[0]
    panel = data.panel
    member = Member(model="", seed=0, number=1, network=network, head=trial.ensemble.head)
    explained = Explained(
        config={},
        prices=Prices(frame=pd.DataFrame(), source="simulated"),
        panel=panel,
        task=data.task,
        rows=data.ranges["test"],
        train=data.ranges["train"],
        members=[member],
        horizon=0,
    )
    symbols = np.arange(len(panel.symbols))
    x_SLF = explained.tensors.inputs(panel.offsets[:-1], panel.offsets[1:], len(panel.dates))
    slope_NKF = gradient(
        explained,
        member,
        unroll(network, x_SLF),
        symbols=symbols,
        origins=row_N,
        lags=LONGEST,
    )
    feature = panel.names.index("shock")
    return slope_NKF[np.arange(len(row_N)), age_N - 1, feature] / float(network.std_F[feature])
