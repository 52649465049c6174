"""`python -m forecast.audit`: does a run, a configuration or an own part know the future?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, instantiate, plain
from forecast.door import door
from forecast.run import Run, run_name
from forecast.settings import SECTIONS, Settings, check_sections

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from forecast.evaluation.audit import Line
    from forecast.evaluation.subject import Subject
    from forecast.evaluation.trial import Copy
    from forecast.prices.frame import Prices

# What may be typed beside run=…: all else is in the run's own configuration.
BESIDE_A_RUN = ("run", "audit", "outputs", "threads", "progress", "hydra")
OF_A_RULE = ["fill", "strategy", "placebo"]


@dataclass(frozen=True, kw_only=True)
class Audit(Settings):
    """The top-level keys of an audit; their meaning stands in conf/."""

    run: str | None
    execution: str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The section `audit`; its meaning stands in conf/audit.yaml."""

    allow: Sequence[str]
    symbols: int
    sessions: int
    epochs: int
    origins: int
    null_panels: int
    null_symbols: int
    null_sessions: int
    null_epochs: int
    planted_coefficient: float
    planted_symbols: int
    planted_sessions: int
    planted_epochs: int

    def __post_init__(self) -> None:
        names = [f"{prefix}{name}" for prefix in ("", "null_", "planted_") for name in _SIZES]
        for name in (*names, "origins"):
            if getattr(self, name) < 1:
                raise ForecastError(f"audit.{name}={getattr(self, name)} must be 1 or more.")
        if self.null_panels < 0 or not 0 <= self.planted_coefficient < 1:
            raise ForecastError(
                f"audit.null_panels={self.null_panels} must be 0 or more, "
                f"audit.planted_coefficient={self.planted_coefficient} from 0 to 1."
            )


