"""Telling out-of-distribution images from normal ones by what a model makes of them; a higher score is a less likely
image.

Serrà et al. (2020) is "Input complexity and out-of-distribution detection with likelihood-based generative models" by
J. Serrà, D. Álvarez, V. Gómez, O. Slizovskaia, J. F. Núñez and J. Luque, ICLR 2020, arXiv:1909.11480.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lightning.core import bits


class AUROC(NamedTuple):
    """An area under the ROC curve, its standard error (nan for a single image of a kind), and its 95 % interval, which
    has a width whatever the images: see `auroc_interval`."""

    value: float
    standard_error: float
    low: float
    high: float


def auroc(normal_scores: Tensor, ood_scores: Tensor) -> AUROC:
    """Probability that an out-of-distribution image scores higher than a normal one, ties counting half: the area under
    the ROC curve. Its standard error is that of DeLong et al. (1988), over images of both kinds; nan for a single image
    of a kind.

    Args:
        normal_scores: (N,).
        ood_scores: (M,).

    Raises:
        ValueError: no score, or one that is not a number.
    """
    for name, scores in (("normal_scores", normal_scores), ("ood_scores", ood_scores)):
        if scores.dim() != 1 or len(scores) == 0 or scores.isnan().any():
            raise ValueError(
                f"auroc.{name}: expected one number an image, shape (N,), got shape {tuple(scores.shape)} with "
                f"{int(scores.isnan().sum())} nan: give the scores of one image or more."
            )
    normal, ood = normal_scores.double(), ood_scores.double()
    above = _share_below(normal, ood)  # of normal scores, for each other one
    below = 1 - _share_below(ood, normal)  # share of ood scores above, for each normal one
    variance = (above.var() if len(ood) > 1 else math.nan) / len(ood) + (
        below.var() if len(normal) > 1 else math.nan
    ) / len(normal)
    value = above.mean().item()
    return AUROC(value, math.sqrt(variance), *auroc_interval(value, len(normal), len(ood)))


def auroc_interval(value: float, normal: int, ood: int) -> tuple[float, float]:
    """The 95 % interval of an area over so many images of either kind, by Newcombe (2006, part 2, method 5): all areas
    whose score test, with the variance of Hanley & McNeil, does not reject the one that was found. It has a width where
    the areas are 0 or 1 and where there is one image of a kind, where the standard error says 0 or nothing.

    Args:
        value: the area, 0 to 1.
        normal: how many normal images.
        ood: how many others.
    """
    z, n = 1.959963984540054, (normal + ood) / 2 - 1

    def rejected(area: float) -> bool:
        spread = 1 + n * ((1 - area) / (2 - area) + area / (1 + area))
        return (value - area) ** 2 > z**2 * area * (1 - area) * spread / (normal * ood)

    ends = []
    for end in (0.0, 1.0):
        inside = value
        for _ in range(60):  # the areas that are not rejected are one stretch around the one found
            middle = (inside + end) / 2
            inside, end = (inside, middle) if rejected(middle) else (middle, end)
        ends.append(inside)
    return ends[0], ends[1]


def _share_below(reference: Tensor, values: Tensor) -> Tensor:
    """Share of `reference` below each value, equals counting half."""
    ordered = reference.sort().values
    left, right = (torch.searchsorted(ordered, values.contiguous(), right=side) for side in (False, True))
    return (left + right).double() / (2 * len(ordered))


def complexity(images: Tensor, levels: int) -> Tensor:
    """Bits that a generic lossless coder spends on each image, (N,) float64: the smaller of zlib's and, for 1 or 3
    channels, PNG's, as Serrà et al. (2020) take the best of several coders.

    PNG gains on smooth images, and loses on binary and on small ones: its fixed costs alone are some 60 bytes.

    Args:
        images: (N, C, H, W), integers 0..levels-1.
        levels: how many, at most 256.

    Raises:
        ValueError: more than 256 levels, or values outside of them.
    """
    from torchvision.io import encode_png

    if not 2 <= levels <= 256:
        raise ValueError(f"complexity: expected from 2 to 256 levels, one byte a value, got {levels}.")
    pixels = images.to("cpu", torch.uint8)
    if (pixels != images.cpu()).any() or (pixels > levels - 1).any():
        raise ValueError(
            f"complexity: expected integers 0..{levels - 1}, got values from {images.min().item():g} to "
            f"{images.max().item():g}: round the images to their grey levels."
        )
    sizes = [len(zlib.compress(image.numpy().tobytes(), 9)) for image in pixels]
    if images.shape[1] in (1, 3):
        sizes = [min(n, encode_png(x, compression_level=9).numel()) for n, x in zip(sizes, pixels, strict=True)]
    return 8 * torch.tensor(sizes, dtype=torch.float64)


def likelihood_ratio(log_prob: Tensor, complexity: Tensor) -> Tensor:
    """S(x) = -log2 p(x) - complexity(x), bits, (N,): what the model spends on an image beyond a generic coder
    (Serrà et al. 2020, who divide both terms by the number of dimensions, which is the same for all images here and
    changes no order). It is log2 of a ratio of likelihoods, the coder being a model whose p is 2^-complexity, and so
    simply a difference. A plain -log p(x) calls simple images normal, whatever they show.

    Args:
        log_prob: log p(x), nats, (N,), of a discrete likelihood; that of a density differs by its unit of volume.
        complexity: bits, (N,), of the same images.
    """
    return bits(-log_prob.double()) - complexity
