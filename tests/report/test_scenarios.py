from __future__ import annotations

import re
from collections.abc import Callable

from forecast.report.scenarios import portfolio_risk
from forecast.report.traded import traded_in
from forecast.run import Run

Make = Callable[..., Run]


def test_a_refused_forecast_is_marked(make_portfolio: Make) -> None:
    html = portfolio_risk(traded_in(make_portfolio()))
    assert "portfolio equal_weight" in html and html.count("0.030*") == 2 * 3
    assert "0.410" in html and "0.410*" not in html
    assert 'id="value-at-risk"' in html and "by lstm" in html


def test_expected_shortfall_and_its_excess_stand_beside_value_at_risk(make_portfolio: Make) -> None:
    html = portfolio_risk(traded_in(make_portfolio()))
    heads = re.findall(r'<th scope="col">([^<]*)</th>', html)
    rows = re.findall(r"</span>lstm</td>(.*?)</tr>", html)
    assert len(rows) == 2 and "equal_weight, 1 %" in html and "equal_weight, 5 %" in html
    for row in rows:
        cells = re.findall(r">([^<>]+)</td>", row)
        assert dict(zip(heads[1:], cells, strict=True)) == {
            **{"VaR, %": "-2.80", "below, %": "1.30", "t": "0.9", "Kupiec": "0.410"},
            **{"independence": "0.030*", "both": "0.070", "ES, %": "-3.50", "excess, %": "17"},
            "shortfall": "0.200",
        }


def test_origins_without_an_outcome_are_counted_where_there_are_any(make_portfolio: Make) -> None:
    run = make_portfolio()
    assert "lost</th>" not in portfolio_risk(traded_in(run))
    metrics = run.metrics
    metrics["risk"]["test"]["equal_weight"]["gru"]["01"]["origins_lost"] = 37
    run.write("metrics.json", metrics)
    html = portfolio_risk(traded_in(run))
    assert "lost</th>" in html
    lost = {
        model: re.findall(rf"</span>{model}</td>.*?>(\d+)</td></tr>", html)[0]
        for model in ("lstm", "gru")
    }
    assert lost == {"lstm": "0", "gru": "37"}


def test_the_figure_is_left_out_without_its_file(make_portfolio: Make) -> None:
    run = make_portfolio()
    (run.path / "risk.parquet").unlink()
    html = portfolio_risk(traded_in(run))
    assert "portfolio equal_weight" in html and "value-at-risk" not in html.split("</p>", 1)[1]


def test_without_risk_it_says_so(make_portfolio: Make) -> None:
    run = make_portfolio()
    run.write("metrics.json", {**run.metrics, "risk": {}})
    assert "No risk of the portfolios was forecast" in portfolio_risk(traded_in(run))
