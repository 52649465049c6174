"""What passes as simple returns, and the refusals of what does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecast.config import ForecastError
from forecast.portfolio.returns import along, simple_returns


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        ([0.01, math.nan], "nan"),
        ([0.01, math.inf], "inf"),
        ([0.01, -1.0], "-1 loses all"),
        ([1.2, -1.7, 0.3], r"np\.expm1"),
        ([], "no return"),
        (["a lot"], "Give numbers"),
        (pd.Series([0.01, 0.02], name="log_return"), "log_return holds log returns"),
        (pd.Series([0.01, 0.02], name="Log returns"), "expm1"),
        (pd.Series([0.01, 0.02], name="actual"), r"expm1\(values / 100\)"),
    ],
)
def test_what_is_no_simple_return_is_refused_in_one_line(returns: Any, said: str) -> None:
    with pytest.raises(ForecastError, match=said) as refusal:
        simple_returns(returns)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["simple_return", "catalogue", "logit top_k", None])
def test_other_names_are_welcome(name: str | None) -> None:
    assert simple_returns(pd.Series([0.01, 0.02], name=name)).tolist() == [0.01, 0.02]


def test_returns_of_many_series_share_one_value_a_session() -> None:
    returns = simple_returns([[0.01, 0.02, 0.0], [0.0, -0.01, 0.01]])
    assert along([1, 2, 3], returns, "cash_return_T").tolist() == [1, 2, 3]
    for wrong in ([1.0, 2.0], np.zeros((2, 3)), 0.0):
        with pytest.raises(ForecastError, match="cash_return_T has shape"):
            along(wrong, returns, "cash_return_T")
