"""The importance-weighted bound."""

from __future__ import annotations

import torch

from vae_lightning.core import Batch, Loss, Model, Objective
from vae_lightning.objectives.elbo import require_density, require_stories
from vae_lightning.objectives.gradients import GradientEstimator, Reparameterised


class IWAE(Objective):
    """-log (1/K sum_k p(x, z_k) / q(z_k|x)), averaged over the batch, in nats per image (Burda et al. 2016, eq. 8).

    K = 1 is the ELBO; the bound rises with K to log p(x). What is logged is the bound itself, whatever estimates its
    gradient.

    Args:
        num_samples: K.
        gradient: `Reparameterised`, or with less noise for the encoder `DoublyReparameterised` (any K) and
            `StickingTheLanding` (K = 1).
    """

    def __init__(self, num_samples: int = 5, gradient: GradientEstimator | None = None) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"IWAE.num_samples: expected at least 1, got {num_samples}.")
        self.num_samples = self.bound_samples = num_samples
        self.gradient = Reparameterised() if gradient is None else gradient

    def check(self, model: Model, batch: Batch) -> None:
        require_density(model, batch, "IWAE")
        with torch.enable_grad():
            self.gradient(require_stories(model, "IWAE"), batch, self.num_samples)

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = require_stories(model, "IWAE")
        bound = self.gradient(model, batch, self.num_samples)
        logs = {"iwae": bound.value.detach(), "elbo": bound.log_weight.mean()}
        return Loss(-bound.value, logs, model.statistics(bound.trace))
