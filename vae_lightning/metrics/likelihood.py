"""log p(x) by importance sampling from the posterior."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from vae_lightning.core import Batch, LatentModel


@torch.no_grad()
def log_prob(model: LatentModel, given: Batch, num_samples: int, tile: int = 2_048) -> Tensor:
    """log (1/K sum_k p(x, z_k) / q(z_k|x)) for each image, nats, shape (B,): a lower bound of log p(x) in expectation
    that meets it as K grows (Burda et al. 2016, theorem 1).

    Args:
        model: in evaluation mode.
        given: a batch with "image" (B, C, H, W), integers.
        num_samples: K, any, also more than fits into memory at once.
        tile: how many image-samples are decoded at a time: memory grows with it and not with K.
            The encoder runs once for each tile of at most `tile` samples of an image.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}.")
    images_at_once = max(1, tile // num_samples)
    out = []
    for i in range(0, len(given["image"]), images_at_once):
        part = cast(Batch, {name: cast(Tensor, v)[i : i + images_at_once] for name, v in given.items()})
        total = part["image"].new_full((len(part["image"]),), -torch.inf)
        for start in range(0, num_samples, tile):
            trace = model.trace(part, min(tile, num_samples - start))
            log_weight = trace.log_weight(part["image"])  # (K of the tile, images)
            total = torch.logaddexp(total, log_weight.logsumexp(0))
        out.append(total - math.log(num_samples))
    return torch.cat(out)
