"""Benchmarks: what they count and state, not what they measure."""

from __future__ import annotations

import json
import re
import resource
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from forecast import compose, load_prices
from forecast.config import plain
from forecast.dataset.datamodule import PriceDataModule
from forecast.models.configured import Config
from forecast.models.pipeline import make_datamodule
from forecast.train import train

ROOT = Path(__file__).parents[1]
CELLS = ("rnn", "lstm", "gru")
SMALL = (
    "trainer=cpu", "data.symbols=[AAPL,JPM,KO,WMT,XOM]", "data.start=2017-01-03",
    "split.validation=120", "window.length=80", "window.batch=8", "model.hidden_size=4",
    "ensemble=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The modules of benchmarks/, which import each other by name."""
    names = ("machine", "training", "contestants", "compare", "profile_run", "gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield SimpleNamespace(**{name: import_module(name) for name in names})


@pytest.fixture(scope="module")
def config() -> Config:
    return plain(compose("train", list(SMALL)))


@pytest.fixture(scope="module")
def datamodule(config: Config) -> PriceDataModule:
    return make_datamodule(config, load_prices(config["data"]))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_products_are_as_many_as_torch_takes(
    scripts: SimpleNamespace, cell: str, layers: int
) -> None:
    batch, length, features, units = 2, 5, 3, 4
    # In double precision torch's modules are loops of products, which its counter sees.
    kind = scripts.training.TORCH[cell]
    module = kind(features, units, layers, batch_first=True, dtype=torch.float64)
    x = torch.randn(batch, length, features, dtype=torch.float64)
    state = torch.randn(layers, batch, units, dtype=torch.float64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        module(x, (state, state) if cell == "lstm" else state)[0].sum().backward()
    counted = batch * length * scripts.machine.products(cell, features, units, layers)
    assert counted == counter.get_total_flops()


def test_bytes_moved_are_those_of_the_arrays_read_and_written(scripts: SimpleNamespace) -> None:
    # 3 features, 5 units: features and states forward; states, slopes of the state and of the sums
    # backward; slopes, features and states for the weights.
    assert scripts.machine.moved("rnn", 3, 5) == 4 * (3 + 5 + 5 + 5 + 5 + 5 + 3 + 5)
    # A second layer reads five instead of three, twice, and hands their slopes down.
    first, both = (scripts.machine.moved("rnn", 3, 5, layers) for layers in (1, 2))
    assert both - first == first + 4 * (2 * (5 - 3) + 5)
    assert 2 * scripts.machine.moved("lstm", 3, 5, size=2) == scripts.machine.moved("lstm", 3, 5)


def test_training_as_fast_as_the_ceilings_is_all_of_them(
    scripts: SimpleNamespace, config: Config
) -> None:
    gpu, machine = scripts.gpu, scripts.machine
    speed = scripts.training.Speed(targets=1, sessions=600, steps=1, seconds=2.0)
    work = 300 * machine.products("lstm", 20, 4)
    most = gpu.Ceilings(4 * 300 * machine.moved("lstm", 20, 4, size=2), {"bf16": 2 * work})
    asked = {**config, "trainer": {**config["trainer"], "precision": "bf16"}}
    assert gpu.shares(speed, asked, 20, most) == gpu.Shares(bytes=0.25, products=0.5)


def test_without_a_gpu_one_line_says_so(
    scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert scripts.gpu.main() == 0
    assert re.fullmatch(r"torch sees no GPU.*\n", capsys.readouterr().out)


@pytest.mark.parametrize("members", [1, 2])
def test_an_epoch_is_counted_whole_and_the_first_not_at_all(
    scripts: SimpleNamespace, datamodule: PriceDataModule, config: Config, members: int
) -> None:
    speed = scripts.training.ours(datamodule, {**config, "ensemble": members}, 1)
    assert speed.targets == members * datamodule.ranges["train"].rows
    assert speed.steps % datamodule.steps == 0 and speed.sessions > speed.targets
    assert speed.seconds > 0


def test_a_fit_leaves_lightning_as_it_was(
    scripts: SimpleNamespace, datamodule: PriceDataModule, config: Config
) -> None:
    module = scripts.training.pl.LightningModule
    before = module.configure_callbacks
    history = scripts.training.fit(datamodule, config, 2)
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert module.configure_callbacks is before


def test_the_plain_loop_trains_on_targets_that_are_known(
    scripts: SimpleNamespace, datamodule: PriceDataModule, config: Config
) -> None:
    examples = scripts.training.ready(datamodule, 30)
    x_BLF, y_BLH = examples[0]
    assert x_BLF.shape == (8, 80, 20) and y_BLH.shape == (8, 40, 3)
    assert all(bool(y.isfinite().all()) for _, y in examples)
    speed = scripts.training.loop(datamodule, config, examples, 3)
    assert (speed.targets, speed.sessions, speed.steps) == (3 * 8 * 40, 3 * 8 * 80, 3)


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_every_part_of_a_step_has_its_time(
    scripts: SimpleNamespace, datamodule: PriceDataModule, config: Config, kernel: str
) -> None:
    asked = {**config, "model": {**config["model"], "kernel": kernel}}
    parts, targets = scripts.profile_run.step_parts(datamodule, asked, 1)
    assert set(parts) == {*scripts.profile_run.PARTS, "whole"}
    assert all(seconds > 0 for seconds in parts.values())
    assert 0 < targets <= 8 * (80 - 40)


def test_every_phase_of_the_command_has_its_time(
    scripts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from forecast.models import pipeline

    before, spent = pipeline.make_datamodule, defaultdict[str, float](float)
    with scripts.profile_run.phases(spent):
        train(compose("train", [*SMALL, "trainer.max_epochs=1", f"outputs={tmp_path}"]))
    assert pipeline.make_datamodule is before
    assert set(spent) == {"validation", *(name for name, *_ in scripts.profile_run.PHASES)}
    assert all(seconds > 0 for seconds in spent.values())


def peers(scripts: SimpleNamespace, folder: Path, text: str) -> Any:
    (folder / "script.py").write_text(text, encoding="utf-8")
    return scripts.contestants.Peers(Path(sys.executable), folder)


def test_another_library_is_told_steps_and_threads_and_its_lines_are_read(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    told = (
        "import json, os\nprint('a word')\n"
        "print(json.dumps({name: int(os.environ[name]) for name in ('STEPS', 'THREADS')}))\n"
        "print(json.dumps({'pinball19x2': 0.5}))\n"
    )
    found = peers(scripts, tmp_path, told).run("script", steps=7, threads=2)
    assert found == {"STEPS": 7, "THREADS": 2, "pinball19x2": 0.5}


def test_the_peak_memory_of_a_process_is_its_own(scripts: SimpleNamespace, tmp_path: Path) -> None:
    told = (
        "import json, resource\n"
        "print(json.dumps({'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))\n"
    )
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = peers(scripts, tmp_path, told).run("script", steps=1, threads=1)
    assert found["peak"] < ours / 5


def test_a_library_that_fails_is_told_with_its_last_words(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"script\.py failed: .*not installed"):
        peers(scripts, tmp_path, "raise SystemExit('not installed')").run(
            "script", steps=1, threads=1
        )


def test_contestants_have_a_turn_each_and_their_medians_are_told(
    scripts: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def contestant(name: str) -> dict[str, Any]:
        order.append(name)
        return {"name": name, "seconds": [5.0, 1.0, 2.0][order.count(name) - 1]}

    told = scripts.contestants.in_turn(
        3, {"a": lambda: contestant("a"), "b": lambda: contestant("b")}
    )
    assert order == ["a", "b"] * 3
    assert told == {name: {"name": name, "seconds": 2.0} for name in "ab"}


FIT = {
    "windows_per_second": 600.0, "fit_seconds": 2.0, "eval_seconds": 0.5, "n_test_forecasts": 100,
    "n_test_rows": 300, "peak_rss_mb": 300.0, "crps": 0.98, "epochs": 1.0,
}  # fmt: skip
OTHER = {
    "library": "darts", "version": "1.0", "windows_per_second": 200.0, "fit_seconds": 60.0,
    "eval_seconds": 5.0, "n_test_forecasts": 100, "peak_rss_mb": 600.0, "pinball19x2": 0.9946,
}  # fmt: skip


def tables(scripts: SimpleNamespace, *, others: bool) -> str:
    """All tables of made-up figures."""
    compare = scripts.compare
    work = {
        "plain torch loop": {"windows_per_second": 400.0},
        "this project": FIT, scripts.contestants.SINGLE: FIT, scripts.contestants.ENSEMBLE: FIT,
        scripts.contestants.IN_MEMORY: {**FIT, "eval_seconds": 0.25},
        **({"darts": OTHER, "gluonts (19 quantiles)": OTHER} if others else {}),
    }  # fmt: skip
    row = {"torch": 1000.0, "ours": 2500.0, "share": 0.4, "ceiling": 1e11}
    sizes = {(cell, *size): row for size in scripts.contestants.SIZES for cell in CELLS}
    best = {scripts.contestants.BEST: OTHER} if others else {}
    reached = {bar: {"lstm": FIT, **best} for bar in scripts.contestants.BARS}
    ensemble = {"1": {"fit_seconds": 2.0}, "5": {"fit_seconds": 5.0}}
    lines = [
        *compare.work_table(work), *compare.cells_table(sizes), *compare.race_table(reached),
        compare.members_line(ensemble), *compare.ratios(work, sizes, reached, ensemble),
    ]  # fmt: skip
    return "\n".join(lines)


def test_the_tables_state_rates_and_ratios(scripts: SimpleNamespace) -> None:
    text = tables(scripts, others=True)
    assert "| darts 1.0 | 200 | 20 | 20 | 600 |" in text
    assert "| this project | 600 | 200 | 600 | 300 |" in text
    assert "| `gru`, default | 32 | 32 | 1,000 | 2,500 | 2.50 | 40 % |" in text
    assert "| 0.9946 (best of the other libraries) | `lstm` | 1 | 0.9800 | 2.00 | 1/30 |" in text
    assert "| `gru` | not within 30 |" in text
    assert "over other libraries' | darts 3 |" in text
    assert "before it is validated and written | darts 60, gluonts (19 quantiles) 60 |" in text
    assert "seconds of fitting five networks over one | 2.50 |" in text
    assert "imports included | darts 2 |" in text


def test_libraries_that_were_not_run_are_named_as_such(scripts: SimpleNamespace) -> None:
    text = tables(scripts, others=False)
    for name in (*scripts.contestants.LIBRARIES, *scripts.contestants.QUANTILES):
        assert f"| {name} | not measured here: see --peers |" in text
    assert f"| `{scripts.contestants.BEST}` | | | not measured here: see --peers |" in text


def test_a_table_goes_between_the_marks_of_a_text_and_nowhere_else(
    scripts: SimpleNamespace,
) -> None:
    compare = scripts.compare
    text = f"before\n{compare.BEGIN}\nold\n{compare.END}\nafter\n"
    assert compare.into(text, "new") == f"before\n{compare.BEGIN}\nnew\n{compare.END}\nafter\n"
    for whole in ("no marks\n", f"before\n{compare.BEGIN}\nold\nno end\n"):
        assert compare.into(whole, "new") == whole


@pytest.mark.parametrize("options", [[], ["--in-memory"]])
def test_one_fit_alone_states_what_other_libraries_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    datamodule: PriceDataModule,
    options: list[str],
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(
        sys, "argv", ["alone.py", *options, *SMALL, "trainer.max_epochs=1", "threads=1"]
    )
    import_module("alone").main()
    found = json.loads(capsys.readouterr().out)
    assert found["windows"] == datamodule.ranges["train"].rows
    assert found["windows_per_second"] == pytest.approx(found["windows"] / found["fit_seconds"])
    assert found["n_test_rows"] > 2 * found["n_test_forecasts"] > 0
    assert found["crps"] > 0 and found["peak_rss_mb"] > 50


def test_a_large_panel_goes_from_prices_to_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("FORECAST_HOME", str(tmp_path))  # put back afterwards
    asked = ["--symbols", "5", "--sessions", "900", "--threads", "1", "--files"]
    monkeypatch.setattr(sys, "argv", ["scale.py", *asked, "--folder", str(tmp_path)])
    import_module("scale").main()
    told = capsys.readouterr().out
    stages = ("prices", "their hash", "features", "facts", "one epoch", "inference",
              "forecasts written", "scores")  # fmt: skip
    assert [line.split("  ")[0] for line in told.splitlines()[:-1]] == list(stages)
    every = int(re.search(r"([\d,]+) origins", told)[1].replace(",", ""))  # type: ignore[index]
    rows = int(re.search(r"([\d,]+) rows of", told)[1].replace(",", ""))  # type: ignore[index]
    assert rows == 3 * every > 0
    assert not list(tmp_path.iterdir())


def test_the_table_of_recurrences_has_a_row_for_every_cell_and_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    recurrence = import_module("recurrence")
    monkeypatch.setattr(recurrence, "LARGE", 64)
    found = recurrence.rates(1, [4, 8], [8])
    assert list(zip(found["units"], found["cell"], strict=True)) == [
        (units, cell) for units in (4, 8) for cell in recurrence.CELLS
    ]
    assert (found[["torch, thousand/s", "fused, thousand/s"]] > 0).all(axis=None)
    ratio = found["fused, thousand/s"] / found["torch, thousand/s"]
    assert found["ratio"].tolist() == pytest.approx(ratio.tolist())
    assert len(recurrence.table(found)) == 2 + len(found)
    assert recurrence.trial.__module__ == "stacking"  # where processes of a pool look for it


def test_every_benchmark_of_the_makefile_is_there() -> None:
    named = re.findall(r"benchmarks/\w+\.py", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert "benchmarks/compare.py" in named
    assert all((ROOT / path).is_file() for path in named)
