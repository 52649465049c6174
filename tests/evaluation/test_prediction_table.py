"""The text of a prediction holds the numbers of its rows, and fits a terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.evaluation.prediction_table import groups, price_digits, table

COMMON = st.floats(1, 99_999)
ANY = st.floats(1e-6, 1e9)


def predicted(prices: dict[str, float], horizons: tuple[int, ...] = (1, 5, 20)) -> pd.DataFrame:
    """Lines of `predictions.csv`, ten percent wide at every horizon."""
    origin = pd.Timestamp("2026-11-25")
    return pd.DataFrame(
        [
            {
                **{"symbol": symbol, "origin": str(origin.date()), "horizon": horizon},
                "expected_date": str((origin + pd.offsets.BDay(horizon)).date()),
                **{"price": price, "median_price": 1.01 * price},
                **{"low_50": 0.97 * price, "high_50": 1.03 * price},
                **{"low_90": 0.9 * price, "high_90": 1.1 * price},
                **{"probability_of_rise": 0.5 + horizon / 1000, "volatility": 1.5 * horizon},
                **{"mean_return": 1.0, "median_return": 0.995},
            }
            for symbol, price in prices.items()
            for horizon in horizons
        ]
    )


def without_bands(rows: pd.DataFrame) -> pd.DataFrame:
    columns = ("low_50", "high_50", "low_90", "high_90", "probability_of_rise", "volatility")
    return rows.assign(**dict.fromkeys(columns, np.nan))


@given(price=ANY)
def test_a_rounded_price_is_off_by_a_twentieth_of_a_percent_at_most(price: float) -> None:
    rounded = float(f"{price:.{price_digits(price)}f}")
    assert abs(rounded / price - 1) <= 5.001e-4


@pytest.mark.parametrize("price", [0.0, -37.63, np.nan, np.inf])
def test_a_price_that_has_no_size_has_two_decimals(price: float) -> None:
    assert price_digits(price) == 2


@given(price=ANY, horizons=st.sets(st.integers(1, 60), min_size=1, max_size=3))
@settings(deadline=None)
def test_the_cells_are_the_numbers_of_the_rows(price: float, horizons: set[int]) -> None:
    rows = predicted({"KO": 7.5, "AAPL": price}, tuple(sorted(horizons)))
    for horizon, cells in zip(sorted(horizons), groups(rows, most=9).values(), strict=True):
        (line,) = cells[cells["symbol"] == "AAPL"].to_dict("records")
        (row,) = rows[(rows["symbol"] == "AAPL") & (rows["horizon"] == horizon)].to_dict("records")
        close = {"rel": 6e-4}
        assert read(line["last close"]) == pytest.approx([price], **close)
        assert read(line["median"]) == pytest.approx([row["median_price"]], **close)
        assert read(line["50 % interval"]) == pytest.approx(
            [row["low_50"], row["high_50"]], **close
        )
        assert read(line["90 % interval"]) == pytest.approx(
            [row["low_90"], row["high_90"]], **close
        )
        assert read(line["P(rise)"]) == pytest.approx([100 * row["probability_of_rise"]], abs=0.051)
        assert read(line["volatility"]) == pytest.approx([row["volatility"]], abs=0.0051)
        assert (line["origin"], line["expected date"]) == (row["origin"], row["expected_date"])


def read(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", cell.replace(",", ""))]


@given(prices=st.lists(COMMON, min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_prices_of_stocks_fit_a_terminal_and_stand_in_columns(prices: list[float]) -> None:
    text = table(predicted({f"SYMBOL{place}": price for place, price in enumerate(prices)}))
    blocks = [block.splitlines() for block in text.split("\n\n")]
    widths = {len(line) for block in blocks for line in block[1:]}
    assert len(widths) == 1 and widths.pop() <= 110
    for _, head, *lines in blocks:
        ends = [match.end() for match in re.finditer(r"\S+(?: \S+)*", head)][1:]
        assert len(ends) == 8
        assert all(
            line[end - 1] != " " and f"{line} "[end] == " " for line in lines for end in ends
        )


def test_several_symbols_are_grouped_by_horizon_and_one_is_not() -> None:
    several = predicted({"KO": 70, "AAPL": 270}).sample(frac=1, random_state=0)
    order = several["symbol"].unique().tolist()
    grouped = groups(several, most=9)
    assert list(grouped) == ["1 session ahead", "5 sessions ahead", "20 sessions ahead"]
    assert all(sorted(cells["symbol"]) == sorted(order) for cells in grouped.values())
    one = groups(predicted({"KO": 70}).iloc[::-1], most=9)
    assert list(one) == ["KO"]
    assert list(one["KO"]["horizon"]) == ["1 session", "5 sessions", "20 sessions"]


def test_a_point_head_has_a_mean_and_nothing_that_needs_a_distribution() -> None:
    (cells, *_) = groups(without_bands(predicted({"KO": 70, "AAPL": 270})), most=9).values()
    assert list(cells) == ["symbol", "origin", "last close", "expected date", "mean"]


def test_what_one_symbol_lacks_is_a_dash_and_what_all_lack_is_no_column() -> None:
    rows = predicted({"KO": 70, "AAPL": 270}).assign(volatility=np.nan)
    rows.loc[rows["symbol"] == "KO", ["low_90", "probability_of_rise", "expected_date"]] = np.nan
    (cells, *_) = groups(rows, most=9).values()
    assert "volatility" not in cells
    ko, apple = cells.to_dict("records")
    dashed = ("90 % interval", "P(rise)", "expected date")
    assert [ko[name] for name in dashed] == ["\N{EN DASH}"] * 3
    assert not any(apple[name] == "\N{EN DASH}" for name in dashed)
    assert "nan" not in table(rows).lower()


def test_dates_may_be_dates_or_text() -> None:
    rows = predicted({"KO": 70, "AAPL": 270})
    dates: dict[str, Any] = {
        name: pd.to_datetime(rows[name]) for name in ("origin", "expected_date")
    }
    assert table(rows.assign(**dates)) == table(rows)


def test_symbols_beyond_the_most_are_counted_and_not_shown() -> None:
    rows = predicted({f"S{place:02}": 10.0 + place for place in range(50)})
    text = table(rows)
    assert "S39" in text and "S40" not in text
    assert text.endswith("40 of 50 symbols are shown; predictions.csv holds all.")
    assert "predictions.csv" not in table(rows, most=50)


def test_a_prediction_of_nothing_is_no_text() -> None:
    assert table(predicted({"KO": 70}).iloc[:0]) == ""


def test_the_terminal_needs_no_figures_and_no_networks() -> None:
    program = (
        "import sys, forecast.evaluation.prediction_table; "
        "sys.exit(bool({'plotly', 'torch', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
