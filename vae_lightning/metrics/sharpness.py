"""How sharp images are, by two measures of the images alone: compare a model's with those that it was trained on, not
with other data's. Images are (N, C, H, W) in [0, 1], H and W at least 2."""

from __future__ import annotations

import torch
from torch import Tensor

CUT = 0.25
"""Cycles per pixel: half of the Nyquist frequency."""


def _require_images(images: Tensor) -> Tensor:
    if images.dim() != 4 or min(images.shape[-2:]) < 2:
        raise ValueError(
            f"expected images (N, C, H, W) of at least 2 x 2 pixels, got {tuple(images.shape)}: give a batch of images."
        )
    return images.double()


def _contrast(x: Tensor) -> Tensor:
    """max - min of each channel of each image, (N, C)."""
    return x.amax((2, 3)) - x.amin((2, 3))


def frequencies(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Distance from zero in cycles per pixel of each cell of rfft2's half plane, and how many cells of the whole plane
    it stands for (2, but 1 where it is its own mirror image along x), both (height, width // 2 + 1), float64."""
    y = torch.fft.fftfreq(height, dtype=torch.float64)
    x = torch.fft.rfftfreq(width, dtype=torch.float64)
    count = torch.full((height, len(x)), 2.0, dtype=torch.float64)
    count[:, 0] = 1
    if width % 2 == 0:
        count[:, -1] = 1
    return torch.hypot(y[:, None], x), count


def high_frequency_energy(images: Tensor) -> Tensor:
    """Share of an image's spectral energy, of all channels and without their means, that lies above half of the Nyquist
    frequency in distance from zero: sum_{|f| > 1/4} |F(f)|^2 / sum_{f != 0} |F(f)|^2, by Parseval a share of the
    pixels' variance. (N,), in [0, 1], float64; nan for an image whose channels are constant. White noise has the share
    of cells above the cut, natural images little, and a blur or a mean over possible images less.

    Args:
        images: (N, C, H, W), in [0, 1].

    Raises:
        ValueError: another shape.
    """
    x = _require_images(images)
    radius, count = (t.to(x.device) for t in frequencies(*x.shape[-2:]))
    energy = count * torch.fft.rfft2(x - x.mean((2, 3), keepdim=True)).abs().square().sum(1)
    energy[:, 0, 0] = 0
    share = energy[:, radius > CUT].sum(1) / energy.sum((1, 2))
    return share.where((_contrast(x) > 0).any(1), torch.nan)


def edge_width(images: Tensor) -> Tensor:
    """How many pixels an image takes from its darkest to its brightest value at the slope of its edges:
    (max - min) sum |g| / sum |g|^2, the range over the slope's mean, each slope weighed by itself so that edges count
    and flat ground does not; mean over channels. (N,), pixels, float64; nan for an image whose channels are constant.

    An upright step is 1 wide, a ramp over w pixels w, a step blurred by a Gaussian of s >= 1 pixels about 2 sqrt(pi) s,
    where its 10-90 % rise is 2.56 s, however many there are. Edges of less than the full range count as wider by that
    factor, and noise on flat ground widens, so that only images of one kind compare. |g|^2 is taken in each square of
    four pixels, from all its sides: a checkerboard has slopes, too. A relation of the edge widths that Marziliano et
    al. (2002) measure, without their edge detector.

    Args:
        images: (N, C, H, W), in [0, 1].

    Raises:
        ValueError: another shape.
    """
    x = _require_images(images)
    along_y, along_x = x.diff(dim=2).square(), x.diff(dim=3).square()
    square = 0.5 * (
        along_y[..., 1:] + along_y[..., :-1] + along_x[..., 1:, :] + along_x[..., :-1, :]
    )  # (N, C, H-1, W-1)
    width = _contrast(x) * square.sqrt().sum((2, 3)) / square.sum((2, 3))  # a constant channel is 0 / 0
    return width.nanmean(1)
