"""What a series of simple returns earned, at what risk, and what trading took of it.

Everything reads and states fractions (0.01 is 1 %) and simple returns, one a session of the union
calendar, every session given counted. Axis: T sessions. What is undefined is None.

References
----------
Sharpe (1994), The Sharpe ratio, Journal of Portfolio Management 21.
Sortino and Price (1994), Performance measurement in a downside risk framework, Journal of
Investing 3.
Young (1991), Calmar ratio: a smoother tool, Futures 20.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forecast.config import ForecastError
from forecast.evaluation.inference import FEWEST, cosines, long_run_variance
from forecast.portfolio.costs import BASIS_POINT
from forecast.portfolio.returns import Array, along, simple_returns

# A return, volatility or fall below this is rounding: nothing that was held moved.
STILL = 1e-12


def performance(
    simple_return_T: ArrayLike,
    *,
    dates_T: ArrayLike,
    cash_return_T: ArrayLike,
    gross_return_T: ArrayLike | None = None,
    turnover_T: ArrayLike | None = None,
    cost_T: ArrayLike | None = None,
    borrow_T: ArrayLike | None = None,
    long_T: ArrayLike | None = None,
    short_T: ArrayLike | None = None,
    benchmark_T: ArrayLike | None = None,
    periods: float,
) -> dict[str, Any]:
    """Every measure of one series of returns.

    Parameters
    ----------
    simple_return_T : net of all costs.
    dates_T : ascending dates of the sessions.
    cash_return_T : what cash earned in each session; returns over it are *excess* returns.
    gross_return_T : before trading costs and borrow.
    turnover_T : value bought plus value sold over equity.
    cost_T, borrow_T : trading costs, and what was paid for borrowing, over equity.
    long_T, short_T : exposures over equity, both zero or more.
    benchmark_T : simple returns that beta and alpha are taken to.
    periods : sessions a year.

    Returns
    -------
    dict
        - `sessions`; `total_return`; `annual_return`, compounded: (1 + total)^(periods/T) − 1;
          `mean_return`, arithmetic: mean × periods; `volatility`, √periods × the sample deviation.
        - `sharpe`: mean over sample deviation of the excess returns, × √periods. `sortino`: the
          same over their downside deviation √mean(min(excess, 0)²). `calmar`: `annual_return` over
          `max_drawdown`.
        - `max_drawdown`, above 0: the largest fall of compounded equity from its highest value so
          far, as a share of that; `drawdown_peak`, `drawdown_trough`, `drawdown_recovery`: dates,
          the recovery None while equity stays below. Equity before the first session counts as a
          peak and is dated by that session.
        - `skew`, `kurtosis`: moment ratios, the kurtosis raw (3 for a normal distribution).
          `hit_rate`: share above 0 of the returns that are not 0. `worst_day`, `worst_date`.
        - `turnover`, `cost`, `borrow`: annual, mean × periods; `gross`, `net`: mean of long + short
          and of long − short. `cost_share`: gross less net returns over gross excess returns, both
          summed; None unless those are above 0. `break_even`: see that function.
        - `beta`, `alpha` (annual), `alpha_t`, `alpha_p`: see `regression`.
        - `yearly` {"2015": return}, `monthly` {"2015-03": return}: compounded.

    Raises
    ------
    ForecastError
        The returns are not simple ones, or a length differs.
    """
    from skfolio import measures

    net = simple_returns(simple_return_T)
    dates = np.asarray(dates_T).astype("datetime64[D]")
    if dates.shape != net.shape or (np.diff(dates) <= np.timedelta64(0)).any():
        raise ForecastError(
            f"dates_T: the {dates.size} dates of {net.size} returns must ascend, one a session. "
            "Sort them, and drop repeats."
        )
    cash = along(cash_return_T, net, "cash_return_T")
    excess = net - cash
    total, annual = compounded(net, periods)
    down = float(measures.semi_deviation(excess, min_acceptable_return=0.0, biased=True))
    fall = _largest_drawdown(net, dates)
    moved = net[np.abs(net) > STILL]
    varies = deviation(net) > STILL
    benchmark = None
    if benchmark_T is not None:
        benchmark = along(simple_returns(benchmark_T, "benchmark_T"), net, "benchmark_T") - cash
    return {
        "sessions": len(net),
        "total_return": total,
        "annual_return": annual,
        "mean_return": _annual(net, periods),
        "volatility": float(deviation(net) * np.sqrt(periods)) if len(net) > 1 else None,
        "sharpe": sharpe(excess, periods),
        "sortino": float(excess.mean() / down * np.sqrt(periods)) if down > STILL else None,
        "calmar": annual / fall["max_drawdown"] if fall["max_drawdown"] > 0 else None,
        **fall,
        "skew": float(measures.skew(net)) if varies else None,
        "kurtosis": float(measures.kurtosis(net)) if varies else None,
        "hit_rate": float((moved > 0).mean()) if len(moved) else None,
        "worst_day": float(net.min()),
        "worst_date": str(dates[net.argmin()]),
        **_trading(
            net,
            cash,
            gross=_optional(gross_return_T, net, "gross_return_T"),
            turnover=_optional(turnover_T, net, "turnover_T"),
            cost=_optional(cost_T, net, "cost_T"),
            borrow=_optional(borrow_T, net, "borrow_T"),
            periods=periods,
        ),
        **_exposure(_optional(long_T, net, "long_T"), _optional(short_T, net, "short_T")),
        **regression(excess, benchmark, periods),
        "yearly": calendar_returns(net, dates, "Y"),
        "monthly": calendar_returns(net, dates, "M"),
    }


def compounded(returns: Array, periods: float) -> tuple[float, float]:
    """Total return, and the constant annual return that compounds to it."""
    growth = float(np.log1p(returns).sum())
    return float(np.expm1(growth)), float(np.expm1(growth * periods / len(returns)))


def deviation(returns: Array) -> float:
    """Sample standard deviation (n − 1); NaN of fewer than two."""
    return float(np.std(returns, ddof=1)) if len(returns) > 1 else float("nan")


def sharpe(excess: Array, periods: float) -> float | None:
    """Annualised Sharpe ratio of excess returns; None where they do not vary."""
    spread = deviation(excess)
    return float(excess.mean() / spread * np.sqrt(periods)) if spread > STILL else None


def rolling_sharpe(
    returns: ArrayLike, window: int, *, periods: float, cash: ArrayLike = 0.0
) -> Array:
    """Annualised Sharpe ratio of the `window` sessions up to each; NaN before and where undefined.

    Parameters
    ----------
    returns : simple returns, shape (T,).
    cash : what cash earned in each session, or always.
    """
    excess = simple_returns(returns, "returns") - np.asarray(cash, np.float64)
    ratio = np.full(len(excess), np.nan)
    if window > len(excess):
        return ratio
    windows = np.lib.stride_tricks.sliding_window_view(excess, window)
    # Of every window anew: running sums leave rounding where nothing moves any more.
    mean, spread = windows.mean(axis=1), windows.std(axis=1, ddof=1)
    moving = spread > STILL
    ratio[window - 1 :][moving] = mean[moving] / spread[moving] * np.sqrt(periods)
    return ratio


def drawdowns(returns: ArrayLike) -> Array:
    """Compounded equity over its highest value so far, less 1: zero or below, shape (T,).

    Equity before the first return counts: a loss in the first session is a drawdown.
    """
    from skfolio.measures import get_drawdowns

    return np.asarray(get_drawdowns(simple_returns(returns, "returns"), compounded=True))


def break_even(
    gross_return_T: ArrayLike, *, cash: ArrayLike, turnover_T: ArrayLike, borrow_T: ArrayLike = 0.0
) -> float | None:
    """Basis points of the value traded at which the mean excess return is 0.

    Mean of gross return less cash and borrow, over mean turnover. None without turnover, and where
    the mean is 0 or less: then no cost is low enough.
    """
    earned = float(np.mean(np.asarray(gross_return_T) - np.asarray(cash) - np.asarray(borrow_T)))
    traded = float(np.mean(np.asarray(turnover_T)))
    return earned / traded / BASIS_POINT if traded > STILL and earned > 0 else None


def regression(excess: Array, benchmark: Array | None, periods: float) -> dict[str, float | None]:
    """Ordinary least squares of excess returns on a benchmark's excess returns.

    Returns
    -------
    dict
        `beta`; `alpha`, the intercept × periods; `alpha_t` and the two-sided `alpha_p`, robust to
        heteroskedasticity and autocorrelation by the equal-weighted cosine variance (Lazarus et
        al. 2018). None where there is no benchmark, it does not vary, it leaves no residual, or
        there are fewer than 20 sessions.
    """
    from scipy import stats

    nothing = dict.fromkeys(("beta", "alpha", "alpha_t", "alpha_p"))
    if benchmark is None or len(excess) < FEWEST or not deviation(benchmark) > STILL:
        return nothing
    centred = benchmark - benchmark.mean()
    variance = float(np.mean(centred**2))
    beta = float(np.mean(centred * excess)) / variance
    alpha = float(excess.mean() - beta * benchmark.mean())
    found: dict[str, float | None] = {**nothing, "beta": beta, "alpha": alpha * periods}
    residual = excess - alpha - beta * benchmark
    # The intercept's error is the mean of these, since (X'X)⁻¹X'e has this first element.
    influence = residual * (1 - benchmark.mean() * centred / variance)
    error = float(np.sqrt(long_run_variance(influence) / len(excess)))
    if deviation(residual) > STILL and error > 0:
        t = alpha / error
        p = float(2 * stats.t.sf(abs(t), cosines(len(excess))))
        found.update(alpha_t=t, alpha_p=p)
    return found


def calendar_returns(returns: Array, dates: NDArray[np.datetime64], unit: str) -> dict[str, float]:
    """Returns compounded over calendar years (`unit` "Y") or months ("M"), by their ISO name."""
    names, start = np.unique(dates.astype(f"datetime64[{unit}]"), return_index=True)
    growth = np.expm1(np.add.reduceat(np.log1p(returns), start))
    return {str(name): float(value) for name, value in zip(names, growth, strict=True)}


def _largest_drawdown(returns: Array, dates: NDArray[np.datetime64]) -> dict[str, Any]:
    """Depth and dates of the deepest fall, the first of equals."""
    below = drawdowns(returns)
    trough = int(below.argmin())
    depth = -float(below[trough])
    found = {"drawdown_peak": None, "drawdown_trough": None, "drawdown_recovery": None}
    if depth <= STILL:
        return {"max_drawdown": 0.0, **found}
    at_peak = np.flatnonzero(below[:trough] > -STILL)
    back = np.flatnonzero(below[trough:] > -STILL)
    return {
        "max_drawdown": depth,
        "drawdown_peak": str(dates[at_peak[-1] if len(at_peak) else 0]),
        "drawdown_trough": str(dates[trough]),
        "drawdown_recovery": str(dates[trough + back[0]]) if len(back) else None,
    }


def _trading(
    net: Array,
    cash: Array,
    *,
    gross: Array | None,
    turnover: Array | None,
    cost: Array | None,
    borrow: Array | None,
    periods: float,
) -> dict[str, float | None]:
    """Measures of what was traded and paid; None where what they need is not given."""
    found = {
        "turnover": _annual(turnover, periods),
        "cost": _annual(cost, periods),
        "borrow": _annual(borrow, periods),
        "cost_share": None,
        "break_even": None,
    }
    if gross is not None:
        profit = float((gross - cash).sum())
        found["cost_share"] = float((gross - net).sum()) / profit if profit > STILL else None
        if turnover is not None:
            found["break_even"] = break_even(
                gross, cash=cash, turnover_T=turnover, borrow_T=0.0 if borrow is None else borrow
            )
    return found


def _exposure(long: Array | None, short: Array | None) -> dict[str, float | None]:
    if long is None or short is None:
        return {"gross": None, "net": None}
    return {"gross": float((long + short).mean()), "net": float((long - short).mean())}


def _annual(values: Array | None, periods: float) -> float | None:
    return None if values is None else float(values.mean() * periods)


def _optional(values: ArrayLike | None, returns: Array, name: str) -> Array | None:
    return None if values is None else along(values, returns, name)
