"""Gaussian posteriors whose latents hang together: densities, KL, samples, and the posterior that they reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

from tests.conftest import REPOSITORY
from vae_lightning.compression import Settings, Stack, decode, encode, latent_codec
from vae_lightning.compression.stack import seeded
from vae_lightning.conditionals import (
    BernoulliLikelihood,
    FullCovariancePosterior,
    GaussianLikelihood,
    GaussianPosterior,
    LowRankPosterior,
    StandardNormal,
)
from vae_lightning.core import Site, Spec
from vae_lightning.distributions import FullCovarianceNormal, LowRankNormal
from vae_lightning.metrics.estimators.refinement import refined
from vae_lightning.models import VAE
from vae_lightning.nets import MLP
from vae_lightning.objectives import ELBO

SPEC = Spec((1, 2, 3), 2)
KINDS: list[Any] = [FullCovariancePosterior, LowRankPosterior]
LINEAR = partial(MLP, hidden=[])


def told(kind: Any, size: int = 4) -> Any:
    """A posterior whose heads say something."""
    made = kind(SPEC, (size,), LINEAR).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_density_is_scipys(kind: Any) -> None:
    q = told(kind)(torch.rand(5, 1, 2, 3).double())
    z = q.rsample((7,)).detach()
    assert z.shape == (7, 5, 4)
    for image in range(5):
        oracle = multivariate_normal(q.mean[image].detach().numpy(), q.covariance_matrix[image].detach().numpy())
        np.testing.assert_allclose(q.log_prob(z)[:, image].detach().numpy(), oracle.logpdf(z[:, image].numpy()))
        assert not np.allclose(np.tril(q.covariance_matrix[image].detach().numpy(), -1), 0, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_density(kind: Any) -> None:
    q = told(kind)(torch.rand(1, 1, 2, 3).double())
    z = q.rsample((200_000,))[:, 0].detach()
    scale = q.stddev[0].detach()
    assert ((z.mean(0) - q.mean[0]).abs() < 4 * scale / 200_000**0.5).all()
    assert ((z.T.cov() - q.covariance_matrix[0]).abs() < 0.02 * scale[:, None] * scale).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("standard", [True, False])
def test_kl_is_torchs_in_closed_form(kind: Any, standard: bool) -> None:
    """The rate of a site is no one-sample estimate: whatever was drawn, it is the same, and that of two Gaussians."""
    q = told(kind)(torch.rand(5, 1, 2, 3).double())
    loc, scale = (torch.zeros(4), torch.ones(4)) if standard else (torch.randn(5, 4), torch.rand(5, 4) + 0.5)
    p = StandardNormal((4,)).double()(None) if standard else Independent(Normal(loc.double(), scale.double()), 1)
    oracle = kl_divergence(
        MultivariateNormal(q.mean, q.covariance_matrix),
        MultivariateNormal(loc.double(), torch.diag_embed(scale.double() ** 2)),
    )
    for z in (q.rsample(), q.rsample()):
        torch.testing.assert_close(Site("z", p, q, z).kl(), oracle)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_near_the_prior_and_every_parameter_learns(kind: Any) -> None:
    model = VAE(SPEC, partial(kind, net=LINEAR), GaussianLikelihood, latent_size=3)
    batch = {"image": torch.randint(0, 2, (20, 1, 2, 3)).float()}
    q: Any = model.posteriors(batch)["z"]
    torch.testing.assert_close(q.variance, torch.ones(20, 3))
    assert (torch.linalg.slogdet(q.covariance_matrix).logabsdet > -1).all()  # twice what correlation costs
    ELBO()(model, batch, 0.0).value.backward()
    assert all(parameter.grad.any() for parameter in model.encoder.parameters())


def test_half_precision_of_the_nets_leaves_the_density_exact() -> None:
    for kind in KINDS:
        posterior = told(kind).float()
        x = torch.rand(5, 1, 2, 3)
        with torch.autocast("cpu", torch.bfloat16):
            q = posterior(x)
            z = q.rsample((3,))
            log_prob = q.log_prob(z)
        assert z.dtype == log_prob.dtype == torch.float32
        torch.testing.assert_close(log_prob, q.log_prob(z))


def skewed() -> tuple[Callable[[Any], VAE], Tensor, Tensor]:
    """A linear decoder whose columns are far from orthogonal, so that p(z|x) is a Gaussian whose latents hang together;
    images of it, and their exact log p(x)."""
    scale = 0.5
    weight = torch.tensor([[1.0, 0.9], [0.5, 0.8], [-0.7, -0.4], [0.2, 0.6], [0.9, 0.7], [0.1, -0.3]]).double()

    def model(encoder: Any) -> VAE:
        made = VAE(
            SPEC, partial(encoder, net=LINEAR), partial(GaussianLikelihood, net=LINEAR, scale=scale), latent_size=2
        ).double()
        likelihood: Any = made.likelihood
        with torch.no_grad():
            likelihood.head.last.weight.copy_(weight)
            likelihood.head.last.bias.zero_()
        return made

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 2, generator=generator).double() @ weight.T
    x = x + scale * torch.randn(300, 6, generator=generator).double()
    exact = MultivariateNormal(torch.zeros(6).double(), weight @ weight.T + scale**2 * torch.eye(6).double())
    return model, x.view(-1, 1, 2, 3), exact.log_prob(x)


def gap(model: VAE, x: Tensor, exact: Tensor) -> float:
    """log p(x) - ELBO, of the mean image, with the distortion in closed form."""
    q: Any = model.posteriors({"image": x})["z"]
    likelihood: Any = model.likelihood
    weight, scale = likelihood.head.last.weight, likelihood.scale
    covariance = torch.diag_embed(q.variance) if isinstance(q, Independent) else q.covariance_matrix
    spread = torch.einsum("id,nde,ie->n", weight, covariance, weight) / (2 * scale**2)
    distortion = -likelihood(q.mean).log_prob(x) + spread
    return (exact + distortion + kl_divergence(q, model.prior(None))).mean().item()


def test_a_full_covariance_can_be_the_exact_posterior() -> None:
    """Each single weight is then p(x), without noise."""
    make, x, exact = skewed()
    model = make(FullCovariancePosterior)
    encoder, weight = model.encoder, model.likelihood.head.last.weight.detach()  # type: ignore[union-attr, operator]
    covariance = torch.linalg.inv(torch.eye(2).double() + weight.T @ weight / 0.25)
    factor: Tensor = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        heads: Any = encoder
        heads.mu.weight.copy_(covariance @ weight.T / 0.25)
        heads.log_scale.bias.copy_(7 * torch.atanh(covariance.diag().log() / 14))
        heads.correlation.bias.copy_(factor[1, 0] / factor[1, 1])
    torch.testing.assert_close(model.trace({"image": x}, 20).log_weight(), exact.expand(20, -1))
    assert gap(model, x, exact) == pytest.approx(0, abs=1e-9)


def test_training_closes_the_gap_that_a_diagonal_leaves() -> None:
    """The posterior's covariance is the same for every image, and correlations here hang on none."""
    make, x, exact = skewed()
    found = {}
    for kind in (GaussianPosterior, FullCovariancePosterior, partial(LowRankPosterior, rank=1)):
        torch.manual_seed(0)
        model = make(kind)
        trained = [p for name, p in model.encoder.named_parameters() if name != "correlation.weight"]
        optimizer = torch.optim.Adam(trained, 0.1)
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
            optimizer.zero_grad()
            ELBO()(model, {"image": x}, 0.0).value.backward()
            optimizer.step()
        found[getattr(kind, "func", kind)] = gap(model, x, exact)
    assert found[GaussianPosterior] > 0.3
    assert found[FullCovariancePosterior] < 0.02
    assert found[LowRankPosterior] < 0.02


