"""Which differences between models are luck: tests of pairs, and of all models together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from forecast.report.markup import (
    NULL,
    Cell,
    Number,
    html_details,
    html_models,
    html_table,
    is_null,
    number,
)
from forecast.report.roster import networks, newest_part, ordered
from forecast.report.style import DIVERGING, add_choice, colour, embed, finish, in_words
from forecast.run import Run

# key, name, unit, digits of a difference
LOSSES = (
    ("crps", "crps", "%", 4),
    ("crps_exact", "exact crps", "%", 4),
    ("log_score", "log score", "nats", 4),
    ("qlike", "QLIKE", "", 4),
    ("mae", "MAE", "%", 4),
)
HEADS = (
    *("against", "difference, 95 % interval", "relative, %", "t", "p", "p (Holm)", "HLN t"),
    *("years won", "symbols won", "top 20 days, %", "t without 2020"),
)
LUCK = 2.0  # a |t| below it is called luck
NOTE = (
    '<p class="note">A difference is the mean loss of the first model less that of the other: '
    "negative means that the first is better. Losses are averaged over the symbols of a date "
    "first, since one day's errors are one draw. t is that of Diebold and Mariano with the "
    "equal-weighted-cosine variance, HLN the variant of Harvey, Leybourne and Newbold; p (Holm) "
    "allows for the number of pairs, and is shaded where it is below 5 %. The top 20 days are the "
    "share of the summed difference that its 20 largest days make: where it is far above what 20 "
    "days are of the whole, a few days decide.</p>"
    '<p class="note">SPA (Hansen 2005) asks whether any model beats the benchmark, StepM (Romano '
    "and Wolf 2005) which ones do; the confidence set (Hansen, Lunde and Nason 2011) holds the "
    "models that cannot be told from the best.</p>"
)


def significance(run: Run) -> str:
    """Of each horizon of the newest part: sets of models, t of all pairs, the networks' pairs."""
    part, asked = newest_part(run.metrics), networks(run)
    found = (run.metrics.get("significance") or {}).get(part) or {}
    repetitions = (run.config.get("significance") or {}).get("repetitions")
    html = ""
    for horizon, losses in found.items():
        by_loss = losses or {}
        tests = {
            key: by_loss[key]
            for key, *_ in LOSSES
            if by_loss.get(key) and by_loss[key].get("t_matrix")
        }
        if not tests:
            continue
        html += f"<h3>{escape(str(part).capitalize())}, {in_words([int(horizon)])} ahead</h3>"
        html += _sets(tests, repetitions) + embed(t_matrix(tests, asked), f"t-{horizon}")
        for key, name, unit, digits in LOSSES:
            if (tests.get(key) or {}).get("pairs"):
                body = _pairs(tests[key]["pairs"], asked, digits)
                heading = f"Pairs by {name}{f', {unit}' if unit else ''}"
                html += html_details(heading, body, opened=key == LOSSES[0][0])
    return (
        NOTE + html
        if html
        else (
            "<p>Nothing was tested: a test needs two models, and 60 dates on which both are scored."
            "</p>"
        )
    )


def _sets(tests: Mapping[str, Mapping[str, Any]], repetitions: int | None) -> str:
    """SPA, StepM and the model confidence set, a line per loss."""
    least = 1 / repetitions if repetitions else 0.001  # a bootstrap tells no smaller p from zero
    rows = []
    for key, name, *_ in LOSSES:
        if key not in tests:
            continue
        spa, stepm, mcs = (tests[key].get(test) or {} for test in ("spa", "stepm", "mcs"))
        p = (spa.get("p") or {}).get("consistent")
        rows.append(
            (
                name,
                spa.get("benchmark") or NULL,
                _p(p) if p != 0 else f"<\N{NO-BREAK SPACE}{least:.2g}",
                _names(stepm.get("superior")),
                _names(mcs.get("included")),
            )
        )
    level = next((t["mcs"].get("level") for t in tests.values() if t.get("mcs")), None)
    heads = (
        *("loss", "benchmark", "SPA, p", "better than the benchmark (StepM, 5 %)"),
        f"may be the best (confidence set, {number(level, 0, 100)} %)",
    )
    return html_table(heads, rows, wrap=True)


