"""What looks wrong with one symbol's daily prices: small detectors, each of one kind of fault.

They look at the whole history, both ways, and therefore only warn: nothing that is used depends on
them. What cannot be used at all is left out before, by `forecast.prices.sound`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from forecast.prices.findings import Fault, Finding, findings, many
from forecast.prices.sound import NUMBERS, acts

FEW = 0.005  # share of sessions: about one a year, what an ad-hoc closing or a lost day leaves
HUNDRED = np.log(100.0)  # pence for pounds, cents for dollars
UNIT_TOLERANCE = np.log(1.1)  # the session's own return rides on the jump
APPLIED = 0.2  # log ratio; a smaller split cannot be told from a bad day
SPLIT_TOLERANCE = np.log(1.2)  # likewise, for a split that we know of
USUAL_SPLITS = np.log([2, 3, 4, 5, 10, 20, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 10, 1 / 20, 1.5])
EXACT = np.log(1.02)  # without a record of the split the ratio itself is the evidence
STALE = 5  # sessions; four equal closes in a row happen to a quiet stock with coarse ticks
TICK_SESSIONS = 1000  # about four years: what a network trained today mostly sees
TICK_ROWS = 100  # below that the smallest move is large by chance
TICK = 0.005  # share of the price; half a usual session's move
UNCHANGED = 0.3  # share of sessions; at that point the median move is rounding
# Moves are measured in trailing scales. Student-t returns with 4 degrees of freedom go beyond 12 of
# them about once in 7000 sessions, beyond 15 once in 16 000, beyond 30 once in 250 000.
RECORDED_SCALES, SPLIT_SCALES, OUTLIER_SCALES, UNTOLD_SCALES = 5.0, 12.0, 15.0, 30.0
HALF_LIFE = 20  # moves, of the trailing scale; about a month
CLIP = 20.0  # median moves; one wrong price must not hide the next behind a huge scale
LONG_WEEKEND = 4  # days; a return over a longer gap has the variance of several sessions
UNDONE = 0.2  # share of a move that is left a session later
INSIDE = 0.25  # share of a jump: a split leaves the session itself calm, a crash seldom does
CROWD = 3.0  # times the usual volume, in shares and in money: news, which no split brings
CROWD_SESSIONS = 20  # sessions whose median volume is usual
EMPTY_VOLUME = 0.05  # share of sessions
LARGE_DIVIDEND = 0.25  # share of the close; special dividends seldom reach it, cents always do


def inspect(
    symbol: str, frame: pd.DataFrame, *, sessions: np.ndarray | None = None
) -> list[Finding]:
    """What looks wrong in rows that `sound` let through. Nothing is changed.

    Parameters
    ----------
    symbol : for the findings.
    frame : the frame that `sound` returned, split-adjusted, not adjusted for dividends.
    sessions : the exchange's sessions from the first row to the last, datetime64[D], ascending;
        None where its calendar is unknown: then missing sessions are not looked for.
    """
    if frame.empty:
        return []
    history = _History(
        date=frame["date"].to_numpy().astype("datetime64[D]"),
        **{name: frame[name].to_numpy() for name in NUMBERS},
        sessions=sessions,
    )
    faults = {name: detector(history) for name, detector in DETECTORS.items()}
    return findings(symbol, faults)


@dataclass(frozen=True, kw_only=True, eq=False)
class _History:
    """One symbol's sound rows as arrays of shape (rows,), and the moves that detectors share."""

    date: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    dividend: np.ndarray
    split: np.ndarray
    capital_gain: np.ndarray
    sessions: np.ndarray | None

    @cached_property
    def moves(self) -> np.ndarray:
        """Log return into each row; 0 into the first."""
        return np.diff(np.log(self.close), prepend=np.log(self.close[0]))

    @cached_property
    def scales(self) -> np.ndarray:
        """Each move's size in units of what was usual before it.

        Usual is a trailing mean of absolute moves, as the standard deviation of a normal. Sessions
        without a change are passed over, or a price of a few ticks would have a scale near zero.
        """
        size = np.abs(self.moves)
        moved = size > 0
        if not moved.any():
            return size
        clipped = np.minimum(size, CLIP * np.median(size[moved]))
        usual = clipped[moved].mean()
        clipped[~moved] = np.nan
        before = pd.Series(np.append(usual, clipped[:-1]))
        trailing = before.ewm(halflife=HALF_LIFE, adjust=False, ignore_na=True).mean().to_numpy()
        days = np.diff(self.date, prepend=self.date[:1]).astype(np.float64)
        scale = np.maximum(trailing, usual / 2) * np.sqrt(np.maximum(days / LONG_WEEKEND, 1))
        return np.asarray(size / (np.sqrt(np.pi / 2) * scale))

    @cached_property
    def splits(self) -> np.ndarray:
        return acts("split", self.split)

    @cached_property
    def near_split(self) -> np.ndarray:
        """A split in the same session or in one beside it: some are recorded a session off."""
        return self.splits | _next(self.splits) | _previous(self.splits)

    @cached_property
    def unit_jumps(self) -> np.ndarray:
        hundredfold = np.abs(np.abs(self.moves) - HUNDRED) < UNIT_TOLERANCE
        return np.asarray(hundredfold & (self.scales > SPLIT_SCALES) & ~self.near_split)

    @cached_property
    def unapplied(self) -> np.ndarray:
        """Splits whose jump is still in the prices."""
        ratio = np.log(np.where(self.splits, self.split, 1.0))
        large = (np.abs(ratio) > APPLIED) & (self.scales > RECORDED_SCALES)
        slack = np.minimum(SPLIT_TOLERANCE, np.abs(ratio) / 2)  # nearer to the jump than to none
        return np.asarray(large & (np.abs(self.moves + ratio) < slack))

    @cached_property
    def excursions(self) -> np.ndarray:
        """Rows whose close lies far off both its neighbours."""
        far = (self.scales > SPLIT_SCALES) & ~self.unit_jumps & ~self.unapplied
        undone = far & (np.abs(self.moves + _next(self.moves)) < UNDONE * np.abs(self.moves))
        # The way back of one row must not pass for the way out of the next.
        row = np.arange(len(undone))
        first = np.maximum.accumulate(np.where(undone & ~_previous(undone), row, 0))
        return np.asarray(undone & ((row - first) % 2 == 0))

    @cached_property
    def jumps(self) -> np.ndarray:
        """Moves of more than `SPLIT_SCALES` that stayed and are nothing known."""
        known = self.unit_jumps | self.unapplied | self.excursions | _previous(self.excursions)
        return np.asarray((self.scales > SPLIT_SCALES) & ~known)

    @cached_property
    def unrecorded(self) -> np.ndarray:
        """Jumps that look like a split of which nobody told."""
        rows = np.flatnonzero(self.jumps & ~self.near_split)
        move = self.moves[rows]
        exact = np.abs(move[:, None] + USUAL_SPLITS).min(axis=1) < EXACT
        reach = INSIDE * np.abs(move)
        calm = ~(np.abs(np.log(self.close[rows] / self.open[rows])) > reach)
        calm &= ~(np.log(self.high[rows] / self.low[rows]) > reach)

        before = np.maximum(rows[:, None] - np.arange(CROWD_SESSIONS + 1), 0)
        shares = np.nan_to_num(self.volume[before])
        usual_shares = np.median(shares[:, 1:], axis=1)
        money = shares * self.close[before]
        usual_money = np.median(money[:, 1:], axis=1)
        crowd = (shares[:, 0] > CROWD * usual_shares) & (money[:, 0] > CROWD * usual_money)
        told = (shares[:, 0] > 0) & (usual_shares > 0) & ~np.isnan(self.open[rows])
        # Where bars and volume are silent, size alone tells a split from news.
        far = self.scales[rows] > np.where(told, SPLIT_SCALES, UNTOLD_SCALES)
        found = np.zeros(len(self.date), dtype=bool)
        found[rows] = exact & calm & far & ~(told & crowd)
        return found


