from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from forecast.report.audit import sections, stamp
from forecast.report.page import write_report
from forecast.run import Run

Built = Callable[..., Path]
PASS = ("pass", "folds", "one fold.", {})
WARN = ("warn", "vintage", "corrections are not dated.", {})


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def test_the_summary_counts_the_checks_and_names_what_fails(built: Built) -> None:
    told = sections(Run(built("audit")))
    assert list(told) == ["Summary", "Checks", "For you to judge"]
    summary = text_of(told["Summary"])
    assert "model lstm, head my.<Head>, data sp500, strategies sign." in summary
    assert "4 checks: 1 passes, 2 warn and 1 fails." in summary
    failing = told["Summary"].partition("What fails")[2]
    assert "features: they change" in failing and "ticks" not in failing


def test_an_audit_in_which_nothing_fails_names_no_failure(built: Built) -> None:
    run = Run(built("audit", lines=(PASS, PASS), audited="lstm-0123456789"))
    told = sections(run)
    assert "Audited: the run lstm-0123456789." in text_of(told["Summary"])
    assert "2 checks: 2 pass." in told["Summary"] and "What fails" not in told["Summary"]
    assert "Not checked" not in told["For you to judge"]
    assert stamp(run) == '<span class="pass">audit: pass</span>'


def test_the_table_has_every_check_in_order_with_its_status_as_word_and_colour(
    built: Built,
) -> None:
    table = sections(Run(built("audit")))["Checks"]
    rows = re.findall(r'<tr><td>(\w+)</td><td><span class="(\w+)">(\w+)</span></td>', table)
    assert rows == [
        (name, status, status)
        for status, name in (
            *(("pass", "folds"), ("fail", "features")),
            *(("warn", "history"), ("warn", "ticks")),
        )
    ]
    assert "differing 12" in table and "share 0.0251" in table
    assert "&lt;b&gt;" in table and "<b>" not in table


def test_warnings_are_told_apart_into_findings_and_what_was_not_checked(built: Built) -> None:
    found, _, rest = sections(Run(built("audit")))["For you to judge"].partition("Not checked")
    unchecked, _, always = rest.partition("What no audit can see")
    assert "ticks: in 2.5%" in found and "history" not in found
    assert "<li>history: histories are no longer than 1000 sessions.</li>" in unchecked
    assert "Repeated looks" in always and "The choice of symbols" in always


@pytest.mark.parametrize("lines", [(PASS,), (WARN, PASS), (("fail", "null", "it is.", {}), WARN)])
def test_the_page_is_stamped_with_the_worst_status_and_holds_no_plotly(
    built: Built, tmp_path: Path, lines: tuple[tuple[str, str, str, dict[str, float]], ...]
) -> None:
    run = Run(shutil.copytree(built("audit", lines=lines), tmp_path / "audit-0123456789"))
    page = write_report(run).read_text(encoding="utf-8")
    assert f'<span class="stamp"><span class="{lines[0][0]}">audit: {lines[0][0]}<' in page
    assert len(page) < 100_000 and "head.name=my.&lt;Head&gt;" in page and "3.11.9" in page
