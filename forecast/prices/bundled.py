"""Prices that come with installed packages: 20 large US stocks, and two US indices."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.prices.choice import Choice, Symbols
from forecast.prices.covariates import load_covariates
from forecast.prices.frame import VINTAGE, Prices, checked, finished, long

SURVIVORS = (
    "survivors: the 20 stocks were chosen because they were large in 2022, so none of them failed; "
    "levels of return and anything traded on them are too good"
)
TICKS = (
    "adjusted closes carry three decimals: early prices are so low that rounding makes ticks and "
    "zero returns (61 % of RRC's in 1990-94)"
)
NO_DIVIDENDS = "index levels hold no dividends: returns are price returns"


def sp500(
    *,
    symbols: Symbols = None,
    start: str | None = None,
    end: str | None = None,
    covariates: Sequence[Mapping[str, object]] = (),
) -> Prices:
    """Adjusted closes of 20 stocks of the S&P 500, 1990-01-02 to 2022-12-28, from skfolio."""
    wide = _shipped(
        "skfolio/datasets/data/sp500_dataset.csv.gz", "skfolio.datasets", "load_sp500_dataset"
    )
    frame = long(
        wide.index.to_numpy().astype("datetime64[s]"),
        {str(name): wide[name].to_numpy(dtype=np.float64) for name in wide.columns},
    )
    return _prices(
        frame,
        source="sp500",
        choice=Choice.read(symbols=symbols, start=start, end=end),
        covariates=covariates,
        warnings=(SURVIVORS, TICKS, VINTAGE),
    )


def index(
    *,
    symbols: Symbols = None,
    start: str | None = None,
    end: str | None = None,
    covariates: Sequence[Mapping[str, object]] = (),
) -> Prices:
    """S&P 500 (`^GSPC`) and Nasdaq Composite (`^IXIC`), 1999-01-04 to 2018-12-31, from arch.

    Open, high, low, close and volume. The adjusted close equals the close, since an index pays
    nothing, so there is no `raw_close`.
    """
    names = ("Open", "High", "Low", "Close", "Volume")
    parts = []
    for symbol, name in (("^GSPC", "sp500"), ("^IXIC", "nasdaq")):
        raw = _shipped(f"arch/data/{name}/{name}.csv.gz", f"arch.data.{name}", "load")
        columns = {name.lower(): raw[name].to_numpy(dtype=np.float64) for name in names}
        date = raw.index.to_numpy().astype("datetime64[s]")
        parts.append(pd.DataFrame({"symbol": symbol, "date": date, **columns}))
    frame = pd.concat(parts, ignore_index=True)
    return _prices(
        frame.assign(symbol=frame["symbol"].astype("category")),
        source="index",
        choice=Choice.read(symbols=symbols, start=start, end=end),
        covariates=covariates,
        warnings=(NO_DIVIDENDS,),
    )


def _shipped(file: str, module: str, function: str) -> pd.DataFrame:
    """A table that a package ships, by date.

    From its file, without the package, whose import takes most of a second; or by its own function
    where the file lies elsewhere.
    """
    package = file.partition("/")[0]
    path = Path(str(importlib.metadata.distribution(package).locate_file(file)))
    if path.is_file():
        return pd.read_csv(path, index_col="Date", parse_dates=["Date"])
    table: pd.DataFrame = getattr(importlib.import_module(module), function)()
    return table


def _prices(
    frame: pd.DataFrame,
    *,
    source: str,
    choice: Choice,
    covariates: Sequence[Mapping[str, object]],
    warnings: tuple[str, ...],
) -> Prices:
    available = tuple(frame["symbol"].cat.categories)
    frame, left_out = finished(
        checked(choice.rows(frame), where=source),
        choice=choice,
        available=available,
        source=source,
        calendar="XNYS",
    )
    joined, notes = load_covariates(covariates, frame)
    return Prices(
        frame=frame,
        source=source,
        covariates=joined,
        warnings=(*warnings, *notes),
        left_out=left_out,
    )
