"""The network: standardised features → RNN, LSTM or GRU → raw head parameters.

Beside the recurrent cells stand `mlp` and `linear`, which see the session's own features alone:
the same inputs, head and training, so that what recurrence adds can be told.

It knows nothing of Lightning, losses or prices. Networks of one shape are read together: what one
of them states does not depend on the others. Axes: K networks, N layers, B batch, L time,
F features, U units, H horizons, P head parameters per horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from forecast.config import ForecastError
from forecast.models.linear import linear_together
from forecast.models.recurrence import compiles, read_layer

State = Tensor | tuple[Tensor, Tensor]


class FeedForward(nn.Module):
    """Hidden layers without memory, called as the recurrent cells are; none of them is `linear`."""

    def __init__(
        self, features: int, hidden_size: int, layers: int, *, batch_first: bool, dropout: float
    ) -> None:
        super().__init__()
        widths = [features, *[hidden_size] * layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.kernel = "auto"

    def forward(self, x_BLU: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        for number, layer in enumerate(self.layers):
            x_BLU = self.dropout(x_BLU) if number else x_BLU
            compiled = self.kernel != "torch" and compiles(x_BLU)
            (y_BLU,) = _linear([cast(nn.Linear, layer)], x_BLU[None], compiled=compiled)
            x_BLU = torch.tanh(y_BLU)
        return x_BLU, x_BLU.new_empty(0)


CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "mlp": FeedForward,
    "linear": FeedForward,
}
MEMORYLESS = ("mlp", "linear")
KERNELS = ("auto", "torch", "fused")
# Up to so many units the compiled recurrence is faster than torch's: measured by
# benchmarks/recurrence.py, whose table is benchmarks/recurrence.md. Beyond, the weights are larger
# than the second-level cache.
FUSED_UNITS = {"rnn": 512, "lstm": 256, "gru": 512}


class Network(nn.Module):
    """One recurrent network with a linear read-out at every session.

    Parameters
    ----------
    cell : str
        `rnn` (Elman 1990, tanh), `lstm` (Hochreiter and Schmidhuber 1997, with forget gate),
        `gru` (Cho et al. 2014); without memory `mlp` (tanh) and `linear`.
    features, horizons, parameters : int
        Inputs F; horizons H; head parameters per horizon P.
    hidden_size, layers : int
        Units of a layer; layers.
    dropout, input_dropout : float
        Between and after layers; of the standardised features. But for that between layers, one
        mask holds for a whole window.
    skip : bool
        Also read out from the features of the session itself.
    bidirectional : bool
        Refused: see the error.
    kernel : str
        Of the passes on a CPU, which are the recurrence, linear layers, read-outs and the default
        head's loss: `torch`, those of torch; `fused`, compiled ones; `auto`, compiled ones too, but
        torch's recurrence where that is faster at the size of the network. The same numbers within
        rounding.
    start : sequence of sequences of float, optional
        Raw head parameters to start from, H × P: those of the training rows' own distribution,
        so that the first step begins at what is known without features.
    """

    mean_F: Tensor
    std_F: Tensor
    memoryless: bool  # reads each session alone; a carried pass may begin anywhere

    def __init__(
        self,
        *,
        cell: str,
        features: int,
        horizons: int,
        parameters: int,
        hidden_size: int,
        layers: int = 1,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        skip: bool = True,
        bidirectional: bool = False,
        kernel: str = "auto",
        start: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ForecastError(f"model.cell={cell!r} is unknown: choose {', '.join(CELLS)}.")
        if bidirectional:
            raise ForecastError(
                "model.bidirectional=true would read the future: the backward pass gives the state "
                "at a session from the sessions after it. Set it to false."
            )
        if kernel not in KERNELS:
            raise ForecastError(f"model.kernel={kernel!r} is unknown: choose {', '.join(KERNELS)}.")
        if hidden_size < 1 or layers < 1:
            raise ForecastError(
                f"model.hidden_size={hidden_size} and model.layers={layers} must be 1 or more."
            )
        for name, share in (("dropout", dropout), ("input_dropout", input_dropout)):
            if not 0 <= share < 1:
                raise ForecastError(f"model.{name}={share} must lie in 0 … 1, 1 excluded.")
        self.shape = (horizons, parameters)
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("std_F", torch.ones(features))
        self.cell, self.kernel, self.memoryless = cell, kernel, cell in MEMORYLESS
        if cell == "linear":
            # The read-out is the model: nothing is hidden, and a skip would only repeat it.
            hidden_size, layers, dropout, skip = features, 0, 0.0, False
        self.input_dropout = nn.Dropout(input_dropout)
        # The gradient of an LSTM's only input would be split by threads: it gets a second, all 0.
        self.padding = int(cell == "lstm" and features == 1)
        self.recurrence = CELLS[cell](
            features + self.padding,
            hidden_size,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        if isinstance(self.recurrence, FeedForward):
            self.recurrence.kernel = kernel
        self.layers = layers
        self.output_dropout = nn.Dropout(dropout)
        self.skip = nn.Linear(features, horizons * parameters, bias=False) if skip else None
        self.readout = nn.Linear(hidden_size, horizons * parameters)
        nn.init.zeros_(self.readout.bias)
        if start is not None:
            with torch.no_grad():
                self.readout.bias.copy_(torch.tensor(start).reshape(-1))
        nn.init.normal_(self.readout.weight, std=0.1 / hidden_size**0.5)
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)

    def standardise_with(self, mean_F: np.ndarray, std_F: np.ndarray) -> None:
        """Set the statistics of the training rows; they live in the checkpoint as buffers."""
        self.mean_F.copy_(torch.from_numpy(mean_F))
        self.std_F.copy_(torch.from_numpy(std_F))

    def standardise(self, x_BLF: Tensor) -> Tensor:
        """Standardised features; what is undefined becomes 0, the training mean."""
        scaled = torch.addcmul(-self.mean_F / self.std_F, x_BLF, 1 / self.std_F)
        return torch.nan_to_num(scaled, nan=0.0)

    def forward(
        self, x_BLF: Tensor, state: State | None = None, *, warmup: int = 0
    ) -> tuple[Tensor, State]:
        """Raw head parameters of the sessions from `warmup` on, and the state after the last.

        Returns
        -------
        raw_BLHP : Tensor of shape (B, L − warmup, H, P)
        state : Tensor (N, B, U), or a pair of them (LSTM)
        """
        raw_KBLHP, (after,) = read_together(
            [self], x_BLF[None], None if state is None else [state], warmup=warmup
        )
        return raw_KBLHP[0], after

    def between(self, x_BLF: Tensor) -> Tensor | None:
        """Dropout's mask between two layers, another one at every session."""
        return _mask(self.output_dropout, x_BLF.new_empty(*x_BLF.shape[:2], self.units))

    def compiled(self, x: Tensor) -> bool:
        """Whether compiled passes work on such numbers, and are wanted."""
        return self.kernel != "torch" and compiles(x)

    def fused(self, x: Tensor) -> bool:
        """Whether the compiled recurrence reads such features."""
        most = FUSED_UNITS.get(self.cell, 0)
        wanted = self.units <= most or (self.kernel == "fused" and most > 0)
        return wanted and self.compiled(x)

    @property
    def units(self) -> int:
        return self.readout.in_features


