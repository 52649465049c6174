"""What was asked of a backtest and what came out, in words; and its folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from forecast.report.markup import (
    NULL,
    counted,
    date_range,
    html_facts,
    html_list,
    html_table,
    html_text,
    is_null,
    listing,
    number,
)
from forecast.report.roster import (
    EQUAL_INFORMATION,
    baselines,
    benchmark,
    best_of,
    horizons_of,
    networks,
    newest_part,
    of_tables,
    scores_at,
)
from forecast.report.significance import LUCK
from forecast.report.style import in_words
from forecast.report.summary import ALWAYS, beside_no_change, careful, opened
from forecast.run import Run

TESTED = (
    "Luck: a difference with |t| below 2 cannot be told from luck, and of many pairs some lie "
    "above 2 by luck alone; the column p (Holm) allows for their number."
)
DEVELOPMENT = ("2010", "2022")
CHOSEN = (
    "The years 2010 to 2022 of these stocks were looked at while the method was designed: what is "
    "found there is descriptive."
)


def summary(run: Run) -> str:
    """What was asked, a line per horizon on who wins, a line on the means, then the cautions."""
    metrics, data, asked = run.metrics, run.data, networks(run)
    part = newest_part(metrics)
    if part is None:
        return "<p>No forecast of this backtest has a known outcome: nothing is scored.</p>"
    horizons = horizons_of(metrics, part)
    outcomes = [_outcome(run, part, horizon, asked) for horizon in horizons]
    cautions = [*(data.get("warnings") or ())]
    if "test" in metrics["parts"]:
        first, last = (data.get("fold") or {}).get("test") or ("", "")
        cautions.append(opened(date_range((first or None, last))))
        if first and not of_tables(run):
            cautions.append(
                "A configuration that was chosen by a sweep of backtests was chosen on dates "
                f"before {first}; one that was chosen after reading reports like this was not."
            )
        if data.get("source") == "sp500" and first <= DEVELOPMENT[1] and last >= DEVELOPMENT[0]:
            cautions.append(CHOSEN)
    return (
        f"<p>{html_text(_asked(run, part, horizons, asked))}</p>"
        f"{html_list([*outcomes, *_means(metrics, part, horizons, asked)])}"
        f"{careful([*cautions, *ALWAYS, TESTED])}"
    )


def _asked(run: Run, part: str, horizons: Sequence[int], asked: Sequence[str]) -> str:
    """The networks, how they were refitted, beside what, on which data."""
    config, data = run.config, run.data
    settings, folds = config["backtest"], data.get("folds") or ()
    others = baselines(run.metrics["scores"][part], asked)
    models = asked or list(run.metrics["scores"][part])
    beside = f" and {counted(len(others), 'baseline')}" if asked and others else ""
    text = (
        f"{listing(models)}{beside}, each stating at the close of every session the "
        f"{_stated(run, part, models)} of the log return over the next {in_words(horizons)}, "
        "scored on the same origins"
    )
    if folds:
        years, every = settings.get("train"), settings.get("refit")
        refit = f"refitted every {every}, " if every else ""
        refit = f"{refit}each " if len(folds) > 1 else "never refitted, "
        span = "all earlier data" if years in (None, "expanding") else f"the last {years}"
        text += (
            f". {counted(len(folds), 'fold')}, {refit}trained on {span}; {part} from "
            f"{date_range(data['fold'].get(part))}"
        )
    symbols = data.get("symbols")
    if symbols:
        number_of = counted(len(symbols), "symbol")
        text += (
            f". The tables hold {number_of}"
            if of_tables(run)
            else f". The data hold {number_of} of the source {data.get('source')}"
        )
    return f"{text}. On the {part} part:"


def _stated(run: Run, part: str, models: Sequence[str]) -> str:
    """What these models forecast: only a distribution has a crps."""
    scores = run.metrics["scores"][part]
    stated = {
        any(not is_null((row or {}).get("crps")) for row in scores[model].values())
        for model in models
        if model in scores
    }
    return " or ".join(
        text for kind, text in ((True, "distribution"), (False, "expectation")) if kind in stated
    )


def _outcome(run: Run, part: str, horizon: int, asked: Sequence[str]) -> str:
    """Each network beside the benchmark and the best baseline that knows as much, with t.

    A network that states no distribution stands beside a forecast of no change.
    """
    metrics = run.metrics
    scores = scores_at(metrics, part, horizon)
    pairs = (
        (((metrics.get("significance") or {}).get(part) or {}).get(str(horizon)) or {}).get("crps")
        or {}
    ).get("pairs") or {}
    usual = benchmark(run, [m for m, row in scores.items() if not is_null(row.get("crps"))])
    equal = best_of(scores, EQUAL_INFORMATION, "crps")
    stating = [m for m in asked if not is_null((scores.get(m) or {}).get("crps"))]
    clauses = []
    for other, what in ((usual, ""), (equal, ", the best baseline of equal information")):
        if other is None or (what and other == usual):
            continue
        compared = [_verdict(model, other, pairs) for model in stating]
        if compared:
            clauses.append(f"against {other}{what}, {listing(compared)}")
    for model in asked:
        beside = None if model in stating else beside_no_change(scores.get(model) or {})
        if beside:
            clauses.append(f"{model} has a {beside}")
    return f"Over {in_words([horizon])}: {'; '.join(clauses) or _lowest(scores)}."


def _lowest(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The model with the lowest crps, where there is nobody to compare the networks with."""
    known = [m for m, row in scores.items() if m != "truth" and not is_null(row.get("crps"))]
    best = best_of(scores, known, "crps")
    if best is None:
        return "no model states a distribution"
    among = f", the lowest of {len(known)}" if len(known) > 1 else ""
    return f"crps of {best} {number(scores[best]['crps'], 4)} %{among}"


