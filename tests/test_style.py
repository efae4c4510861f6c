"""Style is measured as geometry has it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from vae_lightning.data.captioned.style import brightness, slant, thickness, warmth

FINE = 16  # points a pixel, along each axis, of which a drawing's pixels are means


def drawn(inside: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], size: int = 40) -> torch.Tensor:
    """(1, 1, size, size), 0..255: what a function of columns and rows, in pixels, says is inside."""
    points = (torch.arange(size * FINE) + 0.5) / FINE
    mask = inside(points[None, :], points[:, None]).double()
    return (mask.view(size, FINE, size, FINE).mean((1, 3)) * 255).round()[None, None]


def blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    kernel = torch.exp(-0.5 * (torch.arange(-9, 10.0) / sigma) ** 2).to(image)
    kernel = kernel[None] * kernel[:, None] / kernel.sum() ** 2
    return torch.nn.functional.conv2d(image, kernel[None, None], padding=9)


@pytest.mark.parametrize("radius", [4.0, 6.5, 9.0])
def test_a_disc_is_as_thick_as_its_radius(radius: float) -> None:
    """2 pi r^2 / 2 pi r, wherever it lies."""
    for x, y in ((20.0, 20.0), (19.7, 20.4)):
        disc = drawn(lambda c, r, x=x, y=y: (c - x) ** 2 + (r - y) ** 2 < radius**2)
        assert thickness(disc, 256).item() == pytest.approx(radius, rel=0.02)


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.7, 1.2])
def test_a_bar_is_as_thick_as_geometry_has_it(angle: float) -> None:
    """2 w l / 2 (w + l), at any angle."""
    sin, cos = np.sin(angle), np.cos(angle)

    def bar(c: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        along, across = cos * (c - 20) + sin * (r - 20), cos * (r - 20) - sin * (c - 20)
        return (along.abs() < 15) & (across.abs() < width / 2)

    for width in (2.5, 4.0, 6.0):
        assert thickness(drawn(bar), 256).item() == pytest.approx(30 * width / (30 + width), rel=0.04)


def test_rings_and_crossings_are_closed_contours() -> None:
    """A ring has two of them; one that touches the picture's edge, and two squares that meet in a corner, are whole."""
    ring = drawn(lambda c, r: ((c - 20) ** 2 + (r - 20) ** 2).sqrt().sub(10).abs() < 2)
    assert thickness(ring, 256).item() == pytest.approx(4, rel=0.02)  # 2 pi (12^2 - 8^2) / 2 pi (12 + 8)
    edge = drawn(lambda c, r: (c < 8) & (r < 40))
    assert thickness(edge, 256).item() == pytest.approx(2 * 8 * 40 / (2 * 48), rel=0.03)
    board = drawn(lambda c, r: ((c < 10) & (r < 10)) | ((c >= 10) & (r >= 10) & (c < 20) & (r < 20)))
    assert thickness(board, 256).item() == pytest.approx(5, rel=0.05)
    assert thickness(torch.zeros(2, 1, 8, 8), 256).tolist() == [0, 0]


def test_blur_is_not_thickness() -> None:
    """The half-level set of a bar stays where it is; 2 sum I / sum |grad I| does not, of a bar that is not wide."""

    def by_gradient(image: torch.Tensor) -> float:
        y, x = torch.gradient(image[0, 0])
        return (2 * image.sum() / (x.square() + y.square()).sqrt().sum()).item()

    bar = drawn(lambda c, r: ((c - 20).abs() < 2.5) & ((r - 20).abs() < 16))
    sharp, soft = (thickness(image, 256).item() for image in (bar, blurred(bar, 1.2)))
    assert soft == pytest.approx(sharp, rel=0.02)
    thin = drawn(lambda c, r: ((c - 20).abs() < 1.5) & ((r - 20).abs() < 16))
    by_level = thickness(blurred(thin, 1.2), 256).item() / thickness(thin, 256).item() - 1
    assert 2 * abs(by_level) < by_gradient(blurred(thin, 1.2)) / by_gradient(thin) - 1


@pytest.mark.parametrize("shear", [-0.5, 0.0, 0.25, 0.8])
def test_slant_is_the_shear_of_a_bar(shear: float) -> None:
    bar = drawn(lambda c, r: ((c - 20 + shear * (r - 20)).abs() < 2) & ((r - 20).abs() < 14))
    assert slant(bar, 256).item() == pytest.approx(shear, abs=0.004)
    assert slant(bar.flip(-1), 256).item() == pytest.approx(-shear, abs=0.004)


def test_light_and_colour() -> None:
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 255
    assert brightness(red, 256).item() == pytest.approx(1 / 3)
    assert warmth(red, 256).item() == 1
    assert warmth(red.flip(1), 256).item() == -1
