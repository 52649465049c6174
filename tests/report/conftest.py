"""A finished run folder with synthetic data in the form real ones have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from forecast.evaluation.assess import assess, table_facts
from forecast.evaluation.significance import significance
from forecast.forecasts import INNER, LEVELS, QUANTILES, ForecastWriter
from forecast.portfolio.performance import performance
from forecast.run import Run

# Standard normal quantiles of LEVELS, upper half; the lower half mirrors it.
_UPPER = (
    *(0.0, 0.12566, 0.25335, 0.38532, 0.52440, 0.67449),
    *(0.84162, 1.03643, 1.28155, 1.64485, 2.32635),
)
NORMAL = np.array([-z for z in reversed(_UPPER[1:])] + list(_UPPER))

BASELINES = {"historical": 1.25, "ewma_normal": 0.9, "ewma_t": 1.05}  # how far off their scale is


def build_run(
    path: Path,
    *,
    symbols: tuple[str, ...] = ("AAPL", "BA", "RRC", "XOM"),
    horizons: tuple[int, ...] = (1, 5, 20),
    parts: dict[str, int] | None = None,
    head: str = "student_t",
    delay: int = 0,
    members: int = 3,
    network: str = "lstm",
    seed: int = 0,
) -> Run:
    """Write a run folder; `parts` gives the origins of each part (0: it has no rows)."""
    parts = {"validation": 60, "test": 100} if parts is None else parts
    random = np.random.default_rng(seed)
    path.mkdir(parents=True)
    models = {network: 1.0, **BASELINES}
    longest = max(horizons) + delay
    days = pd.bdate_range("2015-01-02", periods=1 + sum(n + longest for n in parts.values()))
    dates = days.to_numpy("datetime64[s]")

    scores: dict[str, Any] = {part: {model: {} for model in models} for part in parts}
    calibration: dict[str, Any] = {part: {model: {} for model in models} for part in parts}
    fold = {"train": ["1990-01-02", "2014-12-31"]}
    stream: dict[str, list[pd.DataFrame]] = {}
    first = 0
    close = {
        symbol: 50 * np.exp(np.cumsum(random.standard_t(6, len(dates))) / 100) for symbol in symbols
    }
    for part, count in parts.items():
        fold[part] = [str(days[first].date()), str(days[first + count + longest - 1].date())]
        for model, width in models.items():
            blocks = []
            for symbol in symbols:
                for horizon in horizons if count else ():
                    row = first + np.arange(count)
                    start, end = close[symbol][row + delay], close[symbol][row + delay + horizon]
                    blocks.append(
                        _forecasts(
                            actual=100 * np.log(end / start),
                            spread=1.22 * width * np.sqrt(horizon) * random.uniform(0.9, 1.1),
                            point=head == "point" and model == network,
                            origin=dates[row],
                            target_date=dates[row + delay + horizon],
                            price=close[symbol][row],
                            symbol=symbol,
                            horizon=horizon,
                            delay=delay,
                            model=model,
                            part=part,
                        )
                    )
            for horizon in horizons:
                rows = [block for block in blocks if block["horizon"].iloc[0] == horizon]
                score, counts = _score(pd.concat(rows)) if rows else (_NOTHING, None)
                scores[part][model][str(horizon)] = score
                calibration[part][model][str(horizon)] = counts
            if blocks:
                stream.setdefault(part, []).append(pd.concat(blocks, ignore_index=True))
        first += count + longest
    with ForecastWriter(path / "forecasts.parquet") as writer:
        for blocks in stream.values():
            for block in blocks:
                writer.write(block)

    folder = {
        "metrics": {
            "objective": 0.55,
            "parts": list(parts),
            "scores": scores,
            "calibration": calibration,
            "dropped": {part: 0 for part in parts},
        },
        "data": {
            **build_data(symbols, str(days[-1].date())),
            "fold": fold,
        },
        "environment": {"python": "3.11.9", "device": "cpu", "git_commit": None},
        "timing": {"fit_seconds": 9.81, "targets_per_second": 412345.6, "total_seconds": 20.0},
    }
    run = Run(path)
    for name, content in folder.items():
        run.write(f"{name}.json", content)
    config = {
        "model": {"cell": network, "hidden_size": 32},
        "head": {"name": head},
        "ensemble": members,
        "horizons": list(horizons),
    }
    run.write("config.yaml", config)
    run.write("overrides.yaml", [f"model={network}", f"head={head}"])
    _history(members, random).to_csv(path / "history.csv", index=False)
    return run


def build_data(symbols: tuple[str, ...], last: str) -> dict[str, Any]:
    """What `data.json` says of made-up symbols, but for the ranges."""
    facts = {"rows": 8000, "floor_hits": 3, "gaps": 0, "zero_returns": 0.02}
    return {
        "source": "sp500",
        "sha256": "0" * 64,
        "calendars": ["XNYS"],
        "rows": 8000 * len(symbols),
        "dates": {"first": "1990-01-02", "last": last},
        "features": ["scaled_return", "log_scale"],
        "market": {"definition": "equal_weight", "first": "1990-01-02", "last": "2022-12-28"},
        "symbols": [
            {"symbol": symbol, "first": "1990-01-02", "last": last, **facts} for symbol in symbols
        ],
        "left_out": [{"symbol": "NEW", "reason": "only 12 sessions"}],
        "warnings": ["survivors: these 20 stocks were chosen with hindsight"],
    }


_NOTHING: dict[str, Any] = {
    "rows": 0,
    **dict.fromkeys(
        ("crps", "crps_exact", "mae", "mae_zero", "coverage_50", "coverage_90", "log_score")
    ),
    **dict.fromkeys(("crps_scaled", "mae_scaled")),
}


def _forecasts(
    *, actual: np.ndarray, spread: float, point: bool, **columns: object
) -> pd.DataFrame:
    quantiles = 0.03 + spread * NORMAL
    return pd.DataFrame(
        {
            **columns,
            "fold": 0,
            "scale": 1.2,
            "actual": actual,
            "realized_variance": actual**2,
            "mean": 0.03,
            "std": None if point else spread,
            **{
                name: None if point else value
                for name, value in zip(QUANTILES, quantiles, strict=True)
            },
        }
    ).astype({"std": float, **dict.fromkeys(QUANTILES, float)})


def _score(table: pd.DataFrame) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Scores and calibration of one model, part and horizon, straight from their definitions."""
    actual, quantiles = table["actual"].to_numpy(), table[list(QUANTILES)].to_numpy()
    score = {
        **_NOTHING,
        "rows": len(table),
        "mae": float(np.abs(actual - table["mean"]).mean()),
        "mae_zero": float(np.abs(actual).mean()),
    }
    if np.isnan(quantiles).all():
        return score, None
    below = actual[:, None] <= quantiles
    inner = quantiles[:, 1:-1]
    pinball = (np.array(INNER) - (actual[:, None] < inner)) * (actual[:, None] - inner)
    crps = 2 * float(pinball.mean())
    shares = dict(zip(QUANTILES, below.mean(axis=0), strict=True))
    score |= {
        "crps": crps,
        "crps_exact": crps * 0.95,
        "crps_scaled": crps / 2,
        "coverage_50": float(shares["q75"] - shares["q25"]),
        "coverage_90": float(shares["q95"] - shares["q05"]),
        "log_score": 1.5,
    }
    counts = np.bincount((~below).sum(axis=1), minlength=len(LEVELS) + 1)
    return score, {"coverage": below.mean(axis=0).tolist(), "pit_counts": counts.tolist()}


