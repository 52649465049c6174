"""Weights of a position head: what they are of, how long they are held, and what they know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forecast import compose
from forecast.config import plain
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range, walk_forward
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.segments import STALE, full_weights
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors
from forecast.models.configured import panel_of
from forecast.models.ensemble import Ensemble, load_ensemble
from forecast.models.heads import PositionHead
from forecast.models.networks import Network
from forecast.models.pipeline import fit_ensemble, make_datamodule
from forecast.models.walk import Step, work
from forecast.models.weights import write_weights
from forecast.prices.frame import Prices
from forecast.weights import read_weights

RandomPanel = Callable[..., Panel]
RandomPrices = Callable[..., Prices]
Cut = Callable[[Prices, np.datetime64], Prices]

PERIODS, WARMUP = 252.0, 22
seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def trained(
    config: Any, prices: Prices, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PriceDataModule, Ensemble]:
    chosen = config(
        "head=position", "horizons=[1]", "target.delay=1", "window.batch=60", "ensemble=2",
        "trainer.max_epochs=1",
    )  # fmt: skip
    folder, datamodule = tmp_path_factory.mktemp("position"), make_datamodule(chosen, prices)
    fit_ensemble(chosen, datamodule, folder, say=lambda line: None)
    return datamodule, load_ensemble(folder, members=2, task=datamodule.task)


def weights_of(datamodule: PriceDataModule, ensemble: Ensemble, path: Path, *parts: str) -> Any:
    write_weights(path, datamodule, parts=parts, ensembles={"lstm": ensemble})
    return read_weights(path)


def test_weights_are_the_members_mean_position_scaled(
    trained: tuple[PriceDataModule, Ensemble], tmp_path: Path
) -> None:
    datamodule, ensemble = trained
    panel = datamodule.panel
    table = weights_of(datamodule, ensemble, tmp_path / "w.parquet", "validation", "test")
    assert set(table["strategy"]) == {"position"} and set(table["model"]) == {"lstm"}
    full_N = full_weights(panel, datamodule.task.warmup)
    for part in ("validation", "test"):
        mine = table[table["part"] == part].set_index(["origin", "symbol"])["weight"]
        rows = datamodule.ranges[part]
        assert len(mine) == rows.rows, "no session is missing here"
        for s, symbol in enumerate(panel.symbols):
            if rows.high[s] <= rows.low[s]:
                continue
            history = torch.from_numpy(panel.values[panel.symbol_rows(s)])[None]
            with torch.no_grad():
                said = [n(history)[0][0, :, 0, 0].tanh().numpy() for n in ensemble.networks]
            for row in (rows.low[s], rows.high[s] - 1):
                x = np.mean([x[row - panel.offsets[s]] for x in said])
                expected = x * full_N[row] * 15 / datamodule.periods**0.5
                date = pd.Timestamp(panel.dates[panel.day[row]])
                assert mine[date, symbol] == pytest.approx(expected, rel=1e-5)


def random_weights(panel: Panel, low: np.ndarray, high: np.ndarray, path: Path) -> Any:
    """The Weights table of an untrained network on any rows of any panel."""
    chosen = {"cell": "gru", "features": len(panel.names), "horizons": 1, "parameters": 1}
    torch.manual_seed(0)
    network = Network(**chosen, hidden_size=3)  # type: ignore[arg-type]

    data: Any = SimpleNamespace(
        panel=panel,
        periods=PERIODS,
        task=Task(horizons=(1,), delay=1, length=60, warmup=WARMUP, dated=True),
        fold=SimpleNamespace(index=3),
        ranges={"test": Range(low=low, high=high)},
        tensors=lambda device: PanelTensors(
            panel, horizons=(1,), delay=1, device=device, full_N=full_weights(panel, WARMUP)
        ),
    )
    head = PositionHead(volatility=15.0, cost=5.0)
    return weights_of(data, Ensemble([network], head, data.task), path, "test")


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_a_position_is_held_while_its_exchange_may_be_closed_and_no_longer(
    random_panel: RandomPanel, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    panel = random_panel(seed, symbols=4, missing=0.2)
    begin = panel.first_row(panel.dates[40])
    low = np.minimum(np.maximum(begin, panel.offsets[:-1] + WARMUP), panel.offsets[1:])
    assume((panel.offsets[1:] > low).any())
    table = random_weights(panel, low, panel.offsets[1:], tmp_path_factory.mktemp("w") / "w")
    day = {date: i for i, date in enumerate(panel.dates.astype("datetime64[s]"))}
    wide = table.astype({"symbol": str}).pivot(index="origin", columns="symbol", values="weight")
    stated_in = [(a, b) for a, b in zip(low, panel.offsets[1:], strict=True) if a < b]
    first = min(int(panel.day[a]) for a, _ in stated_in)
    last = max(int(panel.day[b - 1]) for _, b in stated_in)  # origins end with the part's last row
    for s, symbol in enumerate(panel.symbols):
        rows = panel.symbol_rows(s)
        sessions, stated = panel.day[rows], panel.day[rows][WARMUP:]
        got = {day[d] for d in wide[symbol].dropna().index.to_numpy()} if symbol in wide else set()
        expected = {
            int(date)
            for date in range(first, last + 1)
            if low[s] < rows.stop
            and stated[0] <= date
            and date - max(d for d in sessions if d <= date) <= STALE
        }
        assert got == expected
        for date in got - set(sessions.tolist()):
            if date - 1 in got:
                same = wide[symbol].loc[[panel.dates[date - 1], panel.dates[date]]]
                assert same.iloc[0] == same.iloc[1]
    assert set(table["fold"]) == {3}


@settings(max_examples=8, deadline=None)
@given(seed=seeds, at=st.integers(40, 66))
def test_weights_know_nothing_of_what_follows(
    random_prices: RandomPrices,
    cut: Cut,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    at: int,
) -> None:
    prices, features = random_prices(seed), FeatureSet(columns=["return", "scale"])
    folder = tmp_path_factory.mktemp("w")

    def table(some: Prices) -> pd.DataFrame:
        panel = make_panel(some, features, market=None, max_gap=3)
        low = np.minimum(panel.offsets[:-1] + WARMUP, panel.offsets[1:])
        assume((panel.offsets[1:] > low).any())
        return random_weights(panel, low, panel.offsets[1:], folder / "w").astype({"symbol": str})

    last = np.unique(prices.frame["date"])[min(at, prices.frame["date"].nunique() - 1)]
    known, whole = table(cut(prices, last)), table(prices)
    expected = whole[whole["origin"] <= last].reset_index(drop=True)
    columns = ["origin", "symbol", "weight"]
    pd.testing.assert_frame_equal(known[columns], expected[columns], check_exact=True)


def test_a_walk_forward_leaves_weights_also_of_networks_without_memory(
    prices: Prices, tmp_path: Path
) -> None:
    chosen = plain(
        compose(
            "backtest",
            [
                "head=position", "data=simulated", "data.n_sessions=500", "window.length=60",
                "window.warmup=25", "window.batch=200", "split.validation=60",
                "model.hidden_size=4", "ensemble=1", "trainer=cpu", "trainer.max_epochs=1",
                "backtest.mlp_widths=[2,3]",
            ],
        )
    )  # fmt: skip
    panel = panel_of(chosen, prices)
    first, last = str(panel.dates[300]), str(panel.dates[380])
    folds = list(walk_forward(panel.dates, first=first, last=last, refit="2m", validation=60))
    origins = {}
    for model in ("rnn", "linear", "mlp"):
        for fold in folds:
            step = Step(fold=fold, model=model, parts=("test",))
            work(step, config=chosen, panel=panel, folder=tmp_path)
            table = read_weights(step.table(tmp_path, "test"))
            assert set(table["model"]) == {model} and set(table["fold"]) == {fold.index}
            assert step.facts(tmp_path, "test")["dropped"] == 0
            origins[model, fold.index] = set(table["origin"])
    assert not origins["mlp", 0] & origins["mlp", 1]
    assert max(origins["mlp", 0]) < min(origins["mlp", 1])
    assert origins["mlp", 0] == origins["rnn", 0] == origins["linear", 0]
