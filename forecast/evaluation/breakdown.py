"""Where scores come from: by year of the origin, by symbol, by how volatile the stock was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.evaluation.daily import Key, codes, scored_rows
from forecast.evaluation.scores import pinball, score_rows
from forecast.forecasts import PARTS

Array = NDArray[Any]

BROKEN_DOWN = ("crps", "crps_exact", "crps_scaled", "mae", "log_score", "qlike")  # as in `SCORES`
BY = ("year", "symbol", "scale")
TERCILES = ("low", "middle", "high")


def terciles(blocks: Iterable[pd.DataFrame]) -> dict[str, tuple[float, float]]:
    """The scales that part the rows of each part into three equal groups, percent per session.

    They are of all rows whose actual is known, symbols, dates and horizons pooled, and of each
    part's first model alone, as all models have the same rows.

    Parameters
    ----------
    blocks : Forecasts table with at least the columns part, model, scale and actual.
    """
    first: dict[str, str] = {}
    scales: dict[str, list[Array]] = {}
    for block in blocks:
        rows = block[block["actual"].notna()]
        for part, mine in rows.groupby("part", observed=True, sort=False):
            model = first.setdefault(str(part), str(mine["model"].iloc[0]))
            scale = mine["scale"].to_numpy()[(mine["model"] == model).to_numpy()]
            scales.setdefault(str(part), []).append(scale.astype(np.float32))
    cuts = {}
    for part, found in scales.items():
        low, high = np.quantile(np.concatenate(found), [1 / 3, 2 / 3], method="inverted_cdf")
        cuts[part] = float(low), float(high)
    return cuts


class Breakdown:
    """Running sums of scores by year, symbol and tercile of scale.

    Parameters
    ----------
    cuts : of each part, from `terciles`.
    """

    def __init__(self, cuts: Mapping[str, tuple[float, float]]) -> None:
        self._cuts = cuts
        # Of every part, model, horizon, kind and value: number of rows, then BROKEN_DOWN.
        self._sums: dict[tuple[Key, str, str], Array] = {}

    def add(self, block: pd.DataFrame) -> None:
        """Add rows of a Forecasts table, in any mix of parts, models and horizons."""
        rows = scored_rows(block)
        if rows is None:
            return
        block = rows.block
        score = score_rows(block, pinball(block))
        year = block["origin"].to_numpy().astype("datetime64[Y]").astype(np.int64) + 1970
        oldest = int(year.min())
        years = [str(y) for y in range(oldest, int(year.max()) + 1)]
        symbols, symbol = codes(block["symbol"])
        # Compared in the precision in which the terciles were found.
        scale = block["scale"].to_numpy().astype(np.float32)
        cuts = np.array([self._cuts[part] for part, *_ in rows.keys], np.float32)[rows.group]
        tercile = (scale[:, None] > cuts).sum(axis=1)
        for by, names, of in (
            ("year", years, year - oldest),
            ("symbol", symbols, symbol),
            ("scale", list(TERCILES), tercile),
        ):
            sums = np.stack(
                [rows.sums(v, of, len(names)) for v in (None, *map(score.get, BROKEN_DOWN))], axis=2
            )
            for group, value in np.argwhere(sums[:, :, 0] > 0).tolist():
                key = rows.keys[group], by, names[value]
                self._sums[key] = self._sums.get(key, 0.0) + sums[group, value]

    def table(self) -> pd.DataFrame:
        """part, model, horizon, by, value, rows and mean `BROKEN_DOWN`, NaN where undefined."""
        models = list(dict.fromkeys(model for (_, model, _), *_ in self._sums))

        def place(entry: tuple[Key, str, str]) -> tuple[Any, ...]:
            (part, model, horizon), by, value = entry
            rank = TERCILES.index(value) if by == "scale" else 0
            return PARTS.index(part), models.index(model), horizon, BY.index(by), rank, value

        keys = sorted(self._sums, key=place)
        frame = pd.DataFrame(
            [(*key, by, value) for key, by, value in keys],
            columns=["part", "model", "horizon", "by", "value"],
        )
        sums = np.array([self._sums[key] for key in keys]).reshape(-1, 1 + len(BROKEN_DOWN))
        frame["rows"] = sums[:, 0].astype(np.int64)
        frame[list(BROKEN_DOWN)] = sums[:, 1:] / sums[:, :1]
        return frame
