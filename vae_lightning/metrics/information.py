"""What the latents know of the images: the parts of the rate, the units in use, and whether the decoder listens.

Legend of shapes: N images, which come in chunks (B, C, H, W) of integers; K samples an image, M = K N; d latents.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent

from vae_lightning.core import Batch, Given, LatentModel, Site, image_of, rows, seeded, without_image
from vae_lightning.metrics.estimators.aggregate import log_aggregate, log_aggregate_of_several, log_prior
from vae_lightning.metrics.estimators.joint import Joint, sum_of
from vae_lightning.metrics.mean import mean_error

MeanError = tuple[float, float]  # mean over images and its standard error, nats per image
IMAGE_VALUES = 2**17  # of the images encoded and decoded at a time
MOST_OF_SEVERAL = 1000  # images of a story of several latents, which is told anew for every pair of them
CARRIED = 0.01  # nats of rate below which a latent carries nothing
IGNORED = 0.1  # nats an image below which the decoder takes latents of another image as well


class Rate(NamedTuple):
    """E KL(q(z|x) || p(z)) and its parts: rate = mutual_information + prior_hole, and prior_hole = total_correlation +
    dimension_wise_kl, to rounding. The errors take the aggregate posterior as given."""

    rate: MeanError
    mutual_information: MeanError
    prior_hole: MeanError
    total_correlation: MeanError | None = None
    dimension_wise_kl: MeanError | None = None


def decompose_rate_by_class(model: LatentModel, batches: Iterable[Batch], max_images: int = 10_000) -> Rate:
    """`decompose_rate` of a prior p(z|y), within each class and then averaged over the images: the mutual information
    of image and latent is that given the class, at most the log of the class's images, and the hole the one between
    each class's aggregate posterior and its own prior. Batches hold "label" (B,)."""
    held = list(_at_most(model, batches, max_images)[0])
    labels = torch.cat([batch["label"] for batch in held])
    weights, parts = list[float](), list[Rate]()
    for label in labels.unique():
        of_class = [rows(batch, batch["label"] == label) for batch in held]
        parts.append(decompose_rate(model, [batch for batch in of_class if len(image_of(batch))]))
        weights.append((labels == label).double().mean().item())

    def mean(found: tuple[MeanError | None, ...]) -> MeanError | None:
        known = [(w, *value) for w, value in zip(weights, found, strict=True) if value is not None]
        if len(known) < len(found):
            return None
        average = sum(w * m for w, m, _ in known)
        within = sum(
            w * w * len(labels) * e**2 for w, _, e in known if math.isfinite(e)
        )  # nan for a class of one image
        between = sum(w * (m - average) ** 2 for w, m, _ in known)
        return average, math.sqrt((within + between) / len(labels))

    return Rate(*(mean(found) for found in zip(*parts, strict=True)))  # type: ignore[arg-type]


@torch.no_grad()
def decompose_rate(
    model: LatentModel, batches: Iterable[Batch], samples_per_image: int = 1, max_images: int = 10_000
) -> Rate:
    """The rate by samples z ~ q(z|x), and its parts by the aggregate posterior q(z) = 1/N sum_j q(z|x_j), nats:

    - mutual information I(x; z) = E[log q(z|x) - log q(z)], at most log N (Hoffman & Johnson 2016),
    - prior hole KL(q(z) || p(z)) = E[log q(z) - log p(z)], and of it, where the posterior is a diagonal Gaussian and
      the prior factorises (else None; Chen et al. 2018, eq. 2),
    - total correlation E[log q(z) - sum_d log q_d(z_d)],
    - dimension-wise KL sum_d E[log q_d(z_d) - log p_d(z_d)].

    All pairs of a sample and an image enter, own ones too: with more images the information grows (near log N it tells
    of N alone) and the hole shrinks.

    Of several latents z is all of them together, and q(z_m|x_j), the product of their posteriors each given those of
    z_m before it, needs the story told again for every pair: N is 1000 at most. The last two parts are then there where
    each posterior is a diagonal Gaussian and each prior factorises given the latents before it, with these meanings:
    q_d(z_d) is the mixture, over all images and samples, of the posteriors of that latent given the ancestors that were
    sampled with it, which is an unbiased estimate of its marginal density; and log p_d(z_d) is taken given the sample's
    ancestors. The total correlation so contains what the prior itself joins, and the "dimension-wise KL", which is what
    is left of the prior hole, is negative where that is much.

    Args:
        model: in evaluation mode.
        batches: of images, with what else is given of them.
        samples_per_image: K.
        max_images: N at most, the first of them.

    Raises:
        ValueError: no images or samples, or a posterior that is a point mass.
    """
    if min(samples_per_image, max_images) < 1:
        raise ValueError(f"expected 1 or more samples_per_image and max_images, got {samples_per_image}, {max_images}.")
    parts, several = _at_most(model, batches, max_images)
    joints, drawn = list[Joint](), list[dict[str, Site]]()
    for batch in parts:
        joint = Joint(model, batch)
        drawn.append(joint.posterior(samples_per_image))
        joints += [joint] if several else []  # which hold their images
    _require(len(drawn), 1)
    log_p = torch.cat([sum_of(map(log_prior, sites.values())) for sites in drawn], 1).flatten()  # (M,)
    log_own, log_q, log_product = log_aggregate_of_several(joints, drawn) if several else log_aggregate(drawn)
    differences = [log_own - log_p, log_own - log_q, log_q - log_p]
    if log_product is not None and all(isinstance(site.p, Independent) for site in drawn[0].values()):
        differences += [log_q - log_product, log_product - log_p]
    return Rate(*(mean_error(difference.view(samples_per_image, -1).mean(0)) for difference in differences))


