"""A discrete density sums to one, a continuous one integrates to one, and both have finite gradients at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from vae_lightning.core import Delta, centre, has_mean
from vae_lightning.distributions import (
    BinaryImage,
    CategoricalLevels,
    ContinuousBernoulli,
    DiscretizedLogistic,
    LinkedChannels,
    LinkedMixtures,
    Rescaled,
)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("loc", [-40.0, 0.0, 0.5, 7.3, 255.0, 400.0])
@pytest.mark.parametrize("scale", [0.02, 0.3, 5.0, 300.0])
def test_discretized_logistic_sums_to_one(levels: int, loc: float, scale: float) -> None:
    d = DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale), levels)
    total = d.log_prob(torch.arange(levels).float()).double().exp().sum()
    assert total.item() == pytest.approx(1, abs=2e-5)


def test_discretized_logistic_against_scipy() -> None:
    d = DiscretizedLogistic(torch.tensor(100.4, dtype=torch.float64), torch.tensor(6.0, dtype=torch.float64), 256)
    edges = scipy.stats.logistic(100.4, 6.0).cdf(np.arange(-0.5, 256.5))
    edges[0], edges[-1] = 0, 1
    expected = np.diff(edges)
    np.testing.assert_allclose(d.log_prob(torch.arange(256).double()).exp(), expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(d.cdf(torch.arange(256).double()), np.cumsum(expected), rtol=1e-9)
    i = np.arange(256)
    assert d.mean.item() == pytest.approx((i * expected).sum(), rel=1e-9)
    assert d.variance.item() == pytest.approx((i**2 * expected).sum() - (i * expected).sum() ** 2, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 128.0, 254.0, 255.0])
@pytest.mark.parametrize("scale", [0.02, 1.0, 1000.0])
def test_discretized_logistic_gradients_are_finite_and_right(value: float, scale: float) -> None:
    loc = torch.tensor(130.0, dtype=torch.float64, requires_grad=True)
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    log_p = DiscretizedLogistic(loc, s, 256).log_prob(torch.tensor(value))
    gradient = torch.autograd.grad(log_p, (loc, s))
    assert torch.isfinite(torch.stack([log_p, *gradient])).all()
    h = 1e-5
    up, down = (DiscretizedLogistic(loc.detach() + d, s.detach(), 256).log_prob(torch.tensor(value)) for d in (h, -h))
    assert gradient[0].item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-4, abs=1e-9)


def test_linked_channels_factorise_and_are_drawn_as_they_weigh() -> None:
    loc, scale = 255 * torch.rand(3, 2, 2), 1 + 9 * torch.rand(3, 2, 2)
    free = LinkedChannels(loc, scale, torch.zeros(2, 3, 2, 2), 256)
    x = torch.randint(0, 256, (5, 3, 2, 2)).float()
    independent = Independent(DiscretizedLogistic(loc, scale, 256), 3)
    torch.testing.assert_close(free.log_prob(x), independent.log_prob(x))
    torch.testing.assert_close(free.mean, independent.mean)

    loc, scale = torch.tensor([90.0, 120.0, 150.0]).view(3, 1, 1), torch.tensor([8.0, 2.0, 3.0]).view(3, 1, 1)
    weight = torch.zeros(2, 3, 1, 1)
    weight[0, 1], weight[0, 2], weight[1, 2] = 0.9, -0.5, 0.7
    linked = LinkedChannels(loc, scale, weight, 256)
    draws = linked.sample((60_000,))
    torch.testing.assert_close(draws.mean(0), linked.mean, atol=0.5, rtol=0)
    red, green, blue = (draws[:, c, 0, 0] for c in range(3))
    told = 150 - 0.5 * (red - 90) + 0.7 * (green - 120)
    assert torch.corrcoef(torch.stack([blue, told]))[0, 1].item() > 0.5
    assert (blue - told).mean().item() == pytest.approx(0, abs=0.1)
    assert (blue - told).var().item() == pytest.approx(9 * math.pi**2 / 3 + 1 / 12, rel=0.05)


def test_linked_mixtures_are_mixtures_about_linked_centres() -> None:
    loc, weight = 255 * torch.rand(3, 2, 2), torch.zeros(2, 3, 2, 2)
    weight[0, 1], weight[0, 2], weight[1, 2] = 0.9, -0.5, 0.7
    logits, offset, scale = torch.randn(3, 2, 2, 4), 20 * torch.randn(3, 2, 2, 4), 1 + 9 * torch.rand(3, 2, 2, 4)
    x = torch.randint(0, 256, (5, 3, 2, 2)).float()
    alike = LinkedMixtures(loc, logits, torch.zeros_like(offset), scale[..., :1].expand_as(scale), weight, 256)
    one = LinkedChannels(loc, scale[..., 0], weight, 256)
    torch.testing.assert_close(alike.log_prob(x), one.log_prob(x))

    mixed = LinkedMixtures(loc, logits, offset, scale, weight, 256)
    told = loc[2] - 0.5 * (x[:, 0] - loc[0]) + 0.7 * (x[:, 1] - loc[1])
    each = DiscretizedLogistic(told[..., None] + offset[2], scale[2], 256).log_prob(x[:, 2, ..., None])
    by_hand = (each + logits[2].log_softmax(-1)).logsumexp(-1)
    torch.testing.assert_close(mixed.log_prob_of_each(x)[:, 2], by_hand)
    every = torch.arange(256.0).view(-1, 1, 1, 1).expand(256, 3, 2, 2).clone()
    every[:, :2] = x[0, :2]
    torch.testing.assert_close(mixed.log_prob_of_each(every)[:, 2].exp().sum(0), torch.ones(2, 2))
    assert mixed.expand((4,)).sample().shape == (4, 3, 2, 2)
    red = mixed.sample((20_000,))[:, 0]
    torch.testing.assert_close(red.mean(0), mixed.mean[0], atol=1.5, rtol=0)


def test_mixture_of_discretized_logistics_sums_to_one_with_gradients() -> None:
    logits, loc = torch.randn(3, requires_grad=True), torch.tensor([3.0, 200.0, 255.0], requires_grad=True)
    mixture = MixtureSameFamily(
        Categorical(logits=logits), DiscretizedLogistic(loc, torch.tensor([0.02, 4.0, 9.0]), 256, False), False
    )
    log_p = mixture.log_prob(torch.arange(256).float())
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
    log_p.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(loc.grad).all()


def test_samples_follow_the_masses() -> None:
    d = DiscretizedLogistic(torch.tensor(2.2), torch.tensor(1.5), 8)
    counts = torch.bincount(d.sample((20_000,)).long(), minlength=8).numpy()
    expected = d.log_prob(torch.arange(8).float()).exp().double().numpy()
    assert scipy.stats.chisquare(counts, 20_000 * expected / expected.sum()).pvalue > 1e-4


def test_categorical_levels_is_torchs_categorical_with_moments() -> None:
    logits = torch.randn(4, 17)
    d = CategoricalLevels(logits)
    values = torch.arange(17).float()
    p = d.log_prob(values[:, None]).exp()  # (17, 4)
    torch.testing.assert_close(p.sum(0), torch.ones(4))
    torch.testing.assert_close(p.T, logits.softmax(-1))
    torch.testing.assert_close(d.mean, (p * values[:, None]).sum(0))
    torch.testing.assert_close(d.variance, (p * values[:, None] ** 2).sum(0) - d.mean**2)
    assert d.sample((5,)).shape == (5, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-100.0, -30.0, -12.0, -1.0, -0.09, 0.0, 1e-4, 0.11, 3.0, 40.0, 100.0])
def test_continuous_bernoulli_on_levels_integrates_to_one(logit: float, dtype: torch.dtype) -> None:
    """Far beyond the logits at which torch's own, in float32, loses half of its mass."""
    d = Rescaled(ContinuousBernoulli(logits=torch.tensor(logit, dtype=dtype)), 255)
    x = torch.linspace(0, 255, 1_000_001, dtype=torch.float64)
    density = d.log_prob(x.to(dtype)).double().exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-5)
    mean = torch.trapezoid(x * density, x).item()
    assert d.mean.item() == pytest.approx(mean, abs=1e-3)
    assert d.variance.item() == pytest.approx(torch.trapezoid((x - mean) ** 2 * density, x).item(), rel=1e-4)
    torch.testing.assert_close(
        d.sample((100_000,)).double().mean().item(), mean, rtol=0, atol=4 * d.stddev.item() / 100_000**0.5
    )


