"""The carried pass: whole histories in blocks of one shape, the state handed from block to block.

Axes: B symbols of a block, L its sessions, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from torch import Tensor

from forecast.dataset.folds import Range
from forecast.dataset.windows import Batch, PanelTensors

# A carried pass always works on blocks of this shape, whatever the panel: products over
# differently shaped blocks may round differently, and a forecast must not depend on which symbols
# are listed later or where the data end.
BLOCK_SYMBOLS = 32
BLOCK_SESSIONS = 500


@dataclass(frozen=True)
class CarriedBatch:
    """One step of a carried pass.

    Attributes
    ----------
    x_BLF : Tensor
        Inputs, as in `Batch`.
    rows_BL : array of int64
        Panel row of each cell; −1 where a symbol has no row or is only there to fill the block.
    first : bool
        The block's first sessions: the state starts at zero.
    wanted : bool
        Some row lies in the range; otherwise only the state matters.
    """

    x_BLF: Tensor
    rows_BL: np.ndarray
    first: bool
    wanted: bool
    gather: Callable[[], Batch]

    @cached_property
    def batch(self) -> Batch:
        """The inputs with their targets, gathered when asked for: forecasts need none."""
        return self.gather()


class CarriedPass:
    """The whole history of every symbol, block by block, for one pass with the state carried.

    Parameters
    ----------
    range : Range
        Rows wanted. The pass starts at each symbol's first row and ends with the range.
    symbols : array of int, optional
        Symbols of the pass, by default all with a row in the range.
    rank, devices : int
        Which process this is, of how many that share the blocks.
    """

    def __init__(
        self,
        range: Range,
        offsets: np.ndarray,
        tensors: PanelTensors,
        *,
        symbols: np.ndarray | None = None,
        rank: int = 0,
        devices: int = 1,
    ) -> None:
        self.range, self.offsets, self.tensors = range, offsets, tensors
        blocks = range.blocks(BLOCK_SYMBOLS) if symbols is None else [symbols]
        self.blocks = blocks[rank::devices]
        if not self.blocks:
            # One session of which no row is wanted: Lightning leaves out the validation of a
            # process without a step, and the others would wait for its sum.
            nothing = offsets[:-1] + 1
            self.range, self.blocks = Range(low=nothing, high=nothing), blocks[:1]

    def _sessions(self, symbol_B: np.ndarray) -> int:
        return int(np.max(self.range.high[symbol_B] - self.offsets[symbol_B]))

    def __len__(self) -> int:
        return sum(-(-self._sessions(block) // BLOCK_SESSIONS) for block in self.blocks)

    def __iter__(self) -> Iterator[CarriedBatch]:
        nothing = np.full((BLOCK_SYMBOLS, BLOCK_SESSIONS), -1)
        for block in self.blocks:
            symbol_B = self.range.ordered(block)
            filler = np.repeat(symbol_B[:1], BLOCK_SYMBOLS - len(symbol_B))
            full_B = np.concatenate([symbol_B, filler])
            real_B = np.arange(BLOCK_SYMBOLS) < len(symbol_B)
            first_B, stop_B = self.offsets[full_B], self.offsets[full_B + 1]
            low_B = self.range.low[full_B]
            high_B = np.where(real_B, self.range.high[full_B], 0)
            for session in np.arange(0, self._sessions(symbol_B), BLOCK_SESSIONS):
                here = first_B + session
                ends = np.minimum(here + BLOCK_SESSIONS, high_B)
                wanted = bool((np.maximum(here, low_B) < ends).any())
                rows_BL = nothing
                if wanted:
                    rows_BL = here[:, None] + np.arange(BLOCK_SESSIONS)
                    inside = (rows_BL >= low_B[:, None]) & (rows_BL < high_B[:, None])
                    rows_BL = np.where(inside, rows_BL, -1)
                yield CarriedBatch(
                    x_BLF=self.tensors.inputs(here, stop_B, BLOCK_SESSIONS),
                    gather=partial(
                        self.tensors.gather, here, stop_B, low_B, high_B, BLOCK_SESSIONS
                    ),
                    rows_BL=rows_BL,
                    first=session == 0,
                    wanted=wanted,
                )
