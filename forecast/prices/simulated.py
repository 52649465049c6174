"""Prices drawn from a known process: does a method find what is there, and nothing else?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from forecast.config import ForecastError
from forecast.prices.choice import Choice, Symbols, read_date
from forecast.prices.covariates import load_covariates
from forecast.prices.frame import Covariate, Prices, finished
from forecast.prices.mapped import home_folder, scratch
from forecast.prices.processes import (
    BARS,
    LISTING,
    Draw,
    Garch,
    Normal,
    Process,
    Recall,
    TrueDistribution,
    generator,
)

PROCESSES = ("gbm", "garch", "planted", "recall")
BLOCK = 256  # symbols drawn together: recursions over time run over all of them at once
FIRST_PRICE = 100.0
OVERNIGHT = 0.25  # share of a session's variance between the last close and the open
BAR_FIELDS = ("open", "high", "low", "volume")


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The process that simulated prices were drawn from, as a forecaster.

    It holds no paths: what is known at an origin is drawn again from the seed.
    """

    process: Process
    symbols: tuple[str, ...]
    sessions: np.ndarray  # datetime64[D]

    def states(self, horizons: Sequence[int], delay: int) -> bool:
        """Whether the process has a true distribution of all these targets."""
        return not isinstance(self.process, Recall) or (tuple(horizons), delay) == ((1,), 0)

    def distribution(
        self, symbol: str, dates: np.ndarray, horizon: int, delay: int
    ) -> TrueDistribution:
        """Distribution of 100 ln(C[t+delay+horizon] / C[t+delay]) given all that is known at t.

        Parameters
        ----------
        symbol : a simulated symbol.
        dates : the origins t, sessions of the simulation, shape (n_origins,).
        horizon, delay : sessions.

        Raises
        ------
        ForecastError
            A symbol or date that was not simulated.
        """
        days = np.asarray(dates).astype("datetime64[D]")
        rows = np.searchsorted(self.sessions, days)
        absent = self.sessions[np.minimum(rows, len(self.sessions) - 1)] != days
        if symbol not in self.symbols or absent.any():
            when = f" on {days[int(absent.argmax())]}" if absent.any() else ""
            raise ForecastError(
                f"truth: {symbol}{when} was not simulated. Ask for sessions of these prices."
            )
        block, row = divmod(int(symbol.removeprefix("SIM")) - 1, BLOCK)
        count = min(BLOCK, len(self.symbols) - block * BLOCK)
        known_BT = _known(self.process, block, count, len(self.sessions))
        return self.process.distribution(known_BT[row, rows], horizon, delay)


@lru_cache(maxsize=2)
def _known(process: Process, block: int, count: int, n_sessions: int) -> np.ndarray:
    return process.draw(range(block * BLOCK, block * BLOCK + count), n_sessions).known_BT


