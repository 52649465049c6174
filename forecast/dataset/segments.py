"""Training batches of whole dates, for a loss that is one of a portfolio.

Axes: N rows, T union dates, S symbols, W windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from forecast.dataset.panel import Panel
from forecast.dataset.windows import Cut, Windows

STALE = 5  # union dates for which a position is kept while its symbol's exchange is closed


def full_weights(panel: Panel, warmup: int) -> np.ndarray:
    """What a full position weighs at a volatility of 1 % per session, float32 of shape (N,).

    One over the row's scale and over the number of symbols that hold a position at its date; 0 in
    a symbol's first `warmup` sessions and where it has no scale, since it states no position there.
    The number is known at that date: a position whose symbol did not trade is counted on for
    `STALE` dates, whatever becomes of it.
    """
    dates = len(panel.dates)
    states_N = ~np.isnan(panel.scale)
    change_T = np.zeros(dates + 1, np.int64)
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        states_N[rows.start : min(rows.start + warmup, rows.stop)] = False
        day = panel.day[rows].astype(np.int64)
        until = np.minimum(np.append(day[1:], dates), np.minimum(day + STALE + 1, dates))
        change_T += np.bincount(day[states_N[rows]], minlength=dates + 1)
        change_T -= np.bincount(until[states_N[rows]], minlength=dates + 1)
    count_T = np.cumsum(change_T)
    full_N = panel.empty("f4")
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        states, full = states_N[rows], full_N[rows]
        full[:] = 0
        full[states] = 1 / (panel.scale[rows][states] * count_T[panel.day[rows][states]])
    return full_N


@dataclass(frozen=True)
class Segments(Windows):
    """Windows whose tiles are cut at the same dates for all symbols.

    The union calendar is cut into segments of `length − warmup` dates; a tile holds the rows of
    one symbol in one segment, so a tile is shorter where sessions are missing. A batch takes whole
    segments, with every window in them.

    Parameters
    ----------
    day : array of int32, shape (N,)
        The panel's, index into the union calendar.
    """

    day: np.ndarray

    @cached_property
    def _days(self) -> np.ndarray:
        """Dates with a row in the range, ascending."""
        bounds = zip(self.range.low, self.range.high, strict=True)
        return np.unique(np.concatenate([self.day[low : max(low, high)] for low, high in bounds]))

    @cached_property
    def _counts(self) -> list[int]:
        """Segments that hold a window, by phase."""
        since = self._days - self._days[0]
        return [len(np.unique((since + phase) // self.stride)) for phase in range(self.stride)]

    def dates(self, batch: int) -> int:
        """Dates of a batch of so many windows, of all symbols of the range."""
        return self._together(batch) * self.stride

    def _together(self, batch: int) -> int:
        return max(1, batch // int(np.sum(self.range.high > self.range.low)))

    def steps(self, batch: int) -> int:
        return min(-(-max(self._counts) // self._together(batch)), min(self._counts))

    def _cut(self, phase: int) -> tuple[Cut, np.ndarray]:
        """Tiles at a phase, symbol by symbol, and the segment of each."""
        first = int(self._days[0]) - phase
        lows, highs, symbols, segments = [], [], [], []
        for s in np.flatnonzero(self.range.high > self.range.low):
            segment = (self.day[self.range.low[s] : self.range.high[s]] - first) // self.stride
            start = np.flatnonzero(np.diff(segment, prepend=-1))
            lows.append(self.range.low[s] + start)
            highs.append(self.range.low[s] + np.append(start[1:], len(segment)))
            symbols.append(np.full(len(start), s))
            segments.append(segment[start])
        cut = np.concatenate(lows), np.concatenate(highs), np.concatenate(symbols)
        return cut, np.concatenate(segments)

    def tiles(self, phase: int) -> Cut:
        return self._cut(phase)[0]

    def deal(self, random: np.random.Generator, steps: int) -> Iterator[Cut]:
        (low_W, high_W, symbol_W), segment_W = self._cut(int(random.integers(self.stride)))
        for chosen in np.array_split(random.permutation(np.unique(segment_W)), steps):
            here_W = np.isin(segment_W, chosen)
            yield low_W[here_W], high_W[here_W], symbol_W[here_W]
