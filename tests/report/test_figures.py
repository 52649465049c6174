from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.forecasts import LEVELS, QUANTILES
from forecast.report import figures
from forecast.run import Run

MODELS = ("lstm", "historical", "ewma_t")
EDGES = np.array([0.0, *LEVELS, 1.0])


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


def history(members: int = 2, epochs: int = 8) -> pd.DataFrame:
    random = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "member": np.repeat(np.arange(members), epochs),
            "epoch": np.tile(np.arange(epochs), members),
            "train_loss": random.uniform(1, 2, members * epochs),
            "validation_loss": random.uniform(1, 2, members * epochs),
        }
    )


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


FIGURES: dict[str, Callable[[], go.Figure]] = {
    "fans": lambda: figures.fan_chart(forecasts_of_one_symbol(horizons=(1, 5, 20))),
    "band": lambda: figures.fan_chart(forecasts_of_one_symbol(horizons=(1,))),
    "learning": lambda: figures.learning_curves(history(), model="lstm", unit="nats"),
    "pit": lambda: figures.pit_histograms(pit_table()),
    "reliability": lambda: figures.reliability(level_table()),
}


def texts(figure: go.Figure) -> str:
    axes = [figure.layout.xaxis.title.text, figure.layout.yaxis.title.text]
    return " | ".join(
        filter(None, [*axes, *(annotation.text for annotation in figure.layout.annotations)])
    )


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


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_title_hover_texts_and_axes_with_their_units(name: str) -> None:
    figure = FIGURES[name]()
    assert figure.layout.title.text
    words = {
        "fans": ("session (date)", "price (currency of the data)"),
        "band": ("session (date)", "price (currency of the data)"),
        "learning": ("epoch", "loss (nats)"),
        "pit": ("level", "density (1 = calibrated)"),
        "reliability": ("nominal level", "observed minus nominal (points)"),
    }[name]
    assert all(word in texts(figure) for word in words)
    assert all(trace.hovertemplate or trace.hoverinfo == "skip" for trace in figure.data)


def test_a_model_keeps_one_colour_that_no_other_model_has() -> None:
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)
    assert figures.OTHER_COLOUR not in figures.COLOURS.values()
    reliability = {t.name: t.line.color for t in FIGURES["reliability"]().data}
    pit = {t.name: t.marker.color for t in FIGURES["pit"]().data}
    assert reliability == pit == {model: figures.colour(model) for model in MODELS}
    assert trace(FIGURES["learning"](), "validation").line.color == figures.colour("lstm")
    assert trace(FIGURES["fans"](), "median").line.color == figures.colour("lstm")


def test_a_quantile_in_percent_becomes_a_price() -> None:
    table = forecasts_of_one_symbol(horizons=(20,))
    price = table.set_index("origin")["price"]
    by_target = table.set_index("target_date")
    for fan in fans_of(figures.fan_chart(table)):
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
    fans = fans_of(figures.fan_chart(table))
    assert 1 <= len(fans) <= figures.MOST_FANS + 1
    ends = [max(x for x, _ in fan) for fan in fans]
    starts = [min(x for x, _ in fan) for fan in fans]
    assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True))


def test_forecasts_of_one_session_draw_a_band_at_every_session() -> None:
    table = forecasts_of_one_symbol(horizons=(1,), origins=400)
    (band,) = fans_of(figures.fan_chart(table, sessions=250))
    assert [x for x, _ in band[:250]] == [str(d.date()) for d in table["target_date"].iloc[-250:]]
    assert len(band) == 500


def test_a_delayed_fan_starts_at_the_close_at_which_its_target_starts() -> None:
    table = forecasts_of_one_symbol(horizons=(5, 10), delay=2)
    close = table.drop_duplicates("origin").set_index("origin")["price"]
    for (start, base), *_ in fans_of(figures.fan_chart(table)):
        assert base == close[start]
    outcome = trace(figures.fan_chart(table), "outcome")
    known = dict(zip(outcome.x, outcome.y, strict=True))
    shared = [x for x in known if pd.Timestamp(x) in close.index]
    assert shared
    assert all(known[x] == pytest.approx(close[x]) for x in shared)


def test_without_quantiles_only_the_mean_is_drawn() -> None:
    table = forecasts_of_one_symbol(horizons=(1, 5)).assign(**dict.fromkeys(QUANTILES, np.nan))
    names = [trace.name.split(" (")[0] for trace in figures.fan_chart(table).data]
    assert names == ["mean", "price", "outcome, with dividends"]


def test_forecasts_beyond_the_data_are_drawn_without_outcome() -> None:
    table = forecasts_of_one_symbol(horizons=(1, 5)).assign(actual=np.nan)
    names = [trace.name for trace in figures.fan_chart(table).data]
    assert not any("outcome" in name for name in names)
    undated = table.assign(target_date=pd.NaT)
    assert trace(figures.fan_chart(undated), "price").y is not None


def test_the_best_epoch_of_every_member_is_marked() -> None:
    table = history(members=5)
    figure = figures.learning_curves(table, model="gru", unit="nats")
    stars = [trace for trace in figure.data if trace.name == "best epoch"]
    best = table.loc[table.groupby("member")["validation_loss"].idxmin()]
    assert [star.x[0] for star in stars] == best["epoch"].tolist()


def test_a_member_without_validation_loss_has_no_best_epoch() -> None:
    figure = figures.learning_curves(
        history(members=1).assign(validation_loss=np.nan), model="rnn", unit="nats"
    )
    assert len(trace(figure, "best epoch").x) == 0


def test_every_pit_histogram_has_the_area_of_a_density() -> None:
    figure = figures.pit_histograms(pit_table())
    assert len(figure.data) == 2 * len(MODELS)
    for bars in figure.data:
        assert len(bars.y) == 22
        assert np.dot(bars.y, bars.width) == pytest.approx(1)
        assert bars.x == pytest.approx((EDGES[:-1] + EDGES[1:]) / 2)


def test_reliability_is_the_difference_to_the_nominal_level() -> None:
    figure = figures.reliability(level_table())
    for curve in figure.data:
        assert curve.y == pytest.approx(100 * (np.power(LEVELS, 1.1) - LEVELS))
        assert curve.customdata == pytest.approx(np.power(LEVELS, 1.1))


@pytest.mark.parametrize("symbol", ["<script>alert(1)</script>", "<b>", "</title>", "a&b"])
def test_markup_in_a_symbol_is_shown_and_not_obeyed(symbol: str) -> None:
    figure = figures.fan_chart(forecasts_of_one_symbol(horizons=(1, 5), symbol=symbol))
    assert "<b>" not in figure.layout.title.text and "<script" not in figure.layout.title.text
    assert "<" not in figure.to_json(engine="json")


def test_horizons_are_listed_in_words() -> None:
    assert figures.in_words([1]) == "1 session"
    assert figures.in_words([5]) == "5 sessions"
    assert figures.in_words([1, 5]) == "1 and 5 sessions"
    assert figures.in_words([1, 5, 20]) == "1, 5 and 20 sessions"


def test_a_fan_needs_no_more_than_its_columns(make_run: Callable[..., Run]) -> None:
    table = make_run(parts={"test": 40}).forecasts(
        columns=figures.FAN_COLUMNS, model="lstm", symbols=["BA"]
    )
    assert tuple(table.columns) == figures.FAN_COLUMNS
    assert len(fans_of(figures.fan_chart(table))) == 2
