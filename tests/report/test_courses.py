from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from forecast.report.courses import LOSSES, against_each, cumulative, over_time
from forecast.run import Run

Make = Callable[..., Run]


def daily(dates: int = 40, models: tuple[str, ...] = ("lstm", "gjr_t", "mlp")) -> pd.DataFrame:
    random = np.random.default_rng(0)
    days = pd.bdate_range("2020-01-01", periods=dates)
    return pd.concat(
        pd.DataFrame(
            {"model": model, "origin": days, **{loss: random.normal(size=dates) for loss in LOSSES}}
        )
        for model in models
    )


def test_the_last_value_of_a_course_is_the_summed_difference() -> None:
    table = daily()
    sums = table.groupby("model")[list(LOSSES)].sum()
    curves = cumulative(table, ["lstm"], ["gjr_t", "mlp"])
    for (loss, other), line in curves.groupby(["loss", "against"]):
        assert line["value"].iloc[-1] == pytest.approx(
            sums.loc["lstm", loss] - sums.loc[other, loss]
        )


def test_a_loss_that_a_model_does_not_state_has_no_course() -> None:
    table = daily()
    table.loc[table["model"] == "mlp", "log_score"] = np.nan
    curves = cumulative(table, ["lstm"], ["gjr_t", "mlp", "absent"])
    found = {tuple(pair) for pair in curves.query("date.notna()")[["loss", "against"]].to_numpy()}
    assert ("log_score", "mlp") not in found and ("log_score", "gjr_t") in found
    assert not {against for _, against in found} & {"absent"}


def test_one_baseline_is_shown_and_all_can_be_chosen() -> None:
    curves = cumulative(daily(), ["lstm"], ["gjr_t", "mlp"])
    figure = against_each(curves, first="mlp", title="t", unit=LOSSES, critical=3.0)
    (menu,) = figure.layout.updatemenus
    labels = [button.label for button in menu.buttons]
    assert labels == ["against gjr_t", "against mlp"] and menu.active == 1
    for label, button in zip(labels, menu.buttons, strict=True):
        shown = [t for t, on in zip(figure.data, button.args[1], strict=True) if on]
        lines = [t for t in shown if t.name]
        assert len(lines) == len(LOSSES)
        assert all(label.removeprefix("against ") in t.hovertemplate for t in lines)
        assert sum(t.showlegend for t in lines) == 1
        # The critical lines stay, whatever is chosen.
        assert sorted(t.y[0] for t in shown if not t.name) == [-3, -3, -3, 3, 3, 3]


def test_there_is_a_figure_of_each_kind_for_every_horizon(make_backtest: Make) -> None:
    html = over_time(make_backtest())
    for name in ("summed-1", "summed-5", "fluctuation-1", "fluctuation-5"):
        assert f'id="{name}"' in html
    assert "moving window of 30 %" in html


def test_without_the_files_or_a_baseline_it_says_so(make_backtest: Make) -> None:
    run = make_backtest()
    (run.path / "fluctuation.parquet").unlink()
    html = over_time(run)
    assert 'id="summed-1"' in html and "fluctuation" not in html.lower()
    (run.path / "daily.parquet").unlink()
    assert "No losses by date" in over_time(run)
    alone = make_backtest("alone", models={"lstm": 0.1})
    assert "there is no difference to follow" in over_time(alone)
