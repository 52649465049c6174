"""The pages as a browser shows them: figures, contents, sorting, downloads, dark and paper."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from forecast.report import style
from forecast.report.leaderboard import write_leaderboard
from forecast.report.page import write_report
from forecast.run import Run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
HOSTILE = "<script>alert(1)</script>"
FORMULA = "=1+1"
NULL = "\N{EN DASH}"
FOLDERS: dict[str, dict[str, Any]] = {
    "run": {"symbols": (HOSTILE, FORMULA, "KO"), "horizons": (1, 5)},
    "backtest": {
        "symbols": (HOSTILE, FORMULA, "KO"),
        "models": {"lstm": 0.02, HOSTILE: 0.1, "gjr_t": 0.2, "historical": 0.6},
        "networks": ("lstm",),
    },
    "portfolio": {
        "symbols": (HOSTILE, FORMULA, "KO"),
        "strategies": (HOSTILE, "sign"),
        "models": ("lstm", "gjr_t"),
    },
    "prediction": {"symbols": (HOSTILE, FORMULA, "KO")},
    "audit": {},
}
KINDS = (*FOLDERS, "leaderboard", "explanation")


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    """One browser for all tests here. Machines that test every change must have it."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser: Browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser.new_context(viewport={"width": 1000, "height": 800})
        browser.close()


@pytest.fixture(scope="module")
def paths(built: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of every kind, whose symbols, models and strategies are markup or formulas."""
    root, found = tmp_path_factory.mktemp("pages"), {}
    for kind, options in FOLDERS.items():
        folder = shutil.copytree(built(kind, **options).parent, root / kind) / kind
        found[kind] = write_report(Run(folder))
    boards = module_of("test_leaderboard")
    board = boards.build_board(models=("lstm", HOSTILE), scale=3.0, opened=True)
    contests = [boards.build_contest(model=HOSTILE)]
    found["leaderboard"] = write_leaderboard([board], contests, root / "leaderboard.html")
    explained = module_of("test_explained").write(
        root / "explain-0123456789", symbols=(HOSTILE, "KO"), features=(HOSTILE, FORMULA, "scale")
    )
    found["explanation"] = write_report(explained)
    return found


def module_of(name: str) -> ModuleType:
    """Tests beside these, for what they build."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Shown:
    """A page in the browser, all its figures drawn, and whatever it complained of or asked for."""

    def __init__(self, context: BrowserContext, path: Path) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.wait()

    def wait(self) -> None:
        """Until every figure is there."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('script[data-figure]')]"
            ".every(script => script.previousElementSibling.querySelector('.main-svg'))"
        )

    def ask(self, program: str, *arguments: Any) -> Any:
        """The value of a function of the page."""
        return self.page.evaluate(program, *arguments)

    @property
    def figures(self) -> list[dict[str, Any]]:
        """The figures as they lie in the page."""
        texts = self.page.locator("script[data-figure]").all_text_contents()
        return [json.loads(text) for text in texts]

    def download(self, place: int) -> tuple[str, list[list[str]]]:
        """Name and lines of the file that a button CSV gives."""
        with self.page.expect_download() as waited:
            self.page.locator(".download").nth(place).click()
        with open(waited.value.path(), encoding="utf-8-sig", newline="") as file:
            return waited.value.suggested_filename, list(csv.reader(file))


@pytest.fixture(scope="module")
def open_page(context: BrowserContext, paths: dict[str, Path]) -> Callable[[str], Shown]:
    """`open_page(kind)`: once for all tests, which leave it as they found it."""
    known: dict[str, Shown] = {}

    def open_once(kind: str) -> Shown:
        if kind not in known:
            known[kind] = Shown(context, paths[kind])
        known[kind].page.bring_to_front()  # what lies behind is drawn once a second
        return known[kind]

    return open_once


Open = Callable[[str], Shown]

DRAWN = """() => [...document.querySelectorAll('script[data-figure]')].map(script =>
  script.previousElementSibling.querySelectorAll('.trace, .hm, canvas').length)"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_draws_every_figure_without_a_complaint_and_asks_for_nothing(
    open_page: Open, kind: str
) -> None:
    shown = open_page(kind)
    drawn = shown.ask(DRAWN)
    assert len(drawn) == len(shown.figures) and all(drawn)
    assert len(drawn) >= {"audit": 0, "prediction": 3}.get(kind, 5)
    assert shown.complaints == []
    assert shown.requests == [shown.page.url] and shown.page.url.startswith("file:")


