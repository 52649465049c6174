"""Figures of public tables: their numbers, titles and colours, not their pixels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from forecast.config import ForecastError
from forecast.forecasts import INNER, LEVELS, QUANTILES
from forecast.report import figures
from forecast.report.style import colour, darkened
from forecast.run import Run

MODELS = ["lstm", "gru", "gjr_t", "historical"]
HOSTILE = "<b>x</b>"


@pytest.fixture(scope="module")
def forecasts(built: Callable[..., Path]) -> pd.DataFrame:
    table = Run(built("backtest")).forecasts(part="test")
    return table[table["model"].isin(MODELS)]


@pytest.fixture(scope="module")
def daily(built: Callable[..., Path]) -> pd.DataFrame:
    table = pd.read_parquet(built("backtest") / "daily.parquet")
    return table[table["part"] == "test"]


@pytest.fixture(scope="module")
def returns(built: Callable[..., Path]) -> pd.DataFrame:
    table = pd.read_parquet(built("portfolio", years=(2020,)) / "returns.parquet")
    return table[(table["part"] == "test") & table["model"].isin(["lstm", "gru", "none"])]


@pytest.fixture(scope="module")
def history(built: Callable[..., Path]) -> pd.DataFrame:
    return Run(built("run")).history()


def every(
    forecasts: pd.DataFrame,
    daily: pd.DataFrame,
    returns: pd.DataFrame,
    history: pd.DataFrame,
    *,
    model: str = "lstm",
    symbol: str = "KO",
) -> dict[str, go.Figure]:
    """Every public figure, of the same tables."""
    one = forecasts[forecasts["symbol"] == symbol]
    fans = one[one["model"] == model]
    pair = returns[(returns["model"] == model) & (returns["strategy"] == "sign")]
    return {
        "fan_chart": figures.fan_chart(fans),
        "fans_at": figures.fans_at(fans, origins=["2019-03-04", "2020-03-16"]),
        "volatility": figures.volatility(one, horizon=5),
        "pit": figures.pit(forecasts),
        "reliability": figures.reliability(forecasts),
        "loss_difference": figures.loss_difference(daily, model=model, against="gjr_t"),
        "equity": figures.equity(returns),
        "monthly": figures.monthly(pair),
        "score_map": figures.score_map(forecasts, model=model, against="gjr_t"),
        "learning_curves": figures.learning_curves(history, model=model, unit="nats per target"),
    }


@pytest.fixture(scope="module")
def drawn(
    forecasts: pd.DataFrame, daily: pd.DataFrame, returns: pd.DataFrame, history: pd.DataFrame
) -> dict[str, go.Figure]:
    return every(forecasts, daily, returns, history)


def on_dates(trace: Any) -> pd.Series:
    """What a line on a grid of days shows, by date."""
    dates = pd.Timestamp(trace.x0) + pd.to_timedelta(np.arange(len(trace.y)) * trace.dx, unit="ms")
    return pd.Series(np.asarray(trace.y, float), index=dates).dropna()


def named(figure: go.Figure, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def strings(value: Any) -> Iterator[str]:
    """Every text in a figure."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list | tuple | np.ndarray):
        for inner in value:
            yield from strings(inner)


def test_all_that_is_public_is_tested_here(drawn: dict[str, go.Figure]) -> None:
    of_explanations = {"feature_importance", "gate_map", "gates", "memory_profile"}
    of_explanations |= {"news_impact", "recall"}  # in test_networks.py
    assert {*drawn, "dark", *of_explanations} == set(figures.__all__)


def test_every_figure_has_a_title_and_every_axis_says_what_it_measures(
    drawn: dict[str, go.Figure],
) -> None:
    for name, figure in drawn.items():
        assert figure.layout.title.text, name
        texts = [annotation.text for annotation in figure.layout.annotations]
        shared = {  # of panels side by side, which have one title between them
            "x": any(re.match("session|level of|nominal level|epoch", text) for text in texts),
            "y": any(re.match("price|density|observed|loss", text) for text in texts),
        }
        below = {axis.matches for axis in figure.select_xaxes()}  # panels on top of another
        for letter, axes in (("x", figure.select_xaxes()), ("y", figure.select_yaxes())):
            for axis in axes:
                told = axis.title.text or shared[letter] or (letter == "x" and below != {None})
                assert told, f"{name}: {letter} axis"


