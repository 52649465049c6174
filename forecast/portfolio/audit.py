"""What can be found out about a strategy by running it: do its rules know the future?

A rule is handed forecasts and past returns, but it is code, and may read more. With later data *cut
off or changed* it must decide as before; *asked again*, in another order, it must answer the same;
and on *noise* under the real dates and symbols its weights must not earn the real returns. The last
of these finds what a rule reads from a file or a module of its own, which nobody can cut off.

Not found is a mean over all dates that a rule knows, such as which symbol did best: weights that
never change earn what their symbols earned, with foresight or without. Nor is foresight of risk,
which by itself earns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from forecast.config import ForecastError
from forecast.evaluation.audit import Line
from forecast.evaluation.inference import FEWEST, mean_test
from forecast.portfolio.case import Case
from forecast.portfolio.decisions import check_fill, make_rule
from forecast.portfolio.strategies import Outlook, Rule

CUTS = (0.5, 0.8)  # of the origins: where later data are cut off, and changed
BY_LUCK = 1e-4  # probability below which earnings on noise are no luck


class Watched:
    """A rule whose questions and answers are kept, and whose inputs are watched."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.calls: list[tuple[Outlook, np.ndarray, np.ndarray]] = []
        self.wrote = False  # into what it was given

    def __call__(self, forecasts: Outlook, past_returns: np.ndarray) -> np.ndarray:
        before = [array.copy() for array in _arrays(forecasts)]
        answer = self._rule(forecasts, past_returns)
        self.wrote |= not all(map(_same, before, _arrays(forecasts)))
        self.calls.append((forecasts, past_returns, np.array(answer)))
        return answer

    def asked_again(self, order: np.ndarray) -> np.datetime64 | None:
        """The first origin, in another order, at which the rule now answers otherwise."""
        for call in order:
            forecasts, past_returns, answer = self.calls[call]
            if not _same(self._rule(forecasts, past_returns), answer):
                return forecasts.origin
        return None


def check_rules(case: Case, rules: Mapping[str, Mapping[str, Any]]) -> Iterator[Line]:
    """The lines `fill`, `strategy` and `placebo` of the section `strategy.rules`."""
    yield check_window(case)
    if len(case.days) < FEWEST:
        sentence = f"not checked, nor placebo: {len(case.days)} origins are too few."
        yield Line(status="warn", name="strategy", sentence=sentence)
        return
    for name, check, good in (
        ("strategy", check_rule, f"at {len(case.days)} origins {_SAME}"),
        ("placebo", check_placebo, _NOTHING),
    ):
        lines = {label: _tried(name, check, case, label, entry) for label, entry in rules.items()}
        passed = [label for label, line in lines.items() if line.status == "pass"]
        if passed:
            values = {
                f"{label}.{key}": value
                for label in passed
                for key, value in lines[label].values.items()
            }
            sentence = f"{', '.join(passed)}, {case.where}: {good}."
            yield Line(status="pass", name=name, sentence=sentence, values=values)
        yield from (line for line in lines.values() if line.status != "pass")


_SAME = (
    "the same is decided, to the last bit, whether later forecasts and prices are there, cut off "
    "or changed, and when asked again in another order"
)
_NOTHING = (
    "on noise in place of forecasts and past returns, under the real dates and symbols, the real "
    "returns are not earned"
)


def check_window(case: Case) -> Line:
    """Whether what is forecast comes after the fill."""
    execution = case.execution or ("next_close" if case.quotes.open_TS is None else "next_open")
    try:
        check_fill(horizon=case.horizon, delay=case.delay, execution=execution)
    except ForecastError as error:
        return Line(status="fail", name="fill", sentence=str(error))
    sentence = (
        f"the target, {case.horizon} session{'s' * (case.horizon > 1)} from a delay of "
        f"{case.delay}, ends after orders are filled (execution={execution})."
    )
    if execution == "close":
        sentence = f"{sentence} Fills at the very close that decides are optimistic."
    return Line(status="warn" if execution == "close" else "pass", name="fill", sentence=sentence)


