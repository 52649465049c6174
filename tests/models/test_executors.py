"""Wherever chains of steps are worked on, every one is, and failures come back as words."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecast import compose
from forecast.config import ForecastError, plain
from forecast.dataset.folds import walk_forward
from forecast.models.executors import outcomes
from forecast.models.walk import Outcome, Step, chained
from forecast.settings import Walk

DATES = np.busday_offset(np.datetime64("2000-01-03"), np.arange(1500)).astype("datetime64[D]")
FOLDS = list(walk_forward(DATES, first="2003-01-01", refit="6m", validation=50))
CHAINS = chained(FOLDS, ["lstm", "linear"], ["test"], warm_start=False)


def walk(**changes: Any) -> Walk:
    return Walk(**{**plain(compose("backtest"))["backtest"], **changes})


def tell(chain: Sequence[Step]) -> list[Outcome]:
    """Does nothing, and says in which process."""
    return [Outcome(step=step, lines=[str(os.getpid())]) for step in chain]


def die_once(chain: Sequence[Step], *, marker: Path) -> list[Outcome]:
    marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return tell(chain)


def told(found: Sequence[Outcome]) -> set[tuple[str, int]]:
    return {(outcome.step.model, outcome.step.fold.index) for outcome in found}


def test_one_job_stays_in_this_process_and_in_order() -> None:
    found = list(outcomes(tell, CHAINS, walk(jobs=1)))
    assert [outcome.step for outcome in found] == [step for chain in CHAINS for step in chain]
    assert {outcome.lines[0] for outcome in found} == {str(os.getpid())}


def test_outcomes_come_one_by_one_so_that_a_kill_loses_one_step_alone() -> None:
    done: list[int] = []

    def count(chain: Sequence[Step]) -> list[Outcome]:
        done.append(len(chain))
        return tell(chain)

    next(outcomes(count, CHAINS, walk(jobs=1)))
    assert len(done) == 1


def test_nothing_to_do_is_done_at_once() -> None:
    assert list(outcomes(tell, [], walk(jobs="auto"))) == []


def test_several_jobs_do_every_chain_in_other_processes() -> None:
    found = list(outcomes(tell, CHAINS, walk(jobs=2)))
    assert len(found) == len(CHAINS)
    assert told(found) == told([o for chain in CHAINS for o in tell(chain)])
    assert str(os.getpid()) not in {outcome.lines[0] for outcome in found}


def test_a_process_that_is_killed_is_told_in_one_line_with_the_remedy(tmp_path: Path) -> None:
    job = partial(die_once, marker=tmp_path / "died")
    with pytest.raises(ForecastError, match=r"was killed.*fewer than backtest\.jobs=2") as caught:
        list(outcomes(job, CHAINS, walk(jobs=2)))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "died").exists()


def test_a_ray_address_that_cannot_be_is_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(
        ForecastError, match=r"backtest\.ray_address=nonsense: .* Correct"
    ) as caught:
        list(outcomes(tell, CHAINS, walk(executor="ray", ray_address="nonsense")))
    assert "\n" not in str(caught.value)


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ForecastError, match=r"needs Ray: pip install 'forecast\[ray\]'"):
        list(outcomes(tell, CHAINS, walk(executor="ray")))
