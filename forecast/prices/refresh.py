"""From Yahoo into the price store: only what is missing, and nothing that is there is lost.

A symbol is asked for from a few sessions before its last stored one. Where these come back as they
are stored and without a new split, the new rows are appended; else the symbol is fetched whole,
since Yahoo rewrites all earlier prices after a split, and what changed is recorded.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from forecast.prices.client import Answer, Client, Clock, Outcome, utc_now
from forecast.prices.exchanges import DAY, calendar_of, final_at
from forecast.prices.fetched import Fetched, failed, joined, served
from forecast.prices.freshness import sessions_behind, stamp
from forecast.prices.revisions import continued, merged, rewritten
from forecast.prices.store import Damaged, Manifest, Store, Stored

OVERLAP = 10  # stored sessions that are asked for again
ATTEMPTS = 3  # at one symbol when the network fails
GIVE_UP = 6  # symbols in a row that cannot be reached end the batch
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between attempts: doubled each time, with jitter


Shown = Callable[[Iterator[Fetched], int], Iterable[Fetched]]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How hard Yahoo is asked.

    Attributes
    ----------
    jobs : int
        Symbols at once.
    timeout : float
        Seconds until a request is given up.
    patience : float
        Seconds that the whole batch may spend waiting for a service that refuses or fails.
    """

    jobs: int = 4
    timeout: float = 10.0
    patience: float = 60.0


def refresh(
    store: Store,
    symbols: Sequence[str],
    *,
    start: np.datetime64 | None,
    end: np.datetime64 | None = None,
    pace: Pace,
    calendar: str | None = None,
    clock: Clock = utc_now,
    session: Any = None,
    shown: Shown = lambda results, total: results,
) -> list[Fetched]:
    """Bring the store up to date; every symbol ends in one outcome, in the order given.

    Parameters
    ----------
    start, end : datetime64[D] or None
        First and last session wanted; None: all there are. What lies beyond `end` is fetched too.
    calendar : str or None
        exchange_calendars code for all symbols, instead of what Yahoo's answers tell.
    session : optional
        See `Client`.
    shown : callable
        Wraps the results as they come, and is told how many, for a progress bar.
    """
    todo, found = [], {}
    for symbol in symbols:
        if (known := _complete(store, symbol, start, end, clock())) is not None:
            found[symbol] = known
        else:
            todo.append(symbol)
    if todo:
        with Client(timeout=pace.timeout, session=session) as client:
            batch = _Batch(
                store, client, start=start, end=end, pace=pace, calendar=calendar, clock=clock
            )
            for result in shown(batch.run(todo), len(todo)):
                found[result.symbol] = result
    return [found[symbol] for symbol in symbols]


def _complete(
    store: Store,
    symbol: str,
    start: np.datetime64 | None,
    end: np.datetime64 | None,
    now: np.datetime64,
) -> Fetched | None:
    """A symbol that lacks nothing; None where Yahoo has to be asked."""
    try:
        manifest = store.manifest(symbol)
    except Damaged:
        return None
    if manifest is None or not _covers(manifest, start) or sessions_behind(manifest, now, end):
        return None
    return served(symbol, Outcome.OK, manifest, now, end, asked=False)


def _covers(manifest: Manifest, start: np.datetime64 | None) -> bool:
    """Whether all rows from a date on were asked for."""
    if manifest.start is None:
        return True
    return start is not None and bool(np.datetime64(manifest.start, "D") <= start)


