"""Each image's own Gaussian, sought by gradient from the encoder's: the best that the family could do, and so what an
encoder loses to it (Cremer et al. 2018), and a better proposal for importance sampling than an encoder gives.
Shapes: B images, K samples an image; all latents of a story as one vector, (K, B, D)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import (
    Batch,
    LatentModel,
    PosteriorMean,
    Recorded,
    Shape,
    image_of,
    is_diagonal_gaussian,
    rows,
    seeded,
    told_until,
)
from vae_lightning.metrics.estimators.joint import Joint, split
from vae_lightning.metrics.estimators.tiles import tile_size

STEPS, LR, STEP_SAMPLES = 50, 0.05, 2
"""Of a search for a proposal: most of what 300 steps of 8 samples find, for a tenth of the price of 1000 samples."""
WIDENING = 1.15
"""A proposal's scale over that of the best bound, which is narrower than p(z|x) wherever that is no such Gaussian,
while importance weights want a proposal with the wider tails."""


SEED = 0x2D358DCCAA6C78A5
"""Of the search, one that nobody else takes: samples that seek and samples that weigh must not be the same."""
CHECKED_SAMPLES = 20
"""By which what the search found is held against where it began."""


class Gaussians(NamedTuple):
    """q(z) of each of B images, under which all latents are independent: mean and scale, (B, D) each, of the latents
    side by side, whose names and event shapes are `shapes`."""

    shapes: Mapping[str, Shape]
    mean: Tensor
    scale: Tensor

    def widened(self, by: float = WIDENING) -> Gaussians:
        return self._replace(scale=by * self.scale)

    def posteriors(self, images: slice) -> dict[str, Distribution]:
        """Those of some images, by the names of their latents, as `LatentModel.trace` takes them."""
        means, scales = (split(self.shapes, value[images]) for value in (self.mean, self.scale))
        return {
            name: Independent(Normal(means[name], scales[name], validate_args=False), len(shape), validate_args=False)
            for name, shape in self.shapes.items()
        }


def refinable(joint: Joint) -> bool:
    """Whether every posterior of the story is a diagonal Gaussian, from which a search can start."""
    return all(is_diagonal_gaussian(site.q) for site in joint.sites.values())


class Bounds:
    """Log weights of a batch under diagonal Gaussians (mean, scale), (B, D) each, over all latents, whose mean is their
    ELBO. `q` is where a search begins: each posterior's mean and scale, given the means of the latents before it."""

    def __init__(self, model: LatentModel, given: Batch) -> None:
        self.joint = Joint(model, given)
        self.joint.require_gradients()
        self.shapes = self.joint.shapes
        if not refinable(self.joint):
            got = next(site.q for site in self.joint.sites.values() if not is_diagonal_gaussian(site.q))
            got = got.base_dist if isinstance(got, Independent) else got
            raise ValueError(
                f"each image's own posterior (refinement) is sought among diagonal Gaussians, got an encoder's of "
                f"{type(got).__name__}: set --model.evaluation.refinement 0, or choose GaussianPosterior."
            )
        path = Recorded(PosteriorMean())
        told_until(self.joint.story, path, self.joint.last)
        self.q: tuple[Tensor, Tensor] = (
            self.joint.join({name: site.q.mean for name, site in path.sites.items()}),
            self.joint.join({name: site.q.stddev for name, site in path.sites.items()}),
        )

    def log_weight(self, q: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z), (K, B), at z = mean + scale noise; its gradient takes q's density as fixed."""
        z = q[0] + q[1] * noise
        log_q = Normal(q[0].detach(), q[1].detach(), validate_args=False).log_prob(z).sum(-1)
        _, log_p, log_px = self.joint.log_densities(z)
        return log_px + log_p - log_q

    def encoders_log_weight(self, noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z|x), (K, B), under the encoder's own posteriors, whose later latents hang on the earlier
        ones, at z = mean + scale noise of each: of a single latent `log_weight` of `q`."""
        parts = split(self.shapes, noise)

        def draw(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
            assert q is not None
            return q.mean + q.stddev * parts[name]

        log_q, log_p, log_px = self.joint.log_densities(self.joint.drawn(draw))
        return log_px + log_p - log_q

    @torch.enable_grad()
    def search(self, steps: int, lr: float, samples: int) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.q[0].clone().requires_grad_(), self.q[1].log().requires_grad_()
        optimizer = torch.optim.Adam([mean, log_scale], lr)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            bound = self.log_weight((mean, log_scale.exp()), torch.randn(samples, *mean.shape).to(mean))
            mean.grad, log_scale.grad = torch.autograd.grad(-bound.mean(0).sum(), [mean, log_scale])
            optimizer.step()
        return mean.detach(), log_scale.detach().exp()


def refined(
    model: LatentModel,
    given: Batch,
    steps: int = STEPS,
    lr: float = LR,
    step_samples: int = STEP_SAMPLES,
    seed: int = SEED,
) -> Gaussians:
    """The Gaussian of each image with the best ELBO, sought from the encoder's by Adam on means and log scales, at a
    rate that falls to 0, by the gradient of Roeder et al. (2017), without noise where q is p(z|x). The encoder's own
    for an image whose search found no better one, as where it is as narrow as the steps are long. Also in
    torch.inference_mode.

    Of several latents it is one diagonal Gaussian over them all, sought from the encoder's along the path of the means;
    what the encoder knows of one latent given another it does not keep.

    An importance-sampled p(x) has no bias whatever its proposal, as long as the samples that weigh are not those that
    sought: these come from a generator of their own.

    Args:
        model: in evaluation mode, of latents whose posteriors are diagonal Gaussians.
        given: a batch with "image" (B, C, H, W), integers.
        steps: of the search.
        lr: its first learning rate: a mean can move by steps lr / 2.
        step_samples: samples an image in each step.
        seed: of the samples; torch's own generator is left as it is.

    Raises:
        ValueError: a count below 1, or another posterior.
    """
    if min(steps, step_samples) < 1:
        raise ValueError(f"refinement: expected at least 1 of steps and step_samples, got {(steps, step_samples)}.")
    image, found = image_of(given), []
    at_once = max(1, tile_size(model, given) // 4 // step_samples)
    with (
        seeded(seed, image.device),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        normal = {name: value.clone() for name, value in given.items()}
        for i in range(0, len(image), at_once):
            bounds = Bounds(model, rows(normal, slice(i, i + at_once)))
            best = bounds.search(steps, lr, step_samples)
            noise = torch.randn(CHECKED_SAMPLES, *best[0].shape).to(best[0])
            first, last = (
                torch.stack([bounds.log_weight(q, part).sum(0) for part in noise.split(step_samples)]).sum(0)
                for q in (bounds.q, best)
            )
            better = (last > first)[:, None]  # not where it is nan
            found.append([torch.where(better, b, q) for b, q in zip(best, bounds.q, strict=True)])
        return Gaussians(bounds.shapes, *(torch.cat(parts) for parts in zip(*found, strict=True)))
