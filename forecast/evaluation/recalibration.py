"""Forecasts whose levels are corrected, day by day, by how past outcomes fell among them.

If the stated distribution function F is wrong in the same way for a while, the outcomes' PITs F(y)
are not uniform but have a distribution G that can be estimated from those already known, and G∘F is
the calibrated forecast: its quantile at level τ is F's at G⁻¹(τ). Nothing is fitted and no outcome
is used before it is known.

F is made of the 21 stated quantiles, joined by straight lines on the normal scale (z = Φ⁻¹(level)),
the first and last line carried on beyond 1 % and 99 %: exact where F is normal, and monotone for
any F. PITs are read off, and new quantiles taken from, the same F; a PIT from a model's own density
would disagree with it in the tails.

References
----------
Dawid (1984), Statistical theory: the prequential approach, JRSS A 147: PITs.
Kuleshov, Fenner and Ermon (2018), Accurate uncertainties for deep learning using calibrated
regression, ICML: G∘F.
Vovk, Petej, Nouretdinov, Manokhin and Gammerman (2020), Computationally efficient versions of
conformal predictive distributions, Neurocomputing 397: why one PIT more, spread evenly, belongs
in G.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from forecast.config import ForecastError
from forecast.forecasts import LEVELS, OPTIONAL, QUANTILES, ForecastWriter, read_blocks

Array = NDArray[Any]

SUFFIX = "_conformal"  # of the name of a recalibrated copy

_Z: Array = ndtri(np.array(LEVELS))
# PITs are counted in bins equally wide on the normal scale, which are fine in the tails, where a
# model that is badly wrong needs them; beyond 6 standard deviations there is no telling.
_REACH, _BINS = 6.0, 240
_EDGES: Array = ndtr(np.linspace(-_REACH, _REACH, _BINS + 1))
_EDGES[[0, -1]] = 0, 1


def recalibrate(
    source: Path, out: Path, *, models: Sequence[str], history: int = 1000, least: int = 250
) -> None:
    """Write copies `<model>_conformal` of some models of a table, their levels corrected.

    At an origin those PITs of the model and horizon count whose target date lies before it, of all
    symbols, on the last `history` dates on which some became known. (Before, not on: exchanges of
    one panel close at different hours.) They come from the validation rows of the model's first
    fold and from all test and live rows; later folds' validation rows do not count, for the fits
    that made them saw dates after them.

    The copies keep the mean and what describes the row. Their `pit` is that of the corrected
    distribution. They state no std, density, exact crps or expected shortfall, since those of the
    model belong to the distribution that was corrected.

    Parameters
    ----------
    source, out : Forecasts tables; `out` holds the copies alone, in the order of `source`.
    models : what to correct.
    history : dates, about four years. On 1998–2009 half as many gave `ewma_t` a higher crps at
        every horizon, most at 20 sessions, whose overlapping targets are few independent ones.
    least : known dates below which levels stay as they are.

    Raises
    ------
    ForecastError
        A model is not in the table or states no quantiles; `least` is not in 1…`history`.
    """
    if not 1 <= least <= history:
        raise ForecastError(
            f"recalibration from at least {least} of the last {history} dates: least must lie "
            "between 1 and history. Correct one of them."
        )
    corrections = _learn(source, models, history, least)
    with ForecastWriter(out) as writer:
        for block in read_blocks(source, model=models):
            writer.write(_corrected(block, corrections))


class _Correction:
    """G of one model and horizon, by the number n of dates known before an origin.

    Attributes
    ----------
    dates : int64, shape (T,); days on which PITs became known, ascending.
    cdf : float32, shape (T + 1, bins + 1); G at the edges of the bins.
    segment, weight : shape (T + 1, 21); where on the stated quantiles a corrected one lies: at
        `weight` between those numbered `segment` and `segment` + 1, beyond them outside 0…1.
    """

    def __init__(self, known: Array, bin: Array, history: int, least: int) -> None:
        self.dates, row = np.unique(known, return_inverse=True)
        total = len(self.dates)
        counts = np.bincount(row * _BINS + bin, minlength=total * _BINS).reshape(total, _BINS)
        below = np.zeros((total + 1, _BINS + 1), np.int64)
        below[1:, 1:] = counts.cumsum(axis=0).cumsum(axis=1)
        number = np.arange(total + 1)
        first = np.maximum(number - history, 0)
        below = below - below[first]
        below[number - first < least] = 0
        # One PIT more, spread evenly, keeps G strictly increasing; alone it is the identity.
        cdf = (below + _EDGES) / (below[:, -1:] + 1)
        z = ndtri(np.stack([np.interp(LEVELS, row, _EDGES) for row in cdf]))
        self.cdf = cdf.astype(np.float32)
        self.segment, self.weight = between(z)

    def known(self, origin: Array) -> Array:
        """n of each origin."""
        return np.searchsorted(self.dates, origin)

    def quantiles(self, n: Array, quantile: Array) -> Array:
        """Corrected quantiles, shape (21, N), of stated ones."""
        row = np.arange(len(n))
        corrected = np.empty_like(quantile)
        for level, target in enumerate(corrected):
            segment = self.segment[n, level]
            low = quantile[segment, row]
            target[:] = low + self.weight[n, level] * (quantile[segment + 1, row] - low)
        return corrected

    def pit(self, n: Array, z: Array) -> Array:
        """G of the PITs Φ(z)."""
        bin = _bin(z)
        low = self.cdf[n, bin]
        share = (ndtr(z) - _EDGES[bin]) / np.diff(_EDGES)[bin]
        pit: Array = low + share * (self.cdf[n, bin + 1] - low)
        return pit


def _learn(
    source: Path, models: Sequence[str], history: int, least: int
) -> dict[tuple[str, int], _Correction]:
    """The correction of each model and horizon."""
    first: dict[str, int] = {}  # fold of each model
    for block in read_blocks(source, columns=["model", "fold"], model=models):
        for name, fold in block.groupby("model", observed=True)["fold"].min().items():
            first[str(name)] = min(int(fold), first.get(str(name), int(fold)))
    for model in models:
        if model not in first:
            raise ForecastError(
                f"{source}: no model {model} to recalibrate. Choose from those of the table."
            )
    pits: dict[tuple[str, int], list[tuple[Array, Array]]] = {}
    columns = ["model", "fold", "part", "target_date", "horizon", "actual", *QUANTILES]
    for block in read_blocks(source, columns=columns, model=models):
        names = block["model"].cat
        folds = np.array([first[name] for name in names.categories])
        early = block["fold"] == folds[names.codes]
        counts = block["actual"].notna() & ((block["part"] != "validation") | early)
        for model, horizon, rows in _groups(block):
            mine = block.iloc[rows[counts.to_numpy()[rows]]]
            quantile = _quantiles(mine)
            if np.isnan(quantile).any():
                raise ForecastError(
                    f"{source}: {model} states no quantiles {horizon} sessions ahead, which "
                    "recalibration corrects. Leave it out or choose a head that states them."
                )
            bin = _bin(normal_score(quantile, mine["actual"].to_numpy())).astype(np.uint8)
            pits.setdefault((model, horizon), []).append((_day(mine["target_date"]), bin))
    corrections = {}
    for key, parts in pits.items():
        known, bin = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        corrections[key] = _Correction(known, bin, history, least)
    return corrections


def _corrected(
    block: pd.DataFrame, corrections: dict[tuple[str, int], _Correction]
) -> pd.DataFrame:
    """The copy of a block."""
    quantile = _quantiles(block)
    pit = np.full(len(block), np.nan)
    origin = _day(block["origin"])
    for model, horizon, rows in _groups(block):
        correction = corrections[model, horizon]
        n = correction.known(origin[rows])
        z = normal_score(quantile[:, rows], block["actual"].to_numpy()[rows])
        pit[rows] = correction.pit(n, z)
        quantile[:, rows] = correction.quantiles(n, quantile[:, rows])
    return block.assign(
        model=block["model"].cat.rename_categories(lambda name: name + SUFFIX),
        **dict.fromkeys(("std", *OPTIONAL), np.nan),
        **dict(zip(QUANTILES, quantile, strict=True)),
    ).assign(pit=pit)


def _groups(block: pd.DataFrame) -> Iterator[tuple[str, int, Array]]:
    """Rows of each model and horizon of a block."""
    model, horizon = block["model"].cat, block["horizon"].to_numpy()
    for code, name in enumerate(model.categories):
        of_model = model.codes.to_numpy() == code
        for steps in np.unique(horizon[of_model]).tolist():
            yield name, steps, np.flatnonzero(of_model & (horizon == steps))


def _quantiles(block: pd.DataFrame) -> Array:
    return np.stack([block[name].to_numpy(np.float64) for name in QUANTILES])


def _day(dates: pd.Series) -> Array:
    return dates.to_numpy().astype("datetime64[D]").astype(np.int32)


def between(z: Array) -> tuple[Array, Array]:
    """Segment and weight of normal scores: a quantile is q[segment] + weight·(q[segment + 1] − …).

    Below 1 % and above 99 % the weight lies outside 0…1. Both have the shape of `z`.
    """
    segment = np.clip(np.searchsorted(_Z, z) - 1, 0, len(_Z) - 2).astype(np.int8)
    return segment, (z - _Z[segment]) / np.diff(_Z)[segment]


def normal_score(quantile: Array, y: Array) -> Array:
    """Φ⁻¹(F(y)) within ±6; where F jumps at y, the middle of the jump. Shapes (21, N) and (N,)."""
    row = np.arange(len(y))
    below = (quantile < y).sum(axis=0, dtype=np.int8)
    upto = (quantile <= y).sum(axis=0, dtype=np.int8)
    segment = np.clip(below - 1, 0, len(_Z) - 2)
    low, high = quantile[segment, row], quantile[segment + 1, row]
    with np.errstate(divide="ignore", invalid="ignore"):  # no width, or no y
        z = _Z[segment] + (y - low) / (high - low) * np.diff(_Z)[segment]
    last = len(_Z) - 1
    middle = (_Z[np.minimum(below, last)] + _Z[np.maximum(upto - 1, 0)]) / 2
    score: Array = np.clip(np.where(upto > below, middle, z), -_REACH, _REACH)
    return score


def _bin(z: Array) -> Array:
    known = np.nan_to_num(z)
    bin: Array = np.clip((known + _REACH) * (_BINS / (2 * _REACH)), 0, _BINS - 1).astype(np.int64)
    return bin
