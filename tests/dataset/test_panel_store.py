"""A panel in files is the panel in memory, whatever happened to the files before."""

from __future__ import annotations

import gc
import os
import pickle
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset import panel as panels
from forecast.dataset import panel_store
from forecast.dataset.features import FeatureSet
from forecast.dataset.market import Market
from forecast.dataset.panel import Panel, fill_panel, make_panel
from forecast.dataset.panel_store import panel_key
from forecast.models.configured import panel_of
from forecast.prices.frame import Covariate, Prices

PricesOf = Callable[..., Prices]
FEATURES = FeatureSet(columns=["return", "scale", "market_return", "garman_klass", "overnight"])
Damage = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of this test's own, also for small panels."""
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(panels, "LARGE", 1)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def prices(random_prices: PricesOf) -> Prices:
    return random_prices(0, symbols=6, bars=True, calendar="XNYS")


def stored(prices: Prices, features: FeatureSet = FEATURES, **options: Any) -> Panel:
    return make_panel(prices, features, in_memory=False, **options)


def bytes_of(value: Any) -> Any:
    if isinstance(value, Market):
        return {field.name: bytes_of(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return value


def same(one: Panel, other: Panel) -> bool:
    """Whether everything but where they lie is the same, bit by bit."""
    names = [field.name for field in fields(Panel) if field.name != "folder"]
    return all(bytes_of(getattr(one, n)) == bytes_of(getattr(other, n)) for n in names)


def folders(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "panels").iterdir() if path.name != ".locks")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1000),
    symbols=st.integers(1, 7),
    market=st.sampled_from(["equal_weight", "S0", None]),
    max_gap=st.integers(0, 5),
)
def test_every_bit_is_that_of_the_panel_in_memory(
    random_prices: PricesOf, seed: int, symbols: int, market: str | None, max_gap: int
) -> None:
    prices = random_prices(seed, symbols=symbols, bars=True)
    told = pd.DataFrame({"known": prices.frame["date"].unique()[:40], "vix": np.arange(40.0)})
    vix = Covariate(name="vix.csv", frame=told, columns=("vix",), lag=1, max_age=3)
    prices = replace(prices, covariates=(vix,))
    here = make_panel(prices, FEATURES, market=market, max_gap=max_gap)
    for _ in ("made", "found"):
        there = stored(prices, market=market, max_gap=max_gap)
        assert same(there, here) and there.folder is not None and here.folder is None


