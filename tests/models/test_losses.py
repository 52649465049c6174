"""The compiled loss of the default head is the loss that stands in the head itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forecast.models.heads import StudentTHead
from forecast.models.losses import SHARE
from forecast.models.vectors import processor

pytestmark = pytest.mark.skipif(processor().bits == 0, reason="no kernels for this processor")

HEAD = StudentTHead()


def both(raw: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and slopes, compiled and by torch, weighted differently at each target."""
    weight = torch.linspace(0.5, 2, y.numel(), dtype=raw.dtype).view(y.shape)
    found = []
    for loss in (HEAD.fused_loss, lambda raw, y: HEAD.loss(HEAD.domain(raw), y)):
        leaf = raw.clone().requires_grad_()
        made = loss(leaf, y)
        found.append([made.detach(), *torch.autograd.grad((made * weight).sum(), leaf)])
    return found[0], found[1]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    spread=st.sampled_from([0.1, 1.0, 8.0]),
    seed=st.integers(0, 1000),
)
def test_losses_and_slopes_are_those_of_the_head(
    shape: list[int], spread: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    raw = spread * torch.randn(*shape, 3, generator=random, dtype=torch.float64)
    raw.clamp_(-15, 15)
    y = spread * torch.randn(*shape, generator=random, dtype=torch.float64)
    compiled, expected = both(raw, y)
    single, _ = both(raw.float(), y.float())
    # Where target and mean nearly cancel, a few roundings of the inputs move a slope by more.
    _, shaken = both(raw * (1 + 5e-7), y * (1 - 5e-7))
    for a, b, exact, moved in zip(compiled, single, expected, shaken, strict=True):
        torch.testing.assert_close(a, exact, rtol=1e-10, atol=1e-10)
        assert ((b - exact).abs() <= 3e-5 * (1 + exact.abs()) + (moved - exact).abs()).all()


@pytest.mark.parametrize(("most", "close"), [(5, 1e-5), (15, 2e-5), (30, 0.02), (300, None)])
def test_wherever_a_network_may_wander_losses_and_slopes_are_right_or_at_least_finite(
    most: float, close: float | None
) -> None:
    """Beyond 20 a sigmoid stands still in single precision: slopes that should vanish do not."""
    ways = torch.tensor([-most, -3, -1, 0, 1, 3, most], dtype=torch.float64)
    raw = torch.cartesian_prod(ways, ways, ways)
    for target in (-20.0, -1.0, 0.0, 1e-3, 20.0):
        y = torch.full(raw.shape[:1], target, dtype=torch.float64)
        (single, _), (_, exact) = both(raw.float(), y.float()), both(raw, y)
        for a, b in zip(single, exact, strict=True):
            assert a.isfinite().all()
            if close is not None:
                assert ((a.double() - b).abs() / (1 + b.abs())).max() < close


def test_where_a_target_stands_and_how_many_threads_there_are_changes_no_bit() -> None:
    lanes = processor().bits // 32
    random = torch.Generator().manual_seed(0)
    raw = torch.randn(3, SHARE * lanes + 5, 3, generator=random)
    y = torch.randn(raw.shape[:-1], generator=random)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaf = raw.clone().requires_grad_()
            loss = HEAD.fused_loss(leaf, y)
            found.append((loss.detach(), *torch.autograd.grad(loss.sum(), leaf)))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )
    for place in ((0, 0), (1, SHARE * lanes), (2, 77)):
        assert HEAD.fused_loss(raw[place][None], y[place][None])[0] == found[0][0][place]


def test_any_order_in_memory_is_read() -> None:
    random = torch.Generator().manual_seed(0)
    raw, y = torch.randn(3, 7, 5, generator=random), torch.randn(5, 7, generator=random)
    turned = HEAD.fused_loss(raw.permute(2, 1, 0), y)
    assert torch.equal(turned, HEAD.fused_loss(raw.permute(2, 1, 0).contiguous(), y.clone()))
    assert torch.equal(HEAD.fused_loss(raw.permute(2, 1, 0), y.expand(5, 7)), turned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_extreme_spread_has_the_loss_of_the_head(dtype: torch.dtype, sign: int) -> None:
    """Beyond ± 88 in single and ± 709 in double precision an exponential is no number."""
    spread = sign * torch.linspace(80, 800, 721, dtype=torch.float64)
    for target in (-20.0, 0.0, 0.5, 20.0):
        raw = torch.stack([0.3 + 0 * spread, spread, -0.5 + 0 * spread], -1)
        y = torch.full(spread.shape, target, dtype=torch.float64)
        (found, _), (_, exact) = both(raw.to(dtype), y.to(dtype)), both(raw, y)
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4, 2)])
def test_no_targets_have_no_losses(shape: tuple[int, ...]) -> None:
    (loss, slope), _ = both(torch.randn(*shape, 3), torch.randn(shape))
    assert loss.shape == shape and slope.shape == (*shape, 3)


def test_what_does_not_belong_together_is_refused() -> None:
    raw, y = torch.randn(4, 3), torch.randn(4)
    with pytest.raises(ValueError, match=r"y is torch.float64 .* expected torch.float32"):
        HEAD.fused_loss(raw, y.double())
    with pytest.raises(ValueError, match=r"input is torch.float16 .* expected float32 or float64"):
        HEAD.fused_loss(raw.half(), y.half())
    with pytest.raises(ValueError, match="y is .* on meta, expected .* on cpu"):
        HEAD.fused_loss(raw, y.to("meta"))
    with pytest.raises(RuntimeError, match=r"y has shape \(3,\), expected \(4,\)"):
        HEAD.fused_loss(raw, y[:3])
    with pytest.raises(RuntimeError, match=r"raw has shape \(4, 6\), expected \(4, 3\)"):
        HEAD.fused_loss(torch.randn(4, 6), y)


def test_a_graph_is_used_once_unless_it_is_kept() -> None:
    raw = torch.randn(4, 3).requires_grad_()
    loss = HEAD.fused_loss(raw, torch.randn(4)).sum()
    first = torch.autograd.grad(loss, raw, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(loss, raw)[0])
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(loss, raw)
