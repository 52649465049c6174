"""The run folder: one directory per configuration, complete once `metrics.json` is there.

Everything is written to a temporary file and renamed, under an OS lock, so a folder is never half
of anything. Reading a run executes nothing from it.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, canonical_id, without
from forecast.documents import finite, read_yaml, table_of, write_atomically
from forecast.environment import environment

if TYPE_CHECKING:
    import pandas as pd

    from forecast.models.ensemble import Ensemble

PARTS = ("validation", "test")
# Files of finished folders that are no runs.
MADE_OF_A_RUN = ("audit.json", "explain.json", "prediction.json")
LEDGER = ("time", "run", "configuration", "data", "first", "last", "part")
COLUMNS = ("run", "model", "head", "data", "horizons", "seed", "parts", "objective", "overrides")


class Run:
    """A folder under `outputs/`.

    Parameters
    ----------
    path : Path
        The folder. It need not exist yet.
    allow : sequence of str
        Dotted names of own heads that `model` may import; loading executes nothing else.
    """

    def __init__(self, path: Path, *, allow: Sequence[str] = ()) -> None:
        self.path, self.allow = Path(path), tuple(allow)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, parts={list(self.parts)})"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return read_yaml(self.path / "config.yaml") or {}

    @property
    def overrides(self) -> list[str]:
        """What was typed."""
        return list(read_yaml(self.path / "overrides.yaml") or [])

    @property
    def metrics(self) -> dict[str, Any]:
        return self.json("metrics.json")

    @property
    def data(self) -> dict[str, Any]:
        return self.json("data.json")

    @property
    def environment(self) -> dict[str, Any]:
        return self.json("environment.json")

    @property
    def timing(self) -> dict[str, Any]:
        return self.json("timing.json")

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts that are scored; empty while the run is not complete."""
        return tuple(self.metrics.get("parts", ()))

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run; empty where there is none yet."""
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError) as error:
            raise ForecastError(
                f"{self.path / name} is damaged ({error}). Repeat the run with force=true."
            ) from error

    def history(self) -> pd.DataFrame:
        """A row per member and epoch: losses and learning rate."""
        import pandas as pd

        return pd.read_csv(self.path / "history.csv")

    def forecasts(
        self,
        *,
        columns: Sequence[str] | None = None,
        part: str | None = None,
        model: str | None = None,
        symbols: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """The Forecasts table, or a part of it."""
        from forecast.forecasts import read_forecasts

        return read_forecasts(
            self.path / "forecasts.parquet",
            columns=columns,
            part=part,
            model=model,
            symbols=symbols,
        )

    def table(self, *branch: str, file: str = "metrics.json") -> pd.DataFrame:
        """What is nested in a JSON file as a table: `run.table("scores", "test")`.

        Parameters
        ----------
        branch : str
            Keys that lead to what is wanted; none for all.
        file : str
            metrics.json, or another one of the folder, such as the luck.json of a portfolio.

        Returns
        -------
        DataFrame
            A row for each mapping that holds values, indexed by the keys that lead to it (of
            scores: model and horizon), and a column for each value. What lies deeper is left out.

        Raises
        ------
        ForecastError
            A key leads nowhere, or to no mapping.
        """
        return table_of(self.json(file), branch, where=f"run {self.name}", file=file)

    def model(self, cell: str | None = None, *, fold: int = -1) -> Ensemble:
        """The trained networks, rebuilt from primitives, and from a head in `allow`.

        Parameters
        ----------
        cell, fold :
            Of a backtest: which networks (by default its first model's) of which fold.
        """
        from forecast.models.configured import make_task
        from forecast.models.ensemble import load_ensemble

        config, folder = self.config, self.path
        if "backtest" in config:
            fits = self.metrics.get("fits", {})
            if not fits or (cell or next(iter(fits))) not in fits:
                raise ForecastError(
                    f"run {self.name} has no networks {cell or ''}: there are "
                    f"{', '.join(fits) or 'none, since it scored given forecasts'}."
                )
            folder = self.path / fits[cell or next(iter(fits))][fold]["folder"]
        return load_ensemble(
            folder, members=config["ensemble"], task=make_task(config), allow=self.allow
        )

    @cached_property
    def _lock(self) -> Any:
        import filelock

        folder = self.path.parent / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(folder / f"{self.name}.lock")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out; a second one waits until the first is done."""
        import filelock

        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            print(f"{self.path} is being worked on by another process: waiting", flush=True)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def write(self, name: str, content: Any) -> None:
        """Write a file of the run atomically: JSON, YAML, a table or text by its ending."""
        if name.endswith(".parquet"):
            temporary = self.path / f".{name}.tmp"
            content.to_parquet(temporary, index=False)
            os.replace(temporary, self.path / name)
            return
        if name.endswith(".json"):
            text = json.dumps(finite(content), indent=1, allow_nan=False) + "\n"
        elif name.endswith(".yaml"):
            import yaml

            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        elif name.endswith(".csv"):
            text = content.to_csv(index=False, lineterminator="\n")
        else:
            text = content
        write_atomically(self.path / name, text)

    @contextlib.contextmanager
    def attempt(
        self, config: Mapping[str, Any], overrides: Sequence[str], device: str
    ) -> Iterator[None]:
        """Work on parts that are missing: what was asked is written first, an error last."""
        for stale in ("error.txt", "report.html"):
            (self.path / stale).unlink(missing_ok=True)
        try:
            if not self.parts:
                self.write("config.yaml", config)
                self.write("overrides.yaml", list(overrides))
                self.write("environment.json", environment(device))
            yield
        except Exception as error:
            self.write("error.txt", f"{type(error).__name__}: {error}\n")
            raise

    def say(self, line: str) -> None:
        """Print a line and keep it in `train.log`."""
        print(line, flush=True)
        with open(self.path / "train.log", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def clear(self) -> None:
        """Forget everything; the ledger keeps what was looked at."""
        if self.path.exists():
            # Renamed first: a kill in the middle must not leave a folder that looks finished.
            grave = self.path.with_name(f".{self.name}.removed")
            shutil.rmtree(grave, ignore_errors=True)
            self.path.rename(grave)
            shutil.rmtree(grave)

    def record(
        self, part: str, first: str, last: str, *, trials: Mapping[str, str] | None = None
    ) -> None:
        """Append one look at a part to the ledger, or a line per trial: name and configuration."""
        import filelock

        path = self.path.parent / "ledger.csv"
        looks = trials or {self.name: canonical_id(without(self.config, ["seed"]))}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with filelock.FileLock(self.path.parent / ".locks" / "ledger.lock"):
            new = not path.exists()
            with open(path, "a", newline="") as file:
                line = csv.writer(file)
                if new:
                    line.writerow(LEDGER)
                for name, configuration in looks.items():
                    line.writerow(
                        [now, name, configuration, self.data["sha256"], first, last, part]
                    )
                file.flush()
                os.fsync(file.fileno())


def run_name(
    prefix: str, config: Mapping[str, Any], *, data: str, device: str, own: str = ""
) -> str:
    """`<prefix>-<hash10>`: the name in front keeps Hydra from reading the id as a number.

    Parameters
    ----------
    prefix : str
        The model, or the door's name.
    data, own : str
        sha256 of the prices, and of the code of the user's own parts.
    device : str
        What the trainer's accelerator means here.
    """
    version = importlib.metadata.version("forecast")
    return f"{prefix}-" + canonical_id(config, data=data, device=device, version=version, own=own)


def same_run(found: str, names: Sequence[str]) -> str:
    """The name of a run, which must be one of `names` where some are given.

    Raises
    ------
    ForecastError
        It is another one: its prices were revised, its own code was changed, or it was made on
        another device or by another version.
    """
    if names and found not in names:
        raise ForecastError(
            f"run {names[-1]} would now be {found}: its prices, its own code, the device or the "
            "version are others than they were. Repeat its command, and choose again."
        )
    return found


def load_run(
    run: str | os.PathLike[str],
    outputs: str | os.PathLike[str] | None = None,
    *,
    allow: Sequence[str] = (),
) -> Run:
    """Open a finished run by its path or its name (or the beginning of it) under `outputs`.

    Nothing of it is executed; a head of somebody's own is imported only where `allow` names it:
    `load_run("lstm-0123456789", allow=["my_module.MyHead"])`.

    Raises
    ------
    ForecastError
        There is none, it is ambiguous, or it is not finished.
    """
    path = Path(run)
    if not path.is_dir():
        folder = _outputs(outputs)
        found = [p for p in _folders(folder) if p.name.startswith(str(run))]
        exact = [p for p in found if p.name == str(run)]
        if len(exact or found) != 1:
            known = [p.name for p in found or _folders(folder)] or ["none"]
            raise ForecastError(
                f"run {str(run)!r} is {'ambiguous' if found else 'not'} in {folder}: there are "
                f"{', '.join(known[:9])}{', …' if len(known) > 9 else ''}."
            )
        path = (exact or found)[0]
    if not (path / "metrics.json").is_file():
        raise ForecastError(
            f"run {path.name} is not finished (no metrics.json). Repeat its command to continue it."
        )
    return Run(path, allow=allow)


def list_runs(outputs: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """All runs under `outputs`, finished or not, one row each, best objective first."""
    import pandas as pd

    rows = []
    for path in _folders(_outputs(outputs)):
        run = Run(path)
        config = run.config
        several = config.get("backtest", {}).get("models")
        rows.append(
            {
                "run": run.name,
                "model": ", ".join(several) if several else config.get("model", {}).get("cell"),
                "head": config.get("head", {}).get("name"),
                "data": run.data.get("source"),
                "horizons": config.get("horizons"),
                "seed": config.get("seed"),
                "parts": list(run.parts),
                "objective": run.metrics.get("objective"),
                "overrides": " ".join(run.overrides),
            }
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.sort_values("objective", na_position="last", ignore_index=True)


def prune_runs(
    outputs: str | os.PathLike[str] | None = None, *, runs: Sequence[str] | None = None
) -> list[str]:
    """Remove run folders: the unfinished ones, or those named. Runs in progress are left alone.

    Returns
    -------
    list of str
        The names of what was removed. The ledger still tells that they were scored.
    """
    import filelock

    removed = []
    for path in _folders(_outputs(outputs)):
        run = Run(path)
        if run.name in runs if runs is not None else not run.parts:
            try:
                with run._lock.acquire(timeout=0):
                    run.clear()
            except filelock.Timeout:
                continue
            removed.append(run.name)
    return removed


def _outputs(outputs: str | os.PathLike[str] | None) -> Path:
    return Path(outputs or os.environ.get("FORECAST_OUTPUTS", "outputs"))


def _folders(outputs: Path) -> list[Path]:
    if not outputs.is_dir():
        return []
    # What begins with a dot is on its way out: see Run.clear. What is made of a run is no run.
    found = (p for p in outputs.iterdir() if not p.name.startswith("."))
    runs = (p for p in found if not any((p / name).is_file() for name in MADE_OF_A_RUN))
    return sorted(p for p in runs if (p / "config.yaml").is_file())
