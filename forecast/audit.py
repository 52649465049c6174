"""`python -m forecast.audit`: does a run, a configuration or an own part know the future?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, Told, door, instantiate, plain
from forecast.run import Run, load_run, run_name
from forecast.settings import SECTIONS, Settings, check_sections

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from forecast.evaluation.audit import Line
    from forecast.evaluation.trial import Copy
    from forecast.prices.frame import Prices

# What may be typed beside run=…: all else is in the run's own configuration.
BESIDE_A_RUN = ("run", "audit", "outputs", "threads", "progress", "hydra")


@dataclass(frozen=True, kw_only=True)
class Audit(Settings):
    """The top-level keys of an audit; their meaning stands in conf/."""

    run: str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The section `audit`; its meaning stands in conf/audit.yaml."""

    allow: Sequence[str]
    symbols: int
    sessions: int
    epochs: int
    null_panels: int
    null_symbols: int
    null_sessions: int
    null_epochs: int
    planted_coefficient: float
    planted_symbols: int
    planted_sessions: int
    planted_epochs: int

    def __post_init__(self) -> None:
        for name in ("symbols", "sessions", "epochs"):
            for prefix in ("", "null_", "planted_"):
                if getattr(self, prefix + name) < 1:
                    value = getattr(self, prefix + name)
                    raise ForecastError(f"audit.{prefix}{name}={value} must be 1 or more.")
        if self.null_panels < 0 or not 0 <= self.planted_coefficient < 1:
            raise ForecastError(
                f"audit.null_panels={self.null_panels} must be 0 or more, "
                f"audit.planted_coefficient={self.planted_coefficient} from 0 to 1."
            )


def audit(cfg: DictConfig | Mapping[str, Any], *, overrides: Sequence[str] = ()) -> Run:
    """Audit a run or a configuration.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("audit", [...])`.
    overrides : sequence of str
        What was typed, for the record.

    Returns
    -------
    Run
        The folder of the audit; `json("audit.json")` holds its status and lines. An audit is made
        anew each time: the ledger, and the code that is audited, may have changed.

    Raises
    ------
    ForecastError
        Anything about options or data that the user can mend.
    """
    from forecast.models.fit import torch_threads
    from forecast.models.pipeline import check_options
    from forecast.prices import load_prices

    config = plain(cfg)
    check_sections(config, (*SECTIONS, "audit"))
    keys = {k: v for k, v in config.items() if k not in (*SECTIONS, "audit")}
    settings = instantiate(keys, "", Audit)
    plan = instantiate(config["audit"], "audit", Plan)
    run: Run | None = None
    prices, own, subject = None, "", config
    if settings.run is not None:
        for typed in overrides:
            if typed.lstrip("+~").partition("=")[0].partition(".")[0] not in BESIDE_A_RUN:
                raise ForecastError(
                    f"{typed} does not go with run={settings.run}, which has a configuration of "
                    "its own. Leave one of them out."
                )
        run = load_run(settings.run, settings.outputs, allow=plan.allow)
        subject = run.config
    if run is None or run.data["source"] != "forecasts":
        if run is not None:
            _require_allowed(run, plan.allow)
        # An audit works on the CPU, wherever a run was trained.
        trainer = {**subject["trainer"], "accelerator": "cpu"}
        own = check_options({**subject, "trainer": trainer})[1]
        prices = load_prices(subject["data"])
    data = prices.sha256 if prices is not None else settings.run or ""
    name = run_name("audit", config, data=data, device="cpu", own=own)
    result = Run(Path(settings.outputs) / name)
    # Copies and panels are small: more threads would only wait for each other.
    with result.lock(), torch_threads(settings.threads or 1):
        result.clear()
        with result.attempt(config, overrides, "cpu"):
            lines = []
            for line in _lines(subject, plan, run, prices, Path(settings.outputs)):
                print(line, flush=True)
                lines.append(line)
            statuses = [line.status for line in lines]
            status = next(s for s in ("fail", "warn", "pass") if s in statuses)
            told = {"status": status, "audited": run.name if run else None}
            result.write("audit.json", {**told, "lines": [asdict(line) for line in lines]})
    return result


def _require_allowed(run: Run, allow: Sequence[str]) -> None:
    """Refuse to execute what only a run's folder asks for."""
    config = run.config
    source, head = str(config["data"]["_target_"]), str(config["head"]["name"])
    asked = [*config["features"]["own"], *([head] if "." in head else [])]
    asked += [] if source.startswith("forecast.prices.") else [source]
    for name in asked:
        if name not in allow:
            raise ForecastError(
                f"{run.name} uses {name}, which an audit would execute. If you trust it: "
                f"audit.allow=[{','.join(asked)}]."
            )


def _lines(
    subject: Mapping[str, Any], plan: Plan, run: Run | None, prices: Prices | None, outputs: Path
) -> Iterator[Line]:
    """Every check in turn."""
    from forecast.evaluation import cautions
    from forecast.evaluation.overlap import check_facts, check_table, joined

    apart = []
    if run is not None:
        apart = [check_facts(run.data.get("folds", []))]
        apart.append(check_table(run.path / "forecasts.parquet"))
    if prices is None:
        assert run is not None
        yield joined(apart)
        yield from cautions.unseen()
        yield cautions.check_looks(run.path.parent, run.data["sha256"], data="tables")
    else:
        yield from _of_configuration(subject, plan, run, prices, outputs, apart)
    if run is not None:
        part = run.parts[-1]
        for model in _networks(run):
            columns = ["origin", "horizon", "actual", "mean", "q50"]
            line = cautions.check_last_price(run.forecasts(columns=columns, part=part, model=model))
            if line is not None:
                yield line


