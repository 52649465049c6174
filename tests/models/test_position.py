"""The position head: its loss against a plain loop, its weights, and what it refuses.

Axes: B batch, L time, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forecast import compose
from forecast.config import ForecastError, plain
from forecast.dataset import carried as carried_module
from forecast.dataset.carried import CarriedPass
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel
from forecast.dataset.segments import Segments, full_weights
from forecast.dataset.windows import Batch, PanelTensors
from forecast.models.checkpoints import best_checkpoint, read_checkpoint
from forecast.models.configured import make_task
from forecast.models.ensemble import Ensemble, load_ensemble
from forecast.models.forecaster import Forecaster
from forecast.models.heads import PositionHead
from forecast.models.named_heads import make_head
from forecast.models.networks import Network
from forecast.models.options import check_options
from forecast.models.pipeline import fit_ensemble, make_datamodule
from forecast.models.position import PositionForecaster, scattered
from forecast.prices.frame import Prices

RandomPanel = Callable[..., Panel]

PERIODS = 252.0
POSITION = ["head=position", "horizons=[1]", "target.delay=1"]
seeds = st.integers(0, 10_000)


def module_of(
    panel: Panel, *, warmup: int, cost: float = 20.0, **network: Any
) -> PositionForecaster:
    """A forecaster whose positions differ widely from session to session."""
    shape = {"cell": "gru", "features": len(panel.names), "horizons": 1, "parameters": 1}
    module = PositionForecaster(
        periods=PERIODS,
        dates=len(panel.dates),
        network={**shape, "hidden_size": 3, **network},
        head={"name": "position", "volatility": 15.0, "cost": cost},
        optimizer={
            "lr": 0.01, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.99,
            "schedule": "constant", "warmup_steps": 0, "clip": 1.0,
        },
        warmup=warmup,
        total_steps=10,
        seed=0,
        members=[0],
    )  # fmt: skip
    with torch.no_grad():
        torch.manual_seed(0)
        module.network.readout.weight.normal_(0, 2)
    return module.eval()


def loss_of(module: PositionForecaster, batch: Batch) -> torch.Tensor:
    """Of one network's batch, which has an axis in front in training."""
    fields = {name: None if t is None else t[None] for name, t in vars(batch).items()}
    (loss,) = module.batch_loss(Batch(**fields))
    return loss


def tensors_of(panel: Panel, warmup: int) -> PanelTensors:
    full_N = full_weights(panel, warmup)
    return PanelTensors(panel, horizons=(1,), delay=1, device="cpu", full_N=full_N)


def sharpe_of(
    panel: Panel,
    position: dict[int, float],
    full_N: np.ndarray,
    counted: list[int],
    *,
    cost: float,
) -> float:
    """Annualised Sharpe ratio over dates of the rows counted, a row at a time.

    `position` is that of each row; without one the symbol held nothing before.
    """
    by_date: dict[int, float] = {}
    starts = set(panel.offsets[:-1].tolist())
    for row in counted:
        s = int(np.searchsorted(panel.offsets, row, side="right")) - 1
        if row + 2 >= panel.offsets[s + 1] or panel.gaps[row + 2] != panel.gaps[row]:
            continue
        if np.isnan(panel.scale[row]):
            continue
        unit = 0.15 / math.sqrt(PERIODS) * 100
        weight = position[row] * unit * full_N[row]
        before = 0.0 if row in starts else position.get(row - 1, 0.0) * unit * full_N[row - 1]
        simple = math.exp((panel.log_price[row + 2] - panel.log_price[row + 1]) / 100) - 1
        earned = weight * simple - cost * 1e-4 * abs(weight - before)
        by_date[int(panel.day[row])] = by_date.get(int(panel.day[row]), 0.0) + earned
    assume(len(by_date) > 1)
    net = np.array(list(by_date.values()))
    return float(math.sqrt(PERIODS) * net.mean() / math.sqrt(net.var() + 1e-12))


