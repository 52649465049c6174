"""Training on a GPU: targets per second of one network and of several, beside the card's ceilings.

    python benchmarks/gpu.py

Where torch sees no GPU it says so and ends. Shares are of the rates of a large copy and of a large
matrix product of the same precision in the same run; what a step moves is counted as if weights and
state never left the chip, so its share says how far training is from being bound by memory. The
last two tables: where a step waits for the GPU, which makes the exit status 1, and what precision
does to the validation loss.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
import warnings
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from machine import copy_rate, moved, product_rate, products
from training import Speed, fit, ours

import forecast
from forecast import compose, load_prices
from forecast.config import plain
from forecast.dataset.datamodule import PriceDataModule
from forecast.models.configured import Config
from forecast.models.devices import gpu_precision
from forecast.models.pipeline import make_datamodule
from forecast.prices.frame import Prices

CELLS = ("lstm", "gru", "rnn")
UNITS = (32, 128, 512)


class Precision(NamedTuple):
    """What products are taken of."""

    dtype: torch.dtype
    size: int  # bytes of a number


PRECISIONS = {  # of trainer.precision
    "float32": Precision(torch.float32, 4),
    "tf32": Precision(torch.float32, 4),
    "bf16": Precision(torch.bfloat16, 2),
}


class Ceilings(NamedTuple):
    """What the card gives at most: bytes per second, and operations per second by precision."""

    bytes: float
    products: dict[str, float]


class Shares(NamedTuple):
    """Of the ceilings."""

    bytes: float
    products: float


class Refusal(pl.Callback):
    """Makes torch refuse whatever waits for the GPU, between the steps of an epoch.

    The first epoch warms up. Between epochs the host may look.
    """

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        inside = trainer.current_epoch > 0 and not trainer.is_last_batch
        torch.cuda.set_sync_debug_mode("error" if inside else "default")


def ceilings(device: str) -> Ceilings:
    rates = {}
    for name, precision in PRECISIONS.items():
        with gpu_precision(name):
            rates[name] = product_rate(device, size=8192, dtype=precision.dtype)
    return Ceilings(copy_rate(device), rates)


def configured(cell: str, units: int, *more: str) -> Config:
    sizes = [f"model={cell}", f"model.hidden_size={units}"]
    return plain(compose("train", ["trainer=gpu", "ensemble=1", *sizes, *more]))


def shares(speed: Speed, config: Config, features: int, most: Ceilings) -> Shares:
    """How near the ceilings networks were trained."""
    model = config["model"]
    shape = (model["cell"], features, model["hidden_size"], model["layers"])
    rate, precision = speed.sessions / speed.seconds, config["trainer"]["precision"]
    return Shares(
        bytes=rate * moved(*shape, size=PRECISIONS[precision].size) / most.bytes,
        products=rate * products(*shape) / most.products[precision],
    )


def waits(datamodule: PriceDataModule, config: Config) -> str:
    """Where a step waits for the GPU, or nothing."""
    try:
        fit(datamodule, config, 2, Refusal())
    except RuntimeError as error:
        frames = traceback.extract_tb(error.__traceback__)
        package = Path(forecast.__file__).parent
        own = [f for f in frames if Path(f.filename).is_relative_to(package)] or frames
        return f"{error} ({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def print_speeds(prices: Prices, most: Ceilings, steps: int, members: int) -> None:
    print(
        "\ncell, units, networks, precision: targets/s, share of the copy's rate, of the product's"
    )
    for cell, units, count in product(CELLS, UNITS, (1, members)):
        for name in PRECISIONS:
            config = configured(cell, units, f"ensemble={count}", f"trainer.precision={name}")
            datamodule = make_datamodule(config, prices)
            speed = ours(datamodule, config, steps)
            part = shares(speed, config, len(datamodule.panel.names), most)
            print(
                f"  {cell:4s} {units:4d} {count:3d} {name}: {speed.rate:12,.0f} "
                f"{100 * part.bytes:6.1f} % {100 * part.products:6.1f} %",
                flush=True,
            )
    print(f"peak memory {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB")


def print_waits(prices: Prices) -> bool:
    """Whether some cell's training waits for the GPU."""
    print("\nwaiting for the GPU within an epoch")
    found = False
    for cell in CELLS:
        config = configured(cell, UNITS[0])
        where = waits(make_datamodule(config, prices), config)
        print(f"  {cell:4s} {where or 'never'}", flush=True)
        found |= bool(where)
    return found


def print_losses(prices: Prices, epochs: int) -> None:
    print(f"\nvalidation loss after {epochs} epochs")
    for cell in CELLS:
        told = []
        for name in PRECISIONS:
            config = configured(cell, UNITS[0], f"trainer.precision={name}")
            history = fit(make_datamodule(config, prices), config, epochs)
            told.append(f"{name} {float(history[-1]['validation_loss']):.5f}")
        print(f"  {cell:4s} {', '.join(told)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5, help="before losses are compared")
    parser.add_argument("--members", type=int, default=8, help="networks trained at once")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no GPU here: nothing is measured")
        return 0
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    most = ceilings("cuda")
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    told = ", ".join(f"{name} {rate / 1e12:.1f}" for name, rate in most.products.items())
    print(f"copy {most.bytes / 1e9:,.0f} GB/s; products, 10¹² operations/s: {told}")
    prices = load_prices("sp500")
    print_speeds(prices, most, options.steps, options.members)
    waiting = print_waits(prices)
    print_losses(prices, options.epochs)
    return int(waiting)


if __name__ == "__main__":
    sys.exit(main())
