"""The live record: written before anybody could know, scored as a backtest would have been."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.config import ForecastError
from forecast.dataset.features import FeatureSet
from forecast.dataset.folds import Range
from forecast.dataset.panel import Panel, make_panel
from forecast.dataset.task import Task
from forecast.dataset.windows import PanelTensors
from forecast.evaluation.live import LIVE_SCHEMA, Scored, score_record, write_record
from forecast.evaluation.newest import calendars_of, schedule
from forecast.forecasts import SCHEMA, ForecastWriter, read_forecasts
from forecast.models.baselines import EwmaNormal
from forecast.models.block import blocks
from forecast.models.ensemble import Ensemble
from forecast.models.named_heads import make_head
from forecast.models.networks import Network
from forecast.models.prediction import BESIDE, Prediction, predict_last
from forecast.prices.frame import Prices

PricesOf = Callable[..., Prices]
Cut = Callable[[Prices, np.datetime64], Prices]
KEY = ["model", "symbol", "origin", "horizon"]
OUTCOMES = ["target_date", "actual", "realized_variance", "nll", "pit", "crps_exact"]
NAME = "net-0123456789"


def ensemble_of(head: str, delay: int) -> Ensemble:
    maker = make_head({"name": head})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Network(cell="gru", features=2, horizons=2, parameters=maker.size, hidden_size=4)
    return Ensemble([network], maker, Task(horizons=(1, 5), delay=delay, length=60, warmup=25))


def panel_of(prices: Prices) -> Panel:
    return make_panel(prices, FeatureSet(columns=["return", "scale"]), market=None)


@dataclass
class Live:
    """A record of predictions on some prices, as they are known more and more."""

    folder: Path
    prices: Prices
    cut: Cut
    head: str = "student_t"
    delay: int = 0
    name: str = NAME

    @property
    def dates(self) -> np.ndarray:
        return np.unique(self.prices.frame["date"].to_numpy()).astype("datetime64[D]")

    @property
    def ensemble(self) -> Ensemble:
        return ensemble_of(self.head, self.delay)

    def known(self, day: np.datetime64) -> Prices:
        return self.cut(self.prices, day.astype("datetime64[s]"))

    def predicted(self, day: np.datetime64) -> Prediction:
        panel = panel_of(self.known(day))
        since = str(self.dates[30])
        return predict_last(self.ensemble, panel, model="net", since=since, threads=1)

    def write(
        self,
        day: np.datetime64,
        *,
        early: np.ndarray | None = None,
        made_at: np.datetime64 | None = None,
        data_hash: str | None = None,
    ) -> Path | None:
        """What is predicted at the close of a day, and recorded that evening."""
        prediction = self.predicted(day)
        rows = prediction.own.to_pandas()
        expected, begins = schedule(
            rows["symbol"].astype(str).tolist(),
            rows["origin"].to_numpy().astype("datetime64[D]"),
            rows["horizon"].to_numpy(),
            delay=self.delay,
            calendars=calendars_of(self.prices),
        )
        now = made_at if made_at is not None else (day + 0).astype("datetime64[s]") + 80_000
        return write_record(
            self.folder,
            prediction,
            expected_M=expected,
            early_M=begins > now if early is None else early,
            made_at=now,
            run=self.name,
            data_hash=data_hash or str(day),
            origin={"data": {"max_gap": 10}, "head": {"name": self.head}},
        )

    def score(self, day: np.datetime64, run: str | None = None) -> Scored:
        """The record by what is known at the close of a day."""
        return self.score_by(self.known(day), run)

    def score_by(self, prices: Prices, run: str | None = None) -> Scored:
        def load(section: Mapping[str, Any], symbols: Sequence[str]) -> Prices:
            frame = prices.frame[prices.frame["symbol"].isin(symbols)].reset_index(drop=True)
            frame["symbol"] = frame["symbol"].cat.remove_unused_categories()
            return replace(prices, frame=frame)

        return score_record(self.folder, run, load)

    def passed(self) -> pd.DataFrame:
        """What a run states and scores of all origins, with all that is known in the end."""
        panel, ensemble = panel_of(self.prices), self.ensemble
        task = ensemble.task
        low = np.maximum(panel.first_row(self.dates[30]), panel.offsets[:-1] + task.warmup)
        stop = panel.offsets[1:]
        rows = Range(low=low, high=stop, entry=panel.day[np.minimum(low, stop - 1)])
        tensors = PanelTensors(panel, horizons=task.horizons, delay=task.delay, device="cpu")
        baseline, tables = EwmaNormal(panel, task, rows), []
        for block in blocks(panel, task, rows):
            own, beside = ensemble.distribution(block, rows, tensors), baseline.distribution(block)
            tables.append(block.table(own, model=self.name, part="live", fold=0))
            tables.append(block.table(beside, model=BESIDE, part="live", fold=0))
        return keyed(pa.concat_tables(tables).to_pandas())


def keyed(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.astype({"model": str, "symbol": str, "part": str})
    for name in ("origin", "target_date"):
        frame[name] = pd.to_datetime(frame[name]).astype("datetime64[s]")
    return frame.set_index(KEY).sort_index()


@pytest.fixture
def live(random_prices: PricesOf, cut: Cut, tmp_path: Path) -> Callable[..., Live]:
    def live(seed: int = 1, folder: str = "live", **options: Any) -> Live:
        prices = random_prices(seed, symbols=5, sessions=80, staggered=False)
        return Live(tmp_path / folder, prices, cut, **options)

    return live


# Writing


def test_a_record_is_the_prediction_with_when_and_by_what(live: Callable[..., Live]) -> None:
    record = live()
    day = record.dates[60]
    path = record.write(day)
    assert path is not None and path.name.startswith(f"{day}-{NAME}-")
    table = pq.read_table(path)
    assert table.schema.names == LIVE_SCHEMA.names
    prediction = record.predicted(day)
    both = pa.concat_tables([prediction.own, prediction.beside]).unify_dictionaries()
    assert table.select(SCHEMA.names).to_pandas().equals(both.to_pandas())
    count = prediction.own.num_rows
    assert np.stack(table["parameters"].to_pylist()[:count]).tobytes() == (
        prediction.parameters_MP.tobytes()
    )
    assert table["parameters"].to_pylist()[count:] == [None] * count
    assert table["target_date"].null_count == table["actual"].null_count == 2 * count


def test_rows_whose_target_had_begun_are_not_written(live: Callable[..., Live]) -> None:
    record = live()
    count = record.predicted(record.dates[60]).own.num_rows
    early = np.arange(count) % 3 > 0
    path = record.write(record.dates[60], early=early)
    assert path is not None
    kept = pq.read_table(path).select(["model", "symbol", "horizon"]).to_pandas()
    whole = record.predicted(record.dates[60]).own.to_pandas()[early]
    for model in ("net", BESIDE):
        mine = kept[kept["model"] == model]
        assert mine["symbol"].tolist() == whole["symbol"].tolist()
        assert mine["horizon"].tolist() == whole["horizon"].tolist()
    none = live(folder="empty")
    assert none.write(none.dates[60], early=np.zeros(count, bool)) is None
    assert not none.folder.exists()


def test_what_is_there_keeps_its_bytes_and_its_time(live: Callable[..., Live]) -> None:
    record = live()
    day = record.dates[60]
    path = record.write(day)
    assert path is not None
    before = path.read_bytes(), path.stat().st_mtime_ns
    again = record.write(day, made_at=day.astype("datetime64[s]") + 85_000)
    assert again == path and (path.read_bytes(), path.stat().st_mtime_ns) == before
    other = record.write(day, data_hash="other prices")
    assert other != path and len(list(record.folder.iterdir())) == 2


@pytest.mark.parametrize("step", ["write_table", "fsync", "replace"])
def test_a_write_that_fails_leaves_no_record_and_the_next_one_is_whole(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    record = live()
    record.write(record.dates[60])
    before = {path: path.read_bytes() for path in record.folder.glob("*.parquet")}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq if step == "write_table" else os, step, fail)
        with pytest.raises(OSError, match="No space left"):
            record.write(record.dates[61])
    assert {path: path.read_bytes() for path in record.folder.glob("*.parquet")} == before
    path = record.write(record.dates[61])
    assert path is not None and path not in before
    assert record.score(record.dates[79]).known > 0  # no torn file is in the way


# Scoring


@pytest.mark.parametrize("head", ["student_t", "skewed_t", "gaussian", "quantile", "point"])
@pytest.mark.parametrize("delay", [0, 1])
def test_scores_are_those_of_a_run_over_the_same_rows(
    live: Callable[..., Live], head: str, delay: int
) -> None:
    """Every column, with outcomes and scores of densities, is that of the run's own table."""
    record = live(head=head, delay=delay)
    days = record.dates[[55, 56, 60, 70, 79]]
    for day in days:
        record.write(day)
    scored = record.score(record.dates[79])
    stored = keyed(read_forecasts(scored.path))
    expected = record.passed()
    assert set(stored["part"]) == {"live"}
    assert len(stored) > 60 and scored.known == stored["actual"].notna().sum() > 40
    theirs = expected.loc[stored.index, stored.columns]
    pd.testing.assert_frame_equal(stored, theirs, check_exact=True, check_dtype=False)
    unknown = stored["actual"].isna()
    assert unknown.any() and stored.loc[unknown, OUTCOMES[2:]].isna().all(axis=None)
    assert scored.repeated == scored.late == 0


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), stop=st.integers(56, 79))
def test_whatever_is_known_so_far_is_scored_as_it_will_be_in_the_end(
    random_prices: PricesOf,
    cut: Cut,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    stop: int,
) -> None:
    prices = random_prices(seed, symbols=4, sessions=80)
    record = Live(tmp_path_factory.mktemp("live"), prices, cut)
    if record.write(prices.frame["date"].to_numpy()[0:1].astype("datetime64[D]")[0] + 74) is None:
        return  # all symbols ended long before
    day = record.dates[min(stop, len(record.dates) - 1)]
    try:
        scored = record.score(day)
    except ForecastError as error:
        assert "no target of the live record is known yet" in str(error)
        return
    stored, expected = keyed(read_forecasts(scored.path)), record.passed()
    known = stored["actual"].notna()
    theirs = expected.loc[stored.index, OUTCOMES][known]
    pd.testing.assert_frame_equal(stored.loc[known, OUTCOMES], theirs, check_exact=True)


