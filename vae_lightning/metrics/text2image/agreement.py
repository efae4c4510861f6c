"""Whether images show what they were asked to show. Shares are 0 to 1."""

from __future__ import annotations

import math

from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from vae_lightning.metrics.representation import Accuracy

NORMAL_975 = 1.959964
"""Quantile of the standard normal: a two-sided interval of 95 %."""


def wilson_lower_bound(right: Tensor) -> float:
    """Lower end of the share's 95 % interval from hits (N,), honest at shares near 1, where the binomial standard error
    is 0 (Wilson 1927)."""
    n, z2 = len(right), NORMAL_975**2
    value = right.double().mean().item()
    half = math.sqrt(value * (1 - value) / n + z2 / (4 * n * n))
    return (value + z2 / (2 * n) - NORMAL_975 * half) / (1 + z2 / n)


def rank_correlation(asked: Tensor, measured: Tensor) -> Accuracy:
    """Spearman's, of the third that a caption asks for and what is measured of its image, (N,) each, and its standard
    error (Fieller et al. 1957). With thirds of equal size it is at most sqrt(8/9) = .943, as equal thirds are ties."""
    value = spearman_corrcoef(asked.double(), measured.double()).item()
    return Accuracy(value, 1.03 * (1 - value**2) / math.sqrt(max(1, len(asked) - 3)))
