"""The variational autoencoder."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.conditionals import (
    BernoulliLikelihood,
    EncoderFactory,
    GaussianPosterior,
    LikelihoodFactory,
    PriorFactory,
    StandardNormal,
)
from vae_lightning.core import Batch, Draw, LatentModel, Spec, Story


class VAE(LatentModel):
    """z ~ p(z), x ~ p(x|z), with q(z|x) from the encoder (Kingma & Welling 2014). Each of the three may be told labels,
    too, which makes p(z|y), p(x|z, y) and q(z|x, y) (Sohn et al. 2015): see `conditionals/labelled.py`.

    Args:
        spec: of the images.
        encoder: (spec, latent_shape) -> q(z|x) given the image scaled to [0, 1].
        likelihood: (latent_shape, spec) -> p(x|z).
        prior: (latent_shape, spec) -> p(z).
        latent_size: d, the number of latents.
    """

    def __init__(
        self,
        spec: Spec,
        encoder: EncoderFactory = GaussianPosterior,
        likelihood: LikelihoodFactory = BernoulliLikelihood,
        prior: PriorFactory = StandardNormal,
        latent_size: int = 20,
    ) -> None:
        super().__init__()
        if latent_size < 1:
            raise ValueError(f"VAE.latent_size: expected at least 1, got {latent_size}.")
        self.levels = spec.levels
        latent_shape = (latent_size,)
        self.encoder = encoder(spec, latent_shape)
        self.prior = prior(latent_shape, spec)
        self.likelihood = likelihood(latent_shape, spec)
        self.prior.attach(self.encoder)

    def rescale(self, image: Tensor) -> Tensor:
        """Integers 0..levels-1 to [0, 1]: the encoder's door."""
        return image if self.levels == 2 else image / (self.levels - 1)

    def about(self, given: Batch) -> Story:
        q = self.encoder.told(self.rescale(given["image"]), given) if "image" in given else None

        def story(draw: Draw) -> Distribution:
            return self.likelihood.told(draw("z", p=self.prior.told(None, given), q=q), given)

        return story

    def init_from_data(self, batch: Batch) -> None:
        for part in (self.encoder, self.prior, self.likelihood):
            part.init_from_data(batch["image"])

    @property
    def is_conditional(self) -> bool:
        return bool(self.prior.needs or self.likelihood.needs)
