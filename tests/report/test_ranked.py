from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from forecast.report.ranked import bars, by_quantile, ranked
from forecast.report.traded import traded_in
from forecast.run import Run

Make = Callable[..., Run]


def made(*, symbols: int = 10, dates: int = 200, skill: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(0)
    mean = random.normal(size=(dates, symbols))
    actual = skill * mean + random.normal(size=(dates, symbols))
    return pd.DataFrame(
        {
            "origin": np.repeat(pd.bdate_range("2020-01-01", periods=dates), symbols),
            "mean": mean.ravel(),
            "std": 1.0,
            "actual": actual.ravel(),
        }
    )


def test_groups_are_the_means_of_a_plain_loop() -> None:
    table = made(symbols=7)
    found = by_quantile(table)
    sums: dict[int, list[float]] = {group: [] for group in range(5)}
    for _, day in table.groupby("origin"):
        returns = np.expm1(day["actual"].to_numpy() / 100)
        order = np.argsort(np.argsort(day["mean"].to_numpy()))
        for group in sums:
            inside = np.floor((order + 0.5) / 7 * 5) == group
            sums[group].append(float(returns[inside].mean() - returns.mean()))
    for group, label in enumerate(["lowest", "2", "3", "4", "highest"]):
        assert found[label].mean == pytest.approx(np.mean(sums[group]))
    gap = np.mean(sums[4]) - np.mean(sums[0])
    assert found["difference"].mean == pytest.approx(gap)


def test_skill_climbs_and_none_does_not() -> None:
    climbing = by_quantile(made(skill=1.0))
    means = [climbing[label].mean for label in ("lowest", "2", "3", "4", "highest")]
    assert means == sorted(means) and climbing["difference"].t > 5
    assert abs(by_quantile(made())["difference"].t) < 3


def test_symbols_are_ranked_by_the_simple_return_as_the_strategies_do() -> None:
    """A wild symbol of a low log mean is expected to return the most."""
    table = made(symbols=5)
    table["mean"] = np.tile([0.0, 0.1, 0.2, 0.3, 0.4], 200)
    table["std"] = np.tile([10.0, 1.0, 1.0, 1.0, 1.0], 200)
    table["actual"] = np.tile([5.0, 0.0, 0.0, 0.0, 0.0], 200)
    assert by_quantile(table)["highest"].mean == pytest.approx(0.8 * np.expm1(0.05))


def test_ties_share_a_group_whatever_the_order_of_the_symbols() -> None:
    table = made(skill=1.0)
    table["mean"] = 0.3
    found = by_quantile(table)
    assert found["3"].dates == 200 and abs(found["3"].mean) < 1e-12
    assert found["lowest"].dates == found["highest"].dates == found["difference"].dates == 0


def test_origins_of_fewer_than_five_symbols_are_left_out() -> None:
    assert by_quantile(made(symbols=4)) == {}
    few = made(symbols=4).assign(origin=lambda t: t["origin"] + pd.Timedelta(days=9999))
    both = by_quantile(pd.concat([made(), few]))
    assert both["highest"].mean == by_quantile(made())["highest"].mean


def test_a_bar_reaches_as_far_as_its_interval() -> None:
    tests = by_quantile(made(skill=1.0))
    (bar,) = bars({"lstm": tests}, horizon=1, part="test").data
    low, high = tests["highest"].interval()
    place = list(bar.x).index("highest")
    assert bar.y[place] == pytest.approx(1e4 * (low + high) / 2)
    assert bar.error_y.array[place] == pytest.approx(1e4 * (high - low) / 2)


def test_without_the_forecasts_it_says_so(make_portfolio: Make) -> None:
    run = make_portfolio()
    assert 'id="returns-by-quantile"' in ranked(traded_in(run))
    (run.path.parent / "backtest-0123456789" / "forecasts.parquet").unlink()
    assert "no longer there" in ranked(traded_in(run))
    run.write("data.json", {**run.data, "source_run": None})
    assert "there is nothing to rank" in ranked(traded_in(run))
