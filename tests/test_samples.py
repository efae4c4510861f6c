"""Distances between sets meet their closed forms and their oracles; the classifier classifies; copies are found."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from vae_lightning.metrics import representation
from vae_lightning.metrics.samples import (
    FEATURES,
    Classifier,
    accuracy,
    copying,
    density_coverage,
    frechet_distance,
    in_batches,
    kernel_distance,
    nearest_distances,
    precision_recall,
    train_classifier,
)


def gaussian(count: int, mean: Tensor, covariance: Tensor) -> Tensor:
    """(count, F) points whose sample mean and covariance are exactly these."""
    x = torch.randn(count, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    sample = torch.linalg.cholesky(x.T @ x / (count - 1))
    white = torch.linalg.solve_triangular(sample, x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


# -- the classifier ---------------------------------------------------------------------------------------------------


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.uint8).unsqueeze(1), torch.tensor(data.target)


def test_classifier_knows_held_out_digits_and_leaves_the_callers_noise_alone() -> None:
    images, labels = digits()
    before = torch.get_rng_state()
    with torch.no_grad():  # as in a validation loop
        classifier = train_classifier(images[:1200], labels[:1200], 17, epochs=10, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert accuracy(classifier, images[1200:], labels[1200:]).value > 0.92
    features = in_batches(classifier.features, images[1200:])
    assert features.shape == (597, FEATURES)
    assert not features.requires_grad
    torch.testing.assert_close(classifier.head(features), classifier(images[1200:]))
    torch.manual_seed(99)  # nor does the caller's noise reach it
    again = train_classifier(images[:1200], labels[:1200], 17, epochs=10, seed=3)
    torch.testing.assert_close(again.state_dict(), classifier.state_dict())


def test_accuracy_counts_hits() -> None:
    classifier = Classifier((1, 8, 8), 10, 17).eval()
    torch.nn.init.zeros_(classifier.head.weight)
    torch.nn.init.zeros_(classifier.head.bias)
    classifier.head.bias.data[3] = 1.0
    images, labels = digits()
    assert accuracy(classifier, images, labels).value == pytest.approx((labels == 3).double().mean().item())


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 40), (4, 8, 8), (1, 33, 32)])
def test_classifier_takes_any_size(shape: tuple[int, int, int]) -> None:
    """Bright images from dark ones, with a number of images that leaves a batch of one: none is dropped, none alone."""
    labels = torch.arange(257) % 2
    images = (labels.view(-1, 1, 1, 1) * 200 + torch.randint(0, 50, (257, *shape))).to(torch.uint8)
    assert accuracy(train_classifier(images, labels, 256, epochs=20), images, labels).value == 1


def test_classifier_needs_labels() -> None:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="two classes or more, got 4 images and 4 labels of 1 classes"):
        train_classifier(images, torch.zeros(4).long(), 2)
    with pytest.raises(ValueError, match="one label an image"):
        train_classifier(images, torch.arange(3), 2)


@pytest.mark.slow
def test_classifier_reaches_99_percent_on_mnist(data_root: Path) -> None:
    from torchvision.datasets import MNIST

    train, test = MNIST(data_root, train=True), MNIST(data_root, train=False)
    start = time.perf_counter()
    classifier = train_classifier(train.data.unsqueeze(1), train.targets, 256)
    share = accuracy(classifier, test.data.unsqueeze(1), test.targets).value
    print(f"MNIST classifier: {share:.2%} of {len(test.data)} test images, {time.perf_counter() - start:.0f} s")
    assert share >= 0.99


# -- distances between distributions ----------------------------------------------------------------------------------


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    a = gaussian(300, torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    b = gaussian(200, torch.tensor([3.5]).double(), torch.tensor([[0.25]]).double())
    assert frechet_distance(a, b) == pytest.approx(2.5**2 + (2 - 0.5) ** 2, rel=1e-9)
    s, t = torch.tensor([[2.0, 0.9], [0.9, 1.0]]).double(), torch.tensor([[1.0, -0.6], [-0.6, 3.0]]).double()
    a, b = gaussian(300, torch.tensor([0.0, 1.0]).double(), s), gaussian(200, torch.tensor([2.0, 0.0]).double(), t)
    root = math.sqrt((s @ t).trace() + 2 * math.sqrt(s.det() * t.det()))  # tr of the root of a 2 x 2 matrix
    assert frechet_distance(a, b) == pytest.approx(5 + (s.trace() + t.trace()).item() - 2 * root, rel=1e-9)


def test_frechet_distance_is_scipys_also_without_full_rank() -> None:
    a, b = torch.randn(400, 30) @ torch.randn(30, 30), torch.randn(300, 30) @ torch.randn(30, 30) + 1
    moments = [(np.mean(x, 0), np.cov(x, rowvar=False)) for x in (a.double().numpy(), b.double().numpy())]
    (mu, s), (nu, t) = moments
    expected = ((mu - nu) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    dead = torch.nn.functional.pad(a, (0, 5)), torch.nn.functional.pad(b, (0, 5))  # five features that never fire
    assert frechet_distance(*dead) == pytest.approx(expected, rel=1e-8)
    few = a[:10].double()  # fewer points than features: commuting covariances have a closed form, S and 9 S
    assert frechet_distance(few, 3 * few - 2 * few.mean(0)) == pytest.approx(4 * few.T.cov().trace().item(), rel=1e-8)


def test_kernel_distance_is_torchmetrics() -> None:
    a, b = torch.randn(200, 6).double(), 0.5 + torch.randn(150, 6).double()
    expected = poly_mmd(a[:150], b, degree=3, gamma=None, coef=1.0).item()
    found = kernel_distance(a[:150], b, subsets=1)
    assert found.mean == pytest.approx(expected, rel=1e-9)
    assert math.isnan(found.standard_error)


def test_kernel_distance_is_unbiased_and_knows_its_error() -> None:
    """Over repeated draws its mean is zero for equal distributions, and its spread what it says; else positive."""
    equal = [kernel_distance(torch.randn(200, 4), torch.randn(260, 4), subsets=10) for _ in range(300)]
    means, errors = (torch.tensor(column) for column in zip(*equal, strict=True))
    assert abs(means.mean().item()) < 3 * means.std().item() / math.sqrt(300)
    assert errors.square().mean().sqrt().item() == pytest.approx(means.std().item(), rel=0.15)
    shifted = kernel_distance(torch.randn(200, 4), torch.randn(200, 4) + 1, subsets=10)
    assert shifted.mean > 5 * shifted.standard_error


def test_kernel_distance_by_seed_and_size() -> None:
    a, b = torch.randn(100, 3), torch.randn(100, 3)
    assert kernel_distance(a, b, 4, 10, seed=1) == kernel_distance(a, b, 4, 10, seed=1)
    assert kernel_distance(a, b, 4, 10, seed=1) != kernel_distance(a, b, 4, 10, seed=2)


# -- supports ---------------------------------------------------------------------------------------------------------


def test_supports_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the definitions written with numpy, whatever the tile."""
    real, fake, k = torch.randn(90, 3), 0.7 * torch.randn(70, 3) + 0.4, 4
    radius, other = (np.sort(cdist(x, x), 1)[:, k] for x in (real, fake))
    d = cdist(real, fake)
    for tile in (90, 1000, 2**24):
        monkeypatch.setattr(representation, "TILE_VALUES", tile)
        found = precision_recall(real, fake, k)
        assert found.precision == pytest.approx((d <= radius[:, None]).any(0).mean())
        assert found.recall == pytest.approx((d <= other).any(1).mean())
        measured = density_coverage(real, fake, k)
        assert measured.density == pytest.approx((d <= radius[:, None]).sum() / (k * 70))
        assert measured.coverage == pytest.approx((d.min(1) <= radius).mean())


