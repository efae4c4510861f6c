"""How much of a batch is worked on at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vae_lightning.core import Batch, LatentModel, image_of, rows, seeded

TILE_VALUES = 2**22
"""Values of a decoder's widest layer at a time: enough for fast matrix products, and little enough for the caches, out
of which convolutions are two to three times slower (benchmarks/likelihood.py)."""


@torch.no_grad()
def tile_size(model: LatentModel, given: Batch) -> int:
    """How many image-samples are decoded at a time, by what the widest layer of p(x|z) makes of one, image included.
    torch's own generator is left as it is.

    Args:
        model: of any story.
        given: a batch with "image" (B, C, H, W).
    """
    image = image_of(given)
    widest = image[0].numel()

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        nonlocal widest
        if isinstance(output, Tensor):
            widest = max(widest, output.numel())

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with seeded(None, image.device):
            model.sample(rows(given, slice(0, 1)))
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, TILE_VALUES // widest)
