"""The audit of rules: silent where all is well, and not to be fooled by what looks ahead."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special

from forecast.config import ForecastError
from forecast.evaluation.audit import Line
from forecast.forecasts import LEVELS, QUANTILES
from forecast.portfolio.audit import check_rules
from forecast.portfolio.case import Case
from forecast.portfolio.decisions import Limits
from forecast.portfolio.quotes import quotes_of
from forecast.prices.frame import Prices

SYMBOLS, SESSIONS, ORIGINS = 6, 260, 130
CODE = '''
import numpy as np

FUTURE = None    # closes by date and symbol, as a rule may have read them from a file
CALLS = []
LONGEST = [0, None]


def ranked(values):
    known = np.nan_to_num(values - np.nanmean(values))
    return known / max(np.abs(known).sum(), 1e-12)


def honest(forecasts, past_returns):
    return ranked(forecasts.mean_S)


def momentum(forecasts, past_returns, *, sessions: int):
    return ranked(np.nansum(past_returns[-sessions:], axis=0))


def slow(forecasts, past_returns):
    return 0.9 * forecasts.previous_S + 0.1 * ranked(forecasts.mean_S)


def through_the_view(forecasts, past_returns):
    """A view knows the array that it is of."""
    whole = past_returns if past_returns.base is None else past_returns.base
    return ranked(whole[min(len(past_returns), len(whole) - 1)])


def ahead(sessions):
    def rule(forecasts, past_returns):
        row = FUTURE.index.get_loc(str(forecasts.origin))
        last = len(FUTURE) - 1
        later = FUTURE.iloc[min(row + sessions, last)] / FUTURE.iloc[min(row + sessions - 1, last)]
        return ranked(later.reindex(list(forecasts.symbols)).to_numpy())
    return rule


tomorrow, after_tomorrow = ahead(1), ahead(2)


def partly(forecasts, past_returns):
    return ranked(forecasts.mean_S) / 2 + tomorrow(forecasts, past_returns) / 2


def against(forecasts, past_returns):
    return -tomorrow(forecasts, past_returns)


def yesterday(forecasts, past_returns):
    return ahead(0)(forecasts, past_returns)


def counting(forecasts, past_returns):
    CALLS.append(forecasts.origin)
    return ranked(forecasts.mean_S) * (1 if len(CALLS) % 3 else -1)


def hoarding(forecasts, past_returns):
    """The longest history that was ever seen, which is the future of a shorter one."""
    if len(past_returns) > LONGEST[0]:
        LONGEST[:] = len(past_returns), past_returns
    return ranked(LONGEST[1][min(len(past_returns), LONGEST[0] - 1)])


def tossing(forecasts, past_returns):
    return ranked(np.random.default_rng().standard_normal(len(forecasts.symbols)))


def seeded(forecasts, past_returns):
    seed = forecasts.origin.astype(int)
    return ranked(np.random.default_rng(seed).standard_normal(len(forecasts.symbols)))


def writing(forecasts, past_returns):
    past_returns[-1] = 0.0
    return ranked(forecasts.mean_S)


def forcing(forecasts, past_returns):
    weights = ranked(forecasts.mean_S)
    forecasts.mean_S.flags.writeable = True
    forecasts.mean_S[:] = 0.0
    return weights


def counting_symbols(forecasts, past_returns):
    """A share for each symbol, those that will be listed later too."""
    return np.where(np.isnan(forecasts.mean_S), 0.0, 1 / len(forecasts.symbols))


def idle(forecasts, past_returns):
    return np.zeros(len(forecasts.symbols))


def fixed(forecasts, past_returns):
    return np.arange(len(forecasts.symbols)) / 100


def broken(forecasts, past_returns):
    raise KeyError("nothing\\nhere")
'''


@pytest.fixture(scope="module", autouse=True)
def rules_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A user's module in the current directory."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "audited_rules.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import audited_rules  # type: ignore[import-not-found]

        yield audited_rules
    sys.modules.pop("audited_rules")


def limits(**changed: Any) -> Limits:
    return Limits(
        **{
            "models": None, "horizon": None, "rebalance": 5, "max_position": 1.0,
            "max_gross": 2.0, "max_net": 1.0, "stale": 5, "rules": {}, **changed,
        }
    )  # fmt: skip


def forecasts_of(prices: Prices, *, horizon: int = 1, delay: int = 1) -> pd.DataFrame:
    """Forecasts that know nothing, of the last origins."""
    random = np.random.default_rng(1)
    frame = prices.frame[["symbol", "date"]].rename(columns={"date": "origin"})
    days = np.unique(frame["origin"])
    frame = frame[(frame["origin"] >= days[-ORIGINS]).to_numpy()].reset_index(drop=True)
    mean = 0.1 * random.standard_normal(len(frame))
    std = np.exp(0.2 * random.standard_normal(len(frame))) * np.sqrt(horizon)
    quantiles = mean[:, None] + std[:, None] * special.ndtri(LEVELS)
    return frame.assign(
        model="lstm", fold=0, part="test", horizon=horizon, delay=delay, scale=1.0, mean=mean,
        std=std, **dict(zip(QUANTILES, quantiles.T, strict=True)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def case(random_prices: Callable[..., Prices], rules_module: ModuleType) -> Case:
    prices = random_prices(
        3, symbols=SYMBOLS, sessions=SESSIONS, missing=0.02, halts=0, staggered=False
    )
    quotes = quotes_of(prices)
    closes = pd.DataFrame(quotes.close_TS, quotes.dates.astype(str), quotes.symbols).ffill()
    rules_module.FUTURE = closes
    return Case(
        forecasts=forecasts_of(prices),
        prices=prices,
        limits=limits(),
        execution=None,
        origins=ORIGINS,
        where="here",
    )


def lines(case: Case, rules: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Line]]:
    """The lines of each check."""
    found: dict[str, list[Line]] = {}
    for line in check_rules(case, rules):
        found.setdefault(line.name, []).append(line)
        assert "\n" not in line.sentence
    return found


def statuses(case: Case, name: str, **options: Any) -> tuple[str, str]:
    """What the checks strategy and placebo say of a rule of one's own."""
    found = lines(case, {"mine": {"rule": f"audited_rules.{name}", **options}})
    (strategy,), (placebo,) = found["strategy"], found["placebo"]
    return strategy.status, placebo.status


