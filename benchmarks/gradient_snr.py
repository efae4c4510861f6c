"""The signal-to-noise ratio of the importance-weighted bound's gradient over the number of samples K.

python -m benchmarks.gradient_snr

By the model of Rainforth et al. (2018, section 6.1): z ~ N(m, I), x ~ N(z, I), q(z|x) = N(mu, 2/3 I), near its optimum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from benchmarks.harness import arguments
from vae_lightning.core import Batch, Draw, LatentModel, Story
from vae_lightning.objectives import (
    IWAE,
    DoublyReparameterised,
    GradientEstimator,
    Reparameterised,
    StickingTheLanding,
)

ESTIMATORS: tuple[GradientEstimator, ...] = (Reparameterised(), StickingTheLanding(), DoublyReparameterised())
SAMPLES = (1, 4, 16, 64, 256)
DIMENSIONS = 10
OFF = 0.1
"""Standard deviation of what the parameters are off their optimum."""
AT_ONCE = 2**18
"""Numbers in the latents that are drawn at a time."""
Found = dict[str, dict[str, list[tuple[int, float]]]]
"""Estimator -> part -> (K, signal-to-noise ratio)."""


class Copies(LatentModel):
    """So many copies of the story of an image, each with parameters of its own, so that each has a gradient.

    Args:
        m: the prior's mean, (d,).
        mu: the posterior's, (d,).
        copies: how many.
    """

    def __init__(self, m: Tensor, mu: Tensor, copies: int) -> None:
        super().__init__()
        log_scale = torch.full_like(mu, 0.5 * math.log(2 / 3))
        self.decoder = nn.Parameter(m.expand(copies, -1).clone())
        self.encoder = nn.Parameter(torch.cat([mu, log_scale]).expand(copies, -1).clone())

    def about(self, given: Batch) -> Story:
        loc, log_scale = self.encoder.chunk(2, -1)

        def story(draw: Draw) -> Distribution:
            z = draw("z", p=_normal(self.decoder, torch.ones(())), q=_normal(loc, log_scale.exp()))
            return Independent(Normal(z[..., None, None], 1.0), 3)

        return story


def _normal(loc: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(loc, scale.expand_as(loc)), 1)


def ratio(gradient: Tensor) -> float:
    """Of draws (N, parameters): the norm of their mean over their standard deviation, both over all parameters; the
    squared norm without what the mean's own error adds to it."""
    variance = gradient.var(0).sum()
    signal = gradient.mean(0).square().sum() - variance / len(gradient)
    return math.sqrt(max(0.0, (signal / variance).item()))


def study(samples: Iterable[int] = SAMPLES, draws: int = 20_000) -> Found:
    """The ratios for the gradients of encoder and decoder, of each estimator and K.

    Args:
        samples: the Ks.
        draws: gradients of one image for each ratio.
    """
    m = torch.randn(DIMENSIONS)
    x = m + math.sqrt(2) * torch.randn(DIMENSIONS)
    mu = (m + x) / 2 + OFF * torch.randn(DIMENSIONS)
    m = m + OFF * torch.randn(DIMENSIONS)
    found: Found = {type(it).__name__: {"encoder": [], "decoder": []} for it in ESTIMATORS}
    for estimator in ESTIMATORS:
        for k in samples:
            copies = min(draws, max(1, AT_ONCE // (k * DIMENSIONS)))
            model, objective, parts = Copies(m, mu, copies), IWAE(k, estimator), list[tuple[Tensor, Tensor]]()
            for _ in range(math.ceil(draws / copies)):
                model.zero_grad()
                objective(model, {"image": x.view(-1, 1, 1).expand(copies, -1, -1, -1)}, 0).value.backward()
                parts.append(tuple(copies * p.grad.clone() for p in (model.encoder, model.decoder)))  # type: ignore
            for part, gradient in zip(("encoder", "decoder"), zip(*parts, strict=True), strict=True):
                found[type(estimator).__name__][part].append((k, ratio(torch.cat(gradient))))
    return found


def slopes(found: Found) -> dict[str, dict[str, float]]:
    """Of the logarithm of the ratio over that of K, from the first to the last: -0.5 falls as k^-1/2."""
    return {name: {part: _slope(pairs) for part, pairs in parts.items()} for name, parts in found.items()}


def _slope(pairs: list[tuple[int, float]]) -> float:
    (low, first), *_, (high, last) = pairs
    return math.log(last / first) / math.log(high / low)


def table(found: Found) -> str:
    """A line for each estimator and part."""
    ks = [k for k, _ in next(iter(found.values()))["encoder"]]
    slope = slopes({n: {p: pairs[1:] for p, pairs in parts.items()} for n, parts in found.items()})
    lines = [f"{'signal-to-noise over K':33}" + "".join(f"{k:>9}" for k in ks) + "  slope from the second on"]
    for name, parts in found.items():
        for part, pairs in parts.items():
            values = "".join(f"{value:9.4f}" for _, value in pairs)
            lines.append(f"{name + ', ' + part:33}{values}{slope[name][part]:+7.2f}")
    return "\n".join(lines)


def run(rounds: int) -> None:
    for seed in range(rounds):
        torch.manual_seed(seed)
        print(table(study()))


if __name__ == "__main__":
    run(arguments(__doc__, 1).parse_args().rounds)
