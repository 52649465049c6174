"""Configuration: composed as typed, checked by name and type, named by an id, opened by doors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from forecast import compose
from forecast.config import (
    NOT_IN_ID,
    ForecastError,
    canonical_id,
    check,
    config_dir,
    instantiate,
    plain,
    without,
)


def refusal(action: Callable[[], Any]) -> str:
    """The one line with which something is refused."""
    with pytest.raises(ForecastError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------ composing


def test_a_configuration_is_composed_as_on_the_command_line() -> None:
    config = plain(compose("train", ["model=gru", "model.hidden_size=7", "data.symbols=[A,B]"]))
    assert config["model"]["cell"] == "gru"
    assert config["model"]["hidden_size"] == 7
    assert config["data"]["symbols"] == ["A", "B"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("modl.hidden_size=3", "modl.hidden_size is no option: did you mean model.hidden_size?"),
        ("model.hiden_size=3", "model.hiden_size is no option: did you mean model.hidden_size?"),
        ("max_epochs=3", "max_epochs is no option: did you mean trainer.max_epochs?"),
        ("xyzzy=3", "xyzzy is no option; `--help` lists the options."),
        ("model=lsmt", "model=lsmt is no choice: did you mean lstm?"),
        ("experiment=nope", "experiment=nope is no choice; known are "),
        ("data.symbols=[^GSPC]", "'data.symbols=\"^GSPC\"'"),
        ("model", "Write key=value"),
        ("head=null", "a group such as model or data needs one of its options"),
        ("outputs=${nope}", "nope"),
    ],
)
def test_a_mistyped_option_is_one_line_with_the_remedy(typed: str, said: str) -> None:
    assert said in refusal(lambda: plain(compose("train", [typed])))


def test_no_message_names_a_folder_of_this_machine() -> None:
    assert str(config_dir()) not in refusal(lambda: compose("train", ["model=lsmt"]))


def test_an_unknown_command_is_refused() -> None:
    assert "nope" in refusal(lambda: compose("nope"))


def test_composing_inside_a_hydra_job_leaves_that_job_alone() -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        mine = GlobalHydra.instance().hydra
        compose("train")
        assert GlobalHydra.instance().hydra is mine
        assert hydra.compose("train", ["model=rnn"]).model.cell == "rnn"
    assert GlobalHydra.instance().hydra is None


@pytest.mark.parametrize("folder", ["plain", "with space", "it's = [odd], {yes}", "ünï"])
def test_the_callers_own_conf_folder_is_found_whatever_its_path(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tmp_path / folder / "conf" / "experiment"
    experiment.mkdir(parents=True)
    (experiment / "mine.yaml").write_text("# @package _global_\nensemble: 7\n")
    monkeypatch.chdir(tmp_path / folder)
    assert compose("train", ["experiment=mine"]).ensemble == 7
    assert compose("train", ["experiment=quick"]).ensemble == 1, "the shipped ones are still there"


def test_the_callers_conf_folder_cannot_replace_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("ensemble: 99\n")
    monkeypatch.chdir(tmp_path)
    assert compose("train").ensemble != 99


def test_an_interpolation_that_leads_nowhere_is_refused() -> None:
    assert "nope" in refusal(lambda: plain(OmegaConf.create({"a": "${nope}"})))


# ------------------------------------------------------------------------------- checking


def target(
    *,
    count: int,
    rate: float = 1.0,
    name: str | None = None,
    flag: bool = False,
    many: Sequence[int] = (),
    table: Mapping[str, str] | None = None,
    anything: Any = None,
) -> dict[str, Any]:
    return {"count": count, "rate": rate, "many": many, "flag": flag}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cuont": 1}, "part.cuont is unknown: did you mean count?"),
        ({"zzz": 1}, "part.zzz is unknown; known are count, rate,"),
        ({}, "part.count is missing"),
        ({"count": "two"}, 'part.count="two" is not a whole number'),
        ({"count": None}, "part.count=null is not a whole number"),
        ({"count": True}, "part.count=true is not a whole number"),
        ({"count": 2.5}, "part.count=2.5 is not a whole number"),
        ({"count": 1, "rate": "x"}, 'part.rate="x" is not a number'),
        ({"count": 1, "rate": False}, "part.rate=false is not a number"),
        ({"count": 1, "name": 5}, "part.name=5 is not text or null"),
        ({"count": 1, "flag": 1}, "part.flag=1 is not true or false"),
        ({"count": 1, "many": 5}, "part.many=5 is not a list of whole numbers"),
        ({"count": 1, "many": "12"}, 'part.many="12" is not a list of whole numbers'),
        ({"count": 1, "many": [1, "x"]}, 'part.many=[1, "x"] is not a list of whole numbers'),
        ({"count": 1, "table": [1]}, "part.table=[1] is not a mapping or null"),
    ],
)
def test_wrong_options_are_refused_by_name_and_type(options: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: instantiate(options, "part", target))


def test_right_options_reach_the_constructor() -> None:
    made = instantiate(
        {"count": 2, "rate": 1, "many": [1, 2], "anything": object()}, "part", target
    )
    assert made == {"count": 2, "rate": 1, "many": [1, 2], "flag": False}


def test_only_the_named_options_belong_to_a_section() -> None:
    check({"count": 1}, "part", target, only=("count",))
    assert "part.rate is unknown" in refusal(
        lambda: check({"count": 1, "rate": 2.0}, "part", target, only=("count",))
    )
    assert "part.rate is missing" in refusal(
        lambda: check({"count": 1}, "part", target, only=("count", "rate"))
    )


@pytest.mark.parametrize("dotted", ["nope", "nope.nope", "forecast.nope", "", "os."])
def test_a_target_that_cannot_be_imported_is_refused(dotted: str) -> None:
    assert "data._target_" in refusal(lambda: instantiate({"_target_": dotted}, "data"))


# --------------------------------------------------------------------------------- the id

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(config=st.dictionaries(st.sampled_from("abcdef"), JSON), data=st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_id_does_not_depend_on_the_order_of_keys(config: dict[str, Any], data: Any) -> None:
    names = list(config)
    data.shuffle(names)
    name = canonical_id(config, data="x", device="cpu", version="1")
    assert name == canonical_id({k: config[k] for k in names}, version="1", device="cpu", data="x")
    assert len(name) == 10
    assert set(name) <= set("0123456789abcdef")


@pytest.mark.parametrize("fact", ["data", "device", "version"])
def test_the_id_depends_on_data_device_and_version(fact: str) -> None:
    facts = {"data": "x", "device": "cpu", "version": "1"}
    config = plain(compose("train"))
    assert canonical_id(config, **facts) != canonical_id(config, **{**facts, fact: "other"})


# A backtest has every key that training has, and more; some sources and doors have their own.
HOMES = (
    ("backtest", []), ("backtest", ["data=files"]), ("backtest", ["data=yahoo"]),
    ("fetch", []), ("predict", []),
)  # fmt: skip


def holder(config: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping in which the last part of a dotted key stands, or would stand."""
    for parent in key.split(".")[:-1]:
        config = config.get(parent, {})
    return config


