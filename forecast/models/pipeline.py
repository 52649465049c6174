"""From a configuration and prices to trained members and a Forecasts table, step by step.

What `forecast.train` does once and a walk-forward or an audit does many times. Nothing here knows
of run folders beyond the directory that checkpoints go to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecast.config import ForecastError
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.folds import Fold
from forecast.dataset.market import Market
from forecast.forecasts import ForecastWriter
from forecast.models.baselines import NAIVE, make_baselines, pooled
from forecast.models.block import blocks
from forecast.models.configured import Config, folds_of, make_task, panel_of
from forecast.models.devices import resolve_device
from forecast.models.ensemble import Ensemble
from forecast.models.fit import fit_members
from forecast.models.heads import POSITION, Head, PositionHead
from forecast.models.loggers import make_logger
from forecast.models.named_heads import make_head
from forecast.models.options import TrainerOptions, loss_options
from forecast.prices.frame import Prices
from forecast.prices.simulated import Truth

TOGETHER = 8  # members: more of them share no more
# Batch · sessions · units of all members and layers: what is kept of a step for its way back is
# some tens of bytes each, a few hundred megabytes in all. At such sizes one network alone fills the
# threads.
MOST_AT_ONCE = 2**23


def make_datamodule(
    config: Config, prices: Prices, *, fold: Fold | None = None, market: Market | None = None
) -> PriceDataModule:
    """Panel, fold and windows of a configuration.

    Parameters
    ----------
    fold : Fold, optional
        By default the one that `split` gives on these prices' dates.
    market : Market, optional
        By default made from these prices as `data.market` says.
    """
    panel = panel_of(config, prices, market=market)
    fold = fold or folds_of(config, panel.dates)[0]
    return PriceDataModule(panel, fold, make_task(config), seed=config["seed"])


def fit_ensemble(
    config: Config,
    datamodule: PriceDataModule,
    folder: Path,
    *,
    start: Path | None = None,
    say: Callable[[str], None] = print,
    progress: bool = False,
) -> None:
    """Train the members that are not trained yet, saying a line for each.

    With `start`, the folder of an ensemble of the same shape, members begin with its weights and
    keep the standardisation that those were trained with.
    """
    head, train = make_head(config["head"]), datamodule.ranges["train"]
    targets = pooled(datamodule.panel, datamodule.task, train, scaled=True)
    for horizon, y in zip(datamodule.task.horizons, targets.T, strict=True):
        if np.isnan(y).all():
            raise ForecastError(
                f"no training target over {horizon} sessions is known: every one lies beyond the "
                f"data or spans a gap above data.max_gap={config['data']['max_gap']}. Raise "
                "data.max_gap, correct data.calendar, or use denser prices."
            )
    clip = config["loss"]["clip"]
    network = {
        **config["model"],
        "features": len(datamodule.panel.names),
        "horizons": len(datamodule.task.horizons),
        "parameters": head.size,
        "start": [_start(head, np.clip(y[~np.isnan(y)], -clip, clip)) for y in targets.T],
    }
    options = TrainerOptions(**config["trainer"])
    size = together(config, options)
    for first in range(0, config["ensemble"], size):
        members = range(first, min(first + size, config["ensemble"]))
        loggers = [make_logger(config["logger"], folder, member) for member in members]
        lines = fit_members(
            datamodule,
            folder=folder,
            members=members,
            network=network,
            head=config["head"],
            optimizer=config["optimizer"],
            loss=loss_options(config),
            options=options,
            loggers=[logger for logger in loggers if logger],
            start=start,
            progress=progress,
        )
        for line in lines:
            say(line)


def together(config: Config, options: TrainerOptions) -> int:
    """Members that are trained at once: on one CPU all of an ensemble, up to `TOGETHER`.

    It decides how long an ensemble takes and how much memory, but not what comes out; measured by
    benchmarks/recurrence.py.
    """
    alone = config["head"]["name"] == POSITION or options.devices > 1
    if alone or resolve_device(options.accelerator) != "cpu":
        return 1
    window, model = config["window"], config["model"]
    one = window["batch"] * window["length"] * model["hidden_size"] * model["layers"]
    return min(TOGETHER, max(1, MOST_AT_ONCE // one))


def _start(head: Head | PositionHead, y: np.ndarray) -> list[float]:
    """As a checkpoint holds it: numbers of numpy, which an own head may give, could not be read."""
    return [float(raw) for raw in head.start(y)]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a Forecasts or Weights table does not tell of itself.

    Attributes
    ----------
    dropped : dict of int
        Rows of each part without a scale, which carry no forecast.
    fallbacks : dict of list of str
        Symbols for which a baseline's fit failed and another stood in, by baseline.
    """

    dropped: dict[str, int]
    fallbacks: dict[str, list[str]]


def write_forecasts(
    path: Path,
    datamodule: PriceDataModule,
    *,
    parts: Sequence[str],
    ensembles: Mapping[str, Ensemble],
    baselines: Sequence[str] = NAIVE,
    truth: Truth | None = None,
) -> Written:
    """Stream the Forecasts table of some parts: the ensembles by name, then the baselines."""
    panel, task, fold = datamodule.panel, datamodule.task, datamodule.fold.index
    dropped: dict[str, int] = {}
    fallbacks: dict[str, list[str]] = {}
    with ForecastWriter(path) as writer:
        for part in parts:
            rows = datamodule.ranges[part]
            dropped[part] = rows.rows
            fits = make_baselines(
                panel, task, datamodule.ranges, part, names=baselines, truth=truth,
                seed=datamodule.seed,
            )  # fmt: skip
            for name, baseline in fits.items():
                if failed := getattr(baseline, "fallbacks", ()):
                    fallbacks[name] = sorted({*fallbacks.get(name, ()), *failed})
            for block in blocks(panel, task, rows):
                dropped[part] -= len(block.row)
                for name, ensemble in ensembles.items():
                    own = ensemble.distribution(block, rows, datamodule.tensors(ensemble.device))
                    writer.write(block.table(own, model=name, part=part, fold=fold))
                for name, baseline in fits.items():
                    said = baseline.distribution(block)
                    writer.write(block.table(said, model=name, part=part, fold=fold))
    return Written(dropped=dropped, fallbacks=fallbacks)
