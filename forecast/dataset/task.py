"""What is forecast, and how windows of it are cut."""

from __future__ import annotations

from dataclasses import dataclass

from forecast.config import ForecastError


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is forecast, and how windows are cut.

    Parameters
    ----------
    horizons : tuple of int
        Sessions ahead, ascending.
    delay : int
        Sessions between origin and the start of the target: 0 for scoring and risk, 1 for trading
        at the next close.
    length, warmup : int
        Sessions of a window, and of those the first that carry no loss.
    batch : int
        Windows per step.
    dated : bool
        Whether batches hold whole dates, as many as make up `batch` windows: for a loss that is
        one of a portfolio.
    """

    horizons: tuple[int, ...] = (1, 5, 20)
    delay: int = 0
    length: int = 250
    warmup: int = 40
    batch: int = 32
    dated: bool = False

    def __post_init__(self) -> None:
        h = tuple(self.horizons)
        object.__setattr__(self, "horizons", h)  # a configuration hands a list
        if not h or any(not isinstance(x, int) or x < 1 for x in h) or list(h) != sorted(set(h)):
            raise ForecastError(
                f"horizons={list(h)} must be ascending whole sessions from 1, such as [1,5,20]."
            )
        if self.delay < 0:
            raise ForecastError(f"target.delay={self.delay} must be 0 or more sessions.")
        if self.warmup < 1 or self.batch < 1:
            raise ForecastError(
                f"window.warmup={self.warmup} and window.batch={self.batch} must be 1 or more."
            )
        if self.length <= self.warmup:
            raise ForecastError(
                f"window.length={self.length} is not longer than window.warmup={self.warmup}: no "
                "session would carry a loss. Lower warmup or lengthen the window."
            )

    @property
    def reach(self) -> int:
        """Sessions from an origin to its last target."""
        return self.delay + self.horizons[-1]
