"""From scaled distributions at a block of rows to a Forecasts table.

Axes: N rows of the block, H horizons, M = N·H forecasts (horizon fastest), S symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch

from forecast.dataset.carried import BLOCK_SYMBOLS
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.task import Task
from forecast.forecasts import LEVELS, OPTIONAL, QUANTILES, SCHEMA
from forecast.models.distributions import Distribution

PIECE = 16384  # forecasts whose numbers stay in a processor's cache while they are worked on
STATED = ("mean", "std", *QUANTILES, *OPTIONAL)  # columns that a distribution fills ...
OF_ACTUAL = ("nll", "pit", "crps_exact")  # ... and those of them that hold where an actual is known
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
        panel = self.panel
        end_M = self.end.reshape(-1)
        target = panel.dates[panel.day[np.maximum(end_M, 0)]].astype("datetime64[D]")
        known_M = ~np.isnan(self.actual.reshape(-1))

        def each(values_N: np.ndarray) -> np.ndarray:
            return np.repeat(values_N, horizons)

        columns = {
            "model": _one_name(model, count),
            "fold": pa.array(np.full(count, fold, np.int16)),
            "part": _one_name(part, count),
            "symbol": self._names(horizons),
            "origin": pa.array(each(panel.dates[panel.day[self.row]]).astype("datetime64[D]")),
            "horizon": pa.array(np.tile(np.array(self.task.horizons, np.int16), len(self.row))),
            "delay": pa.array(np.full(count, self.task.delay, np.int16)),
            "target_date": pa.array(target, mask=end_M < 0),
            "price": pa.array(each(panel.price[self.row])),
            "scale": pa.array(each(panel.scale[self.row].astype(np.float64))),
            "actual": pa.array(self.actual.reshape(-1), mask=~known_M),
            "realized_variance": pa.array(self.realized_variance().reshape(-1), mask=~known_M),
            **self._stated(distribution),
        }
        return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)

    def _names(self, each: int) -> pa.Array:
        """The symbol of every origin, so many times."""
        found = list(self._origins())
        counts = [each * (rows.stop - rows.start) for _, rows in found]
        code_M = np.repeat(np.arange(len(found), dtype=np.int32), counts)
        names = [self.panel.symbols[s] for s, _ in found]
        return pa.DictionaryArray.from_arrays(pa.array(code_M), pa.array(names, pa.string()))

    def _stated(self, distribution: Distribution) -> dict[str, pa.Array]:
        """What a distribution says of the rows, and of what became of them, in percent."""
        unit_M, actual_M = self.unit.reshape(-1), self.actual.reshape(-1)
        columns = np.empty((len(STATED), len(unit_M)), np.float32)
        first = STATED.index(QUANTILES[0])

        def fill(rows: slice, law: Distribution) -> None:
            unit, actual = unit_M[rows], actual_M[rows]
            known = ~np.isnan(actual)
            nll, pit, crps = law.scores(np.where(known, actual / unit, 0.0))
            percent = {
                "mean": law.mean,
                "std": law.std,
                "es01": law.expected_shortfall(LEVELS[0]),
                "es05": law.expected_shortfall(LEVELS[1]),
                "crps_exact": crps,
            }
            values = {name: None if v is None else v * unit for name, v in percent.items()}
            # The density of the percent return: scaled density ÷ unit.
            values |= {"nll": None if nll is None else nll + np.log(unit), "pit": pit}
            for name, value in values.items():
                stated = np.nan if value is None else value
                kept = np.where(known, stated, np.nan) if name in OF_ACTUAL else stated
                columns[STATED.index(name), rows] = kept
            levels = columns[first : first + len(QUANTILES), rows]
            if law.quantiles is None:
                levels[:] = np.nan
            elif law.quantiles.shape[-1] != len(QUANTILES):
                raise ValueError(
                    f"{type(law).__name__} states {law.quantiles.shape[-1]} quantiles, not the "
                    f"{len(QUANTILES)} of LEVELS."
                )
            else:
                levels[:] = law.quantiles.T * unit

        _in_pieces(fill, distribution, len(unit_M))
        return {
            name: pa.array(values, from_pandas=np.isnan(values).any())
            for name, values in zip(STATED, columns, strict=True)
        }

    def realized_variance(self) -> np.ndarray:
        """Sum of squared daily returns over each target, percent squared, shape (N, H).

        Of closes even where ranges are known: all models of all sources are scored on one proxy.
        """
        result = np.empty(self.end.shape)
        for s, mine in self._origins():
            rows = self.panel.symbol_rows(s)
            squared = np.diff(self.panel.log_price[rows], prepend=np.nan) ** 2
            squared[0] = 0.0
            total = np.cumsum(squared)
            end = self.end[mine] - rows.start
            start = (self.row[mine] - rows.start + self.task.delay)[:, None]
            result[mine] = total[np.maximum(end, 0)] - total[np.minimum(start, len(total) - 1)]
        return np.where(self.end >= 0, result, np.nan)

    def _origins(self) -> Iterator[tuple[int, slice]]:
        """Each symbol that has some, and where they stand."""
        first = np.flatnonzero(np.diff(self.symbol, prepend=-1))
        for low, high in pairwise([*first.tolist(), len(self.symbol)]):
            yield int(self.symbol[low]), slice(low, high)


def _in_pieces(
    work: Callable[[slice, Distribution], None], distribution: Distribution, count: int
) -> None:
    """Work on all rows of a distribution, on torch's number of threads where it can be parted."""
    if count <= PIECE or not distribution.parts:
        work(slice(None), distribution)
        return
    threads = torch.get_num_threads()
    size = -(-count // (threads * -(-count // (threads * PIECE))))  # as many for each thread
    pieces = [slice(first, first + size) for first in range(0, count, size)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, pieces, map(distribution.take, pieces)))


def _one_name(name: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([name]))


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
