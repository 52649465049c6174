"""The page of a prediction: what is forecast from the newest closes, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from forecast.evaluation.prediction_table import groups
from forecast.report.fans import draw_fans
from forecast.report.markup import (
    counted,
    html_details,
    html_facts,
    html_list,
    html_table,
    html_text,
    listing,
)
from forecast.report.style import GREY, dates_as_text, embed, finish, in_words
from forecast.report.summary import careful
from forecast.run import Run

FACTS = "prediction.json"  # tells a prediction's folder from others
TABLE_SYMBOLS = 60
MOST_CHARTS = 12
FEW_CHARTS = 6  # where not all symbols can be drawn
MOST_OPEN = 10  # lines of a list that is not folded
LEAST_HISTORY = 20  # sessions before the origin, or three times the longest horizon

NAMES = {  # as the columns of predictions.csv are called in a fan
    **{"expected_date": "target_date", "price": "base"},
    **{"low_90": "q05", "low_50": "q25", "high_50": "q75", "high_90": "q95"},
}


def sections(run: Run) -> dict[str, str]:
    """The table of all symbols, fan charts of some, and where the prediction comes from."""
    facts = run.json(FACTS)
    # An empty field is the only undefined one: NA, NAN and TRUE are symbols.
    rows = pd.read_csv(
        run.path / "predictions.csv", dtype={"symbol": str}, keep_default_na=False, na_values=[""]
    )
    return {
        "Forecast": _forecast(facts, rows),
        "Fans": _fans(run, facts, rows),
        "Provenance": _provenance(facts),
    }


def _forecast(facts: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Warnings first, then a table per horizon and what its columns mean."""
    symbols = rows["symbol"].nunique()
    first, last = rows["origin"].min(), rows["origin"].max()
    closes = f"the close of {last}" if first == last else f"their last closes, {first} to {last}"
    lead = (
        f"What {facts['model']} states of {counted(symbols, 'symbol')} at {closes}: the price "
        f"{in_words(sorted(rows['horizon'].unique()))} ahead."
    )
    html = careful(list(facts["warnings"])) if facts["warnings"] else ""
    html += f"<p>{html_text(lead)}</p>"
    for heading, cells in groups(rows, most=TABLE_SYMBOLS).items():
        html += f"<h3>{escape(heading)}</h3>"
        html += html_table(cells.columns.tolist(), cells.to_numpy().tolist())
    if symbols > TABLE_SYMBOLS:
        html += (
            f"<p>The first {TABLE_SYMBOLS} are shown; predictions.csv lists all {symbols:,}.</p>"
        )
    html += f'<p class="note">{html_text(_meaning(facts, rows))}</p>'
    if facts["left_out"]:
        html += html_details(
            f"{counted(len(facts['left_out']), 'symbol')} left out",
            html_list(f"{row['symbol']}: {row['reason']}" for row in facts["left_out"]),
            opened=len(facts["left_out"]) <= MOST_OPEN,
        )
    return html


def _meaning(facts: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """What the numbers of the table are, of those that are there."""
    told = {
        "high_90": "An interval of 90 % should miss the outcome one time in ten.",
        "probability_of_rise": "P(rise) is the probability of a return above zero.",
        "volatility": "Volatility is the standard deviation of the return over the whole horizon.",
    }
    sentences = [text for column, text in told.items() if rows[column].notna().any()]
    if rows["high_90"].isna().all():
        sentences.insert(0, "The model states a mean and no distribution, so there is no interval.")
    return " ".join(
        [
            "Prices are the last close moved by the return that is forecast, in which dividends "
            "count; predictions.csv has the returns too.",
            *_delayed(facts["delay"]),
            *sentences,
        ]
    )


def _delayed(delay: int) -> list[str]:
    if not delay:
        return []
    return [
        f"The return is counted from the close {in_words([delay])} after the origin, which is not "
        "known yet: the prices assume that the target starts at the last close."
    ]


def _fans(run: Run, facts: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Fan charts, under what is interpolated in them."""
    symbols = rows["symbol"].unique()
    drawn = len(symbols) if len(symbols) <= MOST_CHARTS else FEW_CHARTS
    places = np.linspace(0, len(symbols) - 1, drawn)
    chosen = symbols[places.round().astype(int)]
    horizons = in_words(sorted(rows["horizon"].unique()))
    lines = "the dashed median and the bands are"
    if rows["high_90"].isna().all():
        lines = "the dashed mean is"
    several = rows["horizon"].nunique() > 1
    note = [
        f"{'Forecasts stand' if several else 'The forecast stands'} at the "
        f"{'markers' if several else 'marker'}, {horizons} ahead: {lines} interpolated "
        f"{'between' if several else 'up to'} {horizons}, from the last close on.",
        "The thin line stands at the origin.",
        *_delayed(facts["delay"]),
    ]
    if len(symbols) > len(chosen):
        note.append(
            f"{len(chosen)} of {len(symbols):,} symbols are drawn, spaced evenly through the list, "
            "not chosen for their looks."
        )
    history = pd.read_parquet(
        run.path / "history.parquet", filters=[("symbol", "in", chosen.tolist())]
    )
    return f'<p class="note">{html_text(" ".join(note))}</p>' + "".join(
        embed(
            fan(
                rows[rows["symbol"] == symbol],
                history[history["symbol"] == symbol].set_index("date")["price"],
                model=facts["model"],
            ),
            f"fan-{position}",
        )
        for position, symbol in enumerate(chosen, start=1)
    )


def fan(rows: pd.DataFrame, close: pd.Series, *, model: str) -> go.Figure:
    """The price of one symbol up to the origin, and what is forecast of it.

    Parameters
    ----------
    rows : DataFrame
        The lines of one symbol in `predictions.csv`.
    close : float, indexed by ascending dates
        Its price over the last sessions; at least one.
    model : str
        Gives the colour.
    """
    (origin,) = dates_as_text(rows["origin"].iloc[:1])
    horizons = sorted(rows["horizon"])
    stated = rows.rename(columns=NAMES).dropna(subset="target_date").sort_values("horizon")
    stated = stated.assign(start=stated["origin"], mean=stated["median_price"], actual=np.nan)
    stated["q50"] = stated["median_price"].where(stated["q95"].notna())
    figure = go.Figure()
    draw_fans(
        figure,
        [stated],
        close.iloc[-max(LEAST_HISTORY, 3 * int(horizons[-1])) :],
        model=model,
        daily=False,
    )
    figure.add_vline(x=origin, line={"color": GREY, "width": 1})
    figure.update_xaxes(title_text="session (date)", type="date")
    figure.update_yaxes(title_text="price (currency of the data)")
    symbol = escape(str(rows["symbol"].iloc[0]), quote=False)
    title = f"{symbol}: {escape(model)} forecast of {origin}, {in_words(horizons)} ahead"
    return finish(figure, title=title, height=380)


def _provenance(facts: Mapping[str, Any]) -> str:
    """The run that learned, the data it was shown, and whether the forecast will be scored."""
    recorded = "yes" if facts["recorded"] else f"no: {facts['recorded_reason']}"
    shown = {
        "run": facts["run"],
        "model": facts["model"],
        "made at": facts["made_at"],
        "part": facts["part"],
        "horizons": in_words(facts["horizons"]),
        "delay": in_words([facts["delay"]]),
        "rows of predictions.csv": facts["rows"],
        "recorded for live scoring": recorded,
        "hash of the data": facts["data_hash"],
    }
    for name, value in facts["data"].items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = listing(value)
        if not isinstance(value, list | dict):
            shown[name if name == "source" else f"data: {name}"] = value
    return html_facts(shown)
