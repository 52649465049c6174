"""What training is fed: statistics and batches of the training rows, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule, standardisation
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Fold, Range, make_fold, ranges
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.prices.frame import Prices

seeds = st.integers(0, 10_000)
TASK = Task(horizons=(1, 3), length=20, warmup=5, batch=4)
FEATURES = FeatureSet(columns=["return", "abs_return", "volatility_5", "scale", "market_return"])


def module_of(panel: Panel, task: Task = TASK, *, fold: Fold | None = None) -> PriceDataModule:
    fold = fold or make_fold(panel.dates, validation=12, test=0.2)
    result = PriceDataModule(panel, fold, task, seed=0)
    device = SimpleNamespace(root_device=torch.device("cpu"))
    result.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=0, strategy=device, global_rank=0, world_size=1
    )
    return result


def altered(prices: Prices, fold_date: np.datetime64, *, after: bool) -> Prices:
    """Prices with every close on or after (or every one before) a date changed."""
    late = (prices.frame["date"] >= fold_date).to_numpy()
    rng = np.random.default_rng(1)
    factor = np.where(late == after, np.exp(rng.normal(0, 0.1, len(late))), 1.0)
    return replace(prices, frame=prices.frame.assign(close=prices.frame["close"] * factor))


def everything_fed(module: PriceDataModule) -> bytes:
    """All that training and early stopping see."""
    parts = [module.mean_F.tobytes(), module.std_F.tobytes()]
    for batch in [*module.train_dataloader(), *(step.batch for step in module.val_dataloader())]:
        mask = batch.mask_BLH
        known = batch.x_BLF[mask.any(-1)]
        parts += [
            x.numpy().tobytes() for x in (known, batch.y_BLH, mask, batch.scale_BL[mask.any(-1)])
        ]
    return b"".join(parts)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_nothing_that_training_is_fed_depends_on_later_prices(
    random_prices: Callable[..., Prices], seed: int
) -> None:
    prices = random_prices(seed, symbols=7, sessions=100)
    panel = make_panel(prices, FEATURES)
    fold = make_fold(panel.dates, validation=15, test=0.2, embargo=seed % 3)
    mine = module_of(panel, fold=fold)

    def again(date: np.datetime64, *, after: bool) -> PriceDataModule:
        return module_of(make_panel(altered(prices, date, after=after), FEATURES), fold=fold)

    assert everything_fed(again(fold.validation_end, after=True)) == everything_fed(mine)
    statistics = mine.mean_F.tobytes() + mine.std_F.tobytes()
    later = again(fold.train_end, after=True)
    assert later.mean_F.tobytes() + later.std_F.tobytes() == statistics
    earlier = again(fold.train_end, after=False)
    assert earlier.mean_F.tobytes() + earlier.std_F.tobytes() != statistics


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_standardisation_is_the_mean_and_deviation_of_the_training_rows(
    random_panel: Callable[..., Panel], seed: int
) -> None:
    panel = random_panel(seed, columns=("return", "scale", "volatility_60"))
    fold = make_fold(panel.dates, validation=12, test=0.2)
    train = ranges(panel, fold, reach=3, warmup=5)["train"]
    rows = np.concatenate(
        [np.arange(low, max(low, high)) for low, high in zip(train.low, train.high, strict=True)]
    )
    values = panel.values[rows].astype(np.float64)
    assume((~np.isnan(values)).all(1).any())
    mean, std = standardisation(panel, train)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, np.nanmean(values, 0), rtol=1e-5, atol=1e-7)
    expected = np.nanstd(values, 0)
    np.testing.assert_allclose(std, np.where(expected > 0, expected, 1), rtol=1e-4)


@pytest.mark.parametrize(
    ("column", "mean", "std"),
    [
        (np.full(50, 3.0), 3.0, 1.0),  # constant
        (np.full(50, 1.1e6), 1.1e6, 1.0),  # constant, and not exactly so in sums of squares
        (np.full(50, np.nan), 0.0, 1.0),  # never known
        (np.where(np.arange(50) < 30, np.nan, 1.0), 0.0, 1.0),  # known after the training rows only
        (1e-8 * (-1.0) ** np.arange(50), 0.0, 1e-8),  # small numbers are not constant ones
        (1e5 + (-1.0) ** np.arange(50), 1e5, 1.0),  # nor are those far from zero
        (1e3 + 100 * (-1.0) ** np.arange(50), 1e3, 100.0),
    ],
)
def test_a_constant_or_unknown_feature_is_left_as_it_is(
    random_panel: Callable[..., Panel], column: np.ndarray, mean: float, std: float
) -> None:
    panel = random_panel(0, symbols=1, sessions=50, missing=0, halts=0)
    panel = replace(panel, values=column[:, None].astype(np.float32))
    train = Range(low=np.array([10]), high=np.array([30]))
    got_mean, got_std = standardisation(panel, train)
    assert got_mean[0] == pytest.approx(mean, rel=1e-6, abs=1e-12)
    assert got_std[0] == pytest.approx(std, rel=1e-3)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_part_without_a_row_is_refused_with_the_remedy(
    random_panel: Callable[..., Panel], part: str
) -> None:
    panel = random_panel(0, symbols=1, sessions=60, missing=0, halts=0)
    task = replace(TASK, warmup={"train": 34, "validation": 5}[part], length=60)
    validation = {"train": 12, "validation": 2}[part]
    fold = make_fold(panel.dates, validation=validation, test=0.2)
    with pytest.raises(ForecastError, match=f"no symbol has a row in the {part} range"):
        module_of(panel, task, fold=fold)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, batch=st.integers(1, 6), warmup=st.integers(1, 19))
def test_every_epoch_has_as_many_batches_and_none_is_empty(
    random_panel: Callable[..., Panel], seed: int, batch: int, warmup: int
) -> None:
    module = module_of(random_panel(seed), replace(TASK, batch=batch, warmup=warmup))
    for step in range(0, 4 * module.steps, module.steps):
        module.trainer.global_step = step  # type: ignore[misc, union-attr]
        sizes = [b.x_BLF.shape[1] for b in module.train_dataloader()]
        assert len(sizes) == module.steps == len(module.train_dataloader())
        assert min(sizes) >= 1 and max(sizes) <= max(batch, 2)


def test_members_see_other_orders_of_the_same_windows(random_panel: Callable[..., Panel]) -> None:
    module = module_of(random_panel(0), replace(TASK, warmup=19))  # many-to-one: one phase alone

    def last_days() -> list[list[int]]:
        batches = [batch.only() for batch in module.train_dataloader()]
        return [b.day_BL[b.mask_BLH[:, -1].any(-1), -1].tolist() for b in batches]

    first = last_days()
    assert last_days() == first
    module.members = lambda: (1,)
    second = last_days()
    assert second != first and sorted(sum(second, [])) == sorted(sum(first, []))


def test_the_panel_is_moved_to_a_device_once_and_batches_stay_there(
    random_panel: Callable[..., Panel],
) -> None:
    module = module_of(random_panel(0))
    assert module.tensors("cpu") is module.tensors(torch.device("cpu"))
    batch = next(iter(module.train_dataloader()))
    assert module.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
