"""What a model has to beat: pixels that know nothing of each other, and principal components.

Images come in chunks, (N, C, H, W) integers 0..levels-1, so that a set may be larger than memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SEEN = 1e-10
"""Share of the largest variance below which a direction has none."""
EXACT, FOUND_IN = 4096, 2048
"""Values of an image up to which the covariance of all training images is taken apart, a matter of their cube; of
larger ones, how many training images the components are found in."""
MOST_COUNTS = 2**26
"""Levels times places whose frequencies are all kept."""
ROUNDING = 1 / 12
"""Variance of rounding to a level, levels squared: a density with less noise only counts the rounding."""


def independent_pixels_nll(train: Iterable[Tensor], test: Iterable[Tensor], levels: int) -> Tensor:
    """-log p(x) of each test image, nats, (N,), under a model whose values are independent of each other: the frequency
    of each level at each place in the training images, add-one smoothed over the levels.

    Args:
        train: chunks of images.
        test: chunks of images.
        levels: how many.
    """
    first = next(chunks := iter(train))
    train = itertools.chain([first], chunks)
    if first[0].numel() * levels > MOST_COUNTS:
        return _sparse_nll(train, test, levels)
    counts: Tensor | None = None
    for chunk in train:
        place = torch.arange(chunk[0].numel()) * levels
        seen = torch.bincount((chunk.flatten(1).long() + place).flatten(), minlength=len(place) * levels)
        counts = seen if counts is None else counts + seen
    assert counts is not None
    smoothed = counts.view(-1, levels).double() + 1
    log_p = (smoothed / smoothed.sum(1, keepdim=True)).log()
    places = torch.arange(len(log_p))
    return torch.cat([-log_p[places, chunk.flatten(1).long()].sum(1) for chunk in test])


def _sparse_nll(train: Iterable[Tensor], test: Iterable[Tensor], levels: int) -> Tensor:
    """The same, where a count for each level at each place would fill the memory: only those that occur are kept."""

    def codes(chunk: Tensor) -> Tensor:
        return chunk.flatten(1).long() + torch.arange(chunk[0].numel()) * levels

    seen = torch.cat([codes(chunk) for chunk in train])
    found, counts = seen.unique(return_counts=True)
    total = len(seen) + levels

    def log_p(chunk: Tensor) -> Tensor:
        wanted = codes(chunk)
        at = torch.searchsorted(found, wanted).clamp_max(len(found) - 1)
        return ((1 + counts[at] * (found[at] == wanted)).double() / total).log()

    return torch.cat([-log_p(chunk).sum(1) for chunk in test])


def mean_and_covariance(images: Iterable[Tensor], levels: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of images scaled to [0, 1], float64, in one pass."""
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for chunk in images:
        x = chunk.flatten(1).double() / (levels - 1)
        count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
    mean = total / count
    return mean, products / count - mean.outer(mean)


def gaussian_rate_distortion(images: Iterable[Tensor], levels: int, rates: Sequence[float]) -> Tensor:
    """The least squared error, summed over an image in [0, 1], at which a Gaussian source with the images' covariance
    can be told with so many nats an image: principal components with the reverse water-filling of Cover & Thomas 2006,
    theorem 10.3.3. One error a rate, (len(rates),).

    Args:
        images: chunks of images.
        levels: how many.
        rates: nats an image.
    """
    return _water_filled(torch.linalg.eigvalsh(mean_and_covariance(images, levels)[1]), rates)


def held_out_rate_distortion(
    train: Iterable[Tensor], test: Iterable[Tensor], levels: int, rates: Sequence[float], exact: int = EXACT
) -> Tensor:
    """The same for test images, of which the principal components of the training images are told, and only the
    variances along them are known: the least squared error that PCA with ideal coding reaches at so many nats an
    image. With many training images it is the Gaussian limit; with few, whose own components would fit no others,
    still one that can be reached. One error a rate, (len(rates),).

    Of images of more than `exact` values, the components are those of the first `FOUND_IN` training images, and what
    they leave out is taken to be as large in every direction.

    Args:
        train: chunks of images.
        test: chunks of images.
        levels: how many.
        rates: nats an image.
        exact: see above.
    """
    chunks = iter(train)
    first = next(chunks)
    size = first[0].numel()
    if size <= exact:
        mean, covariance = mean_and_covariance(itertools.chain([first], chunks), levels)
        directions = torch.linalg.eigh(covariance)[1]
    else:
        mean, directions = _of_some(itertools.chain([first], chunks), levels)
    count, along, whole = 0, torch.zeros(directions.shape[1], dtype=torch.float64), 0.0
    for chunk in test:
        residual = chunk.flatten(1).to(directions) / (levels - 1) - mean
        along += (residual @ directions).square().sum(0).double()
        count, whole = count + len(chunk), whole + residual.square().sum().item()
    rest = size - len(along)
    left = [max(0.0, whole - along.sum().item()) / count / rest] * rest if rest else []
    return _water_filled(torch.cat([along / count, torch.tensor(left, dtype=torch.float64)]), rates)