# Of each link of the contents: where it leads, and how far from the window's top that is then.
FOLLOWED = """async () => {
  const found = [];
  for (const link of document.querySelectorAll('nav a')) {
    link.click();
    await new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const heading = document.querySelector(':target h2');
    const place = [heading.checkVisibility(), heading.getBoundingClientRect().top];
    found.push([location.hash.slice(1), ...place]);
  }
  return found;
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_the_contents_lead_to_sections_that_are_seen(open_page: Open, kind: str) -> None:
    shown = open_page(kind)
    sections = shown.page.locator("main > section").evaluate_all("all => all.map(one => one.id)")
    followed = shown.ask(FOLLOWED)
    assert [section for section, *_ in followed] == sections and len(sections) > 3
    assert all(visible and -1 < top < 800 for _, visible, top in followed)


@pytest.mark.parametrize("kind", KINDS)
def test_markup_in_names_is_shown_and_runs_nothing(open_page: Open, kind: str) -> None:
    shown = open_page(kind)
    programs = shown.ask(
        "() => [...document.scripts].filter(one => !one.type).map(one => one.textContent.length)"
    )
    assert len(programs) == (1 if kind == "audit" else 2)  # ours and, unpacked, plotly's
    if kind != "audit":
        assert HOSTILE in shown.page.locator("main").inner_text()
    assert shown.complaints == []


def test_a_column_whose_name_is_markup_has_it_as_its_heading(open_page: Open) -> None:
    heads = open_page("portfolio").page.locator("#years thead th").all_text_contents()
    assert f"{HOSTILE} on lstm, %" in heads


# Of a table: what its rows show, in groups, as it stands and after three clicks on each heading.
SORTED = """table => {
  const shown = () => [...table.tBodies].map(body => [...body.rows].map(row =>
    row.className === 'group' ? row.textContent
      : [...row.cells].map(cell => [cell.textContent, cell.dataset.value ?? null])));
  const heads = [...table.tHead.rows[0].cells];
  return {before: shown(), columns: heads.map(head => Array.from({length: 3}, () => {
    head.querySelector('button').click();
    return [head.getAttribute('aria-sort'), shown()];
  }))};
}"""


def in_order(rows: list[Any], column: int, sign: int) -> list[Any]:
    """Rows sorted by the numbers of a column, those without one last."""

    def key(row: Any) -> tuple[bool, float]:
        text, value = row[column]
        return text == NULL, 0.0 if text == NULL else sign * float(value)

    return sorted(rows, key=key)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_sort_by_full_numbers_within_their_groups_dashes_last(
    open_page: Open, kind: str
) -> None:
    tables = open_page(kind).page.locator("table:has(thead)")
    numeric = 0
    for place in range(tables.count()):
        found = tables.nth(place).evaluate(SORTED)
        before = [[row for row in body if not isinstance(row, str)] for body in found["before"]]
        for column, clicks in enumerate(found["columns"]):
            assert [order for order, _ in clicks] == ["ascending", "descending", None]
            assert clicks[2][1] == found["before"]
            for (_, after), sign in zip(clicks[:2], (1, -1), strict=True):
                for old, new in zip(found["before"], after, strict=True):
                    groups = [[r for r in rows if isinstance(r, str)] for rows in (old, new)]
                    assert groups[0] == groups[1] == new[: len(groups[0])]
                cells = [row[column] for body in before for row in body]
                if all(value is not None or text == NULL for text, value in cells):
                    numeric += 1
                    rows = [[row for row in body if not isinstance(row, str)] for body in after]
                    assert rows == [in_order(body, column, sign) for body in before]
    assert numeric or kind in ("prediction", "audit")


def test_a_table_sorts_texts_and_dates_and_what_numbers_begin(open_page: Open) -> None:
    shown = open_page("prediction")
    columns = shown.page.locator("table:has(thead)").first.evaluate(SORTED)["columns"]
    first, last = ([row[0][0] for row in columns[0][click][1][0]] for click in (0, 1))
    assert first == last[::-1] == sorted(first, key=str.lower)
    by_interval = [float(row[5][0].partition("\N{EN DASH}")[0]) for row in columns[5][0][1][0]]
    assert by_interval == sorted(by_interval) and len(set(by_interval)) == 3


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_heading_sorts_by_the_keyboard(open_page: Open, key: str) -> None:
    page = open_page("leaderboard").page
    head = page.locator("table:has(thead) th").first
    orders = []
    for _ in range(3):
        head.locator("button").press(key)
        orders.append(head.get_attribute("aria-sort"))
    assert orders == ["ascending", "descending", None]


@pytest.mark.parametrize(("kind", "section"), [("run", "scores"), ("portfolio", "performance")])
def test_a_downloaded_table_holds_what_is_shown_in_full(
    open_page: Open, kind: str, section: str
) -> None:
    shown = open_page(kind)
    table = shown.page.locator(f"#{section} table").first
    buttons = shown.page.locator(".download")
    place = next(
        i
        for i in range(buttons.count())
        if buttons.nth(i).evaluate(f"one => !!one.closest('#{section}') && "
                                   "!!one.nextElementSibling.querySelector('table')")
    )  # fmt: skip
    name, lines = shown.download(place)
    assert name == f"{kind}-{section}.csv"
    heads = table.locator("thead th").all_text_contents()
    grouped = table.locator("tr.group").count() > 0
    assert lines[0] == [*(["group"] if grouped else []), *heads]
    expected = []
    for body in table.evaluate(SORTED)["before"]:
        group = [row for row in body if isinstance(row, str)]
        for row in body[len(group) :]:
            cells = ["" if text == NULL else value or text for text, value in row]
            expected.append([*group, *cells])
    assert lines[1:] == expected


def test_a_name_that_is_a_formula_is_downloaded_as_text(open_page: Open) -> None:
    shown = open_page("run")
    buttons = shown.page.locator(".download")
    tables = [
        i
        for i in range(buttons.count())
        if buttons.nth(i).evaluate("one => !!one.closest('#data')")
    ]
    _, lines = shown.download(tables[1])
    assert [line[0] for line in lines] == ["symbol", HOSTILE, f"'{FORMULA}", "KO"]


def numbers_of(values: Any) -> list[float]:
    """A list of a figure's JSON, which may be packed."""
    if isinstance(values, dict):
        return np.frombuffer(b64decode(values["bdata"]), values["dtype"]).tolist()
    return [np.nan if value is None else value for value in values]


