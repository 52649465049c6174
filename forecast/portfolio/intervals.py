"""How far measures of performance would have come out otherwise by chance: bootstrap intervals.

Blocks of sessions of random length are drawn with replacement, so that what is near in time stays
together (the stationary bootstrap), and the measures are taken of what is drawn. All series are
drawn by the same dates, so what moves them together still does. The intervals are the percentiles
of the drawn measures.

Simulated with the true values known (benchmarks/luck.md), over 350 to 3250 sessions, intervals of
95 % hold the Sharpe ratio in 91 to 95 % of histories, independent, autocorrelated or GARCH. Those
of the volatility do so of the first two (91 to 95 %), but are far too narrow where it is
persistent, since a history has few calm and few wild times: under GARCH of persistence 0.98 they
hold it in 46 % at 350 sessions, 56 % at 750 and 77 % at 3250.
Drawdowns also depend on the order of the blocks: theirs is the range that the same blocks in other
orders would have given.

Axes: P series, T sessions, R repetitions.

References
----------
Politis and Romano (1994), The stationary bootstrap, Journal of the American Statistical
Association 89. Politis and White (2004), Automatic block-length selection for the dependent
bootstrap, Econometric Reviews 23, with the correction of Patton, Politis and White (2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forecast.evaluation.inference import FEWEST
from forecast.portfolio.performance import STILL
from forecast.portfolio.returns import Array, along, simple_returns

MEASURES = ("sharpe", "annual_return", "volatility", "max_drawdown")
SHORTEST = 5  # sessions of a mean block
AT_ONCE = 100  # repetitions held in memory together


def intervals(
    simple_return_PT: ArrayLike,
    *,
    cash_return_T: ArrayLike,
    periods: float,
    measures: Sequence[str] = MEASURES,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, list[float] | None]]:
    """Intervals of measures of P series of simple returns over the same sessions.

    Parameters
    ----------
    simple_return_PT : array, shape (P, T)
    cash_return_T : what cash earned in each session; the Sharpe ratio is of what exceeds it.
    periods : sessions a year.
    measures : of `MEASURES`; the largest drawdown takes half of the time.
    repetitions, level, seed : of the bootstrap.

    Returns
    -------
    list of dict
        For each series {measure: [low, high]}, the measures as `performance` defines them; None
        where so many of the drawn ones are undefined that they could be an end of the interval
        (more than 2.5 % at the level 0.95), and for all where T is below 20.

    Raises
    ------
    ForecastError
        The returns are not simple ones.
    """
    net_PT = simple_returns(simple_return_PT, "simple_return_PT")
    excess_PT = net_PT - along(cash_return_T, net_PT, "cash_return_T")
    series, sessions = net_PT.shape
    if sessions < FEWEST:
        return [dict.fromkeys(measures) for _ in range(series)]
    net_TP, excess_TP = np.ascontiguousarray(net_PT.T), np.ascontiguousarray(excess_PT.T)
    drawn: dict[str, list[Array]] = {name: [] for name in measures}
    for index_RT in _draws(sessions, block_length(net_TP), repetitions=repetitions, seed=seed):
        for name, found in _measured(net_TP, excess_TP, index_RT, periods, measures).items():
            drawn[name].append(found)
    ends = [(1 - level) / 2, (1 + level) / 2]
    result: list[dict[str, list[float] | None]] = [{} for _ in range(series)]
    for name in measures:
        values_RP = np.concatenate(drawn[name])
        for table, values in zip(result, values_RP.T, strict=True):
            undefined = np.isnan(values)  # a draw without variation has no Sharpe ratio
            table[name] = (
                [float(q) for q in np.quantile(values[~undefined], ends)]
                if undefined.mean() <= ends[0]
                else None
            )
    return result


def block_length(returns_TP: Array) -> int:
    """Mean length of a drawn block, the same for all series.

    Of each series the larger of what suits its mean and the mean of its squares (Politis and
    White 2004), at least 5; of those the median, since one estimate alone is erratic.
    """
    from arch.bootstrap import optimal_block_length

    moving_TP = returns_TP[:, returns_TP.std(axis=0) > STILL]
    if not moving_TP.size:
        return SHORTEST
    both = [
        np.nan_to_num(optimal_block_length(values)["stationary"].to_numpy())
        for values in (moving_TP, moving_TP**2)
    ]
    return round(float(np.median(np.maximum(np.maximum(*both), SHORTEST))))


def _draws(
    sessions: int, block: int, *, repetitions: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Drawn sessions of all repetitions, shape (R, T), some repetitions at a time."""
    from arch.bootstrap import StationaryBootstrap

    bootstrap = StationaryBootstrap(block, np.arange(sessions), seed=seed)
    rows = (drawn for (drawn,), _ in bootstrap.bootstrap(repetitions))
    while some := list(islice(rows, AT_ONCE)):
        yield np.stack(some)


def _measured(
    net_TP: Array,
    excess_TP: Array,
    index_RT: NDArray[np.int64],
    periods: float,
    measures: Sequence[str],
) -> dict[str, Array]:
    """Measures of the drawn sessions, each of shape (R, P)."""
    sessions = len(net_TP)
    # Sums over what is drawn are sums over how often each session is: no (R, T, P) is ever built.
    # Not by BLAS, whose sums may depend on the number of threads.
    count_RT = np.stack([np.bincount(row, minlength=sessions) for row in index_RT]).astype(float)

    def total(values_TP: Array) -> Array:
        return np.einsum("rt,tp->rp", count_RT, values_TP)

    def moments(values_TP: Array) -> tuple[Array, Array]:
        centre = values_TP.mean(axis=0)  # the sum of squares keeps its digits
        shift = total(values_TP - centre) / sessions
        squares = total((values_TP - centre) ** 2) - sessions * shift**2
        return centre + shift, np.sqrt(np.maximum(squares, 0) / (sessions - 1))

    found: dict[str, Array] = {}
    if "sharpe" in measures:
        mean, spread = moments(excess_TP)
        varies = spread > STILL
        found["sharpe"] = np.full_like(mean, np.nan)
        found["sharpe"][varies] = mean[varies] / spread[varies] * np.sqrt(periods)
    if "volatility" in measures:
        found["volatility"] = moments(net_TP)[1] * np.sqrt(periods)
    growth_TP = np.log1p(net_TP)
    if "annual_return" in measures:
        found["annual_return"] = np.expm1(total(growth_TP) * periods / sessions)
    if "max_drawdown" in measures:
        found["max_drawdown"] = _largest_drawdowns(growth_TP, index_RT)
    return found


def _largest_drawdowns(growth_TP: Array, index_RT: NDArray[np.int64]) -> Array:
    """Largest fall of equity along each drawn path, as a share of its peak, shape (R, P)."""
    shape = len(index_RT), growth_TP.shape[1]
    level, peak, below = (np.zeros(shape) for _ in range(3))
    step = np.empty(shape)
    # Session by session for all paths at once: many short vector operations on arrays that stay in
    # the cache are faster than accumulating each path.
    for drawn in index_RT.T:
        np.take(growth_TP, drawn, axis=0, out=step, mode="clip")
        level += step
        np.maximum(peak, level, out=peak)
        np.minimum(below, np.subtract(level, peak, out=step), out=below)
    return 0.0 - np.expm1(below)
