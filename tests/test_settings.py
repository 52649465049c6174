"""Keys that commands share: each wrong value is one line, and parts come in one order."""

from __future__ import annotations

from typing import Any

import pytest

from forecast import compose
from forecast.config import ForecastError, instantiate, plain
from forecast.run import PARTS
from forecast.settings import (
    BACKTEST_SECTIONS,
    SECTIONS,
    Backtest,
    Report,
    Settings,
    Significance,
    Walk,
    check_sections,
)

TRAIN, BACKTEST = plain(compose("train")), plain(compose("backtest"))


def top(config: dict[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in sections}


def refusal(target: Any, section: str, options: dict[str, Any]) -> str:
    with pytest.raises(ForecastError) as caught:
        instantiate(options, section, target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_shipped_is_what_the_constructors_take() -> None:
    """Every key of a primary configuration is one of a section or of the settings."""
    assert isinstance(instantiate(top(TRAIN, SECTIONS), "", Settings), Settings)
    assert isinstance(instantiate(top(BACKTEST, BACKTEST_SECTIONS), "", Backtest), Backtest)
    for section, target in (("backtest", Walk), ("significance", Significance), ("report", Report)):
        assert instantiate(BACKTEST[section], section, target) == target(**BACKTEST[section])


@pytest.mark.parametrize(
    ("evaluate", "parts"),
    [
        (None, PARTS),
        (["test", "validation"], PARTS),
        (["test"], ("test",)),
        (["validation", "validation"], ("validation",)),
    ],
)
def test_parts_are_scored_in_one_order_whatever_is_typed(evaluate: Any, parts: Any) -> None:
    options = {**top(TRAIN, SECTIONS), "evaluate": evaluate}
    assert Settings(**options).parts == parts


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ensemble": 0}, "ensemble=0 must be 1 or more"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
        ({"threads": 0}, "threads=0 must be 1 or more, or null"),
        ({"evaluate": []}, "evaluate=[] scores nothing: choose validation, test"),
        ({"evaluate": ["live"]}, "evaluate: 'live' is no part"),
        ({"evaluate": "test"}, 'evaluate="test" is not a list of texts or null'),
        ({"force": 1}, "force=1 is not true or false"),
        ({"colour": "red"}, "colour is unknown"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], said: str) -> None:
    for target, config, sections in (
        (Settings, TRAIN, SECTIONS), (Backtest, BACKTEST, BACKTEST_SECTIONS)
    ):  # fmt: skip
        assert said in refusal(target, "", {**top(config, sections), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recalibrate": "isotonic"}, "recalibrate=isotonic is unknown: choose none, conformal"),
        ({"forecasts": []}, "forecasts names no table: give a path"),
        ({"forecasts": ""}, "forecasts names no table: give a path"),
        ({"forecasts": 5}, "forecasts=5 is not text or a list of texts or null"),
    ],
)
def test_wrong_settings_of_a_backtest_are_refused(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(Backtest, "", {**top(BACKTEST, BACKTEST_SECTIONS), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"executor": "dask"}, "backtest.executor=dask is unknown: choose processes, ray"),
        ({"jobs": 0}, "backtest.jobs=0 must be auto or a number"),
        ({"jobs": -1}, "backtest.jobs=-1 must be auto or a number"),
        ({"jobs": "all"}, "backtest.jobs=all must be auto or a number"),
        ({"jobs": True}, "backtest.jobs=true is not a whole number or text"),
        ({"jobs": 1.5}, "backtest.jobs=1.5 is not a whole number or text"),
        ({"mlp_widths": []}, "backtest.mlp_widths=[] must be hidden sizes"),
        ({"mlp_widths": [16, 0]}, "backtest.mlp_widths=[16, 0] must be hidden sizes"),
        ({"models": "lstm"}, 'backtest.models="lstm" is not a list of texts or null'),
        ({"first": None}, "backtest.first=null is not text or a whole number"),
        ({"models": []}, "backtest.models=[] names no network"),
        ({"warm_start": "yes"}, 'backtest.warm_start="yes" is not true or false'),
        ({"step": 1}, "backtest.step is unknown"),
    ],
)
def test_a_wrong_walk_is_refused(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(Walk, "backtest", {**BACKTEST["backtest"], **changes})


@pytest.mark.parametrize("changes", [{"repetitions": 99}, {"seed": -1}])
def test_a_wrong_bootstrap_is_refused(changes: dict[str, Any]) -> None:
    said = refusal(Significance, "significance", {**BACKTEST["significance"], **changes})
    assert "significance.repetitions=" in said and "significance.seed=" in said


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_is_missing_or_replaced_is_named(section: str) -> None:
    check_sections(TRAIN)
    with pytest.raises(ForecastError, match=f"the section {section} is missing"):
        check_sections({k: v for k, v in TRAIN.items() if k != section})
    if section != "horizons":
        with pytest.raises(
            ForecastError, match=rf"{section}=5 replaces a section.*{section}\.<key>"
        ):
            check_sections({**TRAIN, section: 5})


def test_a_backtest_needs_its_own_sections_too() -> None:
    check_sections(BACKTEST, BACKTEST_SECTIONS)
    with pytest.raises(ForecastError, match="the section backtest is missing"):
        check_sections(TRAIN, BACKTEST_SECTIONS)
