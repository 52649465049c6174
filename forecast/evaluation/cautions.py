"""What running cannot find out: who was chosen, what was revised, how prices were rounded, who
looked. And whether a point forecast of prices is any better than the last price."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from forecast.dataset.panel import Panel
from forecast.evaluation.audit import Line
from forecast.evaluation.inference import mean_test
from forecast.prices.frame import VINTAGE, Prices

QUIET = 10  # sessions without a price after which a symbol counts as gone
COARSE = 0.25  # of a session's scale: a larger tick is seen in the returns
MOST_COARSE = 0.01  # share of a symbol's rows


def check_survivors(prices: Prices, panel: Panel) -> Line:
    """Whether the list of symbols could hold those that failed."""
    told = next((w for w in prices.warnings if "surviv" in w.lower()), None)
    if told is not None:
        return Line(status="warn", name="survivors", sentence=_sentence(told))
    last = panel.day[panel.offsets[1:] - 1]
    gone = int((last < len(panel.dates) - QUIET).sum())
    count = len(panel.symbols)
    if prices.source == "simulated":
        sentence = "prices are simulated: nobody was left out."
        return Line(status="pass", name="survivors", sentence=sentence)
    if gone:
        sentence = (
            f"{gone} of {count} symbols end early; whether all that failed are in cannot be seen."
        )
    else:
        sentence = (
            f"all {count} symbols trade until the data end: if the list was made then, those "
            "that failed are missing, and levels of return are too good."
        )
    return Line(status="warn", name="survivors", sentence=sentence)


def check_vintage(prices: Prices) -> Line:
    """Whether old prices are those that were known."""
    if prices.source == "simulated":
        sentence = "prices are simulated: nobody revises them."
        return Line(status="pass", name="vintage", sentence=sentence)
    told = VINTAGE if VINTAGE in prices.warnings else "corrections of old prices are not dated"
    return Line(
        status="warn",
        name="vintage",
        sentence=f"{told}: prices as stored today may differ from those known at the time.",
    )


def check_ticks(prices: Prices, panel: Panel) -> Line:
    """Whether prices are rounded so coarsely that their returns show it."""
    worst, told = ("", 0.0), 0
    for s, symbol in enumerate(panel.symbols):
        rows = panel.symbol_rows(s)
        tick = _tick(panel.price[rows])
        if tick is None:
            continue
        told += 1
        percent = 100 * tick / panel.price[rows]
        share = float(np.mean(percent > COARSE * np.nan_to_num(panel.scale[rows], nan=np.inf)))
        if share > worst[1]:
            worst = (symbol, share)
    if worst[1] > MOST_COARSE:
        return Line(
            status="warn",
            name="ticks",
            sentence=f"in {worst[1]:.1%} of the sessions of {worst[0]} the last digit of the price "
            f"is worth more than {COARSE:.0%} of a session's scale: returns jump between ticks "
            "there. Use finer prices, or a later data.start.",
            values={"share": worst[1]},
        )
    if not told and prices.source == "simulated":
        sentence = "prices are simulated: nobody rounds them."
        return Line(status="pass", name="ticks", sentence=sentence)
    if not told:  # adjusted prices, unless the quoted ones are there too
        sentence = (
            "rounding cannot be told from these prices: adjusted ones show no tick. Quoted closes "
            "beside them (raw_close) would."
        )
        return Line(status="warn", name="ticks", sentence=sentence)
    count = len(panel.symbols)
    where = f" in the {told} of {count} symbols where it can be told" if told < count else ""
    return Line(
        status="pass",
        name="ticks",
        sentence=f"the rounding of prices is small beside a session's scale{where}.",
        values={"share": worst[1]},
    )


def _tick(price: np.ndarray) -> float | None:
    """The power of ten that prices are rounded to, up to four decimals."""
    for decimals in range(5):
        scaled = price * 10**decimals
        if (np.abs(scaled - np.round(scaled)) < 1e-4).all():
            return float(10.0**-decimals)
    return None


def check_looks(outputs: Path, sha256: str, *, data: str = "prices") -> Line:
    """How often the test range of these prices, or tables, was opened, by the ledger.

    A line whose run has a "/" is a strategy that was traded on the range.
    """
    path = outputs / "ledger.csv"
    if not path.exists():
        sentence = f"there is no ledger in {outputs}: who has looked cannot be seen."
        return Line(status="warn", name="test range", sentence=sentence)
    with open(path, newline="") as file:
        lines = [
            (line["configuration"], "/" in line["run"])
            for line in csv.DictReader(file)
            if line["part"] == "test" and line["data"] == sha256
        ]
    looks = [configuration for configuration, traded in lines if not traded]
    configurations = len(set(looks))
    strategies = len({configuration for configuration, traded in lines if traded})
    values = {"looks": len(looks), "configurations": configurations, "strategies": strategies}
    times = f"{len(looks)} time{'s' * (len(looks) != 1)}"
    opened = f"the ledger shows the test range of these {data} opened {times}"
    by = f", by {configurations} configurations" * (configurations > 1)
    if strategies:
        by += f", and {strategies} strateg{'y' if strategies == 1 else 'ies'} traded on it"
    apart = " Looks through forecasts= tables stand there under the tables' own hash."
    if max(configurations, strategies) > 1:
        return Line(
            status="warn",
            name="test range",
            sentence=f"{opened}{by}: the best of them is better than it will be. Choose on "
            "validation." + apart,
            values=values,
        )
    return Line(status="pass", name="test range", sentence=f"{opened}{by}.{apart}", values=values)


def unseen(what: str = "forecasts") -> list[Line]:
    """What cannot be checked of tables that somebody gave."""
    sentences = {
        "source": f"whether these {what} know the future; the code that made them is not here.",
        "survivors": "how the symbols were chosen cannot be seen from a table.",
        "vintage": "whether the prices behind the table were revised later cannot be seen from it.",
    }
    return [
        Line(status="warn", name=name, sentence=f"not checked: {sentence}")
        for name, sentence in sentences.items()
    ]


def check_last_price(table: pd.DataFrame) -> Line | None:
    """A point forecast against that of no change: absolute errors, averaged over a date's symbols.

    Parameters
    ----------
    table : DataFrame
        Rows of one model and part; columns origin, horizon, actual, mean and q50.

    Returns
    -------
    Line or None
        None where the model states a distribution: it claims more than a price.
    """
    table = table[table["actual"].notna()]
    if table["q50"].notna().any() or table.empty:
        return None
    better, words = True, []
    values: dict[str, float | int | None] = {}
    for horizon in sorted(table["horizon"].unique().tolist()):
        rows = table[table["horizon"] == horizon]
        saved = (rows["actual"] - rows["mean"]).abs() - rows["actual"].abs()
        test = mean_test(saved.groupby(rows["origin"]).mean().to_numpy())
        better &= bool(test.t < 0 and test.p < 0.05)
        words.append(f"t = {test.t:.1f} at {horizon} session{'s' * (horizon > 1)}")
        values[f"t_{horizon}"] = test.t
    told = f"absolute error against that of the last price: {', '.join(words)}"
    return Line(
        status="pass" if better else "warn",
        name="last price",
        sentence=f"{told}. " + ("The forecasts are better." if better else NOT_BETTER),
        values=values,
    )


NOT_BETTER = (
    "A negative t of 2 or more would be skill: the forecasts are not better than the last price."
)


def _sentence(text: str) -> str:
    """A warning of the prices without the word that it begins with."""
    return text.partition(": ")[2] + "." if ": " in text else text + "."
