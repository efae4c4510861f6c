"""The importance-weighted bound."""

from __future__ import annotations

import math

from vae_lightning.core import Batch, Loss, Model, Objective
from vae_lightning.objectives.elbo import require_density, require_stories


class IWAE(Objective):
    """-log (1/K sum_k p(x, z_k) / q(z_k|x)), averaged over the batch, in nats per image (Burda et al. 2016, eq. 8).

    K = 1 is the ELBO; the bound rises with K to log p(x). What is logged is the bound itself.

    Args:
        num_samples: K.
    """

    def __init__(self, num_samples: int = 5) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"IWAE.num_samples: expected at least 1, got {num_samples}.")
        self.num_samples = num_samples

    def check(self, model: Model, batch: Batch) -> None:
        require_density(model, batch, "IWAE")

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = require_stories(model, "IWAE")
        trace = model.trace(batch, self.num_samples)
        log_weight = trace.log_weight()  # (K, B)
        bound = (log_weight.logsumexp(0) - math.log(self.num_samples)).mean()
        logs = {"iwae": bound.detach(), "elbo": log_weight.detach().mean()}
        return Loss(-bound, logs, model.statistics(trace))
