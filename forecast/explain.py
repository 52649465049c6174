"""`python -m forecast.explain`: what trained networks remember, and what moves their forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, instantiate, plain
from forecast.door import door
from forecast.run import Run, load_run, run_name

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from forecast.prices.frame import Prices


@dataclass(frozen=True, kw_only=True)
class Explain:
    """The keys of an explanation; their meaning stands in conf/explain.yaml."""

    run: str | Sequence[str] | None
    fold: int
    horizon: int | None
    symbols: int
    origins: int
    lags: int
    show: str | None
    allow: Sequence[str]
    recall: Mapping[str, int]
    threads: int | None
    outputs: str

    def __post_init__(self) -> None:
        if not self.run:
            raise ForecastError(
                "run is null: name one, run=lstm-0123456789, or several, "
                "run=[rnn-0123456789,lstm-0123456789]; list_runs() shows them."
            )
        for name, least in (("symbols", 1), ("origins", 1), ("lags", 2)):
            if getattr(self, name) < least:
                raise ForecastError(f"{name}={getattr(self, name)} must be {least} or more.")
        if self.threads is not None and self.threads < 1:
            raise ForecastError(f"threads={self.threads} must be 1 or more, or null.")

    @property
    def runs(self) -> list[str]:
        assert self.run is not None
        return [self.run] if isinstance(self.run, str) else [str(name) for name in self.run]


@dataclass(frozen=True, kw_only=True)
class Task:
    """The section `recall`; its meaning stands in conf/explain.yaml."""

    seeds: int
    epochs: int

    def __post_init__(self) -> None:
        if self.seeds < 0 or self.epochs < 1:
            raise ForecastError(
                f"recall.seeds={self.seeds} must be 0 or more, recall.epochs={self.epochs} at "
                "least 1."
            )


def explain(cfg: DictConfig | Mapping[str, Any], *, overrides: Sequence[str] = ()) -> Run:
    """Look into the networks of one run or several.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("explain", ["run=lstm-0123456789"])`.
    overrides : sequence of str
        What was typed, for the record.

    Returns
    -------
    Run
        The folder of the explanation, made anew each time: explain.json, a CSV file for each table
        of `forecast.evaluation.explanation` and for the task with known memory, report.html.

    Raises
    ------
    ForecastError
        Anything about the runs that the user can mend.
    """
    import pandas as pd

    from forecast.evaluation import explanation
    from forecast.evaluation.explained import open_explained
    from forecast.evaluation.recall import recall
    from forecast.models.devices import torch_threads
    from forecast.report.page import write_report

    config = plain(cfg)
    in_memory = (config.pop("data", None) or {}).get("in_memory")
    settings: Explain = instantiate(config, "", Explain)
    task: Task = instantiate(config["recall"], "recall", Task)
    runs = [load_run(name, settings.outputs, allow=settings.allow) for name in settings.runs]
    names = [run.name for run in runs]
    if len({*names}) < len(names):
        raise ForecastError(f"run={settings.runs} names a run twice. Name each once.")
    explained = open_explained(
        runs, fold=settings.fold, horizon=settings.horizon, in_memory=in_memory
    )
    prices = explained.prices
    options = {name: value for name, value in config.items() if name not in ("outputs", "threads")}
    name = run_name("explain", {**options, "run": names}, data=prices.sha256, device="cpu")
    result = Run(Path(settings.outputs) / name)
    # Networks are small: more threads would only wait for each other.
    with result.lock(), torch_threads(settings.threads or 1):
        result.clear()
        with result.attempt(config, overrides, "cpu"):
            found = explanation.explain(
                explained,
                symbols=settings.symbols,
                origins=settings.origins,
                lags=settings.lags,
                show=settings.show,
                say=result.say,
            )
            tables = dict(found.tables)
            if task.seeds:
                tables["recall"] = pd.concat(
                    [
                        recall(explained.config, explained.models, seed=seed, epochs=task.epochs)
                        for seed in range(task.seeds)
                    ],
                    ignore_index=True,
                )
            for table_name, table in tables.items():
                result.write(f"{table_name}.csv", table)
            result.write("data.json", _data(runs[0], prices))
            result.write("explain.json", {"runs": names, **found.facts})
    print(f"report: {write_report(result)}")
    return result


def _data(run: Run, prices: Prices) -> dict[str, Any]:
    """Where the prices come from; a warning where they are not those that the run was made of."""
    data = run.data
    warnings = list(data["warnings"])
    if prices.sha256 != data["sha256"]:
        warnings.append(
            f"prices were revised since {run.name} was trained: what is shown here is how its "
            "networks read the prices of today"
        )
        print(f"warning: {warnings[-1]}")
    return {"source": data["source"], "sha256": prices.sha256, "warnings": warnings}


def _main(cfg: DictConfig) -> Run:
    from hydra.core.hydra_config import HydraConfig

    return explain(cfg, overrides=list(HydraConfig.get().overrides.task))


main = door("explain", _main)

if __name__ == "__main__":
    main()
