"""Portfolio value-at-risk and expected shortfall, and whether what happened agrees with them.

Value-at-risk is that of the weights decided at an origin, held still over the target window of the
forecasts made there, at origins with a decision: neither of what a simulation holds while it waits
for a fill, drifts or trades within the window, nor of days between decisions. What is not held is
cash and returns nothing. A portfolio's scenarios are its symbols' joint ones, so a model whose
every forecast is right is still wrong here if it errs on how symbols move together.

An origin is left out of a portfolio where nothing is held, or something for which there is no
forecast, and out of its tests where the outcome of something held is null. Losing such origins may
flatter a portfolio (a symbol that ended may have ended badly), so they are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.evaluation.daily import codes
from forecast.evaluation.inference import mean_test
from forecast.evaluation.risk import RISK_LEVELS, TESTS, symbol_tests
from forecast.portfolio.scenarios import Marginals, read_marginals, scenarios, tail_risk
from forecast.portfolio.shortfall import shortfall_test
from forecast.portfolio.strategies import FROM_PRICES

Array = NDArray[Any]

EQUAL_WEIGHT = "equal_weight"  # the portfolio that is always there
COLUMNS = (*(f"{kind}{level}" for kind in ("var", "es") for level in RISK_LEVELS), "realised")


def portfolio_risk(
    forecasts: Path,
    *,
    part: str,
    horizon: int,
    models: Sequence[str],
    weights: pd.DataFrame | None = None,
    template: int = 500,
    least: int = 250,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Risk of portfolios by each model's forecasts, origin by origin, and its tests.

    Every model that states quantiles is asked about the portfolio `equal_weight` (of all symbols
    that it forecasts at an origin), about the strategies traded on it and about the benchmarks. A
    benchmark that is itself called `equal_weight` is that same portfolio and is not asked twice.

    Parameters
    ----------
    forecasts : a Forecasts table.
    part : whose origins count; what serves as their past may stem from other parts.
    horizon : sessions.
    models : of the table; those that state no quantiles are passed over.
    weights : validated Weights; only origins that have rows are asked about. For days between
        decisions hand in the positions held at each close.
    template, least, seed : as in `scenarios`.

    Returns
    -------
    rows : DataFrame
        `part, portfolio, model, origin, var01, var05, es01, es05, realised`; simple returns over
        the target as fractions, losses negative, `realised` NaN where not yet known.
    metrics : dict
        [portfolio][model]["01" | "05"], undefined figures null: `rate` of exceedances with its
        `rate_t` and `rate_p` (dependence over time allowed for), `kupiec_p`, `independence_p` and
        `conditional_p` as in `evaluation.risk`, `es_excess` and `es_p` of `shortfall_test`,
        `mean_var`, `mean_es`, the number of `origins` whose outcome is known, and `origins_lost`:
        of those at which something was held, how many are missing from the tests because a held
        symbol has no forecast there or its outcome is null (it ended, or lacks a session). The
        last origins of the data, whose outcomes nobody knows yet, are not lost.

    Raises
    ------
    ForecastError
        A model has no such forecasts; `least` is not within its bounds.
    """
    tables: list[pd.DataFrame] = []
    metrics: dict[str, Any] = {}
    for model in models:
        marginals = read_marginals(forecasts, model=model, part=part, horizon=horizon)
        if marginals is None:
            continue
        portfolios = _Portfolios(marginals, model, part, weights)
        risk = _Risk(len(marginals.origins), len(portfolios.labels), template)
        for t, symbols_S, return_SN in scenarios(
            marginals, template=template, least=least, seed=seed
        ):
            held, asked, weight_PS = portfolios.at(t, symbols_S)
            risk.add(t, held, asked, weight_PS, return_SN, marginals.actual_TS[t, symbols_S])
        # As for single symbols: with a delay, what happens before a target starts moves the
        # exceedances of all origins that lie before its end.
        steps = horizon + marginals.delay
        known = np.flatnonzero(~np.isnan(marginals.actual_TS).all(axis=1))
        lost_P = risk.lost(int(known.max(initial=-1)))
        for p, label in enumerate(portfolios.labels):
            rows = risk.rows(p)
            if len(rows):
                key = {"part": part, "portfolio": label, "model": model}
                tables.append(
                    pd.DataFrame(
                        {**key, "origin": marginals.origins[rows], **risk.columns(rows, p)}
                    )
                )
                tests = risk.tests(rows, p, steps, seed)
                for figures in tests.values():
                    figures["origins_lost"] = int(lost_P[p])
                metrics.setdefault(label, {})[model] = tests
    empty = pd.DataFrame(columns=["part", "portfolio", "model", "origin", *COLUMNS])
    types = {**dict.fromkeys(empty, "str"), "origin": "datetime64[s]"}
    types.update(dict.fromkeys(COLUMNS, "float64"))  # of an empty table too, which may be joined
    return pd.concat(tables or [empty], ignore_index=True).astype(types), metrics


