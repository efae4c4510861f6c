"""p(z): N(0, I), priors that are learned, and one for each class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from vae_lightning.core import Conditional, Shape, Spec
from vae_lightning.nets import bounded_log_scale, raw_log_scale

PriorFactory = Callable[[Shape, Spec], Conditional]
SPREAD = 0.5
"""Standard deviation of the mixture's means at the start; each component is so wide that together they are near
N(0, I)."""
SMALLEST_SCALE, REGULAR = 1e-3, 1e-4
"""Standard deviation of codes below which they are taken to be that wide, and the variance, in squared standard
deviations, that is added to a component's, which may hold a single draw."""


class StandardNormal(Conditional):
    """p(z) = N(0, I).

    Args:
        latent_shape: the latent's shape, (d,).
        spec: not used; every prior takes it.
    """

    zero: Tensor
    one: Tensor

    def __init__(self, latent_shape: Shape, spec: Spec | None = None) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(tuple(latent_shape)), persistent=False)
        self.register_buffer("one", torch.ones(tuple(latent_shape)), persistent=False)

    def forward(self, context: Tensor | Mapping[str, Tensor] | None = None) -> Distribution:
        normal = Normal(self.zero, self.one, validate_args=False)
        return Independent(normal, self.zero.dim(), validate_args=False)


class ScaledPrior(Conditional):
    """A prior that says where z lies in units of each latent's own scale, which is learned with the rest.

    Args:
        size: how many latents.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))

    def scale(self) -> Tensor:
        """(d,), above 0."""
        return bounded_log_scale(self.log_scale).exp()

    @torch.no_grad()
    def init_from_codes(self, z: Tensor) -> None:
        """Begins with the draws' means and standard deviations, (N, *event)."""
        flat = z.flatten(1)
        self.loc.copy_(flat.mean(0))
        self.log_scale.copy_(raw_log_scale(flat.std(0, correction=0)))


class GaussianMixture(Conditional):
    """p(z) = sum_c w_c N(z; mu_c, diag sigma_c^2), all of it learned with the model by the same objective (the mixture
    of Gaussians that Tomczak & Welling 2018 hold their VampPrior against). A Gaussian posterior has no closed KL to it,
    so the rate is the one-sample estimate log q(z) - log p(z).

    Args:
        latent_shape: the latent's shape, (d,).
        spec: not used; every prior takes it.
        components: how many; 1 is a Gaussian with learned mean and variances.
    """

    def __init__(self, latent_shape: Shape, spec: Spec | None = None, components: int = 50) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"GaussianMixture.components: expected at least 1, got {components}.")
        shape = (components, *latent_shape)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(SPREAD * torch.randn(shape) if components > 1 else torch.zeros(shape))
        scale = math.sqrt(1 - SPREAD**2) if components > 1 else 1.0
        self.log_scale = nn.Parameter(torch.full(shape, math.log(scale)))

    @torch.no_grad()
    def init_from_codes(self, z: Tensor) -> None:
        """Begins at scikit-learn's fit to the draws (N, *event), by expectation maximisation from k-means, since
        gradients move means slowly whose scale is far from 1. Of fewer draws than components, these share their
        weight."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Fit

        flat, number = z.flatten(1).double().cpu(), torch.arange(len(self.logits)) % len(z)
        mean, scale = flat.mean(0), flat.std(0, correction=0).clamp_min(SMALLEST_SCALE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # gradients go on from there
            fit = Fit(int(number.max()) + 1, covariance_type="diag", reg_covar=REGULAR, max_iter=50, random_state=0)
            fit.fit(((flat - mean) / scale).numpy())
        weights, means, variances = (torch.from_numpy(it) for it in (fit.weights_, fit.means_, fit.covariances_))
        self.logits.copy_((weights / number.bincount()).log()[number])
        self.mean.copy_((mean + scale * means)[number].view_as(self.mean))
        self.log_scale.copy_(raw_log_scale(scale * variances.sqrt())[number].view_as(self.log_scale))

    def forward(self, context: Tensor | Mapping[str, Tensor] | None = None) -> Distribution:
        normal = Normal(self.mean, bounded_log_scale(self.log_scale).exp(), validate_args=False)
        component = Independent(normal, self.mean.dim() - 1, validate_args=False)
        weight = Categorical(logits=self.logits, validate_args=False)
        return MixtureSameFamily(weight, component, validate_args=False)
