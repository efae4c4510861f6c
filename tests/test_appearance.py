"""How a model's images look: what the studies show and keep, and Inception's wiring with torchmetrics as the oracle."""

from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from tests.conftest import Generated
from vae_lightning.conditionals import (
    DiscretizedLogisticLikelihood,
    GaussianPosterior,
    LabelledEncoder,
    LabelledLikelihood,
)
from vae_lightning.core import Delta, Spec
from vae_lightning.data import Digits, ImageData, Images
from vae_lightning.images.pictures import grid, save_picture
from vae_lightning.measure import appearance, studies
from vae_lightning.measure.appearance import copies, in_inception, samples, sharpness
from vae_lightning.measure.context import ModelAndData
from vae_lightning.metrics import inception
from vae_lightning.metrics.sharpness import high_frequency_energy
from vae_lightning.models import VAE
from vae_lightning.report.results import Section


def made(folder: Path, shape: tuple[int, int, int] = (1, 8, 8), levels: int = 256, count: int = 240) -> ModelAndData:
    """An untrained model of generated images, a third as many of them for testing."""
    data = ImageData(Generated(shape, levels, count), batch_size=2, val_size=16)
    data.prepare_data()
    data.setup("test")
    model = VAE(Spec(shape, levels), likelihood=DiscretizedLogisticLikelihood, latent_size=3).eval()
    return ModelAndData(model, data, torch.device("cpu"), folder)


@pytest.fixture
def tested(tmp_path: Path) -> ModelAndData:
    return made(tmp_path)


def means(section: Section) -> dict[str, float]:
    return {row.name: row.mean for row in section.rows}


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


# -- which images are looked at ----------------------------------------------------------------------------------------


