from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.forecasts import LEVELS, QUANTILES, ForecastWriter
from forecast.report.fans import FAN_COLUMNS, MOST_FANS, fan_chart, fans_at, forecasts
from forecast.run import Run

Make = Callable[..., Run]


def forecasts_of_one_symbol(
    *, horizons: tuple[int, ...], origins: int = 300, delay: int = 0, symbol: str = "AAPL"
) -> pd.DataFrame:
    dates = pd.bdate_range("2020-01-01", periods=origins + delay + max(horizons))
    close = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, len(dates))))
    row = np.arange(origins)
    blocks = []
    for horizon in horizons:
        actual = 100 * np.log(close[row + delay + horizon] / close[row + delay])
        quantiles = {
            name: 3 * np.sqrt(horizon) * (level - 0.5)
            for name, level in zip(QUANTILES, LEVELS, strict=True)
        }
        blocks.append(
            pd.DataFrame(
                {
                    "model": "lstm",
                    "symbol": symbol,
                    "origin": dates[row],
                    "horizon": horizon,
                    "delay": delay,
                    "target_date": dates[row + delay + horizon],
                    "price": close[row],
                    "actual": actual,
                    "mean": 0.02,
                    **quantiles,
                }
            )
        )
    return pd.concat(blocks, ignore_index=True)


def trace(figure: go.Figure, start: str) -> Any:
    return next(trace for trace in figure.data if trace.name.startswith(start))


def fans_of(figure: go.Figure) -> list[list[tuple[str, float]]]:
    """The polygons of the 90 % interval, split at the gaps."""
    band = trace(figure, "90 %")
    polygons: list[list[tuple[str, float]]] = [[]]
    for x, y in zip(band.x, band.y, strict=True):
        if x is None:
            polygons.append([])
        else:
            polygons[-1].append((x, y))
    return [polygon for polygon in polygons if polygon]


def test_a_quantile_in_percent_becomes_a_price() -> None:
    table = forecasts_of_one_symbol(horizons=(20,))
    price = table.set_index("origin")["price"]
    by_target = table.set_index("target_date")
    for fan in fans_of(fan_chart(table)):
        (start, base), (end, upper), (_, lower), _ = fan
        assert base == price[start]
        assert upper == pytest.approx(base * np.exp(by_target.loc[end, "q95"] / 100))
        assert lower == pytest.approx(base * np.exp(by_target.loc[end, "q05"] / 100))


@given(
    horizons=st.sets(st.integers(1, 30), min_size=2, max_size=4),
    delay=st.integers(0, 2),
    origins=st.integers(3, 300),
)
@settings(max_examples=25, deadline=None)
def test_no_fan_overlaps_the_next(horizons: set[int], delay: int, origins: int) -> None:
    table = forecasts_of_one_symbol(horizons=tuple(sorted(horizons)), delay=delay, origins=origins)
    fans = fans_of(fan_chart(table))
    assert 1 <= len(fans) <= MOST_FANS + 1
    ends = [max(x for x, _ in fan) for fan in fans]
    starts = [min(x for x, _ in fan) for fan in fans]
    assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True))


def test_forecasts_of_one_session_draw_a_band_at_every_session() -> None:
    table = forecasts_of_one_symbol(horizons=(1,), origins=400)
    (band,) = fans_of(fan_chart(table, sessions=250))
    assert [x for x, _ in band[:250]] == [str(d.date()) for d in table["target_date"].iloc[-250:]]
    assert len(band) == 500


def test_a_delayed_fan_starts_at_the_close_at_which_its_target_starts() -> None:
    table = forecasts_of_one_symbol(horizons=(5, 10), delay=2)
    close = table.drop_duplicates("origin").set_index("origin")["price"]
    for (start, base), *_ in fans_of(fan_chart(table)):
        assert base == close[start]
    outcome = trace(fan_chart(table), "outcome")
    known = dict(zip(outcome.x, outcome.y, strict=True))
    shared = [x for x in known if pd.Timestamp(x) in close.index]
    assert shared
    assert all(known[x] == pytest.approx(close[x]) for x in shared)


def test_without_quantiles_only_the_mean_is_drawn() -> None:
    table = forecasts_of_one_symbol(horizons=(1, 5)).assign(**dict.fromkeys(QUANTILES, np.nan))
    names = [trace.name.split(" (")[0] for trace in fan_chart(table).data]
    assert names == ["mean", "price", "outcome, with dividends"]


def test_forecasts_beyond_the_data_are_drawn_without_outcome() -> None:
    table = forecasts_of_one_symbol(horizons=(1, 5)).assign(actual=np.nan)
    names = [trace.name for trace in fan_chart(table).data]
    assert not any("outcome" in name for name in names)
    undated = table.assign(target_date=pd.NaT)
    assert trace(fan_chart(undated), "price").y is not None


@pytest.mark.parametrize("symbol", ["<script>alert(1)</script>", "<b>", "</title>", "a&b"])
def test_markup_in_a_symbol_is_shown_and_not_obeyed(symbol: str) -> None:
    figure = fan_chart(forecasts_of_one_symbol(horizons=(1, 5), symbol=symbol))
    assert "<b>" not in figure.layout.title.text and "<script" not in figure.layout.title.text
    assert "<" not in figure.to_json(engine="json")


