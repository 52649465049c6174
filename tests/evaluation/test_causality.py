"""The main tests: nothing in the whole pipeline knows what happened later.

Truncation: the raw input cut at a date gives, to the last bit, what the whole input gives up to
that date. Perturbation: whatever prices do from the test range on, the trained network is the
same. And both checks find a leak where one is planted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast import compose, load_prices
from forecast.config import ForecastError, plain
from forecast.dataset.folds import Fold, make_fold
from forecast.evaluation.causality import (
    Finding,
    check_perturbation,
    check_truncation,
    perturb,
    truncate,
)
from forecast.forecasts import read_forecasts
from forecast.models.ensemble import load_ensemble
from forecast.models.pipeline import fit_ensemble, make_datamodule, write_forecasts
from forecast.prices.frame import Covariate, Prices

SESSIONS = 340
TINY = [
    "data=simulated", "data.process=garch", "data.n_symbols=9", f"data.n_sessions={SESSIONS}",
    "data.ohlcv=true", "data.truth=false", "horizons=[1,3]", "target.delay=0",
    "window.length=60", "window.warmup=25", "window.batch=16", "split.validation=40",
    "split.test=0.2", "split.embargo=0", "model.hidden_size=4", "model.layers=1",
    "model.dropout=0.1", "model.input_dropout=0.1", "ensemble=1", "trainer=cpu",
    "trainer.max_epochs=1", "trainer.patience=1", "seed=0", "progress=false",
]  # fmt: skip
CHOICES = [
    (features, model, head)
    for features in ("close", "ohlcv", "returns")
    for model in ("rnn", "lstm", "gru")
    for head in ("student_t", "skewed_t", "gaussian", "quantile", "point")
]
# Session at which a symbol is listed. The first and the fifth by name are listed after the cut.
LISTED = {"SIM0001": 300, "SIM0003": 60, "SIM0004": 150, "SIM0005": 310, "SIM0006": 275}


def configured(*overrides: str) -> dict[str, Any]:
    return plain(compose("train", [*TINY, *overrides]))


def staggered() -> Prices:
    """Open, high, low, close, volume; late listings, holes; a covariate of its own and a shared."""
    prices = load_prices(configured()["data"])
    frame = prices.frame
    dates = np.unique(frame["date"].to_numpy())
    session = np.searchsorted(dates, frame["date"].to_numpy())
    random = np.random.default_rng(0)
    listed = frame["symbol"].map(LISTED).astype(float).fillna(0).to_numpy()
    there = (session >= listed) & (random.random(len(frame)) > 0.02)
    frame = frame[there].reset_index(drop=True)
    shared = pd.DataFrame({"known": dates[::3], "vix": random.normal(20, 5, len(dates[::3]))})
    own = frame[["symbol", "date"]].iloc[::5].rename(columns={"date": "known"})
    own = own.assign(mood=random.normal(0, 1, len(own))).reset_index(drop=True)
    covariates = (
        Covariate(name="vix.csv", frame=shared, columns=("vix",), lag=1, max_age=5),
        Covariate(name="mood.csv", frame=own, columns=("mood",), lag=0, max_age=2),
    )
    return replace(prices, frame=frame, covariates=covariates)


@pytest.fixture(scope="module")
def prices() -> Prices:
    return staggered()


@pytest.fixture(scope="module")
def dates(prices: Prices) -> np.ndarray:
    return np.unique(prices.frame["date"].to_numpy()).astype("datetime64[D]")


@pytest.fixture(scope="module")
def fold(dates: np.ndarray) -> Fold:
    """The whole data's fold, by date: what a run on less data must be given, too."""
    return make_fold(dates, validation=40, test=0.2)


def pipeline(config: dict[str, Any], fold: Fold) -> Callable[[Prices], pd.DataFrame]:
    """Raw prices to a Forecasts table: features, market, windows, training, baselines and all."""

    def run(prices: Prices) -> pd.DataFrame:
        datamodule = make_datamodule(config, prices, fold=fold)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fit_ensemble(config, datamodule, folder, say=lambda line: None)
            ensemble = load_ensemble(folder, members=config["ensemble"], task=datamodule.task)
            write_forecasts(
                folder / "forecasts.parquet",
                datamodule,
                ensembles={config["model"]["cell"]: ensemble},
                # Where the data end on the eve of the test range it has no row yet.
                parts=[p for p in ("validation", "test") if datamodule.ranges[p].rows],
            )
            return read_forecasts(folder / "forecasts.parquet")

    return run


