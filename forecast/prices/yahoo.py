"""Prices from Yahoo by way of the price store, which serves them where Yahoo does not answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.prices.choice import Choice, Symbols
from forecast.prices.client import Outcome, utc_now
from forecast.prices.covariates import load_covariates
from forecast.prices.exchanges import exchange_sessions, read_calendar
from forecast.prices.fetched import Fetched
from forecast.prices.findings import Finding
from forecast.prices.frame import OLD, Prices, checked, some, total_return
from forecast.prices.freshness import ended, sessions_behind
from forecast.prices.quality import inspect
from forecast.prices.refresh import Pace, refresh
from forecast.prices.sound import is_sound, sound
from forecast.prices.store import Damaged, Store, Stored

SURVIVORS = (
    "survivors: whoever names symbols today names those that still exist and are known; levels of "
    "return and anything traded on them are too good"
)
REWRITTEN = (
    "Yahoo's prices are as of the fetch: splits that came later are folded into old prices, and "
    "corrections are not dated"
)
# Outcomes that may be others the next minute.
TRANSIENT = (Outcome.RATE_LIMITED, Outcome.UNREACHABLE, Outcome.BAD_PAYLOAD)
# What each symbol's frame has beside its symbol, in this order; a split is in the prices already.
KEPT = ("date", "open", "high", "low", "close", "volume", "dividend")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be fetched, and how; see `yahoo`."""

    names: tuple[str, ...]
    choice: Choice
    calendar: str | None
    pace: Pace
    progress: bool

    @classmethod
    def read(
        cls,
        *,
        symbols: Symbols,
        start: str | None,
        end: str | None,
        calendar: str | None,
        jobs: int,
        timeout: float,
        patience: float,
        progress: bool,
    ) -> Wanted:
        """From what a user typed; a ForecastError where that is wrong."""
        choice = Choice.read(symbols=symbols, start=start, end=end)
        if choice.symbols is None:
            raise ForecastError(
                "data.symbols is null: data=yahoo needs names. Write 'data.symbols=\"AAPL,MSFT\"', "
                "or a file symbols.txt."
            )
        if jobs < 1 or timeout <= 0 or patience < 0:
            raise ForecastError(
                f"data.jobs={jobs} must be 1 or more, data.timeout={timeout} above 0 seconds and "
                f"data.patience={patience} 0 or more."
            )
        return cls(
            names=tuple(sorted({name.upper() for name in choice.symbols})),
            choice=choice,
            calendar=read_calendar(calendar),
            pace=Pace(jobs=jobs, timeout=timeout, patience=patience),
            progress=progress,
        )

    def fetched(self, store: Store) -> list[Fetched]:
        """Ask Yahoo for what the store lacks."""
        return refresh(
            store,
            self.names,
            start=self.choice.start,
            end=self.choice.end,
            pace=self.pace,
            calendar=self.calendar,
            shown=self._bar,
        )

    def _bar(self, results: Iterator[Fetched], total: int) -> Iterable[Fetched]:
        from tqdm import tqdm

        hidden = not (self.progress and sys.stderr.isatty())
        return tqdm(results, total=total, unit=" symbols", desc="Yahoo", disable=hidden)


def yahoo(
    *,
    symbols: Symbols = None,
    start: str | None = None,
    end: str | None = None,
    covariates: Sequence[Mapping[str, object]] = (),
    calendar: str | None = None,
    offline: bool = False,
    max_age: int | None = None,
    jobs: int = 4,
    timeout: float = 10.0,
    patience: float = 60.0,
    progress: bool = False,
) -> Prices:
    """Daily prices of Yahoo, total-return by each day's own dividend, kept in the price store.

    Parameters
    ----------
    symbols, start, end : see `Choice.read`; symbols have to be named, and count in capitals.
    covariates : see `load_covariates`.
    calendar : exchange_calendars code of all symbols; None: what Yahoo says of each tells it.
    offline : bool
        Never ask Yahoo; use what is stored.
    max_age : int or None
        Final sessions that a symbol's prices may lack at their end; None: any number, with a
        warning.
    jobs, timeout, patience : see `Pace`.
    progress : bool
        A bar over the symbols, where the output is a terminal.

    Raises
    ------
    ForecastError
        Wrong arguments, no symbol with prices, or prices older than `max_age`.
    """
    if max_age is not None and max_age < 0:
        raise ForecastError(f"data.max_age={max_age} must be 0 or more sessions, or null.")
    wanted = Wanted.read(
        symbols=symbols, start=start, end=end, calendar=calendar, jobs=jobs, timeout=timeout,
        patience=patience, progress=progress,
    )  # fmt: skip
    choice, calendar, names, store = wanted.choice, wanted.calendar, wanted.names, Store()
    results = {} if offline else {result.symbol: result for result in wanted.fetched(store)}
    parts, warnings, findings = [], [], []
    left_out: list[tuple[str, str]] = []
    behind: dict[str, int] = {}
    listed: dict[str, Stored] = {}
    for name in names:
        stored, reason = _stored(store, name, results.get(name))
        part = None
        if stored is not None:
            part, found_in = _usable(name, stored, choice)
            reason = f"no session with a close {choice.range}"
        if stored is None or part is None:
            left_out.append((name, reason))
            continue
        findings += found_in
        parts.append(part)
        listed[name] = stored
        behind[name] = sessions_behind(stored.manifest, utc_now(), choice.end)
        result = results.get(name)
        if result is not None and result.outcome not in (Outcome.OK, Outcome.PARTIAL):
            warnings.append(f"{name}: {told(result)}")
        if result is not None and result.changed is not None:
            warnings.append(f"{name}: {result.changed}")
    if not parts:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise ForecastError(f"data=yahoo: no prices of {len(names)} symbols: {reasons}")
    transient = [n for n, _ in left_out if n in results and results[n].outcome in TRANSIENT]
    if max_age is not None and transient:
        raise ForecastError(
            f"{some(transient)}: {told(results[transient[0]])} data.max_age={max_age} does not go "
            "on without them: repeat the command, or leave data.max_age out."
        )
    _refuse_old(listed, behind, max_age, offline)
    codes = [calendar or stored.manifest.calendar for stored in listed.values()]
    frame = _joined(parts, list(listed), codes)
    joined, notes = load_covariates(covariates, frame)
    warnings = [SURVIVORS, REWRITTEN, *_ages(listed, behind), *warnings, *notes]
    return Prices(
        frame=frame,
        source="yahoo",
        covariates=joined,
        warnings=tuple(warnings),
        left_out=tuple(left_out),
        findings=tuple(findings),
        inspection=partial(_inspected, parts, list(listed), codes),
    )