class _Portfolios:
    """Weights by origin, as a matrix is wanted only for one origin at a time.

    Attributes
    ----------
    labels : of the portfolios, (P,).
    """

    def __init__(
        self, marginals: Marginals, model: str, part: str, weights: pd.DataFrame | None
    ) -> None:
        self.labels = [EQUAL_WEIGHT]
        self._symbols = len(marginals.symbols)
        self._first = np.zeros(len(marginals.origins) + 1, np.int64)
        self._p = self._s = np.zeros(0, np.int64)
        self._weight = np.zeros(0)
        if weights is None:
            return
        read = weights["model"].isin([model, FROM_PRICES]) & (weights["part"] == part)
        rows = weights[read.to_numpy()]
        names, strategy = codes(rows["strategy"])
        own = (rows["model"] == model).to_numpy()
        mine = np.unique(strategy[own])
        wanted = own | ~np.isin(strategy, mine)
        if EQUAL_WEIGHT in names:
            wanted &= strategy != names.index(EQUAL_WEIGHT)
        origin = rows["origin"].to_numpy().astype("datetime64[D]")
        chosen = np.flatnonzero(wanted & np.isin(origin, marginals.origins))
        t = np.searchsorted(marginals.origins, origin[chosen])
        order = np.argsort(t, kind="stable")
        chosen = chosen[order]
        there, p = np.unique(strategy[chosen], return_inverse=True)
        self.labels += [names[code] for code in there]
        self._p = p + 1
        names, symbol = codes(rows["symbol"])
        # A symbol that has no forecast at all stands in the last column, beyond all others.
        column = pd.Index(marginals.symbols).get_indexer(pd.Index(names))
        self._s = np.where(column < 0, self._symbols, column)[symbol[chosen]]
        self._weight = rows["weight"].to_numpy()[chosen]
        self._first = np.searchsorted(t[order], np.arange(len(marginals.origins) + 1))

    def at(self, t: int, symbols_S: Array) -> tuple[Array, Array, Array]:
        """Portfolios that hold something at an origin, those of them that can be asked about, and
        the weights of these, shape (P, S)."""
        rows = slice(self._first[t], self._first[t + 1])
        weight_PS = np.zeros((len(self.labels), self._symbols + 1))
        weight_PS[self._p[rows], self._s[rows]] = self._weight[rows]
        weight_PS[0, symbols_S] = 1 / len(symbols_S)
        held_PS = weight_PS != 0
        forecast_S = np.zeros(self._symbols + 1, bool)
        forecast_S[symbols_S] = True
        held = np.flatnonzero(held_PS.any(axis=1))
        asked = held[~held_PS[np.ix_(held, ~forecast_S)].any(axis=1)]
        return held, asked, weight_PS[np.ix_(asked, symbols_S)]


