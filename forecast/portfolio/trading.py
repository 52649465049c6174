"""Strategies on forecasts, or given weights, traded after costs and judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from forecast.config import ForecastError
from forecast.portfolio.coverage import portfolio_risk
from forecast.portfolio.decisions import decide_all, decide_benchmarks, still_traded
from forecast.portfolio.judgement import first_session, judge
from forecast.portfolio.plan import Plan
from forecast.portfolio.schedule import schedule
from forecast.portfolio.sharpe import differences
from forecast.portfolio.simulation import Simulation, simulate
from forecast.portfolio.source import Source
from forecast.portfolio.strategies import BENCHMARKS, FROM_PRICES
from forecast.run import PARTS, Run
from forecast.weights import NAMES, validate_weights


def trade(
    run: Run, plan: Plan, source: Source, *, parts: Sequence[str], jobs: int = 1
) -> dict[str, Any]:
    """Decide, simulate and judge; tables go to the run's folder.

    Parameters
    ----------
    parts : to trade, in canonical order.
    jobs : processes for the strategies that optimise.

    Returns
    -------
    dict
        `metrics.json` but for its parts.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    metrics: dict[str, Any] = {
        "objective": None,
        "networks": list(source.networks),
        "execution": plan.execution,
        "optimistic": plan.optimistic,
        "benchmark_strategies": list(BENCHMARKS),
        "horizon": source.horizon,
        "periods": plan.quotes.periods,
        # Sessions over which one decision is held and judged, which is what must lie between the
        # blocks of a cross-validation.
        "purge": source.reach + plan.limits.rebalance - 1,
        **{key: {} for key in ("performance", "intervals", "levels", "differences", "risk")},
        "delisting": None,
    }
    for part in parts:
        until = _until(plan, source, part)
        weights = _weights(plan, source, part, until, jobs)
        held = simulate(
            plan.quotes,
            weights,
            costs=plan.costs,
            cash_T=plan.cash_T,
            execution=plan.execution,
            keep=True,
            max_gross=plan.limits.max_gross,
            until=until,
        )
        if len(held.dates_T) <= first_session(held):
            raise ForecastError(
                f"the {part} part has no session after its first origin {held.dates_T[0]}: nothing "
                "is held. Give later prices, or earlier origins."
            )
        found = judge(plan, weights, held, until=until)
        ended = found.pop("delisting")
        if ended is not None:
            block = metrics["delisting"] or {"symbols": [], "sharpe_at_zero": {}}
            block["return"] = plan.costs.delisting_return / 100
            block["symbols"] = sorted({*block["symbols"], *ended["symbols"]})
            block["sharpe_at_zero"][part] = ended["sharpe_at_zero"]
            metrics["delisting"] = block
        made = {
            "weights": weights,
            "returns": _returns(part, held),
            "positions": _sparse(part, held, held.positions_PTS, "weight"),
            "trades": _sparse(part, held, held.traded_PTS, "traded"),
        }
        with threadpool_limits(1):  # matrix products round by the number of threads
            found["differences"] = differences(
                made["returns"],
                part=part,
                benchmarks=[(FROM_PRICES, name) for name in BENCHMARKS],
                periods=plan.quotes.periods,
            )
        if source.forecasts is not None and source.horizon is not None:
            made["risk"], found["risk"] = portfolio_risk(
                source.forecasts,
                part=part,
                horizon=source.horizon,
                models=source.models,
                # What is decided but once has no series of risks to test.
                weights=weights[weights["strategy"] != "buy_and_hold"],
            )
        for name, values in found.items():
            metrics[name][part] = values
        for name, rows in made.items():
            tables.setdefault(name, []).append(rows)
    for name, pieces in tables.items():
        run.write(f"{name}.parquet", pd.concat(pieces, ignore_index=True))
    metrics["objective"] = _objective(metrics, source.networks, plan.limits.rules)
    return metrics


def _until(plan: Plan, source: Source, part: str) -> np.datetime64 | None:
    """Last date of a part of given weights: holdings go on after the last of their decisions.

    To the end of the data, or to the first origin of the next part. None: decisions are made at
    every session, and the part ends with them.
    """
    if source.weights is None or source.run is not None:
        return None
    later = PARTS[PARTS.index(part) + 1 :]
    next_one = source.weights[source.weights["part"].isin(later).to_numpy()]["origin"].min()
    last = plan.quotes.dates[-1]
    return last if pd.isna(next_one) else min(last, np.datetime64(next_one, "D"))


