"""What a model makes of images, one by one: scores, and maps of where the scores come from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vae_lightning.core import Batch, LatentModel, PosteriorMean, bits, image_of, traced
from vae_lightning.data import Images
from vae_lightning.data.source import CHUNK_VALUES
from vae_lightning.distributions import log_prob_of_each
from vae_lightning.metrics.anomaly import complexity, likelihood_ratio
from vae_lightning.metrics.classifier import of_class
from vae_lightning.metrics.estimators.tiles import tile_size


class Score(NamedTuple):
    """What a score is, for people, and its unit."""

    label: str
    unit: str


SCORES = {
    "nll": Score("-log p(x)", "nats"),
    "elbo": Score("-ELBO", "nats"),
    "reconstruction": Score("-E log p(x|z), minus the reconstruction probability", "nats"),
    "rate": Score("rate, KL(q || p)", "nats"),
    "ratio": Score("-log p(x) less a generic coder's bits", "bits"),
    "bits_peak": Score("peak of the map of bits", "bits a pixel"),
    "squared_error": Score("squared error, images in [0, 1]", "an image"),
    "error_peak": Score("peak of the map of squared errors", "a pixel"),
}
"""Every score that an image can have, the higher the less likely the image."""


@dataclass(frozen=True)
class Looked:
    """Args:
    scores: of SCORES those that there are, (N,) float64.
    bits: map of -log2 p(x_i|z), the mean over draws of z from the posterior, summed over a pixel's channels, (N, H, W);
        of a density its logarithm in the same unit, no length of a code.
    error: map of the squared error of the reconstruction at the posterior's mean, images in [0, 1], summed over a
        pixel's channels, (N, H, W).
    reconstruction: (N, C, H, W), in levels.
    is_discrete: whether the likelihood is a probability of levels.
    """

    scores: dict[str, Tensor]
    bits: Tensor
    error: Tensor
    reconstruction: Tensor
    is_discrete: bool


def peak(maps: Tensor) -> Tensor:
    """The largest value of each map (N, H, W) under a Gaussian window, (N,): what a small defect changes most. The
    window's standard deviation is a 28th of the shorter side, a pixel at least."""
    sigma = max(1.0, min(maps.shape[-2:]) / 28)
    most = (min(maps.shape[-2:]) - 1) // 2  # of a window whose mirrored margin lies within the map
    window = 2 * min(math.ceil(3 * sigma), most) + 1
    return gaussian_blur(maps[:, None], [window, window], [sigma, sigma]).flatten(1).amax(1)


@torch.no_grad()
def look(
    model: LatentModel, images: Images, levels: int, num_samples: int, device: torch.device, p_y: Tensor | None = None
) -> Looked:
    """Scores and maps of images.

    Args:
        model: in evaluation mode, on the device.
        images: N of them, in its shape.
        levels: how many.
        num_samples: draws from the posterior an image, of which all scores and the map of bits are made.
        device: where the model is.
        p_y: the classes' frequencies, (C,), for a model that needs labels: where images have none the classes are
            summed out, each with its probability given the image by the ELBO.
    """
    labelled = "label" not in model.needs or images.label is not None
    parts: list[Looked] = []
    for batch in images.batches(images.at_most(200, CHUNK_VALUES // 16)):
        given = {name: value.to(device) for name, value in batch.items() if name in ("image", *model.needs)}
        if labelled or p_y is None:
            parts.append(_look(model, given, levels, num_samples))
        else:
            parts.append(
                _summed_out([_look(model, of_class(given, y), levels, num_samples) for y in range(len(p_y))], p_y)
            )
    scores = {name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores}
    maps, errors = torch.cat([part.bits for part in parts]), torch.cat([part.error for part in parts])
    scores |= {"bits_peak": peak(maps).double(), "error_peak": peak(errors).double()}
    is_discrete = parts[0].is_discrete
    if is_discrete and "nll" in scores and levels <= 256:
        costs = torch.cat([complexity(chunk, levels) for chunk in images.chunks()])
        scores["ratio"] = likelihood_ratio(-scores["nll"], costs)
    ordered = {name: scores[name] for name in SCORES if name in scores}
    return Looked(ordered, maps, errors, torch.cat([part.reconstruction for part in parts]), is_discrete)


def _look(model: LatentModel, given: Batch, levels: int, num_samples: int) -> Looked:
    """The scores of a batch but for those of its maps."""
    x = image_of(given)
    each = max(1, min(num_samples, tile_size(model, given) // len(x)))
    story, done = model.about(given), 0
    of_each, kl = torch.zeros_like(x), x.new_zeros(len(x))
    weight = x.new_full((len(x),), -torch.inf, dtype=torch.float64)
    has_rate, is_discrete = False, False
    while done < num_samples:
        trace = traced(story, x, min(each, num_samples - done))
        has_rate, is_discrete = trace.has_rate, trace.is_discrete
        values = log_prob_of_each(trace.px, x)
        of_each += values.sum(0)
        if has_rate:
            kl += trace.kl().expand(len(values), -1).sum(0)
            weight = torch.logaddexp(weight, trace.log_weight().double().logsumexp(0))
        done += len(values)
        if not has_rate:  # a point mass: every draw is the same
            break
    of_each, kl = -of_each / done, kl / done
    mean = model(PosteriorMean(), given).mean
    error = ((mean - x) / (levels - 1)).square().sum(1)
    scores = {"reconstruction": of_each.double().flatten(1).sum(1), "squared_error": error.double().flatten(1).sum(1)}
    if has_rate:
        scores |= {"rate": kl.double(), "elbo": kl.double() + scores["reconstruction"]}
        scores["nll"] = math.log(done) - weight
    scores = {name: value.cpu() for name, value in scores.items()}
    return Looked(scores, bits(of_each.sum(1)).cpu(), error.cpu(), mean.cpu(), is_discrete)


def _summed_out(each: list[Looked], p_y: Tensor) -> Looked:
    """The scores and maps of images whose class y is not told, from those under each: of the bound that has y for a
    latent, too, with the best q(y|x), by which all means are taken; its rate has KL(q(y|x) || p(y)) added."""
    by_class = {name: torch.stack([part.scores[name] for part in each]) for name in each[0].scores}  # (C, B)
    cost = by_class.get("elbo", by_class["reconstruction"])
    q_y = (p_y.log()[:, None] - cost).softmax(0)
    scores = {name: (q_y * values).sum(0) for name, values in by_class.items()}
    if "elbo" in by_class:
        for name in ("elbo", "nll"):
            scores[name] = -(p_y.log()[:, None] - by_class[name]).logsumexp(0)
        scores["rate"] = scores["elbo"] - scores["reconstruction"]

    def mean(name: str) -> Tensor:
        values = torch.stack([getattr(part, name) for part in each])
        return (q_y.view(*q_y.shape, *[1] * (values.dim() - 2)) * values).sum(0).float()

    return Looked(scores, mean("bits"), mean("error"), mean("reconstruction"), each[0].is_discrete)
