"""Read-outs as a compiled pass: a product, its slopes, and nothing that depends on company.

Axes: K networks, B windows, L time, U inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from forecast.models.linear import TOGETHER, linear_together
from forecast.models.vectors import processor

pytestmark = pytest.mark.skipif(processor().bits == 0, reason="no kernels for this processor")

# None of them a multiple of anything.
K, B, L, U, OUTPUTS = 3, 2 * TOGETHER + 3, 13, 19, 9


def layers_of(count: int, u: int, o: int, dtype: torch.dtype, bias: bool) -> list[nn.Linear]:
    return [nn.Linear(u, o, bias=bias).to(dtype) for _ in range(count)]


def mask_of(count: int, b: int, u: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 2, (count, b, 1, u)).to(dtype) * 1.25


def by_torch(x: Tensor, layers: Sequence[nn.Linear], mask: Tensor | None) -> Tensor:
    read = x if mask is None else x * mask
    return torch.stack([layer(own) for layer, own in zip(layers, read, strict=True)])


def weights_of(layers: Sequence[nn.Linear]) -> list[Tensor]:
    return [weight for layer in layers for weight in layer.parameters()]


def slopes_of(y: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    by_y = torch.randn(y.shape, generator=random, dtype=y.dtype)
    return list(torch.autograd.grad((y * by_y).sum(), leaves, retain_graph=True))


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], close: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < close * (1 + b.abs().max())


def same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 40), st.integers(1, 30), st.integers(1, 40),
        st.integers(1, 40),
    ),
    bias=st.booleans(),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_values_and_slopes_are_those_of_torchs_layers(
    dtype: torch.dtype, close: float, shape: tuple[int, ...], bias: bool, masked: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    k, b, length, u, o = shape
    layers, x = layers_of(k, u, o, dtype, bias), torch.randn(k, b, length, u, dtype=dtype)
    mask = mask_of(k, b, u, dtype) if masked else None
    x.requires_grad_()
    y, expected = linear_together(x, layers, mask), by_torch(x, layers, mask)
    leaves = [x, *weights_of(layers)]
    assert_close([y], [expected], close)
    assert_close(slopes_of(y, leaves), slopes_of(expected, leaves), close)


def case() -> tuple[Tensor, list[nn.Linear], Tensor]:
    torch.manual_seed(0)
    x = torch.randn(K, B, L, U).requires_grad_()
    return x, layers_of(K, U, OUTPUTS, torch.float32, True), mask_of(K, B, U, torch.float32)


def test_threads_change_no_bit() -> None:
    x, layers, mask = case()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = linear_together(x, layers, mask)
            found.append([y, *slopes_of(y, [x, *weights_of(layers)])])
    finally:
        torch.set_num_threads(before)
    assert same(found[0], found[1]) and same(found[0], found[2])


def test_networks_have_the_bits_of_each_alone_and_windows_those_of_fewer() -> None:
    x, layers, mask = case()
    y = linear_together(x, layers, mask)
    loss = y.square().sum((1, 2, 3))
    slopes = torch.autograd.grad(loss.sum(), [x, *weights_of(layers)])
    for k, layer in enumerate(layers):
        alone = linear_together(x[k : k + 1], [layer], mask[k : k + 1])
        assert torch.equal(alone[0], y[k])
        found = torch.autograd.grad(alone.square().sum(), [x, *layer.parameters()])
        assert same([found[0][k], *found[1:]], [slopes[0][k], *slopes[1 + 2 * k : 3 + 2 * k]])
    few = linear_together(x[:, 5:9, 3:11], layers, mask[:, 5:9])
    assert torch.equal(few, y[:, 5:9, 3:11])


def test_any_order_in_memory_is_read() -> None:
    x, layers, mask = case()
    y = linear_together(x, layers, mask)
    turned = x.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0).requires_grad_()
    other = linear_together(turned, layers, mask)
    assert not turned.is_contiguous() and torch.equal(other, y)
    leaves = weights_of(layers)
    assert same(slopes_of(other, [turned, *leaves]), slopes_of(y, [x, *leaves]))
    (repeated,) = torch.autograd.grad(y.sum(), x)  # slopes of one number
    (expected,) = torch.autograd.grad(by_torch(x, layers, mask).sum(), x)
    assert_close([repeated], [expected], 1e-5)


def test_what_needs_no_slopes_gets_none() -> None:
    x, layers, mask = case()
    y = linear_together(x.detach(), layers, mask)
    found = slopes_of(y, weights_of(layers))
    assert same(found, slopes_of(linear_together(x, layers, mask), weights_of(layers)))
    with torch.no_grad():
        silent = linear_together(x, layers, mask)
    assert torch.equal(silent, y) and not silent.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_window_that_is_no_number_stays_alone_with_it(bad: float) -> None:
    x, layers, mask = case()
    plain = linear_together(x, layers, mask)
    changed = x.detach().clone()
    changed[1, 4, 6, 2] = bad
    others = torch.ones(K, B, L, dtype=torch.bool)
    others[1, 4, 6] = False
    assert torch.equal(linear_together(changed, layers, mask)[others], plain[others])
