"""Latent maps that turn as images do."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae_lightning.core import Batch, Coded, Given, Loss, Model, Shape, Site, image_of, is_discrete, traced
from vae_lightning.objectives.elbo import ELBO, require_density, require_stories
from vae_lightning.objectives.schedules import Schedule


class Equivariant(ELBO):
    """The ELBO and, with a weight, the same decoder's -log p(t x | t z) of turned images given turned latents, z drawn
    from the posterior of the image as it stands (EQ-VAE, Kouzelis et al. 2025, eq. 3, without its rescalings, which
    leave no whole grey levels). Latents become smoother, which a generator in the latent space learns more easily. What
    is logged as `elbo` is the bound itself.

    Each image has a turn of its own, by none to three quarters with the same chance; by none or two where the images or
    the maps are not square. Costs a second pass through the decoder.

    Args:
        map_shape: (c, h, w) of the latents, which the nets of this project give as vectors: h and w are those of the
            last stage of a spatial ConvEncoder, and c h w is the number of latents.
        weight: of the turned images' distortion.
        beta, free_bits, free_bits_site: see `ELBO`.
    """

    def __init__(
        self,
        map_shape: list[int],
        weight: float = 0.5,
        beta: Schedule | float = 1.0,
        free_bits: float = 0.0,
        free_bits_site: float = 0.0,
    ) -> None:
        super().__init__(beta, free_bits, free_bits_site=free_bits_site)
        if not 0 <= weight < math.inf:
            raise ValueError(f"Equivariant.weight: expected a finite weight of at least 0, got {weight}.")
        if len(map_shape) != 3 or min(map_shape) < 1:
            raise ValueError(f"Equivariant.map_shape: expected [c, h, w], got {map_shape}.")
        self.weight, self.map_shape = weight, tuple(map_shape)

    def check(self, model: Model, batch: Batch) -> None:
        require_density(model, batch, "Equivariant")
        for site in require_stories(model, "Equivariant").trace(batch).sites.values():
            self._require_map(site)

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        beta = self.beta.at(share)
        model, image = require_stories(model, "Equivariant"), image_of(batch)
        story = model.about(batch)
        trace = traced(story, image)
        loss = self._of(model, trace, beta)
        shape = tuple(image.shape[1:])
        square = len({*shape[1:]}) == len({*self.map_shape[1:]}) == 1
        by = torch.randint(4, (len(image),), device=image.device)
        by = by if square else 2 * (by % 2)
        values = {name: turned(site.z, by, self.map_shape) for name, site in trace.sites.items()}
        distortion = -story(Given(values)).log_prob(turned(image, by, shape)).mean()
        logs = {**loss.logs, "distortion_turned": distortion.detach()}
        return Loss(loss.value + self.weight * distortion, logs, loss.statistics)

    def _require_map(self, site: Site) -> None:
        shape, codes = tuple(site.q.event_shape), is_discrete(site.q) or isinstance(site.q, Coded)
        if codes or math.prod(shape) != math.prod(self.map_shape):
            raise ValueError(
                f"the objective Equivariant turns maps of {math.prod(self.map_shape)} numbers, map_shape "
                f"{list(self.map_shape)}, got {'codes' if codes else 'a latent'} {site.name!r} of shape {shape}: give "
                "--model.objective.map_shape [c,h,w] of nets with spatial: true (configs/text2image/emoji/vae.yaml), "
                "or choose the objective ELBO."
            )


def turned(value: Tensor, by: Tensor, shape: Shape) -> Tensor:
    """Maps (B, c, h, w), or as vectors (B, c h w), turned by quarters.

    Args:
        value: the maps.
        by: of each how many quarters, (B,) int64 in 0..3; where it is not square 0 or 2.
        shape: (c, h, w).
    """
    c, h, w = shape
    place = torch.arange(h * w, device=value.device).view(h, w)
    turns = [place.rot90(k if h == w else k - k % 2).flatten() for k in range(4)]
    index = torch.stack(turns)[by][:, None].expand(-1, c, -1)  # (B, c, h w)
    return value.reshape(len(value), c, h * w).gather(2, index).reshape(value.shape)
