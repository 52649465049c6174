"""Scores against scoringrules, closed forms, and loops over rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.config import ForecastError
from forecast.evaluation.scores import SCORES, Scores, objective, pinball, score_rows, table
from forecast.forecasts import INNER, LEVELS, OPTIONAL, QUANTILES
from forecast.models.distributions import SkewedT

INNER_NAMES = list(QUANTILES[1:-1])
MakeBlock = Callable[..., pd.DataFrame]


def as_point(block: pd.DataFrame) -> pd.DataFrame:
    return block.assign(**dict.fromkeys(("std", *QUANTILES, *OPTIONAL), np.nan))


def summary(*blocks: pd.DataFrame) -> dict[str, Any]:
    scores = Scores()
    for block in blocks:
        scores.add(block)
    return scores.summary()


def by_hand(row: Any) -> dict[str, float]:
    """Every score of one row, from its definition."""
    y, unit, v = row.actual, row.scale * np.sqrt(row.horizon), float(row.std) ** 2 + row.mean**2
    losses = [
        (level - (y < q)) * (y - q)
        for level, q in zip(INNER, (float(getattr(row, name)) for name in INNER_NAMES), strict=True)
    ]
    crps, error = 2 * np.mean(losses), abs(y - float(row.q50))

    def winkler(low: float, high: float, outside: float) -> float:
        if y < low:
            return high - low + 2 / outside * (low - y)
        return high - low + (2 / outside * (y - high) if y > high else 0.0)

    def fz0(level: float, q: float, e: float) -> float:
        return -(y <= q) * (q - y) / (level * e) + q / e + np.log(-e) - 1

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
        "crps_exact_scaled": row.crps_exact / unit,
        "qlike": np.log(v) + row.realized_variance / v,
        "interval_50": winkler(float(row.q25), float(row.q75), 0.5),
        "interval_90": winkler(float(row.q05), float(row.q95), 0.1),
        "fz0_01": fz0(0.01, float(row.q01), float(row.es01)),
        "fz0_05": fz0(0.05, float(row.q05), float(row.es05)),
        "hits_01": y < row.q01,
        "hits_05": y < row.q05,
    }


def test_scores_are_means_of_their_definitions_over_scored_rows(make_block: MakeBlock) -> None:
    block = make_block()
    found = summary(block)["scores"]["test"]["lstm"]
    assert list(found) == ["1", "5"]
    for horizon, values in found.items():
        rows = block[(block["horizon"] == int(horizon)) & block["actual"].notna()]
        expected = pd.DataFrame([by_hand(row) for row in rows.itertuples()]).mean()
        assert values.pop("rows") == len(rows)
        assert len(values.pop("pinball")) == len(values.pop("pinball_scaled")) == len(LEVELS)
        assert list(values) == list(SCORES)
        assert values == pytest.approx(expected.to_dict(), rel=1e-12)


def test_scores_equal_scoringrules_at_the_same_levels(make_block: MakeBlock) -> None:
    block = make_block(horizons=(1,)).dropna(subset="actual")
    y = block["actual"].to_numpy()
    value = {name: block[name].to_numpy(dtype="float64") for name in QUANTILES}
    found = score_rows(block, pinball(block))
    inner = np.stack([value[name] for name in INNER_NAMES], axis=1)
    np.testing.assert_allclose(
        found["crps"], scoringrules.crps_quantile(y, inner, np.array(INNER)), atol=1e-6
    )
    for name, low, high, outside in (("interval_50", "q25", "q75", 0.5),
                                     ("interval_90", "q05", "q95", 0.1)):  # fmt: skip
        expected = scoringrules.interval_score(y, value[low], value[high], outside)
        np.testing.assert_allclose(found[name], expected, atol=1e-6)
    for level, name, loss in zip(LEVELS, QUANTILES, pinball(block), strict=True):
        expected = scoringrules.quantile_score(y, value[name], level)
        np.testing.assert_allclose(loss, expected, atol=1e-6)


@pytest.mark.parametrize("skew", [0.0, -0.3])
def test_the_mean_over_999_levels_is_the_closed_form_crps(skew: float) -> None:
    """Twice the mean pinball loss goes to what heads with a density state as crps_exact."""
    y = np.random.default_rng(1).standard_t(5, 500)

    def model(size: int) -> SkewedT:
        mu, sigma, df, lean = (np.full(size, v) for v in (0.1, 1.0, 6.0, skew))
        return SkewedT(mu=mu, sigma=sigma, df=df, skew=lean)

    grid = np.linspace(-40, 40, 200_001)
    levels = (np.arange(999) + 0.5) / 999
    error = y[:, None] - np.interp(levels, model(len(grid)).pit(grid), grid)
    crps = 2 * np.maximum(levels * error, (levels - 1) * error).mean(axis=1)
    np.testing.assert_allclose(crps, model(len(y)).crps(y), atol=1e-3)


def test_pinball_per_level_is_its_mean_and_makes_up_the_crps(make_block: MakeBlock) -> None:
    found = summary(make_block())["scores"]["test"]["lstm"]["5"]
    block = make_block().query("horizon == 5").dropna(subset="actual")
    assert found["pinball"] == pytest.approx(pinball(block).mean(axis=1).tolist(), rel=1e-12)
    scaled = (pinball(block) / (block["scale"] * np.sqrt(5)).to_numpy()).mean(axis=1)
    assert found["pinball_scaled"] == pytest.approx(scaled.tolist(), rel=1e-12)
    for name in ("", "_scaled"):
        expected = 2 * np.mean(found[f"pinball{name}"][1:-1])
        assert found[f"crps{name}"] == pytest.approx(expected, rel=1e-12)
    point = summary(as_point(make_block()))["scores"]["test"]["lstm"]["5"]
    assert point["pinball"] is point["pinball_scaled"] is None


@settings(max_examples=25, deadline=None)
@given(quantile=st.floats(0.8, 1.25), shortfall=st.floats(0.8, 1.25))
def test_no_other_forecast_has_a_lower_expected_fz0_than_the_truth(
    make_block: MakeBlock, quantile: float, shortfall: float
) -> None:
    """Value-at-risk and expected shortfall of a normal, on its own quantiles as a sample."""
    y = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    rows = make_block(symbols=("A",), days=20_000 // 2)
    rows = rows.assign(actual=y, realized_variance=1.0)

    def loss(a: float, b: float, name: str, level: float) -> float:
        q = stats.norm.ppf(level)
        e = -stats.norm.pdf(q) / level
        stated = rows.assign(**{f"q{name}": a * q, f"es{name}": b * e})
        return float(score_rows(stated, pinball(stated))[f"fz0_{name}"].mean())

    for name, level in (("01", 0.01), ("05", 0.05)):
        assert loss(quantile, shortfall, name, level) >= loss(1, 1, name, level) - 1e-4


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(0.3, 3))
def test_no_other_variance_has_a_lower_expected_qlike_than_the_truth(
    make_block: MakeBlock, factor: float
) -> None:
    rows = make_block().dropna(subset="actual")
    truth = float(rows["realized_variance"].mean())

    def loss(v: float) -> float:
        stated = rows.assign(mean=0.0, std=np.sqrt(v))
        return float(score_rows(stated, pinball(stated))["qlike"].mean())

    assert loss(factor * truth) >= loss(truth) - 1e-12


@pytest.mark.parametrize(
    ("change", "undefined"),
    [
        ({"es01": 0.0}, {"fz0_01"}),
        ({"es05": np.nan}, {"fz0_05"}),
        ({"std": np.nan}, {"qlike"}),
        ({"std": 0.0, "mean": 0.0}, {"qlike"}),
        ({"realized_variance": np.nan}, {"qlike"}),
        ({"nll": np.nan}, {"log_score"}),
    ],
    ids=str,
)
def test_a_score_that_one_row_leaves_undefined_is_null(
    make_block: MakeBlock, change: dict[str, float], undefined: set[str]
) -> None:
    """On its date and as a whole; all others stand."""
    block = make_block(horizons=(1,))
    row = int(block["actual"].first_valid_index())
    for name, value in change.items():
        block.loc[row, name] = value
    scores = Scores()
    scores.add(block)
    found = scores.summary()["scores"]["test"]["lstm"]["1"]
    assert {name for name, value in found.items() if value is None} == undefined
    daily = scores.daily("test", "lstm", 1)
    for name in SCORES:
        null = daily.index[daily[name].isna()].to_list()
        assert null == ([block.loc[row, "origin"]] if name in undefined else [])


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(80, 400))
def test_scores_do_not_depend_on_how_rows_are_split_or_mixed(
    make_block: MakeBlock, seed: int, size: int
) -> None:
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
    assert split["calibration"] == whole["calibration"]
    for part in ("validation", "test"):
        for model in ("lstm", "historical"):
            for horizon in ("1", "5"):
                one, other = (x["scores"][part][model][horizon] for x in (whole, split))
                assert one.keys() == other.keys()
                for name in one:
                    assert other[name] == pytest.approx(one[name], rel=1e-12), name


def test_the_same_stream_gives_the_same_bytes_and_parts_stand_in_order(
    make_block: MakeBlock,
) -> None:
    blocks = [
        make_block(model=model, part=part)
        for part in ("test", "validation")
        for model in ("lstm", "historical")
    ]
    assert json.dumps(summary(*blocks)) == json.dumps(summary(*blocks))
    assert list(summary(*blocks)["scores"]) == ["validation", "test"]
    alone = summary(*blocks[:2])
    assert summary(*blocks)["scores"]["test"] == alone["scores"]["test"]


def test_daily_losses_are_means_over_symbols(make_block: MakeBlock) -> None:
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


def test_a_point_model_is_scored_by_absolute_error_of_its_mean(make_block: MakeBlock) -> None:
    block = as_point(make_block(part="validation"))
    found = summary(block)
    rows = found["scores"]["validation"]["lstm"]
    known = block[(block["horizon"] == 5) & block["actual"].notna()]
    error = (known["actual"] - known["mean"]).abs()
    assert rows["5"]["mae"] == pytest.approx(error.mean())
    defined = {"rows", "mae", "mae_zero", "mae_scaled"}
    assert {name for name, value in rows["5"].items() if value is not None} == defined
    assert found["calibration"]["validation"]["lstm"] == {"1": None, "5": None}
    scaled = np.mean([rows[h]["mae_scaled"] for h in ("1", "5")])
    assert objective(found["scores"], "lstm") == pytest.approx(scaled)


def test_a_log_score_is_null_where_the_model_has_no_density(make_block: MakeBlock) -> None:
    block = make_block()
    block.loc[block["horizon"] == 5, "nll"] = np.nan
    found = summary(block)["scores"]["test"]["lstm"]
    assert found["1"]["log_score"] is not None
    assert found["5"]["log_score"] is None


def test_objective_is_validation_crps_in_scaled_units_over_horizons(make_block: MakeBlock) -> None:
    found = summary(make_block(part="validation"), make_block())["scores"]
    rows = found["validation"]["lstm"]
    expected = (rows["1"]["crps_scaled"] + rows["5"]["crps_scaled"]) / 2
    assert objective(found, "lstm") == pytest.approx(expected)
    with pytest.raises(ForecastError, match="gru is not scored on the validation part"):
        objective(found, "gru")


@pytest.mark.parametrize("change", ["drop", "move", "rename"])
def test_models_scored_on_other_rows_are_refused(make_block: MakeBlock, change: str) -> None:
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


def test_rows_without_an_actual_are_not_scored(make_block: MakeBlock) -> None:
    block = make_block()
    assert summary(block.assign(actual=np.nan)) == {"scores": {}, "calibration": {}}
    assert summary(block) == summary(block.dropna(subset="actual"))


def test_the_table_has_a_line_for_each_model_and_fits_a_terminal(make_block: MakeBlock) -> None:
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
