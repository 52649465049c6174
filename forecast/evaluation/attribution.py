"""Which features a network uses: by what it loses without them, and by its own gradients.

*Permutation*: each date's values of one feature are dealt out among its symbols anew, so that the
feature keeps its level and loses what it says of a symbol (Breiman 2001; within dates, since days
differ more than symbols do). What the loss rises by is what the network owes to the feature, given
all others: of two that say the same neither may seem to matter.

*Integrated gradients* (Sundararajan, Taly and Yan 2017): the gradient along the way from the
training mean of all features to their values. The shares add up to the whole difference of the
forecast, whether it made the forecast better or not.

Axes: S symbols, L sessions, N origins, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from forecast.evaluation.explained import Explained, Member

NODES = 32  # of the Gauss–Legendre rule along the way
SAME = 1e-3  # of a feature's deviation, within which all symbols of a date share its value
AT_ONCE = 64  # windows differentiated together


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """The validation range of some symbols with as many sessions before as a window has.

    Attributes
    ----------
    rows_SL : panel rows; sessions past a symbol's last one of the range repeat it.
    x_SLF : features.
    y_SL, mask_SL : scaled targets of the horizon looked at, and which of them count.
    """

    rows_SL: np.ndarray
    x_SLF: Tensor
    y_SL: Tensor
    mask_SL: Tensor


def histories(explained: Explained, symbols: np.ndarray) -> Histories:
    """What permutation works on: a network's state is warm when the range begins."""
    panel, rows, task = explained.panel, explained.rows, explained.task
    first_S = np.maximum(panel.offsets[symbols], rows.low[symbols] - task.length)
    low_S, high_S = rows.low[symbols], rows.high[symbols]
    length = int((high_S - first_S).max())
    targets = explained.tensors.gather(first_S, panel.offsets[symbols + 1], low_S, high_S, length)
    clip = float(explained.config["loss"]["clip"])
    return Histories(
        rows_SL=np.minimum(first_S[:, None] + np.arange(length), high_S[:, None] - 1),
        x_SLF=explained.tensors.inputs(first_S, high_S, length),
        y_SL=targets.y_BLH[..., explained.horizon].clamp(-clip, clip),
        mask_SL=targets.mask_BLH[..., explained.horizon],
    )


@torch.no_grad()
def loss(explained: Explained, member: Member, given: Histories, x_SLF: Tensor) -> float:
    """Mean loss of the head over the targets that count, in its own unit."""
    raw, _ = member.network(x_SLF)
    stated = member.head.domain(raw[..., explained.horizon, :])
    lost = member.head.loss(stated, given.y_SL)
    return float(lost[given.mask_SL].double().mean())


def permuted(
    given: Histories, day_N: np.ndarray, feature: int, random: np.random.Generator
) -> Tensor:
    """The histories with one feature dealt out anew among the symbols of each date."""
    rows = np.unique(given.rows_SL)
    day = day_N[rows]
    values = np.empty(len(rows), np.float32)
    where = np.searchsorted(rows, given.rows_SL)
    values[where] = given.x_SLF[..., feature].numpy()
    dealt = np.empty_like(values)
    # Both orders go through the dates in turn; within a date the second one is random.
    order = np.lexsort((random.random(len(rows)), day))
    dealt[np.argsort(day, kind="stable")] = values[order]
    x_SLF = given.x_SLF.clone()
    x_SLF[..., feature] = torch.from_numpy(dealt[where])
    return x_SLF


def shared(given: Histories, day_N: np.ndarray, feature: int) -> bool:
    """Whether all symbols of a date have the same value, so that dealing changes nothing.

    As good as the same: averages of one series differ a little where they begin at other dates.
    """
    day = day_N[given.rows_SL].ravel()
    values = np.nan_to_num(given.x_SLF[..., feature].numpy().ravel().astype(np.float64))
    order = np.argsort(day, kind="stable")
    edges = np.flatnonzero(np.diff(day[order], prepend=-1))
    high = np.maximum.reduceat(values[order], edges)
    low = np.minimum.reduceat(values[order], edges)
    return bool((high - low).max() <= SAME * max(float(values.std()), 1e-12))


def permutation(
    explained: Explained, member: Member, given: Histories, *, repeats: int, seed: int = 0
) -> np.ndarray:
    """How much the loss rises without each feature, mean over repeats, shape (F,).

    Null for a feature that all symbols of a date share.
    """
    day = explained.panel.day
    before = loss(explained, member, given, given.x_SLF)
    found = np.full(given.x_SLF.shape[-1], np.nan)
    for feature in range(len(found)):
        if not shared(given, day, feature):
            random = np.random.default_rng((seed, feature))
            after = [
                loss(explained, member, given, permuted(given, day, feature, random))
                for _ in range(repeats)
            ]
            found[feature] = np.mean(after) - before
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """Integrated gradients of the log volatility.

    Attributes
    ----------
    shares_NF : what each feature, over all sessions of the window, adds to the log volatility.
    total_N : log volatility at the origin less that at the training mean of all features.
    """

    shares_NF: np.ndarray
    total_N: np.ndarray

    @property
    def error(self) -> float:
        """Largest difference of a sum of shares from its total: what the quadrature misses."""
        return float(np.abs(self.shares_NF.sum(axis=1) - self.total_N).max())


def integrated_gradients(explained: Explained, member: Member, origins: np.ndarray) -> Shares:
    """Shares of the features in the forecast at some origins.

    Windows of `window.length` sessions end at the origins and begin with a state of zero, as in
    training, so that the forecast depends on nothing else.

    Parameters
    ----------
    origins : panel rows, at least a window after their symbol's first.
    """
    panel, network = explained.panel, member.network
    length = explained.task.length
    stop = panel.offsets[explained.symbol_of(origins) + 1]
    node, weight = np.polynomial.legendre.leggauss(NODES)
    ways, weights = (node + 1) / 2, weight / 2  # from [-1, 1] to [0, 1]

    def stated(x_NLF: Tensor) -> Tensor:
        raw, _ = network(x_NLF, warmup=length - 1)
        return member.log_volatility(raw[:, 0], explained.horizon)

    shares, totals = [], []
    for chosen in np.array_split(np.arange(len(origins)), -(-len(origins) // AT_ONCE)):
        rows = origins[chosen]
        x_NLF = explained.tensors.inputs(rows - length + 1, stop[chosen], length)
        way_NLF = torch.nan_to_num(x_NLF - network.mean_F)  # what is undefined counts as the mean
        slope_NLF = torch.zeros_like(way_NLF)
        for way, share in zip(ways, weights, strict=True):
            there = (network.mean_F + float(way) * way_NLF).requires_grad_()
            (found,) = torch.autograd.grad(stated(there).sum(), there)
            slope_NLF += float(share) * found
        shares.append((way_NLF * slope_NLF).double().sum(1).numpy())
        with torch.no_grad():
            mean_NLF = network.mean_F.expand_as(way_NLF)
            whole = stated(mean_NLF + way_NLF).double() - stated(mean_NLF).double()
        totals.append(whole.numpy())
    return Shares(shares_NF=np.concatenate(shares), total_N=np.concatenate(totals))
