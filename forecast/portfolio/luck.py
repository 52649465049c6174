"""How much of a Sharpe ratio is luck: one series' length and tails, and the number of trials.

The probabilistic and the deflated Sharpe ratio are one minus the p values of one-sided tests: how
often a strategy that is truly no better than a benchmark would have looked worse than this one. A
probability of skill they are not, which would depend on how rare skill is.

Sharpe ratios below are per session and of simple returns over cash, unless annualised is said.

References
----------
Bailey and López de Prado (2012), The Sharpe ratio efficient frontier, Journal of Risk 15:
the probabilistic Sharpe ratio, with raw kurtosis.
Bailey and López de Prado (2014), The deflated Sharpe ratio, Journal of Portfolio Management 40.
López de Prado and Lewis (2019), Detection of false investment strategies using unsupervised
learning methods, Quantitative Finance 19: trials in clusters, each a portfolio of its members in
proportion to one over their volatilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.portfolio.overfitting import BLOCKS, FEWEST, SHORTEST, overfitting
from forecast.portfolio.sharpe import excess_returns, pairs_of
from forecast.portfolio.strategies import FROM_PRICES
from forecast.portfolio.trials import Trials

Array = NDArray[np.float64]

CORRELATION = 0.5  # mean correlation above which groups of trials are one cluster
OVERLAP = 60  # sessions below which a correlation, or a Sharpe ratio among trials, is not taken
COVERED = 0.95  # share of the dates that a configuration must have traded to be compared


def luck(
    returns: pd.DataFrame, trials: Trials, *, part: str, periods: float, purge: int = 0
) -> dict[str, Any]:
    """What is luck in a run's strategies, in the light of everything that was tried.

    Parameters
    ----------
    returns : rows of the run's `returns.parquet`.
    trials : all trials on the part, this run's among them (on the ledger before).
    periods : sessions a year.
    purge : sessions dropped between the blocks of the cross-validation; the forecasts' horizon.

    Returns
    -------
    dict
        The content of `luck.json`; what is undefined is None.

        - `part`; `trials`: configurations on the ledger; `series`: those whose returns are left;
          `clusters`: groups of these of correlation 0.5 and more, and each of the others as one;
          None, as all that is of clusters, where there are several trials and no correlation
          between any two of them is known, for want of 60 common sessions.
        - `sharpe_variance`, `sharpe_variance_clusters`: of the annualised Sharpe ratios of the
          trials, and of the clusters.
        - `strategies[model][strategy]`: `psr`, one minus the p value of a true Sharpe ratio of 0
          or less; `dsr`, of one no higher than the annualised `expected_maximum` of as many trials
          without skill; `dsr_clusters`, `expected_maximum_clusters`: of as many clusters, which is
          kinder, since the best member of a cluster is a choice too: of two clusters of ten, 7.5 %
          of the best without skill pass 0.95 (benchmarks/luck.md). Benchmarks, which nobody chose,
          have the first alone.
        - `pbo`: `value`, `configurations`, `blocks`, `logits` (pairs of a logit and the number of
          splits), annualised `inside` and `outside`, `loss` (see `overfitting`), or `not_computed`
          with the reason. Taken over this run's dates and the configurations that traded on 95 % of
          them.
    """
    own = excess_returns(returns, part)
    ratio = _sharpe(trials.returns)
    seen = trials.returns[ratio.index]
    grouped = _sharpe(_portfolios(seen, clusters(seen)))
    maximum = expected_maximum(trials.count, ratio.to_numpy())
    count: int | None = None
    maximum_clusters: float | None = None
    if trials.count < 2 or _correlated(seen):
        count = len(grouped) + trials.count - len(ratio)
        maximum_clusters = expected_maximum(count, grouped.to_numpy(), sessions=len(own))
    strategies: dict[str, dict[str, dict[str, float | None]]] = {}
    for model, strategy in pairs_of(own):
        excess = own[model, strategy].dropna().to_numpy()
        chosen = model != FROM_PRICES
        strategies.setdefault(model, {})[strategy] = {
            "psr": probabilistic(excess),
            "dsr": probabilistic(excess, maximum) if chosen else None,
            "dsr_clusters": probabilistic(excess, maximum_clusters) if chosen else None,
            "expected_maximum": _annual(maximum, periods) if chosen else None,
            "expected_maximum_clusters": _annual(maximum_clusters, periods) if chosen else None,
        }
    return {
        "part": part,
        "trials": trials.count,
        "clusters": count,
        "series": trials.count - trials.missing,
        "sharpe_variance": _variance(ratio, periods),
        "sharpe_variance_clusters": None if count is None else _variance(grouped, periods),
        "strategies": strategies,
        "pbo": _overfitting(trials.returns, own.index, periods=periods, purge=purge),
    }


def probabilistic(excess_T: Array, benchmark: float | None = 0.0) -> float | None:
    """One minus the p value of the test that the true Sharpe ratio is at most `benchmark`.

    With the benchmark (per session) that `expected_maximum` gives, the deflated Sharpe ratio. None
    where the benchmark is, or the returns do not vary. Returns are taken to be independent over
    time: where they are autocorrelated at 0.2, one in eleven without skill is above 0.95
    (benchmarks/luck.md).
    """
    from skfolio.measures import probabilistic_sharpe_ratio

    if benchmark is None or len(excess_T) == 0:
        return None
    value = float(probabilistic_sharpe_ratio(excess_T, benchmark_sharpe_ratio=benchmark))
    return value if np.isfinite(value) else None


def expected_maximum(count: int, ratios: Array, *, sessions: int | None = None) -> float | None:
    """Largest of the Sharpe ratios of `count` trials without skill, expected.

    Parameters
    ----------
    count : how many were tried.
    ratios : the Sharpe ratios that are known of them, whose variance is taken.
    sessions : of each, where their variance is to be 1 / (sessions − 1) or more, which luck alone
        makes of independent trials: of two or three clusters the variance is hardly known, and
        without this bound one in ten of the best of two would pass for skill.

    Returns
    -------
    float or None
        0 for a single trial. None where there were several and their variance is not known.
    """
    from skfolio.measures import expected_max_sharpe_ratio

    if count <= 1:
        return 0.0
    known = [float(np.var(ratios, ddof=1))] if len(ratios) > 1 else []
    least = [1 / (sessions - 1)] if sessions is not None and sessions > 1 else []
    if not known + least:
        return None
    return float(expected_max_sharpe_ratio(count, max(known + least) ** 0.5))


def clusters(returns: pd.DataFrame) -> NDArray[np.int64]:
    """Number of the cluster of each column: average linkage, cut at a correlation of 0.5.

    Two groups are joined while the mean correlation between their members is that or more.
    Correlations are taken where both are known, and are 0 where fewer than 60 dates are.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if returns.shape[1] < 2:
        return np.arange(1, returns.shape[1] + 1)
    correlation = returns.corr(min_periods=OVERLAP).fillna(0.0).to_numpy(copy=True)
    distance = np.maximum(1 - correlation, 0.0)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), method="average")
    return fcluster(tree, 1 - CORRELATION, criterion="distance").astype(np.int64)


