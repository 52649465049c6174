"""A few columns of a Forecasts table's scored rows, kept for statistics that need them together.

Cross-sections of a date, sequences of a symbol and comparisons between models cannot be summed up
block by block: a table comes model by model, in blocks of symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forecast.evaluation.daily import Array, Key, codes, days
from forecast.forecasts import PARTS


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of one part, model and horizon, by symbol and then origin.

    Attributes
    ----------
    symbol : int32, shape (n,); index into `symbols`
    day : int32, shape (n,); origin, days since 1970
    columns : arrays of shape (n,)
    symbols : sorted names of all symbols of the table
    """

    symbol: Array
    day: Array
    columns: dict[str, Array]
    symbols: list[str]

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def same_rows(self, other: Group) -> bool:
        """Whether two groups hold the same symbols and origins."""
        return np.array_equal(self.symbol, other.symbol) and np.array_equal(self.day, other.day)


class Rows:
    """Columns of the rows whose actual is known, at eight bytes a row beside the columns."""

    def __init__(self) -> None:
        self._chunks: dict[Key, list[dict[str, Array]]] = {}
        self._symbols: dict[str, int] = {}

    def add(self, block: pd.DataFrame, columns: Mapping[str, Array]) -> None:
        """Keep rows of a Forecasts table, in any mix of parts, models and horizons.

        Parameters
        ----------
        block : must have part, model, symbol, origin, horizon and actual.
        columns : what to keep, one value per row of the block.
        """
        known = block["actual"].notna().to_numpy()
        if not known.any():
            return
        (parts, part), (models, model) = (codes(block[name]) for name in ("part", "model"))
        symbols, symbol = codes(block["symbol"])
        numbers = [self._symbols.setdefault(name, len(self._symbols)) for name in symbols]
        kept = {
            "symbol": np.array(numbers, np.int32)[symbol],
            "day": days(block["origin"]).astype(np.int32),
            **columns,
        }
        horizon = block["horizon"].to_numpy()
        for h in np.unique(horizon[known]).tolist():
            mine = np.flatnonzero(known & (horizon == h))
            pair = part[mine] * len(models) + model[mine]
            for code in range(len(parts) * len(models)):
                rows = mine if len(parts) * len(models) == 1 else mine[pair == code]
                if len(rows):
                    key = parts[code // len(models)], models[code % len(models)], h
                    chunk = {name: values[rows] for name, values in kept.items()}
                    self._chunks.setdefault(key, []).append(chunk)

    def group(self, part: str, model: str, horizon: int) -> Group | None:
        """The rows of one part, model and horizon; None where there are none."""
        chunks = self._chunks.get((part, model, horizon))
        if chunks is None:
            return None
        names = sorted(self._symbols)
        rank = np.empty(len(names), np.int32)
        rank[[self._symbols[name] for name in names]] = np.arange(len(names), dtype=np.int32)
        columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        columns["symbol"] = rank[columns["symbol"]]
        order = np.argsort(columns["symbol"].astype(np.int64) * 2**32 + columns["day"])
        columns = {name: values[order] for name, values in columns.items()}
        return Group(
            symbol=columns.pop("symbol"), day=columns.pop("day"), columns=columns, symbols=names
        )

    def summary(self, of: Callable[[Key], Any]) -> dict[str, Any]:
        """What `of` says of every part, model and horizon, as `metrics.json` holds it.

        Parts stand in canonical order, models in that of their first appearance; what is not a
        finite number becomes null.
        """
        models = list(dict.fromkeys(model for _, model, _ in self._chunks))
        found: dict[str, Any] = {}
        for key in sorted(
            self._chunks, key=lambda key: (PARTS.index(key[0]), key[2], models.index(key[1]))
        ):
            part, model, horizon = key
            found.setdefault(part, {}).setdefault(model, {})[str(horizon)] = _plain(of(key))
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
