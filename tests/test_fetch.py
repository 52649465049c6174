"""`python -m forecast.fetch` and `data=yahoo` in whole programs that know nothing of the test."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from forecast import compose, load_run
from forecast.config import ForecastError
from forecast.fetch import fetch
from forecast.prices import load_prices
from forecast.prices.client import Client, utc_now
from forecast.prices.exchanges import last_final
from forecast.prices.store import Store

DAYS = 600  # of the calendar, before the newest session
Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def loopback() -> Any:
    """The module tests/loopback.py."""
    spec = importlib.util.spec_from_file_location("loopback", Path(__file__).parent / "loopback.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loopback"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@contextmanager
def service(loopback: Any, folder: Path) -> Iterator[Any]:
    """AAA and BBB up to now: a program of its own has no clock but the one on the wall."""
    today = last_final("XNYS", "America/New_York", utc_now())
    with loopback.open_yahoo(folder) as yahoo:
        yahoo.today = str(today)
        for n, symbol in enumerate(["AAA", "BBB"]):
            series = loopback.walk(n, sessions=DAYS * 3 // 4, first=str(today - DAYS))
            yahoo.series[symbol] = replace(series, dividends={str(series.dates[300])[:10]: 0.5})
        yield yahoo


def run(yahoo: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A child process that finds Yahoo here."""
    more = {"FORECAST_OUTPUTS": str(yahoo.folder / "outputs"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=yahoo.environment() | more,
        cwd=yahoo.folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def yahoo(loopback: Any, tmp_path: Path) -> Iterator[Any]:
    with service(loopback, tmp_path) as yahoo:
        yield yahoo


@pytest.fixture
def program(yahoo: Any) -> Program:
    return partial(run, yahoo)


@pytest.fixture(scope="module")
def fetched(loopback: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with AAA and BBB in its store."""
    folder = tmp_path_factory.mktemp("fetched")
    with service(loopback, folder) as yahoo:
        assert run(yahoo, "forecast.fetch", "data.symbols='AAA,BBB'").returncode == 0
    return folder / "home"


@pytest.fixture
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("Yahoo was asked")

    monkeypatch.setattr(Client, "__init__", never)


@pytest.fixture
def home(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody_asked: None
) -> Store:
    """A copy of what was fetched, and no Yahoo."""
    shutil.copytree(fetched, tmp_path / "home")
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    return Store()


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    """Whether the program ended with one line about what is wrong that holds the words."""
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    return len(lines) == 1 and all(word in lines[0] for word in ("error: ", *words))


# From outside


@pytest.mark.parametrize(
    ("symbols", "status", "good"), [("AAA,BBB", 0, 2), ("AAA,NOPE", 2, 1), ("NOPE", 1, 0)]
)
def test_the_exit_status_says_whether_all_some_or_none_are_fresh(
    program: Program, yahoo: Any, loopback: Any, symbols: str, status: int, good: int
) -> None:
    done = program("forecast.fetch", f'data.symbols="{symbols}"')
    names = symbols.split(",")
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    assert f"{good} of {len(names)} symbols are fresh" in done.stdout
    for name in names:
        assert f"\n{name}: " in f"\n{done.stdout}"
    if "NOPE" in names:
        assert "NOPE: unknown symbol" in done.stdout
    assert yahoo.hosts <= set(loopback.HOSTS)
    if status == 2:
        again = program("forecast.fetch", f'data.symbols="{symbols}"')
        assert again.returncode == 2 and "AAA: " in again.stdout
    assert [yahoo.asked(name) for name in names if name != "NOPE"] == [1] * good


def test_a_typing_error_is_one_line(program: Program, yahoo: Any) -> None:
    done = program("forecast.fetch", "action=fetsch", "data.symbols=AAA")
    assert one_line(done, "action=fetsch", "fetch, status, verify, export")
    assert yahoo.seen == []


@pytest.mark.timeout(300)
def test_a_network_trains_on_yahoo_end_to_end_and_the_same_command_asks_nothing(
    program: Program, yahoo: Any, loopback: Any, tmp_path: Path
) -> None:
    command = [
        "forecast.train", "data=yahoo", 'data.symbols="AAA,BBB,NOPE"', "data.market=null",
        "horizons=[1]", "window.length=60", "window.warmup=25", "window.batch=16",
        "split.validation=40", "model.hidden_size=4", "ensemble=1", "trainer=cpu",
        "trainer.max_epochs=1", "threads=1", "progress=false",
    ]  # fmt: skip
    here = yahoo.series["BBB"].dates[100]
    yahoo.series["BBB"].open[100] = 0.0
    done = program(*command)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs").glob("lstm-*")
    data = json.loads((folder / "data.json").read_text())
    assert data["source"] == "yahoo"
    assert [facts["symbol"] for facts in data["symbols"]] == ["AAA", "BBB"]
    (left,) = data["left_out"]
    assert left["symbol"] == "NOPE" and "unknown symbol" in left["reason"]
    (finding,) = [one for one in data["quality"] if one["detector"] == "empty_bar"]
    assert finding["symbol"] == "BBB" and finding["dates"] == [str(here)[:10]]
    assert data["dates"]["last"] == yahoo.today
    assert any("survivors" in warning for warning in data["warnings"])
    assert load_run(folder).parts == ("validation", "test")
    assert "NOPE" in (folder / "report.html").read_text(encoding="utf-8")
    assert yahoo.hosts and yahoo.hosts <= set(loopback.HOSTS)

    before = [yahoo.asked(name) for name in ("AAA", "BBB")]
    again = program(*command)
    assert again.returncode == 0, again.stderr
    assert before == [yahoo.asked(name) for name in ("AAA", "BBB")] == [1, 1]
    assert list((tmp_path / "outputs").glob("lstm-*")) == [folder], "the same prices, the same run"


# From inside, with what a child has fetched


def test_status_lists_what_is_stored_and_asks_nobody(
    home: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    table, status = fetch(compose("fetch", ["action=status"]))
    assert status == 0
    assert table["symbol"].tolist() == ["AAA", "BBB"]
    assert (table["state"] == "ok").all() and (table["behind"] == 0).all()
    shown = capsys.readouterr().out
    assert str(home.folder) in shown and "AAA" in shown and "XNYS" in shown
    assert fetch(compose("fetch", ["action=status", "data.symbols='aaa,ZZZ'"]))[1] == 2
    assert fetch(compose("fetch", ["action=status", "data.symbols=ZZZ"]))[1] == 1


def test_verify_names_the_damaged_file(home: Store, capsys: pytest.CaptureFixture[str]) -> None:
    table, status = fetch(compose("fetch", ["action=verify"]))
    assert status == 0 and table["severity"].tolist().count("ok") == 2
    shown = capsys.readouterr().out
    assert "2 of 2 files" in shown and "Empty DataFrame" not in shown
    path = home.path("AAA")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    table, status = fetch(compose("fetch", ["action=verify"]))
    assert status == 2
    assert str(path) in table.loc[table["severity"] == "damaged", "sentence"].item()
    shown = capsys.readouterr().out
    assert "AAA" in shown and "damaged" in shown and "1 of 2 files" in shown
    assert "fetch the symbol again" in shown, "the remedy is not cut off"
    assert fetch(compose("fetch", ["action=verify", "data.symbols=AAA"]))[1] == 1


@pytest.mark.parametrize("name", ["prices.csv", "prices.parquet"])
def test_an_export_is_read_by_the_door_of_files(home: Store, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    _, status = fetch(compose("fetch", ["action=export", f"path={path}"]))
    assert status == 0
    theirs = load_prices("files", path=str(path), adjusted=False).frame
    mine = load_prices("yahoo", symbols="AAA,BBB", offline=True).frame
    assert theirs["symbol"].astype("str").tolist() == mine["symbol"].astype("str").tolist()
    assert theirs["date"].equals(mine["date"])
    assert theirs["close"].equals(mine["close"]), "dividends reinvested likewise, to the last bit"
    assert (mine["dividend"] > 0).sum() == 2


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["action=export", "data.symbols=AAA"], ["path", "path=prices.csv"]),
        (["action=export", "data.symbols=AAA", "path=prices.xlsx"], ["prices.xlsx", ".parquet"]),
        (["action=export", "path=a.csv", "data.symbols=ZZZ"], ["ZZZ", "not in the price store"]),
        ([], ["data.symbols", "AAPL,MSFT"]),
        (["data.symbls=AAA"], ["data.symbls"]),
        (["data.symbols=AAA", "data.offline=true"], ["data.offline=true"]),
        (["data.symbols=[TRUE]"], ["Quote it", "TRUE"]),
        (["data.symbols=AAA", "data.jobs=0"], ["data.jobs=0"]),
        (["data.symbols=AAA", "data.jobs=many"], ["data.jobs", "many", "whole number"]),
        (["data.symbols=AAA", "+data.foo=1"], ["data.foo is unknown"]),
        (["data.symbols=AAA", "data.start=yesterday"], ["data.start=yesterday", "YYYY-MM-DD"]),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(
    typed: list[str],
    words: list[str],
    nobody_asked: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    with pytest.raises(ForecastError) as caught:
        fetch(compose("fetch", typed))
    message = str(caught.value)
    assert "\n" not in message and [word for word in words if word not in message] == [], message


def test_an_empty_store_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "nowhere"))
    for action in ("status", "verify", "export"):
        with pytest.raises(ForecastError, match="is empty. Fetch something") as caught:
            fetch(compose("fetch", [f"action={action}", "path=x.csv"]))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "nowhere").exists(), "looking makes nothing"
