from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.prices.simulated import PROCESSES, simulated

Refused = Callable[..., Any]


def of(frame: pd.DataFrame, symbol: str) -> pd.DataFrame:
    return frame[(frame["symbol"] == symbol).to_numpy()].drop(columns="symbol")


@settings(max_examples=15, deadline=None)
@given(
    process=st.sampled_from(PROCESSES),
    n_symbols=st.integers(3, 8),
    n_sessions=st.integers(30, 80),
    ohlcv=st.booleans(),
)
def test_a_symbol_does_not_change_with_the_size_of_the_simulation(
    process: str, n_symbols: int, n_sessions: int, ohlcv: bool
) -> None:
    large = simulated(process=process, n_symbols=n_symbols, n_sessions=n_sessions, ohlcv=ohlcv)
    small = simulated(process=process, n_symbols=3, n_sessions=30, ohlcv=ohlcv, symbols="SIM0003")
    pd.testing.assert_frame_equal(
        of(large.frame, "SIM0003").head(30).reset_index(drop=True), of(small.frame, "SIM0003")
    )


def test_sessions_are_weekdays_and_late_listings_start_in_the_first_half() -> None:
    even = simulated(n_symbols=40, n_sessions=100)
    late = simulated(n_symbols=40, n_sessions=100, staggered=True)
    assert len(even.frame) == 4000
    assert even.frame["date"].dt.day_of_week.max() == 4
    counts = late.frame.groupby("symbol", observed=True).size()
    assert counts.between(50, 100).all() and counts.nunique() > 10
    joined = late.frame.merge(even.frame, on=["symbol", "date"])
    assert len(joined) == len(late.frame)
    np.testing.assert_array_equal(joined["close_x"], joined["close_y"])


@pytest.mark.parametrize("process", PROCESSES)
def test_bars_enclose_open_and_close_and_range_with_volatility(process: str) -> None:
    prices = simulated(process=process, ohlcv=True, n_sessions=1000, volatility=2.0)
    frame = prices.frame
    assert (frame["high"] >= frame[["open", "close"]].max(axis=1) * (1 - 1e-12)).all()
    assert (frame["low"] <= frame[["open", "close"]].min(axis=1) * (1 + 1e-12)).all()
    assert (frame["volume"] > 0).all()
    # Open to close carries three quarters of the variance, and Parkinson's range measures it.
    inside = (100 * np.log(frame["close"] / frame["open"])) ** 2
    ranged = (100 * np.log(frame["high"] / frame["low"])) ** 2 / (4 * np.log(2))
    assert inside.mean() == pytest.approx(3.0, rel=0.15)
    assert ranged.mean() == pytest.approx(3.0, rel=0.15)


def test_the_planted_signal_is_a_covariate_known_at_the_close() -> None:
    prices = simulated(
        process="planted", information_coefficient=0.9, staggered=True, end="1993-01-01"
    )
    (signal,) = prices.covariates
    assert (signal.name, signal.columns, signal.lag, signal.max_age) == (
        "planted",
        ("signal",),
        0,
        0,
    )
    frame = prices.frame
    assert signal.frame["known"].equals(frame["date"].rename("known"))
    assert signal.frame["symbol"].equals(frame["symbol"])
    following = np.log(frame["close"]).groupby(frame["symbol"], observed=True).diff().shift(-1)
    assert np.corrcoef(signal.frame["signal"][:-1], following.fillna(0)[:-1])[0, 1] > 0.85


@pytest.mark.parametrize("process", PROCESSES)
def test_the_truth_knows_what_was_known_and_no_more(process: str) -> None:
    arguments: dict[str, Any] = {"process": process, "n_symbols": 300, "n_sessions": 60}
    prices = simulated(**arguments, truth_paths=1000)
    assert prices.truth is not None
    dates = of(prices.frame, "SIM0290")["date"].to_numpy()
    size = (1, 0) if process == "recall" else (5, 1)
    truth = prices.truth.distribution("SIM0290", dates[10:50], *size)
    longer = simulated(**{**arguments, "n_sessions": 90, "n_symbols": 290}, truth_paths=1000).truth
    assert longer is not None
    again = longer.distribution("SIM0290", dates[10:50].astype("datetime64[D]"), *size)
    np.testing.assert_array_equal(truth.quantiles, again.quantiles)
    one = prices.truth.distribution("SIM0290", dates[-1:], 1, 0)
    assert one.nll is not None and np.isfinite(one.nll(np.zeros(1))).all()
    assert simulated(**arguments, truth=False).truth is None


