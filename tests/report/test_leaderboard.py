from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.evaluation.leaderboard import Board
from forecast.portfolio.contest import Contest
from forecast.report.coordinates import MOST_AXES, MOST_RUNS, SPREAD, coordinates
from forecast.report.leaderboard import write_leaderboard
from forecast.report.leaderboard_figures import against_seconds, fan, importance, pareto
from forecast.report.leaderboard_table import MOST

HOSTILE = ("<script>alert(1)</script>", 'x" onload="alert(1)', "<b>")
FACTS = {
    **{"kind": "forecasts", "command": "train", "data": "0123456789" * 6, "source": "sp500"},
    **{"symbols": 20, "horizons": [1, 5, 20], "delay": 0},
    "validation": ["2013-01-02", "2015-06-30"],
    "warnings": ["survivors: these 20 stocks were chosen with hindsight"],
}


def build_board(
    *,
    models: Sequence[str] = ("lstm", "gru", "rnn"),
    sizes: Sequence[Any] = (8, 16, 32),
    seeds: int = 2,
    kind: str = "forecasts",
    opened: bool = False,
    scale: float = 1.0,
    extra: int = 0,
) -> Board:
    """A board of every model with every size, `extra` settings, seconds to the power `scale`."""
    random = np.random.default_rng(0)
    tested = kind == "forecasts"
    keys = ["model.cell", "model.hidden_size", *(f"own.key_{i}" for i in range(extra))]
    table, runs = [], []
    for place, (model, size) in enumerate((m, s) for m in models for s in sizes):
        who = {"configuration": f"{place:010d}", "model": model}
        objective = 0.54 + 0.002 * random.random() + 0.001 * random.random(seeds)
        known = {
            "fit_seconds": 1.5 * float(place % len(sizes) + 1) ** scale,
            "targets_per_second": 1e5 / (place + 1),
            "parameters": 100.0 + 7 * place,
            "test": np.nan,
        }
        names = [f"{model}-{place:08d}{seed:02d}" for seed in range(seeds)]
        spread = objective.std(ddof=1) if seeds > 1 else np.nan
        table.append(
            {
                **{**who, "settings": f"hidden_size={size}", "runs": names, "seeds": seeds},
                **{"objective": objective.mean(), "spread": spread, **known, "members": 1},
                "opened": 0,
            }
        )
        for seed, name in enumerate(names):
            values = [model, size, *random.normal(size=extra)]
            told = {"run": name, **who, "seed": seed, "objective": objective[seed], **known}
            runs.append({**told, **dict(zip(keys, values, strict=True))})
    best = pd.DataFrame(table).sort_values("objective", ignore_index=True)
    best.insert(0, "rank", range(1, len(best) + 1))
    best["difference"] = best["objective"] - best["objective"][0]
    best["se"] = 0.0005 + 0.0001 * best.index if tested else np.nan
    best.loc[0, "se"] = np.nan
    best["within"] = (best["difference"] <= best["se"]) | (best["rank"] == 1)
    best["chosen"] = best.index == best["parameters"].where(best["within"]).idxmin()
    best["mcs_p"] = np.linspace(1, 0, len(best)) if tested else np.nan
    best["in_mcs"] = [bool(p > 0.1) if tested else None for p in best["mcs_p"]]
    if opened:
        best.loc[0, ["opened", "test"]] = [1, 0.57771]
    named = {"key": [keys[0], "seed", *keys[1:]], "importance": np.linspace(0.6, 0, len(keys) + 1)}
    return Board(
        facts={**FACTS, "kind": kind},
        ledger={
            **{"configurations": len(best) + 3, "looks": len(runs) + 5},
            **{"test_configurations": int(opened), "test_looks": 2 * int(opened)},
        },
        keys=keys,
        table=best,
        runs=pd.DataFrame(runs).merge(best[["configuration", "rank"]], on="configuration"),
        importance=pd.DataFrame(named).head(len(runs) if len(runs) >= 8 else 0),
        daily=pd.DataFrame(),
        notes=["1 run is left out: <i>lstm-0000</i> has no score."],
    )


