"""Does a method find what is there, and nothing else? Trials on prices from a known process.

*Null*: where the simulator's own distribution cannot be beaten and the mean is zero, a method that
beats it, or whose mean foretells, more often than luck would, has seen the future. *Planted*: of a
signal that foretells the next session's return, most must be found.

References
----------
Clark and West (2007), Approximately normal tests for equal predictive accuracy in nested models,
Journal of Econometrics 138: against a mean of zero their statistic is the mean of actual × mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from forecast.config import ForecastError
from forecast.evaluation.audit import Line
from forecast.evaluation.inference import mean_test
from forecast.evaluation.scores import Scores
from forecast.evaluation.trial import LEAST, Trial, fit, small
from forecast.forecasts import QUANTILES
from forecast.models.baselines import TrueProcess
from forecast.models.block import make_block
from forecast.prices.frame import Prices
from forecast.prices.simulated import simulated

Config = Mapping[str, Any]

LEAST_FOUND, MOST_FOUND = 0.8, 1.5  # of the planted information coefficient
SIZE = 0.05  # of each test that a panel is put to
NULL_PROCESSES = ("gbm", "garch")
VALIDATION, TEST = 150, 0.35  # sessions at least, and share of them
TRAIN = 0.5  # rough share of the rows that is trained on
STEPS = 10  # of an epoch


@dataclass(frozen=True, kw_only=True)
class Nulls:
    """How often luck alone seemed to be skill.

    Attributes
    ----------
    panels : int
    beaten : int
        Panels on which the forecasts were significantly better than the true distribution.
    skilled : int
        Panels on which the mean foretold the return, or the position earned it, significantly.
    positions : bool
        Whether there are positions and no forecasts.
    """

    panels: int
    beaten: int
    skilled: int
    positions: bool = False

    @property
    def limit(self) -> int:
        """Upper 95 % limit of the number of panels under the null."""
        return int(stats.binom.ppf(0.95, self.panels, SIZE))

    @property
    def line(self) -> Line:
        good = max(self.beaten, self.skilled) <= self.limit
        return Line(
            status="pass" if good else "fail",
            name="null",
            sentence=f"on {self.panels} simulated panel{'s' * (self.panels != 1)} with nothing to "
            + (
                f"find, positions earned significantly on {self.skilled}"
                if self.positions
                else "find, forecasts were significantly better than the truth on "
                f"{self.beaten}, and the mean foretold on {self.skilled}"
            )
            + f"; by luck it is up to {self.limit}."
            + ("" if good else " Something reads what comes later."),
            values={"beaten": self.beaten, "skilled": self.skilled, "limit": self.limit},
        )


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Mean correlation with the return per date, of the forecasts and of the truth."""

    found: float
    truth: float
    epochs: int

    @property
    def share(self) -> float:
        return self.found / self.truth

    @property
    def line(self) -> Line:
        values = {"found": self.found, "truth": self.truth, "share": self.share}
        epochs = f"{self.epochs} epoch{'s' * (self.epochs != 1)}"
        if np.isnan(self.found):
            sentence = "the mean is the same for all symbols: no signal in it can be found."
            return Line(status="warn", name="planted", sentence=sentence, values=values)
        good = LEAST_FOUND <= self.share <= MOST_FOUND
        return Line(
            status="pass" if good else "fail",
            name="planted",
            sentence=f"{self.share:.1%} of a planted signal was found: the mean's correlation "
            f"with the next return is {self.found:.3f} per date, the truth's {self.truth:.3f}, "
            f"after {epochs}; at least {LEAST_FOUND:.0%} should be"
            + (", and no more than there is." if self.share > MOST_FOUND else "."),
            values=values,
        )


def null_panels(
    config: Config, *, panels: int, symbols: int, sessions: int, epochs: int, seed: int = 0
) -> Nulls:
    """Train on independent simulated panels and test each at 5 %, one-sided.

    Panels alternate between independent normal returns and a GJR-GARCH with Student-t innovations.
    """
    beaten = skilled = 0
    positions = False
    for number in range(panels):
        prices = simulated(
            process=NULL_PROCESSES[number % len(NULL_PROCESSES)],
            n_symbols=symbols,
            n_sessions=_sessions(config, sessions),
            seed=seed + number,
            ohlcv=True,
        )
        trial, ours, truth = _forecasts(config, prices, epochs=epochs)
        positions = trial.positions
        name = "mae_scaled" if ours["q50"].isna().all() else "crps_scaled"
        if name == "mae_scaled":  # of the truth's median, where the model has none
            truth = truth.assign(**dict.fromkeys(QUANTILES, np.nan))
        difference = _daily(ours, name) - _daily(truth, name)
        beaten += not positions and _significant(-difference)
        unit = ours["scale"] ** 2 * ours["horizon"]
        moment = (ours["mean"] * ours["actual"] / unit).groupby(ours["origin"]).mean()
        skilled += _significant(moment.to_numpy())
    return Nulls(panels=panels, beaten=beaten, skilled=skilled, positions=positions)


