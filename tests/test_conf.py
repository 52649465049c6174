"""The shipped configuration: every option works or says why not, and no key changes unseen.

`python tests/test_conf.py` writes the snapshot of keys again; look at the difference before you
commit it, since renamed keys break what people have typed and new ones change every run's id.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from forecast import compose, load_prices
from forecast.config import NOT_IN_ID, ForecastError, canonical_id, config_dir, plain

SNAPSHOT = Path(__file__).parent / "snapshot" / "keys.txt"
GROUPS = ("data", "features", "model", "head", "trainer", "logger")
TRADING = ("strategy", "costs")  # groups of commands that trade
SHARED = ("forecaster", "trading")  # no commands of their own: what several begin with
COMMANDS = sorted(f.stem for f in config_dir().glob("*.yaml") if f.stem not in SHARED)
UNTRAINED = ("explain", "fetch", "leaderboard", "predict")  # these have `data` at most
CHOICES = {
    group: sorted(file.stem for file in (config_dir() / group).glob("*.yaml"))
    for group in (*GROUPS, *TRADING, "experiment")
}
EVERY = [(group, choice) for group, choices in CHOICES.items() for choice in choices]
TRAINED = [(g, c) for g, c in EVERY if g not in TRADING and not c.startswith("headline")]
# What a choice needs beside it.
WITH = {("features", "ohlcv"): ["data=index"]}


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of values that are no non-empty mappings."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@cache
def config_of(group: str, choice: str, command: str = "train") -> dict[str, Any]:
    return plain(compose(command, [f"{group}={choice}", *WITH.get((group, choice), [])]))


@cache
def groups_of(command: str) -> tuple[str, ...]:
    """Groups that a command has a choice of."""
    config = plain(compose(command))
    # A section of which only `in_memory` can be set is no choice of one.
    return tuple(g for g in (*GROUPS, *TRADING) if set(config.get(g, ())) - {"in_memory"})


def changed(config: dict[str, Any], key: str) -> dict[str, Any]:
    """The configuration with another value at a key."""
    name, _, rest = key.partition(".")
    return {**config, name: changed(config[name], rest) if rest else "another value"}


def snapshot() -> str:
    """A line a key: whether it is in a run's id, its name, and the choices or commands it is of."""
    found: dict[str, set[str]] = {}
    inside: dict[str, bool] = {}
    for command in COMMANDS:
        groups = groups_of(command)
        composed = [(g, c, config_of(g, c, command)) for g in groups for c in CHOICES[g]]
        for group, choice, config in composed or [("", "", plain(compose(command)))]:
            for key, _ in leaves(config):
                owner = key.partition(".")[0]
                if owner == group or owner not in groups:
                    if key not in inside:
                        other = canonical_id(changed(config, key))
                        inside[key] = other != canonical_id(config)
                    found.setdefault(key, set()).add(choice if owner == group else command)
    return "".join(
        f"{'in ' if inside[key] else 'out'} {key:<34}{' '.join(sorted(found[key]))}\n"
        for key in sorted(found)
    )


def test_no_key_appears_changes_its_place_in_the_id_or_goes_unseen() -> None:
    kept = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    now = snapshot().splitlines()
    gone, new = sorted(set(kept) - set(now)), sorted(set(now) - set(kept))
    assert (gone, new) == ([], []), (
        "the keys of the commands differ from tests/snapshot/keys.txt. If that is meant: "
        "`python tests/test_conf.py` writes it again; say it in the notes of the release."
    )


def test_every_key_is_listed_as_in_or_out_of_the_id() -> None:
    lines = [line.split() for line in SNAPSHOT.read_text(encoding="utf-8").splitlines()]
    assert {status for status, *_ in lines} == {"in", "out"}
    out = {key for status, key, *_ in lines if status == "out"}
    for key in NOT_IN_ID:
        assert any(k == key or k.startswith(f"{key}.") for k in out), f"{key} is no key"
    for key in out:
        assert any(key == k or key.startswith(f"{k}.") for k in NOT_IN_ID)


@pytest.mark.parametrize("group", ["features", "model", "trainer"])
def test_the_choices_of_a_group_have_the_same_keys(group: str) -> None:
    keys = {
        choice: {k for k, _ in leaves(config_of(group, choice)[group])} for choice in CHOICES[group]
    }
    assert len({frozenset(found) for found in keys.values()}) == 1, keys


def test_every_source_lets_its_user_choose_symbols_dates_covariates_and_market() -> None:
    common = {"_target_", "symbols", "start", "end", "covariates", "market", "max_gap"}
    for choice in CHOICES["data"]:
        assert common <= set(config_of("data", choice)["data"])


