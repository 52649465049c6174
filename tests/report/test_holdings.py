from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from forecast.report.holdings import MOST_SYMBOLS, exposure, holdings, over_time, weights_of
from forecast.report.traded import traded_in
from forecast.run import Run

Make = Callable[..., Run]


def test_weights_are_the_positions_and_zero_where_there_is_none(make_portfolio: Make) -> None:
    run = make_portfolio()
    table = pd.read_parquet(run.path / "positions.parquet")
    last = table["date"].max()
    gone = (table["date"] == last) & (table["symbol"] == "KO")
    table[~gone].to_parquet(run.path / "positions.parquet")
    weights = weights_of(traded_in(run), ("lstm", "long_short"))
    assert list(weights.columns) == ["AAPL", "BA", "KO", "RRC", "XOM"]
    assert weights.index[-1] == last and weights["KO"].iloc[-1] == 0
    one = table[(table["model"] == "lstm") & (table["strategy"] == "long_short")]
    wanted = one[(one["date"] == last) & (one["symbol"] == "BA")]["weight"].iloc[0]
    assert weights["BA"].iloc[-1] == wanted


def test_of_many_symbols_the_largest_holdings_are_drawn(make_portfolio: Make) -> None:
    symbols = tuple(f"S{i:02d}" for i in range(MOST_SYMBOLS + 5))
    run = make_portfolio(years=(2020,), models=("lstm",), strategies=("sign",), symbols=symbols)
    traded = traded_in(run)
    weights = weights_of(traded, ("lstm", "sign"))
    assert len(weights.columns) == MOST_SYMBOLS and len(weights) <= 180
    assert f"Shown are the {MOST_SYMBOLS} symbols" in holdings(traded)


def test_shorts_are_drawn_below_zero(make_portfolio: Make) -> None:
    traded = traded_in(make_portfolio())
    rows = traded.returns["gru", "sign"]
    drawn = [t for t in exposure(traded).data if "sign on gru" in t.hovertemplate][:3]
    long, short, turnover = (np.asarray(trace.y) for trace in drawn)
    assert long[-1] == pytest.approx(100 * rows["long"].iloc[-1], rel=1e-5)
    assert short[-1] == pytest.approx(-100 * rows["short"].iloc[-1], rel=1e-5)
    assert turnover[-1] == pytest.approx(100 * rows["turnover"].iloc[-21:].mean(), rel=1e-4)


def test_long_is_blue_and_each_strategy_can_be_chosen(make_portfolio: Make) -> None:
    traded = traded_in(make_portfolio())
    held = {pair: weights_of(traded, pair) for pair in traded.own if pair[0] == "lstm"}
    figure = over_time(held)
    assert all(heat.reversescale and heat.zmin == -heat.zmax for heat in figure.data)
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == [
        f"{strategy} on lstm" for strategy in ("long_short", "sign", "inverse_volatility")
    ]


def test_without_positions_it_says_so(make_portfolio: Make) -> None:
    run = make_portfolio()
    (run.path / "positions.parquet").unlink()
    assert "No positions lie in the folder" in holdings(traded_in(run))
