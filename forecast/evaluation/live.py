"""The live record: forecasts written down before anybody could know, and scored as time passes.

A prediction leaves one file in `outputs/live`, which nothing rewrites. It is a Forecasts table of
part `live`, with when and by which run each row was made and the parameters behind it, so that
densities can be scored too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from forecast.config import ForecastError
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.forecasts import SCHEMA, ForecastWriter, open_parquet
from forecast.models.block import make_block
from forecast.models.distributions import Distribution, Gaussian
from forecast.models.heads import BUILT_IN
from forecast.models.named_heads import make_head
from forecast.models.prediction import BESIDE, Prediction
from forecast.prices.exchanges import opens_at
from forecast.prices.frame import Prices

FOLDER = "live"
ADDED = pa.schema(
    [
        pa.field("expected_date", pa.date32(), nullable=False),
        pa.field("made_at", pa.timestamp("s", tz="UTC"), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("data_hash", pa.string(), nullable=False),
        pa.field("parameters", pa.list_(pa.float64())),  # of the head; null for `BESIDE`
    ]
)
LIVE_SCHEMA = pa.schema([*SCHEMA, *ADDED])
_KEY = ["model", "symbol", "origin", "horizon"]
_META = b"forecast"
PASSING = (
    "symbols", "end", "offline", "max_age", "jobs", "timeout", "patience", "progress",
)  # fmt: skip


def write_record(
    folder: Path,
    prediction: Prediction,
    *,
    expected_M: np.ndarray,
    early_M: np.ndarray,
    made_at: np.datetime64,
    run: str,
    data_hash: str,
    origin: Mapping[str, Any],
) -> Path | None:
    """Record what was predicted before its target began.

    Parameters
    ----------
    folder : Path
        `outputs/live`.
    expected_M : array of datetime64[D], shape (M,)
        Dates on which the targets of the networks' rows are expected to be known.
    early_M : array of bool, shape (M,)
        Whether the row was made before its target began; the others are no evidence.
    made_at : datetime64[s]
        UTC.
    run, data_hash : str
        Name of the run, sha256 of the prices.
    origin : mapping
        `data`, the section that prices were loaded by, `head`, and `configuration`, a name that a
        run shares with those trained on newer data: primitives.

    Returns
    -------
    Path or None
        The file; None where there is nothing to record. What is there already stays, with its time.
    """
    if not early_M.any():
        return None
    early, expected = np.tile(early_M, 2), np.tile(expected_M, 2)
    parameters = [*prediction.parameters_MP.tolist(), *[None] * len(early_M)]
    rows = len(early)
    table = pa.concat_tables([prediction.own, prediction.beside]).unify_dictionaries()
    for field, column in zip(
        ADDED,
        (
            pa.array(expected.astype("datetime64[D]")),
            pa.array(np.full(rows, made_at.astype("datetime64[s]"))).cast(
                ADDED.field("made_at").type
            ),
            pa.array([run] * rows),
            pa.array([data_hash] * rows),
            pa.array(parameters, type=ADDED.field("parameters").type),
        ),
        strict=True,
    ):
        table = table.append_column(field, column)
    table = table.filter(pa.array(early)).cast(LIVE_SCHEMA)
    told = json.dumps(origin, sort_keys=True, default=str)
    symbols = sorted(set(table["symbol"].cast(pa.string()).to_pylist()))
    stated = hashlib.sha256(table["mean"].to_numpy().tobytes()).hexdigest()  # the market is in it
    named = json.dumps([run, data_hash, told, symbols, stated])
    digest = hashlib.sha256(named.encode()).hexdigest()[:10]
    last = max(table["origin"].to_pylist())
    path = folder / f"{last}-{run}-{digest}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_name(f".{path.name}.tmp")
        pq.write_table(table.replace_schema_metadata({_META: told.encode()}), temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    return path


def lasting(section: Mapping[str, Any]) -> dict[str, Any]:
    """Of a section `data`, what says which prices they are, and not how they were got that day."""
    return {name: value for name, value in section.items() if name not in PASSING}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A live record with what became of it.

    Attributes
    ----------
    path : Path
        Forecasts table of part `live`. Networks are named by their configuration, so that a record
        goes on when a run is trained anew; of two that forecast the same, the first counts.
    known : int
        Rows whose target is known.
    repeated, late : int
        Rows left out: predicted again later, or made when their target had begun.
    next_date : str or None
        The earliest date on which an unknown target is expected.
    failed : tuple of str
        Why prices of some of the record cannot be had.
    """

    path: Path
    known: int
    repeated: int
    late: int
    next_date: str | None
    failed: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """All of it in a sentence."""
        out = {
            "predicted again later": self.repeated,
            "made when their target had begun": self.late,
        }
        left = ", ".join(f"{count:,} {why}" for why, count in out.items() if count)
        waiting = f"; the next target is expected on {self.next_date}" if self.next_date else ""
        lost = f"; without prices: {'; '.join(self.failed)}" if self.failed else ""
        return (
            f"live record: {self.known:,} rows whose target is known, each made before it began"
            f"{'; left out are ' + left if left else ''}{waiting}{lost}"
        )


