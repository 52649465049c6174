"""Which differences between the models of a backtest are luck: the tables of `metrics.json`.

Losses are means over the symbols of a date. All models of one comparison are compared on the same
dates; a model whose loss is unknown on a date is left out of that loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forecast.evaluation.comparison import (
    FLUCTUATION_05,
    WINDOW,
    Array,
    block_length,
    confidence_set,
    diebold_mariano,
    fluctuation,
    hln,
    resample,
    superiority,
)
from forecast.evaluation.inference import Test, holm, mean_test
from forecast.evaluation.recalibration import SUFFIX

LOSSES = ("crps", "crps_exact", "log_score", "qlike", "mae")
RELATIVE = ("crps", "crps_exact", "mae")  # losses with a zero, which shares can be taken of
FEWEST = 60  # dates below which no model is compared
LEVEL = 0.1  # of the model confidence set
TOP = 20  # days whose share in the summed advantage is stated
EVERY = 5  # sessions between the stated fluctuation statistics, whose windows take years
KEYS = ("part", "horizon", "loss", "model", "against")
CURVES = {
    "part": "category", "horizon": "int16", "loss": "category", "model": "category",
    "against": "category", "date": "datetime64[ms]", "statistic": "float32",
}  # fmt: skip


def significance(
    daily: pd.DataFrame,
    breakdown: pd.DataFrame,
    *,
    networks: Sequence[str],
    benchmark: str = "gjr_t",
    delay: int = 0,
    repetitions: int = 2000,
    seed: int = 0,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Every comparison of the models of a backtest, per part, horizon and loss.

    Parameters
    ----------
    daily : DataFrame
        Rows of part, model, horizon and origin, with a column per loss: means over the symbols.
    breakdown : DataFrame
        Rows of part, model, horizon, by and value; the losses where `by` is `symbol` are read.
    networks : sequence of str
        Models compared with every other one; so are their recalibrated copies.
    benchmark : str
        Model of SPA and StepM.
    delay : int
        Sessions between origin and target, over which errors overlap as well.
    repetitions : int
        Of the bootstrap.
    seed : int

    Returns
    -------
    metrics : dict
        `significance[part][horizon][loss]` with

        - `models`: those compared;
        - `pairs[a][b]`, a one of `networks`: `difference` a − b (negative: a loses less) with its
          95 % interval `low`, `high` and as a share of b's loss, `relative`; Diebold–Mariano `t`,
          `p` and, by Holm over these pairs, `p_holm`; `hln_t`, `hln_p`; the `years` and `symbols`
          there are and in how many a loses less; `top20_share`, the share of the summed difference
          that the 20 days furthest to its side make (above 1 where the other days lose it again);
          the test `without_2020`, None where it would be that of all dates; the largest
          `fluctuation` statistic, of all windows and without sign;
        - `spa`, `stepm`, `mcs`, and of all pairs `t_matrix` and `p_matrix_holm`.

        `fluctuation`: the window as a share of the dates, and the critical value at 5 %. What is
        undefined is None; so is all that needs two models and 60 dates where there are fewer.
    curves : DataFrame
        Giacomini–Rossi statistic of the same pairs, at the middle date of every fifth window.
    """
    daily = daily.astype({"part": "str", "model": "str"})
    tables: dict[str, Any] = {}
    curves: list[tuple[tuple[Any, ...], pd.DatetimeIndex, Array]] = []
    keys = daily[["part", "horizon"]].drop_duplicates()
    for part, horizon in keys.itertuples(index=False, name=None):
        rows = daily[(daily["part"] == part) & (daily["horizon"] == horizon)]
        drawn: dict[int, Array] = {}  # by number of dates, since most losses have the same
        for loss in LOSSES:
            dates, losses = _aligned(rows, loss)
            table = _nothing(list(losses), benchmark)
            tables.setdefault(part, {}).setdefault(str(horizon), {})[loss] = table
            if len(dates) < FEWEST or len(losses) < 2:
                continue
            if len(dates) not in drawn:
                block = block_length(len(dates), horizon + delay)
                drawn[len(dates)] = resample(len(dates), block, repetitions=repetitions, seed=seed)
            tests = {
                (a, b): diebold_mariano(losses[a], losses[b]) for a, b in permutations(losses, 2)
            }
            asked = [pair for pair in tests if pair[0].removesuffix(SUFFIX) in networks]
            adjusted = _holm({pair: tests[pair] for pair in asked})
            by_symbol = _by_symbol(breakdown, part, horizon, loss)
            for a, b in asked:
                statistic = fluctuation(losses[a], losses[b])
                table["pairs"].setdefault(a, {})[b] = {
                    **_pair(
                        losses[a],
                        losses[b],
                        tests[a, b],
                        horizon + delay,
                        shares=loss in RELATIVE,
                    ),
                    **_by_year(losses[a] - losses[b], dates.year.to_numpy()),
                    **_won(by_symbol, a, b),
                    "p_holm": _number(adjusted[frozenset((a, b))]),
                    "fluctuation": _number(np.abs(statistic).max()),
                }
                # At the middle date of each window.
                middle = dates[(len(dates) - len(statistic) + 1) // 2 :][: len(statistic)]
                key = part, horizon, loss, a, b
                curves.append((key, middle[::EVERY], statistic[::EVERY]))
            table.update(_matrices(tests), **_sets(losses, drawn[len(dates)], benchmark))
    metrics = {
        "significance": tables,
        "fluctuation": {"window": WINDOW, "critical_05": FLUCTUATION_05[WINDOW]},
    }
    return metrics, _joined(curves)


def _nothing(models: list[str], benchmark: str) -> dict[str, Any]:
    """The table of a loss for which nothing can be compared."""
    return {
        "models": models,
        "pairs": {},
        "spa": {"benchmark": benchmark, "p": None},
        "stepm": {"benchmark": benchmark, "superior": None},
        "mcs": {"level": LEVEL, "included": None, "p": None},
        "t_matrix": {},
        "p_matrix_holm": {},
    }


def _aligned(rows: pd.DataFrame, loss: str) -> tuple[pd.DatetimeIndex, dict[str, Array]]:
    """Dates and losses by model, all known.

    Dates on which no model's loss is known go first, then models with an unknown date.
    """
    wide = rows.pivot(index="origin", columns="model", values=loss).sort_index()
    wide = wide[list(dict.fromkeys(rows["model"]))].astype("float64")
    wide = wide.where(np.isfinite(wide)).dropna(axis="columns", how="all")
    wide = wide.dropna(how="all").dropna(axis="columns")
    losses = {str(model): wide[model].to_numpy() for model in wide}
    return pd.DatetimeIndex(wide.index), losses


def _by_symbol(
    breakdown: pd.DataFrame, part: str, horizon: int, loss: str
) -> dict[str, Array] | None:
    """Losses of the symbols by model; None where this loss is not broken down."""
    if loss not in breakdown:
        return None
    mine = (breakdown["part"] == part) & (breakdown["horizon"] == horizon)
    rows = breakdown[mine & (breakdown["by"] == "symbol")].astype({"model": "str"})
    wide = rows.pivot(index="value", columns="model", values=loss)
    return {str(model): wide[model].to_numpy(dtype=np.float64) for model in wide}


def _pair(a: Array, b: Array, test: Test, overlap: int, *, shares: bool) -> dict[str, Any]:
    """Difference of the losses by date of two models; `relative` only where `shares`."""
    low, high = test.interval()
    hln_t, hln_p = hln(a, b, overlap)
    total = float(np.sum(a - b))
    largest = np.sort((a - b) * np.sign(total))[-TOP:]
    return {
        "difference": _number(test.mean),
        "low": _number(low),
        "high": _number(high),
        "relative": _number(test.mean / float(b.mean())) if shares and b.any() else None,
        "t": _number(test.t),
        "p": _number(test.p),
        "hln_t": _number(hln_t),
        "hln_p": _number(hln_p),
        "top20_share": _number(float(largest.sum()) / abs(total)) if total else None,
    }


def _by_year(difference: Array, year: NDArray[np.int32]) -> dict[str, Any]:
    """In how many years the difference is negative, and its mean without 2020."""
    sums = np.bincount(year - year.min(), weights=difference)
    others = year != 2020
    without = mean_test(difference[others & (not others.all())])  # not all dates once more
    return {
        "years_won": int((sums < 0).sum()),
        "years": len(np.unique(year)),
        "without_2020": {
            "difference": _number(without.mean),
            "t": _number(without.t),
            "p": _number(without.p),
        },
    }


def _won(by_symbol: Mapping[str, Array] | None, a: str, b: str) -> dict[str, int | None]:
    """In how many symbols `a` loses less than `b`."""
    if by_symbol is None or not {a, b} <= set(by_symbol):
        return {"symbols_won": None, "symbols": None}
    difference = by_symbol[a] - by_symbol[b]
    return {
        "symbols_won": int((difference < 0).sum()),
        "symbols": int((~np.isnan(difference)).sum()),
    }


def _joined(curves: Sequence[tuple[tuple[Any, ...], pd.DatetimeIndex, Array]]) -> pd.DataFrame:
    """One table of all curves, a row per date."""
    keys = pd.DataFrame([key for key, *_ in curves], columns=list(KEYS))
    keys = keys.astype({name: CURVES[name] for name in KEYS})  # before there are millions of rows
    table = keys.loc[keys.index.repeat([len(dates) for _, dates, _ in curves])]
    table["date"] = np.concatenate([np.empty(0, "<M8[ms]"), *(dates for _, dates, _ in curves)])
    table["statistic"] = np.concatenate([np.empty(0), *(values for *_, values in curves)])
    return table.astype(CURVES).reset_index(drop=True)


def _matrices(tests: Mapping[tuple[str, str], Test]) -> dict[str, dict[str, dict[str, Any]]]:
    """Diebold–Mariano t and, adjusted over all pairs of models, p: row minus column."""
    adjusted = _holm(tests)
    t: dict[str, dict[str, Any]] = {}
    p: dict[str, dict[str, Any]] = {}
    for (a, b), test in tests.items():
        t.setdefault(a, {})[b] = _number(test.t)
        p.setdefault(a, {})[b] = _number(adjusted[frozenset((a, b))])
    return {"t_matrix": t, "p_matrix_holm": p}


def _sets(losses: Mapping[str, Array], draws: Array, benchmark: str) -> dict[str, Any]:
    """SPA and StepM against the benchmark, where it has the loss, and the confidence set."""
    values = confidence_set(np.stack(list(losses.values()), axis=1), draws).tolist()
    p = dict(zip(losses, values, strict=True))
    included = [model for model in losses if p[model] > LEVEL]
    sets: dict[str, Any] = {"mcs": {"level": LEVEL, "included": included, "p": p}}
    if benchmark in losses:
        others = [model for model in losses if model != benchmark]
        table = np.stack([losses[model] for model in others], axis=1)
        found = superiority(losses[benchmark], table, draws)
        spa = {"lower": found.lower, "consistent": found.consistent, "upper": found.upper}
        superior = [model for model, yes in zip(others, found.superior, strict=True) if yes]
        sets["spa"] = {"benchmark": benchmark, "p": spa}
        sets["stepm"] = {"benchmark": benchmark, "superior": superior}
    return sets


def _holm(tests: Mapping[tuple[str, str], Test]) -> dict[frozenset[str], float]:
    """Adjusted p values; a pair and its reverse are one hypothesis."""
    p = {frozenset(pair): test.p for pair, test in tests.items()}
    return dict(zip(p, holm(np.array(list(p.values()))).tolist(), strict=True))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