def test_built_in_rules_pass_and_are_told_in_one_line_a_check(case: Case) -> None:
    found = lines(
        case,
        {
            "long_short": {"rule": "long_short", "share": 0.2, "by": "mean"},
            "top": {"rule": "top_k", "k": 2, "turnover": 0.2},
            "sign": {"rule": "sign", "volatility": 15.0},
            "inverse_volatility": {"rule": "inverse_volatility"},
        },
    )
    assert list(found) == ["fill", "strategy", "placebo"]
    assert [len(of) for of in found.values()] == [1, 1, 1]
    assert {of[0].status for of in found.values()} == {"pass"}
    assert "long_short, top, sign, inverse_volatility, here: " in found["strategy"][0].sentence
    assert set(found["placebo"][0].values) == {
        "long_short.t", "top.t", "sign.t", "inverse_volatility.t",
    }  # fmt: skip


def test_an_optimiser_keeps_nothing_between_calls(case: Case) -> None:
    few = replace(case, origins=25)
    entry = {"rule": "minimum_variance", "window": 60}
    assert [line.status for line in check_rules(few, {"mine": entry})] == ["pass"] * 3


@pytest.mark.parametrize("name", ["honest", "slow", "seeded", "yesterday"])
def test_an_own_rule_that_knows_no_more_than_it_may_passes(case: Case, name: str) -> None:
    assert statuses(case, name) == ("pass", "pass")


def test_options_of_an_own_rule_are_its_keyword_arguments(case: Case) -> None:
    assert statuses(case, "momentum", sessions=5) == ("pass", "pass")


def test_a_rule_that_sees_past_its_view_fails(case: Case) -> None:
    strategy, _ = statuses(case, "through_the_view")
    assert strategy == "fail"


