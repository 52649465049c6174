"""Scores of a Forecasts table, as a stream of its blocks.

References
----------
Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation, JASA 102:
crps, log score and the interval score (Winkler 1972).
Patton (2011), Volatility forecast comparison using imperfect volatility proxies, Journal of
Econometrics 160: QLIKE.
Patton, Ziegel and Chen (2019), Dynamic semiparametric models for expected shortfall (and
value-at-risk), Journal of Econometrics 211: FZ0, the loss of Fissler and Ziegel (2016) that is
homogeneous of degree zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.config import ForecastError
from forecast.evaluation.calibration import Calibration
from forecast.evaluation.daily import DailySums, Key, codes, scored_rows
from forecast.forecasts import INNER, LEVELS, PARTS, QUANTILES

Array = NDArray[Any]

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
    "crps_exact_scaled",
    "qlike",  # ln v + p / v: forecast of the second moment v beside the realized variance p
    "interval_50",  # percent: Winkler score of the central 50 % interval
    "interval_90",
    "fz0_01",  # joint loss of the 1 % quantile and expected shortfall
    "fz0_05",
    "hits_01",  # share of actuals below the 1 % quantile
    "hits_05",
)


class Scores:
    """Running scores and calibration per part, model and horizon.

    Rows whose actual is unknown are not scored. A score that is undefined in one row is undefined
    on its date and as a whole: a mean over fewer rows would not compare.
    """

    def __init__(self) -> None:
        self._daily: dict[Key, DailySums] = {}  # columns: SCORES, then rows
        self._pinball: dict[Key, Array] = {}  # of each level, in percent and scaled
        self._fingerprint: dict[Key, int] = {}  # sum of the hashes of (symbol, origin)
        self._calibration = Calibration()

    @property
    def keys(self) -> list[Key]:
        """Part, model and horizon of all that is scored: parts and horizons in order."""
        models = list(dict.fromkeys(model for _, model, _ in self._daily))
        return sorted(
            self._daily, key=lambda key: (PARTS.index(key[0]), models.index(key[1]), key[2])
        )

    def add(self, block: pd.DataFrame) -> None:
        """Add rows of a Forecasts table, in any mix of parts, models and horizons."""
        rows = scored_rows(block)
        if rows is None:
            return
        loss_QN = pinball(rows.block)
        score = score_rows(rows.block, loss_QN)
        daily = np.stack([rows.by_date(v) for v in (*score.values(), None)], axis=2)
        unit = _unit(rows.block)
        total = np.stack([[rows.sums(v)[:, 0] for v in (loss, loss / unit)] for loss in loss_QN])
        row_hash = _hash(rows.block["symbol"], rows.first + rows.day)
        for index, key in enumerate(rows.keys):
            self._daily.setdefault(key, DailySums(len(SCORES) + 1)).add(rows.first, daily[index])
            self._pinball[key] = self._pinball.get(key, 0.0) + total[:, :, index]
            hashed = int(row_hash[rows.group == index].sum())
            self._fingerprint[key] = (self._fingerprint.get(key, 0) + hashed) % 2**64
        self._calibration.add(block)

    def summary(self) -> dict[str, Any]:
        """Scores and calibration, as `metrics.json` holds them; null where undefined.

        Raises
        ------
        ForecastError
            Where the models of a part and horizon are not scored on the same rows.
        """
        scores: dict[str, Any] = {}
        first: dict[tuple[str, int], tuple[str, int, int]] = {}
        for key in self.keys:
            part, model, horizon = key
            *total, count = self._daily[key].values.sum(axis=0)
            mine = model, int(count), self._fingerprint[key]
            other = first.setdefault((part, horizon), mine)
            if mine[1:] != other[1:]:
                raise ForecastError(
                    f"{part}, horizon {horizon}: {model} has {mine[1]} rows and {other[0]} "
                    f"{other[1]}, or other ones. Score all models on the same symbols and dates."
                )
            by_level = (self._pinball[key] / count).T
            scores.setdefault(part, {}).setdefault(model, {})[str(horizon)] = {
                "rows": mine[1],
                **{name: _null(sum_ / count) for name, sum_ in zip(SCORES, total, strict=True)},
                **{
                    name: None if np.isnan(means).any() else means.tolist()
                    for name, means in zip(("pinball", "pinball_scaled"), by_level, strict=True)
                },
            }
        return {"scores": scores, "calibration": self._calibration.summary()}

    def daily(self, part: str, model: str, horizon: int) -> pd.DataFrame:
        """Mean of every score over the symbols of an origin date, and their number `rows`."""
        sums = self._daily[part, model, horizon]
        rows = sums.values[:, -1]
        scored = np.flatnonzero(rows)
        dates = (sums.first + scored).astype("datetime64[D]").astype("datetime64[s]")
        frame = pd.DataFrame(
            sums.values[scored, :-1] / rows[scored, None],
            index=pd.Index(dates, name="origin"),
            columns=list(SCORES),
        )
        return frame.assign(rows=rows[scored].astype(np.int64))


def pinball(block: pd.DataFrame) -> Array:
    """Pinball loss of each level and row, percent, shape (21, n); NaN without quantiles."""
    actual = block["actual"].to_numpy()
    result = np.empty((len(LEVELS), len(block)))
    for level, name, loss in zip(LEVELS, QUANTILES, result, strict=True):
        error = actual - block[name].to_numpy()
        np.maximum(level * error, (level - 1) * error, out=loss)
    return result


def score_rows(block: pd.DataFrame, loss_QN: Array) -> dict[str, Array]:
    """Every one of `SCORES` in each row, shape (n,); NaN where undefined.

    Parameters
    ----------
    block : n rows of a Forecasts table whose actuals are known.
    loss_QN : their `pinball`.
    """
    value = {
        name: block[name].to_numpy(dtype=np.float64)
        for name in ("actual", "mean", "std", "realized_variance")
        + ("q01", "q05", "q25", "q50", "q75", "q95", "es01", "es05", "crps_exact", "nll")
    }
    actual, median = value["actual"], value["q50"]
    loss = dict(zip(QUANTILES, loss_QN, strict=True))
    null = np.isnan(median)
    crps = 2 * loss_QN[1:-1].sum(axis=0) / len(INNER)
    error = np.abs(actual - np.where(null, value["mean"], median))
    unit = _unit(block)

    def share(inside: Array) -> Array:
        return np.where(null, np.nan, inside)

    score = {
        "crps": crps,
        "crps_exact": value["crps_exact"],
        "mae": error,
        "mae_zero": np.abs(actual),
        "coverage_50": share((value["q25"] <= actual) & (actual <= value["q75"])),
        "coverage_90": share((value["q05"] <= actual) & (actual <= value["q95"])),
        "log_score": value["nll"],
        "crps_scaled": crps / unit,
        "mae_scaled": error / unit,
        "crps_exact_scaled": value["crps_exact"] / unit,
        "qlike": _qlike(value["std"] ** 2 + value["mean"] ** 2, value["realized_variance"]),
        # The pinball losses at both ends of a central interval are α/2 times its Winkler score.
        "interval_50": 2 / 0.5 * (loss["q25"] + loss["q75"]),
        "interval_90": 2 / 0.1 * (loss["q05"] + loss["q95"]),
        "fz0_01": _fz0(0.01, value["q01"], value["es01"], actual),
        "fz0_05": _fz0(0.05, value["q05"], value["es05"], actual),
        "hits_01": share(actual < value["q01"]),
        "hits_05": share(actual < value["q05"]),
    }
    return {name: score[name] for name in SCORES}


def _unit(block: pd.DataFrame) -> Array:
    """scale x sqrt(horizon), percent."""
    result: Array = block["scale"].to_numpy() * np.sqrt(block["horizon"].to_numpy(np.float64))
    return result


def _qlike(second_moment: Array, realized: Array) -> Array:
    """ln v + p / v, without a floor; defined for v > 0."""
    v = np.where(second_moment > 0, second_moment, np.nan)
    result: Array = np.log(v) + realized / v
    return result


def _fz0(level: float, quantile: Array, shortfall: Array, actual: Array) -> Array:
    """FZ0 loss of value-at-risk v and expected shortfall e, both as returns; defined for e < 0.

    −1{y ≤ v}(v − y) / (α e) + v / e + ln(−e) − 1
    """
    e = np.where(shortfall < 0, shortfall, np.nan)
    excess = np.maximum(quantile - actual, 0)
    result: Array = (quantile - excess / level) / e + np.log(-e) - 1
    return result


def _null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _hash(symbols: pd.Series, day: Array) -> Array:
    """64 bits of (symbol, origin) per row, alike in every block (mixing of splitmix64)."""
    names, code = codes(symbols)
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in names]
    value: Array = np.frombuffer(b"".join(digests), dtype="<u8")[code]
    value = value ^ (day.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    mixed: Array = value ^ (value >> np.uint64(31))
    return mixed


def objective(scores: Mapping[str, Any], model: str, *, part: str = "validation") -> float:
    """What sweeps minimise: validation crps in scaled units, mean over horizons.

    For a model without quantiles, scaled absolute error, the crps of a point mass.

    Raises
    ------
    ForecastError
        Where the model is not scored on the part.
    """
    try:
        horizons = scores[part][model].values()
    except KeyError:
        raise ForecastError(
            f"{model} is not scored on the {part} part. Add {part} to evaluate."
        ) from None
    name = "crps_scaled"
    if any(row[name] is None for row in horizons):
        name = "mae_scaled"
    return float(np.mean([row[name] for row in horizons]))


def table(metrics: Mapping[str, Any]) -> str:
    """The scores as plain text: a paragraph per part and horizon, a line per model."""
    heads = ("rows", "crps", "exact", "mae", "no change", "in 50 %", "in 90 %", "log score")
    names = SCORES[: SCORES.index("log_score") + 1]
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
