"""Recalibrated levels hold what they say, use nothing from later, and leave right ones alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forecast.config import ForecastError
from forecast.evaluation import recalibration
from forecast.evaluation.recalibration import recalibrate
from forecast.forecasts import LEVELS, OPTIONAL, QUANTILES, ForecastWriter, read_forecasts

NAMES = list(QUANTILES)
LEVEL = np.array(LEVELS)
DAYS = 900


def make_table(
    *,
    seed: int = 0,
    days: int = DAYS,
    symbols: int = 4,
    horizons: tuple[int, ...] = (1, 5),
    width: float = 1.0,
    shift: float = 0.0,
    df: float = np.inf,
    model: str = "lstm",
) -> pd.DataFrame:
    """Normal forecasts of a Student t with their mean and std once `width` and `shift` are right.

    The first 300 origins are the validation part, the rest is the test part; the targets of the
    last origins are unknown.
    """
    rng = np.random.default_rng(seed)
    dates = pd.bdate_range("2010-01-01", periods=days).to_numpy().astype("datetime64[s]")
    frame = pd.MultiIndex.from_product(
        [[f"S{s}" for s in range(symbols)], range(days), horizons]
    ).to_frame(index=False, name=["symbol", "day", "horizon"])
    n, end = len(frame), (frame["day"] + frame["horizon"]).to_numpy()
    known = end < days
    std = rng.uniform(0.5, 2, n) * np.sqrt(frame["horizon"])
    noise = rng.standard_t(df, n) if np.isfinite(df) else rng.normal(size=n)
    frame = frame.assign(
        model=model,
        fold=0,
        part=np.where(frame["day"] < 300, "validation", "test"),
        origin=dates[frame["day"]],
        delay=0,
        target_date=np.where(known, dates[np.minimum(end, days - 1)], np.datetime64("NaT")),
        price=1.0,
        scale=1.0,
        actual=np.where(known, std * noise, np.nan),
        realized_variance=np.where(known, 1.0, np.nan),
        mean=0.125,
        std=std * width,
        **dict.fromkeys(OPTIONAL, 0.5),
    ).drop(columns="day")
    frame.loc[~known, ["nll", "pit", "crps_exact"]] = np.nan
    z = shift + width * stats.norm.ppf(LEVEL)
    quantiles = pd.DataFrame(std.to_numpy()[:, None] * z, columns=NAMES)
    return pd.concat([frame, quantiles.astype("float32")], axis=1)


def write(path: Path, frame: pd.DataFrame) -> Path:
    with ForecastWriter(path) as writer:
        for _, rows in frame.groupby(["part", "fold", "model"], sort=False):
            writer.write(rows)
    return path


def corrected(folder: Path, frame: pd.DataFrame, **options: int) -> pd.DataFrame:
    """The copies of all models of a table, in the order of `frame`."""
    models = frame["model"].unique().tolist()
    recalibrate(write(folder / "in", frame), folder / "out", models=models, **options)
    key = ["model", "fold", "part", "symbol", "origin", "horizon"]
    names = ["model", "part", "symbol"]
    found = read_forecasts(folder / "out").astype(dict.fromkeys(names, "str"))
    wanted = frame.assign(model=frame["model"] + "_conformal")[key].astype({"horizon": "int16"})
    result = wanted.astype({"fold": "int16"}).merge(found, on=key, how="left", validate="1:1")
    assert len(result) == len(found)
    return result


def by_hand(frame: pd.DataFrame, history: int, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles and PITs row by row, G as the plain step function of the PITs that count."""
    z = stats.norm.ppf(LEVEL)

    def score(row: pd.Series) -> float:
        q = row[NAMES].to_numpy(float)
        k = int(np.clip(np.searchsorted(q, row["actual"]) - 1, 0, 19))
        z_y = z[k] + (row["actual"] - q[k]) / (q[k + 1] - q[k]) * (z[k + 1] - z[k])
        return float(np.clip(z_y, -6, 6))

    u = stats.norm.cdf([score(row) for _, row in frame.iterrows()])
    quantiles, pits = np.empty((len(frame), len(z))), np.empty(len(frame))
    for at, (_, row) in enumerate(frame.iterrows()):
        same = (frame["horizon"] == row["horizon"]) & (frame["target_date"] < row["origin"])
        dates = np.unique(frame["target_date"][same])[-history:]
        mine = np.sort(u[same & frame["target_date"].isin(dates)])
        new, q = LEVEL, row[NAMES].to_numpy(float)
        pits[at] = u[at]
        if len(dates) >= least:
            grid = stats.norm.cdf(np.linspace(-6, 6, 24_001))
            cdf = (np.searchsorted(mine, grid, side="right") + grid) / (len(mine) + 1)
            new = grid[np.searchsorted(cdf, LEVEL)]
            pits[at] = np.interp(u[at], grid, cdf)
        new = stats.norm.ppf(new)
        k = np.clip(np.searchsorted(z, new) - 1, 0, 19)
        quantiles[at] = q[k] + (new - z[k]) / (z[k + 1] - z[k]) * (q[k + 1] - q[k])
    return quantiles, pits