def _capped(weights: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Positions within the caps, as decisions are."""
    by = [weights[name].cat.codes for name in ("model", "strategy")]
    origin = weights.groupby([*by, weights["origin"]], sort=False)["weight"]
    return weights.assign(weight=origin.transform(lambda w: plan.limits.capped(w.to_numpy())))


def _weights(
    plan: Plan, source: Source, part: str, until: np.datetime64 | None, jobs: int
) -> pd.DataFrame:
    """All weights of a part, benchmarks included."""
    if source.weights is not None:
        given = source.weights[(source.weights["part"] == part).to_numpy()]
        if source.run is not None:
            given = still_traded(_capped(given, plan), plan.quotes)
        schedule(given, plan.quotes, plan.limits.max_gross)  # refuses what cannot be traded
        benchmarks = decide_benchmarks(
            given, plan.quotes, limits=plan.limits, part=part, until=until
        )
        found = [frame.astype(dict.fromkeys(NAMES, str)) for frame in (given, benchmarks)]
        return validate_weights(pd.concat(found), part)
    assert source.forecasts is not None and source.horizon is not None
    return decide_all(
        source.forecasts,
        plan.quotes,
        models=source.models,
        horizon=source.horizon,
        limits=plan.limits,
        part=part,
        jobs=jobs,
    )


def _objective(
    metrics: dict[str, Any], networks: Sequence[str], rules: Iterable[str]
) -> float | None:
    """Minus the net validation Sharpe ratio of the first network's first strategy."""
    validation = metrics["performance"].get("validation", {})
    for model in networks:
        found = validation.get(model, {})
        for strategy in [*rules, *found]:  # as they are asked for; weights have no rules
            if strategy in found:
                sharpe = found[strategy]["sharpe"]
                return None if sharpe is None else -float(sharpe)
    return None


def _returns(part: str, held: Simulation) -> pd.DataFrame:
    """`returns.parquet`: a row per pair and session."""
    begin = first_session(held)
    count, dates_T = len(held.pairs), held.dates_T[begin:].astype("datetime64[s]")
    by_pair = {
        "simple_return": held.return_PT,
        "gross_return": held.gross_return_PT,
        "turnover": held.turnover_PT,
        "cost": held.cost_PT,
        "borrow": held.borrow_PT,
        "long": held.long_PT,
        "short": held.short_PT,
    }
    return pd.DataFrame(
        {
            **_pairs_of(part, held, np.repeat(np.arange(count), len(dates_T))),
            "date": np.tile(dates_T, count),
            **{name: values_PT[:, begin:].reshape(-1) for name, values_PT in by_pair.items()},
            "cash_return": np.tile(held.cash_return_T[begin:], count),
        }
    )


def _sparse(
    part: str, held: Simulation, values_PTS: np.ndarray | None, column: str
) -> pd.DataFrame:
    """Rows of an array where it is not zero."""
    assert values_PTS is not None
    p, t, s = np.nonzero(values_PTS)
    symbol = pd.Categorical.from_codes(s.astype(np.int32), categories=pd.Index(held.symbols))
    return pd.DataFrame(
        {
            **_pairs_of(part, held, p),
            "date": held.dates_T[t].astype("datetime64[s]"),
            "symbol": symbol,
            column: values_PTS[p, t, s],
        }
    )


def _pairs_of(part: str, held: Simulation, p: np.ndarray) -> dict[str, Any]:
    """Columns part, model and strategy of rows that belong to pairs `p`."""
    columns: dict[str, Any] = {
        "part": pd.Categorical.from_codes(0 * p, categories=pd.Index([part]))
    }
    for i, name in enumerate(("model", "strategy")):
        names = sorted({pair[i] for pair in held.pairs})
        codes = np.array([names.index(pair[i]) for pair in held.pairs], dtype=np.int32)
        columns[name] = pd.Categorical.from_codes(codes[p], categories=pd.Index(names))
    return columns
