"""Probability of backtest overfitting: how often the best of many is below the median next time.

The sessions are cut into blocks; of every way to choose half of them, the best configuration of
that half is looked up in the other half. Axes: T sessions, N configurations, K blocks, C splits.

References
----------
Bailey, Borwein, López de Prado and Zhu (2017), The probability of backtest overfitting, Journal of
Computational Finance 20: combinatorially symmetric cross-validation (CSCV).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLOCKS = 16  # 12,870 splits
FEWEST = 10  # configurations
SHORTEST = 10  # sessions that a block must keep
CHUNK = 1287  # splits at a time, which bounds the memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Overfitting:
    """What became of the best.

    Attributes
    ----------
    value : float
        The probability: share of the splits in which the configuration that was best in one half
        is at or below the median of the other half.
    logits : array, shape (C,)
        ln(ω / (1 − ω)) of its relative rank ω = rank / (N + 1) in the other half.
    inside, outside : float
        Its mean Sharpe ratio in the half it was chosen in, and in the other one, per session.
        (No line of one on the other: what one half has more, the other has less, so the slope is
        negative whatever the skill.)
    loss : float
        Share of the splits in which it earns less than cash in the other half.
    configurations : int
    """

    value: float
    logits: Array
    inside: float
    outside: float
    loss: float
    configurations: int


def overfitting(excess_TN: Array, *, blocks: int = BLOCKS, purge: int = 0) -> Overfitting | None:
    """Combinatorially symmetric cross-validation of the choice by Sharpe ratio.

    Parameters
    ----------
    excess_TN : simple returns over cash, no NaN, a column per configuration; configurations that
        differ only in their seed averaged before.
    blocks : even number.
    purge : sessions dropped at each border between blocks, so that what is held over it (the
        horizon) does not stand on both sides.

    Returns
    -------
    Overfitting or None
        None with fewer than ten configurations, or fewer than ten sessions in a block.
    """
    excess_TN = np.asarray(excess_TN, np.float64)
    dates, count = excess_TN.shape
    border = np.linspace(0, dates, blocks + 1).astype(int)
    kept = [slice(border[k] + purge * (k > 0), border[k + 1]) for k in range(blocks)]
    if count < FEWEST or min(part.stop - part.start for part in kept) < SHORTEST:
        return None
    length_K = np.array([part.stop - part.start for part in kept], np.float64)
    sums_KN = np.stack([excess_TN[part].sum(axis=0) for part in kept])
    squares_KN = np.stack([(excess_TN[part] ** 2).sum(axis=0) for part in kept])

    chosen = np.array(list(combinations(range(blocks), blocks // 2)))
    logits, inside, outside = (np.empty(len(chosen)) for _ in range(3))
    for start in range(0, len(chosen), CHUNK):
        at = slice(start, min(start + CHUNK, len(chosen)))
        half_CK = np.zeros((at.stop - at.start, blocks))
        np.put_along_axis(half_CK, chosen[at], 1.0, axis=1)
        ratio_CN, other_CN = (
            _sharpe(half @ length_K, _added(half, sums_KN), _added(half, squares_KN))
            for half in (half_CK, 1 - half_CK)
        )
        best = ratio_CN.argmax(axis=1, keepdims=True)
        inside[at] = np.take_along_axis(ratio_CN, best, axis=1)[:, 0]
        there = np.take_along_axis(other_CN, best, axis=1)
        outside[at] = there[:, 0]
        # Ties share their ranks.
        rank = ((other_CN < there).sum(axis=1) + (other_CN <= there).sum(axis=1) + 1) / 2
        logits[at] = np.log(rank / (count + 1 - rank))
    return Overfitting(
        value=float((logits <= 0).mean()),
        logits=logits,
        inside=float(inside.mean()),
        outside=float(outside.mean()),
        loss=float((outside < 0).mean()),
        configurations=count,
    )


def _added(half_CK: Array, sums_KN: Array) -> Array:
    """Their product, in which equal columns stay equal: a BLAS may round by a column's place."""
    return np.einsum("ck,kn->cn", half_CK, sums_KN)


def _sharpe(length_C: Array, sums_CN: Array, squares_CN: Array) -> Array:
    """Per session; 0 where nothing moves, as of one who holds cash."""
    length = length_C[:, None]
    mean = sums_CN / length
    variance = (squares_CN - sums_CN * mean) / (length - 1)
    moves = variance > 1e-12 * squares_CN / length
    return np.where(moves, mean / np.sqrt(np.where(moves, variance, 1.0)), 0.0)
