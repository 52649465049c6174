from __future__ import annotations

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go

from forecast.report.style import COLOURS
from forecast.report.traded import NONE, Line, Traded, lines, over_dates, traded_in, with_choice
from forecast.run import Run

Make = Callable[..., Run]


def test_networks_come_first_strategies_as_configured_benchmarks_last(make_portfolio: Make) -> None:
    run = make_portfolio()
    shuffled = run.metrics
    found = shuffled["performance"]["test"]
    shuffled["performance"]["test"] = {
        model: dict(reversed(found[model].items())) for model in ("none", "gjr_t", "gru", "lstm")
    }
    run.write("metrics.json", shuffled)
    pairs = traded_in(run).pairs
    models = ["lstm"] * 3 + ["gru"] * 3 + ["gjr_t"] * 3 + ["none"] * 4
    assert [model for model, _ in pairs] == models
    assert [strategy for _, strategy in pairs[:3]] == ["long_short", "sign", "inverse_volatility"]
    assert [strategy for _, strategy in pairs[9:]] == list(run.metrics["benchmark_strategies"])


def test_the_leading_portfolio_does_not_depend_on_what_was_earned(make_portfolio: Make) -> None:
    run = make_portfolio()
    metrics = run.metrics
    metrics["performance"]["test"]["gjr_t"]["sign"]["sharpe"] = 9.0
    metrics["performance"]["test"]["lstm"]["long_short"]["sharpe"] = -9.0
    run.write("metrics.json", metrics)
    assert traded_in(run).leading == ("lstm", "long_short")


def test_the_page_is_about_the_newest_part_that_was_traded(make_portfolio: Make) -> None:
    run = make_portfolio()
    assert traded_in(run).part == "test"
    metrics = run.metrics
    metrics["performance"]["test"] = {}
    run.write("metrics.json", metrics)
    assert traded_in(run).part == "validation"


def test_a_strategy_keeps_its_colour_and_a_model_its_own_where_models_are_compared(
    make_portfolio: Make,
) -> None:
    traded = traded_in(make_portfolio())
    drawn = list(lines(traded))
    by_strategy = {(line.pair[1], line.colour) for line in drawn if line.view == line.pair[0]}
    assert len(by_strategy) == 3 == len({hue for _, hue in by_strategy})
    compared = [line for line in drawn if line.view == "sign on every model"]
    assert [(line.name, line.colour) for line in compared] == [
        (model, COLOURS[model]) for model in ("lstm", "gru", "gjr_t")
    ]
    benchmarks = [line for line in drawn if line.view is None]
    assert {line.pair[0] for line in benchmarks} == {NONE}
    assert all(len(set(line.colour[i : i + 2] for i in (1, 3, 5))) <= 3 for line in benchmarks)
    assert "solid" not in {line.dash for line in benchmarks}


def test_every_choice_shows_its_lines_and_the_benchmarks(make_portfolio: Make) -> None:
    traded = traded_in(make_portfolio())
    figure = go.Figure()

    def draw(line: Line) -> None:
        figure.add_scatter(x=[0], y=[0], **line.style(legend=True), text=[f"{line.pair}"])

    with_choice(figure, traded, draw, title="t", height=100)
    (menu,) = figure.layout.updatemenus
    for button in menu.buttons:
        seen = [t for t, on in zip(figure.data, button.args[1], strict=True) if on]
        own = [t for t in seen if "none" not in t.text[0]]
        assert len(seen) - len(own) == 4 and len(own) == 3
        assert all(button.label.split(" ")[0] in trace.text[0] for trace in own)
    names = [button.label for button in menu.buttons]
    assert names[:3] == ["lstm", "gru", "gjr_t"] and names[3] == "long_short on every model"


def test_one_model_leaves_nothing_to_choose(make_portfolio: Make) -> None:
    traded = traded_in(make_portfolio(models=("lstm",), strategies=("sign",), years=(2020,)))
    curves = {pair: rows["long"] for pair, rows in traded.returns.items()}
    figure = over_dates(traded, {"long": curves}, title="t", heights=(100,), numbers=("",))
    assert not figure.layout.updatemenus
    assert [trace.name for trace in figure.data][-1] == "sign" and len(figure.data) == 5


def test_lines_grow_coarser_as_there_are_more(make_portfolio: Make) -> None:
    traded = traded_in(make_portfolio())
    curves = {pair: rows["long"] for pair, rows in traded.returns.items()}
    panels = {"long": curves}

    def points(traded: Traded) -> int:
        figure = over_dates(traded, panels, title="t", heights=(100,), numbers=("",))
        return max(len(np.asarray(trace.y)) for trace in figure.data)

    many = [(f"m{i}", f"s{j}") for i in range(30) for j in range(10)]
    crowd = Traded(
        run=traded.run,
        metrics=traded.metrics,
        config=traded.config,
        part=traded.part,
        pairs=(*traded.pairs, *many),
    )
    assert 60 <= points(crowd) < points(traded) <= 500
