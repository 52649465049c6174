"""The networks are the textbook's: each equation stands here once, as a loop over sessions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.models.networks import CELLS, MEMORYLESS, Network


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def textbook_rnn(x, w, r, b, c, state):
    """h = tanh(W x + b + R h' + c)."""
    (h,) = state
    return (np.tanh(w @ x + b + r @ h + c),)


def textbook_lstm(x, w, r, b, c, state):
    """i, f, o = σ(·), g = tanh(·); cell = f ⊙ cell' + i ⊙ g; h = o ⊙ tanh(cell)."""
    h, cell = state
    i, f, g, o = np.split(w @ x + b + r @ h + c, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def textbook_gru(x, w, r, b, c, state):
    """r, z = σ(·); n = tanh(W x + b + r ⊙ (R h' + c)); h = (1 − z) ⊙ n + z ⊙ h'."""
    (h,) = state
    wr, wz, wn = np.split(w @ x + b, 3)
    rr, rz, rn = np.split(r @ h + c, 3)
    reset, update = sigmoid(wr + rr), sigmoid(wz + rz)
    new = np.tanh(wn + reset * rn)
    return ((1 - update) * new + update * h,)


TEXTBOOK = {"rnn": textbook_rnn, "lstm": textbook_lstm, "gru": textbook_gru}
RECURRENT = tuple(TEXTBOOK)


def network(cell, **options):
    torch.manual_seed(1)
    shape = {"features": 4, "horizons": 2, "parameters": 3, "hidden_size": 5}
    made = Network(cell=cell, **{**shape, **options}).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-0.8, 0.8)
    made.standardise_with(np.array([0.5, -1.0, 0.0, 2.0]), np.array([1.0, 2.0, 0.5, 3.0]))
    return made


def by_hand(made, cell, x_LF):
    """Raw parameters of one history, session by session, in numpy."""
    weight = {k: v.detach().numpy() for k, v in made.named_parameters()}
    mean, std = made.mean_F.numpy(), made.std_F.numpy()
    layers, hidden = made.recurrence.num_layers, made.recurrence.hidden_size
    states = [(np.zeros(hidden),) * (2 if cell == "lstm" else 1)] * layers
    rows = []
    for x in x_LF:
        inputs = features = np.nan_to_num((x - mean) / std, nan=0.0)
        for k in range(layers):
            w, r = (weight[f"recurrence.weight_{s}h_l{k}"] for s in "ih")
            b, c = (weight[f"recurrence.bias_{s}h_l{k}"] for s in "ih")
            states[k] = TEXTBOOK[cell](inputs, w, r, b, c, states[k])
            inputs = states[k][0]
        out = weight["readout.weight"] @ inputs + weight["readout.bias"]
        rows.append(out + weight["skip.weight"] @ features)
    return np.stack(rows).reshape(len(x_LF), *made.shape)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", RECURRENT)
def test_network_equals_the_textbook(cell, layers):
    made = network(cell, layers=layers)
    x_LF = np.random.default_rng(0).normal(size=(40, 4))
    x_LF[3, 1] = np.nan  # an undefined feature counts as the training mean
    raw, _ = made(torch.from_numpy(x_LF)[None])
    np.testing.assert_allclose(raw[0].detach().numpy(), by_hand(made, cell, x_LF), atol=1e-6)


def feed_forward_by_hand(made, x_LF):
    """tanh(W x + b), layer upon layer; none of them in `linear`."""
    weight = {k: v.detach().numpy() for k, v in made.named_parameters()}
    hidden = features = np.nan_to_num((x_LF - made.mean_F.numpy()) / made.std_F.numpy(), nan=0.0)
    k = 0
    while (name := f"recurrence.layers.{k}") + ".weight" in weight:
        hidden = np.tanh(hidden @ weight[f"{name}.weight"].T + weight[f"{name}.bias"])
        k += 1
    out = hidden @ weight["readout.weight"].T + weight["readout.bias"]
    if made.skip is not None:
        out = out + features @ weight["skip.weight"].T
    return out.reshape(len(x_LF), *made.shape)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", MEMORYLESS)
def test_network_without_memory_equals_the_textbook(cell, layers):
    made = network(cell, layers=layers)
    x_LF = np.random.default_rng(0).normal(size=(40, 4))
    x_LF[3, 1] = np.nan
    raw, _ = made(torch.from_numpy(x_LF)[None])
    np.testing.assert_allclose(raw[0].detach().numpy(), feed_forward_by_hand(made, x_LF), atol=1e-6)


def test_linear_has_no_hidden_layer_whatever_is_asked_of_the_others():
    made = network("linear", layers=3, hidden_size=7, dropout=0.5)
    shapes = {name: tuple(value.shape) for name, value in made.named_parameters()}
    assert shapes == {"readout.weight": (6, 4), "readout.bias": (6,)}
    x_BLF = torch.from_numpy(np.random.default_rng(4).normal(size=(3, 5, 4)))
    zero, half, whole = (made(made.mean_F + a * (x_BLF - made.mean_F))[0] for a in (0, 0.5, 1))
    torch.testing.assert_close(half - zero, 0.5 * (whole - zero))
    made.train()
    # Dropout is of the hidden units alone.
    torch.testing.assert_close(made(x_BLF)[0], whole, rtol=1e-12, atol=1e-12)


def test_mlp_has_as_many_hidden_layers_and_units_as_it_is_told():
    made = network("mlp", layers=2, hidden_size=5)
    shapes = {n: tuple(v.shape) for n, v in made.named_parameters() if n.endswith("weight")}
    assert shapes == {
        "recurrence.layers.0.weight": (5, 4), "recurrence.layers.1.weight": (5, 5),
        "skip.weight": (6, 4), "readout.weight": (6, 5),
    }  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=10, deadline=None)
