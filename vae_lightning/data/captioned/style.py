"""What can be measured of a picture's style. Images are (N, C, H, W) integers 0..levels-1; what is found is (N,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

UPSAMPLING = 4


def thickness(image: Tensor, levels: int) -> Tensor:
    """Thickness of strokes, pixels: twice the area over the perimeter of where the first channel, upsampled fourfold by
    bilinear interpolation, is at least half of the highest level. A long bar's is its width, a disc's its radius. Blur
    moves the half-level set of a straight edge nowhere, where it halves a gradient's length: 2 sum I / sum |grad I|
    takes blur for thickness. 0 where no value is so high.
    """
    grey = F.pad(image[:, :1].float(), (1, 1, 1, 1))  # so that every contour is closed
    grey = F.interpolate(grey, scale_factor=UPSAMPLING, mode="bilinear")[:, 0] - (levels - 1) / 2
    inside = grey >= 0
    area = inside.sum((1, 2)) / UPSAMPLING**2
    return 2 * area / _perimeter(grey, inside).clamp_min(1e-9) * (area > 0)


def _perimeter(field: Tensor, inside: Tensor) -> Tensor:
    """Length of the zero contours of fields (N, H, W), (N,) pixels before upsampling, by marching squares (Lorensen &
    Cline 1987, in the plane); at a saddle the mean of the four corners says which of them hang together."""
    left_above, left_below = inside[:, :-1, :-1], inside[:, 1:, :-1]
    right_above, right_below = inside[:, :-1, 1:], inside[:, 1:, 1:]
    mixed = (left_above != right_above) | (left_above != left_below) | (left_above != right_below)
    n, y, x = mixed.nonzero(as_tuple=True)
    corners = [field[n, y, x], field[n, y, x + 1], field[n, y + 1, x + 1], field[n, y + 1, x]]  # clockwise
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], device=field.device)
    signs = torch.stack(corners, 1) >= 0
    crossed = signs != signs.roll(-1, 1)  # each side from a corner to the next, (M, 4)
    points = []
    for i in range(4):
        a, b = corners[i], corners[(i + 1) % 4]
        share = torch.where(crossed[:, i], a / torch.where(a == b, 1, a - b), 0.0)
        points.append(places[i] + share[:, None] * (places[(i + 1) % 4] - places[i]))
    side = torch.stack(points, 1)  # (M, 4, 2)
    saddle = crossed.all(1)
    # Two sides crossed: from the one to the other. Four: around the corners that the middle does not belong to.
    ends = crossed.float().topk(2, 1).indices[..., None].expand(-1, -1, 2)
    two = side.gather(1, ends).diff(dim=1)[:, 0].norm(dim=1)
    around_first = (side[:, 0] - side[:, 3]).norm(dim=1) + (side[:, 2] - side[:, 1]).norm(dim=1)
    around_second = (side[:, 0] - side[:, 1]).norm(dim=1) + (side[:, 2] - side[:, 3]).norm(dim=1)
    with_first = (torch.stack(corners, 1).mean(1) >= 0) == signs[:, 0]
    length = torch.where(saddle, torch.where(with_first, around_second, around_first), two)
    return torch.zeros(len(field), device=field.device).index_add_(0, n, length) / UPSAMPLING


def slant(image: Tensor, levels: int) -> Tensor:
    """By how many pixels the first channel moves to the right on each row upwards: minus the covariance of columns and
    rows over the variance of rows, weighted by the values; italics have more than 0. 0 where there is but one row."""
    grey = image[:, 0].float()
    _, height, width = grey.shape
    rows, columns = torch.arange(height, device=grey.device) * 1.0, torch.arange(width, device=grey.device) * 1.0
    mass = grey.sum((1, 2)).clamp_min(1e-9)
    by_row, by_column = grey.sum(2) / mass[:, None], grey.sum(1) / mass[:, None]
    row, column = by_row @ rows, by_column @ columns
    variance = by_row @ rows.square() - row.square()
    product = (grey @ columns / mass[:, None]) @ rows
    return -(product - row * column) / torch.where(variance > 1e-6, variance, torch.inf)


def brightness(image: Tensor, levels: int) -> Tensor:
    """Mean of all values, of the highest level."""
    return image.flatten(1).float().mean(1) / (levels - 1)


def warmth(image: Tensor, levels: int) -> Tensor:
    """Mean of red over that of blue, of the highest level: more than 0 for reddish and yellowish pictures."""
    return (image[:, 0].float() - image[:, 2].float()).flatten(1).mean(1) / (levels - 1)
