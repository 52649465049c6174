from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.report.markup import (
    date_range,
    fact,
    html_facts,
    html_list,
    html_table,
    html_text,
    number,
)

# A parser of HTML reads a carriage return as a new line and drops what no page may hold.
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=30)


class Reader(HTMLParser):
    """The texts and the element names of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.elements = "", set[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_whatever_text_enters_is_shown_and_opens_no_element(text: str) -> None:
    known = {"div", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "span"}
    for html in (
        html_table((text,), [(text,)]),
        html_facts({text: text}),
        html_list([text]),
        html_text(text),
    ):
        page = Reader(html)
        assert page.elements <= known
        assert text in page.text


@pytest.mark.parametrize("null", [None, float("nan")])
def test_null_is_an_en_dash(null: float | None) -> None:
    assert number(null, 4) == fact(None) == "\N{EN DASH}"


def test_numbers_have_thousands_and_their_digits() -> None:
    assert number(1234567, 0) == "1,234,567"
    assert number(0.49996, 2, 100) == "50.00"
    assert fact(412345.6) == "412,346"
    assert fact(True) == "True"


def test_dates_come_as_a_pair_or_by_name() -> None:
    assert date_range(["2001-01-02", "2002-01-02"]) == "2001-01-02 to 2002-01-02"
    assert date_range({"first": "2001-01-02", "last": "2002-01-02"}).endswith("2002-01-02")
    assert date_range(None) == date_range({"first": None, "last": None}) == "no dates"