class _Batch:
    """Symbols asked for one after the other, a few at a time, until the service has had enough."""

    def __init__(
        self,
        store: Store,
        client: Client,
        *,
        start: np.datetime64 | None,
        end: np.datetime64 | None,
        pace: Pace,
        calendar: str | None,
        clock: Clock,
    ) -> None:
        self._store, self._client, self._start, self._end = store, client, start, end
        self._pace, self._calendar, self._clock = pace, calendar, clock
        self._stop, self._interrupted = threading.Event(), threading.Event()
        self._why: Answer | None = None  # the answer that stopped the batch
        self._lock, self._gate = threading.Lock(), threading.Lock()
        self._unreachable = 0  # in a row
        self._waited = 0.0  # seconds, of all symbols together, for pauses and failed questions

    def run(self, symbols: Sequence[str]) -> Iterator[Fetched]:
        pool = ThreadPoolExecutor(self._pace.jobs, thread_name_prefix="yahoo")
        try:
            for done in as_completed([pool.submit(self._fetch, symbol) for symbol in symbols]):
                yield done.result()
        finally:
            # After Ctrl-C nobody waits for what has not begun; what has is written whole.
            self._stop.set()
            self._interrupted.set()
            self._client.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, symbol: str) -> Fetched:
        note = ""
        with self._store.lock(symbol, cancelled=self._interrupted.is_set):
            try:
                stored = self._store.read(symbol)
            except Damaged as error:
                note = f"{error} It is {self._store.set_aside(symbol).name} now"
                stored = None
            now = self._clock()
            if stored is not None and (
                done := _complete(self._store, symbol, self._start, self._end, now)
            ):
                return done  # another process was faster
            if self._stop.is_set():
                return self._unasked(symbol, stored, now, note)
            try:
                return self._asked(symbol, stored, note)
            except BaseException:
                self._stop.set()
                raise

    def _unasked(
        self, symbol: str, stored: Stored | None, now: np.datetime64, note: str
    ) -> Fetched:
        why = self._why
        outcome = Outcome.UNREACHABLE if why is None else why.outcome
        cause = "not asked" + (f", since {why.symbol} ended so: {why.cause}" if why else "")
        manifest = stored.manifest if stored else None
        answer = Answer(symbol=symbol, outcome=outcome, cause=joined(note, cause))
        return failed(answer, manifest, now, self._end, asked=False)

    def _asked(self, symbol: str, stored: Stored | None, note: str) -> Fetched:
        before = None if stored is None else stored.manifest
        wanted, change = self._start, None
        if stored is not None and before is not None:
            if before.start is None or wanted is None:
                wanted = None
            else:
                wanted = min(wanted, np.datetime64(before.start, "D"))
            if _covers(before, self._start):
                answer = self._ask(symbol, _day(stored.frame["date"].iloc[-OVERLAP:].iloc[0]))
                if answer.frame is None:
                    return self._failed(answer, before, note)
                frame = self._final(answer)
                change = rewritten(stored.frame, frame)
                if change is None:
                    longer = continued(stored.frame, frame)
                    added = len(longer) - len(stored.frame)
                    return self._write(symbol, longer, answer, before, added)
        answer = self._ask(symbol, wanted)
        if answer.frame is None:  # what is stored stays, and is asked about again next time
            return self._failed(answer, before, joined(note, change or ""))
        frame = self._final(answer)
        if not frame["close"].notna().any():
            cause = "its first session has not ended yet"
            answer = replace(answer, outcome=Outcome.NO_DATA, cause=cause)
            return self._failed(answer, before, note)
        start = None if wanted is None else str(wanted)
        if stored is None or before is None:
            first = _manifest(symbol, start)
            return self._write(symbol, frame, answer, first, len(frame), changed=note or None)
        change = change or rewritten(stored.frame, frame)
        frame, kept = merged(stored.frame, frame)
        before = replace(before, start=start)
        if change is not None:
            still = f", {kept} sessions kept that Yahoo no longer sends" if kept else ""
            change = f"{stamp(self._clock())[:10]}: {change}; fetched whole{still}"
            before = replace(before, changes=(*before.changes, change))
        return self._write(
            symbol, frame, answer, before, len(frame) - len(stored.frame), changed=change
        )

    def _write(
        self,
        symbol: str,
        frame: pd.DataFrame,
        answer: Answer,
        before: Manifest,
        added: int,
        *,
        changed: str | None = None,
    ) -> Fetched:
        now, listing = self._clock(), answer.listing
        told = replace(before, checked=stamp(now), fetched=stamp(now))
        if listing is not None:  # what it does not say now was said before
            said = {name: value for name, value in asdict(listing).items() if value is not None}
            told = replace(told, **said)
        told_by = calendar_of(told.instrument, told.timezone, told.exchange)
        told = replace(told, calendar=self._calendar or told_by or told.calendar)
        manifest = self._store.write(symbol, frame, told).manifest
        behind = sessions_behind(manifest, now, self._end)
        outcome, cause = answer.outcome, answer.cause
        if behind:
            outcome = Outcome.PARTIAL
            cause = f"the newest {behind} sessions are missing: Yahoo ends on {manifest.last}"
        result = served(symbol, outcome, manifest, now, self._end, cause=cause)
        return replace(result, added=added, changed=changed)

    def _failed(self, answer: Answer, before: Manifest | None, note: str) -> Fetched:
        return failed(answer, before, self._clock(), self._end, note=note)

    def _final(self, answer: Answer) -> pd.DataFrame:
        """Rows whose session is over: today's bar still moves."""
        frame, listing = answer.frame, answer.listing
        assert frame is not None and listing is not None and answer.asked is not None
        told_by = calendar_of(listing.instrument, listing.timezone, listing.exchange)
        code = self._calendar or told_by
        dates = frame["date"].to_numpy().astype("datetime64[D]")
        keep = len(dates)
        while keep and final_at(code, listing.timezone, dates[keep - 1]) > answer.asked:
            keep -= 1
        return frame[:keep]

    def _ask(self, symbol: str, start: np.datetime64 | None) -> Answer:
        """Ask, and again after a while where the service may only be busy.

        While one symbol waits for a refusal to end, no other is asked for.
        """
        with self._gate:
            pass
        answer = self._asked_once(symbol, start)
        if answer.outcome is Outcome.RATE_LIMITED:
            with self._gate:
                return self._repeated(answer, symbol, start)
        return self._repeated(answer, symbol, start)

    def _asked_once(self, symbol: str, start: np.datetime64 | None) -> Answer:
        if self._stop.is_set():
            stopped = Answer(symbol=symbol, outcome=Outcome.UNREACHABLE, cause="not asked")
            return stopped if self._why is None else replace(self._why, symbol=symbol)
        now, begun = self._clock(), time.monotonic()
        answer = self._client.ask(symbol, start, now.astype("datetime64[D]") + DAY)
        if answer.outcome in (Outcome.RATE_LIMITED, Outcome.UNREACHABLE):
            with self._lock:  # a service that hangs takes the batch's patience too
                self._waited += time.monotonic() - begun
        return replace(answer, asked=now)

    def _repeated(self, answer: Answer, symbol: str, start: np.datetime64 | None) -> Answer:
        attempt = 1
        while answer.outcome in (Outcome.RATE_LIMITED, Outcome.UNREACHABLE):
            wait = min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.5, 1.5)
            tired = answer.outcome is Outcome.UNREACHABLE and attempt >= ATTEMPTS
            if tired or not self._may_wait(wait) or self._stop.wait(wait):
                return self._given_up(answer)
            answer = self._asked_once(symbol, start)
            attempt += 1
        with self._lock:
            self._unreachable = 0
        return answer

    def _may_wait(self, seconds: float) -> bool:
        """Take some of the batch's patience, if so much is left."""
        with self._lock:
            left = self._waited + seconds <= self._pace.patience
            self._waited += seconds if left else 0.0
            return left

    def _given_up(self, answer: Answer) -> Answer:
        """The last answer; the batch ends with a refusal, or where nothing can be reached."""
        with self._lock:
            self._unreachable += answer.outcome is Outcome.UNREACHABLE
            if answer.outcome is Outcome.RATE_LIMITED or self._unreachable >= GIVE_UP:
                self._why = self._why or answer
                self._stop.set()
        return answer


def _manifest(symbol: str, start: str | None) -> Manifest:
    """Of a symbol that is fetched for the first time."""
    return Manifest(
        symbol=symbol, source="yahoo", fetched="", checked="", start=start, calendar=None,
        timezone=None, currency=None, instrument=None, exchange=None,
    )  # fmt: skip


def _day(date: pd.Timestamp) -> np.datetime64:
    return date.to_datetime64().astype("datetime64[D]")