def positions_of(module: PositionForecaster, panel: Panel) -> dict[int, float]:
    """Position of every row, each symbol's history read alone and at once."""
    result: dict[int, float] = {}
    for s in range(len(panel.symbols)):
        rows = panel.symbol_rows(s)
        with torch.no_grad():
            raw, _ = module.network(torch.from_numpy(panel.values[rows])[None])
        result |= dict(
            zip(range(rows.start, rows.stop), raw[0, :, 0, 0].tanh().tolist(), strict=True)
        )
    return result


@settings(max_examples=20, deadline=None)
@given(seed=seeds, warmup=st.integers(1, 30), cost=st.sampled_from([0.0, 30.0]))
def test_the_loss_is_minus_the_sharpe_ratio_of_a_loop_over_rows(
    random_panel: RandomPanel, seed: int, warmup: int, cost: float
) -> None:
    """With missing sessions, halts, late listings and early ends; memory would begin elsewhere."""
    panel = random_panel(seed, symbols=5)
    low = panel.offsets[:-1] + warmup
    rng = np.random.default_rng(seed)
    wanted = Range(
        low=low, high=np.minimum(panel.offsets[1:], low + rng.integers(-5, 60, len(low)))
    )
    assume((wanted.high > wanted.low).any())
    segments = Segments(wanted, panel.offsets, warmup + 17, warmup, panel.day)
    tensors, full_N = tensors_of(panel, warmup), full_weights(panel, warmup)
    module = module_of(panel, warmup=warmup, cost=cost, cell="mlp")
    position = positions_of(module, panel)
    for low_B, high_B, symbol_B in segments.deal(rng, segments.steps(8)):
        batch = segments.gather(tensors, low_B, high_B, symbol_B)
        counted = [row for low, high in zip(low_B, high_B, strict=True) for row in range(low, high)]
        if not batch.mask_BLH.any():
            continue
        expected = -sharpe_of(panel, position, full_N, counted, cost=cost)
        assert loss_of(module, batch).item() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(
    seed=seeds,
    cell=st.sampled_from(["gru", "lstm", "mlp"]),
    block=st.integers(1, 4),
    sessions=st.integers(5, 60),
)
def test_the_validation_loss_is_that_of_the_whole_history_whatever_the_blocks(
    random_panel: RandomPanel, seed: int, cell: str, block: int, sessions: int
) -> None:
    """Positions are carried from block to block, and from before the range into it."""
    panel = random_panel(seed, symbols=5)
    low = panel.offsets[:-1] + 22 + np.random.default_rng(seed).integers(0, 15, 5)
    wanted = Range(low=low, high=np.minimum(panel.offsets[1:], low + 20))
    assume((wanted.high > wanted.low).any())
    module = module_of(panel, warmup=22, cell=cell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carried_module, "BLOCK_SYMBOLS", block)
        patch.setattr(carried_module, "BLOCK_SESSIONS", sessions)
        loss = validation_loss(module, wanted, panel, tensors_of(panel, 22))
    counted = [r for a, b in zip(wanted.low, wanted.high, strict=True) for r in range(a, b)]
    expected = -sharpe_of(
        panel, positions_of(module, panel), full_weights(panel, 22), counted, cost=20.0
    )
    assert loss == pytest.approx(expected, rel=1e-3, abs=1e-3)


def validation_loss(
    module: PositionForecaster, wanted: Range, panel: Panel, tensors: PanelTensors
) -> float:
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[assignment]
    module.on_validation_epoch_start()
    with torch.no_grad():
        for step in CarriedPass(wanted, panel.offsets, tensors):
            module.validation_step(step, 0)
    module.on_validation_epoch_end()
    return float(logged["validation_loss"])


def batch_of(panel: Panel, warmup: int = 25, stride: int = 30) -> Batch:
    """All symbols' windows of the first whole segment."""
    wanted = Range(low=panel.offsets[:-1] + warmup, high=panel.offsets[1:])
    segments = Segments(wanted, panel.offsets, warmup + stride, warmup, panel.day)
    low, high, symbol = segments.tiles(0)
    first = low == segments.range.low[symbol]
    return segments.gather(tensors_of(panel, warmup), low[first], high[first], symbol[first])


