"""`python -m forecast.predict`: what a trained run states at the newest closes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, canonical_id, instantiate, plain, without
from forecast.door import door
from forecast.run import Run, load_run, run_name

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from forecast.models.prediction import Prediction
    from forecast.prices.frame import Prices

SHORT = "no forecast within its first window.warmup sessions"
HISTORY = 120  # sessions of each symbol that the page shows


@dataclass(frozen=True, kw_only=True)
class Predict:
    """The keys of a prediction; their meaning stands in conf/predict.yaml."""

    run: str | None
    network: str | None
    allow: Sequence[str]
    record: bool
    threads: int | None
    outputs: str
    progress: bool

    def __post_init__(self) -> None:
        if self.run is None:
            raise ForecastError(
                "run is null: name one, run=lstm-0123456789; list_runs() shows them."
            )
        if self.threads is not None and self.threads < 1:
            raise ForecastError(f"threads={self.threads} must be 1 or more, or null.")


def predict(cfg: DictConfig | Mapping[str, Any], *, overrides: Sequence[str] = ()) -> Run:
    """Forecast from each symbol's last known close.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("predict", ["run=lstm-0123456789"])`.
    overrides : sequence of str
        What was typed, for the record.

    Returns
    -------
    Run
        The folder of the prediction, made anew each time: predictions.csv and predictions.json,
        forecasts.parquet, report.html.

    Raises
    ------
    ForecastError
        Anything about the run, the symbols or their prices that the user can mend.
    """
    config = plain(cfg)
    typed = config.pop("data")
    in_memory = typed.pop("in_memory", None)
    settings = instantiate(config, "", Predict)
    source = load_run(str(settings.run), settings.outputs, allow=settings.allow)
    trained = source.config
    from forecast.evaluation.newest import data_section, newest_prices
    from forecast.evaluation.subject import require_own
    from forecast.models.choice import states_positions
    from forecast.models.configured import panel_of
    from forecast.models.devices import torch_threads
    from forecast.models.prediction import predict_last
    from forecast.prices.client import utc_now
    from forecast.prices.frame import some

    if "head" not in trained or states_positions(trained):
        raise ForecastError(
            f"run {source.name} holds no networks that forecast. Name one that was trained, with "
            "another head than position."
        )
    require_own(trained, source.name, settings.allow, option="allow")
    section = data_section(source, typed)
    if "progress" in section:
        section["progress"] = settings.progress
    if in_memory is None:
        in_memory = trained["data"].get("in_memory", True)
    # Where panels lie is no part of what is predicted, named or kept.
    where = {"in_memory": in_memory}
    prices, market, notes = newest_prices(source, {**section, **where}, now=utc_now())
    networks = list(source.metrics.get("fits", {})) or [trained["model"]["cell"]]
    name = settings.network or networks[0]
    if name not in networks:
        raise ForecastError(
            f"network={name} is not in {source.name}: there are {', '.join(networks)}."
        )
    named = {"run": source.name, "network": name, "data": section}
    result = Run(
        Path(settings.outputs) / run_name("predict", named, data=prices.sha256, device="cpu")
    )
    with result.lock(), torch_threads(1):
        result.clear()
        with result.attempt({**config, "data": section}, overrides, "cpu"):
            ensemble = source.model(name)
            placed = {**trained, "data": {**trained["data"], **where}}
            panel = panel_of(placed, prices, market=market)
            if list(panel.names) != source.data["features"]:
                raise ForecastError(
                    f"{source.name} was trained on {', '.join(source.data['features'])}; these "
                    f"prices give {', '.join(panel.names)}. Give it the covariates it had."
                )
            since = source.data["folds"][-1]["test"][0]
            threads = settings.threads or os.cpu_count() or 1
            prediction = predict_last(ensemble, panel, model=name, since=since, threads=threads)
            if not prediction.own.num_rows:
                raise ForecastError(
                    f"{some(panel.symbols)}: no more than window.warmup={ensemble.task.warmup} "
                    "sessions, so nothing is forecast. Name other data.symbols."
                )
            _publish(result, source, settings, section, prices, prediction, notes)
    return result


def _publish(
    result: Run,
    source: Run,
    settings: Predict,
    section: Mapping[str, Any],
    prices: Prices,
    prediction: Prediction,
    notes: Sequence[str],
) -> None:
    """Tables, the live record, the page; what tells that a prediction is there comes last."""
    import numpy as np

    from forecast.evaluation import prediction_table
    from forecast.evaluation.live import FOLDER, lasting, write_record
    from forecast.evaluation.newest import calendars_of, cautions, schedule
    from forecast.forecasts import ForecastWriter
    from forecast.models.prediction import summary
    from forecast.prices.client import utc_now
    from forecast.report.page import write_report

    now, trained = utc_now(), source.config
    task = trained["target"]
    rows = prediction.own.select(["symbol", "origin", "horizon"]).to_pandas()
    expected, begins = schedule(
        rows["symbol"].astype(str).tolist(),
        rows["origin"].to_numpy().astype("datetime64[D]"),
        rows["horizon"].to_numpy(),
        delay=task["delay"],
        calendars=calendars_of(prices),
    )
    with ForecastWriter(result.path / "forecasts.parquet") as writer:
        for table in (prediction.own, prediction.beside):
            writer.write(table)
    shown = summary(prediction, expected)
    result.write("predictions.csv", shown)
    codes = prices.frame["symbol"].cat.codes.to_numpy()
    ends = np.searchsorted(codes, codes, side="right")  # where each row's symbol ends
    last = prices.frame[ends - np.arange(len(codes)) <= HISTORY]
    price = last["raw_close"].fillna(last["close"]) if "raw_close" in last else last["close"]
    history = last[["symbol", "date"]].assign(symbol=last["symbol"].astype(str), price=price)
    result.write("history.parquet", history.reset_index(drop=True))
    early = begins > now.astype("datetime64[m]")
    path: Path | None = None
    reason: str | None = "record=false"
    if section.get("end") is not None:
        reason = "data.end is set, so it is no forecast of what nobody could know"
    elif settings.record:
        path = write_record(
            Path(settings.outputs) / FOLDER,
            prediction,
            expected_M=expected,
            early_M=early,
            made_at=now,
            run=source.name,
            data_hash=prices.sha256,
            origin={
                "data": lasting(section),
                "head": trained["head"],
                "configuration": canonical_id(without(trained, ["seed"])),
            },
        )
        late = int(np.sum(~early))
        reason = f"{late} of {len(early)} targets had begun" if late else None
    warnings = [*cautions(source, prices, section, now=now), *notes]
    stated = set(shown["symbol"])
    short = [name for name in prices.frame["symbol"].cat.categories if name not in stated]
    left_out = [*prices.left_out, *((name, SHORT) for name in short)]
    told = {
        "made_at": f"{now}+00:00",
        "run": source.name,
        "model": prediction.model,
        "part": "live",
        "horizons": trained["horizons"],
        "delay": task["delay"],
        "data_hash": prices.sha256,
        "recorded": path is not None,
        "recorded_reason": reason,
        "warnings": warnings,
        "left_out": [{"symbol": s, "reason": r} for s, r in left_out],
        "data": {"source": prices.source},
        "rows": len(shown),
    }
    result.write("predictions.json", {**told, "forecasts": shown.to_dict("records")})
    result.write("prediction.json", told)
    for line in replace(prices, left_out=tuple(left_out)).omitted:
        print(line)
    for warning in warnings:
        print(f"warning: {warning}")
    print(prediction_table.table(shown))
    kept = f"recorded in {path}" if path else "not recorded"
    kept += f": {reason}" if reason else ""
    print(f"{kept}\nreport: {write_report(result)}")


def _main(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    predict(cfg, overrides=list(HydraConfig.get().overrides.task))


main = door("predict", _main)

if __name__ == "__main__":
    main()
