from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from forecast.report.breakdown import MOST_SYMBOLS, beside, where
from forecast.run import Run

Make = Callable[..., Run]


def test_a_cell_is_the_percentage_by_which_a_crps_lies_above_the_benchmarks() -> None:
    crps = pd.DataFrame({"2019": [0.9, 1.0], "2020": [np.nan, 2.0]}, index=["lstm", "gjr_t"])
    (cells,) = beside({"year": crps}, "gjr_t").data
    assert cells.z[0][0] == pytest.approx(-10) and np.isnan(cells.z[0][1])
    assert [list(row) for row in cells.text] == [["-10.0", ""], ["0.0", "0.0"]]
    assert cells.zmax == -cells.zmin > 0
    assert cells.customdata[0][0] == pytest.approx(0.9)


def test_every_horizon_has_its_years_scales_and_symbols(make_backtest: Make) -> None:
    html = where(make_backtest())
    for name in ("year-1", "symbol-1", "year-5", "symbol-5"):
        assert f'id="{name}"' in html
    assert html.count('<th scope="col">2019</th>') == 2
    assert "Test, 5 sessions ahead" in html and "Validation" not in html


def test_scales_stand_in_their_order_and_many_symbols_are_thinned(make_backtest: Make) -> None:
    run = make_backtest(horizons=(1,))
    table = pd.read_csv(run.path / "breakdown.csv", dtype={"value": str})
    some = table[(table["by"] == "symbol") & (table["value"] == "AAPL")]
    names = ["NA", *(f"S{place:03d}" for place in range(100))]  # NA is no missing value
    more = pd.concat(some.assign(value=name) for name in names)
    pd.concat([table[table["by"] != "symbol"], more]).to_csv(
        run.path / "breakdown.csv", index=False
    )
    html = where(run)
    years, symbols = (
        json.loads(text)["data"] for text in re.findall(r"data-figure>(.*?)</script>", html)
    )
    assert [cells["x"] for cells in years] == [["2019", "2020"], ["low", "middle", "high"]]
    assert len(symbols[0]["x"]) == MOST_SYMBOLS
    assert symbols[0]["x"][0] == "NA" and symbols[0]["x"][-1] == "S099"


def test_without_a_benchmark_or_the_file_it_says_so(make_backtest: Make) -> None:
    alone = make_backtest(models={"lstm": 0.1})
    html = where(alone)
    assert "crps by year" in html and "data-figure" not in html
    (alone.path / "breakdown.csv").unlink()
    assert "No losses by year and symbol" in where(alone)
