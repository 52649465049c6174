"""Figures of trained networks: their numbers, titles and colours, not their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from forecast.config import ForecastError
from forecast.report import networks
from forecast.report.style import DARK, colour

HOSTILE = ("<b>x", "<i>y", "<script>z")


def memory(slopes: dict[tuple[str, int], float], lags: int = 20) -> pd.DataFrame:
    """Gradients that shrink by a factor a session, by model and member."""
    lag = np.arange(lags + 1)
    return pd.concat(
        pd.DataFrame(
            {"model": model, "seed": 0, "member": member, "lag": lag, "gradient": slope**lag}
        )
        for (model, member), slope in slopes.items()
    )


def recall(models: tuple[str, ...] = ("rnn", "gru")) -> pd.DataFrame:
    rows = [
        (model, seed, first, last, 100, 0.5 + 0.2 * seed, 0.1 * seed)
        for model in models
        for seed in (0, 1)
        for first, last in ((1, 1), (2, 3), (4, 6))
    ]
    names = ["model", "seed", "first", "last", "answers", "recalled", "gradient"]
    return pd.DataFrame(rows, columns=names)


def gates(models: tuple[str, ...] = ("rnn", "lstm", "gru"), rise: float = 1.5) -> pd.DataFrame:
    dates = pd.bdate_range("2015-01-02", periods=30)
    own = {"lstm": ("forget", "input", "output"), "gru": ("reset", "update")}
    shared = {"date": dates.astype(str), "price": np.linspace(10, 10 * rise, 30)}
    return pd.concat(
        [
            pd.DataFrame({"model": model, **shared, "volatility": 1.0 + number}).assign(
                **{gate: 0.1 * place for place, gate in enumerate(own.get(model, ()), start=1)}
            )
            for number, model in enumerate(models)
        ],
        ignore_index=True,
    )


def units(model: str = "lstm", gate: str = "forget", layers: int = 1) -> pd.DataFrame:
    """400 dates of 3 units a layer; the second is the most open, the first the least."""
    dates = pd.bdate_range("2015-01-02", periods=400).astype(str)
    rows = [
        (model, date, gate, layer, unit, (0.2, 0.9, 0.5)[unit - 1] / layer)
        for date in dates
        for layer in range(1, layers + 1)
        for unit in (1, 2, 3)
    ]
    return pd.DataFrame(rows, columns=["model", "date", "gate", "layer", "unit", "activity"])


def impact(models: tuple[str, ...] = ("lstm", "gru"), benchmark: str = "gjr_t") -> pd.DataFrame:
    rows = [
        (model, seed, member, shock, 1 + member * shock**2 / 10)
        for model, seed, member in (
            *((model, 0, member) for model in models for member in (1, 2)),
            (benchmark, None, None),
        )
        for shock in (-1.0, 0.0, 1.0)
        if member is not None
    ]
    own = pd.DataFrame(rows, columns=["model", "seed", "member", "shock", "ratio"])
    formula = {"model": benchmark, "shock": [-1.0, 0.0, 1.0], "ratio": [1.3, 1.0, 1.1]}
    return pd.concat([own, pd.DataFrame(formula)], ignore_index=True)


def importance(models: tuple[str, ...] = ("lstm", "gru"), best: str = "scale") -> pd.DataFrame:
    """The market's return is shared by all symbols; `best` matters most."""
    features = {"return": 0.1, "market_return": np.nan, best: 0.3}
    rows = [
        (model, 0, member, feature, rise * member, 0.05)
        for model in models
        for member in (1, 2)
        for feature, rise in features.items()
    ]
    names = ["model", "seed", "member", "feature", "permutation", "gradients"]
    return pd.DataFrame(rows, columns=names)


