"""News impact: how the forecast volatility of the next session answers a shock of the last one.

Engle and Ng (1993) draw it for GARCH models, where it is a formula. Of a network it is measured:
the last close of a history is moved, the features are computed anew, and the state before it is
kept. The news is of one symbol: the market stays as it was, and bars move as a whole, as by a gap
before the open.

Axes: P pairs of symbol and session, Z shocks.

References
----------
Engle and Ng (1993), Measuring and testing the impact of news on volatility, Journal of Finance 48.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from forecast.dataset.features import MARKET_FEATURES, History
from forecast.dataset.market import symbol_slices
from forecast.dataset.panel import history_of
from forecast.evaluation.explained import Explained, Member
from forecast.evaluation.gates import Unrolled
from forecast.models.garch import GarchFits

SHOCKS = np.linspace(-3.0, 3.0, 25)  # in units of the scale of the session before
MOVED = ("open", "high", "low", "close", "raw_close")
BENCHMARK = "gjr_t"


def shocked(
    explained: Explained, rows: np.ndarray, shocks: np.ndarray = SHOCKS
) -> tuple[np.ndarray, np.ndarray]:
    """Features and scale of sessions whose return was another one.

    Parameters
    ----------
    rows : panel rows, shape (P,); each has a scale in the row before.
    shocks : log returns in units of the scale of the session before, shape (Z,).

    Returns
    -------
    values_PZF : array of float32
    scale_PZ : array of float64, percent per session
    """
    panel, features = explained.panel, explained.features
    if panel.market.definition == "none":
        columns = [name for name in features.columns if name not in MARKET_FEATURES]
        features = replace(features, columns=columns)
    slices = dict(symbol_slices(explained.prices))
    symbol_P = explained.symbol_of(rows)
    values = np.empty((len(rows), len(shocks), len(panel.names)), np.float32)
    scales = np.empty((len(rows), len(shocks)))
    for p, (row, s) in enumerate(zip(rows, symbol_P, strict=True)):
        symbol = panel.symbols[s]
        whole = history_of(explained.prices, slices[symbol], features, panel.market)
        known = _until(whole, int(row - panel.offsets[s]) + 1)
        for z, shock in enumerate(shocks):
            moved = _moved(known, shock * float(panel.scale[row - 1]))
            block, _ = features.compute(moved, symbol, explained.prices.covariates)
            values[p, z], scales[p, z] = block[-1], moved.scale[-1]
    return values, scales


def _until(history: History, sessions: int) -> History:
    """The first sessions of a history."""
    return replace(
        history,
        date=history.date[:sessions],
        columns={name: column[:sessions] for name, column in history.columns.items()},
        market=history.market[:sessions],
        market_scale=history.market_scale[:sessions],
    )


def _moved(history: History, log_return: float) -> History:
    """The history with another last return, percent; the bar moves with its close."""
    close = history.columns["close"]
    factor = close[-2] * np.exp(log_return / 100) / close[-1]
    columns = dict(history.columns)
    for name in MOVED:
        if name in columns:
            columns[name] = np.append(columns[name][:-1], factor * columns[name][-1])
    return replace(history, columns=columns)


@torch.no_grad()
def response(
    explained: Explained,
    member: Member,
    unrolled: Unrolled,
    *,
    symbols: np.ndarray,
    rows: np.ndarray,
    values_PZF: np.ndarray,
    scale_PZ: np.ndarray,
) -> np.ndarray:
    """Volatility stated after each shock, percent over the horizon, shape (P, Z).

    Parameters
    ----------
    unrolled : the member's pass over the histories of `symbols`, in this order.
    values_PZF, scale_PZ : from `shocked`.
    """
    shocks = values_PZF.shape[1]
    symbol_P = explained.symbol_of(rows)
    place_P, before_P = np.searchsorted(symbols, symbol_P), rows - explained.panel.offsets[symbol_P]
    stated = []
    # Pair by pair: a large product is split by the number of threads, and so are its bits.
    for place, session, values_ZF in zip(place_P, before_P - 1, values_PZF, strict=True):
        state = unrolled.state(
            torch.full((shocks,), int(place)), torch.full((shocks,), int(session))
        )
        raw, _ = member.network(torch.from_numpy(values_ZF)[:, None], state)
        stated.append(member.log_volatility(raw[:, 0], explained.horizon).double().exp().numpy())
    horizon = explained.task.horizons[explained.horizon]
    return np.stack(stated) * scale_PZ * np.sqrt(horizon)


def benchmark_response(
    explained: Explained, fits: GarchFits, rows: np.ndarray, shocks: np.ndarray = SHOCKS
) -> np.ndarray:
    """The same of GJR-GARCH, fit per symbol on the training rows, for the next session.

    Returns
    -------
    array of float64, shape (P, Z)
        Percent; null for symbols whose fit cannot be trusted.
    """
    panel = explained.panel
    variance = fits.variance(BENCHMARK)
    found = np.full((len(rows), len(shocks)), np.nan)
    for p, (row, s) in enumerate(zip(rows, explained.symbol_of(rows), strict=True)):
        fit = fits.of(BENCHMARK).get(int(s))
        if fit is not None:
            now = variance[row - 1] / fit.unit**2
            news = shocks * float(panel.scale[row - 1]) / fit.unit - fit.mean
            found[p] = fit.unit * np.sqrt(fit.step(now, news / np.sqrt(now)))
    return found


def relative(volatility_PZ: np.ndarray, shocks: np.ndarray = SHOCKS) -> np.ndarray:
    """Volatility after each shock over that after none, geometric mean over pairs, shape (Z,)."""
    calm = int(np.argmin(np.abs(shocks)))
    logs = np.log(volatility_PZ)
    return np.exp(np.nanmean(logs - logs[:, [calm]], axis=0))
