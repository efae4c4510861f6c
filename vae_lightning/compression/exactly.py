"""What makes networks say the same numbers, bit for bit, to the encoder and to the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vae_lightning.core import Batch, LatentModel


def given(model: LatentModel, images: Tensor, device: torch.device) -> Batch:
    """What the model is given, of the type of its weights: made anew, so that even the memory's alignment and order
    are the same for the encoder and the decoder. ValueError for weights of half precision."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected a model with weights of float32 or float64, got {dtype}: give it by .float().")
    return {"image": images.to(device).to(dtype, copy=True, memory_format=torch.contiguous_format)}


@contextmanager
def exactly(model: LatentModel) -> Iterator[None]:
    """Evaluation mode, no gradients, and the same algorithms for the same shapes; the modes as they were afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    cudnn = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True)
    try:
        with torch.inference_mode(), cudnn:
            yield
    finally:
        for module in training:
            module.training = True