def _correlated(returns: pd.DataFrame) -> bool:
    """Whether the correlation of any two columns is known."""
    known = returns.corr(min_periods=OVERLAP).notna().to_numpy()
    return bool(np.triu(known, 1).any())


def _portfolios(returns: pd.DataFrame, label: NDArray[np.int64]) -> pd.DataFrame:
    """A series per cluster: the mean of its members in units of their deviation."""
    scaled = returns / returns.std()
    return pd.DataFrame({k: scaled.loc[:, label == k].mean(axis=1) for k in np.unique(label)})


def _sharpe(returns: pd.DataFrame) -> pd.Series:
    """Of each column that moves and is long enough."""
    deviation = returns.std()
    moves = (deviation > 1e-12) & (returns.notna().sum() >= OVERLAP)
    return (returns.mean() / deviation.where(moves)).dropna()


def _overfitting(
    returns: pd.DataFrame, dates: pd.Index, *, periods: float, purge: int
) -> dict[str, Any]:
    """Of the configurations that traded on nearly all of the dates."""
    there = returns.reindex(dates)
    there = there.loc[:, there.notna().mean() >= COVERED].dropna()
    found = overfitting(there.to_numpy(np.float64), purge=purge)
    if found is None:
        few = there.shape[1] < FEWEST
        return {
            "not_computed": "fewer than ten configurations"
            if few
            else f"fewer than {SHORTEST} sessions in each of {BLOCKS} blocks"
        }
    logit, splits = np.unique(found.logits, return_counts=True)
    return {
        "value": found.value,
        "configurations": found.configurations,
        "blocks": BLOCKS,
        "logits": [[float(x), int(n)] for x, n in zip(logit, splits, strict=True)],
        "inside": _annual(found.inside, periods),
        "outside": _annual(found.outside, periods),
        "loss": found.loss,
    }


def _annual(ratio: float | None, periods: float) -> float | None:
    if ratio is None or not np.isfinite(ratio):
        return None
    return float(ratio * np.sqrt(periods))


def _variance(ratio: pd.Series, periods: float) -> float | None:
    return float(ratio.var() * periods) if len(ratio) > 1 else None