def _names(models: Sequence[str] | None) -> str:
    return NULL if models is None else ", ".join(models) or "none"


def _pairs(pairs: Mapping[str, Mapping[str, Any]], asked: Sequence[str], digits: int) -> str:
    """A group for each network, a line for each model it is compared with."""
    groups = {
        f"{model} less …": {
            other: _pair(pairs[model][other], digits) for other in ordered(pairs[model], asked)
        }
        for model in ordered(pairs, asked)
    }
    return html_models(HEADS, groups, colour=colour)


def _pair(pair: Mapping[str, Any], digits: int) -> list[object]:
    low, high, holm = pair.get("low"), pair.get("high"), pair.get("p_holm")
    reach = None if low is None or high is None else (high - low) / 2
    return [
        f"{number(pair.get('difference'), digits)} ± {number(reach, digits)}",
        number(pair.get("relative"), 2, 100),
        number(pair.get("t"), 1),
        _p(pair.get("p")),
        Cell(_p(holm), best=holm is not None and holm < 0.05),
        number(pair.get("hln_t"), 1),
        _won(pair, "years"),
        _won(pair, "symbols"),
        number(pair.get("top20_share"), 0, 100),
        number((pair.get("without_2020") or {}).get("t"), 1),
    ]


def _p(value: float | None) -> str:
    """A p value; tiny ones are not said to be zero."""
    if value is not None and value < 0.001:
        return Number("<\N{NO-BREAK SPACE}0.001", value)
    return number(value, 3)


def _won(pair: Mapping[str, Any], of: str) -> str:
    won, all_of_them = pair.get(f"{of}_won"), pair.get(of)
    return NULL if is_null(won) or is_null(all_of_them) else f"{won} of {all_of_them}"


def t_matrix(tests: Mapping[str, Mapping[str, Any]], asked: Sequence[str]) -> go.Figure:
    """t of the loss of each model less that of each other one: blue where the row is better.

    Parameters
    ----------
    tests : loss -> {"t_matrix": {a: {b: t}}, "p_matrix_holm": {a: {b: p}}}
    asked : the networks, which stand first.
    """
    figure, sizes = go.Figure(), []
    names = {key: label for key, label, *_ in LOSSES}
    for key, tested in tests.items():
        models = ordered(tested["t_matrix"], asked)
        t, p = (
            np.array([[_at(tested.get(matrix), a, b) for b in models] for a in models], dtype=float)
            for matrix in ("t_matrix", "p_matrix_holm")
        )
        labels = [escape(model) for model in models]
        figure.add_heatmap(
            x=labels,
            y=labels,
            z=t.astype("float32"),
            text=[
                [_in_cell(a, b) for a, b in zip(*rows, strict=True)]
                for rows in zip(t, p, strict=True)
            ],
            texttemplate="%{text}",
            textfont={"size": 10},
            colorscale=DIVERGING,
            zmin=-6,
            zmax=6,
            showscale=False,
            xgap=1,
            ygap=1,
            name=names.get(key, key),
            hovertemplate="%{y} less %{x}<br>t %{z:.2f}<extra>%{fullData.name}</extra>",
        )
        sizes.append(len(models))
    figure.update_xaxes(side="bottom", tickangle=-45, showgrid=False, title_text="against")
    figure.update_yaxes(autorange="reversed", showgrid=False, title_text="model")
    title = "t of every pair (blue: the row's model is better; *: Holm, 5 %)"
    finish(figure, title=title, height=200 + 26 * max(sizes))
    shown = {names.get(key, key): [other == key for other in tests] for key in tests}
    add_choice(figure, shown, first=next(iter(shown)))
    return figure


def _in_cell(t: float, p: float) -> str:
    """A t that fits into a narrow cell."""
    if np.isnan(t):
        return ""
    return f"{t:z.{0 if abs(t) >= 9.95 else 1}f}{'*' if p < 0.05 else ''}"


def _at(matrix: Mapping[str, Any] | None, a: str, b: str) -> float:
    value = ((matrix or {}).get(a) or {}).get(b)
    return np.nan if value is None else float(value)
