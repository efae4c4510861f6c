"""The autoencoder's objective."""

from __future__ import annotations

from vae_lightning.core import Batch, Loss, Model, Objective
from vae_lightning.objectives.elbo import require_stories


class Reconstruction(Objective):
    """-log p(x|z) at z = f(x), averaged over the batch, in nats per image: with GaussianLikelihood, the squared error
    of an autoencoder up to a factor and a constant."""

    def check(self, model: Model, batch: Batch) -> None:
        if require_stories(model, "Reconstruction").trace(batch).has_rate:
            raise ValueError(
                "the objective Reconstruction trains an autoencoder and expects the encoder PointMass, got a posterior "
                "with a density, whose noise it would only switch off: choose the objective ELBO, or the encoder "
                "PointMass."
            )

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = require_stories(model, "Reconstruction")
        trace = model.trace(batch)
        distortion = trace.scores()["distortion"].mean()
        return Loss(distortion, {"distortion": distortion.detach()}, model.statistics(trace))
