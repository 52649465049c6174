"""Runs are ranked by what they scored on validation, beside how much of that is luck."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast import compose
from forecast.config import ForecastError, canonical_id, plain, without
from forecast.evaluation.comparison import (
    block_length,
    confidence_set,
    diebold_mariano,
    resample,
)
from forecast.evaluation.entries import entries
from forecast.evaluation.leaderboard import Board, differing, leaderboards, shown
from forecast.evaluation.leaderboard_text import text
from forecast.evaluation.scores import Scores, objective
from forecast.forecasts import INNER, QUANTILES, SCHEMA, ForecastWriter
from forecast.run import Run

MakeRun = Callable[..., Run]
DAYS = 80
DENSITIES = ["nll", "pit", "crps_exact", "es01", "es05"]


@pytest.fixture
def make_run(tmp_path: Path, make_block: Callable[..., pd.DataFrame]) -> MakeRun:
    """A finished run with forecasts whose quality is chosen, on the ledger."""

    def make(
        *typed: str,
        seed: int = 0,
        bias: float = 0.0,
        parts: Sequence[str] = ("validation",),
        sha256: str = "f00d",
        point: bool = False,
        first: str = "2020-01-01",
    ) -> Run:
        config = plain(compose("train", ["horizons=[1,5]", f"seed={seed}", *typed]))
        cell = config["model"]["cell"]
        name = f"{cell}-{canonical_id(config, data=sha256)}"
        run = Run(tmp_path / name)
        scores = Scores()
        run.path.mkdir()
        with ForecastWriter(run.path / "forecasts.parquet") as writer:
            for part in parts:
                block = make_block(model=cell, part=part, days=DAYS, seed=seed)
                rng = np.random.default_rng((seed, len(cell)))
                moved = bias + 0.01 * rng.normal(size=len(block))
                block[["mean", *QUANTILES]] += moved[:, None].astype("float32")
                block[DENSITIES] = np.float32("nan")
                if point:
                    block[[*QUANTILES, "std"]] = np.float32("nan")
                for name in ("actual", "realized_variance"):
                    block[name] = block[name].fillna(1.0)  # every row counts
                block = block[SCHEMA.names]
                writer.write(block)
                scores.add(block)
        found = scores.summary()["scores"]
        run.write("config.yaml", config)
        run.write(
            "data.json",
            {
                "source": "sp500",
                "sha256": sha256,
                "symbols": [{"symbol": s} for s in ("AAPL", "KO", "RRC")],
                "features": config["features"]["columns"],
                "fold": {"validation": [first, "2020-05-01"], "test": ["2020-05-04", "2020-09-01"]},
                "warnings": [],
            },
        )
        run.write("timing.json", {"fit_seconds": 1.0 + seed, "targets_per_second": 1000.0})
        for part in parts:
            run.record(part, first, "2020-05-01")
        run.write(
            "metrics.json",
            {"objective": objective(found, cell), "parts": list(parts), "scores": found},
        )
        return run

    return make


def board_of(outputs: Path, **options: Any) -> Board:
    (board,) = leaderboards(outputs, **options)
    return board


def plain_losses(run: Run, model: str) -> pd.Series:
    """Loss of each date by a plain loop over rows."""
    sums: dict[tuple[Any, int], list[float]] = {}
    for row in run.forecasts(part="validation", model=model).to_dict("records"):
        pinball = [
            max(q * (row["actual"] - row[name]), (q - 1) * (row["actual"] - row[name]))
            for q, name in zip(INNER, QUANTILES[1:-1], strict=True)
        ]
        crps = 2 * sum(pinball) / len(pinball)
        if np.isnan(crps):
            crps = abs(row["actual"] - row["mean"])
        loss = crps / (row["scale"] * row["horizon"] ** 0.5)
        sums.setdefault((row["origin"], row["horizon"]), []).append(loss)
    means: dict[Any, list[float]] = {}
    for (origin, _), values in sums.items():
        means.setdefault(origin, []).append(float(np.mean(values)))
    return pd.Series({origin: np.mean(values) for origin, values in means.items()}).sort_index()


# ------------------------------------------------------------------------------- a run


@pytest.mark.parametrize("point", [False, True])
def test_losses_by_date_are_those_of_a_plain_loop_and_their_mean_is_the_objective(
    make_run: MakeRun, point: bool
) -> None:
    run = make_run("model=gru", *(["head=point"] if point else []), point=point)
    ((entry,), _) = entries(run.path.parent)
    losses = entry.losses
    pd.testing.assert_series_equal(
        losses, plain_losses(run, "gru"), check_names=False, check_index_type=False, rtol=1e-6
    )
    assert losses.mean() == pytest.approx(entry.objective, rel=1e-6)


@pytest.mark.parametrize("model", ["lstm", "gru", "rnn"])
def test_parameters_are_those_that_training_moves(make_run: MakeRun, model: str) -> None:
    from forecast.models.networks import Network

    run = make_run(f"model={model}", "model.layers=2", "model.hidden_size=5")
    ((entry,), _) = entries(run.path.parent)
    options = {k: v for k, v in run.config["model"].items()}
    built = Network(**options, features=len(run.data["features"]), horizons=2, parameters=3)
    assert entry.parameters == sum(p.numel() for p in built.parameters())


def test_nothing_of_a_run_is_executed_for_its_parameters(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    run.write("config.yaml", {**run.config, "head": {"name": "evil.Head"}})
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    board = board_of(tmp_path)
    assert board.runs["run"].tolist() == [run.name]
    assert board.table["parameters"].isna().all() and board.table["chosen"].all()
    assert "evil" not in sys.modules


def test_a_damaged_folder_is_named_and_the_others_are_ranked(make_run: MakeRun) -> None:
    good, bad = make_run(seed=0), make_run(seed=1)
    (bad.path / "metrics.json").write_text("{")
    board = board_of(good.path.parent)
    assert board.runs["run"].tolist() == [good.name]
    assert any(bad.name in note for note in board.notes)


# ----------------------------------------------------------------------------- filters


def test_filters_are_dotted_or_nested_and_a_list_means_any_of(
    make_run: MakeRun, tmp_path: Path
) -> None:
    for model in ("lstm", "gru", "rnn"):
        make_run(f"model={model}")

    def models(where: dict[str, Any]) -> set[str]:
        return set(board_of(tmp_path, where=where).table["model"])

    assert models({"model.cell": "lstm"}) == {"lstm"}
    assert models({"model": {"cell": ["gru", "rnn"]}}) == {"gru", "rnn"}
    assert models({"horizons": [1, 5], "model.cell": "rnn"}) == {"rnn"}
    assert board_of(tmp_path, where={"model.cell": "lstm"}).ledger["configurations"] == 3


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"model.sell": "lstm"}, r"no run has the key model\.sell: did you mean model\.cell\?"),
        ({"model.cell": "gru"}, r"fits none of 1 networks"),
    ],
)
def test_a_filter_that_fits_nothing_says_so(
    make_run: MakeRun, tmp_path: Path, where: dict[str, Any], said: str
) -> None:
    make_run()
    with pytest.raises(ForecastError, match=said):
        leaderboards(tmp_path, where)


def test_without_runs_there_is_no_leaderboard(tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match="no finished run with a validation score"):
        leaderboards(tmp_path)


# ----------------------------------------------------------------------------- ranking


def test_what_cannot_be_compared_stands_apart(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(seed=0)
    make_run(seed=1)
    make_run(sha256="beef")
    make_run(first="2020-01-02", seed=2)
    boards = leaderboards(tmp_path)
    assert [len(board.runs) for board in boards] == [2, 1, 1]
    assert boards[0].facts["data"] == "f00d"


def test_seeds_are_averaged_and_the_lowest_objective_is_first(
    make_run: MakeRun, tmp_path: Path
) -> None:
    good = [make_run(seed=seed) for seed in (0, 1, 2)]
    bad = make_run("model.hidden_size=8", bias=2.0)
    board = board_of(tmp_path)
    scores = [run.metrics["objective"] for run in good]
    first, second = board.table.to_dict("records")
    assert first["runs"] == [run.name for run in good]
    assert first["objective"] == pytest.approx(np.mean(scores))
    assert first["spread"] == pytest.approx(np.std(scores, ddof=1))
    assert first["settings"] == "hidden_size=32"
    assert second["runs"] == [bad.name] and np.isnan(second["spread"])
    assert board.keys == ["model.hidden_size"]
    assert first["configuration"] == canonical_id(without(good[0].config, ["seed"]))


def test_the_standard_error_is_that_of_the_dates_and_of_the_seeds(
    make_run: MakeRun, tmp_path: Path
) -> None:
    runs = {b: [make_run(f"model.hidden_size={h}", seed=s, bias=b) for s in (0, 1)]
            for h, b in ((8, 0.0), (9, 0.7))}  # fmt: skip
    board = board_of(tmp_path)
    losses = {
        b: np.mean([plain_losses(run, "lstm").to_numpy() for run in of], axis=0)
        for b, of in runs.items()
    }
    best, other = (float(np.mean([r.metrics["objective"] for r in runs[b]])) for b in (0.0, 0.7))
    assert best < other
    dates = diebold_mariano(losses[0.7], losses[0.0]).se
    seeds = np.mean([np.var([r.metrics["objective"] for r in of], ddof=1) for of in runs.values()])
    row = board.table.iloc[1]
    assert row["difference"] == pytest.approx(other - best)
    assert row["se"] == pytest.approx(np.sqrt(dates**2 + seeds * (1 / 2 + 1 / 2)), rel=1e-4)
    draws = resample(DAYS, block_length(DAYS, 5), repetitions=2000, seed=0)
    expected = confidence_set(np.column_stack([losses[0.0], losses[0.7]]), draws)
    assert board.table["mcs_p"].tolist() == pytest.approx(expected.tolist(), abs=0.01)


def test_a_seed_that_was_repeated_elsewhere_tells_nothing_of_the_seeds(
    make_run: MakeRun, tmp_path: Path
) -> None:
    def repeated(run: Run) -> None:  # as by another version: the same network but for rounding
        again = Run(shutil.copytree(run.path, run.path.with_name(f"{run.name}-again")))
        metrics = again.metrics
        for row in metrics["scores"]["validation"]["lstm"].values():
            row["crps_scaled"] += 1e-6
        again.write("metrics.json", metrics)

    first = make_run("model.hidden_size=8", seed=0)
    repeated(first)
    make_run("model.hidden_size=9", seed=0, bias=0.7)
    table, notes = (found := board_of(tmp_path)).table, found.notes
    assert table["seeds"].tolist() == [1, 1] and table["spread"].isna().all()
    assert any("No configuration has two seeds" in note for note in notes)
    second = make_run("model.hidden_size=8", seed=1)
    table = board_of(tmp_path).table
    scores = [first.metrics["objective"] + 0.5e-6, second.metrics["objective"]]
    assert table["seeds"].tolist() == [2, 1]
    assert table["spread"].iloc[0] == pytest.approx(np.std(scores, ddof=1))
    losses = board_of(tmp_path).daily
    dates = diebold_mariano(losses[1].to_numpy(), losses[0].to_numpy()).se
    expected = np.sqrt(dates**2 + np.var(scores, ddof=1) * (1 / 2 + 1))
    assert table["se"].iloc[1] == pytest.approx(expected)


def test_of_all_within_one_standard_error_the_smallest_is_chosen(
    make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("model.hidden_size=64", seed=0)
    make_run("model.hidden_size=8", seed=1)  # as good up to noise
    make_run("model.hidden_size=2", seed=2, bias=3.0)  # smaller, and worse
    table = board_of(tmp_path).table
    assert table["chosen"].sum() == 1
    chosen = table[table["chosen"]].iloc[0]
    within = table[table["within"]]
    assert chosen["parameters"] == within["parameters"].min()
    assert not table["within"].iloc[-1] and table["settings"].iloc[-1] == "hidden_size=2"
    assert table["in_mcs"].tolist()[-1] is False


def test_a_single_configuration_is_compared_with_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    make_run()
    board = board_of(tmp_path)
    assert board.table["chosen"].tolist() == [True]
    assert np.isnan(board.table["se"]).all() and board.importance.empty
    assert "1 configuration scored" in text(board)


# ----------------------------------------------------------------------- trials and looks


def test_trials_are_counted_from_the_ledger_whatever_is_deleted(
    make_run: MakeRun, tmp_path: Path
) -> None:
    kept = [make_run(seed=seed) for seed in (0, 1)]
    gone = make_run("model.hidden_size=8")
    gone.record("validation", "2020-01-01", "2020-05-01", trials={f"{gone.name}/lstm/top_k": "x"})
    shutil.rmtree(gone.path)
    board = board_of(tmp_path)
    assert sorted(board.runs["run"]) == sorted(run.name for run in kept)
    assert board.ledger["configurations"] == 2 and board.ledger["looks"] == 3
    assert board.ledger["test_looks"] == 0
    assert "the test range was never opened" in text(board)


def test_test_scores_are_shown_of_opened_runs_alone(make_run: MakeRun, tmp_path: Path) -> None:
    opened = make_run(parts=("validation", "test"))
    make_run("model.hidden_size=8", bias=0.5)
    board = board_of(tmp_path)
    row = board.table.set_index("settings").loc["hidden_size=32"]
    assert row["test"] == pytest.approx(objective(opened.metrics["scores"], "lstm", part="test"))
    assert board.table["opened"].sum() == 1 and board.table["test"].isna().sum() == 1
    assert (board.ledger["test_looks"], board.ledger["test_configurations"]) == (1, 1)
    assert "opened 1 time by 1 configuration" in text(board)
    assert "open=" not in text(board)


def test_the_terminal_shows_so_many_lines_and_where_the_rest_is(
    make_run: MakeRun, tmp_path: Path
) -> None:
    for size in (4, 5, 6):
        make_run(f"model.hidden_size={size}", bias=size / 10)
    said = text(board_of(tmp_path), most=2)
    assert "hidden_size=5" in said and "hidden_size=6" not in said
    assert "1 more stand" in said
    assert max(map(len, said.splitlines())) <= 140


def test_the_terminal_marks_the_choice_the_set_and_what_was_opened(
    make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("model.hidden_size=64")
    make_run("model.hidden_size=8")  # the same forecasts with fewer weights
    far = make_run("model.hidden_size=2", bias=3.0)
    closed = text(board_of(tmp_path)).splitlines()
    rows = {line.split()[-1]: line for line in closed if "hidden_size=" in line}
    assert [rows[f"hidden_size={size}"][:2] for size in (64, 8, 2)] == [" =", "*=", "  "]
    (header,) = (line for line in closed if "objective" in line and "model" in line)
    assert " test " not in header and closed[-1].startswith("score its test part, once: open=lstm-")
    metrics = far.metrics
    metrics["scores"]["test"] = metrics["scores"]["validation"]
    far.write("metrics.json", {**metrics, "parts": ["validation", "test"]})
    opened = text(board_of(tmp_path)).splitlines()
    (header,) = (line for line in opened if "objective" in line and "model" in line)
    end = header.index(" test ") + len(" test")
    tests = {line.split()[-1]: line[:end].split()[-1] for line in opened if "hidden_size=" in line}
    assert tests["hidden_size=2"] == f"{far.metrics['objective']:.5f}"
    assert tests["hidden_size=8"] == tests["hidden_size=64"] == "–"


# ----------------------------------------------------------------------------- settings


def test_a_key_that_follows_from_another_choice_is_none_of_its_own() -> None:
    def settings(*typed: str) -> dict[str, Any]:
        from forecast.evaluation.entries import flat

        return dict(flat(without(plain(compose("train", list(typed))), ["outputs"])))

    assert differing([settings(), settings("head=quantile")]) == ["head.name"]
    assert differing([settings(), settings("model=gru", "seed=1")]) == ["model.cell"]
    assert differing([settings(), settings("features=returns")]) == ["features.columns"]


def test_lists_are_told_apart_and_numbers_are_short(make_run: MakeRun, tmp_path: Path) -> None:
    long = [list(map(str, range(20))), list(map(str, range(1, 21)))]
    assert shown([[1, 5], *long, long[0], None, {}]) == [
        "1,5", "20 of them", "20 of them (2)", "20 of them", None, "{}",
    ]  # fmt: skip
    make_run("optimizer.lr=0.00123456789", "data.market=null")
    make_run("optimizer.lr=0.2", "model.skip=false")
    board = board_of(tmp_path)
    assert board.keys == ["data.market", "model.skip", "optimizer.lr"]
    assert sorted(board.table["settings"]) == [
        "market=equal_weight skip=false lr=0.2",
        "market=null skip=true lr=0.001235",
    ]


def test_a_name_that_two_keys_end_in_is_written_out(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("optimizer.clip=2", "loss.clip=3")
    make_run("optimizer.clip=4", "loss.clip=5")
    assert sorted(board_of(tmp_path).table["settings"]) == [
        "loss.clip=3 optimizer.clip=2",
        "loss.clip=5 optimizer.clip=4",
    ]


# ------------------------------------------------------------------------- what is told


def test_a_setting_without_effect_is_no_difference(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    shutil.copytree(run.path, tmp_path / "lstm-same-seed")  # as of another device
    twin = Run(shutil.copytree(run.path, tmp_path / "lstm-twin"))
    twin.write("config.yaml", {**run.config, "ensemble": 5})
    table = board_of(tmp_path).table
    assert table["difference"].tolist() == [0, 0] and table["se"].tolist()[1] == 0
    assert table["within"].all() and table["chosen"].sum() == 1
    assert table["in_mcs"].tolist() == [True, True]
    assert table["seeds"].tolist() == [1, 1]  # a seed is counted once, whatever it ran on


def test_errors_overlap_over_the_longest_horizon_and_the_delay(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (8, 9):
        make_run("target.delay=3", f"model.hidden_size={size}", bias=size / 10)
    asked: list[tuple[int, int]] = []

    def block(dates: int, overlap: int) -> int:
        asked.append((dates, overlap))
        return block_length(dates, overlap)

    monkeypatch.setattr("forecast.evaluation.leaderboard.block_length", block)
    board_of(tmp_path)
    assert asked == [(DAYS, 5 + 3)]


def test_with_few_dates_nothing_is_tested_and_other_rows_are_told(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    make_run("model.hidden_size=8", bias=0.5)
    metrics = run.metrics
    metrics["scores"]["validation"]["lstm"]["5"]["rows"] -= 1
    run.write("metrics.json", metrics)
    monkeypatch.setattr("forecast.evaluation.leaderboard.FEWEST", DAYS + 1)
    board = board_of(tmp_path)
    assert board.table["se"].isna().all() and board.table["mcs_p"].isna().all()
    assert board.table["chosen"].tolist() == [True, False]
    assert "fewer than" in board.notes[0]
    other = make_run("model.hidden_size=16")  # no date is scored in all
    table = other.forecasts()
    other.write("forecasts.parquet", table.assign(origin=table["origin"] + pd.Timedelta("9999D")))
    assert "fewer than" in board_of(tmp_path).notes[0]
    assert [note.partition(",")[0] for note in board.notes] == [
        "Differences have no standard errors",
        "Not all were scored on the same rows",
        "The best was chosen by these very scores",
    ]
