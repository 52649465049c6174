"""Who stands in a table of portfolios, how each is drawn, and the reader's choice among them.

A portfolio is a pair of a model and a strategy. In figures a reader picks a model and sees its
strategies, or picks a strategy and sees it on every model; the benchmarks, which read prices
alone, are there throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from forecast.report import roster
from forecast.report.markup import html_models
from forecast.report.style import BOTTOM, add_choice, colour, finish, on_a_grid
from forecast.run import Run

Pair = tuple[str, str]  # model, strategy
NONE = "none"  # the model of benchmarks
# After Okabe and Ito (2008) and Tol (2021), in the order of the configuration.
PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255"),
    *("#8A8A2B", "#332288", "#8C510A"),
)
GREYS = ("#22272e", "#5b6470", "#7f8790", "#9aa3ad")
DASHES = ("dash", "dot", "dashdot", "longdash")
POINTS = 500  # of a line, at most ...
TOTAL_POINTS = 100_000  # ... and of all lines of a panel together
ROW = 30  # pixels of a line of a legend
NARROW = 530  # pixels between the axes of the narrowest figure


@dataclass(frozen=True, kw_only=True, eq=False)
class Traded:
    """What the sections of a page on portfolios share.

    Attributes
    ----------
    metrics, config : of the run, read once.
    part : the page is about the newest one on which anything was traded.
    pairs : all portfolios: networks before other models, strategies as configured, benchmarks last.
    """

    run: Run
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    part: str
    pairs: tuple[Pair, ...]

    @property
    def own(self) -> list[Pair]:
        """All portfolios but the benchmarks."""
        return [pair for pair in self.pairs if pair[0] != NONE]

    @property
    def benchmarks(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair[0] == NONE]

    @property
    def leading(self) -> Pair:
        """The one that figures of one portfolio show: the first network's first strategy.

        It is never chosen by what it earned, since the best of many is the luckiest.
        """
        return self.pairs[0]

    @cached_property
    def returns(self) -> dict[Pair, pd.DataFrame]:
        """Daily figures of every portfolio, indexed by date; none where the file is gone."""
        path = self.run.path / "returns.parquet"
        if not path.is_file():
            return {}
        table = pd.read_parquet(path, filters=[("part", "==", self.part)])
        table = table.astype({"model": str, "strategy": str}).drop(columns="part")
        return {
            (str(model), str(strategy)): rows.set_index("date")
            for (model, strategy), rows in table.groupby(["model", "strategy"], sort=False)
        }

    @cached_property
    def colours(self) -> dict[Pair, str]:
        """A strategy keeps one colour on all models, in figures and tables; benchmarks are grey."""
        order = list(dict.fromkeys(strategy for _, strategy in self.own))
        return {
            **{pair: PALETTE[order.index(pair[1]) % len(PALETTE)] for pair in self.own},
            **{pair: GREYS[i % len(GREYS)] for i, pair in enumerate(self.benchmarks)},
        }

    def at(self, key: str, pair: Pair) -> Any:
        """`metrics[key][part][model][strategy]`, {} where any of it is missing."""
        found: Any = self.metrics.get(key) or {}
        for name in (self.part, *pair):
            found = found.get(name) or {}
        return found


def traded_in(run: Run) -> Traded:
    """What a run traded; one of its parts must have a portfolio."""
    metrics, config = run.metrics, run.config
    found = metrics["performance"]
    part = next(part for part in reversed(metrics["parts"]) if found.get(part))
    networks = metrics.get("networks")
    if networks is None:  # a run of one network that states positions
        cell = (config.get("model") or {}).get("cell")
        networks = [cell] if cell else []
    rules = (config.get("strategy") or {}).get("rules") or {}
    known = [*rules, *(metrics.get("benchmark_strategies") or ())]
    places = {strategy: place for place, strategy in enumerate(known)}
    models = roster.ordered((model for model in found[part] if model != NONE), networks)
    pairs = tuple(
        (model, strategy)
        for model in [*models, *(model for model in found[part] if model == NONE)]
        # Stable: what is not configured keeps its order.
        for strategy in sorted(found[part][model], key=lambda s: places.get(s, len(places)))
    )
    return Traded(run=run, metrics=metrics, config=config, part=part, pairs=pairs)


def title_of(pair: Pair) -> str:
    """How a portfolio is called in running text."""
    model, strategy = pair
    return strategy if model == NONE else f"{strategy} on {model}"


def table_of(traded: Traded, heads: Sequence[str], rows: Mapping[Pair, Sequence[object]]) -> str:
    """A table with a line per portfolio, in groups by model, the benchmarks apart."""
    html_groups: dict[str, dict[str, Sequence[object]]] = {}
    for pair, cells in rows.items():
        heading = "benchmarks" if pair[0] == NONE else pair[0]
        html_groups.setdefault(heading, {})[pair[1]] = cells
    hues = {strategy: hue for (_, strategy), hue in traded.colours.items()}
    return html_models(("strategy", *heads), html_groups, colour=hues.__getitem__)


@dataclass(frozen=True, kw_only=True)
class Line:
    """How a portfolio is drawn in one of the reader's choices.

    Attributes
    ----------
    view : the choice in which it is seen; None: in each.
    name : in the legend.
    """

    pair: Pair
    view: str | None
    name: str
    colour: str
    dash: str

    def style(self, *, legend: bool) -> dict[str, Any]:
        """Arguments of its traces; `legend` for the one that stands in the legend."""
        return {
            "line": {
                "color": self.colour,
                "dash": self.dash,
                "width": 1.2 if self.view is None else 1.6,
            },
            "name": escape(self.name),
            "legendgroup": escape(self.name),
            "legendrank": 1001 if self.view is None else 1000,
            "showlegend": legend,
        }


def lines(traded: Traded) -> Iterator[Line]:
    """Benchmarks, then every model's strategies, then every strategy that several models share."""
    for place, pair in enumerate(traded.benchmarks):
        hue, dash = traded.colours[pair], DASHES[place % len(DASHES)]
        yield Line(pair=pair, view=None, name=pair[1], colour=hue, dash=dash)
    order = list(dict.fromkeys(strategy for _, strategy in traded.own))
    for pair in traded.own:
        dash = "solid" if order.index(pair[1]) < len(PALETTE) else "dash"
        hue = traded.colours[pair]
        yield Line(pair=pair, view=pair[0], name=pair[1], colour=hue, dash=dash)
    for strategy in order:
        sharing = [pair for pair in traded.own if pair[1] == strategy]
        for pair in sharing if len(sharing) > 1 else ():
            view = f"{strategy} on every model"
            yield Line(pair=pair, view=view, name=pair[0], colour=colour(pair[0]), dash="solid")