def _of_configuration(
    subject: Mapping[str, Any],
    plan: Plan,
    run: Run | None,
    prices: Prices,
    outputs: Path,
    apart: Sequence[Line],
) -> Iterator[Line]:
    """Checks that need the prices, and code to run."""
    from forecast.dataset.folds import ranges
    from forecast.dataset.market import read_market
    from forecast.evaluation import cautions
    from forecast.evaluation.overlap import check_ranges, joined
    from forecast.evaluation.stored import check_stored
    from forecast.evaluation.trial import reduced, session_dates
    from forecast.models.pipeline import folds_of, make_task, panel_of

    folds = folds_of(subject, session_dates(prices))
    embargo = int(subject.get("backtest", subject["split"])["embargo"])
    config = {
        **subject,
        "model": {**subject["model"], "cell": _networks(run)[0]} if run else subject["model"],
        "split": {"validation": subject["split"]["validation"], "embargo": embargo},
    }
    config.pop("backtest", None)  # what is trained below has one fold
    same = run is None or run.data["sha256"] == prices.sha256
    if run is not None:
        yield _data(run, same)
    market = read_market(run.path / "market.parquet") if run is not None else None
    panel, task = panel_of(config, prices, market=market), make_task(config)
    cut = [ranges(panel, fold, reach=task.reach, warmup=task.warmup) for fold in folds]
    yield joined([check_ranges(panel, cut, reach=task.reach, embargo=embargo), *apart])
    if run is not None and same:
        yield from check_stored(run, config, prices, folds)
    make = partial(
        reduced,
        config,
        prices,
        folds[len(folds) // 2],
        embargo=embargo,
        symbols=plan.symbols,
        sessions=plan.sessions,
        epochs=plan.epochs,
    )
    yield from _of_a_copy(make, new=run is None)
    yield from _simulated(config, plan)
    yield cautions.check_survivors(prices, panel)
    yield cautions.check_vintage(prices)
    yield cautions.check_ticks(prices, panel)
    yield cautions.check_looks(run.path.parent if run else outputs, prices.sha256)


def _of_a_copy(make: Callable[[], Copy], *, new: bool) -> Iterator[Line]:
    """Checks that train a reduced copy, which may be too short where the whole is not."""
    left = ["features", "truncation", "perturbation", "statistics", "history"]
    try:
        for line in _trained(make(), new):
            yield line
            left = left[1:]
    except ForecastError as error:
        yield _unchecked(left, error, "audit.sessions")


def _trained(copy: Copy, new: bool) -> Iterator[Line]:
    from forecast.evaluation import audit as checks
    from forecast.evaluation.cautions import check_last_price

    yield checks.check_features(copy)
    trial = copy.fit(copy.prices)
    yield checks.check_forecasts(copy, trial)
    yield checks.check_training(copy, trial)
    yield checks.check_statistics(copy)
    yield checks.check_history(copy, trial)
    line = check_last_price(trial.forecasts("validation")) if new else None
    if line is not None:  # a run's own forecasts are there to be compared
        yield line


def _simulated(config: Mapping[str, Any], plan: Plan) -> Iterator[Line]:
    """Checks on panels with nothing to find, and with something."""
    from forecast.evaluation.simulations import null_panels, planted_signal

    if plan.null_panels:
        try:
            yield null_panels(
                config,
                panels=plan.null_panels,
                symbols=plan.null_symbols,
                sessions=plan.null_sessions,
                epochs=plan.null_epochs,
                seed=config["seed"],
            ).line
        except ForecastError as error:
            yield _unchecked(["null"], error, "audit.null_sessions")
    if plan.planted_coefficient:
        try:
            yield planted_signal(
                config,
                symbols=plan.planted_symbols,
                sessions=plan.planted_sessions,
                epochs=plan.planted_epochs,
                coefficient=plan.planted_coefficient,
                seed=config["seed"],
            ).line
        except ForecastError as error:
            yield _unchecked(["planted"], error, "audit.planted_sessions")


def _unchecked(names: Sequence[str], error: ForecastError, key: str) -> Line:
    """A check, and those after it, that the reduced data do not allow."""
    from forecast.evaluation.audit import Line

    others = f", nor {', '.join(names[1:])}" if len(names) > 1 else ""
    sentence = f"not checked{others}: {error} If the audit's data are too short, raise {key}."
    return Line(status="warn", name=names[0], sentence=sentence)


def _data(run: Run, same: bool) -> Line:
    """Whether the prices are those that the run was made of."""
    from forecast.evaluation.audit import Line

    if same:
        return Line(status="pass", name="data", sentence=f"the prices are those of {run.name}.")
    return Line(
        status="warn",
        name="data",
        sentence=f"the prices are not those that {run.name} was made of (sha256 differs): what it "
        "has stored is not made again.",
    )


def _networks(run: Run) -> list[str]:
    """Models of a run that are somebody's own, not baselines."""
    return list(run.metrics.get("networks") or [run.config["model"]["cell"]])


def _main(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    result = audit(cfg, overrides=list(HydraConfig.get().overrides.task))
    status = result.json("audit.json")["status"]
    print(f"{status}: {result.path / 'audit.json'}")
    if status == "fail":  # which the lines have told: exit status 1 and no more words
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(1)
        raise Told


main = door("audit", _main)

if __name__ == "__main__":
    main()
