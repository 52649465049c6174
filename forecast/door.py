"""How doors open: Hydra around a plain function, and what became of the trials of a sweep.

A trial may run in this process, in another one, or on another machine: all that comes back from
everywhere, whatever the launcher and the sweeper, is a file. So each trial leaves one in the folder
of the sweep; they are told as they come, and once more at its end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from forecast.config import ForecastError, config_dir, one_line, own_conf
from forecast.documents import write_atomically
from forecast.environment import end_with, seek_no_garbage_among_imports
from forecast.run import Run

if TYPE_CHECKING:
    from omegaconf import DictConfig

HERE = "basic"  # the launcher that runs one trial after the other in this process
CHILDREN = "joblib"  # the one whose processes are this one's children
GRID = "basic"  # the sweeper that learns nothing
_sweeps: list[Path] = []  # folder of the sweep that this process began
_watch = contextlib.ExitStack()  # over its trials, until it ends


class Told(Exception):
    """An error that was printed when it happened; raised on so that Hydra counts it."""


class Sweep(Callback):
    """What Hydra calls at the start of a sweep."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Note where the trials will leave word, and refuse what no trial could do."""
        try:
            _refuse_devices(config)
        except ForecastError as error:
            _tell(error)
            sys.exit(1)  # Hydra makes a warning of an error
        _sweeps[:] = [Path(config.hydra.sweep.dir).absolute()]
        _prepare_ray(config)
        if config.hydra.runtime.choices["hydra/launcher"] != HERE:
            _watch.enter_context(_followed(_sweeps[0]))


def door(name: str, command: Callable[[DictConfig], Any]) -> Callable[[], None]:
    """The command line of a door: Hydra around a plain function.

    Our own errors, and Hydra's about the command line, become one line and exit status 1 without a
    traceback (`HYDRA_FULL_ERROR=1` shows it). A sweep tells each trial that fails, goes on, and
    ends with a table of them. Where the function returns a `Run`, its objective is what a sweeper
    minimises.
    """

    def opened() -> None:
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from hydra.errors import HydraException
        from hydra.types import RunMode
        from omegaconf.errors import OmegaConfBaseException

        traceback_wanted = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
        # Hydra would print its own five lines; with this it hands the exception to us instead.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        composed, home, parent = False, os.getcwd(), os.getpid()
        _sweeps.clear()
        sweeps = _sweeps  # by way of the job this process's own comes to every other one

        def job(cfg: DictConfig) -> Any:
            nonlocal composed
            composed = True
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return _trial(command, cfg, sweeps[0], home=home, parent=parent)
            try:
                return command(cfg)
            except ForecastError as error:
                if traceback_wanted:
                    raise
                _tell(error)
                sys.exit(1)  # past Hydra, which would add a line of its own

        try:
            own = own_conf()
            if own is not None and not any(a.startswith(("--config-dir", "-cd")) for a in sys.argv):
                sys.argv.append(f"--config-dir={own}")
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(job)()
        except KeyboardInterrupt:
            print("interrupted: the same command continues where this one stopped", file=sys.stderr)
            sys.exit(130)
        except Told:
            pass
        except BrokenPipeError:  # who reads our lines is gone: `… | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (ForecastError, HydraException, OmegaConfBaseException, ValueError) as error:
            # Hydra raises plain ValueErrors too; one from the command itself is a bug of ours.
            if traceback_wanted or (composed and not _sweeps and isinstance(error, ValueError)):
                raise
            _tell(error)
        except Exception as error:
            if traceback_wanted or not _sweeps:
                raise
            # A launcher's: a process or a node is gone, or a cluster was not to be had.
            what = f"{type(error).__name__}: {one_line(error)}"
            _tell(ForecastError(f"{what} What is finished is kept: repeat the command."))
        else:
            if not (_sweeps and _failures(_sweeps[0])):
                return
        sys.exit(1)

    @wraps(command)
    def main() -> None:
        seek_no_garbage_among_imports()
        try:
            opened()
        finally:
            _watch.close()
            if _sweeps:
                _end(_sweeps[0])

    return main