@pytest.mark.parametrize(
    ("figure", "axis", "unit"),
    [
        ("fan_chart", "yaxis", "price (currency of the data)"),
        ("volatility", "yaxis", "standard deviation over 5 sessions, %"),
        ("loss_difference", "yaxis", "summed difference, %"),
        ("equity", "yaxis2", "drawdown, %"),
        ("monthly", "xaxis", "month"),
        ("score_map", "yaxis", "year of the origin"),
    ],
)
def test_an_axis_names_its_unit(
    drawn: dict[str, go.Figure], figure: str, axis: str, unit: str
) -> None:
    assert drawn[figure].layout[axis].title.text == unit


def test_a_model_has_its_colour_in_every_figure(drawn: dict[str, go.Figure]) -> None:
    for name in ("volatility", "reliability"):
        assert {model: named(drawn[name], model).line.color for model in MODELS} == {
            model: colour(model) for model in MODELS
        }
    assert {bar.name: bar.marker.color for bar in drawn["pit"].data if bar.type == "bar"} == {
        model: colour(model) for model in MODELS
    }
    assert {line.line.color for line in drawn["loss_difference"].data} == {colour("lstm")}
    assert named(drawn["learning_curves"], "validation").line.color == colour("lstm")
    for trace in drawn["equity"].data:
        _, on, model = trace.name.partition(" on ")
        assert trace.line.color == (colour(model) if on else figures.BENCHMARKS)


def test_a_figure_on_a_dark_page_shows_the_same_in_other_colours(
    drawn: dict[str, go.Figure],
) -> None:
    for name, figure in drawn.items():
        night = figures.dark(figure)
        assert night.layout.title == figure.layout.title
        assert night.layout.template.layout.paper_bgcolor == darkened("white"), name
        assert figure.layout.template.layout.paper_bgcolor != darkened("white"), name
        traces, others = (json.loads(each.to_json())["data"] for each in (figure, night))
        for trace, other in zip(traces, others, strict=True):
            for shown in ("name", "x0", "x", "y", "z", "text", "hovertemplate", "customdata"):
                assert trace.get(shown) == other.get(shown), name
    assert named(figures.dark(drawn["volatility"]), "gjr_t").line.color == darkened(colour("gjr_t"))


def test_lines_of_one_colour_differ_in_their_dashes(
    forecasts: pd.DataFrame, drawn: dict[str, go.Figure]
) -> None:
    for name in ("equity", "loss_difference"):
        lines = [trace for trace in drawn[name].data if trace.showlegend is not False]
        assert len({(t.line.color, t.line.dash) for t in lines}) == len(lines) >= 2
    one = forecasts[(forecasts["symbol"] == "KO") & forecasts["model"].isin(["lstm", "gru"])]
    others = one.assign(model=one["model"].astype(str).map({"lstm": "ours", "gru": "theirs"}))
    for figure in (figures.volatility(others), figures.reliability(others)):
        ours, theirs = (named(figure, model).line for model in ("ours", "theirs"))
        assert ours.color == theirs.color and ours.dash != theirs.dash


def test_volatility_is_the_deviation_stated_beside_the_root_of_what_came(
    forecasts: pd.DataFrame, drawn: dict[str, go.Figure]
) -> None:
    rows = forecasts[(forecasts["symbol"] == "KO") & (forecasts["horizon"] == 5)]
    for model in MODELS:
        stated = rows[rows["model"] == model].set_index("target_date")["std"]
        line = on_dates(named(drawn["volatility"], model))
        assert len(line) == len(stated) > 400
        np.testing.assert_allclose(line, stated[line.index], rtol=1e-6)
    came = rows[rows["model"] == "gru"].set_index("target_date")["realized_variance"] ** 0.5
    points = on_dates(drawn["volatility"].data[0])
    assert len(points) == len(came)
    np.testing.assert_allclose(points, came[points.index], rtol=1e-6)


def test_a_model_without_standard_deviation_has_no_line_and_unknown_targets_no_point(
    forecasts: pd.DataFrame,
) -> None:
    rows = forecasts[(forecasts["symbol"] == "KO") & (forecasts["horizon"] == 1)].copy()
    rows.loc[rows["model"] == "gru", "std"] = np.nan
    last = rows["origin"].max()
    newest = rows["origin"] == last
    rows.loc[newest, ["actual", "realized_variance"]] = np.nan
    rows.loc[newest, "target_date"] = pd.NaT
    figure = figures.volatility(rows)
    assert [trace.name for trace in figure.data[1:]] == ["lstm", "gjr_t", "historical"]
    assert all(on_dates(trace).index.max() == last for trace in figure.data)
    unknown = figures.volatility(rows.assign(realized_variance=np.nan))
    assert len(unknown.data) == len(figure.data) - 1


