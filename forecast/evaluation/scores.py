"""Scores and calibration of a Forecasts table, as a stream of its blocks.

Everything is kept as sums per origin date, so memory grows with dates and not with rows, and the
significance tests, which average over symbols per date first, read the same sums as the scores.

References
----------
Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation, JASA 102.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.config import ForecastError
from forecast.forecasts import INNER, LEVELS, PARTS, QUANTILES

Array = NDArray[Any]
Key = tuple[str, str, int]  # part, model, horizon

SCORES = (
    "crps",  # percent: 2 x mean pinball loss over the 19 inner levels
    "crps_exact",  # percent: closed form, for models with a density
    "mae",  # percent: of the median, or of the mean where there is no median
    "mae_zero",  # percent: of forecasting no change
    "coverage_50",  # share of actuals within the central 50 % interval
    "coverage_90",
    "log_score",  # nats: mean negative log density of the percent return
    "crps_scaled",  # divided by scale x sqrt(horizon)
    "mae_scaled",
)


class Scores:
    """Running scores per part, model and horizon; rows whose actual is unknown are not scored."""

    def __init__(self) -> None:
        self._sums: dict[Key, _Sums] = {}

    def add(self, block: pd.DataFrame) -> None:
        """Add rows of a Forecasts table, in any mix of parts, models and horizons."""
        known = block["actual"].notna().to_numpy()
        if not known.all():
            block = block[known]
        if block.empty:
            return
        (parts, part), (models, model) = (_codes(block[name]) for name in ("part", "model"))
        horizon = block["horizon"].to_numpy()
        longest = int(horizon.max()) + 1
        present, group = np.unique(
            (part * len(models) + model) * longest + horizon, return_inverse=True
        )
        day = block["origin"].to_numpy().astype("datetime64[D]").astype(np.int64)
        rows, bins = _score(block, horizon)
        row_hash = _hash(block["symbol"], day)
        for index, code in enumerate(present.tolist()):
            outer, steps = divmod(code, longest)
            key = parts[outer // len(models)], models[outer % len(models)], steps
            mine = slice(None) if len(present) == 1 else np.flatnonzero(group == index)
            sums = self._sums.setdefault(key, _Sums())
            sums.add(day[mine], rows[:, mine], bins[mine], row_hash[mine])

    def summary(self) -> dict[str, Any]:
        """Scores and calibration, as `metrics.json` holds them; null where undefined.

        Raises
        ------
        ForecastError
            Where the models of a part and horizon are not scored on the same rows.
        """
        scores: dict[str, Any] = {}
        calibration: dict[str, Any] = {}
        first: dict[tuple[str, int], str] = {}
        models = list(dict.fromkeys(model for _, model, _ in self._sums))
        for part, model, horizon in sorted(
            self._sums, key=lambda key: (PARTS.index(key[0]), models.index(key[1]), key[2])
        ):
            sums = self._sums[part, model, horizon]
            reference = first.setdefault((part, horizon), model)
            other = self._sums[part, reference, horizon]
            if (sums.count, sums.fingerprint) != (other.count, other.fingerprint):
                raise ForecastError(
                    f"{part}, horizon {horizon}: {model} has {sums.count} rows and {reference} "
                    f"{other.count}, or other ones. Score all models on the same symbols and dates."
                )
            total = sums.daily.sum(axis=0) / sums.count
            values = {
                name: None if np.isnan(value) else float(value)
                for name, value in zip(SCORES, total, strict=True)
            }
            scores.setdefault(part, {}).setdefault(model, {})[str(horizon)] = {
                "rows": sums.count,
                **values,
            }
            calibration.setdefault(part, {}).setdefault(model, {})[str(horizon)] = (
                None
                if values["crps"] is None
                else {
                    "coverage": (sums.bins[:-1].cumsum() / sums.count).tolist(),
                    "pit_counts": sums.bins.tolist(),
                }
            )
        return {"scores": scores, "calibration": calibration}

    def daily(self, part: str, model: str, horizon: int) -> pd.DataFrame:
        """Mean of every score over the symbols of an origin date, and their number `rows`."""
        sums = self._sums[part, model, horizon]
        scored = np.flatnonzero(sums.rows)
        dates = (sums.first + scored).astype("datetime64[D]").astype("datetime64[s]")
        rows = sums.rows[scored]
        frame = pd.DataFrame(
            sums.daily[scored] / rows[:, None],
            index=pd.Index(dates, name="origin"),
            columns=list(SCORES),
        )
        return frame.assign(rows=rows)


class _Sums:
    """Sums of one part, model and horizon.

    Attributes
    ----------
    first : day of row 0
    daily : float64, shape (days, scores); rows are calendar days
    rows : int64, shape (days,)
    bins : int64, shape (22,); actuals between the quantiles of `LEVELS`
    fingerprint : sum of the hashes of (symbol, origin), so in any order
    """

    def __init__(self) -> None:
        self.first = 0
        self.daily = np.zeros((0, len(SCORES)))
        self.rows = np.zeros(0, dtype=np.int64)
        self.bins = np.zeros(len(LEVELS) + 1, dtype=np.int64)
        self.count = 0
        self.fingerprint = 0

    def add(self, day: Array, scores: Array, bins: Array, row_hash: Array) -> None:
        self._cover(int(day.min()), int(day.max()))
        at = day - self.first
        for column, score in enumerate(scores):
            self.daily[:, column] += np.bincount(at, score, len(self.rows))
        self.rows += np.bincount(at, minlength=len(self.rows))
        self.bins += np.bincount(bins, minlength=len(self.bins))
        self.count += len(day)
        self.fingerprint = (self.fingerprint + int(row_hash.sum())) % 2**64

    def _cover(self, first: int, last: int) -> None:
        if len(self.rows):
            first, last = min(first, self.first), max(last, self.first + len(self.rows) - 1)
            margin = (self.first - first, last - self.first - len(self.rows) + 1)
        else:
            margin = (0, last - first + 1)
        if any(margin):
            self.daily = np.pad(self.daily, (margin, (0, 0)))
            self.rows = np.pad(self.rows, margin)
        self.first = first


def _score(block: pd.DataFrame, horizon: Array) -> tuple[Array, Array]:
    """Scores of each row, shape (scores, rows), NaN where undefined, and the bin of the actual."""
    actual = block["actual"].to_numpy()
    pinball = np.zeros(len(actual))
    bins = np.zeros(len(actual), dtype=np.int64)
    for level, name in zip(LEVELS, QUANTILES, strict=True):
        quantile = block[name].to_numpy()
        bins += actual > quantile
        if level in INNER:
            error = actual - quantile
            pinball += np.maximum(level * error, (level - 1) * error)
    crps = 2 * pinball / len(INNER)
    median = block["q50"].to_numpy(dtype=np.float64)
    error = np.abs(actual - np.where(np.isnan(median), block["mean"], median))
    unit = block["scale"].to_numpy() * np.sqrt(horizon.astype(np.float64))
    known = np.where(np.isnan(median), np.nan, 1.0)

    def inside(low: str, high: str) -> Array:
        return known * ((block[low].to_numpy() <= actual) & (actual <= block[high].to_numpy()))

    rows = {
        "crps": crps,
        "crps_exact": block["crps_exact"],
        "mae": error,
        "mae_zero": np.abs(actual),
        "coverage_50": inside("q25", "q75"),
        "coverage_90": inside("q05", "q95"),
        "log_score": block["nll"],
        "crps_scaled": crps / unit,
        "mae_scaled": error / unit,
    }
    return np.stack([np.asarray(rows[name], dtype=np.float64) for name in SCORES]), bins


def _codes(names: pd.Series) -> tuple[list[str], Array]:
    names = names.astype("category")
    return list(names.cat.categories), names.cat.codes.to_numpy().astype(np.int64)


def _hash(symbols: pd.Series, day: Array) -> Array:
    """64 bits of (symbol, origin) per row, alike in every block (mixing of splitmix64)."""
    names, code = _codes(symbols)
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in names]
    value: Array = np.frombuffer(b"".join(digests), dtype="<u8")[code]
    value = value ^ (day.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    mixed: Array = value ^ (value >> np.uint64(31))
    return mixed


def objective(scores: Mapping[str, Any], model: str) -> float:
    """What sweeps minimise: validation crps in scaled units, mean over horizons.

    For a model without quantiles, scaled absolute error, the crps of a point mass.

    Raises
    ------
    ForecastError
        Where the model is not scored on the validation part.
    """
    try:
        horizons = scores["validation"][model].values()
    except KeyError:
        raise ForecastError(
            f"{model} is not scored on the validation part. Add validation to evaluate."
        ) from None
    name = "crps_scaled"
    if any(row[name] is None for row in horizons):
        name = "mae_scaled"
    return float(np.mean([row[name] for row in horizons]))


def table(metrics: Mapping[str, Any]) -> str:
    """The scores as plain text: a paragraph per part and horizon, a line per model."""
    heads = ("rows", "crps", "exact", "mae", "no change", "in 50 %", "in 90 %", "log score")
    names = SCORES[:-2]
    models = [model for part in metrics["scores"].values() for model in part]
    width = max([len("model"), *map(len, models)])
    lines = []
    for part, by_model in metrics["scores"].items():
        horizons = dict.fromkeys(horizon for rows in by_model.values() for horizon in rows)
        for horizon in horizons:
            plural = "session" if horizon == "1" else "sessions"
            lines += ["", f"{part}, {horizon} {plural} ahead"]
            lines.append("  ".join([f"{'model':<{width}}", *(f"{head:>9}" for head in heads)]))
            for model, rows in by_model.items():
                if horizon in rows:
                    cells = [f"{rows[horizon]['rows']:>9,}"]
                    cells += [_cell(name, rows[horizon][name]) for name in names]
                    lines.append("  ".join([f"{model:<{width}}", *cells]))
    return "\n".join(lines[1:])


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return f"{'-':>9}"
    return f"{100 * value:>7.1f} %" if name.startswith("coverage") else f"{value:>9.4f}"
