"""How varied what is made of one caption is, beside real images of the same caption.

Spread is a length: the root of the trace of the covariance within a caption. A collapsed model has 0, however right
each of its images is. Legend of shapes: N rows, C captions, F numbers of a row, such as an embedding's or an image's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_lightning.metrics.mean import mean_error


class Ratio(NamedTuple):
    value: float
    standard_error: float


def deviations(rows: Tensor, caption: Tensor) -> Tensor:
    """Squared distance of each row (N, ...) from the mean of its caption's (N,) rows, times n / (n - 1) of the n that
    are its caption's: (N,), its mean unbiased for the trace of the covariance; nan for the only row of a caption."""
    rows = rows.flatten(1).double()
    number, count = caption.unique(return_inverse=True, return_counts=True)[1:]
    total = rows.new_zeros(len(count), rows.shape[1]).index_add_(0, number, rows)
    n = count[number].double()
    return (rows - total[number] / n[:, None]).square().sum(1) * torch.where(n > 1, n / (n - 1), math.nan)


def spread_ratio(made: Tensor, real: Tensor, caption: Tensor) -> Ratio:
    """Spread of rows within captions over that of real rows of the same captions.

    The variances are averaged over all rows, so that a frequent caption weighs more and one with few rows adds no bias.
    The standard error takes rows to be independent.

    Args:
        made: (N, ...).
        real: (N, ...), row for row of the same captions.
        caption: (N,) int64; those with a single row are left out.
    """
    (a, error_a), (b, error_b) = (mean_error(deviations(rows, caption)) for rows in (made, real))
    if not b > 0:
        return Ratio(math.nan, math.nan)
    error = math.sqrt(error_a**2 / a + a * (error_b / b) ** 2) / (2 * math.sqrt(b)) if a > 0 else 0.0
    return Ratio(math.sqrt(a / b), error)


def spread_of_each(made: Tensor, real: Tensor, caption: Tensor, fewest: int) -> Tensor:
    """`spread_ratio` and its standard error of each caption that has at least `fewest` rows, (C, 2) float64."""
    number, count = caption.unique(return_inverse=True, return_counts=True)[1:]
    found = []
    for one in (count >= max(2, fewest)).nonzero()[:, 0]:
        of_one = number == one
        found.append(spread_ratio(made[of_one], real[of_one], caption[of_one]))
    return torch.tensor(found, dtype=torch.float64).view(-1, 2)


def cosine_to_others(embedding: Tensor, real: Tensor, caption: Tensor, own: bool) -> Tensor:
    """Mean cosine of each embedding (N, F) to the real ones of the same caption that are not the row's own: (N,), nan
    where there is no other.

    Args:
        embedding: (N, F).
        real: (N, F), row for row of the same captions.
        caption: (N,) int64.
        own: the embeddings are the real ones themselves, and a row is not to be compared with itself. Else it is
            compared with that of its place as well, which it knows nothing of.
    """
    embedding, real = F.normalize(embedding.double(), dim=1), F.normalize(real.double(), dim=1)
    number, count = caption.unique(return_inverse=True, return_counts=True)[1:]
    total = real.new_zeros(len(count), real.shape[1]).index_add_(0, number, real)[number]
    n = count[number].double()
    sums, left = (embedding * total).sum(1), n
    if own:
        sums, left = sums - 1, n - 1
    return sums / torch.where(n > 1, left, math.nan)