def test_bars_are_shares_of_outcomes_between_quantiles_over_the_width_of_the_bin(
    forecasts: pd.DataFrame, drawn: dict[str, go.Figure]
) -> None:
    rows = forecasts[(forecasts["model"] == "gjr_t") & (forecasts["horizon"] == 1)]
    above = (rows[list(QUANTILES)].lt(rows["actual"], axis=0)).sum(axis=1)
    share = above.value_counts(normalize=True).reindex(range(22), fill_value=0.0)
    density = share.to_numpy() / np.diff([0, *LEVELS, 1])
    bars = named(drawn["pit"], "gjr_t")
    np.testing.assert_allclose(bars.y, density)
    equal = figures.pit(forecasts, exact=True)
    counts, _ = np.histogram(rows["pit"], bins=20, range=(0, 1))
    np.testing.assert_allclose(named(equal, "gjr_t").y, 20 * counts / len(rows))
    for figure in (drawn["pit"], equal):
        bands = [trace for trace in figure.data if trace.name == "95 % band"]
        assert len(bands) == len(figure.data) / 2


def test_reliability_is_the_share_at_or_below_each_quantile_less_its_level(
    forecasts: pd.DataFrame, drawn: dict[str, go.Figure]
) -> None:
    rows = forecasts[(forecasts["model"] == "historical") & (forecasts["horizon"] == 1)]
    share = rows[list(QUANTILES)].ge(rows["actual"], axis=0).mean().to_numpy()
    line = named(drawn["reliability"], "historical")
    np.testing.assert_allclose(line.y, 100 * (share - np.array(LEVELS)))


def test_models_stand_in_the_order_of_the_table_and_those_without_quantiles_are_left_out(
    forecasts: pd.DataFrame,
) -> None:
    some = forecasts[(forecasts["symbol"] == "KO") & (forecasts["horizon"] == 1)].copy()
    some.loc[some["model"] == "gru", list(QUANTILES)] = np.nan
    shown = [trace.name for trace in figures.reliability(some).data]
    assert shown == ["lstm", "gjr_t", "historical"]


def test_a_loss_difference_sums_what_one_model_loses_more_than_the_other(
    daily: pd.DataFrame,
) -> None:
    figure = figures.loss_difference(daily, model="gru", against="historical", loss="log_score")
    assert [trace.name for trace in figure.data] == ["1 session ahead", "5 sessions ahead"]
    for horizon, trace in zip((1, 5), figure.data, strict=True):
        losses = daily[daily["horizon"] == horizon].pivot(
            index="origin", columns="model", values="log_score"
        )
        summed = (losses["gru"] - losses["historical"]).cumsum()
        line = on_dates(trace)
        assert len(line) == len(summed)
        np.testing.assert_allclose(line, summed[line.index], rtol=1e-5, atol=1e-5)
    assert figure.layout.yaxis.title.text == "summed difference, nats"


def test_equity_compounds_returns_and_drawdowns_are_measured_from_the_highest(
    returns: pd.DataFrame, drawn: dict[str, go.Figure]
) -> None:
    shuffled = figures.equity(returns.sample(frac=1, random_state=0))
    for figure in (drawn["equity"], shuffled):
        pairs = returns[["model", "strategy"]].drop_duplicates()
        assert len(figure.data) == 2 * len(pairs)
        upper, lower = [trace for trace in figure.data if trace.name == "sign on gru"]
        rows = returns[(returns["model"] == "gru") & (returns["strategy"] == "sign")]
        grown = (1 + rows.set_index("date")["simple_return"]).cumprod()
        fallen = 100 * (grown / np.maximum(grown.cummax(), 1) - 1)
        for trace, expected in ((upper, grown), (lower, fallen)):
            line = on_dates(trace)
            assert len(line) == len(expected)
            np.testing.assert_allclose(line, expected[line.index], rtol=1e-5, atol=1e-5)
        assert figure.layout.yaxis.type == "log"


def test_a_month_compounds_its_days(returns: pd.DataFrame, drawn: dict[str, go.Figure]) -> None:
    rows = returns[(returns["model"] == "lstm") & (returns["strategy"] == "sign")]
    growth = (1 + rows["simple_return"]).groupby(rows["date"].dt.month).prod() - 1
    (cells,) = drawn["monthly"].data
    assert list(cells.y) == ["2020"]
    np.testing.assert_allclose(np.asarray(cells.z)[0], 100 * growth, rtol=1e-5)
    assert cells.zmin == -cells.zmax
    assert "sign on lstm" in drawn["monthly"].layout.title.text