def build_contest(*, model: str = "gru", pbo: dict[str, Any] | None = None) -> Contest:
    """Two runs of two strategies and a benchmark."""
    rows = [
        {
            **{"run": f"backtest-{run}", "model": name, "strategy": strategy},
            **{"sharpe": sharpe, "annual_return": 0.051, "max_drawdown": -0.2, "turnover": 12.3},
            **{"psr": 0.9, "dsr": dsr, "dsr_clusters": clustered, "benchmark": name == "none"},
        }
        for run in (1, 2)
        for name, strategy, sharpe, dsr, clustered in (
            ("lstm", "top_k", 0.9, 0.97, 0.96),
            (model, "mean_variance", 0.5, 0.96, 0.4),
            ("none", "equal_weight", 0.3, np.nan, np.nan),
        )
    ]
    logits = [[-1.0, 300], [0.0, 400], [1.5, 500]]
    found = {"value": 0.583, "configurations": 4, "blocks": 16, "logits": logits}
    return Contest(
        facts={**FACTS, "part": "validation", "dates": ["2013-01-02", "2015-06-30"]},
        luck={"trials": 7, "series": 6, "clusters": 3, "elsewhere": 1, "pbo": pbo or found},
        table=pd.DataFrame(rows),
        notes=[],
    )


