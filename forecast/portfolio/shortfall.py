"""Whether losses beyond value-at-risk are as bad as expected shortfall says.

References
----------
Acerbi and Székely (2014), Backtesting expected shortfall, Risk 27: critical values by simulation
from what was forecast. Acerbi and Székely (2019), The minimally biased backtest for ES, Risk 32:
the statistic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecast.evaluation.inference import FEWEST

Array = NDArray[Any]

REPETITIONS = 2000  # of the simulation


def shortfall_test(
    realised_T: Array,
    var_T: Array,
    es_T: Array,
    lowest_TK: Array,
    number_T: Array,
    *,
    level: float,
    steps: int = 1,
    seed: int = 0,
) -> tuple[float, float]:
    """Test that losses beyond value-at-risk have the stated mean.

    With v and e the stated ones and y what was realised, v − (v − y)⁺/level has the mean e if both
    are right, and errs little if v alone is somewhat wrong, since it is largest at the true v. The
    statistic is its mean relative to e; its distribution under the forecasts comes from outcomes
    drawn from their scenarios (a t test would take a few rare large values for a normal mean:
    measured size 13–18 % at a nominal 5 %, of 750 origins at 1 %). So the scenarios' tail must be
    as fat as the forecast's. Measured with those of `scenarios`, 750 origins and Student t margins
    of 5 degrees of freedom: 7 % at 1 % and 2–4 % at 5 %, of one symbol, long or short, and of four.

    Outcomes are drawn one by one, so origins less than `steps` apart are tested apart, and the p
    values of these phases are joined by Bonferroni.

    Parameters
    ----------
    realised_T, var_T, es_T : simple returns, shape (T,).
    lowest_TK : the lowest scenarios of each origin, ascending, shape (T, K).
    number_T : of all its scenarios.
    level : probability.
    steps : origins between two draws that are independent under perfect forecasts.

    Returns
    -------
    excess : float
        0.1 where shortfalls are a tenth worse than stated; negative where they are milder. Losses
        that exceed value-at-risk too often count as well.
    p : float
        Two-sided. Both are NaN where an expected shortfall is no loss, or without an origin; p also
        where no phase has enough.
    """
    rows = len(realised_T)
    if not rows or not (es_T < 0).all():
        return np.nan, np.nan

    def beyond(t: Array, y: Array) -> Array:
        """(v − y)⁺ / level, relative to e."""
        relative: Array = np.maximum(var_T[t] - y, 0) / level / es_T[t]
        return relative

    every = np.arange(rows)
    stated = var_T / es_T - 1
    observed = stated - beyond(every, realised_T)
    # Few outcomes fall below the level: the gaps between those are drawn, and not every one.
    rng = np.random.default_rng((seed, rows))
    draws = REPETITIONS * rows
    expected = draws * level
    gaps = rng.geometric(level, int(expected + 10 * np.sqrt(expected)) + 10)
    cell = np.cumsum(gaps) - 1
    cell = cell[cell < draws]
    t = cell % rows
    scenario = (rng.random(len(cell)) * level * number_T[t]).astype(np.int64)
    phase = cell // rows * steps + t % steps
    below = np.bincount(phase, beyond(t, lowest_TK[t, scenario]), REPETITIONS * steps)
    base = np.bincount(every % steps, stated, steps)
    drawn = base - below.reshape(REPETITIONS, steps)
    value = np.bincount(every % steps, observed, steps)
    as_extreme = np.minimum((drawn <= value).sum(axis=0), (drawn >= value).sum(axis=0))
    size = np.bincount(every % steps, minlength=steps)
    p = np.minimum(2 * (as_extreme + 1) / (REPETITIONS + 1), 1)[size >= FEWEST]
    return float(observed.mean()), min(float(p.min()) * len(p), 1.0) if len(p) else np.nan
