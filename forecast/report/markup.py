"""Pieces of HTML, which escape whatever text enters them, and numbers and dates as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

NULL = "\N{EN DASH}"


def html_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table under a heading row, in a box that scrolls when it is wide or tall."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll tall"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def html_text(text: object) -> str:
    """Running text, whose dates do not break at the end of a line."""
    return re.sub(r"\d{4}-\d\d-\d\d", r'<span class="date">\g<0></span>', escape(str(text)))


def html_list(items: Iterable[object]) -> str:
    """A list with bullets."""
    return "<ul>" + "".join(f"<li>{html_text(item)}</li>" for item in items) + "</ul>"


def html_facts(facts: Mapping[str, Any]) -> str:
    """Names and values, one pair a line."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(fact(value))}</td></tr>'
        for key, value in facts.items()
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def fact(value: Any) -> str:
    """A value of unknown type as plain text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NULL if value is None else str(value)
    return number(value, 0 if isinstance(value, int) or abs(value) >= 1000 else 2)


def number(value: Any, digits: int, factor: float = 1) -> str:
    """`factor * value` with so many digits; a dash for null."""
    return NULL if is_null(value) else f"{factor * value:,.{digits}f}"


def is_null(value: Any) -> bool:
    """None or NaN (the one number that differs from itself)."""
    return value is None or value != value


def date_range(dates: Any) -> str:
    """["2001-01-02", "2005-06-30"] or {"first": …, "last": …}, in words."""
    first, last = (
        (dates["first"], dates["last"]) if isinstance(dates, Mapping) else dates or (None, None)
    )
    return "no dates" if first is None else f"{first} to {last}"
