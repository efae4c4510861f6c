"""The rate taken apart by batches: unbiased weights, exact sums, closed forms of Gaussians."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from tests.test_ladder import ladder
from tests.test_linear_gaussian import linear_gaussian
from vae_lightning.core import Site
from vae_lightning.objectives import ELBO, BetaTC
from vae_lightning.objectives.beta_tc import log_stratified_weights, parts_of


def site_of(mean: Tensor, scale: float, z: Tensor | None = None) -> Site:
    """q(z|x_i) = N(mean_i, scale^2) beside N(0, I), and draws."""
    q = Independent(Normal(mean, scale), 1)
    p = Independent(Normal(torch.zeros_like(mean[0]), 1.0), 1)
    return Site("z", p, q, q.sample() if z is None else z)


def aggregate(mean: Tensor, scale: float, z: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z) and sum_d log q(z_d) of the mixture of all, written out, (M,)."""
    pairs = Normal(mean, scale).log_prob(z[:, None])
    count = math.log(len(mean))
    return pairs.sum(-1).logsumexp(1) - count, (pairs.logsumexp(1) - count).sum(-1)


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_weights_are_unbiased(size: int) -> None:
    """Over all batches of `size` of 7 images that hold the sample's own, the mean of the estimate is q(z), exactly;
    and so it is of Chen's weights, one of whose columns differs: ours are their mean over that column's place."""
    torch.manual_seed(0)
    images, mean = 7, torch.randn(7, 2).double()
    z = mean[0] + 0.5 * torch.randn(2).double()
    density = Normal(mean, 0.5).log_prob(z).sum(-1).exp()
    weight = log_stratified_weights(size, images, mean).exp()
    torch.testing.assert_close(weight.sum(1), torch.ones(size).double())
    torch.testing.assert_close(weight.diagonal(), torch.full((size,), 1 / images).double())
    found = [(weight[0] * density[[0, *others]]).sum() for others in itertools.combinations(range(1, images), size - 1)]
    torch.testing.assert_close(torch.stack(found).mean(), density.mean())
    m = size - 1
    single = [1 / images, *[1 / m] * (m - 1), (images - m) / (images * m)]
    theirs = torch.tensor(single[1:]).double().mean()
    torch.testing.assert_close(weight[0, 1:], theirs.expand(m))


def test_a_whole_set_gives_the_aggregate_posterior() -> None:
    torch.manual_seed(0)
    mean = torch.randn(50, 3).double()
    site = site_of(mean, 0.4)
    log_q, log_product = aggregate(mean, 0.4, site.z)
    parts = parts_of(site, 50)
    torch.testing.assert_close(parts.mutual_information, site.q.log_prob(site.z) - log_q)
    torch.testing.assert_close(parts.total_correlation, log_q - log_product)
    torch.testing.assert_close(parts.dimension_wise_kl, log_product - site.p.log_prob(site.z))


@pytest.mark.parametrize(("size", "images"), [(1, 1), (1, 100), (2, 100), (64, 100), (64, 64)])
def test_parts_sum_to_the_rate(size: int, images: int) -> None:
    torch.manual_seed(0)
    site = site_of(torch.randn(size, 4).double(), 0.3)
    torch.testing.assert_close(sum(parts_of(site, images)), -site.log_ratio())


def test_total_correlation_of_independent_latents_is_zero() -> None:
    """All pairs of means of two sets: the aggregate posterior is the product of its marginals."""
    a, b = torch.tensor([-1.0, 0.3, 2.0]).double(), torch.tensor([-0.7, 0.0, 0.4, 3.0]).double()
    mean = torch.cartesian_prod(a, b)
    correlation = parts_of(site_of(mean, 0.5), len(mean)).total_correlation
    torch.testing.assert_close(correlation, torch.zeros(12).double(), atol=1e-12, rtol=0)
    tilted = parts_of(site_of(mean[:7], 0.5), 7).total_correlation
    assert tilted.abs().max() > 0.01


@pytest.mark.parametrize("size", [2000, 500])
def test_total_correlation_of_gaussians(size: int) -> None:
    """Means from N(0, C): z is N(0, C + s^2 I), whose total correlation has a closed form."""
    torch.manual_seed(0)
    c = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    mean, scale = MultivariateNormal(torch.zeros(2).double(), c).sample((2000,)), 0.5
    whole = c + scale**2 * torch.eye(2).double()
    exact = -0.5 * (torch.linalg.slogdet(whole)[1] - whole.diagonal().log().sum())
    batches = mean[torch.randperm(2000)].split(size)
    found = torch.cat([parts_of(site_of(it, scale), 2000).total_correlation for it in batches])
    assert found.mean().item() == pytest.approx(exact.item(), abs=0.03)  # of 0.27
    log_q, log_product = aggregate(mean, scale, z := mean + scale * torch.randn_like(mean))
    assert found.mean().item() == pytest.approx((log_q - log_product).mean().item(), abs=0.04)
    assert z.shape == (2000, 2)


def test_weights_of_one_are_the_bound_and_others_weigh_their_parts() -> None:
    model, x, _ = linear_gaussian(optimal=False)
    batch = {"image": x}

    def told(**settings: float) -> tuple[float, dict[str, float]]:
        objective = BetaTC(**settings)
        objective.begin(1000)
        torch.manual_seed(1)
        loss = objective(model, batch, 0.0)
        return loss.value.item(), {name: value.item() for name, value in loss.logs.items()}

    torch.manual_seed(1)
    bound = model.trace(batch).log_weight().mean().item()
    assert told(beta=1.0)[0] == pytest.approx(-bound, rel=1e-9)
    value, logs = told(beta=5.0, alpha=2.0, gamma=3.0)
    parts = 2 * logs["mutual_information"] + 5 * logs["total_correlation"] + 3 * logs["dimension_wise_kl"]
    assert value == pytest.approx(logs["distortion"] + parts, rel=1e-9)
    torch.manual_seed(1)
    plain = {name: value.item() for name, value in ELBO()(model, batch, 0.0).logs.items()}
    assert {name: logs[name] for name in ("elbo", "rate", "distortion")} == pytest.approx(
        {name: plain[name] for name in ("elbo", "rate", "distortion")}, rel=1e-9
    )


def test_where_the_number_of_images_comes_from() -> None:
    model, x, _ = linear_gaussian(optimal=True)
    with pytest.raises(ValueError, match=r"BetaTC.images: expected the number of training images, got none.*set --mod"):
        BetaTC().check(model, {"image": x[:2]})
    told, said = BetaTC(), BetaTC(images=40)
    for objective in (told, said):
        objective.begin(10)
    said.check(model, {"image": x})
    with pytest.raises(ValueError, match=r"at least as many training images as a batch has, 40, got 10"):
        told.check(model, {"image": x})
    with pytest.raises(ValueError, match="weights of at least 0"):
        BetaTC(beta=-1.0)
    with pytest.raises(ValueError, match="got 0"):
        BetaTC(images=0)


def test_stories_and_densities_without_factors_are_refused() -> None:
    model, x = ladder(2)
    with pytest.raises(ValueError, match="a story of one latent, got z3, z2, z1"):
        BetaTC(images=2).check(model, {"image": x})
    whole = MultivariateNormal(torch.zeros(3), torch.eye(3))
    factors = site_of(torch.zeros(2, 3), 1.0)
    with pytest.raises(ValueError, match="prior that factorises over the latents, got MultivariateNormal at 'z'"):
        parts_of(Site("z", whole, factors.q, factors.z), 2)