def test_a_fan_needs_no_more_than_its_columns(make_run: Make) -> None:
    table = make_run(parts={"test": 40}).forecasts(
        columns=FAN_COLUMNS, model="lstm", symbols=["BA"]
    )
    assert tuple(table.columns) == FAN_COLUMNS
    assert len(fans_of(fan_chart(table))) == 2


def figures(html: str, name: str = "fan") -> list[Any]:
    """The figures of a page whose elements are called so, "fan-1" or "fan"."""
    found = re.findall(r'<div id="([a-z]+)[^>]*>.*?data-figure>(.*?)</script>', html)
    return [json.loads(text) for called, text in found if called == name]


def test_chosen_origins_are_the_ones_drawn(make_backtest: Make) -> None:
    run = make_backtest()
    for chosen in (["2019-03-04", "2020-03-16"], ["2019-03-04"]):
        run.write("config.yaml", {**run.config, "report": {"origins": chosen}})
        html = forecasts(run)
        fans = figures(html)
        assert len(fans) == 4
        for fan in fans:
            assert ": lstm" in fan["layout"]["title"]["text"]
            titles = [a["text"] for a in fan["layout"]["annotations"][: len(chosen)]]
            assert titles == chosen
        assert "named by report.origins" in html
    assert "at 1 origin of" in html


def test_symbols_that_stopped_trading_before_the_part_are_not_drawn(make_run: Make) -> None:
    run = make_run(parts={"test": 40})
    data = run.data
    data["symbols"][0]["last"] = "1999-12-31"
    run.write("data.json", data)
    assert len(figures(forecasts(run))) == 3


def test_the_page_shows_the_volatility_of_the_first_symbol_beside_the_benchmarks(
    make_run: Make,
) -> None:
    run = make_run(horizons=(5, 20), parts={"test": 40})
    html = forecasts(run)
    (figure,) = figures(html, "volatility")
    assert (
        figure["layout"]["title"]["text"] == "AAPL: volatility over 5 sessions, stated and actual"
    )
    assert [trace["name"] for trace in figure["data"][1:]] == ["lstm", "ewma_t"]
    assert "the return over 5 sessions, not annualised" in html
    assert "of a single return" not in html
    assert "of a single return" in forecasts(make_run("other", horizons=(1,), parts={"test": 40}))


def test_without_a_standard_deviation_the_page_shows_no_volatility(make_backtest: Make) -> None:
    run = make_backtest()
    nothing = run.forecasts(part="test").assign(std=np.nan)
    with ForecastWriter(run.path / "forecasts.parquet") as writer:
        for _, block in nothing.groupby(["model", "fold"], observed=True):
            writer.write(block)
    html = forecasts(run)
    assert len(figures(html)) == 4 and not figures(html, "volatility")


@pytest.mark.parametrize("head", ["student_t", "point"])
def test_a_band_is_explained_where_there_is_one(make_run: Make, head: str) -> None:
    html = forecasts(make_run(head=head, horizons=(1,), parts={"test": 40}))
    assert ("A band of 90 %" in html) == (head != "point")


def test_a_panel_for_each_origin_shows_what_was_stated_at_it() -> None:
    table = forecasts_of_one_symbol(horizons=(1, 5, 20))
    price = table.drop_duplicates("origin").set_index("origin")["price"]
    origins = [price.index[50], price.index[200]]
    figure = fans_at(table, origins=origins)
    titles = [a.text for a in figure.layout.annotations]
    assert titles[:2] == [str(origin.date()) for origin in origins]
    medians = [t for t in figure.data if t.name.startswith("median")]
    for origin, line in zip(origins, medians, strict=True):
        stated = table[table["origin"] == origin]
        assert line.y[0] == price[origin]
        assert list(line.y[1:4]) == pytest.approx(
            list(price[origin] * np.exp(stated["q50"] / 100)), rel=1e-9
        )


def test_an_origin_without_session_shows_the_last_one_before_and_none_is_drawn_twice() -> None:
    table = forecasts_of_one_symbol(horizons=(1, 5))
    friday = next(day for day in table["origin"] if day.day_of_week == 4)
    weekend = [friday + pd.Timedelta(days=1), friday + pd.Timedelta(days=2)]
    figure = fans_at(table, origins=weekend)
    assert [a.text for a in figure.layout.annotations][:1] == [str(friday.date())]
    assert len([t for t in figure.data if t.name == "price"]) == 1
    before = fans_at(table, origins=[pd.Timestamp("1990-01-01")])
    assert len([t for t in before.data if t.name == "price"]) == 1


def test_a_panel_of_one_session_and_of_forecasts_beyond_the_data() -> None:
    table = forecasts_of_one_symbol(horizons=(1,))
    last = table["origin"].max()
    assert trace(fans_at(table, origins=[last]), "90 %").x
    unknown = table.assign(actual=np.nan, target_date=pd.NaT)
    assert not trace(fans_at(unknown, origins=[last]), "mean").y
