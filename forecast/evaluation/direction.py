"""Whether forecast means say anything about the direction and the order of returns.

Every test first averages over the symbols of a date, so that one day counts once.

References
----------
Clark and West (2007), Approximately normal tests for equal predictive accuracy in nested models,
Journal of Econometrics 138. Campbell and Thompson (2008), Review of Financial Studies 21: the out
of sample R². Pesaran and Timmermann (2009), Testing dependence among serially correlated
multicategory variables, JASA 104: the market timing test as a regression. Grinold and Kahn (1999),
Active Portfolio Management: the information coefficient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from forecast.config import ForecastError
from forecast.evaluation.daily import Key
from forecast.evaluation.inference import Test, mean_test
from forecast.evaluation.rows import Group, Rows

Array = NDArray[np.float64]

DIRECTION = (
    "r2_zero",  # 1 - squared error of the mean / squared error of zero, pooled over rows
    "r2_zero_t",  # Clark-West
    "r2_zero_p",  # one-sided: small where the mean beats zero
    "r2_mean",  # the same against the training mean, which is the model `drift`
    "r2_mean_t",
    "r2_mean_p",
    "hit_rate",  # share of rows where the mean has the sign of the return; no change is not up
    "always_up",  # share of rows where the return is positive
    "hit_t",  # Pesaran-Timmermann
    "hit_p",  # one-sided: small where the sign of the mean tells that of the return
    "ic",  # mean over dates of the correlation over symbols of mean and return, both / scale
    "ic_t",
    "rank_ic",  # the same of ranks
    "rank_ic_t",
)
REFERENCE = "drift"  # the baseline whose mean is the training mean
FEWEST_SYMBOLS = 5  # on a date, for a cross-section


class Direction:
    """Running rows of means and returns, and what the ones say about the others.

    Keeps 20 bytes per row. `COLUMNS` of a Forecasts table are all that it reads.
    """

    COLUMNS = ("part", "model", "symbol", "origin", "horizon", "actual", "mean", "scale")

    def __init__(self) -> None:
        self._rows = Rows()

    def add(self, block: pd.DataFrame) -> None:
        """Add rows of a Forecasts table; those whose actual is unknown are left out."""
        names = ("actual", "mean", "scale")
        self._rows.add(block, {name: block[name].to_numpy(np.float32) for name in names})

    def summary(self) -> dict[str, Any]:
        """Every name of `DIRECTION`, by part, model and horizon; null where undefined.

        Tests are null below 20 dates and where a forecast does not vary; `r2_mean` is null without
        the model `drift`, cross-sections below five symbols on a date, `hit_rate` where all means
        are zero.

        Raises
        ------
        ForecastError
            Where a model has other rows than `drift`.
        """
        references: dict[tuple[str, int], Group | None] = {}

        def describe(key: Key) -> dict[str, float]:
            part, model, horizon = key
            group = self._rows.group(*key)
            if (part, horizon) not in references:
                references[part, horizon] = self._rows.group(part, REFERENCE, horizon)
            reference = references[part, horizon]
            assert group is not None
            if reference is None:
                return _Means(group).describe(None)
            if not reference.same_rows(group):
                raise ForecastError(
                    f"{part}, horizon {horizon}: {model} and {REFERENCE} have different rows. "
                    "Score all models on the same symbols and dates."
                )
            return _Means(group).describe(reference["mean"].astype(np.float64))

        return self._rows.summary(describe)


class _Means:
    """Forecast means of one part, model and horizon beside what happened."""

    def __init__(self, group: Group) -> None:
        _, self._date = np.unique(group.day, return_inverse=True)
        self._size = np.bincount(self._date).astype(np.float64)
        self._mean, self._actual, self._scale = (
            group[name].astype(np.float64) for name in ("mean", "actual", "scale")
        )

    def describe(self, drift: Array | None) -> dict[str, float]:
        """Every name of `DIRECTION`, NaN where undefined.

        Parameters
        ----------
        drift : array, shape (n,), optional
            The training mean, percent.
        """
        found = dict.fromkeys(DIRECTION, np.nan)
        found["r2_zero"], found["r2_zero_t"], found["r2_zero_p"] = self._r2(0.0)
        if drift is not None:
            found["r2_mean"], found["r2_mean_t"], found["r2_mean_p"] = self._r2(drift)
        said, happened = self._mean > 0, self._actual > 0
        found["always_up"] = float(happened.mean())
        if self._mean.any():
            found["hit_rate"] = float((said == happened).mean())
        found["hit_t"], found["hit_p"] = _one_sided(self._timing(said, happened))
        scaled = self._mean / self._scale, self._actual / self._scale  # √h cancels
        varies = self._varies(scaled[0]) & self._varies(scaled[1])
        ranks = self._ranks(scaled[0]), self._ranks(scaled[1])
        for name, pair in (("ic", scaled), ("rank_ic", ranks)):
            test = mean_test(np.where(varies, self._correlation(*pair), np.nan))
            found[name], found[f"{name}_t"] = test.mean, test.t
        return found

    def _daily(self, values: NDArray[Any]) -> Array:
        """Means over the symbols of every date."""
        return np.bincount(self._date, values) / self._size

    def _r2(self, reference: Array | float) -> tuple[float, float, float]:
        """R² out of sample against a reference, and Clark and West's t and p of beating it.

        Their adjusted loss difference, e₀² − e₁² + (m − r)², is 2 (y − r)(m − r): a larger model
        that adds nothing has a larger error, by the variance of what it adds, and is given it back.
        """
        error, change = self._actual - reference, self._mean - reference
        total, loss = float(np.sum(error**2)), float(np.sum((error - change) ** 2))
        r2 = 1 - loss / total if total else np.nan
        return r2, *_one_sided(mean_test(self._daily(2 * error * change)))

    def _timing(self, said: NDArray[np.bool_], happened: NDArray[np.bool_]) -> Test:
        """Score test that the slope of 1[return > 0] on 1[mean > 0] is zero.

        Residuals are those under the null. With the slope's own, a mean that turned negative on one
        date alone would fit that date perfectly and have no standard error.
        """
        x, y = (up - self._daily(up).mean() for up in (said, happened))
        return mean_test(self._daily(x * y))

    def _varies(self, values: Array) -> NDArray[np.bool_]:
        """Dates of enough symbols on which values differ by more than their rounding (float32)."""
        spread = self._daily(self._centred(values) ** 2)
        enough: NDArray[np.bool_] = self._size >= FEWEST_SYMBOLS
        return enough & (spread > 1e-12 * self._daily(values**2))

    def _centred(self, values: Array) -> Array:
        return values - self._daily(values)[self._date]

    def _correlation(self, x: Array, y: Array) -> Array:
        """Correlation over the symbols of every date; NaN where one of them is constant."""
        x, y = self._centred(x), self._centred(y)
        norm = np.sqrt(np.bincount(self._date, x * x) * np.bincount(self._date, y * y))
        return np.bincount(self._date, x * y) / np.where(norm > 0, norm, np.nan)

    def _ranks(self, values: Array) -> Array:
        """Ranks within a date up to a constant of the date; ties share their mean rank."""
        order = np.argsort(values)
        order = order[np.argsort(self._date[order], kind="stable")]
        ordered, date = values[order], self._date[order]
        start = np.flatnonzero(np.append(True, (np.diff(ordered) != 0) | (np.diff(date) != 0)))
        end = np.append(start[1:], len(values))
        ranks = np.empty(len(values))
        ranks[order] = np.repeat((start + end - 1) / 2, end - start)
        return ranks


def _one_sided(test: Test) -> tuple[float, float]:
    """t, and the probability of a larger one under the null."""
    return test.t, float(special.stdtr(test.dof, -test.t))
