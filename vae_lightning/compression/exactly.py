"""What makes networks say the same numbers, bit for bit, to the encoder and to the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vae_lightning.core import Batch, LatentModel


def given(model: LatentModel, images: Tensor, device: torch.device) -> Batch:
    """What the model is given, of the type of its weights: made anew, so that even the memory's alignment is the
    same for the encoder and the decoder."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return {"image": images.to(device).to(dtype, copy=True)}


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
