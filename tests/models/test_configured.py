"""Runs of one process that ask for the same panel get the same one, and never another's."""

from __future__ import annotations

from typing import Any

import pytest

from forecast import compose
from forecast.config import plain
from forecast.models.configured import panel_of
from forecast.prices import load_prices, shared_prices


def config(*typed: str) -> dict[str, Any]:
    return plain(compose("train", ["data=simulated", "data.n_symbols=6", *typed]))


def test_trials_that_differ_in_their_network_share_one_panel() -> None:
    first = config("data.n_sessions=300", "model=gru", "seed=1")
    second = config("data.n_sessions=300", "model=lstm", "window.length=100")
    assert panel_of(first, load_prices(first["data"])) is panel_of(
        second, load_prices(second["data"])
    )


@pytest.mark.parametrize(
    "other", ["features=returns", "data.market=null", "data.max_gap=3", "data.seed=1"]
)
def test_whatever_a_panel_follows_from_makes_another_one(other: str) -> None:
    first, second = config("data.n_sessions=300"), config("data.n_sessions=300", other)
    panel = panel_of(first, load_prices(first["data"]))
    assert panel_of(second, load_prices(second["data"])) is not panel


def test_a_sweep_reads_the_prices_of_a_section_once() -> None:
    section = config("data.n_sessions=300")["data"]
    assert shared_prices(section) is shared_prices(dict(section))
    assert shared_prices({**section, "seed": 7}) is not shared_prices(section)
    assert load_prices(section) is not load_prices(section), "outside of sweeps files may change"
