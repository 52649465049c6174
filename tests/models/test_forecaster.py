"""The loss a network is trained on, and the carried pass that stops it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset.carried import CarriedPass
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.windows import Batch
from forecast.models.forecaster import Forecaster, step_seed
from forecast.models.heads import HEADS, StudentTHead
from forecast.models.named_heads import make_head

K, H, F, L, B, WARMUP = 3, 2, 3, 9, 4, 4
OPTIMIZER: dict[str, Any] = {
    "lr": 0.01, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.99,
    "schedule": "constant", "warmup_steps": 0, "clip": 1.0,
}  # fmt: skip


def forecaster(head: str = "student_t", *, cell: str = "gru", **options: Any) -> Forecaster:
    network = {"cell": cell, "features": F, "horizons": H, "hidden_size": 4}
    network |= {"parameters": make_head({"name": head}).size, **options.pop("network", {})}
    arguments = {"warmup": WARMUP, "total_steps": 10, "seed": 0, "members": [0], **options}
    return Forecaster(network=network, head={"name": head}, optimizer=OPTIMIZER, **arguments)


def random_batch(seed: int, *, spread: float = 2.0, networks: int = 1) -> Batch:
    random = torch.Generator().manual_seed(seed)
    shape = (networks, B, L, H)
    return Batch(
        x_BLF=torch.randn((*shape[:3], F), generator=random),
        y_BLH=spread * torch.randn(shape, generator=random),
        mask_BLH=torch.rand(shape, generator=random) > 0.3,
        scale_BL=torch.ones(shape[:3]),
        day_BL=torch.zeros(shape[:3], dtype=torch.int32),
    )


def training_loss_of(module: Forecaster, batch: Batch) -> torch.Tensor:
    module.on_train_epoch_start()
    return module.training_step(batch, 0)


def training_loss(module: Forecaster, batch: Batch) -> float:
    return training_loss_of(module, batch).item()


def naive_loss(module: Forecaster, batch: Batch, weights: list[float]) -> float:
    """A target at a time: the weighted mean over what counts, after the warm-up."""
    batch = batch.only()
    raw, _ = module.network(batch.x_BLF)
    total = weight = 0.0
    for b in range(B):
        for t in range(WARMUP, L):
            for h in range(H):
                if batch.mask_BLH[b, t, h]:
                    y = batch.y_BLH[b, t, h].clamp(-module.clip, module.clip)
                    loss = module.head.loss(module.head.domain(raw[b, t, h]), y)
                    total += weights[h] * loss.item()
                    weight += weights[h]
    return total / weight


@pytest.mark.parametrize("head", HEADS)
@given(seed=st.integers(0, 1000), second=st.floats(0.1, 5), clip=st.sampled_from([0.5, math.inf]))
@settings(max_examples=5, deadline=None)
def test_the_loss_is_the_weighted_mean_over_targets_that_count(
    head: str, seed: int, second: float, clip: float
) -> None:
    weights = [1.0, second]
    module, batch = forecaster(head, horizon_weights=weights, clip=clip), random_batch(seed)
    expected = naive_loss(module, batch, weights)
    assert training_loss(module, batch) == pytest.approx(expected, rel=1e-4, abs=1e-5)


class Doubled(StudentTHead):
    """Its loss is twice its parent's."""

    def loss(self, parameters: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * super().loss(parameters, y)


def test_a_head_derived_from_a_compiled_one_is_trained_on_its_own_loss() -> None:
    batch, module = random_batch(3), forecaster()
    usual = training_loss(module, batch)
    module.head = Doubled()
    assert training_loss(module, batch) == pytest.approx(2 * usual, rel=1e-5)


def test_equal_weights_are_the_usual_and_their_size_means_nothing() -> None:
    batch = random_batch(1)
    losses = {
        training_loss(forecaster(horizon_weights=weights), batch) for weights in (None, [7.0, 7.0])
    }
    assert len(losses) == 1


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_nothing_before_the_warmup_and_nothing_masked_moves_the_loss(seed: int) -> None:
    batch = random_batch(seed)
    y = batch.y_BLH.clone()
    y[:, :, :WARMUP] = 1e6
    y[~batch.mask_BLH] = -1e6
    changed = Batch(batch.x_BLF, y, batch.mask_BLH, batch.scale_BL, batch.day_BL)
    assert training_loss(forecaster(), changed) == training_loss(forecaster(), batch)


def test_a_batch_in_which_nothing_counts_teaches_nothing() -> None:
    batch = random_batch(0)
    nothing = Batch(
        batch.x_BLF, batch.y_BLH, torch.zeros_like(batch.mask_BLH), batch.scale_BL, batch.day_BL
    )
    module = forecaster()
    module.on_train_epoch_start()
    loss = module.training_step(nothing, 0)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_a_horizon_without_weight_teaches_nothing() -> None:
    batch = random_batch(3)
    y = batch.y_BLH.clone()
    y[..., 1] += 5
    other = Batch(batch.x_BLF, y, batch.mask_BLH, batch.scale_BL, batch.day_BL)
    first = training_loss(forecaster(horizon_weights=[1, 0]), batch)
    assert training_loss(forecaster(horizon_weights=[1, 0]), other) == first


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, 1.0, 1.0], [0, 0], [-1, 2], [math.nan, 1], [math.inf, 1], []]
)
def test_weights_that_weigh_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ForecastError, match=r"loss\.horizon_weights"):
        forecaster(horizon_weights=weights)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_that_leaves_nothing_is_refused(clip: float) -> None:
    with pytest.raises(ForecastError, match=r"loss\.clip"):
        forecaster(clip=clip)


