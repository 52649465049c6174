"""Windows over the panel, gathered by index in one operation and never stored.

Axes: B batch, L time, F features, H horizons, S symbols, W windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel

# First row, one past the last row, and symbol of some windows' tiles; (W,) each.
Cut = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """What a network is given; training batches of K networks have an axis K in front.

    Attributes
    ----------
    x_BLF : features, null where undefined
    y_BLH : targets ÷ (scale·√h); 0 where masked
    mask_BLH : whether a target counts: in the range, known, no long gap, scale defined
    scale_BL : percent per session
    day_BL : index into the union calendar
    full_BL : what a full position weighs (see `segments.full_weights`); None where no head asks
    """

    x_BLF: Tensor
    y_BLH: Tensor
    mask_BLH: Tensor
    scale_BL: Tensor
    day_BL: Tensor
    full_BL: Tensor | None = None

    def only(self) -> Batch:
        """The batch of the one network that it is for."""
        return Batch(
            x_BLF=self.x_BLF.squeeze(0),
            y_BLH=self.y_BLH.squeeze(0),
            mask_BLH=self.mask_BLH.squeeze(0),
            scale_BL=self.scale_BL.squeeze(0),
            day_BL=self.day_BL.squeeze(0),
            full_BL=None if self.full_BL is None else self.full_BL.squeeze(0),
        )


class PanelTensors:
    """The panel on a device, from which batches are gathered.

    Parameters
    ----------
    panel : Panel
    horizons : sequence of int
        Sessions ahead.
    delay : int
        Sessions between origin and the start of the target.
    full_N : array of float32, optional
        What a full position weighs in each row, for a head that states positions.
    """

    def __init__(
        self,
        panel: Panel,
        *,
        horizons: tuple[int, ...],
        delay: int,
        device: torch.device | str,
        full_N: np.ndarray | None = None,
    ) -> None:
        def on_device(array: np.ndarray) -> Tensor:
            with warnings.catch_warnings():  # nobody writes to a panel; one in files is read-only
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                return torch.from_numpy(array).to(device)

        self.values_NF = on_device(panel.values)
        self.target_NH = on_device(targets(panel, horizons, delay))
        self.scale_N = on_device(panel.scale)
        self.day_N = on_device(panel.day)
        self.full_N = None if full_N is None else on_device(full_N)
        self.device = device

    def _there(self, *rows: np.ndarray | Tensor) -> list[Tensor]:
        """Row numbers where the panel lies, with an axis L."""
        return [torch.as_tensor(a, device=self.device)[..., None] for a in rows]

    def inputs(
        self, first_B: np.ndarray | Tensor, stop_B: np.ndarray | Tensor, length: int
    ) -> Tensor:
        """Features of sessions `first … first + length − 1` of each window, as in `gather`."""
        first, stop = self._there(first_B, stop_B)
        rows = torch.minimum(first + torch.arange(length, device=self.device), stop - 1)
        return self._at(self.values_NF, rows)

    @staticmethod
    def _at(values: Tensor, rows: Tensor) -> Tensor:
        """values[rows], several times as fast."""
        return values.index_select(0, rows.reshape(-1)).view(*rows.shape, *values.shape[1:])

    def gather(
        self,
        first_B: np.ndarray | Tensor,
        stop_B: np.ndarray | Tensor,
        low_B: np.ndarray | Tensor,
        high_B: np.ndarray | Tensor,
        length: int,
    ) -> Batch:
        """Sessions `first … first + length − 1` of each window.

        Parameters
        ----------
        first_B : first row of each window; any axes in front are kept
        stop_B : one past the last row of the window's symbol; sessions beyond repeat that row,
            masked, and follow everything that counts
        low_B, high_B : rows whose targets count
        """
        first, stop, low, high = self._there(first_B, stop_B, low_B, high_B)
        wanted_BL = first + torch.arange(length, device=self.device)
        rows_BL = torch.minimum(wanted_BL, stop - 1)
        target_BLH = self._at(self.target_NH, rows_BL)
        inside_BL = (wanted_BL >= low) & (wanted_BL < high)
        mask_BLH = inside_BL[..., None] & ~torch.isnan(target_BLH)
        return Batch(
            x_BLF=self._at(self.values_NF, rows_BL),
            y_BLH=torch.where(mask_BLH, target_BLH, 0.0),
            mask_BLH=mask_BLH,
            scale_BL=self._at(self.scale_N, rows_BL),
            day_BL=self._at(self.day_N, rows_BL),
            full_BL=None if self.full_N is None else self._at(self.full_N, rows_BL),
        )


def targets(panel: Panel, horizons: Sequence[int], delay: int) -> np.ndarray:
    """Targets ÷ (scale·√h) of every row, float32 of shape (N, H).

    Null beyond the data, across a long gap, and where the row has no scale.
    """
    target_NH = panel.empty("f4", len(horizons))
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        target_NH[rows] = np.nan
        log_price, gaps, scale = panel.log_price[rows], panel.gaps[rows], panel.scale[rows]
        for h, horizon in enumerate(horizons):
            reach = delay + horizon
            known = max(len(scale) - reach, 0)
            origins = slice(known)
            change = log_price[reach:] - log_price[delay : delay + known]
            unbroken = gaps[reach:] == gaps[origins]
            scaled = change.astype(np.float32) / (scale[origins] * np.sqrt(np.float32(horizon)))
            target_NH[rows][origins, h] = np.where(unbroken, scaled, np.nan)
    return target_NH


@dataclass(frozen=True)
class Windows:
    """Index of training windows: every row of a range carries the loss in exactly one of them.

    The rows of each symbol are cut, from the end backwards, into tiles of `length − warmup` rows;
    a window is a tile and the `warmup` or more sessions before it, so its recurrence is warm when
    the loss begins. A symbol's first window begins at its first row, where the carried pass
    begins too. Many-to-one training is the case `warmup = length − 1`: tiles of one row.
    """

    range: Range
    offsets: np.ndarray
    length: int
    warmup: int

    @property
    def stride(self) -> int:
        return self.length - self.warmup

    @property
    def fewest(self) -> int:
        """Windows of an epoch at phase 0; no phase has fewer."""
        rows_S = np.maximum(self.range.high - self.range.low, 0)
        return int(np.sum(-(-rows_S // self.stride)))

    @property
    def most(self) -> int:
        """Windows that no phase exceeds: one more for every symbol."""
        symbols = int(np.sum(self.range.high > self.range.low))
        return self.fewest + (symbols if self.stride > 1 else 0)

    def steps(self, batch: int) -> int:
        """Batches of an epoch at so many windows a batch, the same in every epoch."""
        # With one window a batch, a phase of few windows would leave batches empty.
        return min(-(-self.most // batch), self.fewest)

    def deal(self, random: np.random.Generator, steps: int) -> Iterator[Cut]:
        """The tiles of an epoch at a random phase, in random order, split into batches.

        Batches are of one size at every phase: the last windows of some are there twice, the second
        time with no row that counts.
        """
        phase = int(random.integers(self.stride))
        starts = self._starts(phase)
        count, size = int(starts[-1]), -(-self.most // steps)
        # With a tile a row this order is all that an epoch keeps of every row: as small as can be.
        order_W = np.arange(count, dtype=np.min_scalar_type(count))
        random.shuffle(order_W)
        each, longer = divmod(count, steps)  # the first batches may be longer by one
        for step in range(steps):
            start = step * each + min(step, longer)
            chosen = order_W[start : start + each + (step < longer)].astype(np.int64)
            full = np.concatenate([chosen, np.repeat(chosen[-1:], size - len(chosen))])
            low_B, high_B, symbol_B = self._tiles(full, starts, phase)
            low_B[len(chosen) :] = high_B[len(chosen) :]
            yield low_B, high_B, symbol_B

    def tiles(self, phase: int) -> Cut:
        """Tiles at a phase in 0 … stride − 1."""
        starts = self._starts(phase)
        return self._tiles(np.arange(starts[-1]), starts, phase)

    def _starts(self, phase: int) -> np.ndarray:
        """Number of tiles before each symbol, and of all, shape (S + 1,)."""
        rows_S = np.maximum(self.range.high - self.range.low, 0)
        count_S = np.where(rows_S > 0, np.maximum(-(-(rows_S - phase) // self.stride), 0), 0)
        count_S += (rows_S > 0) & (phase > 0)
        return np.append(0, np.cumsum(count_S))

    def _tiles(self, tile_W: np.ndarray, starts: np.ndarray, phase: int) -> Cut:
        """Tiles at a phase by their number, from each symbol's newest on."""
        symbol_W = np.searchsorted(starts[1:], tile_W, side="right")
        number_W = tile_W - starts[symbol_W]
        top_W = self.range.high[symbol_W] - number_W * self.stride
        if phase > 0:
            top_W = np.where(number_W > 0, top_W + self.stride - phase, top_W)
            bottom_W = np.where(number_W > 0, top_W - self.stride, top_W - phase)
        else:
            bottom_W = top_W - self.stride
        return np.maximum(bottom_W, self.range.low[symbol_W]), top_W, symbol_W

    def bounds(self, low_B: np.ndarray, high_B: np.ndarray, symbol_B: np.ndarray) -> np.ndarray:
        """What `PanelTensors.gather` wants of some tiles, shape (4, B)."""
        first_B = np.maximum(self.offsets[symbol_B], high_B - self.length)
        return np.stack([first_B, self.offsets[symbol_B + 1], low_B, high_B])

    def gather(
        self, tensors: PanelTensors, low_B: np.ndarray, high_B: np.ndarray, symbol_B: np.ndarray
    ) -> Batch:
        first_B, stop_B, low_B, high_B = self.bounds(low_B, high_B, symbol_B)
        return tensors.gather(first_B, stop_B, low_B, high_B, self.length)


