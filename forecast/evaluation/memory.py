"""How far back a network remembers: the gradient of its forecast with respect to past inputs.

The input *k* sessions before an origin reaches the forecast through *k* steps of the recurrence
alone. In a simple RNN each step multiplies the gradient by the same matrix and a slope below 1, so
that it vanishes (Bengio, Simard and Frasconi 1994); the additive states of LSTM and GRU let it
through as far as their gates stay open.

Axes: N origins, K lags, F features.
"""

from __future__ import annotations

import numpy as np
import torch

from forecast.evaluation.explained import Explained, Member
from forecast.evaluation.gates import Unrolled

AT_ONCE = 128  # origins whose windows are differentiated together


def gradient(
    explained: Explained,
    member: Member,
    unrolled: Unrolled,
    *,
    symbols: np.ndarray,
    origins: np.ndarray,
    lags: int,
) -> np.ndarray:
    """∂ log volatility at each origin ∂ standardised features 0 … `lags` sessions back.

    Windows begin with the state that the whole history before them has left.

    Parameters
    ----------
    unrolled : the member's pass over the histories of `symbols`, in this order.
    origins : panel rows, at least `lags` sessions after their symbol's first.

    Returns
    -------
    array of float64, shape (N, K, F)
        Lag 0 first; relative change of the volatility per standard deviation of a feature.
    """
    panel, network = explained.panel, member.network
    symbol_N = explained.symbol_of(origins)
    place_N = np.searchsorted(symbols, symbol_N)
    session_N = origins - panel.offsets[symbol_N]
    found = []
    for chosen in np.array_split(np.arange(len(origins)), -(-len(origins) // AT_ONCE)):
        state = unrolled.state(
            torch.from_numpy(place_N[chosen]), torch.from_numpy(session_N[chosen] - lags - 1)
        )
        first_N, stop_N = origins[chosen] - lags, panel.offsets[symbol_N[chosen] + 1]
        x_NKF = explained.tensors.inputs(first_N, stop_N, lags + 1).requires_grad_()
        raw, _ = network(x_NKF, state, warmup=lags)
        stated = member.log_volatility(raw[:, 0], explained.horizon)
        (slope_NKF,) = torch.autograd.grad(stated.sum(), x_NKF)
        found.append((slope_NKF * network.std_F).flip(1).double().numpy())
    return np.concatenate(found)


def profile(gradient_NKF: np.ndarray) -> np.ndarray:
    """Mean over origins of the gradient's length at each lag, shape (K,)."""
    lengths: np.ndarray = np.linalg.norm(gradient_NKF, axis=-1)
    return lengths.mean(axis=0)


def memory_length(profile_K: np.ndarray, share: float = 0.5) -> float:
    """Sessions after which the gradient stays below a share of the largest that memory carries.

    Memory carries what lies before the origin, lag 1 and more; the origin's own features are read
    directly. Where the gradient falls steadily this is where it halves; interpolated between lags,
    and infinite where the last lag still has more.
    """
    level = share * profile_K[1:].max()
    above = np.flatnonzero(profile_K[1:] > level) + 1
    if not len(above):  # nothing is remembered at all
        return 0.0
    last = int(above[-1])
    if last == len(profile_K) - 1:
        return float("inf")
    high, low = profile_K[last], profile_K[last + 1]
    return float(last + (high - level) / (high - low))
