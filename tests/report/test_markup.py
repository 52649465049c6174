from __future__ import annotations

import pickle
import re
from copy import deepcopy
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.report.markup import (
    Cell,
    Html,
    Number,
    date_range,
    fact,
    html_facts,
    html_list,
    html_models,
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


@given(value=st.floats(-1e6, 1e6), digits=st.integers(0, 4), factor=st.sampled_from([1, 100]))
@settings(max_examples=100, deadline=None)
def test_a_cell_keeps_ten_digits_of_the_number_whose_text_it_rounds(
    value: float, digits: int, factor: float
) -> None:
    text = number(value, digits, factor)
    assert text.value == factor * value
    for cell in (text, Cell(text), Cell(text, best=True)):
        html = html_table(("head",), [(cell,)])
        (kept,) = re.findall(r'<td data-value="([^"]*)"', html)
        assert float(kept) == pytest.approx(factor * value, rel=1e-9, abs=1e-300)
        assert not kept.startswith("-") or float(kept) < 0
        assert f">{text}</td>" in html


@pytest.mark.parametrize(
    "cell", ["text", "1.5", number(None, 2), number(float("inf"), 2), Html("1")]
)
def test_a_cell_that_is_no_finite_number_keeps_none(cell: str) -> None:
    assert "data-value" not in html_table(("head",), [(cell,)])


def test_a_number_with_words_around_it_keeps_its_value_and_a_copy_does() -> None:
    small = Number("<0.001", 0.00042)
    assert 'data-value="0.00042">&lt;0.001<' in html_table(("p",), [(small,)])
    for copy in (deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert (copy, copy.value) == ("<0.001", 0.00042)
    assert 'data-value="1.23456">1.23<' in html_facts({"seconds": 1.23456})


def test_a_swatch_has_a_light_and_a_dark_colour() -> None:
    html = html_models(("model",), {"group": {"gjr_t": []}}, colour=lambda _: "#882255")
    assert 'style="background: light-dark(#882255, #ee2fbf)"' in html
