"""The terms of an image's log-density, one for each of its values."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution, Independent


@runtime_checkable
class OfEach(Protocol):
    """A density of images that is a product over their values, each perhaps given those before it."""

    def log_prob_of_each(self, value: Tensor) -> Tensor:
        """The factors' logarithms, nats, (*batch, C, H, W), whose sum over an image is `log_prob`."""


def log_prob_of_each(px: Distribution, x: Tensor) -> Tensor:
    """log p(x_i) of every value of images (*batch, C, H, W), nats, the same shape.

    Raises:
        ValueError: the density is no product over the values.
    """
    if isinstance(px, OfEach):
        return px.log_prob_of_each(x)
    if isinstance(px, Independent) and px.reinterpreted_batch_ndims == 3 and not px.base_dist.event_shape:
        return px.base_dist.log_prob(x)
    raise ValueError(
        f"expected a likelihood with a factor for each pixel, got {type(px).__name__}, whose density does not come "
        "apart: there is no map of it."
    )
