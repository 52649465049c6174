"""The task with known memory: what is asked, and that gates keep what a simple RNN loses."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from forecast import compose
from forecast.config import plain
from forecast.evaluation import recall as task
from forecast.evaluation.recall import answers, recall, slopes
from forecast.evaluation.trial import Trial, fit
from forecast.prices.simulated import simulated


def test_a_question_is_about_the_last_shock() -> None:
    prices = simulated(process="recall", n_symbols=3, n_sessions=300, longest=20)
    told = prices.covariates[0].frame.set_index(["symbol", "known"])
    found = answers(prices)
    assert len(found) == (told["question"] == 1).sum() > 20
    for row in found.itertuples():
        own = told.loc[row.symbol]
        sessions = own.index[own.index <= row.date]
        last = own.loc[sessions, "shock"][own.loc[sessions, "shock"] != 0]
        assert row.shock == last.iloc[-1]
        assert row.age == len(sessions) - sessions.get_loc(last.index[-1])


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    """Networks of each cell, trained on a smaller task at a higher rate."""
    config: dict[str, Any] = plain(compose("train", ["optimizer.lr=0.005", "trainer=cpu"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "SESSIONS", 4000)
        return recall(config, ["rnn", "lstm", "gru"], seed=1, epochs=25)


def test_what_is_recalled_is_a_share_of_each_group_of_answers(measured: pd.DataFrame) -> None:
    assert measured["model"].tolist() == ["rnn"] * 7 + ["lstm"] * 7 + ["gru"] * 7
    assert measured["first"].tolist() == [1, 2, 4, 7, 13, 26, 51] * 3
    assert measured["last"].tolist() == [1, 3, 6, 12, 25, 50, 100] * 3
    assert measured["recalled"].between(0, 1).all() and (measured["answers"] > 50).all()


def test_gates_recall_after_weeks_what_a_simple_rnn_has_lost(measured: pd.DataFrame) -> None:
    late = measured[measured["first"] >= 13].groupby("model")["recalled"].mean()
    assert late["rnn"] < late["lstm"] - 0.1 and late["rnn"] < late["gru"] - 0.1
    soon = measured[measured["first"] == 1].set_index("model")["recalled"]
    assert (soon > 0.5).all(), "what was told just now, every cell knows"


def test_slopes_are_those_of_the_stated_volatility(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a shock that is moved by hand, in the history from its first session."""
    prices = simulated(process="recall", n_symbols=4, n_sessions=1500, seed=0)
    config = plain(compose("train", ["model.hidden_size=4", "trainer=cpu"]))
    kept: list[Trial] = []
    monkeypatch.setattr(task, "SESSIONS", 1500)
    monkeypatch.setattr(task, "SYMBOLS", 4)
    monkeypatch.setattr(task, "fit", lambda *given: kept.append(fit(*given)) or kept[-1])
    recall(config, ["gru"], seed=0, epochs=2)
    (trial,) = kept
    network, head, panel = trial.ensemble.networks[0], trial.ensemble.head, trial.datamodule.panel
    asked = answers(prices)
    asked = asked[(asked["symbol"] == "SIM0003") & asked["age"].isin([1, 2, 3, 4, 8, 10])].tail(6)
    first = int(panel.offsets[2])
    rows = first + np.searchsorted(panel.dates, asked["date"].to_numpy().astype("datetime64[D]"))
    feature, moved = panel.names.index("shock"), []
    for row, age in zip(rows, asked["age"], strict=True):
        x = torch.from_numpy(panel.values[first : row + 1])[None].double().repeat(2, 1, 1)
        x[:, -age, feature] += torch.tensor([-1e-3, 1e-3])
        raw, _ = deepcopy(network).double()(x)
        low, high = head.volatility(head.domain(raw[:, -1, 0])).log().tolist()
        moved.append((high - low) / 2e-3)
    assert len(moved) == 6 and np.abs(moved).max() > 1e-3
    assert slopes(trial, rows, asked["age"].to_numpy()) == pytest.approx(moved, rel=1e-2, abs=1e-5)