def _gaps(history: _History) -> Fault | None:
    if history.sessions is None:
        return None
    sessions = _between(history.sessions, history.date)
    missing = ~np.isin(sessions.view(np.int64), history.date.view(np.int64))
    starts, stops = _runs(missing)
    if not len(starts):
        return None
    longest = int((stops - starts).argmax())
    run = f"{many(stops[longest] - starts[longest], 'session')} from {sessions[starts[longest]]}"
    return Fault(
        "info" if missing.mean() < FEW else "warn",
        sessions[missing],
        f"No row for {many(missing, 'session')} of the exchange ({_share(missing.mean())}; the "
        f"longest gap: {run}): returns across them span several sessions.",
    )


def _off_calendar(history: _History) -> Fault | None:
    if history.sessions is None:
        return None
    off = ~np.isin(history.date.view(np.int64), history.sessions.astype("M8[D]").view(np.int64))
    return Fault(
        "info" if off.mean() < FEW else "warn",
        history.date[off],
        f"{many(off, 'row')} on days on which the exchange was shut: the prices may be repeated "
        "ones, or the calendar another exchange's.",
    )


def _unit_error(history: _History) -> Fault | None:
    if not history.unit_jumps.any():
        return None
    level = np.cumsum(np.where(history.unit_jumps, np.sign(history.moves), 0.0))
    levels, rows = np.unique(level, return_counts=True)
    other = level != levels[rows.argmax()]
    return Fault(
        "severe",
        history.date[other],
        f"{many(other, 'session')} at about 100 times or a hundredth of the other prices, without "
        "a split: probably another unit (pence for pounds). Fetch the symbol afresh or begin after "
        "them.",
    )


def _unapplied_split(history: _History) -> Fault:
    return Fault(
        "severe",
        history.date[history.unapplied],
        f"The prices jump by the ratio of {many(history.unapplied, 'split')}: rows before were "
        "not adjusted, so the jump is no return. Fetch the whole history of the symbol afresh.",
    )


