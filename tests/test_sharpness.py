"""Sharpness of images: their high-frequency energy and the width of their edges."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits

from vae_lightning.metrics.sharpness import CUT, edge_width, frequencies, high_frequency_energy

SCALE = 0.5
SHAPE = (1, 2, 4)


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (5, 4), (28, 28), (27, 31)])
def test_one_sided_spectrum_counts_every_cell_of_the_whole(size: tuple[int, int]) -> None:
    images = torch.rand(5, 3, *size).double()
    whole = torch.fft.fft2(images - images.mean((2, 3), keepdim=True)).abs().square().sum(1)
    y, x = (torch.fft.fftfreq(n, dtype=torch.float64) for n in size)
    above = torch.hypot(y[:, None], x) > CUT
    torch.testing.assert_close(high_frequency_energy(images), whole[:, above].sum(1) / whole.sum((1, 2)))
    assert frequencies(*size)[1].sum() == size[0] * size[1]


def test_white_noise_has_the_share_of_cells_above_the_cut_and_a_blur_has_less() -> None:
    noise = 0.5 + 0.1 * torch.randn(2000, 1, 16, 16)
    radius, count = frequencies(16, 16)
    cells = count[radius > CUT].sum() / (16 * 16 - 1)
    share = high_frequency_energy(noise)
    assert abs(share.mean() - cells) < 4 * share.std() / math.sqrt(2000)
    blurred = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    assert (high_frequency_energy(blurred) < share).all()
    for period, expected in ((16, 0.0), (16 / 3, 0.0), (16 / 5, 1.0), (2, 1.0)):
        image = 0.5 + 0.4 * torch.cos(2 * math.pi * torch.arange(16) / period).expand(1, 1, 16, 16)
        assert high_frequency_energy(image).item() == pytest.approx(expected, abs=1e-9)
        assert high_frequency_energy(image.mT).item() == pytest.approx(expected, abs=1e-9)


def test_edges_of_known_width() -> None:
    at = torch.arange(64).double()
    step = (at >= 32).double().expand(1, 2, 64, 64)
    assert edge_width(step).item() == edge_width(step.mT).item() == pytest.approx(1)
    assert edge_width(0.2 + 0.3 * step).item() == pytest.approx(1)  # whatever the contrast
    for width in (2, 5, 20):
        ramp = ((at - 5) / width).clamp(0, 1).expand(1, 1, 64, 64)
        assert edge_width(ramp).item() == pytest.approx(width)
        assert edge_width(ramp * ramp.flip(-1)).item() == pytest.approx(width)  # two edges as one
    for scale in (1.0, 2.0, 4.0):
        width = 2 * math.sqrt(math.pi) * scale
        blurred = torch.special.ndtr((at - 31.5) / scale).expand(1, 1, 64, 64)
        assert edge_width(blurred).item() == pytest.approx(width, rel=0.05)
        diagonal = torch.special.ndtr((at + at[:, None] - 63) / math.sqrt(2) / scale).expand(1, 1, 64, 64)
        assert edge_width(diagonal).item() == pytest.approx(width, rel=0.07)


def test_blurred_digits_are_wider_and_lower() -> None:
    images = torch.from_numpy(load_digits().images[:200] / 16).unsqueeze(1)
    blurred = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1)
    assert (edge_width(blurred) > edge_width(images)).all()
    assert (high_frequency_energy(blurred) < high_frequency_energy(images)).all()


def test_constant_images_have_no_sharpness() -> None:
    images = torch.full((3, 2, 7, 6), 0.1)
    images[1, 1, 6, 5] = 0.2  # a corner in one channel
    for measure in (edge_width, high_frequency_energy):
        found = measure(images)
        assert found.isnan().tolist() == [True, False, True]
        with pytest.raises(ValueError, match=r"at least 2 x 2 pixels, got \(3, 2, 1, 6\)"):
            measure(images[:, :, :1])
