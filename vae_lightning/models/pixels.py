"""The pixels themselves in the place of a latent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Uniform

from vae_lightning.core import Batch, Delta, Draw, LatentModel, Spec, Story


class Pixels(LatentModel):
    """A story whose one latent, "z" (C, H, W), is the image in its levels with uniform noise of a level's width, and x
    what z is rounded to. Nothing is trained, a decoder over z is a diffusion in pixels, and its -log p(z) bounds that
    of the image (Theis et al. 2016, section 3.1).

    Args:
        spec: of the images.
    """

    edges: Tensor
    """(2,): half a level below the first and above the last."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.image_shape, self.top = spec.image_shape, spec.levels - 1
        self.register_buffer("edges", torch.tensor([-0.5, self.top + 0.5]), persistent=False)

    def about(self, given: Batch) -> Story:
        q = _uniform(given["image"] - 0.5, given["image"] + 0.5) if "image" in given else None
        p = _uniform(*(edge.expand(self.image_shape) for edge in self.edges))

        def story(draw: Draw) -> Distribution:
            return Delta(draw("z", p, q).round().clamp(0, self.top), 3)

        return story


def _uniform(low: Tensor, high: Tensor) -> Distribution:
    return Independent(Uniform(low, high, validate_args=False), 3, validate_args=False)
