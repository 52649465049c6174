"""What the best of many without skill earns is called luck."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.portfolio.luck import clusters, expected_maximum, luck, probabilistic
from forecast.portfolio.trials import Trials

YEAR = 252


def returns_of(
    seed: int, trials: int, *, dates: int = 750, family: int = 1, correlation: float = 0.0
) -> pd.DataFrame:
    """Trials without skill, in families of correlated ones."""
    rng = np.random.default_rng(seed)
    common = np.repeat(rng.standard_t(5, (dates, -(-trials // family))), family, axis=1)
    own = rng.standard_t(5, (dates, trials))
    values = np.sqrt(correlation) * common[:, :trials] + np.sqrt(1 - correlation) * own
    index = pd.bdate_range("2015-01-01", periods=dates)
    return pd.DataFrame(0.01 * values, index=index, columns=[f"c{k}" for k in range(trials)])


def long(returns: pd.DataFrame, cash: float = 0.0) -> pd.DataFrame:
    """Rows of returns.parquet; a column is `model/strategy`, or a strategy of the model m."""
    tables = []
    for name in returns:
        model, _, strategy = str(name).rpartition("/")
        tables.append(
            pd.DataFrame(
                {
                    "part": "test",
                    "model": model or "m",
                    "strategy": strategy,
                    "date": returns.index,
                    "simple_return": returns[name] + cash,
                    "cash_return": cash,
                }
            )
        )
    return pd.concat(tables)


def every(returns: pd.DataFrame, missing: int = 0) -> Trials:
    return Trials(count=returns.shape[1] + missing, returns=returns, missing=missing)


# -------------------------------------------------------------- probabilistic and expected


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), benchmark=st.floats(-0.1, 0.1))
def test_the_probabilistic_ratio_is_that_of_the_paper(seed: int, benchmark: float) -> None:
    x = np.random.default_rng(seed).gamma(2, size=300) - 1.9
    ratio = x.mean() / x.std(ddof=1)
    raw = stats.kurtosis(x, fisher=False)  # 3 for a normal distribution
    error = np.sqrt((1 - stats.skew(x) * ratio + (raw - 1) / 4 * ratio**2) / (len(x) - 1))
    assert probabilistic(x, benchmark) == pytest.approx(
        stats.norm.cdf((ratio - benchmark) / error), abs=1e-12
    )


def test_the_published_example_is_met() -> None:
    """Bailey and López de Prado (2014): annual 2.5 in 1250 days, skew −3, kurtosis 10, 100 trials
    of annual variance 0.5; 0.1132 is the daily maximum expected, 0.9004 the deflated ratio."""
    unit = np.array([-1.0, 1.0]) / np.sqrt(2)  # of sample variance 1
    maximum = expected_maximum(100, unit * np.sqrt(0.5 / 250))
    assert maximum == pytest.approx(0.1132, abs=5e-5)
    ratio = 2.5 / np.sqrt(250)
    error = np.sqrt((1 + 3 * ratio + 9 / 4 * ratio**2) / 1249)
    assert maximum is not None
    assert stats.norm.cdf((ratio - maximum) / error) == pytest.approx(0.9004, abs=5e-5)


def test_the_expected_maximum_is_about_that_of_normal_draws() -> None:
    draws = np.random.default_rng(0).normal(size=(20000, 50))
    assert expected_maximum(50, draws.ravel()) == pytest.approx(
        float(draws.max(axis=1).mean()), rel=0.02
    )


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 500), spread=st.floats(0.001, 0.1))
def test_more_trials_expect_a_higher_maximum(count: int, spread: float) -> None:
    ratios = spread * np.array([-1.0, 0.0, 1.0])
    fewer, more = expected_maximum(count, ratios), expected_maximum(count + 1, ratios)
    assert fewer is not None and more is not None and fewer < more


def test_the_maximum_of_one_is_zero_and_of_unknown_ones_unknown() -> None:
    assert expected_maximum(1, np.empty(0)) == 0.0
    assert expected_maximum(5, np.array([0.1])) is None
    least = expected_maximum(5, np.array([0.1]), sessions=101)
    assert least == expected_maximum(5, np.array([-0.1, 0.1]) / np.sqrt(2))
    assert expected_maximum(5, np.array([-1.0, 1.0]), sessions=101) == expected_maximum(
        5, np.array([-1.0, 1.0])
    )


def test_without_skill_the_probability_is_uniform() -> None:
    returns = returns_of(1, 1500, dates=500).to_numpy()
    found = np.array([probabilistic(x) for x in returns.T])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(found > 0.95) == pytest.approx(0.05, abs=0.017)  # 3 standard errors


def test_what_does_not_vary_has_no_probability() -> None:
    assert probabilistic(np.zeros(100)) is None
    assert probabilistic(np.empty(0)) is None
    assert probabilistic(np.array([0.1, 0.2, 0.0]), None) is None


# ------------------------------------------------------------------------------- clusters


def test_families_are_found_whatever_their_size_and_scale() -> None:
    returns = returns_of(0, 12, family=4, correlation=0.8)
    returns["c1"] *= 20
    label = clusters(returns)
    assert len(set(label)) == 3
    assert all(len(set(label[k : k + 4])) == 1 for k in (0, 4, 8))


def test_what_never_traded_together_or_never_moved_is_a_cluster_of_its_own() -> None:
    returns = returns_of(0, 2, family=2, correlation=0.9)
    assert len(set(clusters(returns))) == 1
    returns.loc[returns.index[:400], "c0"] = np.nan
    returns.loc[returns.index[450:], "c1"] = np.nan
    returns["c2"] = 0.0
    assert len(set(clusters(returns))) == 3
    assert clusters(returns[["c0"]]).tolist() == [1] and clusters(returns[[]]).tolist() == []


# ----------------------------------------------------------------------------- everything


def test_trials_whose_returns_are_gone_still_deflate() -> None:
    returns = returns_of(0, 12, family=4, correlation=0.8)
    own = long(returns[["c0"]])
    few, many = (
        luck(own, every(returns, missing), part="test", periods=YEAR) for missing in (0, 30)
    )
    assert (few["trials"], few["series"], few["clusters"]) == (12, 12, 3)
    assert (many["trials"], many["series"], many["clusters"]) == (42, 12, 33)
    assert few["sharpe_variance"] == many["sharpe_variance"]
    a, b = few["strategies"]["m"]["c0"], many["strategies"]["m"]["c0"]
    assert a["psr"] == b["psr"] > a["dsr"] > b["dsr"] and a["dsr_clusters"] > b["dsr_clusters"]


def test_the_deflated_ratio_is_the_probabilistic_one_above_the_expected_maximum() -> None:
    returns = returns_of(3, 20)
    found = luck(long(returns[["c4"]], cash=0.001), every(returns), part="test", periods=YEAR)
    entry = found["strategies"]["m"]["c4"]
    ratios = returns.mean() / returns.std()
    maximum = expected_maximum(20, ratios.to_numpy())
    assert entry["dsr"] == pytest.approx(probabilistic(returns["c4"].to_numpy(), maximum))
    assert entry["expected_maximum"] == pytest.approx(np.sqrt(YEAR) * maximum)
    assert found["sharpe_variance"] == pytest.approx(YEAR * ratios.var())


def test_the_first_trial_is_not_deflated_and_a_benchmark_never_is() -> None:
    returns = returns_of(0, 1).rename(columns={"c0": "m/sign"})
    returns["none/sign_12m"] = returns["m/sign"]
    found = luck(long(returns), every(returns[["m/sign"]]), part="test", periods=YEAR)
    first, benchmark = (found["strategies"][m][s] for m, s in (("m", "sign"), ("none", "sign_12m")))
    assert first["psr"] == first["dsr"] == first["dsr_clusters"] == benchmark["psr"]
    assert benchmark["dsr"] is None and benchmark["dsr_clusters"] is None
    assert found["pbo"] == {"not_computed": "fewer than ten configurations"}
    assert found["sharpe_variance"] is None


@pytest.mark.parametrize(("trials", "family", "correlation"), [(20, 1, 0.0), (30, 10, 0.8)])
def test_the_best_of_many_without_skill_is_luck(
    trials: int, family: int, correlation: float
) -> None:
    survived = []
    for seed in range(40):
        returns = returns_of(seed, trials, dates=500, family=family, correlation=correlation)
        best = [(returns.mean() / returns.std()).idxmax()]
        found = luck(long(returns[best]), every(returns), part="test", periods=YEAR)
        entry = found["strategies"]["m"][best[0]]
        survived.append([entry[name] > 0.95 for name in ("psr", "dsr", "dsr_clusters")])
    psr, dsr, dsr_clusters = np.mean(survived, axis=0)
    assert psr > 0.25, "without deflation it would be called skill"
    assert dsr <= 0.05 and dsr_clusters <= 0.1


def test_true_skill_survives() -> None:
    returns = returns_of(0, 20, dates=2500, family=5, correlation=0.8)
    returns.iloc[:, :5] += 0.01 * 2.5 / np.sqrt(YEAR)
    entry = luck(long(returns[["c2"]]), every(returns), part="test", periods=YEAR)
    assert entry["strategies"]["m"]["c2"]["dsr_clusters"] > 0.95
    assert entry["pbo"]["value"] < 0.3


def test_overfitting_is_taken_over_configurations_that_traded_on_the_same_dates() -> None:
    returns = returns_of(0, 12)
    returns.loc[returns.index[:300], "c11"] = np.nan  # began too late to be compared
    returns.loc[returns.index[:5], "c10"] = np.nan
    found = luck(long(returns[["c0"]]), every(returns), part="test", periods=YEAR, purge=5)["pbo"]
    assert found["configurations"] == 11 and found["blocks"] == 16
    assert sum(splits for _, splits in found["logits"]) == 12870
    assert found["value"] == sum(n for logit, n in found["logits"] if logit <= 0) / 12870
    assert found["inside"] > found["outside"] and 0 < found["loss"] < 1
    short = luck(long(returns[["c0"]][-100:]), every(returns), part="test", periods=YEAR)["pbo"]
    assert short == {"not_computed": "fewer than 10 sessions in each of 16 blocks"}


def test_the_same_input_gives_the_same_bytes_and_json_takes_it() -> None:
    returns = returns_of(0, 12)
    texts = {
        json.dumps(luck(long(returns), every(returns), part="test", periods=YEAR), allow_nan=False)
        for _ in range(2)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("dates", [59, 60])
def test_neither_trials_nor_clusters_deflate_without_a_correlation(dates: int) -> None:
    returns = returns_of(0, 3, dates=dates)
    found = luck(long(returns), every(returns), part="test", periods=YEAR)
    state = found["strategies"]["m"]["c0"]
    assert state["psr"] is not None and found["trials"] == 3
    known = [found[key] is not None for key in ("clusters", "sharpe_variance_clusters")]
    known += [
        state[f"{key}{kind}"] is not None
        for key in ("dsr", "expected_maximum")
        for kind in ("", "_clusters")
    ]
    assert set(known) == {dates >= 60}


def test_trials_that_never_traded_together_form_no_clusters() -> None:
    returns = returns_of(0, 2)
    returns.iloc[:400, 0] = np.nan
    returns.iloc[400:, 1] = np.nan
    found = luck(long(returns[["c0"]]), every(returns), part="test", periods=YEAR)
    state = found["strategies"]["m"]["c0"]
    assert found["clusters"] is None and state["dsr_clusters"] is None
    assert state["dsr"] is not None


def test_nothing_on_the_ledger_deflates_nothing() -> None:
    found = luck(long(returns_of(0, 1)), every(pd.DataFrame()), part="test", periods=YEAR)
    assert found["trials"] == found["clusters"] == found["series"] == 0
    assert found["strategies"]["m"]["c0"]["dsr"] == found["strategies"]["m"]["c0"]["psr"]
