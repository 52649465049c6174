"""A user's own head: found by its dotted name, and tried before anything is trained with it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from forecast.config import ForecastError, check
from forecast.forecasts import LEVELS
from forecast.models.heads import BUILT_IN, Head

_SHAPE = (2, 3, 2)  # leading axes of a trial: batch, time, horizon


def own_head(dotted: str, arguments: Mapping[str, Any]) -> Head:
    """Import a head, make it and try it.

    Parameters
    ----------
    dotted : str
        `module.Class`, importable from the current directory.
    arguments : mapping
        The other keys of the section `head`.

    Raises
    ------
    ForecastError
        It cannot be imported or made, or breaks a rule of `Head`.
    """
    make = _imported(dotted)
    try:
        check(arguments, "head", make)
        head: Head = make(**arguments)
        with torch.device("cpu"):  # the caller may be on one without numbers
            _try(head)
    except ForecastError:
        raise
    except Exception as error:  # whatever somebody's code raises
        told = " ".join(str(error).split()) or "no message"
        raise ForecastError(
            f"head.name={dotted} fails with {type(error).__name__}: {told}. A head has size, "
            "domain, loss, distribution and start: see forecast.models.heads.Head."
        ) from error
    return head


def _imported(dotted: str) -> Callable[..., Any]:
    module, _, name = dotted.rpartition(".")
    try:
        make: Callable[..., Any] = getattr(importlib.import_module(module), name)
        if not callable(make):
            raise ValueError(f"it is a {type(make).__name__}, no class")
        return make
    except (ImportError, AttributeError, ValueError) as error:
        raise ForecastError(
            f"head.name={dotted} cannot be used ({error}). Give module.Class, importable from the "
            f"current directory, or one of {', '.join(BUILT_IN)}."
        ) from error


def _try(head: Head) -> None:
    """Run a head on small random outputs; any broken rule raises."""
    _require(isinstance(head.size, int) and head.size >= 1, "size", "a whole number above 0")
    random = torch.Generator().manual_seed(0)
    y = 2 * torch.randn(_SHAPE, generator=random)
    for spread in (0.0, 1.0):
        raw = spread * torch.randn((*_SHAPE, head.size), generator=random)
        raw.requires_grad_()
        parameters = head.domain(raw)
        _require(parameters.shape == raw.shape, "domain", f"of the shape {tuple(raw.shape)}")
        _require(bool(parameters.isfinite().all()), "domain", "finite")
        loss = head.loss(parameters, y)
        _require(loss.shape == _SHAPE, "loss", f"of the shape {_SHAPE}, one for each target")
        _require(bool(loss.isfinite().all()), "loss", "finite")
        (gradient,) = torch.autograd.grad(loss.sum(), raw)
        _require(bool(gradient.isfinite().all()), "loss", "of a finite gradient")
        _try_distribution(head, parameters.detach().reshape(-1, head.size), y.reshape(-1))
    start = np.asarray(head.start(y.double().reshape(-1).numpy()), np.float64)
    _require(start.shape == (head.size,), "start", f"{head.size} numbers")
    _require(bool(np.isfinite(start).all()), "start", "finite")


def _try_distribution(head: Head, parameters: torch.Tensor, y: torch.Tensor) -> None:
    said = head.distribution(parameters.double().numpy())
    targets, rows = y.double().numpy(), len(y)
    shapes = {
        "mean": (said.mean, (rows,)),
        "std": (said.std, (rows,)),
        "quantiles": (said.quantiles, (rows, len(LEVELS))),
        "nll": (said.nll(targets), (rows,)),
        "pit": (said.pit(targets), (rows,)),
        "crps": (said.crps(targets), (rows,)),
        "expected_shortfall": (said.expected_shortfall(LEVELS[0]), (rows,)),
    }
    for name, (value, shape) in shapes.items():
        where = f"distribution(…).{name}"
        if value is not None:
            _require(np.shape(value) == shape, where, f"None or of the shape {shape}")
            _require(bool(np.isfinite(value).all()), where, "finite")
    _require(said.mean is not None, "distribution(…).mean", "given")
    if said.quantiles is not None:
        _require(
            bool((np.diff(said.quantiles) >= 0).all()), "distribution(…).quantiles", "ascending"
        )


def _require(holds: bool, what: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"its {what} must be {wanted}")
