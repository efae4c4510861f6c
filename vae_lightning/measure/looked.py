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

SAMPLED = 2**24
"""Values of maps that are kept where maps are not."""


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
    reconstruction: (N, C, H, W), integers 0..levels-1.
    is_discrete: whether the likelihood is a probability of levels.
    """

    scores: dict[str, Tensor]
    bits: Tensor
    error: Tensor
    reconstruction: Tensor
    is_discrete: bool

    def sampled(self, step: int) -> Looked:
        """Without maps and reconstructions, but for every `step`-th value of the maps."""
        maps = (self.bits.flatten()[::step], self.error.flatten()[::step])
        return Looked(self.scores, *maps, self.reconstruction[:0], self.is_discrete)


def peak(maps: Tensor) -> Tensor:
    """The largest value of each map (N, H, W) under a Gaussian window, (N,): what a small defect changes most. The
    window's standard deviation is a 28th of the shorter side, a pixel at least."""
    sigma = max(1.0, min(maps.shape[-2:]) / 28)
    most = (min(maps.shape[-2:]) - 1) // 2  # of a window whose mirrored margin lies within the map
    window = 2 * min(math.ceil(3 * sigma), most) + 1
    return gaussian_blur(maps[:, None], [window, window], [sigma, sigma]).flatten(1).amax(1)


@torch.no_grad()
def look(
    model: LatentModel,
    images: Images,
    levels: int,
    num_samples: int,
    device: torch.device,
    p_y: Tensor | None = None,
    keep: bool = True,
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
        keep: keep maps and reconstructions; false keeps of the maps some values alone, evenly over all, (M,).
    """
    summed_out = p_y if "label" in model.needs and images.label is None else None
    step = max(1, len(images) * math.prod(images.stored.shape[-2:]) // SAMPLED)
    parts: list[Looked] = []
    for batch in images.batches(images.at_most(200, CHUNK_VALUES // 16)):
        given = {name: value.to(device) for name, value in batch.items() if name in ("image", *model.needs)}
        if summed_out is None:
            part = _look(model, given, levels, num_samples)
        else:
            each = [_look(model, of_class(given, y), levels, num_samples) for y in range(len(summed_out))]
            part = _summed_out(each, summed_out)
        if part.is_discrete and "nll" in part.scores and levels <= 256:
            costs = complexity(batch["image"], levels)
            part.scores["ratio"] = likelihood_ratio(-part.scores["nll"], costs)
        part.scores.update(bits_peak=peak(part.bits).double(), error_peak=peak(part.error).double())
        parts.append(part if keep else part.sampled(step))
    scores = {name: torch.cat([it.scores[name] for it in parts]) for name in SCORES if name in parts[0].scores}
    maps, errors, back = (
        torch.cat([getattr(it, name) for it in parts]) for name in ("bits", "error", "reconstruction")
    )
    return Looked(scores, maps, errors, back, parts[0].is_discrete)


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
    back = mean.round().clamp(0, levels - 1).to(torch.uint8 if levels <= 256 else torch.int32)
    return Looked(scores, bits(of_each.sum(1)).cpu(), error.cpu(), back.cpu(), is_discrete)


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

    back = mean("reconstruction").round().to(each[0].reconstruction.dtype)
    return Looked(scores, mean("bits"), mean("error"), back, each[0].is_discrete)
