"""Do the measures of luck tell luck? Simulations where the truth is known.

    python benchmarks/luck.py                   # writes benchmarks/luck.md, within ten minutes
    python benchmarks/luck.py --only intervals  # measures one part anew

Daily returns are independent, cluster in volatility (GARCH(1, 1) with Student t innovations) or are
autocorrelated. Without skill a probabilistic Sharpe ratio above 0.95 must be found in 5 % of the
samples, and a deflated one of the best of many trials no more often; the backtest of the best of
many must be called overfitted; two equally good series must be told apart in 5 % of the samples;
and an interval of 95 % must hold the true value in 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import signal

from forecast.portfolio.intervals import intervals
from forecast.portfolio.luck import luck, probabilistic
from forecast.portfolio.overfitting import overfitting
from forecast.portfolio.sharpe import sharpe_tests
from forecast.portfolio.trials import Trials

Array = NDArray[np.float64]

COMMAND = "python benchmarks/luck.py"
HERE = Path(__file__).parent
YEAR = 252
SESSIONS = 2500
BURN = 300
PAIRS = 250  # tested on the same resamples
HISTORIES = (350, 750, 3250)  # sessions


def independent(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Student t of 5 degrees of freedom, of unit variance; the axes are sessions, series."""
    return rng.standard_t(5, shape) / np.sqrt(5 / 3)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Mostly small gains, rarely large losses: as one who sells insurance (skew −2)."""
    return 1 - rng.exponential(size=shape)


def clustered(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """GARCH(1, 1) of persistence 0.98 with Student t innovations of 6 degrees of freedom."""
    noise = rng.standard_t(6, (BURN + shape[0], shape[1])) / np.sqrt(1.5)
    shocks, variance = np.empty_like(noise), np.ones(shape[1])
    for t, innovation in enumerate(noise):
        shocks[t] = np.sqrt(variance) * innovation
        variance = 0.02 + 0.08 * shocks[t] ** 2 + 0.90 * variance
    return shocks[BURN:]


def autocorrelated(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """AR(1) of coefficient 0.2, of unit variance."""
    noise = rng.normal(size=(BURN + shape[0], shape[1])) * np.sqrt(1 - 0.2**2)
    return signal.lfilter([1.0], [1.0, -0.2], noise, axis=0)[BURN:]


PROCESSES = {
    "independent t(5)": independent,
    "skewed": skewed,
    "GARCH(1, 1)-t": clustered,
    "AR(1), 0.2": autocorrelated,
}


def pairs(process: str, rng: np.random.Generator, annual: tuple[float, float]) -> Array:
    """Series two by two, correlated at about 0.5, the second twice as volatile; Sharpe `annual`."""
    common, first, second = (PROCESSES[process](rng, (SESSIONS, PAIRS)) for _ in range(3))
    result = np.empty((SESSIONS, 2 * PAIRS))
    result[:, 0::2] = np.sqrt(0.5) * (common + first) + annual[0] / np.sqrt(YEAR)
    result[:, 1::2] = 2 * (np.sqrt(0.5) * (common + second) + annual[1] / np.sqrt(YEAR))
    return result


def told_apart(
    process: str, annual: tuple[float, float], *, samples: int, seed: int = 0
) -> tuple[float, float]:
    """Share of samples in which the pair's ratios differ at 5 %, by bootstrap and by HAC."""
    rng = np.random.default_rng(seed)
    asked = [(2 * k, 2 * k + 1) for k in range(PAIRS)]
    tests = [
        test
        for batch in range(samples // PAIRS)
        for test in sharpe_tests(pairs(process, rng, annual), asked, periods=YEAR, seed=batch)
    ]
    p, p_hac = (np.array([getattr(test, name) for test in tests]) for name in ("p", "p_hac"))
    return float((p < 0.05).mean()), float((p_hac < 0.05).mean())


def certain(process: str, level: float, *, samples: int, seed: int = 0) -> float:
    """Share of series without skill whose probabilistic Sharpe ratio is above `level`."""
    rng = np.random.default_rng(seed)
    returns = PROCESSES[process](rng, (SESSIONS, samples))
    psr = np.array([probabilistic(series) for series in returns.T])
    return float((psr > level).mean())


def families(
    rng: np.random.Generator, trials: int, *, family: int, correlation: float, skill: float
) -> Array:
    """Trials in families of `family`, correlated within them; the first family has `skill`."""
    count = -(-trials // family)
    common = np.repeat(independent(rng, (SESSIONS, count)), family, axis=1)[:, :trials]
    own = independent(rng, (SESSIONS, trials))
    returns = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    returns[:, :family] += skill / np.sqrt(YEAR)
    return returns


def best(returns: Array) -> tuple[float, float, float]:
    """PSR, DSR and DSR over clusters of the trial of the highest Sharpe ratio."""
    dates = pd.date_range("2010-01-01", periods=len(returns))
    columns = [str(k) for k in range(returns.shape[1])]
    table = pd.DataFrame(returns, index=dates, columns=columns)
    chosen = str((table.mean() / table.std()).idxmax())
    own = pd.DataFrame(
        {
            "part": "test",
            "model": "m",
            "strategy": "s",
            "date": dates,
            "simple_return": table[chosen],
            "cash_return": 0.0,
        }
    )
    every = Trials(count=len(columns), returns=table, missing=0)
    found = luck(own, every, part="test", periods=YEAR)["strategies"]["m"]["s"]
    return found["psr"], found["dsr"], found["dsr_clusters"]


def survived(*, samples: int, seed: int = 0, **options: float) -> Array:
    """Shares of samples whose best trial has a PSR, DSR, DSR over clusters above 0.95."""
    rng = np.random.default_rng(seed)
    found = [best(families(rng, **options)) for _ in range(samples)]  # type: ignore[arg-type]
    return (np.array(found) > 0.95).mean(axis=0)


def overfitted(*, samples: int, seed: int = 0, **options: float) -> Array:
    """Means over samples: the probability of backtest overfitting; of the best of a half the annual
    Sharpe ratio on it and on the other half; how often it earns less than cash on the other."""
    rng = np.random.default_rng(seed)
    found = [overfitting(families(rng, **options)) for _ in range(samples)]  # type: ignore[arg-type]
    year = np.sqrt(YEAR)
    rows = [
        (one.value, year * one.inside, year * one.outside, one.loss)
        for one in found
        if one is not None
    ]
    return np.mean(rows, axis=0)


def covered(process: str, sessions: int, *, samples: int, seed: int = 0) -> tuple[float, float]:
    """Share of histories whose 95 % intervals hold the true Sharpe ratio and volatility.

    An annual Sharpe ratio of 0.8 on a volatility of 1 % a session; ten histories at a time share
    the length of their blocks, as a run's strategies do.
    """
    rng = np.random.default_rng(seed)
    ratio, volatility, together = 0.8 / np.sqrt(YEAR), 0.01, 10
    truth = {"sharpe": ratio, "volatility": volatility}
    hits: list[list[bool]] = []
    for batch in range(samples // together):
        net = volatility * (PROCESSES[process](rng, (sessions, together)).T + ratio)
        found = intervals(
            net,
            cash_return_T=np.zeros(sessions),
            periods=1.0,
            measures=tuple(truth),
            seed=batch,
        )
        for told in found:
            ends = [(told[name] or [np.nan, np.nan], true) for name, true in truth.items()]
            hits.append([low <= true <= high for (low, high), true in ends])
    sharpe, spread = np.mean(hits, axis=0)
    return float(sharpe), float(spread)


def table(heads: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; heads as they stand in it."""
    count = heads.count("|") + 1
    return [
        f"| {heads} |",
        "|" + "---|" * count,
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def probabilities(samples: int) -> list[str]:
    rows = [
        [process, *(f"{certain(process, x, samples=samples):.1%}" for x in (0.5, 0.95, 0.99))]
        for process in PROCESSES
    ]
    return [
        "Without skill: share of series whose probabilistic Sharpe ratio is above a level.",
        "",
        *table("returns | above 0.5 | above 0.95 | above 0.99", rows),
    ]


def deflation(samples: int) -> list[str]:
    groups = ((2, 1, 0.0), (10, 1, 0.0), (100, 1, 0.0), (20, 10, 0.8), (100, 10, 0.8))
    rows = []
    for skill in (0.0, 1.5):
        for trials, family, correlation in groups:
            passed = survived(
                samples=samples // 10,
                trials=trials,
                family=family,
                correlation=correlation,
                skill=skill,
            )
            told = [f"{share:.1%}" for share in passed]
            rows.append([str(trials), str(family), f"{correlation:g}", f"{skill:g}", *told])
    return [
        "The best of many trials: share of samples in which its probabilistic Sharpe ratio, the "
        "deflated one for all trials and the deflated one for clusters are above 0.95. Skill: "
        "annual Sharpe ratio of the first family.",
        "",
        *table("trials | family | correlation within | skill | PSR | DSR | DSR, clusters", rows),
    ]


def overfits(samples: int) -> list[str]:
    rows = []
    for count, family, correlation, skill in (
        (20, 1, 0.0, 0.0),
        (20, 20, 0.8, 0.0),
        (20, 1, 0.0, 1.5),
        (20, 1, 0.0, 3.0),
    ):
        value, inside, outside, loss = overfitted(
            samples=samples // 10,
            trials=count,
            family=family,
            correlation=correlation,
            skill=skill,
        )
        told = [f"{value:.2f}", f"{inside:.2f}", f"{outside:.2f}", f"{loss:.0%}"]
        rows.append([str(count), str(family), f"{correlation:g}", f"{skill:g}", *told])
    return [
        "Probability of backtest overfitting; of the best of a half its annual Sharpe ratio on it "
        "(inside) and on the other half (outside), and on how many others it earns less than cash "
        "(loses). Means over samples.",
        "",
        *table(
            "configurations | family | correlation within | skill | probability | inside | "
            "outside | loses",
            rows,
        ),
    ]


def differences(samples: int) -> list[str]:
    rows = [
        [
            process,
            f"{annual[0]:g}, {annual[1]:g}",
            *(f"{share:.1%}" for share in told_apart(process, annual, samples=samples)),
        ]
        for process in PROCESSES
        for annual in ((0.5, 0.5), (0.5, 1.5))
    ]
    return [
        "Ledoit–Wolf: share of samples in which two series, correlated at 0.5, are told apart at "
        "5 %, by the bootstrap and by the kernel (HAC) alone.",
        "",
        *table("returns | annual Sharpe ratios | bootstrap | HAC", rows),
    ]


def coverage(samples: int) -> list[str]:
    rows = [
        [
            process,
            f"{sessions}",
            *(f"{x:.1%}" for x in covered(process, sessions, samples=samples // 4)),
        ]
        for process in ("independent t(5)", "AR(1), 0.2", "GARCH(1, 1)-t")
        for sessions in HISTORIES
    ]
    return [
        f"Bootstrap intervals: share of {samples // 4} histories whose 95 % interval holds the "
        "true value.",
        "",
        *table("returns | sessions | Sharpe ratio | volatility", rows),
    ]


PARTS: dict[str, Callable[[int], list[str]]] = {
    "probabilities": probabilities,
    "deflation": deflation,
    "overfitting": overfits,
    "differences": differences,
    "intervals": coverage,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part anew")
    arguments = parser.parse_args()
    samples, path = arguments.samples, HERE / "luck.md"
    # A part stands under a heading of its name, by which it is found again.
    _, *known = path.read_text(encoding="utf-8").split("\n## ") if path.exists() else [""]
    text = dict(part.strip().split("\n\n", 1) for part in known)
    for name in arguments.only or PARTS:
        text[name] = "\n".join(PARTS[name](samples))
    told = [
        f"Simulated samples of {SESSIONS} sessions if not said otherwise, {samples} a row "
        f"({samples // 10} where many trials make one). Made by `{COMMAND}`.",
        *(f"## {name}\n\n{text[name]}" for name in PARTS if name in text),
    ]
    path.write_text("\n\n".join(told) + "\n", encoding="utf-8")
    print("\n\n".join(told))


if __name__ == "__main__":
    main()
