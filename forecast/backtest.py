"""`python -m forecast.backtest`: walk forward beside what a bank would use, and trade what it said.

Two stages, each with a run folder: the forecasts and their scores, and the portfolio that trades
them. So strategies and costs change without a network being trained again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, check, instantiate, plain
from forecast.documents import sha256_of
from forecast.door import door
from forecast.run import PARTS, Run, run_name, same_run
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

    from forecast.portfolio.plan import Plan
    from forecast.prices.frame import Prices

SCORING = ("forecasts", "recalibrate", "significance", "report")  # all that given tables need
WHERE = ("data", "evaluate", "outputs")
LIVE = "live"  # in place of a path: the live record, or live:<run>
ORDER = (*PARTS, LIVE)  # of the parts of a table; the schema's own would load pandas
TRADING = ("strategy", "costs", "execution", "weights")  # what forecasts do not depend on

# Leaves all files of a run for some parts, of which some are missing; calls the clock after fits.
Work = Callable[[Sequence[str], Sequence[str], Callable[[], None]], None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run folder and how it is filled.

    Attributes
    ----------
    run : Run
    config : dict
        What of the configuration has a part in it.
    device : str
        Where it is worked on.
    parts : sequence of str
        Parts wanted.
    work : callable
    table : callable
        Metrics as text for the terminal.
    refresh : callable
        Renews what depends on other runs; whether that changed.
    reported : bool
        Whether the run has a report of its own.
    """

    run: Run
    config: dict[str, Any]
    device: str
    parts: Sequence[str]
    work: Work
    table: Callable[[Mapping[str, Any]], str]
    refresh: Callable[[], bool] = lambda: False
    reported: bool = True


def backtest(
    cfg: DictConfig | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    prices: Prices | None = None,
    names: Sequence[str] = (),
) -> Run:
    """Refit and forecast as time goes on, score all models on the same rows, trade what is asked.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("backtest", [...])`. With `forecasts`, those tables are scored, with
        `weights` those are traded, and nothing is trained.
    overrides : sequence of str
        What was typed, for the record.
    prices : Prices, optional
        By default those that `cfg.data` says.
    names : sequence of str, optional
        The runs that this must be, forecasts and portfolio: anything else is refused before it is
        worked on.

    Returns
    -------
    Run
        The finished run, of the portfolio where something is traded, else of the forecasts: the
        same configuration on the same data returns the same folder, at once if it is finished,
        continued if it was interrupted.

    Raises
    ------
    ForecastError
        Anything about options, data or device that the user can mend; a fold that failed is named,
        and the others are kept.
    """
    from forecast.portfolio.plan import check_options, make_plan
    from forecast.prices import load_prices

    config = plain(cfg)
    check_sections(config, BACKTEST_SECTIONS)
    settings = instantiate(
        {k: v for k, v in config.items() if k not in BACKTEST_SECTIONS}, "", Backtest
    )
    walk = instantiate(config["backtest"], "backtest", Walk)
    instantiate(config["significance"], "significance", Significance)
    instantiate(config["report"], "report", Report)
    walked, traded = settings.walked, _is_traded(config, settings)
    if settings.live and traded:
        raise ForecastError(
            f"forecasts={settings.forecasts} is scored, not traded: leave strategy out."
        )
    check_options(config)  # traded or not: a typing error is one either way
    device, own = _checked(config) if walked else ("none", "")
    prices = (prices or load_prices(config["data"])) if walked or traded else None
    plan = make_plan(config, prices, walked=walked) if prices is not None and traded else None
    # Forecasts do not depend on how they are traded.
    asked = {key: value for key, value in config.items() if key not in TRADING}
    # What is not asked for again is not forgotten: with a portfolio, that is what force is about.
    force = settings.force and plan is None
    if prices is not None and walked:
        stage = _walked(asked, settings, walk, prices, device, own)
        same_run(stage.run.name, names)
        run = _completed(stage, overrides, force=force)
    elif settings.weights is None:
        run = _completed(_given(asked, settings), overrides, force=force)
    else:
        run = None
    if prices is not None and plan is not None:
        if not walked:
            config = {key: config[key] for key in (*SCORING, *TRADING, *WHERE)}
            own = run.data["sha256"] if run else sha256_of("weights", [Path(str(settings.weights))])
        stage = _traded(config, settings, walk, plan, prices, run, device=device, own=own)
        same_run(stage.run.name, names)
        run = _completed(stage, overrides, force=settings.force)
    assert run is not None  # weights are always traded
    return run