def every(name: str = "lstm", other: str = "gjr_t", feature: str = "scale") -> list[go.Figure]:
    """Every figure, of models and a feature of these names."""
    return [
        networks.memory_profile(memory({(name, 1): 0.5, ("rnn", 1): 0.4})),
        networks.recall(recall((name, "rnn"))),
        networks.gates(gates(("lstm", "gru")).replace("gru", name), symbol=feature),
        networks.gate_map(units(name, feature), name, feature),
        networks.news_impact(impact((name, "gru"), benchmark=other)),
        networks.feature_importance(importance((name, "gru"), best=feature)),
    ]


@pytest.fixture(scope="module")
def drawn() -> list[go.Figure]:
    return every()


def named(figure: go.Figure, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name == name]


def test_every_figure_has_a_title_axes_that_name_what_they_show_and_hovers(
    drawn: list[go.Figure],
) -> None:
    assert len({figure.layout.title.text for figure in drawn}) == len(drawn)
    for figure in drawn:
        assert any(axis.title.text for axis in figure.select_xaxes())
        assert any(axis.title.text for axis in figure.select_yaxes()) or figure is drawn[-1]
        for trace in figure.data:
            assert trace.hovertemplate or trace.hoverinfo == "skip"
    units = {axis.title.text for figure in drawn for axis in figure.select_yaxes()}
    assert {"volatility over<br>the horizon, %", "price (currency<br>of the data)"} <= units