@given(t=st.integers(1, 29))
def test_only_a_network_without_memory_reads_each_session_alone(cell, t):
    made = network(cell)
    assert made.memoryless == (cell in MEMORYLESS)
    random = np.random.default_rng(5)
    x_BLF = torch.from_numpy(random.normal(size=(2, 30, 4)))
    other = torch.from_numpy(random.normal(size=(2, 30, 4)))
    other[:, t] = x_BLF[:, t]
    alone = torch.equal(made(x_BLF)[0][:, t], made(other)[0][:, t])
    assert alone == made.memoryless


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 29))
def test_carried_state_continues_the_history(cell, cut):
    made = network(cell, layers=2)
    x_BLF = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 30, 4)))
    whole, _ = made(x_BLF)
    first, state = made(x_BLF[:, :cut])
    second, _ = made(x_BLF[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=15, deadline=None)
@given(t=st.integers(0, 28))
def test_output_ignores_later_sessions(cell, t):
    made = network(cell)
    random = np.random.default_rng(2)
    x_BLF = torch.from_numpy(random.normal(size=(2, 30, 4)))
    changed = x_BLF.clone()
    changed[:, t + 1 :] = torch.from_numpy(random.normal(size=(2, 29 - t, 4)))
    before, after = made(x_BLF)[0], made(changed)[0]
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])
    assert not torch.equal(before[:, t + 1 :], after[:, t + 1 :])


def test_warmup_cuts_the_read_out_and_nothing_else():
    made = network("lstm")
    x_BLF = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 20, 4)))
    torch.testing.assert_close(
        made(x_BLF, warmup=12)[0], made(x_BLF)[0][:, 12:], atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("cell", CELLS)
def test_an_untrained_network_nearly_repeats_the_scale(cell):
    torch.manual_seed(0)
    made = Network(cell=cell, features=4, horizons=1, parameters=3, hidden_size=32).eval()
    raw, _ = made(torch.randn(5, 50, 4))
    assert raw.abs().max() < 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cell": "transformer"}, "choose rnn, lstm, gru, mlp, linear"),
        ({"kernel": "numba"}, "model.kernel='numba' is unknown: choose auto, torch, fused"),
        ({"bidirectional": True}, "would read the future"),
        ({"hidden_size": 0}, "model.hidden_size=0"),
        ({"layers": 0}, "model.layers=0"),
        ({"dropout": 1.0}, "model.dropout=1.0"),
        ({"input_dropout": -0.1}, "model.input_dropout=-0.1"),
    ],
)
def test_senseless_networks_are_refused(options, words):
    arguments = {"cell": "lstm", "features": 1, "horizons": 1, "parameters": 1, "hidden_size": 4}
    with pytest.raises(ForecastError, match=words):
        Network(**{**arguments, **options})


@pytest.mark.parametrize("cell", CELLS)
def test_one_feature_and_one_output_have_the_same_slopes_at_any_number_of_threads(
    cell: str,
) -> None:
    """Where a gradient is a single column or number, libraries split its sum."""
    random = torch.Generator().manual_seed(0)
    one = Network(cell=cell, features=1, horizons=1, parameters=1, hidden_size=4)
    x_BLF = torch.randn(2000, 17, 1, generator=random)
    target = torch.randn(2000, 17, 1, 1, generator=random)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            loss = ((one(x_BLF)[0] - target) ** 2).sum(1).sum()
            found.append(torch.autograd.grad(loss, list(one.parameters())))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
