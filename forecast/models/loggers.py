"""Lightning loggers by name; each extra is imported only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forecast.config import ForecastError

NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}  # logger: module of its extra


def make_logger(options: Mapping[str, Any], folder: Path, member: int) -> Any:
    """A Lightning logger of one member; False for csv, since `history.csv` is written anyway.

    Raises
    ------
    ForecastError
        An unknown logger, or one whose extra is not installed.
    """
    import importlib.util

    name = options["name"]
    if name == "csv":
        return False
    if name not in NEEDS:
        raise ForecastError(f"logger.name={name!r} is unknown: choose csv, {', '.join(NEEDS)}.")
    if importlib.util.find_spec(NEEDS[name]) is None:
        raise ForecastError(
            f"logger={name} is not installed: pip install 'forecast[{name}]', or use logger=csv."
        )
    from pytorch_lightning import loggers

    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="tensorboard", version=f"member-{member}")
    return loggers.MLFlowLogger(
        experiment_name=options["experiment_name"],
        run_name=f"{folder.name}-member-{member}",
        tracking_uri=options["tracking_uri"] or f"file:{folder.parent.resolve() / 'mlruns'}",
    )
