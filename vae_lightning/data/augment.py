"""Training images changed at random at each visit, on the batch and on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vae_lightning.core import seeded


def shifted(image: Tensor, reach: int) -> Tensor:
    """Images (B, C, H, W), each moved by a number of pixels of its own, -reach to reach, up or down and left or right;
    what comes in repeats the edge."""
    height, width = image.shape[2:]
    by = torch.randint(-reach, reach + 1, (2, len(image), 1), device=image.device)
    rows = (torch.arange(height, device=image.device) + by[0]).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width, device=image.device) + by[1]).clamp(0, width - 1)  # (B, W)
    moved = image.take_along_dim(rows[:, None, :, None], 2)
    return moved.take_along_dim(columns[:, None, None, :], 3)


def augmented(image: Tensor, transforms: Sequence[nn.Module], horizontal_flip: bool, shift: int) -> Tensor:
    """Images (B, C, H, W), each through the transforms, half of them mirrored, each moved by at most `shift` pixels, at
    random."""
    image = transformed(image, transforms) if transforms else image
    if horizontal_flip:
        flip = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
        image = torch.where(flip, image.flip(-1), image)
    return shifted(image, shift) if shift else image


def transformed(image: Tensor, transforms: Sequence[nn.Module]) -> Tensor:
    """Images (B, C, H, W), each by itself through transforms such as torchvision's v2, which would give all images of a
    batch the same draw.

    Raises:
        ValueError: what comes out are no images of the same shape and type.
    """
    made = []
    for one in image:
        changed = one
        for transform in transforms:
            changed = transform(changed)
        if changed.shape != one.shape or changed.dtype != one.dtype:
            raise ValueError(
                f"data.augment: expected images {tuple(one.shape)} of {one.dtype} as they came, got "
                f"{tuple(changed.shape)} of {changed.dtype}: leave out what changes size or type, or crop to "
                f"[{one.shape[1]},{one.shape[2]}]."
            )
        made.append(changed)
    return torch.stack(made)


def check_transforms(image: Tensor, transforms: Sequence[nn.Module]) -> None:
    """Raises ValueError for transforms that do not take such images (B, C, H, W), before training; takes no random
    numbers of its own from the global generator."""
    with seeded(0):
        try:
            transformed(image, transforms)
        except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
            named = ", ".join(type(it).__name__ for it in transforms)
            said = " ".join(str(error).split())[:200]
            raise ValueError(
                f"data.augment: expected transforms of images {tuple(image.shape[1:])} of {image.dtype}, got {named}, "
                f"which fail ({said}): choose from torchvision.transforms.v2."
            ) from None
