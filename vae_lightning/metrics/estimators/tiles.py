"""How much of a batch is worked on at a time."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from vae_lightning.core import Batch, FromPrior, LatentModel

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
    image = given["image"]
    widest = image[0].numel()

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        nonlocal widest
        if isinstance(output, Tensor):
            widest = max(widest, output.numel())

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.random.fork_rng([image.device] if image.is_cuda else []):
            model(FromPrior(1), without_image(rows(given, slice(0, 1))))
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, TILE_VALUES // widest)


def rows(given: Batch, images: slice) -> Batch:
    """The batch of some of its images."""
    return cast(Batch, {name: cast(Tensor, value)[images] for name, value in given.items()})


def without_image(given: Batch) -> Batch:
    """What else is given, such as labels."""
    return cast(Batch, {name: value for name, value in given.items() if name not in ("image", "encoded")})