def test_a_figure_is_downloaded_with_its_choices_panels_dates_and_numbers(
    open_page: Open,
) -> None:
    shown = open_page("backtest")
    ids = shown.page.locator(".figure > div").evaluate_all("all => all.map(one => one.id)")
    figure = shown.figures[ids.index("summed-1")]
    place = shown.page.locator(".download").evaluate_all(
        "all => all.findIndex(one => one.nextElementSibling.querySelector('#summed-1'))"
    )
    name, (heads, *lines) = shown.download(place)
    assert name == "backtest-over-time-summed-1.csv"
    assert heads == ["choice", "panel", "trace", "x", "y"]
    assert len(lines) == sum(len(numbers_of(trace["y"])) for trace in figure["data"])
    trace, axis = figure["data"][0], figure["layout"]["yaxis"]["title"]["text"]
    own = lines[: len(numbers_of(trace["y"]))]
    assert {line[2] for line in own} == {"lstm"} and {line[1] for line in own} == {axis}
    assert {line[0] for line in own} == {f"against {HOSTILE}"}
    assert own[0][3] == trace["x0"]
    dates = np.array([line[3] for line in own], dtype="datetime64[ms]")
    assert set(np.diff(dates).astype(int)) == {trace["dx"]}
    known = numbers_of(trace["y"])
    drawn = [float(line[4]) if line[4] else np.nan for line in own]
    np.testing.assert_allclose(drawn, known, rtol=1e-6)


BACKGROUNDS = """() => [getComputedStyle(document.body).backgroundColor,
  ...[...document.querySelectorAll('.js-plotly-plot')].map(one => one.layout.template.layout
    .paper_bgcolor)]"""
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 24, 29)"


