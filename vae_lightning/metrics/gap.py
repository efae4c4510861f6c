"""Why a bound is loose (Cremer et al. 2018), and log p(x) by plain Monte Carlo from the prior, which shows why nobody
estimates it so. Shapes: B images, K samples an image; latents (K, B, d)."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import Batch, Given, LatentModel, Site
from vae_lightning.metrics.likelihood import TILE_VALUES


class InferenceGap(NamedTuple):
    """Nats, (B,): log p(x) = elbo + amortisation + approximation, the last two being differences of the others."""

    elbo: Tensor  # of the encoder's q(z|x)
    best_elbo: Tensor  # of the best diagonal Gaussian for this image
    amortisation: Tensor  # what the encoder loses to that, at least 0
    approximation: Tensor  # what the family loses, the least KL(q || p(z|x)); below 0 only by noise


def single_site(model: LatentModel, given: Batch) -> Site:
    """The story's only latent, with its p and its density q, for estimates that take gradients in z. ValueError where
    there are several, a point mass, or no gradients."""
    if torch.is_inference_mode_enabled():
        raise ValueError("expected a caller that allows gradients, got torch.inference_mode: use torch.no_grad.")
    trace = model.trace(given)
    if len(trace.sites) != 1 or trace.is_point_mass:
        got = "a point mass" if trace.is_point_mass else f"{len(trace.sites)} latents"
        raise ValueError(f"expected a model of one latent with a density q(z|x), got {got}: choose another model.")
    return trace.sites[0]


def without_image(given: Batch) -> Batch:
    """What else is given, such as labels."""
    return cast(Batch, {name: value for name, value in given.items() if name not in ("image", "encoded")})


@torch.no_grad()
def inference_gap(
    model: LatentModel,
    given: Batch,
    log_prob: Tensor,
    num_samples: int = 1000,
    steps: int = 300,
    lr: float = 0.02,
    step_samples: int = 8,
    seed: int = 0,
) -> InferenceGap:
    """The two parts of log p(x) - ELBO of each image. The best Gaussian is sought from the encoder's by Adam on means
    and log scales, at a rate that falls to 0, by the gradient of Roeder et al. (2017), without noise where q is p(z|x).
    Both bounds are means over the same samples, and the encoder's is the best where the search found no better.

    Args:
        model: in evaluation mode, of one latent with a diagonal Gaussian posterior.
        given: a batch with "image" (B, C, H, W), integers.
        log_prob: log p(x) of these images, (B,), such as annealed_log_prob's.
        num_samples: K of both bounds.
        steps: of the search.
        lr: its first learning rate: a mean can move by steps lr / 2.
        step_samples: samples an image in each step.
        seed: of the samples; torch's own generator is left as it is.

    Raises:
        ValueError: a count below 1, log_prob of another shape, inference mode, another posterior, or several.
    """
    image = given["image"]
    counts = num_samples, steps, step_samples
    if min(counts) < 1:
        raise ValueError(f"num_samples, steps, step_samples: expected at least 1 of each, got {counts}.")
    if log_prob.shape != image.shape[:1]:
        raise ValueError(f"log_prob: expected one value an image, {len(image)}, got shape {tuple(log_prob.shape)}.")
    tile = max(1, TILE_VALUES // 4 // image[0].numel())
    images_at_once, found = max(1, tile // step_samples), []
    with torch.random.fork_rng([image.device] if image.is_cuda else []):
        torch.manual_seed(seed)
        for i in range(0, len(image), images_at_once):
            part = cast(Batch, {name: cast(Tensor, v)[i : i + images_at_once] for name, v in given.items()})
            bounds = _Bounds(model, part)
            qs = [bounds.q, bounds.search(steps, lr, step_samples)]
            found.append(bounds.evaluate(qs, num_samples, max(1, tile // len(part["image"]))))
    elbo, at_end = torch.cat(found, 1)
    best_elbo = torch.fmax(elbo, at_end)  # also where the search diverged
    return InferenceGap(elbo, best_elbo, best_elbo - elbo, log_prob - best_elbo)


class _Bounds:
    """ELBOs of a batch under diagonal Gaussians (mean, scale), (B, d) each."""

    def __init__(self, model: LatentModel, given: Batch) -> None:
        self.site, self.model, self.given = single_site(model, given), model, given
        q: Distribution = self.site.q
        if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal) and q.reinterpreted_batch_ndims == 1):
            raise ValueError(f"expected a posterior Independent(Normal, 1), got {q}: choose GaussianPosterior.")
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

    def evaluate(self, qs: list[tuple[Tensor, Tensor]], num_samples: int, at_once: int) -> Tensor:
        sums = []  # over the same samples, (len(qs), B)
        for done in range(0, num_samples, at_once):
            noise = torch.randn(min(at_once, num_samples - done), *self.q[0].shape).to(self.q[0])
            sums.append(torch.stack([self.log_weight(q, noise).sum(0) for q in qs]))
        return torch.stack(sums).sum(0) / num_samples


@torch.no_grad()
def prior_log_prob(model: LatentModel, given: Batch, num_samples: int, tile: int | None = None) -> Tensor:
    """log (1/K sum_k p(x|z_k)), z_k ~ p(z), nats, (B,): meets log p(x) as K grows, but lies far below it (Jensen) at
    any feasible K, since of K latents hardly one is an image's. The same K serve all images: their errors go together.

    Args:
        model: in evaluation mode.
        given: a batch with "image" (B, C, H, W), integers.
        num_samples: K, any, also more than fits into memory at once.
        tile: how many image-samples are weighed at a time; null lets the image's size decide.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}.")
    image = given["image"]
    tile = tile or max(1, TILE_VALUES // image[0].numel())
    at_once = max(1, tile // min(len(image), math.isqrt(tile)))
    total = image.new_full((len(image),), -torch.inf)
    for done in range(0, num_samples, at_once):
        count = min(at_once, num_samples - done)
        px = model.sample({}, count)
        found = [px.log_prob(x[:, None]).logsumexp(1) for x in image.split(max(1, tile // count))]
        total = torch.logaddexp(total, torch.cat(found))
    return total - math.log(num_samples)
