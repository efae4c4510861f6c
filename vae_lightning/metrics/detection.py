"""Calling images anomalous: the threshold of a stated rate of false alarms, shares with their intervals, and how well a
map tells defective pixels from sound ones. A higher score is a less likely image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from scipy.stats import beta
from torch import Tensor

from vae_lightning.metrics.anomaly import AUROC, auroc_interval

CONFIDENCE = 0.95
"""Of every interval."""
STEPS = 2**16
"""Quantiles of all pixels that they are counted between: what falls between two counts as a tie."""


class Share(NamedTuple):
    """A share of images, `part` of `images`, with the interval of Clopper & Pearson (1934); `value` is nan of none."""

    value: float
    low: float
    high: float
    part: int
    images: int


class Threshold(NamedTuple):
    """Above which score an image is called anomalous, and what that promises.

    Args:
        value: the threshold, the score of a validation image.
        low: the 95 % interval of the score that exactly `asked` of all normal images lie above,
        high: between two of the scores; -inf or inf where so few images do not bound it.
        asked: the rate of false alarms that was asked for.
        rate: that to be expected, at most the one asked for where the images suffice.
        rate_low: the 95 % interval of the rate of this threshold on new normal images,
        rate_high: over draws of the validation images.
        images: how many validation images.
    """

    value: float
    low: float
    high: float
    asked: float
    rate: float
    rate_low: float
    rate_high: float
    images: int

    @property
    def suffices(self) -> bool:
        """Whether there are images enough for the rate that was asked for."""
        return self.rate <= self.asked * (1 + 1e-9)


def share(count: int, images: int) -> Share:
    """`count` of `images` with the interval that holds whatever the true share is."""
    if not 0 <= count <= images:
        raise ValueError(f"share: expected a count from 0 to {images}, got {count}.")
    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, count, images - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, images - count)) if count < images else 1.0
    return Share(count / images if images else math.nan, low, high, count, images)


def require_rate(false_alarms: float) -> None:
    """Raises ValueError for what is no rate of false alarms."""
    if not 0 < false_alarms < 1:
        raise ValueError(f"--false_alarms: expected a rate above 0 and below 1, such as 0.01, got {false_alarms:g}.")


def threshold(normal_scores: Tensor, false_alarms: float) -> Threshold:
    """The threshold that a new image of the same kind exceeds with a probability of at most `false_alarms`, whatever
    the scores' distribution: of n scores the k-th largest, k = floor(false_alarms (n + 1)), which a new one exceeds
    with a probability of k / (n + 1) (Vovk et al. 2005, split conformal prediction). Over draws of the n images the
    rate of one threshold is Beta(k, n + 1 - k), the law of an order statistic. Fewer images than 1 / false_alarms - 1
    promise no such rate: k is 1 then, and `suffices` is false.

    Args:
        normal_scores: (n,), of images that training has not seen.
        false_alarms: above 0, below 1.

    Raises:
        ValueError: a rate out of range, no score, or one that is not a number.
    """
    require_rate(false_alarms)
    if normal_scores.dim() != 1 or len(normal_scores) == 0 or normal_scores.isnan().any():
        raise ValueError(
            f"threshold: expected the score of one normal image or more, got shape {tuple(normal_scores.shape)} with "
            f"{int(normal_scores.isnan().sum())} nan."
        )
    n, falling = len(normal_scores), normal_scores.double().sort(descending=True).values
    k = max(1, math.floor(false_alarms * (n + 1) * (1 + 1e-12)))
    tail = (1 - CONFIDENCE) / 2
    rate_low, rate_high = (float(beta.ppf(p, k, n + 1 - k)) for p in (tail, 1 - tail))
    # The r-th largest lies above the score sought with the probability that fewer than r of n do: Beta in r again.
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    below = torch.from_numpy(beta.cdf(false_alarms, ranks.numpy(), (n + 1 - ranks).numpy()))  # P(r-th largest is above)
    above, under = (below >= 1 - tail).nonzero(), (below <= tail).nonzero()
    high = falling[int(above[-1])].item() if len(above) else math.inf
    low = falling[int(under[0])].item() if len(under) else -math.inf
    return Threshold(falling[k - 1].item(), low, high, false_alarms, k / (n + 1), rate_low, rate_high, n)


def pixel_auroc(maps: Iterable[Tensor], masks: Iterable[Tensor]) -> AUROC | None:
    """Probability that a defective pixel scores higher than a sound one, ties counting half, over all pixels of all
    images. Its standard error takes the pixels of an image together (Obuchowski 1997, clustered ROC data), since they
    are no independent draws. None where either kind of pixel is missing.

    Args:
        maps: of each image, (H, W); what is not a number scores above all.
        masks: of each image, (H, W) bool, true where it is defective.
    """
    pairs = [
        (score.double().flatten().nan_to_num(math.inf, math.inf, -math.inf), mask.flatten())
        for score, mask in zip(maps, masks, strict=True)
    ]
    defective, sound = (torch.stack([it.sum() for it in part]) for part in _parts(pairs)) if pairs else (None, None)
    if defective is None or sound is None or not defective.sum() or not sound.sum():
        return None
    rising = torch.cat([score for score, _ in pairs]).sort().values
    edges = rising[torch.linspace(0, len(rising) - 1, min(STEPS, len(rising))).round().long()].unique()
    binned = [(torch.searchsorted(edges, score), mask) for score, mask in pairs]
    counts = [torch.zeros(len(edges) + 1, dtype=torch.float64) for _ in range(2)]
    for places, mask in binned:
        counts[0] += torch.bincount(places[~mask], minlength=len(edges) + 1)
        counts[1] += torch.bincount(places[mask], minlength=len(edges) + 1)
    below = (counts[0].cumsum(0) - counts[0] / 2) / counts[0].sum()  # share of sound pixels below each step
    above = 1 - (counts[1].cumsum(0) - counts[1] / 2) / counts[1].sum()  # share of defective pixels above it
    value = float((counts[1] * below).sum() / counts[1].sum())
    of_defective = torch.stack([below[places[mask]].sum() for places, mask in binned]) - value * defective
    of_sound = torch.stack([above[places[~mask]].sum() for places, mask in binned]) - value * sound
    m, n = float(defective.sum()), float(sound.sum())
    clusters = [int((defective > 0).sum()), int((sound > 0).sum()), len(pairs)]
    spread = [c / (c - 1) if c > 1 else math.nan for c in clusters]
    variance = spread[0] * float(of_defective.square().sum()) / m**2 + spread[1] * float(of_sound.square().sum()) / n**2
    variance += 2 * spread[2] * float((of_defective * of_sound).sum()) / (m * n)
    error = math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan
    return AUROC(value, error, *auroc_interval(value, clusters[0], clusters[1]))


def _parts(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [mask for _, mask in pairs], [~mask for _, mask in pairs]