def with_choice(
    figure: go.Figure,
    traded: Traded,
    draw: Callable[[Line], None],
    *,
    title: str,
    height: int,
) -> go.Figure:
    """Draw every line, finish the figure, and let the reader choose which lines are seen.

    Parameters
    ----------
    draw : adds the traces of a line to the figure.
    height : of the panels, pixels; title and legend come on top.
    """
    views: list[str | None] = []
    for line in lines(traded):
        before = len(figure.data)
        draw(line)
        views += [line.view] * (len(figure.data) - before)
    names = [view for view in dict.fromkeys(views) if view is not None]
    choices = {name: [view in (name, None) for view in views] for name in names}
    rows = max(
        _rows(t.name for t, seen in zip(figure.data, choice, strict=True) if seen and t.showlegend)
        for choice in [*choices.values(), *([] if choices else [[True] * len(views)])]
    )
    below = 70 if len(names) > 1 else 38  # title, then the list, then the legend
    above = below + ROW * rows + 26
    height += above + BOTTOM
    finish(figure, title=title, height=height, above=above)
    figure.update_layout(legend_y=1 - below / height)
    if len(names) > 1:
        add_choice(figure, choices, first=names[0])
    return figure


def _rows(names: Iterable[str]) -> int:
    """Rows that a legend of these names needs where the page is narrow."""
    rows, used = 1, 0.0
    for name in names:
        width = 48 + 7.5 * len(name)
        rows, used = (rows + 1, width) if used + width > NARROW else (rows, used + width)
    return rows


def over_dates(
    traded: Traded,
    panels: Mapping[str, Mapping[Pair, pd.Series]],
    *,
    title: str,
    heights: Sequence[int],
    numbers: Sequence[str],
) -> go.Figure:
    """A panel below the other for each quantity, dates to the right, a line per portfolio.

    Parameters
    ----------
    panels : title of the y axis -> portfolio -> values by date
    heights : of each panel, pixels.
    numbers : how a hover shows each panel's values, e.g. ":.2f".
    """
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        row_heights=list(heights),
        vertical_spacing=0.08 / len(panels),
    )
    # However many portfolios there are, the page stays small.
    points = max(min(POINTS, TOTAL_POINTS // (2 * len(traded.pairs))), 60)

    def draw(line: Line) -> None:
        who = escape(title_of(line.pair))
        for row, (curves, shown) in enumerate(zip(panels.values(), numbers, strict=True), start=1):
            if line.pair in curves and curves[line.pair].notna().any():
                figure.add_scatter(
                    **on_a_grid(curves[line.pair], points=points),
                    **line.style(legend=row == 1),
                    mode="lines",
                    connectgaps=True,  # days without a session
                    hovertemplate=f"%{{x|%Y-%m-%d}}<br>{who} %{{y{shown}}}<extra></extra>",
                    row=row,
                    col=1,
                )

    for row, name in enumerate(panels, start=1):
        figure.update_yaxes(title_text=name, row=row, col=1)
    figure.update_xaxes(type="date")
    figure.update_xaxes(title_text="date", row=len(panels), col=1)
    return with_choice(figure, traded, draw, title=title, height=sum(heights))