def _is_traded(config: Mapping[str, Any], settings: Backtest) -> bool:
    """Whether there is a portfolio; refuses strategies where weights are there already."""
    from forecast.models.choice import states_positions

    rules = bool(config["strategy"].get("rules"))
    positions = settings.walked and states_positions(config)
    if rules and (positions or settings.weights is not None):
        what = "head=position states" if positions else f"weights={settings.weights} holds"
        raise ForecastError(f"{what} weights, which are traded as they are: leave out strategy.")
    return rules or positions or settings.weights is not None


def _completed(stage: Stage, overrides: Sequence[str], *, force: bool) -> Run:
    """Work on the parts that are missing, then the report."""
    start, run, config = time.perf_counter(), stage.run, stage.config
    with run.lock():
        if force:
            run.clear()
        missing = [part for part in stage.parts if part not in run.parts]
        spent = float(run.timing.get("total_seconds", 0.0))

        def clock() -> None:
            from forecast.models.walk import timing  # loads Lightning

            seconds = spent + time.perf_counter() - start
            run.write("timing.json", timing(run.path, run.data.get("folds", []), seconds))

        if missing:
            with run.attempt(config, overrides, stage.device):
                # As fits end, so that those of an attempt that is killed count.
                stage.work([p for p in ORDER if p in (*run.parts, *missing)], missing, clock)
            clock()
            run.say(stage.table(run.metrics))
        else:
            print(f"{run.path} is finished ({', '.join(run.parts)}); force=true starts afresh")
        if set(run.parts) == set(PARTS):  # no part can be added any more
            # Also after a kill that came between the metrics and this.
            for path in run.path.glob("fold-*/*.parquet"):
                path.unlink()
        if stage.refresh():
            (run.path / "report.html").unlink(missing_ok=True)
        if run.config["report"] != config["report"]:  # asks for other figures, nothing else
            (run.path / "report.html").unlink(missing_ok=True)
            run.write("config.yaml", {**run.config, "report": config["report"]})
        if stage.reported and not (run.path / "report.html").exists():
            from forecast.report.page import write_report

            print(f"report: {write_report(run)}")
    return run


def _checked(config: dict[str, Any]) -> tuple[str, str]:
    """Refuse wrong options of a walk-forward; the device, and a hash of own code."""
    from forecast.dataset.folds import walk_forward
    from forecast.evaluation.recalibration import SUFFIX
    from forecast.models.choice import check_models
    from forecast.models.options import check_options

    check(config["split"], "split", walk_forward, only=("validation",))
    device, own = check_options(config)
    check_models(config, SUFFIX)
    return device, own


def _walked(
    config: dict[str, Any],
    settings: Backtest,
    walk: Walk,
    prices: Prices,
    device: str,
    own: str,
) -> Stage:
    """A walk-forward."""
    from forecast.evaluation.scores import table
    from forecast.models.choice import states_positions

    name = run_name("backtest", config, data=prices.sha256, device=device, own=own)
    run = Run(Path(settings.outputs) / name)
    for line in prices.omitted:
        print(line)

    def work(parts: Sequence[str], missing: Sequence[str], clock: Callable[[], None]) -> None:
        from forecast.evaluation.walked import forecast_folds  # loads Lightning

        forecast_folds(
            run, parts, missing, clock,
            config=config, settings=settings, walk=walk, prices=prices, device=device,
        )  # fmt: skip

    positions = states_positions(config)
    return Stage(
        run=run,
        config=config,
        device=device,
        parts=settings.parts,
        work=work,
        table=(lambda metrics: "positions are made") if positions else table,
        reported=not positions,
    )


