"""Size of the significance tests: how often they tell equally good models apart.

    python benchmarks/size.py            # writes benchmarks/size.md, within two minutes

Loss differences of forecasts h sessions ahead overlap, so they are sums of h shocks of mean zero:
MA(h − 1). The shocks are independent, cluster in volatility, or are themselves autocorrelated, as
those of models that adapt at different speeds are; the last are more than a test that stops at
h − 1 lags allows for.

The tests of many models draw blocks of √T dates or more, so about 55 of them make a sample. The t
of Diebold–Mariano allows for a variance that is known so roughly, the bootstrap does not, and the
more pairs there are to choose from, the more it rejects.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats

from forecast.evaluation.comparison import (
    FLUCTUATION_05,
    WINDOW,
    autocovariances,
    block_length,
    confidence_set,
    fluctuation,
    hln,
    resample,
    superiority,
)
from forecast.evaluation.inference import mean_test

Array = NDArray[np.float64]

DATES = 3300
HORIZONS = (1, 5, 20)
BURN = 500  # shocks before the first date
MODELS = 9  # equally good ones, in the tests of many
COMMAND = "python benchmarks/size.py"


def independent(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.normal(size=shape)


def clustered(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """GARCH(1, 1) with Student t innovations of 6 degrees of freedom, persistence 0.98."""
    noise = rng.standard_t(6, (shape[1], shape[0])) / np.sqrt(1.5)
    shocks, variance = np.empty_like(noise), np.ones(shape[0])
    for t, innovation in enumerate(noise):
        shocks[t] = np.sqrt(variance) * innovation
        variance = 0.02 + 0.08 * shocks[t] ** 2 + 0.90 * variance
    return np.ascontiguousarray(shocks.T)


def autocorrelated(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """AR(1) of coefficient 0.3."""
    return signal.lfilter([1.0], [1.0, -0.3], rng.normal(size=shape), axis=1)


def ewc(series: Array, horizon: int) -> bool:
    return mean_test(series).p < 0.05


def harvey(series: Array, horizon: int) -> bool:
    return hln(series, np.zeros(len(series)), horizon)[1] < 0.05


def bartlett(series: Array, horizon: int) -> bool:
    """Newey–West of lag h with normal critical values."""
    weights = 2 * (1 - np.arange(horizon + 1) / (horizon + 1))
    weights[0] = 1
    variance = weights @ autocovariances(series, horizon) / len(series)
    return bool(abs(series.mean()) > stats.norm.ppf(0.975) * np.sqrt(variance))


def wandering(series: Array, horizon: int) -> bool:
    largest = np.abs(fluctuation(series, np.zeros(len(series)))).max()
    return bool(largest > FLUCTUATION_05[WINDOW])


SHOCKS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "independent": independent,
    "clustered": clustered,
    "autocorrelated": autocorrelated,
}
TESTS: dict[str, Callable[[Array, int], bool]] = {
    "Diebold–Mariano (EWC)": ewc,
    "HLN": harvey,
    "Bartlett, lag h": bartlett,
    f"fluctuation, window {WINDOW:g}": wandering,
}


def overlapping(shocks: Array, horizon: int) -> Array:
    """Sums of h shocks at `DATES` dates, from rows of `drawn` shocks."""
    sums = np.cumsum(shocks[:, BURN:], axis=1)
    sums[:, horizon:] -= sums[:, :-horizon].copy()
    return sums[:, horizon - 1 :]


def drawn(horizon: int) -> int:
    return BURN + horizon - 1 + DATES


def two_models(replications: int) -> list[str]:
    """Table rows: rejections at 5 % by shocks and horizon."""
    rows = []
    for name, make in SHOCKS.items():
        for horizon in HORIZONS:
            rng = np.random.default_rng((horizon, *name.encode()))
            differences = overlapping(make(rng, (replications, drawn(horizon))), horizon)
            rates = [
                100 * np.mean([test(series, horizon) for series in differences])
                for test in TESTS.values()
            ]
            rows.append(f"| {name} | {horizon} | " + " | ".join(f"{r:.1f}" for r in rates) + " |")
            print(rows[-1], flush=True)
    return rows


def many_models(replications: int) -> list[str]:
    """Table rows: rejections by SPA and StepM at 5 % and by the confidence set at 10 %."""
    rows = []
    for horizon in HORIZONS:
        draws = resample(DATES, block_length(DATES, horizon), repetitions=500, seed=0)
        found = []
        for seed in range(replications):
            rng = np.random.default_rng((horizon, seed))
            losses = overlapping(clustered(rng, (MODELS, drawn(horizon))), horizon).T
            result = superiority(losses[:, 0], losses[:, 1:], draws)
            smallest = float(confidence_set(losses, draws).min())
            stepm = bool(result.superior.any())
            found.append((result.consistent < 0.05, stepm, smallest <= 0.1))
        rates = 100 * np.mean(found, axis=0)
        rows.append(f"| {horizon} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--replications", type=int, default=2000)
    options = parser.parse_args()
    two, many = options.replications, options.replications // 4
    errors = [100 * np.sqrt(0.05 * 0.95 / n) for n in (two, many)]
    lines = [
        f"Rejections in percent at nominal 5 %, {two} replications of {DATES} dates; standard "
        f"error {errors[0]:.1f} where the rate is 5. Made by `{COMMAND}`.",
        "",
        "| shocks | horizon | " + " | ".join(TESTS) + " |",
        "|---|---|" + "---|" * len(TESTS),
        *two_models(two),
        "",
        f"{MODELS} equally good models, clustered shocks, {many} replications of 500 bootstrap "
        f"repetitions each; standard error {errors[1]:.1f} where the rate is 5.",
        "",
        "| horizon | SPA finds a better one, 5 % | StepM does, 5 % | the confidence set drops one, "
        "10 % |",
        "|---|---|---|---|",
        *many_models(many),
    ]
    (Path(__file__).parent / "size.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
