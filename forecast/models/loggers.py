"""Lightning loggers by name; each extra is imported only when asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forecast.config import ForecastError, check


def csv(folder: Path, member: int) -> Any:
    """None of Lightning's: `history.csv` is written anyway."""
    return False


def tensorboard(folder: Path, member: int) -> Any:
    """Event files in the run folder, one version a member."""
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version=f"member-{member}")


def mlflow(folder: Path, member: int, *, tracking_uri: str | None, experiment_name: str) -> Any:
    """A run of MLflow for each member, by default in a folder `mlruns` beside the run folder."""
    from pytorch_lightning.loggers import MLFlowLogger

    return MLFlowLogger(
        experiment_name=experiment_name,
        run_name=f"{folder.name}-member-{member}",
        tracking_uri=tracking_uri or f"file:{folder.parent.resolve() / 'mlruns'}",
    )


# name: constructor, its options, the module of its extra
LOGGERS = {
    "csv": (csv, (), None),
    "tensorboard": (tensorboard, (), "tensorboard"),
    "mlflow": (mlflow, ("tracking_uri", "experiment_name"), "mlflow"),
}


def check_logger(options: Mapping[str, Any]) -> None:
    """Refuse what `make_logger` could not make.

    Raises
    ------
    ForecastError
        An unknown logger or option, or a logger whose extra is not installed.
    """
    arguments = dict(options)
    name = arguments.pop("name", None)
    if name not in LOGGERS:
        raise ForecastError(f"logger.name={name!r} is unknown: choose {', '.join(LOGGERS)}.")
    make, known, extra = LOGGERS[name]
    if extra is not None and importlib.util.find_spec(extra) is None:
        raise ForecastError(
            f"logger={name} is not installed: pip install -e '.[{name}]' (without a clone "
            f"'forecast[{name}]'), or use logger=csv."
        )
    check(arguments, "logger", make, only=known)


def make_logger(options: Mapping[str, Any], folder: Path, member: int) -> Any:
    """The Lightning logger of one member of a run folder; False for none."""
    check_logger(options)
    arguments = dict(options)
    make: Any = LOGGERS[arguments.pop("name")][0]
    return make(folder, member, **arguments)
