"""The page of a look into networks, made of a folder that was written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.report.explained import sections
from forecast.report.page import write_report
from forecast.report.summary import ALWAYS
from forecast.run import Run

HOSTILE = "<img src=x onerror=alert(1)>"
GATES = {"rnn": (), "lstm": ("forget", "input", "output"), "gru": ("reset", "update")}
KEPT = {"rnn": 0.5, "lstm": 0.8, "gru": 0.9}  # of a gradient, from one session to the next
TOLD = {"rnn": 0.2, "lstm": 0.5, "gru": 0.7}  # share recalled of what is long ago

Write = Callable[..., Run]


def write(
    path: Path,
    *,
    models: tuple[str, ...] = ("rnn", "lstm", "gru"),
    symbols: tuple[str, ...] = ("KO", "XOM"),
    features: tuple[str, ...] = ("return", "scale", "absolute_5", "market_return"),
    length: tuple[float | None, float | None] = (2.0, 4.0),
    recalled: bool = True,
    benchmark: bool = True,
    delay: int = 0,
    unfit: tuple[str, ...] = (),
) -> Run:
    """A folder of `forecast.explain`: two members a model, the last feature shared by symbols."""
    path.mkdir(parents=True)
    run, lag, shock = Run(path), np.arange(31), np.linspace(-3, 3, 25)
    members = [(model, 0, member) for model in models for member in (1, 2)]
    key = ["model", "seed", "member"]

    def of_each(columns: Callable[[str, int], dict[str, Any]]) -> pd.DataFrame:
        return pd.concat(
            pd.DataFrame({**dict(zip(key, who, strict=True)), **columns(who[0], who[2])})
            for who in members
        )

    dates = pd.bdate_range("2015-01-02", periods=40).astype(str)
    gates = [
        pd.DataFrame({"model": model, "date": dates, "price": 20.0, "volatility": 1.5}).assign(
            **dict.fromkeys(GATES[model], 0.5)
        )
        for model in models
    ]
    units = [
        (model, date, gate, 1, unit, 0.5)
        for model in models
        for gate in GATES[model]
        for date in dates
        for unit in (1, 2)
    ]
    impact = of_each(lambda model, member: {"shock": shock, "ratio": np.where(shock < 0, 1.2, 1.0)})
    if benchmark:
        formula = {"model": "gjr_t", "shock": shock, "ratio": np.where(shock < 0, 1.5, 1.0)}
        impact = pd.concat([impact, pd.DataFrame(formula)])
    rises = [float(rise) for rise in range(len(features), 1, -1)] + [np.nan]
    tables = {
        "memory": of_each(
            lambda model, member: {"lag": lag, "gradient": 0.1 * member * KEPT[model] ** lag}
        ),
        "gates": pd.concat(gates),
        "units": pd.DataFrame(
            units, columns=["model", "date", "gate", "layer", "unit", "activity"]
        ),
        "impact": impact,
        "importance": of_each(
            lambda model, member: {
                "feature": list(features),
                "permutation": rises,
                "gradients": np.arange(1.0, len(features) + 1),
            }
        ),
    }
    if recalled:
        ages = ((1, 1), (2, 12), (13, 50), (51, 100))
        tables["recall"] = pd.DataFrame(
            [
                (model, seed, first, last, 90 + seed, TOLD[model] if first > 12 else 0.9, 0.3)
                for model in models
                for seed in (0, 1)
                for first, last in ages
            ],
            columns=["model", "seed", "first", "last", "answers", "recalled", "gradient"],
        )
    for name, table in tables.items():
        run.write(f"{name}.csv", table)
    run.write(
        "explain.json",
        {
            "runs": [f"{model}-0123456789" for model in models],
            "models": list(models),
            "horizon": 5,
            "delay": delay,
            "unfit": list(unfit),
            "dates": ["2014-05-29", "2016-04-22"],
            "symbols": list(symbols),
            "origins": 200,
            "lags": 30,
            "shown": symbols[0],
            "memory": [
                {**dict(zip(key, who, strict=True)), "length": value, "reach": 20.0}
                for who, value in zip(members, length * len(models), strict=True)
            ],
            "difference": 8.9e-6,
            "quadrature": 4.3e-4,
        },
    )
    warnings = [f"survivors: chosen with hindsight {HOSTILE}"]
    run.write("data.json", {"source": "sp500", "sha256": "0" * 64, "warnings": warnings})
    run.write("config.yaml", {"run": [HOSTILE], "lags": 30})
    run.write("overrides.yaml", ["lags=30"])
    run.write("environment.json", {"python": "3.11.9", "device": "cpu"})
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sections of three cells with everything that can be measured."""
    return sections(write(tmp_path_factory.mktemp("whole") / "explain-0123456789"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of such a folder whose symbols and features are markup."""
    run = write(
        tmp_path_factory.mktemp("page") / "explain-0123456789",
        symbols=(HOSTILE, "XOM"),
        features=("NA", HOSTILE, "</script><script>alert(1)</script>"),
    )
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture
def make(tmp_path: Path) -> Write:
    return lambda **options: write(tmp_path / "explain-0123456789", **options)


def text(html: str) -> str:
    """What a reader sees, without figures."""
    html = re.sub(r"<script.*?</script>|</?span[^>]*>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"</?[a-z][^>]*>", " ", html)).split())


def figures(html: str) -> list[str]:
    return re.findall(r'aria-label="([^"]*)"', html)


def test_the_page_has_every_section_in_order(page: str) -> None:
    assert re.findall(r"<h2>([^<]*)</h2>", page) == [
        *("Summary", "Memory", "Known memory", "Gates", "News impact", "Features"),
        *("Configuration", "Environment"),
    ]
    assert "survivors only</span>" in page
    assert "3.11.9" in page and "lags: 30" in page


def test_markup_in_symbols_features_warnings_and_configuration_is_harmless(page: str) -> None:
    assert "<img" not in page and "<script>alert" not in page
    assert page.count("&lt;img") >= 4
    assert page.count("&lt;script&gt;alert(1)&lt;") >= 1


def test_a_feature_called_na_is_a_feature(page: str) -> None:
    assert "by permutation NA and" in text(page)


def test_every_section_draws_its_figures(whole: dict[str, str]) -> None:
    assert {name: len(figures(html)) for name, html in whole.items()} == {
        **{"Summary": 0, "Memory": 1, "Known memory": 1, "Gates": 3},
        **{"News impact": 1, "Features": 1},
    }
    assert "KO: price, volatility and gates" in figures(whole["Gates"])


def test_the_summary_says_what_was_asked_and_names_the_validation_range_alone(
    whole: dict[str, str],
) -> None:
    told = text(whole["Summary"])
    assert (
        "rnn-0123456789, lstm-0123456789 and gru-0123456789, with 2 members of rnn, 2 members of "
        "lstm and 2 members of gru. Their forecasts 5 sessions ahead were examined on the "
        "validation range alone, 2014-05-29 to 2016-04-22, of 2 symbols: KO, XOM."
    ) in told


def test_the_summary_says_what_came_out(whole: dict[str, str]) -> None:
    told = text(whole["Summary"])
    for sentence in (
        "memory carries: rnn 3.0 (2.0 to 4.0 over 2 members), lstm 3.0 (",
        "13 sessions ago or more: rnn 0.20, lstm 0.50 and gru 0.70 (1 is perfect",
        "0.64 the sign alone",
        "an equal rise: rnn 1.200, lstm 1.200, gru 1.200 and gjr_t 1.500.",
        "by permutation return, scale and absolute_5; by integrated gradients market_return,",
        "differ from torch's own pass by 8.9e-06 at most",
        "miss the whole by 4.3e-04 of log volatility",
    ):
        assert sentence in told


@pytest.mark.parametrize(
    ("length", "words"),
    [
        ((None, None), "lstm more than 30."),
        ((4.0, None), "lstm 4.0 to more than 30 over 2 members."),
    ],
)
def test_a_memory_beyond_the_lags_is_called_so(
    make: Write, length: tuple[float | None, float | None], words: str
) -> None:
    html = sections(make(models=("lstm",), length=length))
    assert f"memory carries: {words}" in text(html["Summary"])
    assert html["Memory"].count("&gt; 30") == length.count(None)


def test_the_cautions_are_those_of_the_data_of_such_measurements_and_of_every_report(
    whole: dict[str, str],
) -> None:
    cautions = text(whole["Summary"]).partition("What to be careful about")[2]
    for sentence in (
        "survivors: chosen with hindsight",
        "half-lives of up to 250 sessions",
        "not a short memory of the forecast",
        "Importance is not causation",
        "neither may seem to matter",
        "simulated prices and the network and optimiser of rnn-0123456789, trained once",
        *ALWAYS,
    ):
        assert sentence in cautions


def test_every_note_names_whose_theory_it_is(whole: dict[str, str]) -> None:
    for section, authors in (
        ("Memory", ("Bengio, Simard and Frasconi 1994", "Hochreiter and Schmidhuber 1997")),
        ("Known memory", ("Bengio, Simard and Frasconi 1994",)),
        ("Gates", ("Hochreiter and Schmidhuber 1997", "Cho et al. 2014")),
        ("News impact", ("Engle and Ng 1993",)),
        ("Features", ("Breiman 2001", "Sundararajan, Taly and Yan 2017")),
    ):
        assert all(author in text(whole[section]) for author in authors)


def test_a_member_is_a_line_of_the_memory_table(whole: dict[str, str]) -> None:
    rows = re.findall(r"<tr><td>(\w+)</td><td>0</td><td>(\d)</td>", whole["Memory"])
    assert rows == [(model, member) for model in ("rnn", "lstm", "gru") for member in "12"]


def test_features_that_all_symbols_share_are_named(whole: dict[str, str]) -> None:
    assert "without a permutation: market_return." in text(whole["Features"])


def test_without_the_task_its_section_finding_and_caution_are_left_out(make: Write) -> None:
    html = sections(make(recalled=False))
    assert list(html) == ["Summary", "Memory", "Gates", "News impact", "Features"]
    assert "Known memory" not in html["Summary"] and "simulated" not in html["Summary"]


def test_a_simple_rnn_alone_has_no_gates_and_a_page_all_the_same(make: Write) -> None:
    html = sections(make(models=("rnn",)))
    assert figures(html["Gates"]) == ["KO: price and volatility"]
    told = text(html["Gates"])
    assert "There are no gates in rnn." in told and "forget" not in told and "update" not in told
    assert "with 2 members of rnn. Their" in text(html["Summary"])


def test_without_garch_the_page_says_why(make: Write) -> None:
    html = sections(make(benchmark=False))
    assert "which is not so here" in text(html["News impact"])
    assert "gjr_t" not in html["Summary"] and "Dashed" not in html["News impact"]


def test_of_one_symbol_there_is_no_permutation(make: Write) -> None:
    run = make()
    table = pd.read_csv(run.path / "importance.csv").assign(permutation=np.nan)
    run.write("importance.csv", table)
    html = sections(run)
    assert "by permutation" not in text(html["Summary"])
    assert "by integrated gradients market_return, absolute_5 and scale." in text(html["Summary"])
    assert "With one symbol a date, there is nothing to deal out." in text(html["Features"])


def test_of_many_symbols_the_first_are_named(make: Write) -> None:
    told = text(sections(make(symbols=tuple(f"S{i}" for i in range(30))))["Summary"])
    assert "of 30 symbols: S0, S1," in told and "S19, …" in told and "S20" not in told
