"""A table on disk, assessed as a stream, says what its rows say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecast.config import ForecastError
from forecast.evaluation.assess import Assessment, assess, table_facts
from forecast.evaluation.direction import DIRECTION, Direction
from forecast.evaluation.risk import Risk
from forecast.evaluation.scores import SCORES, Scores
from forecast.forecasts import OPTIONAL, QUANTILES, ForecastWriter

MakeBlock = Callable[..., pd.DataFrame]
MODELS = ("lstm", "drift", "point")
SYMBOLS = ("AAPL", "KO", "PEP", "RRC", "WMT", "XOM")


def written(path: Path, blocks: Iterable[pd.DataFrame]) -> Path:
    with ForecastWriter(path) as writer:
        for block in blocks:
            writer.write(block)
    return path


@pytest.fixture(scope="module")
def blocks(make_block: MakeBlock) -> list[pd.DataFrame]:
    """Two parts, three models, of which one states no distribution, two blocks of symbols."""
    made = []
    for part, start in (("validation", "2019-01-01"), ("test", "2020-01-01")):
        for model in MODELS:
            block = make_block(model=model, part=part, start=start, symbols=SYMBOLS, days=80)
            if model == "point":
                block = block.assign(**dict.fromkeys(("std", *QUANTILES, *OPTIONAL), np.nan))
            first = block["symbol"].isin(SYMBOLS[:4])
            made += [block[first], block[~first]]
    return made


@pytest.fixture(scope="module")
def found(blocks: list[pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Assessment:
    return assess(written(tmp_path_factory.mktemp("table") / "forecasts.parquet", blocks))


def test_metrics_join_what_each_statistic_says_alone(
    found: Assessment, blocks: list[pd.DataFrame]
) -> None:
    scores, direction, risk = Scores(), Direction(), Risk()
    for block in blocks:
        for accumulator in (scores, direction, risk):
            accumulator.add(block)
    alone, means = scores.summary(), direction.summary()
    assert list(found.metrics) == ["scores", "calibration", "risk"]
    assert found.metrics["calibration"] == alone["calibration"]
    assert found.metrics["risk"] == risk.summary()
    assert list(found.metrics["scores"]) == ["validation", "test"]
    for part, models in found.metrics["scores"].items():
        assert list(models) == list(MODELS)
        for model, horizons in models.items():
            for horizon, row in horizons.items():
                assert list(row) == ["rows", *SCORES, "pinball", "pinball_scaled", *DIRECTION]
                expected = alone["scores"][part][model][horizon] | means[part][model][horizon]
                assert row == expected


def test_metrics_are_json_without_anything_undefined_in_it(found: Assessment) -> None:
    text = json.dumps(found.metrics, allow_nan=False)
    assert json.loads(text) == found.metrics


def test_a_model_without_a_distribution_has_neither_calibration_nor_risk(
    found: Assessment,
) -> None:
    for part in ("validation", "test"):
        assert found.metrics["calibration"][part]["point"] == {"1": None, "5": None}
        assert found.metrics["risk"][part]["point"] == {"1": None, "5": None}
        assert found.metrics["scores"][part]["point"]["1"]["mae"] is not None


def test_daily_means_make_up_the_scores(found: Assessment) -> None:
    daily = found.daily
    assert list(daily) == ["part", "model", "horizon", "origin", "rows", *SCORES]
    assert not daily.duplicated(["part", "model", "horizon", "origin"]).any()
    for (part, model, horizon), rows in daily.groupby(["part", "model", "horizon"]):
        assert rows["origin"].is_monotonic_increasing
        row = found.metrics["scores"][part][model][str(horizon)]
        assert rows["rows"].sum() == row["rows"]
        for name in SCORES:
            if row[name] is None:
                assert rows[name].isna().any()
            else:
                assert np.average(rows[name], weights=rows["rows"]) == pytest.approx(row[name])


def test_the_breakdown_covers_every_part_model_and_horizon(found: Assessment) -> None:
    keys = found.daily[["part", "model", "horizon"]].drop_duplicates().to_numpy().tolist()
    broken = found.breakdown[["part", "model", "horizon"]].drop_duplicates().to_numpy().tolist()
    assert broken == keys
    assert set(found.breakdown["by"]) == {"year", "symbol", "scale"}


def test_facts_of_a_table_count_origins_and_not_models_or_horizons(
    blocks: list[pd.DataFrame], tmp_path: Path
) -> None:
    facts = table_facts(written(tmp_path / "forecasts.parquet", blocks))
    table = pd.concat(blocks).astype({"symbol": str, "part": str})
    assert table["horizon"].nunique() == 2
    assert facts["rows"] == len(table.drop_duplicates(["symbol", "origin"]))
    for entry in facts["symbols"]:
        origins = table.loc[table["symbol"] == entry["symbol"], "origin"]
        assert entry["rows"] == origins.nunique()
        assert entry["first"] == str(origins.min().date())
    assert list(facts["fold"]) == ["test", "validation"]


def test_the_same_table_gives_the_same_bytes(
    found: Assessment, blocks: list[pd.DataFrame], tmp_path: Path
) -> None:
    again = assess(written(tmp_path / "again.parquet", blocks))
    assert json.dumps(again.metrics) == json.dumps(found.metrics)
    pd.testing.assert_frame_equal(again.daily, found.daily, check_exact=True)
    pd.testing.assert_frame_equal(again.breakdown, found.breakdown, check_exact=True)


def test_tables_that_cannot_be_scored_are_refused(
    blocks: list[pd.DataFrame], tmp_path: Path
) -> None:
    unknown = {name: np.nan for name in ("actual", "realized_variance", "nll", "pit", "crps_exact")}
    path = written(tmp_path / "live.parquet", [blocks[0].assign(**unknown)])
    with pytest.raises(ForecastError, match="no row has a known actual"):
        assess(path)
    path = written(tmp_path / "other.parquet", [*blocks[:3], blocks[3].iloc[:-20]])
    with pytest.raises(ForecastError, match="Score all models on the same symbols and dates"):
        assess(path)
    with pytest.raises(ForecastError, match="no such file"):
        assess(tmp_path / "none.parquet")