def planted_signal(
    config: Config, *, symbols: int, sessions: int, epochs: int, coefficient: float, seed: int = 0
) -> Planted:
    """Train where a covariate foretells the next session's return, and measure what was found."""
    config = {**config, "target": {**config["target"], "delay": 0}, "horizons": [1]}
    prices = simulated(
        process="planted",
        n_symbols=symbols,
        n_sessions=_sessions(config, sessions),
        information_coefficient=coefficient,
        seed=seed,
        ohlcv=True,
    )
    trial, ours, truth = _forecasts(config, prices, epochs=epochs)
    return Planted(
        found=_information_coefficient(ours),
        truth=_information_coefficient(truth),
        epochs=len(trial.arrays["history.epoch"]),
    )


def _sessions(config: Config, sessions: int) -> int:
    """Sessions of a panel: what was asked for after the warm-up, more for a long horizon."""
    # Of each of the three ranges, the last sessions have no target that counts.
    return sessions + int(config["window"]["warmup"]) + 3 * (_reach(config) - 1)


def _reach(config: Config) -> int:
    """Sessions from an origin to the target of the shortest horizon."""
    return int(min(config["horizons"]) + config["target"]["delay"])


def _forecasts(
    config: Config, prices: Prices, *, epochs: int
) -> tuple[Trial, pd.DataFrame, pd.DataFrame]:
    """The trained configuration's forecasts of the shortest horizon's test rows, and the truth."""
    horizon, window = min(config["horizons"]), dict(config["window"])
    embargo = config["split"]["embargo"]
    data = {"market": config["data"]["market"] and "equal_weight", "max_gap": 10}
    validation = max(VALIDATION, _reach(config) + LEAST) + embargo
    split = {"validation": validation, "test": TEST, "embargo": embargo}
    # Small panels have few windows, so that steps as large as usual would be too few to learn by.
    windows = TRAIN * len(prices.frame) / (window["length"] - window["warmup"])
    window["batch"] = max(1, min(window["batch"], round(windows / STEPS)))
    trial = fit(
        small(
            config,
            epochs=epochs,
            data=data,
            split=split,
            window=window,
            horizons=[horizon],
            loss={**config["loss"], "horizon_weights": None},
        ),
        prices,
    )
    assert prices.truth is not None
    panel, rows = trial.datamodule.panel, trial.datamodule.ranges["test"]
    block = make_block(panel, trial.datamodule.task, rows, np.arange(len(panel.symbols)))
    said = TrueProcess(prices.truth).distribution(block)
    truth = block.table(said, model="truth", part="test", fold=0).to_pandas(date_as_object=False)
    ours = trial.forecasts("test")
    known = ours["actual"].notna()
    if not known.any():
        raise ForecastError(
            f"no target over {horizon} sessions lies within the {len(panel.dates)} simulated ones."
        )
    return trial, ours[known], truth[truth["actual"].notna()]


def _daily(table: pd.DataFrame, name: str) -> np.ndarray:
    scores = Scores()
    scores.add(table)
    model, horizon = str(table["model"].iloc[0]), int(table["horizon"].iloc[0])
    return scores.daily("test", model, horizon)[name].to_numpy()


def _significant(series: np.ndarray) -> bool:
    """Whether a mean is above zero, one-sided at 5 %."""
    test = mean_test(series)
    return bool(test.t > 0 and test.p / 2 < SIZE)


def _information_coefficient(table: pd.DataFrame) -> float:
    """Mean over dates of the correlation between mean and actual across symbols."""
    unit = table["scale"] * np.sqrt(table["horizon"])
    pairs = pd.DataFrame({"a": table["mean"] / unit, "b": table["actual"] / unit})
    centred = pairs - pairs.groupby(table["origin"]).transform("mean")
    sums = (
        centred.assign(ab=centred["a"] * centred["b"], aa=centred["a"] ** 2, bb=centred["b"] ** 2)
        .groupby(table["origin"])[["ab", "aa", "bb"]]
        .sum()
    )
    return float((sums["ab"] / np.sqrt(sums["aa"] * sums["bb"])).mean())