def test_some_images_are_of_every_class_where_classes_lie_in_order() -> None:
    image, label = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1), torch.arange(200) // 20
    images = Images(image, label)
    some = images.some(30)
    assert len(some) == 30
    assert some.label is not None
    assert some.label.bincount().tolist() == [3] * 10
    mapped = Images(image, label, torch.arange(100)).some(7)
    assert mapped.image.flatten().tolist() == [100 * i // 7 for i in range(7)]
    assert torch.equal(images.some(500).image, image)
    assert len(images[torch.arange(0)].some(5)) == 0
    large = Images(torch.zeros(9, 3, 1024, 1024, dtype=torch.uint8))
    assert [len(chunk) for chunk in large.chunks()] == [5, 4]


def test_shuffled_latents_are_of_other_classes(tmp_path: Path) -> None:
    """Two classes, black and white, one after the other, told by one latent: in their own order a shuffled image's
    latents would be those of its like."""
    tested = made(tmp_path)
    count = len(tested.test)
    stored = torch.full((count, 1, 8, 8), 255, dtype=torch.uint8)
    stored[: count // 2] = 0
    tested.data.splits["test"] = Images(stored)
    black = [(part == 0).all((1, 2, 3)) for part in (batch["image"] for batch in tested.mixed())]
    assert 0.3 < torch.cat(black)[: count // 2].float().mean() < 0.7
    assert torch.cat(black).sum() == count // 2


def test_a_study_that_fails_is_left_out_with_its_reason(tested: ModelAndData, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: ModelAndData) -> Section:
        raise ValueError("expected two of them, got one.")

    failing = (studies.checks, studies.samples)
    table = [study._replace(function=fails) if study.function in failing else study for study in studies.STUDIES]
    monkeypatch.setattr(studies, "STUDIES", table)
    found = studies.studies(tested)
    left_out = [section for section in found if not section.rows]
    assert [section.title for section in left_out] == ["Left out: fails", "Left out: fails"]
    assert left_out[0].notes == ["expected two of them, got one."]
    assert {"mutual_information", "copying", "probe_codes"} < {row.name for section in found for row in section.rows}


@pytest.mark.parametrize("classes", [1, 101])
def test_any_number_of_classes_is_probed_or_left_out(classes: int, tmp_path: Path) -> None:
    tested = made(tmp_path, count=660)
    for split in ("train", "test"):
        images = tested.data.splits[split]
        tested.data.splits[split] = Images(images.image, torch.arange(len(images)) % classes)
    rows = {row.name for row in studies.representation(tested).rows}
    assert rows == set() if classes == 1 else {"probe_codes", "knn_pixels"} < rows
    assert "probe_100_codes" not in rows


def test_images_with_an_alpha_channel_are_shown(tmp_path: Path) -> None:
    for channels, mode in ((1, "RGB"), (2, "LA"), (3, "RGB"), (4, "RGBA"), (5, "RGB")):
        image = torch.randint(0, 256, (1, channels, 60, 70)).float()
        save_picture(grid(image, 1, 256), tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.mode == mode
            shown = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        inner = shown[:channels, :60, :70] if shown.shape[1:] == (60, 70) else shown[:channels, 2:62, 2:72]
        assert torch.equal(inner.float(), image[0, : len(shown)])


# -- the aggregate posterior ------------------------------------------------------------------------------------------


def test_samples_come_from_the_prior_or_from_the_posteriors_of_training_images(tested: ModelAndData) -> None:
    """With a decoder that repeats its latent and an encoder that reads the first pixel, the samples are the latents."""
    model = tested.model
    seen: list[Tensor] = []
    model.likelihood.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    nn.init.zeros_(model.encoder.mu.weight)
    nn.init.constant_(model.encoder.mu.bias, 5.0)
    nn.init.constant_(model.encoder.log_scale.bias, -3.0)
    assert tested.samples(700).shape == (700, 1, 8, 8)
    assert torch.cat(seen).mean().abs() < 0.2
    seen.clear()
    drawn = tested.samples(700, aggregate=True)
    assert (torch.cat(seen) - 5).abs().max() < 1
    assert torch.equal(drawn, drawn.round())
    assert 0 <= drawn.min() <= drawn.max() <= 255
    mean = tested.samples(3, mean=True)
    assert not torch.equal(mean, mean.round())


def test_the_aggregate_posterior_is_that_of_binarised_images_where_the_data_are(tmp_path: Path) -> None:
    data = ImageData(Generated((1, 8, 8), 256, 240), batch_size=2, val_size=16, dynamic_binarization=True)
    data.prepare_data()
    data.setup("test")
    model = VAE(Spec((1, 8, 8), 2), latent_size=3).eval()
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ModelAndData(model, data, torch.device("cpu"), tmp_path).samples(50, aggregate=True)
    assert seen[0].unique().tolist() == [0, 1] or seen[0].unique().tolist() == [-1, 1]


def test_sharpness_keeps_what_pairs(tested: ModelAndData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appearance, "LOOKED_AT", 50)  # of 80 test images
    found = means(sharpness(tested))
    assert {f"{kind}_edge_width" for kind in ("original", "reconstruction", "sample", "aggregate_sample")} < set(found)
    rows = tested.test_rows(50)
    expected = 100 * high_frequency_energy(tested.test.take(rows) / 255)
    kept = tested.per_image["original_high_frequency"]
    torch.testing.assert_close(kept[rows].double(), expected, rtol=1e-5, atol=1e-6)
    assert kept.isnan().sum() == 30
    assert len(kept) == 80
    assert found["original_high_frequency"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert set(tested.per_image) == {
        f"{kind}_{what}" for kind in ("original", "reconstruction") for what in ("high_frequency", "edge_width")
    }


# -- neighbours -------------------------------------------------------------------------------------------------------


def test_neighbours_are_shown_below_their_samples(tested: ModelAndData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that are training images lie above themselves, and all of them are copies."""
    train = tested.data.fixed("train").image
    copied = train[torch.randperm(len(train))[:80]].float()
    monkeypatch.setattr(ModelAndData, "samples", lambda self, count: copied[:count])
    section = copies(tested)
    assert means(section)["copying"] == 100
    assert "8 samples" in section.notes[-1]
    with Image.open(tested.folder / "neighbours.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    side = 56 + 2
    assert pixels.shape == (9 * side + 2, 8 * side + 2)
    cells = pixels[2:, 2:].reshape(9, side, 8, side)[:, :56, :, :56].transpose(0, 2, 1, 3)[..., ::7, ::7]
    np.testing.assert_array_equal(cells[0], copied[:8, 0])
    np.testing.assert_array_equal(cells[1], cells[0])  # the nearest is itself
    assert (cells[4] == 128).all()  # nothing between the blocks
    np.testing.assert_array_equal(cells[6], cells[5])
    for row in (2, 3):
        further = ((cells[row].astype(float) - cells[0]) ** 2).sum((1, 2))
        flat = train.flatten(1).double()
        distance = torch.cdist(copied[:8].flatten(1).double(), flat).sort(1).values[:, row - 1]
        np.testing.assert_allclose(np.sqrt(further), distance, rtol=1e-6)


def test_few_images_have_few_neighbours(tmp_path: Path) -> None:
    tested = made(tmp_path, (3, 4, 5), count=18)
    assert len(tested.data.splits["train"]) == 2
    section = copies(tested)
    assert "6 samples, and below each its nearest of 2 training images" in section.notes[-1]
    assert (tmp_path / "neighbours.png").is_file()


# -- Inception --------------------------------------------------------------------------------------------------------


class Stub(nn.Module):
    """Features of RGB bytes, in the network's place."""

    num_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 5, dtype=torch.float64)

    def forward(self, image: Tensor) -> Tensor:
        assert image.dtype == torch.uint8
        assert image.shape[1:] == (3, 8, 8)
        return self.linear(image.flatten(1).double() / 255)


def test_inception_is_said_to_be_missing_and_where_it_goes(
    tested: ModelAndData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setattr(inception.importlib.util, "find_spec", lambda name: None)
    wanted = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    assert inception.missing() == f"put torch-fidelity's weights at {wanted} and install torch-fidelity."
    assert in_inception(tested).rows == []
    wanted.parent.mkdir(parents=True)
    wanted.touch()
    assert inception.missing() == "install torch-fidelity."
    monkeypatch.setattr(inception.importlib.util, "find_spec", lambda name: name)
    assert inception.missing() == ""


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_distances_are_torchmetrics(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FrechetInceptionDistance with the same network in Inception's place, and its kernel distance, are the oracle."""
    tested = made(tmp_path, (channels, 8, 8), 17, 300)
    stub = Stub().eval()
    monkeypatch.setattr(inception, "missing", lambda: "")
    monkeypatch.setattr(inception, "extractor", lambda: stub)
    torch.manual_seed(1)
    section = in_inception(tested)
    assert "100 samples" in section.notes[0]
    torch.manual_seed(1)
    fake, real = tested.samples(100), tested.test.image
    oracle = FrechetInceptionDistance(stub, input_img_size=(3, 8, 8))
    for images, is_real in ((real, True), (fake, False)):
        grey = (images.double() / 16 * 255).round().to(torch.uint8)
        oracle.update(grey.repeat(1, 3 // channels, 1, 1), real=is_real)
    assert means(section)["fid"] == pytest.approx(oracle.compute().item(), rel=1e-6)
    (row,) = [row for row in section.rows if row.name == "kid"]
    a, b = (stub((x.double() / 16 * 255).round().to(torch.uint8).repeat(1, 3 // channels, 1, 1)) for x in (real, fake))
    whole = poly_mmd(a, b, degree=3, gamma=None, coef=1.0).item()
    assert abs(row.mean - whole) < 5 * row.error
    assert math.isfinite(row.error)


def test_other_channels_have_no_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "missing", lambda: "")
    assert in_inception(made(tmp_path, (4, 8, 8), count=300)).rows == []


@pytest.mark.parametrize("right", [True, False])
def test_samples_are_judged_by_the_class_that_was_asked_for(
    right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that shows a training image of the class, or of the next one."""
    data = ImageData(Digits(), batch_size=64, val_size=200)
    data.setup()
    train = data.fixed("train")
    encoder = partial(LabelledEncoder, encoder=GaussianPosterior)
    likelihood = partial(LabelledLikelihood, likelihood=DiscretizedLogisticLikelihood)
    model = VAE(data.spec, encoder, likelihood, latent_size=2).eval()
    assert train.label is not None
    image = torch.stack([train.image[train.label == label][0] for label in range(10)]).float()

    def sample(given: dict[str, Tensor], num_samples: int | None = None) -> Delta:
        return Delta(image[(given["label"] + (not right)) % 10], 3)

    monkeypatch.setattr(model, "sample", sample)
    shown = means(samples(ModelAndData(model, data, torch.device("cpu"), tmp_path)))["sample_class"]
    assert shown > 95 if right else shown < 5
