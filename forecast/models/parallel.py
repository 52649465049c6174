"""Processes that train one network together, by Lightning's DDP.

The one that starts them holds the lock of the run folder; of those that are started, the first one
alone writes checkpoints and `history.csv`. All of them end with the one that started them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Iterator

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from forecast.config import ForecastError
from forecast.environment import end_with

NOISE = (
    ".*does not have many workers.*",
    ".*LeafSpec.*",
    ".*sync_dist=True.*",  # what is logged is of all processes already
    ".*broadcast_buffers.*",
)


def quiet() -> None:
    """Silence what Lightning says of choices that were made on purpose."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


class Processes(DDPStrategy):
    """Starts one process a device; they average their gradients.

    Parameters
    ----------
    cpu : bool
        Devices are processes on the CPU, which share this one's threads; otherwise GPUs.
    devices : int
    """

    def __init__(self, *, cpu: bool, devices: int) -> None:
        super().__init__(
            start_method="spawn",
            process_group_backend="gloo" if cpu else "nccl",
            # They are constants; and a step of validation may wait for nobody, since processes
            # differ in how many they have.
            broadcast_buffers=False,
        )
        self.parent, self.threads = os.getpid(), max(1, torch.get_num_threads() // devices)

    def setup_environment(self) -> None:
        """Settle in a process that was started."""
        end_with(self.parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
        torch.set_num_threads(self.threads)
        quiet()
        super().setup_environment()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Leave no process behind, and say in one line what went wrong in one.

        Raises
        ------
        ForecastError
            One raised it, was killed, or could not start.
        """
        port = os.environ.get("MASTER_PORT")
        try:
            yield
        except ProcessRaisedException as error:
            # All that comes back of an exception is its traceback; our errors have one line.
            name, _, told = str(error).strip().splitlines()[-1].partition(": ")
            if name != f"{ForecastError.__module__}.{ForecastError.__name__}":
                raise
            raise ForecastError(told) from None
        except ProcessExitedException as error:
            raise ForecastError(
                "a process of the training was killed, perhaps for want of memory. Repeat the "
                "command, with a smaller trainer.devices if it happens again."
                if error.signal_name
                else "a process of the training could not start: what it said stands above."
            ) from error
        finally:
            for process in getattr(self.launcher, "procs", ()):
                process.kill()
                process.join()
            os.environ.pop("MASTER_PORT", None)  # the next network takes a free port of its own
            if port is not None:
                os.environ["MASTER_PORT"] = port