def test_a_segment_starts_with_the_position_of_the_session_before(
    random_panel: RandomPanel,
) -> None:
    """One that is held still, at a volatility that stands still, pays nothing but its entry."""
    panel = random_panel(0, symbols=3, staggered=False, missing=0.0, halts=0)
    panel.scale[~np.isnan(panel.scale)] = 1.5
    batch = batch_of(panel)
    losses = {}
    for cost in (0.0, 1000.0):
        module = module_of(panel, warmup=25, cost=cost)
        with torch.no_grad():
            module.network.readout.weight.zero_()
            module.network.readout.bias.fill_(0.7)
        losses[cost] = [loss_of(module, b).item() for b in (batch, cut_back(batch, 5))]
    assert losses[0.0][1] == pytest.approx(losses[1000.0][1], abs=1e-5)
    assert losses[0.0][0] < losses[1000.0][0], "a symbol's first position is bought"


def cut_back(batch: Batch, sessions: int) -> Batch:
    """The batch whose loss begins some sessions later."""
    mask_BLH = batch.mask_BLH.clone()
    mask_BLH[:, : 25 + sessions] = False
    return Batch(**{**vars(batch), "mask_BLH": mask_BLH})


def test_more_cost_never_makes_the_loss_smaller(random_panel: RandomPanel) -> None:
    panel = random_panel(1)
    modules = [module_of(panel, warmup=25, cost=cost) for cost in (0, 5, 50, 500)]
    losses = [loss_of(module, batch_of(panel)).item() for module in modules]
    assert losses == sorted(losses) and losses[0] < losses[-1]


def test_the_sharpe_ratio_knows_no_size(random_panel: RandomPanel) -> None:
    panel = random_panel(2)
    module = module_of(panel, warmup=25)
    loss = loss_of(module, batch_of(panel)).item()
    module.head.volatility = 60.0
    assert loss_of(module, batch_of(panel)).item() == pytest.approx(loss, rel=1e-3)


def test_a_network_that_is_shown_the_future_finds_it(random_panel: RandomPanel) -> None:
    """So the slope leads where it should: a feature that gives the target away is learned."""
    panel = random_panel(0, symbols=4, sessions=120, staggered=False, missing=0.0, halts=0)
    batch = batch_of(panel, stride=90)
    x_BLF = batch.y_BLH.sign().expand(-1, -1, len(panel.names)).contiguous()
    batch = Batch(**{**vars(batch), "x_BLF": x_BLF})
    module = module_of(panel, warmup=25, cost=5.0, cell="linear")
    with torch.no_grad():
        module.network.readout.weight.zero_()
        module.network.readout.bias.fill_(0.5)
    before = loss_of(module, batch).item()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(module, batch).backward()
        optimizer.step()
    assert loss_of(module, batch).item() < min(before, 0.0) - 5


def test_sums_by_date_have_the_same_bits_at_any_number_of_threads() -> None:
    random = torch.Generator().manual_seed(0)
    value = torch.randn(600, 250, generator=random, requires_grad=True)
    day = torch.randint(0, 700, (600, 250), generator=random, dtype=torch.int32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            total = scattered(value, day, 700)
            (slope,) = torch.autograd.grad(total.square().sum(), value)
            found.append((total, slope))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    expected = np.bincount(day.reshape(-1), value.detach().reshape(-1), minlength=700)
    np.testing.assert_allclose(found[0][0].detach(), expected, atol=1e-3)


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("horizons=[1,5]", "Use horizons=[1] and target.delay=1"),
        ("horizons=[5]", "Use horizons=[1] and target.delay=1"),
        ("target.delay=0", "Use horizons=[1] and target.delay=1"),
        ("head.volatility=0", "head.volatility=0 must be above 0 percent a year"),
        ("head.volatility=inf", "head.volatility=inf must be"),
        ("head.cost=-1", "head.cost=-1 must be 0 or more basis points"),
        ("+head.gamma=1", "head.gamma"),
    ],
)
def test_what_does_not_go_with_positions_is_refused_in_one_line(
    option: str, told: str, config: Any
) -> None:
    with pytest.raises(ForecastError) as caught:
        check_options(config(*POSITION, option))
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["train", "backtest", "audit"])
def test_the_head_itself_sets_what_it_needs_and_what_is_typed_wins(command: str) -> None:
    chosen = plain(compose(command, ["head=position"]))
    assert (chosen["horizons"], chosen["target"]["delay"]) == ([1], 1)
    assert chosen["features"]["columns"] == ["return"]
    assert make_task(chosen).dated
    assert not make_task(plain(compose(command, []))).dated
    typed = plain(compose(command, ["head=position", "features=close", "window.batch=7"]))
    assert len(typed["features"]["columns"]) > 1 and typed["window"]["batch"] == 7


