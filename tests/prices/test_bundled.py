from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from forecast.config import config_dir
from forecast.prices import OF_THE_PANEL, load_prices
from forecast.prices.bundled import index, sp500
from forecast.prices.files import KNOWN, files
from forecast.prices.simulated import simulated

SOURCES: dict[str, Callable[..., Any]] = {
    "sp500": sp500,
    "index": index,
    "files": files,
    "simulated": simulated,
}


def assert_keeps_the_contract(frame: pd.DataFrame) -> None:
    categories = frame["symbol"].cat.categories
    assert list(categories) == sorted(categories)
    assert set(categories) == set(frame["symbol"])
    assert frame["date"].dtype == "datetime64[s]"
    assert isinstance(frame.index, pd.RangeIndex)
    assert frame.drop(columns=["symbol", "date", "calendar"]).dtypes.unique() == [np.float64]
    order = list(zip(frame["symbol"].cat.codes, frame["date"], strict=True))
    assert order == sorted(set(order))


@pytest.mark.parametrize("source", [sp500, index, simulated])
def test_every_source_keeps_the_contract_and_lets_choose(source: Callable[..., Any]) -> None:
    prices = source()
    assert_keeps_the_contract(prices.frame)
    assert set(prices.frame["calendar"]) == {"XNYS"}
    symbol = prices.frame["symbol"].cat.categories[1]
    some = source(symbols=[symbol], start="1999-02-01", end="1999-06-30")
    assert_keeps_the_contract(some.frame)
    of_all = prices.frame[(prices.frame["symbol"] == symbol).to_numpy()]
    of_all = of_all[of_all["date"].between("1999-02-01", "1999-06-30").to_numpy()]
    pd.testing.assert_frame_equal(
        some.frame.astype({"symbol": str}),
        of_all.astype({"symbol": str}).reset_index(drop=True),
    )
    assert source(symbols=[symbol]).sha256 != prices.sha256 == source().sha256


def test_sp500_is_twenty_survivors_and_says_so() -> None:
    prices = sp500()
    assert len(prices.frame["symbol"].cat.categories) == 20
    assert str(prices.frame["date"].min().date()) == "1990-01-02"
    assert str(prices.frame["date"].max().date()) == "2022-12-28"
    for word in ("survivors", "three decimals", "adjusted closes are those"):
        assert any(word in note for note in prices.warnings)


def test_index_has_bars_around_its_closes() -> None:
    frame = index().frame
    assert list(frame["symbol"].cat.categories) == ["^GSPC", "^IXIC"]
    assert (frame["low"] <= frame[["open", "close"]].min(axis=1)).all()
    assert (frame["high"] >= frame[["open", "close"]].max(axis=1)).all()


@pytest.mark.parametrize("name", SOURCES)
def test_conf_lists_exactly_the_arguments_of_its_source(name: str) -> None:
    text = (config_dir() / "data" / f"{name}.yaml").read_text()
    options = yaml.safe_load(text)
    source = SOURCES[name]
    assert options.pop("_target_") == f"{source.__module__}.{source.__name__}"
    assert {key for key in OF_THE_PANEL if options.pop(key, "none") != "none"} == set(OF_THE_PANEL)
    defaults = {key: value.default for key, value in inspect.signature(source).parameters.items()}
    defaults.pop("in_memory", None)  # a key of every source, beside them in forecaster.yaml
    assert list(options) and set(options) == set(defaults)
    for key, value in options.items():
        if key not in ("columns", "covariates"):
            assert value == defaults[key], key
    if name == "files":
        assert options["columns"] == dict.fromkeys(KNOWN)


def test_load_prices_reads_a_data_section(tmp_path: Path, refused: Callable[..., Any]) -> None:
    data = yaml.safe_load((config_dir() / "data" / "simulated.yaml").read_text())
    prices = load_prices({**data, "n_symbols": 2, "n_sessions": 10})
    assert len(prices.frame) == 20
    with refused("n_symbol", "did you mean n_symbols"):
        load_prices({**data, "n_symbol": 2})
    with refused("600519", 'data.symbols=["600519"]'):
        load_prices({**data, "symbols": [600519]})
