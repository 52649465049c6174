"""Rules by their names: built-in ones and somebody's own, with options that are checked."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forecast.config import ForecastError, check, nearest
from forecast.portfolio.strategies import BENCHMARKS, RULES, Outlook, Rule
from forecast.schema import LEVELS

OURS = ("rule", "turnover")  # keys of an entry that are no options of its rule


def check_entry(label: Any, entry: Any) -> None:
    """Refuse an entry of `strategy.rules` that names no rule, or whose turnover makes no sense.

    Options of built-in rules are checked too. Nothing of anybody's own is imported.
    """
    if not isinstance(label, str) or not label or "/" in label or label in BENCHMARKS:
        raise ForecastError(
            f"strategy.rules: {label!r} cannot be a label. Take a text without a slash, and none "
            f"of {', '.join(BENCHMARKS)}, which are shown anyway."
        )
    where = f"strategy.rules.{label}"
    if not isinstance(entry, Mapping):
        raise ForecastError(f"{where}={entry} names no rule. Set {where}.rule=<name>.")
    if not isinstance(entry.get("rule"), str):
        raise ForecastError(
            f"{where}.rule={entry.get('rule')} is no rule: give one of {', '.join(RULES)}, or "
            "my_module.my_rule."
        )
    turnover = entry.get("turnover")
    if turnover is not None and (
        isinstance(turnover, bool)
        or not isinstance(turnover, int | float)
        or not 0 < turnover < math.inf
    ):
        raise ForecastError(
            f"{where}.turnover={turnover} must be above 0, as a fraction of equity, or null."
        )
    if entry["rule"] in RULES:
        _silent(make_rule(label, entry))
    elif "." not in entry["rule"]:
        raise ForecastError(
            f"{where}.rule={entry['rule']} is unknown{nearest(entry['rule'], [*RULES])}"
        )


def make_rule(label: str, entry: Mapping[str, Any]) -> Rule:
    """A rule with its options: `bound(forecasts, past_returns_TS) -> weights_S`.

    Parameters
    ----------
    label : what the configuration calls it.
    entry : `rule`, a name of `RULES` or `my_module.my_rule`, and its options.

    Raises
    ------
    ForecastError
        The rule cannot be imported, or an option is unknown, missing or ill-typed. The bound rule
        raises it for whatever somebody's own code raises, with the origin.
    """
    where, name = f"strategy.rules.{label}", entry["rule"]
    rule = RULES.get(name) or _imported(name, where)
    given = {key: value for key, value in entry.items() if key not in OURS}
    try:
        options = _options(rule)
        check(options | given, where, rule, only=[*options, *_required(rule, options)])
    except (TypeError, ValueError, NameError) as error:  # a signature that cannot be read
        raise ForecastError(f"{where}.rule={name}: {error}. {_SIGNATURE}") from error

    def bound(forecasts: Outlook, past_returns_TS: np.ndarray) -> np.ndarray:
        try:
            return rule(forecasts, past_returns_TS, **given)
        except ForecastError as error:
            raise ForecastError(f"{where}: {error}") from error
        except Exception as error:
            if name in RULES:  # ours, and so a defect to be seen whole
                raise
            told = " ".join(str(error).split()) or "no message"
            raise ForecastError(
                f"{where}: {name} fails at {forecasts.origin} with {type(error).__name__}: {told}. "
                "Mend it: it is called with an Outlook and past returns, both read-only."
            ) from error

    return bound


def own_rules_sha256(rules: Mapping[str, Mapping[str, Any]]) -> str:
    """Hash of the files of the rules that are somebody's own; empty without any.

    Of each the module that is named and, where it only hands on what stands elsewhere, the file in
    which the rule is defined. Imports them, so what cannot be used is refused here.
    """
    digest, some = hashlib.sha256(), False
    for label, entry in sorted(rules.items()):
        if entry["rule"] not in RULES:
            make_rule(label, entry)
            for file in _files(entry["rule"]):
                digest.update(file.read_bytes())
            some = True
    return digest.hexdigest() if some else ""


_SIGNATURE = "A rule is called as my_rule(forecasts, past_returns, option=value, …)."


def _imported(dotted: str, where: str) -> Rule:
    module, _, name = dotted.rpartition(".")
    try:
        rule: Rule = getattr(importlib.import_module(module), name)
        if not callable(rule):
            raise ValueError(f"it is a {type(rule).__name__}, no function")
        return rule
    except Exception as error:  # whatever somebody's module raises
        told = " ".join(str(error).split()) or type(error).__name__
        raise ForecastError(
            f"{where}.rule={dotted} cannot be used ({told}). Give my_module.my_rule, importable "
            f"from the current directory, or one of {', '.join(RULES)}."
        ) from error


def _files(dotted: str) -> list[Path]:
    """The file of the module named and, where it is another one, of the code of the rule itself."""
    module, _, name = dotted.rpartition(".")
    named = importlib.import_module(module)
    rule: Any = inspect.unwrap(getattr(named, name))
    while isinstance(rule, functools.partial):
        rule = inspect.unwrap(rule.func)
    if not inspect.isroutine(rule) and not inspect.isclass(rule):
        rule = type(rule)  # an object that can be called
    try:
        source = inspect.getsourcefile(rule)
    except TypeError:  # built into the interpreter
        source = None
    files = [Path(file).resolve() for file in (named.__file__, source) if file is not None]
    return list(dict.fromkeys(files))  # in an order that does not depend on where they stand


def _parameters(rule: Rule) -> list[inspect.Parameter]:
    """What a rule takes beside forecasts and past returns."""
    first, second, *rest = inspect.signature(rule).parameters.values()
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in (first, second, *rest)):
        raise ValueError("it must name its options")
    for p in rest:
        if p.name in OURS:
            raise ValueError(f"its option {p.name} would never reach it: give it another name")
    return rest


def _options(rule: Rule) -> dict[str, Any]:
    """Options that have a default."""
    return {p.name: p.default for p in _parameters(rule) if p.default is not p.empty}


def _required(rule: Rule, options: Mapping[str, Any]) -> list[str]:
    return [p.name for p in _parameters(rule) if p.name not in options]


def _silent(rule: Rule) -> None:
    """Ask a rule about nothing: it then does no more than look at its options."""
    none_S = np.zeros(0)
    rule(
        Outlook(
            origin=np.datetime64("2000-01-03"), symbols=(), horizon=1, periods=252.0,
            mean_S=none_S, std_S=none_S, quantiles_SQ=np.zeros((0, len(LEVELS))), scale_S=none_S,
            previous_S=none_S,
        ),
        np.zeros((1, 0)),
    )  # fmt: skip
