"""Training members: the best epoch is kept, together is as alone, and nothing shows of a kill."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from forecast import load_prices
from forecast.config import ForecastError
from forecast.dataset.carried import CarriedPass
from forecast.dataset.task import Task
from forecast.models import pipeline
from forecast.models.checkpoints import best_checkpoint, read_checkpoint
from forecast.models.ensemble import load_ensemble
from forecast.models.forecaster import Forecaster
from forecast.models.options import TrainerOptions
from forecast.models.pipeline import fit_ensemble, make_datamodule
from forecast.prices.frame import Prices

Fit = Callable[..., list[str]]
# All that makes a resume hard: state of the optimiser, the schedule, dropout, two layers.
HARD = [
    "model.layers=2", "model.dropout=0.3", "model.input_dropout=0.2", "ensemble=2",
    "optimizer.schedule=cosine", "optimizer.warmup_steps=4", "trainer.max_epochs=3",
    "window.batch=16",
]  # fmt: skip
# Three members, of which one stops after the other where `stopping` says so.
THREE = [
    "ensemble=3", "trainer.max_epochs=5", "trainer.patience=1", "window.batch=16",
    "model.input_dropout=0.2",
]  # fmt: skip
BEST = (2, 1, 3)  # epochs of the members
DEEP = ["model.layers=2", "model.dropout=0.3"]


@pytest.fixture
def fit(config: Any, prices: Prices) -> Fit:
    """Train the tiny configuration into a folder; the lines that were said."""

    def fit(folder: Path, *overrides: str, **options: Any) -> list[str]:
        said: list[str] = []
        chosen = config(*overrides)
        fit_ensemble(chosen, make_datamodule(chosen, prices), folder, say=said.append, **options)
        return said

    return fit


def history(folder: Path) -> pd.DataFrame:
    """What happened, but for the time it took."""
    return pd.read_csv(folder / "history.csv").drop(columns="seconds")


def weights(folder: Path, member: int = 0) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(best_checkpoint(folder, member))["state_dict"]
    return state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_members(a: Path, b: Path, count: int) -> bool:
    """Whether two folders' members ended with the same weights, buffers and history."""
    states = ((weights(a, member), weights(b, member)) for member in range(count))
    return history(a).equals(history(b)) and all(same(*pair) for pair in states)


# ----------------------------------------------------------------------------- best epoch


def test_the_weights_that_are_kept_are_those_of_the_best_epoch(
    fit: Fit, config: Any, prices: Prices, tmp_path: Path
) -> None:
    overrides = ["optimizer.lr=0.2", "trainer.max_epochs=12", "trainer.patience=2"]
    (line,) = fit(tmp_path, *overrides)
    losses = history(tmp_path)["validation_loss"]
    best = int(losses.idxmin())
    assert best < len(losses) - 1, "the last epoch should not be the best for this test"
    assert len(losses) == best + 1 + 2, "training goes on for `patience` epochs and no longer"
    assert f"in epoch {best + 1} of {len(losses)}" in line

    datamodule = make_datamodule(config(*overrides), prices)
    ensemble = load_ensemble(tmp_path, members=1, task=datamodule.task)
    hyper = read_checkpoint(best_checkpoint(tmp_path, 0))["hyper_parameters"]
    module = Forecaster(**hyper)
    module.networks[0] = ensemble.networks[0]
    module.on_validation_epoch_start()
    tensors = datamodule.tensors("cpu")
    with torch.no_grad():
        for step in CarriedPass(datamodule.ranges["validation"], datamodule.panel.offsets, tensors):
            module.validation_step(step, 0)
    again = (module._sums[0] / module._sums[1]).item()
    assert again == pytest.approx(losses[best], rel=1e-7)


def test_history_has_a_row_for_every_epoch_of_every_member(
    fit: Fit, config: Any, prices: Prices, tmp_path: Path
) -> None:
    said = fit(tmp_path, "ensemble=2", "optimizer.schedule=linear", "optimizer.lr=0.01")
    table = history(tmp_path)
    steps = make_datamodule(config(), prices).steps
    assert steps > 1
    assert list(table["member"]) == [0, 0, 0, 1, 1, 1]
    assert list(table["epoch"]) == [1, 2, 3] * 2
    assert list(table["step"]) == [steps, 2 * steps, 3 * steps] * 2
    assert np.isfinite(table[["train_loss", "validation_loss"]]).all(axis=None)
    assert table["learning_rate"].to_numpy() == pytest.approx([0.02 / 3, 0.01 / 3, 0] * 2)
    assert [line.split(":")[0] for line in said] == ["member 1", "member 2"]


