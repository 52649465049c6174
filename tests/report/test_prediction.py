"""The page of a prediction, made from files like those of `forecast.predict`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.report.page import write_report
from forecast.report.prediction import FEW_CHARTS, MOST_CHARTS, TABLE_SYMBOLS, sections
from forecast.run import Run

Make = Callable[..., Run]
HOSTILE = ("<script>alert(1)</script>", "../../x", "BRK/B", "</script><b>", 'x" onload="alert(1)')
WARNING = "KO: the newest close is of 2026-11-20, 3 sessions old."
BANDS = ("low_50", "high_50", "low_90", "high_90")


def predictions(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.path / "predictions.csv", keep_default_na=False, na_values=[""])


def figures(html: str) -> list[Any]:
    return [json.loads(text) for text in re.findall(r"data-figure>(.*?)</script>", html)]


def text_of(html: str) -> str:
    """What a reader sees of a page's text."""
    return unescape(re.sub(r"<[^>]*>", "", re.sub(r"(?s)<(script|style).*?</\1>", "", html)))


def trace(figure: Any, start: str) -> Any:
    return next(trace for trace in figure["data"] if trace["name"].startswith(start))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "quantile"},
        {"head": "point"},
        {"horizons": (1,)},
        {"horizons": (20,), "symbols": ("KO",)},
        {"symbols": ("KO",)},
        {"symbols": HOSTILE},
        {"delay": 1},
        {"head": "point", "horizons": (1,), "symbols": ("KO",), "delay": 2},
        {"files": False, "data": {}},
    ],
    ids=lambda options: " ".join(map(str, options.items())),
)
def test_every_kind_of_prediction_has_its_page(
    make_prediction: Make, options: dict[str, Any]
) -> None:
    run = make_prediction(**options)
    html = write_report(run).read_text(encoding="utf-8")
    names = re.findall(r'<section id="([^"]*)"', html)
    files = ["configuration", "environment"] if options.get("files", True) else []
    assert names == ["forecast", "fans", "provenance", *files]
    assert re.findall(r'<a href="#([^"]*)"', html) == names
    assert not {"nan", "none", "nat"} & set(re.findall(r"\w+", text_of(html).lower()))
    drawn = figures(html)
    assert len(drawn) == len(options.get("symbols", "abc"))
    dashed = [trace(f, "mean" if options.get("head") == "point" else "median") for f in drawn]
    assert all(line["line"]["dash"] == "dash" for line in dashed)
    assert all("dashed: interpolated" in line["name"] for line in dashed)


def test_the_same_prediction_gives_the_same_bytes(make_prediction: Make) -> None:
    run = make_prediction()
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


@pytest.mark.parametrize("delay", [0, 2])
def test_a_fan_leads_from_the_last_close_through_what_was_forecast(
    make_prediction: Make, delay: int
) -> None:
    run = make_prediction(delay=delay)
    rows = predictions(run)
    for figure, (symbol, lines) in zip(
        figures(sections(run)["Fans"]), rows.groupby("symbol"), strict=True
    ):
        assert figure["layout"]["title"]["text"].startswith(
            f"{symbol}: lstm forecast of 2026-11-25"
        )
        dates = ["2026-11-25", *lines["expected_date"]]
        start = [lines["price"].iloc[0]]
        median = trace(figure, "median")
        assert median["x"][:-1] == dates
        assert median["y"][:-1] == pytest.approx([*start, *lines["median_price"]])
        for percent in (50, 90):
            band = trace(figure, f"{percent} %")
            assert band["x"][:-1] == [*dates, *reversed(dates)]
            low, high = [*start, *lines[f"low_{percent}"]], [*start, *lines[f"high_{percent}"]]
            assert band["y"][:-1] == pytest.approx([*high, *reversed(low)])
        price = trace(figure, "price")
        assert price["x"][-1] == "2026-11-25"
        (line,) = figure["layout"]["shapes"]
        assert line["x0"] == line["x1"] == "2026-11-25"


def test_the_history_before_a_fan_grows_with_its_length(make_prediction: Make) -> None:
    shown = []
    for horizon in (1, 20, 200):
        run = make_prediction(str(horizon), horizons=(horizon,))
        shown.append(len(trace(figures(sections(run)["Fans"])[0], "price")["x"]))
    assert shown == [20, 60, 120]


def test_a_hover_tells_the_numbers_of_a_horizon(make_prediction: Make) -> None:
    run = make_prediction(symbols=("KO",))
    (figure,) = figures(sections(run)["Fans"])
    hover = trace(figure, "median")["text"]
    for row, text in zip(predictions(run).to_dict("records"), hover[1:4], strict=True):
        assert text.startswith(f"{row['expected_date']}: {row['horizon']} session")
        for column in ("median_price", *BANDS):
            assert f"{row[column]:.2f}" in text


def test_horizons_without_an_expected_date_are_told_and_not_drawn(make_prediction: Make) -> None:
    run = make_prediction(symbols=("KO", "XOM"))
    rows = predictions(run)
    rows.loc[(rows["symbol"] == "KO") | (rows["horizon"] == 20), "expected_date"] = np.nan
    run.write("predictions.csv", rows)
    told = sections(run)
    undrawn, partly = figures(told["Fans"])
    assert trace(undrawn, "price")["x"]
    assert "between 1 and 5 sessions" in trace(partly, "median")["name"]
    assert told["Forecast"].count("\N{EN DASH}</td>") == 4


