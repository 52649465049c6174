"""Steps of a walk-forward: what each leaves, which wait for others, how widths are chosen."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import forecast.models.walk as walk_module
from forecast import compose
from forecast.config import ForecastError, plain
from forecast.dataset.folds import Fold, walk_forward
from forecast.dataset.panel import Panel
from forecast.forecasts import names, read_forecasts
from forecast.models.checkpoints import best_checkpoint, read_checkpoint
from forecast.models.configured import panel_of
from forecast.models.forecaster import Forecaster
from forecast.models.walk import (
    CLASSICAL,
    COST,
    Outcome,
    Step,
    attempt,
    chained,
    own_baselines,
    timing,
    told,
    work,
)
from forecast.prices.frame import Prices

Config = dict[str, Any]
MakeConfig = Callable[..., Config]

DATES = np.busday_offset(np.datetime64("2000-01-03"), np.arange(1500)).astype("datetime64[D]")
YEARS = list(walk_forward(DATES, first="2003-01-01", refit="1y", validation=50))
TINY = [
    "horizons=[1,5]", "window.length=60", "window.warmup=25", "window.batch=16",
    "split.validation=60", "model.hidden_size=4", "ensemble=1", "trainer=cpu",
    "trainer.max_epochs=2", "trainer.patience=2", "backtest.baselines=[historical,ewma_t,linear]",
    "backtest.mlp_widths=[2,3]", "data=simulated",
]  # fmt: skip


@pytest.fixture(scope="module")
def walk_config() -> MakeConfig:
    def walk_config(*overrides: str) -> Config:
        return plain(compose("backtest", [*TINY, *overrides]))

    return walk_config


@pytest.fixture(scope="module")
def panel(walk_config: MakeConfig, prices: Prices) -> Panel:
    return panel_of(walk_config(), prices)


@pytest.fixture(scope="module")
def folds(panel: Panel) -> list[Fold]:
    """Two of them."""
    first = str(panel.dates[300])
    last = str(panel.dates[380])
    return list(walk_forward(panel.dates, first=first, last=last, refit="2m", validation=60))


def weights(folder: Path, cell: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(best_checkpoint(folder / cell, 0))[
        "state_dict"
    ]
    return state


# --------------------------------------------------------------------------- which there are


@given(
    parts=st.sampled_from([["validation"], ["test"], ["validation", "test"]]),
    models=st.lists(st.sampled_from(list(COST)), min_size=1, unique=True),
    warm_start=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_fold_of_every_model_is_one_step_of_one_chain(
    parts: list[str], models: list[str], warm_start: bool
) -> None:
    chains = chained(YEARS, models, parts, warm_start=warm_start)
    steps = [step for chain in chains for step in chain]
    wanted = YEARS if "test" in parts else YEARS[:1]
    assert sorted((s.model, s.fold.index) for s in steps) == sorted(
        (model, fold.index) for model in models for fold in wanted
    )
    for step in steps:
        assert step.parts == tuple(p for p in parts if p == "test" or step.fold.index == 0)
    for chain in chains:
        before = None
        for step in chain:
            assert step.before == before, "each waits for the fold before it, and that is there"
            before = step.fold.index if warm_start and step.model != CLASSICAL else None
        if not warm_start or chain[0].model == CLASSICAL:
            assert len(chain) == 1


def test_the_longest_go_first() -> None:
    chains = chained(YEARS, list(COST), ["test"], warm_start=False)
    longest = max(COST, key=lambda model: COST[model])
    assert (chains[0][0].model, chains[0][0].fold.index) == (longest, len(YEARS) - 1)
    assert (chains[-1][0].model, chains[-1][0].fold.index) == ("linear", 0)


# -------------------------------------------------------------------------- what they leave


@pytest.fixture(scope="module")
def left(
    walk_config: MakeConfig, panel: Panel, folds: list[Fold], tmp_path_factory: Any
) -> tuple[Path, list[Step]]:
    """A folder in which two models of two folds were worked on."""
    folder = tmp_path_factory.mktemp("walk")
    chains = chained(folds, ["lstm", CLASSICAL], ["validation", "test"], warm_start=False)
    steps = [step for chain in chains for step in chain]
    for step in steps:
        assert not step.done(folder)
        work(step, config=walk_config(), panel=panel, folder=folder)
        assert step.done(folder)
    return folder, steps


def test_a_step_leaves_a_table_of_its_models_for_each_part(left: tuple[Path, list[Step]]) -> None:
    folder, steps = left
    for step in steps:
        for part in step.parts:
            path = step.table(folder, part)
            assert names(path, "part") == [part]
            expected = ["historical", "ewma_t"] if step.model == CLASSICAL else [step.model]
            assert names(path, "model") == expected
            assert set(read_forecasts(path, columns=["fold"])["fold"]) == {step.fold.index}


def test_a_finished_step_is_not_done_again(
    left: tuple[Path, list[Step]], walk_config: MakeConfig, panel: Panel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A table without its facts was cut short: it is written again, from the network as it is."""
    folder, steps = left
    step = next(s for s in steps if s.model == "lstm")
    table = step.table(folder, "test")
    before = table.read_bytes()
    table.with_suffix(".json").unlink()
    assert not step.done(folder)
    monkeypatch.setattr(Forecaster, "training_step", None)
    assert work(step, config=walk_config(), panel=panel, folder=folder) == []
    assert step.done(folder)
    assert table.read_bytes() == before