def test_the_truth_scores_the_prices_it_came_from() -> None:
    prices = simulated(process="garch", n_symbols=30, n_sessions=1000, volatility=2.0)
    assert prices.truth is not None
    pits = []
    for symbol, rows in prices.frame.groupby("symbol", observed=True):
        close = 100 * np.log(rows["close"].to_numpy())
        truth = prices.truth.distribution(symbol, rows["date"].to_numpy()[:-1], 1, 0)
        assert truth.pit is not None
        pits.append(truth.pit(np.diff(close)))
    counts = np.histogram(np.concatenate(pits), bins=10, range=(0, 1))[0]
    assert (np.abs(counts / counts.sum() - 0.1) < 0.01).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"process": "gmb"}, ("data.process=gmb", "gbm")),
        ({"n_symbols": 0}, ("n_symbols=0",)),
        ({"n_sessions": 0}, ("n_sessions=0",)),
        ({"seed": -1}, ("seed=-1",)),
        ({"volatility": 0.0}, ("volatility=0",)),
        ({"volatility": float("nan")}, ("volatility=nan",)),
        ({"process": "planted", "information_coefficient": 1.0}, ("information_coefficient=1",)),
        ({"process": "recall", "longest": 0}, ("longest=0",)),
        ({"process": "garch", "beta": 0.95}, ("beta=0.95", "< 1")),
        ({"process": "garch", "alpha": -0.1}, ("alpha=-0.1",)),
        ({"process": "garch", "df": 2.0}, ("df=2",)),
        ({"process": "garch", "omega": 0.0}, ("omega=0",)),
        ({"process": "garch", "truth_paths": 1}, ("truth_paths=1",)),
        ({"first": "1990"}, ("data.first=1990",)),
        ({"symbols": "SIM0021"}, ("'SIM0021' is not in simulated", "SIM00")),
        ({"start": "2100-01-01"}, ("no session", "2100-01-01")),
    ],
)
def test_parameters_outside_their_range_are_refused(
    arguments: dict[str, Any], words: tuple[str, ...], refused: Refused
) -> None:
    with refused(*words):
        simulated(**arguments)


def test_the_truth_refuses_what_was_not_simulated(refused: Refused) -> None:
    truth = simulated(n_symbols=1, n_sessions=5).truth
    assert truth is not None
    with refused("SIM0002"):
        truth.distribution("SIM0002", np.array(["1990-01-02"], "datetime64[D]"), 1, 0)
    with refused("1990-01-06"):
        truth.distribution("SIM0001", np.array(["1990-01-06"], "datetime64[D]"), 1, 0)


def test_a_covariate_may_not_take_the_place_of_the_signal(tmp_path: Any, refused: Refused) -> None:
    path = tmp_path / "signal.csv"
    path.write_text("date,signal\n1990-01-03,1\n")
    assert len(simulated(covariates=[{"path": str(path)}]).covariates) == 1
    with refused("'signal' clashes"):
        simulated(process="planted", covariates=[{"path": str(path)}])


def test_a_planted_signal_may_tell_nothing() -> None:
    """The placebo: the signal is there, and independent of what comes."""
    prices = simulated(process="planted", information_coefficient=0.0, n_symbols=8, n_sessions=1500)
    (covariate,) = prices.covariates
    signal = covariate.frame["signal"].to_numpy().reshape(8, 1500)
    returns = np.diff(np.log(prices.frame["close"].to_numpy().reshape(8, 1500)), axis=1)
    assert abs(np.corrcoef(signal[:, :-1].ravel(), returns.ravel())[0, 1]) < 0.03