def training(config: dict[str, Any], fold: Fold) -> Callable[[Prices], dict[str, np.ndarray]]:
    """Raw prices to all that training leaves: weights, statistics, history and choice of epoch."""

    def fit(prices: Prices) -> dict[str, np.ndarray]:
        datamodule = make_datamodule(config, prices, fold=fold)
        with tempfile.TemporaryDirectory() as name:
            fit_ensemble(config, datamodule, Path(name), say=lambda line: None)
            ensemble = load_ensemble(Path(name), members=config["ensemble"], task=datamodule.task)
            history = pd.read_csv(Path(name) / "history.csv").drop(columns="seconds")
        found = {f"history.{column}": history[column].to_numpy() for column in history}
        for member, network in enumerate(ensemble.networks):
            for key, value in network.state_dict().items():
                found[f"{member}.{key}"] = value.numpy()
        return found

    return fit


# ------------------------------------------------------------------------------ truncation


@pytest.mark.parametrize(("features", "model", "head"), CHOICES)
def test_what_is_forecast_from_less_data_is_what_was_forecast(
    features: str, model: str, head: str, prices: Prices, fold: Fold, dates: np.ndarray
) -> None:
    config = configured(f"features={features}", f"model={model}", f"head={head}")
    last = dates[np.searchsorted(dates, fold.test) + 12]
    assert dates[LISTED["SIM0006"]] <= last < dates[LISTED["SIM0001"]]
    found = check_truncation(pipeline(config, fold), prices, last=last)
    assert found is None, str(found)


@pytest.mark.parametrize("session", [0, 1, 20, 55, 67])
def test_it_holds_wherever_the_data_end(
    session: int, prices: Prices, fold: Fold, dates: np.ndarray
) -> None:
    """From the first test origin on, whose eve is the date of the last validation target."""
    config = configured("features=ohlcv", "model=gru")
    last = dates[np.searchsorted(dates, fold.test) + session - 1]
    assert check_truncation(pipeline(config, fold), prices, last=last) is None


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.market=null"],
        ["data.market=SIM0002"],
        ["target.delay=1"],
        ["window.warmup=59", "window.batch=64"],
        ["model.layers=2", "ensemble=2", "trainer.max_epochs=3"],
        ["split.embargo=5"],
    ],
    ids=" ".join,
)
def test_it_holds_for_other_settings(
    overrides: list[str], prices: Prices, dates: np.ndarray
) -> None:
    config = configured("features=ohlcv", "model=rnn", *overrides)
    fold = make_fold(dates, **config["split"])
    last = dates[np.searchsorted(dates, fold.test) + 12]
    found = check_truncation(pipeline(config, fold), prices, last=last)
    assert found is None, str(found)


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_it_holds_when_many_symbols_listed_later_come_first_by_name(model: str) -> None:
    """They would move the others to other places of a batch, where products may round otherwise."""
    config = configured(f"model={model}", "data.n_symbols=40")
    prices = load_prices(config["data"])
    frame = prices.frame
    dates = np.unique(frame["date"].to_numpy()).astype("datetime64[D]")
    late = (frame["symbol"].astype(str) <= "SIM0017").to_numpy() & (
        frame["date"] < dates[290]
    ).to_numpy()
    prices = replace(prices, frame=frame[~late].reset_index(drop=True))
    fold = make_fold(dates, validation=40, test=0.2)
    found = check_truncation(pipeline(config, fold), prices, last=dates[280])
    assert found is None, str(found)


def test_the_cut_input_knows_nothing_later(prices: Prices, dates: np.ndarray) -> None:
    cut = truncate(prices, dates[290])
    assert cut.frame["date"].max() == pd.Timestamp(dates[290])
    assert {"SIM0001", "SIM0005"} & set(cut.frame["symbol"].cat.categories) == set()
    for covariate in cut.covariates:
        assert covariate.frame["known"].max() <= pd.Timestamp(dates[290])
    assert len(prices.frame) > len(cut.frame), "the input itself is left as it was"
    with pytest.raises(ForecastError, match="no price on or before 1900-01-01"):
        truncate(prices, "1900-01-01")


# ---------------------------------------------------------------------------- perturbation


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_nothing_from_the_test_range_reaches_training(
    model: str, prices: Prices, fold: Fold
) -> None:
    config = configured("features=ohlcv", f"model={model}", "trainer.max_epochs=3", "ensemble=2")
    found = check_perturbation(training(config, fold), prices, first=fold.test)
    assert found is None, str(found)


def test_nothing_from_the_validation_range_reaches_a_step_of_training(
    prices: Prices, fold: Fold
) -> None:
    """With one epoch there is nothing to choose, and validation prices cannot matter either."""

    def fit(prices: Prices) -> dict[str, np.ndarray]:
        found = training(configured("features=ohlcv", "trainer.max_epochs=1"), fold)(prices)
        return {k: v for k, v in found.items() if k != "history.validation_loss"}

    assert check_perturbation(fit, prices, first=fold.validation) is None