def test_supports_at_their_ends() -> None:
    real = torch.randn(200, 5)
    assert precision_recall(real, real) == (1, 1)
    assert density_coverage(real, real).coverage == 1
    assert precision_recall(real, real + 100) == (0, 0)
    assert density_coverage(real, real + 100) == (0, 0)
    half = real.clone()
    half[::2] += 100
    assert precision_recall(real, half).precision == pytest.approx(0.5)
    modes = torch.cat([real, real + 100])  # one of two modes: all of it is real, half of the real is missing
    assert precision_recall(modes, torch.randn(200, 5) * 0.5).precision > 0.98
    assert precision_recall(modes, torch.randn(200, 5)).recall < 0.5
    assert density_coverage(modes, torch.randn(200, 5)).coverage < 0.5


def test_density_and_coverage_of_equal_distributions() -> None:
    """Naeem et al. (2020): the density is 1 in expectation, the coverage 1 - (N-1)...(N-k) / (2N-1)...(2N-k)."""
    found = [density_coverage(torch.randn(200, 8), torch.randn(200, 8), 5) for _ in range(20)]
    density, coverage = (sum(column) / 20 for column in zip(*found, strict=True))
    expected = 1 - math.prod((200 - i) / (400 - i) for i in range(1, 6))
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall, density_coverage])
def test_sets_without_sense_are_refused(measure: object) -> None:
    for a, b in ((torch.randn(30, 3), torch.randn(30, 4)), (torch.randn(30, 3), torch.randn(1, 3))):
        with pytest.raises(ValueError, match=measure.__name__):  # type: ignore[attr-defined]
            measure(a, b)  # type: ignore[operator]


# -- copies -----------------------------------------------------------------------------------------------------------


def test_nearest_training_image(monkeypatch: pytest.MonkeyPatch) -> None:
    train, queries = (torch.randint(0, 256, (n, 1, 6, 5), dtype=torch.uint8) for n in (80, 40))
    queries[7] = train[13]
    expected = cdist(queries.flatten(1), train.flatten(1))
    for tile in (80, 2**24):
        monkeypatch.setattr(representation, "TILE_VALUES", tile)
        found = nearest_distances(queries, train)
        assert found.indices.tolist() == expected.argmin(1).tolist()
        np.testing.assert_allclose(found.distances, expected.min(1), rtol=1e-6)
    assert found.indices[7] == 13
    assert found.distances[7] == 0


def test_copying() -> None:
    """One half for fresh samples of the training distribution, within its error; one for copies, also noisy ones."""
    shares = []
    for _ in range(20):
        train, held_out, fresh = torch.randn(1000, 1, 3, 3), torch.randn(300, 1, 3, 3), torch.randn(300, 1, 3, 3)
        shares.append(copying(fresh, train, held_out))
    shares = torch.tensor(shares)
    error = math.sqrt(0.25 * (1 / 300 + 1 / 300))
    assert abs(shares.mean().item() - 0.5) < 3 * error / math.sqrt(20)
    assert shares.std().item() == pytest.approx(error, rel=0.5)
    assert copying(train[:200], train, held_out) == 1
    assert copying(train[:200] + 0.05 * torch.randn(200, 1, 3, 3), train, held_out) > 0.99
    assert copying(held_out, train, held_out) == 0.5
    assert copying(fresh + 50, train, held_out) == 0
