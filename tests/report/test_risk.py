from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from forecast.report.risk import exceedances, risk
from forecast.run import Run

Make = Callable[..., Run]


def test_the_table_tells_rates_and_counts_symbols(make_backtest: Make) -> None:
    run = make_backtest()
    tested = run.metrics["risk"]["test"]["historical"]["1"]
    line = re.search(r"</span>historical</td>(.*?)</tr>", risk(run))
    assert line is not None
    cells = re.findall("<td[^>]*>(.*?)</td>", line[1])
    assert cells[0] == f"{100 * tested['01']['rate']:.2f}"
    assert cells[2] == f"{tested['01']['kupiec_rejected']}/5"
    assert cells[5] == f"{run.metrics['scores']['test']['historical']['1']['fz0_01']:.3f}"
    assert cells[6] == f"{100 * tested['05']['rate']:.2f}"
    assert len(cells) == 12


def test_every_exceedance_is_marked_once() -> None:
    random = np.random.default_rng(0)
    table = pd.concat(
        pd.DataFrame(
            {
                "symbol": symbol,
                "horizon": 1,
                "target_date": pd.bdate_range("2020-01-01", periods=300),
                "actual": random.normal(size=300),
                "q01": -2.0,
                "q05": -1.3,
            }
        )
        for symbol in ("A", "<b>")
    )
    figure = exceedances(table, model="lstm")
    marked = [t for t in figure.data if t.name.startswith("below")]
    assert sum(len(t.y) for t in marked) == (table["actual"] < -1.3).sum()
    severe = [y for t in marked if t.name == "below 1 %" for y in t.y]
    assert len(severe) == (table["actual"] < -2).sum() and max(severe) < -2
    assert "<b>" not in figure.to_json(engine="json")


def test_of_a_longer_horizon_no_two_returns_overlap() -> None:
    days = pd.bdate_range("2020-01-01", periods=101)
    table = pd.DataFrame({"symbol": "A", "horizon": 5, "target_date": days, "actual": -9.0})
    figure = exceedances(table.assign(q01=-2.0, q05=-1.0), model="lstm")
    (severe,) = [t for t in figure.data if t.name == "below 1 %"]
    assert [pd.Timestamp(x) for x in severe.x] == list(days[::5])


def test_without_quantiles_it_says_so(make_backtest: Make) -> None:
    run = make_backtest()
    for found in (None, {}, {"test": {"lstm": {"1": None}}}):
        run.write("metrics.json", {**run.metrics, "risk": found})
        assert "No forecast states the quantiles" in risk(run)
