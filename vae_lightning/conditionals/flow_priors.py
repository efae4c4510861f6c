"""p(z) by normalising flows."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.distributions import Distribution

from vae_lightning.conditionals.flow import autoregressive_map, composed, spline_coupling
from vae_lightning.conditionals.priors import ScaledPrior
from vae_lightning.core import Shape, Spec
from vae_lightning.distributions import Flow

if TYPE_CHECKING:
    from zuko.lazy import LazyTransform


class FlowPrior(ScaledPrior):
    """p(z): z = loc + scale f(eps) with eps ~ N(0, I), an invertible f, and all of it learned with the model. Starts at
    N(0, I).

    Args:
        latent_shape: (d,).
        spec: not used; every prior takes it.
        transforms: how many maps f is made of.
        hidden: widths of each map's own net.
    """

    def __init__(
        self,
        latent_shape: Shape,
        spec: Spec | None = None,
        transforms: int = 4,
        hidden: list[int] = [128, 128],  # noqa: B006 (never changed; jsonargparse shows it as the default)
    ) -> None:
        name, size = type(self).__name__, math.prod(latent_shape)
        super().__init__(size)
        self.flow = composed(name, transforms, hidden, lambda index: self.transform(size, index, hidden))

    @abstractmethod
    def transform(self, size: int, index: int, hidden: Sequence[int]) -> LazyTransform:
        """The map of this index over `size` latents, from noise towards z or, of `is_inverse`, back: the identity where
        its net says 0."""

    is_inverse = False

    def forward(self, context: Tensor | Mapping[str, Tensor] | None = None) -> Distribution:
        flow = self.flow()
        return Flow(flow.inv if self.is_inverse else flow, self.loc, self.scale())


class SplineFlowPrior(FlowPrior):
    """f of couplings, each of which bends half of the latents by monotonic rational-quadratic splines over [-5, 5] that
    hang on the other half (Durkan et al. 2019). Samples and densities are equally fast.

    Args:
        bins: pieces of a spline; the others: see `FlowPrior`.
    """

    def __init__(
        self,
        latent_shape: Shape,
        spec: Spec | None = None,
        transforms: int = 4,
        hidden: list[int] = [128, 128],  # noqa: B006 (never changed; jsonargparse shows it as the default)
        bins: int = 8,
    ) -> None:
        if bins < 2:
            raise ValueError(f"SplineFlowPrior.bins: expected at least 2, got {bins}.")
        self.bins = bins
        super().__init__(latent_shape, spec, transforms, hidden)

    def transform(self, size: int, index: int, hidden: Sequence[int]) -> LazyTransform:
        return spline_coupling(size, index, hidden, self.bins)


class MaskedAutoregressivePrior(FlowPrior):
    """f^-1 of masked autoregressive maps, each of which says of every latent, by those before it, where it is centred
    and how wide it spreads (Papamakarios et al. 2017; one map is the MADE of Germain et al. 2015 with Gaussians), in
    turns from the first and from the last. The density, all that training needs, takes one pass; a sample takes d, one
    after the other."""

    is_inverse = True

    def transform(self, size: int, index: int, hidden: Sequence[int]) -> LazyTransform:
        return autoregressive_map(type(self).__name__, size, index, hidden)