def test_an_origin_predicted_again_counts_as_it_was_first(live: Callable[..., Live]) -> None:
    """Whoever sees prices corrected later cannot replace what they said before."""
    record = live()
    day = record.dates[60]
    first = record.write(day)
    assert first is not None
    moved = replace(record.prices, frame=record.prices.frame.assign())
    shift = np.exp(np.random.default_rng(0).normal(0, 0.01, len(moved.frame)))
    moved.frame["close"] *= np.where(moved.frame["date"] < day.astype("datetime64[s]"), shift, 1)
    later = replace(record, prices=moved)
    later.write(day, data_hash="corrected", made_at=day.astype("datetime64[s]") + 85_000)
    rows = pq.read_table(first).num_rows // 2  # of the networks
    scored = record.score(record.dates[79])
    assert scored.repeated == rows and f"{rows} predicted again later" in scored.told
    stored = keyed(read_forecasts(scored.path))
    expected = record.passed().loc[stored.index]
    assert stored["mean"].to_numpy().tobytes() == expected["mean"].to_numpy().tobytes()


def test_a_record_made_when_its_target_had_begun_is_left_out_and_counted(
    live: Callable[..., Live],
) -> None:
    """By the clock in the file, not by what its writer thought: 14:30 UTC opens New York."""
    record = live()
    record.prices = replace(
        record.prices,
        frame=record.prices.frame.assign(
            calendar=pd.Categorical(["XNYS"] * len(record.prices.frame))
        ),
    )
    day, following = record.dates[60], record.dates[61]
    count = record.predicted(day).own.num_rows
    symbols = record.predicted(day).own.to_pandas()
    here = symbols["origin"].to_numpy().astype("datetime64[D]") == day
    opens = np.datetime64(f"{following}T13:30:00", "s")  # summer time, since 8 March
    record.write(day, early=here, made_at=opens - 1)
    scored = record.score(record.dates[79])
    assert scored.late == 0
    other = live(folder="late")
    other.prices = record.prices
    other.write(day, early=here, made_at=opens)
    other.write(record.dates[65])
    scored = other.score(record.dates[79])
    assert scored.late == 2 * here.sum() > 0 and count >= here.sum()
    assert f"{scored.late} made when their target had begun" in scored.told
    origins = read_forecasts(scored.path)["origin"]
    assert (origins > day.astype("datetime64[s]")).all()


