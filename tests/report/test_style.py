from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.report import style


def test_a_model_keeps_one_colour_that_no_other_model_has() -> None:
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)
    assert style.OTHER_COLOUR not in style.COLOURS.values()
    assert style.colour("lstm_conformal") == style.colour("lstm") != style.colour("gru")
    assert style.colour("prophet") == style.OTHER_COLOUR


def test_horizons_are_listed_in_words() -> None:
    assert style.in_words([1]) == "1 session"
    assert style.in_words([5]) == "5 sessions"
    assert style.in_words([1, 5]) == "1 and 5 sessions"
    assert style.in_words([1, 5, 20]) == "1, 5 and 20 sessions"


@given(days=st.sets(st.integers(0, 900), min_size=1, max_size=60), points=st.integers(1, 1000))
@settings(max_examples=60, deadline=None)
def test_a_series_on_a_grid_shows_the_last_value_of_each_step_and_nothing_of_the_future(
    days: set[int], points: int
) -> None:
    dates = pd.Timestamp("2010-01-04") + pd.to_timedelta(sorted(days), unit="D")
    series = pd.Series(np.arange(len(dates), dtype=float), index=dates)
    trace = style.on_a_grid(series, points=points)
    step = pd.Timedelta(milliseconds=trace["dx"])
    drawn = [pd.Timestamp(trace["x0"]) + place * step for place in range(len(trace["y"]))]
    assert len(drawn) <= points
    assert drawn[-1] == dates[-1] and trace["y"][-1] == series.iloc[-1]
    for date, value in zip(drawn, trace["y"], strict=True):
        within = series[(series.index > date - step) & (series.index <= date)]
        assert np.isnan(value) if within.empty else value == within.iloc[-1]


def test_a_choice_shows_its_traces_alone() -> None:
    figure = go.Figure([go.Scatter(name="a"), go.Scatter(name="b")])
    style.finish(figure, title="t", height=400)
    style.add_choice(figure, {"<b>": [True, False], "second": [False, True]}, first="second")
    assert [trace.visible for trace in figure.data] == [False, True]
    (menu,) = figure.layout.updatemenus
    assert menu.active == 1
    assert [button.label for button in menu.buttons] == ["&lt;b&gt;", "second"]
    assert [list(button.args[1]) for button in menu.buttons] == [[True, False], [False, True]]


@pytest.mark.parametrize("text", ["</script><script>alert(1)", 'x" onload="y', "<b>"])
def test_text_in_an_embedded_figure_cannot_leave_its_element(text: str) -> None:
    figure = style.finish(go.Figure(), title=text, height=300)
    html = style.embed(figure, text)
    assert html.count("<script") == 1 and html.count("</script>") == 1
    assert "<b>" not in html and 'onload="' not in html


def linear(colour: str) -> np.ndarray:
    """Red, green and blue of #rrggbb as shares of light (IEC 61966-2-1)."""
    shares = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21 (WCAG 2)."""
    low, high = sorted(0.05 + linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other))
    return float(high / low)


# Eyes that lack the cones of long or of middle waves (Machado, Oliveira and Fernandes 2009).
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]
    ),
    "deuteranopia": np.array(
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]
    ),
}


def nearest(colours: list[str], eyes: np.ndarray) -> float:
    """The least distance of two colours in CIELAB."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    seen = np.clip(eyes @ np.array([linear(colour) for colour in colours]).T, 0, 1)
    shares = to_xyz @ seen / to_xyz.sum(axis=1, keepdims=True)
    x, y, z = np.where(shares > 0.008856, np.cbrt(shares), 7.787 * shares + 16 / 116)
    places = np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)]).T
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(places, 2))


MODELS = [*style.COLOURS.values(), style.OTHER_COLOUR]


def test_every_model_is_seen_on_white_and_on_dark() -> None:
    background = style.DARK[style.WHITE]
    assert min(contrast(colour, style.WHITE) for colour in MODELS) >= 2
    assert min(contrast(style.darkened(colour), background) for colour in MODELS) >= 3
    assert contrast(style.darkened(style.INK), background) >= 7


@pytest.mark.parametrize("eyes", EYES.values(), ids=EYES)
def test_dark_colours_are_told_apart_as_well_as_light_ones(eyes: np.ndarray) -> None:
    dark = [style.darkened(colour) for colour in MODELS]
    assert len(set(dark)) == len(dark)
    assert nearest(dark, eyes) >= nearest(MODELS, eyes) > 3


@pytest.mark.parametrize(
    ("light", "dark"),
    [
        ("#22272E", "#e3e7ec"),
        ("white", "#14181d"),
        ("rgb(34, 39, 46)", "#e3e7ec"),
        ("rgba(34,39,46,0.25)", "rgba(227,231,236,0.25)"),
        ("#00204c", "#4c6281"),  # of no table: raised
        ("auto", "auto"),
    ],
)
def test_colours_of_every_notation_have_a_dark_version(light: str, dark: str) -> None:
    assert style.darkened(light) == dark


def test_a_dark_figure_is_a_copy_whose_texts_and_numbers_are_the_same() -> None:
    figure = go.Figure()
    figure.add_scatter(x=["white", "#22272e"], y=[1.0, 2.0], name="white", marker_color="white")
    figure.add_bar(x=["a", "b"], y=np.array([1.0, 2.0]), marker_color=["#7F7F7F", style.GREY])
    figure.add_heatmap(z=np.eye(2), colorscale=style.DIVERGING)
    style.finish(figure, title="black", height=300)
    before = figure.to_json()
    found = style.dark(figure)
    assert figure.to_json() == before
    scatter, bar, heat = found.data
    assert (scatter.name, *scatter.x) == ("white", "white", "#22272e")
    assert (
        scatter.marker.color
        == style.DARK[style.WHITE]
        == found.layout.template.layout.paper_bgcolor
    )
    assert list(bar.marker.color) == ["#7f7f7f", style.DARK[style.GREY]]
    np.testing.assert_array_equal(bar.y, [1, 2])
    np.testing.assert_array_equal(heat.z, np.eye(2))
    assert heat.colorscale[2] == (0.5, style.DARK[style.WHITE])
    assert found.layout.title.text == "black"
