"""The top-down ladder: a variational autoencoder of any number of stochastic layers."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.conditionals import (
    BernoulliLikelihood,
    LikelihoodFactory,
    PriorFactory,
    StandardNormal,
    TopDownGaussian,
    TopPosterior,
)
from vae_lightning.core import Batch, Draw, LatentModel, Spec, Story
from vae_lightning.nets import LadderFactory, MLPLadder, TopDownBlock


class LadderVAE(LatentModel):
    """z1 ~ p(z1), z2 ~ p(z2 | z1), .., zL ~ p(zL | z1 .. z(L-1)), x ~ p(x | z1 .. zL), with q(z1 | x) q(z2 | x, z1) ..
    from the top down, too (Sønderby et al. 2016; Kingma et al. 2016; Vahdat & Kautz 2020; Child 2021).

    The latents above are told by a state, which prior, posterior and likelihood share: every latent is added to it. A
    bottom-up path reads the image once, before the story is told. Each posterior is given in relation to its prior, and
    starts as it. Latents that are maps are flattened, (channels h w,), as those of every encoder are.

    Args:
        spec: of the images.
        net: image_shape -> the nets of all latents: `MLPLadder` or `ConvLadder`.
        likelihood: (shape of the last state, spec) -> p(x | state). A map asks for a net of maps, such as a ConvDecoder
            that is spatial.
        prior: (latent_shape, spec) -> p(z1); the posterior's start is N(0, I).
        min_log_var: least log variance of a latent given those above it, above which a smooth bound keeps all.
    """

    def __init__(
        self,
        spec: Spec,
        net: LadderFactory = MLPLadder,
        likelihood: LikelihoodFactory = BernoulliLikelihood,
        prior: PriorFactory = StandardNormal,
        min_log_var: float = -10.0,
    ) -> None:
        super().__init__()
        if not min_log_var < 0:
            raise ValueError(f"LadderVAE.min_log_var: expected a log variance below 0, got {min_log_var}.")
        self.levels = spec.levels
        self.net = net(spec.image_shape)
        blocks = cast(list[TopDownBlock], list(self.net.layers))
        latents = [TopDownGaussian(block, min_log_var) for block in blocks]
        self.latents = nn.ModuleList(latents)
        self.likelihood = likelihood(self.net.state_shape, spec)
        self.prior = prior((blocks[0].size,), spec)
        self.prior.attach(TopPosterior(self.net, latents[0]))

    def rescale(self, image: Tensor) -> Tensor:
        """Integers 0..levels-1 to [0, 1]: the encoder's door."""
        return image if self.levels == 2 else image / (self.levels - 1)

    def about(self, given: Batch) -> Story:
        features = self.net.features(self.rescale(given["image"])) if "image" in given else []

        def story(draw: Draw) -> Distribution:
            state: Tensor = self.net.start
            for i, latent in enumerate(cast(list[TopDownGaussian], self.latents)):
                state = latent.block.enter(state)
                p, q = latent.pair(state, features[i]) if features else (latent(state), None)
                z = draw(f"z{i + 1}", p=p if i else self.prior.told(None, given), q=q)
                state = latent.block.leave(state, z)
            return self.likelihood.told(self.net.finish(state), given)

        return story

    def init_from_data(self, batch: Batch) -> None:
        for part in (self.prior, self.likelihood):
            part.init_from_data(batch["image"])

    @property
    def is_conditional(self) -> bool:
        return bool(self.prior.needs or self.likelihood.needs)