def test_a_record_of_which_all_was_made_late_is_told(live: Callable[..., Live]) -> None:
    """There is no row to score, and never will be."""
    record = live()
    count = record.predicted(record.dates[60]).own.num_rows
    record.write(
        record.dates[60],
        early=np.ones(count, bool),
        made_at=record.dates[70].astype("datetime64[s]"),
    )
    with pytest.raises(ForecastError, match="had begun") as caught:
        record.score(record.dates[79])
    assert "\n" not in str(caught.value)


def test_a_target_that_has_not_begun_is_not_late(live: Callable[..., Live]) -> None:
    """With a delay of one it begins at the close after the origin's, not on that day's opening."""
    record = live(delay=1)
    record.write(record.dates[50])
    day, following = record.dates[60], record.dates[61]
    count = record.predicted(day).own.num_rows
    noon = following.astype("datetime64[s]") + 43_200
    record.write(day, early=np.ones(count, bool), made_at=noon)
    rows = record.predicted(day).own.to_pandas()
    behind = 2 * int((rows["origin"].to_numpy().astype("datetime64[D]") < day).sum())
    for until in (61, 62, 79):
        assert record.score(record.dates[until]).late == behind


def test_nothing_known_is_told_with_the_date_to_wait_for(live: Callable[..., Live]) -> None:
    record = live()
    day = record.dates[60]
    record.write(day)
    with pytest.raises(ForecastError) as caught:
        record.score(day)
    message = str(caught.value)
    assert "\n" not in message and "no target of the live record is known yet" in message
    expected = pd.concat(pd.read_parquet(p) for p in record.folder.glob("*.parquet"))
    assert str(expected["expected_date"].min()) in message


