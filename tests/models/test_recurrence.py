"""The compiled recurrence is torch's own: values, gradients, and nothing that depends on company.

Axes: K networks, B windows, L time, F features, U units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import platformdirs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from forecast.models import kernels, linear, losses, recurrence, tiles, vectors
from forecast.models import networks as module
from forecast.models.heads import StudentTHead
from forecast.models.linear import linear_together
from forecast.models.networks import Network, State, read_together
from forecast.models.recurrence import TOGETHER, compiles, read_layer
from forecast.models.vectors import Processor, processor

pytestmark = pytest.mark.skipif(processor().bits == 0, reason="no kernels for this processor")

TORCH: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = sorted(TORCH)
# None of them a multiple of anything: windows beyond a block, units beyond a vector.
B, L, F, U = 2 * TOGETHER + 3, 11, 5, 19


class Case(NamedTuple):
    """A layer of torch, what it reads, and slopes of a loss by what comes out."""

    layer: nn.RNNBase
    x: Tensor
    state: Tensor
    memory: Tensor | None
    by_hidden: Tensor
    by_last: Tensor
    by_memory: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        case = [self.x, self.state, self.memory, *self.layer.parameters()]
        return [tensor for tensor in case if tensor is not None]

    def loss(self, hidden: Tensor, memory: Tensor) -> Tensor:
        total = (hidden * self.by_hidden).sum() + (hidden[:, -1] * self.by_last).sum()
        return total + (memory * self.by_memory).sum() if self.memory is not None else total

    def by_torch(self) -> tuple[Tensor, Tensor]:
        state = self.state[None]
        if self.memory is None:
            hidden, last = self.layer(self.x, state)
            return hidden, last[0]
        hidden, (_, memory) = self.layer(self.x, (state, self.memory[None]))
        return hidden, memory[0]

    def compiled(self) -> tuple[Tensor, Tensor]:
        (weights,) = self.layer.all_weights
        memory = None if self.memory is None else self.memory[None]
        hidden, last = read_layer(
            name_of(self.layer), self.x[None], [weights], self.state[None], memory
        )
        return hidden[0], last[0] if self.memory is not None else hidden[0, :, -1]


def name_of(layer: nn.RNNBase) -> str:
    return next(name for name, kind in TORCH.items() if type(layer) is kind)


def case_of(
    cell: str,
    shape: Sequence[int] = (B, L, F, U),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    b, length, f, u = shape
    torch.manual_seed(seed)
    layer = TORCH[cell](f, u, batch_first=True).to(dtype)
    with torch.no_grad():  # farther from 0 than at the start, and not chaotic
        for weight in layer.parameters():
            weight.mul_(1.5)

    def random(*shape: int, leaf: bool = False) -> Tensor:
        return torch.randn(*shape, dtype=dtype).requires_grad_(leaf)

    memory = random(b, u, leaf=True) if cell == "lstm" else None
    x, state = random(b, length, f, leaf=True), random(b, u, leaf=True)
    return Case(layer, x, state, memory, random(b, length, u), random(b, u), random(b, u))


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], close: float) -> None:
    """Relative to the largest of each tensor, or to 1: slopes are sums of which most cancels."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < close * (1 + b.abs().max())


