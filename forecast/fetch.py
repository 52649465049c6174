"""`python -m forecast.fetch`: bring the price store up to date, or look at it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecast.config import ForecastError, check, plain
from forecast.door import door

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

ACTIONS = ("fetch", "status", "verify", "export")
EACH = 20  # symbols of which every one gets a line, whatever became of it
ALL, SOME, NONE = 0, 2, 1  # exit status


def fetch(cfg: DictConfig | Mapping[str, Any]) -> tuple[pd.DataFrame, int]:
    """Fetch, list, verify or export prices.

    Parameters
    ----------
    cfg : DictConfig
        From `forecast.compose("fetch", ["data.symbols='AAPL,MSFT'"])`.

    Returns
    -------
    table : DataFrame
        A row a symbol: what became of it, or what is stored of it.
    status : int
        0: every symbol is fresh (or sound), 2: some are, 1: none.

    Raises
    ------
    ForecastError
        Wrong options.
    """
    from forecast.prices.choice import Choice
    from forecast.prices.inventory import chosen, export, inventory, verified
    from forecast.prices.store import Store
    from forecast.prices.yahoo import Wanted, yahoo

    config = plain(cfg)
    action, data = config["action"], {**config["data"]}
    if data.pop("_target_") != "forecast.prices.yahoo.yahoo":
        raise ForecastError("only data=yahoo is fetched; other sources are read where they lie.")
    if action not in ACTIONS:
        raise ForecastError(f"action={action} is unknown: choose {', '.join(ACTIONS)}.")
    del data["market"], data["max_gap"]
    check(data, "data", yahoo)
    if action == "fetch":
        if data["offline"]:
            raise ForecastError("data.offline=true: nothing can be fetched. Leave it out.")
        return _fetched({name: data[name] for name in signature(Wanted.read).parameters})
    choice = Choice.read(symbols=data["symbols"], start=data["start"], end=data["end"])
    store = Store()
    names = chosen(store, choice.symbols)
    if action == "status":
        table = inventory(store, names)
        good = (table["state"] == "ok") & (table["behind"] == 0)
        print(f"{store.folder}\n{table.to_string(index=False, na_rep='-')}")
        return table, _status(int(good.sum()), len(names))
    if action == "verify":
        table = verified(store, names)
        for row in table[table["severity"] != "ok"].itertuples():
            print(f"{row.symbol}: {row.severity}: {row.sentence}")
        sound = int((table["severity"] == "ok").sum())
        print(f"{sound} of {len(names)} files are what was written")
        return table, _status(sound, len(names))
    if not isinstance(config["path"], str):
        raise ForecastError("path is null: action=export needs a file, path=prices.csv.")
    rows = export(store, names, Path(config["path"]), choice)
    print(f"{config['path']}: {rows:,} rows of {len(names)} symbols")
    return inventory(store, names), ALL


def _fetched(data: Mapping[str, Any]) -> tuple[pd.DataFrame, int]:
    import pandas as pd

    from forecast.prices.frame import some
    from forecast.prices.store import Store
    from forecast.prices.yahoo import Wanted, told

    results = Wanted.read(**data).fetched(Store())
    alike: dict[str, list[str]] = {}  # in many symbols only what went wrong is told, once a cause
    for result in results:
        said = told(result) if result.cause else str(result.outcome)
        said = f"{result.changed}. {said}" if result.changed else said
        kept = f"{result.rows:,} rows to {result.last}, {result.added:,} new; " * bool(result.rows)
        if len(results) <= EACH:
            print(f"{result.symbol}: {kept}{said}")
        elif result.outcome != "ok" or result.changed:
            alike.setdefault(said, []).append(result.symbol)
    for said, symbols in alike.items():
        print(f"{some(symbols)}: {said}")
    good, asked = sum(r.fresh for r in results), sum(r.asked for r in results)
    print(f"{good} of {len(results)} symbols are fresh; Yahoo was asked about {asked}")
    return pd.DataFrame([vars(r) for r in results]), _status(good, len(results))


def _status(good: int, total: int) -> int:
    return ALL if good == total else SOME if good else NONE


def _main(cfg: DictConfig) -> None:
    _, status = fetch(cfg)
    if status != ALL:
        sys.exit(status)


main = door("fetch", _main)

if __name__ == "__main__":
    main()