def _given(config: dict[str, Any], settings: Backtest) -> Stage:
    """Score tables that are there, or the live record."""
    from forecast.evaluation.published import publish_given
    from forecast.evaluation.scores import table
    from forecast.forecasts import names
    from forecast.models.prediction import BESIDE

    given = settings.forecasts
    facts: dict[str, Any] = {}
    paths = [Path(p) for p in ([given] if isinstance(given, str) else given or ())]
    wanted = settings.parts
    if settings.live:
        path, facts = _live(config, settings)
        paths, wanted = [path], (LIVE,)
    asked = {key: config[key] for key in SCORING}
    if settings.live:  # the one that is recorded
        asked["significance"] = {**asked["significance"], "benchmark": BESIDE}
    sha256 = sha256_of("forecasts", paths)
    run = Run(Path(settings.outputs) / run_name("backtest", asked, data=sha256, device=""))
    found = {part for path in paths for part in names(path, "part")}
    parts = [p for p in ORDER if p in found and p in wanted]
    if not parts:
        raise ForecastError(
            f"forecasts={given}: no row of {', '.join(wanted)}; there are "
            f"{', '.join(sorted(found))}. Correct evaluate or the tables."
        )
    told = {**asked, "outputs": settings.outputs, "evaluate": config["evaluate"], "backtest": {}}
    work = partial(publish_given, run, config=told, paths=paths, sha256=sha256, facts=facts)
    return Stage(run=run, config=told, device="none", parts=parts, work=work, table=table)


def _live(config: Mapping[str, Any], settings: Backtest) -> tuple[Path, dict[str, Any]]:
    """A table of the live record with what became of it, and what is to be said of it."""
    from forecast.evaluation.live import score_record
    from forecast.prices import load_prices

    def load(section: Mapping[str, Any], symbols: Sequence[str]) -> Prices:
        typed, same = config["data"], section["_target_"] == config["data"]["_target_"]
        offline = {"offline": True} if same and typed.get("offline") else {}
        return load_prices({**section, **offline, "symbols": list(symbols)})

    run = str(settings.forecasts).partition(":")[2] or None
    scored = score_record(Path(settings.outputs) / LIVE, run, load)
    print(scored.told)
    return scored.path, {"source": LIVE, "warnings": [scored.told]}


def _traded(
    config: dict[str, Any],
    settings: Backtest,
    walk: Walk,
    plan: Plan,
    prices: Prices,
    source: Run | None,
    *,
    device: str,
    own: str,
) -> Stage:
    """The portfolio of forecasts that are made, or of weights that are given."""
    from forecast.models.executors import processes
    from forecast.portfolio.published import publish, renew_luck, table
    from forecast.portfolio.source import Source

    judge = config["significance"]["benchmark"]
    given = Source.of(source, settings.weights, plan, benchmark=judge, prices=prices)
    parts = [part for part in given.parts if part in settings.parts]
    if not parts:
        raise ForecastError(
            f"weights={settings.weights}: no row of {', '.join(settings.parts)}; there are "
            f"{', '.join(given.parts)}. Correct evaluate or the table."
        )
    name = run_name(
        "portfolio", config, data=prices.sha256, device=device, own=own + plan.own_sha256
    )
    read = own if settings.weights is None else ""  # each strategy's own rows tell it apart
    run = Run(Path(settings.outputs) / name)
    work = partial(
        publish, run, config=config, plan=plan, source=given, prices=prices, read=read,
        jobs=processes(walk.jobs),
    )  # fmt: skip
    return Stage(
        run=run,
        config=config,
        device=device,
        parts=parts,
        work=work,
        table=table,
        refresh=partial(renew_luck, run),
    )


def _main(cfg: DictConfig) -> Run:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from forecast.prices import shared_prices

    hydra = HydraConfig.get()
    swept = hydra.mode == RunMode.MULTIRUN and not (cfg.forecasts or cfg.weights)
    prices = shared_prices(plain(cfg)["data"]) if swept else None
    return backtest(cfg, overrides=list(hydra.overrides.task), prices=prices)


main = door("backtest", _main)

if __name__ == "__main__":
    main()
