"""`python -m forecast.audit`: does a run, a configuration or an own part know the future?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, Told, door, instantiate, plain
from forecast.run import Run, load_run, run_name
from forecast.settings import SECTIONS, Settings, check_sections

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from forecast.dataset.folds import Fold
    from forecast.evaluation.audit import Line
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
        _require_allowed(run, plan.allow)
    if run is None or run.data["source"] != "forecasts":
        own = check_options(subject)[1]
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
    from forecast.evaluation.cautions import check_last_price
    from forecast.evaluation.overlap import check_facts, check_table, joined

    apart = []
    if run is not None:
        apart = [check_facts(run.data.get("folds", []))]
        apart.append(check_table(run.path / "forecasts.parquet"))
    if prices is None:
        yield joined(apart)
    else:
        yield from _of_configuration(subject, plan, run, prices, outputs, apart)
    if run is not None:
        part = run.parts[-1]
        for model in _networks(run):
            columns = ["origin", "horizon", "actual", "mean", "q50"]
            line = check_last_price(run.forecasts(columns=columns, part=part, model=model))
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
    import numpy as np

    from forecast.dataset.folds import ranges
    from forecast.dataset.market import read_market
    from forecast.evaluation import audit as checks
    from forecast.evaluation import cautions
    from forecast.evaluation.overlap import check_ranges, joined
    from forecast.evaluation.stored import check_stored
    from forecast.evaluation.trial import reduced
    from forecast.models.pipeline import make_task, panel_of

    dates = np.unique(prices.frame["date"].to_numpy()).astype("datetime64[D]")
    folds, embargo = _folds(subject, dates)
    config = {
        **subject,
        "model": {**subject["model"], "cell": _networks(run)[0]} if run else subject["model"],
        "split": {"validation": subject["split"]["validation"], "embargo": embargo},
    }
    same = run is None or run.data["sha256"] == prices.sha256
    if run is not None:
        yield _data(run, same)
    market = read_market(run.path / "market.parquet") if run is not None else None
    panel, task = panel_of(config, prices, market=market), make_task(config)
    cut = [ranges(panel, fold, reach=task.reach, warmup=task.warmup) for fold in folds]
    yield joined([check_ranges(panel, cut, reach=task.reach, embargo=embargo), *apart])
    if run is not None and same:
        yield from check_stored(run, config, prices, folds, allow=plan.allow)

    copy = reduced(
        config,
        prices,
        folds[len(folds) // 2],
        embargo=embargo,
        symbols=plan.symbols,
        sessions=plan.sessions,
        epochs=plan.epochs,
    )
    yield checks.check_features(copy)
    trial = copy.fit(copy.prices)
    yield checks.check_forecasts(copy, trial)
    yield checks.check_training(copy, trial)
    yield checks.check_statistics(copy)
    yield checks.check_history(copy, trial)
    yield from _simulated(config, plan)
    if run is None:
        line = cautions.check_last_price(trial.forecasts("validation"))
        if line is not None:
            yield line
    yield cautions.check_survivors(prices, panel)
    yield cautions.check_vintage(prices)
    yield cautions.check_ticks(panel)
    yield cautions.check_looks(run.path.parent if run else outputs, prices.sha256)


def _simulated(config: Mapping[str, Any], plan: Plan) -> Iterator[Line]:
    """Checks on panels with nothing to find, and with something."""
    from forecast.evaluation.audit import Line
    from forecast.evaluation.simulations import null_panels, planted_signal

    try:
        if plan.null_panels:
            yield null_panels(
                config,
                panels=plan.null_panels,
                symbols=plan.null_symbols,
                sessions=plan.null_sessions,
                epochs=plan.null_epochs,
                seed=config["seed"],
            ).line
        if plan.planted_coefficient:
            yield planted_signal(
                config,
                symbols=plan.planted_symbols,
                sessions=plan.planted_sessions,
                epochs=plan.planted_epochs,
                coefficient=plan.planted_coefficient,
                seed=config["seed"],
            ).line
    except (AttributeError, KeyError) as error:
        if not config["features"]["own"]:
            raise
        yield Line(
            status="warn",
            name="simulated",
            sentence=f"not checked: features.own ends in {type(error).__name__}: {error} on "
            "simulated prices, which have open, high, low, close and volume.",
        )


def _folds(subject: Mapping[str, Any], dates: np.ndarray) -> tuple[list[Fold], int]:
    """The folds of a configuration, and their embargo in sessions."""
    from forecast.dataset.folds import make_fold, walk_forward

    if "backtest" not in subject:
        return [make_fold(dates, **subject["split"])], int(subject["split"]["embargo"])
    walk = {key: subject["backtest"][key] for key in ("first", "last", "refit", "train", "embargo")}
    validation = subject["split"]["validation"]
    return list(walk_forward(dates, **walk, validation=validation)), int(walk["embargo"])


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
