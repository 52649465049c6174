"""The work of a walk-forward: every fold trained and forecast, the tables joined and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from forecast.dataset.facts import data_facts
from forecast.dataset.market import write_market
from forecast.evaluation.joint import join
from forecast.evaluation.published import publish
from forecast.models.choice import networks_of, states_positions, trained_of
from forecast.models.configured import folds_of, make_task, panel_of
from forecast.models.executors import complete
from forecast.models.walk import CLASSICAL, attempt, chained, told
from forecast.prices.frame import Prices
from forecast.run import PARTS, Run
from forecast.settings import Backtest, Walk
from forecast.weights import join_weights


def forecast_folds(
    run: Run,
    parts: Sequence[str],
    missing: Sequence[str],
    clock: Callable[[], None],
    *,
    config: dict[str, Any],
    settings: Backtest,
    walk: Walk,
    prices: Prices,
    device: str,
) -> None:
    """Train and forecast all folds, then join their tables and score them.

    Validation is forecast on the first fold alone: the later ones' choices were made on dates that
    the first had for its test.
    """
    panel = panel_of(config, prices)
    folds = folds_of(config, panel.dates)
    facts = data_facts(panel, prices, folds, make_task(config))
    write_market(panel.market, run.path / "market.parquet")
    run.write("data.json", facts)
    positions = states_positions(config)
    models = [*trained_of(config), *([] if positions else [CLASSICAL])]
    # Recalibration learns from the validation part, whether that is asked for or not.
    seeds = {"validation"} if config["recalibrate"] != "none" else set()
    seeded = [part for part in PARTS if part in {*parts, *seeds}]
    chains = chained(folds, models, seeded, warm_start=walk.warm_start)
    steps = [step for chain in chains for step in chain]
    todo = [[s for s in chain if not s.done(run.path)] for chain in chains]
    job = partial(
        attempt,
        config=config,
        panel=panel,
        folder=run.path.resolve(),  # a worker on a cluster may stand elsewhere
        truth=prices.truth,
        threads=settings.threads or 1,
        device=device.split()[0],
    )
    complete(
        job, [c for c in todo if c], walk, say=run.say, clock=clock, steps=len(steps),
        progress=settings.progress,
    )  # fmt: skip
    steps.sort(key=lambda step: (step.fold.index, models.index(step.model)))
    tables = [step.table(run.path, part) for step in steps for part in step.parts]
    facts = {"networks": networks_of(config), **told(steps, run.path)}
    if positions:  # nothing is known of them before they are traded
        join_weights(tables, run.path / "weights.parquet", parts=parts)
        run.write("metrics.json", {"objective": None, "parts": list(parts), **facts})
        return
    facts |= join(tables, run.path, parts=parts, copies=config["recalibrate"])
    publish(run, config, facts, missing)
