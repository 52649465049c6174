"""Every strategy after costs, 2010 to 2022, and the position head, over three seeds.

    python benchmarks/trading.py          # writes benchmarks/trading.md and the README's table

Each seed is the run of `python -m forecast.backtest experiment=headline_trading seed=<k>` and that
of `python -m forecast.backtest experiment=headline head=position seed=<k>`; every number comes from
their metrics.json and luck.json, and a second call only reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecast import compose
from forecast.backtest import backtest
from forecast.run import Run

SEEDS = range(3)
NETWORK = "lstm"  # of the README's table: the default, chosen before any of these runs
LEVELS = ("0", "2", "5", "10")
COSTS = "5"  # basis points, at which all but the levels are told
AGAINST = ("always_long", "sign_12m")
HERE = Path(__file__).parent
COMMAND = "python benchmarks/trading.py"
BEGIN, END = "<!-- trading: made by python benchmarks/trading.py -->", "<!-- /trading -->"
DEVELOPMENT = (
    "2010 to 2022 is the development range and the stocks are survivors, so levels of return are "
    "too good, those of the benchmarks too. The ledger counts the trials of this table alone: "
    "while the strategies were built, some of them were run on these years in other folders, so "
    "the true number is higher; nothing was chosen by what came out."
)

Runs = Sequence[Run]


def finished(seed: int, outputs: str) -> tuple[Run, Run]:
    """The portfolio of the strategies and that of the position head."""

    def made(*typed: str) -> Run:
        options = [*typed, f"seed={seed}", f"outputs={outputs}", "trainer=cpu"]
        return backtest(compose("backtest", options), overrides=options[: len(typed) + 1])

    return made("experiment=headline_trading"), made("experiment=headline", "head=position")


def mean(values: Iterable[float | None], pattern: str) -> str:
    """Of all seeds; nothing where a seed's is undefined."""
    known = list(values)
    return "–" if None in known else format(float(np.mean(np.array(known, float))), pattern)


def least(values: Sequence[float | None]) -> float | None:
    """Of all seeds; None where a seed's is undefined."""
    return min((v for v in values if v is not None), default=None) if None not in values else None


def greatest(values: Sequence[float | None]) -> float | None:
    """Of all seeds; None where a seed's is undefined."""
    return max((v for v in values if v is not None), default=None) if None not in values else None


def row(runs: Runs, model: str, strategy: str) -> list[str]:
    """Cells of one strategy on one model."""

    def told(section: str) -> list[Any]:
        return [run.metrics[section]["test"][model][strategy] for run in runs]

    cells = []
    for level in LEVELS:
        found = [values[level] for values in told("levels")]
        ends = [f["sharpe_interval"] or [None, None] for f in found]
        low = mean([least([low for low, _ in ends])], ".2f")
        high = mean([greatest([high for _, high in ends])], ".2f")
        cells.append(f"{mean((f['sharpe'] for f in found), '.2f')} ({low} … {high})")
    measured = told("performance")
    cells.append(mean((100 * values["annual_return"] for values in measured), ".1f"))
    cells.append(mean((100 * values["max_drawdown"] for values in measured), ".0f"))
    cells.append(mean((values["turnover"] for values in measured), ".1f"))
    cells.append(mean((values["break_even"] for values in measured), ".0f"))
    luck = [run.json("luck.json")["strategies"][model][strategy] for run in runs]
    cells += [mean((values[key] for values in luck), ".2f") for key in ("psr", "dsr")]
    for name in AGAINST:
        if model == "none":
            cells.append("–")
            continue
        found = [values[name] for values in told("differences")]
        difference = mean((f["sharpe_difference"] for f in found), "+.2f")
        cells.append(f"{difference} (p = {mean([greatest([f['p'] for f in found])], '.2f')})")
    return cells


def table(groups: Iterable[tuple[Runs, str, str]]) -> list[str]:
    """Lines of a table, a row per (runs, model, strategy)."""
    heads = [
        "strategy", "on",
        *(f"Sharpe at {level} bp" for level in LEVELS),
        "return, % a year", "drawdown, %", "turnover a year", "break-even, bp", "PSR", "DSR",
        *(f"less `{name}`" for name in AGAINST),
    ]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for runs, model, strategy in groups:
        on = "prices" if model == "none" else f"`{model}`"
        lines.append("| " + " | ".join([f"`{strategy}`", on, *row(runs, model, strategy)]) + " |")
    return lines


def pairs(runs: Runs) -> list[tuple[str, str]]:
    found = runs[0].metrics["performance"]["test"]
    return [(model, strategy) for model, strategies in found.items() for strategy in strategies]