def test_what_comes_before_does_reach_training(prices: Prices, fold: Fold) -> None:
    """The check is not blind: a session earlier, and the network is another."""
    config = configured("features=ohlcv", "trainer.max_epochs=1")
    earlier = fold.validation - np.timedelta64(30, "D")
    assert check_perturbation(training(config, fold), prices, first=earlier) is not None


def test_perturbing_changes_everything_later_and_nothing_before(prices: Prices, fold: Fold) -> None:
    changed = perturb(prices, fold.test)
    later = (prices.frame["date"] >= fold.test).to_numpy()
    for name in ("open", "high", "low", "close", "volume"):
        before, after = prices.frame[name].to_numpy(), changed.frame[name].to_numpy()
        assert (before[~later] == after[~later]).all()
        assert (before[later] != after[later])[before[later] != 0].all()
    bars = changed.frame
    assert (bars["low"] <= bars[["open", "close"]].min(axis=1) * (1 + 1e-12)).all()
    for old, new in zip(prices.covariates, changed.covariates, strict=True):
        later = (old.frame["known"] >= fold.test).to_numpy()
        (name,) = old.columns
        assert (old.frame[name][~later] == new.frame[name][~later]).all()
        assert (old.frame[name][later] != new.frame[name][later]).all()


# ------------------------------------------------------------------------- planted leaks

