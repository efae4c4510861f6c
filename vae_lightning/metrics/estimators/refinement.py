"""Each image's own Gaussian, sought by gradient from the encoder's: the best that the family could do, and so what an
encoder loses to it (Cremer et al. 2018), and a better proposal for importance sampling than an encoder gives.
Shapes: B images, K samples an image; latents (K, B, d)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import Batch, Given, LatentModel, Site, rows, seeded, without_image
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
    """q(z) of each of B images for the latent called `site`: mean and scale, (B, d) each."""

    site: str
    mean: Tensor
    scale: Tensor

    def widened(self, by: float = WIDENING) -> Gaussians:
        return self._replace(scale=by * self.scale)

    def posteriors(self, images: slice) -> dict[str, Distribution]:
        """Those of some images, by the name of their latent, as `LatentModel.trace` takes them."""
        normal = Normal(self.mean[images], self.scale[images], validate_args=False)
        return {self.site: Independent(normal, 1, validate_args=False)}


def single_site(model: LatentModel, given: Batch) -> Site:
    """The story's only latent, with its p and its density q, for estimates that take gradients in z. ValueError where
    there are several, a point mass, or no gradients."""
    if torch.is_inference_mode_enabled():
        raise ValueError("expected a caller that allows gradients, got torch.inference_mode: use torch.no_grad.")
    trace = model.trace(given)
    if len(trace.sites) != 1 or not trace.has_rate:
        got = "a point mass" if not trace.has_rate else f"{len(trace.sites)} latents"
        raise ValueError(f"expected a model of one latent with a density q(z|x), got {got}: choose another model.")
    return next(iter(trace.sites.values()))


class Bounds:
    """Log weights of a batch under diagonal Gaussians (mean, scale), (B, d) each, whose mean is their ELBO."""

    def __init__(self, model: LatentModel, given: Batch) -> None:
        self.site, self.model, self.given = single_site(model, given), model, given
        q: Distribution = self.site.q
        if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal) and q.reinterpreted_batch_ndims == 1):
            got = q.base_dist if isinstance(q, Independent) else q
            raise ValueError(
                f"each image's own posterior (refinement) is sought among diagonal Gaussians, got an encoder's of "
                f"{type(got).__name__}: set --model.evaluation.refinement 0, or choose GaussianPosterior."
            )
        self.q: tuple[Tensor, Tensor] = (q.base_dist.loc, q.base_dist.scale)

    def log_weight(self, q: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z), (K, B), at z = mean + scale noise; its gradient takes q's density as fixed."""
        z = q[0] + q[1] * noise
        log_q = Normal(q[0].detach(), q[1].detach(), validate_args=False).log_prob(z).sum(-1)
        px = self.model(Given({self.site.name: z}), without_image(self.given))
        return px.log_prob(self.given["image"]) + self.site.p.log_prob(z) - log_q

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

    An importance-sampled p(x) has no bias whatever its proposal, as long as the samples that weigh are not those that
    sought: these come from a generator of their own.

    Args:
        model: in evaluation mode, of one latent with a diagonal Gaussian posterior.
        given: a batch with "image" (B, C, H, W), integers.
        steps: of the search.
        lr: its first learning rate: a mean can move by steps lr / 2.
        step_samples: samples an image in each step.
        seed: of the samples; torch's own generator is left as it is.

    Raises:
        ValueError: a count below 1, another posterior, or several.
    """
    if min(steps, step_samples) < 1:
        raise ValueError(f"refinement: expected at least 1 of steps and step_samples, got {(steps, step_samples)}.")
    image, found = given["image"], []
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
        return Gaussians(bounds.site.name, *(torch.cat(parts) for parts in zip(*found, strict=True)))
