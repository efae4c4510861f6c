"""Thresholds at a stated rate of false alarms, shares, areas over pixels, and the terms of a log-density."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from vae_lightning import conditionals
from vae_lightning.core import Spec
from vae_lightning.distributions import log_prob_of_each
from vae_lightning.measure.looked import peak
from vae_lightning.metrics.detection import pixel_auroc, share, threshold
from vae_lightning.nets import MLP


@pytest.mark.parametrize(("images", "rate"), [(99, 0.01), (200, 0.05), (37, 0.2)])
def test_a_threshold_keeps_its_rate_of_false_alarms(images: int, rate: float) -> None:
    """Over repeated validation images of any distribution: at most the rate asked for, on average just below it; the
    intervals of the rate and of the score sought hold theirs in some 95 % of the draws."""
    rates, inside, sought = [], 0, 0
    exact = math.exp(norm.ppf(1 - rate))
    for _ in range(500):
        found = threshold(torch.randn(images).exp(), rate)
        rates.append(norm.sf(math.log(found.value)))
        inside += found.rate_low <= rates[-1] <= found.rate_high
        sought += found.low <= exact <= found.high
    assert found.suffices
    k = math.floor(rate * (images + 1) + 1e-9)
    assert found.rate == pytest.approx(k / (images + 1))
    error = torch.tensor(rates).std().item() / 500**0.5
    assert sum(rates) / 500 == pytest.approx(found.rate, abs=4 * error)
    assert 0.92 < inside / 500 < 0.98
    assert 0.92 < sought / 500 <= 1


def test_too_few_images_promise_no_such_rate() -> None:
    found = threshold(torch.arange(5.0), 0.01)
    assert not found.suffices
    assert found.value == 4
    assert found.rate == pytest.approx(1 / 6)
    assert found.high == math.inf
    assert threshold(torch.arange(99.0), 0.01).suffices
    assert not threshold(torch.arange(98.0), 0.01).suffices
    for rate in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="--false_alarms: expected a rate above 0 and below 1"):
            threshold(torch.arange(5.0), rate)
    for scores in (torch.zeros(0), torch.tensor([1.0, torch.nan])):
        with pytest.raises(ValueError, match="expected the score of one normal image or more"):
            threshold(scores, 0.1)


@pytest.mark.parametrize(("part", "images"), [(0, 10), (3, 10), (10, 10), (57, 99)])
def test_a_share_has_the_exact_interval(part: int, images: int) -> None:
    found, exact = share(part, images), binomtest(part, images).proportion_ci()
    assert found.value == part / images
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert share(0, 0)[1:3] == (0, 1)


def test_an_area_over_pixels_is_scikit_learns() -> None:
    maps, masks = torch.randn(20, 6, 7), torch.zeros(20, 6, 7, dtype=torch.bool)
    masks[:9, 2:4, 1:5] = True
    maps[masks] += 1
    found = pixel_auroc(maps, masks)
    assert found.value == pytest.approx(roc_auc_score(masks.flatten(), maps.flatten()), abs=1e-4)
    assert pixel_auroc(maps, masks & False) is None
    assert pixel_auroc(maps[:0], masks[:0]) is None
    assert pixel_auroc(torch.zeros(2, 3, 3), torch.eye(3).bool().expand(2, 3, 3)).value == 0.5
    one = pixel_auroc(maps[:1], masks[:1])
    assert math.isnan(one.standard_error)
    assert one.low < one.value < one.high


def test_an_area_over_pixels_knows_that_an_images_pixels_are_alike() -> None:
    """Each image's pixels are raised together: the error is the spread over draws of images, not of pixels."""
    values, errors = [], []
    for _ in range(150):
        masks = torch.zeros(24, 5, 5, dtype=torch.bool)
        masks[:12, :2] = True
        maps = torch.randn(24, 5, 5) + 2 * torch.randn(24, 1, 1) + masks
        found = pixel_auroc(maps, masks)
        values.append(found.value)
        errors.append(found.standard_error)
    spread = torch.tensor(values).std().item()
    assert torch.tensor(errors).square().mean().sqrt().item() == pytest.approx(spread, rel=0.2)


LIKELIHOODS: list[tuple[Callable, int]] = [
    (conditionals.BernoulliLikelihood, 2),
    (conditionals.ContinuousBernoulliLikelihood, 256),
    (conditionals.GaussianLikelihood, 256),
    (conditionals.GaussianOptimalScaleLikelihood, 256),
    (conditionals.GaussianPixelScaleLikelihood, 256),
    (conditionals.DiscretizedLogisticLikelihood, 256),
    (conditionals.DiscretizedLogisticMixtureLikelihood, 256),
    (conditionals.LinkedLogisticLikelihood, 256),
    (conditionals.CategoricalLikelihood, 17),
]


@pytest.mark.parametrize(("likelihood", "levels"), LIKELIHOODS)
def test_the_terms_of_a_log_density_add_up(likelihood: Callable, levels: int) -> None:
    spec = Spec((3, 5, 4), levels)
    p = likelihood((2,), spec, partial(MLP, hidden=[8])).eval()
    x = torch.randint(0, levels, (6, 3, 5, 4)).float()
    with torch.no_grad():
        px = p(torch.randn(7, 6, 2))
        found = log_prob_of_each(px, x)
    assert found.shape == (7, 6, 3, 5, 4)
    torch.testing.assert_close(found.flatten(2).sum(2), px.log_prob(x), rtol=1e-4, atol=1e-3)


def test_a_density_that_does_not_come_apart_has_no_map() -> None:
    whole = torch.distributions.MultivariateNormal(torch.zeros(4), torch.eye(4))
    with pytest.raises(ValueError, match="factor for each pixel, got MultivariateNormal"):
        log_prob_of_each(whole, torch.zeros(2, 4))


@pytest.mark.parametrize("side", [2, 3, 8, 64])
def test_a_peak_is_where_a_patch_is(side: int) -> None:
    """Of maps of any size: a flat one has its own value, and a patch counts for more than one pixel of as much."""
    flat = torch.full((1, side, side), 3.0)
    torch.testing.assert_close(peak(flat), torch.tensor([3.0]))
    if side < 8:
        return
    patch, pixel = torch.zeros(1, side, side), torch.zeros(1, side, side)
    patch[0, 2:6, 2:6], pixel[0, 4, 4] = 1, 1
    assert peak(patch) > 1.5 * peak(pixel) > 0
