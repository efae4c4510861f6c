"""q(z|x) by normalising flows: posteriors that are no Gaussian, and whose latents may hang together."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.conditionals.posterior import latent_head
from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.distributions import Flow
from vae_lightning.nets import MLP, NetFactory, at_least_float32, bounded_log_scale, require_widths, zeroed

if TYPE_CHECKING:
    from zuko.lazy import LazyTransform

CONTEXT = 64
"""Numbers that the flow's own nets are told of an image: a linear map of the encoder's features."""


def zuko() -> Any:
    """The library, imported when a flow is built. Its import switches off, for all of torch's distributions, the
    validation of what they are given: that is switched on again."""
    validated = Distribution._validate_args
    import zuko.flows.autoregressive
    import zuko.lazy
    import zuko.transforms

    Distribution.set_default_validate_args(validated)
    return zuko


def spline_coupling(size: int, index: int, hidden: Sequence[int], bins: int, context: int = 0) -> LazyTransform:
    """The map of this index over `size` numbers, told `context` others: half of them are bent by splines that hang on
    the other half, halves and every other in turns, so that four let each meet each other."""
    number = torch.arange(size)
    order = number if index % 4 < 2 else number // 2 + number % 2 * ((size + 1) // 2)  # halves, then every other
    return zuko().flows.autoregressive.MaskedAutoregressiveTransform(
        size,
        context,
        passes=2,
        order=order if index % 2 == 0 else size - 1 - order,
        univariate=partial(zuko().transforms.MonotonicRQSTransform, slope=1e-3),
        shapes=((bins,), (bins,), (bins - 1,)),
        hidden_features=hidden,
    )


def require_as_wide(name: str, widths: Sequence[int], size: int) -> None:
    """Raises ValueError for a masked net without a hidden layer, or with one of fewer units than there are latents:
    each unit sees the latents up to one of them, and so the last latents would not see all before them."""
    require_widths(name, list(widths), at_least=1)
    if min(widths) < size:
        raise ValueError(
            f"{name}: expected widths of at least the {size} latents, since through a narrower layer the last latents "
            f"do not see all before them, got {list(widths)}."
        )


def autoregressive_map(owner: str, size: int, index: int, hidden: Sequence[int], context: int = 0) -> LazyTransform:
    """The map of this index over `size` numbers, told `context` others: each is shifted and scaled by what those before
    it say, in turns from the first and from the last. `owner`, whose setting `hidden` is, is for errors."""
    require_as_wide(f"{owner}.hidden", hidden, size)
    order = torch.arange(size)
    return zuko().flows.autoregressive.MaskedAutoregressiveTransform(
        size, context, order=order if index % 2 == 0 else order.flip(0), hidden_features=hidden
    )


def composed(
    owner: str, transforms: int, hidden: Sequence[int], transform: Callable[[int], LazyTransform]
) -> LazyTransform:
    """Maps one after another, each the identity at first: the last layer of its net is 0 or, of one number that is told
    nothing, its parameters are.

    Args:
        owner: whose settings the next two are, for errors.
        transforms: how many maps.
        hidden: widths of each map's net.
        transform: the map of an index.
    """
    if transforms < 1:
        raise ValueError(f"{owner}.transforms: expected at least 1, got {transforms}.")
    require_widths(f"{owner}.hidden", list(hidden), at_least=1)
    made = [transform(index) for index in range(transforms)]
    for one in made:
        net = dict(one.named_children()).get("hyper")
        zeroed(one if net is None else list(net)[-1])
    return zuko().lazy.LazyComposedTransform(*made)


class FlowPosterior(Conditional):
    """q(z|x): z = mu(x) + sigma(x) f(eps; x) with eps ~ N(0, I) and an invertible f, by one-sample estimates wherever a
    Gaussian has a closed form. Starts with f the identity and sigma = 1, near the prior, as GaussianPosterior does.

    Args:
        spec: of the images.
        latent_shape: (d,).
        net: from the image, scaled to [0, 1], to features.
        transforms: how many maps f is made of; four couplings let each latent meet each other.
        hidden: widths of each map's own net, which is told 64 numbers of the image.
    """

    def __init__(
        self,
        spec: Spec,
        latent_shape: Shape,
        net: NetFactory = MLP,
        transforms: int = 4,
        hidden: list[int] = [64, 64],  # noqa: B006 (never changed; jsonargparse shows it as the default)
    ) -> None:
        super().__init__()
        self.net = net(spec.image_shape, spec.image_shape)
        features, size = self.net.out_shape, math.prod(latent_shape)
        self.mu, self.log_scale = latent_head(features, size), zeroed(latent_head(features, size))
        self.context = nn.Sequential(nn.Flatten(-len(features)), nn.Linear(math.prod(features), CONTEXT))
        name = type(self).__name__
        self.flow = composed(name, transforms, hidden, lambda index: self.transform(size, index, hidden))

    @abstractmethod
    def transform(self, size: int, index: int, hidden: Sequence[int]) -> LazyTransform:
        """The map of this index, over `size` latents, told CONTEXT numbers: the identity where its net says 0."""

    def forward(self, context: Tensor) -> Distribution:
        features = self.net(context)
        mu, raw, told = (at_least_float32(part(features)) for part in (self.mu, self.log_scale, self.context))
        return Flow(self.flow(told), mu, bounded_log_scale(raw).exp())


class SplineFlowPosterior(FlowPosterior):
    """f of couplings, each of which bends half of the latents by monotonic rational-quadratic splines over [-5, 5] that
    hang on the other half (Durkan et al. 2019). Samples and the density of any value are equally fast.

    Args:
        bins: pieces of a spline; the others: see `FlowPosterior`.
    """

    def __init__(
        self,
        spec: Spec,
        latent_shape: Shape,
        net: NetFactory = MLP,
        transforms: int = 4,
        hidden: list[int] = [64, 64],  # noqa: B006 (never changed; jsonargparse shows it as the default)
        bins: int = 8,
    ) -> None:
        if bins < 2:
            raise ValueError(f"SplineFlowPosterior.bins: expected at least 2, got {bins}.")
        self.bins = bins
        super().__init__(spec, latent_shape, net, transforms, hidden)

    def transform(self, size: int, index: int, hidden: Sequence[int]) -> LazyTransform:
        return spline_coupling(size, index, hidden, self.bins, CONTEXT)


class InverseAutoregressivePosterior(FlowPosterior):
    """f of inverse autoregressive maps, each of which shifts and scales every latent by what the noise of those before
    it says, in turns from the first and from the last (Kingma et al. 2016). Samples and their own densities, all that
    training needs, take one pass; the density of any other value takes d, one after the other."""

    def transform(self, size: int, index: int, hidden: Sequence[int]) -> LazyTransform:
        return autoregressive_map(type(self).__name__, size, index, hidden, CONTEXT)
