"""The autoencoder's objective."""

from __future__ import annotations

import torch

from vae_lightning.core import Batch, Loss, Model, Objective
from vae_lightning.objectives.elbo import require_stories


class Reconstruction(Objective):
    """-log p(x|z) at z = f(x), averaged over the batch, in nats per image: with GaussianLikelihood, the squared error
    of an autoencoder up to a factor and a constant."""

    def check(self, model: Model, batch: Batch) -> None:
        with torch.enable_grad():
            trace = require_stories(model, "Reconstruction").trace(batch)
            is_trained = trace.log_likelihood().requires_grad
        if trace.has_rate:
            raise ValueError(
                "the objective Reconstruction trains an autoencoder and expects the encoder PointMass, got a posterior "
                "with a density, whose noise it would only switch off: choose the objective ELBO, or the encoder "
                "PointMass."
            )
        if not is_trained:
            raise ValueError(
                "the objective Reconstruction trains encoder and likelihood, got a model whose are frozen: choose the "
                "objective SiteNLL, which fits a prior to its codes."
            )

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = require_stories(model, "Reconstruction")
        trace = model.trace(batch)
        distortion = trace.scores()["distortion"].mean()
        return Loss(distortion, {"distortion": distortion.detach()}, model.statistics(trace))