# -------------------------------------------------------------------------------- members


def of_member(batch: Batch, k: int) -> Batch:
    fields = {name: value for name, value in vars(batch).items() if value is not None}
    return Batch(**{name: value[k : k + 1] for name, value in fields.items()})


@pytest.mark.parametrize("active", [[0, 1, 2], [0, 2], [1]])
@pytest.mark.parametrize("kernel", ["fused", "torch"])
@pytest.mark.parametrize("head", HEADS)
def test_losses_and_slopes_of_members_are_those_of_each_alone_bit_for_bit(
    head: str, kernel: str, active: list[int]
) -> None:
    """With dropout, and no slope at all for a member that has stopped."""
    network = {"layers": 2, "dropout": 0.3, "input_dropout": 0.2, "kernel": kernel}
    together = forecaster(head, members=[4, 1, 7], network=dict(network))
    together.active = active
    batch = random_batch(1, networks=len(active))
    together.on_train_epoch_start()
    together.training_step(batch, 0).backward()
    for k, own in enumerate(together.networks):
        alone = forecaster(head, members=[together.members[k]], network=dict(network))
        if k not in active:
            assert all(p.grad is None for p in own.parameters())
            continue
        place = active.index(k)
        loss = training_loss_of(alone, of_member(batch, place))
        assert loss.item() == together._train_losses[place].item()
        loss.backward()
        for one, other in zip(own.parameters(), alone.network.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)


def test_the_gradient_of_each_member_is_clipped_by_itself() -> None:
    together = forecaster(members=[0, 1])
    for k, network in enumerate(together.networks):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 10.0 if k else 1e-3)
    together.configure_gradient_clipping(None, 1.0)
    small, large = (
        torch.cat([p.grad.flatten() for p in network.parameters()]) for network in together.networks
    )
    assert (small == 1e-3).all() and large.norm().item() == pytest.approx(1, rel=1e-4)


# --------------------------------------------------------------------------------- seeds


def weights_of(module: Forecaster) -> list[torch.Tensor]:
    return [p.detach() for p in module.parameters()]


def test_starting_weights_follow_from_seed_and_member_alone() -> None:
    torch.manual_seed(1)
    first = weights_of(forecaster(seed=3, members=[1]))
    torch.manual_seed(2)
    again = weights_of(forecaster(seed=3, members=[1]))
    assert all(map(torch.equal, first, again))
    for other in (forecaster(seed=4, members=[1]), forecaster(seed=3, members=[0])):
        assert not torch.equal(first[0], weights_of(other)[0])


def test_a_member_starts_as_it_would_alone() -> None:
    together = forecaster(members=[2, 0])
    for network, member in zip(together.networks, (2, 0), strict=True):
        alone = weights_of(forecaster(members=[member]))
        assert all(map(torch.equal, network.parameters(), alone))


def test_making_a_network_draws_nothing_from_the_callers_random_numbers() -> None:
    before = torch.random.get_rng_state()
    forecaster()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_step_of_every_member_and_seed_has_a_seed_of_its_own() -> None:
    seeds = {step_seed(s, m, t) for s in range(4) for m in range(4) for t in range(50)}
    assert len(seeds) == 4 * 4 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(10**23, 0, 0) == step_seed(10**23, 0, 0)


def test_processes_that_train_together_drop_other_cells_and_the_first_those_of_one() -> None:
    seeds = [step_seed(1, 2, 3, rank) for rank in range(4)]
    assert seeds[0] == step_seed(1, 2, 3)
    assert len(set(seeds)) == 4


def test_dropout_of_a_step_does_not_depend_on_what_was_drawn_before() -> None:
    module, batch = forecaster(network={"input_dropout": 0.5, "dropout": 0.3}), random_batch(0)
    module.train()
    torch.manual_seed(1)
    first = training_loss(module, batch)
    torch.manual_seed(2)
    torch.rand(17)
    assert training_loss(module, batch) == first


# ---------------------------------------------------------------------------- validation


def carried_loss(module: Forecaster, datamodule: PriceDataModule) -> float:
    module.eval()
    module.on_validation_epoch_start()
    passes = CarriedPass(
        datamodule.ranges["validation"], datamodule.panel.offsets, datamodule.tensors("cpu")
    )
    with torch.no_grad():
        for number, step in enumerate(passes):
            module.validation_step(step, number)
    return (module._sums[0] / module._sums[1]).item()


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_validation_loss_is_that_of_one_pass_over_each_history(
    cell: str, datamodule: PriceDataModule
) -> None:
    panel, task = datamodule.panel, datamodule.task
    module = forecaster(cell=cell, network={"features": len(panel.names)})
    module.network.standardise_with(datamodule.mean_F, datamodule.std_F)
    carried = carried_loss(module, datamodule)
    total, count = 0.0, 0
    rows = datamodule.ranges["validation"]
    for s in range(len(panel.symbols)):
        first, stop = panel.offsets[s], panel.offsets[s + 1]
        with torch.no_grad():
            raw, _ = module.network(torch.from_numpy(panel.values[first:stop])[None])
        for i in range(rows.low[s], max(rows.low[s], rows.high[s])):
            for h, horizon in enumerate(task.horizons):
                end = i + task.delay + horizon
                if end >= stop or np.isnan(panel.scale[i]):
                    continue
                change = panel.log_price[end] - panel.log_price[i + task.delay]
                y = torch.tensor(change / (panel.scale[i] * math.sqrt(horizon)))
                parameters = module.head.domain(raw[0, i - first, h])
                total += module.head.loss(parameters, y.float()).item()
                count += 1
    assert count > 300
    assert carried == pytest.approx(total / count, rel=1e-5)
