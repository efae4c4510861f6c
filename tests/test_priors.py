"""Priors beside N(0, I)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Oracle
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.conditionals import GaussianMixture
from vae_lightning.core import Conditional, FromPrior, Spec
from vae_lightning.models import VAE
from vae_lightning.nets import bounded_log_scale
from vae_lightning.objectives import ELBO

ENCODER = torch.nn.Identity()


def scattered(components: int, size: int) -> GaussianMixture:
    prior = GaussianMixture((size,), components).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_()
    return prior


def test_density_is_scikit_learns() -> None:
    prior = scattered(4, 3)
    oracle = Oracle(4, covariance_type="diag")
    oracle.weights_ = prior.logits.detach().softmax(0).numpy()
    oracle.means_, scale = prior.mean.detach().numpy(), bounded_log_scale(prior.log_scale).detach().exp().numpy()
    oracle.covariances_, oracle.precisions_cholesky_ = scale**2, 1 / scale
    z = 3 * torch.randn(200, 3).double()
    np.testing.assert_allclose(prior(ENCODER).log_prob(z).detach().numpy(), oracle.score_samples(z.numpy()))


def test_density_integrates_to_one_and_samples_follow_it() -> None:
    p = scattered(3, 1)(ENCODER)
    z = torch.linspace(-60, 60, 200_001).double()
    mass = p.log_prob(z[:, None]).exp().detach()
    assert torch.trapezoid(mass, z).item() == pytest.approx(1, abs=1e-6)
    mean = torch.trapezoid(mass * z, z).item()
    drawn = p.sample((20_000,))
    assert abs(drawn.mean() - mean) < 4 * drawn.std() / math.sqrt(20_000)


def test_start_is_near_the_standard_normal() -> None:
    """So that a training begins as with the prior of the notes; a single component begins as just that."""
    z = torch.randn(2000, 20)
    apart = GaussianMixture((20,), components=50)(ENCODER).log_prob(z) - Normal(0, 1).log_prob(z).sum(1)
    assert abs(apart.mean()) < 2
    alone = GaussianMixture((20,), components=1)(ENCODER).log_prob(z)
    torch.testing.assert_close(alone, Normal(0.0, 1.0).log_prob(z).sum(1))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        GaussianMixture((2,), components=0)


class TwoClusters(Conditional):
    """Images of 0 and of 1 have their codes at -3 and 3."""

    def forward(self, context: Tensor) -> Distribution:
        return Independent(Normal(6 * context.flatten(-3)[..., :1] - 3, 0.3), 1)


def test_prior_learns_where_the_codes_are() -> None:
    """By the objective of the model. The rate falls to log 2, what a code knows of its image: no hole is left, where
    N(0, 1) has one of nats."""
    x = torch.tensor([0.0, 1.0]).repeat(100).view(-1, 1, 1, 1)
    model = VAE(
        Spec((1, 1, 1), 2), lambda *_: TwoClusters(), prior=partial(GaussianMixture, components=4), latent_size=1
    )
    start = model.trace({"image": x}, 100).kl().mean()
    optimizer = torch.optim.Adam(model.prior.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        ELBO()(model, {"image": x}, 0).value.backward()
        optimizer.step()
    rate = model.trace({"image": x}, 100).kl().mean()
    assert start > 2
    assert rate.item() == pytest.approx(math.log(2), abs=0.03)
    drawn = FromPrior((2000,))("z", model.prior(model.encoder))
    assert (drawn.abs() - 3).abs().mean() < 0.5
    assert abs((drawn > 0).float().mean() - 0.5) < 0.06