def test_a_level_becomes_the_stated_quantile_that_so_many_past_outcomes_lay_below(
    tmp_path: Path,
) -> None:
    frame = make_table(days=130, symbols=2, df=4, width=0.8)
    found = corrected(tmp_path, frame, history=60, least=40)
    quantiles, pits = by_hand(frame, history=60, least=40)
    # Within a bin of PITs, 1/20 of a standard deviation wide, G is a straight line.
    apart = (found[NAMES] - quantiles).div(frame["std"], axis=0).abs().to_numpy()
    assert apart.max() < 0.051
    assert apart.mean() < 0.02
    known = frame["actual"].notna()
    np.testing.assert_allclose(found["pit"][known], pits[known], atol=0.03)
    assert found["pit"][~known].isna().all()


@pytest.mark.parametrize(("width", "shift", "df"), [(0.6, 0.0, 4), (1.7, 0.0, 8), (1.0, 0.5, 5)])
def test_wrong_forecasts_become_calibrated(
    tmp_path: Path, width: float, shift: float, df: float
) -> None:
    frame = make_table(symbols=20, width=width, shift=shift, df=df, horizons=(1,))
    after = corrected(tmp_path, frame)
    scored = frame["actual"].notna() & (frame["part"] == "test")
    actual = frame["actual"][scored].to_numpy()[:, None]
    hits = (actual < after.loc[scored, NAMES]).mean()
    se = np.sqrt(LEVEL * (1 - LEVEL) / scored.sum())
    before = (actual < frame.loc[scored, NAMES]).mean()
    assert np.abs((before - LEVEL) / se).max() > 10
    # The quantiles are themselves estimated from about as many outcomes as they are tried on.
    assert np.abs((hits - LEVEL) / se).max() < 4
    assert stats.kstest(after["pit"][scored], "uniform").statistic < 0.02

    def pinball(quantiles: pd.DataFrame) -> float:
        error = actual - quantiles[scored].to_numpy(float)
        return float(np.maximum(LEVEL * error, (LEVEL - 1) * error).mean())

    assert pinball(after[NAMES]) < 0.99 * pinball(frame[NAMES])


def test_right_forecasts_stay_nearly_as_they_are(tmp_path: Path) -> None:
    frame = make_table(symbols=20)
    after = corrected(tmp_path, frame)
    moved = (after[NAMES] - frame[NAMES]).div(frame["std"], axis=0).abs()
    assert moved["q50"].max() < 0.06  # 10,000 outcomes place a median within 0.0125
    assert moved["q50"].mean() < 0.02
    assert moved["q01"].mean() < 0.05


def test_few_known_dates_change_nothing_and_the_rest_of_a_row_is_kept(tmp_path: Path) -> None:
    frame = make_table(width=0.5)
    after = corrected(tmp_path, frame, history=200, least=100)
    # 100 dates lie before the 101st target date: that of day 101 for a horizon of 1.
    days = np.sort(frame["origin"].unique())
    early = frame["origin"] <= pd.Series(days).reindex(frame["horizon"] + 99).to_numpy()
    same = (after[NAMES] == frame[NAMES]).all(axis=1)
    assert same[early].all()
    assert not same[~early].any()
    z = (frame["actual"] / frame["std"])[early]
    within = z.abs() < 6
    np.testing.assert_allclose(after["pit"][early][within], stats.norm.cdf(z[within]), atol=1e-6)
    for name in ("delay", "target_date", "price", "scale", "actual", "realized_variance", "mean"):
        pd.testing.assert_series_equal(after[name], frame[name], check_dtype=False)
    for name in ("std", "nll", "crps_exact", "es01", "es05"):
        assert after[name].isna().all()


