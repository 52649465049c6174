"""`python -m forecast.train`: train a recurrent forecaster, score it, leave a run folder."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, door, instantiate, plain
from forecast.run import PARTS, Run, environment, run_name

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from forecast.dataset.datamodule import PriceDataModule
    from forecast.models.ensemble import Ensemble
    from forecast.prices.frame import Prices
    from forecast.prices.simulated import Truth


SECTIONS = (
    "data", "features", "model", "head", "trainer", "logger",
    "horizons", "target", "window", "split", "optimizer", "loss",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The top-level keys that are no section; their meaning stands in conf/train.yaml."""

    ensemble: int
    seed: int
    threads: int | None
    evaluate: Sequence[str] | None
    force: bool
    outputs: str
    progress: bool

    def __post_init__(self) -> None:
        if self.ensemble < 1:
            raise ForecastError(f"ensemble={self.ensemble} must be 1 or more members.")
        if self.seed < 0:
            raise ForecastError(f"seed={self.seed} must be 0 or more.")
        if self.threads is not None and self.threads < 1:
            raise ForecastError(f"threads={self.threads} must be 1 or more, or null.")
        if self.evaluate is not None and not self.evaluate:
            raise ForecastError(f"evaluate=[] scores nothing: choose {', '.join(PARTS)}, or null.")
        for part in self.evaluate or ():
            if part not in PARTS:
                raise ForecastError(f"evaluate: {part!r} is no part: choose {', '.join(PARTS)}.")

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts to score, in canonical order."""
        return tuple(p for p in PARTS if self.evaluate is None or p in self.evaluate)


def train(cfg: DictConfig | Mapping[str, Any], *, overrides: Sequence[str] = ()) -> Run:
    """Train the configured forecaster and score it beside the naive baselines.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("train", [...])`.
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
        Anything about options, data or device that the user can mend.
    """
    from forecast.evaluation.scores import table
    from forecast.models.pipeline import check_options
    from forecast.prices import load_prices

    start = time.perf_counter()
    config = plain(cfg)
    _check_sections(config)
    settings = instantiate({k: v for k, v in config.items() if k not in SECTIONS}, "", Settings)
    device, own = check_options(config)
    prices = load_prices(config["data"])
    run = Run(Path(settings.outputs) / run_name(config, data=prices.sha256, device=device, own=own))
    for symbol, reason in prices.left_out:
        print(f"{symbol} is left out: {reason}")
    with run.lock(), _threads(settings.threads):
        if settings.force:
            run.clear()
        missing = [part for part in settings.parts if part not in run.parts]
        spent = _spent(run)
        if missing:
            for stale in ("error.txt", "report.html"):
                (run.path / stale).unlink(missing_ok=True)
            try:
                if not run.parts:
                    run.write("config.yaml", config)
                    run.write("overrides.yaml", list(overrides))
                    run.write("environment.json", environment(device))
                datamodule = _prepare(run, config, prices)
                truth = prices.truth
                del prices  # the panel holds what is needed from here on
                _work(run, config, settings, datamodule, truth, device, missing)
            except Exception as error:
                run.write("error.txt", f"{type(error).__name__}: {error}\n")
                raise
            run.say(table(run.metrics))
        else:
            print(f"{run.path} is finished ({', '.join(run.parts)}); force=true starts afresh")
        # A kill after the metrics may have come before these two.
        if missing or not (run.path / "timing.json").exists():
            _write_timing(run, spent + time.perf_counter() - start)
        if not (run.path / "report.html").exists():
            from forecast.report.page import write_report

            print(f"report: {write_report(run)}")
    return run


def _prepare(run: Run, config: dict[str, Any], prices: Prices) -> PriceDataModule:
    """The panel and its windows; the market and the facts of the data go to the run folder."""
    from forecast.dataset.market import write_market
    from forecast.models.pipeline import make_datamodule

    datamodule = make_datamodule(config, prices)
    write_market(datamodule.panel.market, run.path / "market.parquet")
    run.write("data.json", _facts(datamodule, prices))
    return datamodule


def _work(
    run: Run,
    config: dict[str, Any],
    settings: Settings,
    datamodule: PriceDataModule,
    truth: Truth | None,
    device: str,
    missing: Sequence[str],
) -> None:
    """Train, forecast and score; what is there already is kept."""
    from forecast.models.ensemble import load_ensemble
    from forecast.models.pipeline import fit_ensemble

    for part in missing:
        datamodule.require(part)
    progress = settings.progress and sys.stderr.isatty()
    fit_ensemble(config, datamodule, run.path, say=run.say, progress=progress)
    ensemble = load_ensemble(
        run.path, members=settings.ensemble, task=datamodule.task, device=device.split()[0]
    )
    _evaluate(run, datamodule, ensemble, truth, missing)


def _check_sections(config: Mapping[str, Any]) -> None:
    """Refuse a configuration without one of its sections, or with a value in place of one."""
    for name in SECTIONS:
        if name not in config:
            raise ForecastError(f"the section {name} is missing. Do not remove it.")
        if name != "horizons" and not isinstance(config[name], Mapping):
            raise ForecastError(
                f"{name}={config[name]} replaces a section. Set its keys: {name}.<key>=<value>."
            )


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use as many threads on the CPU, and afterwards as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _facts(datamodule: PriceDataModule, prices: Prices) -> dict[str, Any]:
    panel, fold = datamodule.panel, datamodule.fold
    short = [
        {"symbol": s, "reason": f"no session left after window.warmup={datamodule.task.warmup}"}
        for s in datamodule.too_short
    ]
    calendar = prices.frame.get("calendar")
    first = {"train": panel.dates[0], "validation": fold.validation, "test": fold.test}
    last = {"train": fold.train_end, "validation": fold.validation_end, "test": None}
    return {
        "source": prices.source,
        "sha256": prices.sha256,
        "calendars": [] if calendar is None else list(calendar.cat.categories),
        "rows": panel.rows,
        "targets": datamodule.ranges["train"].rows,
        "dates": {"first": str(panel.dates[0]), "last": str(panel.dates[-1])},
        "fold": {
            part: [
                str(first[part]),
                str(panel.dates[panel.dates < last[part]][-1] if last[part] else panel.dates[-1]),
            ]
            for part in first
        },
        "features": list(panel.names),
        "market": {
            "definition": panel.market.definition,
            "first": str(panel.market.date[0]) if len(panel.market.date) else None,
            "last": str(panel.market.date[-1]) if len(panel.market.date) else None,
        },
        "symbols": [asdict(facts) for facts in panel.facts],
        "left_out": [{"symbol": s, "reason": r} for s, r in prices.left_out] + short,
        "warnings": [*prices.warnings, *panel.warnings],
    }


def _evaluate(
    run: Run,
    datamodule: PriceDataModule,
    ensemble: Ensemble,
    truth: Truth | None,
    missing: Sequence[str],
) -> None:
    """Forecast the missing parts, score them and publish: forecasts, ledger, then metrics."""
    from forecast.evaluation.scores import Scores, objective
    from forecast.forecasts import combine, read_blocks
    from forecast.models.pipeline import write_forecasts

    before, model = run.metrics, run.config["model"]["cell"]
    whole, fresh = run.path / "forecasts.parquet", run.path / "forecasts-new.parquet"
    dropped = write_forecasts(fresh, ensemble, datamodule, model=model, parts=missing, truth=truth)
    scores = Scores()
    for block in read_blocks(fresh):
        scores.add(block)
    new = {**scores.summary(), "dropped": dropped}
    combine({**({whole: run.parts} if before else {}), fresh: missing}, whole)
    fresh.unlink()
    for part in missing:
        # Before the scores can be seen: a look that was cut short still counts as one.
        run.record(part, *run.data["fold"][part])
    merged = {key: {**before.get(key, {}), **new[key]} for key in new}
    parts = [part for part in PARTS if part in merged["scores"]]
    run.write(
        "metrics.json",
        {
            "objective": objective(merged["scores"], model) if "validation" in parts else None,
            "parts": parts,
            **{key: {part: value[part] for part in parts} for key, value in merged.items()},
        },
    )


def _spent(run: Run) -> float:
    """Seconds of earlier attempts; of one that was killed, those of its finished epochs."""
    epochs = run.history()["seconds"].sum() if (run.path / "history.csv").exists() else 0.0
    return max(float(epochs), run.timing.get("total_seconds", 0.0))


def _write_timing(run: Run, seconds: float) -> None:
    """Wall-clock figures of all attempts together."""
    history = run.history()
    fit_seconds = float(history["seconds"].sum())
    run.write(
        "timing.json",
        {
            "fit_seconds": fit_seconds,
            "targets_per_second": len(history) * run.data["targets"] / fit_seconds,
            "total_seconds": seconds,
        },
    )


def _main(cfg: DictConfig) -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN and cfg.evaluate is None:
        # A sweep chooses; choosing by test scores would make them worthless.
        cfg.evaluate = ["validation"]
    run = train(cfg, overrides=list(hydra.overrides.task))
    objective: float | None = run.metrics["objective"]  # what a sweeper minimises
    return objective


main = door("train", _main)

if __name__ == "__main__":
    main()