def test_a_panel_is_made_once(prices: Prices, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    made = stored(prices)
    monkeypatch.delattr("forecast.dataset.panel_store.fill_panel")
    assert same(stored(prices), made)
    assert len(folders(home)) == 1


def test_a_panel_that_is_asked_for_twice_at_once_is_made_once(
    prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    found: list[Panel] = []

    def slowly(*arguments: Any) -> Panel:
        made.append(arguments)
        time.sleep(0.3)
        return fill_panel(*arguments)

    monkeypatch.setattr("forecast.dataset.panel_store.fill_panel", slowly)
    threads = [threading.Thread(target=lambda: found.append(stored(prices))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and same(*found)


def test_what_is_small_stays_in_memory(
    prices: Prices, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(panels, "LARGE", len(prices.frame) + 1)
    assert stored(prices).folder is None
    assert not home.exists()


def test_a_stored_panel_cannot_be_written_to(prices: Prices) -> None:
    with pytest.raises(ValueError, match="read-only"):
        stored(prices).values[0, 0] = 1


def test_other_processes_are_handed_the_folder(prices: Prices) -> None:
    panel = stored(prices)
    sent = pickle.dumps(panel)
    assert len(sent) < 1000 < len(pickle.dumps(make_panel(prices, FEATURES)))
    assert same(pickle.loads(sent), panel)
    altered = replace(panel, values=panel.values + 1)
    assert same(pickle.loads(pickle.dumps(altered)), altered), "it is no longer what is stored"


def test_a_panel_that_was_removed_says_so_to_the_process_that_is_sent_there(
    prices: Prices, home: Path
) -> None:
    sent = pickle.dumps(stored(prices))
    (home / "panels").rename(home / "elsewhere")
    with pytest.raises(ForecastError, match="another FORECAST_HOME.*data.in_memory=true"):
        pickle.loads(sent)


def test_new_arrays_lie_where_the_panel_does(prices: Prices) -> None:
    for panel, mapped in ((make_panel(prices, FEATURES), False), (stored(prices), True)):
        empty = panel.empty("f4", 3)
        empty[:] = 2
        assert (empty.shape, empty.dtype.name) == ((panel.rows, 3), "float32")
        base: Any = empty
        while isinstance(base, np.ndarray):
            base = base.base
        assert (base is not None) == mapped


# What names a panel

OTHER: dict[str, Callable[[Prices], tuple[Any, ...]]] = {
    "prices": lambda p: (revised(p), FEATURES, "equal_weight", 10),
    "columns": lambda p: (p, replaced(columns=["return"]), "equal_weight", 10),
    "their order": lambda p: (p, replaced(columns=FEATURES.columns[::-1]), "equal_weight", 10),
    "half-life": lambda p: (p, replaced(scale_half_life=10.0), "equal_weight", 10),
    "floor": lambda p: (p, replaced(scale_floor=0.1), "equal_weight", 10),
    "market": lambda p: (p, FEATURES, "S1", 10),
    "no market": lambda p: (p, FEATURES, None, 10),
    "stored market": lambda p: (p, FEATURES, market_of(p), 10),
    "another stored market": lambda p: (p, FEATURES, replace(market_of(p), calendar="XTKS"), 10),
    "gap": lambda p: (p, FEATURES, "equal_weight", 9),
    "covariate": lambda p: (replace(p, covariates=(told(1, 1),)), FEATURES, "equal_weight", 10),
    "lag": lambda p: (replace(p, covariates=(told(2, 1),)), FEATURES, "equal_weight", 10),
    "age": lambda p: (replace(p, covariates=(told(1, 2),)), FEATURES, "equal_weight", 10),
}


def replaced(**options: Any) -> FeatureSet:
    whole = {"columns": FEATURES.columns, "scale_half_life": 20.0, "scale_floor": 0.01}
    return FeatureSet(**{**whole, **options})


def revised(prices: Prices) -> Prices:
    close = prices.frame["close"].to_numpy().copy()
    close[-1] = np.nextafter(close[-1], np.inf)
    return replace(prices, frame=prices.frame.assign(close=close))


def told(lag: int, max_age: int) -> Covariate:
    known = pd.DataFrame({"known": np.array(["2020-02-03"], "M8[s]"), "vix": [20.0]})
    return Covariate(name="vix.csv", frame=known, columns=("vix",), lag=lag, max_age=max_age)


def market_of(prices: Prices) -> Market:
    return make_panel(prices, FEATURES).market


def test_whatever_a_panel_follows_from_gives_it_another_name(
    prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = prices, FEATURES, "equal_weight", 10
    keys = [panel_key(*usual), *(panel_key(*other(prices)) for other in OTHER.values())]
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda name: "another")
        keys.append(panel_key(*usual))
    for name, value in (("CODE_SHA256", "another"), ("_instructions", lambda: ["X86_V3"])):
        with monkeypatch.context() as patch:
            patch.setattr(panel_store, name, value)
            keys.append(panel_key(*usual))
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "another")
        keys.append(panel_key(*usual))
    assert len(set(keys)) == len(OTHER) + 5
    again = replace(prices, frame=prices.frame.copy())
    assert panel_key(again, FEATURES, "equal_weight", 10) == keys[0]


def test_code_that_is_saved_after_it_was_imported_names_no_panel(
    prices: Prices, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = panel_key(prices, FEATURES, "equal_weight", 10)
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"other code")
    assert panel_key(prices, FEATURES, "equal_weight", 10) == key


KEY = """
import sys
from forecast.dataset.panel_store import _instructions
print(*_instructions())
"""


def test_the_processor_is_told_by_what_numpy_found() -> None:
    """Of a processor without AVX-512 it says so, and that is how numpy then works."""
    found = panel_store._instructions()
    if "X86_V4" not in found:
        pytest.skip("numpy finds no AVX-512 here")
    without = " ".join(name for name in found if name not in ("X86_V2", "X86_V3"))
    told = subprocess.run(
        [sys.executable, "-c", KEY],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": without},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["X86_V3"]


# Features of somebody's own


SENT = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    panel = pickle.load(file)
print(panel.values.tobytes().hex(), end="")
"""


@pytest.fixture
def helped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Saves a feature of one's own; what it returns follows from another file alone."""
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_stored_feature", None)
    (tmp_path / "my_stored_feature.py").write_text(
        "from pathlib import Path\n"
        "def mine(history):\n"
        "    factor = float((Path(__file__).parent / 'factor.txt').read_text())\n"
        "    return factor * history['close'].rename('x')\n"
    )

    def helped(factor: int) -> None:
        (tmp_path / "factor.txt").write_text(str(factor))

    return helped


def own_of() -> FeatureSet:
    return FeatureSet(columns=["return"], own=["my_stored_feature.mine"])


def test_what_own_features_read_is_read_anew_for_each_panel(
    prices: Prices, helped: Callable[[int], None]
) -> None:
    own, values = own_of(), []
    for factor in (2, 3):
        helped(factor)
        values.append(stored(prices, own).values[:, 1].copy())
    np.testing.assert_allclose(values[1], 1.5 * values[0], rtol=1e-6)


@pytest.mark.parametrize("in_memory", [True, False])
def test_runs_of_a_process_share_no_panel_with_own_features(
    prices: Prices, helped: Callable[[int], None], in_memory: bool
) -> None:
    features = {"columns": ["return"], "own": ["my_stored_feature.mine"]}
    data = {"market": "equal_weight", "max_gap": 10, "in_memory": in_memory}
    config, values = {"data": data, "features": features}, []
    for factor in (2, 3):
        helped(factor)
        values.append(panel_of(config, prices).values[:, 1].copy())
    np.testing.assert_allclose(values[1], 1.5 * values[0], rtol=1e-6)


def test_a_panel_with_own_features_goes_when_nothing_has_it(
    prices: Prices, helped: Callable[[int], None], home: Path
) -> None:
    helped(2)
    panel = stored(prices, own_of())
    assert same(panel, make_panel(prices, own_of()))
    assert panel.folder is not None and folders(home) == [panel.folder.name]
    del panel
    gc.collect()
    assert folders(home) == [] == list((home / "panels" / ".locks").iterdir())


def test_other_processes_are_handed_a_panel_with_own_features(
    prices: Prices, helped: Callable[[int], None], tmp_path: Path, home: Path
) -> None:
    helped(2)
    panel = stored(prices, own_of())
    sent = tmp_path / "sent.pickle"
    sent.write_bytes(pickle.dumps(panel))
    assert len(sent.read_bytes()) < 1000
    asked = [sys.executable, "-c", SENT, str(sent)]
    told = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert told.stdout == panel.values.tobytes().hex()
    assert panel.folder is not None and panel.folder.is_dir()


MADE = """
import os, pickle, sys
sys.path.insert(0, sys.argv[1])
from forecast.dataset import panel
from forecast.dataset.features import FeatureSet
panel.LARGE = 1
with open(sys.argv[2], "rb") as file:
    prices = pickle.load(file)
own = FeatureSet(columns=["return"], own=["my_stored_feature.mine"])
kept = panel.make_panel(prices, own, in_memory=False)
assert kept.folder.is_dir()
print("made", end="", flush=True)
{ending}
"""


def test_a_process_that_ends_takes_its_panel_with_own_features_along(
    prices: Prices, helped: Callable[[int], None], tmp_path: Path, home: Path
) -> None:
    """One that is killed cannot: the next panel that is made does."""
    helped(2)
    (tmp_path / "asked.pickle").write_bytes(pickle.dumps(prices))
    forked = (
        "child = os.fork()\nif child:\n    os.waitpid(child, 0)\n    assert kept.folder.is_dir()"
    )
    endings = [("", 0), ("os._exit(0)", 1)]
    endings[:0] = [] if sys.platform == "win32" else [(forked, 0)]
    for ending, left in endings:
        code = MADE.format(ending=ending)
        asked = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "asked.pickle")]
        ended = subprocess.run(asked, capture_output=True, text=True)
        assert (ended.stdout, ended.returncode) == ("made", 0), ended.stderr
        assert len(folders(home)) == left
    panel = stored(prices)
    assert panel.folder is not None and folders(home) == [panel.folder.name]


# What may happen to files


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, tuple[str, Damage]] = {
    "a bit of a feature": ("values.npy", flipped),
    "the end of a column": ("log_price.npy", shortened),
    "a whole column": ("scale.npy", Path.unlink),
    "a fact": ("panel.json", flipped),
    "the market": ("market_scale.npy", flipped),
    "the checksums": ("checksums.json", flipped),
    "all checksums": ("checksums.json", lambda path: path.write_text("{}")),
    "the checksums' form": ("checksums.json", lambda path: path.write_text("[1]")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_panel_is_noticed_and_made_anew(
    prices: Prices, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(prices).folder
    assert folder is not None
    name, damage = DAMAGE[case]
    damage(folder / name)
    assert same(stored(prices), make_panel(prices, FEATURES))
    assert f"{folder} is damaged: the panel is made anew" in capsys.readouterr().out
    stored(prices)
    assert capsys.readouterr().out == ""


KILLED = """
import os, pickle, sys
from forecast.dataset import panel, panel_store
panel.LARGE = 1
put, count = panel_store._Files.put, 0
def dying(self, *arguments):
    global count
    count += 1
    if count == 20:
        os._exit(9)
    put(self, *arguments)
panel_store._Files.put = dying
with open(sys.argv[1], "rb") as file:
    panel.make_panel(*pickle.load(file), in_memory=False)
"""


def test_a_killed_process_leaves_no_panel(prices: Prices, tmp_path: Path, home: Path) -> None:
    (tmp_path / "asked.pickle").write_bytes(pickle.dumps((prices, FEATURES)))
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "asked.pickle")])
    key = panel_key(prices, FEATURES, "equal_weight", 10)
    assert ended.returncode == 9 and folders(home) == [f".{key}"]
    assert same(stored(prices), make_panel(prices, FEATURES))
    assert folders(home) == [key]


def test_an_error_leaves_nothing(prices: Prices, home: Path) -> None:
    own = FeatureSet(columns=["return"], own=["math.sqrt"])
    with pytest.raises(ForecastError, match="features.own: math.sqrt ended in TypeError"):
        stored(prices, own)
    assert folders(home) == []


def test_a_store_that_cannot_be_written_to_is_named(prices: Prices, home: Path) -> None:
    home.write_text("a file")
    with pytest.raises(
        ForecastError, match=f"{home}/panels cannot .*FORECAST_HOME.*in_memory=true"
    ):
        stored(prices)


def test_what_was_not_read_for_longest_makes_room(
    random_prices: PricesOf, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Of three panels the first is read again, and there is room for two, a third of one spare."""
    one, two, three = (random_prices(seed, bars=True, staggered=False) for seed in range(3))
    first, second = (stored(prices).folder for prices in (one, two))
    assert first is not None and second is not None
    for age, folder in ((200, first), (100, second)):
        os.utime(folder / "checksums.json", (time.time() - age,) * 2)
    stored(one)
    unfinished = home / "panels" / ".0123"
    unfinished.mkdir()
    (unfinished / "values.npy").touch()
    size = sum(file.stat().st_size for file in first.iterdir())
    monkeypatch.setattr(panel_store, "MOST_BYTES", int(2.3 * size))
    third = stored(three).folder
    assert third is not None
    assert folders(home) == sorted([first.name, third.name])


HOLDS = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    panel = pickle.load(file)
print("has it", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="its panels are not locked")
def test_a_panel_that_another_process_has_is_not_removed(
    random_prices: PricesOf, monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(panel_store, "MOST_BYTES", 0)
    first = stored(random_prices(0, bars=True))
    name = first.folder.name if first.folder is not None else ""
    (tmp_path / "sent.pickle").write_bytes(pickle.dumps(first))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "sent.pickle")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "has it\n"
        del first
        gc.collect()
        second = stored(random_prices(1, bars=True)).folder
        assert second is not None
        assert folders(home) == sorted([name, second.name])
        other.communicate("\n")
    assert stored(random_prices(2, bars=True)).folder is not None
    assert len(folders(home)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="its panels are not locked")
def test_a_panel_of_this_process_is_not_removed_while_some_of_it_is_there(
    random_prices: PricesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_store, "MOST_BYTES", 0)
    first = stored(random_prices(0, bars=True))
    folder, some = first.folder, first.values[:3]
    assert folder is not None
    stored(random_prices(1, bars=True))
    assert folder.is_dir()
    del first
    stored(random_prices(2, bars=True))
    assert folder.is_dir() and len(some) == 3
    del some
    stored(random_prices(3, bars=True))
    assert not folder.is_dir()


def test_the_locks_of_panels_that_are_gone_go_too(
    random_prices: PricesOf, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(panel_store, "MOST_BYTES", 0)
    for seed in range(3):
        stored(random_prices(seed, bars=True))
    locks = [path.stem for path in (home / "panels" / ".locks").iterdir()]
    assert locks == folders(home) and len(locks) == 1


Disk = namedtuple("Disk", ["total", "used", "free"])


def test_what_can_have_no_room_removes_nothing(
    random_prices: PricesOf, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Of two panels on a full disk one is in use: what fits in place of the other has room."""
    used, idle = random_prices(0, bars=True), random_prices(1, bars=True)
    kept = stored(used)
    stored(idle)
    before = folders(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, 0))
    with pytest.raises(ForecastError, match="has room for .* GB.*FORECAST_HOME.*in_memory=true"):
        stored(random_prices(2, symbols=12, bars=True, staggered=False))
    assert folders(home) == before
    third = stored(idle, max_gap=9).folder
    assert third is not None and kept.folder is not None
    assert folders(home) == sorted([kept.folder.name, third.name])