def test_the_next_date_is_that_of_the_first_target_still_unknown(
    live: Callable[..., Live],
) -> None:
    record = live()
    record.write(record.dates[70])
    scored = record.score(record.dates[72])
    stored = read_forecasts(scored.path)
    assert set(stored[stored["actual"].isna()]["horizon"]) >= {5}
    assert scored.next_date is not None
    assert f"the next target is expected on {scored.next_date}" in scored.told
    done = record.score(record.dates[79])
    if read_forecasts(done.path)["actual"].notna().all():
        assert done.next_date is None


def test_a_split_since_then_moves_no_return(live: Callable[..., Live]) -> None:
    record = live()
    record.write(record.dates[60])
    before = keyed(read_forecasts(record.score(record.dates[79]).path))
    frame = record.prices.frame
    factor = np.where(frame["symbol"] == "S1", 7.0, 1.0)
    divided = replace(record.prices, frame=frame.assign(close=frame["close"] / factor))
    after = keyed(read_forecasts(record.score_by(divided).path))
    numbers = [c for c in after.columns if c not in ("part", "target_date", "fold")]
    np.testing.assert_allclose(after[numbers], before[numbers], rtol=1e-9, atol=1e-10)
    assert after["target_date"].equals(before["target_date"])


def test_an_origin_that_is_no_session_any_more_has_no_outcome(live: Callable[..., Live]) -> None:
    """Its row was withdrawn; a return from another day would be another target."""
    record = live()
    day = record.dates[60]
    record.write(day)
    frame = record.prices.frame
    gone = (frame["symbol"] == "S2") & (frame["date"] == day.astype("datetime64[s]"))
    assert gone.any()
    scored = record.score_by(
        replace(record.prices, frame=frame[~gone.to_numpy()].reset_index(drop=True))
    )
    stored = keyed(read_forecasts(scored.path))
    withdrawn = stored.index.get_level_values("symbol") == "S2"
    assert stored.loc[withdrawn, OUTCOMES].isna().all(axis=None)
    assert stored.loc[~withdrawn, "actual"].notna().any()


def test_a_symbol_whose_prices_are_gone_stays_unknown(live: Callable[..., Live]) -> None:
    record = live()
    record.write(record.dates[60])
    frame = record.prices.frame
    left = frame[(frame["symbol"] != "S2").to_numpy()].reset_index(drop=True)
    left["symbol"] = left["symbol"].cat.remove_unused_categories()
    scored = record.score_by(replace(record.prices, frame=left))
    stored = keyed(read_forecasts(scored.path))
    lost = stored.index.get_level_values("symbol") == "S2"
    assert lost.any() and stored.loc[lost, "actual"].isna().all()


