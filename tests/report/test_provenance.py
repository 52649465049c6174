"""What a report says of its prices: findings of quality, the worst first, none of them markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest

from forecast.report.page import write_report
from forecast.report.provenance import TABLE_SYMBOLS, data
from forecast.run import Run

Make = Callable[..., Run]
HEADING = "Quality of the prices"


def finding(symbol: str, severity: str, **told: Any) -> dict[str, Any]:
    """As `data.json` has it."""
    found = {"detector": "spike", "sentence": f"what is {severity}", "count": 1}
    return {"symbol": symbol, "severity": severity, **found, "dates": ["2020-03-16"], **told}


@pytest.fixture
def shown(make_run: Make) -> Callable[..., str]:
    """The section of a run whose data.json has these findings, or None for no such key."""
    run = make_run(horizons=(1,), parts={"test": 40})

    def shown(findings: list[dict[str, Any]] | None) -> str:
        facts = {name: value for name, value in run.data.items() if name != "quality"}
        run.write("data.json", facts if findings is None else {**facts, "quality": findings})
        return data(run)

    return shown


def table(html: str) -> list[list[str]]:
    """Texts of the cells of each row of the table of quality."""
    part = html.partition(HEADING)[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<td.*?</td>", row)]
        for row in rows
        if "<td" in row
    ]


def test_the_worst_is_shown_first_and_equals_stay_in_their_order(
    shown: Callable[..., str],
) -> None:
    order = ("info", "severe", "warn", "info", "severe")
    rows = table(shown([finding(f"S{n}", severity) for n, severity in enumerate(order)]))
    assert [row[:2] for row in rows] == [
        ["S1", "severe"], ["S4", "severe"], ["S2", "warn"], ["S0", "info"], ["S3", "info"],
    ]  # fmt: skip
    assert rows[0][2:] == ["what is severe", "2020-03-16"]


@pytest.mark.parametrize("findings", [None, []], ids=["a run of before", "sound prices"])
def test_where_nothing_was_found_there_is_no_table(
    shown: Callable[..., str], findings: list[dict[str, Any]] | None
) -> None:
    assert HEADING not in shown(findings)


@pytest.mark.parametrize(("count", "end"), [(2, ""), (3, " and 1 more"), (1500, " and 1,498 more")])
def test_dates_that_are_not_listed_are_counted(
    shown: Callable[..., str], count: int, end: str
) -> None:
    some = finding("A", "warn", count=count, dates=["2020-01-02", "2020-01-03"])
    assert table(shown([some]))[0][3] == f"2020-01-02, 2020-01-03{end}"


def test_a_long_table_is_cut_after_the_worst_and_says_so(shown: Callable[..., str]) -> None:
    many = [finding(f"S{n}", "info") for n in range(TABLE_SYMBOLS)]
    assert "are shown" not in shown(many)
    html = shown([*many, finding("LAST", "severe")])
    rows = table(html)
    assert len(rows) == TABLE_SYMBOLS and rows[0][0] == "LAST"
    assert f"The first {TABLE_SYMBOLS} are shown" in html


def test_names_and_sentences_that_are_markup_are_shown_and_not_obeyed(
    shown: Callable[..., str],
) -> None:
    evil = "<img src=x onerror=alert(1)>"
    html = shown([finding(evil, "severe", sentence=f"1 row of {evil}", dates=[evil])])
    assert "<img" not in html
    assert table(html) == [[evil, "severe", f"1 row of {evil}", evil]]


def test_the_page_says_that_detectors_change_nothing(make_run: Make) -> None:
    run = make_run(horizons=(1,), parts={"test": 40})
    run.write("data.json", {**run.data, "quality": [finding("AAPL", "warn")]})
    page = write_report(run).read_text(encoding="utf-8")
    assert HEADING in page and "change nothing" in page
