"""Portfolio risk: right for what it is asked about, blind to what came later, tested soundly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forecast.config import ForecastError
from forecast.evaluation.risk import Risk
from forecast.forecasts import LEVELS, QUANTILES, ForecastWriter
from forecast.portfolio.coverage import portfolio_risk
from forecast.weights import validate_weights

Z = stats.norm.ppf(LEVELS)
OPTIONS: dict[str, Any] = {"part": "test", "horizon": 1, "models": ["lstm"]}
SHORT = {"template": 150, "least": 100}
VALIDATION = 110
PARTS = ("validation", "test")


def normal_panel(
    origins: int = 200,
    symbols: int = 4,
    *,
    correlation: float = 0.5,
    horizon: int = 1,
    seed: int = 0,
    model: str = "lstm",
) -> pd.DataFrame:
    """True normal forecasts of returns that have one correlation for all pairs, percent."""
    rng = np.random.default_rng(seed)
    total = origins + horizon
    step = np.sqrt(correlation) * rng.normal(size=(total, 1))
    step = step + np.sqrt(1 - correlation) * rng.normal(size=(total, symbols))
    path = np.vstack([np.zeros(symbols), step.cumsum(axis=0)])
    outcome = path[1 + horizon :] - path[1 : origins + 1]
    date = pd.bdate_range("2010-01-01", periods=total).to_numpy().astype("datetime64[s]")
    t, s = (index.ravel(order="F") for index in np.indices((origins, symbols)))
    std = np.sqrt(horizon)
    table = pd.DataFrame(
        {
            "model": model,
            "fold": 0,
            "part": np.where(t < VALIDATION, "validation", "test"),
            "symbol": [f"S{number}" for number in s],
            "origin": date[t],
            "horizon": horizon,
            "delay": 0,
            "target_date": date[t + horizon],
            "price": 1.0,
            "scale": 1.0,
            "actual": outcome[t, s],
            "realized_variance": 1.0,
            "mean": 0.0,
            "std": std,
        }
    )
    return table.assign(**dict(zip(QUANTILES, std * Z, strict=True)))


def student_panel(
    origins: int, groups: int, size: int, *, df: int = 5, correlation: float = 0.4, seed: int = 0
) -> pd.DataFrame:
    """True Student t forecasts; symbols of a group are multivariate t, groups independent."""
    rng = np.random.default_rng(seed)
    shape = (origins + 1, groups, size)
    normal = np.sqrt(correlation) * rng.normal(size=(*shape[:2], 1))
    normal = normal + np.sqrt(1 - correlation) * rng.normal(size=shape)
    outcome = normal / np.sqrt(rng.chisquare(df, size=(*shape[:2], 1)) / df)
    table = normal_panel(origins, groups * size)
    width = rng.uniform(0.5, 2, len(table))
    law = stats.t(df)
    table["actual"] = width * outcome[:origins].reshape(origins, -1).ravel(order="F")
    table["part"] = np.where(table["origin"] < np.sort(table["origin"].unique())[510], *PARTS)
    for level, name in ((0.01, "es01"), (0.05, "es05")):
        z = law.ppf(level)
        table[name] = -width * (df + z**2) / (df - 1) * law.pdf(z) / level
    return table.assign(**{n: width * q for n, q in zip(QUANTILES, law.ppf(LEVELS), strict=True)})


def write(path: Path, *tables: pd.DataFrame) -> Path:
    with ForecastWriter(path) as writer:
        for part in PARTS:
            for table in tables:
                writer.write(table[table["part"] == part])
    return path


def weights_of(table: pd.DataFrame, *, model: str = "lstm", **strategies: Any) -> pd.DataFrame:
    """The same weights at every test origin."""
    origins = table.loc[table["part"] == "test", "origin"].unique()
    rows = [
        (model, strategy, 0, "test", origin, f"S{s}", weight)
        for strategy, weights in strategies.items()
        for origin in origins
        for s, weight in enumerate(weights)
        if weight
    ]
    columns = ["model", "strategy", "fold", "part", "origin", "symbol", "weight"]
    return validate_weights(pd.DataFrame(rows, columns=columns), "test")


def test_risk_of_correlated_symbols_is_right_where_independence_would_fail(tmp_path: Path) -> None:
    table = normal_panel(1900, 4, correlation=0.6)
    weights = weights_of(table, hedged=[0.5, 0.5, -0.5, -0.5], single=[0, 1, 0, 0])
    path = write(tmp_path / "f.parquet", table)
    rows, metrics = portfolio_risk(path, weights=weights, **OPTIONS)
    wide = np.full((4, 4), 0.6) + 0.4 * np.eye(4)
    for label, w in (
        ("equal_weight", np.full(4, 0.25)),
        ("hedged", np.array([0.5, 0.5, -0.5, -0.5])),
        ("single", np.array([0, 1, 0, 0])),
    ):
        mine = rows[rows["portfolio"] == label]
        together, apart = np.sqrt(w @ wide @ w), np.sqrt(w @ w)
        for name, level in (("01", 0.01), ("05", 0.05)):
            at_risk = stats.norm.ppf(level) * together / 100
            shortfall = -stats.norm.pdf(stats.norm.ppf(level)) / level * together / 100
            assert mine[f"var{name}"].mean() == pytest.approx(at_risk, rel=0.1)
            assert mine[f"es{name}"].mean() == pytest.approx(shortfall, rel=0.1)
            found = metrics[label]["lstm"][name]
            assert found["rate"] == (mine["realised"] < mine[f"var{name}"]).mean()
            assert found["rate"] == pytest.approx(level, abs=0.012)
            assert min(found["kupiec_p"], found["conditional_p"], found["es_p"]) > 0.01
            assert found["origins"] == len(mine) == 1900 - VALIDATION - 141
        if label != "single":
            blind = np.mean(mine["realised"] < stats.norm.ppf(0.05) * apart / 100)
            assert blind > 0.1 if label == "equal_weight" else blind < 0.01


def test_right_forecasts_with_fat_tails_are_refused_as_often_as_stated(tmp_path: Path) -> None:
    """Through the shipped path: 20 groups of 3 symbols, and single ones held long and short."""
    groups, size, origins = 20, 3, 510 + 600
    table = student_panel(origins, groups, size)
    eye = np.kron(np.eye(groups), np.full(size, 1 / size))
    held = {f"group{g}": row for g, row in enumerate(eye)}
    held |= {f"long{g}": row for g, row in enumerate(np.eye(groups * size)[::size])}
    held |= {f"short{g}": -row for g, row in enumerate(np.eye(groups * size)[1::size])}
    path = write(tmp_path / "f", table)
    _, metrics = portfolio_risk(path, weights=weights_of(table, **held), **OPTIONS)
    refused = []
    for kind in ("group", "long", "short"):
        for name, level in (("01", 0.01), ("05", 0.05)):
            found = [metrics[f"{kind}{g}"]["lstm"][name] for g in range(groups)]
            refused += [one["es_p"] < 0.05 for one in found]
            for figure, wanted in (("es_excess", 0.0), ("rate", level)):
                value = np.array([one[figure] for one in found])
                assert abs(value.mean() - wanted) < 3.5 * value.std() / np.sqrt(groups)
    # Six times 20, not all independent: with Gaussian tails a quarter of them would be refused.
    assert np.mean(refused) < 0.12


@pytest.mark.parametrize("sign", [1, -1])
def test_one_symbol_alone_has_the_risk_that_its_table_states(tmp_path: Path, sign: int) -> None:
    table = student_panel(1100, 1, 2)
    path = write(tmp_path / "f", table)
    rows, _ = portfolio_risk(path, weights=weights_of(table, one=[0, sign]), **OPTIONS)
    mine = rows[rows["portfolio"] == "one"].set_index("origin")
    stated = table[table["symbol"] == "S1"].set_index("origin").loc[mine.index]
    assert len(mine) == 590
    for level, error in (("01", 0.012), ("05", 0.004)):
        # A short of a symmetric law loses what a long would, but for simple returns.
        for kind, column in (("var", "q"), ("es", "es")):
            wanted = sign * np.expm1(sign * stated[column + level] / 100)
            np.testing.assert_allclose(mine[kind + level], wanted, rtol=error + 0.003)


def test_wrong_forecasts_are_found(tmp_path: Path) -> None:
    table = normal_panel(1200, 4)
    table[list(QUANTILES)] *= 0.7
    _, metrics = portfolio_risk(write(tmp_path / "f.parquet", table), **OPTIONS)
    for found in metrics["equal_weight"]["lstm"].values():
        assert max(found["rate_p"], found["kupiec_p"], found["es_p"]) < 0.01
        assert found["es_excess"] > 0.2


def test_nothing_later_matters(tmp_path: Path) -> None:
    table = normal_panel(180, 3, horizon=3)
    weights = weights_of(table, mine=[0.5, -0.2, 0.1])
    options = {**OPTIONS, **SHORT, "horizon": 3}
    whole, _ = portfolio_risk(write(tmp_path / "f", table), weights=weights, **options)
    for cut in np.sort(table["origin"].unique())[[130, 150]]:
        early = table[table["origin"] <= cut].copy()
        early.loc[early["target_date"] > cut, ["actual", "target_date"]] = None
        early.loc[early["actual"].isna(), "realized_variance"] = np.nan
        known = weights[weights["origin"] <= cut]
        found, _ = portfolio_risk(write(tmp_path / "g", early), weights=known, **options)
        wanted = whole[whole["origin"] <= cut].reset_index(drop=True)
        assert len(found) and found["realised"].isna().any()
        shared = found["realised"].notna()
        pd.testing.assert_series_equal(found["realised"][shared], wanted["realised"][shared])
        pd.testing.assert_frame_equal(
            found.drop(columns="realised"), wanted.drop(columns="realised")
        )


def test_the_outcome_is_the_simple_return_of_the_weights_held_still(tmp_path: Path) -> None:
    table = normal_panel(150, 3)
    w = np.array([0.7, -0.4, 0.0])
    # What is not held may be unknown.
    table.loc[(table["symbol"] == "S2") & (table["part"] == "test"), "actual"] = np.nan
    path = write(tmp_path / "f", table)
    rows, _ = portfolio_risk(path, weights=weights_of(table, mine=w), **OPTIONS, **SHORT)
    mine = rows[rows["portfolio"] == "mine"].set_index("origin")["realised"]
    actual = table.pivot(index="origin", columns="symbol", values="actual").loc[mine.index]
    wanted = 0.7 * np.expm1(actual["S0"] / 100) - 0.4 * np.expm1(actual["S1"] / 100)
    np.testing.assert_allclose(mine, wanted, rtol=1e-12)
    assert rows[rows["portfolio"] == "equal_weight"]["realised"].isna().all()


def test_counts_are_tested_as_those_of_a_single_symbol(tmp_path: Path) -> None:
    """Every horizon, against the table of risks of a symbol that is the portfolio."""
    for horizon in (1, 4):
        table = normal_panel(400, 3, horizon=horizon)
        path = write(tmp_path / "f", table)
        rows, metrics = portfolio_risk(path, **{**OPTIONS, **SHORT, "horizon": horizon})
        known = rows.rename(columns={"realised": "actual", "var01": "q01", "var05": "q05"})
        known = known.assign(symbol="p", horizon=horizon, delay=0)
        risk = Risk()
        risk.add(known.astype(dict.fromkeys(("part", "model", "symbol"), "category")))
        wanted = risk.summary()["test"]["lstm"][str(horizon)]
        for level, found in metrics["equal_weight"]["lstm"].items():
            for name in ("rate", "rate_t", "rate_p"):
                assert found[name] == pytest.approx(wanted[level][name])
            for name in ("kupiec_p", "independence_p", "conditional_p"):
                assert found[name] == pytest.approx(wanted[level]["symbols"]["p"][name])


def test_portfolios_asked_about_together_or_alone_are_the_same(tmp_path: Path) -> None:
    table = normal_panel(140, 3)
    path = write(tmp_path / "f", table)
    named = {"a": [1, 0, 0], "b": [0.2, 0.3, -0.5], "c": [0, 2, 1]}
    rows, metrics = portfolio_risk(path, weights=weights_of(table, **named), **OPTIONS, **SHORT)
    assert set(metrics) == {"equal_weight", "a", "b", "c"}
    for label, w in named.items():
        alone, single = portfolio_risk(
            path, weights=weights_of(table, **{label: w}), **OPTIONS, **SHORT
        )
        assert single[label] == metrics[label]
        pd.testing.assert_frame_equal(
            alone[alone["portfolio"] == label].reset_index(drop=True),
            rows[rows["portfolio"] == label].reset_index(drop=True),
        )


def test_each_model_is_asked_about_its_strategies_and_the_benchmarks(tmp_path: Path) -> None:
    table, other = normal_panel(140, 3), normal_panel(140, 3, model="gjr_t")
    point = normal_panel(140, 3, model="point").assign(**dict.fromkeys(QUANTILES, np.nan), std=None)
    path = write(tmp_path / "f", table, other, point)
    weights = pd.concat(
        [
            weights_of(table, sign=[1, -1, 0]),
            weights_of(table, model="gjr_t", top=[0, 0, 1]),
            weights_of(table, model="none", equal_weight=[1, 1, 1], sign=[0, 1, 0]),
        ]
    )
    options = {**OPTIONS, **SHORT, "models": ["lstm", "gjr_t", "point"]}
    rows, metrics = portfolio_risk(path, weights=validate_weights(weights, "test"), **options)
    assert {label: sorted(models) for label, models in metrics.items()} == {
        "equal_weight": ["gjr_t", "lstm"],
        "sign": ["gjr_t", "lstm"],  # its own, and the benchmark of that name
        "top": ["gjr_t"],
    }
    plain, _ = portfolio_risk(path, **options)
    equal = rows[rows["portfolio"] == "equal_weight"].reset_index(drop=True)
    pd.testing.assert_frame_equal(equal, plain)
    for model, w in (("lstm", [1, -1, 0]), ("gjr_t", [0, 1, 0])):
        sign = rows[(rows["portfolio"] == "sign") & (rows["model"] == model)]
        alone, _ = portfolio_risk(path, weights=weights_of(table, only=w), **OPTIONS, **SHORT)
        only = alone[alone["portfolio"] == "only"]
        np.testing.assert_array_equal(sign["realised"], only["realised"])


def test_origins_without_a_holding_or_a_forecast_of_one_are_left_out(tmp_path: Path) -> None:
    table = normal_panel(160, 3)
    dates = np.sort(table.loc[table["part"] == "test", "origin"].unique())
    gone = table["origin"].isin(dates[10:20]) & (table["symbol"] == "S2")
    weights = weights_of(table, all=[0.3, 0.3, 0.4], two=[0.5, 0.5, 0], unknown=[0, 0, 0, 1])
    weights.loc[(weights["strategy"] == "two") & (weights["origin"] == dates[30]), "weight"] = 0
    weights = weights[~((weights["strategy"] == "two") & (weights["origin"] == dates[40]))]
    path = write(tmp_path / "f", table[~gone])
    rows, metrics = portfolio_risk(path, weights=weights, **OPTIONS, **SHORT)
    there = {label: set(mine["origin"]) for label, mine in rows.groupby("portfolio")}
    assert "unknown" not in there and "unknown" not in metrics
    assert there["equal_weight"] == set(dates)
    assert there["equal_weight"] - there["all"] == set(dates[10:20])
    assert there["equal_weight"] - there["two"] == {dates[30], dates[40]}


def test_origins_whose_outcome_is_lost_are_counted_and_those_not_yet_known_are_not(
    tmp_path: Path,
) -> None:
    table = normal_panel(160, 3)
    dates = np.sort(table.loc[table["part"] == "test", "origin"].unique())
    last, second = table["origin"] == dates[-1], table["symbol"] == "S2"
    table.loc[last | (second & table["origin"].isin(dates[5:8])), "actual"] = np.nan
    gone = second & table["origin"].isin(dates[10:20])
    weights = weights_of(table, all=[0.3, 0.3, 0.4], two=[0.5, 0.5, 0])
    weights = weights[~((weights["strategy"] == "all") & (weights["origin"] == dates[15]))]
    path = write(tmp_path / "f", table[~gone])
    _, metrics = portfolio_risk(path, weights=weights, **OPTIONS, **SHORT)
    for label, tested, lost in (("all", 36, 3 + 9), ("two", 49, 0), ("equal_weight", 46, 3)):
        for found in metrics[label]["lstm"].values():
            assert (found["origins"], found["origins_lost"]) == (tested, lost)


def test_figures_are_plain_repeatable_and_null_where_undefined(tmp_path: Path) -> None:
    table = normal_panel(VALIDATION + 15, 3)
    path = write(tmp_path / "f", table)
    rows, metrics = portfolio_risk(path, **OPTIONS, **SHORT)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    found = metrics["equal_weight"]["lstm"]["05"]
    assert found["kupiec_p"] is None and found["es_p"] is None and found["rate_t"] is None
    assert found["origins"] == 15 and found["rate"] is not None and found["mean_es"] < 0
    again, repeated = portfolio_risk(path, **OPTIONS, **SHORT)
    assert repeated == metrics
    pd.testing.assert_frame_equal(again, rows)


def test_too_short_a_past_gives_an_empty_table_and_wrong_questions_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "f", normal_panel(150, 2))
    rows, metrics = portfolio_risk(path, **OPTIONS)
    full, _ = portfolio_risk(path, **OPTIONS, **SHORT)
    assert rows.empty and metrics == {} and len(full)
    pd.testing.assert_series_equal(rows.dtypes, full.dtypes)
    pd.testing.assert_frame_equal(pd.concat([rows, full], ignore_index=True), full)
    with pytest.raises(ForecastError, match="gru has no test forecasts 1 sessions ahead"):
        portfolio_risk(path, **{**OPTIONS, "models": ["gru"]})
