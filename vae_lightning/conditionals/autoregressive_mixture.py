"""p(z), latent after latent, by a masked net."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lightning.conditionals.flow import require_as_wide, zuko
from vae_lightning.conditionals.priors import ScaledPrior
from vae_lightning.core import Shape, Spec
from vae_lightning.distributions import AutoregressiveMixture, Mixtures
from vae_lightning.nets import at_least_float32, bounded_log_scale, raw_log_scale

WIDTH = 0.5
"""Of each of several components at the start, where the standard deviation of all is 1."""


class AutoregressiveMixturePrior(ScaledPrior):
    """p(z) = prod_i p(z_i | z_1 .. z_{i-1}), each of these a mixture of Gaussians whose weights, means and widths a
    masked net gives in one pass (MADE, Germain et al. 2015; with mixtures the MADE MoG of Papamakarios et al. 2017).
    Learned with the model, or as a second stage. The density is exact, and `compress` has its code. A sample takes a
    pass a latent, and so does the code: it is for tens of latents rather than for thousands. Starts with mean 0 and
    variance 1.

    Args:
        latent_shape: (d,).
        spec: not used; every prior takes it.
        components: Gaussians of each mixture.
        hidden: widths of the masked net, each at least d: a narrower layer would hide the last latents from each other.

    Raises:
        ValueError: no component, or a width below d.
    """

    def __init__(
        self,
        latent_shape: Shape,
        spec: Spec | None = None,
        components: int = 10,
        hidden: list[int] = [128, 128],  # noqa: B006 (never changed; jsonargparse shows it as the default)
    ) -> None:
        super().__init__(math.prod(latent_shape))
        if components < 1:
            raise ValueError(f"AutoregressiveMixturePrior.components: expected at least 1, got {components}.")
        self.size, self.components = len(self.loc), components
        require_as_wide("AutoregressiveMixturePrior.hidden", hidden, self.size)
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

    def _mixtures(self, z: Tensor, i: int | None = None) -> Mixtures:
        of = slice(None) if i is None else slice(i, i + 1)
        with torch.autocast(z.device.type, enabled=False):
            scale = self.scale()
            x = torch.cat([torch.ones_like(z[..., :1]), (at_least_float32(z) - self.loc) / scale], -1)
            *body, last = self.net
            for layer in body:
                x = layer(x)
            mask, weight, bias = (
                t.unflatten(0, (self.size, -1))[of].flatten(0, 1) for t in (last.mask, last.weight, last.bias)
            )
            out = F.linear(x, mask * weight, bias).unflatten(-1, (-1, 3, self.components))
            logits, mean, raw = out.unbind(-2)
            scale = scale[of, None]
            found = Mixtures(logits, self.loc[of, None] + scale * mean, scale * bounded_log_scale(raw).exp())
        return found if i is None else Mixtures(*(t.squeeze(-2) for t in found))

    def forward(self, context: Tensor | Mapping[str, Tensor] | None = None) -> Distribution:
        return AutoregressiveMixture(self._mixtures, torch.zeros_like(self.loc))
