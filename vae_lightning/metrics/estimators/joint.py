"""All latents of a story as one vector, for estimates that move in it.
Shapes: B images, K samples an image, D numbers in an image's latents of all sites; S is (B,) or (K, B)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.core import (
    Batch,
    Draw,
    FromPrior,
    Given,
    LatentModel,
    Recorded,
    Shape,
    Site,
    image_of,
    is_discrete,
    told_until,
    traced,
)


def split(shapes: Mapping[str, Shape], z: Tensor) -> dict[str, Tensor]:
    """Vectors (*S, D) -> latents by name, (*S, *event) each.

    Args:
        shapes: name -> event shape, in the order in which the vectors hold the latents.
        z: of as many numbers as the shapes have.
    """
    parts = z.split([math.prod(shape) for shape in shapes.values()], -1)
    return {name: part.reshape(*z.shape[:-1], *shapes[name]) for name, part in zip(shapes, parts, strict=True)}


@contextmanager
def _unchecked() -> Iterator[None]:
    """Distributions that are made or asked within check no values: a chain that diverges is refused by its density, nan
    or -inf, and is no error of the story's."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


class Joint:
    """The latents of a batch of images as vectors of D numbers, in the order of the story's sites.

    The encoders run once; the story is told once by a draw from the posteriors, whose sites are kept, and again for
    each question.

    Args:
        model: in evaluation mode, of any number of latents.
        given: a batch with "image" (B, C, H, W), integers.

    Raises:
        ValueError: a posterior that is a point mass.
    """

    @torch.no_grad()
    def __init__(self, model: LatentModel, given: Batch) -> None:
        self.image, self.story = image_of(given), model.about(given)
        trace = traced(self.story, self.image)
        self.sites, self.last = trace.sites, list(trace.sites)[-1]
        self.shapes = {name: site.q.event_shape for name, site in trace.sites.items()}
        self.codes = {name: site.z.dtype for name, site in trace.sites.items() if not site.z.is_floating_point()}
        self.size = trace.latent_size
        if not trace.has_rate:
            raise ValueError(
                f"expected latents whose posteriors have a density, got {self._kinds}, a point mass among them: choose "
                "another model, such as one with the encoder GaussianPosterior."
            )

    @property
    def _kinds(self) -> list[str]:
        return [type(site.q).__name__ for site in self.sites.values()]

    def require_gradients(self) -> None:
        """ValueError where there are no gradients in z: of discrete latents, and in inference mode."""
        if any(is_discrete(site.q) for site in self.sites.values()):
            raise ValueError(f"expected continuous latents, got {self._kinds}: choose another model.")
        if torch.is_inference_mode_enabled():
            raise ValueError("expected a caller that allows gradients, got torch.inference_mode: use torch.no_grad.")

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Latents by name, (*S, *event) each -> (*S, D)."""
        flat = [
            values[name].reshape(*values[name].shape[: values[name].dim() - len(shape)], -1)
            for name, shape in self.shapes.items()
        ]
        return torch.cat(flat, -1) if len(flat) > 1 else flat[0]

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """(*S, D) -> latents by name, (*S, *event) each; codes are integers again."""
        return {name: part.to(self.codes.get(name)) for name, part in split(self.shapes, z).items()}

    @torch.no_grad()
    def posterior(self, num_samples: int) -> dict[str, Site]:
        """The sites with K draws an image from the posteriors: z is (K, B, *event)."""
        return traced(self.story, self.image, num_samples, until=self.last).sites

    @torch.no_grad()
    def from_prior(self, num_samples: int) -> Tensor:
        """K draws an image from the prior, (K, B, D)."""
        return self.drawn(FromPrior((num_samples, len(self.image))))

    def drawn(self, draw: Draw) -> Tensor:
        """The latents that a draw takes, (*S, D)."""
        recorded = Recorded(draw)
        told_until(self.story, recorded, self.last)
        return self.join({name: site.z for name, site in recorded.sites.items()})

    def scale(self, prior: bool = False) -> Tensor:
        """Standard deviations of the posteriors, or of the priors, along the draw that was kept, (B, D); 1 where there
        are none to be had, as of a flow."""

        def each(site: Site) -> Tensor:
            try:
                return (site.p if prior else site.q).stddev.expand_as(site.z)
            except NotImplementedError:
                return torch.ones_like(site.z)

        return self.join({name: each(site) for name, site in self.sites.items()})

    def log_densities(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log q(z|x), log p(z) and log p(x|z) in nats, S each, of latents z (*S, D), by one telling of the story."""
        with _unchecked():
            draw = Recorded(Given(self.split(z)))
            log_px = self.story(draw).log_prob(self.image)
            log_p = sum_of(site.p.log_prob(site.z) for site in draw.sites.values())
            log_q = sum_of(site.q.log_prob(site.z) for site in draw.sites.values())
        return log_q, log_p, log_px

    def log_q(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats, S, of latents z (*S, D); nothing is decoded."""
        draw = Recorded(Given(self.split(z)))
        told_until(self.story, draw, self.last)
        return sum_of(site.q.log_prob(site.z) for site in draw.sites.values())


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Of one term or more."""
    first, *others = terms
    return sum(others, start=first)