def test_a_cell_compares_mean_losses_of_one_symbol_and_year(
    forecasts: pd.DataFrame, drawn: dict[str, go.Figure]
) -> None:
    rows = forecasts[forecasts["horizon"] == 1]
    inner = list(QUANTILES[1:-1])
    error = rows[inner].rsub(rows["actual"], axis=0)
    pinball = np.maximum(error * np.array(INNER), error * (np.array(INNER) - 1))
    crps = rows.assign(crps=2 * pinball.mean(axis=1), year=rows["origin"].dt.year)
    mean = crps.groupby(["model", "year", "symbol"], observed=True)["crps"].mean()
    expected = 100 * (mean["lstm"] / mean["gjr_t"] - 1).unstack()
    (cells,) = drawn["score_map"].data
    assert list(cells.y) == ["2019", "2020"] and list(cells.x) == list(expected.columns)
    np.testing.assert_allclose(cells.z, expected, rtol=1e-3, atol=1e-4)
    assert cells.zmin == -cells.zmax and cells.colorscale[2][1].upper() == "#FFFFFF"
    assert cells.customdata[0][0][2] == len(rows[rows["origin"].dt.year == 2019]) / 5 / len(MODELS)


def test_cells_count_the_dates_that_both_models_have(forecasts: pd.DataFrame) -> None:
    lacking = (forecasts["model"] == "gjr_t") & (forecasts["origin"] < "2020-01-01")
    figure = figures.score_map(
        forecasts[~lacking],
        model="lstm",
        against="gjr_t",
        by=("symbol", "scale"),
        loss="mae",
        horizon=5,
    )
    (cells,) = figure.data
    count = np.asarray(cells.customdata)[:, :, 2]
    both = forecasts[(forecasts["model"] == "gjr_t") & (forecasts["horizon"] == 5) & ~lacking]
    assert count.sum() == len(both)
    assert list(cells.x) == ["low", "middle", "high"] and len(cells.y) == 5
    np.testing.assert_allclose(count.sum(axis=0), len(both) / 3, atol=5)  # terciles
    (turned,) = figures.score_map(
        forecasts, model="lstm", against="gjr_t", by=("scale", "year")
    ).data
    assert list(turned.y) == ["low", "middle", "high"]
    assert figure.layout.title.text.startswith("mae of lstm beside gjr_t, 5 sessions ahead")


def test_markup_in_names_is_shown_and_not_obeyed(
    forecasts: pd.DataFrame, daily: pd.DataFrame, returns: pd.DataFrame, history: pd.DataFrame
) -> None:
    def hostile(table: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
        return table.assign(**{column: table[column].astype(str).replace(name, HOSTILE)})

    shown = every(
        hostile(hostile(forecasts, "symbol", "KO"), "model", "lstm"),
        hostile(daily, "model", "lstm"),
        hostile(returns, "model", "lstm"),
        history,
        model=HOSTILE,
        symbol=HOSTILE,
    )
    shown["against"] = figures.score_map(
        hostile(forecasts, "model", "gjr_t"), model="lstm", against=HOSTILE
    )
    shown["unit"] = figures.learning_curves(history, model="lstm", unit=HOSTILE)
    del shown["learning_curves"]  # which has no name of a model in it
    for name, figure in shown.items():
        told = [*strings(figure.to_dict())]
        assert any(escape(HOSTILE) in text for text in told), name
        assert not any(HOSTILE in text for text in told), name


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda f: figures.fan_chart(f), r"4 values of model \(lstm, .*Keep one: .*== 'lstm'"),
        (lambda f: figures.fan_chart(f[f["model"] == "gru"]), "5 values of symbol"),
        (lambda f: figures.fan_chart(f.drop(columns="q05")), "forecasts: no column q05"),
        (lambda f: figures.fan_chart(f[f["price"] < 0]), "the table has no row"),
        (lambda f: figures.fans_at(f, origins=["2020-03-16"]), "values of model"),
        (lambda f: figures.volatility(f), "5 values of symbol"),
        (lambda f: figures.volatility(f[f["symbol"] == "KO"], horizon=2), "no horizon 2.*1, 5"),
        (lambda f: figures.volatility(f.drop(columns=["std", "price"])), "no column std"),
        (lambda f: figures.volatility(f[f["symbol"] == "KO"].assign(std=np.nan)), "std is null"),
        (lambda f: figures.pit(f.drop(columns=["pit", "q50"])), "no column pit and q50"),
        (lambda f: figures.pit(f.assign(pit=np.nan), exact=True), "pit is null for every model"),
        (lambda f: figures.pit(f.assign(actual=np.nan)), "no row has both quantiles and a known"),
        (lambda f: figures.reliability(f.assign(part=f["origin"].dt.year)), "2 values of part"),
        (
            lambda f: figures.score_map(f, model="lstm", against="elman"),
            "forecasts: no model elman. Choose from lstm, gru, gjr_t, historical",
        ),
        (
            lambda f: figures.score_map(f, model="lstm", against="gru", loss="log_score"),
            "loss='log_score' has no percentages: choose from crps",
        ),
        (
            lambda f: figures.score_map(f, model="lstm", against="gru", by=("year", "year")),
            "name two of year, scale and symbol",
        ),
        (
            lambda f: figures.score_map(
                f.assign(crps_exact=np.nan), model="lstm", against="gru", loss="crps_exact"
            ),
            "no row has crps_exact of both lstm and gru",
        ),
        (
            lambda f: figures.score_map(
                f.assign(symbol=f["origin"].astype(str)).drop_duplicates(
                    ["model", "horizon", "origin"]
                ),
                model="lstm",
                against="gru",
            ),
            "values of symbol .* 30 at most",
        ),
    ],
)
def test_forecasts_that_cannot_be_shown_are_refused_with_the_remedy(
    forecasts: pd.DataFrame, draw: Callable[[pd.DataFrame], go.Figure], message: str
) -> None:
    with pytest.raises(ForecastError, match=message):
        draw(forecasts)


