from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from forecast.forecasts import LEVELS
from forecast.report.calibration import calibration
from forecast.report.levels import pit_histograms, reliability
from forecast.run import Run

Make = Callable[..., Run]

MODELS = ("lstm", "historical", "ewma_t")
EDGES = np.array([0.0, *LEVELS, 1.0])


def pit_table(horizons: tuple[int, ...] = (1, 5)) -> pd.DataFrame:
    random = np.random.default_rng(2)
    return pd.DataFrame(
        [
            {"model": m, "horizon": h, "lower": low, "upper": high, "count": random.integers(1, 99)}
            for m in MODELS
            for h in horizons
            for low, high in pairwise(EDGES)
        ]
    )


def level_table(horizons: tuple[int, ...] = (1, 5)) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"model": m, "horizon": h, "level": level, "observed": level**1.1}
            for m in MODELS
            for h in horizons
            for level in LEVELS
        ]
    )


def test_every_pit_histogram_has_the_area_of_a_density() -> None:
    figure = pit_histograms(pit_table())
    assert len(figure.data) == 2 * len(MODELS)
    for bars in figure.data:
        assert len(bars.y) == 22
        assert np.dot(bars.y, bars.width) == pytest.approx(1)
        assert bars.x == pytest.approx((EDGES[:-1] + EDGES[1:]) / 2)


def test_reliability_is_the_difference_to_the_nominal_level() -> None:
    figure = reliability(level_table())
    for curve in figure.data:
        assert curve.y == pytest.approx(100 * (np.power(LEVELS, 1.1) - LEVELS))
        assert curve.customdata == pytest.approx(np.power(LEVELS, 1.1))


def test_a_band_is_the_density_between_which_a_bin_lies_by_luck() -> None:
    table = pit_table(horizons=(1,)).query("model == 'lstm'")
    width = (table["upper"] - table["lower"]).to_numpy()
    bars, band = pit_histograms(table.assign(least=0.8 * width, most=1.3 * width)).data
    assert band.name == "95 % band"
    assert sorted(set(np.round(band.y, 9))) == [0.8, 1.3]
    assert min(band.x) == 0 and max(band.x) == 1
    assert len(pit_histograms(table.assign(least=None, most=None)).data) == 1


def test_bins_outside_their_bands_are_counted_of_every_model(make_backtest: Make) -> None:
    run = make_backtest()
    html = calibration(run)
    assert "<h3>Test</h3>" in html and "Validation" not in html
    for model in ("lstm", "gru", "drift", "gjr_t", "historical"):
        counts = run.metrics["calibration"]["test"][model]["1"]
        total = sum(counts["pit_counts"])
        outside = sum(
            not low <= count / total <= high
            for count, (low, high) in zip(counts["pit_counts"], counts["pit_bands"], strict=True)
        )
        line = re.search(rf"</span>{model}</td>(.*?)</tr>", html)
        assert line is not None and f"<td>{outside} of 22</td>" in line[1]


def test_models_without_quantiles_are_not_drawn(make_backtest: Make) -> None:
    run = make_backtest()
    run.write("metrics.json", {**run.metrics, "calibration": {"test": {"lstm": {"1": None}}}})
    assert "No forecast of this part states quantiles" in calibration(run)
