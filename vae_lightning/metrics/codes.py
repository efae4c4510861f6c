"""How much of a codebook is used."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

SHOWN = ("codes_used", "codes_perplexity")
"""What training shows of it beside the headline."""


class Usage(NamedTuple):
    """float64 scalars: how many codes occur at all, the perplexity exp(H) of how often, and both in % of the codes."""

    used: Tensor
    perplexity: Tensor
    used_share: Tensor
    perplexity_share: Tensor


class CodeUsage(Metric):
    """Of a whole set and over all processes: counts are summed, and the perplexity is that of their sum. (The mean of
    batches' perplexities is lower, and no batch shows all codes.)

    Args:
        codes: K.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(codes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """indices: 0..K-1, any shape."""
        self.counts += torch.bincount(indices.flatten(), minlength=len(self.counts))

    def compute(self) -> Usage:
        share = self.counts.double() / self.counts.sum()
        used, perplexity = (self.counts > 0).sum().double(), torch.special.entr(share).sum().exp()
        whole = 100 / len(self.counts)
        return Usage(used, perplexity, whole * used, whole * perplexity)


def code_rows(usages: dict[str, CodeUsage]) -> dict[str, tuple[float, float]]:
    """Name -> (value, nan for the error that there is none of), of sites by their names; a single site's goes without
    its name."""
    rows = {}
    for site, usage in usages.items():
        end = f"_{site}" if len(usages) > 1 else ""
        for name, value in usage.compute()._asdict().items():
            rows[f"codes_{name}{end}"] = (value.item(), math.nan)
    return rows