def test_members_differ_in_their_seed_alone(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path, "ensemble=2")
    first, second = (read_checkpoint(best_checkpoint(tmp_path, m)) for m in (0, 1))
    assert not same(weights(tmp_path, 0), weights(tmp_path, 1))
    differing = {
        key
        for key, value in first["hyper_parameters"].items()
        if value != second["hyper_parameters"][key]
    }
    assert differing == {"members"}


def test_a_loss_that_is_no_number_is_refused_with_the_remedy(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: Forecaster, batch: Any, index: int) -> None:
        self._sums += torch.nan

    monkeypatch.setattr(Forecaster, "validation_step", nothing)
    for _ in range(2):  # also when the same command is given again
        with pytest.raises(ForecastError, match=r"member 1: .* became nan\. Lower optimizer\.lr"):
            fit(tmp_path)


def test_a_loss_that_became_no_number_in_the_last_epoch_is_refused_again(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Forecaster.validation_step

    def last(self: Forecaster, batch: Any, index: int) -> None:
        original(self, batch, index)
        if self.current_epoch == 2:
            self._sums += torch.nan

    monkeypatch.setattr(Forecaster, "validation_step", last)
    for _ in range(2):
        with pytest.raises(ForecastError, match=r"became nan\. Lower optimizer\.lr"):
            fit(tmp_path)


# --------------------------------------------------------------------------------- resume


class Killed(BaseException):
    """Stands for an end that nothing in the package may catch."""


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Raise once before a training step of the members that a first one is trained with."""
    original = Forecaster.training_step

    def stop_at(step: int, error: type[BaseException] = Killed, *, first: int = 0) -> None:
        def training_step(self: Forecaster, batch: Any, index: int) -> torch.Tensor:
            if (self.members[0], self.global_step) == (first, step):
                monkeypatch.setattr(Forecaster, "training_step", original)
                raise error
            return original(self, batch, index)

        monkeypatch.setattr(Forecaster, "training_step", training_step)

    return stop_at


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every member's loss smaller from epoch to epoch up to its best one, then larger."""
    original = Forecaster.validation_losses

    def validation_losses(self: Forecaster) -> torch.Tensor:
        epoch = self.global_step // self.trainer.num_training_batches
        shift = [-epoch if epoch <= BEST[member] else epoch for member in self.active_members]
        return original(self) + torch.tensor(shift) / 2

    monkeypatch.setattr(Forecaster, "validation_losses", validation_losses)


def test_stopped_at_every_step_training_ends_as_if_it_never_had_been(
    fit: Fit, tmp_path: Path, stop_at: Callable[..., None], stopping: None
) -> None:
    """Also while some of the members have stopped for good."""
    whole, broken, overrides = tmp_path / "whole", tmp_path / "broken", [*HARD, *THREE]
    fit(whole, *overrides)
    for step in range(history(whole)["step"].max()):
        stop_at(step)
        with pytest.raises(Killed):
            fit(broken, *overrides)
    fit(broken, *overrides)
    pd.testing.assert_frame_equal(history(broken), history(whole), check_exact=True)
    assert same_members(broken, whole, 3)


def test_a_checkpoint_is_the_old_one_or_the_new_one(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(whole)
    save, count = torch.save, 0

    def torn(state: Any, path: Any, *args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        save(state, path, *args, **options)
        if count == 3:  # the second epoch's
            os.truncate(path, 100)
            raise Killed

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Killed):
        fit(broken)
    for name in ("best.ckpt", "last.ckpt"):
        read_checkpoint(best_checkpoint(broken, 0).with_name(name))
    fit(broken)
    assert same(weights(broken), weights(whole))
    kept = {p.name for p in best_checkpoint(broken, 0).parent.iterdir()}
    assert kept == {"best.ckpt", "last.ckpt"}


def test_ctrl_c_is_ctrl_c_and_the_next_one_is_heard_too(
    fit: Fit, tmp_path: Path, stop_at: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    stop_at(2, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(fit(tmp_path)) == 1


def test_finished_members_are_not_trained_again_wherever_they_lie(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(fit(tmp_path / "here", "ensemble=2")) == 2
    (tmp_path / "here").rename(tmp_path / "there")

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Forecaster, "training_step", never)
    assert fit(tmp_path / "there", "ensemble=2") == []


def test_members_interrupted_elsewhere_end_in_the_same_bytes(
    fit: Fit, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    fit(tmp_path / "whole", *HARD)
    steps = int(history(tmp_path / "whole")["step"].min())
    stop_at(2 * steps)
    with pytest.raises(Killed):
        fit(tmp_path / "here", *HARD)
    (tmp_path / "here").rename(tmp_path / "there")
    fit(tmp_path / "there", *HARD)
    assert history(tmp_path / "there").equals(history(tmp_path / "whole"))
    assert same(weights(tmp_path / "there", 1), weights(tmp_path / "whole", 1))


def test_a_torn_row_of_history_is_cut_and_written_again(
    fit: Fit, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    fit(tmp_path / "whole")
    steps = int(history(tmp_path / "whole")["step"].min())
    stop_at(steps + 1)
    with pytest.raises(Killed):
        fit(tmp_path / "broken")
    with open(tmp_path / "broken" / "history.csv", "a") as file:
        file.write(f"0,2,{2 * steps},1.23")
    fit(tmp_path / "broken")
    assert history(tmp_path / "broken").equals(history(tmp_path / "whole"))


def test_early_stopping_counts_on_after_a_resume(
    fit: Fit, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    overrides = ["optimizer.lr=0.2", "trainer.max_epochs=12", "trainer.patience=2"]
    fit(tmp_path / "whole", *overrides)
    table = history(tmp_path / "whole")
    stop_at(int(table["step"].iloc[-2]) + 1)
    with pytest.raises(Killed):
        fit(tmp_path / "broken", *overrides)
    fit(tmp_path / "broken", *overrides)
    assert history(tmp_path / "broken").equals(table)


# ------------------------------------------------------------------------------- together


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many members be trained at once."""
    return lambda members: monkeypatch.setattr(pipeline, "TOGETHER", members)


@pytest.mark.parametrize(
    "options",
    [
        ("model=lstm",),
        ("model=lstm", *DEEP, "head=quantile"),
        ("model=gru", *DEEP),
        ("model=rnn", "head=quantile"),
        ("model=mlp", *DEEP, "head=quantile"),
        ("model=linear",),
        ("model=gru", *DEEP, "model.kernel=torch"),
    ],
    ids=" ".join,
)
def test_members_trained_together_are_those_trained_alone_bit_for_bit(
    fit: Fit,
    tmp_path: Path,
    together: Callable[[int], None],
    stopping: None,
    options: tuple[str, ...],
) -> None:
    """Though they stop one after the other, and the others go on without them."""
    overrides = [*THREE, *options]
    fit(tmp_path / "together", *overrides)
    together(1)
    fit(tmp_path / "alone", *overrides)
    epochs = history(tmp_path / "alone").groupby("member")["epoch"].max()
    assert epochs.tolist() == [best + 1 for best in BEST]
    assert same_members(tmp_path / "together", tmp_path / "alone", 3)


def test_more_members_than_are_trained_at_once_follow_one_another(
    fit: Fit, tmp_path: Path, together: Callable[[int], None], stop_at: Callable[..., None]
) -> None:
    fit(tmp_path / "whole", *THREE)
    together(2)
    stop_at(4, first=2)
    with pytest.raises(Killed):
        fit(tmp_path / "split", *THREE)
    said = fit(tmp_path / "split", *THREE)
    assert [line.split(":")[0] for line in said] == ["member 3"], "the others were finished"
    assert same_members(tmp_path / "split", tmp_path / "whole", 3)
    last = (tmp_path / "split" / "checkpoints").glob("*/last.ckpt")
    assert {path.parent.name for path in last} == {"member-0", "member-2"}


@pytest.mark.parametrize(
    ("options", "members"),
    [
        ((), pipeline.TOGETHER),
        (("head=position",), 1),  # its batches are of whole dates, which differ
        (("trainer=ddp", "trainer.accelerator=cpu"), 1),
        (("trainer.accelerator=gpu",), 1),
        # Memory is kept for the way back of all of them.
        (("window.batch=64", "window.length=250", "model.hidden_size=128"), 4),
        (("window.batch=256", "window.length=250", "model.hidden_size=256"), 1),
    ],
    ids=str,
)
def test_members_are_trained_at_once_where_they_can_share_their_steps(
    options: tuple[str, ...], members: int, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some")
    chosen = config(*options)
    assert pipeline.together(chosen, TrainerOptions(**chosen["trainer"])) == members


# ----------------------------------------------------------------------------- neighbours


def test_training_leaves_everybodys_random_numbers_alone(fit: Fit, tmp_path: Path) -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    fit(tmp_path, *HARD)
    load_ensemble(tmp_path, members=2, task=Task(horizons=(1, 5)))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_what_was_drawn_before_does_not_matter(fit: Fit, tmp_path: Path) -> None:
    torch.manual_seed(1)
    fit(tmp_path / "a", *HARD)
    torch.manual_seed(2)
    fit(tmp_path / "b", *HARD)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_number_of_threads_changes_no_bit_at_the_usual_size(
    cell: str, config: Any, tmp_path: Path
) -> None:
    """Small sums are not split between threads; those of the usual network are long enough."""
    chosen = config(
        f"model={cell}", "data.n_symbols=20", "data.n_sessions=1200", "model.hidden_size=32",
        "window.length=250", "window.warmup=40", "window.batch=64", "horizons=[1,5,20]",
        "split.validation=250", "trainer.max_epochs=1", "model.input_dropout=0.1",
    )  # fmt: skip
    prices, before = load_prices(chosen["data"]), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            datamodule = make_datamodule(chosen, prices)
            fit_ensemble(chosen, datamodule, tmp_path / str(threads), say=lambda line: None)
    finally:
        torch.set_num_threads(before)
    assert same(weights(tmp_path / "1"), weights(tmp_path / "2"))
    assert history(tmp_path / "1").equals(history(tmp_path / "2"))


# ---------------------------------------------------------------------------- warm start


def test_a_warm_start_takes_weights_and_standardisation_and_nothing_else(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the optimiser's state, nor the epoch; and these rows' statistics are not used."""
    fit(tmp_path / "before", "ensemble=2", "split.test=0.4", "seed=7")
    begun: list[dict[str, torch.Tensor]] = []
    step = Forecaster.training_step

    def spy(self: Forecaster, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == 0:
            for network in self.networks:
                state = network.state_dict().items()
                begun.append({f"network.{name}": value.clone() for name, value in state})
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Forecaster, "training_step", spy)
        fit(tmp_path / "warm", "ensemble=2", start=tmp_path / "before")
    assert len(begun) == 2
    for member in (0, 1):
        assert same(begun[member], weights(tmp_path / "before", member))
        for name in ("network.mean_F", "network.std_F"):
            kept = weights(tmp_path / "warm", member)[name]
            assert torch.equal(kept, weights(tmp_path / "before", member)[name])
    assert list(history(tmp_path / "warm")["epoch"]) == [1, 2, 3] * 2
    assert not same(weights(tmp_path / "warm"), weights(tmp_path / "before"))


def test_a_warm_start_that_is_killed_continues_where_it_was(
    fit: Fit, tmp_path: Path, stop_at: Callable[..., None]
) -> None:
    before = tmp_path / "before"
    fit(before, "seed=7")
    fit(tmp_path / "whole", start=before)
    for step in (1, int(history(before)["step"].min()) + 1):
        stop_at(step)
        with pytest.raises(Killed):
            fit(tmp_path / "broken", start=before)
    fit(tmp_path / "broken", start=before)
    assert history(tmp_path / "broken").equals(history(tmp_path / "whole"))
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "whole"))


# ------------------------------------------------------------------------------- safety


def test_checkpoints_hold_primitives_and_tensors_alone(fit: Fit, tmp_path: Path) -> None:
    fit(tmp_path)

    def walk(value: Any, where: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{where}.{key}")
        elif isinstance(value, list | tuple):
            for inner in value:
                walk(inner, where)
        else:
            allowed = (str, int, float, bool, torch.Tensor, type(None))
            assert isinstance(value, allowed), f"{where}: {type(value)}"

    walk(read_checkpoint(best_checkpoint(tmp_path, 0))["hyper_parameters"], "hyper_parameters")


# ------------------------------------------------------------------------------- options


def test_auto_trains_where_the_id_says_it_does(
    config: Any, prices: Prices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own `auto` may take a device that the id of the run knows nothing of."""
    import pytorch_lightning as pl

    asked: list[Any] = []
    make = pl.Trainer.__init__

    def spy(self: pl.Trainer, **options: Any) -> None:
        asked.append(options["accelerator"])
        make(self, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(pl.Trainer, "__init__", spy)
    chosen = config("trainer=auto", "trainer.max_epochs=1")
    fit_ensemble(chosen, make_datamodule(chosen, prices), tmp_path, say=lambda line: None)
    assert asked == ["cpu"]
