"""What a density of an embedding or a latent hangs on: vectors by their names, any of which may be missing."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.core import Conditional, Shape

SMALLEST = 1e-6


class Conditions(nn.Module):
    """Standardised by what they were in the training data, each dropped in training with a probability of its own, so
    that a density can do without any of them (Ho & Salimans 2022). One that is dropped or not given is a learned vector
    in its place: nothing but conditions passes here, so that no noised value is ever dropped with them.

    Args:
        sizes: {name: numbers of the vector}.
        drop: {name: probability of dropping it in training}; 0 for those that are not named.
        noise: {name: s}: in training Gaussian noise is added to it, of a scale uniform on [0, s] for each vector, in
            units of the condition's standard deviation (conditioning augmentation, Ho et al. 2022, section 4). So the
            density trusts the condition less, where another model's draws will stand in the place of real ones.
    """

    def __init__(
        self, sizes: Mapping[str, int], drop: Mapping[str, float], noise: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        noise = noise or {}
        for setting, name in [("drop", name) for name in drop] + [("noise", name) for name in noise]:
            if name not in sizes:
                raise ValueError(
                    f"{setting}: expected conditions among {', '.join(sizes) or 'none'}, got {name!r}: leave it out."
                )
        for name, probability in drop.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"drop.{name}: expected a probability between 0 and 1, got {probability}.")
        for name, scale in noise.items():
            if not 0 <= scale < math.inf:
                raise ValueError(f"noise.{name}: expected a finite scale of at least 0, got {scale}.")
        self.sizes, self.drop, self.noise = dict(sizes), dict(drop), dict(noise)
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.randn(size)) for name, size in sizes.items()})
        for name, size in sizes.items():
            self.register_buffer(f"mean_{name}", torch.zeros(size))
            self.register_buffer(f"scale_{name}", torch.ones(size))

    @torch.no_grad()
    def fit(self, context: Mapping[str, Tensor]) -> None:
        """Standardises by what conditions (N, size) are, each that is given."""
        for name in self._known(context):
            values = context[name].flatten(0, -2)
            self.get_buffer(f"mean_{name}").copy_(values.mean(0))
            scale = values.std(0) if len(values) > 1 else torch.ones_like(values[0])
            self.get_buffer(f"scale_{name}").copy_(torch.where(scale > SMALLEST, scale, 1.0))

    def lead(self, context: Mapping[str, Tensor]) -> torch.Size:
        """S, the leading shape that the given conditions (*S, size) have together; () of none."""
        return torch.broadcast_shapes(*(context[name].shape[:-1] for name in self._known(context)))

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{name: (*S, size)} of what is given -> the same of every name."""
        given, lead = self._known(context), self.lead(context)
        out = {}
        for name, missing in self.nothing().items():
            if name not in given:
                out[name] = missing.expand(*lead, -1)
                continue
            value = (context[name] - self.get_buffer(f"mean_{name}")) / self.get_buffer(f"scale_{name}")
            value = value.expand(*lead, -1)
            if self.training and self.noise.get(name, 0.0):
                scale = self.noise[name] * torch.rand(*lead, 1, device=value.device)
                value = value + scale * torch.randn_like(value)
            if self.training and self.drop.get(name, 0.0):
                dropped = torch.rand(*lead, 1, device=value.device) < self.drop[name]
                value = torch.where(dropped, missing, value)
            out[name] = value
        return out

    def nothing(self) -> dict[str, Tensor]:
        """What stands for conditions of which none is given, {name: (size,)}."""
        return dict(self.missing.items())

    def _known(self, context: Mapping[str, Tensor]) -> list[str]:
        """The names that are given; ValueError for one of another size or name."""
        for name, value in context.items():
            if value.shape[-1:] != (self.sizes.get(name),):
                known = ", ".join(f"{known} of {size} numbers" for known, size in self.sizes.items()) or "none"
                raise ValueError(f"conditions: expected {known}, got {name} of shape {tuple(value.shape)}.")
        return list(context)


class SiteDensity(Conditional):
    """The density of a site given vectors: p(embedding | text), p(latent | embedding, text).

    Args:
        event_shape: of the site's value.
        conditions: {name: numbers of a condition's vector}.
    """

    def __init__(self, event_shape: Shape, conditions: Mapping[str, int]) -> None:
        super().__init__()
        self.event_shape, self.sizes = tuple(event_shape), dict(conditions)

    @abstractmethod
    def forward(self, context: Mapping[str, Tensor] | None = None) -> Distribution:
        """{name: (*S, size)} of conditions, any of which may be missing -> a distribution with batch_shape S."""

    @abstractmethod
    def fit(self, value: Tensor, context: Mapping[str, Tensor]) -> None:
        """Sets what is better set from training data than at random: values (N, *event), conditions (N, size)."""


SiteFactory = Callable[[Shape, Mapping[str, int]], SiteDensity]
"""(event_shape, {condition: its size}) -> the density of a site."""
