"""Series of simple returns, and what is refused as one.

Returns per session as fractions: 0.01 where 100 became 101. Log returns do not add up over what is
held, and percent would be read as a hundredfold gain; both are refused where they can be told.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from forecast.config import ForecastError

Array = NDArray[np.float64]

# Names of log returns: columns of this project's tables, and whatever says log.
LOG_RETURNS = re.compile(r"actual|target|(.*[^a-z])?log([^a-z].*|ret.*)?")


def simple_returns(values: ArrayLike, name: str = "simple_return_T") -> Array:
    """The values as float64, if they can be simple returns.

    Raises
    ------
    ForecastError
        No value, NaN or infinity, −1 or less, or a Series whose name is that of log returns.
    """
    if isinstance(values, pd.Series) and LOG_RETURNS.fullmatch(str(values.name).lower()):
        raise ForecastError(
            f"{name}: column {values.name} holds log returns, simple ones are needed. Give "
            "np.expm1(values), of percent np.expm1(values / 100), under another name."
        )
    returns = _finite(values, name)
    if returns.size == 0:
        raise ForecastError(f"{name}: there is no return. Give one session or more.")
    if (returns <= -1).any():
        raise ForecastError(
            f"{name}: {returns.min():g} loses all there is or more. Give simple returns as "
            "fractions (log returns: np.expm1(values)), or hold less: strategy.max_gross."
        )
    return returns


def along(values: ArrayLike, returns: Array, name: str) -> Array:
    """Values as float64, if they are finite and there is one for each session of the returns."""
    array = _finite(values, name)
    if array.shape != returns.shape[-1:]:
        raise ForecastError(
            f"{name} has shape {array.shape}, the returns {returns.shape}. Give one a session."
        )
    return array


def _finite(values: ArrayLike, name: str) -> Array:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ForecastError(f"{name}: {' '.join(str(error).split())}. Give numbers.") from error
    if not np.isfinite(array).all():
        value = array[~np.isfinite(array)][0]
        raise ForecastError(
            f"{name} contains {value}. Drop the session, or give what was held its return, and "
            "cash where nothing was."
        )
    return array
