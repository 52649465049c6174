"""Strategies that were traded on the validation part, deflated by all that was tried there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from forecast.config import ForecastError
from forecast.evaluation.entries import DAMAGED, fits, flat
from forecast.portfolio.luck import luck
from forecast.portfolio.strategies import FROM_PRICES
from forecast.portfolio.trials import COLUMNS, trials
from forecast.run import Run

PART = "validation"  # what choices are made on
FIGURES = ("sharpe", "annual_return", "max_drawdown", "turnover")
LUCK = ("psr", "dsr", "dsr_clusters")


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """Strategies traded on the validation part of the same prices.

    Attributes
    ----------
    facts : dict
        `data` (sha256), `source`, `symbols`, `part` and `dates` of the longest.
    luck : dict
        `trials, series, clusters, elsewhere, pbo`, as in `luck.json`.
    table : DataFrame
        `run, model, strategy, benchmark` (from prices alone), `sharpe` (net, annualised),
        `annual_return, max_drawdown, turnover, psr, dsr, dsr_clusters`; the highest Sharpe ratio
        first, benchmarks among them.
    notes : list of str
    """

    facts: dict[str, Any]
    luck: dict[str, Any]
    table: pd.DataFrame
    notes: list[str]


def contests(outputs: Path, where: Mapping[str, Any] | None = None) -> list[Contest]:
    """All strategies traded on a validation part, by the prices they were traded on.

    Filters hide runs; trials are counted from the ledger, so they stay as many.
    """
    asked = dict(flat(where or {}))
    groups: dict[str, list[tuple[Run, pd.DataFrame]]] = {}
    damaged: list[str] = []
    for path in sorted(p.parent for p in Path(outputs).glob("*/returns.parquet")):
        run = Run(path)
        try:
            if path.name.startswith(".") or PART not in run.parts:
                continue
            if fits(dict(flat(run.config)), asked):
                returns = pd.read_parquet(path / "returns.parquet", columns=COLUMNS)
                _check(run, returns)
                groups.setdefault(run.data["sha256"], []).append((run, returns))
        except DAMAGED:
            damaged.append(
                f"{path.name} is left out: its files are damaged or of another version. Repeat its "
                "command with force=true, or remove it."
            )
    found = [_contest(Path(outputs), data, runs) for data, runs in groups.items()]
    found.sort(key=lambda contest: -len(contest.table))
    if found:
        found[0].notes.extend(damaged)
    return found


def _check(run: Run, returns: pd.DataFrame) -> None:
    """Find damage before the run is shown: all that is read of it, and returns of the part."""
    told = [of for by in run.metrics["performance"][PART].values() for of in by.values()]
    _ = [figures[name] for figures in told for name in FIGURES], run.metrics["periods"]
    if not (returns["part"] == PART).any():
        raise ForecastError(f"{run.name} holds no returns of the part {PART}.")


def _contest(outputs: Path, data: str, runs: list[tuple[Run, pd.DataFrame]]) -> Contest:
    known = trials(outputs, data, PART)
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    longest: tuple[int, dict[str, Any], list[str]] = (-1, {}, [])
    spans: set[tuple[str, ...]] = set()
    for run, returns in runs:
        metrics = run.metrics
        periods, purge = metrics["periods"], metrics.get("purge", 0)
        told = luck(returns, known, part=PART, periods=periods, purge=purge)
        dates = returns.loc[(returns["part"] == PART).to_numpy(), "date"]
        ends = [str(date.date()) for date in (dates.min(), dates.max())]
        spans.add(tuple(ends))
        if dates.nunique() > longest[0]:
            longest = (dates.nunique(), told, ends)
        for model, strategies in metrics["performance"][PART].items():
            for strategy, figures in strategies.items():
                benchmark = model == FROM_PRICES
                # Every run trades the same benchmarks: shown once, unless they cost otherwise.
                shown = tuple(figures[name] for name in FIGURES)
                key = (strategy, repr(shown)) if benchmark else (run.name, model, strategy)
                lucky = told["strategies"].get(model, {}).get(strategy, {})
                rows.setdefault(
                    key,
                    {
                        "run": run.name,
                        "model": model,
                        "strategy": strategy,
                        "benchmark": benchmark,
                        **dict(zip(FIGURES, shown, strict=True)),
                        **{name: lucky.get(name) for name in LUCK},
                    },
                )
    table = pd.DataFrame(list(rows.values())).astype(dict.fromkeys((*FIGURES, *LUCK), "float64"))
    notes: list[str] = []
    if known.missing:
        notes.append(f"The returns of {known.missing} of {known.count} trials are gone.")
    if len(spans) > 1:
        notes.append(
            "Not all were traded on the same dates, and Sharpe ratios of different dates do not "
            f"compare: {'; '.join(' to '.join(span) for span in sorted(spans))}."
        )
    first = runs[0][0].data
    return Contest(
        facts={
            "data": data,
            "source": first.get("source"),
            "symbols": len(first.get("symbols", ())),
            "part": PART,
            "dates": longest[2],
        },
        luck={
            **{k: longest[1].get(k) for k in ("trials", "series", "clusters", "pbo")},
            "elsewhere": known.elsewhere,
        },
        table=table.sort_values("sharpe", ascending=False, kind="stable", ignore_index=True),
        notes=notes,
    )


def text(contest: Contest, *, most: int = 20) -> str:
    """The strategies as a table for the terminal."""
    facts, told = contest.facts, contest.luck
    pbo = (told.get("pbo") or {}).get("value")
    lines = [
        f"{facts['source']}, {facts['symbols']} symbols, strategies after costs on "
        f"{' to '.join(facts['dates'])}: {told['trials']} trials by the ledger, "
        + (
            f"probability of backtest overfitting {pbo:.2f}"
            if pbo is not None
            else f"overfitting not computed ({(told.get('pbo') or {}).get('not_computed')})"
        ),
        "",
        f"{'model':<12}{'strategy':<20}{'Sharpe':>8}{'return':>9}{'drawdown':>10}{'turnover':>10}"
        f"{'PSR':>7}{'DSR':>7}{'by cluster':>12}  run",
    ]

    def number(value: float, width: int, pattern: str) -> str:
        return f"{'–' if pd.isna(value) else format(value, pattern):>{width}}"

    for row in contest.table.head(most).to_dict("records"):
        lines.append(
            f"{row['model']:<12}{row['strategy']:<20}{number(row['sharpe'], 8, '.2f')}"
            f"{number(row['annual_return'], 9, '.1%')}{number(row['max_drawdown'], 10, '.1%')}"
            f"{number(row['turnover'], 10, '.1f')}{number(row['psr'], 7, '.2f')}"
            f"{number(row['dsr'], 7, '.2f')}{number(row['dsr_clusters'], 12, '.2f')}"
            f"  {'' if row['benchmark'] else row['run']}".rstrip()
        )
    if len(contest.table) > most:
        lines.append(f"{len(contest.table) - most} more stand in strategies.csv.")
    return "\n".join([*lines, *contest.notes])
