"""Rules by name: built in or somebody's own; every mistake in them is one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecast.config import ForecastError
from forecast.portfolio.rules import check_entry, make_rule, own_rules_sha256
from forecast.portfolio.strategies import RULES, Outlook

CODE = """
import numpy as np

def tilt(forecasts, past_returns, *, power: float = 1.0, symbol: str):
    return power * np.array([name == symbol for name in forecasts.symbols], float)

def greedy(forecasts, past_returns, **options): return forecasts.mean_S
def lonely(forecasts): return forecasts.mean_S
def unread(forecasts, past_returns, *, x: "Nowhere"): return forecasts.mean_S
def fails(forecasts, past_returns): raise KeyError("two\\nlines")
def writes(forecasts, past_returns):
    past_returns[0] = 0
    return forecasts.mean_S
def turns(forecasts, past_returns, *, turnover: float = 1.0): return forecasts.mean_S
def named(forecasts, past_returns, rule: str): return forecasts.mean_S
NUMBER = 1
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Callable[[str], str]:
    """The dotted name of something in a user's module."""
    name = f"own_{request.node.name.partition('[')[0]}_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / f"broken_{name}.py").write_text("raise RuntimeError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    return lambda what: f"{name}.{what}"


def outlook() -> tuple[Outlook, np.ndarray]:
    value_S, past = np.array([0.1, 0.2]), np.zeros((3, 2))
    value_S.flags.writeable = past.flags.writeable = False
    return Outlook(
        origin=np.datetime64("2020-03-04"),
        symbols=("A", "B"),
        horizon=1,
        periods=252.0,
        mean_S=value_S,
        std_S=value_S,
        quantiles_SQ=np.zeros((2, 21)),
        scale_S=value_S,
        previous_S=value_S,
    ), past


def test_a_bound_rule_has_its_options() -> None:
    forecasts, past = outlook()
    bound = make_rule("mine", {"rule": "top_k", "k": 1, "turnover": 0.3})
    np.testing.assert_array_equal(bound(forecasts, past), RULES["top_k"](forecasts, past, k=1))


def test_an_own_rule_is_found_by_its_dotted_name(own: Callable[[str], str]) -> None:
    bound = make_rule("mine", {"rule": own("tilt"), "symbol": "B", "power": 2})
    np.testing.assert_array_equal(bound(*outlook()), [0, 2])
    assert make_rule("mine", {"rule": own("tilt"), "symbol": "A"})(*outlook())[0] == 1


@pytest.mark.parametrize(
    "entry, told",
    [
        ({"rule": "top_k"}, "strategy.rules.mine.k is missing"),
        ({"rule": "top_k", "k": 2.5}, "strategy.rules.mine.k=2.5 is not a whole number"),
        ({"rule": "top_k", "k": 0}, "strategy.rules.mine: k=0 must be 1"),
        ({"rule": "top_k", "k": 2, "share": 1}, "strategy.rules.mine.share is unknown"),
        ({"rule": "top_k", "k": 2, "turnover": 0}, "strategy.rules.mine.turnover=0 must"),
        ({"rule": "top_k", "k": 2, "turnover": True}, "strategy.rules.mine.turnover=True must"),
        ({"rule": "topk", "k": 2}, "strategy.rules.mine.rule=topk is unknown: did you mean top_k"),
        ({"k": 2}, "strategy.rules.mine.rule=None is no rule: give one of long_short"),
        ("top_k", "strategy.rules.mine=top_k names no rule"),
    ],
)
def test_entries_are_checked_before_anything_runs(entry: Any, told: str) -> None:
    with pytest.raises(ForecastError, match=told):
        check_entry("mine", entry)


@pytest.mark.parametrize("label", ["equal_weight", "a/b", "", 3])
def test_labels_that_name_something_else_are_refused(label: Any) -> None:
    with pytest.raises(ForecastError, match="cannot be a label"):
        check_entry(label, {"rule": "top_k", "k": 2})


def test_checking_an_entry_imports_nothing_of_anybody() -> None:
    check_entry("mine", {"rule": "no_such_module.rule"})
    with pytest.raises(ForecastError, match="cannot be used .*no_such_module"):
        make_rule("mine", {"rule": "no_such_module.rule"})


@pytest.mark.parametrize(
    "what, told",
    [
        ("nothing", "cannot be used .*no attribute 'nothing'"),
        ("NUMBER", "cannot be used .it is a int, no function"),
        ("tilt", "strategy.rules.mine.symbol is missing"),
        ("greedy", "it must name its options. A rule is called as"),
        ("lonely", "A rule is called as"),
        ("unread", "Nowhere.*A rule is called as"),
        ("turns", "its option turnover would never reach it: give it another name"),
        ("named", "its option rule would never reach it"),
    ],
)
def test_own_rules_that_cannot_be_called_are_refused(
    own: Callable[[str], str], what: str, told: str
) -> None:
    for ask in (lambda rules: make_rule("mine", rules["mine"]), own_rules_sha256):
        with pytest.raises(ForecastError, match=told) as caught:
            ask({"mine": {"rule": own(what)}})
        assert "\n" not in str(caught.value)


def test_a_module_that_fails_when_imported_is_one_line(own: Callable[[str], str]) -> None:
    with pytest.raises(ForecastError, match=r"cannot be used \(at import\)"):
        make_rule("mine", {"rule": f"broken_{own('x')}"})


@pytest.mark.parametrize("what, told", [("fails", "KeyError: 'two"), ("writes", "ValueError: ass")])
def test_whatever_own_code_raises_is_one_line_with_the_origin(
    own: Callable[[str], str], what: str, told: str
) -> None:
    with pytest.raises(ForecastError, match=f"fails at 2020-03-04 with {told}") as caught:
        make_rule("mine", {"rule": own(what)})(*outlook())
    assert "\n" not in str(caught.value)


def test_the_hash_is_that_of_the_files_of_own_rules(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    assert own_rules_sha256({"a": {"rule": "top_k", "k": 3}}) == ""
    mine = {"rule": own("tilt"), "symbol": "A"}
    found = own_rules_sha256({"a": {"rule": "top_k", "k": 3}, "b": mine})
    file = tmp_path / f"{own('tilt').partition('.')[0]}.py"
    assert found == hashlib.sha256(file.read_bytes()).hexdigest()
    assert own_rules_sha256({"b": mine, "c": mine}) != found


@pytest.mark.parametrize("how", ["tilt", "bound", "Thing", "wrapped"])
def test_the_hash_counts_the_code_of_a_rule_that_is_handed_on(
    own: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    code = own("tilt").partition(".")[0]
    file, shown = tmp_path / f"{code}.py", f"shown_{code}"
    file.write_text(
        CODE + "class Thing:\n    def __call__(self, forecasts, past_returns): return 0\n"
    )
    (tmp_path / f"{shown}.py").write_text(
        f"import functools\nfrom {code} import tilt, Thing as Other\n"
        "bound, Thing = functools.partial(tilt, power=2.0), Other()\n"
        "@functools.wraps(tilt)\ndef wrapped(*given, **named): return tilt(*given, **named)\n"
    )
    entry = {"rule": f"{shown}.{how}", **({} if how == "Thing" else {"symbol": "A"})}
    found = own_rules_sha256({"mine": entry})
    both = (tmp_path / f"{shown}.py").read_bytes() + file.read_bytes()
    assert found == hashlib.sha256(both).hexdigest()
    file.write_text(file.read_text() + "# another rule\n")
    assert own_rules_sha256({"mine": entry}) != found
