"""The folder of a portfolio: traded, recorded in the ledger, and its luck counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from forecast.portfolio.luck import luck
from forecast.portfolio.plan import Plan, facts
from forecast.portfolio.source import Source
from forecast.portfolio.trading import trade
from forecast.portfolio.trials import record_trials, trial_ids, trials
from forecast.prices.frame import Prices
from forecast.run import Run
from forecast.weights import read_weights

LUCK = "luck.json"


def publish(
    run: Run,
    parts: Sequence[str],
    missing: Sequence[str],
    clock: Callable[[], None],
    *,
    config: Mapping[str, Any],
    plan: Plan,
    source: Source,
    prices: Prices,
    read: str,
    jobs: int,
) -> None:
    """Trade the parts, record what was looked at, then write the metrics.

    Parameters
    ----------
    parts, missing : parts to trade, and those of them that are traded for the first time.
    clock : nothing is fitted, so it is not called.
    read : sha256 of own code, or of the tables that were read.
    jobs : processes for the strategies that optimise.
    """
    metrics = trade(run, plan, source, parts=parts, jobs=jobs)
    origins = read_weights(run.path / "weights.parquet")
    spans = {
        part: [str(of["origin"].min().date()), str(of["origin"].max().date())]
        for part, of in origins.groupby(origins["part"].astype(str))
    }
    told = source.run.data if source.run is not None else {}
    run.write(
        "data.json",
        {
            **(told if told.get("sha256") == prices.sha256 else facts(prices, plan.quotes)),
            "fold": {part: spans[part] for part in parts},
            "source_run": None if source.run is None else source.run.name,
        },
    )
    for part in missing:
        traded = metrics["performance"][part]
        pairs = [(model, strategy) for model, found in traded.items() for strategy in found]
        ids = trial_ids(config, pairs, plan=plan, source=source, read=read)
        # Before the results can be seen: a look that was cut short still counts as one.
        record_trials(run, part, spans[part][0], spans[part][1], ids)
    run.write("metrics.json", {"parts": list(parts), **metrics})


def renew_luck(run: Run) -> bool:
    """Count the trials in the ledger again; whether `luck.json` changed.

    Every further look at the same prices makes the best of all looks worth less, so this is no
    part of the metrics.
    """
    part = run.parts[-1]
    known = trials(run.path.parent, run.data["sha256"], part)
    found = luck(
        pd.read_parquet(run.path / "returns.parquet"),
        known,
        part=part,
        periods=run.metrics["periods"],
        purge=run.metrics["purge"],
    )
    found["elsewhere"] = known.elsewhere
    before = run.json(LUCK)
    run.write(LUCK, found)
    return run.json(LUCK) != before


def table(metrics: Mapping[str, Any]) -> str:
    """Every strategy of the newest part in a line, for the terminal."""
    part = metrics["parts"][-1]
    label = " (optimistic: filled at the very close that decides)" if metrics["optimistic"] else ""
    lines = [
        f"{part}, executed at {metrics['execution']}{label}, after costs",
        f"{'model':<12}{'strategy':<20}{'Sharpe':>8}{'95 % interval':>18}{'return':>9}"
        f"{'drawdown':>10}{'turnover':>10}",
    ]

    def number(value: float | None, width: int, pattern: str) -> str:
        return f"{'–' if value is None else format(value, pattern):>{width}}"

    for model, strategies in metrics["performance"][part].items():
        for strategy, found in strategies.items():
            low, high = metrics["intervals"][part][model][strategy]["sharpe"] or (None, None)
            between = f"{number(low, 0, '.2f')} … {number(high, 0, '.2f')}"
            lines.append(
                f"{model:<12}{strategy:<20}{number(found['sharpe'], 8, '.2f')}{between:>18}"
                f"{number(found['annual_return'], 9, '.1%')}"
                f"{number(found['max_drawdown'], 10, '.1%')}{number(found['turnover'], 10, '.1f')}"
            )
    return "\n".join(lines)
