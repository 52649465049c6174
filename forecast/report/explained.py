"""The page of a look into trained networks: what they remember, and what moves their forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from forecast.dataset.features import LONG_HALF_LIFE
from forecast.report import networks
from forecast.report.gates import MEMORY_GATE
from forecast.report.markup import (
    counted,
    date_range,
    html_list,
    html_table,
    html_text,
    is_null,
    listing,
    number,
)
from forecast.report.style import embed
from forecast.report.summary import ALWAYS, careful
from forecast.run import Run

LONG = 13  # sessions since a shock from which on the summary calls it long ago
SHOCK = 2.0  # scales, at which the summary compares falls with rises
MOST_SYMBOLS = 20  # named in the summary
RANGES = ("garman_klass", "rogers_satchell", "volume_surprise")  # that a moved close leaves alone
MOST_FEATURES = 3  # likewise, by each measure
GATES = {  # what they do, by cell
    "lstm": "In an LSTM (Hochreiter and Schmidhuber 1997) the forget gate is the share of its "
    "state that a unit keeps from one session to the next, the input gate the share that it takes "
    "in of what is new, the output gate the share that it shows.",
    "gru": "In a GRU (Cho et al. 2014) the update gate is the share of its state that a unit "
    "keeps, and the reset gate the share that it looks at to make up what is new.",
}


def sections(run: Run) -> dict[str, str]:
    """Heading -> HTML of everything that was measured; the configuration is not among it."""
    facts = run.json("explain.json")
    tables = {
        # An empty field is the only undefined one: a feature may be called NA.
        path.stem: pd.read_csv(path, keep_default_na=False, na_values=[""])
        for path in run.path.glob("*.csv")
    }
    known = {"Known memory": _recall(tables["recall"])} if "recall" in tables else {}
    return {
        "Summary": _summary(run, facts, tables),
        "Memory": _memory(facts, tables["memory"]),
        **known,
        "Gates": _gates(facts, tables["gates"], tables["units"]),
        "News impact": _impact(facts, tables["impact"], tables["importance"]),
        "Features": _features(tables["importance"]),
    }


def _summary(run: Run, facts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> str:
    """What was looked at, a line for each kind of finding, and the cautions."""
    members = [
        f"{counted(sum(row['model'] == model for row in facts['memory']), 'member')} of {model}"
        for model in facts["models"]
    ]
    symbols = facts["symbols"]
    more = ", …" if len(symbols) > MOST_SYMBOLS else "."
    asked = (
        f"Looked into: {listing(facts['runs'])}, with {listing(members)}. Their forecasts "
        f"{counted(facts['horizon'], 'session')} ahead"
        f"{_delayed(facts)} were examined on the validation range "
        f"alone, {date_range(facts['dates'])}, of {counted(len(symbols), 'symbol')}: "
        f"{', '.join(symbols[:MOST_SYMBOLS])}{more}"
    )
    found = [
        f"Memory length, the sessions after which the gradient stays below half of the largest "
        f"that memory carries: {_lengths(facts, 'length')}.",
        f"Reach, the sessions after which it stays below a hundredth: {_lengths(facts, 'reach')}.",
        *_recalled(tables.get("recall")),
        *_asymmetry(tables["impact"]),
        _most_important(tables["importance"]),
        "Checks: the cells, computed anew from their trained weights, differ from torch's own "
        f"pass by {facts['difference']:.1e} at most; the shares of integrated gradients miss the "
        f"whole by {facts['quadrature']:.1e} of log volatility at most.",
    ]
    cautions = [*run.data["warnings"], *_cautions(facts, "recall" in tables), *ALWAYS]
    return f"<p>{html_text(asked)}</p>{html_list(found)}{careful(cautions)}"


def _delayed(facts: Mapping[str, Any]) -> str:
    delay = facts["delay"]
    return f", from {counted(delay, 'session')} after the origin," if delay else ""


def _cautions(facts: Mapping[str, Any], recalled: bool) -> list[str]:
    """What such measurements do not say."""
    cautions = [
        "A short memory of the network is not a short memory of the forecast: features remember by "
        f"themselves (built-in ones average over half-lives of up to {LONG_HALF_LIFE} sessions), "
        "and so does the scale that forecasts are stated in.",
        "Importance is not causation, and of two features that say the same neither may seem to "
        "matter.",
        "The validation range also decided when training stopped: what it shows may be used to "
        "choose, and is no test.",
    ]
    if recalled:
        cautions.append(
            "The task with known memory has simulated prices and the network and optimiser of "
            f"{facts['runs'][0]}, trained once for each cell and seed: another optimiser may find "
            "a memory that this one did not."
        )
    return cautions


def _lengths(facts: Mapping[str, Any], key: str) -> str:
    """A number of sessions of each model: the mean of its members, and their range."""
    told = []
    for model in facts["models"]:
        values = [row[key] for row in facts["memory"] if row["model"] == model]
        known = [value for value in values if not is_null(value)]
        beyond = f"more than {facts['lags']}"
        if not known:
            text = beyond
        elif len(known) < len(values):
            text = f"{min(known):.1f} to {beyond} over {len(values)} members"
        else:
            text = f"{sum(known) / len(known):.1f}"
            if len(known) > 1:
                text += f" ({min(known):.1f} to {max(known):.1f} over {len(known)} members)"
        told.append(f"{model} {text}")
    return listing(told)


def _recalled(recall: pd.DataFrame | None) -> list[str]:
    if recall is None or recall["first"].max() < LONG:
        return []
    means = recall[recall["first"] >= LONG].groupby("model", sort=False)["recalled"].mean()
    told = listing([f"{model} {value:.2f}" for model, value in means.items()])
    return [
        f"Known memory, the share recalled of a shock {LONG} sessions ago or more: {told} (1 is "
        f"perfect, {networks.SIGN_ALONE:.2f} the sign alone; means over ages and trainings)."
    ]


def _asymmetry(impact: pd.DataFrame) -> list[str]:
    table = impact.groupby(["model", "shock"], sort=False)["ratio"].mean().unstack()
    if not {-SHOCK, SHOCK} <= {*table.columns}:
        return []
    ratio = table[-SHOCK] / table[SHOCK]
    told = listing([f"{model} {value:.3f}" for model, value in ratio.items()])
    return [
        f"News impact: the volatility after a fall of {SHOCK:g} scales over that after an equal "
        f"rise: {told}."
    ]


def _most_important(importance: pd.DataFrame) -> str:
    told = []
    for measure, name in (("permutation", "permutation"), ("gradients", "integrated gradients")):
        means = importance.groupby("feature")[measure].mean().dropna()
        if len(means):
            told.append(f"by {name} {listing([*means.nlargest(MOST_FEATURES).index])}")
    return f"Most important of the features, over all members: {'; '.join(told)}."


def _memory(facts: Mapping[str, Any], memory: pd.DataFrame) -> str:
    html = _note(
        "By how much the log volatility stated at an origin changes with the standardised features "
        f"of the sessions before it: the length of that gradient, mean over {facts['origins']} "
        f"origins, drawn down to one part in {1 / networks.FAINTEST:,.0f} of the largest. Thin "
        "lines are members, bold ones means of a model. The open marker of a member stands at its "
        "memory length. What stands at lag 0 needs no memory."
    ) + _note(
        "Theory: in a simple RNN each session back multiplies the gradient by the same matrix and "
        "by slopes below 1, so that it should vanish exponentially, a straight line on this scale "
        "(Bengio, Simard and Frasconi 1994). LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho "
        "et al. 2014) add to a state that their gates keep, so that their gradient can fall more "
        "slowly the further back it goes: a line that bends outward. They can; whether they do "
        "depends on what there was to learn."
    )
    html += embed(networks.memory_profile(memory), "memory-profile")
    heads = (
        *("model", "seed", "member"),
        *("below a half after, sessions", "below a hundredth after, sessions"),
    )
    return html + html_table(
        heads,
        [
            (
                *(str(row[name]) for name in networks.MEMBER),
                *(
                    f"> {facts['lags']}" if is_null(row[name]) else number(row[name], 1)
                    for name in ("length", "reach")
                ),
            )
            for row in facts["memory"]
        ],
    )


def _recall(recall: pd.DataFrame) -> str:
    trainings = recall["seed"].nunique()
    return (
        _note(
            "Networks of each cell learn simulated prices in which a shock, told up to "
            f"{recall['last'].max()} sessions before and by nothing since, sets the volatility of "
            "one session (after the long-lag tasks of Hochreiter and Schmidhuber 1997). Left: "
            "squared correlation of the stated log volatility with the shock. Right: the slope of "
            "the forecast with respect to the shock, the median one, as a share of the true slope. "
            f"Lines are means over {counted(trainings, 'training')}, which are the points; each "
            f"rests on {recall['answers'].min():,} answers or more."
        )
        + _note(
            "Theory: to hold a number for long, gradients must reach back as far, so that the "
            "simple RNN should forget first. A state that has settled at one of two values "
            "recalls the sign of the shock robustly and nothing of its size: then "
            f"2/π = {networks.SIGN_ALONE:.2f} is recalled, and the gradient is 0 (Bengio, Simard "
            "and Frasconi 1994)."
        )
        + embed(networks.recall(recall), "known-memory")
    )


def _gates(facts: Mapping[str, Any], gates: pd.DataFrame, units: pd.DataFrame) -> str:
    gated = [model for model in facts["models"] if model in set(units["model"])]
    without = [model for model in facts["models"] if model not in gated]
    text = [
        f"The newest sessions of {facts['shown']} in the validation range, by the first member of "
        f"each model{', over the means of all units' if gated else ''}.",
        *(GATES[model] for model in gated if model in GATES),
    ]
    if gated:
        text.append(
            "A unit that always keeps 0.9 has half of its state after 6.6 sessions, one that keeps "
            "0.5 after one. Each gate is there to move with what comes in: look whether they do "
            "when volatility jumps."
        )
    if without:
        text.append(f"There are no gates in {listing(without)}.")
    html = _note(" ".join(text)) + embed(networks.gates(gates, symbol=facts["shown"]), "gates")
    maps = [(m, g) for m, g in MEMORY_GATE.items() if m in gated]
    if maps:
        html += _note(
            f"The {listing([f'{gate} gate of {model}' for model, gate in maps])} unit by unit, the "
            "most open on average at the top; dates are spaced evenly. A row that stays near 1 is "
            "a unit that remembers for long, one that changes a unit that remembers until "
            "something happens."
        )
    return html + "".join(
        embed(networks.gate_map(units, model, gate), f"{gate}-gate") for model, gate in maps
    )


def _impact(facts: Mapping[str, Any], impact: pd.DataFrame, importance: pd.DataFrame) -> str:
    benchmark = impact.loc[impact["member"].isna(), "model"].unique()
    beside = (
        f"Dashed: {listing(list(benchmark))}, a GJR-GARCH fit for each symbol on the training rows"
        f"{_unfit(facts)}."
        if len(benchmark)
        else "GJR-GARCH is drawn beside them where the next session is forecast and a fit can be "
        "trusted, which is not so here."
    )
    ranges = [name for name in RANGES if name in set(importance["feature"])]
    if ranges:
        beside += (
            " A day's bar moves as a whole, as by a gap before the open, so what "
            f"{listing(ranges)} say of that day's range and volume is kept."
        )
    return (
        _note(
            "How the volatility that is forecast answers the last return (Engle and Ng 1993): the "
            "last close of a history is moved, by so many times the scale of the session before, "
            "the features are computed anew, and the state before it and the market are kept. "
            f"Geometric means over symbols and sessions; the bands hold all members of a model. "
            f"{beside}"
        )
        + _note(
            "Theory: bad news should move volatility more than good news of the same size, the "
            "leverage effect. GJR-GARCH has a term for it, which can make its curve steeper to the "
            "left; a network has none, and may learn one."
        )
        + embed(networks.news_impact(impact), "news-impact")
    )


def _unfit(facts: Mapping[str, Any]) -> str:
    """Symbols without a fit, which no curve shows."""
    names = facts["unfit"]
    return f"; without {listing(names)}, of which no fit can be trusted" if names else ""


def _features(importance: pd.DataFrame) -> str:
    rises = importance.groupby("feature", sort=False)["permutation"].mean()
    shared = [str(feature) for feature in rises[rises.isna()].index]
    html = _note(
        "Permutation (Breiman 2001): how much the loss rises when each date's values of a feature "
        "are dealt out anew among its symbols, so that the feature says no more of a symbol. Left "
        "of zero the network fared better without it, as it may by luck. Integrated gradients "
        "(Sundararajan, Taly and Yan 2017): the share of a feature in the difference of the "
        "forecast from one at the training mean of all features, whether it was of use or not. "
        "Large dots are means of a model, small ones its members. The two need not agree: one asks "
        "what helps, the other what moves."
    )
    if len(shared) == len(rises):
        html += _note("With one symbol a date, there is nothing to deal out.")
    elif shared:
        html += _note(
            f"Shared by all symbols of a date, and so without a permutation: {listing(shared)}. "
            "What is stated relative to a symbol's own scale is not shared, and dealing it out "
            "takes that scale from it, not only what it says of the market."
        )
    return html + embed(networks.feature_importance(importance), "feature-importance")


def _note(text: str) -> str:
    return f'<p class="note">{html_text(text)}</p>'