def _trial(
    command: Callable[[DictConfig], Any], cfg: DictConfig, folder: Path, *, home: str, parent: int
) -> Any:
    """One trial of a sweep: leaves a file that says what became of it, returns its objective."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    launcher = hydra.runtime.choices["hydra/launcher"]
    if launcher != HERE:
        _settle(home)
        seek_no_garbage_among_imports()
        if launcher == CHILDREN:
            end_with(parent)
        # As many processes as there are cores: more threads would only wait for each other.
        if "progress" in cfg:
            cfg.progress = False
        if cfg.get("threads", 1) is None:
            cfg.threads = 1
        if "backtest" in cfg and cfg.backtest.jobs == "auto":
            cfg.backtest.jobs = 1
    if "evaluate" in cfg and cfg.evaluate is None:
        # A sweep chooses; choosing by test scores would make them worthless.
        cfg.evaluate = ["validation"]
    number, typed = hydra.job.num, " ".join(hydra.overrides.task)
    file = folder / f"{number}.json"
    start = time.perf_counter()

    def leave(**word: Any) -> None:
        told = {"trial": typed, "seconds": time.perf_counter() - start, **word}
        write_atomically(file, json.dumps(told, default=str) + "\n")
        if launcher == HERE:
            _tell_trial(number, told)

    try:
        _refuse_devices(cfg)
        with contextlib.ExitStack() as stack:
            if "evaluate" in cfg:  # a run: its log and its page tell the same
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            run = command(cfg)
    except Exception as error:
        what = one_line(error)
        if not isinstance(error, ForecastError):  # a bug, or a full disk
            what = f"{type(error).__name__}: {what}"
            if launcher == HERE:
                traceback.print_exc()
        write_atomically(file.with_name(f"{file.stem}-error.txt"), traceback.format_exc())
        leave(error=what)
        if hydra.runtime.choices["hydra/sweeper"] == GRID:
            return None  # an error would keep it from its next batch
        raise Told(what) from None
    value, name = (run.metrics.get("objective"), run.name) if isinstance(run, Run) else (run, "")
    leave(run=name, objective=value)
    return value


def _tell_trial(number: int, told: Mapping[str, Any]) -> None:
    if "error" in told:
        _tell(ForecastError(told["error"]), f"#{number} {told['trial']}: ")
        return
    if not told["run"]:  # of a command whose own lines tell it
        return
    value = told["objective"]
    scored = "no objective" if value is None else f"objective {value:.5f}"
    print(f"#{number} {told['run']}: {scored}, {told['seconds']:.1f} s", flush=True)


@contextlib.contextmanager
def _followed(folder: Path) -> Iterator[None]:
    """Tell trials that end elsewhere, where what they print is lost in logs or does not come."""
    over, seen = threading.Event(), set[int]()

    def look() -> None:
        for number, told in _left(folder):
            if number not in seen:
                seen.add(number)
                _tell_trial(number, told)

    def follow() -> None:
        while not over.wait(0.2):
            look()
        look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _prepare_ray(config: DictConfig) -> None:
    """No dashboard, no log of Ray's; a cluster has its memory, which the plugin would size."""
    from omegaconf import OmegaConf, open_dict

    options = OmegaConf.select(config, "hydra.launcher.ray.init")
    if options is not None:
        with open_dict(options):
            options.setdefault("include_dashboard", False)
            options.setdefault("log_to_driver", False)
            options.setdefault("logging_level", "ERROR")
            if options.get("address"):
                options.setdefault("object_store_memory", None)


def _refuse_devices(cfg: DictConfig) -> None:
    """A sweep is parallel over its trials."""
    from omegaconf import OmegaConf

    devices = OmegaConf.select(cfg, "trainer.devices", default=1)
    if isinstance(devices, int) and devices > 1:
        raise ForecastError(
            f"trainer.devices={devices} with -m: a sweep is parallel over its trials. Leave "
            "trainer=ddp out and use hydra/launcher=joblib, or train the chosen one without -m."
        )


def _settle(home: str) -> None:
    """Stand where the command was typed: a worker on a cluster may have begun elsewhere."""
    os.chdir(home)
    if home not in sys.path:
        sys.path.insert(0, home)


def _left(folder: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and word of each trial, in order."""
    numbers = sorted(int(p.stem) for p in folder.glob("*.json") if p.stem.isdigit())
    for number in numbers:
        yield number, json.loads((folder / f"{number}.json").read_text(encoding="utf-8"))


def _failures(folder: Path) -> dict[int, Mapping[str, Any]]:
    return {number: told for number, told in _left(folder) if "error" in told}


def _end(folder: Path) -> None:
    """Tell how a sweep ended; what it leaves behind is needed where a trial failed alone."""
    failed, done = _failures(folder), len(list(_left(folder)))
    if done:
        lines = [f"sweep: {done - len(failed)} trials finished, {len(failed)} failed"]
        for number, told in failed.items():
            lines += [f"  #{number}  {told['trial']}", f"      {told['error']}"]
        if failed:
            lines.append(f"  what went wrong stands in {folder}/<number>-error.txt")
        if any(told.get("run") for _, told in _left(folder)):
            lines.append("compare them: python -m forecast.leaderboard")
        print("\n".join(lines), file=sys.stderr if failed else sys.stdout, flush=True)
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another sweep's is there
            folder.parent.rmdir()


def _tell(error: BaseException, where: str = "") -> None:
    print(f"error: {where}{one_line(error)}", file=sys.stderr, flush=True)