class _Risk:
    """Risk and outcomes of all portfolios by one model, origin by origin; NaN where not asked."""

    def __init__(self, origins: int, portfolios: int, template: int) -> None:
        self._number_T = np.zeros(origins, np.int64)  # of scenarios
        self._lowest_TPK = np.full((origins, portfolios, _kept(template)), np.nan)
        self._var_LTP, self._es_LTP = np.full((2, len(RISK_LEVELS), origins, portfolios), np.nan)
        self._realised_TP = np.full((origins, portfolios), np.nan)
        self._held_TP = np.zeros((origins, portfolios), bool)

    def add(
        self,
        t: int,
        held: Array,
        asked: Array,
        weight_PS: Array,
        return_SN: Array,
        actual_S: Array,
    ) -> None:
        # Not `@`: a matrix product may be cut differently, and round otherwise, with more threads.
        return_PN = np.einsum("ps,sn->pn", weight_PS, return_SN)
        number = return_PN.shape[1]
        lowest_PK = np.sort(np.partition(return_PN, _kept(number) - 1)[:, : _kept(number)])
        self._number_T[t] = number
        self._held_TP[t, held] = True
        self._lowest_TPK[t, asked, : _kept(number)] = lowest_PK
        for i, level in enumerate(RISK_LEVELS.values()):
            self._var_LTP[i, t, asked], self._es_LTP[i, t, asked] = tail_risk(
                lowest_PK, number, level
            )
        realised_PS = np.where(weight_PS != 0, weight_PS * np.expm1(actual_S / 100), 0.0)
        self._realised_TP[t, asked] = realised_PS.sum(axis=1)

    def rows(self, p: int) -> Array:
        """Origins at which a portfolio was asked about."""
        return np.flatnonzero(~np.isnan(self._var_LTP[0, :, p]))

    def lost(self, last: int) -> Array:
        """Up to an origin, how many each portfolio is not tested at though it held something."""
        lost_TP = self._held_TP[: last + 1] & np.isnan(self._realised_TP[: last + 1])
        count: Array = lost_TP.sum(axis=0)
        return count

    def columns(self, rows: Array, p: int) -> dict[str, Array]:
        """Of the table of risks."""
        values = (*self._var_LTP[:, rows, p], *self._es_LTP[:, rows, p], self._realised_TP[rows, p])
        return dict(zip(COLUMNS, values, strict=True))

    def tests(self, rows: Array, p: int, steps: int, seed: int) -> dict[str, dict[str, Any]]:
        """Figures of a portfolio at each level."""
        known = rows[~np.isnan(self._realised_TP[rows, p])]
        realised = self._realised_TP[known, p]
        found = {}
        for i, (name, level) in enumerate(RISK_LEVELS.items()):
            hit = realised < self._var_LTP[i, known, p]
            rate = mean_test(hit - level)
            p_values = symbol_tests(np.zeros(len(hit), np.int64), hit, level, steps, 1)
            excess, es_p = shortfall_test(
                realised,
                self._var_LTP[i, known, p],
                self._es_LTP[i, known, p],
                self._lowest_TPK[known, p],
                self._number_T[known],
                level=level,
                steps=steps,
                seed=seed,
            )
            figures = {
                "rate": hit.mean() if len(hit) else np.nan,
                "rate_t": rate.t,
                "rate_p": rate.p,
                **{f"{test}_p": p_values[test][0] for test in TESTS},
                "es_excess": excess,
                "es_p": es_p,
                "mean_var": self._var_LTP[i, rows, p].mean(),
                "mean_es": self._es_LTP[i, rows, p].mean(),
            }
            plain = {key: float(v) if np.isfinite(v) else None for key, v in figures.items()}
            found[name] = {**plain, "origins": len(hit)}
        return found


def _kept(scenarios: int) -> int:
    """How many of the lowest scenarios `tail_risk` needs at the highest level."""
    return int(max(RISK_LEVELS.values()) * scenarios + 0.5) + 1
