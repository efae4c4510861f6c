"""The bound with its rate taken apart, by batches.

Shapes: B images, d numbers in a latent. q(z) = 1/N sum_n q(z|x_n) is the aggregate posterior of N training images.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

from torch import Tensor
from torch.distributions import Distribution, Independent

from vae_lightning.core import Batch, Loss, Model, Objective, Site, Trace
from vae_lightning.objectives.elbo import mean_scores, require_density, require_stories


def log_stratified_weights(batch: int, images: int, like: Tensor) -> Tensor:
    """log W, (B, B), with which sum_j W_ij q(z_i|x_j) is an unbiased estimate of q(z_i), for B different images of N
    and z_i drawn from q(z|x_i): 1/N on the diagonal, and (N - 1)/N in equal parts for the other images of the batch.

    These are the weights of stratified sampling (Chen et al. 2018, appendix C.2), averaged over which of the others is
    the one that has a weight of its own there.

    Args:
        batch: B.
        images: N, at least B.
        like: whose dtype and device they get.
    """
    if batch == 1:
        return like.new_zeros(1, 1)
    weight = like.new_full((batch, batch), math.log((images - 1) / images / (batch - 1)))
    return weight.fill_diagonal_(-math.log(images))


class Parts(NamedTuple):
    """Of the rate of each image by its sample, (B,), nats; their sum is log q(z|x) - log p(z), to rounding."""

    mutual_information: Tensor  # log q(z|x) - log q(z)
    total_correlation: Tensor  # log q(z) - sum_d log q(z_d)
    dimension_wise_kl: Tensor  # sum_d log q(z_d) - log p(z)


def parts_of(site: Site, images: int) -> Parts:
    """The rate of B images taken apart (Chen et al. 2018, eq. 2), with the aggregate posterior and its marginals as the
    batch estimates them.

    Args:
        site: z (B, *event), whose posterior and prior factorise over the event.
        images: N, of which the batch is a random part.
    """
    size = len(site.z)
    pairs = _factors(site).log_prob(site.z.unsqueeze(1)).flatten(2)  # (B, B, d): log q(z_id|x_j)
    weight = log_stratified_weights(size, images, pairs)
    log_own = pairs.diagonal().sum(0)
    log_q = (pairs.sum(-1) + weight).logsumexp(1)
    log_product = (pairs + weight.unsqueeze(-1)).logsumexp(1).sum(-1)
    return Parts(log_own - log_q, log_q - log_product, log_product - site.p.log_prob(site.z))


def _factors(site: Site) -> Distribution:
    """q of each number of the latent; ValueError unless both posterior and prior factorise."""
    for name, it in (("posterior", site.q), ("prior", site.p)):
        if not isinstance(it, Independent) or it.base_dist.event_shape:
            raise ValueError(
                f"the objective BetaTC needs a {name} that factorises over the latents, got {type(it).__name__} at "
                f"{site.name!r}: choose one that does, such as GaussianPosterior and StandardNormal, or the objective "
                "ELBO."
            )
    return cast(Independent, site.q).base_dist


def _only_site(trace: Trace) -> Site:
    first, *others = trace.sites.values()
    if others:
        raise ValueError(
            f"the objective BetaTC needs a story of one latent, got {', '.join(trace.sites)}: choose such a model, or "
            "the objective ELBO."
        )
    return first


class BetaTC(Objective):
    """-E_q log p(x|z) + alpha I(x; z) + beta TC(z) + gamma sum_d KL(q(z_d) || p(z_d)), averaged over the batch, in nats
    per image: the rate taken apart, with a weight for each part (Chen et al. 2018, eq. 4). With weights of 1 it is the
    bound by one sample. What is logged as "elbo" and "rate" is the plain bound's.

    The parts are estimated from batches: the logarithm of an unbiased estimate is too small on average, so that with
    few images in many dimensions the mutual information comes out too large and near log N, at the others' cost.

    Args:
        beta: of the total correlation.
        alpha: of the mutual information of image and latent.
        gamma: of the dimension-wise KL.
        images: N, how many training images there are; null to be told by the data.
    """

    def __init__(self, beta: float = 6.0, alpha: float = 1.0, gamma: float = 1.0, images: int | None = None) -> None:
        super().__init__()
        if min(alpha, beta, gamma) < 0:
            raise ValueError(f"BetaTC: expected weights of at least 0, got beta={beta}, alpha={alpha}, gamma={gamma}.")
        if images is not None and images < 1:
            raise ValueError(f"BetaTC.images: expected the number of training images, got {images}.")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.images, self._told = images, images

    def begin(self, images: int) -> None:
        self._told = images if self.images is None else self.images

    def check(self, model: Model, batch: Batch) -> None:
        require_density(model, batch, "BetaTC")
        self(model, batch, 0.0)

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        model = require_stories(model, "BetaTC")
        trace = model.trace(batch)
        terms = mean_scores(trace)
        parts = parts_of(_only_site(trace), self._among(len(trace.x)))
        means = {name: value.mean() for name, value in parts._asdict().items()}
        information, correlation, dimension_wise = means.values()
        value = terms["distortion"] + self.alpha * information + self.beta * correlation + self.gamma * dimension_wise
        logs = {name: term.detach() for name, term in {**terms, **means}.items()}
        return Loss(value, logs, model.statistics(trace))

    def _among(self, batch: int) -> int:
        """N."""
        if self._told is None:
            raise ValueError(
                "BetaTC.images: expected the number of training images, got none, as no data told it: set "
                "--model.objective.images, or call begin(images) first."
            )
        if self._told < batch:
            raise ValueError(
                f"BetaTC.images: expected at least as many training images as a batch has, {batch}, got {self._told}: "
                "set --model.objective.images null, to be told by the data."
            )
        return self._told