def test_the_button_turns_page_and_figures_dark_and_is_remembered(
    context: BrowserContext, paths: dict[str, Path]
) -> None:
    shown = Shown(context, paths["run"])
    button, count = shown.page.locator("#theme"), len(shown.figures)
    assert button.get_attribute("aria-pressed") == "false"
    assert shown.ask(BACKGROUNDS) == [LIGHT, *["#ffffff"] * count]
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    shown.page.wait_for_function(f"count => ({BACKGROUNDS})().filter(x => x === '#14181d')"
                                 ".length === count", arg=count)  # fmt: skip
    assert shown.ask(BACKGROUNDS)[0] == DARK
    again = Shown(context, paths["audit"])
    assert again.ask(BACKGROUNDS) == [DARK]
    again.page.locator("#theme").click()
    assert again.ask(BACKGROUNDS) == [LIGHT]
    assert shown.complaints == again.complaints == []
    for page in (shown, again):
        page.ask("() => localStorage.clear()")
        page.page.close()


def colours_of(value: Any, key: str = "") -> list[str]:
    """All colours of a figure, in order."""
    if isinstance(value, dict):
        return [c for name in sorted(value) for c in colours_of(value[name], name)]
    if isinstance(value, list | tuple):
        return [c for item in value for c in colours_of(item, key)]
    return [value] if isinstance(value, str) and key.endswith(("color", "colorscale")) else []


@pytest.mark.parametrize("kind", ["backtest", "leaderboard"])
def test_a_page_is_dark_where_the_system_is_and_its_figures_are_those_of_dark(
    context: BrowserContext, paths: dict[str, Path], kind: str
) -> None:
    assert context.browser is not None
    other = context.browser.new_context(color_scheme="dark")
    shown = Shown(other, paths[kind])
    assert shown.page.locator("#theme").get_attribute("aria-pressed") == "true"
    assert shown.ask(BACKGROUNDS)[0] == DARK
    drawn = shown.ask("""() => [...document.querySelectorAll('.js-plotly-plot')].map(one =>
      ({data: one.data, template: one.layout.template, menus: one.layout.updatemenus ?? []}))""")
    for figure, there in zip(shown.figures, drawn, strict=True):
        dark = json.loads(style.dark(go.Figure(figure)).to_json(engine="json"))
        layout = dark["layout"]
        assert colours_of(there["data"]) == colours_of(dark["data"])
        assert colours_of(there["template"]) == colours_of(layout["template"])
        assert colours_of(there["menus"]) == colours_of(layout.get("updatemenus", []))
    other.close()


def test_paper_is_light_and_figures_fit_on_it(
    context: BrowserContext, paths: dict[str, Path]
) -> None:
    assert context.browser is not None
    other = context.browser.new_context(
        color_scheme="dark", viewport={"width": 1400, "height": 800}
    )
    shown = Shown(other, paths["prediction"])
    sizes = """() => [...document.querySelectorAll('.js-plotly-plot')].map(one =>
      [one._fullLayout.width, one._fullLayout.paper_bgcolor])"""
    before = shown.ask(sizes)
    assert all(width > 900 and colour == "#14181d" for width, colour in before)
    shown.ask(f"() => addEventListener('beforeprint', () => window.printed = ({sizes})())")
    shown.page.pdf()
    assert shown.ask("() => window.printed") == [[680, "#ffffff"]] * len(before)
    shown.page.wait_for_function(
        f"before => JSON.stringify(({sizes})()) === before",
        arg=json.dumps(before, separators=(",", ":")),
    )
    assert shown.complaints == []
    other.close()


def test_the_contents_stand_beside_a_wide_page_and_stay_in_sight(
    context: BrowserContext, paths: dict[str, Path]
) -> None:
    page = Shown(context, paths["audit"]).page
    tops = {}
    for width in (1000, 1400):
        page.set_viewport_size({"width": width, "height": 500})
        page.evaluate("() => scrollTo(0, 900)")
        contents = page.locator("nav").bounding_box()
        main = page.locator("main").bounding_box()
        assert contents is not None and main is not None
        tops[width] = contents["y"]
        assert (contents["x"] + contents["width"] < main["x"]) == (width == 1400)
    assert tops[1000] < 0 < tops[1400]
    page.close()


def test_a_page_opens_within_two_seconds(open_page: Open) -> None:
    shown = open_page("backtest")
    opened = shown.ask("() => performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < opened < 2000  # milliseconds
