"""`python -m forecast.backtest`: walk forward through the years beside what a bank would use."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, check, door, instantiate, plain
from forecast.run import PARTS, Run, run_name
from forecast.settings import (
    BACKTEST_SECTIONS,
    Backtest,
    Report,
    Significance,
    Walk,
    check_sections,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from tqdm import tqdm

    from forecast.prices.frame import Prices

SCORING = ("forecasts", "recalibrate", "significance", "report")  # all that given tables need


def backtest(cfg: DictConfig | Mapping[str, Any], *, overrides: Sequence[str] = ()) -> Run:
    """Refit and forecast as time goes on, then score all models on the same rows.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("backtest", [...])`. With `forecasts`, those tables are scored and
        nothing is trained.
    overrides : sequence of str
        What was typed, for the record.

    Returns
    -------
    Run
        The finished run: the same configuration on the same data returns the same folder, at once
        if it is finished, continued if it was interrupted.

    Raises
    ------
    ForecastError
        Anything about options, data or device that the user can mend; a fold that failed is named,
        and the others are kept.
    """
    from forecast.evaluation.scores import table

    start = time.perf_counter()
    config = plain(cfg)
    check_sections(config, BACKTEST_SECTIONS)
    settings = instantiate(
        {k: v for k, v in config.items() if k not in BACKTEST_SECTIONS}, "", Backtest
    )
    walk = instantiate(config["backtest"], "backtest", Walk)
    instantiate(config["significance"], "significance", Significance)
    instantiate(config["report"], "report", Report)
    prepare = _given if settings.forecasts else _walked
    run, device, parts, work, config = prepare(config, settings, walk)
    with run.lock():
        if settings.force:
            run.clear()
        missing = [part for part in parts if part not in run.parts]
        spent = float(run.timing.get("total_seconds", 0.0))

        def clock() -> None:
            _write_timing(run, spent + time.perf_counter() - start)

        if missing:
            with run.attempt(config, overrides, device):
                # As fits end, so that those of an attempt that is killed count.
                told = work(run, [p for p in PARTS if p in (*run.parts, *missing)], clock)
                _publish(run, config, told, missing)
            clock()
            run.say(table(run.metrics))
        else:
            print(f"{run.path} is finished ({', '.join(run.parts)}); force=true starts afresh")
        if set(run.parts) == set(PARTS):  # no part can be added any more
            # Also after a kill that came between the metrics and this.
            for path in run.path.glob("fold-*/*.parquet"):
                path.unlink()
        if run.config["report"] != config["report"]:  # asks for other figures, nothing else
            (run.path / "report.html").unlink(missing_ok=True)
            run.write("config.yaml", {**run.config, "report": config["report"]})
        if not (run.path / "report.html").exists():
            from forecast.report.page import write_report

            print(f"report: {write_report(run)}")
    return run


# Leaves the Forecasts table of some parts, calls after every fit, returns facts for the metrics.
Work = Callable[[Run, Sequence[str], Callable[[], None]], dict[str, Any]]
# With the device, the parts to score, and what of the configuration has a part in it.
Prepared = tuple[Run, str, Sequence[str], Work, dict[str, Any]]


def _walked(config: dict[str, Any], settings: Backtest, walk: Walk) -> Prepared:
    """A walk-forward."""
    from forecast.dataset.folds import walk_forward
    from forecast.evaluation.recalibration import SUFFIX
    from forecast.models.baselines import BASELINES
    from forecast.models.networks import CELLS, MEMORYLESS
    from forecast.models.pipeline import check_options
    from forecast.prices import load_prices

    check(config["split"], "split", walk_forward, only=("validation",))
    device, own = check_options(config)
    cells = _cells(config, walk)
    known = [*BASELINES, *MEMORYLESS]
    asked = [*cells, *walk.baselines]
    for key, names, choices in (("models", cells, CELLS), ("baselines", walk.baselines, known)):
        for name in names:
            if name not in choices:
                raise ForecastError(
                    f"backtest.{key}: {name!r} is unknown. Choose from {', '.join(choices)}."
                )
            if asked.count(name) > 1:
                raise ForecastError(
                    f"backtest.{key}: {name!r} stands twice in backtest.models and "
                    "backtest.baselines. Name it once."
                )
    judges = [*known, *CELLS, "truth"]
    if config["significance"]["benchmark"].removesuffix(SUFFIX) not in judges:
        raise ForecastError(
            f"significance.benchmark={config['significance']['benchmark']} is no model. Choose "
            f"from {', '.join(dict.fromkeys(judges))}."
        )
    prices = load_prices(config["data"])
    name = run_name("backtest", config, data=prices.sha256, device=device, own=own)
    run = Run(Path(settings.outputs) / name)
    for symbol, reason in prices.left_out:
        print(f"{symbol} is left out: {reason}")
    work = partial(
        _walk_forward, config=config, settings=settings, walk=walk, prices=prices, device=device
    )
    return run, device, settings.parts, work, config


def _cells(config: Mapping[str, Any], walk: Walk) -> list[str]:
    """Networks of the backtest; the memoryless ones among the baselines stand there."""
    return list(walk.models or [config["model"]["cell"]])


def _walk_forward(
    run: Run,
    parts: Sequence[str],
    clock: Callable[[], None],
    *,
    config: dict[str, Any],
    settings: Backtest,
    walk: Walk,
    prices: Prices,
    device: str,
) -> dict[str, Any]:
    """Train and forecast all folds, then join their tables.

    Validation is forecast on the first fold alone: the later ones' choices were made on dates that
    the first had for its test.
    """
    from forecast.dataset.facts import data_facts
    from forecast.dataset.market import write_market
    from forecast.models.executors import outcomes
    from forecast.models.networks import MEMORYLESS
    from forecast.models.pipeline import folds_of, make_task, panel_of
    from forecast.models.walk import CLASSICAL, attempt, chained, told

    panel = panel_of(config, prices)
    folds = folds_of(config, panel.dates)
    facts = data_facts(panel, prices, folds, make_task(config))
    write_market(panel.market, run.path / "market.parquet")
    run.write("data.json", facts)
    cells = _cells(config, walk)
    models = [*cells, *(name for name in walk.baselines if name in MEMORYLESS), CLASSICAL]
    chains = chained(folds, models, _seeded(config, parts), warm_start=walk.warm_start)
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
    failed = []
    with _bar(len(steps), sum(map(len, todo)), settings.progress) as bar:
        for outcome in outcomes(job, [chain for chain in todo if chain], walk):
            for line in outcome.lines:
                with bar.external_write_mode():
                    run.say(line)
            if outcome.error:
                failed.append(f"{outcome.step.name}: {outcome.error}")
                with bar.external_write_mode():
                    run.say(failed[-1])
            bar.update()
            clock()
    if failed:
        raise ForecastError(
            f"{failed[0]} {len(failed)} of {len(steps)} fits failed, the others are kept: mend the "
            "cause and repeat the command."
        )
    steps.sort(key=lambda step: (step.fold.index, models.index(step.model)))
    tables = [step.table(run.path, part) for step in steps for part in step.parts]
    return {"networks": cells, **told(steps, run.path), **_join(run, config, tables, parts)}


def _seeded(config: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """Parts to forecast: recalibration learns from the validation part, whether asked for or not.

    So its forecasts do not depend on the order in which parts were added.
    """
    wanted = {*parts, "validation"} if config["recalibrate"] != "none" else set(parts)
    return [part for part in PARTS if part in wanted]


def _bar(total: int, left: int, wanted: bool) -> tqdm[None]:
    """One bar for all fits."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=total - left,
        desc="fits",
        disable=not (wanted and sys.stderr.isatty()),
        smoothing=0,
    )


def _join(
    run: Run, config: Mapping[str, Any], tables: Sequence[Path], parts: Sequence[str]
) -> dict[str, Any]:
    """One table of several, with recalibrated copies; returns what was dropped on the way."""
    from forecast.evaluation.alignment import align
    from forecast.evaluation.recalibration import recalibrate
    from forecast.forecasts import combine, read_forecasts

    whole, aligned, copies = (
        run.path / f"{name}.parquet" for name in ("forecasts", "aligned", "recalibrated")
    )
    dropped = align(tables, aligned)
    joint = {aligned: parts}
    if config["recalibrate"] == "conformal":
        stated = read_forecasts(aligned, columns=["model", "q50"]).dropna()["model"]
        recalibrate(aligned, copies, models=[str(model) for model in stated.unique()])
        joint[copies] = parts
    combine(joint, whole)
    for path in joint:
        path.unlink()
    return {
        "dropped": {part: dropped[part]["rows"] for part in parts if part in dropped},
        "lacked": {part: dropped[part]["lacked"] for part in parts if part in dropped},
    }


def _publish(
    run: Run, config: Mapping[str, Any], told: Mapping[str, Any], missing: Sequence[str]
) -> None:
    """Score the joint table: daily losses, ledger, then metrics."""
    from forecast.evaluation.assess import assess
    from forecast.evaluation.scores import objective
    from forecast.evaluation.significance import significance

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


def _given(config: dict[str, Any], settings: Backtest, walk: Walk) -> Prepared:
    """Score tables that are there."""
    from forecast.forecasts import names

    given = settings.forecasts
    paths = [Path(p) for p in ([given] if isinstance(given, str) else given or ())]
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise ForecastError(f"forecasts={path}: no such file. Correct the path.")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    asked = {key: config[key] for key in SCORING}
    sha256 = digest.hexdigest()
    run = Run(Path(settings.outputs) / run_name("backtest", asked, data=sha256, device=""))
    found = {part for path in paths for part in names(path, "part")}
    parts = [p for p in PARTS if p in found and p in settings.parts]
    if not parts:
        raise ForecastError(
            f"forecasts={given}: no row of {', '.join(settings.parts)}; there are "
            f"{', '.join(sorted(found))}. Correct evaluate or the tables."
        )
    told = {**asked, "outputs": settings.outputs, "evaluate": config["evaluate"], "backtest": {}}
    return run, "none", parts, partial(_score, config=told, paths=paths, sha256=sha256), told


def _score(
    run: Run,
    parts: Sequence[str],
    clock: Callable[[], None],
    *,
    config: dict[str, Any],
    paths: Sequence[Path],
    sha256: str,
) -> dict[str, Any]:
    """Join tables that are there."""
    from forecast.evaluation.assess import table_facts
    from forecast.evaluation.recalibration import SUFFIX
    from forecast.forecasts import names
    from forecast.models.baselines import BASELINES
    from forecast.models.networks import MEMORYLESS

    dropped = _join(run, config, paths, parts)
    models = names(run.path / "forecasts.parquet", "model")
    own = [m for m in models if m not in (*BASELINES, *MEMORYLESS, "truth")]
    own = [m for m in own if not m.endswith(SUFFIX)] or models[:1]
    facts = table_facts(run.path / "forecasts.parquet")
    run.write("data.json", {"source": "forecasts", "sha256": sha256, **facts})
    return {"networks": own, "fits": {}, "fallbacks": {}, **dropped}


def _write_timing(run: Run, seconds: float) -> None:
    """Wall-clock figures of all attempts together."""
    from forecast.models.walk import seconds_and_targets

    fit_seconds, targets = seconds_and_targets(run.path, run.data.get("folds", []))
    run.write(
        "timing.json",
        {
            "fit_seconds": fit_seconds,
            "targets_per_second": targets / fit_seconds if fit_seconds else None,
            "total_seconds": seconds,
        },
    )


def _main(cfg: DictConfig) -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN and cfg.evaluate is None:
        # A sweep chooses; choosing by test scores would make them worthless. The first fold alone
        # is fitted, since its validation range lies before every test date.
        cfg.evaluate = ["validation"]
    run = backtest(cfg, overrides=list(hydra.overrides.task))
    objective: float | None = run.metrics["objective"]  # what a sweeper minimises
    return objective


main = door("backtest", _main)

if __name__ == "__main__":
    main()
