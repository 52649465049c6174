"""Configuration: where it lies, how it is composed and checked, and what names a run.

Nothing here loads torch, plotly or a price source.
"""

from __future__ import annotations

import collections.abc
import difflib
import hashlib
import importlib
import inspect
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


class ForecastError(Exception):
    """Something the user can mend: one line naming the thing, the value and the remedy."""


# Keys that change how a run is made or shown, but not what comes out of it.
NOT_IN_ID = (
    "action",
    "allow",
    "backtest.executor",
    "backtest.jobs",
    "backtest.ray_address",
    "data.in_memory",
    "data.jobs",
    "data.max_age",
    "data.offline",  # what was read is in the id by its content
    "data.path",
    "data.patience",
    "data.progress",
    "data.symbols",
    "data.timeout",
    "evaluate",
    "force",
    "forecasts",  # also by its content
    "logger",
    "outputs",
    "path",
    "progress",
    "record",
    "report",
    "threads",
    "trainer.accelerator",  # the resolved device is in the id instead
    "weights",  # by its content
)

EXTRAS = ("optuna", "ray", "submitit")  # that bring launchers and sweepers of Hydra


def config_dir() -> Path:
    """The directory of the shipped configuration: in the installed package, else beside it."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise ForecastError(f"no conf/train.yaml in {package} or beside it: install the package again.")


def own_conf() -> Path | None:
    """The caller's own `./conf`, searched after the shipped one; None where there is none."""
    own = Path("conf").resolve()
    return own if own.is_dir() and own != config_dir().resolve() else None


