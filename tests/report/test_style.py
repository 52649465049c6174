from __future__ import annotations

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
