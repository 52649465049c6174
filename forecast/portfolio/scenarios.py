"""Joint scenarios of all symbols from one forecast distribution each: the Schaake shuffle.

A forecast states how one symbol may move, not how symbols move together. Past origins show that:
on each of them every symbol's outcome had a PIT, its place in what had been forecast for it. The
scenarios of today take that order: the one of a past origin gives a symbol the return that ranks
among its scenarios as its PIT of that origin ranks among its PITs. So each symbol keeps its
forecast, and what they have in common is the rank dependence of the recent past, tails included.
(Of the PITs only the order counts, so nothing hangs on how far out `recalibration` puts a tail.)

Only what was known counts: PITs whose target date lies strictly before the origin. (On it is not
enough, since exchanges of one panel close at different hours.)

Axes: T origins, S symbols, Q levels, N scenarios, P portfolios.

References
----------
Clark, Gangopadhyay, Hay, Rajagopalan and Wilby (2004), The Schaake shuffle: a method for
reconstructing space–time variability in forecasted precipitation and temperature fields, Journal of
Hydrometeorology 5. Schefzik, Thorarinsdottir and Gneiting (2013), Uncertainty quantification in
complex simulation models using ensemble copula coupling, Statistical Science 28: why it is an
empirical copula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.config import ForecastError
from forecast.evaluation.recalibration import normal_score
from forecast.forecasts import QUANTILES, read_blocks
from forecast.portfolio.margins import cell_means

Array = NDArray[Any]

FEWEST_SCENARIOS = 100  # one of them lies below 1 %


@dataclass(frozen=True, kw_only=True, eq=False)
class Marginals:
    """What one model states of every symbol at one horizon, and what came of it.

    Attributes
    ----------
    origins : datetime64[D], shape (T,), ascending.
    symbols : names, (S,).
    delay : sessions from an origin to the start of its target.
    stated_TS : bool; where the part asked for has a forecast. Other rows give PITs alone.
    quantile_TSQ : float32; percent log returns at the 21 levels, NaN where there is no row.
    shortfall_TS : percent; the stated mean of the log return below its quantile at 1 %, NaN where
        none is stated.
    actual_TS : percent log return over the target; NaN where unknown.
    score_TS : Φ⁻¹ of the outcome's PIT; NaN where unknown.
    known_TS : datetime64[D]; when the outcome was known, NaT where it is not.
    """

    origins: Array
    symbols: tuple[str, ...]
    delay: int
    stated_TS: Array
    quantile_TSQ: Array
    shortfall_TS: Array
    actual_TS: Array
    score_TS: Array
    known_TS: Array


def read_marginals(path: Path, *, model: str, part: str, horizon: int) -> Marginals | None:
    """Forecasts of one model and horizon as arrays of origins × symbols.

    PITs are read off the stated quantiles, as `recalibration` does: every model that can be used
    has those, and a PIT near 0 or 1 does not lose its order to rounding. They come from the rows of
    `part`, from the validation rows of the model's first fold and from all test and live rows;
    later folds' validation rows do not count, for the fits that made them saw dates after them.

    Returns
    -------
    Marginals, or None where the model states no quantiles at this horizon.

    Raises
    ------
    ForecastError
        The table has no such row.
    """
    columns = ["fold", "part", "symbol", "origin", "horizon", "delay", "target_date", "actual"]
    blocks, first = [], None
    for block in read_blocks(path, columns=[*columns, *QUANTILES, "es01"], model=model):
        lowest = int(block["fold"].min())
        first = lowest if first is None else min(first, lowest)
        blocks.append(block[(block["horizon"] == horizon).to_numpy()])
    names = ("part", "symbol")
    blocks = [block.astype(dict.fromkeys(names, "str")) for block in blocks if len(block)]
    rows = pd.concat(blocks) if blocks else None
    if rows is None or not (rows["part"] == part).any():
        raise ForecastError(
            f"{path}: {model} has no {part} forecasts {horizon} sessions ahead, from which "
            "portfolio risk is made. Choose another model, part or horizon."
        )
    rows = rows[((rows["part"] != "validation") | (rows["fold"] == first)).to_numpy()]
    quantile = rows[list(QUANTILES)].to_numpy(np.float32)
    if np.isnan(quantile).any():
        return None
    origins, t = np.unique(rows["origin"].to_numpy().astype("datetime64[D]"), return_inverse=True)
    symbols, s = np.unique(rows["symbol"].to_numpy(str), return_inverse=True)
    actual = rows["actual"].to_numpy(np.float64)
    score = normal_score(quantile.T.astype(np.float64), actual)
    known = rows["target_date"].to_numpy().astype("datetime64[D]")
    known[np.isnan(score)] = "NaT"
    mine = (rows["part"] == part).to_numpy()

    def wide(values: Array, empty: Any) -> Array:
        """The rows of the part last, so that no other part's forecast stands in their place."""
        result = np.full((len(origins), len(symbols), *values.shape[1:]), empty, values.dtype)
        for chosen in (~mine, mine):
            result[t[chosen], s[chosen]] = values[chosen]
        return result

    return Marginals(
        origins=origins,
        symbols=tuple(symbols.tolist()),
        delay=int(rows["delay"].max()),
        stated_TS=wide(mine, False),
        quantile_TSQ=wide(quantile, np.nan),
        shortfall_TS=wide(rows["es01"].to_numpy(np.float64), np.nan),
        actual_TS=wide(actual, np.nan),
        score_TS=wide(score, np.nan),
        known_TS=wide(known, "NaT"),
    )


