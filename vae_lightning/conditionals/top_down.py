"""The latents of a top-down ladder: p(z_l | z_<l), and q(z_l | x, z_<l) in relation to it.

Legend of shapes: B images; S any leading shape, such as (), (B,) or (K, B); d numbers of a latent.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_lightning.core import Conditional
from vae_lightning.nets import LadderNet, TopDownBlock, bounded_log_scale


class TopDownGaussian(Conditional):
    """p(z_l | z_<l) = N(mu, diag sigma^2) of the state that the latents above have left, N(0, I) where there are none,
    and q(z_l | x, z_<l) = N(mu + sigma a, diag (sigma b)^2) with a and b of that state and of the image (Vahdat & Kautz
    2020, section 3.2, here with a in units of sigma). q starts as p, and KL(q || p) = 1/2 (a^2 + b^2 - 1) - log b does
    not hang on p as long as no scale comes near its bound.

    Args:
        block: the latent's nets.
        min_log_var: bound of both log variances, which are smoothly kept within +-|min_log_var|.
    """

    def __init__(self, block: TopDownBlock, min_log_var: float = -10.0) -> None:
        super().__init__()
        self._block, self.bound = (block,), -min_log_var / 2

    @property
    def block(self) -> TopDownBlock:
        """Whose weights are the net's: they are no part of the state of this."""
        return self._block[0]

    def forward(self, context: Tensor) -> Distribution:
        """p(z_l | state), (*S, *state) -> batch_shape S."""
        return self._normal(*self.block.prior_parameters(context))

    def pair(self, state: Tensor, feature: Tensor) -> tuple[Distribution, Distribution]:
        """p(z_l | state) and q(z_l | state, feature) of states (*S, *state) and the images' features (B, *feature)."""
        loc, raw = self.block.prior_parameters(state)
        shift, change = self.block.posterior_parameters(state, feature)
        p = self._normal(loc, raw)
        return p, self._normal(loc + p.stddev * shift, raw + change)

    def _normal(self, loc: Tensor, raw: Tensor) -> Independent:
        return Independent(
            Normal(loc, bounded_log_scale(raw, self.bound).exp(), validate_args=False), 1, validate_args=False
        )


class TopPosterior(Conditional):
    """q(z_1 | x) of a ladder, as a prior that asks for an encoder takes it: see `Conditional.attach`.

    Args:
        net: the ladder's nets.
        latent: its first latent.
    """

    def __init__(self, net: LadderNet, latent: TopDownGaussian) -> None:
        super().__init__()
        self.net, self.latent = net, latent

    def forward(self, context: Tensor) -> Distribution:
        """Images in [0, 1], (B, C, H, W) -> batch_shape (B,)."""
        return self.latent.pair(self.latent.block.enter(self.net.start), self.net.features(context)[0])[1]
