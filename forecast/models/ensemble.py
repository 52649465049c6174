"""The ensemble: members' parameters averaged, one distribution, one pass over each history.

Axes: B batch, L time, N rows, H horizons, P head parameters, K members.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from forecast.config import ForecastError
from forecast.dataset.carried import CarriedPass
from forecast.dataset.folds import Range
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors
from forecast.models.block import Block
from forecast.models.checkpoints import best_checkpoint, network_state, read_checkpoint
from forecast.models.devices import gpu_precision
from forecast.models.distributions import Distribution
from forecast.models.heads import Head, PositionHead
from forecast.models.named_heads import make_head, require_allowed
from forecast.models.networks import Network, State, read_together


class Ensemble:
    """Trained members that forecast as one.

    Parameters
    ----------
    networks : sequence of Network
        The members, on one device.
    head : Head or PositionHead
    task : Task
    """

    def __init__(self, networks: Sequence[Network], head: Head | PositionHead, task: Task) -> None:
        self.networks = [network.eval() for network in networks]
        self.head, self.task = head, task

    @property
    def device(self) -> torch.device:
        return next(self.networks[0].parameters()).device

    def parameters(self, block: Block, range: Range, tensors: PanelTensors) -> np.ndarray:
        """Head parameters of a block's rows: members' means on the constrained scale.

        Every symbol's history is read once from its first row, with the state carried.

        Returns
        -------
        array of float64, shape (N, H, P)
        """
        exact = gpu_precision("float32") if self.device.type == "cuda" else nullcontext()
        with torch.inference_mode(), exact:
            return self._parameters(block, range, tensors)

    def _parameters(self, block: Block, range: Range, tensors: PanelTensors) -> np.ndarray:
        result = np.zeros((len(block.row), len(self.task.horizons), self.head.size))
        states: list[State] | None = None
        count = len(self.networks)
        memoryless = all(network.memoryless for network in self.networks)
        for step in CarriedPass(range, block.panel.offsets, tensors, symbols=block.symbols):
            if memoryless and not step.wanted:
                continue
            raw_KBLHP, states = read_together(
                self.networks,
                step.x_BLF.expand(count, *step.x_BLF.shape),
                None if step.first else states,
                # Where only the state matters, nothing is read out.
                warmup=0 if step.wanted else step.x_BLF.shape[1],
            )
            if step.wanted:
                at_BL = np.searchsorted(block.row, step.rows_BL)
                here_BL = block.row[np.minimum(at_BL, len(block.row) - 1)] == step.rows_BL
                for raw_BLHP in raw_KBLHP:
                    value = self.head.domain(raw_BLHP).cpu().numpy()[here_BL]
                    result[at_BL[here_BL]] += value / count
        return result

    def distribution(self, block: Block, range: Range, tensors: PanelTensors) -> Distribution:
        """Scaled distribution at every row and horizon of a block, N·H rows.

        Raises
        ------
        ForecastError
            The head states positions.
        """
        if isinstance(self.head, PositionHead):
            raise ForecastError(
                "head=position states weights, no forecasts. Read weights.parquet, or train with "
                "a head that states a distribution."
            )
        parameters = self.parameters(block, range, tensors)
        return self.head.distribution(parameters.reshape(-1, self.head.size))


def load_ensemble(
    folder: Path,
    *,
    members: int,
    task: Task,
    device: torch.device | str = "cpu",
    allow: Sequence[str] = (),
) -> Ensemble:
    """Rebuild the members of a run folder from primitives; nothing in it is executed.

    Parameters
    ----------
    allow : sequence of str
        Dotted names of own heads that may be imported.

    Raises
    ------
    ForecastError
        A member's best checkpoint is missing or damaged, or its head is own code not in `allow`.
    """
    networks, head = [], None
    for member in range(members):
        path = best_checkpoint(folder, member)
        if not path.is_file():
            raise ForecastError(f"{path} is missing: repeat the run's command with force=true.")
        state = read_checkpoint(path, device)
        arguments = state["hyper_parameters"]
        require_allowed(arguments["head"]["name"], allow, str(folder))
        # Drawn and dropped: on the meta device the first draw imports torch's compiler, a second.
        with torch.random.fork_rng(devices=[]):
            network = Network(**arguments["network"])
        network.load_state_dict(network_state(state), assign=True)
        networks.append(network)
        head = make_head(arguments["head"])
    assert head is not None
    return Ensemble([network.to(device) for network in networks], head, task)
