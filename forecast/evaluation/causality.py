"""Does anything know the future? Two checks that any pipeline, own parts included, must pass.

*Truncation*: what was computed from data that end at *t* must equal, to the last bit, what the
whole data give up to *t*. *Perturbation*: whatever happens to prices from the test range on, the
trained network must be the same to the last bit. A pipeline is any function of `Prices`; the
checks know nothing of how it works, so they hold for a user's features, heads and models as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.forecasts import KEY
from forecast.prices.frame import PRICE_FIELDS, Prices

# What a Forecasts table says of the outcome, and so may change once the outcome is known.
OUTCOME = ("target_date", "actual", "realized_variance", "nll", "pit", "crps_exact")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number that knew the future.

    Attributes
    ----------
    where : str
        Column and key of the first difference.
    full, cut : object
        Its value from the whole data, and from the data that ended earlier or were changed later.
    count : int
        Differing values in all.
    """

    where: str
    full: object
    cut: object
    count: int

    def __str__(self) -> str:
        return f"{self.count} values differ, first {self.where}: {self.full} became {self.cut}"


def truncate(prices: Prices, last: np.datetime64 | str) -> Prices:
    """The raw input as it was at the close of `last`.

    Later rows are gone, and with them symbols listed later and covariates known later.
    """
    day = np.datetime64(str(last), "s")
    frame = prices.frame[prices.frame["date"] <= day].reset_index(drop=True)
    if frame.empty:
        raise ForecastError(f"no price on or before {last}. Choose a later date.")
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            frame[name] = frame[name].cat.remove_unused_categories()
    covariates = tuple(
        replace(c, frame=c.frame[c.frame["known"] <= day].reset_index(drop=True))
        for c in prices.covariates
    )
    return replace(prices, frame=frame, covariates=covariates)


def perturb(prices: Prices, first: np.datetime64 | str, *, seed: int = 0) -> Prices:
    """The same input with every price, volume and covariate changed at random from `first` on.

    Each row's level, its open, its range and its volume change by factors of their own, so what is
    made of a bar's shape changes as much as what is made of its level.
    """
    random = np.random.default_rng(seed)
    day = np.datetime64(str(first), "s")
    frame = prices.frame.copy()
    later = (frame["date"] >= day).to_numpy()
    if not later.any():
        raise ForecastError(f"no price on or after {first}: nothing would change. Choose earlier.")
    level, bar, low, high, volume = np.exp(
        np.array([[0.1], [0.01], [0.02], [0.02], [0.5]])
        * random.standard_normal((5, int(later.sum())))
    )
    changed = {
        name: frame.loc[later, name].to_numpy() * (volume if name == "volume" else level)
        for name in (*PRICE_FIELDS, "volume")
        if name in frame
    }
    session_close = changed.get("raw_close", changed["close"])
    if "open" in changed:
        changed["open"] = changed["open"] * bar
    body = [session_close, changed.get("open", session_close)]
    if "high" in changed:
        changed["high"] = np.maximum.reduce([changed["high"], *body]) * np.maximum(high, 1 / high)
    if "low" in changed:
        changed["low"] = np.minimum.reduce([changed["low"], *body]) * np.minimum(low, 1 / low)
    for name, values in changed.items():
        frame.loc[later, name] = values
    covariates = []
    for covariate in prices.covariates:
        table = covariate.frame.copy()
        known_later = (table["known"] >= day).to_numpy()
        for name in covariate.columns:
            table.loc[known_later, name] = random.standard_normal(int(known_later.sum()))
        covariates.append(replace(covariate, frame=table))
    return replace(prices, frame=frame, covariates=tuple(covariates), truth=None)


