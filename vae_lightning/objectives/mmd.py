"""A distance of the aggregate posterior from the prior, by samples alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from vae_lightning.core import Batch, Loss, Model, Objective, Trace
from vae_lightning.objectives.elbo import mean_scores, require_density, require_stories


class Kernel(ABC):
    """A positive definite function of the distance of two latents, 1 at distance 0.

    Args:
        scales: lengths as multiples of the root mean squared distance of two draws of N(0, I), sqrt(2 d): the kernel is
            the mean of those of each length.
    """

    def __init__(self, scales: Sequence[float] = (1.0,)) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"{type(self).__name__}.scales: expected lengths above 0, got {list(scales)}.")
        self.scales = tuple(scales)

    @abstractmethod
    def of(self, ratio: Tensor) -> Tensor:
        """Of squared distances over the squared length, any shape."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, d), (M, d) -> (N, M)."""
        squared = (a.unsqueeze(1) - b).square().sum(-1) / (2 * a.shape[1])
        return torch.stack([self.of(squared / scale**2) for scale in self.scales]).mean(0)


class GaussianKernel(Kernel):
    """exp(-r / 2), r the squared distance over the squared length."""

    def of(self, ratio: Tensor) -> Tensor:
        return (-ratio / 2).exp()


class InverseMultiquadratic(Kernel):
    """1 / (1 + r), r the squared distance over the squared length: its tails still pull at latents that lie far off
    (Tolstikhin et al. 2018, section 4)."""

    def of(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + ratio)


def squared_mmd(a: Tensor, b: Tensor, kernel: Kernel) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy of the densities that two sets of samples are from,
    (), which may be below zero (Gretton et al. 2012, eq. 3); 0 where a set has one sample, and there is no estimate.

    Args:
        a: (N, d).
        b: (M, d).
        kernel: of which space.
    """
    if min(len(a), len(b)) < 2:
        return 0 * a.sum()

    def within(x: Tensor) -> Tensor:
        pairs = kernel(x, x)
        return (pairs.sum() - pairs.diagonal().sum()) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * kernel(a, b).mean()


class MMD(Objective):
    """-E_q log p(x|z) + beta KL(q(z|x) || p) + weight MMD^2(q(z), p(z)), averaged over the batch: the aggregate
    posterior is drawn to the prior as a whole. With beta = 0 and the encoder PointMass it is the Wasserstein
    autoencoder (Tolstikhin et al. 2018); with a posterior that has a density it is InfoVAE (Zhao et al. 2017, eq. 6),
    whose alpha is 1 - beta. Where there is a bound it is logged as "elbo".

    Of several latents each is held against draws of its own prior given those before it, and the distances are summed.

    Args:
        weight: of the squared discrepancy, which is between 0 and 2: nats for each.
        beta: of the rate; has to be 0 for an encoder without one.
        kernel: of the discrepancy; by default `InverseMultiquadratic` of lengths from 0.1 to 10.
    """

    def __init__(self, weight: float = 1000.0, beta: float = 0.0, kernel: Kernel | None = None) -> None:
        super().__init__()
        if not (weight > 0 and beta >= 0):
            raise ValueError(f"MMD: expected weight above 0 and beta of at least 0, got {weight} and {beta}.")
        self.weight, self.beta = weight, beta
        self.kernel = InverseMultiquadratic((0.1, 0.3, 1.0, 3.0, 10.0)) if kernel is None else kernel

    def check(self, model: Model, batch: Batch) -> None:
        if self.beta:
            require_density(model, batch, "MMD with beta above 0")
        self(model, batch, 0.0)

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = require_stories(model, "MMD")
        trace = model.trace(batch)
        terms = {**mean_scores(trace), "squared_mmd": self._distance(trace)}
        value = terms["distortion"] + self.weight * terms["squared_mmd"]
        if self.beta:
            value = value + self.beta * terms["rate"]
        return Loss(value, {name: term.detach() for name, term in terms.items()}, model.statistics(trace))

    def _distance(self, trace: Trace) -> Tensor:
        distances = []
        for site in trace.sites.values():
            expected = site.p.sample(site.q.batch_shape[len(site.p.batch_shape) :])
            a, b = (z.flatten(1) if z.dim() > 1 else z.unsqueeze(1) for z in (site.z, expected))
            distances.append(squared_mmd(a, b, self.kernel))
        return torch.stack(distances).sum()
