from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from forecast.report.costs import against_costs, costs
from forecast.report.performance import between, delisting, performance
from forecast.report.traded import traded_in
from forecast.run import Run

Make = Callable[..., Run]


def cells(html: str, strategy: str) -> list[list[str]]:
    """The cells of a strategy's lines, without markup; one per model and table."""
    rows = re.findall(rf"</span>{strategy}</td>(.*?)</tr>", html)
    return [re.sub("<[^>]*>", "|", row).strip("|").split("||") for row in rows]


def test_a_line_holds_what_the_metrics_say(make_portfolio: Make) -> None:
    run = make_portfolio()
    row = run.metrics["performance"]["test"]["lstm"]["sign"]
    low, high = run.metrics["intervals"]["test"]["lstm"]["sign"]["sharpe"]
    line = cells(performance(traded_in(run)), "sign")[0]
    assert line[:2] == [f"{row['sharpe']:.2f}", f"{low:z.2f} to {high:z.2f}"]
    assert line[2:5] == [
        f"{100 * row[key]:z.1f}" for key in ("annual_return", "volatility", "max_drawdown")
    ]
    assert line[5] == f"{row['turnover']:.1f}"


def test_benchmarks_stand_apart_and_are_not_compared_with_themselves(make_portfolio: Make) -> None:
    html = performance(traded_in(make_portfolio()))
    assert html.count('colspan="9">benchmarks<') == 1
    assert len(cells(html, "equal_weight")) == 2  # results and other measures, no differences
    assert len(cells(html, "sign")) == 9  # three models in three tables
    for name in ("equal_weight", "buy_and_hold", "always_long", "sign_12m"):
        assert f"less {name} (p)" in html


def test_only_what_survives_is_shaded(make_portfolio: Make) -> None:
    run = make_portfolio()
    html = performance(traded_in(run))
    assert 'class="best"' not in html  # nothing in this folder does
    metrics, luck = run.metrics, run.json("luck.json")
    metrics["intervals"]["test"]["gru"]["sign"]["sharpe"] = [0.1, 0.9]
    metrics["differences"]["test"]["gru"]["sign"]["sign_12m"]["p_holm"] = 0.01
    luck["strategies"]["gru"]["sign"]["dsr"] = 0.97
    luck["strategies"]["lstm"]["sign"] |= {"dsr": 0.97, "dsr_clusters": 0.94}  # by one alone
    run.write("metrics.json", metrics)
    run.write("luck.json", luck)
    html = performance(traded_in(run))
    shaded = re.findall(r'class="best" title="best">([^<]*)<', html)
    assert shaded == ["0.10 to 0.90", "0.970", "-0.31 (0.010)"]


def test_luck_of_another_part_is_not_shown(make_portfolio: Make) -> None:
    run = make_portfolio()
    assert "DSR</th>" in performance(traded_in(run))
    run.write("luck.json", {**run.json("luck.json"), "part": "validation"})
    assert "DSR</th>" not in performance(traded_in(run))


def test_an_interval_is_shaded_only_above_zero() -> None:
    assert between([0.01, 1.0]).best and between([0.01, 1.0]).text == "0.01 to 1.00"
    assert not between([-0.01, 1.0]).best
    assert not between(None).best and between([None, None]).text == "\N{EN DASH}"


def test_delisting_is_shown_at_both_returns_and_only_if_it_happened(make_portfolio: Make) -> None:
    assert delisting(traded_in(make_portfolio())) == ""
    run = make_portfolio("other", delisted=True)
    html = delisting(traded_in(run))
    ratio = run.metrics["performance"]["test"]["lstm"]["long_short"]["sharpe"]
    assert "Ended before the panel while held: RRC" in html
    assert cells(html, "long_short")[0] == [f"{ratio:.2f}", f"{ratio + 0.1:.2f}"]


def test_every_level_of_costs_has_its_columns_in_the_order_of_numbers(make_portfolio: Make) -> None:
    run = make_portfolio()
    metrics = run.metrics
    levels = metrics["levels"]["test"]["lstm"]["sign"]
    metrics["levels"]["test"]["lstm"]["sign"] = {k: levels[k] for k in ("10", "5", "0", "2")}
    run.write("metrics.json", metrics)
    html = costs(traded_in(run))
    heads = re.findall(r"Sharpe ratio at (\d+) bp", html)
    assert heads == ["0", "2", "5", "10"]
    assert [cell.split(" ")[0] for cell in cells(html, "sign")[0]] == [
        f"{levels[level]['sharpe']:z.2f}" for level in heads
    ]


def test_the_break_even_lies_on_the_line_at_zero(make_portfolio: Make) -> None:
    traded = traded_in(make_portfolio())
    figure = against_costs(traded, ["0", "2", "5", "10"])
    marked = 0
    for trace in figure.data:
        assert list(trace.x) == sorted(trace.x)
        for x, y, symbol in zip(trace.x, trace.y, trace.marker.symbol, strict=True):
            if symbol == "x":
                marked += 1
                assert y == 0 and 0 < x <= 30
                # Costs are linear here: the Sharpe ratio falls through zero there.
                before = [b for a, b in zip(trace.x, trace.y, strict=True) if a < x]
                after = [b for a, b in zip(trace.x, trace.y, strict=True) if a > x]
                assert all(b > -1e-9 for b in before) and all(b < 1e-9 for b in after)
    evens = [traded.at("performance", pair)["break_even"] or -1 for pair in traded.own]
    assert marked == 2 * sum(0 < even <= 30 for even in evens)  # by model, and by strategy


def test_without_levels_it_says_so(make_portfolio: Make) -> None:
    run = make_portfolio()
    run.write("metrics.json", {**run.metrics, "levels": {}})
    assert "Only the configured costs" in costs(traded_in(run))


@pytest.mark.parametrize("key", ["intervals", "differences", "levels", "delisting"])
def test_a_table_needs_nothing_but_the_performance(make_portfolio: Make, key: str) -> None:
    run = make_portfolio()
    run.write("metrics.json", {**run.metrics, key: None})
    html = performance(traded_in(run)) + delisting(traded_in(run)) + costs(traded_in(run))
    assert "None" not in html and "nan" not in html
