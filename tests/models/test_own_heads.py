"""A user's own head: tried before it trains, part of the run's id, loaded only if allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch

from forecast.config import ForecastError
from forecast.models.ensemble import load_ensemble
from forecast.models.named_heads import make_head, own_head_sha256
from forecast.models.options import check_options
from forecast.models.pipeline import fit_ensemble, make_datamodule
from forecast.prices.frame import Prices

CODE = '''
import numpy as np
import torch
from forecast.models.heads import GaussianHead, PointHead
from forecast.models.distributions import Distribution, Gaussian

class Scaled(GaussianHead):
    """Normal with a standard deviation that is multiplied."""
    def __init__(self, *, factor: float = 1.0):
        self.factor = factor
    def domain(self, raw_P):
        mu, sigma = super().domain(raw_P).unbind(-1)
        return torch.stack([mu, self.factor * sigma], dim=-1)
'''
# What a rule-breaking head overrides, and what is said of it.
BROKEN = {
    "size = 0": "size must be a whole number above 0",
    "def domain(self, raw_P): return super().domain(raw_P)[..., :1]": r"domain must be of the sha",
    "def domain(self, raw_P): return super().domain(raw_P) / 0": "domain must be finite",
    "def loss(self, p, y): return super().loss(p, y).mean()": "loss must be of the shape",
    "def loss(self, p, y): return (0 * y - p[..., 1]).log()": "loss must be finite",
    "def loss(self, p, y): return y": "RuntimeError",
    "def loss(self, p, y): return (super().loss(p, y) * 0).sqrt()": "of a finite gradient",
    "def distribution(self, p): return Distribution(mean=p[:1, 0])": r"\(…\)\.mean must",
    "def distribution(self, p): return Distribution(mean=p[:, 0], quantiles=np.ones((len(p), 3)))":
        r"distribution\(…\)\.quantiles must be None or of",
    "def distribution(self, p): return Distribution(mean=p[:, 0], "
    "quantiles=-np.arange(21) + np.zeros((len(p), 1)))": r"quantiles must be ascending",
    "def start(self, y): return [0.0]": "start must be 2 numbers",
    "def start(self, y): return [0.0, float('nan')]": "start must be finite",
    "distribution = None": "TypeError",
}  # fmt: skip

Own = Callable[..., str]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Own:
    """Write a user's module in the current directory; gives the dotted name of a class in it."""
    monkeypatch.syspath_prepend(tmp_path)

    def own(override: str = "") -> str:
        module = f"heads_{crc32((request.node.name + override).encode())}"
        code = f"\nclass Broken(GaussianHead):\n    {override}\n" if override else ""
        (tmp_path / f"{module}.py").write_text(CODE + code)
        return f"{module}.{'Broken' if override else 'Scaled'}"

    return own


def test_an_own_head_is_made_with_its_own_options(own: Own) -> None:
    dotted = own()
    head = make_head({"name": dotted, "factor": 2.0})
    raw = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    normal = make_head({"name": "gaussian"}).domain(raw)
    torch.testing.assert_close(head.domain(raw)[:, 1], 2 * normal[:, 1])
    with pytest.raises(ForecastError, match=r"head\.factr is unknown: did you mean factor"):
        make_head({"name": dotted, "factr": 2.0})
    with pytest.raises(ForecastError, match=r'head\.factor="a" is not a number'):
        make_head({"name": dotted, "factor": "a"})


@pytest.mark.parametrize(("override", "told"), BROKEN.items())
def test_a_head_that_breaks_a_rule_is_refused_in_one_line(
    own: Own, override: str, told: str
) -> None:
    with pytest.raises(ForecastError, match=told) as caught:
        make_head({"name": own(override)})
    assert "\n" not in str(caught.value)
    assert "head.name=heads_" in str(caught.value)


@pytest.mark.parametrize("name", ["no_module_of.Mine", "json.Mine", "math.pi", ".Mine", "json."])
def test_what_cannot_be_imported_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ForecastError, match=r"cannot be used .*Give module\.Class") as caught:
        make_head({"name": name})
    assert "\n" not in str(caught.value)


def test_a_run_trained_with_an_own_head_loads_only_if_it_is_allowed_by_name(
    own: Own, config: Any, prices: Prices, tmp_path: Path
) -> None:
    # Numbers of numpy are taken too; the checkpoint holds Python's.
    dotted = own("def start(self, y): return list(__import__('numpy').array([0.1, 0.2]))")
    chosen = config(f"head.name={dotted}")
    datamodule = make_datamodule(chosen, prices)
    fit_ensemble(chosen, datamodule, tmp_path / "run", say=lambda line: None)
    load = {"folder": tmp_path / "run", "members": 1, "task": datamodule.task}
    for allow in ([], ["heads_of.Others"]):
        with pytest.raises(ForecastError, match=r"load_run\(\.\.\., allow=\['heads_"):
            load_ensemble(**load, allow=allow)
    ensemble = load_ensemble(**load, allow=[dotted])
    assert type(ensemble.head).__name__ == "Broken"
    assert np.isfinite(ensemble.networks[0].readout.bias.detach().numpy()).all()


def test_the_code_of_an_own_head_is_in_the_id(own: Own, config: Any, tmp_path: Path) -> None:
    dotted = own()
    before = check_options(config(f"head.name={dotted}"))[1]
    assert before == own_head_sha256(dotted) != ""
    file = tmp_path / f"{dotted.partition('.')[0]}.py"
    file.write_text(file.read_text() + "\n# another head\n")
    assert check_options(config(f"head.name={dotted}"))[1] != before
    assert check_options(config())[1] == "", "built-in heads are named by the package's version"