def _history(members: int, random: np.random.Generator) -> pd.DataFrame:
    epoch = np.arange(14)
    return pd.concat(
        pd.DataFrame(
            {
                "member": member,
                "epoch": epoch,
                "step": 40 * (epoch + 1),
                "train_loss": 1.36 + 0.06 * np.exp(-epoch / 3) + random.normal(0, 0.002, 14),
                "validation_loss": 1.38
                + 0.03 * np.exp(-epoch / 2)
                + 0.0006 * epoch
                + random.normal(0, 0.001, 14),
                "learning_rate": 3e-3,
            }
        )
        for member in range(members)
    )


def build_backtest(
    path: Path,
    *,
    models: dict[str, float] | None = None,
    networks: tuple[str, ...] = ("lstm", "gru"),
    symbols: tuple[str, ...] = ("AAPL", "BA", "KO", "RRC", "XOM"),
    horizons: tuple[int, ...] = (1, 5),
    years: tuple[int, ...] = (2019, 2020),
    parts: tuple[str, ...] = ("validation", "test"),
    table: bool = False,
    repetitions: int = 50,
    seed: int = 0,
) -> Run:
    """Write a backtest's folder: made-up forecasts, assessed and tested as real ones are.

    Parameters
    ----------
    models : name -> how far its spread strays from the true volatility.
    years : of the test ranges, one fold each.
    table : the forecasts were somebody's table, so nothing is known of folds and data.
    """
    models = MODELS if models is None else models
    random = np.random.default_rng(seed)
    path.mkdir(parents=True)
    days = pd.bdate_range(f"{years[0] - 1}-01-02", f"{years[-1]}-12-31")
    longest = max(horizons)
    cuts = [f"{years[0] - 1}-06-01", *(f"{year}-01-01" for year in years), f"{years[-1] + 1}-01-01"]
    ranges = [(0, "validation"), *((index, "test") for index in range(len(years)))]
    market = np.exp(0.3 * np.convolve(random.normal(size=len(days)), np.ones(40) / 6, "same"))
    returns = {s: 1.3 * market * random.normal(size=len(days)) for s in symbols}
    with ForecastWriter(path / "forecasts.parquet") as writer:
        for (fold, part), (low, high) in zip(ranges, pairwise(cuts), strict=True):
            first, last = days.searchsorted(pd.DatetimeIndex([low, high]))
            rows = np.arange(int(first), min(int(last), len(days) - longest))
            if part not in parts:
                continue
            for model, stray in models.items():
                noise = np.exp(stray * np.random.default_rng([seed, len(model)]).normal(size=9))
                blocks = [
                    _stated(
                        returns[symbol],
                        1.3 * market,
                        noise[place % 9],
                        rows,
                        days.to_numpy("datetime64[s]"),
                        horizon,
                        model=model,
                        fold=fold,
                        part=part,
                        symbol=symbol,
                    )
                    for place, symbol in enumerate(symbols)
                    for horizon in horizons
                ]
                writer.write(pd.concat(blocks, ignore_index=True))
    run = Run(path)
    found = assess(path / "forecasts.parquet")
    tests, curves = significance(
        found.daily, found.breakdown, networks=networks, repetitions=repetitions
    )
    found.daily.to_parquet(path / "daily.parquet")
    found.breakdown.to_csv(path / "breakdown.csv", index=False)
    curves.to_parquet(path / "fluctuation.parquet")
    scored = [part for part in parts if part in found.metrics["scores"]]
    run.write(
        "metrics.json",
        {
            **{"objective": 0.55, "parts": scored, "dropped": dict.fromkeys(scored, 0)},
            **found.metrics,
            **tests,
            "networks": list(networks),
            "fits": {}
            if table
            else {
                network: [
                    {"fold": fold, "folder": f"fold-{fold:02d}/{network}", "hidden_size": 32}
                    for fold in range(len(years))
                ]
                for network in networks
            },
            "fallbacks": {"gjr_t": {"0": [], "1": ["RRC"]}},
        },
    )
    run.write("environment.json", {"python": "3.11.9", "device": "cpu"})
    run.write("timing.json", {"total_seconds": 20.0})
    run.write("overrides.yaml", ["backtest.first=2019-01-01"])
    settings = {"first": cuts[1], "refit": "1y", "train": "expanding", "models": list(networks)}
    config = {"backtest": settings, "horizons": list(horizons), "model": {"cell": "lstm"}}
    if table:
        run.write("config.yaml", {"backtest": {}, "forecasts": "table.parquet"})
        facts = table_facts(path / "forecasts.parquet")
        run.write("data.json", {"source": "forecasts", "sha256": "0" * 64, **facts})
        return run
    run.write("config.yaml", {**config, "head": {"name": "student_t"}, "ensemble": 3})
    run.write(
        "data.json",
        {
            **build_data(symbols, str(days[-1].date())),
            "fold": {
                "train": ["1990-01-02", f"{years[-1] - 1}-05-31"],
                "validation": [f"{years[0] - 1}-06-01", f"{years[0] - 1}-12-31"],
                "test": [f"{years[0]}-01-01", f"{years[-1]}-12-31"],
            },
            "folds": [
                {
                    "index": index,
                    "train": ["1990-01-02", f"{year - 1}-05-31"],
                    "validation": [f"{year - 1}-06-01", f"{year - 1}-12-31"],
                    "test": [f"{year}-01-01", f"{year}-12-31"],
                }
                for index, year in enumerate(years)
            ],
        },
    )
    for index in range(len(years)):
        for network in networks:
            folder = path / f"fold-{index:02d}" / network
            folder.mkdir(parents=True)
            _history(3, random).to_csv(folder / "history.csv", index=False)
    return run


