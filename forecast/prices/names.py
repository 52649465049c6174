"""The file of a symbol: safe on every file system, and reversible."""

from __future__ import annotations

import re
import urllib.parse

from forecast.config import ForecastError

SUFFIX = ".parquet"
# File systems take names of 255 bytes, and a damaged file gets a longer one.
LONGEST = 255 - len(".damaged-20261127T120000Z-999999")
# Bytes that a name cannot hold, dots that hide a file or get lost, and the first letter of what
# Windows takes for a device, whatever follows a dot.
HARMFUL = re.compile(
    rb"[^A-Z0-9.-]|\A\.|\.\Z|\A(?=(?:CON|PRN|AUX|NUL|COM[1-9]|LPT[1-9])(?:\.|\Z))."
)


def file_name(symbol: str) -> str:
    """The file of a symbol: a name that every file system takes and keeps apart from all others.

    Bytes other than A-Z, 0-9, hyphens and inner dots are percent-encoded. Small letters are among
    them, so that no two names differ by case alone, and so is the first letter of a device's name.

    Raises
    ------
    ForecastError
        An empty symbol, or one too long for a file name.
    """
    if not symbol:
        raise ForecastError("an empty symbol has no prices. Name one, such as AAPL.")
    encoded = symbol.encode("utf-8", "surrogatepass")
    name = HARMFUL.sub(lambda match: b"%%%02X" % match[0][0], encoded).decode() + SUFFIX
    if len(name) > LONGEST:
        raise ForecastError(
            f"symbol {symbol[:20]!r}... is too long: its file name would take {len(name)} bytes of "
            f"{LONGEST}. Correct the symbol."
        )
    return name


def symbol_of(name: str) -> str:
    """The symbol of a file name; ForecastError where `file_name` gives no such name."""
    try:
        stem = urllib.parse.unquote_to_bytes(name.removesuffix(SUFFIX))
        symbol = stem.decode("utf-8", "surrogatepass")
        if file_name(symbol) == name:
            return symbol
    except (UnicodeError, ForecastError):
        pass
    raise ForecastError(f"{name!r} is not the name of a file of prices, such as AAPL{SUFFIX}.")
