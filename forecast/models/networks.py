"""The network: standardised features → RNN, LSTM or GRU → raw head parameters.

Beside the recurrent cells stand `mlp` and `linear`, which see the session's own features alone:
the same inputs, head and training, so that what recurrence adds can be told.

It knows nothing of Lightning, losses or prices. Axes: B batch, L time, F features, H horizons,
P head parameters per horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from forecast.config import ForecastError

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

    def forward(self, x_BLU: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        for number, layer in enumerate(self.layers):
            x_BLU = self.dropout(x_BLU) if number else x_BLU
            x_BLU = torch.tanh(_linear(cast(nn.Linear, layer), x_BLU))
        return x_BLU, x_BLU.new_empty(0)


CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "mlp": FeedForward,
    "linear": FeedForward,
}
MEMORYLESS = ("mlp", "linear")


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
        self.memoryless = cell in MEMORYLESS
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
        return torch.nan_to_num((x_BLF - self.mean_F) / self.std_F, nan=0.0)

    def forward(
        self, x_BLF: Tensor, state: State | None = None, *, warmup: int = 0
    ) -> tuple[Tensor, State]:
        """Raw head parameters of the sessions from `warmup` on, and the state after the last.

        Returns
        -------
        raw_BLHP : Tensor of shape (B, L − warmup, H, P)
        state : Tensor, or a pair of them (LSTM)
        """
        x_BLF = _same_at_every_session(self.input_dropout, self.standardise(x_BLF))
        read_BLF = nn.functional.pad(x_BLF, (0, self.padding)) if self.padding else x_BLF
        hidden_BLU, state = self.recurrence(read_BLF, state)
        hidden_BLU = _same_at_every_session(self.output_dropout, hidden_BLU[:, warmup:])
        raw = _linear(self.readout, hidden_BLU)
        if self.skip is not None:
            raw = raw + _linear(self.skip, x_BLF[:, warmup:])
        return raw.unflatten(-1, self.shape), state


def _same_at_every_session(dropout: nn.Dropout, x_BLU: Tensor) -> Tensor:
    """Dropout with one mask per window (Gal and Ghahramani 2016).

    Masks that change at every session teach a recurrence to average over them, and to draw them
    costs as much as the recurrence itself.
    """
    if not dropout.training or dropout.p == 0:
        return x_BLU
    return x_BLU * dropout(torch.ones_like(x_BLU[:, :1]))


def _linear(layer: nn.Linear, x_BLU: Tensor) -> Tensor:
    """A linear layer as one product per window.

    As a single product over B·L rows its weight gradient is a long sum that the matrix library
    splits by the number of threads, and so would the bits of a trained network.
    """
    y = torch.bmm(x_BLU, layer.weight.t().expand(len(x_BLU), -1, -1))
    if layer.bias is None:
        return y
    # The gradient of a single bias is one long sum too, unless it is taken window by window.
    return y + (layer.bias if layer.out_features > 1 else layer.bias.expand(len(y), 1, -1))
