"""Training speed: this project against a plain torch loop on the same work, in turn.

    python benchmarks/training.py

Many-to-one: LSTM 64 × 2, windows of 60 sessions, batch 256, one target a window. The plain loop
runs over ready tensors: no data module, no gather, no Trainer. Both train the same network with
the same head, loss, optimiser and clipping, in one process, in turn. Then targets per second of
the default configuration, where every session of a window after its warm-up carries a target.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings

import pytorch_lightning as pl
import torch

from forecast import compose, load_prices
from forecast.config import plain
from forecast.dataset.datamodule import PriceDataModule
from forecast.dataset.windows import Batch
from forecast.models.forecaster import Forecaster
from forecast.models.heads import HEADS, PositionHead
from forecast.models.options import loss_options
from forecast.models.pipeline import make_datamodule


class Clock(pl.Callback):
    """Seconds from the first batch's end to the last one's: start-up is not training."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:  # type: ignore[no-untyped-def]
        now = time.perf_counter()
        if index == 0:
            self.start, self.count = now, 0
        else:
            self.count += int(batch.mask_BLH.any(-1).sum())
            self.seconds = now - self.start

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def forecaster(datamodule: PriceDataModule, config: dict) -> Forecaster:
    head = HEADS[config["head"]["name"]]()
    module = Forecaster(
        network={
            **config["model"],
            "features": len(datamodule.panel.names),
            "horizons": len(datamodule.task.horizons),
            "parameters": head.size,
        },
        head=config["head"],
        optimizer=config["optimizer"],
        **loss_options(config),
        warmup=datamodule.task.warmup,
        total_steps=1000,
        seed=0,
        member=0,
    )
    module.network.standardise_with(datamodule.mean_F, datamodule.std_F)
    return module


def ours(datamodule: PriceDataModule, config: dict, steps: int) -> float:
    """Targets per second through the data module and the Trainer."""
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        gradient_clip_val=config["optimizer"]["clip"],
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(forecaster(datamodule, config), datamodule)
    return clock.rate


def loop(datamodule: PriceDataModule, config: dict, batches: list[Batch]) -> float:
    """Targets per second of a plain loop over ready tensors."""
    module = forecaster(datamodule, config).train()
    network, head = module.network, module.head
    assert not isinstance(head, PositionHead)
    options = config["optimizer"]
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=options["lr"],
        betas=(options["beta1"], options["beta2"]),
        weight_decay=options["weight_decay"],
        fused=True,
    )
    count, start = 0, 0.0
    for step, batch in enumerate(batches):
        raw, _ = network(batch.x_BLF, warmup=datamodule.task.warmup)
        mask = batch.mask_BLH[:, datamodule.task.warmup :]
        loss = head.loss(head.domain(raw), batch.y_BLH[:, datamodule.task.warmup :])
        loss = (loss * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config["optimizer"]["clip"])
        optimizer.step()
        if step == 0:
            start = time.perf_counter()
        else:
            count += int(batch.mask_BLH.any(-1).sum())
    return count / (time.perf_counter() - start)


def ready(datamodule: PriceDataModule, steps: int) -> list[Batch]:
    """The batches of an epoch, gathered beforehand."""
    from forecast.dataset.windows import TrainingBatches

    stream = TrainingBatches(
        datamodule.windows,
        datamodule.tensors("cpu"),
        steps=datamodule.steps,
        seed=0,
        member=0,
        steps_done=lambda: 0,
    )
    return [batch for batch, _ in zip(stream, range(steps), strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, help="batches of a turn")
    parser.add_argument("--turns", type=int, default=11)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    prices = load_prices("sp500")

    overrides = ["experiment=many_to_one", "horizons=[1]", "model.hidden_size=64", "model.layers=2"]
    config = plain(compose("train", [*overrides, "model.input_dropout=0"]))
    datamodule = make_datamodule(config, prices)
    batches = ready(datamodule, options.steps)
    rates: dict[str, list[float]] = {"plain torch loop": [], "forecast": []}
    for _ in range(options.turns):
        rates["plain torch loop"].append(loop(datamodule, config, batches))
        rates["forecast"].append(ours(datamodule, config, options.steps))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("many-to-one, LSTM 64 × 2, 60 sessions, batch 256: windows/s, median of turns")
    middle = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in middle.items():
        print(f"  {name:20s} {value:10,.0f}   turns {', '.join(f'{r:,.0f}' for r in rates[name])}")
    print(f"  ratio                {middle['forecast'] / middle['plain torch loop']:10.3f}")

    for cell in ("lstm", "gru", "rnn"):
        config = plain(compose("train", [f"model={cell}"]))
        datamodule = make_datamodule(config, prices)
        best = max(ours(datamodule, config, datamodule.steps) for _ in range(options.turns))
        print(f"default {cell}: {best:,.0f} targets/s (best of {options.turns} epochs)")


if __name__ == "__main__":
    main()