def score_record(
    folder: Path, run: str | None, load: Callable[[Mapping[str, Any], Sequence[str]], Prices]
) -> Scored:
    """Join the record to the prices of today.

    Parameters
    ----------
    folder : Path
        `outputs/live`.
    run : str or None
        The run whose predictions are wanted, by its name; None: all of them.
    load : callable
        Prices by a section `data` and the symbols wanted.

    Raises
    ------
    ForecastError
        No record, or none of that run.
    """
    records = list(_read(folder, run))
    frame = pd.concat([record for record, _ in records], ignore_index=True)
    frame["source"] = np.repeat(np.arange(len(records)), [len(record) for record, _ in records])
    frame = frame.sort_values("made_at", kind="stable")
    twice = frame.duplicated(_KEY)
    # What stands beside the networks is the same for all runs.
    repeated, frame = int((twice & (frame["model"] != BESIDE)).sum()), frame[~twice]
    pieces: list[pd.DataFrame] = []
    sources: dict[str, list[int]] = {}
    for number, (_, origin) in enumerate(records):
        sources.setdefault(json.dumps(origin["data"], sort_keys=True), []).append(number)
    late, failed = 0, list[str]()
    for section, numbers in sources.items():
        rows = frame[frame["source"].isin(numbers)]
        if rows.empty:
            continue
        data = json.loads(section)
        try:
            prices = load(data, sorted(set(rows["symbol"])))
        except ForecastError as error:  # the others are scored all the same
            failed.append(str(error))
            joined = rows
        else:
            joined, begun = _with_outcomes(rows, prices, max_gap=int(data["max_gap"]))
            late += begun
        for number in numbers:
            own = joined[joined["source"] == number]
            if len(own):
                pieces.append(_with_scores(own, records[number][1]["head"]))
    if len(failed) == len(sources):
        raise ForecastError(failed[0])
    if not pieces:
        raise ForecastError(
            f"{folder}: all {late} forecasts were made when their target had begun, so none is "
            "evidence. Predict before the next session opens."
        )
    whole = pd.concat(pieces).sort_values(_KEY, ignore_index=True)
    _require_common(whole)
    path = folder / "scored" / f"{run or 'all'}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ForecastWriter(path) as writer:
        for _, rows in whole.groupby("model", sort=True):
            writer.write(rows[SCHEMA.names].reset_index(drop=True))
    known = whole["actual"].notna()
    if not known.any():
        raise ForecastError(
            f"{folder}: no target of the live record is known yet; the first is expected on "
            f"{whole['expected_date'].min()}. Repeat the command then."
        )
    waiting = whole.loc[~known, "expected_date"]
    return Scored(
        path=path,
        known=int(known.sum()),
        repeated=repeated,
        late=late,
        next_date=str(waiting.min()) if len(waiting) else None,
        failed=tuple(failed),
    )


def _require_common(whole: pd.DataFrame) -> None:
    """Refuse networks that forecast nothing in common: no test could compare them."""
    networks = [name for name in whole["model"].unique() if name != BESIDE]
    for horizon, rows in whole.groupby("horizon"):
        models = rows[rows["model"] != BESIDE]
        stated = models.groupby(["symbol", "origin"])["model"].nunique()
        if not (stated == models["model"].nunique()).any():
            raise ForecastError(
                f"{', '.join(networks)} have no forecast of {horizon} sessions in common. Score "
                f"one at a time: forecasts=live:{models['run'].iloc[0]}."
            )


def _read(folder: Path, run: str | None) -> Iterable[tuple[pd.DataFrame, dict[str, Any]]]:
    """The files of a record and what each is made of; networks are named by their configuration."""
    found = 0
    for path in sorted(folder.glob("*.parquet")):
        with open_parquet(path) as file:
            origin = json.loads((file.schema_arrow.metadata or {}).get(_META, b"{}"))
            if [f.name for f in file.schema_arrow] != LIVE_SCHEMA.names or not origin:
                raise ForecastError(f"{path}: no live record. Move it out of {folder}.")
            try:
                frame = file.read().to_pandas()
            except (OSError, pa.ArrowException) as error:
                raise ForecastError(
                    f"{path} is damaged: {' '.join(str(error).split())}. Move it out of {folder}."
                ) from error
        if run is not None and not frame["run"].iloc[0].startswith(run):
            continue
        found += 1
        names, run_name = frame["model"].astype(str).to_numpy(), frame["run"].iloc[0]
        configured = origin.get("configuration")
        network = f"{names[0]}-{configured}" if configured else run_name
        frame["model"] = np.where(names == BESIDE, BESIDE, network)
        frame["symbol"] = frame["symbol"].astype(str)
        yield frame, origin
    if not found:
        raise ForecastError(
            f"{folder}: no live forecast{'' if run is None else f' of {run}'}. Make one: "
            "python -m forecast.predict run=<name>."
        )


