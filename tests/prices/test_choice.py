from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.prices.choice import Choice

TICKER = st.text("ABCXYZ0123^=./-<>", min_size=1, max_size=8).filter(
    lambda s: not s.endswith(".txt")
)


@settings(max_examples=30, deadline=None)
@given(st.lists(TICKER, min_size=1, max_size=6))
def test_a_list_a_string_and_a_file_choose_the_same_symbols(names: list[str]) -> None:
    as_list = Choice.read(symbols=names, start=None, end=None).symbols
    as_text = Choice.read(symbols=", ".join(names), start=None, end=None).symbols
    assert as_list == as_text == tuple(sorted(set(names)))


@pytest.mark.parametrize("text", ["AAPL\n^GSPC\n", "AAPL,^GSPC", "\nAAPL ,\r\n ^GSPC,"])
def test_symbols_are_read_from_a_text_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "symbols.txt"
    path.write_text(text)
    assert Choice.read(symbols=str(path), start=None, end=None).symbols == ("AAPL", "^GSPC")


@pytest.mark.parametrize(
    ("typed", "quoted"),
    [([True], '["TRUE"]'), (["A", 600519], '["600519"]'), (False, '["FALSE"]'), (1, '["1"]')],
)
def test_a_symbol_that_yaml_mistook_is_refused_with_its_quoted_form(
    typed: object, quoted: str
) -> None:
    with pytest.raises(ForecastError, match="Quote it") as caught:
        Choice.read(symbols=typed, start=None, end=None)
    assert quoted in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"symbols": []}, "empty"),
        ({"symbols": " , "}, "empty"),
        ({"symbols": "nowhere.txt"}, "no such file"),
        ({"symbols": {"A": 1}}, "Quote"),
        ({"start": "2020-02-30"}, "2020-02-30"),
        ({"start": "01/02/2020"}, "YYYY-MM-DD"),
        ({"end": 2020}, "data.end=2020"),
        ({"start": "2020-02-02", "end": "2020-02-01"}, "lies after"),
    ],
)
def test_malformed_choices_are_refused(arguments: dict[str, object], word: str) -> None:
    full: dict[str, object] = {"symbols": None, "start": None, "end": None, **arguments}
    with pytest.raises(ForecastError, match=word):
        Choice.read(**full)  # type: ignore[arg-type]


def test_an_unknown_symbol_gets_the_nearest_one_suggested() -> None:
    choice = Choice.read(symbols="aapl,MSFT", start=None, end="2020-01-01")
    assert choice.end == np.datetime64("2020-01-01")
    with pytest.raises(ForecastError, match=r"'aapl' is not in sp500.*Did you mean 'AAPL'"):
        choice.known(["AAPL", "MSFT", "GE"], "sp500")
