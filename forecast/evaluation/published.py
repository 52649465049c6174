"""A joint table scored: what the folder of a backtest says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forecast.config import ForecastError
from forecast.evaluation.assess import assess, table_facts
from forecast.evaluation.joint import join
from forecast.evaluation.recalibration import SUFFIX
from forecast.evaluation.scores import objective
from forecast.evaluation.significance import significance
from forecast.forecasts import names
from forecast.models.baselines import BASELINES
from forecast.models.networks import MEMORYLESS
from forecast.run import Run


def publish(
    run: Run, config: Mapping[str, Any], told: Mapping[str, Any], missing: Sequence[str]
) -> None:
    """Score `forecasts.parquet`: daily losses, ledger, then metrics.

    Parameters
    ----------
    config : its section `significance`.
    told : what the metrics are to hold beside the scores; `networks` of it come first.
    missing : parts that are scored for the first time.

    Raises
    ------
    ForecastError
        No target of a part is known yet.
    """
    assessment = assess(run.path / "forecasts.parquet")
    networks = told["networks"]
    compared, curves = significance(
        assessment.daily,
        assessment.breakdown,
        networks=networks,
        delay=assessment.delay,
        **config["significance"],
    )
    parts = list(assessment.metrics["scores"])
    for part in missing:
        if part not in parts:
            raise ForecastError(
                f"no target of the {part} part is known yet: nothing can be scored. Choose an "
                f"earlier backtest.first, shorter horizons, or evaluate without {part}."
            )
    for part in missing:
        # Before the scores can be seen: a look that was cut short still counts as one.
        run.record(part, *run.data["fold"][part])
    run.write("daily.parquet", assessment.daily)
    run.write("fluctuation.parquet", curves)
    run.write("breakdown.csv", assessment.breakdown)
    run.write(
        "metrics.json",
        {
            "objective": objective(assessment.metrics["scores"], networks[0])
            if "validation" in parts
            else None,
            "parts": parts,
            **told,
            **assessment.metrics,
            **compared,
        },
    )


def publish_given(
    run: Run,
    parts: Sequence[str],
    missing: Sequence[str],
    clock: Callable[[], None],
    *,
    config: Mapping[str, Any],
    paths: Sequence[Path],
    sha256: str,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Join tables that are there, and score them.

    Parameters
    ----------
    parts, missing : parts wanted of the tables, and those of them that are not scored yet.
    clock : nothing is fitted, so it is not called.
    sha256 : of the tables.
    facts : what `data.json` is to hold beside that which the tables tell.
    """
    dropped = join(paths, run.path, parts=parts, copies=config["recalibrate"])
    models = names(run.path / "forecasts.parquet", "model")
    own = [m for m in models if m not in (*BASELINES, *MEMORYLESS, "truth")]
    own = [m for m in own if not m.endswith(SUFFIX)] or models[:1]
    of_table = table_facts(run.path / "forecasts.parquet")
    told = {"source": "forecasts", "sha256": sha256, **of_table, **(facts or {})}
    run.write("data.json", told)
    beside = {"networks": own, "fits": {}, "fallbacks": {}, **dropped}
    publish(run, config, beside, missing)
