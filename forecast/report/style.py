"""The common look of all figures, and how a figure enters the page.

Every model keeps one colour and one marker in all figures, axes name their unit, and a hover
shows the numbers. Strings that come from data (symbols, model names) are escaped where they enter
a figure, because plotly reads a few HTML tags in its texts.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable
from html import escape, unescape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from forecast.evaluation.recalibration import SUFFIX

# The first eight are Okabe and Ito's (2008), the others are spaced between them after Tol (2021).
COLOURS = {
    "rnn": "#009E73",
    "lstm": "#0072B2",
    "gru": "#D55E00",
    "linear": "#B8960C",
    "mlp": "#8C510A",
    "gjr_market": "#7B4FA3",
    "har_pooled": "#DDAA33",
    "historical": "#7F7F7F",
    "drift": "#A9A9A9",
    "ewma_normal": "#E69F00",
    "ewma_t": "#CC79A7",
    "garch_t": "#56B4E9",
    "gjr_t": "#882255",
    "gjr_skewt": "#C2185B",
    "egarch_t": "#44AA99",
    "fhs": "#117733",
    "har_abs": "#8A8A2B",
    "mean_of_garch": "#332288",
    "truth": "#000000",
}
MARKERS = {
    "rnn": "diamond",
    "lstm": "circle",
    "gru": "square",
    "historical": "x-thin-open",
    "ewma_normal": "triangle-up",
    "ewma_t": "triangle-down",
    "garch_t": "star",
    "gjr_t": "hexagon",
    "linear": "triangle-left",
    "mlp": "triangle-right",
    "gjr_market": "pentagon",
    "har_pooled": "cross",
    "truth": "line-ew-open",
}
OTHER_COLOUR, OTHER_MARKER = "#595959", "circle-open"  # models of other people
INK, FAINT, GREY, WHITE = "#22272e", "#dde1e6", "#9aa3ad", "#ffffff"
DIVERGING = [[0, "#2166AC"], [0.25, "#92C5DE"], [0.5, WHITE], [0.75, "#F4A582"], [1, "#B2182B"]]
# What each colour becomes on a dark page. Models keep theirs unless it would hardly be seen there;
# the others were sought so that no two are closer than the light ones, to colour-blind readers too.
DARK = {
    **{light.lower(): light.lower() for light in COLOURS.values()},
    **{"#0072b2": "#018bc5", "#8c510a": "#d6aa60", "#7b4fa3": "#a642fd", "#882255": "#ee2fbf"},
    **{"#c2185b": "#e41e52", "#332288": "#7290f9", "#000000": "#ffffff", "#595959": "#cfcfcf"},
    **{INK: "#e3e7ec", "#5b6470": "#b9c1ca", "#7f8790": "#949da7", GREY: "#737c86"},
    **{FAINT: "#363d46", WHITE: "#14181d", "#44546a": "#8fa3bd"},
    # A diverging scale keeps its middle in the page's background.
    **{"#2166ac": "#6fb3ea", "#92c5de": "#2c5f87", "#f4a582": "#8f4430", "#b2182b": "#f58a78"},
}
RAISED = 0.3  # share of white in the dark version of any other colour

_AXIS = {
    "gridcolor": FAINT,
    "linecolor": GREY,
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": GREY,
    "title": {"font": {"size": 13}, "standoff": 10},
    "automargin": True,
}
TOP, BOTTOM = 90, 60  # margins of a figure, pixels
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "title": {
            **{"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15, "weight": 600}},
            **{"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12}},
        },
        "paper_bgcolor": WHITE,
        "plot_bgcolor": WHITE,
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "yref": "container", "entrywidth": 0},
        "margin": {"l": 80, "r": 30, "t": TOP, "b": BOTTOM},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def colour(model: str) -> str:
    """The colour of a model and of its recalibrated copy, the same in every figure and table."""
    return COLOURS.get(model.removesuffix(SUFFIX), OTHER_COLOUR)


def both(light: str) -> str:
    """A colour of the table as CSS, which follows the page's light or dark."""
    return f"light-dark({light}, {darkened(light)})"


def marker(model: str) -> str:
    """The marker of a model."""
    return MARKERS.get(model, OTHER_MARKER)


def finish(figure: go.Figure, *, title: str, height: int, above: int = TOP) -> go.Figure:
    """The common look: title, below it the legend, below it the panels.

    `above` pixels are left for title and legend; a figure without a legend needs fewer.
    """
    figure.update_layout(template=TEMPLATE, title_text=title, height=height)
    figure.update_layout(legend={"y": 1 - 38 / height, "yanchor": "top"}, margin={"t": above})
    figure.update_annotations(font_size=13)
    # plotly puts the common title of the y axes where their numbers may lie.
    figure.update_annotations(selector={"xshift": -40}, xshift=-58)
    return figure


