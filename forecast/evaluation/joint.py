"""One table of several: aligned to the same rows, with recalibrated copies of its models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forecast.evaluation.alignment import align
from forecast.evaluation.recalibration import recalibrate
from forecast.forecasts import combine, read_forecasts


def join(
    tables: Sequence[Path], folder: Path, *, parts: Sequence[str], copies: str = "none"
) -> dict[str, Any]:
    """Write `forecasts.parquet` from several tables.

    Parameters
    ----------
    tables : paths of Forecasts tables.
    folder : where the joint table goes.
    parts : those wanted of it; recalibration learns from the validation part, wanted or not.
    copies : "none", or "conformal" for a recalibrated copy of every model that states levels.

    Returns
    -------
    dict
        `dropped` and `lacked`: by part, the rows that some model lacked, and which did.
    """
    whole, aligned, recalibrated = (
        folder / f"{name}.parquet" for name in ("forecasts", "aligned", "recalibrated")
    )
    dropped = align(tables, aligned)
    joint = {aligned: parts}
    if copies == "conformal":
        stated = read_forecasts(aligned, columns=["model", "q50"]).dropna()["model"]
        recalibrate(aligned, recalibrated, models=[str(model) for model in stated.unique()])
        joint[recalibrated] = parts
    combine(joint, whole)
    for path in joint:
        path.unlink()
    return {
        "dropped": {part: dropped[part]["rows"] for part in parts if part in dropped},
        "lacked": {part: dropped[part]["lacked"] for part in parts if part in dropped},
    }