def test_a_head_of_somebodys_own_is_scored_without_a_density(live: Callable[..., Live]) -> None:
    """Scoring imports nothing that a file names."""
    record = live()
    prediction = record.predicted(record.dates[60])
    count = prediction.own.num_rows
    write_record(
        record.folder,
        prediction,
        expected_M=np.full(count, record.dates[61]),
        early_M=np.ones(count, bool),
        made_at=record.dates[60].astype("datetime64[s]"),
        run=NAME,
        data_hash="x",
        origin={"data": {"max_gap": 10}, "head": {"name": "no_such_module.MyHead"}},
    )
    stored = keyed(read_forecasts(record.score(record.dates[79]).path))
    own, beside = stored.loc[NAME], stored.loc[BESIDE]
    assert own[["nll", "pit", "crps_exact"]].isna().all(axis=None)
    assert beside.loc[beside["actual"].notna(), ["nll", "pit"]].notna().all(axis=None)
    assert own["actual"].notna().any()


# Several runs


def test_several_runs_are_scored_beside_one_benchmark(live: Callable[..., Live]) -> None:
    one, two = live(), live(name="net-9999999999", head="gaussian")
    for record in (one, two):
        record.write(record.dates[60])
    scored = one.score(one.dates[79])
    stored = keyed(read_forecasts(scored.path))
    models = stored.index.get_level_values("model")
    assert set(models) == {one.name, two.name, BESIDE}
    assert models.value_counts().nunique() == 1
    for record in (one, two):
        theirs = record.passed().loc[[record.name]]
        own = stored.loc[[record.name]]
        pd.testing.assert_frame_equal(
            own, theirs.loc[own.index, own.columns], check_exact=True, check_dtype=False
        )
    alone = one.score(one.dates[79], "net-9999")
    assert set(read_forecasts(alone.path)["model"]) == {two.name, BESIDE}
    assert alone.path != scored.path


def test_the_shared_benchmark_is_no_prediction_made_again(live: Callable[..., Live]) -> None:
    """What the count says is that somebody predicted twice, and nobody did."""
    for record in (live(), live(name="net-9999999999")):
        record.write(record.dates[60])
    assert record.score(record.dates[79]).repeated == 0


def test_runs_of_different_delays_have_targets_of_their_own(live: Callable[..., Live]) -> None:
    """On the same symbols and the same data, a delay of one begins a session later."""
    one, two = live(), live(name="net-9999999999", delay=1)
    for record in (one, two):
        record.write(record.dates[60])
    stored = keyed(read_forecasts(one.score(one.dates[79]).path))
    for record in (one, two):
        theirs, own = record.passed().loc[[record.name]], stored.loc[[record.name]]
        pd.testing.assert_frame_equal(
            own[OUTCOMES], theirs.loc[own.index, OUTCOMES], check_exact=True
        )


def test_no_record_is_told_with_the_command_that_makes_one(live: Callable[..., Live]) -> None:
    record = live()
    for run in (None, "lstm-0000000000"):
        with pytest.raises(ForecastError, match=r"no live forecast.*forecast\.predict") as caught:
            record.score(record.dates[79], run)
        assert "\n" not in str(caught.value)
    record.write(record.dates[60])
    with pytest.raises(ForecastError, match="no live forecast of lstm-0000000000"):
        record.score(record.dates[79], "lstm-0000000000")


# Files that are no record


def foreign(path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(path)


def forecasts(path: Path) -> None:
    with ForecastWriter(path):
        pass


def truncated(path: Path) -> None:
    content = next(p for p in path.parent.glob("2*.parquet")).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def overwritten(path: Path) -> None:
    content = bytearray(next(p for p in path.parent.glob("2*.parquet")).read_bytes())
    content[4 : len(content) // 4] = bytes(len(content) // 4 - 4)
    path.write_bytes(content)


def bare(path: Path) -> None:
    """The right columns, and nothing of where they came from: as another program writes them."""
    table = pq.read_table(next(p for p in path.parent.glob("2*.parquet")))
    pq.write_table(table.replace_schema_metadata(None), path)


def text(path: Path) -> None:
    path.write_text("not a table")


@pytest.mark.parametrize("spoil", [foreign, forecasts, truncated, overwritten, bare, text])
def test_a_file_that_is_no_record_is_named(
    live: Callable[..., Live], spoil: Callable[[Path], None]
) -> None:
    record = live()
    record.write(record.dates[60])
    stranger = record.folder / "spoilt.parquet"
    spoil(stranger)
    with pytest.raises(ForecastError, match=r"spoilt\.parquet") as caught:
        record.score(record.dates[79])
    assert "\n" not in str(caught.value)
