"""How the defaults were chosen: inner folds that all end before the first test origin.

    python benchmarks/defaults.py    # writes benchmarks/defaults.md; under an hour on two cores

The bundled data's test range begins on 2016-05-23. Each inner fold ends its data before that and
holds out its own last three years; a candidate's figure is the mean, over folds and five single
networks, of the crps in scaled units over the three horizons. No row of the real test range is
read. The standard error is that of the difference to the default, over folds × seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from forecast import compose
from forecast.train import train

FOLDS = {
    "2002-01-02": "2005-01-03",
    "2006-01-03": "2009-03-31",
    "2010-01-04": "2013-01-03",
    "2013-01-02": "2016-05-20",
}
HERE = Path(__file__).parent
# What the networks saw before absolute averages, trends and the market's volatilities were added.
TEN = (
    *("return", "abs_return", "volatility_2", "volatility_5", "volatility_60", "volatility_250"),
    *("downside", "scale", "market_return", "market_volatility"),
)
CANDIDATES: dict[str, list[str]] = {
    "default": [],
    "hidden_size=16": ["model.hidden_size=16"],
    "hidden_size=64": ["model.hidden_size=64"],
    "lr=0.001": ["optimizer.lr=0.001"],
    "batch=16": ["window.batch=16"],
    "batch=64": ["window.batch=64"],
    "dropout=0": ["model.dropout=0"],
    "no skip": ["model.skip=false"],
    "ten features": [f"features.columns=[{', '.join(TEN)}]"],
    "equal horizon weights": ["loss.horizon_weights=[1,1,1]"],
}


def score(overrides: list[str], seeds: range, outputs: str) -> np.ndarray:
    """Scaled crps, mean over horizons, of each fold and seed."""
    values = []
    for test, end in FOLDS.items():
        for seed in seeds:
            options = [f"data.end='{end}'", f"split.test='{test}'", f"seed={seed}"]
            quiet = [
                f"outputs={outputs}",
                "progress=false",
                "trainer=cpu",
                "evaluate=[test]",
                "ensemble=1",
            ]
            run = train(compose("train", [*options, *quiet, *overrides]))
            scores = run.metrics["scores"]["test"][run.config["model"]["cell"]]
            values.append(np.mean([s["crps_scaled"] for s in scores.values()]))
    return np.array(values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--outputs", default="outputs/defaults", help="folder of the run folders")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of candidates")
    options = parser.parse_args()
    seeds = range(options.seeds)
    found = {
        name: score(overrides, seeds, options.outputs)
        for name, overrides in CANDIDATES.items()
        if options.only is None or name in ("default", *options.only)
    }
    lines = [
        f"Scaled `crps`, mean over horizons 1, 5, 20, {len(FOLDS)} inner folds before 2016-05-23 "
        f"and {options.seeds} seeds. Made by `python benchmarks/defaults.py`.",
        "",
        "| candidate | scaled crps | minus default | standard error |",
        "|---|---|---|---|",
    ]
    for name, values in found.items():
        difference = values - found["default"]
        error = difference.std(ddof=1) / np.sqrt(len(values))
        lines.append(f"| {name} | {values.mean():.5f} | {difference.mean():+.5f} | {error:.5f} |")
    text = "\n".join(lines) + "\n"
    (HERE / "defaults.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
