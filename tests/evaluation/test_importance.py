"""The importance of a setting is the share of the variance that goes with it, and of noise none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from forecast.evaluation.importance import importance

SIZES = (8, 16, 32)


def grid(repeated: int) -> pd.DataFrame:
    """Every cell with every size, `repeated` times, each with its seed."""
    rows = [(cell, size, s) for cell in ("gru", "lstm") for size in SIZES for s in range(repeated)]
    return pd.DataFrame(rows, columns=["model.cell", "model.hidden_size", "seed"])


def effects(runs: pd.DataFrame, *, cell: float, size: float, luck: float, seed: int = 0) -> list:
    """Objectives whose parts have these standard deviations."""
    parts = (
        (cell, np.where(runs["model.cell"] == "gru", 1.0, -1.0)),
        (size, runs["model.hidden_size"].map(SIZES.index).to_numpy() - 1.0),
        (luck, np.random.default_rng(seed).normal(size=len(runs))),
    )
    total: list[float] = sum(size * part / part.std() for size, part in parts).tolist()
    return total


def shares(runs: pd.DataFrame, objective: Sequence[float]) -> dict[str, float]:
    table = importance(runs, objective)
    assert table["importance"].is_monotonic_decreasing
    return dict(zip(table["key"], table["importance"], strict=True))


def test_importance_is_the_share_of_the_variance() -> None:
    runs = grid(40)
    found = shares(runs, effects(runs, cell=1.0, size=2.0, luck=0.5))
    assert found["model.cell"] == pytest.approx(1 / 5.25, abs=0.06)
    assert found["model.hidden_size"] == pytest.approx(4 / 5.25, abs=0.08)
    assert found["seed"] < 0.02
    assert shares(runs, effects(runs, cell=1.0, size=0.0, luck=1e-6))["model.cell"] < 1.1


@pytest.mark.parametrize("seed", range(3))
def test_noise_belongs_to_no_setting(seed: int) -> None:
    runs = grid(8)
    found = shares(runs, effects(runs, cell=0.0, size=0.0, luck=1.0, seed=seed))
    assert max(found.values()) < 0.1 and min(found.values()) >= 0


def test_neither_the_order_of_settings_nor_their_names_matter_much() -> None:
    runs = grid(8)
    objective = effects(runs, cell=1.0, size=1.0, luck=0.5)
    found = shares(runs, objective)
    turned = shares(runs[runs.columns[::-1]], objective)
    names = {"gru": "zebra", "lstm": "ant"}
    renamed = shares(runs.replace({"model.cell": names}), objective)
    for key, share in found.items():
        assert turned[key] == pytest.approx(share, abs=0.1)
        assert renamed[key] == pytest.approx(share, abs=0.1)
    pd.testing.assert_frame_equal(importance(runs, objective), importance(runs, objective))


def test_a_setting_that_some_lack_or_that_is_mixed_counts_as_well() -> None:
    runs = grid(4).assign(
        lacking=lambda r: r["model.cell"].map({"gru": 0.5}),  # NaN with lstm
        mixed=[None, "1,5", True, 3] * 6,
    )[["lacking", "mixed"]]
    found = shares(runs, np.where(runs["lacking"].isna(), 1.0, 0.0).tolist())
    assert found["lacking"] > 0.5 and found["mixed"] < 0.05


def test_of_few_runs_or_equal_ones_nothing_is_told() -> None:
    runs = grid(2)
    assert importance(runs.head(7), list(range(7))).empty
    assert importance(runs, [0.5] * len(runs)).empty
    assert importance(runs[[]], list(range(len(runs)))).empty
    assert list(importance(runs, [0.5] * len(runs))) == ["key", "importance"]