def simulated(
    *,
    process: str = "gbm",
    n_symbols: int = 20,
    n_sessions: int = 2520,
    seed: int = 0,
    volatility: float = 1.5,
    drift: float = 0.0,
    omega: float | None = None,
    alpha: float = 0.03,
    gamma: float = 0.08,
    beta: float = 0.90,
    df: float = 6.0,
    information_coefficient: float = 0.05,
    longest: int = 100,
    staggered: bool = False,
    ohlcv: bool = False,
    first: str = "1990-01-02",
    truth: bool = True,
    truth_paths: int = 50_000,
    symbols: Symbols = None,
    start: str | None = None,
    end: str | None = None,
    covariates: Sequence[Mapping[str, object]] = (),
    in_memory: bool = True,
) -> Prices:
    """Independent symbols `SIM0001, SIM0002, ...` on shared sessions, Monday to Friday.

    Sessions are weekdays: exchange holidays are traded too, so that the number of sessions is what
    was asked for; `calendar` is XNYS for its close times. A symbol's path depends on the seed and
    its number alone.

    Parameters
    ----------
    process : "gbm" (independent normal returns), "garch" (GJR-GARCH with Student-t innovations),
        "planted" (normal returns, foretold by a covariate `signal` known at the origin's close) or
        "recall" (normal returns whose volatility was told long before, see `Recall`; covariates
        `shock` and `question`).
    n_symbols, n_sessions : size; fewer sessions for symbols listed later.
    volatility : unconditional standard deviation of log returns, percent per session.
    drift : mean log return, percent per session.
    omega, alpha, gamma, beta, df : of the GARCH, see `Garch`; omega in percent squared, None for
        the one that gives `volatility`.
    information_coefficient : correlation of `signal` with the next return per date; planted only.
    longest : sessions from a shock to its answer at most; recall only.
    staggered : whether each symbol is listed at a session drawn from the first half.
    ohlcv : whether to add open, high, low and volume. The log price runs from close to open with a
        quarter of the session's variance and then as a Brownian bridge to the close; high and low
        are drawn from that bridge's maximum and minimum, each by itself. Volume grows with the size
        of the return. None of them tells more of the future than the close does.
    first : first session, YYYY-MM-DD.
    truth : whether to hand out the true distribution too.
    truth_paths : paths behind the quantiles of a GARCH beyond one session.
    in_memory : False: the frame's columns lie in a nameless file under FORECAST_HOME, which goes
        with them. The same values.

    Raises
    ------
    ForecastError
        An unknown process, a parameter outside its range, a symbol that is not simulated.
    """
    choice = Choice.read(symbols=symbols, start=start, end=end)
    drawn = _process(
        process=process,
        seed=seed,
        volatility=volatility,
        drift=drift,
        garch=(omega, alpha, gamma, beta, df),
        paths=truth_paths,
        ic=information_coefficient,
        longest=longest,
    )
    for key, value in (("n_symbols", n_symbols), ("n_sessions", n_sessions)):
        _require(isinstance(value, int) and value >= 1, key, value, "a positive whole number")
    origin = read_date(first, "data.first")
    if origin is None:
        raise ForecastError("data.first is null. Give the first session as YYYY-MM-DD.")
    sessions = np.busday_offset(origin, np.arange(n_sessions), roll="forward")
    names = tuple(f"SIM{number:04d}" for number in range(1, n_symbols + 1))
    wanted = set(choice.known(names, "simulated"))

    frame, signals = _frame(
        drawn,
        numbers=sorted(
            (n for n, name in enumerate(names) if name in wanted), key=names.__getitem__
        ),
        names=names,
        sessions=sessions,
        choice=choice,
        listed=[_listing(seed, n, n_sessions) if staggered else 0 for n in range(n_symbols)],
        bars=seed if ohlcv else None,
        in_memory=in_memory,
    )
    own: tuple[Covariate, ...] = ()
    frame, left_out = finished(
        frame, choice=choice, available=names, source="simulated", calendar="XNYS"
    )
    if signals:
        told = {"known": frame["date"], "symbol": frame["symbol"], **signals}
        own = (
            Covariate(
                name=process,
                frame=pd.DataFrame(told, copy=False),
                columns=tuple(signals),
                lag=0,
                max_age=0,
            ),
        )
    joined, notes = load_covariates(covariates, frame, taken=tuple(signals))
    return Prices(
        frame=frame,
        source="simulated",
        covariates=(*own, *joined),
        warnings=("simulated prices: results say nothing about any market", *notes),
        left_out=left_out,
        truth=Truth(process=drawn, symbols=names, sessions=sessions) if truth else None,
    )


def _require(holds: bool, key: str, value: object, wanted: str) -> None:
    if not holds:
        raise ForecastError(f"data.{key}={value} must be {wanted}.")


def _process(
    *,
    process: str,
    seed: int,
    volatility: float,
    drift: float,
    garch: tuple[float | None, float, float, float, float],
    paths: int,
    ic: float,
    longest: int,
) -> Process:
    _require(process in PROCESSES, "process", process, f"one of {', '.join(PROCESSES)}")
    _require(isinstance(seed, int) and seed >= 0, "seed", seed, "a whole number, 0 or more")
    _require(0 < volatility < 50, "volatility", volatility, "between 0 and 50 percent per session")
    _require(-5 < drift < 5, "drift", drift, "between -5 and 5 percent per session")
    if process == "gbm":
        return Normal(seed=seed, drift=drift, volatility=volatility)
    if process == "planted":
        _require(-1 < ic < 1, "information_coefficient", ic, "between -1 and 1")
        return Normal(seed=seed, drift=drift, volatility=volatility, ic=ic)
    if process == "recall":
        _require(isinstance(longest, int) and longest >= 1, "longest", longest, "1 session or more")
        return Recall(seed=seed, drift=drift, volatility=volatility, longest=longest)
    omega, alpha, gamma, beta, df = garch
    persistence = alpha + gamma / 2 + beta
    for key, value in (("alpha", alpha), ("gamma", gamma), ("beta", beta)):
        _require(value >= 0, key, value, "0 or more")
    _require(
        persistence < 1, "beta", beta, f"lower: alpha + gamma/2 + beta = {persistence:g}, not < 1"
    )
    _require(df > 2, "df", df, "above 2, or the variance is infinite")
    _require(isinstance(paths, int) and paths >= 100, "truth_paths", paths, "at least 100")
    if omega is None:
        omega = volatility**2 * (1 - persistence)
    _require(omega > 0, "omega", omega, "above 0")
    return Garch(
        seed=seed,
        drift=drift,
        omega=omega,
        alpha=alpha,
        gamma=gamma,
        beta=beta,
        df=df,
        paths=paths,
    )