def _with_outcomes(rows: pd.DataFrame, prices: Prices, *, max_gap: int) -> tuple[pd.DataFrame, int]:
    """Rows with what became of them, and how many were made when their target had begun."""
    panel = make_panel(prices, FeatureSet(columns=["scale"]), market=None, max_gap=max_gap)
    place = {symbol: s for s, symbol in enumerate(panel.symbols)}
    calendars = prices.frame.get("calendar")
    pieces, late = [], 0
    for _, own in rows.groupby(["symbol", "delay"], sort=True):
        s = place.get(str(own["symbol"].iloc[0]))
        if s is None:  # its prices are gone, so nothing becomes known
            pieces.append(own)
            continue
        calendar = None if calendars is None else calendars.iloc[int(panel.offsets[s])]
        own, begun = _of_symbol(own, panel, s, None if pd.isna(calendar) else str(calendar))
        late += begun
        pieces.append(own)
    return pd.concat(pieces), late


def _of_symbol(
    rows: pd.DataFrame, panel: Panel, s: int, calendar: str | None
) -> tuple[pd.DataFrame, int]:
    """Of one symbol: its rows, which all have one delay, without those that were made late."""
    delay = int(rows["delay"].iloc[0])
    horizons = tuple(sorted({int(horizon) for horizon in rows["horizon"]}))
    outcomes = _outcomes(panel, s, Task(horizons=horizons, delay=delay))
    days = panel.dates[panel.day[panel.symbol_rows(s)]]
    origin = pd.to_datetime(rows["origin"]).to_numpy().astype("datetime64[D]")
    at = np.minimum(np.searchsorted(days, origin), len(days) - 1)
    there = days[at] == origin
    column = np.searchsorted(horizons, rows["horizon"].to_numpy())
    actual, realized = (np.where(there, value[at, column], np.nan) for value in outcomes[:2])
    target = outcomes[2][at, column]
    target[~there] = np.datetime64("NaT", "D")
    rows = rows.assign(
        actual=actual, realized_variance=realized, target_date=target.astype("datetime64[s]")
    )
    begins = at + delay + 1
    made = rows["made_at"].dt.tz_localize(None).to_numpy().astype("datetime64[s]")
    first_days = days[np.minimum(begins, len(days) - 1)]
    opened = np.array([opens_at(calendar, None, day) for day in first_days])
    late = there & (begins < len(days)) & (made >= opened)
    return rows[~late], int(late.sum())


def _outcomes(panel: Panel, s: int, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, realised variance and date of every target of one symbol, each (sessions, H)."""
    low, high = (np.zeros(len(panel.symbols), np.int64) for _ in range(2))
    low[s], high[s] = panel.offsets[s], panel.offsets[s + 1]
    bare = replace(panel, scale=np.ones_like(panel.scale))  # also where there is no scale yet
    block = make_block(bare, task, Range(low=low, high=high), np.array([s]))
    known = ~np.isnan(block.actual)
    date = panel.dates[panel.day[np.maximum(block.end, 0)]].astype("datetime64[D]")
    return (
        block.actual,
        np.where(known, block.realized_variance(), np.nan),
        np.where(known, date, np.datetime64("NaT", "D")),
    )


def _with_scores(rows: pd.DataFrame, head: Mapping[str, Any]) -> pd.DataFrame:
    """Scores of the densities, where the head is one of ours and has one."""
    unit = rows["scale"].to_numpy() * np.sqrt(rows["horizon"].to_numpy(np.float64))
    own = (rows["model"] != BESIDE).to_numpy()
    rows = rows.copy()
    for name in ("nll", "pit", "crps_exact"):
        rows[name] = np.nan
    said: list[tuple[np.ndarray, Distribution]] = []
    ones = np.ones(int((~own).sum()))
    said.append((~own, Gaussian(mu=0.0 * ones, sigma=ones)))
    if head["name"] in BUILT_IN and own.any():
        maker = make_head(head)
        parameters = np.stack(rows.loc[own, "parameters"].to_list())
        said.append((own, maker.distribution(parameters)))  # type: ignore[union-attr]
    actual = rows["actual"].to_numpy()
    for mine, distribution in said:
        y = actual[mine] / unit[mine]
        known = ~np.isnan(y)
        y = np.where(known, y, 0.0)
        nll, crps = distribution.nll(y), distribution.crps(y)
        for name, value in (
            ("nll", None if nll is None else nll + np.log(unit[mine])),
            ("pit", distribution.pit(y)),
            ("crps_exact", None if crps is None else crps * unit[mine]),
        ):
            if value is not None:
                rows.loc[mine, name] = np.where(known, value, np.nan)
    return rows