def add_choice(figure: go.Figure, choices: dict[str, list[bool]], *, first: str) -> None:
    """A list from which the reader picks what is drawn, at the right, where the legend stands.

    Parameters
    ----------
    figure : already finished, since the list is placed by the figure's height.
    choices : a name, and which of the figure's traces it shows.
    first : the choice shown at first.
    """
    names = list(choices)
    for trace, shown in zip(figure.data, choices[first], strict=True):
        trace.visible = shown
    above = figure.layout.margin.t
    panels = figure.layout.height - above - BOTTOM
    figure.update_layout(
        updatemenus=[
            {
                "buttons": [
                    {"label": escape(name), "method": "restyle", "args": ["visible", choices[name]]}
                    for name in names
                ],
                "active": names.index(first),
                **{"x": 1, "xanchor": "right", "y": 1 + (above - 36) / panels, "yanchor": "top"},
                **{"bgcolor": WHITE, "bordercolor": GREY, "font": {"size": 12}},
                **{"showactive": True, "pad": {"t": 0, "r": 0}},
            }
        ]
    )


def grid(panels: int) -> tuple[int, int]:
    """Rows and columns for so many panels; three in a row stay readable at 800 pixels."""
    columns = min(max(panels, 1), 3)
    return -(-max(panels, 1) // columns), columns


def dates_as_text(dates: Iterable[object]) -> list[str]:
    """Session dates as text: small, and the same bytes under every version of pandas."""
    return [str(pd.Timestamp(date).date()) for date in dates]  # type: ignore[arg-type]


def on_a_grid(series: pd.Series, *, points: int) -> dict[str, Any]:
    """A series of dates as `x0`, `dx` and `y` of a trace: a tenth of the bytes of its dates.

    Parameters
    ----------
    series : float, indexed by ascending dates; at least one.
    points : int
        The most values drawn. Between the dates drawn lies a whole number of days; each shows the
        value of the last date up to it, and none (NaN) where no date lies within its step.
    """
    days = series.index.to_numpy().astype("datetime64[D]").astype(int)
    step = -(-int(days[-1] - days[0] + 1) // points)
    cell = -((days[-1] - days) // step)  # each ends where it is drawn, cell 0 at the last date
    values = series.to_numpy(dtype=float)
    known = ~np.isnan(values)
    last = np.diff(cell[known], append=1) > 0  # of those known in its cell
    y = np.full(1 - int(cell[0]), np.nan, "float32")
    y[cell[known][last] - cell[0]] = values[known][last]
    first = pd.Timestamp(days[-1], unit="D") + pd.Timedelta(days=step * int(cell[0]))
    return {"x0": str(first.date()), "dx": step * 86_400_000, "y": y}


def in_words(horizons: Iterable[int]) -> str:
    """[1] -> "1 session"; [1, 5, 20] -> "1, 5 and 20 sessions"."""
    numbers = [str(int(horizon)) for horizon in horizons]
    listed = " and ".join([", ".join(numbers[:-1]), *numbers[-1:]][-len(numbers) :])
    return f"{listed} session{'' if numbers == ['1'] else 's'}"


def translucent(hexadecimal: str, opacity: float | str) -> str:
    """A colour that lets what lies below shine through."""
    red, green, blue = _parts(hexadecimal)
    return f"rgba({red},{green},{blue},{opacity})"


def _parts(hexadecimal: str) -> list[int]:
    """Red, green and blue of #rrggbb."""
    return [int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)]


def dark(figure: go.Figure) -> go.Figure:
    """A copy of a figure in the colours of a dark page.

    The pages make the same of their figures, by the same table.
    """
    return go.Figure(_recoloured(figure.to_plotly_json(), ""))


def _recoloured(value: Any, key: str) -> Any:
    """A figure's JSON with all colours, which stand under keys that say so, in their dark version.

    Texts are left alone, whatever they say: a symbol may be called white.
    """
    if isinstance(value, str):
        return darkened(value) if key.endswith(("color", "colorscale")) else value
    if isinstance(value, dict) and "bdata" in value:  # an array, as plotly packs it
        numbers = np.frombuffer(b64decode(value["bdata"]), value["dtype"]).copy()
        return numbers.reshape([int(size) for size in value.get("shape", "-1").split(",")])
    if isinstance(value, dict):
        return {name: _recoloured(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_recoloured(item, key) for item in value]
    return value


def darkened(colour: str) -> str:
    """The dark version of a colour: #rrggbb, rgb(…), rgba(…), white or black; others unchanged."""
    name = {"white": WHITE, "black": "#000000"}.get(colour.lower(), colour.lower())
    red_green_blue = _RGB.fullmatch(name)
    if red_green_blue:
        *parts, opacity = red_green_blue.groups()
        name = "#" + "".join(f"{int(part):02x}" for part in parts)
    elif not _HEXADECIMAL.fullmatch(name):
        return colour
    found = DARK.get(name) or "#" + "".join(
        f"{int((1 - RAISED) * part + RAISED * 255):02x}" for part in _parts(name)
    )
    return translucent(found, opacity) if red_green_blue and opacity else found


_HEXADECIMAL = re.compile(r"#[0-9a-f]{6}")
_RGB = re.compile(r"rgba?\((\d+), *(\d+), *(\d+)(?:, *([\d.]+))?\)")


def embed(figure: go.Figure, name: str) -> str:
    """The figure as JSON beside the element it is drawn in.

    plotly writes <, > and / as escapes, so no text in it can end the script element; the engine
    is named because another one, where installed, would give other bytes.
    """
    label = escape(unescape(figure.layout.title.text))
    return (
        f'<div class="figure"><div id="{escape(name)}" role="img" aria-label="{label}" '
        f'style="height: {figure.layout.height}px"></div><script type="application/json" '
        f"data-figure>{figure.to_json(engine='json')}</script></div>\n"
    )