def colours(value: Any, key: str = "") -> Iterator[str]:
    """All colours of a figure's JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from colours(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from colours(item, key)
    elif isinstance(value, str) and key.endswith(("color", "colorscale")):
        parts = value.removeprefix("rgba(").removesuffix(")").split(",")[:3]
        yield value if value[0] == "#" else "#" + "".join(f"{int(part):02x}" for part in parts)


def test_every_colour_has_been_chosen_for_light_and_dark_pages(drawn: list[go.Figure]) -> None:
    for figure in drawn:
        json = figure.to_plotly_json()
        json["layout"].pop("template")
        found = {value.lower() for value in colours(json)}
        assert found and found <= {light.lower() for light in DARK}


def test_models_features_and_gates_that_are_markup_are_shown_and_not_obeyed() -> None:
    for figure in every(*HOSTILE):
        json = figure.to_json(engine="json").replace("\\u003c", "<").replace("\\u003e", ">")
        assert not any(text in json for text in HOSTILE)
        assert any(escape(text) in json for text in HOSTILE)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (networks.memory_profile, "memory"),
        (networks.recall, "recall"),
        (networks.gates, "gates"),
        (lambda table: networks.gate_map(table, "lstm", "forget"), "units"),
        (networks.news_impact, "impact"),
        (networks.feature_importance, "importance"),
    ],
)
def test_another_table_is_refused_in_a_line_that_names_the_right_one(draw: Any, name: str) -> None:
    with pytest.raises(
        ForecastError, match=f"^{name}: no column .*model.*: {name}.csv of an explanation"
    ):
        draw(pd.DataFrame({"symbol": ["KO"]}))


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(ForecastError, match="recall: the table has no row"):
        networks.recall(recall().iloc[:0])


def test_every_member_has_a_thin_line_and_every_model_a_bold_mean() -> None:
    table = memory({("lstm", 1): 0.5, ("lstm", 2): 0.9, ("rnn", 1): 0.6})
    figure = networks.memory_profile(table)
    assert figure.layout.yaxis.type == "log"
    (bold,) = named(figure, "lstm")
    thin = [t for t in figure.data if t.legendgroup == "lstm" and t.mode == "lines" and t != bold]
    assert [trace.name for trace in thin] == ["lstm, seed 0, member 1", "lstm, seed 0, member 2"]
    assert bold.line.color == colour("lstm") and bold.line.width > thin[0].line.width
    np.testing.assert_allclose(bold.y, np.mean([trace.y for trace in thin], axis=0))
    assert [t.name for t in figure.data if t.showlegend] == ["lstm", "rnn"]


def test_a_member_is_marked_where_its_gradient_has_halved_for_good() -> None:
    figure = networks.memory_profile(memory({("lstm", 1): 0.5, ("rnn", 1): 1.0}))
    (mark,) = [trace for trace in figure.data if trace.mode == "markers"]
    assert (mark.name, mark.x[0], mark.y[0]) == ("lstm, seed 0, member 1", 2.0, 0.25)


def test_gradients_below_a_millionth_of_the_largest_do_not_press_the_others_together() -> None:
    low, high = networks.memory_profile(memory({("rnn", 1): 1e-3})).layout.yaxis.range
    assert -6.5 < low < -6 and 0 < high < 0.5


def test_members_of_the_same_name_keep_their_own_lines() -> None:
    twice = pd.concat([memory({("lstm", 1): 0.5}), memory({("lstm", 1): 0.8})])
    thin = named(networks.memory_profile(twice), "lstm, seed 0, member 1")
    lines = [trace for trace in thin if trace.mode == "lines"]
    assert [len(trace.x) for trace in lines] == [21, 21]
    assert [trace.y[1] for trace in lines] == [0.5, 0.8]


def test_what_is_recalled_is_a_mean_over_trainings_which_are_the_points() -> None:
    figure = networks.recall(recall().iloc[::-1])  # in whatever order the rows come
    assert figure.layout.xaxis.type == "category"
    left, right = (
        [t for t in named(figure, "gru") if t.xaxis == axis and t.mode == "lines"]
        for axis in ("x", "x2")
    )
    assert list(left[0].x) == ["1", "2–3", "4–6"]
    assert left[0].y.tolist() == pytest.approx([0.6] * 3)
    assert right[0].y.tolist() == pytest.approx([0.05] * 3)
    points = [t for t in named(figure, "rnn") if t.mode == "markers" and t.xaxis == "x"]
    assert sorted(points[0].y) == pytest.approx([0.5] * 3 + [0.7] * 3)
    assert sorted(points[0].customdata) == [0, 0, 0, 1, 1, 1]


def test_perfect_memory_and_the_sign_alone_are_dotted_lines() -> None:
    lines = networks.recall(recall()).layout.shapes
    assert all(line.line.dash == "dot" for line in lines)
    levels = sorted((line.yref, line.y0) for line in lines)
    assert levels == [("y", pytest.approx(2 / np.pi)), ("y", 1), ("y2", 1)]


def test_the_sign_of_a_normal_number_recalls_two_over_pi_of_it() -> None:
    normal = np.random.default_rng(0).normal(size=100_000)
    squared = np.corrcoef(normal, np.sign(normal))[0, 1] ** 2
    assert squared == pytest.approx(networks.SIGN_ALONE, abs=0.01)


def test_price_volatility_and_the_gates_of_each_cell_share_their_dates() -> None:
    figure = networks.gates(gates(), symbol="KO")
    assert figure.layout.title.text.startswith("KO: ")
    panels: dict[str, list[str]] = {}
    for trace in figure.data:
        panels.setdefault(trace.yaxis, []).append(trace.name)
    assert list(panels.values()) == [
        ["price"],
        ["rnn", "lstm", "gru"],
        ["lstm forget", "lstm input", "lstm output"],
        ["gru reset", "gru update"],
    ]
    assert {(t.x0, t.dx, len(t.y)) for t in figure.data} == {("2015-01-02", 86_400_000, 42)}
    assert np.nanmax(named(figure, "gru update")[0].y) == pytest.approx(0.2)


def test_the_gate_that_keeps_the_state_has_the_colour_of_its_model() -> None:
    figure = networks.gates(gates())
    own = [t.name for t in figure.data if t.line.color == colour(t.name.split()[0])]
    assert own == ["rnn", "lstm", "gru", "lstm forget", "gru update"]


def test_a_simple_rnn_alone_has_no_panel_of_gates() -> None:
    figure = networks.gates(gates(("rnn",)))
    assert [trace.name for trace in figure.data] == ["price", "rnn"]
    assert figure.layout.title.text == "Price and volatility"


@pytest.mark.parametrize(("rise", "kind"), [(2.0, None), (4.0, "log")])
def test_a_price_that_has_tripled_is_drawn_on_a_log_scale(rise: float, kind: str | None) -> None:
    assert networks.gates(gates(rise=rise)).layout.yaxis.type == kind


def test_a_map_of_gates_has_its_most_open_unit_at_the_top_and_few_enough_dates() -> None:
    (cells,) = networks.gate_map(units(), "lstm", "forget").data
    assert list(cells.y) == ["1", "3", "2"]  # from the bottom
    assert cells.z.dtype == np.float32 and cells.z.shape == (3, 134)
    assert (cells.zmin, cells.zmax) == (0, 1)
    dates = pd.bdate_range("2015-01-02", periods=400)
    assert list(cells.x) == [str(date.date()) for date in dates[::3]]


def test_units_of_several_layers_are_told_apart() -> None:
    (cells,) = networks.gate_map(units(layers=2), "lstm", "forget").data
    assert list(cells.y) == ["2: 1", "1: 1", "2: 3", "2: 2", "1: 3", "1: 2"]


def test_a_gate_that_a_cell_does_not_have_is_refused() -> None:
    with pytest.raises(ForecastError, match="no gate update of lstm. Choose from lstm forget"):
        networks.gate_map(units(), "lstm", "update")


def test_the_news_impact_of_a_network_is_a_mean_in_a_band_of_its_members() -> None:
    figure = networks.news_impact(impact())
    (mean,) = named(figure, "lstm")
    assert mean.line.color == colour("lstm") and mean.line.dash is None
    assert mean.y.tolist() == pytest.approx([1.15, 1, 1.15])
    (band,) = named(figure, "lstm, lowest to highest")
    assert band.x.tolist() == [-1, 0, 1, 1, 0, -1]
    assert band.y.tolist() == pytest.approx([1.1, 1, 1.1, 1.2, 1, 1.2])


def test_garch_is_dashed_in_its_own_colour_and_has_no_band() -> None:
    traces = [t for t in networks.news_impact(impact()).data if t.legendgroup == "gjr_t"]
    assert [(t.line.dash, t.line.color) for t in traces] == [("dash", colour("gjr_t"))]
    assert traces[0].y.tolist() == [1.3, 1.0, 1.1]


def test_features_stand_in_the_order_of_their_permutation_those_without_at_the_bottom() -> None:
    figure = networks.feature_importance(importance())
    assert list(figure.layout.yaxis.ticktext) == ["market_return", "return", "scale"]
    large = [trace for trace in named(figure, "gru") if trace.xaxis == "x"]
    assert list(large[0].text) == ["return", "scale"]
    assert large[0].x.tolist() == pytest.approx([0.15, 0.45])
    small = [trace for trace in named(figure, "gru, members") if trace.xaxis == "x"]
    assert small[0].x.tolist() == pytest.approx([0.1, 0.3, 0.2, 0.6])
    assert small[0].marker.size < large[0].marker.size


def test_models_stand_beside_each_other_nearer_to_their_feature_than_to_another() -> None:
    figure = networks.feature_importance(importance(("rnn", "lstm", "gru")))
    heights = [named(figure, model)[1].y for model in ("rnn", "lstm", "gru")]
    for feature in range(3):
        first, second, third = (y[feature] for y in heights)
        assert first > second > third and abs(first - third) < 0.5
        assert round(second) == pytest.approx(second)


def test_without_any_permutation_its_panel_is_left_out() -> None:
    figure = networks.feature_importance(importance().assign(permutation=np.nan))
    (axis,) = figure.select_xaxes()
    assert "integrated gradients" in axis.title.text
    assert [trace.name for trace in figure.data if trace.showlegend] == ["lstm", "gru"]