LEAKS = {
    "tomorrow": "p.close.pct_change().shift(-1)",
    "centred_mean": "p.close.pct_change().rolling(5, center=True).mean()",
    "backward_fill": "p.close.pct_change().where(p.index % 7 == 0).bfill()",
    "whole_history": "p.close / p.close.mean()",
    "rank_in_history": "p.close.rank(pct=True)",
    "last_price": "p.close * 0 + p.close.iloc[-1]",
    "length": "p.close * 0 + len(p)",
    "range_of_tomorrow": "(p.high / p.low).shift(-1)",
}
LEAKS_OF_LEVELS_AND_BARS = [
    "tomorrow",
    "centred_mean",
    "whole_history",
    "last_price",
    "range_of_tomorrow",
]
HONEST = {
    "yesterday": "p.close.pct_change().shift(1)",
    "trailing_mean": "p.close.pct_change().rolling(5).mean()",
    "forward_fill": "p.close.pct_change().where(p.index % 7 == 0).ffill()",
    "drawdown": "p.close / p.close.cummax()",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module of features, in the current directory."""
    (tmp_path / "leaks.py").write_text(
        "\n".join(f"{name} = lambda p: {code}" for name, code in {**LEAKS, **HONEST}.items())
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", LEAKS)
def test_truncation_finds_a_planted_leak(
    own: None, name: str, prices: Prices, fold: Fold, dates: np.ndarray
) -> None:
    config = configured("features=returns", "model=rnn", f"features.own=[leaks.{name}]")
    last = dates[np.searchsorted(dates, fold.test) + 12]
    found = check_truncation(pipeline(config, fold), prices, last=last)
    assert found is not None
    assert found.count > 0
    assert found.full != found.cut


@pytest.mark.parametrize("name", LEAKS_OF_LEVELS_AND_BARS)
def test_perturbation_finds_a_leak_that_reaches_training(
    own: None, name: str, prices: Prices, fold: Fold
) -> None:
    """A leak of a session or two stops at the purge for training, but not for validation rows.

    So the targets' own purge has to be lifted for it to show: here the fold's last training
    session is the eve of the changed prices.
    """
    config = configured("features=returns", "model=rnn", f"features.own=[leaks.{name}]")
    eve = replace(fold, train_end=fold.test, validation=fold.test - np.timedelta64(30, "D"))
    first = fold.test - np.timedelta64(5, "D")
    assert check_perturbation(training(config, eve), prices, first=first) is not None


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_feature_passes_both(
    own: None, name: str, prices: Prices, fold: Fold, dates: np.ndarray
) -> None:
    config = configured("features=returns", "model=rnn", f"features.own=[leaks.{name}]")
    last = dates[np.searchsorted(dates, fold.test) + 12]
    assert check_truncation(pipeline(config, fold), prices, last=last) is None
    assert check_perturbation(training(config, fold), prices, first=fold.test) is None


def test_a_leaking_covariate_join_would_be_found(
    prices: Prices, fold: Fold, dates: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecast.dataset import features

    join = features.join

    def ahead(covariate: Covariate, symbol: str, date_N: np.ndarray) -> list[np.ndarray]:
        return join(replace(covariate, lag=-1), symbol, date_N)

    monkeypatch.setattr(features, "join", ahead)
    last = dates[np.searchsorted(dates, fold.test) + 12]
    assert check_truncation(pipeline(configured(), fold), prices, last=last) is not None


def test_statistics_of_all_rows_would_be_found(
    prices: Prices, fold: Fold, dates: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecast.dataset import datamodule

    def of_everything(panel: Any, train: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.nanmean(panel.values, 0), np.nanstd(panel.values, 0)

    monkeypatch.setattr(datamodule, "standardisation", of_everything)
    last = dates[np.searchsorted(dates, fold.test) + 12]
    config = configured("features=returns", "data.market=null")
    assert check_truncation(pipeline(config, fold), prices, last=last) is not None
    found = check_perturbation(training(config, fold), prices, first=fold.test)
    assert found is not None


# ---------------------------------------------------------------- what the checks compare


def toy(values: list[float], symbols: str = "A") -> pd.DataFrame:
    """A Forecasts-like table with one row a day."""
    origin = pd.date_range("2020-01-01", periods=len(values)).as_unit("s")
    return pd.DataFrame({"symbol": symbols, "origin": origin, "mean": values, "actual": 0.0})


def truncated(full: pd.DataFrame, cut: pd.DataFrame) -> Finding | None:
    tables = iter([full, cut])
    dates = pd.to_datetime(["2020-01-01", "2020-01-03"])  # of which the second is cut
    days = pd.DataFrame({"symbol": pd.Categorical(["A", "A"]), "date": dates, "close": 1.0})
    return check_truncation(
        lambda prices: next(tables),
        Prices(frame=days, source="test"),
        last="2020-01-02",
        key=("symbol", "origin"),
    )


def test_the_shape_of_a_bar_is_perturbed_and_stays_a_bar(prices: Prices, fold: Fold) -> None:
    changed = perturb(prices, fold.test)
    later = (prices.frame["date"] >= pd.Timestamp(fold.test)).to_numpy()
    before, after = prices.frame[later], changed.frame[later]
    for one, other in (("high", "low"), ("close", "open"), ("volume", "close")):
        assert (before[one] / before[other] != after[one] / after[other]).mean() > 0.99
    assert (after["high"] >= after[["open", "close"]].max(axis=1)).all()
    assert (after["low"] <= after[["open", "close"]].min(axis=1)).all()


def test_a_check_that_cannot_fail_is_refused(prices: Prices, fold: Fold) -> None:
    def rows(prices: Prices) -> pd.DataFrame:
        return toy([1.0, 2.0])

    with pytest.raises(ForecastError, match="nothing would be cut"):
        check_truncation(rows, prices, last="2050-01-01")
    with pytest.raises(ForecastError, match="gave no row"):
        check_truncation(lambda p: rows(p).iloc[:0], prices, last=fold.test)
    with pytest.raises(ForecastError, match="nothing would change"):
        check_perturbation(lambda p: {"a": np.ones(1)}, prices, first="2050-01-01")
    with pytest.raises(ForecastError, match="no arrays to compare"):
        check_perturbation(lambda p: {}, prices, first=fold.test)


def test_equal_up_to_the_date_is_equal() -> None:
    assert truncated(toy([1, 2, 3]), toy([1, 2])) is None
    assert truncated(toy([1, np.nan, 3]), toy([1, np.nan])) is None


def test_what_speaks_of_the_outcome_may_differ() -> None:
    assert truncated(toy([1, 2, 3]).assign(actual=7.0), toy([1, 2])) is None


@pytest.mark.parametrize(
    ("cut", "where"),
    [
        (toy([1, 2.0000001]), "mean at"),
        (toy([1, np.nan]), "mean at"),
        (toy([1]), "row"),
        (toy([1, 2, 3]), "row"),
        (toy([1, 2], symbols="B"), "row"),
        (toy([1, 2]).drop(columns="mean"), "mean"),
        (toy([1, 2]).assign(more=1.0), "more"),
    ],
)
def test_the_least_difference_is_found_and_placed(cut: pd.DataFrame, where: str) -> None:
    found = truncated(toy([1, 2, 3]), cut)
    assert found is not None
    assert found.where.startswith(where)
    assert "differ, first" in str(found)


def test_parameters_are_compared_by_name_shape_and_bit(prices: Prices) -> None:
    def checked(full: dict[str, Any], changed: dict[str, Any]) -> Finding | None:
        results = iter([full, changed])
        return check_perturbation(lambda _: next(results), prices, first="1991-01-01")

    a = {"w": np.array([1.0, np.nan])}
    assert checked(a, {"w": np.array([1.0, np.nan])}) is None
    for other in (
        {"w": np.array([1.0, 2.0])}, {"w": np.array([1.0])}, {"v": a["w"]}, {},
        {"w": np.array([np.nextafter(1.0, 2), np.nan])},
    ):  # fmt: skip
        found = checked(a, other)
        assert found is not None
        assert found.where[0] in "vw"
