"""A VAE of the codes of a trained one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.conditionals import EncoderFactory, GaussianPosterior, PointMass, PriorFactory, StandardNormal
from vae_lightning.conditionals.encoded_mixtures import EncodedMixture
from vae_lightning.core import Batch, Draw, LatentModel, Spec, Story, centre, has_rate, is_discrete
from vae_lightning.models.frozen import Frozen
from vae_lightning.models.second_stage import frozen_latent, frozen_posterior


class TwoStageVAE(LatentModel):
    """u ~ p(u), z ~ p(z|u), and x of a frozen run's story given z; q(z|x) is the run's (Dai & Wipf 2019). Told labels,
    as p(z|y, u) and q(u|z, y), and within a `SemiSupervisedVAE`, it is M1 followed by M2 (Kingma et al. 2014).

    q(u|z) is told a draw of q(z|x) in training, which is noise that the classifier and the encoder learn to ignore, and
    its mean in evaluation. The bound is one of log p(x) either way.

    Args:
        spec: of the images, as the run has them.
        first_stage: the run, of a VAE.
        latent_size: numbers in u.
        encoder: (spec, shape of u) -> q(u|z). The spec is that of a code, an image of shape (1, 1, d).
        decoder: (spec, shape of z) -> p(z|u), of a u of shape (1, 1, latent_size).
        prior: (shape of u, spec) -> p(u).
        site: the name of the run's latent z.

    Raises:
        ValueError: the run has seen other images, is told labels, has no such latent, or one that is a point or a code,
            or that has others before it; a p(z|u) that is a point; a prior made of encoded images.
    """

    def __init__(
        self,
        spec: Spec,
        first_stage: Frozen,
        latent_size: int = 20,
        encoder: EncoderFactory = GaussianPosterior,
        decoder: EncoderFactory = GaussianPosterior,
        prior: PriorFactory = StandardNormal,
        site: str = "z",
    ) -> None:
        super().__init__()
        if latent_size < 1:
            raise ValueError(f"TwoStageVAE.latent_size: expected at least 1, got {latent_size}.")
        latent = frozen_latent("TwoStageVAE", first_stage, spec, site)
        shape = tuple(latent.q.event_shape)
        discrete = is_discrete(latent.q)
        if first_stage.needs or latent.p.batch_shape or len(shape) != 1 or discrete or not has_rate(latent.q):
            raise ValueError(
                f"TwoStageVAE.first_stage: expected a run without labels whose latent {site} is a vector with a "
                "continuous posterior and the first of its story, got another: choose the run of a VAE (of an "
                "autoencoder's codes SecondStage fits a prior)."
            )
        self.first_stage, self.site = first_stage, site
        self.code_spec = replace(spec, image_shape=(1, 1, *shape))
        self.encoder = encoder(self.code_spec, (latent_size,))
        self.decoder = decoder(replace(spec, image_shape=(1, 1, latent_size)), shape)
        self.prior = prior((latent_size,), spec)
        if isinstance(self.prior, EncodedMixture):
            raise ValueError(
                f"TwoStageVAE.prior: expected one of numbers, got {type(self.prior).__name__}, which is made of "
                "encoded images, and q(u|z) encodes none: choose StandardNormal, GaussianMixture, "
                "AutoregressiveMixturePrior or a flow."
            )
        if isinstance(self.decoder, PointMass) or isinstance(getattr(self.decoder, "encoder", None), PointMass):
            raise ValueError(
                "TwoStageVAE.decoder: expected a density p(z|u), got PointMass: choose GaussianPosterior, within "
                "LabelledEncoder where it is told labels."
            )

    @torch.no_grad()
    def code(self, given: Batch) -> Tensor:
        """What is told of the images (B, C, H, W) in their place: a draw of q(z|x) in training, and its centre in
        evaluation, (B, 1, 1, d)."""
        q = frozen_posterior(self.first_stage, given, self.site)
        return (q.sample() if self.training else centre(q))[..., None, None, :]

    def about(self, given: Batch) -> Story:
        first = self.first_stage.about(given)
        q_u = self.encoder.told(self.code(given), given) if "image" in given else None

        def story(draw: Draw) -> Distribution:
            def drawn(name: str, p: Distribution, q: Distribution | None = None) -> Tensor:
                if name != self.site:
                    return draw(name, p, q)
                u = draw("u", self.prior.told(None, given), q_u)
                return draw(name, self.decoder.told(u[..., None, None, :], given), q)

            return first(drawn)

        return story

    @property
    def is_conditional(self) -> bool:
        return bool(self.prior.needs or self.decoder.needs)
