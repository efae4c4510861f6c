"""What a model of p(x|y) says of images whose class is not told: log p(x) with the class summed out, and the class.

Shapes: B images, C classes. Units: nats per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vae_lightning.core import Batch, LatentModel, image_of
from vae_lightning.metrics.estimators.importance import log_prob
from vae_lightning.metrics.representation import Accuracy, share


def frequencies(label: Tensor, classes: int) -> Tensor:
    """p(y): how often each class comes among labels (N,) int64, (C,) float64.

    Raises:
        ValueError: no label at all, or one that is none of the classes.
    """
    if not len(label) or label.min() < 0 or label.max() >= classes:
        got = f"{label.min().item()}..{label.max().item()}" if len(label) else "none"
        raise ValueError(
            f"label: expected labels 0..{classes - 1}, at least one, got {got}: give the classes' numbers."
        )
    return label.cpu().bincount(minlength=classes).double() / len(label)


def of_class(given: Batch, number: int) -> dict[str, Tensor]:
    """The batch with every image told one class."""
    image = image_of(given)
    return {**given, "label": torch.full((len(image),), number, dtype=torch.long, device=image.device)}


def class_log_prob(model: LatentModel, given: Batch, classes: int, num_samples: int) -> Tensor:
    """log p(x|y) of each image under each class, (C, B) float64 on the CPU, each by K importance samples from q(z|x, y)
    as in `log_prob`.

    Args:
        model: of p(x|y), in evaluation mode.
        given: a batch with "image" (B, C, H, W), integers; labels in it are not looked at.
        classes: C.
        num_samples: K.
    """
    found = [log_prob(model, of_class(given, number), num_samples) for number in range(classes)]
    return torch.stack(found).double().cpu()


def sum_out(log_probs: Tensor, p_y: Tensor) -> Tensor:
    """log p(x) = log sum_y p(y) p(x|y), (B,), of log p(x|y), (C, B), and p(y), (C,): a lower bound in expectation where
    each log p(x|y) is one."""
    return (log_probs + p_y.log()[:, None]).logsumexp(0)


def accuracy(log_probs: Tensor, label: Tensor) -> Accuracy:
    """How often the class under which an image is the most probable, argmax_y log p(x|y), is its own: of log p(x|y),
    (C, B), and labels (B,)."""
    return share(log_probs.argmax(0) == label.to(log_probs.device))