def test_what_stands_twice_or_belongs_to_two_parts_is_refused_by_every_figure(
    forecasts: pd.DataFrame, daily: pd.DataFrame, returns: pd.DataFrame
) -> None:
    one = forecasts[forecasts["symbol"] == "KO"]
    fans = one[one["model"] == "lstm"]
    pair = returns[(returns["model"] == "lstm") & (returns["strategy"] == "sign")]
    both: dict[str, Any] = {"model": "lstm", "against": "gjr_t"}
    drawings: list[tuple[pd.DataFrame, Callable[[pd.DataFrame], go.Figure]]] = [
        (fans, figures.fan_chart),
        (fans, lambda table: figures.fans_at(table, origins=["2020-03-16"])),
        (one, figures.volatility),
        (forecasts, lambda table: figures.score_map(table, **both)),
        (daily, lambda table: figures.loss_difference(table, **both)),
        (returns, figures.equity),
        (pair, figures.monthly),
    ]
    for table, draw in drawings:
        with pytest.raises(ForecastError, match="more than one row of .*Keep one fold and part"):
            draw(pd.concat([table, table]))
        draw(table.drop(columns="part"))
    for table, draw in [*drawings, (forecasts, figures.pit), (forecasts, figures.reliability)]:
        mixed = pd.concat([table, table.assign(part="live")])
        with pytest.raises(ForecastError, match=r"2 values of part \(test, live\)"):
            draw(mixed)


def test_more_models_than_can_be_told_apart_are_refused(forecasts: pd.DataFrame) -> None:
    one = forecasts[(forecasts["symbol"] == "KO") & (forecasts["model"] == "gru")]
    seven = pd.concat(one.assign(model=f"model{place}") for place in range(7))
    for draw in (figures.volatility, figures.pit, figures.reliability):
        with pytest.raises(ForecastError, match="7 values of model .* 6 at most. Choose some"):
            draw(seven)


def test_other_tables_are_refused_alike(
    daily: pd.DataFrame, returns: pd.DataFrame, history: pd.DataFrame
) -> None:
    def difference(table: pd.DataFrame, **options: str) -> go.Figure:
        return figures.loss_difference(table, **{"model": "lstm", "against": "gjr_t", **options})

    pair = returns[(returns["model"] == "lstm") & (returns["strategy"] == "sign")]
    crowd = pd.concat(pair.assign(strategy=f"rule{place}") for place in range(11))
    for draw, message in (
        (lambda: difference(daily, against="elman"), "daily: no model elman"),
        (lambda: difference(daily, loss="coverage_50"), "'coverage_50' is no loss"),
        (lambda: difference(daily.drop(columns="crps")), "daily: no column crps"),
        (lambda: difference(daily.assign(crps=np.nan)), "crps on no common date"),
        (lambda: figures.equity(returns.drop(columns="date")), "returns: no column date"),
        (lambda: figures.equity(crowd), "11 pairs of model and strategy"),
        (lambda: figures.monthly(returns), "3 values of model"),
        (lambda: figures.learning_curves(history[:0], model="lstm", unit="nats"), "has no row"),
    ):
        with pytest.raises(ForecastError, match=message):
            draw()
