"""Whether outcomes fall where they were said to fall: coverage of the levels and PIT histograms.

A histogram over symbols and dates is not one of independent draws: on a day of crisis all stocks
fall into the lowest bin at once. So each bin's count is kept per origin date, and its band takes
dates, dependent over time, as the draws.

References
----------
Diebold, Gunther and Tay (1998), Evaluating density forecasts, International Economic Review 39.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.evaluation.daily import DailySums, Key, scored_rows
from forecast.evaluation.inference import mean_test
from forecast.forecasts import LEVELS, PARTS, QUANTILES

Array = NDArray[Any]

BINS = len(LEVELS) + 1  # between the stated levels, and beyond the outer two
EXACT_BINS = 20  # of equal width, for models with a distribution function


class Calibration:
    """Running counts of actuals per bin and date, for each part, model and horizon."""

    def __init__(self) -> None:
        self._counts: dict[Key, DailySums] = {}  # columns: BINS, then EXACT_BINS
        self._point: set[Key] = set()  # what states no quantiles somewhere

    def add(self, block: pd.DataFrame) -> None:
        """Add rows of a Forecasts table, in any mix of parts, models and horizons."""
        rows = scored_rows(block)
        if rows is None:
            return
        actual, pit = (rows.block[name].to_numpy() for name in ("actual", "pit"))
        above = np.zeros(len(actual), np.int64)
        for name in QUANTILES:
            above += actual > rows.block[name].to_numpy()
        counts = rows.sums(None, rows.day * BINS + above, rows.days * BINS)
        known = ~np.isnan(pit)
        twentieth = np.minimum(np.where(known, pit, 0.0) * EXACT_BINS, EXACT_BINS - 1)
        exact = rows.sums(
            known, rows.day * EXACT_BINS + twentieth.astype(np.int64), rows.days * EXACT_BINS
        )
        null = rows.sums(np.isnan(rows.block["q50"].to_numpy()))[:, 0] > 0
        self._point.update(key for key, point in zip(rows.keys, null, strict=True) if point)
        for key, *tables in zip(rows.keys, counts, exact, strict=True):
            both = np.hstack([table.reshape(rows.days, -1) for table in tables])
            sums = self._counts.setdefault(key, DailySums(BINS + EXACT_BINS, np.int32))
            sums.add(rows.first, both)

    def summary(self) -> dict[str, Any]:
        """Calibration by part, model and horizon; null for a model without quantiles.

        `coverage` is the share of actuals at or below each level's quantile, `pit_counts` their
        numbers between the levels. `pit_bands` hold each bin's share on 95 of 100 occasions if the
        forecasts are calibrated, bin by bin, and `pit_t` is how far the share lies from the
        expected one; null where a bin is as full on every date. `exact` has the same of the
        distribution function's values in 20 bins of equal width.
        """
        result: dict[str, Any] = {}
        models = list(dict.fromkeys(model for _, model, _ in self._counts))
        expected = np.diff((0.0, *LEVELS, 1.0))
        for key in sorted(
            self._counts, key=lambda key: (PARTS.index(key[0]), models.index(key[1]), key[2])
        ):
            part, model, horizon = key
            found = None
            if key not in self._point:
                daily = self._counts[key].values.astype(np.int64)
                bins, exact = daily[:, :BINS], daily[:, BINS:]
                counts = bins.sum(axis=0)
                shares = _against(bins, expected)
                found = {
                    "coverage": (counts[:-1].cumsum() / counts.sum()).tolist(),
                    "pit_counts": counts.tolist(),
                    "pit_bands": shares["bands"],
                    "pit_t": shares["t"],
                    "exact": None,
                }
                if exact.sum() == counts.sum():
                    uniform = np.full(EXACT_BINS, 1 / EXACT_BINS)
                    found["exact"] = {
                        "counts": exact.sum(axis=0).tolist(),
                        **_against(exact, uniform),
                    }
            result.setdefault(part, {}).setdefault(model, {})[str(horizon)] = found
        return result


def _against(counts: Array, expected: Array) -> dict[str, list[Any]]:
    """Bands around the expected share of each bin, and the t statistic of what was found.

    The share of all rows is a ratio of sums over dates; its error is that of the mean over dates
    of (count − expected · rows) ÷ mean rows (the delta method), which is the daily share's error
    where each date has as many rows.

    Parameters
    ----------
    counts : int array, shape (days, bins); days without rows are no dates
    expected : array, shape (bins,)
    """
    counts = counts[counts.any(axis=1)]
    rows = counts.sum(axis=1, keepdims=True)
    excess = (counts - expected * rows) / rows.mean()
    bands: list[list[float | None]] = []
    ts: list[float | None] = []
    for share, series in zip(expected.tolist(), excess.T, strict=True):
        test = mean_test(series)
        if np.isnan(test.t):
            bands.append([None, None])
            ts.append(None)
        else:
            low, high = test.interval(0.95)
            reach = (high - low) / 2
            bands.append([max(share - reach, 0.0), min(share + reach, 1.0)])
            ts.append(test.t)
    return {"bands": bands, "t": ts}