def test_warnings_stand_before_the_numbers(make_prediction: Make) -> None:
    forecast = sections(make_prediction(warnings=[WARNING, "<img src=x>"]))["Forecast"]
    assert 0 <= text_of(forecast).index(WARNING) < text_of(forecast).index("last close")
    assert "<img" not in forecast and "<img src=x>" in text_of(forecast)
    assert "careful" not in sections(make_prediction("calm"))["Forecast"]


def test_symbols_left_out_are_listed_with_their_reasons(make_prediction: Make) -> None:
    left_out = [{"symbol": f"<b>{place}", "reason": "12 sessions"} for place in range(11)]
    few = sections(make_prediction("few", left_out=left_out[:1]))["Forecast"]
    assert "1 symbol left out" in few and "<b>0: 12 sessions" in text_of(few)
    assert "<details open>" in few and "<b>" not in few
    assert (
        "<details><summary>11 symbols left out"
        in sections(make_prediction("many", left_out=left_out))["Forecast"]
    )


def test_of_many_symbols_some_are_drawn_and_the_page_says_so(make_prediction: Make) -> None:
    symbols = tuple(f"S{place:03}" for place in range(200))
    told = sections(make_prediction(symbols=symbols, horizons=(1, 5)))
    assert told["Forecast"].count("<tr><td>S") == 2 * TABLE_SYMBOLS
    assert "The first 60 are shown; predictions.csv lists all 200." in told["Forecast"]
    titles = [figure["layout"]["title"]["text"] for figure in figures(told["Fans"])]
    assert len(titles) == FEW_CHARTS < MOST_CHARTS
    assert titles[0].startswith("S000:") and titles[-1].startswith("S199:")
    places = [int(title[1:4]) for title in titles]
    assert set(np.diff(places)) <= {39, 40}
    assert "6 of 200 symbols are drawn" in told["Fans"]


@pytest.mark.parametrize("symbol", ["NA", "NAN", "null", "TRUE", "600519", "1e5"])
def test_a_symbol_that_reads_as_something_else_is_a_symbol(
    make_prediction: Make, symbol: str
) -> None:
    told = sections(make_prediction(symbols=(symbol, "KO")))
    assert f"<td>{symbol}</td>" in told["Forecast"]
    assert [f["layout"]["title"]["text"].split(":")[0] for f in figures(told["Fans"])] == [
        *(symbol, "KO")
    ]
    assert all(trace(figure, "price")["x"] for figure in figures(told["Fans"]))


def test_markup_in_symbols_is_shown_and_not_obeyed(make_prediction: Make) -> None:
    html = write_report(make_prediction(symbols=HOSTILE)).read_text(encoding="utf-8")
    assert "alert(1)</script>" not in html and "<b>" not in html and 'x" onload' not in html
    assert all(symbol in unescape(html) for symbol in HOSTILE)


@pytest.mark.parametrize("horizons", [(1,), (5,), (1, 5, 20)])
def test_the_note_says_where_a_fan_is_interpolated(
    make_prediction: Make, horizons: tuple[int, ...]
) -> None:
    told = {
        (1,): "interpolated up to 1 session",
        (5,): "interpolated up to 5 sessions",
        (1, 5, 20): "interpolated between 1, 5 and 20 sessions",
    }[horizons]
    run = make_prediction(horizons=horizons, symbols=("KO",))
    html = sections(run)["Fans"]
    assert told in text_of(html.partition("</p>")[0])
    assert told in trace(figures(html)[0], "median")["name"]


def test_a_delay_is_explained_where_there_is_one(make_prediction: Make) -> None:
    for delay in (0, 1):
        told = sections(make_prediction(str(delay), delay=delay))
        for name in ("Forecast", "Fans"):
            assert ("assume that the target starts at the last close" in told[name]) == bool(delay)


def test_columns_that_are_not_there_are_not_explained(make_prediction: Make) -> None:
    words = ("An interval of 90 %", "P(rise)", "Volatility")
    for head, known in {"student_t": 3, "quantile": 2, "point": 0}.items():
        forecast = sections(make_prediction(head, head=head))["Forecast"]
        assert [word in forecast for word in words] == [True] * known + [False] * (3 - known)
        assert ("no distribution" in forecast) == (head == "point")


def test_the_page_says_where_it_comes_from_and_why_it_is_not_scored(make_prediction: Make) -> None:
    data = {"source": "yahoo", "calendars": ["XNYS", "XETR"], "rows": 960, "symbols": [{"a": 1}]}
    told = sections(make_prediction(data=data))["Provenance"]
    for words in ("lstm-0123456789", "2026-11-25T22:10:00+00:00", "0" * 64, "XNYS and XETR", "960"):
        assert words in told
    assert "scoring</th><td>yes<" in told and "symbols" not in told
    unscored = make_prediction("late", recorded=False, recorded_reason="the session had begun")
    assert "scoring</th><td>no: the session had begun<" in sections(unscored)["Provenance"]


@pytest.mark.parametrize(("source", "stamped"), [("simulated", True), ("yahoo", False)])
def test_a_forecast_of_made_up_prices_is_stamped(
    make_prediction: Make, source: str, stamped: bool
) -> None:
    html = write_report(make_prediction(data={"source": source})).read_text(encoding="utf-8")
    assert ("simulated data" in html) == stamped