class Page(HTMLParser):
    """Elements, rows of tables, texts and figures of a page, whose tags must balance."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[dict[str, str | None]] = []
        self.rows: list[tuple[str | None, list[str]]] = []  # class and cells
        self.text, self._open = "", []  # type: str, list[str]
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert not self._open
        found = re.findall(r"data-figure>(.*?)</script>", self.html)
        self.figures = [json.loads(figure) for figure in found]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append(dict(attrs))
        if tag == "tr":
            self.rows.append((dict(attrs).get("class"), []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data
            if {"td", "th"} & set(self._open):
                self.rows[-1][1][-1] += data


def page_of(tmp_path: Path, *boards: Board, contests: Sequence[Contest] = ()) -> Page:
    return Page(write_leaderboard(boards, contests, tmp_path / "leaderboard.html"))


def test_the_page_has_every_section_and_every_link_leads_to_one(tmp_path: Path) -> None:
    boards = [build_board(), build_board(kind="positions", models=("gru",))]
    page = page_of(tmp_path, *boards, contests=[build_contest(), build_contest()])
    names = ["summary", "leaderboard", "settings", "seconds", "seeds", "board-2", "strategies"]
    ids = [a["id"] for a in page.attributes if "id" in a]
    assert [name for name in ids if name in names] == names and len(ids) == len(set(ids))
    assert [a["href"] for a in page.attributes if "href" in a] == [f"#{name}" for name in names]
    assert "NaN" not in page.text and "None" not in page.text and "nan" not in page.text.split()
    assert len(page.figures) == 4 + 3 + 2
    assert "survivors only" in page.text and "test range opened" not in page.text


def test_the_same_boards_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (page_of(tmp_path, build_board(), contests=[build_contest()]) for _ in "ab")
    assert first.html == second.html


def test_markup_in_configurations_and_names_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    board = build_board(models=HOSTILE, sizes=(8, "<i>", "</script><u>"))
    board.facts["source"] = "<u>"
    page = page_of(tmp_path, board, contests=[build_contest(model="<s>", pbo={"value": None})])
    assert not {"b", "i", "u", "s", "img"} & set(page.tags)
    assert page.tags["script"] == 2 + len(page.figures)
    assert not any(name.startswith("on") for a in page.attributes for name in a)
    for text in (*HOSTILE, "</script><u>", "<s>", "<i>lstm-0000</i>"):
        assert text in page.text
    drawn = json.dumps([[t.get("text"), t.get("name")] for f in page.figures for t in f["data"]])
    assert not re.search(r"<(?!br>)", drawn)


def test_the_summary_tells_what_was_tried_what_won_and_what_is_chosen(tmp_path: Path) -> None:
    board = build_board()
    text = page_of(tmp_path, board).text
    best, chosen = board.table.iloc[0], board.table[board.table["chosen"]].iloc[0]
    assert "18 runs, 9 configurations of 2 seeds: forecast.train on 20 symbols of sp500" in text
    assert "2013-01-02 to 2015-06-30, 1, 5 and 20 sessions ahead" in text
    assert f"Best: {best['model']} {best['settings']}, objective {best['objective']:.5f}" in text
    assert chosen["rank"] > 1 and "Chosen by the one-standard-error rule: " in text
    assert f"{chosen['parameters']:.0f} parameters where the best has {best['parameters']:.0f}" in (
        text
    )
    assert "12 configurations scored on a validation range of these data in 23 looks" in text
    assert "test range was never opened" in text and "chosen by the very scores" in text


def test_the_table_marks_the_chosen_line_the_set_and_the_best(tmp_path: Path) -> None:
    board = build_board()
    page = page_of(tmp_path, board)
    rows = {cells[0]: (kind, cells) for kind, cells in page.rows if len(cells) > 2}
    for row in board.table.to_dict("records"):
        kind, cells = rows[f"{row['rank']}  {row['model']} {row['settings']}"]
        assert (kind == "network") == row["chosen"]
        assert cells[2].startswith(f"{row['objective']:.5f}")
        words = {"best": row["rank"] == 1, "chosen": row["chosen"], "beyond": not row["within"]}
        assert all((word in cells[4]) == told for word, told in words.items())
        assert cells[5].startswith("in" if row["in_mcs"] else "out")
        if row["rank"] > 1:
            assert cells[3] == f"{row['difference']:.5f} \N{PLUS-MINUS SIGN} {row['se']:.5f}"
        assert any(a.get("title") == ", ".join(row["runs"]) for a in page.attributes)
    first = board.table.loc[board.table["chosen"], "runs"].iloc[0][0]
    assert f"python -m forecast.leaderboard open={first}" in page.text
    assert "<i>lstm-0000</i> has no score" in page.text


def test_test_scores_are_shown_of_opened_runs_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, build_board(opened=True))
    assert [cells[-1] for _, cells in page.rows if cells[-1].startswith("0.57771")] == [
        "0.57771 (1)"
    ]
    assert "opened 2 times by 1 configuration" in page.text
    assert "test range opened" in page.text and "no longer tested by them" in page.text
    assert "test (seeds opened)" not in page_of(tmp_path, build_board()).text


def test_positions_are_told_in_words_of_their_own(tmp_path: Path) -> None:
    text = page_of(tmp_path, build_board(kind="positions")).text
    assert "minus the net Sharpe ratio" in text and "crps" not in text
    assert "s. e." not in text and "standard error" not in text and "confidence set" not in text


@pytest.mark.parametrize(("models", "figures"), [(("lstm",), 0), (("lstm", "gru"), 3)])
def test_few_runs_give_sentences_and_no_empty_figure(
    tmp_path: Path, models: tuple[str, ...], figures: int
) -> None:
    page = page_of(tmp_path, build_board(models=models, sizes=(8,), seeds=1))
    assert len(page.figures) == figures
    assert ("nothing to compare it with" in page.text) == (figures == 0)
    assert ("takes eight runs" in page.text) == (figures > 0)
    assert "add seeds" in page.text and "nan" not in page.text.split()


def test_unknown_seconds_parameters_and_p_are_dashes(tmp_path: Path) -> None:
    board = build_board()
    board.table[["fit_seconds", "targets_per_second"]] = np.nan
    board.table["parameters"] = None
    board.table["mcs_p"], board.table["in_mcs"] = np.nan, None
    page = page_of(tmp_path, board)
    assert all(
        cells[-3:] == ["\N{EN DASH}"] * 3
        for _, cells in page.rows
        if cells[0][:1].isdigit() and len(cells) > 2
    )
    assert "known seconds" in page.text and "nan" not in page.text.split()


def test_a_long_table_is_cut_and_names_the_csv(tmp_path: Path) -> None:
    board = build_board(sizes=range(80), seeds=3, extra=12)
    page = page_of(tmp_path, board)
    assert f"The first {MOST} are shown; leaderboard.csv, beside this page, lists all 240" in (
        page.text
    )
    assert f"The best {MOST_RUNS} of 720 runs are drawn" in page.text
    assert f"The {MOST_AXES} most important of 14 settings" in page.text
    assert page.tags["tr"] < 2 * (MOST + 10) and len(page.html) < 6.5e6


def test_strategies_stand_apart_from_benchmarks_and_are_marked_by_both_deflations(
    tmp_path: Path,
) -> None:
    page = page_of(tmp_path, build_board(), contests=[build_contest()])
    rows = [cells for _, cells in page.rows if cells[0] in ("top_k", "mean_variance")]
    assert len(rows) == 4 and rows[0][3:] == [
        *("0.90", "5.1", "-20.0", "12.3", "0.900", "0.970", "0.960")
    ]
    assert [cells[0] for _, cells in page.rows].count("equal_weight") == 2
    assert len(re.findall(r'title="best">0\.9[67]0', page.html)) == 4
    assert 'title="best">0.400' not in page.html
    assert "7 trials stand on the ledger" in page.text and "58 %, over 4 trials" in page.text
    assert "Around one half" in page.text
    reason = build_contest(pbo={"value": None, "not_computed": "fewer than 2 <trials>"})
    text = page_of(tmp_path, contests=[reason]).text
    assert "not computed: fewer than 2 <trials>." in text


def test_a_run_crosses_each_axis_at_its_value_and_the_best_are_drawn_last() -> None:
    board = build_board(sizes=(8, 16, 64), seeds=3)
    figure = coordinates(board)
    lines = [trace for trace in figure.data if trace.line.color]
    runs = board.runs.sort_values("objective", kind="stable")
    found = {trace.text.split("<br>")[0]: trace.y for trace in lines}
    assert list(found)[-1] == runs["run"].iloc[0]
    low, high = runs["objective"].min(), runs["objective"].max()
    for row in runs.to_dict("records"):
        cell, size, seed, objective = found[row["run"]]
        values = (["gru", "lstm", "rnn"].index(row["model.cell"]), cell), (row["seed"], seed)
        for position, place in (*values, ([8, 16, 64].index(row["model.hidden_size"]), size)):
            assert abs(3 * place - position - 0.5) < SPREAD / 2
        assert objective == pytest.approx((row["objective"] - low) / (high - low))
    names = [a.text for a in figure.layout.annotations if a.font.size == 12]
    assert names == ["cell", "hidden_size", "seed", "objective"]


def test_no_two_runs_lie_on_each_other_where_they_share_a_value() -> None:
    figure = coordinates(build_board(seeds=4))
    places = np.array([trace.y for trace in figure.data if trace.line.color])
    assert all(len(np.unique(column)) == len(places) for column in places.T[:3])


def test_many_numbers_stand_on_a_scale_by_their_logarithm_where_it_is_wide() -> None:
    sizes = [2.0**power for power in range(12)]
    for values, even in ((sizes, True), ([*range(100, 112)], True), ([*sizes[1:], -1.0], False)):
        board = build_board(models=("lstm",), sizes=values, seeds=1)
        lines = [trace for trace in coordinates(board).data if trace.line.color]
        places = {re.findall("hidden_size = ([^<]*)", line.text)[0]: line.y[1] for line in lines}
        steps = np.diff([places[f"{value:.4g}"] for value in sorted(values)])
        assert (steps > 0).all() and np.allclose(steps, 1 / 11) == even


def test_the_pareto_front_is_what_no_other_one_beats() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        cost, loss = random.integers(0, 6, 12), random.integers(0, 6, 12)
        front = {(cost[i], loss[i]) for i in pareto(cost, loss)}
        points = set(zip(cost, loss, strict=True))
        beaten = {p for p in points for q in points - {p} if q[0] <= p[0] and q[1] <= p[1]}
        assert front == points - beaten and len(front) == len(pareto(cost, loss))
        assert np.all(np.diff(cost[pareto(cost, loss)]) > 0)


def test_seconds_have_a_logarithmic_axis_where_they_span_more_than_tenfold() -> None:
    assert against_seconds(build_board(scale=3.0)).layout.xaxis.type == "log"
    figure = against_seconds(build_board(scale=1.0))
    assert figure.layout.xaxis.type is None
    assert figure.data[0].line.shape == "hv" and "seconds" in figure.layout.xaxis.title.text
    points = {trace.name: trace for trace in figure.data[1:]}
    table = build_board().table
    for model in ("lstm", "gru", "rnn"):
        rows = table[table["model"] == model]
        assert list(points[model].y) == list(rows["objective"])
        assert list(points[model].error_y.array) == list(rows["spread"])


def test_the_fan_holds_every_seed_between_the_least_and_the_largest() -> None:
    board = build_board(seeds=3)
    band, mean, limit, *models, ring = fan(board).data
    count = len(board.table)
    for place, row in enumerate(board.table.to_dict("records")):
        own = board.runs.loc[board.runs["configuration"] == row["configuration"], "objective"]
        assert band.y[place] == own.max() and band.y[2 * count - 1 - place] == own.min()
        assert mean.y[place] == pytest.approx(own.mean())
        if place:
            assert limit.y[place] == pytest.approx(board.table["objective"][0] + row["se"])
            assert (row["objective"] <= limit.y[place]) == row["within"]
    assert sum(len(trace.x) for trace in models) == len(board.runs)
    assert list(ring.x) == list(board.table.loc[board.table["chosen"], "rank"])
    assert not any("s. e." in trace.name for trace in fan(build_board(kind="positions")).data)


def test_the_seed_is_the_grey_bar_of_importance() -> None:
    (bar,) = importance(build_board()).data
    assert list(bar.y) == ["cell", "seed", "hidden_size"]
    assert bar.marker.color[1] not in (bar.marker.color[0], bar.marker.color[2])
    assert list(bar.x) == pytest.approx([60, 30, 0])