class _Masks(NamedTuple):
    """What is dropped from one network in one step; null where nothing is."""

    features: Tensor | None  # (B, 1, F)
    between: list[Tensor | None]  # (B, L, U), of each layer but the first its inputs
    state: Tensor | None  # (B, 1, U)


def read_together(
    networks: Sequence[Network],
    x_KBLF: Tensor,
    states: Sequence[State] | None = None,
    *,
    warmup: int = 0,
    seeds: Sequence[int] | None = None,
) -> tuple[Tensor, list[State]]:
    """`Network.forward` of K networks of one shape, each on windows of its own.

    Parameters
    ----------
    states : of each network, as `forward` takes and gives them
    seeds : of each network's dropout; by default it goes on with torch's own generator

    Returns
    -------
    raw_KBLHP : Tensor of shape (K, B, L − warmup, H, P)
    states : of each network
    """
    one = networks[0]
    fused = one.fused(x_KBLF)
    masks = []
    after: list[State] = []
    for k, network in enumerate(networks):
        if seeds is not None:
            _seed(x_KBLF.device, seeds[k])
        between = [network.between(x_KBLF[k]) for _ in range(1, network.layers) if fused]
        masks.append(
            _Masks(
                _mask(network.input_dropout, x_KBLF[k, :, :1]),
                between,
                _mask(network.output_dropout, x_KBLF.new_empty(x_KBLF.shape[1], 1, one.units)),
            )
        )
    x_KBLF = _standardised(networks, x_KBLF, [m.features for m in masks])
    read_KBLF = nn.functional.pad(x_KBLF, (0, one.padding)) if one.padding else x_KBLF
    if fused:
        hidden_KBLU, after = _recurrence(networks, read_KBLF, states, [m.between for m in masks])
    else:
        hidden = []
        for k, network in enumerate(networks):
            if seeds is not None:  # torch drops between layers by itself
                _seed(x_KBLF.device, seeds[k] ^ 1)
            made, state = network.recurrence(read_KBLF[k], None if states is None else states[k])
            hidden.append(made)
            after.append(state)
        hidden_KBLU = torch.stack(hidden)
    # For a gradient all sessions are read out and some dropped: less to fill with zeros on the way
    # back.
    early, late = (0, warmup) if torch.is_grad_enabled() else (warmup, 0)
    if early == x_KBLF.shape[2]:  # only the state matters
        return x_KBLF.new_empty(*x_KBLF.shape[:2], 0, *one.shape), after
    compiled = one.compiled(x_KBLF)
    readouts, dropped = [n.readout for n in networks], [m.state for m in masks]
    raw = _linear(readouts, hidden_KBLU[:, :, early:], dropped, compiled=compiled)
    if one.skip is not None:
        skips = [cast(nn.Linear, n.skip) for n in networks]
        raw = raw + _linear(skips, x_KBLF[:, :, early:], compiled=compiled)
    return raw[:, :, late:].to(x_KBLF.dtype).unflatten(-1, one.shape), after  # of bf16


