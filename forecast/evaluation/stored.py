"""What a run has stored, made again: are its networks and forecasts what they are said to be?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.folds import Fold, Range, ranges
from forecast.dataset.market import read_market
from forecast.dataset.panel import Panel
from forecast.evaluation.audit import Line
from forecast.evaluation.causality import truncate
from forecast.evaluation.overlap import joined
from forecast.evaluation.trial import forecast_rows, weights_of
from forecast.forecasts import read_forecasts
from forecast.models.choice import states_positions
from forecast.models.configured import panel_of
from forecast.models.ensemble import Ensemble
from forecast.models.walk import COLD
from forecast.prices.frame import Prices
from forecast.run import Run
from forecast.weights import WEIGHTS_KEY, read_weights

KEY = ["symbol", "origin", "horizon"]
COMPARED = ("mean", "std", "q05", "q50", "q95")
MOST_SYMBOLS = 8  # forecast again in a fold
# Other devices and library versions round otherwise; a leak is larger.
STATISTICS_TOLERANCE = 1e-3  # of a feature's deviation
FORECAST_TOLERANCE = 1e-3  # of scale x sqrt(horizon)


def check_stored(
    run: Run, config: Mapping[str, Any], prices: Prices, folds: Sequence[Fold]
) -> list[Line]:
    """Checkpoints of all of a run's folds; what the first, a middle and the last one state.

    Parameters
    ----------
    run : Run
        Opened with `allow` for a head of somebody's own.
    config : mapping
        Of the run.
    prices : Prices
        Those that the run was made of.
    """
    market, positions = read_market(run.path / "market.parquet"), states_positions(config)
    what = "weights" if positions else "forecasts"
    table = run.path / f"{what}.parquet"
    check = check_stored_weights if positions else check_stored_forecasts
    part = run.parts[-1]
    # Validation is forecast on the first fold alone.
    again = {0, len(folds) // 2, len(folds) - 1} if part == "test" else {0}
    warm = "backtest" in run.config and run.config["backtest"]["warm_start"]
    whole = panel_of(config, prices, market=market)
    statistics, forecasts = [], []
    models: dict[str, None] = {}  # in the order of the run
    days: list[np.datetime64] = []
    for fold in folds:
        if fold.index in again:
            days.append(_middle(whole.dates, fold, part))
            cut = panel_of(config, truncate(prices, days[-1]), market=market)
        for model, ensemble in _ensembles(run, fold):
            task, first = ensemble.task, folds[0] if warm and model not in COLD else fold
            train = ranges(whole, first, reach=task.reach, warmup=task.warmup)["train"]
            where = f"{model} of fold {fold.index}" if len(folds) > 1 else model
            statistics.append(check_stored_statistics(whole, train, ensemble, where))
            if fold.index in again:
                models[model] = None
                forecasts.append(check(table, ensemble, cut, fold, model=model, part=part))
    count = len(statistics)
    told = f"the standardisation stored with {count} ensemble{'s' * (count > 1)} is that of the "
    rows = sum(int(line.values.get("rows") or 0) for line in forecasts)
    covered = (
        f"{rows:,} stored {part} {what} of {', '.join(models)} ({_folds(again, len(folds))}up to "
        f"{', '.join(map(str, days))}, {'all symbols' if positions else _symbols(whole)}) come out "
        "again from prices that end there."
    )
    return [joined(statistics, told + "training rows."), joined(forecasts, covered)]


def _ensembles(run: Run, fold: Fold) -> Iterator[tuple[str, Ensemble]]:
    """The networks that a run has for a fold, by name."""
    if "backtest" not in run.config:
        yield run.config["model"]["cell"], run.model()
        return
    for model, fits in run.metrics["fits"].items():
        for place, fit in enumerate(fits):
            if fit["fold"] == fold.index:
                yield model, run.model(model, fold=place)


def _folds(again: Collection[int], count: int) -> str:
    return f"folds {', '.join(map(str, sorted(again)))} of {count}, " if count > 1 else ""


def _symbols(panel: Panel) -> str:
    count = len(panel.symbols)
    return f"{MOST_SYMBOLS} of {count} symbols" if count > MOST_SYMBOLS else "all symbols"


def check_stored_statistics(panel: Panel, train: Range, ensemble: Ensemble, where: str) -> Line:
    """Standardisation in a run's checkpoints against that of the training rows.

    Parameters
    ----------
    train : Range
        Training rows of the networks.
    where : str
        The fold and model, for the sentence.
    """
    mean, std = _statistics(panel, train)
    for member, network in enumerate(ensemble.networks, start=1):
        for what, stored, expected in (
            ("mean", network.mean_F, mean), ("deviation", network.std_F, std),
        ):  # fmt: skip
            apart = np.abs(stored.cpu().numpy().astype(np.float64) - expected) / std
            if not apart.max(initial=0.0) < STATISTICS_TOLERANCE:
                worst = int(np.argmax(apart))
                return Line(
                    status="fail",
                    name="stored statistics",
                    sentence=f"{where}, member {member}: the stored {what} of "
                    f"{panel.names[worst]} is not that of the training rows, by "
                    f"{apart[worst]:.3g} deviations.",
                )
    return Line(
        status="pass",
        name="stored statistics",
        sentence=f"the standardisation stored with {where} is that of the training rows.",
    )


def check_stored_forecasts(
    table: Path, ensemble: Ensemble, panel: Panel, fold: Fold, *, model: str, part: str
) -> Line:
    """The stored forecasts of a fold against those of its networks on prices that end early.

    Parameters
    ----------
    table : Path
        Forecasts of the run.
    panel : Panel
        Made from prices cut off within the part, with the run's stored market.
    """
    task = ensemble.task
    rows = ranges(panel, fold, reach=task.reach, warmup=task.warmup)[part]
    # The purge is no matter here: whatever was stored is made again.
    high = panel.offsets[1:] if part == "test" else panel.first_row(fold.test)
    alive = np.flatnonzero(high > rows.low)
    alive = alive[np.linspace(0, len(alive) - 1, min(MOST_SYMBOLS, len(alive))).astype(int)]
    few = Range(low=rows.low, high=np.where(np.isin(np.arange(len(high)), alive), high, rows.low))
    again = forecast_rows(ensemble, panel, few, part=part, fold=fold.index)
    stored = read_forecasts(
        table,
        columns=[*KEY, "fold", "scale", *COMPARED],
        part=part,
        model=model,
        symbols=[panel.symbols[s] for s in alive],
    )
    stored = stored[stored["fold"] == fold.index]
    names = {"symbol": str}
    both = stored.astype(names).merge(again[[*KEY, *COMPARED]].astype(names), on=KEY)
    day = panel.dates[-1]
    if both.empty:
        return Line(
            status="warn",
            name="stored",
            sentence=f"{part} of {model}, fold {fold.index}: no stored forecast up to {day} to "
            "make again.",
        )
    unit = both["scale"] * np.sqrt(both["horizon"].astype(float))
    apart = max(
        float(((both[f"{name}_x"] - both[f"{name}_y"]).abs() / unit).max())
        for name in COMPARED
        if both[f"{name}_x"].notna().any()
    )
    good = apart < FORECAST_TOLERANCE
    what = f"{len(both):,} stored {part} forecasts of {model}, fold {fold.index},"
    return Line(
        status="pass" if good else "fail",
        name="stored",
        sentence=f"{what} come out again from prices that end on {day}."
        if good
        else f"{what} are not what its networks say on prices that end on {day}: up to "
        f"{apart:.3g} of the scale apart.",
        values={"apart": apart, "rows": len(both)},
    )


def check_stored_weights(
    table: Path, ensemble: Ensemble, panel: Panel, fold: Fold, *, model: str, part: str
) -> Line:
    """The stored weights of a fold against those of its networks on prices that end early.

    Of all symbols: how many of them hold a position is a matter of each one's weight.
    """
    datamodule = PriceDataModule(panel, fold, ensemble.task, seed=0)
    again = weights_of({model: ensemble}, datamodule, part)
    stored = read_weights(table)
    stored = stored[(stored["model"] == model) & (stored["fold"] == fold.index)]
    key = [name for name in WEIGHTS_KEY if name != "fold"]
    names = dict.fromkeys(("model", "strategy", "part", "symbol"), str)
    both = again.astype(names).merge(stored.astype(names), on=key)
    day, what = (
        panel.dates[-1],
        f"{len(both):,} stored {part} weights of {model}, fold {fold.index},",
    )
    if both.empty:
        sentence = f"{part} of {model}, fold {fold.index}: no stored weight up to {day}."
        return Line(status="warn", name="stored", sentence=sentence)
    largest = float(both["weight_y"].abs().max())
    apart = float((both["weight_x"] - both["weight_y"]).abs().max())
    good = apart <= FORECAST_TOLERANCE * largest
    return Line(
        status="pass" if good else "fail",
        name="stored",
        sentence=f"{what} come out again from prices that end on {day}."
        if good
        else f"{what} are not what its networks say on prices that end on {day}: up to {apart:.3g} "
        f"apart, the largest being {largest:.3g}.",
        values={"apart": apart, "rows": len(both)},
    )


def _middle(dates: np.ndarray, fold: Fold, part: str) -> np.datetime64:
    """A date in the middle of a part of a fold, to cut prices off at."""
    first, stop = (
        (fold.validation, fold.test) if part == "validation" else (fold.test, fold.test_end)
    )
    inside = dates[(dates >= first) & (True if stop is None else dates < stop)]
    day: np.datetime64 = inside[len(inside) // 2]
    return day


def _statistics(panel: Panel, train: Range) -> tuple[np.ndarray, np.ndarray]:
    """Plain means and deviations, all rows at once; 1 where a column does not vary."""
    spans: Sequence[np.ndarray] = [
        np.arange(low, max(low, high)) for low, high in zip(train.low, train.high, strict=True)
    ]
    values = panel.values[np.concatenate(spans)].astype(np.float64)
    known = ~np.isnan(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0.0).sum(0) / count
    std = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(0) / count)
    return mean, np.where(std > 1e-6 * np.abs(mean), std, 1.0)
