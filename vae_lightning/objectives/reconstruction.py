"""The autoencoder's objective."""

from __future__ import annotations

from vae_lightning.core import Batch, LatentModel, Loss, Objective, Trace


class Reconstruction(Objective):
    """-log p(x|z) at z = f(x), averaged over the batch, in nats per image: with GaussianLikelihood, the squared error
    of an autoencoder up to a factor and a constant."""

    def check(self, trace: Trace) -> None:
        if not trace.is_point_mass:
            raise ValueError(
                "the objective Reconstruction trains an autoencoder and expects the encoder PointMass, got a posterior "
                "with a density, whose noise it would only switch off: choose the objective ELBO, or the encoder "
                "PointMass."
            )

    def forward(self, model: LatentModel, batch: Batch, share: float) -> Loss:
        distortion = -model.trace(batch).log_likelihood(batch["image"]).mean()
        return Loss(distortion, {"distortion": distortion.detach()})
