"""Which settings the scores of a sweep depend on."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

FEWEST = 8  # runs below which nothing is told
TREES = 300


def importance(settings: pd.DataFrame, objective: Sequence[float]) -> pd.DataFrame:
    """Share of the variance of the objective that goes with each setting.

    A random forest (Breiman 2001) predicts each run from trees that have not seen it; the
    importance of a setting is half of how much larger the squared error becomes when its values are
    shuffled among those runs, as a share of the variance of the objective: of independent effects
    that add up, the variance of each (Gregorutti, Michel and Saint-Pierre 2017); what is noise
    belongs to none. With the seed among the settings there is a yardstick of luck: a setting no
    more important than the seed has shown nothing.

    Parameters
    ----------
    settings : DataFrame
        A row per run, a column per setting: numbers, or anything that can be told apart.
    objective : sequence of float
        Of the runs.

    Returns
    -------
    DataFrame
        `key` and `importance` (0 or more), the most important first; empty with fewer than eight
        runs or where the objective does not vary.
    """
    from sklearn.ensemble import RandomForestRegressor

    y = np.asarray(objective, np.float64)
    if len(y) < FEWEST or not np.var(y) > 0 or settings.shape[1] == 0:
        return pd.DataFrame({"key": pd.Series(dtype=str), "importance": pd.Series(dtype=float)})
    x = np.column_stack([_numbers(settings[key].tolist()) for key in settings]).astype(np.float32)
    forest = RandomForestRegressor(
        TREES, bootstrap=True, min_samples_leaf=2, max_features=0.7, random_state=0, n_jobs=1
    ).fit(x, y)
    rng = np.random.default_rng(0)
    unseen = _unseen(forest.estimators_samples_, len(y))
    seen = unseen.any(axis=0)  # with few trees a run may be in all of them

    def error(values: np.ndarray) -> float:
        # The tree within: the estimator around it would check the values 10,000 times.
        predicted = np.stack([tree.tree_.predict(values)[:, 0] for tree in forest.estimators_])
        mean = np.ma.masked_array(predicted, mask=~unseen).mean(axis=0).filled(np.nan)
        return float(np.mean((y[seen] - mean[seen]) ** 2))

    base, worse = error(x), {}
    for column, key in enumerate(settings):
        moved = []
        for _ in range(5):
            shuffled = x.copy()
            shuffled[:, column] = rng.permutation(shuffled[:, column])
            moved.append(error(shuffled) - base)
        worse[str(key)] = max(float(np.mean(moved)) / (2 * float(np.var(y))), 0.0)
    table = pd.DataFrame({"key": list(worse), "importance": list(worse.values())})
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def _numbers(values: Sequence[Hashable]) -> np.ndarray:
    """Numbers as they are; of anything else the place in the sorted list of what there is."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.asarray(values, np.float64)
    names = sorted({str(v) for v in values})
    return np.array([names.index(str(v)) for v in values], np.float64)


def _unseen(drawn: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Whether each tree was grown without each run, shape (trees, runs)."""
    result = np.ones((len(drawn), count), bool)
    for row, sample in zip(result, drawn, strict=True):
        row[sample] = False
    return result