@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_their_code_is_exact_and_as_long_as_the_density_says(kind: str) -> None:
    torch.manual_seed(0)
    grid, loc, d = Settings().grid, torch.randn(300, 5), 5
    if kind == "full":
        tril = 0.2 * torch.randn(300, d, d).tril(-1) + torch.diag_embed(0.1 + torch.rand(300, d))
        q: MultivariateNormal | LowRankMultivariateNormal = FullCovarianceNormal(loc, scale_tril=tril)
    else:
        q = LowRankNormal(loc, torch.randn(300, d, 2), 0.1 + torch.rand(300, d))
    codec = latent_codec(q, grid)
    stack = Stack(seeded(4000, 1))
    before = stack.num_bits
    symbols = codec.pop(stack)
    z = grid.points(symbols, loc)
    drawn, expected = before - stack.num_bits, -q.log_prob(z).sum() / math.log(2) + grid.exponent * z.numel()
    assert drawn == pytest.approx(expected.item(), rel=0.003)
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(q.covariance_matrix), (z - loc)[..., None], upper=False
    )
    assert whitened.square().mean() == pytest.approx(1, abs=0.12)  # what random bits say is drawn from q
    codec.push(stack, symbols)
    assert stack.num_bits == before
    assert np.array_equal(stack.words(), seeded(4000, 1))