def same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def slopes_of(case: Case, made: tuple[Tensor, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(case.loss(*made), case.leaves))


# ------------------------------------------------------------------------------ torch's


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(1, 30), st.integers(1, 70)),
    seed=st.integers(0, 1000),
)
def test_values_and_slopes_are_torchs(cell: str, shape: tuple[int, ...], seed: int) -> None:
    """By features, initial state and memory, and all four weights; to the last session."""
    case = case_of(cell, shape, torch.float64, seed)
    compiled, expected = case.compiled(), case.by_torch()
    assert_close(compiled, expected, 1e-10)
    assert_close(slopes_of(case, compiled), slopes_of(case, expected), 1e-10)


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 40), st.integers(1, 30), st.integers(1, 30), st.sampled_from([7, 32, 70])
    ),
    seed=st.integers(0, 1000),
)
def test_in_single_precision_they_differ_by_rounding(
    cell: str, shape: tuple[int, ...], seed: int
) -> None:
    """Against double precision, since torch rounds too."""
    exact = case_of(cell, shape, torch.float64, seed)
    single = Case(
        TORCH[cell](*shape[2:], batch_first=True),
        *(None if t is None else t.detach().float() for t in exact[1:]),
    )
    single.layer.load_state_dict(exact.layer.state_dict())
    for leaf in single.leaves:
        leaf.requires_grad_()
    compiled, expected = single.compiled(), exact.by_torch()
    assert_close(compiled, expected, 1e-5)
    assert_close(slopes_of(single, compiled), slopes_of(exact, expected), 1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_slopes_are_those_of_finite_differences(cell: str) -> None:
    case = case_of(cell, (3, 4, 2, 3))
    assert torch.autograd.gradcheck(lambda *_: case.compiled(), case.leaves)


@pytest.mark.parametrize("cell", CELLS)
def test_a_graph_that_is_kept_gives_the_same_slopes_again(cell: str) -> None:
    case = case_of(cell)
    loss = case.loss(*case.compiled())
    first, again = (torch.autograd.grad(loss, case.leaves, retain_graph=True) for _ in range(2))
    assert same(first, again)


@pytest.mark.parametrize("cell", CELLS)
def test_any_order_in_memory_is_read(cell: str) -> None:
    """Of features, state and slopes: a transposed axis, every other one, one number repeated."""
    case = case_of(cell)
    plain = slopes_of(case, case.compiled())
    turned = case._replace(
        x=torch.stack([case.x, case.x], -1)[..., 0].detach().requires_grad_(),
        state=case.state.t().contiguous().t().detach().requires_grad_(),
        by_hidden=case.by_hidden.transpose(0, 1).contiguous().transpose(0, 1),
    )
    turned.x.data = case.x.data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not (turned.x.is_contiguous() or turned.state.is_contiguous())
    assert same(slopes_of(turned, turned.compiled()), plain)
    hidden, _ = case.compiled()
    repeated = torch.autograd.grad(hidden.sum(), case.leaves[:2])  # slopes of one number
    expected = torch.autograd.grad(case.by_torch()[0].sum(), case.leaves[:2])
    assert_close(repeated, expected, 1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_a_part_of_what_comes_out_has_slopes_of_its_own(cell: str) -> None:
    case = case_of(cell)

    def of(made: tuple[Tensor, Tensor]) -> Tensor:
        return made[0][3:7, 2:5, ::3].square().sum()

    assert_close(
        torch.autograd.grad(of(case.compiled()), case.leaves),
        torch.autograd.grad(of(case.by_torch()), case.leaves),
        1e-10,
    )
    if cell == "lstm":  # the memory alone
        compiled, expected = (m[1].square().sum() for m in (case.compiled(), case.by_torch()))
        found = torch.autograd.grad(compiled, case.leaves)
        assert_close(found, torch.autograd.grad(expected, case.leaves), 1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_what_needs_no_slopes_gets_none_and_the_same_values(cell: str) -> None:
    case = case_of(cell)
    expected, slopes = case.compiled(), slopes_of(case, case.compiled())
    with torch.no_grad():
        silent = case.compiled()
    assert same(silent, expected) and not silent[0].requires_grad
    fixed = case._replace(x=case.x.detach(), state=case.state.detach())
    found = torch.autograd.grad(fixed.loss(*fixed.compiled()), list(fixed.layer.parameters()))
    assert same(found, slopes[-4:])
    for weight in case.layer.parameters():
        weight.requires_grad_(False)
    (by_x,) = torch.autograd.grad(case.loss(*case.compiled()), case.x)
    assert torch.equal(by_x, slopes[0])


@pytest.mark.parametrize("cell", CELLS)
def test_no_windows_have_no_states_and_no_sessions_are_refused_as_torch_does(cell: str) -> None:
    case = case_of(cell)
    none = case._replace(
        x=case.x[:0], state=case.state[:0], by_hidden=case.by_hidden[:0], by_last=case.by_last[:0],
        memory=None if case.memory is None else case.memory[:0], by_memory=case.by_memory[:0],
    )  # fmt: skip
    made, expected = none.compiled(), none.by_torch()
    assert [t.shape for t in made] == [t.shape for t in expected]
    slopes = torch.autograd.grad(none.loss(*made), list(case.layer.parameters()))
    assert all((slope == 0).all() for slope in slopes)
    silent = case._replace(x=case.x[:, :0])
    for read in (silent.by_torch, silent.compiled):
        with pytest.raises(RuntimeError):
            read()


@pytest.mark.parametrize("cell", CELLS)
def test_what_does_not_belong_together_is_refused(cell: str) -> None:
    """Compiled code sees addresses: it would read another type, or beyond the end."""
    case = case_of(cell, dtype=torch.float32)
    other = TORCH[cell](F + 2, U, batch_first=True)
    with pytest.raises(ValueError, match=r"weight_ih is torch.float32 .* expected torch.float64"):
        read_layer(cell, case.x[None].double(), case.layer.all_weights)
    with pytest.raises(ValueError, match=r"input is torch.float16 .* expected float32 or float64"):
        case._replace(x=case.x.half()).compiled()
    with pytest.raises(ValueError, match=r"state is torch.float64 .* expected torch.float32"):
        case._replace(state=case.state.double()).compiled()
    with pytest.raises(ValueError, match="state is .* on meta, expected .* on cpu"):
        case._replace(state=case.state.to("meta")).compiled()
    with pytest.raises(RuntimeError, match=r"x has shape .*, 5\), expected .*, 7\)"):
        case._replace(layer=other).compiled()
    with pytest.raises(RuntimeError, match=r"state has shape \(1, 1, 19\), expected \(1, 35, 19\)"):
        case._replace(state=case.state[:1]).compiled()
    (weights,) = case.layer.all_weights
    with pytest.raises(RuntimeError, match=r"x has shape \(1, .* expected \(2, "):
        read_layer(cell, case.x[None], [weights, weights])
    with pytest.raises(RuntimeError, match=r"bias_hh has shape \(\d+,\), expected"):
        read_layer(cell, case.x[None], [[*weights[:3], weights[3][1:]]])
    if case.memory is not None:
        with pytest.raises(RuntimeError, match="memory has shape"):
            case._replace(memory=case.memory[:1]).compiled()


@pytest.mark.parametrize("cell", CELLS)
def test_an_input_that_changed_since_has_no_slopes(cell: str) -> None:
    case = case_of(cell)
    parameters = list(case.layer.parameters())
    read = case._replace(x=case.x.detach().clone())
    made = read.compiled()
    read.x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(case.loss(*made), parameters)
    made = case.compiled()
    loss = case.loss(*made)
    made[0].detach().zero_()  # the states that the way back reads
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, parameters)
    loss = case.loss(*case.compiled())
    torch.autograd.grad(loss, parameters)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(loss, parameters)


# ------------------------------------------------------------------------------ processors


@pytest.fixture
def vectors_of(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A processor with other vectors, whose code is compiled anew and not kept."""
    compiled = (kernels.kernels, recurrence.order_of, linear._kernels, losses._work)
    for known in compiled:
        known.cache_clear()
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    for each in (vectors, tiles, kernels, recurrence):
        monkeypatch.setattr(each, "processor", lambda: request.param)
    yield
    for known in compiled:
        known.cache_clear()


@pytest.mark.parametrize(
    "vectors_of", [Processor(256, 16), Processor(128, 32), Processor(128, 16)], indirect=True
)
@pytest.mark.usefixtures("vectors_of")
def test_other_processors_have_the_same_numbers() -> None:
    """Code for narrower vectors or fewer registers, on one that has wider ones and more."""
    if processor().bits < vectors.processor().bits:
        pytest.skip("no such vectors")
    assert vectors.SINGLE.lanes * 32 == vectors.processor().bits
    for cell in CELLS:
        for shape in ((B, L, F, U), (3, 2, 1, 32)):
            case = case_of(cell, shape)
            compiled, expected = case.compiled(), case.by_torch()
            assert_close(compiled, expected, 1e-10)
            assert_close(slopes_of(case, compiled), slopes_of(case, expected), 1e-10)
    torch.manual_seed(0)
    layer, x = nn.Linear(U, 9).double(), torch.randn(1, B, L, U).double().requires_grad_()
    raw, y = torch.randn(77, 3).double().requires_grad_(), torch.randn(77).double()
    head = StudentTHead()
    for found, exact, leaves in (
        (linear_together(x, [layer], None), layer(x), [x, *layer.parameters()]),
        (head.fused_loss(raw, y), head.loss(head.domain(raw), y), [raw]),
    ):
        assert_close([found], [exact], 1e-10)
        made, slopes = (torch.autograd.grad(t.square().sum(), leaves) for t in (found, exact))
        assert_close(made, slopes, 1e-10)


# ------------------------------------------------------------------------------ company


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_no_bit(cell: str, dtype: torch.dtype) -> None:
    case, before, found = case_of(cell, dtype=dtype), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = case.compiled()
            found.append([*made, *slopes_of(case, made)])
    finally:
        torch.set_num_threads(before)
    assert same(found[0], found[1]) and same(found[0], found[2])


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, L - 1), windows=st.integers(1, B))
def test_a_history_read_in_parts_or_with_fewer_others_has_the_same_bits(
    cell: str, cut: int, windows: int
) -> None:
    case = case_of(cell, dtype=torch.float32)
    whole, last = case.compiled()
    first, memory = case._replace(x=case.x[:, :cut]).compiled()
    carried = None if case.memory is None else memory
    second, end = case._replace(x=case.x[:, cut:], state=first[:, -1], memory=carried).compiled()
    assert same([torch.cat([first, second], 1), end], [whole, last])
    few = case._replace(
        x=case.x[:windows], state=case.state[:windows],
        memory=None if case.memory is None else case.memory[:windows],
    )  # fmt: skip
    assert same(few.compiled(), [whole[:windows], last[:windows]])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_window_that_is_no_number_stays_alone_with_it(cell: str, bad: float) -> None:
    """And what came before it in its own window too."""
    case = case_of(cell, dtype=torch.float32)
    plain, last = case.compiled()
    x = case.x.detach().clone()
    x[4, 6, 1] = bad
    x.requires_grad_()
    hidden, after = case._replace(x=x).compiled()
    others = torch.arange(B) != 4
    assert same([hidden[others], after[others]], [plain[others], last[others]])
    assert torch.equal(hidden[4, :6], plain[4, :6])
    if math.isnan(bad):
        assert hidden[4, 6:].isnan().all()
    (slope,) = torch.autograd.grad((hidden * case.by_hidden)[others].sum(), x)
    (expected,) = torch.autograd.grad((plain * case.by_hidden)[others].sum(), case.x)
    assert torch.equal(slope[others], expected[others])


@pytest.mark.parametrize("cell", CELLS)
def test_networks_read_together_have_the_bits_of_each_alone(cell: str) -> None:
    cases = [case_of(cell, dtype=torch.float32, seed=seed) for seed in range(3)]
    memory = None if cell != "lstm" else torch.stack([g.memory for g in cases])
    hidden, last = read_layer(
        cell,
        torch.stack([g.x for g in cases]),
        [g.layer.all_weights[0] for g in cases],
        torch.stack([g.state for g in cases]),
        memory,
    )
    ends = last if cell == "lstm" else hidden[:, :, -1]
    loss = sum(g.loss(*made) for g, *made in zip(cases, hidden, ends, strict=True))
    slopes = torch.autograd.grad(loss, [leaf for g in cases for leaf in g.leaves])
    alone = [(g, g.compiled()) for g in cases]
    assert same(hidden, [made[0] for _, made in alone])
    assert same(ends, [made[1] for _, made in alone])
    assert same(slopes, [slope for g, made in alone for slope in slopes_of(g, made)])


# ------------------------------------------------------------------------------ networks


def network(cell: str, **options: object) -> Network:
    arguments = {"features": F, "horizons": 2, "parameters": 3, "hidden_size": U, **options}
    made = Network(cell=cell, **arguments)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made


def like(made: Network, kernel: str) -> Network:
    """The network with another kernel."""
    other = network(made.cell, layers=made.layers, kernel=kernel)
    other.load_state_dict(made.state_dict())
    return other


def slopes_by(made: Network, raw: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(raw.square().mean(), list(made.parameters())))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_a_network_has_the_numbers_of_torchs_kernel_and_its_checkpoint(
    cell: str, layers: int
) -> None:
    """At a state that is handed on, too; and with features that are not known."""
    torch.manual_seed(0)
    fused = network(cell, layers=layers, kernel="fused")
    by_torch = like(fused, "torch")
    x_BLF = torch.randn(B, L, F)
    x_BLF[3, 4, 1] = torch.nan
    state: list[State | None] = [None, None]
    for _ in range(2):
        made = [n(x_BLF, s) for n, s in zip((fused, by_torch), state, strict=True)]
        assert_close([made[0][0]], [made[1][0]], 1e-5)
        slopes = [slopes_by(n, raw) for n, (raw, _) in zip((fused, by_torch), made, strict=True)]
        assert_close(*slopes, 1e-5)
        state = [after for _, after in made]
        ours, theirs = (s if isinstance(s, tuple) else (s,) for s in state)
        assert_close(ours, theirs, 1e-5)
        state = [tuple(t.detach() for t in s) if cell == "lstm" else s.detach() for s in state]


@pytest.mark.parametrize("kernel", ["fused", "torch"])
@pytest.mark.parametrize("cell", [*CELLS, "mlp"])
def test_networks_trained_together_draw_and_read_as_each_would_alone(
    cell: str, kernel: str
) -> None:
    """With dropout everywhere, bit for bit, in values, slopes and states."""
    torch.manual_seed(0)
    dropped = {"layers": 2, "dropout": 0.3, "input_dropout": 0.2, "kernel": kernel}
    several = [network(cell, **dropped).train() for _ in range(3)]
    x_KBLF = torch.randn(3, B, L, F)
    raw, states = read_together(several, x_KBLF, warmup=4, seeds=[7, 8, 9])
    assert raw.shape == (3, B, L - 4, 2, 3)
    slopes = torch.autograd.grad(
        sum(r.square().mean() for r in raw), [p for n in several for p in n.parameters()]
    )
    alone = []
    for k, one in enumerate(several):
        own, (state,) = read_together([one], x_KBLF[k : k + 1], warmup=4, seeds=[7 + k])
        assert torch.equal(own[0], raw[k])
        pairs = zip(
            *((s if isinstance(s, tuple) else (s,)) for s in (state, states[k])), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)
        alone += slopes_by(one, own[0])
    assert same(slopes, alone)
    assert not torch.equal(*(read_together(several[:1], x_KBLF[:1], seeds=[s])[0] for s in (7, 8)))


def taken(made: Network, x_BLF: Tensor, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which recurrence a network goes by."""
    calls: list[str] = []
    with monkeypatch.context() as patch:
        kept = module.read_layer
        patch.setattr(module, "read_layer", lambda *a: (calls.append("fused"), kept(*a))[1])
        made(x_BLF)
    return calls[0] if calls else "torch"


@pytest.mark.parametrize("cell", CELLS)
def test_auto_takes_the_compiled_recurrence_up_to_a_size_and_on_the_cpu(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_BLF, most = torch.randn(2, 3, F), module.FUSED_UNITS[cell]
    for units, expected in ((1, "fused"), (most, "fused"), (most + 1, "torch")):
        assert taken(network(cell, hidden_size=units), x_BLF, monkeypatch) == expected
    assert taken(network(cell, hidden_size=most + 1, kernel="fused"), x_BLF, monkeypatch) == "fused"
    assert taken(network(cell, kernel="torch"), x_BLF, monkeypatch) == "torch"
    assert compiles(x_BLF) and not compiles(x_BLF.bfloat16()) and not compiles(x_BLF.to("meta"))


def test_a_processor_without_such_vectors_takes_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    x_BLF, made = torch.randn(2, 3, F), network("gru")
    expected = like(made, "torch")(x_BLF)[0]
    monkeypatch.setattr(recurrence, "processor", lambda: Processor(0, 0))
    assert taken(made, x_BLF, monkeypatch) == "torch"
    assert torch.equal(made(x_BLF)[0], expected)


@pytest.mark.parametrize("cell", CELLS)
def test_what_a_network_cannot_read_is_refused_whichever_kernel_it_goes_by(cell: str) -> None:
    for kernel in ("torch", "fused"):
        made = network(cell, features=1, kernel=kernel)
        with pytest.raises(RuntimeError):  # one feature's mean fits any number of them
            made(torch.randn(2, 3, F))
        with pytest.raises(ValueError):
            made(torch.randn(2, 3, 1).double())