def _of_some(chunks: Iterable[Tensor], levels: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and directions (D, r) of the first images, fewer than they have values, float32."""
    taken, count = list[Tensor](), 0
    for chunk in chunks:
        taken.append(chunk[: FOUND_IN - count].flatten(1).float() / (levels - 1))
        count += len(taken[-1])
        if count >= FOUND_IN:
            break
    x = torch.cat(taken)
    mean = x.mean(0)
    x = x - mean
    variance, vectors = torch.linalg.eigh(x @ x.T)
    kept = variance > 1e-6 * variance.max()
    return mean, x.T @ (vectors[:, kept] / variance[kept].sqrt())


def _water_filled(variance: Tensor, rates: Sequence[float]) -> Tensor:
    """The squared error of independent Gaussians of these variances at each rate, nats, (len(rates),)."""
    variance = variance.clamp_min(1e-12)
    levels_of_water = torch.logspace(-12, 0, 4000, dtype=torch.float64) * variance.max()
    below = torch.minimum(variance, levels_of_water[:, None]).sum(1)  # squared error at each level
    above = 0.5 * (variance / levels_of_water[:, None]).clamp_min(1).log().sum(1)  # rate at each level, falling
    wanted = torch.tensor(rates, dtype=torch.float64)
    right = torch.searchsorted(-above, -wanted).clamp(1, len(above) - 1)
    span = (above[right - 1] - above[right]).clamp_min(1e-12)
    return torch.lerp(below[right], below[right - 1], ((wanted - above[right]) / span).clamp(0, 1))


def pca_squared_error(train: Iterable[Tensor], test: Iterable[Tensor], levels: int, dimensions: int) -> Tensor:
    """Squared error of each test image, scaled to [0, 1] and summed over its values, (N,), after projection on the
    first `dimensions` principal components of the training images (the optimal linear autoencoder).

    Args:
        train: chunks of images.
        test: chunks of images.
        levels: how many.
        dimensions: number of components, of which no more count than the training images differ in.
    """
    mean, covariance = mean_and_covariance(train, levels)
    variance, vectors = torch.linalg.eigh(covariance)
    seen = variance > SEEN * variance.max()  # the others are any directions at all, where images are few
    components = vectors[:, seen][:, -dimensions:]
    errors = []
    for chunk in test:
        residual = chunk.flatten(1).double() / (levels - 1) - mean
        errors.append((residual - residual @ components @ components.T).square().sum(1))
    return torch.cat(errors)


class PrincipalDensities(NamedTuple):
    """The maximum-likelihood x = W z + mu + noise, z ~ N(0, I), noise ~ N(0, s^2 I), of images for every number of
    latents (Tipping & Bishop 1999, eq. 3-8): mean (D,), and the covariance's eigenvalues (D,), rising, and vectors
    (D, D). Levels are the unit."""

    mean: Tensor
    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, train: Iterable[Tensor], levels: int) -> PrincipalDensities:
        """Of training images, in chunks. ValueError for binary images, or none."""
        if levels == 2:
            raise ValueError(
                "ppca_log_prob expects grey images, got binary ones, of which a Gaussian is no likelihood: use "
                "independent_pixels_nll."
            )
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for chunk in train:
            x = chunk.flatten(1).double()
            count, total, products = count + len(x), total + x.sum(0), products + x.T @ x
        if not count:
            raise ValueError("train: expected chunks of images, got none: give an iterable that has not been used up.")
        mean = total / count
        return cls(mean, *torch.linalg.eigh(products / count - mean.outer(mean)))

    def log_prob(self, images: Iterable[Tensor], dimensions: int) -> Tensor:
        """See `ppca_log_prob`."""
        size = len(self.mean)
        if not 0 <= dimensions < size:
            raise ValueError(f"dimensions: expected 0 to {size - 1} for images of {size} values, got {dimensions}.")
        rest = size - dimensions
        noise = self.values[:rest].mean().clamp_min(ROUNDING)
        kept, components = self.values[rest:].clamp_min(noise), self.vectors[:, rest:]
        constant = size * math.log(2 * math.pi) + kept.log().sum() + rest * noise.log()
        found = []
        for chunk in images:
            residual = chunk.flatten(1).double() - self.mean
            along = residual @ components
            outside = residual.square().sum(1) - along.square().sum(1)
            found.append(-0.5 * (constant + (along.square() / kept).sum(1) + outside / noise))
        return torch.cat(found)

    def best(self, held_out: Sequence[Tensor], dimensions: int) -> int:
        """How many latents, of `dimensions` and its halves, quarters, ... down to 1, make held-out images the most
        likely: with about as many latents as training images nothing is left to tell the noise by, and the density of
        any other image is next to nothing."""
        counts = [dimensions]
        while counts[-1] > 1:
            counts.append(counts[-1] // 2)
        return max(counts, key=lambda count: self.log_prob(held_out, count).sum().item())


def ppca_log_prob(train: Iterable[Tensor], test: Iterable[Tensor], levels: int, dimensions: int) -> Tensor:
    """log p(x) of each test image, nats, (N,), float64, under x = W z + mu + noise, z ~ N(0, I), noise ~ N(0, s^2 I),
    at the maximum likelihood of the training images (Tipping & Bishop 1999, eq. 3-8): mu their mean, s^2 the mean of
    the covariance's D - d smallest eigenvalues, W W^T + s^2 I the d largest with s^2 for the rest. Where s^2 would be
    less than 1/12, the variance of rounding, it is 1/12, and W the optimum at that.

    A density over the integer image, as a Gaussian likelihood's: that of the image scaled to [0, 1] is higher by
    D log(levels - 1). Not to be compared with a probability of grey levels, which it exceeds at little noise.

    Args:
        train: chunks of images (N, C, H, W), integers 0..levels-1.
        test: chunks of images.
        levels: how many, more than 2.
        dimensions: d, the number of latents, less than D = C H W; with few training images see
            `PrincipalDensities.best`.

    Raises:
        ValueError: binary images, no training images, or a d out of range.
    """
    return PrincipalDensities.of(train, levels).log_prob(test, dimensions)
