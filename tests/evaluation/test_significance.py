"""The significance tables of a backtest against their definitions, on losses made for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forecast.evaluation.inference import cosines, holm
from forecast.evaluation.significance import CURVES, EVERY, FEWEST, LEVEL, LOSSES, significance

MODELS = ("gru", "lstm", "gjr_t", "ewma_t", "historical")
MEANS = {"gru": 0.94, "lstm": 0.96, "gjr_t": 1.0, "ewma_t": 1.01, "historical": 1.3}
NETWORKS = ["lstm", "gru"]
SYMBOLS = ("AAPL", "KO", "RRC")
PAIR = {
    "difference", "low", "high", "relative", "t", "p", "p_holm", "hln_t", "hln_p", "years_won",
    "years", "symbols_won", "symbols", "top20_share", "without_2020", "fluctuation",
}  # fmt: skip


def make_daily(
    *,
    models: Sequence[str] = MODELS,
    parts: Sequence[str] = ("test",),
    horizons: Sequence[int] = (1, 5),
    dates: int = 700,
) -> pd.DataFrame:
    """Daily losses as assess writes them; every loss of a model has the mean of `MEANS`."""
    origins = pd.bdate_range("2018-06-01", periods=dates).astype("datetime64[s]")
    tables = []
    for part in parts:
        for horizon in horizons:
            rng = np.random.default_rng((len(part), horizon))
            common = rng.standard_t(5, (dates, len(LOSSES)))
            for model in models:
                noise = common + 0.3 * rng.normal(size=common.shape)
                values = MEANS.get(model, 1.0) + noise - noise.mean(axis=0)
                losses = pd.DataFrame(values, columns=list(LOSSES))
                keys = {"part": part, "model": model, "horizon": horizon, "origin": origins}
                tables.append(losses.assign(rows=3, **keys))
    daily = pd.concat(tables, ignore_index=True)
    return daily.astype({"part": "category", "model": "category", "horizon": "int16"})


def make_breakdown(daily: pd.DataFrame) -> pd.DataFrame:
    """By symbol: gru is better than everyone in AAPL and KO and worse in RRC."""
    keys = daily[["part", "model", "horizon"]].drop_duplicates()
    rows = []
    for part, model, horizon in keys.itertuples(index=False, name=None):
        for symbol in SYMBOLS:
            loss = 1.0 if model != "gru" else 1.1 if symbol == "RRC" else 0.9
            losses = dict.fromkeys(("crps", "crps_scaled", "mae", "log_score", "qlike"), loss)
            row = {"part": part, "model": model, "horizon": horizon, "by": "symbol"}
            rows.append({**row, "value": symbol, "rows": 10, **losses})
            rows.append({**row, "by": "year", "value": 2018 + len(rows), "rows": 10, **losses})
    return pd.DataFrame(rows)


def compare(daily: pd.DataFrame, **options: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    options = {"networks": NETWORKS, "repetitions": 200, **options}
    return significance(daily, make_breakdown(daily), **options)


@pytest.fixture(scope="module")
def daily() -> pd.DataFrame:
    return make_daily()


@pytest.fixture(scope="module")
def made(daily: pd.DataFrame) -> tuple[dict[str, Any], pd.DataFrame]:
    return compare(daily)


@pytest.fixture(scope="module")
def table(made: tuple[dict[str, Any], pd.DataFrame]) -> dict[str, Any]:
    """The comparison in crps, five sessions ahead."""
    return made[0]["significance"]["test"]["5"]["crps"]


def difference(daily: pd.DataFrame, a: str, b: str) -> pd.Series:
    """Daily crps of a − b, five sessions ahead."""
    wide = daily[daily["horizon"] == 5].astype({"model": "str"})
    wide = wide.pivot(index="origin", columns="model", values="crps")
    return wide[a] - wide[b]


def test_every_network_is_compared_with_every_other_model_in_every_loss(
    made: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    metrics = json.loads(json.dumps(made[0], allow_nan=False))
    assert list(metrics["significance"]["test"]) == ["1", "5"]
    for losses in metrics["significance"]["test"].values():
        assert tuple(losses) == LOSSES
        for table in losses.values():
            assert tuple(table["models"]) == MODELS
            found = {(a, b) for a, row in table["pairs"].items() for b in row}
            assert found == {(a, b) for a in NETWORKS for b in MODELS if b != a}
            assert all(
                set(pair) == PAIR for row in table["pairs"].values() for pair in row.values()
            )


def test_the_effect_is_the_mean_difference_its_interval_and_share(
    daily: pd.DataFrame, table: dict[str, Any]
) -> None:
    pair = table["pairs"]["gru"]["gjr_t"]
    assert pair["difference"] == pytest.approx(difference(daily, "gru", "gjr_t").mean())
    assert pair["difference"] == pytest.approx(-0.06)
    assert pair["relative"] == pytest.approx(-0.06)  # gjr_t loses 1
    assert (pair["low"] + pair["high"]) / 2 == pytest.approx(pair["difference"])
    assert (pair["low"] < 0 < pair["high"]) == (pair["p"] > 0.05)
    assert pair["t"] < 0 and pair["hln_t"] < 0


def test_shares_are_stated_only_of_losses_with_a_zero(
    made: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    for loss, table in made[0]["significance"]["test"]["1"].items():
        stated = table["pairs"]["lstm"]["gjr_t"]["relative"] is not None
        assert stated == (loss not in ("log_score", "qlike"))


def test_years_largest_days_and_2020_are_counted_by_date(
    daily: pd.DataFrame, table: dict[str, Any]
) -> None:
    series = difference(daily, "lstm", "ewma_t")
    pair = table["pairs"]["lstm"]["ewma_t"]
    years = {year: [v for d, v in series.items() if d.year == year] for year in range(2018, 2022)}
    assert pair["years"] == len(years)
    assert pair["years_won"] == sum(np.mean(values) < 0 for values in years.values())
    largest = sorted(series)[:20]  # lstm is better, so its gains are the negative days
    assert pair["top20_share"] == pytest.approx(sum(largest) / series.sum())
    left = [value for year, values in years.items() if year != 2020 for value in values]
    assert pair["without_2020"]["difference"] == pytest.approx(np.mean(left))
    assert pair["without_2020"]["t"] != pair["t"]


def test_without_a_date_of_2020_nothing_is_said_of_the_rest() -> None:
    daily = make_daily(horizons=(1,), dates=300)  # 2018 and 2019
    pair = compare(daily)[0]["significance"]["test"]["1"]["crps"]["pairs"]["lstm"]["gjr_t"]
    assert pair["t"] is not None
    assert pair["without_2020"] == {"difference": None, "t": None, "p": None}


def test_symbols_are_counted_where_the_loss_is_broken_down(
    made: tuple[dict[str, Any], pd.DataFrame], table: dict[str, Any]
) -> None:
    pair = table["pairs"]["gru"]["lstm"]
    assert (pair["symbols_won"], pair["symbols"]) == (2, 3)
    exact = made[0]["significance"]["test"]["5"]["crps_exact"]["pairs"]["gru"]["lstm"]
    assert exact["symbols_won"] is None and exact["symbols"] is None


def test_holm_counts_a_pair_and_its_reverse_once(table: dict[str, Any]) -> None:
    def once(cells: dict[str, dict[str, Any]]) -> list[Any]:
        unordered = {frozenset((a, b)): cell for a, row in cells.items() for b, cell in row.items()}
        return [unordered[pair] for pair in sorted(unordered, key=sorted)]

    pairs = once(table["pairs"])
    assert len(pairs) == 7  # lstm and gru with three others each, and with one another
    expected = holm(np.array([pair["p"] for pair in pairs]))
    assert [pair["p_holm"] for pair in pairs] == pytest.approx(expected)
    p = 2 * stats.t.sf(np.abs(once(table["t_matrix"])), cosines(700))
    assert len(p) == 10
    assert once(table["p_matrix_holm"]) == pytest.approx(holm(p))


def test_the_matrix_turns_its_sign_across_the_diagonal(table: dict[str, Any]) -> None:
    for a, row in table["t_matrix"].items():
        assert a not in row
        for b, t in row.items():
            assert t == pytest.approx(-table["t_matrix"][b][a])
            assert table["p_matrix_holm"][a][b] == table["p_matrix_holm"][b][a]
    assert table["t_matrix"]["lstm"]["gjr_t"] == table["pairs"]["lstm"]["gjr_t"]["t"]


def test_better_networks_are_superior_and_the_worst_model_leaves_the_set(
    table: dict[str, Any],
) -> None:
    assert table["spa"]["benchmark"] == table["stepm"]["benchmark"] == "gjr_t"
    assert table["spa"]["p"]["consistent"] < 0.05
    assert "gru" in table["stepm"]["superior"] and "historical" not in table["stepm"]["superior"]
    assert table["mcs"]["p"]["gru"] == 1
    assert "historical" not in table["mcs"]["included"]
    assert table["mcs"]["included"] == [m for m in MODELS if table["mcs"]["p"][m] > LEVEL]


def test_the_fluctuation_curves_are_of_the_same_pairs_and_their_extreme_is_stated(
    made: tuple[dict[str, Any], pd.DataFrame], tmp_path: Path
) -> None:
    metrics, curves = made
    assert list(curves) == list(CURVES)
    keys = ["part", "horizon", "loss", "model", "against"]
    assert not curves.duplicated([*keys, "date"]).any()
    windows = 700 - round(metrics["fluctuation"]["window"] * 700) + 1
    for (part, horizon, loss, model, against), curve in curves.groupby(keys, observed=True):
        pair = metrics["significance"][part][str(horizon)][loss]["pairs"][model][against]
        assert len(curve) == -(-windows // EVERY)
        assert curve["statistic"].abs().max() <= pair["fluctuation"]
        assert curve["date"].is_monotonic_increasing
    curves.to_parquet(tmp_path / "fluctuation.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "fluctuation.parquet"), curves)


def test_the_middle_window_stands_at_the_middle_date() -> None:
    daily = make_daily(horizons=(1,), dates=701)
    _, curves = compare(daily, networks=["lstm"])
    dates = np.sort(daily["origin"].unique())
    mine = curves[(curves["against"] == "gjr_t") & (curves["loss"] == "crps")]["date"]
    before, after = mine.iloc[0] - dates[0], dates[-1] - mine.iloc[-1]
    assert abs(before - after) <= pd.Timedelta(days=2 * EVERY)


def test_the_same_losses_give_the_same_bytes(
    daily: pd.DataFrame, made: tuple[dict[str, Any], pd.DataFrame]
) -> None:
    metrics, curves = compare(daily)
    assert json.dumps(metrics) == json.dumps(made[0])
    pd.testing.assert_frame_equal(curves, made[1])


def test_a_model_without_a_loss_is_left_out_of_that_loss_alone() -> None:
    daily = make_daily(horizons=(5,))
    daily.loc[daily["model"] == "gjr_t", "log_score"] = np.nan  # all of it
    first = daily.index[daily["model"] == "ewma_t"][0]
    daily.loc[first, "log_score"] = np.inf  # a single date
    tables = compare(daily)[0]["significance"]["test"]["5"]
    assert tables["log_score"]["models"] == ["gru", "lstm", "historical"]
    assert tuple(tables["crps"]["models"]) == MODELS
    assert "gjr_t" not in tables["log_score"]["pairs"]["lstm"]
    assert tables["log_score"]["spa"] == {"benchmark": "gjr_t", "p": None}
    assert tables["log_score"]["stepm"] == {"benchmark": "gjr_t", "superior": None}
    assert tables["log_score"]["mcs"]["p"].keys() == {"gru", "lstm", "historical"}


def test_a_date_unknown_to_all_is_left_out_and_costs_no_model() -> None:
    daily = make_daily(horizons=(1,))
    gone = daily["origin"] == daily["origin"].iloc[10]
    without = compare(daily[~gone], networks=["lstm"])[0]
    daily.loc[gone, list(LOSSES)] = np.nan
    assert compare(daily, networks=["lstm"])[0] == without


def test_recalibrated_copies_are_compared_like_their_networks() -> None:
    daily = make_daily(models=("lstm", "gjr_t", "lstm_conformal", "gjr_t_conformal"))
    pairs = compare(daily)[0]["significance"]["test"]["1"]["crps"]["pairs"]
    assert set(pairs) == {"lstm", "lstm_conformal"}
    assert set(pairs["lstm_conformal"]) == {"lstm", "gjr_t", "gjr_t_conformal"}


@pytest.mark.parametrize(
    "daily",
    [
        make_daily(models=("lstm",)),
        make_daily(dates=FEWEST - 1),
        make_daily(dates=1),
        make_daily().assign(**dict.fromkeys(LOSSES, np.nan)),
        make_daily().iloc[:0],
    ],
    ids=["one model", "few dates", "one date", "no loss", "no rows"],
)
def test_where_nothing_can_be_compared_the_tables_say_nothing(daily: pd.DataFrame) -> None:
    metrics, curves = compare(daily)
    for losses in metrics["significance"].get("test", {}).values():
        for table in losses.values():
            assert table["pairs"] == table["t_matrix"] == table["p_matrix_holm"] == {}
            assert table["spa"]["p"] is table["stepm"]["superior"] is None
            assert table["mcs"] == {"level": LEVEL, "included": None, "p": None}
    assert curves.empty and curves.dtypes["date"] == "datetime64[ms]"


def test_equal_models_have_no_t_and_no_crash() -> None:
    daily = make_daily(horizons=(1,), models=("lstm", "gjr_t", "historical"))
    lstm = daily["model"] == "lstm"
    daily.loc[lstm, list(LOSSES)] = daily.loc[daily["model"] == "gjr_t", list(LOSSES)].to_numpy()
    table = json.loads(json.dumps(compare(daily)[0], allow_nan=False))["significance"]["test"]["1"]
    pair = table["crps"]["pairs"]["lstm"]["gjr_t"]
    assert pair["difference"] == 0
    unknown = ("t", "p", "p_holm", "hln_t", "top20_share", "fluctuation")
    assert all(pair[name] is None for name in unknown)


def test_a_part_is_compared_for_itself() -> None:
    both = make_daily(parts=("validation", "test"), horizons=(1,))
    alone = make_daily(parts=("test",), horizons=(1,))
    first, second = (compare(daily, networks=["lstm"])[0] for daily in (both, alone))
    assert first["significance"]["test"] == second["significance"]["test"]


def test_a_model_without_a_horizon_is_compared_at_the_others() -> None:
    daily = make_daily()
    daily = daily[(daily["model"] != "gjr_t") | (daily["horizon"] == 1)]
    tables = compare(daily, networks=["lstm"])[0]["significance"]["test"]
    assert "gjr_t" in tables["1"]["crps"]["models"]
    assert tables["5"]["crps"]["models"] == ["gru", "lstm", "ewma_t", "historical"]
