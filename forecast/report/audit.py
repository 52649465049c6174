"""The page of an audit: what was checked, what came out, and what only its reader can judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forecast.report.markup import (
    NULL,
    Html,
    counted,
    html_list,
    html_table,
    html_text,
    listing,
)
from forecast.report.summary import ALWAYS
from forecast.run import Run

FACTS = "audit.json"
WORDS = {"pass": ("passes", "pass"), "warn": ("warns", "warn"), "fail": ("fails", "fail")}
MEANING = (
    "A fail is something that knows the future, or a result that nothing but knowing it explains. "
    "A warning is a check that could not be made, or something for its reader to weigh; the last "
    "section lists them. A pass says that this check found nothing, and no more than that."
)
UNCHECKED = "not checked"  # how the sentence of a check that could not be made begins


def sections(run: Run) -> dict[str, str]:
    """Heading -> HTML of everything that an audit says; its configuration is not among it."""
    told = run.json(FACTS)
    lines = told["lines"]
    return {
        "Summary": _summary(run, told),
        "Checks": _checks(lines),
        "For you to judge": _judgement(lines),
    }


def stamp(run: Run) -> str:
    """The status of the audit, in its colour."""
    status = run.json(FACTS)["status"]
    return f'<span class="{status}">audit: {status}</span>'


def _summary(run: Run, told: Mapping[str, Any]) -> str:
    """What was audited, how many checks came out how, and which of them fail."""
    lines = told["lines"]
    counts = [
        f"{len(found)} {WORDS[status][len(found) != 1]}"
        for status in WORDS
        if (found := [line for line in lines if line["status"] == status])
    ]
    html = f"<p>Audited: {html_text(_subject(run, told))}.</p>"
    html += f"<p>{counted(len(lines), 'check')}: {listing(counts)}.</p>"
    failed = [line for line in lines if line["status"] == "fail"]
    if failed:
        html += f'<div class="careful"><strong>What fails</strong>{_named(failed)}</div>'
    return html + f'<p class="note">{html_text(MEANING)}</p>'


def _subject(run: Run, told: Mapping[str, Any]) -> str:
    """The run that was audited, or the configuration, in words."""
    if told["audited"] is not None:
        return f"the run {told['audited']}"
    config = run.config
    source = str(config["data"]["_target_"]).rpartition(".")[2]
    rules = (config.get("strategy") or {}).get("rules") or {}
    strategies = f", strategies {listing(list(rules))}" if rules else ""
    return (
        f"the configuration below: model {config['model']['cell']}, head {config['head']['name']}, "
        f"data {source}{strategies}"
    )


def _checks(lines: Sequence[Mapping[str, Any]]) -> str:
    """A line per check, in the order in which they were made."""
    rows = [
        (
            line["name"],
            Html(f'<span class="{line["status"]}">{line["status"]}</span>'),
            Html(html_text(line["sentence"])),
            ", ".join(f"{name} {_number(value)}" for name, value in line["values"].items()),
        )
        for line in lines
    ]
    return html_table(("check", "status", "what was done and found", "numbers"), rows, wrap=True)


def _number(value: float | None) -> str:
    return NULL if value is None else f"{value:.4g}"


def _judgement(lines: Sequence[Mapping[str, Any]]) -> str:
    """The warnings of this audit, then what none can see."""
    warnings = [line for line in lines if line["status"] == "warn"]
    unchecked = [line for line in warnings if line["sentence"].startswith(UNCHECKED)]
    found = [line for line in warnings if line not in unchecked]
    html = f"<h3>Found, for you to weigh</h3>{_named(found)}" if found else ""
    html += f"<h3>Not checked</h3>{_named(unchecked)}" if unchecked else ""
    return f"{html}<h3>What no audit can see</h3>{html_list(ALWAYS)}"


def _named(lines: Sequence[Mapping[str, Any]]) -> str:
    return html_list(
        f"{line['name']}: {line['sentence'].removeprefix(f'{UNCHECKED}: ')}" for line in lines
    )
