"""A finished run folder with synthetic data in the form real ones have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.forecasts import INNER, LEVELS, QUANTILES, ForecastWriter
from forecast.run import Run

# Standard normal quantiles of LEVELS, upper half; the lower half mirrors it.
_UPPER = (
    *(0.0, 0.12566, 0.25335, 0.38532, 0.52440, 0.67449),
    *(0.84162, 1.03643, 1.28155, 1.64485, 2.32635),
)
NORMAL = np.array([-z for z in reversed(_UPPER[1:])] + list(_UPPER))

BASELINES = {"historical": 1.25, "ewma_normal": 0.9, "ewma_t": 1.05}  # how far off their scale is


def build_run(
    path: Path,
    *,
    symbols: tuple[str, ...] = ("AAPL", "BA", "RRC", "XOM"),
    horizons: tuple[int, ...] = (1, 5, 20),
    parts: dict[str, int] | None = None,
    head: str = "student_t",
    delay: int = 0,
    members: int = 3,
    network: str = "lstm",
    seed: int = 0,
) -> Run:
    """Write a run folder; `parts` gives the origins of each part (0: it has no rows)."""
    parts = {"validation": 60, "test": 100} if parts is None else parts
    random = np.random.default_rng(seed)
    path.mkdir(parents=True)
    models = {network: 1.0, **BASELINES}
    longest = max(horizons) + delay
    days = pd.bdate_range("2015-01-02", periods=1 + sum(n + longest for n in parts.values()))
    dates = days.to_numpy("datetime64[s]")

    scores: dict[str, Any] = {part: {model: {} for model in models} for part in parts}
    calibration: dict[str, Any] = {part: {model: {} for model in models} for part in parts}
    fold = {"train": ["1990-01-02", "2014-12-31"]}
    stream: dict[str, list[pd.DataFrame]] = {}
    first = 0
    close = {
        symbol: 50 * np.exp(np.cumsum(random.standard_t(6, len(dates))) / 100) for symbol in symbols
    }
    for part, count in parts.items():
        fold[part] = [str(days[first].date()), str(days[first + count + longest - 1].date())]
        for model, width in models.items():
            blocks = []
            for symbol in symbols:
                for horizon in horizons if count else ():
                    row = first + np.arange(count)
                    start, end = close[symbol][row + delay], close[symbol][row + delay + horizon]
                    blocks.append(
                        _forecasts(
                            actual=100 * np.log(end / start),
                            spread=1.22 * width * np.sqrt(horizon) * random.uniform(0.9, 1.1),
                            point=head == "point" and model == network,
                            origin=dates[row],
                            target_date=dates[row + delay + horizon],
                            price=close[symbol][row],
                            symbol=symbol,
                            horizon=horizon,
                            delay=delay,
                            model=model,
                            part=part,
                        )
                    )
            for horizon in horizons:
                rows = [block for block in blocks if block["horizon"].iloc[0] == horizon]
                score, counts = _score(pd.concat(rows)) if rows else (_NOTHING, None)
                scores[part][model][str(horizon)] = score
                calibration[part][model][str(horizon)] = counts
            if blocks:
                stream.setdefault(part, []).append(pd.concat(blocks, ignore_index=True))
        first += count + longest
    with ForecastWriter(path / "forecasts.parquet") as writer:
        for blocks in stream.values():
            for block in blocks:
                writer.write(block)

    folder = {
        "metrics": {
            "objective": 0.55,
            "parts": list(parts),
            "scores": scores,
            "calibration": calibration,
            "dropped": {part: 0 for part in parts},
        },
        "data": {
            "source": "sp500",
            "sha256": "0" * 64,
            "calendars": ["XNYS"],
            "rows": 8000 * len(symbols),
            "dates": {"first": "1990-01-02", "last": str(days[-1].date())},
            "fold": fold,
            "features": ["scaled_return", "log_scale"],
            "market": {"definition": "equal_weight", "first": "1990-01-02", "last": "2022-12-28"},
            "symbols": [
                {
                    "symbol": symbol,
                    "first": "1990-01-02",
                    "last": str(days[-1].date()),
                    "rows": 8000,
                    "floor_hits": 3,
                    "gaps": 0,
                    "zero_returns": 0.02,
                }
                for symbol in symbols
            ],
            "left_out": [{"symbol": "NEW", "reason": "only 12 sessions"}],
            "warnings": ["survivors: these 20 stocks were chosen with hindsight"],
        },
        "environment": {"python": "3.11.9", "device": "cpu", "git_commit": None},
        "timing": {"fit_seconds": 9.81, "targets_per_second": 412345.6, "total_seconds": 20.0},
    }
    run = Run(path)
    for name, content in folder.items():
        run.write(f"{name}.json", content)
    config = {
        "model": {"cell": network, "hidden_size": 32},
        "head": {"name": head},
        "ensemble": members,
        "horizons": list(horizons),
    }
    run.write("config.yaml", config)
    run.write("overrides.yaml", [f"model={network}", f"head={head}"])
    _history(members, random).to_csv(path / "history.csv", index=False)
    return run


_NOTHING: dict[str, Any] = {
    "rows": 0,
    **dict.fromkeys(
        ("crps", "crps_exact", "mae", "mae_zero", "coverage_50", "coverage_90", "log_score")
    ),
    **dict.fromkeys(("crps_scaled", "mae_scaled")),
}


def _forecasts(
    *, actual: np.ndarray, spread: float, point: bool, **columns: object
) -> pd.DataFrame:
    quantiles = 0.03 + spread * NORMAL
    return pd.DataFrame(
        {
            **columns,
            "fold": 0,
            "scale": 1.2,
            "actual": actual,
            "realized_variance": actual**2,
            "mean": 0.03,
            "std": None if point else spread,
            **{
                name: None if point else value
                for name, value in zip(QUANTILES, quantiles, strict=True)
            },
        }
    ).astype({"std": float, **dict.fromkeys(QUANTILES, float)})


def _score(table: pd.DataFrame) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Scores and calibration of one model, part and horizon, straight from their definitions."""
    actual, quantiles = table["actual"].to_numpy(), table[list(QUANTILES)].to_numpy()
    score = {
        **_NOTHING,
        "rows": len(table),
        "mae": float(np.abs(actual - table["mean"]).mean()),
        "mae_zero": float(np.abs(actual).mean()),
    }
    if np.isnan(quantiles).all():
        return score, None
    below = actual[:, None] <= quantiles
    inner = quantiles[:, 1:-1]
    pinball = (np.array(INNER) - (actual[:, None] < inner)) * (actual[:, None] - inner)
    crps = 2 * float(pinball.mean())
    shares = dict(zip(QUANTILES, below.mean(axis=0), strict=True))
    score |= {
        "crps": crps,
        "crps_exact": crps * 0.95,
        "crps_scaled": crps / 2,
        "coverage_50": float(shares["q75"] - shares["q25"]),
        "coverage_90": float(shares["q95"] - shares["q05"]),
        "log_score": 1.5,
    }
    counts = np.bincount((~below).sum(axis=1), minlength=len(LEVELS) + 1)
    return score, {"coverage": below.mean(axis=0).tolist(), "pit_counts": counts.tolist()}


def _history(members: int, random: np.random.Generator) -> pd.DataFrame:
    epoch = np.arange(14)
    return pd.concat(
        pd.DataFrame(
            {
                "member": member,
                "epoch": epoch,
                "step": 40 * (epoch + 1),
                "train_loss": 1.36 + 0.06 * np.exp(-epoch / 3) + random.normal(0, 0.002, 14),
                "validation_loss": 1.38
                + 0.03 * np.exp(-epoch / 2)
                + 0.0006 * epoch
                + random.normal(0, 0.001, 14),
                "learning_rate": 3e-3,
            }
        )
        for member in range(members)
    )


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """`make_run(**options)` builds a run folder called lstm-0123456789."""

    def make(name: str = "lstm-0123456789", **options: Any) -> Run:
        return build_run(tmp_path / name, **options)

    return make