def test_it_has_no_distribution_and_says_so(config: Any, prices: Prices) -> None:
    head = make_head({"name": "position", "volatility": 15.0, "cost": 5.0})
    assert isinstance(head, PositionHead)
    datamodule = make_datamodule(config(*POSITION), prices)
    network = Network(cell="gru", features=1, horizons=1, parameters=1, hidden_size=2)
    ensemble = Ensemble([network], head, datamodule.task)
    with pytest.raises(ForecastError, match=r"head=position states weights, no forecasts"):
        ensemble.distribution(None, datamodule.ranges["test"], None)  # type: ignore[arg-type]


def test_it_starts_as_always_long() -> None:
    head = PositionHead(volatility=15.0, cost=5.0)
    start = torch.tensor(head.start(np.array([-0.3, 0.1])))
    assert head.domain(start).item() == pytest.approx(0.5)


# ------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def position_config(config: Any) -> Callable[..., Any]:
    small = [*POSITION, "window.batch=20", "trainer.max_epochs=3", "ensemble=2"]
    return lambda *overrides: config(*small, *overrides)


def fitted(chosen: Any, prices: Prices, folder: Path) -> tuple[PriceDataModule, Ensemble]:
    datamodule = make_datamodule(chosen, prices)
    fit_ensemble(chosen, datamodule, folder, say=lambda line: None)
    members = chosen["ensemble"]
    return datamodule, load_ensemble(folder, members=members, task=datamodule.task)


@pytest.fixture(scope="module")
def trained(
    position_config: Callable[..., Any], prices: Prices, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PriceDataModule, Ensemble, Path]:
    folder = tmp_path_factory.mktemp("position")
    return *fitted(position_config(), prices, folder), folder


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns="seconds")


def bits(folder: Path, members: int = 2) -> list[torch.Tensor]:
    states = (read_checkpoint(best_checkpoint(folder, m))["state_dict"] for m in range(members))
    return [value for state in states for value in state.values()]


def test_the_best_epoch_has_the_loss_that_history_tells(
    trained: tuple[PriceDataModule, Ensemble, Path],
) -> None:
    datamodule, ensemble, folder = trained
    told = history(folder).groupby("member")["validation_loss"].min()
    for member in (0, 1):
        hyper = read_checkpoint(best_checkpoint(folder, member))["hyper_parameters"]
        module = PositionForecaster(**hyper)
        module.networks[0] = ensemble.networks[member]
        again = validation_loss(
            module, datamodule.ranges["validation"], datamodule.panel, datamodule.tensors("cpu")
        )
        assert again == pytest.approx(told[member], rel=1e-6)


def test_interrupted_it_ends_in_the_same_bytes_at_any_number_of_threads(
    trained: tuple[PriceDataModule, Ensemble, Path],
    position_config: Callable[..., Any],
    prices: Prices,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datamodule, _, folder = trained
    original, before = Forecaster.training_step, torch.get_num_threads()

    def training_step(self: Forecaster, batch: Any, index: int) -> torch.Tensor:
        if (self.members[0], self.global_step) == (1, datamodule.steps + 1):
            monkeypatch.setattr(Forecaster, "training_step", original)
            raise KeyboardInterrupt
        return original(self, batch, index)

    monkeypatch.setattr(Forecaster, "training_step", training_step)
    assert datamodule.steps > 1
    with pytest.raises(KeyboardInterrupt):
        fitted(position_config(), prices, tmp_path)
    try:
        torch.set_num_threads(3 - min(before, 2))
        fitted(position_config(), prices, tmp_path)
    finally:
        torch.set_num_threads(before)
    assert history(tmp_path).equals(history(folder))
    assert all(torch.equal(a, b) for a, b in zip(bits(tmp_path), bits(folder), strict=True))
