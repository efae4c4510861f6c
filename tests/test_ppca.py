"""PCA and probabilistic PCA beside scikit-learn's."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import Normal

from vae_lightning.metrics.baselines import PrincipalDensities, pca_squared_error, ppca_log_prob

SCALE = 0.5
SHAPE = (1, 2, 4)


def scikit_learn(train: Tensor, test: Tensor, dimensions: int) -> Tensor:
    """Its log-likelihood, with the maximum-likelihood covariance (1/N) in place of the unbiased one."""
    flat = train.flatten(1).double().numpy()
    oracle = PCA(dimensions, svd_solver="full").fit(flat)
    ratio = (len(flat) - 1) / len(flat)
    oracle.explained_variance_, oracle.noise_variance_ = (
        oracle.explained_variance_ * ratio,
        oracle.noise_variance_ * ratio,
    )
    return torch.from_numpy(oracle.score_samples(test.flatten(1).double().numpy()))


def test_ppca_is_scikit_learns_over_the_integer_image() -> None:
    images = torch.from_numpy(load_digits().images).to(torch.uint8).unsqueeze(1)
    train, test = images[:1200], images[1200:]
    for dimensions in (1, 10, 40):
        found = ppca_log_prob(train.split(500), test.split(123), 17, dimensions)
        torch.testing.assert_close(found, scikit_learn(train, test, dimensions), rtol=1e-8, atol=1e-6)
    scaled = scikit_learn(train / 16, test / 16, 10)  # a density over [0, 1], higher by the Jacobian
    torch.testing.assert_close(ppca_log_prob([train], [test], 17, 10), scaled - 64 * math.log(16))


def test_ppca_counts_no_rounding_and_refuses_binary_images() -> None:
    """Values that never change are given the variance of rounding, and what is left is a Gaussian in one direction."""
    x = torch.zeros(2000, 1, 2, 2)
    x[:, 0, 0, 0] = (128 + 20 * torch.randn(2000)).round()
    variance = x[:, 0, 0, 0].double().var(unbiased=False)
    scale = torch.tensor([variance, 1 / 12, 1 / 12, 1 / 12]).double().sqrt()
    expected = Normal(x.double().flatten(1).mean(0), scale).log_prob(x.flatten(1).double()).sum(1)
    torch.testing.assert_close(ppca_log_prob([x], [x], 256, 1), expected)
    torch.testing.assert_close(ppca_log_prob([x], [x], 256, 2), expected)  # a component below the floor is none
    with pytest.raises(ValueError, match="binary"):
        ppca_log_prob([x], [x], 2, 1)
    with pytest.raises(ValueError, match="0 to 3 for images of 4 values, got 4"):
        ppca_log_prob([x], [x], 256, 4)
    with pytest.raises(ValueError, match="got none"):
        ppca_log_prob([], [x], 256, 1)


def test_ppca_is_the_marginal_of_its_linear_model() -> None:
    """Without components it is one Gaussian, and with more of them the training images only gain."""
    x = torch.randint(0, 256, (500, 1, 3, 3))
    flat = x.flatten(1).double()
    scale = (flat - flat.mean(0)).square().mean().sqrt()
    torch.testing.assert_close(ppca_log_prob([x], [x], 256, 0), Normal(flat.mean(0), scale).log_prob(flat).sum(1))
    means = [ppca_log_prob(x.split(100), [x], 256, d).mean() for d in range(9)]
    assert all(low < high for low, high in itertools.pairwise(means))


def test_ppca_of_few_images_keeps_something_to_tell_the_noise_by() -> None:
    """With as many components as there are training images the density of any other is next to nothing: the number is
    then the best of its halves, and as many as asked for where images are enough."""
    images = torch.from_numpy(load_digits().images).to(torch.uint8).unsqueeze(1)
    few, held_out, test = images[:40], images[40:60], images[1200:]
    densities = PrincipalDensities.of([few], 17)
    chosen = densities.best([held_out], 60)
    assert chosen in (30, 15, 7, 3, 1)
    nll = {count: -densities.log_prob([test], count).mean().item() for count in (60, 30, 15, 7, 3, 1)}
    assert nll[chosen] < min(nll.values()) + 3
    assert nll[60] > nll[chosen] + 50
    assert PrincipalDensities.of([images[:1200]], 17).best([images[1200:1400]], 10) == 10


def test_pca_of_few_images_has_no_more_components_than_they_differ_in() -> None:
    """Three images lie in a plane: other directions are any at all, and explain nothing."""
    train, test = torch.randint(0, 17, (3, 1, 8, 8)), torch.randint(0, 17, (50, 1, 8, 8))
    two = pca_squared_error([train], [test], 17, 2)
    torch.testing.assert_close(pca_squared_error([train], [test], 17, 40), two)
