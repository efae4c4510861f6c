"""Gaussian likelihoods whose mean the logistic function keeps within [0, 1]."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from vae_lightning.conditionals import (
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPixelScaleLikelihood,
)
from vae_lightning.core import Spec
from vae_lightning.nets import MLP

SPEC = Spec((1, 3, 4), 256)
KINDS: list[Any] = [
    GaussianLikelihood,
    GaussianLearnedScaleLikelihood,
    GaussianPixelScaleLikelihood,
    GaussianOptimalScaleLikelihood,
]


@pytest.mark.parametrize("kind", KINDS)
def test_means_lie_within_the_range_of_pixels_and_the_density_is_the_gaussians(kind: Any) -> None:
    z = 5 * torch.randn(200, 2)
    free, bounded = (kind((2,), SPEC, partial(MLP, hidden=[8]), bounded=it).eval() for it in (False, True))
    bounded.load_state_dict(free.state_dict())
    p, q = free(z), bounded(z)
    assert p.mean.min() < 0 or p.mean.max() > 255
    assert q.mean.min() >= 0
    assert q.mean.max() <= 255
    torch.testing.assert_close(q.mean, 255 * torch.sigmoid(p.mean / 255), rtol=1e-4, atol=1e-3)
    x = torch.randint(0, 256, (200, 1, 3, 4)).float()
    exact = norm(q.mean.detach().double().numpy(), q.stddev.detach().double().numpy()).logpdf(x.numpy()).sum((1, 2, 3))
    np.testing.assert_allclose(q.log_prob(x).detach().numpy(), exact, rtol=1e-4)
    torch.testing.assert_close(q.stddev, p.stddev)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_at_the_mean_image(kind: Any) -> None:
    """Of pixels that are 0 or 255 in every image at what Laplace's rule leaves of them, so that they can be learned."""
    image = torch.randint(0, 256, (500, 1, 3, 4)).float()
    image[:, :, 0, 0], image[:, :, 0, 1] = 0, 255
    made = kind((2,), SPEC, partial(MLP, hidden=[8]), bounded=True).eval()
    with torch.no_grad():
        made.head.last.weight.zero_()
    made.init_from_data(image)
    mean = made(torch.zeros(1, 2)).mean[0] / 255
    expected = (image.mean(0) / 255).clamp(1 / 502, 1 - 1 / 502)
    torch.testing.assert_close(mean.detach(), expected, atol=1e-5, rtol=0)


def test_the_squared_error_is_that_of_the_textbook() -> None:
    made = GaussianLikelihood((2,), SPEC, bounded=True, scale=0.1)
    z, x = torch.randn(5, 2), torch.randint(0, 256, (5, 1, 3, 4)).float()
    p = made(z)
    error = ((x - p.mean) / 255).square().flatten(1).sum(1)
    exact = error / (2 * 0.1**2) + 6 * math.log(2 * math.pi * 0.1**2 * 255**2)
    torch.testing.assert_close(-p.log_prob(x), exact)