def check_rule(case: Case, label: str, rule: Rule) -> Line:
    """Whether a rule decides the same without what comes later, and when asked again."""

    def fail(sentence: str) -> Line:
        return Line(status="fail", name="strategy", sentence=f"{label}, {case.where}: {sentence}")

    watched, returns_TS = Watched(rule), case.quotes.returns_TS.copy()
    whole = case.decided(watched, case.table, case.quotes)
    if watched.wrote or not _same(returns_TS, case.quotes.returns_TS):
        return fail("it writes into what it is given: work on a copy.")
    order = np.random.default_rng(case.seed).permutation(len(watched.calls))
    origin = watched.asked_again(order)
    if origin is not None:
        return fail(
            f"asked again, it answers otherwise on {origin}: it keeps something between calls, or "
            "draws numbers without a seed. previous_S is what a rule may know of its past."
        )
    for share in CUTS:
        day = case.days[int(share * (len(case.days) - 1))]
        for what, other in (("without", case.until(day)), ("with other", case.changed(day))):
            found = _first_difference(whole, case.decided(rule, *other), day)
            if found is not None:
                return fail(
                    f"{found} {what} forecasts and prices after {day}. Such a rule reads what "
                    "comes later, or counts it."
                )
    if not whole.to_numpy().any():
        return Line(
            status="warn",
            name="strategy",
            sentence=f"{label}, {case.where}: not checked: it never holds anything.",
        )
    return Line(status="pass", name="strategy", sentence="")


def check_placebo(case: Case, label: str, rule: Rule) -> Line:
    """Whether weights that are decided on noise earn the real returns.

    Each symbol's mean weight is taken off first: holding the same all the time earns what the
    symbols earned, which is no foresight of a date.
    """
    weights = case.decided(rule, *case.noise())
    timing_RS = weights.to_numpy() - weights.to_numpy().mean(axis=0)
    if not np.abs(timing_RS).max(initial=0.0) > 1e-9:
        return Line(
            status="warn",
            name="placebo",
            sentence=f"{label}: its weights never change: whether they were chosen with hindsight "
            "cannot be seen.",
        )
    tests = {
        sessions: mean_test((timing_RS * case.ahead(weights.index, sessions)).sum(axis=1))
        for sessions in (1, case.delay + case.horizon)
    }
    sessions, test = min(tests.items(), key=lambda entry: entry[1].p)
    values = {"t": test.t}
    if test.p >= BY_LUCK:
        return Line(status="pass", name="placebo", sentence="", values=values)
    return Line(
        status="fail",
        name="placebo",
        sentence=f"{label}, {case.where}: forecasts and past returns are noise, and yet its "
        f"weights {'earn' if test.mean > 0 else 'lose'} {abs(test.mean):.3%} over the next "
        f"{f'{sessions} sessions' if sessions > 1 else 'session'} on average (t = {test.t:.1f}). "
        "It knows the real returns from somewhere else: a file, a module, another table.",
        values=values,
    )


def _tried(
    name: str,
    check: Callable[[Case, str, Rule], Line],
    case: Case,
    label: str,
    entry: Mapping[str, Any],
) -> Line:
    """A check of one rule; what the rule refuses is a failure of it."""
    try:
        with threadpool_limits(1):  # more threads may add up in another order
            return check(case, label, make_rule(label, entry))
    except ForecastError as error:
        return Line(status="fail", name=name, sentence=str(error))


def _first_difference(whole: pd.DataFrame, other: pd.DataFrame, day: np.datetime64) -> str | None:
    """The first weight up to a day that is not the same in both tables."""
    one, two = (t[t.index <= pd.Timestamp(day)] for t in (whole, other))
    if not one.index.equals(two.index):
        origin = one.index.symmetric_difference(two.index)[0]
        return f"on {origin.date()} it decides {'no more' if origin in one.index else 'only'}"
    differs = np.argwhere(one.to_numpy() != two.to_numpy())
    if not len(differs):
        return None
    row, column = differs[0]
    values = [float(t.to_numpy()[row, column]) for t in (one, two)]
    return (
        f"{len(differs)} weights are others, first that of {one.columns[column]} on "
        f"{one.index[row].date()} ({values[0]:.4g} becomes {values[1]:.4g}),"
    )


def _arrays(forecasts: Outlook) -> list[np.ndarray]:
    values = (getattr(forecasts, field.name) for field in fields(forecasts))
    return [value for value in values if isinstance(value, np.ndarray)]


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)
