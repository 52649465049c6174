"""Where steps of a walk-forward are worked on: here, in several processes, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial

from forecast.config import ForecastError
from forecast.models.walk import Outcome, Step
from forecast.settings import Walk

Job = Callable[[Sequence[Step]], list[Outcome]]


def complete(
    job: Job,
    chains: Sequence[Sequence[Step]],
    walk: Walk,
    *,
    steps: int,
    say: Callable[[str], None],
    clock: Callable[[], None],
    progress: bool,
) -> None:
    """Do chains of steps under one bar.

    Parameters
    ----------
    steps : of the whole walk-forward, those done before included.
    say, clock : called with each line of the log, and as a step ends.

    Raises
    ------
    ForecastError
        A step failed; all others that do not wait for it are done first.
    """
    from tqdm import tqdm

    left, failed = sum(map(len, chains)), []
    shown = progress and sys.stderr.isatty()
    bar = tqdm(total=steps, initial=steps - left, desc="fits", disable=not shown, smoothing=0)
    with bar:
        for outcome in outcomes(job, chains, walk):
            error = f"{outcome.step.name}: {outcome.error}" if outcome.error else ""
            failed += [error] if error else []
            for line in [*outcome.lines, *failed[-1:]] if error else outcome.lines:
                with bar.external_write_mode():
                    say(line)
            bar.update()
            clock()
    if failed:
        raise ForecastError(
            f"{failed[0]} {len(failed)} of {steps} fits failed, the others are kept: mend the "
            "cause and repeat the command."
        )


def processes(jobs: int | str) -> int:
    """Processes that `backtest.jobs` means here."""
    import joblib

    return joblib.effective_n_jobs(-1) if jobs == "auto" else int(jobs)


def outcomes(job: Job, chains: Sequence[Sequence[Step]], walk: Walk) -> Iterator[Outcome]:
    """Do chains of steps in this process, in several, or on a Ray cluster; in any order."""
    import joblib

    with ExitStack() as stack:
        each: Job = partial(_in_pool, job, os.getpid())
        order = "generator_unordered"
        if walk.executor == "ray":
            stack.enter_context(_ray(walk.ray_address))
            order, each = "list", job  # Ray's pool hands results over when all are there
        jobs = max(1, min(processes(walk.jobs), len(chains)))
        if jobs == 1 and walk.executor == "processes":
            for chain in chains:
                yield from job(chain)
            return
        # Arrays shared as files would be read-only, and torch writes no warning-free view of them.
        pool = joblib.Parallel(n_jobs=jobs, return_as=order, max_nbytes=None, batch_size=1)
        try:
            for outcomes in pool(joblib.delayed(each)(chain) for chain in chains):
                yield from outcomes
        except joblib.externals.loky.process_executor.TerminatedWorkerError as error:
            raise ForecastError(
                "a process of the backtest was killed, perhaps for want of memory. Repeat the "
                f"command, with fewer than backtest.jobs={jobs} if it happens again."
            ) from error


def _in_pool(job: Job, parent: int, chain: Sequence[Step]) -> list[Outcome]:
    """Do a chain in a process of a pool."""
    _end_with(parent)
    return job(chain)


@cache
def _end_with(parent: int) -> None:
    """Let this process end as soon as the one that started it is gone, however it was killed.

    It would go on with its step beside the process of the next command, which does the same step.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """joblib on a Ray cluster."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ForecastError(
            "backtest.executor=ray needs Ray: pip install 'forecast[ray]', on every node."
        ) from error
    import joblib

    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(
                address=address or "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ForecastError(
                f"backtest.ray_address={address}: {' '.join(str(error).split())} Correct the "
                "address, or leave it out for a Ray of this machine."
            ) from error
    register_ray()
    try:
        with joblib.parallel_config(backend="ray"):
            yield
    except ray.exceptions.RayError as error:
        raise ForecastError(
            f"the Ray cluster failed: {' '.join(str(error).split())[:200]} What is fitted is kept: "
            "repeat the command."
        ) from error
    finally:
        if ours:
            ray.shutdown()