@pytest.mark.parametrize(("group", "choice"), TRAINED)
def test_every_choice_composes_and_instantiates_or_says_what_is_missing(
    group: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from forecast.models.options import check_options

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = config_of(group, choice)
    missing = {("trainer", "gpu"): "trainer=gpu: torch sees no GPU here"}.get((group, choice))
    if choice in ("tensorboard", "mlflow") and importlib.util.find_spec(choice) is None:
        missing = f"logger={choice} is not installed: pip install"
    if missing is None:
        assert check_options(config) == ("cpu", "")  # the device, and no own code
    else:
        with pytest.raises(ForecastError, match=re.escape(missing)) as caught:
            check_options(config)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("choice", CHOICES["data"])
def test_every_source_loads_or_says_what_is_missing(choice: str) -> None:
    section = config_of("data", choice)["data"]
    missing = {"files": "data.path is null", "yahoo": "data.symbols is null"}.get(choice)
    if missing is not None:
        with pytest.raises(ForecastError, match=re.escape(missing)) as caught:
            load_prices(section)
        assert "\n" not in str(caught.value)
    else:
        prices = load_prices(section)
        assert prices.source == choice
        assert len(prices.frame)


@pytest.mark.parametrize(("group", "choice"), [e for e in EVERY if e[0] in ("model", "head")])
def test_a_choice_is_named_as_the_thing_it_chooses(group: str, choice: str) -> None:
    section = config_of(group, choice)[group]
    assert section.get("cell", section.get("name")) == choice


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in UNTRAINED])
def test_the_usual_run_is_one_that_anybody_can_make(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORECAST_OUTPUTS", raising=False)
    config = plain(compose(command))
    assert config["trainer"]["accelerator"] == "auto"
    assert config["logger"] == {"name": "csv"}
    assert config["outputs"] == "outputs"


@pytest.mark.parametrize("command", UNTRAINED)
def test_a_command_that_trains_nothing_asks_for_data_at_most(command: str) -> None:
    alone = command in ("explain", "leaderboard")
    assert groups_of(command) == (() if alone else ("data",))


def test_yahoo_is_what_is_fetched_and_a_prediction_takes_the_prices_of_its_run() -> None:
    assert plain(compose("fetch"))["data"]["_target_"] == "forecast.prices.yahoo.yahoo"
    assert "_target_" not in plain(compose("predict"))["data"]


@pytest.mark.parametrize("choice", CHOICES["data"])
def test_a_prediction_takes_every_source_with_all_its_keys(choice: str) -> None:
    own = set(config_of("data", choice)["data"]) - {"in_memory"}  # as it is in the run
    assert own <= set(config_of("data", choice, "predict")["data"])


def test_the_environment_says_where_runs_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECAST_OUTPUTS", "elsewhere")
    for command in COMMANDS:
        if command != "fetch":  # which leaves no run
            assert plain(compose(command))["outputs"] == "elsewhere"
    assert plain(compose("train", ["outputs=here"]))["outputs"] == "here"


def test_a_backtest_asks_for_everything_that_training_asks_but_the_test_range() -> None:
    train, backtest = ({k for k, _ in leaves(plain(compose(c)))} for c in ("train", "backtest"))
    assert train - backtest == {"split.test", "split.embargo"}


def test_the_usual_backtest_has_every_baseline_and_the_headline_every_network() -> None:
    from forecast.models.baselines import BASELINES
    from forecast.models.networks import CELLS, MEMORYLESS

    usual, headline = (plain(compose("backtest", o)) for o in ([], ["experiment=headline"]))
    for config in (usual, headline):
        assert sorted(config["backtest"]["baselines"]) == sorted((*BASELINES, *MEMORYLESS))
    assert headline["backtest"]["models"] == [cell for cell in CELLS if cell not in MEMORYLESS]


def numbers(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize(
    "file", sorted(config_dir().rglob("*.yaml")), ids=lambda f: f"{f.parent.name}/{f.stem}"
)
def test_every_number_has_its_unit_or_meaning_in_a_comment(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    bare = [
        line
        for line in lines
        if re.match(r"\s*\w+: \S", line)
        and numbers(yaml.safe_load(line.strip().partition(": ")[2].partition(" #")[0]))
        and not re.search(r"# *\S", line)
    ]
    assert not bare, f"{file.name}: {bare}"


@pytest.mark.parametrize(("group", "choice"), [e for e in EVERY if e[0] != "experiment"])
def test_comments_name_the_choices_there_are(group: str, choice: str) -> None:
    text = "".join((config_dir() / f"{n}.yaml").read_text("utf-8") for n in (*SHARED, "backtest"))
    line = re.search(rf"^  - {group}: .*", text, re.MULTILINE)
    assert line is not None
    assert choice in re.findall(r"\w+", line.group().partition("#")[2])


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
    print(f"{SNAPSHOT} is written again")
