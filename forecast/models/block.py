"""From scaled distributions at a block of rows to a Forecasts table.

Axes: N rows of the block, H horizons, M = N·H forecasts (horizon fastest), S symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.dataset.windows import BLOCK_SYMBOLS
from forecast.forecasts import LEVELS, QUANTILES, SCHEMA
from forecast.models.distributions import Distribution

OF_ORIGINS = ("row", "symbol", "unit", "actual", "end")  # attributes with an axis N


@dataclass(frozen=True, kw_only=True)
class Block:
    """Origins of a few symbols, with what became of them.

    Attributes
    ----------
    symbols : array of int, shape (s,)
        Symbols of the block.
    row : array of int64, shape (N,)
        Panel rows, symbol by symbol, ascending.
    symbol : array of int, shape (N,)
    unit : array of float64, shape (N, H)
        scale·√h, percent: what a scaled number is multiplied with.
    actual : array of float64, shape (N, H)
        Percent; null where unknown or across a long gap.
    end : array of int64, shape (N, H)
        Panel row of the target's end; −1 beyond the data.
    """

    panel: Panel
    task: Task
    symbols: np.ndarray
    row: np.ndarray
    symbol: np.ndarray
    unit: np.ndarray
    actual: np.ndarray
    end: np.ndarray

    @property
    def scaled_actual(self) -> np.ndarray:
        """Targets as the network sees them, shape (N, H)."""
        return self.actual / self.unit

    def take(self, rows: slice) -> Block:
        """Some of the block's origins."""
        chosen = {name: getattr(self, name)[rows] for name in OF_ORIGINS}
        return replace(self, **chosen)

    def table(self, distribution: Distribution, *, model: str, part: str, fold: int) -> pa.Table:
        """Forecasts table of one model: `distribution` is scaled and has M rows."""
        horizons = len(self.task.horizons)
        count = len(self.row) * horizons
        unit_M, actual_M = self.unit.reshape(-1), self.actual.reshape(-1)
        known_M = ~np.isnan(actual_M)
        scaled_M = np.where(known_M, actual_M / unit_M, 0.0)
        panel = self.panel
        end_M = self.end.reshape(-1)
        target = panel.dates[panel.day[np.maximum(end_M, 0)]].astype("datetime64[D]")

        def each(values_N: np.ndarray) -> np.ndarray:
            return np.repeat(values_N, horizons)

        def percent(values: np.ndarray | None) -> pa.Array:
            if values is None:
                return pa.nulls(count, pa.float32())
            return pa.array((values * unit_M).astype(np.float32))

        def if_known(values: np.ndarray | None) -> pa.Array:
            if values is None:
                return pa.nulls(count, pa.float32())
            return pa.array(values.astype(np.float32), mask=~known_M | np.isnan(values))

        nll, crps = distribution.nll(scaled_M), distribution.crps(scaled_M)
        quantiles = distribution.quantiles
        columns = {
            "model": _one_name(model, count),
            "fold": pa.array(np.full(count, fold, np.int16)),
            "part": _one_name(part, count),
            "symbol": _names(panel.symbols, each(self.symbol)),
            "origin": pa.array(each(panel.dates[panel.day[self.row]]).astype("datetime64[D]")),
            "horizon": pa.array(np.tile(np.array(self.task.horizons, np.int16), len(self.row))),
            "delay": pa.array(np.full(count, self.task.delay, np.int16)),
            "target_date": pa.array(target, mask=end_M < 0),
            "price": pa.array(each(panel.price[self.row])),
            "scale": pa.array(each(panel.scale[self.row].astype(np.float64))),
            "actual": pa.array(actual_M, mask=~known_M),
            "realized_variance": pa.array(self.realized_variance().reshape(-1), mask=~known_M),
            "mean": percent(distribution.mean),
            "std": percent(distribution.std),
            **{
                name: percent(None if quantiles is None else quantiles[:, q])
                for q, name in enumerate(QUANTILES)
            },
            # The density of the percent return: scaled density ÷ unit.
            "nll": if_known(None if nll is None else nll + np.log(unit_M)),
            "pit": if_known(distribution.pit(scaled_M)),
            "crps_exact": if_known(None if crps is None else crps * unit_M),
            "es01": percent(distribution.expected_shortfall(LEVELS[0])),
            "es05": percent(distribution.expected_shortfall(LEVELS[1])),
        }
        return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)

    def realized_variance(self) -> np.ndarray:
        """Sum of squared daily returns over each target, percent squared, shape (N, H).

        Of closes even where ranges are known: all models of all sources are scored on one proxy.
        """
        result = np.full(self.end.shape, np.nan)
        for s in self.symbols:
            rows = self.panel.symbol_rows(s)
            squared = np.diff(self.panel.log_price[rows], prepend=np.nan) ** 2
            squared[0] = 0.0
            total = np.cumsum(squared)
            mine = self.symbol == s
            end = self.end[mine] - rows.start
            start = (self.row[mine] - rows.start + self.task.delay)[:, None]
            known = end >= 0
            result[mine] = np.where(
                known, total[np.maximum(end, 0)] - total[np.minimum(start, len(total) - 1)], np.nan
            )
        return result


def _one_name(name: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([name]))


def _names(names: tuple[str, ...], code_M: np.ndarray) -> pa.Array:
    used, code = np.unique(code_M, return_inverse=True)
    return pa.DictionaryArray.from_arrays(
        pa.array(code.astype(np.int32)), pa.array([names[u] for u in used])
    )


def make_block(panel: Panel, task: Task, range: Range, symbols: np.ndarray) -> Block:
    """The rows of a range for some symbols; rows without a scale carry no forecast."""
    rows = [np.arange(range.low[s], max(range.low[s], range.high[s])) for s in symbols]
    row = np.concatenate(rows) if rows else np.array([], np.int64)
    symbol = np.repeat(symbols, [len(r) for r in rows])
    keep = ~np.isnan(panel.scale[row])
    row, symbol = row[keep], symbol[keep]
    stop = panel.offsets[symbol + 1][:, None]
    horizons = np.array(task.horizons)
    start = row + task.delay
    end = start[:, None] + horizons
    known = end < stop
    safe = np.where(known, end, row[:, None])
    change = panel.log_price[safe] - panel.log_price[np.minimum(start[:, None], stop - 1)]
    unbroken = panel.gaps[safe] == panel.gaps[row][:, None]
    return Block(
        panel=panel,
        task=task,
        symbols=symbols,
        row=row,
        symbol=symbol,
        unit=panel.scale[row].astype(np.float64)[:, None] * np.sqrt(horizons),
        actual=np.where(known & unbroken, change, np.nan),
        end=np.where(known, end, -1),
    )


def blocks(panel: Panel, task: Task, range: Range) -> Iterator[Block]:
    """All rows of a range in blocks of symbols, the unit in which forecasts are made and stored.

    Symbols that have no scale yet anywhere in the range make no block.
    """
    for symbols in range.blocks(BLOCK_SYMBOLS):
        block = make_block(panel, task, range, symbols)
        if len(block.row):
            yield block
