"""The audit's checks: silent where all is well, and not to be fooled by what looks ahead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast import compose, load_prices
from forecast.config import ForecastError, plain
from forecast.dataset.folds import Fold, Range, make_fold, ranges
from forecast.dataset.panel import Panel
from forecast.evaluation import cautions
from forecast.evaluation.audit import (
    Line,
    check_features,
    check_forecasts,
    check_history,
    check_statistics,
    check_training,
)
from forecast.evaluation.overlap import check_facts, check_ranges, check_table, joined
from forecast.evaluation.simulations import Nulls, Planted, null_panels, planted_signal
from forecast.evaluation.stored import check_stored_forecasts, check_stored_statistics
from forecast.evaluation.trial import Copy, Trial, reduced
from forecast.forecasts import ForecastWriter
from forecast.models.configured import panel_of
from forecast.prices.frame import Prices

TINY = [
    "data=simulated", "data.process=garch", "data.n_symbols=6", "data.n_sessions=1300",
    "data.truth=false", "horizons=[1,3]", "window.length=60", "window.warmup=25",
    "window.batch=16", "split.validation=40", "model.hidden_size=4", "model.dropout=0.0",
    "model.input_dropout=0.0", "optimizer.lr=0.01", "trainer=cpu", "seed=0",
]  # fmt: skip
CODE = '''
import numpy as np
from forecast.models.distributions import Gaussian
from forecast.models.heads import GaussianHead

tomorrow = lambda p: p.close.pct_change().shift(-1)
last_price = lambda p: p.close / p.close.iloc[-1]
length = lambda p: p.close * 0 + len(p)
age = lambda p: p.close * 0 + np.arange(len(p))
yesterday = lambda p: p.close.pct_change().shift(1)

class Smoothing(GaussianHead):
    """Parameters of a session from those of the next."""
    def domain(self, raw_P):
        return super().domain((raw_P + raw_P.roll(-1, dims=1)) / 2 if raw_P.ndim == 4 else raw_P)

class Centred(GaussianHead):
    """Means less the mean of all rows, later ones too."""
    def distribution(self, parameters):
        mu, sigma = np.moveaxis(np.asarray(parameters, np.float64), -1, 0)
        return Gaussian(mu=mu - mu.mean(), sigma=sigma)
'''


@pytest.fixture(scope="module", autouse=True)
def audited_parts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A user's module in the current directory."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "audited_parts.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def prices() -> Prices:
    return load_prices(plain(compose("audit", TINY))["data"])


@pytest.fixture(scope="module")
def dates(prices: Prices) -> np.ndarray:
    return np.unique(prices.frame["date"].to_numpy()).astype("datetime64[D]")


def copied(prices: Prices, *overrides: str, sessions: int = 120) -> Copy:
    config = plain(compose("audit", [*TINY, *overrides]))
    dates = np.unique(prices.frame["date"].to_numpy()).astype("datetime64[D]")
    fold = make_fold(dates, **config["split"])
    embargo = config["split"]["embargo"]
    return reduced(config, prices, fold, embargo=embargo, symbols=5, sessions=sessions, epochs=1)


@pytest.fixture(scope="module")
def copy(prices: Prices) -> Copy:
    return copied(prices)


@pytest.fixture(scope="module")
def trial(copy: Copy) -> Trial:
    return copy.fit(copy.prices)


@pytest.fixture(scope="module")
def panel(copy: Copy, prices: Prices) -> Panel:
    return panel_of(copy.config, prices)


# ---------------------------------------------------------------------------- the copy


def test_a_copy_keeps_the_first_test_origin_and_everything_that_is_asked(
    copy: Copy, prices: Prices, dates: np.ndarray
) -> None:
    assert copy.fold.test == make_fold(dates, validation=40, test=0.2).test
    assert copy.prices.frame["symbol"].nunique() == 5
    assert copy.config["horizons"] == [1, 3] and copy.config["ensemble"] == 1
    assert (copy.dates < copy.fold.test).sum() == 120 + 25
    assert copy.whole.frame["date"].min() == prices.frame["date"].min()
    assert copy.whole.frame["date"].max() == copy.prices.frame["date"].max()


def test_a_copy_has_validation_origins_and_names_its_network(prices: Prices) -> None:
    copy = copied(prices, "horizons=[1,50]", "split.validation=90", "model=gru", sessions=250)
    validation = (copy.dates >= copy.fold.validation) & (copy.dates < copy.fold.test)
    assert 50 < validation.sum() < 90
    assert len(copy.fit(copy.prices).forecasts("validation"))
    assert str(copy).startswith("gru, 5 symbols, ")


def test_a_copy_keeps_the_symbol_that_is_the_market(prices: Prices) -> None:
    copy = copied(prices, "data.market=SIM0005")
    assert "SIM0005" in set(copy.prices.frame["symbol"])


# ------------------------------------------------------------------ truncation, perturbation


def test_built_in_parts_pass_every_check(copy: Copy, trial: Trial) -> None:
    lines = [
        check_features(copy),
        check_forecasts(copy, trial),
        check_training(copy, trial),
        check_statistics(copy),
        check_history(copy, trial),
    ]
    assert [line.status for line in lines] == ["pass"] * 5, lines


@pytest.mark.parametrize("name", ["tomorrow", "last_price", "length"])
def test_a_feature_that_looks_ahead_fails_and_is_named(prices: Prices, name: str) -> None:
    line = check_features(copied(prices, f"features.own=[audited_parts.{name}]"))
    assert line.status == "fail"
    assert f"audited_parts.{name}" in line.sentence


def test_an_own_feature_that_does_not_passes(prices: Prices) -> None:
    assert check_features(copied(prices, "features.own=[audited_parts.yesterday]")).status == "pass"


@pytest.mark.parametrize("part", ["features.own=[audited_parts.tomorrow]",
    "head.name=audited_parts.Smoothing", "head.name=audited_parts.Centred"])  # fmt: skip
def test_a_leak_shows_in_the_forecasts(prices: Prices, part: str) -> None:
    copy = copied(prices, part)
    line = check_forecasts(copy, copy.fit(copy.prices))
    assert (line.status, line.name) == ("fail", "truncation")
    assert line.values["differing"] > 0


def test_a_standardisation_of_all_rows_fails(
    prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecast.dataset import datamodule

    def of_everything(panel: Panel, train: Range) -> tuple[np.ndarray, np.ndarray]:
        return np.nanmean(panel.values, 0), np.nanstd(panel.values, 0)

    monkeypatch.setattr(datamodule, "standardisation", of_everything)
    copy = copied(prices)
    assert check_statistics(copy).status == "fail"
    assert check_training(copy, copy.fit(copy.prices)).status == "fail"


def test_a_history_that_matters_warns(prices: Prices) -> None:
    copy = copied(prices, "features.own=[audited_parts.age]")
    line = check_history(copy, copy.fit(copy.prices))
    assert line.status == "warn"
    assert line.values["share_of_std"] > 0.01
    short = replace(copy, whole=copy.prices)
    assert "not checked" in check_history(short, copy.fit(copy.prices)).sentence


# --------------------------------------------------------------------------------- folds


def purged(panel: Panel, fold: Fold, **changes: int) -> dict[str, Range]:
    return ranges(panel, fold, **{"reach": 3, "warmup": 25, **changes})


def test_ranges_are_apart_and_an_unpurged_one_is_not(panel: Panel, dates: np.ndarray) -> None:
    fold = make_fold(dates, validation=40, test=0.2)
    assert check_ranges(panel, [purged(panel, fold)], reach=3, embargo=0).status == "pass"
    line = check_ranges(panel, [purged(panel, fold, reach=2)], reach=3, embargo=0)
    assert line.status == "fail"
    assert f"known on {fold.validation}" in line.sentence


@given(embargo=st.integers(0, 6), wanted=st.integers(0, 6))
@settings(max_examples=12, deadline=None)
def test_an_embargo_is_counted_in_sessions(
    panel: Panel, dates: np.ndarray, embargo: int, wanted: int
) -> None:
    fold = make_fold(dates, validation=40, test=0.2, embargo=embargo)
    line = check_ranges(panel, [purged(panel, fold)], reach=3, embargo=wanted)
    assert line.status == ("pass" if embargo >= wanted else "fail")


def test_empty_ranges_and_overlapping_tests_fail(panel: Panel, dates: np.ndarray) -> None:
    fold = make_fold(dates, validation=40, test=0.2)
    rows = purged(panel, fold)
    empty = {**rows, "train": Range(low=rows["train"].high, high=rows["train"].high)}
    assert "no train row" in check_ranges(panel, [empty], reach=3, embargo=0).sentence
    line = check_ranges(panel, [rows, rows], reach=3, embargo=0)
    assert "test ranges of folds 0 and 1 share rows" in line.sentence
    half = (rows["test"].low + rows["test"].high) // 2
    first = {**rows, "test": Range(low=rows["test"].low, high=half)}
    second = {**rows, "test": Range(low=half, high=rows["test"].high)}
    assert check_ranges(panel, [first, second], reach=3, embargo=0).status == "pass"


FACTS = {
    "train": ["2000-01-03", "2004-12-30"],
    "validation": ["2005-01-03", "2006-12-29"],
    "test": ["2007-01-03", "2007-12-31"],
}


@pytest.mark.parametrize(
    "wrong",
    [
        [{**FACTS, "train": ["2000-01-03", "2005-01-03"]}],
        [{**FACTS, "validation": ["2005-01-03", "2007-01-03"]}],
        [FACTS, FACTS],
    ],
)
def test_stated_ranges_that_overlap_fail(wrong: list[dict[str, list[str]]]) -> None:
    later = {k: [d.replace("200", "201") for d in v] for k, v in FACTS.items()}
    assert check_facts([FACTS, later]).status == "pass"
    assert check_facts(wrong).status == "fail"


def table_of(trial: Trial) -> pd.DataFrame:
    return trial.forecasts("validation", "test")


def written(path: Path, table: pd.DataFrame) -> Path:
    with ForecastWriter(path) as writer:
        for _, block in table.groupby(["part", "fold"], observed=True):
            writer.write(block)
    return path


def test_a_table_whose_parts_overlap_fails(trial: Trial, tmp_path: Path) -> None:
    table = table_of(trial)
    assert check_table(written(tmp_path / "good.parquet", table)).status == "pass"
    first = table.loc[table["part"] == "test", "origin"].min()
    late = table["part"] == "validation"
    late &= table["target_date"] == table.loc[late, "target_date"].max()
    known = table.assign(target_date=table["target_date"].where(~late, first))
    line = check_table(written(tmp_path / "late.parquet", known))
    assert line.status == "fail" and f"known on {first:%Y-%m-%d}" in line.sentence
    again = table[table["part"] == "test"].assign(fold=np.int16(1))
    twice = check_table(written(tmp_path / "twice.parquet", pd.concat([table, again])))
    assert "folds 0 and 1 overlap" in twice.sentence


def test_joined_lines_are_as_bad_as_the_worst() -> None:
    lines = [Line(status=s, name="x", sentence=f"{s}.") for s in ("pass", "warn", "pass", "fail")]
    assert [joined(lines[:n]).status for n in (1, 2, 3, 4)] == ["pass", "warn", "warn", "fail"]
    assert joined(lines[:1] * 2).sentence == "pass; pass."


# -------------------------------------------------------------------------- stored things


def test_what_is_stored_is_made_again_or_fails(copy: Copy, trial: Trial, tmp_path: Path) -> None:
    panel, fold = trial.datamodule.panel, copy.fold
    train = trial.datamodule.ranges["train"]
    assert check_stored_statistics(panel, train, trial.ensemble, "lstm").status == "pass"
    everything = Range(low=panel.offsets[:-1] + 25, high=panel.offsets[1:])
    wrong = check_stored_statistics(panel, everything, trial.ensemble, "lstm")
    assert (wrong.status, wrong.name) == ("fail", "stored statistics")

    table, how = table_of(trial), {"model": "audited", "part": "test"}
    path = written(tmp_path / "f.parquet", table)
    assert check_stored_forecasts(path, trial.ensemble, panel, fold, **how).status == "pass"
    peeking = table.assign(mean=table["mean"] + 0.1 * table["actual"].fillna(0))
    path = written(tmp_path / "g.parquet", peeking)
    assert check_stored_forecasts(path, trial.ensemble, panel, fold, **how).status == "fail"


# ------------------------------------------------------------------------ simulated panels


def simulation(*overrides: str) -> dict[str, Any]:
    return plain(compose("audit", [*TINY, "model.hidden_size=8", *overrides]))


def test_nothing_is_found_where_nothing_is_and_a_leak_is() -> None:
    size: dict[str, Any] = {"panels": 4, "symbols": 5, "sessions": 450, "epochs": 4}
    honest = null_panels(simulation("features=returns"), **size)
    assert honest.line.status == "pass"
    leaking = null_panels(
        simulation("features=returns", "features.own=[audited_parts.tomorrow]"), **size
    )
    assert leaking.skilled == 4 and leaking.beaten >= 2
    assert leaking.line.status == "fail"


@pytest.mark.parametrize("head", ["student_t", "quantile", "point"])
def test_a_planted_signal_is_found_given_time_and_not_without(head: str) -> None:
    size: dict[str, Any] = {"symbols": 15, "sessions": 700, "coefficient": 0.3}
    config = simulation(f"head={head}", "target.delay=1", "features=returns")
    found = planted_signal(config, **size, epochs=6)
    assert found.truth == pytest.approx(0.3, abs=0.05), "as it was planted, at a delay of 0"
    assert found.line.status == "pass" and found.share > 0.8
    slow = {**config, "optimizer": {**config["optimizer"], "lr": 1e-6}}
    assert planted_signal(slow, **size, epochs=1).line.status == "fail"


def test_a_long_horizon_is_tried_too_and_too_few_sessions_are_said() -> None:
    size: dict[str, Any] = {"panels": 1, "symbols": 3, "epochs": 1}
    config = simulation("features=returns", "horizons=[160]")
    assert null_panels(config, **size, sessions=450).panels == 1
    with pytest.raises(ForecastError, match="no training session"):
        null_panels(simulation("features=returns"), **size, sessions=100)


def test_a_share_is_told_to_a_tenth_of_a_percent() -> None:
    line = Planted(found=0.0796, truth=0.1, epochs=1).line
    assert line.status == "fail"
    assert "79.6%" in line.sentence and "after 1 epoch;" in line.sentence


def test_more_than_was_planted_is_no_skill() -> None:
    config = simulation("features=returns", "features.own=[audited_parts.tomorrow]")
    found = planted_signal(config, symbols=10, sessions=500, coefficient=0.2, epochs=4)
    assert found.share > 1.5 and found.line.status == "fail"


@given(panels=st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_the_limit_of_luck_is_the_upper_binomial_one(panels: int) -> None:
    limit = Nulls(panels=panels, beaten=0, skilled=0).limit
    assert stats.binom.sf(limit, panels, 0.05) <= 0.05 < stats.binom.sf(limit - 1, panels, 0.05)
    at, above = (Nulls(panels=panels, beaten=0, skilled=n).line.status for n in (limit, limit + 1))
    assert (at, above) == ("pass", "fail")


# ----------------------------------------------------------------------------- cautions


def test_survivors_are_suspected_where_nobody_fails(
    prices: Prices, panel: Panel, copy: Copy
) -> None:
    real = replace(prices, source="files", warnings=())
    assert cautions.check_survivors(real, panel).status == "warn"
    assert cautions.check_survivors(prices, panel).status == "pass", "simulated"
    frame = prices.frame
    gone = (frame["symbol"] == "SIM0002") & (frame["date"] > frame["date"].iloc[900])
    failed = replace(real, frame=frame[~gone].reset_index(drop=True))
    line = cautions.check_survivors(failed, panel_of(copy.config, failed))
    assert line.status == "warn" and "1 of 6 symbols" in line.sentence
    told = replace(real, warnings=("survivors: chosen later",))
    assert "chosen later" in cautions.check_survivors(told, panel).sentence


def test_only_simulated_prices_are_never_revised(prices: Prices) -> None:
    assert cautions.check_vintage(prices).status == "pass"
    assert cautions.check_vintage(replace(prices, source="files")).status == "warn"


@pytest.mark.parametrize(("price", "decimals", "status"), [
    (100, 2, "pass"), (100, 6, "pass"), (1, 2, "warn"), (1, 6, "pass"), (1e6, 0, "pass"),
    (10, 0, "warn"),
])  # fmt: skip
def test_coarse_prices_warn(
    prices: Prices, panel: Panel, price: float, decimals: int, status: str
) -> None:
    rounded = np.round(price * np.exp((panel.log_price - panel.log_price[0]) / 1000), decimals)
    assert cautions.check_ticks(prices, replace(panel, price=rounded)).status == status


def test_a_tick_that_cannot_be_found_is_not_called_fine(prices: Prices, panel: Panel) -> None:
    assert "simulated" in cautions.check_ticks(prices, panel).sentence
    line = cautions.check_ticks(replace(prices, source="files"), panel)
    assert line.status == "warn" and "cannot be told" in line.sentence
    first = panel.symbol_rows(0)
    price = panel.price.copy()
    price[first] = np.round(1000 * price[first], 2)
    line = cautions.check_ticks(replace(prices, source="files"), replace(panel, price=price))
    assert line.status == "pass" and "in the 1 of 6 symbols" in line.sentence


def test_looks_at_the_test_range_are_counted_from_the_ledger(tmp_path: Path) -> None:
    nobody = cautions.check_looks(tmp_path, "aa")
    assert nobody.status == "warn" and "there is no ledger" in nobody.sentence
    lines = ["time,run,configuration,data,first,last,part", "t,r,c1,aa,f,l,test"]
    lines += ["t,r,c1,aa,f,l,validation", "t,r,c1,bb,f,l,test", "t,r,c1,aa,f,l,test"]
    (tmp_path / "ledger.csv").write_text("\n".join(lines) + "\n")
    line = cautions.check_looks(tmp_path, "aa")
    assert line.status == "pass"
    assert line.values == {"looks": 2, "configurations": 1, "strategies": 0}
    (tmp_path / "ledger.csv").write_text("\n".join([*lines, "t,r,c2,aa,f,l,test"]) + "\n")
    assert cautions.check_looks(tmp_path, "aa").status == "warn"


def test_strategies_traded_on_the_test_range_are_told_apart_from_looks(tmp_path: Path) -> None:
    lines = ["time,run,configuration,data,first,last,part", "t,r,c1,aa,f,l,test"]
    lines += ["t,p/lstm/sign,c2,aa,f,l,test", "t,q/lstm/sign,c2,aa,f,l,test"]
    (tmp_path / "ledger.csv").write_text("\n".join(lines) + "\n")
    line = cautions.check_looks(tmp_path, "aa")
    assert line.status == "pass" and "1 time, and 1 strategy traded on it" in line.sentence
    (tmp_path / "ledger.csv").write_text("\n".join([*lines, "t,p/gru/sign,c3,aa,f,l,test"]) + "\n")
    line = cautions.check_looks(tmp_path, "aa")
    assert line.status == "warn" and "1 time, and 2 strategies traded on it" in line.sentence
    assert line.values == {"looks": 1, "configurations": 1, "strategies": 2}


@pytest.mark.parametrize(("skill", "status"), [(0.0, "warn"), (0.5, "pass"), (-0.5, "warn")])
def test_a_point_forecast_must_beat_the_last_price(skill: float, status: str) -> None:
    random = np.random.default_rng(0)
    actual = random.standard_normal(3000)
    noise = 0.1 * random.standard_normal(3000)
    table = pd.DataFrame({
        "origin": np.repeat(pd.date_range("2000-01-03", periods=300), 10), "horizon": 1,
        "actual": actual, "mean": skill * actual + noise, "q50": np.nan,
    })  # fmt: skip
    line = cautions.check_last_price(table)
    assert line is not None and line.status == status
    assert cautions.check_last_price(table.assign(q50=0.0)) is None, "no point forecast"


def test_a_line_reads_as_one() -> None:
    line = Line(status="warn", name="ticks", sentence="coarse.")
    assert str(line) == "warn  ticks: coarse."
