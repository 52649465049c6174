"""Walk through the origins of a Forecasts table and decide what to hold: a Weights table.

At each origin a rule is shown what was known at its close and nothing else. That a symbol has
ended is not known there: its last forecast stays valid as for any symbol without a session, then
its weight is 0. `decide_all` leaves out what could not be traded any more; `decide` does not, so
its weights are the same, to the last bit, whether or not later forecasts and prices are there.

Axes: O origins, T dates, S symbols, K tranches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.forecasts import names, read_forecasts
from forecast.portfolio.limits import Limits, check_fill
from forecast.portfolio.outlooks import Outlooks, outlooks_of
from forecast.portfolio.quotes import Quotes
from forecast.portfolio.rules import make_rule, own_rules_sha256
from forecast.portfolio.schedule import still_traded
from forecast.portfolio.strategies import (
    BENCHMARKS,
    FROM_PRICES,
    Outlook,
    Rule,
    needs_volatility,
)
from forecast.portfolio.tranches import Tranches, drifted
from forecast.schema import KEY, QUANTILES
from forecast.weights import validate_weights

__all__ = [
    "Limits",
    "check_fill",
    "decide",
    "decide_all",
    "decide_benchmarks",
    "make_rule",
    "own_rules_sha256",
    "still_traded",
]

STATED = ("scale", "mean", "std", *QUANTILES)


def decide(
    forecasts: pd.DataFrame,
    quotes: Quotes,
    *,
    model: str,
    strategy: str,
    rule: str | Rule,
    options: Mapping[str, Any],
    settings: Limits,
    part: str,
) -> pd.DataFrame:
    """Weights of one model and strategy at every origin of its forecasts.

    Parameters
    ----------
    forecasts : Forecasts table; with the model `none` also a Weights table, for its origins.
    quotes : prices that hold the table's symbols and origins.
    model : of the table; `none`: the rule is shown prices alone.
    strategy : what the weights are called.
    rule, options : as an entry of `strategy.rules`; or a bound rule, without options but
        `turnover`.

    Returns
    -------
    DataFrame
        A Weights table: non-zero weights, and a row of 0 where all are; no row where the rule
        returns what it holds.

    Raises
    ------
    ForecastError
        No such rows, symbols or origins without prices, a rule that needs volatilities on a model
        that states none at any origin, a rule that fails or returns anything but a finite weight
        per symbol, or a weight of a symbol that has had no session yet.
    """
    looks = _looks(forecasts, quotes, model, part, settings.horizon, settings.stale)
    if isinstance(rule, str):
        _refuse_unstated(looks, model, strategy, {**options, "rule": rule})
        rule = make_rule(strategy, {**options, "rule": rule})
    weights_OS = _walk(looks, quotes, rule, settings, strategy, options.get("turnover"))
    return validate_weights(_table(weights_OS, looks, quotes, model, strategy, part), strategy)


def decide_all(
    forecasts: Path | str | pd.DataFrame,
    quotes: Quotes,
    *,
    limits: Limits,
    part: str,
    models: Sequence[str] | None = None,
    horizon: int | None = None,
    jobs: int = 1,
) -> pd.DataFrame:
    """Weights of every rule on every model, and of the benchmarks on the same origins.

    Parameters
    ----------
    models : None: those of `limits`, or all of the table.
    horizon : None: that of `limits`, or the shortest of the table.
    jobs : processes that the models are shared among; the result does not depend on it.

    Returns
    -------
    DataFrame
        Weights table, without rows of symbols whose last session is over.
    """
    from joblib import Parallel, delayed

    wanted = list(models or limits.models or _models(forecasts))
    horizon = horizon or limits.horizon
    tasks: list[tuple[Any, ...]] = [(forecasts, quotes, m, limits, part, horizon) for m in wanted]
    # Arrays that processes share as files would be read-only in other places than these.
    pool = Parallel(n_jobs=max(1, min(jobs, len(tasks))), max_nbytes=None)
    found: Iterable[list[pd.DataFrame]] = pool(delayed(_decide_model)(*task) for task in tasks)
    shared = _read(forecasts, part, wanted, [*KEY, "scale"])
    benchmarks = _benchmarks(shared, quotes, limits, part, horizon)
    tables = [table for tables in found for table in tables]
    return validate_weights(pd.concat([*tables, *benchmarks], ignore_index=True), "strategy")


def decide_benchmarks(
    table: pd.DataFrame,
    quotes: Quotes,
    *,
    limits: Limits,
    part: str,
    until: np.datetime64 | None = None,
) -> pd.DataFrame:
    """Weights of the benchmarks beside a Forecasts or Weights table.

    Beside forecasts they decide at the same origins and hold the symbols that have been forecast so
    far. Beside weights, which may be decided as rarely as one likes, they decide on every date, and
    hold all symbols that have prices.

    Parameters
    ----------
    until : the last date of a decision beside weights; None: the last origin of the table.

    Returns
    -------
    DataFrame
        Weights table, without rows of symbols whose last session is over.
    """
    if "weight" in table:
        table = _every_date(table[(table["part"] == part).to_numpy()], quotes, until)
    tables = _benchmarks(table, quotes, limits, part, limits.horizon)
    return validate_weights(pd.concat(tables, ignore_index=True), "benchmarks")


def _every_date(rows: pd.DataFrame, quotes: Quotes, until: np.datetime64 | None) -> pd.DataFrame:
    """The rows of weights, and one at each date from their first origin on."""
    if rows.empty:
        return rows
    rows = rows.sort_values("origin", kind="stable")
    day_N = rows["origin"].to_numpy().astype("datetime64[D]")
    last = day_N[-1] if until is None else until
    dates = quotes.dates[(quotes.dates >= day_N[0]) & (quotes.dates <= last)]
    every = pd.DataFrame(
        {
            "part": rows["part"].iloc[0],
            "fold": rows["fold"].to_numpy()[np.searchsorted(day_N, dates, side="right") - 1],
            "origin": dates.astype("datetime64[s]"),
            "symbol": quotes.symbols[0],  # any: which symbols rows name does not count
        }
    )
    texts = rows[day_N <= last].astype({"part": str, "symbol": str})
    return pd.concat([texts, every], ignore_index=True)


def _read(
    forecasts: Path | str | pd.DataFrame, part: str, models: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """Rows of some models."""
    if isinstance(forecasts, pd.DataFrame):
        return forecasts[forecasts["model"].isin(models)]
    return read_forecasts(forecasts, columns=columns, part=part, model=models)


def _models(forecasts: Path | str | pd.DataFrame) -> list[str]:
    """All models of a table, in its order."""
    if isinstance(forecasts, pd.DataFrame):
        return [str(name) for name in forecasts["model"].unique()]
    return names(forecasts, "model")


def _looks(
    table: pd.DataFrame, quotes: Quotes, model: str, part: str, horizon: int | None, stale: int
) -> Outlooks:
    """What a model states in a part; for the model `none`, at which origins anything is stated."""
    states = model != FROM_PRICES
    rows = table[(table["part"] == part).to_numpy()]
    if states:
        rows = rows[(rows["model"] == model).to_numpy()]
    if rows.empty:
        raise ForecastError(f"part {part} has no rows of {model}: choose from what is forecast.")
    if "horizon" in rows:
        known = sorted({int(h) for h in rows["horizon"]})
        horizon = horizon or known[0]
        if horizon not in known:
            raise ForecastError(
                f"strategy.horizon={horizon} is not forecast by {model}: choose from "
                f"{', '.join(map(str, known))}."
            )
        rows = rows[(rows["horizon"] == horizon).to_numpy()]
    if not states:  # one row, whatever models there are
        rows = rows.drop_duplicates(["symbol", "origin"])
    return outlooks_of(rows, quotes, horizon=horizon or 1, stale=stale, states=states)


def _decide_model(
    forecasts: Path | str | pd.DataFrame,
    quotes: Quotes,
    model: str,
    limits: Limits,
    part: str,
    horizon: int | None,
) -> list[pd.DataFrame]:
    """Tables of all rules on one model."""
    table = _read(forecasts, part, [model], [*KEY, *STATED])
    looks = _looks(table, quotes, model, part, horizon, limits.stale)
    entries = {label: dict(entry) for label, entry in limits.rules.items()}
    return _tables(looks, quotes, model, entries, limits, part)


def _benchmarks(
    table: pd.DataFrame, quotes: Quotes, limits: Limits, part: str, horizon: int | None
) -> list[pd.DataFrame]:
    """Tables of the benchmarks."""
    looks = _looks(table, quotes, FROM_PRICES, part, horizon, limits.stale)
    entries = {label: {**options, "rule": rule} for label, (rule, options) in BENCHMARKS.items()}
    return _tables(looks, quotes, FROM_PRICES, entries, limits, part)


def _tables(
    looks: Outlooks,
    quotes: Quotes,
    model: str,
    entries: Mapping[str, Mapping[str, Any]],
    limits: Limits,
    part: str,
) -> list[pd.DataFrame]:
    """A table per rule, without rows of symbols whose last session is over."""
    from threadpoolctl import threadpool_limits

    for label, entry in entries.items():
        _refuse_unstated(looks, model, label, entry)
    tables = []
    with threadpool_limits(1):  # the order of sums, and so the last bit, is that of one thread
        for label, entry in entries.items():
            bound = make_rule(label, entry)
            weights_OS = _walk(looks, quotes, bound, limits, label, entry.get("turnover"))
            table = _table(weights_OS, looks, quotes, model, label, part)
            tables.append(still_traded(table, quotes))
    return tables


def _walk(
    looks: Outlooks,
    quotes: Quotes,
    rule: Rule,
    limits: Limits,
    strategy: str,
    turnover: float | None,
) -> np.ndarray:
    """Weights at each origin, shape (O, S); rows of NaN where nothing is decided."""
    origins, symbols = looks.growth_OS.shape
    result_OS = np.full((origins, symbols), np.nan)
    held_S = np.zeros(symbols)
    book = Tranches(limits.rebalance, symbols) if limits.rebalance > 1 else None
    for o in range(origins):
        growth_S, gone_S = looks.growth_OS[o], looks.gone_OS[o]
        held_S = drifted(held_S, growth_S, gone_S)
        if book is not None:
            book.drift(growth_S, gone_S)
        outlook = looks.at(o, held_S)
        target_S = _checked(rule(outlook, quotes.returns_TS[: looks.t_O[o] + 1]), strategy, outlook)
        if o and np.array_equal(target_S, held_S):
            continue
        target_S = limits.capped(target_S)
        if book is not None:
            target_S = book.decide(o, target_S)
        if turnover is not None:
            change_S = target_S - held_S
            total = math.fsum(np.abs(change_S).tolist())
            if total > turnover:
                target_S = held_S + (turnover / total) * change_S
        if book is not None or turnover is not None:  # what has drifted may be past a cap
            target_S = limits.capped(target_S)
        result_OS[o] = held_S = target_S
    _refuse_unlisted(result_OS, looks, quotes, strategy)
    return result_OS


def _checked(weights: Any, strategy: str, outlook: Outlook) -> np.ndarray:
    """Weights as a rule must return them."""
    try:
        weights_S = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        weights_S = np.empty(0)
    if weights_S.shape != (len(outlook.symbols),):
        raise ForecastError(
            f"strategy {strategy} returns {type(weights).__name__} of shape {np.shape(weights)} at "
            f"{outlook.origin}. Return one number per symbol: an array of {len(outlook.symbols)}."
        )
    if not np.isfinite(weights_S).all():
        s = int((~np.isfinite(weights_S)).argmax())
        raise ForecastError(
            f"strategy {strategy} gives {outlook.symbols[s]} the weight {weights_S[s]} at "
            f"{outlook.origin}. Return finite numbers, and 0 for what is not held."
        )
    return weights_S


def _refuse_unstated(looks: Outlooks, model: str, label: str, entry: Mapping[str, Any]) -> None:
    if needs_volatility(entry["rule"], entry) and not looks.states_volatility:
        raise ForecastError(
            f"strategy.rules.{label}.rule={entry['rule']} needs forecasts of volatility, which "
            f"{model} does not state: choose a head that does (head=student_t), or leave the model "
            "out of strategy.models."
        )


def _refuse_unlisted(
    weights_OS: np.ndarray, looks: Outlooks, quotes: Quotes, strategy: str
) -> None:
    early_OS = (np.nan_to_num(weights_OS) != 0) & ~looks.listed_OS
    if early_OS.any():
        o, s = np.argwhere(early_OS)[0]
        raise ForecastError(
            f"strategy {strategy} holds {quotes.symbols[s]} at {quotes.dates[looks.t_O[o]]}, "
            "before its first session. Give weights only where mean_S is not NaN."
        )


def _table(
    weights_OS: np.ndarray,
    looks: Outlooks,
    quotes: Quotes,
    model: str,
    strategy: str,
    part: str,
) -> pd.DataFrame:
    """Rows where a weight is not 0; of an origin that goes to cash, one row of 0."""
    kept_OS = np.nan_to_num(weights_OS) != 0
    empty_O = ~np.isnan(weights_OS[:, 0]) & ~kept_OS.any(axis=1)
    there_OS = ~np.isnan(quotes.close_TS[looks.t_O])
    kept_OS[empty_O, there_OS[empty_O].argmax(axis=1)] = True
    o, s = np.nonzero(kept_OS)

    def name(text: str) -> pd.Categorical[str]:
        return pd.Categorical.from_codes(np.zeros(len(o), np.int8), categories=pd.Index([text]))

    return pd.DataFrame(
        {
            "model": name(model),
            "strategy": name(strategy),
            "fold": looks.fold_O[o].astype(np.int16),
            "part": name(part),
            "origin": quotes.dates[looks.t_O[o]].astype("datetime64[s]"),
            "symbol": pd.Categorical.from_codes(
                s.astype(np.int32), categories=pd.Index(quotes.symbols)
            ),
            "weight": weights_OS[o, s],
        }
    )
