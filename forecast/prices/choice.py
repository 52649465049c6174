"""Which symbols and dates a user asked for: the same three arguments for every source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecast.config import ForecastError

# None, a list of strings, or one string. Any, because YAML turns an unquoted TRUE or 600519 into
# something else before it arrives, and the message about that has to show the quotes.
Symbols = Any


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which symbols and dates were asked for; None stands for all, dates are inclusive."""

    symbols: tuple[str, ...] | None
    start: np.datetime64 | None
    end: np.datetime64 | None

    @classmethod
    def read(cls, *, symbols: Symbols, start: str | None, end: str | None) -> Choice:
        """From what a user typed.

        Parameters
        ----------
        symbols : None, a list, one string "AAPL,^GSPC", or the path of a text file `*.txt` with one
            symbol a line or separated by commas.
        start, end : YYYY-MM-DD or None.

        Raises
        ------
        ForecastError
            An entry that is no string, a malformed date, a start after the end.
        """
        first, last = read_date(start, "data.start"), read_date(end, "data.end")
        if first is not None and last is not None and first > last:
            raise ForecastError(
                f"data.start={start} lies after data.end={end}: no session is left. Swap them."
            )
        return cls(symbols=read_symbols(symbols), start=first, end=last)

    @property
    def range(self) -> str:
        """The dates in words, for messages."""
        first = "the first row" if self.start is None else self.start
        return f"between {first} and {'the last row' if self.end is None else self.end}"

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows asked for; the frame itself where that is all of them."""
        mask = np.ones(len(frame), dtype=bool)
        if self.symbols is not None:
            wanted = frame["symbol"].cat.categories.isin(self.symbols)
            mask &= wanted[frame["symbol"].cat.codes.to_numpy()]
        dates = frame["date"].to_numpy()
        if self.start is not None:
            mask &= dates >= self.start
        if self.end is not None:
            mask &= dates <= self.end
        return frame if mask.all() else frame[mask]

    def known(self, available: Iterable[str], source: str) -> tuple[str, ...]:
        """The symbols asked for, sorted; ForecastError where the source lacks one of them."""
        names = sorted(set(available))
        if self.symbols is None:
            return tuple(names)
        for symbol in self.symbols:
            if symbol not in names:
                close = difflib.get_close_matches(symbol.upper(), names, n=1)
                some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                hint = f"Did you mean '{close[0]}'?" if close else f"It has {some}."
                raise ForecastError(f"data.symbols: '{symbol}' is not in {source}. {hint}")
        return self.symbols


def read_symbols(typed: object) -> tuple[str, ...] | None:
    if typed is None:
        return None
    if isinstance(typed, str) and typed.strip().endswith(".txt"):
        path = Path(typed.strip())
        if not path.is_file():
            raise ForecastError(f"data.symbols={path}: no such file. Correct the path.")
        try:
            typed = path.read_text(encoding="utf-8").replace("\n", ",")
        except (OSError, UnicodeDecodeError) as error:
            raise ForecastError(f"data.symbols={path}: not a readable text file.") from error
    entries = typed.split(",") if isinstance(typed, str) else typed
    if not isinstance(entries, Iterable) or isinstance(entries, Mapping):
        entries = [entries]
    names = set()
    for entry in entries:
        if not isinstance(entry, str):
            word = "null" if entry is None else str(entry).upper()
            raise ForecastError(
                f"data.symbols: {word} was read as {type(entry).__name__}, not as a symbol. "
                f"Quote it: 'data.symbols=[\"{word}\"]'."
            )
        if entry.strip():
            names.add(entry.strip())
    if not names:
        raise ForecastError("data.symbols is empty. Name symbols, or give null for all of them.")
    return tuple(sorted(names))


def read_date(typed: object, key: str) -> np.datetime64 | None:
    if typed is None:
        return None
    try:
        if isinstance(typed, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", typed):
            return np.datetime64(typed, "D")
    except ValueError:
        pass
    raise ForecastError(f"{key}={typed} is not a date. Write it as YYYY-MM-DD.")