def scenarios(
    marginals: Marginals, *, template: int = 500, least: int = 250, seed: int = 0
) -> Iterator[tuple[int, Array, Array]]:
    """Scenarios at every origin of the part that has enough past origins to learn from.

    An origin serves as a template if the PITs of at least half of the symbols forecast today are
    known. A symbol that lacks one there (not listed yet, its exchange closed) borrows that of
    another symbol, drawn at random: it then depends on the rest as any symbol of that day does.

    Parameters
    ----------
    marginals : what `read_marginals` returns.
    template : the last so many origins that serve, of twice as many; each makes one scenario.
    least : origins with fewer are left out.
    seed : of the borrowed PITs and of the order of tied ones. Together with its date it fixes an
        origin's draws, which therefore depend on nothing that happens later.

    Yields
    ------
    t : index of the origin.
    symbols_S : indices of the symbols that have a forecast, int64.
    return_SN : simple returns over the target, fractions. Each row is a permutation of what
        `cell_means` makes of the symbol's quantiles and expected shortfall.
    """
    if not FEWEST_SCENARIOS <= least <= template:
        raise ForecastError(
            f"scenarios from at least {least} of the last {template} origins: least must lie "
            f"between {FEWEST_SCENARIOS} and template. Correct one of them."
        )
    for t in np.flatnonzero(marginals.stated_TS.any(axis=1)).tolist():
        symbols_S = np.flatnonzero(marginals.stated_TS[t])
        score_NS = _template(marginals, t, symbols_S, template, least, seed)
        if score_NS is None:
            continue
        order_SN = np.argsort(np.ascontiguousarray(score_NS.T), axis=1)
        quantile_SQ = marginals.quantile_TSQ[t, symbols_S].astype(np.float64)
        sorted_SN = cell_means(quantile_SQ, marginals.shortfall_TS[t, symbols_S], len(score_NS))
        return_SN = np.empty_like(sorted_SN)
        np.put_along_axis(return_SN, order_SN, np.expm1(sorted_SN / 100), axis=1)
        yield t, symbols_S, return_SN


def _template(
    marginals: Marginals, t: int, symbols_S: Array, template: int, least: int, seed: int
) -> Array | None:
    """Normal scores of past outcomes by which scenarios are ordered, shape (N, S)."""
    past = slice(max(t - 2 * template, 0), t)
    known_NS = marginals.known_TS[past][:, symbols_S] < marginals.origins[t]  # NaT is not
    rows = np.flatnonzero(2 * known_NS.sum(axis=1) >= len(symbols_S))[-template:]
    if len(rows) < least:
        return None
    known_NS = known_NS[rows]
    score_NS = marginals.score_TS[past][:, symbols_S][rows]
    rng = np.random.default_rng((seed, int(marginals.origins[t].astype(np.int64) % 2**32)))
    noise_NS = rng.random(score_NS.shape)
    if not known_NS.all():
        n, s = np.nonzero(~known_NS)
        there_NS = np.argsort(~known_NS, axis=1, kind="stable")  # symbols with a PIT first
        lender = there_NS[n, (noise_NS[n, s] * known_NS.sum(axis=1)[n]).astype(np.int64)]
        score_NS[n, s] = score_NS[n, lender]
        noise_NS = rng.random(score_NS.shape)
    # Ties, as of outcomes that were all off the scale, fall in random order: in that of their
    # dates, symbols that have many would seem to move together.
    result: Array = score_NS + 1e-9 * noise_NS
    return result


def tail_risk(lowest_PK: Array, number: int, level: float) -> tuple[Array, Array]:
    """Value-at-risk and expected shortfall of scenarios, as returns: losses are negative.

    Parameters
    ----------
    lowest_PK : the lowest K scenarios of each portfolio, ascending.
    number : N, of all scenarios.
    level : probability; at least 1/N, and below (K − ½)/N.

    Returns
    -------
    value_at_risk : shape (P,)
        The scenario of rank level·N + ½, or between two: the k-th is the middle of the k-th of N
        equal cells. So the portfolio of one symbol has its stated quantile. Were scenarios N
        exchangeable draws, rank level·(N + 1) would be right; those of many symbols come near
        to that: with 500, a true normal of 1, 2 and 20 symbols (correlation 0.3) falls below its
        value-at-risk at 1 % with probability .0099, .0103 and .0107; the other way .0090, .0094
        and .0098.
    expected_shortfall : shape (P,)
        Mean of the lowest share `level` of the scenarios.
    """
    rank, share = level * number + 0.5, level * number
    low, whole = int(rank + 1e-9), int(share + 1e-9)
    at_risk = lowest_PK[:, low - 1]
    if rank - low > 1e-9:
        at_risk = at_risk + (rank - low) * (lowest_PK[:, low] - at_risk)
    total = lowest_PK[:, :whole].sum(axis=1)
    if share - whole > 1e-9:
        total = total + (share - whole) * lowest_PK[:, whole]
    return at_risk, total / share