# The first two come nearest to the truth; the last knows nothing of volatility.
MODELS = {
    "lstm": 0.02,
    "gru": 0.05,
    "mlp": 0.1,
    "gjr_t": 0.2,
    "drift": 0.25,
    "ewma_t": 0.3,
    "historical": 0.6,
}


def _stated(
    returns: np.ndarray,
    sigma: np.ndarray,
    stray: float,
    rows: np.ndarray,
    dates: np.ndarray,
    horizon: int,
    **columns: object,
) -> pd.DataFrame:
    """Normal forecasts of one symbol and horizon at these rows, and what became of them."""
    summed = np.concatenate([[0.0], np.cumsum(returns)])
    squares = np.concatenate([[0.0], np.cumsum(returns**2)])
    actual = summed[rows + horizon + 1] - summed[rows + 1]
    spread = stray * sigma[rows + 1] * np.sqrt(horizon)
    mean = 0.02 * horizon + 0.05 * np.log(stray) * np.sin(rows + len(str(columns["symbol"])))
    z = (actual - mean) / spread
    tails = {level: -stats.norm.pdf(stats.norm.ppf(level)) / level for level in (0.01, 0.05)}
    return pd.DataFrame(
        {
            **columns,
            **{"horizon": horizon, "delay": 0},
            "origin": dates[rows],
            "target_date": dates[rows + horizon],
            "price": 50 * np.exp(summed[rows + 1] / 100),
            "scale": sigma[rows],
            "actual": actual,
            "realized_variance": squares[rows + horizon + 1] - squares[rows + 1],
            "mean": mean,
            "std": spread,
            **{name: mean + q * spread for name, q in zip(QUANTILES, NORMAL, strict=True)},
            "nll": -stats.norm.logpdf(z) + np.log(spread),
            "pit": stats.norm.cdf(z),
            "crps_exact": spread
            * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)),
            "es01": mean + tails[0.01] * spread,
            "es05": mean + tails[0.05] * spread,
        }
    )