def _unrecorded_split(history: _History) -> Fault:
    return Fault(
        "severe",
        history.date[history.unrecorded],
        f"{many(history.unrecorded, 'jump')} by a usual split ratio, far outside the symbol's "
        "volatility, without a split on record: probably a split that was not reported. Compare "
        "with another source before using returns across it.",
    )


def _stale(history: _History) -> Fault | None:
    silent = ~(history.volume > 0)
    same = np.ones(len(history.date), dtype=bool)
    for values in (history.open, history.high, history.low):
        same &= values == _previous(values)
    repeated = (history.close == _previous(history.close)) & (silent | same)
    repeated[0] = False
    starts, stops = _runs(repeated)
    long = stops - starts >= STALE - 1  # the first session of a run repeats nothing
    if not long.any():
        return None
    starts, stops = starts[long] - 1, stops[long]
    rows = np.concatenate([np.arange(*run) for run in zip(starts, stops, strict=True)])
    longest = int((stops - starts).argmax())
    return Fault(
        "warn",
        history.date[rows],
        f"{many(len(rows), 'session')} in runs of the same close without trade or with the same "
        f"bar (the longest: {stops[longest] - starts[longest]} from "
        f"{history.date[starts[longest]]}): prices were carried forward, so volatility looks too "
        "low.",
    )


def _ticks(history: _History) -> Fault | None:
    if len(history.date) < TICK_ROWS:
        return None
    close, date = history.close[-TICK_SESSIONS:], history.date[-TICK_SESSIONS:]
    change = np.abs(np.diff(close))
    still = change == 0
    if still.mean() > UNCHANGED:
        return Fault(
            "warn",
            date[1:][still],
            f"The close did not change in {_share(still.mean())} of the last "
            f"{many(len(change), 'session')}: trading is thin or ticks are coarse, so quantiles "
            "of returns are partly rounding.",
        )
    step = change[~still].min() / np.median(close)
    if step > TICK:
        return Fault(
            "warn",
            date,
            f"The smallest step of the close over the last {many(len(close), 'session')} is "
            f"{_share(step)} of the price: returns are coarse, and their quantiles partly "
            "rounding.",
        )
    return None


def _spike(history: _History) -> Fault:
    spikes = history.excursions & (history.scales > OUTLIER_SCALES)
    return Fault(
        "severe",
        history.date[spikes],
        f"{many(spikes, 'close')} more than {OUTLIER_SCALES:g} times the usual move away from "
        "both neighbours: probably a wrong price. Fetch the symbol afresh.",
    )


def _outlier(history: _History) -> Fault:
    outliers = history.jumps & (history.scales > OUTLIER_SCALES) & ~history.unrecorded
    return Fault(
        "info",
        history.date[outliers],
        f"{many(outliers, 'return')} of more than {OUTLIER_SCALES:g} times the usual size, not "
        "undone by the next session: probably news.",
    )


def _volume(history: _History) -> Fault | None:
    empty = ~(history.volume > 0)
    share = empty.mean()
    if share == 1:
        text = "There is no volume: features of volume have no value."
    elif share > EMPTY_VOLUME:
        text = (
            f"Volume is zero or missing in {many(empty, 'session')} ({_share(share)}): features "
            "of volume say little there."
        )
    else:
        return None
    return Fault("info", history.date[empty], text)


def _large_dividend(history: _History) -> Fault:
    large = history.dividend > LARGE_DIVIDEND * history.close
    return Fault(
        "warn",
        history.date[large],
        f"{many(large, 'dividend')} above {_share(LARGE_DIVIDEND)} of the close: a special one, "
        "or one in another unit or before a split. Compare with another source.",
    )


def _capital_gain(history: _History) -> Fault:
    paid = history.capital_gain > 0
    return Fault(
        "info",
        history.date[paid],
        f"{many(paid, 'distribution')} of capital gains, which total returns do not count.",
    )


Detector = Callable[[_History], Fault | None]
DETECTORS: dict[str, Detector] = {
    "gaps": _gaps,
    "off_calendar": _off_calendar,
    "unit_error": _unit_error,
    "unapplied_split": _unapplied_split,
    "unrecorded_split": _unrecorded_split,
    "spike": _spike,
    "outlier": _outlier,
    "stale": _stale,
    "ticks": _ticks,
    "volume": _volume,
    "large_dividend": _large_dividend,
    "capital_gain": _capital_gain,
}


def _between(sessions: np.ndarray, date: np.ndarray) -> np.ndarray:
    days = sessions.astype("datetime64[D]")
    return days[np.searchsorted(days, date[0]) : np.searchsorted(days, date[-1], side="right")]


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each run of True, and the row after its last."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return edges[::2], edges[1::2]


def _previous(values: np.ndarray) -> np.ndarray:
    """The value of the row before; zero or False for the first row."""
    return np.concatenate((np.zeros(1, dtype=values.dtype), values[:-1]))


def _next(values: np.ndarray) -> np.ndarray:
    """The value of the row after; zero or False for the last row."""
    return np.concatenate((values[1:], np.zeros(1, dtype=values.dtype)))


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"
