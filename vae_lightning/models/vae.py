"""The variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.conditionals import BernoulliLikelihood, GaussianPosterior, LikelihoodFactory, StandardNormal
from vae_lightning.core import Batch, Conditional, Draw, LatentModel, Prior, Shape


class VAE(LatentModel):
    """z ~ p(z), x ~ p(x|z), with q(z|x) from the encoder (Kingma & Welling 2014).

    Args:
        image_shape: (C, H, W).
        levels: how many grey levels a value can take; images hold the integers 0..levels-1.
        encoder: (image_shape, latent_shape) -> q(z|x) given the image scaled to [0, 1].
        likelihood: (latent_shape, image_shape, levels) -> p(x|z).
        prior: (latent_shape) -> p(z).
        latent_size: d, the number of latents.
    """

    def __init__(
        self,
        image_shape: Shape,
        levels: int,
        encoder: Callable[[Shape, Shape], Conditional] = GaussianPosterior,
        likelihood: LikelihoodFactory = BernoulliLikelihood,
        prior: Callable[[Shape], Prior] = StandardNormal,
        latent_size: int = 20,
    ) -> None:
        super().__init__()
        if latent_size < 1:
            raise ValueError(f"VAE.latent_size: expected at least 1, got {latent_size}.")
        self.levels = levels
        latent_shape = (latent_size,)
        self.encoder = encoder(image_shape, latent_shape)
        self.prior = prior(latent_shape)
        self.likelihood = likelihood(latent_shape, image_shape, levels)

    def rescale(self, image: Tensor) -> Tensor:
        """Integers 0..levels-1 to [0, 1]: the encoder's door."""
        return image if self.levels == 2 else image / (self.levels - 1)

    def forward(self, draw: Draw, given: Batch) -> Distribution:
        q = self.encoded(given).get("encoded")
        z = draw("z", p=self.prior(self.encoder), q=q)
        px: Distribution = self.likelihood(z)
        return px

    def encoded(self, given: Batch) -> Batch:
        if "encoded" in given or "image" not in given:
            return given
        return {**given, "encoded": self.encoder(self.rescale(given["image"]))}

    def init_from_data(self, image: Tensor) -> None:
        self.likelihood.init_from_data(image)
