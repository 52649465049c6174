"""Scores against scoringrules and against loops over rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.config import ForecastError
from forecast.evaluation.scores import SCORES, Scores, objective, table
from forecast.forecasts import INNER, LEVELS, OPTIONAL, QUANTILES

INNER_NAMES = list(QUANTILES[1:-1])


def make_block(
    *,
    model: str = "lstm",
    part: str = "test",
    symbols: tuple[str, ...] = ("AAPL", "KO", "RRC"),
    days: int = 30,
    horizons: tuple[int, ...] = (1, 5),
    seed: int = 0,
) -> pd.DataFrame:
    """Normal forecasts; actuals do not depend on the model, and a tenth of them is unknown."""
    keys = pd.MultiIndex.from_product([symbols, range(days), horizons]).to_frame(index=False)
    dates = pd.bdate_range("2020-01-01", periods=days).to_numpy().astype("datetime64[s]")
    n = len(keys)
    outcome = np.random.default_rng(7)
    actual = np.where(outcome.uniform(size=n) < 0.1, np.nan, outcome.normal(size=n).round(1))
    rng = np.random.default_rng((seed, *model.encode()))
    mean, std = rng.normal(0, 0.1, n).round(1), rng.uniform(0.5, 2, n)
    block = pd.DataFrame(
        {
            "model": model,
            "part": part,
            "symbol": keys[0],
            "origin": dates[keys[1]],
            "horizon": keys[2].astype("int16"),
            "scale": outcome.uniform(0.5, 2, n),
            "actual": actual,
            "mean": mean.astype("float32"),
        }
    ).astype({"model": "category", "part": "category", "symbol": "category"})
    values = mean[:, None] + std[:, None] * stats.norm.ppf(LEVELS)
    quantiles = pd.DataFrame(values.astype("float32"), columns=list(QUANTILES))
    others = pd.DataFrame(rng.uniform(size=(n, 5)).astype("float32"), columns=list(OPTIONAL))
    return pd.concat([block, quantiles, others], axis=1)


def as_point(block: pd.DataFrame) -> pd.DataFrame:
    return block.assign(**dict.fromkeys((*QUANTILES, *OPTIONAL), np.nan))


def summary(*blocks: pd.DataFrame) -> dict[str, Any]:
    scores = Scores()
    for block in blocks:
        scores.add(block)
    return scores.summary()


def by_hand(row: Any) -> dict[str, float]:
    """Every score of one row, from its definition."""
    y, unit = row.actual, row.scale * np.sqrt(row.horizon)
    pinball = [
        (level - (y < q)) * (y - q)
        for level, q in zip(INNER, (float(getattr(row, name)) for name in INNER_NAMES), strict=True)
    ]
    crps, error = 2 * np.mean(pinball), abs(y - float(row.q50))
    return {
        "crps": crps,
        "crps_exact": row.crps_exact,
        "mae": error,
        "mae_zero": abs(y),
        "coverage_50": row.q25 <= y <= row.q75,
        "coverage_90": row.q05 <= y <= row.q95,
        "log_score": row.nll,
        "crps_scaled": crps / unit,
        "mae_scaled": error / unit,
    }


def test_scores_are_means_of_their_definitions_over_scored_rows() -> None:
    block = make_block()
    found = summary(block)["scores"]["test"]["lstm"]
    assert list(found) == ["1", "5"]
    for horizon, values in found.items():
        rows = block[(block["horizon"] == int(horizon)) & block["actual"].notna()]
        expected = pd.DataFrame([by_hand(row) for row in rows.itertuples()]).mean()
        assert values.pop("rows") == len(rows)
        assert list(values) == list(SCORES)
        assert values == pytest.approx(expected.to_dict(), rel=1e-12)


def test_crps_equals_scoringrules_at_the_inner_levels() -> None:
    block = make_block(horizons=(1,)).dropna(subset="actual")
    expected = scoringrules.crps_quantile(
        block["actual"].to_numpy(),
        block[INNER_NAMES].to_numpy(dtype="float64"),
        np.array(INNER),
    )
    found = summary(block)["scores"]["test"]["lstm"]["1"]["crps"]
    assert found == pytest.approx(expected.mean(), abs=1e-6)


def test_calibration_counts_actuals_at_and_between_the_levels() -> None:
    block = make_block(horizons=(1,))
    block.loc[3, "actual"] = float(block.loc[3, "q50"])  # a tie lies at or below the level
    found = summary(block)["calibration"]["test"]["lstm"]["1"]
    known = block.dropna(subset="actual")
    below = known["actual"].to_numpy()[:, None] <= known[list(QUANTILES)].to_numpy(dtype="float64")
    assert found["coverage"] == pytest.approx(below.mean(axis=0).tolist())
    bins = np.bincount(21 - below.sum(axis=1), minlength=22)
    assert found["pit_counts"] == bins.tolist()
    assert sum(found["pit_counts"]) == len(known)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(20, 400))
def test_scores_do_not_depend_on_how_rows_are_split_or_mixed(seed: int, size: int) -> None:
    blocks = [
        make_block(model=model, part=part)
        for part in ("test", "validation")
        for model in ("lstm", "historical")
    ]
    rng = np.random.default_rng(seed)
    mixed = pd.concat([block.astype({"model": str, "part": str}) for block in blocks])
    mixed = mixed.iloc[rng.permutation(len(mixed))]
    pieces = [mixed.iloc[at : at + size] for at in range(0, len(mixed), size)]
    whole, split = summary(*blocks), summary(*pieces)
    for kind in ("scores", "calibration"):
        for part in ("validation", "test"):
            for model in ("lstm", "historical"):
                for horizon in ("1", "5"):
                    one, other = (x[kind][part][model][horizon] for x in (whole, split))
                    assert one.keys() == other.keys()
                    for name in one:
                        assert other[name] == pytest.approx(one[name], rel=1e-12), name


def test_the_same_stream_gives_the_same_bytes_and_parts_stand_in_order() -> None:
    blocks = [
        make_block(model=model, part=part)
        for part in ("test", "validation")
        for model in ("lstm", "historical")
    ]
    assert json.dumps(summary(*blocks)) == json.dumps(summary(*blocks))
    assert list(summary(*blocks)["scores"]) == ["validation", "test"]
    alone = summary(*blocks[:2])
    assert summary(*blocks)["scores"]["test"] == alone["scores"]["test"]


def test_daily_losses_are_means_over_symbols() -> None:
    block = make_block()
    scores = Scores()
    # Dates may arrive in any order: later symbols may have been listed earlier.
    for symbols in (block["origin"] >= "2020-01-20", block["origin"] < "2020-01-20"):
        scores.add(block[symbols])
    found = scores.daily("test", "lstm", 5)
    rows = block[(block["horizon"] == 5) & block["actual"].notna()]
    hand = pd.DataFrame([by_hand(row) for row in rows.itertuples()])
    expected = hand.astype(float).groupby(rows["origin"].to_numpy()).mean()
    np.testing.assert_allclose(found[list(SCORES)], expected)
    assert found.index.to_list() == expected.index.to_list()
    assert found["rows"].to_list() == rows.groupby("origin").size().to_list()


def test_a_point_model_is_scored_by_absolute_error_of_its_mean() -> None:
    block = as_point(make_block(part="validation"))
    found = summary(block)
    rows = found["scores"]["validation"]["lstm"]
    known = block[(block["horizon"] == 5) & block["actual"].notna()]
    error = (known["actual"] - known["mean"]).abs()
    assert rows["5"]["mae"] == pytest.approx(error.mean())
    undefined = {"crps", "crps_exact", "coverage_50", "coverage_90", "log_score", "crps_scaled"}
    assert {name for name, value in rows["5"].items() if value is None} == undefined
    assert found["calibration"]["validation"]["lstm"] == {"1": None, "5": None}
    scaled = np.mean([rows[h]["mae_scaled"] for h in ("1", "5")])
    assert objective(found["scores"], "lstm") == pytest.approx(scaled)


def test_a_log_score_is_null_where_the_model_has_no_density() -> None:
    block = make_block()
    block.loc[block["horizon"] == 5, "nll"] = np.nan
    found = summary(block)["scores"]["test"]["lstm"]
    assert found["1"]["log_score"] is not None
    assert found["5"]["log_score"] is None


def test_objective_is_validation_crps_in_scaled_units_over_horizons() -> None:
    found = summary(make_block(part="validation"), make_block())["scores"]
    rows = found["validation"]["lstm"]
    expected = (rows["1"]["crps_scaled"] + rows["5"]["crps_scaled"]) / 2
    assert objective(found, "lstm") == pytest.approx(expected)
    with pytest.raises(ForecastError, match="gru is not scored on the validation part"):
        objective(found, "gru")


@pytest.mark.parametrize("change", ["drop", "move", "rename"])
def test_models_scored_on_other_rows_are_refused(change: str) -> None:
    other = make_block(model="historical").reset_index(drop=True)
    known = int(other["actual"].first_valid_index())
    if change == "drop":
        other = other.drop(index=known)
    elif change == "move":
        other.loc[known, "origin"] += np.timedelta64(400, "D")
    else:
        other["symbol"] = other["symbol"].cat.rename_categories({"KO": "PEP"})
    with pytest.raises(
        ForecastError, match=r"test, horizon \d: historical has .* Score all models"
    ):
        summary(make_block(), other)
    shuffled = make_block(model="historical").sample(frac=1, random_state=0)
    summary(make_block(), shuffled)


def test_rows_without_an_actual_are_not_scored() -> None:
    block = make_block()
    assert summary(block.assign(actual=np.nan)) == {"scores": {}, "calibration": {}}
    assert summary(block) == summary(block.dropna(subset="actual"))


def test_the_table_has_a_line_for_each_model_and_fits_a_terminal() -> None:
    metrics = summary(
        make_block(part="validation"),
        make_block(),
        as_point(make_block(model="historical")),
    )
    text = table(metrics)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[0] == "validation, 1 session ahead"
    assert sum(line.startswith("lstm") for line in lines) == 4
    assert sum(line.startswith("historical") for line in lines) == 2
    point = next(line for line in lines if line.startswith("historical")).split()
    assert point.count("-") == 5
