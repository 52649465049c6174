"""From trained networks that state positions to a Weights table.

Axes: N rows, M weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.segments import STALE, full_weights
from forecast.models.block import Block, blocks
from forecast.models.ensemble import Ensemble
from forecast.models.heads import POSITION, PositionHead
from forecast.models.pipeline import Written
from forecast.weights import validate_weights
from forecast.weights import write_weights as write_table


def write_weights(
    path: Path,
    datamodule: PriceDataModule,
    *,
    parts: Sequence[str],
    ensembles: Mapping[str, Ensemble],
) -> Written:
    """Write the weights that ensembles, by name, state in some parts."""
    table, dropped = stated_weights(datamodule, parts=parts, ensembles=ensembles)
    write_table(path, table)
    return Written(dropped=dropped, fallbacks={})


def stated_weights(
    datamodule: PriceDataModule, *, parts: Sequence[str], ensembles: Mapping[str, Ensemble]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Weights table of ensembles, by name, with the strategy `position`.

    A symbol whose exchange is closed at an origin keeps its last position, for `STALE` dates at
    most, so that nothing is sold for a holiday; for the first origins that is one of before.

    Returns
    -------
    table : DataFrame
    dropped : dict of int
        Rows of each part without a scale, which state no position.

    Raises
    ------
    ForecastError
        No row of the parts has a scale.
    """
    panel, task, fold = datamodule.panel, datamodule.task, datamodule.fold.index
    full_N = full_weights(panel, task.warmup)
    pieces: list[pd.DataFrame] = []
    dropped: dict[str, int] = {}
    for part in parts:
        rows = datamodule.ranges[part]
        dropped[part], filled = rows.rows, rows.high > rows.low
        days = range(
            int(panel.day[rows.low[filled]].min()), int(panel.day[rows.high[filled] - 1].max()) + 1
        )
        earlier = np.maximum(rows.low - 1, panel.offsets[:-1] + task.warmup)
        wanted = replace(rows, low=np.where(filled, earlier, rows.low))
        for block in blocks(panel, task, wanted):
            dropped[part] -= int(np.sum(block.row >= rows.low[block.symbol]))
            at_M, day_M = _held(block, days)
            for name, ensemble in ensembles.items():
                assert isinstance(ensemble.head, PositionHead)
                tensors = datamodule.tensors(ensemble.device)
                position_N = ensemble.parameters(block, wanted, tensors)[:, 0, 0]
                weight_N = ensemble.head.weights(
                    position_N, full_N[block.row].astype(np.float64), datamodule.periods
                )
                pieces.append(
                    pd.DataFrame(
                        {
                            "model": name,
                            "strategy": POSITION,
                            "fold": fold,
                            "part": part,
                            "origin": panel.dates[day_M],
                            "symbol": np.array(panel.symbols)[block.symbol[at_M]],
                            "weight": weight_N[at_M],
                        }
                    )
                )
    if not pieces:
        raise ForecastError(f"no row of the {', '.join(parts)} part has a scale. Use longer data.")
    return validate_weights(pd.concat(pieces), "head=position"), dropped


def _held(block: Block, days: range) -> tuple[np.ndarray, np.ndarray]:
    """Which of a block's rows is held at which of some union dates: indices of both, (M,).

    A row holds until its symbol's next session, for `STALE` further dates at most. That there is
    no next session is not known at these dates, so a symbol that has ended is held as one whose
    exchange is closed; the portfolio drops what can no longer be traded.
    """
    panel = block.panel
    last_N = panel.offsets[block.symbol + 1] - 1
    own_N = panel.day[block.row].astype(np.int64)
    stale_N = own_N + STALE + 1
    next_N = np.where(block.row < last_N, panel.day[np.minimum(block.row + 1, last_N)], stale_N)
    start_N = np.maximum(own_N, days.start)
    stop_N = np.minimum(np.minimum(next_N, stale_N), days.stop)
    count_N = np.maximum(stop_N - start_N, 0)
    at_M = np.repeat(np.arange(len(own_N)), count_N)
    since_M = np.arange(len(at_M)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
    return at_M, start_N[at_M] + since_M