@pytest.mark.parametrize("name", ["tomorrow", "after_tomorrow", "partly", "against"])
def test_a_rule_that_reads_the_panel_on_its_own_fails_on_noise_alone(case: Case, name: str) -> None:
    # Cutting off what it is given changes nothing for it.
    assert statuses(case, name) == ("pass", "fail")


def test_foresight_of_a_whole_window_is_found(case: Case) -> None:
    long = replace(case, forecasts=forecasts_of(case.prices, horizon=5, delay=0))
    found = lines(long, {"mine": {"rule": "audited_rules.after_tomorrow"}})
    assert found["placebo"][0].status == "fail"
    assert "over the next 5 sessions" in found["placebo"][0].sentence


@pytest.mark.parametrize("name", ["counting", "hoarding", "tossing"])
def test_a_rule_that_keeps_something_or_draws_lots_fails(case: Case, name: str) -> None:
    found = lines(case, {"mine": {"rule": f"audited_rules.{name}"}})["strategy"]
    assert [line.status for line in found] == ["fail"]
    assert "asked again" in found[0].sentence


@pytest.mark.parametrize("name", ["writing", "forcing"])
def test_a_rule_that_writes_into_its_inputs_fails(case: Case, name: str) -> None:
    found = lines(case, {"mine": {"rule": f"audited_rules.{name}"}})["strategy"]
    assert [line.status for line in found] == ["fail"]


def test_a_rule_that_counts_symbols_of_the_future_fails(
    case: Case, random_prices: Callable[..., Prices]
) -> None:
    frame, late = case.prices.frame, case.days[-20]
    unlisted = (frame["symbol"] == "S5") & (frame["date"] < pd.Timestamp(late))
    prices = replace(case.prices, frame=frame[~unlisted].reset_index(drop=True))
    listed = replace(case, prices=prices, forecasts=forecasts_of(prices))
    assert statuses(case, "counting_symbols")[0] == "pass"
    assert statuses(listed, "counting_symbols")[0] == "fail"


def test_what_cannot_be_checked_is_said(case: Case) -> None:
    found = lines(case, {"mine": {"rule": "audited_rules.idle"}})
    assert [found[name][0].status for name in ("strategy", "placebo")] == ["warn", "warn"]
    assert "never holds anything" in found["strategy"][0].sentence
    fixed = lines(case, {"mine": {"rule": "audited_rules.fixed"}})
    assert fixed["strategy"][0].status == "pass"
    assert fixed["placebo"][0].status == "warn" and "hindsight" in fixed["placebo"][0].sentence
    few = lines(replace(case, origins=15), {"mine": {"rule": "audited_rules.tomorrow"}})
    assert few["strategy"][0].status == "warn" and "too few" in few["strategy"][0].sentence


def test_a_rule_that_fails_is_named_and_the_others_are_tried(case: Case) -> None:
    own = {"mine": {"rule": "audited_rules.broken"}, "good": {"rule": "audited_rules.honest"}}
    found = lines(case, own)
    for name in ("strategy", "placebo"):
        assert [line.status for line in found[name]] == ["pass", "fail"]
        assert found[name][0].sentence.startswith("good, here: ")
        assert "mine" in found[name][1].sentence and "KeyError" in found[name][1].sentence


@pytest.mark.parametrize(("delay", "execution", "status"), [
    (0, None, "fail"), (1, None, "pass"), (1, "next_close", "pass"), (0, "close", "warn"),
])  # fmt: skip
def test_forecasts_that_end_by_the_fill_fail(
    case: Case, delay: int, execution: str | None, status: str
) -> None:
    table = forecasts_of(case.prices, delay=delay)
    tried = replace(case, forecasts=table, execution=execution)
    line = next(check_rules(tried, {}))
    assert (line.name, line.status) == ("fill", status)


def test_a_horizon_that_is_not_forecast_is_refused(case: Case) -> None:
    with pytest.raises(ForecastError, match=r"strategy\.horizon=7 is not forecast: choose from 1"):
        list(check_rules(replace(case, limits=limits(horizon=7)), {}))
