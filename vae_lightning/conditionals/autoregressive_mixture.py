"""p(z), latent after latent, by a masked net."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.conditionals.flow import zuko
from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.distributions import AutoregressiveMixture
from vae_lightning.nets import at_least_float32, bounded_log_scale, raw_log_scale, require_widths

WIDTH = 0.5
"""Of each of several components at the start, where the standard deviation of all is 1."""


class AutoregressiveMixturePrior(Conditional):
    """p(z) = prod_i p(z_i | z_1 .. z_{i-1}), each of these a mixture of Gaussians whose weights, means and widths a
    masked net gives in one pass (MADE, Germain et al. 2015, with mixtures as in Papamakarios et al. 2017, section 5).
    Learned with the model, or as a second stage. The density is exact, a sample takes a pass a latent, and `compress`
    has its code. Starts with mean 0 and variance 1.

    Args:
        latent_shape: (d,).
        spec: not used; every prior takes it.
        components: Gaussians of each mixture.
        hidden: widths of the masked net.

    Raises:
        ValueError: no component, or a width below 1.
    """

    def __init__(
        self,
        latent_shape: Shape,
        spec: Spec | None = None,
        components: int = 10,
        hidden: list[int] = [128, 128],  # noqa: B006 (never changed; jsonargparse shows it as the default)
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"AutoregressiveMixturePrior.components: expected at least 1, got {components}.")
        require_widths("AutoregressiveMixturePrior.hidden", list(hidden), at_least=1)
        self.size, self.components = math.prod(latent_shape), components
        self.loc, self.log_scale = nn.Parameter(torch.zeros(self.size)), nn.Parameter(torch.zeros(self.size))
        sees = torch.ones(self.size, self.size + 1, dtype=torch.bool).tril()  # a constant, and the latents before
        self.net = zuko().nn.MaskedMLP(sees.repeat_interleave(3 * components, 0), hidden, nn.SiLU)
        last = self.net[-1]
        nn.init.zeros_(last.weight)
        last.bias.data = self._start().repeat(self.size)

    def _start(self) -> Tensor:
        """Logits, means and raw widths of a mixture of mean 0 and variance 1, whose components differ, (3 K,)."""
        count = self.components
        mean = torch.special.ndtri((torch.arange(count) + 0.5) / count)
        width = WIDTH if count > 1 else 1.0
        mean = mean * math.sqrt(1 - width**2) / mean.std(correction=0).clamp_min(1e-6)
        return torch.cat([torch.zeros(count), mean, raw_log_scale(torch.full((count,), width))])

    @torch.no_grad()
    def init_from_codes(self, z: Tensor) -> None:
        """Begins with the draws' means and variances, (N, *event)."""
        flat = z.flatten(1)
        self.loc.copy_(flat.mean(0))
        self.log_scale.copy_(raw_log_scale(flat.std(0, correction=0)))

    def _mixtures(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loc, scale = self.loc[:, None], bounded_log_scale(self.log_scale).exp()[:, None]
        seen = torch.cat([torch.ones_like(z[..., :1]), (z - self.loc) / scale[:, 0]], -1)
        out = at_least_float32(self.net(seen)).unflatten(-1, (self.size, 3, self.components))
        logits, mean, raw = out.unbind(-2)
        return logits, loc + scale * mean, scale * bounded_log_scale(raw).exp()

    def forward(self, context: Tensor | Mapping[str, Tensor] | None = None) -> Distribution:
        return AutoregressiveMixture(self._mixtures, torch.zeros_like(self.loc))