def _listing(seed: int, number: int, n_sessions: int) -> int:
    return int(generator(seed, number, LISTING).random() * (n_sessions // 2 + 1))


def _frame(
    process: Process,
    *,
    numbers: Sequence[int],
    names: Sequence[str],
    sessions: np.ndarray,
    choice: Choice,
    listed: Sequence[int],
    bars: int | None,
    in_memory: bool,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The long frame and the signals on its rows, filled block by block into their final place."""
    low = 0 if choice.start is None else int(np.searchsorted(sessions, choice.start))
    high = len(sessions)
    if choice.end is not None:
        high = int(np.searchsorted(sessions, choice.end, side="right"))
    firsts = [max(low, listed[number]) for number in numbers]
    counts = [max(0, high - first) for first in firsts]
    offsets = np.append(0, np.cumsum(counts, dtype=np.int64))
    rows = int(offsets[-1])
    empty: Callable[[Any], np.ndarray] = partial(np.empty, rows)
    if not in_memory:
        empty = partial(scratch, home_folder(), rows)
    columns = {name: empty("f8") for name in ("close", *(BAR_FIELDS if bars is not None else ()))}
    signals: dict[str, np.ndarray] = {}
    date, code = empty("M8[s]"), empty(np.min_scalar_type(-len(numbers)))
    for begin in range(0, len(numbers), BLOCK):
        block = numbers[begin : begin + BLOCK]
        draw = process.draw(block, len(sessions))
        drawn = {"close": np.exp(np.cumsum(draw.returns_BT, axis=1) / 100) * FIRST_PRICE}
        if bars is not None:
            drawn |= _bars(draw, drawn["close"], [generator(bars, n, BARS) for n in block])
        for row in range(len(block)):
            there = slice(offsets[begin + row], offsets[begin + row + 1])
            here = slice(high - counts[begin + row], high)
            date[there], code[there] = sessions[here], begin + row
            for name, column in columns.items():
                column[there] = drawn[name][row, here]
            for name, told_BT in draw.signals.items():
                if name not in signals:
                    signals[name] = empty("f8")
                signals[name][there] = told_BT[row, here]
    categories = pd.Index([names[number] for number in numbers], dtype="str")
    symbol = pd.Categorical.from_codes(code, categories=categories)
    return pd.DataFrame({"symbol": symbol, "date": date, **columns}, copy=False), signals


def _bars(
    draw: Draw, close_BT: np.ndarray, generators: Sequence[np.random.Generator]
) -> dict[str, np.ndarray]:
    """Open, high, low and volume of each session, given its return.

    The maximum of a Brownian bridge from a to b with variance v is
    (a + b + sqrt((b - a)^2 - 2 v ln U)) / 2, U uniform, and -2 ln U is a chi-square of two.
    """
    n_sessions = close_BT.shape[1]
    z_BTK = np.stack([rng.standard_normal((n_sessions, 6)) for rng in generators])
    std_BT, returns_BT = np.sqrt(draw.variance_BT), draw.returns_BT
    gap_BT = OVERNIGHT * returns_BT
    gap_BT += np.sqrt(OVERNIGHT * (1 - OVERNIGHT)) * std_BT * z_BTK[..., 0]
    inside_BT = returns_BT - gap_BT
    bridge_BT = (1 - OVERNIGHT) * draw.variance_BT

    def reach(pair: slice) -> np.ndarray:
        squares_BT: np.ndarray = (z_BTK[..., pair] ** 2).sum(axis=-1)
        return np.asarray(np.sqrt(inside_BT**2 + bridge_BT * squares_BT))

    before_BT = close_BT * np.exp(-returns_BT / 100)
    return {
        "open": before_BT * np.exp(gap_BT / 100),
        "high": before_BT * np.exp((gap_BT + (inside_BT + reach(slice(2, 4))) / 2) / 100),
        "low": before_BT * np.exp((gap_BT + (inside_BT - reach(slice(4, 6))) / 2) / 100),
        "volume": 1e6 * np.exp(0.5 * np.abs(returns_BT) / std_BT + 0.3 * z_BTK[..., 1]),
    }