def verdict(strategies: Runs, positions: Runs) -> str:
    """What survives costs and deflation, and whether the position head wins."""
    chosen = [(strategies, *pair) for pair in pairs(strategies) if pair[0] != "none"]
    chosen += [(positions, *pair) for pair in pairs(positions) if pair[0] != "none"]

    def named(keep: Callable[[Run, str, str], bool]) -> str:
        names: dict[bool, list[str]] = {True: [], False: []}
        for runs, model, strategy in chosen:
            kept = all(keep(run, model, strategy) for run in runs)
            names[kept].append(f"`{strategy}` on `{model}`")
        most = len(names[True]) > len(names[False])
        shorter = ", ".join(names[not most])
        told = f" ({'all but ' if most else ''}{shorter})" if shorter else ""
        return f"{len(names[True])} of {len(chosen)}{told}"

    def above(run: Run, model: str, strategy: str, cost: str = COSTS) -> bool:
        return bool(run.metrics["levels"]["test"][model][strategy][cost]["sharpe_interval"][0] > 0)

    def survives(run: Run, model: str, strategy: str) -> bool:
        found = run.json("luck.json")["strategies"][model][strategy]
        return all((found[key] or 0.0) >= 0.95 for key in ("dsr", "dsr_clusters"))

    def better(name: str) -> Callable[[Run, str, str], bool]:
        def test(run: Run, model: str, strategy: str) -> bool:
            found = run.metrics["differences"]["test"][model][strategy][name]
            return bool(found["sharpe_difference"] > 0 and found["p_holm"] < 0.05)

        return test

    benchmarks = [
        f"`{name}`"
        for name in strategies[0].metrics["benchmark_strategies"]
        if all(above(run, "none", name) for run in strategies)
    ]
    luck = strategies[0].json("luck.json")
    pbo = luck["pbo"]
    share = f"{pbo['value']:.2f}" if "value" in pbo else "not computed"
    told = [
        f"Trials on the ledger: {luck['trials']}, in {luck['clusters']} clusters of correlated "
        f"returns; probability of backtest overfitting {share}.",
        f"**Costs**: at {COSTS} bp a Sharpe ratio whose interval lies above 0, in every seed: "
        f"{named(above)}; of the benchmarks: {', '.join(benchmarks) or 'none'}.",
        "**Deflation** (DSR ≥ 0.95 for all trials and for their clusters, in every seed) is "
        f"survived by {named(survives)}.",
        "A higher Sharpe ratio, by Ledoit and Wolf at 5 % after Holm, in every seed: than "
        f"`always_long` {named(better('always_long'))}, than `sign_12m` "
        f"{named(better('sign_12m'))}.",
    ]
    words = []
    for model, strategy in pairs(positions):
        if model == "none":
            continue
        for name in AGAINST:
            found = [run.metrics["differences"]["test"][model][strategy][name] for run in positions]
            gap = np.mean([pair["sharpe_difference"] for pair in found])
            p = max(pair["p"] for pair in found)
            sure = all(pair["p"] < 0.05 for pair in found)
            verb = "is not told apart from"
            if sure and gap != 0:
                verb = "beats" if gap > 0 else "is worse than"
            words.append(f"`{model}` {verb} `{name}` ({gap:+.2f}, p = {p:.2f})")
    told.append(f"**The position head**: {'; '.join(words)}.")
    return " ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--outputs", default="outputs")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    options = parser.parse_args()
    for seed in range(options.seeds):
        finished(seed, options.outputs)
    # Once more: every one of them counts in the luck of all.
    runs = [finished(seed, options.outputs) for seed in range(options.seeds)]
    strategies, positions = [pair[0] for pair in runs], [pair[1] for pair in runs]
    dates = strategies[0].data["fold"]["test"]
    seeds = (
        f"Means over seeds 0 … {options.seeds - 1}, of intervals the widest, of p the largest"
        if options.seeds > 1
        else "Seed 0"
    )
    command = COMMAND if options.seeds == len(SEEDS) else f"{COMMAND} --seeds {options.seeds}"
    head = (
        f"20 stocks, {dates[0]} to {dates[1]}, 13 yearly refits, decided at the close and filled "
        "at the next, in five tranches of which one decides a session; the position head decides "
        f"anew every session. {seeds}, in brackets the 95 % interval of a stationary bootstrap; "
        f"what follows the Sharpe ratios is at {COSTS} bp of the value traded. PSR and DSR: "
        "probabilistic and deflated Sharpe ratio; p of Ledoit and Wolf (2008), before Holm. Made "
        f"by `{command}` from the runs of `python -m forecast.backtest "
        "experiment=headline_trading seed=<k>` and `… experiment=headline head=position seed=<k>`."
    )
    said = f"{verdict(strategies, positions)} {DEVELOPMENT}"
    every = [(strategies, *pair) for pair in pairs(strategies)]
    every += [(positions, *pair) for pair in pairs(positions) if pair[0] != "none"]
    whole = "\n".join([head, "", *table(every), "", said])
    (HERE / "trading.md").write_text(whole + "\n", encoding="utf-8")
    few = [entry for entry in every if entry[1] in (NETWORK, "none")]
    part = "\n".join([head, "", *table(few), "", said])
    readme = HERE.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{part}\n{END}{after}", encoding="utf-8")
    print(whole)


if __name__ == "__main__":
    main()