def compose(name: str = "train", overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a command, as the command line would compose it.

    Parameters
    ----------
    name : str
        Primary configuration: `train`, `backtest`, `leaderboard`, `predict`, `explain`, `audit` or
        `fetch`.
    overrides : sequence of str
        As typed on the command line: `["model=gru", "ensemble=1"]`.

    Raises
    ------
    ForecastError
        A key or choice that does not exist, or a value that does not parse.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    own, more = own_conf(), []
    if own is not None and not any(o.startswith("hydra.searchpath=") for o in overrides):
        quoted = str(own).replace("\\", "\\\\").replace("'", "\\'")
        more = [f"hydra.searchpath=['file://{quoted}']"]
    before = GlobalHydra.instance().hydra  # a notebook may be inside a Hydra job of its own
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
            return hydra.compose(name, overrides=[*overrides, *more])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ForecastError(one_line(error)) from error
    finally:
        GlobalHydra.instance().hydra = before


def plain(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as nested dicts and lists of primitives, interpolations resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = OmegaConf.create(typing.cast(dict[str, Any], cfg))
        resolved = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ForecastError(one_line(error)) from error
    return typing.cast(dict[str, Any], resolved)


def instantiate(options: Mapping[str, Any], section: str, target: Any = None) -> Any:
    """Call a constructor with a section of the configuration, checking names and types first.

    Parameters
    ----------
    options : mapping
        Primitives; `_target_`, a dotted name, is used where no `target` is given.
    section : str
        Where the options stand in the configuration, for messages: `data`.
    target : callable, optional

    Raises
    ------
    ForecastError
        An unknown or missing key, or a value of another type than the constructor's annotation.
    """
    arguments = {k: v for k, v in options.items() if k != "_target_"}
    if target is None:
        module, _, name = str(options["_target_"]).rpartition(".")
        try:
            target = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ForecastError(
                f"{section}._target_={options['_target_']!r} cannot be imported: {error}."
            ) from error
    check(arguments, section, target)
    return target(**arguments)


def check(
    arguments: Mapping[str, Any], section: str, target: Any, *, only: Sequence[str] | None = None
) -> None:
    """Refuse arguments that `target` does not take, by name and by annotated type.

    With `only`, these are the arguments that stand in the section, all of them; the rest of what
    `target` takes comes from elsewhere.
    """
    prefix = f"{section}." if section else ""
    parameters = inspect.signature(target).parameters
    hints = typing.get_type_hints(target if inspect.isfunction(target) else target.__init__)
    known = list(parameters if only is None else only)
    for name, value in arguments.items():
        if name not in known:
            raise ForecastError(f"{prefix}{name} is unknown{nearest(name, known)}")
        if name in hints and not _fits(value, hints[name]):
            typed = json.dumps(value, default=str, ensure_ascii=False)
            wanted = _spoken(hints[name])
            single = not isinstance(value, list | dict | None)
            remedy = (
                f"Write {prefix}{name}=[{value}]."
                if "a list" in wanted and single
                else "Correct the value."
            )
            raise ForecastError(f"{prefix}{name}={typed} is not {wanted}. {remedy}")
    for name in known:
        needed = only is not None or parameters[name].default is inspect.Parameter.empty
        if needed and name not in arguments:
            raise ForecastError(f"{prefix}{name} is missing: give it a value.")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if hint is type(None) or hint is None:
        return value is None
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None and issubclass(origin, collections.abc.Mapping):
        return isinstance(value, collections.abc.Mapping)
    if origin is not None and issubclass(origin, collections.abc.Sequence):
        if isinstance(value, str) or not isinstance(value, collections.abc.Sequence):
            return False
        return not arguments or all(_fits(v, arguments[0]) for v in value)
    return not isinstance(hint, type) or isinstance(value, hint)


def _spoken(hint: Any, *, several: bool = False) -> str:
    names = {
        int: ("a whole number", "whole numbers"), float: ("a number", "numbers"),
        str: ("text", "texts"), bool: ("true or false", "true or false"),
        type(None): ("null", "null"),
    }  # fmt: skip
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # What is no primitive cannot be typed, so it is not offered.
        primitive = [a for a in arguments if a in names or typing.get_origin(a)]
        return " or ".join(dict.fromkeys(_spoken(a, several=several) for a in primitive))
    if hint in names:
        return names[hint][several]
    if origin is not None and issubclass(origin, collections.abc.Mapping):
        return "mappings" if several else "a mapping"
    of = f" of {_spoken(arguments[0], several=True)}" if arguments else ""
    return ("lists" if several else "a list") + of


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a refusal: the known name that was perhaps meant, or all of them."""
    if not known:
        return "; there is nothing to set here."
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]}?" if close else f"; known are {', '.join(known)}."


def canonical_id(config: Mapping[str, Any], **facts: str) -> str:
    """Ten hexadecimal digits naming a configuration together with what it read and where it ran.

    Parameters
    ----------
    config : mapping
        Resolved configuration; keys of `NOT_IN_ID` are left out.
    facts : str
        sha256 of the data, resolved device, package version.
    """
    on_cpu = ("trainer.precision",) if facts.get("device") == "cpu" else ()  # where it is nothing
    text = json.dumps([without(config, (*NOT_IN_ID, *on_cpu)), facts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def without(config: Mapping[str, Any], dotted: Sequence[str]) -> dict[str, Any]:
    """A copy of a nested configuration without some dotted keys."""
    result: dict[str, Any] = json.loads(json.dumps(config, default=str))
    for key in dotted:
        *parents, last = key.split(".")
        node: Any = result
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return result


def one_line(error: BaseException) -> str:
    """An error's message on one line; Hydra's are shortened and given a suggestion."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        extra = choice.partition("_")[0]
        if group in ("hydra/launcher", "hydra/sweeper") and extra in EXTRAS:
            return f"{group}={choice} is not installed: pip install 'forecast[{extra}]'"
        return f"{group}={choice} is no choice{nearest(choice, sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be read. Write key=value, and quote special characters, "
            "from the shell too: 'data.symbols=\"^GSPC\"'."
        )
    if str(error).startswith("Config group override must be"):
        return "a group such as model or data needs one of its options; `--help` lists them."
    text = " ".join(str(error).split()) or type(error).__name__
    if "Could not override" in text or "is not in struct" in text:
        key = text.split("'")[1] if "'" in text else text
        return f"{key} is no option{_nearest_key(key)}"
    return text


def _nearest_key(key: str) -> str:
    from omegaconf import OmegaConf

    try:
        known = []
        for file in sorted(config_dir().glob("*.yaml")):
            known += _leaves(OmegaConf.to_container(OmegaConf.load(file)))
        for group in config_dir().iterdir():
            if group.is_dir() and group.name != "experiment":
                for file in sorted(group.glob("*.yaml")):
                    found = _leaves(OmegaConf.to_container(OmegaConf.load(file)))
                    known += [f"{group.name}.{key}" for key in found]
    except Exception:
        return "."
    # Another command may have the very key.
    close = difflib.get_close_matches(key, sorted({*known} - {key}), n=1)
    return f": did you mean {close[0]}?" if close else "; `--help` lists the options."


def _leaves(node: Any, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        if name != "defaults":
            keys.append(f"{prefix}{name}")
            if hasattr(value, "items"):
                keys += _leaves(value, f"{prefix}{name}.")
    return keys