def _at_most(model: LatentModel, batches: Iterable[Batch], max_images: int) -> tuple[Iterator[Batch], bool]:
    """The batches of so many images, or of MOST_OF_SEVERAL where the story has several latents, and whether it has."""
    parts, several = _batches(model, batches, max_images), False
    for first in itertools.islice(parts, 1):
        with seeded(None, image_of(first).device):
            several = len(model.trace(rows(first, slice(0, 2))).sites) > 1
        most = min(max_images, MOST_OF_SEVERAL) if several else max_images
        parts = _batches(model, itertools.chain([first], parts), most)
    return parts, several


def active_units(means: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latents move with the image, bool (d,): the posterior's mean, (N, d), has a variance over all images above
    the threshold (Burda et al. 2016, section 5.2)."""
    return means.var(0, correction=0) > threshold


@torch.no_grad()
def shuffled_distortion(model: LatentModel, batches: Iterable[Batch]) -> tuple[MeanError, MeanError]:
    """-log p(x|z), nats per image, with z ~ q(z|x) of the image itself, and with the z of the image before it (for the
    first, of the last): the same where the decoder does not use z. Mix images whose neighbours are alike. The second
    error knows that each image stands in two terms, in one as the image and in the next by its latents. The model is in
    evaluation mode; the images come in chunks, and fewer than two in all raise ValueError."""
    matched, shuffled, first, last = list[Tensor](), list[Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for batch in _batches(model, batches):
        trace = model.trace(batch)
        matched.append(-trace.log_likelihood())
        if not last:
            first, batch = rows(batch, slice(0, 1)), rows(batch, slice(1, None))
        before = {s.name: torch.cat([last.get(s.name, s.z[:0]), s.z[:-1]]) for s in trace.sites.values()}
        if len(image_of(batch)):
            shuffled.append(-model(Given(before), without_image(batch)).log_prob(image_of(batch)))
        last = {site.name: site.z[-1:] for site in trace.sites.values()}
    _require(sum(map(len, matched)), 2)
    shuffled.append(-model(Given(last), without_image(first)).log_prob(image_of(first)))
    terms = torch.cat(shuffled).double()
    mean, error = mean_error(terms)
    shared = ((terms - mean) * (terms.roll(1) - mean)).mean().clamp_min(0).item()  # covariance of a term and the next
    return mean_error(torch.cat(matched)), (mean, math.sqrt(error**2 + 2 * shared / len(terms)))


def diagnose(
    rate_per_latent: Tensor,
    active: Tensor,
    matched: float,
    shuffled: float,
    setting: str = "--model.latent_model.latent_size",
    spare: bool = False,
) -> str:
    """Whether the posterior has collapsed to the prior, and the setting to change, in a sentence.

    Args:
        rate_per_latent: mean over images of KL(q(z_d|x) || p(z_d)), nats, (d,).
        active: `active_units`, (d,).
        matched, shuffled: the means of `shuffled_distortion`, nats.
        setting: the one that says how many latents there are; "" where there is none.
        spare: whether there are more latents than are needed, on purpose.
    """
    carry = active & (rate_per_latent > CARRIED)
    used, size, cost = int(carry.sum()), len(carry), shuffled - matched
    nats = f"{rate_per_latent[carry].sum():.1f} of {rate_per_latent.sum():.1f} nats"
    effect = "as well as its own" if cost < IGNORED else f"{cost:.1f} nats worse than its own"
    found = f"{used} of {size} latents carry information ({nats}), and those of another image decode it {effect}"
    more = "lower the KL's weight or warm it up longer (--model.objective.beta), set --model.objective.free_bits 0.1"
    if cost < IGNORED:
        return f"Full collapse: {found}; {more}, or take a weaker decoder."
    if used > size / 2 or (spare and used):
        return f"No collapse: {found}{'; the others are spare' if used < size and spare else ''}."
    fewer = f"or do with a smaller {setting} ({used})" if setting and used else ""
    return f"Partial collapse: {found}; to use more, {more}, {fewer or 'or take a weaker decoder'}."


def _batches(model: LatentModel, batches: Iterable[Batch], at_most: int = sys.maxsize) -> Iterator[Batch]:
    """The first images, where and as the model takes them, a few at a time."""
    like = next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0))
    for batch in batches:
        image = image_of(batch)
        step = max(1, IMAGE_VALUES // max(1, image[:1].numel()))
        for start in range(0, min(len(image), at_most), step):
            part = rows(batch, slice(start, min(start + step, at_most)))
            yield {**{name: value.to(like.device) for name, value in part.items()}, "image": image_of(part).to(like)}
        if (at_most := at_most - len(image)) <= 0:
            return


def _require(count: int, needed: int) -> None:
    if count < needed:
        raise ValueError(f"images: expected at least {needed}, got {count}: pass chunks of a larger split.")