def _verdict(model: str, against: str, pairs: Mapping[str, Any]) -> str:
    """Who wins, by how much, and t; what t cannot tell from luck is called luck."""
    pair = (pairs.get(model) or {}).get(against) or {}
    t, share = pair.get("t"), pair.get("relative")
    if t is None or is_null(t) or share is None:
        return f"{model} is untested"
    beside = f"crps {abs(100 * share):.2f} % {'lower' if share < 0 else 'higher'}"
    verdict = "shows no more than luck" if abs(t) < LUCK else "wins" if t < 0 else "loses"
    return f"{model} {verdict} ({beside}, t\N{NO-BREAK SPACE}{number(t, 1)})"


def _means(
    metrics: Mapping[str, Any], part: str, horizons: Sequence[int], asked: Sequence[str]
) -> list[str]:
    """Whether any network's mean beats a forecast of zero, at the shortest horizon."""
    scores = scores_at(metrics, part, horizons[0])
    known = {
        model: scores[model]
        for model in asked
        if not is_null((scores.get(model) or {}).get("r2_zero"))
    }
    if not known:
        return []
    listed = []
    for model, row in known.items():
        r2, t = number(row["r2_zero"], 2, 100), number(row.get("r2_zero_t"), 1)
        listed.append(f"{model} {r2} % (t\N{NO-BREAK SPACE}{t})")
    return [
        f"The means, over {in_words(horizons[:1])}: R² out of sample beside a forecast of zero "
        f"{listing(listed)}."
    ]


def folds(run: Run) -> str:
    """Dates, epochs and fallbacks of every fold."""
    known, fallbacks = run.data.get("folds") or [], run.metrics.get("fallbacks") or {}
    if not known:
        return "<p>These forecasts were read from a table: nothing was trained here.</p>"
    rows = [
        (
            fold["index"],
            *(date_range(fold.get(part)) for part in ("train", "validation", "test")),
            _fits(run, fold["index"]),
            sum(len(by_fold.get(str(fold["index"])) or ()) for by_fold in fallbacks.values()),
        )
        for fold in known
    ]
    html = html_table(("fold", "train", "validation", "test", "epochs kept", "fallbacks"), rows) + (
        '<p class="note">Epochs kept: of each network, the median over its members of their best '
        "epoch; of mlp also the width that the fold's validation range chose. A fallback is a fit "
        "of a symbol that did not converge and was replaced by EWMA.</p>"
    )
    listed = {
        model: "; ".join(
            f"fold {fold}: {', '.join(map(str, symbols))}"
            for fold, symbols in by_fold.items()
            if symbols
        )
        for model, by_fold in fallbacks.items()
    }
    listed = {model: text for model, text in listed.items() if text}
    return html + (f"<h3>Fallbacks</h3>{html_facts(listed)}" if listed else "")


def _fits(run: Run, index: int) -> str:
    """lstm 12, mlp (width 32) 9: the best epochs by the histories of a fold."""
    found = []
    for model, fits in (run.metrics.get("fits") or {}).items():
        for fit in fits:
            path = run.path / fit["folder"] / "history.csv"
            if fit["fold"] != index or not path.is_file():
                continue
            history = pd.read_csv(path).dropna(subset=["validation_loss"])
            best = history.loc[history.groupby("member")["validation_loss"].idxmin(), "epoch"]
            width = f" (width {fit['hidden_size']})" if model == "mlp" else ""
            found.append(f"{model}{width} {f'{median(best):g}' if len(best) else NULL}")
    return ", ".join(found) or NULL
