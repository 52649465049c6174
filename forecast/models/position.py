"""Training a network that states positions, on the Sharpe ratio of the portfolio they make.

The position X of a symbol at a session weighs X · target volatility / (its own volatility · N),
N symbols holding a position at that date. A portfolio's return at date t is
Σ w_t·r − cost·Σ |w_t − w_{t−1}|, where r is the exact simple return between the two sessions that
follow and w_{t−1} the symbol's weight one session before. The loss is minus the annualised Sharpe
ratio of these returns by date; cash earns nothing, and weights do not drift between sessions.

Lim, Zohren and Roberts (2019), Enhancing time-series momentum strategies using deep neural
networks, Journal of Financial Data Science 1: the loss, the volatility scaling and the turnover
penalty. They pool returns over symbols and dates; here they are added up by date first, since the
symbols of one day are one draw.

Axes: B batch, L time, T dates of the union calendar.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from forecast.dataset.carried import CarriedBatch
from forecast.dataset.windows import Batch
from forecast.models.forecaster import Forecaster
from forecast.models.heads import PositionHead

_BASIS_POINT = 1e-4
_LEAST_DEVIATION = 1e-6  # of a session's return: keeps the slope finite where nothing is held


class PositionForecaster(Forecaster):
    """Trains one member with a `PositionHead`; batches of several could not be of the same dates.

    Parameters
    ----------
    periods : float
        Sessions a year.
    dates : int
        Of the union calendar.
    options :
        Those of `Forecaster`.
    """

    head: PositionHead

    def __init__(self, *, periods: float, dates: int, **options: Any) -> None:
        super().__init__(**options)
        self.periods, self.dates = periods, dates
        self._held_B1 = torch.zeros(0, 1)

    def batch_loss(self, batch: Batch) -> Tensor:
        # From one session before the loss begins, whose position is the first to be traded away
        # from: a window that started from nothing would pay for it each time.
        before = self.warmup - 1
        (raw_BLHP,), batch = self.read(batch, before), batch.only()
        weight_BL = self._weights(raw_BLHP, batch, before)
        return -self._sharpe(*self._by_date(weight_BL[:, 1:], weight_BL[:, :-1], batch))[None]

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(2, self.dates, device=self.device)

    def validation_step(self, step: CarriedBatch, index: int) -> None:
        """Add up the returns of the carried pass by date, over all blocks of symbols."""
        (raw_BLHP,) = self.carry(step)
        weight_BL = self._weights(raw_BLHP, step.batch, 0)
        held_B1 = torch.zeros_like(weight_BL[:, :1]) if step.first else self._held_B1
        self._held_B1 = weight_BL[:, -1:]
        if step.wanted:
            before_BL = torch.cat([held_B1, weight_BL[:, :-1]], dim=1)
            self._sums += torch.stack(self._by_date(weight_BL, before_BL, step.batch))

    def validation_losses(self) -> Tensor:
        return -self._sharpe(*self._sums)[None]

    def _weights(self, raw_BLHP: Tensor, batch: Batch, first: int) -> Tensor:
        assert batch.full_BL is not None
        position_BL = self.head.domain(raw_BLHP)[:, :, 0, 0]
        weight_BL: Tensor = self.head.weights(position_BL, batch.full_BL[:, first:], self.periods)
        return weight_BL

    def _by_date(self, weight_BL: Tensor, before_BL: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Net return of each date, and how many symbols it is of; the batch's last L sessions."""
        last = slice(-weight_BL.shape[1], None)
        mask_BL, day_BL = batch.mask_BLH[:, last, 0], batch.day_BL[:, last]
        y_BL = batch.y_BLH[:, last, 0].clamp(-self.clip, self.clip)
        percent_BL = y_BL * torch.nan_to_num(batch.scale_BL[:, last])
        traded_BL = (weight_BL - before_BL).abs()
        cost = self.head.cost * _BASIS_POINT
        net_BL = weight_BL * torch.expm1(percent_BL / 100) - cost * traded_BL
        net_T = scattered(torch.where(mask_BL, net_BL, 0.0), day_BL, self.dates)
        return net_T, scattered(mask_BL.to(net_BL.dtype), day_BL, self.dates)

    def _sharpe(self, net_T: Tensor, symbols_T: Tensor) -> Tensor:
        """Annualised Sharpe ratio over the dates with a symbol."""
        there_T = (symbols_T > 0).to(net_T.dtype)
        count = there_T.sum().clamp(min=1)
        mean = net_T.sum() / count
        variance = (there_T * (net_T - mean).square()).sum() / count
        return math.sqrt(self.periods) * mean / (variance + _LEAST_DEVIATION**2).sqrt()


def scattered(value_BL: Tensor, day_BL: Tensor, dates: int) -> Tensor:
    """Sums by date, shape (T,), in the same order and with the same bits at any thread count."""
    total_T, day = value_BL.new_zeros(dates), day_BL.reshape(-1)
    if value_BL.is_cuda:  # sorts before it adds, where index_add would add in any order
        return total_T.index_put((day.long(),), value_BL.reshape(-1), accumulate=True)
    return total_T.index_add(0, day, value_BL.reshape(-1))  # one after the other
