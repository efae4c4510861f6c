"""Images as one picture, and a picture as a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

from vae_lightning.core import Batch, LatentModel, PosteriorMean, image_of
from vae_lightning.files import write_atomically

SMALLEST_SIDE = 56


def grid(images: Tensor, columns: int, levels: int) -> Tensor:
    """(N, C, H, W) in 0..levels-1 -> one picture (2 to 4, H', W') uint8, small images enlarged by whole pixels. Grey
    has 3 channels then, and of more than 4 the first 3 are shown."""
    images = images[:, :3] if images.shape[1] > 4 else images
    factor = max(1, SMALLEST_SIDE // images.shape[-2])
    images = (images / (levels - 1)).clamp(0, 1).repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return (make_grid(images.cpu(), columns, padding=2, pad_value=0.5) * 255).round().to(torch.uint8)


def with_captions(picture: Tensor, captions: Sequence[str]) -> Tensor:
    """A grid (C, H', W') uint8 with a text for each of its rows, as many rows as texts, on white to its left; as it is
    without texts."""
    if not captions:
        return picture
    channels, height, _ = picture.shape
    width = max(math.ceil(ImageFont.load_default().getlength(caption)) for caption in captions) + 8
    margin = Image.new("L", (width, height), 255)
    for row, caption in enumerate(captions):
        ImageDraw.Draw(margin).text((4, (row + 0.5) * height / len(captions)), caption, fill=0, anchor="lm")
    shown = pil_to_tensor(margin).expand(channels, -1, -1)
    return torch.cat((shown, picture), -1)


def save_picture(picture: Tensor, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())  # also with an alpha channel, which torchvision refuses
    write_atomically(path, lambda stream: image.save(stream, format="PNG", compress_level=1))


def reconstruction_grid(model: LatentModel, batch: Batch) -> Tensor:
    """Rows of originals, each with the row of their reconstructions at the posterior's mean below it."""
    image, mean = image_of(batch), model(PosteriorMean(), batch).mean
    if len(image) <= 8:
        return torch.cat([image, mean])
    missing = -len(image) % 8
    image, mean = (torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in (image, mean))
    return torch.stack([image.unflatten(0, (-1, 8)), mean.unflatten(0, (-1, 8))], 1).flatten(0, 2)