def test_what_is_told_names_every_fit(left: tuple[Path, list[Step]]) -> None:
    folder, steps = left
    steps = sorted(steps, key=lambda s: s.fold.index)
    found = told(steps, folder)
    assert [fit["fold"] for fit in found["fits"]["lstm"]] == [0, 1]
    for fit in found["fits"]["lstm"]:
        with open(folder / fit["folder"] / "history.csv", newline="") as file:
            losses = [float(row["validation_loss"]) for row in csv.DictReader(file)]
        assert fit["validation_loss"] == [min(losses)]
        assert fit["hidden_size"] == 4
    assert found["fallbacks"] == {}


def test_fallbacks_of_all_parts_are_told_once(tmp_path: Path) -> None:
    step = Step(fold=YEARS[0], model=CLASSICAL, parts=("validation", "test"))
    for part, symbols in (("validation", ["B", "A"]), ("test", ["C", "A"])):
        path = step.table(tmp_path, part).with_suffix(".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"fallbacks": {"garch_t": symbols}, "dropped": len(symbols)}))
    facts = told([step], tmp_path)
    assert facts["fallbacks"] == {"garch_t": {"0": ["A", "B", "C"]}}
    assert facts["unscaled"] == {"validation": 2, "test": 2}


def test_seconds_and_targets_are_those_of_all_epochs(left: tuple[Path, list[Step]]) -> None:
    folder, _ = left
    folds = [{"index": 0, "targets": 10}, {"index": 1, "targets": 100}, {"index": 2, "targets": 7}]
    told = timing(folder, folds, 12.0)
    seconds, rate = told["fit_seconds"], told["targets_per_second"]
    history = [(folder / f"fold-0{k}/lstm/history.csv").read_text() for k in (0, 1)]
    epochs = [text.count("\n") - 1 for text in history]
    assert seconds is not None and seconds > 0
    assert rate == pytest.approx((10 * epochs[0] + 100 * epochs[1]) / seconds)
    assert told["total_seconds"] == 12.0


def test_baselines_that_are_networks_are_steps_of_their_own(walk_config: MakeConfig) -> None:
    chosen = walk_config("backtest.baselines=[historical,mlp,ewma_t,linear]")
    assert own_baselines(chosen) == ["historical", "ewma_t"]


# -------------------------------------------------------------------------------- warm start


def test_a_warm_start_begins_with_the_weights_and_the_standardisation_of_the_fold_before(
    walk_config: MakeConfig, panel: Panel, folds: list[Fold], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config, folder = walk_config(), tmp_path
    (chain,) = chained(folds, ["lstm"], ["test"], warm_start=True)
    cold = tmp_path / "cold"
    for step in chain:
        work(replace(step, before=None), config=config, panel=panel, folder=cold)
    begun: list[dict[str, torch.Tensor]] = []
    train_start = Forecaster.on_train_start if hasattr(Forecaster, "on_train_start") else None

    def spy(self: Forecaster) -> None:
        state = self.network.state_dict().items()
        begun.append({f"network.{name}": value.clone() for name, value in state})
        if train_start is not None:
            train_start(self)

    monkeypatch.setattr(Forecaster, "on_train_start", spy)
    for step in chain:
        work(step, config=config, panel=panel, folder=folder)
    first, second = (weights(folder / f"fold-0{k}", "lstm") for k in (0, 1))
    assert begun[1].keys() == first.keys()
    assert all(torch.equal(begun[1][name], first[name]) for name in first), "where it ended"
    for name in ("network.mean_F", "network.std_F"):
        assert torch.equal(second[name], first[name])
        assert not torch.equal(weights(cold / "fold-01", "lstm")[name], first[name])
    assert not torch.equal(second["network.readout.weight"], first["network.readout.weight"])
    same = weights(cold / "fold-00", "lstm")
    assert all(torch.equal(same[name], first[name]) for name in first), "the first starts as ever"


# ------------------------------------------------------------------------------- failures


def test_after_a_failure_the_rest_of_a_chain_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    (chain,) = chained(YEARS, ["lstm"], ["test"], warm_start=True)

    def fails(step: Step, **_: Any) -> list[str]:
        if step.fold.index == 1:
            raise ForecastError("no more ink.")
        return [f"fold {step.fold.index} is done"]

    monkeypatch.setattr(walk_module, "work", fails)
    assert attempt(chain) == [
        Outcome(step=chain[0], lines=["fold 0 is done"]),
        Outcome(step=chain[1], error="no more ink."),
    ]
    assert chain[1].name == f"fold 1 ({YEARS[1].test}), lstm"


def test_a_bug_is_told_with_its_kind_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(step: Step, **_: Any) -> list[str]:
        raise RuntimeError("lost\nand not found")

    monkeypatch.setattr(walk_module, "work", broken)
    (outcome,) = attempt([Step(fold=YEARS[0], model="gru", parts=("test",))])
    assert outcome.error.startswith("RuntimeError: lost and not found (test_walk.py:")


# ----------------------------------------------------------------------------------- width


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_the_width_of_mlp_is_the_one_whose_first_member_validates_best(
    walk_config: MakeConfig, panel: Panel, folds: list[Fold], tmp_path: Path, order: Sequence[int]
) -> None:
    config = walk_config(f"backtest.mlp_widths={list(order)}", "ensemble=2")
    step = Step(fold=folds[0], model="mlp", parts=("test",))
    lines = work(step, config=config, panel=panel, folder=tmp_path)
    fold, facts = tmp_path / "fold-00", step.facts(tmp_path, "test")
    best = {}
    for width in order:
        with open(fold / f"mlp-{width}" / "history.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["member"] == "0"]
        best[width] = min(float(row["validation_loss"]) for row in rows)
    chosen = min(best, key=lambda width: best[width])
    assert facts["hidden_size"] == chosen
    assert facts["folder"] == f"fold-00/mlp-{chosen}"
    assert facts["validation_loss"][0] == best[chosen]
    members = {w: len(list((fold / f"mlp-{w}/checkpoints").glob("member-*"))) for w in order}
    assert members == {w: 2 if w == chosen else 1 for w in order}, "the others are tried once"
    assert len(lines) == 3
    assert names(step.table(tmp_path, "test"), "model") == ["mlp"]
    state = weights(fold, f"mlp-{chosen}")
    assert state["network.readout.weight"].shape[1] == chosen
