"""The prior of the notes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import Conditional, Prior, Shape


class StandardNormal(Prior):
    """p(z) = N(0, I).

    Args:
        latent_shape: the latent's shape, (d,).
    """

    zero: Tensor
    one: Tensor

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(tuple(latent_shape)), persistent=False)
        self.register_buffer("one", torch.ones(tuple(latent_shape)), persistent=False)

    def forward(self, encoder: Conditional) -> Distribution:
        normal = Normal(self.zero, self.one, validate_args=False)
        return Independent(normal, self.zero.dim(), validate_args=False)
