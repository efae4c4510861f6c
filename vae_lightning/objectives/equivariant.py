"""Latent maps that turn as images do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.core import Batch, Draw, FromPosterior, LatentModel, Loss, Model, Recorded, image_of
from vae_lightning.objectives.elbo import ELBO, require_stories
from vae_lightning.objectives.schedules import Schedule


class Equivariant(ELBO):
    """The ELBO and, with a weight, the same decoder's -log p(t x | t z) of turned images given turned latents, z drawn
    from the posterior of the image as it stands (EQ-VAE, Kouzelis et al. 2025, eq. 3, without its rescalings, which
    leave no whole grey levels). Latents become smoother, which a generator in the latent space learns more easily. What
    is logged as `elbo` is the bound itself.

    Each image has a turn of its own: of a quarter, a half or three quarters where images and maps are square, else of a
    half. Costs a second pass through the decoder.

    Args:
        weight: of the turned images' distortion.
        map_shape: (c, h, w) of a latent that is a vector, such as of a spatial ConvEncoder; null for latents that are
            maps.
        beta, free_bits, num_samples, free_bits_site: see `ELBO`.
    """

    def __init__(
        self,
        weight: float = 0.5,
        map_shape: list[int] | None = None,
        beta: Schedule | float = 1.0,
        free_bits: float = 0.0,
        num_samples: int = 1,
        free_bits_site: float = 0.0,
    ) -> None:
        super().__init__(beta, free_bits, num_samples, free_bits_site)
        if not weight >= 0:
            raise ValueError(f"Equivariant.weight: expected at least 0, got {weight}.")
        if map_shape is not None and (len(map_shape) != 3 or min(map_shape) < 1):
            raise ValueError(f"Equivariant.map_shape: expected [c, h, w], got {map_shape}.")
        self.weight, self.map_shape = weight, None if map_shape is None else tuple(map_shape)

    def check(self, model: Model, batch: Batch) -> None:
        super().check(model, batch)
        self._turned_distortion(require_stories(model, "Equivariant"), batch)

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        loss = super().forward(model, batch, share)
        turned = self._turned_distortion(require_stories(model, "Equivariant"), batch)
        logs = {**loss.logs, "distortion_turned": turned.detach()}
        return Loss(loss.value + self.weight * turned, logs, loss.statistics)

    def _turned_distortion(self, model: LatentModel, batch: Batch) -> Tensor:
        """-log p(t x | t z), the mean over images, ()."""
        image, drawn = image_of(batch), Recorded(FromPosterior())
        by = torch.randint(0, 4, (len(image),), device=image.device)

        def draw(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
            return turned(drawn(name, p, q), by, self._map_of(name, drawn.sites[name].q))

        draws: Draw = draw
        px = model(draws, batch)
        return -px.log_prob(turned(image, by, tuple(image.shape[1:]))).mean()

    def _map_of(self, name: str, q: Distribution) -> tuple[int, ...]:
        shape = tuple(q.event_shape) if self.map_shape is None else self.map_shape
        if len(shape) != 3 or q.event_shape.numel() != torch.Size(shape).numel():
            raise ValueError(
                f"the objective Equivariant turns maps, got a latent {name!r} of shape {tuple(q.event_shape)} and "
                f"map_shape {self.map_shape}: give --model.objective.map_shape [c,h,w] of as many numbers, of nets "
                "with spatial: true (configs/text2image/emoji/vae.yaml), or choose the objective ELBO."
            )
        return shape


def turned(value: Tensor, by: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps (B, c, h, w), or as vectors (B, c h w), turned by quarters.

    Args:
        value: the maps.
        by: of each how many quarters, (B,) int64 in 0..3; where it is not square, whole and half turns of them.
        shape: (c, h, w).
    """
    c, h, w = shape
    place = torch.arange(h * w, device=value.device).view(h, w)
    turns = [place.rot90(k if h == w else 2 * (k % 2)).flatten() for k in range(4)]
    index = torch.stack(turns)[by][:, None].expand(-1, c, -1)  # (B, c, h w)
    return value.reshape(len(value), c, h * w).gather(2, index).reshape(value.shape)
