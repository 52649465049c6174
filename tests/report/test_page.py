from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from forecast.report.page import write_report
from forecast.report.provenance import data
from forecast.run import Run

Make = Callable[..., Run]
HOSTILE = ("<script>alert(1)</script>", "../../x", "BRK/B", "</script><b>", 'x" onload="alert(1)')
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser makes of a page: its elements, scripts and texts; tags must balance."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        elif self._open and self._open[-1] != "style":
            self.text += data

    @property
    def figures(self) -> list[Any]:
        return [
            json.loads(text) for attributes, text in self.scripts if "data-figure" in attributes
        ]

    @property
    def programs(self) -> list[str]:
        """What the page runs: its own program, and plotly.js, which lies in it packed."""
        (own,) = (text for attributes, text in self.scripts if not attributes)
        (packed,) = (text for attributes, text in self.scripts if "id" in attributes)
        return [own, gzip.decompress(base64.b64decode(packed)).decode()]


@pytest.fixture(scope="module")
def trained(built: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run, for the tests that only read it."""
    copy = tmp_path_factory.mktemp("trained") / "lstm-0123456789"
    return write_report(Run(shutil.copytree(built("run"), copy)))


@pytest.fixture(scope="module")
def hostile(built: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose names and warnings are markup."""
    folder = built("run", symbols=HOSTILE, horizons=(1, 5), parts={"test": 60})
    copy = tmp_path_factory.mktemp("hostile") / "lstm-0123456789"
    run = Run(shutil.copytree(folder, copy))
    data, metrics = run.data, run.metrics
    data["warnings"].append("<img src=x onerror=alert(1)>")
    data["left_out"] = [{"symbol": "<b>", "reason": "<i>"}]
    for table in (metrics["scores"], metrics["calibration"]):
        table["test"]["<u>"] = table["test"]["ewma_t"]
    run.write("data.json", data)
    run.write("metrics.json", metrics)
    run.write("config.yaml", {**run.config, "outputs": "</pre><script>alert(1)</script>"})
    return write_report(run)


@pytest.fixture(scope="module")
def walked(built: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a backtest."""
    copy = tmp_path_factory.mktemp("walked") / "backtest-0123456789"
    return write_report(Run(shutil.copytree(built("backtest", symbols=HOSTILE[:2]), copy)))


@pytest.fixture(scope="module")
def traded(built: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a portfolio whose symbols are markup."""
    folder = built("portfolio", symbols=HOSTILE).parent
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("traded") / "outputs")
    return write_report(Run(copy / "portfolio"))


def test_the_page_has_every_section_in_order_and_every_link_leads_to_one(trained: Path) -> None:
    page = Page(trained)
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == [
        *("summary", "scores", "forecasts", "learning"),
        *("calibration", "data", "configuration", "environment"),
    ]
    assert [a["href"] for tag, a in page.elements if tag == "a"] == [f"#{s}" for s in sections]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_page_holds_plotly_once_and_can_load_nothing(trained: Path) -> None:
    page = Page(trained)
    own, plotly = page.programs
    assert len(plotly) > 1e6 and "Plotly.react" in own
    assert not any({"src", "srcset", "data", "action"} & set(a) for _, a in page.elements)
    assert not any(tag in ("link", "iframe", "object", "img", "base") for tag, _ in page.elements)
    html = trained.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import", html)
    (policy,) = (a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy and "script-src 'sha256-" in policy
    for program in page.programs:
        digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "showSendToCloud: false" in own
    assert trained.stat().st_size < 8e6


def test_markup_in_symbols_models_and_configuration_is_shown_and_not_obeyed(
    hostile: Path,
) -> None:
    page = Page(hostile)
    assert not {"b", "i", "u", "img"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert len(page.scripts) == 2 + len(page.figures)
    for text in (*HOSTILE, "<img src=x onerror=alert(1)>", "</pre><script>", "<u>"):
        assert text in page.text
    assert [p.name for p in hostile.parent.glob("*.html")] == ["report.html"]


def test_the_same_files_give_the_same_bytes(make_run: Make, trained: Path) -> None:
    run = make_run()
    again = write_report(run).read_bytes()
    assert again == trained.read_bytes()
    run.write("timing.json", {"total_seconds": 99.0})
    changed = write_report(run).read_bytes()
    before, after = (page.partition(b'<section id="environment">') for page in (again, changed))
    assert before[0] == after[0] and before[2] != after[2]


def test_a_page_that_cannot_be_made_leaves_the_old_one(make_run: Make) -> None:
    run = make_run(horizons=(1,), parts={"test": 40})
    (run.path / "report.html").write_bytes(b"old")
    (run.path / "history.csv").unlink()
    with pytest.raises(FileNotFoundError):
        write_report(run)
    assert (run.path / "report.html").read_bytes() == b"old"
    assert not list(run.path.glob("*.tmp")) + list(run.path.glob(".*"))


def test_each_file_of_the_folder_is_read_once(
    make_backtest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics of a long backtest are megabytes."""
    run, read = make_backtest(symbols=HOSTILE[:2]), Run.json
    names: list[str] = []
    monkeypatch.setattr(Run, "json", lambda self, name: names.append(name) or read(self, name))
    write_report(run)
    assert "metrics.json" in names and len(names) == len(set(names))


def test_only_what_is_drawn_is_read(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(symbols=tuple(f"S{i:02d}" for i in range(12)), horizons=(1,), parts={"test": 40})
    calls: list[dict[str, Any]] = []
    original = Run.forecasts
    monkeypatch.setattr(
        Run, "forecasts", lambda self, **kw: calls.append(kw) or original(self, **kw)
    )
    page = Page(write_report(run))
    (call,) = calls
    assert call["model"] == "lstm" and call["part"] == "test"
    assert call["symbols"] == ["S00", "S04", "S07", "S11"]
    titles = [figure["layout"]["title"]["text"] for figure in page.figures]
    assert [title[:3] for title in titles[:4]] == call["symbols"]


@pytest.mark.parametrize(
    "options",
    [
        {"head": "point"},
        {"horizons": (1,)},
        {"parts": {"validation": 60}},
        {"parts": {"validation": 60, "test": 0}},
        {"parts": {"validation": 0}},
        {"members": 1, "network": "gru", "symbols": ("AAPL",), "delay": 1},
    ],
    ids=lambda options: " ".join(map(str, options.items())),
)
def test_every_kind_of_run_has_its_page(make_run: Make, options: dict[str, Any]) -> None:
    page = Page(write_report(make_run(**options)))
    parts = options.get("parts", {"validation": 1, "test": 1})
    scored = [part for part, rows in parts.items() if rows]
    symbols = options.get("symbols", range(4))
    titles = [figure["layout"]["title"]["text"] for figure in page.figures]
    assert sum("ahead" in title for title in titles) == (len(symbols) if scored else 0)
    assert titles.count("PIT histograms") == titles.count("Reliability of the levels")
    assert titles.count("PIT histograms") == len(scored)
    assert "NaN" not in page.text and "None" not in page.text


def test_a_run_without_epochs_or_facts_has_its_page(make_run: Make) -> None:
    run = make_run(horizons=(1,), parts={"test": 40})
    (run.path / "history.csv").write_text("member,epoch,step,train_loss,validation_loss\n")
    run.write(
        "data.json", {**run.data, "market": None, "left_out": [], "warnings": [], "calendars": []}
    )
    page = Page(write_report(run))
    assert "No epoch was finished" in page.text
    assert "survivors only" not in page.text and "Left out" not in page.text


def test_data_facts_are_complete(trained: Path) -> None:
    page = Page(trained)
    for fact in (
        *("survivors only", "test range opened", "equal_weight", "only 12 sessions", "XNYS"),
        *("train range", "validation range", "test range", "2.00", "head=student_t"),
        *("fit_seconds", "9.81", "412,346", "3.11.9", "\N{EN DASH}"),
    ):
        assert fact in page.text


def test_a_long_table_of_symbols_is_cut_and_says_so(make_run: Make) -> None:
    run = make_run(horizons=(1,), parts={"test": 40})
    facts = run.data
    facts["symbols"] *= 200
    run.write("data.json", facts)
    html = data(run)
    assert "800 symbols" in html and "The first 500 are shown" in html


def test_a_backtest_has_its_sections_and_every_link_leads_to_one(walked: Path) -> None:
    page = Page(walked)
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == [
        *("summary", "scores", "significance", "over-time", "where", "calibration", "risk"),
        *("forecasts", "folds", "data", "configuration", "environment"),
    ]
    assert [a["href"] for tag, a in page.elements if tag == "a"] == [f"#{s}" for s in sections]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert "NaN" not in page.text and "None" not in page.text


def test_the_same_backtest_gives_the_same_bytes(make_backtest: Make, walked: Path) -> None:
    again = write_report(make_backtest(symbols=HOSTILE[:2]))
    assert again.read_bytes() == walked.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"parts": ("validation",), "horizons": (1, 5)},
        {"networks": ("lstm",)},
        {"models": {"lstm": 0.1}, "table": True},
        {"models": {"prophet": 0.1, "naive": 0.3}, "networks": (), "table": True},
        {"models": {"gjr_t": 0.1, "ewma_t": 0.3}, "networks": (), "table": True},
        {"models": {"lstm": 0.1, "lstm_conformal": 0.1, "gjr_t": 0.2, "truth": 0.0}},
        {"symbols": HOSTILE[:2], "models": {"<u>": 0.1, "gjr_t": 0.2}, "networks": ("<u>",)},
    ],
    ids=lambda options: " ".join(map(str, options.items())),
)
def test_every_kind_of_backtest_has_its_page(make_backtest: Make, options: dict[str, Any]) -> None:
    small: dict[str, Any] = {"symbols": ("BA", "KO"), "horizons": (1,), "years": (2019,)}
    small["models"] = {"lstm": 0.1, "mlp": 0.2, "gjr_t": 0.3}
    page = Page(write_report(make_backtest(**{**small, **options})))
    assert "NaN" not in page.text and "None" not in page.text
    assert not {"u", "b"} & {tag for tag, _ in page.elements}
    assert page.figures


@pytest.mark.parametrize("networks", [("lstm",), ()], ids=["a network", "no network"])
def test_a_folder_that_holds_the_scores_alone_has_its_page(
    make_backtest: Make, networks: tuple[str, ...]
) -> None:
    models = {"lstm": 0.1, "gjr_t": 0.2}
    run = make_backtest(symbols=("BA",), years=(2019,), networks=networks, models=models)
    for name in ("daily.parquet", "breakdown.csv", "fluctuation.parquet", "environment.json"):
        (run.path / name).unlink()
    kept = ("parts", "scores", "networks")
    run.write("metrics.json", {key: run.metrics[key] for key in kept})
    run.write("config.yaml", {"backtest": {}})
    page = Page(write_report(run))
    assert "NaN" not in page.text and "None" not in page.text
    assert len(page.figures) == 2  # the fan and the volatility of the one symbol


def test_a_portfolio_has_its_sections_and_every_link_leads_to_one(traded: Path) -> None:
    page = Page(traded)
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == [
        *("summary", "performance", "equity", "years", "costs", "holdings", "ranking", "luck"),
        *("risk", "data", "configuration", "environment"),
    ]
    assert [a["href"] for tag, a in page.elements if tag == "a"] == [f"#{s}" for s in sections]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert "NaN" not in page.text and "None" not in page.text
    assert not {"b", "img"} & {tag for tag, _ in page.elements}
    assert traded.stat().st_size < 8e6


def test_the_same_portfolio_gives_the_same_bytes(make_portfolio: Make, traded: Path) -> None:
    again = write_report(make_portfolio(traded.parent.name, symbols=HOSTILE))
    assert again.read_bytes() == traded.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"parts": ("validation",), "luck": False},
        {"networks": (), "models": ("mine",), "strategies": ("bought",), "source": False},
        {"models": ("lstm",), "strategies": ("<u>",), "pbo": False},
        {"execution": "close", "symbols": ("BA",)},
        {"delisted": True, "models": ("gjr_t",), "networks": ()},
    ],
    ids=lambda options: " ".join(map(str, options.items())),
)
def test_every_kind_of_portfolio_has_its_page(
    make_portfolio: Make, options: dict[str, Any]
) -> None:
    page = Page(write_report(make_portfolio(**{"years": (2020,), **options})))
    assert "NaN" not in page.text and "None" not in page.text
    assert not {"u", "b"} & {tag for tag, _ in page.elements}
    assert ("optimistic execution" in page.text) == (options.get("execution") == "close")
    assert ("luck" in page.text.lower()) and page.figures


def test_a_portfolio_of_which_the_metrics_alone_are_left_has_its_page(
    make_portfolio: Make,
) -> None:
    run = make_portfolio(years=(2020,))
    for path in [*run.path.glob("*.parquet"), run.path / "luck.json"]:
        path.unlink()
    kept = ("parts", "performance")
    run.write("metrics.json", {key: run.metrics[key] for key in kept})
    run.write("config.yaml", {"strategy": {}})
    run.write("data.json", {})
    page = Page(write_report(run))
    assert "NaN" not in page.text and "None" not in page.text
    assert [figure["layout"]["title"]["text"][:15] for figure in page.figures] == [
        "Monthly returns"
    ]


def test_a_network_that_states_positions_has_its_page(make_portfolio: Make, make_run: Make) -> None:
    run = make_portfolio(years=(2020,), models=("lstm",), strategies=("position",), luck=False)
    shutil.copy(make_run().path / "history.csv", run.path)
    config = {"model": {"cell": "lstm"}, "head": {"name": "position", "cost": 2.0}}
    run.write("config.yaml", config)
    kept = ("objective", "parts", "performance")
    run.write("metrics.json", {key: run.metrics[key] for key in kept})
    page = Page(write_report(run))
    assert "The positions that lstm states" in page.text and "at 2.0 basis points" in page.text
    assert any("Learning curves" in f["layout"]["title"]["text"] for f in page.figures)
    assert "minus the Sharpe ratio" in json.dumps(page.figures)
    assert "NaN" not in page.text and "None" not in page.text
    run.write("metrics.json", {"objective": None, "parts": ["test"], "networks": ["lstm"]})
    assert "state positions" in Page(write_report(run)).text
