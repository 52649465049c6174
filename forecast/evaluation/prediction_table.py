"""A prediction as text, for the terminal and for its page: a line per symbol and horizon."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

NULL = "\N{EN DASH}"
INTERVALS = {"50 % interval": ("low_50", "high_50"), "90 % interval": ("low_90", "high_90")}
PERCENTS = {  # heading: column, digits, what makes it percent
    "P(rise)": ("probability_of_rise", 1, 100),
    "volatility": ("volatility", 2, 1),
}
SHORT = {  # a terminal does not break headings
    **{"last close": "close", "expected date": "for"},
    **{"50 % interval": "50 %", "90 % interval": "90 %"},
}


def price_digits(price: float) -> int:
    """Decimals of a price: five significant digits, and two from 10 to 1000."""
    if not 0 < price < math.inf:
        return 2
    exponent = math.floor(math.log10(price))
    return 2 if exponent == 1 else max(4 - exponent, 0)


def groups(rows: pd.DataFrame, *, most: int) -> dict[str, pd.DataFrame]:
    """The lines of a prediction as text cells, under a heading per horizon.

    What a group shares stands in its heading, what varies in the first column: symbols, or the
    horizons where there is one symbol alone.

    Parameters
    ----------
    rows : DataFrame
        As in `predictions.csv`: prices in the currency of the data, returns and volatility in
        percent, `probability_of_rise` from 0 to 1. Undefined numbers are NaN; a column without
        any number is left out.
    most : int
        Symbols shown, the first ones of `rows`.
    """
    symbols = rows["symbol"].unique()
    shown = rows[rows["symbol"].isin(symbols[:most])]
    cells = _cells(shown)
    ahead = [f"{horizon} session{'' if horizon == 1 else 's'}" for horizon in shown["horizon"]]
    if len(symbols) == 1:
        cells.insert(0, "horizon", ahead)
        return {str(symbols[0]): cells.loc[shown["horizon"].sort_values().index]}
    cells.insert(0, "symbol", [str(symbol) for symbol in shown["symbol"]])
    heading = pd.Series(ahead, shown.index) + " ahead"
    return {
        heading[alike.index[0]]: cells.loc[alike.index] for _, alike in shown.groupby("horizon")
    }


def table(rows: pd.DataFrame, *, most: int = 40) -> str:
    """The prediction for a terminal: aligned plain text, about 110 columns wide.

    Parameters
    ----------
    rows, most :
        As in `groups`.
    """
    blocks = {
        heading: [
            [SHORT.get(name, name) for name in cells.columns.tolist()],
            *cells.to_numpy().tolist(),
        ]
        for heading, cells in groups(rows, most=most).items()
    }
    columns = zip(*(line for lines in blocks.values() for line in lines), strict=True)
    widths = [max(map(len, column)) for column in columns]
    texts = [
        "\n".join([heading, *(_line(line, widths) for line in lines)])
        for heading, lines in blocks.items()
    ]
    count = rows["symbol"].nunique()
    if count > most:
        texts.append(f"{most} of {count:,} symbols are shown; predictions.csv holds all.")
    return "\n\n".join(texts)


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """All columns as text but for the symbol and the horizon."""
    digits = [price_digits(price) for price in rows["price"]]

    def priced(column: str) -> list[str]:
        return [_number(price, many) for price, many in zip(rows[column], digits, strict=True)]

    def stated(*columns: str) -> bool:
        return bool(rows[list(columns)].notna().any(axis=None))

    intervals = {name: ends for name, ends in INTERVALS.items() if stated(*ends)}
    cells = {
        "origin": _dates(rows["origin"]),
        "last close": priced("price"),
        "expected date": _dates(rows["expected_date"]),
        # Without quantiles (point head) the middle is the mean's price.
        "median" if intervals else "mean": priced("median_price"),
    }
    for name, (low, high) in intervals.items():
        ends = zip(priced(low), priced(high), strict=True)
        cells[name] = [NULL if NULL in pair else NULL.join(pair) for pair in ends]
    for name, (column, many, factor) in PERCENTS.items():
        if stated(column):
            numbers = [_number(value, many, factor) for value in rows[column]]
            cells[name] = [text if text == NULL else f"{text} %" for text in numbers]
    return pd.DataFrame(cells, index=rows.index)


def _number(value: float, digits: int, factor: float = 1) -> str:
    return NULL if pd.isna(value) else f"{factor * value:z,.{digits}f}"


def _dates(dates: pd.Series) -> list[str]:
    return [NULL if pd.isna(date) else str(date.date()) for date in pd.to_datetime(dates)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first cell at the left of its column, the others at the right."""
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *padded[1:]])
