"""Self-contained HTML pages, and the report of a run, made from the files of its folder alone.

A page loads nothing: plotly.js stands in it once, beside a program of our own, and a content
security policy refuses every other script and every address. Figures lie in it as JSON that is
read, never executed. Whatever comes from data or configuration is escaped. The same files give the
same bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from forecast.documents import write_atomically
from forecast.report import audit, prediction
from forecast.report.markup import html_facts
from forecast.report.provenance import configuration, data, environment
from forecast.report.style import DARK, FAINT, GREY, INK, RAISED, WHITE, both
from forecast.run import Run

TEST_OPENED = "test range opened"  # a stamp


def write_report(run: Run) -> Path:
    """Write `report.html` into a finished run's folder, whole or not at all; return its path."""
    path, run = run.path / "report.html", _Still(run.path)
    write_atomically(path, fill(run.name, _stamps(run), _sections(run)))
    return path


class _Still(Run):
    """A run whose files stay as they are while its page is made, so that each is read once.

    The metrics of a backtest are megabytes, and every section asks for them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._read: dict[str, dict[str, Any]] = {}

    @cached_property
    def config(self) -> dict[str, Any]:
        return super().config

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run; not to be changed, since all sections see the same."""
        if name not in self._read:
            self._read[name] = super().json(name)
        return self._read[name]


def fill(title: str, stamps: Iterable[str], sections: Mapping[str, str]) -> str:
    """The page of the given sections, under a title and below links to each of them.

    Parameters
    ----------
    title : text.
    stamps : what nobody should miss, set in boxes beside the title; HTML.
    sections : heading (a few plain words, each another) -> HTML.
    """
    marks = "".join(f'<span class="stamp">{stamp}</span>' for stamp in stamps)
    links = "".join(f'<li><a href="#{_id(name)}">{name}</a></li>' for name in sections)
    contents = f'<nav aria-label="contents"><ul>{links}</ul></nav>'
    main = "".join(
        f'<section id="{_id(name)}"><h2>{name}</h2>{html}</section>\n'
        for name, html in sections.items()
    )
    colours = f"const DARK = {json.dumps({'table': DARK, 'raised': RAISED})};\n"
    program = colours + _file("page.js") + _file("tables.js")
    plotly = get_plotlyjs() if "data-figure" in main else ""
    return Template(_file("page.html")).substitute(
        policy=_policy(program, plotly),
        title=escape(title),
        **{"paper": both(WHITE), "ink": both(INK), "line": both(FAINT), "rule": both(GREY)},
        program=program,
        body=f"<header><h1>{escape(title)}</h1>{marks}</header>{contents}<main>{main}</main>",
        plotly=_packed(plotly),
    )


@cache
def _packed(text: str) -> str:
    """A text in two fifths of its bytes; the page unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _file(name: str) -> str:
    return files("forecast.report").joinpath(name).read_text("utf-8")


def _sections(run: Run) -> dict[str, str]:
    """What the page of this kind of run holds.

    Each kind imports its own sections: a prediction shall not wait for those of a backtest.
    """
    metrics = run.metrics
    if (run.path / audit.FACTS).is_file():
        return _of_audit(run)
    if (run.path / prediction.FACTS).is_file():
        return _of_prediction(run)
    if (run.path / "explain.json").is_file():
        return _of_explanation(run)
    if "performance" in metrics:
        from forecast.report import portfolio

        return {**portfolio.sections(run), **_provenance(run)}
    if "scores" not in metrics:
        nothing = "<p>These networks state positions, which the run that trades them reports.</p>"
        return {"Summary": nothing, **_provenance(run)}
    return _of_backtest(run) if "backtest" in run.config else _of_training(run)


def _of_training(run: Run) -> dict[str, str]:
    """The sections of a run of `forecast.train`."""
    from forecast.report.calibration import calibration
    from forecast.report.fans import forecasts
    from forecast.report.learning import learning
    from forecast.report.scores import score_tables
    from forecast.report.summary import summary

    return {
        "Summary": summary(run),
        "Scores": score_tables(run),
        "Forecasts": forecasts(run),
        "Learning": learning(run),
        "Calibration": calibration(run),
        **_provenance(run),
    }


def _of_backtest(run: Run) -> dict[str, str]:
    """The sections of a run of `forecast.backtest`."""
    from forecast.report import backtest
    from forecast.report.breakdown import where
    from forecast.report.calibration import calibration
    from forecast.report.courses import over_time
    from forecast.report.fans import forecasts
    from forecast.report.risk import risk
    from forecast.report.scores import score_tables
    from forecast.report.significance import significance

    return {
        "Summary": backtest.summary(run),
        "Scores": score_tables(run),
        "Significance": significance(run),
        "Over time": over_time(run),
        "Where": where(run),
        "Calibration": calibration(run),
        "Risk": risk(run),
        "Forecasts": forecasts(run),
        "Folds": backtest.folds(run),
        **_provenance(run),
    }


def _of_audit(run: Run) -> dict[str, str]:
    """The sections of an audit, whose folder says nothing of the data it was made on."""
    known = {"Configuration": configuration(run), "Environment": html_facts(run.environment)}
    return {**audit.sections(run), **known}


def _of_explanation(run: Run) -> dict[str, str]:
    """The sections of a look into networks; the runs that it names tell of their data."""
    from forecast.report import explained

    known = {"Configuration": configuration(run), "Environment": html_facts(run.environment)}
    return {**explained.sections(run), **known}


def _of_prediction(run: Run) -> dict[str, str]:
    """The sections of a run of `forecast.predict`, which need not repeat its source's files."""
    there = {"Data": run.data, "Configuration": run.config, "Environment": run.environment}
    files = {name: html for name, html in _provenance(run).items() if there[name]}
    return {**prediction.sections(run), **files}


def _provenance(run: Run) -> dict[str, str]:
    return {
        "Data": data(run),
        "Configuration": configuration(run),
        "Environment": environment(run),
    }


def _id(name: str) -> str:
    """The address of a section within the page."""
    return name.lower().replace(" ", "-")


def _policy(*scripts: str) -> str:
    """Run these scripts and no other; load nothing from anywhere."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def stamps_of(facts: Mapping[str, Any]) -> list[str]:
    """What nobody should miss about the data, from the facts of `data.json`."""
    stamps = []
    if any("surviv" in warning.lower() for warning in facts.get("warnings") or ()):
        stamps.append("survivors only")
    if facts.get("source") == "simulated":
        stamps.append("simulated data")
    return stamps


def _stamps(run: Run) -> list[str]:
    if (run.path / audit.FACTS).is_file():
        return [audit.stamp(run)]
    stamps = stamps_of(run.data or run.json(prediction.FACTS).get("data") or {})
    if run.metrics.get("optimistic"):
        stamps.append("optimistic execution")
    if "test" in run.parts:
        stamps.append(TEST_OPENED)
    return stamps
