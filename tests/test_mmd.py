"""The maximum mean discrepancy against loops, scikit-learn's kernels and a closed form; what it does in training."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel

from tests.test_ladder import ladder
from vae_lightning.conditionals import GaussianLikelihood, GaussianPosterior, PointMass
from vae_lightning.core import Spec
from vae_lightning.models import VAE
from vae_lightning.nets import MLP
from vae_lightning.objectives import ELBO, MMD, GaussianKernel, InverseMultiquadratic
from vae_lightning.objectives.mmd import squared_mmd


def test_kernels() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(5, 3).double(), torch.randn(4, 3).double()
    squared = torch.cdist(a, b).square()
    for scale in (0.5, 2.0):
        found = GaussianKernel([scale])(a, b)
        np.testing.assert_allclose(found, rbf_kernel(a, b, gamma=1 / (2 * 2 * 3 * scale**2)), rtol=1e-12)
        length = 2 * 3 * scale**2
        torch.testing.assert_close(InverseMultiquadratic([scale])(a, b), length / (length + squared))
    both = InverseMultiquadratic([0.5, 2.0])(a, b)
    torch.testing.assert_close(both, (InverseMultiquadratic([0.5])(a, b) + InverseMultiquadratic([2.0])(a, b)) / 2)


def test_the_estimate_is_the_sum_over_pairs() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(6, 2).double(), 1 + torch.randn(4, 2).double()

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return math.exp(-sum((s - t) ** 2 for s, t in zip(x.tolist(), y.tolist(), strict=True)) / (2 * 2 * 2))

    def mean(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        return sum(itertools.starmap(k, pairs)) / len(pairs)

    within = mean(list(itertools.permutations(a, 2))) + mean(list(itertools.permutations(b, 2)))
    expected = within - 2 * mean(list(itertools.product(a, b)))
    assert squared_mmd(a, b, GaussianKernel()).item() == pytest.approx(expected, rel=1e-12)


def test_it_is_unbiased_and_knows_gaussians() -> None:
    """Of N(0, 1) and N(m, 1) by a Gaussian kernel of length l: 2 l / sqrt(l^2 + 2) (1 - exp(-m^2 / 2 (l^2 + 2)));
    of equal densities zero, by as few as 4 samples."""
    torch.manual_seed(0)
    kernel, length = GaussianKernel(), 2.0  # squared, in one dimension
    for m in (0.0, 1.0):
        exact = 2 * math.sqrt(length / (length + 2)) * (1 - math.exp(-(m**2) / (2 * (length + 2))))
        draws = [squared_mmd(torch.randn(4, 1), m + torch.randn(4, 1), kernel).item() for _ in range(2000)]
        assert abs(np.mean(draws) - exact) < 4 * np.std(draws) / math.sqrt(2000)
        assert np.std(draws) / math.sqrt(2000) < 0.015


def model_and_images(encoder: type) -> tuple[VAE, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    linear = partial(MLP, hidden=[])
    model = VAE(
        Spec((1, 2, 3), 17),
        encoder=partial(encoder, net=linear),
        likelihood=partial(GaussianLikelihood, net=linear, scale=0.1),
        latent_size=2,
    )
    return model, {"image": torch.randint(0, 17, (128, 1, 2, 3)).float()}


def test_the_loss_is_the_sum_of_what_is_logged() -> None:
    model, batch = model_and_images(GaussianPosterior)
    for beta in (0.0, 0.5):
        torch.manual_seed(1)
        loss = MMD(weight=50.0, beta=beta)(model, batch, 0.0)
        logs = {name: value.item() for name, value in loss.logs.items()}
        expected = logs["distortion"] + beta * logs["rate"] + 50 * logs["squared_mmd"]
        assert loss.value.item() == pytest.approx(expected, rel=1e-6)
        assert logs["elbo"] == pytest.approx(-logs["distortion"] - logs["rate"], rel=1e-6)
    torch.manual_seed(1)
    z = model.trace(batch).sites["z"].z
    by_hand = squared_mmd(z, torch.randn(128, 2), MMD().kernel)  # the prior is drawn after the posterior
    assert logs["squared_mmd"] == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("encoder", [PointMass, GaussianPosterior])
def test_it_draws_the_codes_to_the_prior(encoder: type) -> None:
    """A Wasserstein autoencoder's codes get the prior's moments, and InfoVAE's draws; without it they have others."""
    moments = []
    for weight in (1e-9, 1e4):
        model, batch = model_and_images(encoder)
        optimizer, objective = torch.optim.Adam(model.parameters(), lr=0.02, fused=True), MMD(weight)
        for _ in range(300):
            optimizer.zero_grad()
            objective(model, batch, 0.0).value.backward()
            optimizer.step()
        with torch.no_grad():
            z = model.trace(batch, 50).sites["z"].z.flatten(0, 1)
        moments.append((z.mean(0).abs().max().item(), (z.T.cov() - torch.eye(2)).abs().max().item()))
        assert ("elbo" in objective(model, batch, 0.0).logs) == (encoder is GaussianPosterior)
    assert max(moments[1]) < 0.2
    assert max(moments[0]) > 0.3


def test_several_latents_and_what_is_refused() -> None:
    model, x = ladder(8)
    logs = MMD(weight=2.0)(model, {"image": x}, 0.0).logs
    assert logs["squared_mmd"].isfinite()
    MMD(beta=1.0).check(model, {"image": x})
    autoencoder, batch = model_and_images(PointMass)
    MMD().check(autoencoder, batch)
    with pytest.raises(ValueError, match="MMD with beta above 0 needs a posterior with a density, got a point mass"):
        MMD(beta=1.0).check(autoencoder, batch)
    with pytest.raises(ValueError, match="needs a posterior with a density"):
        ELBO().check(autoencoder, batch)
    one = {"image": batch["image"][:1]}
    loss = MMD()(autoencoder, one, 0.0)
    assert loss.value.item() == pytest.approx(loss.logs["distortion"].item())  # one image has no spread
    with pytest.raises(ValueError, match="MMD: expected weight above 0"):
        MMD(weight=-1.0)
    with pytest.raises(ValueError, match=r"GaussianKernel.scales: expected lengths above 0, got \[0\]"):
        GaussianKernel([0])