@pytest.mark.parametrize("key", NOT_IN_ID)
def test_what_changes_no_result_changes_no_id(key: str) -> None:
    last = key.split(".")[-1]
    composed = (plain(compose(command, typed)) for command, typed in HOMES)
    config = next((c for c in composed if last in holder(c, key)), None)
    assert config is not None, f"{key} of NOT_IN_ID is no key of any configuration"
    before = canonical_id(config)
    assert canonical_id(without(config, [key])) == before
    holder(config, key)[last] = "something else"
    assert canonical_id(config) == before


@pytest.mark.parametrize(("device", "same"), [("cpu", True), ("cuda NVIDIA H100", False)])
def test_the_precision_of_a_gpu_names_a_run_on_a_gpu_alone(device: str, same: bool) -> None:
    ids = {
        canonical_id(plain(compose("train", [f"trainer.precision={name}"])), device=device)
        for name in ("tf32", "bf16")
    }
    assert (len(ids) == 1) == same


@pytest.mark.parametrize("key", ["run", "network", "data.end"])
def test_another_run_network_or_last_session_is_another_prediction(key: str) -> None:
    config = plain(compose("predict"))
    before = canonical_id(config)
    holder(config, key)[key.split(".")[-1]] = "something else"
    assert canonical_id(config) != before


def test_leaving_out_keys_changes_nothing_of_the_original() -> None:
    config = {"a": {"b": 1, "c": 2}, "d": 3}
    assert without(config, ["a.b", "d", "x.y"]) == {"a": {"c": 2}}
    assert config == {"a": {"b": 1, "c": 2}, "d": 3}


# ------------------------------------------------------------------------- lazy imports

DOORS = ("train", "backtest", "audit", "fetch", "leaderboard", "predict")
HEAVY = ("torch", "pytorch_lightning", "lightning_fabric", "plotly", "yfinance", "pandas", "arch")


@pytest.mark.parametrize(
    "program",
    [
        "import forecast; dir(forecast); forecast.compose('train')",
        *(
            f"import sys, runpy; sys.argv = ['{name}', '--help']\n"
            f"try: runpy.run_module('forecast.{name}', run_name='__main__')\n"
            "except SystemExit as stop: assert not stop.code"
            for name in DOORS
        ),
    ],
    ids=["import forecast", *(f"{name} --help" for name in DOORS)],
)
def test_a_first_look_loads_nothing_heavy(program: str) -> None:
    probe = (
        f"{program}\nimport sys\nprint(*(m for m in {HEAVY} if m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


def test_unknown_names_of_the_package_are_refused() -> None:
    import forecast

    assert dir(forecast) == ["compose", "list_runs", "load_prices", "load_run"]
    with pytest.raises(AttributeError, match="nope"):
        forecast.nope  # noqa: B018
