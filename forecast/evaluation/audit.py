"""What can be found out about a configuration by running it: does anything know the future?

Each check gives one line, `pass`, `warn` or `fail`, with what was done and what came out. All of
them run the user's own features and head like any other part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.evaluation.causality import (
    Finding,
    check_perturbation,
    check_truncation,
    perturb,
    truncate,
)
from forecast.evaluation.trial import Copy, Trial, forecast_rows, session_dates
from forecast.forecasts import KEY
from forecast.models.configured import panel_of
from forecast.models.pipeline import make_datamodule
from forecast.prices.frame import Prices
from forecast.weights import WEIGHTS_KEY

CUTS = 5  # dates at which the prices are cut off for the features
LAST_ORIGINS = 20  # whose forecasts a shorter history is compared on
SHORT = 1000  # sessions of a shorter history
MOST_OF_STD = 0.01  # that a shorter history may move a forecast by


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a check found.

    Attributes
    ----------
    status : pass | warn | fail
    name, sentence : str
    values : numbers behind the sentence
    """

    status: str
    name: str
    sentence: str
    values: Mapping[str, float | int | None] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.status}  {self.name}: {self.sentence}"


def check_features(copy: Copy) -> Line:
    """Every feature, on prices that end early and on prices that are changed later."""
    inner = copy.dates[1:-1]
    days = inner[np.linspace(len(inner) // 3, len(inner) - 1, CUTS).astype(int)]

    def table(prices: Prices) -> pd.DataFrame:
        return _panel_table(panel_of(copy.config, prices))

    whole = table(copy.prices)
    for day in days:
        for later in (truncate(copy.prices, day), perturb(copy.prices, day + 1)):
            found = _compared(whole, table(later), day)
            if found is not None:
                return Line(
                    status="fail",
                    name="features",
                    sentence=f"they change with prices after {day}: {found}. Such a feature reads "
                    "later rows, or counts them.",
                    values={"differing": found.count},
                )
    names = [name for name in whole if name not in ("symbol", "origin")]
    return Line(
        status="pass",
        name="features",
        sentence=f"{len(names)} columns up to each of {len(days)} dates are the same, to the last "
        "bit, if later prices are cut off or changed.",
    )


def check_forecasts(copy: Copy, trial: Trial) -> Line:
    """Forecasts, or positions, of networks trained on prices that end early."""
    after = copy.dates[copy.dates >= copy.fold.test]
    eve = copy.dates[copy.dates < copy.fold.test][-1]
    days = [eve, *after[[len(after) // 2]]] if len(after) > 1 else [eve]

    def pipeline(prices: Prices) -> pd.DataFrame:
        fitted = trial if prices is copy.prices else copy.fit(prices)
        stated = fitted.weights if trial.positions else fitted.forecasts
        return stated("validation", "test")

    what, key = ("weights", WEIGHTS_KEY) if trial.positions else ("forecasts", KEY)
    for day in days:
        found = check_truncation(pipeline, copy.prices, last=day, key=key)
        if found is not None:
            return Line(
                status="fail",
                name="truncation",
                sentence=f"{what} up to {day} are others without the prices after it: {found}.",
                values={"differing": found.count},
            )
    return Line(
        status="pass",
        name="truncation",
        sentence=f"a reduced copy ({copy}) trained on prices ending {_and(days)} gives, to the "
        f"last bit, the {what} that all prices give up to there.",
    )


def check_training(copy: Copy, trial: Trial) -> Line:
    """Trained parameters under other prices from the first test origin on."""

    def fit(prices: Prices) -> Mapping[str, np.ndarray]:
        return (trial if prices is copy.prices else copy.fit(prices)).arrays

    found = check_perturbation(fit, copy.prices, first=copy.fold.test)
    return _line(
        found,
        name="perturbation",
        good=f"the copy's weights and losses stay the same, to the last bit, whatever prices do "
        f"from the first test origin {copy.fold.test} on.",
        bad=f"training has seen prices from {copy.fold.test} on",
    )


def check_statistics(copy: Copy) -> Line:
    """Means and deviations of the features under other prices after training."""

    def statistics(prices: Prices) -> Mapping[str, np.ndarray]:
        data = make_datamodule(copy.config, prices, fold=copy.fold)
        return {"mean": data.mean_F, "deviation": data.std_F}

    found = check_perturbation(statistics, copy.prices, first=copy.fold.train_end)
    return _line(
        found,
        name="statistics",
        good="the features' means and deviations come from training rows alone: they are the same "
        f"whatever prices do from {copy.fold.train_end} on.",
        bad="the standardisation has seen rows that are no training rows",
    )


def check_history(copy: Copy, trial: Trial) -> Line:
    """How far forecasts, or positions, move when only the last 1000 sessions are known."""
    market = panel_of(copy.config, copy.whole).market
    dates = session_dates(copy.whole)
    first = dates[-min(LAST_ORIGINS, len(dates))]
    begin = int(np.searchsorted(dates, first)) - SHORT
    if begin < 1:
        return Line(
            status="warn",
            name="history",
            sentence=f"not checked: histories are no longer than {SHORT} sessions.",
        )
    frame = copy.whole.frame
    short = replace(
        copy.whole, frame=frame[(frame["date"] >= dates[begin]).to_numpy()].reset_index(drop=True)
    )
    tables = []
    for prices in (copy.whole, truncate(short, dates[-1])):
        panel = panel_of(copy.config, prices, market=market)
        rows = Range(low=panel.first_row(first), high=panel.offsets[1:])
        tables.append(forecast_rows(trial.ensemble, panel, rows, part="test"))
    long, brief = (t.set_index(["symbol", "origin", "horizon"]).sort_index() for t in tables)
    spread = _spread(long)
    what, unit = "forecasts", "their standard deviation"
    if trial.positions:
        what, unit = "positions", "a full one"
    share = max(
        float(((long[name] - brief[name]).abs() / spread).mean())
        for name in ("mean", "std", "q05", "q50", "q95")
        if long[name].notna().any()
    )
    good = share < MOST_OF_STD
    return Line(
        status="pass" if good else "warn",
        name="history",
        sentence=f"with the last {SHORT} sessions instead of {len(dates):,} the copy's {what} "
        f"move by {share:.2%} of {unit}"
        + ("." if good else f": state which history {what} need, and give them that."),
        values={"share_of_std": share},
    )


def _spread(table: pd.DataFrame) -> pd.Series:
    """Standard deviation of each row; for a model without one, that of the trailing scale."""
    unit = table["scale"] * np.sqrt(table.index.get_level_values("horizon").to_numpy(float))
    return table["std"].astype(float).fillna(unit)


def _panel_table(panel: Panel) -> pd.DataFrame:
    symbol = np.repeat(np.arange(len(panel.symbols)), np.diff(panel.offsets))
    return pd.DataFrame(
        {
            "symbol": np.array(panel.symbols)[symbol],
            "origin": panel.dates[panel.day].astype("datetime64[s]"),
            **dict(zip(panel.names, panel.values.T, strict=True)),
            "the scale": panel.scale,
        }
    )


def _compared(whole: pd.DataFrame, other: pd.DataFrame, day: np.datetime64) -> Finding | None:
    """The first difference up to a day; whether a row is there is no matter of features."""
    key = ["symbol", "origin"]
    tables = [
        t[t["origin"] <= pd.Timestamp(day)].set_index(key).sort_index() for t in (whole, other)
    ]
    differing, first = 0, None
    for name in tables[0]:
        a, b = (t[name].to_numpy() for t in tables)
        differs = np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b))))
        differing += len(differs)
        if len(differs) and first is None:
            i = differs[0]
            symbol, origin = tables[0].index[i]
            first = f"{name} of {symbol} on {origin:%Y-%m-%d}", float(a[i]), float(b[i])
    if first is None:
        return None
    return Finding(where=first[0], full=first[1], cut=first[2], count=differing)


def _line(found: Finding | None, *, name: str, good: str, bad: str) -> Line:
    if found is None:
        return Line(status="pass", name=name, sentence=good)
    values = {"differing": found.count}
    return Line(status="fail", name=name, sentence=f"{bad}: {found}.", values=values)


def _and(days: Iterable[np.datetime64]) -> str:
    return " and ".join(map(str, days))
