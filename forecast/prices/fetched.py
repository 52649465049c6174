"""What became of one symbol of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecast.prices.client import Answer, Outcome
from forecast.prices.freshness import sessions_behind
from forecast.prices.store import Manifest


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of one symbol of a batch.

    Attributes
    ----------
    cause, advice : str
        Of the outcome; empty where all is well.
    asked : bool
        Whether Yahoo was asked; what is complete is not.
    rows : int
        Sessions stored now; 0 where there is no file.
    added : int
        Of these, new ones.
    last : str or None
        Newest stored session.
    behind : int
        Final sessions of its exchange since then and since Yahoo was last asked: 0 is fresh.
    changed : str or None
        What was rewritten.
    """

    symbol: str
    outcome: Outcome
    cause: str = ""
    advice: str = ""
    asked: bool = True
    rows: int = 0
    added: int = 0
    last: str | None = None
    behind: int = 0
    changed: str | None = None

    @property
    def fresh(self) -> bool:
        return self.outcome in (Outcome.OK, Outcome.PARTIAL) and self.behind == 0


def served(
    symbol: str,
    outcome: Outcome,
    manifest: Manifest,
    now: np.datetime64,
    end: np.datetime64 | None,
    *,
    cause: str = "",
    asked: bool = True,
) -> Fetched:
    """What is stored of a symbol, under an outcome."""
    answer = Answer(symbol=symbol, outcome=outcome, cause=cause)
    return Fetched(
        symbol=symbol,
        outcome=outcome,
        cause=cause,
        advice=answer.advice,
        asked=asked,
        rows=manifest.rows,
        last=manifest.last,
        behind=sessions_behind(manifest, now, end),
    )


def failed(
    answer: Answer,
    manifest: Manifest | None,
    now: np.datetime64,
    end: np.datetime64 | None,
    *,
    note: str = "",
    asked: bool = True,
) -> Fetched:
    """What is stored stays and is told."""
    cause = joined(note, answer.cause)
    if manifest is not None:
        return served(answer.symbol, answer.outcome, manifest, now, end, cause=cause, asked=asked)
    return Fetched(
        symbol=answer.symbol,
        outcome=answer.outcome,
        cause=cause,
        advice=answer.advice,
        asked=asked,
    )


def joined(*sentences: str) -> str:
    """Of those that are not empty."""
    return "; ".join(sentence for sentence in sentences if sentence)
