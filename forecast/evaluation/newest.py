"""What a trained run needs to forecast from the newest closes, and what to be wary of."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.dataset.market import Market, await_sessions, extend_market, read_market
from forecast.prices import OF_THE_PANEL, load_prices
from forecast.prices.exchanges import (
    DAY,
    exchange_sessions,
    following_sessions,
    last_final,
    opens_at,
)
from forecast.prices.frame import OLD, Prices, cut, some
from forecast.run import Run

REQUIRED = ("symbols", "start")  # keys of every source that are set below
LONG_AGO = 252  # sessions after the run's data, about a year


def data_section(run: Run, typed: Mapping[str, Any]) -> dict[str, Any]:
    """The section `data` by which prices are loaded: the run's own, or another source.

    Parameters
    ----------
    typed : mapping
        Keys that differ from the run's section, null for those that do not; a whole section where
        it has a `_target_`.

    Raises
    ------
    ForecastError
        A key that the run's source does not have.
    """
    own = dict(run.config["data"])
    section = own
    if "_target_" in typed:  # another source, which has no use for what is null
        section = {name: v for name, v in typed.items() if v is not None or name in REQUIRED}
        section["start"] = section["start"] or own["start"]
        section["covariates"] = section.get("covariates") or own["covariates"]
    else:
        source = run.data["source"]
        for name, value in typed.items():
            if value is not None and name not in own:
                raise ForecastError(
                    f"data.{name}={value} does not go with the prices of {run.name}, which are "
                    f"those of data={source}. Leave it out, or choose data=yahoo or data=files."
                )
            if value is not None:
                own[name] = value
    section["end"] = typed.get("end")  # what the run ended with is no end of what is forecast
    section |= {name: own[name] for name in OF_THE_PANEL}
    if typed.get("symbols") is None:
        section["symbols"] = [entry["symbol"] for entry in run.data["symbols"]]
    return section


def newest_prices(
    run: Run, section: Mapping[str, Any], *, now: np.datetime64
) -> tuple[Prices, Market, list[str]]:
    """Prices to forecast from, and the run's market carried on to their newest date.

    A symbol of the run begins where it began for the run, so that its state is what a pass over
    the same rows would have carried.

    Returns
    -------
    prices : Prices
    market : Market
    notes : list of str
        What may be wrong with how the market was carried on.

    Raises
    ------
    ForecastError
        No prices; or what defines the market lacks prices after those that the run stored.
    """
    starts = {s["symbol"]: np.datetime64(s["first"], "s") for s in run.data["symbols"]}
    try:
        prices = cut(load_prices(section), starts=starts)
    except ForecastError as error:
        if section["_target_"].startswith("forecast.prices.bundled"):
            more = "For other symbols than the run's own choose data=yahoo or data=files."
            raise ForecastError(f"{error} {more}") from error
        raise
    market = read_market(run.path / "market.parquet")
    newest = prices.frame["date"].max().to_datetime64().astype("datetime64[D]")
    if not len(market.date) or newest <= market.date[-1]:  # also where there is none
        return prices, market, []
    equal = market.definition == "equal_weight"
    defining = sorted(starts) if equal else [market.definition]
    held = set(prices.frame["symbol"].cat.categories)
    whole, lacking = prices, sorted(set(defining) - held)
    if lacking:
        asked = {**section, "symbols": defining, "covariates": []}
        with contextlib.suppress(ForecastError):  # said below, with what it means
            whole = cut(load_prices(asked), starts=starts)
            lacking = sorted(set(defining) - set(whole.frame["symbol"].cat.categories))
    if not lacking:
        half_life = float(run.config["features"]["scale_half_life"])
        defined = cut(whole, symbols=defining)
        market = extend_market(market, defined, half_life=half_life)
        later = _later_sessions(market, newest)
        over = last_final(market.calendar, None, now)
        if later is not None and not (later <= over).any():
            notes = _ended(defined, market)
            return prices, await_sessions(market, later, half_life=half_life), notes
    what = f"the mean return of its {len(defining)} symbols" if equal else market.definition
    where = f"{some(lacking)} cannot be had" if lacking else "they end there"
    raise ForecastError(
        f"the market of {run.name} is {what}, known to {market.date[-1]}, but prices go on to "
        f"{newest}: {where}. Fetch them (python -m forecast.fetch "
        f"'data.symbols=\"{','.join(lacking or defining[:3])}{'' if lacking or not equal else ',…'}"
        f"\"'), set data.end={market.date[-1]}, or train anew."
    )


def _ended(defined: Prices, market: Market) -> list[str]:
    """A sentence where the newest market is that of fewer symbols than it was."""
    last = defined.frame.groupby("symbol", observed=True)["date"].max()
    short = last[last.to_numpy().astype("datetime64[D]") < market.date[-1]]
    if short.empty:
        return []
    return [
        f"the market goes on without {some([str(name) for name in short.index])}, whose prices "
        f"end before {market.date[-1]}: if they trade on, fetch them and predict again"
    ]


def _later_sessions(market: Market, newest: np.datetime64) -> np.ndarray | None:
    """Sessions of the market's exchange after its last date, up to the newest price.

    None where its calendar is not known and prices go on.
    """
    last = market.date[-1]
    if newest <= last:
        return np.array([], "datetime64[D]")
    if market.calendar is None:
        return None
    return exchange_sessions(market.calendar, last + DAY, newest)


def calendars_of(prices: Prices) -> dict[str, str | None]:
    """exchange_calendars code of each symbol; None where it is not known."""
    frame = prices.frame
    names = list(frame["symbol"].cat.categories)
    if "calendar" not in frame:
        return dict.fromkeys(names)
    first = np.searchsorted(frame["symbol"].cat.codes.to_numpy(), np.arange(len(names)))
    codes = frame["calendar"].iloc[first]
    return {n: None if pd.isna(c) else str(c) for n, c in zip(names, codes, strict=True)}


def schedule(
    symbols: Sequence[str],
    origins: np.ndarray,
    horizons: np.ndarray,
    *,
    delay: int,
    calendars: Mapping[str, str | None],
) -> tuple[np.ndarray, np.ndarray]:
    """When targets are expected to be known, and when they begin to show.

    Parameters
    ----------
    symbols, origins, horizons : shape (M,)
        Of forecasts; origins datetime64[D], horizons in sessions.

    Returns
    -------
    expected_M : array of datetime64[D]
        Date of the target's last session by the exchange's calendar.
    begins_M : array of datetime64[m]
        Opening of the target's first session, UTC.
    """
    longest = delay + int(np.max(horizons, initial=1))
    later: dict[tuple[str | None, np.datetime64], np.ndarray] = {}
    expected = np.empty(len(symbols), "datetime64[D]")
    begins = np.empty(len(symbols), "datetime64[m]")
    for m, (symbol, origin, horizon) in enumerate(zip(symbols, origins, horizons, strict=True)):
        code = calendars[symbol]
        if (code, origin) not in later:
            later[code, origin] = following_sessions(code, origin, longest)
        days = later[code, origin]
        expected[m], begins[m] = days[delay + horizon - 1], opens_at(code, None, days[delay])
    return expected, begins


def cautions(
    run: Run, prices: Prices, section: Mapping[str, Any], *, now: np.datetime64
) -> list[str]:
    """Sentences about what may make the forecasts worse than the run's scores.

    Old data, an old run, other data than the run was trained on, other versions.
    """
    facts, told = run.data, []
    codes = prices.frame["symbol"].cat.codes.to_numpy()
    ends = np.append(np.flatnonzero(np.diff(codes)), len(codes) - 1)
    names = [str(name) for name in prices.frame["symbol"].cat.categories]
    last = prices.frame["date"].to_numpy()[ends].astype("datetime64[D]")
    calendars = calendars_of(prices)
    if section.get("end") is None:
        told += _old(names, last, calendars, now)
    newest, trained = last.max(), np.datetime64(facts["dates"]["last"], "D")
    test = facts["folds"][-1]["test"][0]
    if newest < np.datetime64(test, "D"):
        told.append(
            f"the newest close, of {newest}, lies before {test}, in the years that the run was "
            "fitted and chosen on: this is no forecast of something it did not know"
        )
    since = int(np.busday_count(trained, newest))
    if since > LONG_AGO:
        told.append(
            f"the run was made of data to {trained}, {since / 261:.1f} years before the newest "
            f"close; its networks were fitted on rows to {facts['folds'][-1]['train'][1]}"
        )
    if prices.source != facts["source"]:
        told.append(f"the run was trained on data={facts['source']}, not on data={prices.source}")
    known = {entry["symbol"] for entry in facts["symbols"]}
    strangers = [name for name in names if name not in known]
    if strangers:
        told.append(f"symbols that the run never saw: {some(strangers)}")
    other = {calendars[name] for name in names} - {None, *facts.get("calendars", ())}
    if other:
        told.append(
            f"exchanges that the run never saw: {', '.join(sorted(str(code) for code in other))}"
        )
    for package in ("forecast", "torch"):
        was, current = run.environment.get(package), importlib.metadata.version(package)
        if was is not None and was != current:
            told.append(f"the run was made with {package} {was}, this is {current}")
    told += [f"{f.symbol}: {f.sentence}" for f in prices.findings if f.severity == "severe"]
    new = [line for line in prices.warnings if line not in facts["warnings"]]
    return told + [line for line in new if not line.startswith(OLD)]


def _old(
    names: Sequence[str],
    last: np.ndarray,
    calendars: Mapping[str, str | None],
    now: np.datetime64,
) -> list[str]:
    """A sentence for each date on which prices end that should go on."""
    ends: dict[tuple[np.datetime64, int], list[str]] = {}
    for name, day in zip(names, last, strict=True):
        newest = last_final(calendars[name], None, now)
        later = following_sessions(calendars[name], day, max(int((newest - day).astype(int)), 1))
        if count := int((later <= newest).sum()):
            ends.setdefault((day, count), []).append(name)
    return [
        f"the newest close of {some(which)} is of {day}, {count:,} session{'s' * (count > 1)} ago"
        for (day, count), which in sorted(ends.items())
    ]
