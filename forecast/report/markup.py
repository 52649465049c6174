"""Pieces of HTML, which escape whatever text enters them, and numbers and dates as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from typing import Any

from forecast.report.style import both

NULL = "\N{EN DASH}"
BEST = ' class="best" title="best"'


class Html(str):
    """Text that is markup already and is not escaped again."""


class Number(str):
    """A number as text, which knows its value: tables are sorted by it and downloaded with it.

    Attributes
    ----------
    value : float or None
        In the unit of the text; None where there is none.
    """

    value: float | None

    def __new__(cls, text: str, value: float | None = None) -> Number:
        number = super().__new__(cls, text)
        number.value = value
        return number


@dataclass(frozen=True)
class Cell:
    """A cell of a table that stands out: the best of its column."""

    text: object
    best: bool = False


def html_table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], *, wrap: bool = False
) -> str:
    """A table under a heading row, in a box that scrolls when it is wide or tall.

    With `wrap`, long cells break into lines.
    """
    body = "".join(_row(row) for row in rows)
    kind = ' class="texts"' if wrap else ""
    return (
        f'<div class="scroll tall"><table{kind}>{_head(heads)}<tbody>{body}</tbody></table></div>'
    )


def html_models(
    heads: Sequence[str],
    groups: Mapping[str, Mapping[str, Sequence[object]]],
    *,
    colour: Callable[[str], str],
    strong: Collection[str] = (),
) -> str:
    """A table with a line per model, in groups under headings of their own.

    Parameters
    ----------
    heads : the first is that of the models.
    groups : heading -> model -> cells; `Cell` marks the best.
    colour : of a model, for the swatch before its name.
    strong : models whose lines are set in bold.
    """
    html = _head(heads)
    for heading, rows in groups.items():
        html += (
            f'<tbody><tr class="group"><th scope="rowgroup" colspan="{len(heads)}">'
            f"{escape(heading)}</th></tr>"
        )
        for model, cells in rows.items():
            swatch = f'<span class="swatch" style="background: {both(colour(model))}"></span>'
            first = Html(swatch + escape(model))
            html += _row((first, *cells), ' class="network"' if model in strong else "")
        html += "</tbody>"
    return f'<div class="scroll tall"><table>{html}</table></div>'


def html_details(summary: str, body: str, *, opened: bool = False) -> str:
    """Something that opens and closes when its heading is clicked; it needs no script."""
    return (
        f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{body}</details>"
    )


def _head(heads: Sequence[str]) -> str:
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    return f"<thead><tr>{cells}</tr></thead>"


def _row(cells: Iterable[object], attributes: str = "") -> str:
    html = ""
    for cell in cells:
        best, text = (cell.best, cell.text) if isinstance(cell, Cell) else (False, cell)
        inner = text if isinstance(text, Html) else escape(str(text))
        html += f"<td{_value(text)}{BEST if best else ''}>{inner}</td>"
    return f"<tr{attributes}>{html}</tr>"


def _value(text: object) -> str:
    """The number of a cell in full, by which the page sorts and which it lets download."""
    value = text.value if isinstance(text, Number) else None
    return "" if value is None or not isfinite(value) else f' data-value="{value:z.10g}"'


def html_text(text: object) -> str:
    """Running text, whose dates do not break at the end of a line."""
    return re.sub(r"\d{4}-\d\d-\d\d", r'<span class="date">\g<0></span>', escape(str(text)))


def html_list(items: Iterable[object]) -> str:
    """A list with bullets."""
    return "<ul>" + "".join(f"<li>{html_text(item)}</li>" for item in items) + "</ul>"


def html_facts(facts: Mapping[str, Any]) -> str:
    """Names and values, one pair a line."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td{_value(told)}>{escape(told)}</td></tr>'
        for key, told in ((key, fact(value)) for key, value in facts.items())
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def fact(value: Any) -> str:
    """A value of unknown type as plain text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NULL if value is None else str(value)
    return number(value, 0 if isinstance(value, int) or abs(value) >= 1000 else 2)


def number(value: Any, digits: int, factor: float = 1) -> Number:
    """`factor * value` with so many digits, no zero with a minus; a dash for null."""
    if is_null(value):
        return Number(NULL, None)
    return Number(f"{factor * value:z,.{digits}f}", float(factor * value))


def counted(count: int, noun: str) -> str:
    """1 symbol; 1,234 symbols."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listing(names: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def is_null(value: Any) -> bool:
    """None or NaN (the one number that differs from itself)."""
    return value is None or value != value


def date_range(dates: Any) -> str:
    """["2001-01-02", "2005-06-30"] or {"first": …, "last": …}, in words."""
    first, last = (
        (dates["first"], dates["last"]) if isinstance(dates, Mapping) else dates or (None, None)
    )
    return "no dates" if first is None else f"{first} to {last}"