class TrainingBatches:
    """One epoch of windows in random order, as an iterable of ready batches.

    The order of a member's windows is a function of (seed, member, epoch) alone, so a resumed run
    sees what an uninterrupted one would have seen, and a member what it sees alone. The number of
    batches is the same in every epoch. Where the rows of a batch lie is worked out as it is made;
    for another device than the CPU before the first one, and sent there once.

    Parameters
    ----------
    steps : int
        Batches of an epoch.
    members : callable
        The members that are trained together in the epoch that begins.
    steps_done : callable
        Steps trained so far; Lightning's epoch counter is one too low after a resume.
    rank, devices : int
        Which process this is, of how many that train one network together: all deal the same
        batches and take a share of each.
    """

    def __init__(
        self,
        windows: Windows,
        tensors: PanelTensors,
        *,
        steps: int,
        seed: int,
        members: Callable[[], Sequence[int]],
        steps_done: Callable[[], int],
        rank: int = 0,
        devices: int = 1,
    ) -> None:
        self.windows, self.tensors = windows, tensors
        self.steps, self.seed, self.members = steps, seed, members
        self.steps_done = steps_done
        self.rank, self.devices = rank, devices

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.steps_done() // self.steps
        dealt = [self._bounds(member, epoch) for member in self.members()]
        steps = (np.stack(bounds, 1) for bounds in zip(*dealt, strict=True))  # (4, K, B) each
        on_cpu = torch.device(self.tensors.device).type == "cpu"
        for first, stop, low, high in steps if on_cpu else self._sent(steps):
            yield self.tensors.gather(first, stop, low, high, self.windows.length)

    def _bounds(self, member: int, epoch: int) -> Iterator[np.ndarray]:
        """Where the windows of each batch lie, of one member."""
        random = np.random.default_rng((self.seed, member, epoch))
        for cut in self.windows.deal(random, self.steps):
            yield self.windows.bounds(*self._share(cut))

    def _sent(self, steps: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """The same on the device, sent in one piece."""
        whole = list(steps)
        ends = np.cumsum([bounds.shape[-1] for bounds in whole])
        bounds = torch.from_numpy(np.concatenate(whole, -1)).to(self.tensors.device)
        for low, high in zip([0, *ends[:-1]], ends, strict=True):
            yield bounds[..., low:high]

    def _share(self, cut: Cut) -> Cut:
        """This process's windows of a batch; where there are too few, one in which none counts."""
        low_B, high_B, symbol_B = (whole_B[self.rank :: self.devices] for whole_B in cut)
        if not len(low_B):  # the others would wait for a process without a step
            low_B, high_B, symbol_B = cut[0][:1], cut[0][:1], cut[2][:1]
        return low_B, high_B, symbol_B