def told(result: Fetched) -> str:
    """An outcome that is no success, in a sentence."""
    return " ".join(filter(None, [f"{result.outcome}: {result.cause.rstrip('.')}.", result.advice]))


def _stored(store: Store, name: str, result: Fetched | None) -> tuple[Stored | None, str]:
    """What is stored of a symbol; and, where nothing is, why."""
    try:
        stored = store.read(name)
    except Damaged as error:
        return None, str(error)
    if stored is not None:
        return stored, ""
    if result is None:
        return None, f"not in the price store {store.folder}. Fetch it without data.offline=true."
    return None, told(result)


def _usable(
    name: str, stored: Stored, choice: Choice
) -> tuple[Mapping[str, np.ndarray] | None, list[Finding]]:
    """The sessions asked for that can be used, as columns; None where there is none."""
    dates = stored.columns["date"]
    low = 0 if choice.start is None else int(np.searchsorted(dates, choice.start))
    high = len(dates)
    if choice.end is not None:
        high = int(np.searchsorted(dates, choice.end, side="right"))
    if low >= high:
        return None, []
    columns = {column: values[low:high] for column, values in stored.columns.items()}
    if is_sound(columns):
        return columns, []
    frame, findings = sound(name, pd.DataFrame(columns))
    if frame.empty:
        return None, findings
    return {column: frame[column].to_numpy() for column in columns}, findings


def _joined(
    parts: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
    calendars: Sequence[str | None],
) -> pd.DataFrame:
    """The frame of `Prices`; dividends are reinvested on their own day."""
    counts = [len(part["date"]) for part in parts]

    def repeated(words: Sequence[str | None]) -> pd.Categorical:
        known = sorted({word for word in words if word is not None})
        codes = [-1 if word is None else known.index(word) for word in words]
        index = pd.Index(known, dtype="str")
        return pd.Categorical.from_codes(np.repeat(np.array(codes, np.int32), counts), index)

    columns = {column: np.concatenate([part[column] for part in parts]) for column in KEPT}
    whole = pd.DataFrame({"symbol": repeated(names), **columns}, copy=False)
    whole = total_return(checked(whole, where="yahoo"))
    if any(calendars):
        whole = whole.assign(calendar=repeated(calendars))
    return whole


def _inspected(
    parts: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
    calendars: Sequence[str | None],
) -> list[Finding]:
    """What detectors say of the rows used, with the splits and gains that `Prices` do not hold."""
    found: list[Finding] = []
    for part, name, code in zip(parts, names, calendars, strict=True):
        first, last = part["date"][[0, -1]].astype("datetime64[D]")
        sessions = None if code is None else exchange_sessions(code, first, last)
        found += inspect(name, pd.DataFrame(dict(part)), sessions=sessions)
    return found


def _ages(listed: Mapping[str, Stored], behind: Mapping[str, int]) -> list[str]:
    """Warnings about prices that end before they should, and about symbols that have ended."""
    ends: dict[tuple[str, int], list[str]] = {}
    for name, count in behind.items():
        if count:
            ends.setdefault((listed[name].manifest.last, count), []).append(name)
    warnings = [
        f"{OLD}: {some(names)} end on {last}, {count} session{'s' * (count > 1)} behind"
        for (last, count), names in sorted(ends.items())
    ]
    gone = [
        f"{name} (on {stored.manifest.last})"
        for name, stored in listed.items()
        if ended(stored.manifest)
    ]
    if gone:
        warnings.append(f"ended, halted or renamed: {some(gone)}")
    return warnings


def _refuse_old(
    listed: Mapping[str, Stored], behind: Mapping[str, int], max_age: int | None, offline: bool
) -> None:
    if max_age is None:
        return
    old = [name for name, count in behind.items() if count > max_age]
    if old:
        worst = max(old, key=lambda name: behind[name])
        remedy = "Fetch without data.offline=true" if offline else "Repeat the command later"
        raise ForecastError(
            f"{some(old)}: prices end on {listed[worst].manifest.last}, {behind[worst]} sessions "
            f"behind, more than data.max_age={max_age}. {remedy}, or raise data.max_age."
        )
