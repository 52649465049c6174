"""Read-outs as a compiled pass: a product, its slopes, and nothing that depends on company.

Axes: K networks, B windows, L time, U inputs, O outputs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from forecast.models.linear import BLOCK, TOGETHER, linear_together
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


@pytest.mark.parametrize("u", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 77])
def test_as_many_inputs_as_there_are_have_the_bits_of_one_sum(u: int) -> None:
    """Block by block of inputs, each going on with the sum of those before."""
    torch.manual_seed(0)
    layers, x = layers_of(2, u, OUTPUTS, torch.float64, True), torch.randn(2, 5, 17, u).double()
    mask = mask_of(2, 5, u, torch.float64)
    x.requires_grad_()
    y, expected = linear_together(x, layers, mask), by_torch(x, layers, mask)
    leaves = [x, *weights_of(layers)]
    assert_close([y], [expected], 1e-12)
    assert_close(slopes_of(y, leaves), slopes_of(expected, leaves), 1e-12)
    # What is no more than 0 behind a block changes no bit of it.
    longer = layers_of(2, u + BLOCK, OUTPUTS, torch.float64, True)
    with torch.no_grad():
        for long, layer in zip(longer, layers, strict=True):
            long.weight[:, :u], long.bias[:] = layer.weight, layer.bias
        wide = nn.functional.pad(x * mask, (0, BLOCK))
        assert torch.equal(
            linear_together(wide, longer, None), linear_together(x * mask, layers, None)
        )


def test_many_inputs_need_no_room_on_the_stack() -> None:
    """Which a thread may have 256 kB of; the main one mostly 8 MB."""
    code = (
        "import threading, torch\n"
        "from torch import nn\n"
        "from forecast.models.linear import linear_together\n"
        "torch.set_num_threads(1)\n"
        "def read(inputs):\n"
        "    linear_together(torch.randn(1, 2, 2, inputs), [nn.Linear(inputs, 3)], None)\n"
        "read(140_000)\n"
        "threading.stack_size(256 * 1024)\n"
        "thread = threading.Thread(target=read, args=(6_000,))\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


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


def test_no_windows_or_sessions_have_no_values() -> None:
    x, layers, mask = case()
    for few, own in ((x[:, :0], mask[:, :0]), (x[:, :, :0], mask)):
        y = linear_together(few, layers, own)
        assert y.shape == (K, *few.shape[1:3], OUTPUTS)
        slopes = slopes_of(y, [x, *weights_of(layers)])
        assert all((slope == 0).all() for slope in slopes)


def test_what_does_not_belong_together_is_refused() -> None:
    """Compiled code sees addresses: it would read another type, or beyond the end."""
    x, layers, mask = case()
    with pytest.raises(ValueError, match=r"weight is torch.float64 .* expected torch.float32"):
        linear_together(x, [*layers[:2], layers[2].double()], mask)
    with pytest.raises(ValueError, match=r"input is torch.bfloat16 .* expected float32 or float64"):
        linear_together(x.bfloat16(), layers, mask)
    layers = layers_of(K, U, OUTPUTS, torch.float32, True)
    with pytest.raises(ValueError, match=r"mask is torch.float64 .* expected torch.float32"):
        linear_together(x, layers, mask.double())
    with pytest.raises(ValueError, match="mask is .* on meta, expected .* on cpu"):
        linear_together(x, layers, mask.to("meta"))
    with pytest.raises(RuntimeError, match=r"x has shape .*, 18\), expected .*, 19\)"):
        linear_together(x[..., :-1], layers, None)
    with pytest.raises(RuntimeError, match=r"x has shape \(3, .* expected \(2, "):
        linear_together(x, layers[:2], None)
    with pytest.raises(RuntimeError, match=r"mask has shape .*, 1, 19\), expected .*, 1, 19\)"):
        linear_together(x, layers, mask[:, :1])
    with pytest.raises(RuntimeError, match=r"weight has shape \(8, 19\), expected \(9, 19\)"):
        linear_together(x, [*layers[:2], nn.Linear(U, OUTPUTS - 1)], None)


def test_an_input_that_changed_since_has_no_slopes() -> None:
    x, layers, mask = case()
    read = x.detach().clone()
    y = linear_together(read, layers, mask)
    read.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        slopes_of(y, weights_of(layers))
    y = linear_together(x, layers, mask).sum()
    torch.autograd.grad(y, x)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(y, x)