@pytest.mark.parametrize("logit", [-100.0, -0.05, 0.0, 0.05, 0.1, 7.0, 100.0])
def test_continuous_bernoulli_gradient_is_the_value_less_its_mean(logit: float) -> None:
    """d log p(y) / d l = y - E[y] for an exponential family: the normaliser's gradient included."""
    parameter = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    d = ContinuousBernoulli(logits=parameter)
    d.log_prob(torch.tensor(0.3).double()).backward()
    assert parameter.grad.item() == pytest.approx(0.3 - d.mean.item(), abs=1e-6)


def test_continuous_bernoulli_is_torchs_where_that_is_right() -> None:
    logits, y = torch.linspace(-8, 8, 33).double(), torch.rand(100, 1).double()
    torch.testing.assert_close(
        ContinuousBernoulli(logits).log_prob(y),
        torch.distributions.ContinuousBernoulli(logits=logits).log_prob(y),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("shape", [(7, 3, 1, 28, 28), (3, 1, 28, 28), (5, 3, 37, 53), (4, 1, 2, 3)])
def test_binary_image_is_torchs_bernoulli(shape: tuple[int, ...]) -> None:
    """Densities and gradients, with samples before the batch and without, at logits small and large."""
    x = torch.bernoulli(torch.full(shape[-4:], 0.3))
    for size in (0.1, 3.0, 40.0):
        logits = (size * torch.randn(shape)).requires_grad_()
        ours, oracle = BinaryImage(logits), Independent(Bernoulli(logits=logits.double()), 3)
        expected = oracle.log_prob(x.double())
        torch.testing.assert_close(ours.log_prob(x).double(), expected, rtol=1e-6, atol=1e-3)
        with torch.no_grad():  # another form of the same
            torch.testing.assert_close(ours.log_prob(x).double(), expected, rtol=1e-6, atol=1e-3)
        gradients = [
            torch.autograd.grad(d.log_prob(v).sin().sum(), logits)[0] for d, v in ((ours, x), (oracle, x.double()))
        ]
        torch.testing.assert_close(*gradients, rtol=1e-2, atol=5e-3)
    for dtype in (torch.uint8, torch.bool, torch.int64):
        torch.testing.assert_close(ours.log_prob(x.to(dtype)), ours.log_prob(x))
    assert ours.batch_shape == oracle.batch_shape
    assert ours.event_shape == oracle.event_shape
    torch.testing.assert_close(ours.mean.double(), oracle.mean)
    torch.testing.assert_close(ours.variance.double(), oracle.variance)
    assert ours.support.is_discrete
    assert ours.sample((2,)).shape == (2, *shape)


@pytest.mark.parametrize("value", [0.0, 255.0])
@pytest.mark.parametrize("logit", [-30.0, 0.0, 30.0])
def test_continuous_bernoulli_gradients_are_finite_at_the_edges(value: float, logit: float) -> None:
    parameter = torch.tensor(logit, requires_grad=True)
    Rescaled(ContinuousBernoulli(logits=parameter), 255).log_prob(torch.tensor(value)).backward()
    assert torch.isfinite(parameter.grad)


def test_delta_is_a_point_and_infinitely_far_from_a_density() -> None:
    value = torch.randn(5, 3)
    d = Delta(value)
    assert d.rsample((2,)).shape == (2, 5, 3)
    assert torch.equal(d.mean, value)
    assert torch.isposinf(kl_divergence(d, Independent(Normal(torch.zeros(3), torch.ones(3)), 1))).all()
    assert torch.isposinf(d.log_prob(value)).all()
    assert torch.isneginf(d.log_prob(value + 1)).all()


def test_analytic_kl_is_the_monte_carlo_kl() -> None:
    q = Independent(Normal(torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.7])), 1)
    p = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    z = q.sample((200_000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std() / math.sqrt(len(ratio))
    assert abs(ratio.mean() - kl_divergence(q, p)) < 5 * error


def test_the_centre_is_the_mean_or_else_the_mode_and_never_nan() -> None:
    assert torch.equal(centre(Normal(torch.tensor([1.0, 2.0]), 1.0)), torch.tensor([1.0, 2.0]))
    names = Categorical(torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]]))  # events without a mean: torch says nan
    assert not has_mean(names)
    assert torch.equal(centre(names), torch.tensor([1, 0]))
    assert torch.equal(centre(torch.distributions.Cauchy(torch.tensor([3.0]), 1.0)), torch.tensor([3.0]))
