"""What a trained run is given to forecast from, when its targets fall due, and what to be wary of.

The run is a folder of facts, of which nothing was trained: no network is needed to know them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast import compose, load_prices
from forecast.config import ForecastError, plain
from forecast.dataset.facts import data_facts
from forecast.dataset.market import make_market, write_market
from forecast.environment import environment
from forecast.evaluation.newest import (
    calendars_of,
    cautions,
    data_section,
    newest_prices,
    schedule,
)
from forecast.models.configured import folds_of, make_task, panel_of
from forecast.prices.findings import Finding
from forecast.prices.frame import Prices, cut
from forecast.run import Run

World = Any
Facts = Callable[..., Run]
NOTHING = dict.fromkeys(("symbols", "end", "path", "offline", "max_age"))
NOW = np.datetime64("2026-11-28T00:00:00")  # every session of these prices is over
MADE = 340  # sessions when the run was made; 2024-05-09 is its last


@pytest.fixture
def world(evenings: Any, tmp_path: Path) -> Iterator[World]:
    world = evenings.Evenings(home=tmp_path / "home", outputs=tmp_path / "outputs")
    with world.at_home():
        yield world


@pytest.fixture
def facts(world: World, evenings: Any) -> Facts:
    """The folder of a run on what is stored, without its networks."""

    def facts(*overrides: str) -> Run:
        config = plain(compose("train", [*evenings.TINY, *overrides]))
        prices = load_prices(config["data"])
        panel = panel_of(config, prices)
        told = data_facts(panel, prices, folds_of(config, panel.dates), make_task(config))
        run = Run(world.outputs / "lstm-0123456789")
        run.path.mkdir(parents=True, exist_ok=True)
        run.write("config.yaml", config)
        run.write("data.json", told)
        run.write("environment.json", environment("cpu"))
        write_market(panel.market, run.path / "market.parquet")
        return run

    return facts


@pytest.fixture
def run(world: World, facts: Facts) -> Run:
    world.evening(MADE)
    return facts()


def warned(run: Run, world: World, **typed: Any) -> list[str]:
    section = data_section(run, {**NOTHING, **typed})
    prices, _, notes = newest_prices(run, section, now=NOW)
    return [*cautions(run, prices, section, now=world.now), *notes]


# The section


def test_the_section_is_the_runs_own_with_its_symbols(run: Run, evenings: Any) -> None:
    """Those that it had rows of, whatever was asked for then."""
    section = data_section(run, NOTHING)
    assert section == {**run.config["data"], "symbols": list(evenings.SYMBOLS)}
    typed = {**NOTHING, "symbols": "ZZZ", "end": "2024-03-01", "offline": False}
    assert data_section(run, typed) == {
        **section, "symbols": "ZZZ", "end": "2024-03-01", "offline": False,
    }  # fmt: skip
    assert run.config["data"]["end"] is None  # nothing of the run was touched


def test_another_source_keeps_what_the_panel_is_made_by(world: World, facts: Facts) -> None:
    world.evening(MADE)
    run = facts("data.market=AAA", "data.max_gap=7", "data.start=2023-02-01")
    typed = plain(compose("predict", ["data=files", "data.path=prices.csv"]))["data"]
    section = data_section(run, typed)
    assert section["_target_"].endswith("files") and section["path"] == "prices.csv"
    assert section["market"] == "AAA" and section["max_gap"] == 7
    assert section["start"] == "2023-02-01"
    assert section["symbols"] == [entry["symbol"] for entry in run.data["symbols"]]


def test_a_key_that_the_runs_source_does_not_have_is_named(run: Run) -> None:
    with pytest.raises(ForecastError, match=r"^data\.path=prices\.csv does not go with") as caught:
        data_section(run, {**NOTHING, "path": "prices.csv"})
    assert "\n" not in str(caught.value)
    assert run.name in str(caught.value) and "data=yahoo" in str(caught.value)


# When targets fall due


def due(
    origin: str, horizon: int, *, delay: int = 0, calendar: str | None = "XNYS"
) -> tuple[str, str]:
    expected, begins = schedule(
        ["A"],
        np.array([origin], "datetime64[D]"),
        np.array([horizon]),
        delay=delay,
        calendars={"A": calendar},
    )
    assert expected.dtype == "datetime64[D]" and begins.dtype == "datetime64[m]"
    return str(expected[0]), str(begins[0])


@pytest.mark.parametrize(
    ("origin", "horizon", "delay", "calendar", "expected", "begins"),
    [
        # Thanksgiving is a Thursday on which New York is closed; winter: 14:30 UTC.
        ("2026-11-25", 1, 0, "XNYS", "2026-11-27", "2026-11-27T14:30"),
        ("2026-11-25", 5, 0, "XNYS", "2026-12-03", "2026-11-27T14:30"),
        ("2026-11-25", 1, 1, "XNYS", "2026-11-30", "2026-11-30T14:30"),
        ("2026-11-25", 5, 2, "XNYS", "2026-12-07", "2026-12-01T14:30"),
        # A weekend, and summer time that began in it.
        ("2026-03-06", 1, 0, "XNYS", "2026-03-09", "2026-03-09T13:30"),
        # Good Friday and Easter Monday in London.
        ("2026-04-02", 1, 0, "XLON", "2026-04-07", "2026-04-07T07:00"),
        ("2026-11-25", 3, 0, "XTKS", "2026-11-30", "2026-11-26T00:00"),
        # What never closes has weekends; a currency has none, nor where nothing is known.
        ("2026-11-27", 1, 0, "24/7", "2026-11-28", "2026-11-28T01:30"),
        ("2026-11-27", 1, 0, "24/5", "2026-11-30", "2026-11-30T01:30"),
        ("2026-11-25", 1, 0, None, "2026-11-26", "2026-11-26T01:30"),
        ("2026-11-27", 20, 0, None, "2026-12-25", "2026-11-30T01:30"),
    ],
)
def test_targets_fall_due_by_the_exchanges_calendar(
    origin: str, horizon: int, delay: int, calendar: str | None, expected: str, begins: str
) -> None:
    assert due(origin, horizon, delay=delay, calendar=calendar) == (expected, begins)


def test_a_schedule_is_that_of_each_row_alone() -> None:
    """Whatever stands in the rows beside it."""
    rng = np.random.default_rng(0)
    codes = {"A": "XNYS", "B": "XLON", "C": None, "D": "24/7"}
    symbols = rng.choice(list(codes), 60)
    origins = np.datetime64("2026-01-02", "D") + rng.integers(0, 300, 60)
    horizons = rng.choice([1, 5, 20, 60], 60)
    expected, begins = schedule(symbols, origins, horizons, delay=1, calendars=codes)
    for m, symbol in enumerate(symbols):
        alone = due(str(origins[m]), int(horizons[m]), delay=1, calendar=codes[symbol])
        assert alone == (str(expected[m]), str(begins[m]))
        assert begins[m].astype("datetime64[D]") <= expected[m]


def test_without_rows_there_is_no_schedule() -> None:
    nothing = np.array([], "datetime64[D]")
    expected, begins = schedule([], nothing, np.array([], int), delay=0, calendars={})
    assert len(expected) == len(begins) == 0


def test_calendars_are_those_of_each_symbols_rows(
    prices_of: Callable[..., Prices],
) -> None:
    close = {name: np.arange(1.0, 5.0) for name in "ABC"}
    mixed = prices_of(close, calendar={"A": "XNYS", "B": None, "C": "XTKS"})
    assert calendars_of(mixed) == {"A": "XNYS", "B": None, "C": "XTKS"}
    assert calendars_of(prices_of(close)) == dict.fromkeys("ABC")


# Prices and the market


def test_the_market_is_carried_on_to_the_newest_close(world: World, run: Run) -> None:
    for sessions in (MADE + 1, MADE + 10):
        day = world.evening(sessions)
        section = data_section(run, NOTHING)
        prices, market, _ = newest_prices(run, section, now=NOW)
        whole = make_market(
            prices, "equal_weight", half_life=run.config["features"]["scale_half_life"]
        )
        assert market.date[-1] == day
        for name in ("date", "log_return", "scale"):
            assert getattr(market, name).tobytes() == getattr(whole, name).tobytes()
        # Of a stranger alone the constituents are read beside it, and not handed out.
        alone, same, _ = newest_prices(
            run, data_section(run, {**NOTHING, "symbols": "ZZZ"}), now=NOW
        )
        assert list(alone.frame["symbol"].cat.categories) == ["ZZZ"]
        assert same.scale.tobytes() == market.scale.tobytes()


def test_a_symbol_begins_where_it_began_for_the_run(world: World, facts: Facts) -> None:
    """A longer history that Yahoo finds later would be another state, and another total return."""
    late = world.frames["CCC"]
    world.frames["CCC"] = late.iloc[100:].reset_index(drop=True)
    world.evening(MADE)
    run = facts()
    before, _, _ = newest_prices(run, data_section(run, NOTHING), now=NOW)
    world.frames["CCC"] = late
    world.evening(MADE)
    after, _, _ = newest_prices(run, data_section(run, NOTHING), now=NOW)
    assert after.sha256 == before.sha256
    assert len(load_prices(run.config["data"]).frame) == len(after.frame) + 100


def test_nothing_is_asked_of_the_market_up_to_where_it_is_stored(world: World, run: Run) -> None:
    """Its constituents may be gone by then."""
    for symbol in ("AAA", "BBB", "CCC"):
        next((world.home / "prices").glob(f"{symbol}.parquet")).unlink()
    section = data_section(run, {**NOTHING, "symbols": "DDD"})
    prices, market, _ = newest_prices(run, section, now=NOW)
    assert str(market.date[-1]) == "2024-05-09" and len(prices.frame)


@pytest.mark.parametrize(
    ("market", "gone", "words"),
    [
        (
            "equal_weight",
            ["AAA", "BBB"],
            ["the mean return of its 6 symbols", "AAA, BBB cannot be had", '"AAA,BBB"'],
        ),
        ("BBB", ["BBB"], ["is BBB,", "BBB cannot be had", 'data.symbols="BBB"']),
    ],
)
def test_a_market_without_its_constituents_is_refused_with_the_remedy(
    world: World, facts: Facts, market: str, gone: list[str], words: list[str]
) -> None:
    world.evening(MADE)
    run = facts(f"data.market={market}")
    world.evening(MADE + 3)
    for symbol in gone:
        (world.home / "prices" / f"{symbol}.parquet").unlink()
    with pytest.raises(ForecastError) as caught:
        newest_prices(run, data_section(run, {**NOTHING, "symbols": "DDD"}), now=NOW)
    message = str(caught.value)
    assert "\n" not in message and run.name in message
    for word in [*words, "2024-05-09", "2024-05-14", "forecast.fetch", "data.end=2024-05-09"]:
        assert word in message, (word, message)
    # The remedy is one.
    section = data_section(run, {**NOTHING, "symbols": "DDD", "end": "2024-05-09"})
    assert newest_prices(run, section, now=NOW)[1].definition == market


@pytest.mark.parametrize("market", ["equal_weight", "BBB"])
def test_a_market_whose_constituents_end_early_is_refused(
    world: World, facts: Facts, market: str
) -> None:
    """Features of today beside a market of last week would be a state no backtest had."""
    world.evening(MADE)
    run = facts(f"data.market={market}")
    world.evening(MADE + 5, symbols=["DDD"])
    with pytest.raises(ForecastError, match="they end there") as caught:
        newest_prices(run, data_section(run, {**NOTHING, "symbols": "DDD"}), now=NOW)
    assert "\n" not in str(caught.value) and "forecast.fetch" in str(caught.value)
    # Half of it is no market either: four symbols are none of equal weights.
    if market == "equal_weight":
        world.evening(MADE + 5, symbols=["AAA", "BBB", "CCC", "DDD"])
        with pytest.raises(ForecastError, match="they end there"):
            newest_prices(run, data_section(run, {**NOTHING, "symbols": "DDD"}), now=NOW)


def test_a_market_of_most_of_its_constituents_is_refused_or_told(world: World, run: Run) -> None:
    """Five of six are a mean, yet not the one that a backtest will have had."""
    world.evening(MADE + 5, symbols=["AAA", "BBB", "CCC", "DDD", "EEE"])
    warnings = warned(run, world, symbols="DDD")
    assert any("FFF" in line for line in warnings)


def test_without_a_market_nothing_is_missing(world: World, facts: Facts) -> None:
    world.evening(MADE)
    run = facts("data.market=null")
    day = world.evening(MADE + 5, symbols=["DDD"])
    prices, market, _ = newest_prices(
        run, data_section(run, {**NOTHING, "symbols": "DDD"}), now=NOW
    )
    assert market.definition == "none"
    assert prices.frame["date"].max() == pd.Timestamp(day)


def test_a_symbol_that_cannot_be_had_is_refused_with_the_source(world: World, run: Run) -> None:
    with pytest.raises(ForecastError, match="NOSUCH.*not in the price store") as caught:
        newest_prices(run, data_section(run, {**NOTHING, "symbols": "NOSUCH"}), now=NOW)
    assert "\n" not in str(caught.value)


# What to be wary of


def test_of_the_runs_own_symbols_on_its_own_evening_nothing_is_to_be_told(
    world: World, run: Run
) -> None:
    assert warned(run, world) == []
    world.evening(MADE + 30)
    assert warned(run, world) == []


def test_old_closes_are_counted_in_the_exchanges_sessions(world: World, run: Run) -> None:
    world.evening(MADE + 1)
    # 2024-05-10 is a Friday; the next session is over on Monday at 20:30 UTC.
    world.now = np.datetime64("2024-05-13T20:29:59", "s")
    assert warned(run, world) == []
    world.now = np.datetime64("2024-05-13T20:30:00", "s")
    (told,) = warned(run, world, symbols="AAA")
    assert told == "the newest close of AAA is of 2024-05-10, 1 session ago"
    world.now = np.datetime64("2024-05-28T21:00:00", "s")  # Memorial Day lies between
    old = [line for line in warned(run, world) if "newest close" in line]
    assert old == [
        "the newest close of AAA, BBB, CCC, DDD, EEE and 1 more is of 2024-05-10, 11 sessions ago"
    ]


def test_an_end_that_was_asked_for_is_not_old(world: World, run: Run) -> None:
    world.now = np.datetime64("2026-11-27T12:00:00", "s")
    told = warned(run, world, end="2024-04-30")
    assert not [line for line in told if "newest close" in line]


def test_symbols_the_run_never_saw_are_named(world: World, run: Run) -> None:
    assert warned(run, world, symbols="AAA,ZZZ") == ["symbols that the run never saw: ZZZ"]


def test_exchanges_the_run_never_saw_are_named(world: World, run: Run) -> None:
    section = data_section(run, NOTHING)
    prices, _, _ = newest_prices(run, section, now=NOW)
    codes = pd.Categorical(np.where(prices.frame["symbol"] == "AAA", "XTKS", "XNYS"))
    moved = replace(prices, frame=prices.frame.assign(calendar=codes))
    told = cautions(run, moved, {**section, "end": "x"}, now=world.now)
    assert told == ["exchanges that the run never saw: XTKS"]


def test_another_source_is_told(world: World, run: Run) -> None:
    section = data_section(run, NOTHING)
    prices, _, _ = newest_prices(run, section, now=NOW)
    told = cautions(run, replace(prices, source="files"), section, now=world.now)
    assert told == ["the run was trained on data=yahoo, not on data=files"]


def test_a_run_of_long_ago_is_told_with_what_its_networks_knew(world: World, run: Run) -> None:
    """A year of sessions after its data, and not before."""
    section = data_section(run, NOTHING)
    prices, _, _ = newest_prices(run, section, now=NOW)
    last = prices.frame.groupby("symbol", observed=True).tail(1).index

    def moved(day: np.datetime64) -> list[str]:
        frame = prices.frame.copy()
        frame.loc[last, "date"] = day.astype("datetime64[s]")
        return cautions(run, replace(prices, frame=frame), {**section, "end": "x"}, now=world.now)

    trained = np.datetime64("2024-05-09")
    assert moved(np.busday_offset(trained, 252)) == []
    (told,) = moved(np.busday_offset(trained, 253))
    assert "2024-05-09" in told and "1.0 years" in told
    assert run.data["folds"][-1]["train"][1] in told


def test_other_versions_are_told(world: World, run: Run) -> None:
    was = run.environment
    run.write("environment.json", {**was, "torch": "1.0.0", "forecast": "0.0.1"})
    told = warned(run, world)
    assert len(told) == 2
    assert told[0].startswith("the run was made with forecast 0.0.1, this is ")
    assert told[1].startswith("the run was made with torch 1.0.0, this is ")


def test_findings_that_move_returns_and_new_warnings_are_told(world: World, run: Run) -> None:
    section = data_section(run, NOTHING)
    prices, _, _ = newest_prices(run, section, now=NOW)

    def found(severity: str) -> Finding:
        return Finding(
            symbol="AAA", detector="spike", severity=severity, sentence=f"A {severity} spike.",
            count=1, dates=("2024-05-01",),
        )  # fmt: skip

    noted = replace(
        prices,
        findings=tuple(found(severity) for severity in ("info", "warn", "severe")),
        warnings=(*prices.warnings, "something new"),
    )
    told = cautions(run, noted, section, now=world.now)
    assert told == ["AAA: A severe spike.", "something new"]


def test_what_the_networks_were_fitted_on_is_no_forecast(world: World, run: Run) -> None:
    """At an end before the test range the run had seen what came next."""
    told = warned(run, world, end="2023-08-01")
    assert any("fitted" in line or "trained" in line for line in told), told


def test_cut_prices_are_those_of_the_starts(run: Run) -> None:
    """The check of the fixture itself: the run's facts hold where histories begin."""
    prices = load_prices(run.config["data"])
    starts = {s["symbol"]: np.datetime64(s["first"], "s") for s in run.data["symbols"]}
    assert cut(prices, starts=starts) is prices
