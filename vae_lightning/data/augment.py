"""Training images changed at random at each visit, on the batch and on its device."""

from __future__ import annotations

import torch
from torch import Tensor


def shifted(image: Tensor, reach: int) -> Tensor:
    """Images (B, C, H, W), each moved by a number of pixels of its own, -reach to reach, up or down and left or right;
    what comes in repeats the edge."""
    height, width = image.shape[2:]
    by = torch.randint(-reach, reach + 1, (2, len(image), 1), device=image.device)
    rows = (torch.arange(height, device=image.device) + by[0]).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width, device=image.device) + by[1]).clamp(0, width - 1)  # (B, W)
    moved = image.take_along_dim(rows[:, None, :, None], 2)
    return moved.take_along_dim(columns[:, None, None, :], 3)


def augmented(image: Tensor, horizontal_flip: bool, shift: int) -> Tensor:
    """Images (B, C, H, W), half of them mirrored, each moved by at most `shift` pixels, at random."""
    if horizontal_flip:
        flip = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
        image = torch.where(flip, image.flip(-1), image)
    return shifted(image, shift) if shift else image