BENCHMARK_STRATEGIES = ("equal_weight", "buy_and_hold", "always_long", "sign_12m")


def build_portfolio(
    path: Path,
    *,
    models: tuple[str, ...] = ("lstm", "gru", "gjr_t"),
    networks: tuple[str, ...] = ("lstm", "gru"),
    strategies: tuple[str, ...] = ("long_short", "sign", "inverse_volatility"),
    symbols: tuple[str, ...] = ("AAPL", "BA", "KO", "RRC", "XOM"),
    years: tuple[int, ...] = (2019, 2020),
    parts: tuple[str, ...] = ("validation", "test"),
    execution: str = "next_open",
    luck: bool = True,
    pbo: bool = True,
    delisted: bool = False,
    source: bool = True,
    seed: int = 0,
) -> Run:
    """Write a portfolio's folder beside the backtest whose forecasts it traded.

    Weights and returns are made up; what is stated of them is computed from them.
    """
    random = np.random.default_rng(seed)
    path.mkdir(parents=True)
    traded = build_backtest(
        path.parent / "backtest-0123456789",
        models={model: 0.1 for model in models},
        **{"symbols": symbols, "years": years, "horizons": (1,), "repetitions": 2},
    )
    days = pd.bdate_range(f"{years[0] - 1}-06-01", f"{years[-1]}-12-31")
    ranges = {"validation": days[days.year < years[0]], "test": days[days.year >= years[0]]}
    pairs = [(model, strategy) for model in models for strategy in strategies]
    pairs += [("none", strategy) for strategy in BENCHMARK_STRATEGIES]
    tables: dict[str, list[pd.DataFrame]] = {"returns": [], "positions": [], "trades": []}
    told: dict[str, Any] = {
        name: {part: {} for part in parts}
        for name in ("performance", "intervals", "levels", "differences", "sharpe_at_zero", "risk")
    }
    for part in parts:
        dates = ranges[part]
        market = 0.0004 + 0.012 * random.standard_t(5, (len(dates), 1))
        moves = market + 0.01 * random.normal(size=(len(dates), len(symbols)))
        net: dict[tuple[str, str], np.ndarray] = {}
        for model, strategy in pairs:
            weights = random.normal(size=(len(dates), len(symbols)))
            weights = pd.DataFrame(weights).ewm(halflife=20).mean().to_numpy() / len(symbols)
            if model == "none":
                weights = np.full_like(weights, 1 / len(symbols)) * (1 + 0.2 * weights)
            change = np.abs(np.diff(weights, axis=0, prepend=0.0)).sum(axis=1)
            gross = (weights * moves).sum(axis=1)
            daily = {
                "simple_return": gross - 5e-4 * change,
                "gross_return": gross,
                "cash_return": np.zeros(len(dates)),
                "turnover": change,
                "cost": 5e-4 * change,
                "borrow": np.zeros(len(dates)),
                "long": weights.clip(0).sum(axis=1),
                "short": -weights.clip(max=0).sum(axis=1),
            }
            net[model, strategy] = daily["simple_return"]
            key = {"part": part, "model": model, "strategy": strategy}
            tables["returns"].append(pd.DataFrame({**key, "date": dates, **daily}))
            tables["positions"].append(
                pd.DataFrame(
                    {
                        **key,
                        "date": np.repeat(dates, len(symbols)),
                        "symbol": np.tile(symbols, len(dates)),
                        "weight": weights.ravel(),
                    }
                )
            )
            found = performance(
                daily.pop("simple_return"),
                dates_T=dates,
                **{f"{name}_T": values for name, values in daily.items()},
                benchmark_T=moves.mean(axis=1),
                periods=260.9,
            )
            reach = 1.96 / np.sqrt(len(dates) / 260.9)
            interval = [found["sharpe"] - reach, found["sharpe"] + reach]
            wide = [found["annual_return"] - 0.2, found["annual_return"] + 0.2]

            def put(name: str, value: Any, at: tuple[str, ...] = (part, model, strategy)) -> None:
                told[name].setdefault(at[0], {}).setdefault(at[1], {})[at[2]] = value

            put("performance", {**found, "marked": 2, "late": 0})
            put("intervals", {"sharpe": interval, "annual_return": wide})
            put(
                "levels",
                {
                    str(level): {
                        "sharpe": (gross - level * 1e-4 * change).mean()
                        / (gross - level * 1e-4 * change).std(ddof=1)
                        * np.sqrt(260.9),
                        "annual_return": found["annual_return"] - level * 1e-4,
                        "max_drawdown": 0.2,
                        "sharpe_interval": interval,
                    }
                    for level in (0, 2, 5, 10)
                },
            )
            put("sharpe_at_zero", found["sharpe"] + 0.1)
            if model != "none":
                put(
                    "differences",
                    {
                        benchmark: {"sharpe_difference": -0.31, "t": -1.2, "p": 0.23, "p_holm": 0.9}
                        for benchmark in BENCHMARK_STRATEGIES
                    },
                )
        tested = {
            "mean_var": -0.028,
            "rate": 0.013,
            "rate_t": 0.9,
            "kupiec_p": 0.41,
            "independence_p": 0.03,
            "conditional_p": 0.07,
            "mean_es": -0.035,
            "es_excess": 0.17,
            "es_p": 0.2,
        }
        told["risk"][part] = {
            "equal_weight": {model: {"01": tested, "05": tested} for model in models}
        }
        for model in models:
            realised = moves.mean(axis=1)
            spread = pd.Series(realised).ewm(halflife=20).std().bfill().to_numpy()
            tables.setdefault("risk", []).append(
                pd.DataFrame(
                    {
                        **{"part": part, "portfolio": "equal_weight", "model": model},
                        "origin": dates,
                        **{"var01": -2.4 * spread, "var05": -1.6 * spread},
                        **{"es01": -3.0 * spread, "es05": -2.1 * spread, "realised": realised},
                    }
                )
            )
    run = Run(path)
    for name, blocks in tables.items():
        if blocks:
            run.write(f"{name}.parquet", pd.concat(blocks, ignore_index=True))
    at_zero = told.pop("sharpe_at_zero")
    run.write(
        "metrics.json",
        {
            **{"objective": -0.4, "parts": list(parts), "networks": list(networks)},
            **{"execution": execution, "optimistic": execution == "close"},
            **{"benchmark_strategies": list(BENCHMARK_STRATEGIES), "horizon": 1, "periods": 260.9},
            **told,
            "delisting": {"symbols": ["RRC"], "return": -0.3, "sharpe_at_zero": at_zero}
            if delisted
            else None,
        },
    )
    if luck:
        states = {"psr": 0.81, "dsr": 0.42, "dsr_clusters": 0.96}
        states |= {"expected_maximum": 0.9, "expected_maximum_clusters": 0.5}
        run.write(
            "luck.json",
            {
                **{"part": parts[-1], "trials": 31, "clusters": 4, "series": 29},
                "sharpe_variance": 0.2,
                "strategies": {model: dict.fromkeys(strategies, states) for model in models},
                "pbo": {
                    **{"value": 0.44, "configurations": 12, "blocks": 16},
                    "logits": [[x / 4, 9 - abs(x)] for x in range(-8, 9)],
                    **{"inside": 1.21, "outside": 0.14, "loss": 0.4},
                }
                if pbo
                else {"not_computed": "fewer than ten configurations"},
            },
        )
    rules = {strategy: {"rule": strategy} for strategy in strategies}
    run.write(
        "config.yaml",
        {
            **traded.config,
            "strategy": {"rules": rules, "rebalance": 1, "horizon": None},
            "costs": {
                **{"commission": 1.0, "half_spread": 2.0, "slippage": 2.0, "impact": None},
                **{"capital": None, "borrow": 0.5, "cash": 0.0, "delisting_return": -30.0},
                "levels": [0, 2, 5, 10],
            },
        },
    )
    run.write("data.json", {**traded.data, "source_run": traded.name})
    run.write("overrides.yaml", ["strategy=all"])
    run.write("environment.json", {"python": "3.11.9", "device": "cpu"})
    run.write("timing.json", {"total_seconds": 20.0})
    if not source:
        shutil.rmtree(traded.path)
    return run


