"""`python -m forecast.train`: train a recurrent forecaster, score it, leave a run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import canonical_id, check, instantiate, plain, without
from forecast.door import door
from forecast.run import PARTS, Run, run_name, same_run
from forecast.settings import SECTIONS, Settings, check_sections

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from forecast.dataset.datamodule import PriceDataModule
    from forecast.models.ensemble import Ensemble
    from forecast.portfolio.quotes import Quotes
    from forecast.prices.frame import Prices
    from forecast.prices.simulated import Truth

    # Leaves the tables and metrics of parts that are missing.
    Evaluate = Callable[[Run, PriceDataModule, Ensemble, Sequence[str]], None]


def train(
    cfg: DictConfig | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    prices: Prices | None = None,
    names: Sequence[str] = (),
) -> Run:
    """Train the configured forecaster and score it beside the naive baselines.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("train", [...])`.
    overrides : sequence of str
        What was typed, for the record.
    prices : Prices, optional
        By default those that `cfg.data` says.
    names : sequence of str, optional
        The run that this must be: anything else is refused before it is trained.

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
    from forecast.dataset.folds import make_fold
    from forecast.models.choice import states_positions
    from forecast.models.devices import torch_threads
    from forecast.models.options import check_options
    from forecast.prices import load_prices

    start = time.perf_counter()
    config = plain(cfg)
    check_sections(config)
    settings = instantiate({k: v for k, v in config.items() if k not in SECTIONS}, "", Settings)
    check(config["split"], "split", make_fold, only=("validation", "test", "embargo"))
    device, own = check_options(config)
    prices = prices or load_prices(config["data"])
    name = run_name(config["model"]["cell"], config, data=prices.sha256, device=device, own=own)
    run = Run(Path(settings.outputs) / same_run(name, names), allow=[config["head"]["name"]])
    for line in prices.omitted:
        print(line)
    with run.lock(), torch_threads(settings.threads):
        if settings.force:
            run.clear()
        missing = [part for part in settings.parts if part not in run.parts]
        spent = _spent(run)
        if missing:
            with run.attempt(config, overrides, device):
                datamodule = _prepare(run, config, prices)
                evaluate = _trader(prices) if states_positions(config) else _scorer(prices)
                del prices  # the panel holds what else is needed from here on
                _work(run, config, settings, datamodule, evaluate, device, missing)
            run.say(_table(run.metrics))
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
    from forecast.dataset.facts import data_facts
    from forecast.dataset.market import write_market
    from forecast.models.pipeline import make_datamodule

    datamodule = make_datamodule(config, prices)
    write_market(datamodule.panel.market, run.path / "market.parquet")
    run.write("data.json", data_facts(datamodule.panel, prices, [datamodule.fold], datamodule.task))
    return datamodule


def _work(
    run: Run,
    config: dict[str, Any],
    settings: Settings,
    datamodule: PriceDataModule,
    evaluate: Evaluate,
    device: str,
    missing: Sequence[str],
) -> None:
    """Train and evaluate; what is there already is kept."""
    from forecast.models.ensemble import load_ensemble
    from forecast.models.pipeline import fit_ensemble

    for part in missing:
        datamodule.require(part)
    progress = settings.progress and sys.stderr.isatty()
    fit_ensemble(config, datamodule, run.path, say=run.say, progress=progress)
    ensemble = load_ensemble(
        run.path,
        members=settings.ensemble,
        task=datamodule.task,
        device=device.split()[0],
        allow=run.allow,
    )
    evaluate(run, datamodule, ensemble, missing)


def _scorer(prices: Prices) -> Evaluate:
    """Forecast and score."""
    return partial(_score, prices.truth)


def _trader(prices: Prices) -> Evaluate:
    """State weights and trade them."""
    from forecast.portfolio.quotes import quotes_of

    return partial(_trade, quotes_of(prices))


def _trade(
    quotes: Quotes,
    run: Run,
    datamodule: PriceDataModule,
    ensemble: Ensemble,
    missing: Sequence[str],
) -> None:
    """State the weights of all parts, trade them and publish: tables, ledger, then metrics."""
    from forecast.models.heads import POSITION
    from forecast.models.weights import stated_weights
    from forecast.portfolio.positions import trade_positions
    from forecast.portfolio.trials import record_trials

    parts = [part for part in PARTS if part in (*run.parts, *missing)]
    ensembles = {run.config["model"]["cell"]: ensemble}
    weights, dropped = stated_weights(datamodule, parts=parts, ensembles=ensembles)
    cost = run.config["head"]["cost"]
    metrics = trade_positions(run, quotes, weights, cost=cost, parts=parts)
    trial = canonical_id(without(run.config, ["seed"]))
    for part in missing:
        first, last = run.data["fold"][part]
        run.record(part, first, last)
        # It is one more strategy that was tried on these prices, and deflates all others.
        names = [(model, POSITION) for model in ensembles]
        record_trials(run, part, first, last, dict.fromkeys(names, trial))
    run.write("metrics.json", {"parts": parts, **metrics, "dropped": dropped})


def _table(metrics: Mapping[str, Any]) -> str:
    """The metrics as text for the terminal."""
    if "scores" in metrics:
        from forecast.evaluation.scores import table
    else:
        from forecast.portfolio.published import table
    return table(metrics)


def _score(
    truth: Truth | None,
    run: Run,
    datamodule: PriceDataModule,
    ensemble: Ensemble,
    missing: Sequence[str],
) -> None:
    """Forecast the missing parts, score them and publish: forecasts, ledger, then metrics."""
    from forecast.evaluation.scores import Scores, objective
    from forecast.forecasts import combine, read_blocks
    from forecast.models.pipeline import write_forecasts

    before, model = run.metrics, run.config["model"]["cell"]
    whole, fresh = run.path / "forecasts.parquet", run.path / "forecasts-new.parquet"
    written = write_forecasts(
        fresh, datamodule, parts=missing, ensembles={model: ensemble}, truth=truth
    )
    scores = Scores()
    for block in read_blocks(fresh):
        scores.add(block)
    new = {**scores.summary(), "dropped": written.dropped}
    if before:
        combine({whole: run.parts, fresh: missing}, whole)
        fresh.unlink()
    else:
        fresh.replace(whole)  # what joining it alone would give, byte for byte
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


def _main(cfg: DictConfig) -> Run:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from forecast.prices import shared_prices

    hydra = HydraConfig.get()
    swept = hydra.mode == RunMode.MULTIRUN
    prices = shared_prices(plain(cfg)["data"]) if swept else None
    return train(cfg, overrides=list(hydra.overrides.task), prices=prices)


main = door("train", _main)

if __name__ == "__main__":
    main()
