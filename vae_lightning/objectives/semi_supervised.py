"""The objective of images of which some have a label."""

from __future__ import annotations

import torch

from vae_lightning.core import UNKNOWN, Batch, Counting, Loss, Model, Objective, SumsOutClass


class SemiSupervised(Objective):
    """The mean over a batch of what each image costs, nats per image, and `alpha` times the cross-entropy of the
    classifier on the labelled ones (Kingma et al. 2014, eq. 6 to 9):

        labelled:    -L(x, y),  L(x, y) = log p(y) + E_q(z|x,y) [log p(x|z, y)] - KL(q(z|x, y) || p(z|y)),
        unlabelled:  -U(x),     U(x) = sum_y q(y|x) (L(x, y) - log q(y|x)), a bound of log p(x),
        both:        + alpha * mean over the labelled images of -log q(y|x).

    y is summed out over all classes, z is drawn once for each. What is logged is the bound U of all images, the
    cross-entropy, and the share of labelled images that are misclassified, in %.

    Args:
        alpha: weight of the cross-entropy, at least 0.
    """

    def __init__(self, alpha: float = 10.0) -> None:
        super().__init__()
        if not alpha >= 0:
            raise ValueError(f"SemiSupervised.alpha: expected a weight of at least 0, got {alpha}.")
        self.alpha = alpha

    def check(self, model: Model, batch: Batch) -> None:
        trace = _require_class(model).by_class(batch)
        if not trace.has_rate:
            raise ValueError(
                "SemiSupervised: expected posteriors with a density, got a point mass, whose KL is infinite: choose "
                "GaussianPosterior within LabelledEncoder."
            )
        if "label" not in batch:
            raise ValueError("SemiSupervised: expected images with labels, got none: choose a source that has them.")

    def forward(self, model: Model, batch: Batch, share: float) -> Loss:
        summed, label = _require_class(model), batch["label"]
        known = label != UNKNOWN
        own = label.clamp_min(0)[:, None]
        log_q = summed.class_log_prob(batch)  # (B, classes)
        trace = summed.by_class(batch)
        if isinstance(trace.px, Counting):
            raise ValueError(
                "SemiSupervised: expected a likelihood of each image by itself, got one whose scale is fitted to a "
                "whole batch, wrong classes included: choose GaussianLearnedScaleLikelihood."
            )
        bound = trace.scores()["elbo"].T + summed.log_p_y()  # (B, classes), L(x, y)
        untold = (log_q.exp() * (bound - log_q)).sum(1)
        told = bound.gather(1, own)[:, 0]
        count = known.sum().clamp_min(1)
        cross_entropy = -(log_q.gather(1, own)[:, 0] * known).sum() / count
        value = -torch.where(known, told, untold).mean() + self.alpha * cross_entropy
        wrong = ((log_q.argmax(1) != label) & known).sum() / count
        logs = {"elbo": untold.mean(), "cross_entropy": cross_entropy, "error": 100 * wrong}
        return Loss(value, {name: term.detach() for name, term in logs.items()})


def _require_class(model: Model) -> SumsOutClass:
    if not isinstance(model, SumsOutClass):
        raise ValueError(
            f"SemiSupervised: expected a model whose class is a latent, such as SemiSupervisedVAE, got "
            f"{type(model).__name__}: choose the objective that belongs to it."
        )
    return model