def build_prediction(
    path: Path,
    *,
    symbols: tuple[str, ...] = ("AAPL", "KO", "XOM"),
    horizons: tuple[int, ...] = (1, 5, 20),
    head: str = "student_t",
    delay: int = 0,
    files: bool = True,
    **facts: Any,
) -> Run:
    """Write a prediction's folder; `facts` replace what prediction.json says."""
    random = np.random.default_rng(0)
    path.mkdir(parents=True)
    days = pd.bdate_range(end="2026-11-25", periods=120)
    rows, history = [], []
    for symbol in symbols:
        close = 50 * np.exp(np.cumsum(random.normal(0, 0.01, 120)))
        history.append(pd.DataFrame({"symbol": symbol, "date": days, "price": close}))
        for horizon in horizons:
            spread = 0.01 * np.sqrt(horizon)
            row = {
                **{"symbol": symbol, "origin": "2026-11-25", "horizon": horizon},
                "expected_date": str((days[-1] + pd.offsets.BDay(horizon + delay)).date()),
                **{"price": close[-1], "median_price": 1.001 * close[-1]},
                "low_50": close[-1] * (1 - 0.7 * spread),
                "high_50": close[-1] * (1 + 0.7 * spread),
                "low_90": close[-1] * (1 - 1.6 * spread),
                "high_90": close[-1] * (1 + 1.6 * spread),
                **{"probability_of_rise": 0.52, "volatility": 100 * spread},
                **{"mean_return": 0.1, "median_return": 0.1},
            }
            if head != "student_t":
                row["volatility"] = np.nan
            if head == "point":
                unknown = ("low_50", "high_50", "low_90", "high_90")
                row |= dict.fromkeys((*unknown, "probability_of_rise", "median_return"), np.nan)
            rows.append(row)
    run = Run(path)
    run.write("predictions.csv", pd.DataFrame(rows))
    run.write("history.parquet", pd.concat(history, ignore_index=True))
    told = {
        **{"made_at": "2026-11-25T22:10:00+00:00", "run": "lstm-0123456789", "model": "lstm"},
        **{"part": "live", "horizons": list(horizons), "delay": delay, "rows": len(rows)},
        **{"data_hash": "0" * 64, "recorded": True, "recorded_reason": None},
        **{"warnings": [], "left_out": [], "data": {"source": "yahoo"}},
    }
    run.write("prediction.json", {**told, **facts})
    if files:
        run.write("config.yaml", {"run": "lstm-0123456789"})
        run.write("overrides.yaml", ["run=lstm-0123456789"])
        run.write("environment.json", {"python": "3.11.9", "device": "cpu"})
    return run