def _standardised(
    networks: Sequence[Network], x_KBLF: Tensor, masks: Sequence[Tensor | None]
) -> Tensor:
    """Standardised features times the mask; what is undefined becomes 0."""
    scale = torch.stack([1 / n.std_F for n in networks])[:, None, None]
    shift = torch.stack([-n.mean_F / n.std_F for n in networks])[:, None, None]
    if masks[0] is not None:
        mask = torch.stack([cast(Tensor, m) for m in masks])
        scale, shift = scale * mask, shift * mask
    return torch.addcmul(shift, x_KBLF, scale).nan_to_num_(nan=0.0)


def _recurrence(
    networks: Sequence[Network],
    x_KBLF: Tensor,
    states: Sequence[State] | None,
    between: Sequence[Sequence[Tensor | None]],
) -> tuple[Tensor, list[State]]:
    """The compiled recurrence, layer by layer; what `torch.nn.RNN` and its kin return."""
    one = networks[0]
    hidden = x_KBLF
    last: list[Tensor] = []
    memories: list[Tensor] = []
    for layer in range(one.layers):
        if layer and between[0][layer - 1] is not None:
            hidden = hidden * torch.stack([cast(Tensor, own[layer - 1]) for own in between])
        state = memory = None
        if states is not None and one.cell == "lstm":
            state, memory = (torch.stack([s[i][layer] for s in states]) for i in (0, 1))
        elif states is not None:
            state = torch.stack([cast(Tensor, s)[layer] for s in states])
        weights = [cast(nn.RNNBase, n.recurrence).all_weights[layer] for n in networks]
        hidden, memory_KBU = read_layer(one.cell, hidden, weights, state, memory)
        last.append(hidden[:, :, -1])
        memories.append(memory_KBU)
    state_KNBU = torch.stack(last, 1)
    if one.cell != "lstm":
        return hidden, list(state_KNBU)
    return hidden, list(zip(state_KNBU, torch.stack(memories, 1), strict=True))


def _seed(device: torch.device, seed: int) -> None:
    # The device's own generator: torch.manual_seed notes a stack trace for every other one.
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _mask(dropout: nn.Dropout, like: Tensor) -> Tensor | None:
    """Dropout's mask. One for a whole window (Gal and Ghahramani 2016) is drawn of one session.

    Masks that change at every session teach a recurrence to average over them, and to draw them
    costs as much as the recurrence itself.
    """
    if not dropout.training or dropout.p == 0:
        return None
    return cast(Tensor, dropout(torch.ones_like(like)))


def _linear(
    layers: Sequence[nn.Linear],
    x_KBLU: Tensor,
    masks: Sequence[Tensor | None] = (None,),
    *,
    compiled: bool,
) -> Tensor:
    """K linear layers, each as one product per window, of inputs that masks (B, 1, U) drop.

    As a single product over B·L rows a weight's gradient is a long sum that the matrix library
    splits by the number of threads, and so would the bits of a trained network. A mask of a whole
    window is one of the weights that the window is multiplied with.
    """
    mask = None if masks[0] is None else torch.stack([cast(Tensor, m) for m in masks])
    if compiled:
        return linear_together(x_KBLU, layers, mask)
    weight = torch.stack([layer.weight.t() for layer in layers])[:, None]
    if mask is not None:
        weight = mask.transpose(-1, -2) * weight
    y = x_KBLU @ weight
    if layers[0].bias is None:
        return y
    bias = torch.stack([layer.bias for layer in layers])[:, None, None]
    # The gradient of a single bias is one long sum too, unless it is taken window by window.
    return y + (bias if y.shape[-1] > 1 else bias.expand(-1, y.shape[1], 1, -1))
