"""Heads and their distributions against scipy, scoringrules and numerical integration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scoringrules
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import gammaln, ndtri

from forecast.config import ForecastError
from forecast.forecasts import LEVELS
from forecast.models.distributions import Distribution, Gaussian, SkewedT, StudentT
from forecast.models.heads import HEADS

DENSITIES = ["student_t", "skewed_t", "gaussian"]
# Spans what the heads can state and, with df up to infinity, what a baseline may.
degrees = st.floats(2.01, 1e4) | st.just(np.inf)
skews = st.floats(-0.95, 0.95)
targets = st.floats(-50, 50)


def parameters(name: str, *, rows: int = 50, seed: int = 0) -> torch.Tensor:
    """Parameters of a head anywhere in its domain, in float64."""
    head = HEADS[name]()
    generator = torch.Generator().manual_seed(seed)
    raw = 3 * torch.randn(rows, head.size, generator=generator, dtype=torch.float64)
    return head.domain(raw)


def hansen(y: Any, eta: float, skew: float) -> Any:
    """Density of Hansen (1994), equation 10, written out."""
    c = np.exp(gammaln((eta + 1) / 2) - gammaln(eta / 2)) / np.sqrt(np.pi * (eta - 2))
    a = 4 * skew * c * (eta - 2) / (eta - 1)
    b = np.sqrt(1 + 3 * skew**2 - a**2)
    side = np.where(y < -a / b, 1 - skew, 1 + skew)
    return b * c * (1 + ((b * y + a) / side) ** 2 / (eta - 2)) ** (-(eta + 1) / 2)


# Heads


def test_raw_zero_is_a_standard_start() -> None:
    start = {name: HEADS[name]().domain(torch.zeros(HEADS[name]().size)) for name in HEADS}
    torch.testing.assert_close(start["student_t"], torch.tensor([0.0, 1.0, 6.0]))
    torch.testing.assert_close(start["skewed_t"], torch.tensor([0.0, 1.0, 6.0, 0.0]))
    torch.testing.assert_close(start["gaussian"], torch.tensor([0.0, 1.0]))
    expected = torch.tensor(ndtri(LEVELS), dtype=torch.float32)
    torch.testing.assert_close(start["quantile"], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(start["point"], torch.tensor([0.0]))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("y", [0.0, 1e-30, 1.0, -1e4, 1e4])
def test_loss_and_gradient_are_finite_at_extremes(name: str, y: float) -> None:
    head = HEADS[name]()
    corners = torch.cartesian_prod(*[torch.tensor([-1e4, -20.0, 0.0, 20.0, 1e4])] * 2)
    raw = torch.zeros(len(corners), head.size)
    raw[:, 0] = corners[:, 0].clamp(-20, 20)
    raw[:, 1:] = corners[:, 1:]
    raw.requires_grad_()
    loss = head.loss(head.domain(raw), torch.tensor(y).expand(len(corners)))
    (gradient,) = torch.autograd.grad(loss.sum(), raw)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_those_of_the_loss(name: str) -> None:
    head = HEADS[name]()
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(7, head.size, generator=generator, dtype=torch.float64, requires_grad=True)
    y = 2 * torch.randn(7, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda raw: head.loss(head.domain(raw), y), (raw,))


@pytest.mark.parametrize("name", DENSITIES)
def test_loss_is_the_nll_of_the_distribution(name: str) -> None:
    head, value = HEADS[name](), parameters(name)
    y = torch.linspace(-8, 8, len(value), dtype=torch.float64)
    nll = head.distribution(value.numpy()).nll(y.numpy())
    np.testing.assert_allclose(head.loss(value, y), nll, rtol=0, atol=1e-7)
    single = head.loss(value.float(), y.float())
    np.testing.assert_allclose(single, nll, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DENSITIES)
def test_mu_and_sigma_are_mean_and_standard_deviation(name: str) -> None:
    value = parameters(name).numpy()
    said = HEADS[name]().distribution(value)
    np.testing.assert_allclose(said.mean, value[:, 0], atol=1e-12)
    np.testing.assert_allclose(said.std, value[:, 1], rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(raw=st.lists(st.floats(-60, 60, width=32), min_size=21, max_size=21))
def test_quantiles_of_the_quantile_head_never_cross(raw: list[float]) -> None:
    head = HEADS["quantile"]()
    assert (head.domain(torch.tensor(raw)).diff() >= 0).all()


def test_quantile_loss_is_twice_the_mean_pinball_loss() -> None:
    head, value = HEADS["quantile"](), parameters("quantile")
    y = torch.linspace(-8, 8, len(value), dtype=torch.float64)
    expected = scoringrules.crps_quantile(y.numpy(), value.numpy(), np.array(LEVELS))
    np.testing.assert_allclose(head.loss(value, y), expected, rtol=1e-12)


def test_the_quantile_head_states_quantiles_and_the_mean_of_the_inner_levels() -> None:
    value = parameters("quantile").numpy()
    said = HEADS["quantile"]().distribution(value)
    np.testing.assert_allclose(said.mean, [row[1:20].sum() / 19 for row in value])
    np.testing.assert_array_equal(said.quantiles, value)
    unsaid = [said.std, said.nll(0), said.pit(0), said.crps(0), said.expected_shortfall(0.05)]
    assert unsaid == [None] * 5


@pytest.mark.parametrize(("loss", "expected"), [("mse", 6.25), ("mae", 2.5), ("huber", 2.0)])
def test_the_point_head_states_a_mean_alone(loss: str, expected: float) -> None:
    head = HEADS["point"](loss=loss)
    assert head.loss(torch.tensor([[0.5]]), torch.tensor([3.0])).tolist() == [expected]
    said = head.distribution(np.array([[0.5], [1.0]]))
    assert said.mean.tolist() == [0.5, 1]
    assert (said.std, said.quantiles) == (None, None)


def test_an_unknown_loss_is_refused_by_name() -> None:
    with pytest.raises(ForecastError, match=r"head.loss=rmse is unknown. Use one of mse, mae"):
        HEADS["point"](loss="rmse")


@pytest.mark.parametrize("name", HEADS)
def test_heads_keep_dtype_device_and_leading_axes(name: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head = HEADS[name]()
    raw = torch.zeros(2, 3, 4, head.size, dtype=torch.float64, device=device)
    value = head.domain(raw)
    loss = head.loss(value, torch.ones(2, 3, 4, dtype=torch.float64, device=device))
    assert (value.shape, value.dtype, value.device) == (raw.shape, raw.dtype, raw.device)
    assert (loss.shape, loss.dtype, loss.device) == ((2, 3, 4), raw.dtype, raw.device)
    said = head.distribution(value.cpu().numpy())
    assert said.mean.shape == (2, 3, 4)
    assert said.quantiles is None or said.quantiles.shape == (2, 3, 4, 21)


@pytest.mark.parametrize("name", DENSITIES)
def test_a_row_does_not_depend_on_the_rows_beside_it(name: str) -> None:
    # A run on data cut at t must give the same bits as the full one up to t.
    value, y = parameters(name, rows=1000).numpy(), np.linspace(-5, 5, 1000)

    def statements(rows: slice) -> list[Any]:
        said = HEADS[name]().distribution(value[rows])
        at = y[rows]
        es = said.expected_shortfall(0.05)
        return [said.mean, said.std, said.quantiles, said.nll(at), said.pit(at), said.crps(at), es]

    whole = statements(slice(None))
    for rows in (slice(0, 1), slice(3, 10), slice(517, 1000)):
        for some, all_of_them in zip(statements(rows), whole, strict=True):
            np.testing.assert_array_equal(some, all_of_them[rows])


# Distributions


def test_t_quantiles_are_within_1e_5_of_scipy() -> None:
    df = np.r_[np.geomspace(2.001, 1e6, 3000), np.inf]
    found = StudentT(mu=0, sigma=np.ones_like(df), df=df).quantiles
    expected = np.where(
        np.isinf(df)[:, None], ndtri(LEVELS), stats.t.ppf(LEVELS, np.minimum(df, 1e9)[:, None])
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(df=degrees, mu=st.floats(-3, 3), sigma=st.floats(0.01, 10), y=targets)
def test_student_t_agrees_with_scipy_and_scoringrules(
    df: float, mu: float, sigma: float, y: float
) -> None:
    said = StudentT(mu=mu, sigma=sigma, df=df)
    peer = stats.t(min(df, 1e8), mu, sigma)
    np.testing.assert_allclose(said.nll(y), -peer.logpdf(y), atol=1e-7)
    np.testing.assert_allclose(said.pit(y), peer.cdf(y), atol=1e-8)
    np.testing.assert_allclose(said.std, peer.std(), rtol=1e-7)
    crps = scoringrules.crps_t(y, min(df, 1e6), mu, sigma)
    np.testing.assert_allclose(said.crps(y), crps, rtol=1e-5, atol=1e-6 * sigma)


@settings(max_examples=20, deadline=None)
@given(mu=st.floats(-3, 3), sigma=st.floats(0.01, 10), y=targets)
def test_gaussian_agrees_with_scipy_and_scoringrules(mu: float, sigma: float, y: float) -> None:
    said, peer = Gaussian(mu=mu, sigma=sigma), stats.norm(mu, sigma)
    np.testing.assert_allclose(said.nll(y), -peer.logpdf(y))
    np.testing.assert_allclose(said.pit(y), peer.cdf(y), atol=1e-12)
    np.testing.assert_allclose(said.quantiles, peer.ppf(LEVELS))
    np.testing.assert_allclose(said.crps(y), scoringrules.crps_normal(y, mu, sigma), atol=1e-9)
    limit = StudentT(mu=mu, sigma=sigma, df=np.inf)
    np.testing.assert_allclose(said.quantiles, limit.quantiles, atol=1e-6 * sigma)
    np.testing.assert_allclose(said.crps(y), limit.crps(y), atol=1e-6 * sigma)


@settings(max_examples=15, deadline=None)
@given(df=st.floats(2.1, 200), skew=skews, y=st.floats(-6, 6))
def test_skewed_t_is_hansens_density_with_its_exact_integrals(
    df: float, skew: float, y: float
) -> None:
    said = SkewedT(mu=0, sigma=1, df=df, skew=skew)
    np.testing.assert_allclose(said.nll(y), -np.log(hansen(y, df, skew)), atol=1e-9)

    def integral(f: Any, low: float, high: float) -> float:
        # Split where the density has its kink and where its bulk ends.
        c = np.exp(gammaln((df + 1) / 2) - gammaln(df / 2)) / np.sqrt(np.pi * (df - 2))
        a = 4 * skew * c * (df - 2) / (df - 1)
        mode = -a / np.sqrt(1 + 3 * skew**2 - a**2)
        knots = np.clip([low, -20, -5, mode, 5, 20, high], low, high)
        return sum(
            integrate.quad(f, *ends, epsabs=1e-10, limit=200)[0]
            for ends in zip(knots[:-1], knots[1:], strict=True)
            if ends[0] < ends[1]
        )

    def cdf(x: float) -> Any:
        return said.pit(x)

    np.testing.assert_allclose(
        cdf(y), integral(lambda x: hansen(x, df, skew), -np.inf, y), atol=1e-8
    )
    crps = integral(lambda x: cdf(x) ** 2, -np.inf, y)
    crps += integral(lambda x: (1 - cdf(x)) ** 2, y, np.inf)
    np.testing.assert_allclose(said.crps(y), crps, atol=1e-6)
    np.testing.assert_allclose([cdf(q) for q in said.quantiles], LEVELS, atol=1e-9)
    for level, quantile in ((0.01, said.quantiles[0]), (0.05, said.quantiles[1])):
        mean = integral(lambda x: x * hansen(x, df, skew), -np.inf, quantile) / level
        np.testing.assert_allclose(said.expected_shortfall(level), mean, rtol=1e-5)


def test_without_skew_hansens_t_is_the_t() -> None:
    df = np.geomspace(2.05, 1000, 50)
    y = np.linspace(-4, 4, 50)
    skewed = SkewedT(mu=0.1, sigma=2, df=df, skew=0)
    plain = StudentT(mu=0.1, sigma=2 * np.sqrt((df - 2) / df), df=df)
    np.testing.assert_allclose(skewed.quantiles, plain.quantiles, atol=1e-8)
    np.testing.assert_allclose(skewed.crps(y), plain.crps(y), atol=1e-12)


@pytest.mark.parametrize("level", [0.005, 0.01, 0.05, 0.5])
def test_expected_shortfall_is_the_mean_of_the_quantiles_below(level: float) -> None:
    u = (np.arange(200_000) + 0.5) / 200_000 * level
    for said, peer in (
        (Gaussian(mu=0.3, sigma=2), stats.norm(0.3, 2)),
        (StudentT(mu=0.3, sigma=2, df=5), stats.t(5, 0.3, 2)),
    ):
        np.testing.assert_allclose(said.expected_shortfall(level), peer.ppf(u).mean(), rtol=2e-4)


def test_unknown_targets_give_unknown_scores() -> None:
    for said in (StudentT(mu=0, sigma=[1.0, 1.0], df=5), Gaussian(mu=0, sigma=[1.0, 1.0])):
        y = [np.nan, 0.5]
        for score in (said.nll(y), said.pit(y), said.crps(y)):
            np.testing.assert_array_equal(np.isnan(score), [True, False])


def test_quantiles_alone_are_a_distribution() -> None:
    said = Distribution(mean=[0.0], std=[1.0], quantiles=[ndtri(LEVELS)])
    assert said.quantiles is not None and said.quantiles.shape == (1, 21)
    assert said.nll([0.0]) is None