def check_truncation(
    pipeline: Callable[[Prices], pd.DataFrame],
    prices: Prices,
    *,
    last: np.datetime64 | str,
    key: Sequence[str] = KEY,
    date: str = "origin",
    ignore: Sequence[str] = OUTCOME,
) -> Finding | None:
    """Compare a pipeline's table on the whole data with that on data ending at `last`.

    Parameters
    ----------
    pipeline : callable
        Prices to a table with the columns of `key` and a column `date`; a Forecasts table by
        default. It must be a function of its argument alone, folds fixed by date included.
    last : date
        Where the second run's data end.
    ignore : sequence of str
        Columns that speak of the outcome and not of the forecast.

    Returns
    -------
    Finding or None
        The first difference; None where all rows up to `last` are identical.

    Raises
    ------
    ForecastError
        Nothing would be cut, or there is no row to compare: a check that cannot fail.
    """
    shorter = truncate(prices, last)
    if len(shorter.frame) == len(prices.frame):
        raise ForecastError(
            f"the data end by {last}: nothing would be cut. Choose an earlier date."
        )
    full, cut = pipeline(prices), pipeline(shorter)
    full = full[full[date] <= np.datetime64(str(last), "s")]
    if full.empty and cut.empty:
        raise ForecastError(f"the pipeline gave no row up to {last}. Choose a later date.")
    tables = [
        t.drop(columns=[c for c in ignore if c in t]).astype(
            {k: str for k in key if isinstance(t[k].dtype, pd.CategoricalDtype)}
        ).set_index(list(key)).sort_index()
        for t in (full, cut)
    ]  # fmt: skip
    if not tables[0].index.equals(tables[1].index):
        missing = tables[0].index.symmetric_difference(tables[1].index)
        return Finding(
            where=f"row {_spoken(missing[0])}",
            full=missing[0] in tables[0].index,
            cut=missing[0] in tables[1].index,
            count=len(missing),
        )
    return _first_difference(
        {str(c): tables[0][c].to_numpy() for c in tables[0]},
        {str(c): tables[1][c].to_numpy() for c in tables[1]},
        lambda i: _spoken(tables[0].index[i]),
    )


def check_perturbation(
    fit: Callable[[Prices], Mapping[str, np.ndarray]],
    prices: Prices,
    *,
    first: np.datetime64 | str,
    seed: int = 0,
) -> Finding | None:
    """Change everything from `first` on and demand the identical trained parameters.

    Parameters
    ----------
    fit : callable
        Prices to named arrays: all that training has produced.
    first : date
        The first test origin; nothing at or after it may matter.

    Raises
    ------
    ForecastError
        Nothing would be changed, or training has produced nothing: a check that cannot fail.
    """
    full, changed = fit(prices), fit(perturb(prices, first, seed=seed))
    if not full and not changed:
        raise ForecastError("the fit gave no arrays to compare. Return what training has produced.")
    return _first_difference(full, changed, lambda i: f"element {i}")


def _spoken(row: tuple[object, ...]) -> str:
    """A key in words, dates without a time of day."""
    return " ".join(f"{x:%Y-%m-%d}" if isinstance(x, pd.Timestamp) else str(x) for x in row)


def _first_difference(
    full: Mapping[str, np.ndarray], cut: Mapping[str, np.ndarray], place: Callable[[int], str]
) -> Finding | None:
    found = [
        Finding(where=name, full=name in full, cut=name in cut, count=1)
        for name in sorted(set(full) ^ set(cut))
    ]
    for name in sorted(set(full) & set(cut)):
        a, b = np.asarray(full[name]).ravel(), np.asarray(cut[name]).ravel()
        if a.shape != b.shape:
            found.append(Finding(where=f"{name}: shape", full=a.shape, cut=b.shape, count=1))
            continue
        null = pd.isna(a) & pd.isna(b)
        differs = np.flatnonzero(~((a == b) | null))
        if len(differs):
            i = int(differs[0])
            found.append(
                Finding(where=f"{name} at {place(i)}", full=a[i], cut=b[i], count=len(differs))
            )
    if not found:
        return None
    return replace(found[0], count=sum(f.count for f in found))