_SIZES = ("symbols", "sessions", "epochs")


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
        The folder of the audit; `json("audit.json")` holds its status and lines, report.html
        shows them. An audit is made anew each time: the ledger, and the code that is audited, may
        have changed.

    Raises
    ------
    ForecastError
        Anything about options or data that the user can mend.
    """
    from forecast.evaluation.subject import open_subject
    from forecast.models.devices import torch_threads
    from forecast.report.page import write_report

    config = plain(cfg)
    check_sections(config, (*SECTIONS, "strategy", "audit"))
    keys = {k: v for k, v in config.items() if k not in (*SECTIONS, "strategy", "audit")}
    settings = instantiate(keys, "", Audit)
    plan = instantiate(config["audit"], "audit", Plan)
    for typed in overrides if settings.run is not None else ():
        if typed.lstrip("+~").partition("=")[0].partition(".")[0] not in BESIDE_A_RUN:
            raise ForecastError(
                f"{typed} does not go with run={settings.run}, which has a configuration of its "
                "own. Leave one of them out."
            )
    subject = open_subject(config, settings.run, outputs=settings.outputs, allow=plan.allow)
    own = _checked(subject)
    subject = subject.with_prices()
    prices = subject.prices
    data = prices.sha256 if prices is not None else settings.run or ""
    name = run_name("audit", config, data=data, device="cpu", own=own)
    result = Run(Path(settings.outputs) / name)
    # Copies and panels are small: more threads would only wait for each other.
    with result.lock(), torch_threads(settings.threads or 1):
        result.clear()
        with result.attempt(config, overrides, "cpu"):
            lines = []
            for line in _lines(subject, plan, Path(settings.outputs)):
                print(line, flush=True)
                lines.append(line)
            statuses = [line.status for line in lines]
            status = next(s for s in ("fail", "warn", "pass") if s in statuses)
            audited = subject.named.name if subject.named else None
            told = {"status": status, "audited": audited, "lines": [asdict(x) for x in lines]}
            result.write("audit.json", told)
            print(f"report: {write_report(result)}")
    return result


def _checked(subject: Subject) -> str:
    """Refuse wrong options of a configuration before anything is run; a hash of own code."""
    from forecast.models.options import check_options

    own, config = "", subject.config
    if subject.trained:
        # An audit works on the CPU, wherever a run was trained.
        trainer = {**config["trainer"], "accelerator": "cpu", "devices": 1}
        own = check_options({**config, "trainer": trainer})[1]
    if subject.rules and subject.positions:
        raise ForecastError("head=position states weights already: leave strategy out.")
    if subject.rules:
        from forecast.portfolio.decisions import Limits, own_rules_sha256
        from forecast.portfolio.simulation import EXECUTIONS

        own += own_rules_sha256(instantiate(config["strategy"], "strategy", Limits).rules)
        if config["execution"] not in (None, *EXECUTIONS):
            raise ForecastError(
                f"execution={config['execution']} is unknown: choose {', '.join(EXECUTIONS)}, or "
                "null for the next open where opens exist, else the next close."
            )
    return own


def _lines(subject: Subject, plan: Plan, outputs: Path) -> Iterator[Line]:
    """Every check in turn."""
    from forecast.evaluation import cautions
    from forecast.evaluation.overlap import check_facts, check_table, joined

    apart, run = [], subject.run
    if run is not None:
        apart = [check_facts(run.data.get("folds", []))]
        if not subject.positions:
            apart.append(check_table(run.path / "forecasts.parquet"))
    if subject.trained:
        yield from _of_configuration(subject, plan, outputs, apart)
    else:
        if apart:
            yield joined(apart)
        yield from cautions.unseen("weights" if run is None else "forecasts")
        if subject.rules:
            yield from _of_stored(subject, plan)
        for table, looked in ((run, "tables"), (subject.portfolio, "prices")):
            if table is not None:
                yield cautions.check_looks(table.path.parent, table.data["sha256"], data=looked)
    if run is not None and not subject.positions:
        part = run.parts[-1]
        for model in subject.networks:
            columns = ["origin", "horizon", "actual", "mean", "q50"]
            line = cautions.check_last_price(run.forecasts(columns=columns, part=part, model=model))
            if line is not None:
                yield line


def _of_configuration(
    subject: Subject, plan: Plan, outputs: Path, apart: Sequence[Line]
) -> Iterator[Line]:
    """Checks that need the prices, and code to run."""
    from forecast.dataset.folds import ranges
    from forecast.dataset.market import read_market
    from forecast.evaluation import cautions
    from forecast.evaluation.overlap import check_ranges, joined
    from forecast.evaluation.stored import check_stored
    from forecast.evaluation.trial import reduced, session_dates
    from forecast.models.configured import folds_of, make_task, panel_of

    run, prices = subject.run, subject.prices
    assert prices is not None
    folds = folds_of(subject.config, session_dates(prices))
    embargo = int(subject.config.get("backtest", subject.config["split"])["embargo"])
    config = {
        **subject.config,
        "model": {**subject.config["model"], "cell": subject.networks[0]},
        "split": {"validation": subject.config["split"]["validation"], "embargo": embargo},
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
    yield from _of_a_copy(make, subject, plan)
    if subject.rules and subject.portfolio is not None:
        yield from _of_stored(subject, plan)
    yield from _simulated(config, plan, positions=subject.positions)
    yield cautions.check_survivors(prices, panel)
    yield cautions.check_vintage(prices)
    yield cautions.check_ticks(prices, panel)
    yield cautions.check_looks(run.path.parent if run else outputs, prices.sha256)


def _of_a_copy(make: Callable[[], Copy], subject: Subject, plan: Plan) -> Iterator[Line]:
    """Checks that train a reduced copy, which may be too short where the whole is not."""
    tried = subject.rules if subject.run is None else {}  # a run's are tried on its own forecasts
    left = ["features", "truncation", "perturbation", "statistics", "history"]
    left += OF_A_RULE if tried else []
    try:
        copy = make()
        for line in _trained(copy, subject, plan):
            yield line
            left = [name for name in left if name != line.name]
    except ForecastError as error:
        yield _unchecked(left, error, "audit.sessions")


def _trained(copy: Copy, subject: Subject, plan: Plan) -> Iterator[Line]:
    from forecast.evaluation import audit as checks
    from forecast.evaluation.cautions import check_last_price

    yield checks.check_features(copy)
    trial = copy.fit(copy.prices)
    yield checks.check_forecasts(copy, trial)
    yield checks.check_training(copy, trial)
    yield checks.check_statistics(copy)
    yield checks.check_history(copy, trial)
    if subject.run is not None or subject.positions:
        return  # a run's own forecasts are there to be compared
    line = check_last_price(trial.forecasts("validation"))
    if line is not None:
        yield line
    if subject.rules:
        forecasts = trial.forecasts("validation", "test")
        yield from _of_rules(subject, plan, forecasts, copy.whole, f"on forecasts of {copy}")


def _of_stored(subject: Subject, plan: Plan) -> Iterator[Line]:
    """A portfolio's rules on the forecasts that it traded."""
    from forecast.evaluation.audit import Line

    run, portfolio, prices = subject.run, subject.portfolio, subject.prices
    assert run is not None and portfolio is not None and prices is not None
    if portfolio.data["sha256"] != prices.sha256:
        sentence = (
            f"not checked, nor {' and '.join(OF_A_RULE[1:])}: the prices are not those that "
            f"{portfolio.name} traded (sha256 differs)."
        )
        yield Line(status="warn", name=OF_A_RULE[0], sentence=sentence)
        return
    model = (subject.config["strategy"]["models"] or subject.networks)[0]
    part = run.parts[-1]
    forecasts = run.forecasts(part=part, model=model)
    where = f"on stored {part} forecasts of {model}"
    yield from _of_rules(subject, plan, forecasts, prices, where)


def _of_rules(
    subject: Subject, plan: Plan, forecasts: pd.DataFrame, prices: Prices, where: str
) -> Iterator[Line]:
    from forecast.portfolio.audit import check_rules
    from forecast.portfolio.case import Case
    from forecast.portfolio.decisions import Limits

    case = Case(
        forecasts=forecasts,
        prices=prices,
        limits=instantiate(subject.config["strategy"], "strategy", Limits),
        execution=subject.config["execution"],
        origins=plan.origins,
        where=where,
        seed=subject.config.get("seed", 0),
    )
    yield from check_rules(case, subject.rules)


def _simulated(config: Mapping[str, Any], plan: Plan, *, positions: bool) -> Iterator[Line]:
    """Checks on panels with nothing to find, and with something."""
    from forecast.evaluation.audit import Line
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
    if plan.planted_coefficient and positions:
        sentence = (
            "not checked: the planted signal foretells the next session, positions are filled at "
            "its close."
        )
        yield Line(status="warn", name="planted", sentence=sentence)
    elif plan.planted_coefficient:
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


def _main(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    result = audit(cfg, overrides=list(HydraConfig.get().overrides.task))
    status = result.json("audit.json")["status"]
    print(f"{status}: {result.path / 'audit.json'}")
    if status == "fail":  # which the lines have told: exit status 1 and no more words
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(1)
        raise ForecastError(f"the audit fails: see {result.path / 'audit.json'}.")


main = door("audit", _main)

if __name__ == "__main__":
    main()
