from __future__ import annotations

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


def test_the_figure_is_left_out_without_its_file(make_portfolio: Make) -> None:
    run = make_portfolio()
    (run.path / "risk.parquet").unlink()
    html = portfolio_risk(traded_in(run))
    assert "portfolio equal_weight" in html and "value-at-risk" not in html.split("</p>", 1)[1]


def test_without_risk_it_says_so(make_portfolio: Make) -> None:
    run = make_portfolio()
    run.write("metrics.json", {**run.metrics, "risk": {}})
    assert "No risk of the portfolios was forecast" in portfolio_risk(traded_in(run))