def test_later_outcomes_and_rows_change_nothing_earlier(tmp_path: Path) -> None:
    frame = make_table(width=0.7, days=500)
    whole = corrected(tmp_path, frame, history=100, least=50)
    cut = np.sort(frame["origin"].unique())[400]
    early = (frame["origin"] <= cut).to_numpy()
    # What becomes known on the day of the cut is not yet used on it, what did before is.
    for day, same in ((cut, True), (cut - np.timedelta64(7, "D"), False)):
        later = frame["target_date"] >= day
        changed = frame.assign(actual=frame["actual"].mask(later, frame["actual"] * 9))
        found = corrected(tmp_path, changed, history=100, least=50)
        assert found.loc[early, NAMES].equals(whole.loc[early, NAMES]) == same
    fewer = corrected(tmp_path, frame[early].reset_index(drop=True), history=100, least=50)
    assert fewer[NAMES].equals(whole.loc[early, NAMES].reset_index(drop=True))


def test_validation_rows_count_in_the_first_fold_alone(tmp_path: Path) -> None:
    frame = make_table(width=0.7)
    whole = corrected(tmp_path, frame)
    test = (frame["part"] == "test").to_numpy()
    # The validation part of a later fold, whose fit saw what comes after these rows.
    again = frame[test & (frame["origin"] < frame["origin"].quantile(0.7))]
    again = again.assign(part="validation", fold=1, actual=again["actual"] + 50)
    found = corrected(tmp_path, pd.concat([frame, again], ignore_index=True))
    assert found.loc[: len(frame) - 1, NAMES].equals(whole[NAMES])
    alone = corrected(tmp_path, frame[test].reset_index(drop=True))
    assert not alone[NAMES].equals(whole.loc[test, NAMES].reset_index(drop=True))


def test_models_and_horizons_are_corrected_each_by_its_own(tmp_path: Path) -> None:
    one = make_table(width=0.7)
    two = make_table(width=1.5, model="gru", seed=1)
    both = corrected(tmp_path, pd.concat([one, two], ignore_index=True))
    apart = [corrected(tmp_path, frame) for frame in (one, two)]
    pd.testing.assert_frame_equal(both, pd.concat(apart, ignore_index=True))
    single = one[one["horizon"] == 5].reset_index(drop=True)
    of_both = apart[0][one["horizon"] == 5].reset_index(drop=True)
    pd.testing.assert_frame_equal(corrected(tmp_path, single), of_both)


def test_ties_among_quantiles_do_not_cross_or_vanish(tmp_path: Path) -> None:
    # Prices with ticks: half of all outcomes are zero, and so are the middle quantiles.
    frame = make_table(width=0.7, symbols=10, horizons=(1,))
    middle = NAMES[5:16]
    tick = np.random.default_rng(3).uniform(size=len(frame)) < 0.5
    frame = frame.assign(**dict.fromkeys(middle, 0.0))
    frame["actual"] = frame["actual"].mask(tick & frame["actual"].notna(), 0.0)
    after = corrected(tmp_path, frame)
    assert (np.diff(after[NAMES], axis=1) >= 0).all()
    scored = frame["actual"].notna() & (frame["part"] == "test")
    below = (frame["actual"] < after["q05"])[scored].mean()
    assert below == pytest.approx(0.05, abs=0.01)


def test_the_normal_score_of_a_quantile_is_that_of_its_level() -> None:
    z = stats.norm.ppf(LEVEL)
    quantile = np.tile((3 + 2 * z)[:, None], 25)
    y = np.concatenate([3 + 2 * z, [3 + 2 * 4.0, 3 - 2 * 5.0, 1e9, -1e9]])
    expected = np.concatenate([z, [4, -5, 6, -6]])
    np.testing.assert_allclose(recalibration.normal_score(quantile, y), expected)


def test_a_model_without_rows_or_quantiles_is_refused(tmp_path: Path) -> None:
    frame = make_table(days=30)
    path = write(tmp_path / "in", frame)
    with pytest.raises(ForecastError, match="no model gru to recalibrate"):
        recalibrate(path, tmp_path / "out", models=["lstm", "gru"])
    with pytest.raises(ForecastError, match="least must lie between 1 and history"):
        recalibrate(path, tmp_path / "out", models=["lstm"], history=10)
    point = write(tmp_path / "point", frame.assign(**dict.fromkeys([*NAMES, "std"], np.nan)))
    with pytest.raises(ForecastError, match="lstm states no quantiles 1 sessions ahead"):
        recalibrate(point, tmp_path / "out", models=["lstm"])
    assert not (tmp_path / "out").exists()