def test_a_latent_far_below_a_cell_leaves_those_behind_it_where_they_are() -> None:
    torch.manual_seed(0)
    grid, tril = Settings().grid, torch.diag_embed(torch.tensor([1e-6, 0.1]).repeat(500, 1))
    tril[:, 1, 0] = 0.1
    codec = latent_codec(FullCovarianceNormal(torch.zeros(500, 2), scale_tril=tril), grid)
    stack = Stack(seeded(4000, 1))
    symbols = codec.pop(stack)
    assert grid.points(symbols, torch.zeros(500, 2))[:, 1].std() < 2 * math.hypot(0.1, 0.1)
    codec.push(stack, symbols)
    assert np.array_equal(stack.words(), seeded(4000, 1))


def test_a_covariance_that_is_none_is_refused() -> None:
    q = LowRankNormal(torch.zeros(1, 3), torch.full((1, 3, 1), 1e9), torch.full((1, 3), 1e-6))
    with pytest.raises(ValueError, match="expected a covariance that is positive definite, got a low-rank factor of"):
        latent_codec(q, Settings().grid)


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_back_from_their_code(kind: Any) -> None:
    torch.manual_seed(0)
    model = VAE(SPEC, partial(kind, net=LINEAR), partial(BernoulliLikelihood, net=LINEAR), latent_size=3).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    images = torch.randint(2, (400, *SPEC.image_shape), dtype=torch.uint8)
    coded = encode(model, images)
    assert torch.equal(decode(model, coded, SPEC.image_shape), images)
    bound = -model.trace({"image": images.float().repeat(20, 1, 1, 1)}).log_weight().mean() / math.log(2)
    assert coded.net_bits / len(images) == pytest.approx(bound.item(), rel=0.05)


def test_what_they_cannot_is_said(cli: Callable) -> None:
    model, batch = (
        VAE(SPEC, FullCovariancePosterior, GaussianLikelihood, latent_size=2),
        {"image": torch.zeros(2, 1, 2, 3)},
    )
    with pytest.raises(ValueError, match=r"sought among diagonal Gaussians, got an encoder's of FullCovarianceNormal"):
        refined(model.eval(), batch, 2)
    with pytest.raises(ValueError, match=r"LowRankPosterior.rank: expected 1 to 3, the number of latents, got 4"):
        LowRankPosterior(SPEC, (3,), rank=4)
    with pytest.raises(ValueError, match="posterior and a prior that factorise"):
        ELBO(free_bits=0.1)(model, batch, 0.0)
    digits, encoder = (REPOSITORY / "configs" / it for it in ("experiment/digits.yaml", "encoder/full_covariance.yaml"))
    fit = cli("fit", "-c", digits, "-c", encoder, "--trainer.max_epochs=1", "--trainer.callbacks=null")
    assert fit.status == 0, fit.err
    tested = cli("test", "--ckpt_path", "runs/digits", "--model.evaluation.samples=2")
    assert tested.status == 0, tested.err
    assert "posterior and prior do not both factorise" in tested.out
    assert "sought among diagonal Gaussians" in tested.out
