"""All that is measured of trained networks, as tables; see the modules for what and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from forecast.config import ForecastError
from forecast.evaluation.attribution import (
    Histories,
    histories,
    integrated_gradients,
    permutation,
)
from forecast.evaluation.explained import Explained, Member
from forecast.evaluation.gates import Unrolled, unroll
from forecast.evaluation.impact import (
    BENCHMARK,
    SHOCKS,
    benchmark_response,
    relative,
    response,
    shocked,
)
from forecast.evaluation.memory import gradient, memory_length, profile
from forecast.models.garch import GarchFits, one_session

FAINT = 0.01  # share of its largest at which a gradient is as good as gone
NEWS = 100  # pairs of symbol and session that are shocked
REPEATS = 3  # of a permutation
SHOWN = 500  # newest sessions of the gates' table
TABLES = ("memory", "gates", "units", "impact", "importance")


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What was measured.

    Attributes
    ----------
    facts : dict
        `models`, `horizon`, `delay`, `dates` (the range looked at), `symbols`, `origins`, `lags`,
        `shown` (symbol of the gates), `memory` (a row per member: `model, seed, member` and the
        sessions after which its gradient stays below a half, `length`, and below a hundredth,
        `reach`; null beyond the lags), `unfit` (symbols left out of the news impact, since no
        GJR-GARCH fit of them can be trusted), `difference` (largest of a gate pass from torch's
        own) and `quadrature` (largest error of integrated gradients, log volatility).
    memory : model, seed, member, lag, gradient
    gates : model, date, price, volatility (percent over the horizon), and the mean over units of
        each gate (null where the cell has none) of `shown`, by the first member of each model
    units : model, date, gate, layer, unit, activity: the same gates one by one
    impact : model, seed, member, shock (scales), ratio of the volatility to that without a shock;
        with the model `gjr_t`, where the next session is looked at and a fit can be trusted
    importance : model, seed, member, feature, permutation (rise of the loss, null where all symbols
        share the feature), gradients (mean absolute share in the log volatility)
    """

    facts: dict[str, Any]
    memory: pd.DataFrame
    gates: pd.DataFrame
    units: pd.DataFrame
    impact: pd.DataFrame
    importance: pd.DataFrame

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By the name of the file that they lie in."""
        return {name: getattr(self, name) for name in TABLES}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """What every member is looked at on.

    Attributes
    ----------
    symbols : array of int, ascending
    shown : the one of them whose gates are kept.
    origins, news : panel rows that gradients are taken at, and that are shocked.
    fits : GJR-GARCH of the symbols that are shocked; None where it is not compared.
    x_SLF : features of the symbols from their first session to the end of the range.
    """

    symbols: np.ndarray
    shown: int
    origins: np.ndarray
    news: np.ndarray
    values_PZF: np.ndarray
    scale_PZ: np.ndarray
    fits: GarchFits | None
    given: Histories
    x_SLF: Tensor


def explain(
    explained: Explained,
    *,
    symbols: int,
    origins: int,
    lags: int,
    show: str | None = None,
    say: Callable[[str], None] = print,
) -> Explanation:
    """Measure memory, gates, news impact and importance of every member.

    Parameters
    ----------
    symbols, origins : how many at most; both are spaced evenly.
    lags : sessions that gradients are followed back.
    show : symbol whose gates are kept; by default the first looked at.
    say : is told a line for every member.
    """
    panel, task = explained.panel, explained.task
    sample = _sample(explained, symbols=symbols, origins=origins, lags=lags, show=show)
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    lengths: list[dict[str, Any]] = []
    difference = quadrature = 0.0
    for member in explained.members:
        unrolled = unroll(member.network, sample.x_SLF)
        slopes = gradient(
            explained,
            member,
            unrolled,
            symbols=sample.symbols,
            origins=sample.origins,
            lags=lags,
        )
        curve = profile(slopes)
        length, reach = memory_length(curve), memory_length(curve, share=FAINT)
        lengths.append({**member.key, "length": length, "reach": reach})
        found["memory"].append(_keyed(member, lag=np.arange(lags + 1), gradient=curve))
        if member is explained.first(member.model):
            gates, units = _gates(explained, member, unrolled, sample)
            found["gates"].append(gates)
            found["units"].append(units)
        found["impact"].append(_impact(explained, member, unrolled, sample))
        shares = integrated_gradients(explained, member, sample.origins)
        found["importance"].append(
            _keyed(
                member,
                feature=list(panel.names),
                permutation=permutation(explained, member, sample.given, repeats=REPEATS),
                gradients=np.abs(shares.shares_NF).mean(axis=0),
            )
        )
        difference = max(difference, unrolled.difference)
        quadrature = max(quadrature, shares.error)
        after = f"{length:.1f}" if np.isfinite(length) else f"more than {lags}"
        say(
            f"{member.model}, seed {member.seed}, member {member.number}: the gradient stays below "
            f"half after {after} sessions"
        )
    unfit: list[str] = []
    if sample.fits is not None:
        volatility_PZ = benchmark_response(explained, sample.fits, sample.news)
        table = {"model": BENCHMARK, "shock": SHOCKS, "ratio": relative(volatility_PZ)}
        found["impact"].append(pd.DataFrame(table))
        unfit = list(sample.fits.fallbacks(BENCHMARK))
    low, high = explained.rows.low[sample.symbols], explained.rows.high[sample.symbols]
    dates = panel.dates[[panel.day[low].min(), panel.day[high - 1].max()]]
    return Explanation(
        facts={
            "models": explained.models,
            "horizon": int(task.horizons[explained.horizon]),
            "delay": task.delay,
            "dates": [str(date) for date in dates],
            "symbols": [panel.symbols[s] for s in sample.symbols],
            "origins": len(sample.origins),
            "lags": lags,
            "shown": panel.symbols[sample.shown],
            "memory": lengths,
            "unfit": unfit,
            "difference": difference,
            "quadrature": quadrature,
        },
        **{name: pd.concat(tables, ignore_index=True) for name, tables in found.items()},
    )


def _sample(
    explained: Explained, *, symbols: int, origins: int, lags: int, show: str | None
) -> Sample:
    panel = explained.panel
    chosen = explained.symbols(symbols)
    shown = _shown(explained, chosen, show)
    chosen = np.union1d(chosen, [shown])
    before = max(lags + 1, explained.task.length)
    fits = _trusted(explained, chosen)
    # Every curve is of the same symbols, those that the benchmark can be fit to.
    shocked_S = chosen if fits is None else np.array(sorted(fits.of(BENCHMARK)))
    news = explained.origins(shocked_S, NEWS, before=before)
    values_PZF, scale_PZ = shocked(explained, news)
    # No further than the range: what comes later is repeated from its last row.
    first_S, stop_S = panel.offsets[chosen], explained.rows.high[chosen]
    length = int((stop_S - first_S).max())
    return Sample(
        symbols=chosen,
        shown=shown,
        origins=explained.origins(chosen, origins, before=before),
        news=news,
        values_PZF=values_PZF,
        scale_PZ=scale_PZ,
        fits=fits,
        given=histories(explained, chosen),
        x_SLF=explained.tensors.inputs(first_S, stop_S, length),
    )


def _keyed(member: Member, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({**member.key, **columns})


def _impact(
    explained: Explained, member: Member, unrolled: Unrolled, sample: Sample
) -> pd.DataFrame:
    volatility_PZ = response(
        explained,
        member,
        unrolled,
        symbols=sample.symbols,
        rows=sample.news,
        values_PZF=sample.values_PZF,
        scale_PZ=sample.scale_PZ,
    )
    return _keyed(member, shock=SHOCKS, ratio=relative(volatility_PZ))


def _trusted(explained: Explained, symbols: np.ndarray) -> GarchFits | None:
    """GJR-GARCH on the training rows, where the next session is looked at and any can be fit."""
    if not one_session(explained.task) or explained.horizon:
        return None
    fits = GarchFits(
        explained.panel, explained.task, explained.train, symbols=[int(s) for s in symbols]
    )
    return fits if fits.of(BENCHMARK) else None


def _shown(explained: Explained, chosen: np.ndarray, show: str | None) -> int:
    """The symbol whose gates are kept."""
    if show is None:
        return int(chosen[0])
    rows = explained.rows
    known = [name for s, name in enumerate(explained.panel.symbols) if rows.high[s] > rows.low[s]]
    if show not in known:
        more = ", …" if len(known) > 9 else ""
        raise ForecastError(
            f"show={show} has no row in the validation range: there are "
            f"{', '.join(known[:9])}{more}."
        )
    return explained.panel.symbols.index(show)


def _gates(
    explained: Explained, member: Member, unrolled: Unrolled, sample: Sample
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gates of one symbol's newest sessions of the range: means over units, and one by one."""
    panel, rows, shown = explained.panel, explained.rows, sample.shown
    place = int(np.searchsorted(sample.symbols, shown))
    low, high = int(rows.low[shown]), int(rows.high[shown])
    row = np.arange(max(low, high - SHOWN), high)
    session = row - int(panel.offsets[shown])
    date = panel.dates[panel.day[row]]
    inputs = sample.x_SLF[[place]]
    stated = member.stated(inputs, explained.horizon)[0, session]
    horizon = explained.task.horizons[explained.horizon]
    table = pd.DataFrame(
        {
            "model": member.model,
            "date": date,
            "price": panel.price[row],
            "volatility": stated * panel.scale[row] * np.sqrt(horizon),
        }
    )
    each = []
    for name in unrolled.layers[0].gates:
        whole = [layer.gates[name][place, session].numpy() for layer in unrolled.layers]
        table[name] = np.mean(whole, axis=(0, 2))
        for number, activity in enumerate(whole, start=1):
            count, size = activity.shape
            each.append(
                pd.DataFrame(
                    {
                        "model": member.model,
                        "date": np.repeat(date, size),
                        "gate": name,
                        "layer": number,
                        "unit": np.tile(np.arange(1, size + 1), count),
                        "activity": activity.reshape(-1),
                    }
                )
            )
    columns = ["model", "date", "gate", "layer", "unit", "activity"]
    return table, pd.concat(each, ignore_index=True) if each else pd.DataFrame(columns=columns)
