"""`python -m forecast.leaderboard`: compare all runs, and open the test range for one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, instantiate, plain
from forecast.documents import write_atomically
from forecast.door import door
from forecast.run import PARTS, Run, load_run

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from forecast.evaluation.leaderboard import Board

FOLDER = "leaderboard"  # under outputs; renewed by every call


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The keys of the command; their meaning stands in conf/leaderboard.yaml."""

    open: str | None
    where: Mapping[str, Any] | None
    rows: int
    outputs: str

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ForecastError(f"rows={self.rows} must be 1 or more lines.")


def leaderboard(cfg: DictConfig | Mapping[str, Any]) -> list[Board]:
    """Rank the finished runs under `outputs` by their validation objective.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("leaderboard", [...])`.

    Returns
    -------
    list of Board
        One for each set of runs that can be compared, the one with most runs first. Their tables
        lie as CSV beside the page `leaderboard.html` in `outputs/leaderboard`.

    Raises
    ------
    ForecastError
        No run fits, or the run to open is not the one it was.
    """
    from forecast.evaluation.leaderboard import leaderboards
    from forecast.evaluation.leaderboard_text import text
    from forecast.portfolio import contest
    from forecast.report.leaderboard import write_leaderboard

    asked: Asked = instantiate(plain(cfg), "", Asked)
    outputs = Path(asked.outputs)
    if asked.open is not None:
        open_test(load_run(asked.open, outputs))
    boards = leaderboards(outputs, asked.where)
    contests = contest.contests(outputs, asked.where)
    folder = outputs / FOLDER
    for index, board in enumerate(boards):
        print(text(board, most=asked.rows), end="\n\n")
        _write(folder / _name("leaderboard", index), board.table.assign(runs=_joined(board)))
        _write(folder / _name("runs", index), board.runs)
    for index, found in enumerate(contests):
        print(contest.text(found, most=asked.rows), end="\n\n")
        _write(folder / _name("strategies", index), found.table)
    print(f"page: {write_leaderboard(boards, contests, folder / 'leaderboard.html')}")
    return boards


def open_test(run: Run) -> Run:
    """Score the test part of a finished run, once: the ledger keeps a line of it.

    Raises
    ------
    ForecastError
        It would be another run by now, since prices, own code, device or version have changed.
    """
    from forecast.evaluation.subject import prices_of

    config = run.config
    if "test" in run.parts:
        print(f"the test range of {run.name} is open already")
        return run
    if not run.parts or not ("model" in config or "backtest" in config):
        raise ForecastError(f"open={run.name} is no run of forecast.train or forecast.backtest.")
    asked = {**config, "outputs": str(run.path.parent), "evaluate": list(PARTS), "force": False}
    prices = prices_of(run)
    if "backtest" in config:
        from forecast.backtest import backtest

        # Of a portfolio, the forecasts that it trades are opened with it.
        names = [name for name in (run.data.get("source_run"), run.name) if name]
        return backtest(asked, overrides=run.overrides, prices=prices, names=names)
    from forecast.train import train

    return train(asked, overrides=run.overrides, prices=prices, names=[run.name])


def _joined(board: Board) -> pd.Series:
    return board.table["runs"].map(" ".join)


def _name(stem: str, index: int) -> str:
    """leaderboard.csv, leaderboard-2.csv, … in the order of the page."""
    return f"{stem}.csv" if index == 0 else f"{stem}-{index + 1}.csv"


def _write(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, table.to_csv(index=False, lineterminator="\n"))


def _main(cfg: DictConfig) -> None:
    leaderboard(cfg)


main = door("leaderboard", _main)

if __name__ == "__main__":
    main()