AUDITED = (
    ("pass", "folds", "one fold: every target of a range is known before the next begins.", {}),
    ("fail", "features", "they change with prices after 2019-04-01: <b>.", {"differing": 12}),
    ("warn", "history", "not checked: histories are no longer than 1000 sessions.", {}),
    ("warn", "ticks", "in 2.5% of the sessions of <script> returns jump.", {"share": 0.0251}),
)


def build_audit(
    path: Path, *, lines: tuple[tuple[Any, ...], ...] = AUDITED, audited: str | None = None
) -> Run:
    """Write an audit's folder; a line is its status, name, sentence and values."""
    path.mkdir(parents=True)
    run = Run(path)
    statuses = {status for status, *_ in lines}
    run.write(
        "audit.json",
        {
            "status": next(status for status in ("fail", "warn", "pass") if status in statuses),
            "audited": audited,
            "lines": [
                dict(zip(("status", "name", "sentence", "values"), line, strict=True))
                for line in lines
            ],
        },
    )
    config = {"model": {"cell": "lstm"}, "head": {"name": "my.<Head>"}}
    rules = {"strategy": {"rules": {"sign": {"rule": "sign"}}}}
    run.write(
        "config.yaml", {**config, **rules, "data": {"_target_": "forecast.prices.bundled.sp500"}}
    )
    run.write("overrides.yaml", ["head.name=my.<Head>"])
    run.write("environment.json", {"python": "3.11.9", "device": "cpu"})
    return run


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`built("run" | "backtest" | …, **options)`: a folder that tests leave alone."""
    root, known = tmp_path_factory.mktemp("built"), dict[str, Path]()
    builders: dict[str, Callable[..., Run]] = {
        **{"run": build_run, "backtest": build_backtest, "portfolio": build_portfolio},
        **{"prediction": build_prediction, "audit": build_audit},
    }

    def build(kind: str, **options: Any) -> Path:
        key = f"{kind} {options}"
        if key not in known:
            known[key] = builders[kind](root / str(len(known)) / kind, **options).path
        return known[key]

    return build


@pytest.fixture
def make_run(tmp_path: Path, built: Callable[..., Path]) -> Callable[..., Run]:
    """`make_run(**options)` gives a run folder called lstm-0123456789."""

    def make(name: str = "lstm-0123456789", **options: Any) -> Run:
        return Run(shutil.copytree(built("run", **options), tmp_path / name))

    return make


@pytest.fixture
def make_backtest(tmp_path: Path, built: Callable[..., Path]) -> Callable[..., Run]:
    """`make_backtest(**options)` gives a backtest's folder called backtest-0123456789."""

    def make(name: str = "backtest-0123456789", **options: Any) -> Run:
        return Run(shutil.copytree(built("backtest", **options), tmp_path / name))

    return make


@pytest.fixture
def make_portfolio(tmp_path: Path, built: Callable[..., Path]) -> Callable[..., Run]:
    """`make_portfolio(**options)` gives a portfolio's folder beside that of its backtest."""

    def make(name: str = "portfolio-0123456789", **options: Any) -> Run:
        folder = built("portfolio", **options)
        for other in folder.parent.glob("backtest-*"):
            shutil.copytree(other, tmp_path / other.name, dirs_exist_ok=True)
        return Run(shutil.copytree(folder, tmp_path / name))

    return make


@pytest.fixture
def make_prediction(tmp_path: Path, built: Callable[..., Path]) -> Callable[..., Run]:
    """`make_prediction(**options)` gives a prediction's folder called predict-0123456789."""

    def make(name: str = "predict-0123456789", **options: Any) -> Run:
        return Run(shutil.copytree(built("prediction", **options), tmp_path / name))

    return make
