"""Test images with planted defects, in the layout that anomaly benchmarks share: a square, a scratch, and noise in one
corner, each in images of their own, with masks.

    python -m benchmarks.planted_defects OUT [MNIST | Digits | FOLDER] [--count 500]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vae_lightning.data import MNIST, Digits, ImageFolder, ImageSource
from vae_lightning.data.source import find_root

APART = 128
"""Grey levels, of 256 and modulo 256, between a pixel and what a square or a scratch makes of it."""
NOISE = 64.0
"""Standard deviation of the noise, grey levels."""


def square(height: int, width: int, generator: torch.Generator) -> Tensor:
    """(H, W) bool: a seventh of the side, anywhere."""
    side = max(2, min(height, width) // 7)
    top, left = (int(torch.randint(0, n - side + 1, (), generator=generator)) for n in (height, width))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def scratch(height: int, width: int, generator: torch.Generator) -> Tensor:
    """(H, W) bool: a line a pixel wide and half of the side long, anywhere, in any direction."""
    length, angle = min(height, width) / 2, math.pi * torch.rand((), generator=generator).item()
    reach = torch.linspace(-length / 2, length / 2, 4 * max(height, width))
    centre = torch.rand(2, generator=generator) * 0.5 + 0.25
    rows = (centre[0] * height + reach * math.sin(angle)).round().long().clamp(0, height - 1)
    columns = (centre[1] * width + reach * math.cos(angle)).round().long().clamp(0, width - 1)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def corner(height: int, width: int, generator: torch.Generator) -> Tensor:
    """(H, W) bool: a quarter of the side in one of the corners."""
    down, right = torch.randint(0, 2, (2,), generator=generator).bool().tolist()
    mask = torch.zeros(height, width, dtype=torch.bool)
    h, w = max(2, height // 4), max(2, width // 4)
    mask[slice(-h, None) if down else slice(0, h), slice(-w, None) if right else slice(0, w)] = True
    return mask


SHAPES = {"square": square, "scratch": scratch, "noise": corner}


def planted(image: Tensor, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An image (C, H, W) uint8 of 256 levels with a defect, and where it is, (H, W) bool. A square has one colour, the
    mean of what it covers moved by `APART`; a scratch moves each pixel; noise is added."""
    mask = SHAPES[kind](*image.shape[1:], generator)
    changed = image.clone()
    covered = image[:, mask].float()
    if kind == "square":
        changed[:, mask] = ((covered.mean(1, keepdim=True).round() + APART) % 256).to(torch.uint8)
    elif kind == "scratch":
        changed[:, mask] = ((covered + APART) % 256).to(torch.uint8)
    else:
        noise = NOISE * torch.randn(covered.shape, generator=generator)
        changed[:, mask] = (covered + noise).round().clamp(0, 255).to(torch.uint8)
    return changed, mask


def write(images: Tensor, out: Path, seed: int = 0) -> None:
    """A quarter of the images (N, C, H, W), 0..255, as they are, and a quarter with each defect."""
    generator = torch.Generator().manual_seed(seed)
    for row, image in enumerate(images):
        kind = ("good", *SHAPES)[row % 4]
        if kind != "good":
            image, mask = planted(image, kind, generator)
            _save(255 * mask[None].to(torch.uint8), out / "ground_truth" / kind / f"{row:05d}_mask.png")
        _save(image, out / "test" / kind / f"{row:05d}.png")


def _save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    Image.fromarray(pixels.contiguous().numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("source", nargs="?", default="MNIST")
    parser.add_argument("--count", type=int, default=500, help="images without a defect, and of each defect")
    options = parser.parse_args()
    sources: dict[str, ImageSource] = {"MNIST": MNIST(), "Digits": Digits()}
    source = sources.get(options.source) or ImageFolder(options.source)
    root = find_root(None)
    source.find(root)
    test = source.load(root, download=True).test.some(4 * options.count)
    write((test.image.float() * (255 / (source.levels - 1))).round().to(torch.uint8), options.out)
    print(f"{len(test)} test images of {options.source}: {options.out}")


if __name__ == "__main__":
    main()
