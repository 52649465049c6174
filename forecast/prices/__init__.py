"""Room 1: where prices come from. Every source hands out one `Prices`, whatever its origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from forecast.prices.frame import Prices

# Keys of the section `data` that the data set room reads.
OF_THE_PANEL = ("market", "max_gap")
# Sources that can lay their prices in a file; the others read them into memory all the same.
IN_A_FILE = ("forecast.prices.simulated.simulated",)


def load_prices(data: str | Mapping[str, Any] = "sp500", **options: Any) -> Prices:
    """Load prices by the name of a source, or by a whole `data` section of a configuration.

    Parameters
    ----------
    data : str or mapping
        `sp500`, `index`, `files`, `simulated`, or the section itself.
    **options
        Keys of conf/data/<source>.yaml: `load_prices("sp500", symbols="AAPL,MSFT")`.

    Raises
    ------
    ForecastError
        Anything wrong with the options or the prices.
    """
    from forecast.config import ForecastError, compose, instantiate, plain

    section = plain(compose("train", [f"data={data}"]))["data"] if isinstance(data, str) else data
    arguments = {k: v for k, v in {**section, **options}.items() if k not in OF_THE_PANEL}
    in_memory = arguments.pop("in_memory", True)
    if not isinstance(in_memory, bool):
        raise ForecastError(f"data.in_memory={in_memory} is not true or false. Correct the value.")
    if not in_memory and arguments["_target_"] in IN_A_FILE:
        arguments["in_memory"] = False
    return cast("Prices", instantiate(arguments, "data"))


def shared_prices(section: Mapping[str, Any]) -> Prices:
    """Prices of a whole `data` section, read once by all trials of a sweep in this process.

    They shall be compared on the same prices, also where the source goes on in the meantime.
    """
    return _shared(json.dumps(section, sort_keys=True, default=str))


@lru_cache(maxsize=1)
def _shared(section: str) -> Prices:
    return load_prices(json.loads(section))
