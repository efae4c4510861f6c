"""What the default for folders of images rests on: a start at PCA, levels in use, nets that grow, epochs of steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor

from tests.conftest import Generated
from tests.test_bad_input import DIGITS, FAST
from vae_lightning.compression.densities import image_codec
from vae_lightning.compression.stack import Stack
from vae_lightning.conditionals import PrincipalLogisticLikelihood, PrincipalPosterior
from vae_lightning.conditionals.principal_start import PrincipalStart
from vae_lightning.core import Spec
from vae_lightning.data import ImageData, ImageFolder
from vae_lightning.distributions import DiscretizedLogistic, even_edges, used_edges
from vae_lightning.metrics import independent_pixels_nll
from vae_lightning.models import VAE
from vae_lightning.nets import ConvDecoder, ConvEncoder, UNet
from vae_lightning.nets.sizes import grown
from vae_lightning.train.pictures import Reconstructions


def blobs(count: int, shape: tuple[int, int, int] = (3, 12, 9)) -> Tensor:
    """Smooth images with some noise, whose channels have much in common."""
    image = Generated(shape).make(count, 0).image.float()
    image = 0.7 * image.mean(1, keepdim=True) + 0.3 * image
    return (image + 4 * torch.randn_like(image)).round().clamp(0, 255)


def default(spec: Spec, size: int = 64) -> VAE:
    encoder = partial(PrincipalPosterior, net=partial(UNet, channels=8))
    likelihood = partial(PrincipalLogisticLikelihood, net=partial(UNet, channels=8))
    return VAE(spec, encoder, likelihood, latent_size=size)


@pytest.mark.parametrize("shape", [(3, 12, 9), (1, 28, 20), (3, 8, 8)])
def test_a_model_begins_well_ahead_of_independent_pixels(shape: tuple[int, int, int]) -> None:
    images = blobs(400, shape)
    model = default(Spec(shape, 256))
    model.init_from_data({"image": images[:320]})
    model.eval()
    with torch.no_grad():
        trace = model.trace({"image": images[320:]})
    independent = independent_pixels_nll([images[:320]], [images[320:]], 256).mean()
    assert -trace.scores()["elbo"].mean() < 0.85 * independent
    error = ((trace.px.mean - images[320:]) / 255).square().flatten(1).sum(1).mean()
    spread = ((images[320:] - images[:320].mean(0)) / 255).square().flatten(1).sum(1).mean()
    assert error < 0.5 * spread


def fitted(images: Tensor, size: int) -> PrincipalStart:
    start = PrincipalStart(Spec(tuple(images.shape[1:]), 256), size)
    start.fit(images)
    return start


def patches(count: int) -> Tensor:
    """Images of 32x32 of which no 4x4 knows another."""
    return F.interpolate(torch.randint(0, 256, (count, 1, 8, 8)).float(), size=(32, 32)).round()


def test_the_start_is_the_posterior_of_its_linear_model() -> None:
    """Against the conditional of the joint Gaussian of z and x, with directions that are orthogonal and even noise."""
    start = fitted(patches(400), 40)
    start.scale.fill_(0.05)
    weight = start.image(torch.eye(40)).flatten(1).double()
    precision = torch.eye(40, dtype=torch.float64) + weight @ weight.T / 0.05**2
    x = 0.3 * torch.randn(7, 1, 32, 32)
    mean = torch.linalg.solve(precision, weight @ x.flatten(1).double().T / 0.05**2).T
    assert torch.allclose((start.gain() * start.code(x)).double(), mean, atol=1e-4)
    assert torch.allclose(1 + start.precision(start.scale**-2).double(), precision.diagonal(), rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 12, 9), (1, 16, 16), (3, 8, 8)])
def test_the_precision_is_that_of_every_value(shape: tuple[int, int, int]) -> None:
    """Of channels given those before, summed one by one, for noise that is uneven."""
    start = fitted(blobs(200, shape), 30)
    weight = torch.rand(2, *shape)
    each = start.unshared(start.image(torch.eye(30))).square()
    assert torch.allclose(start.precision(weight), (each * weight[:, None]).sum((2, 3, 4)), rtol=1e-4, atol=1e-6)


def test_codes_are_those_of_the_images_that_they_make() -> None:
    start = fitted(patches(400), 40)
    z = torch.randn(3, 5, 40)
    assert start.image(z).shape == (3, 5, 1, 32, 32)
    assert torch.allclose(start.code(start.image(z)), z * start.deviation, atol=1e-4)


def test_the_posterior_begins_at_that_of_the_linear_model() -> None:
    images, spec = blobs(200), Spec((3, 12, 9), 256)
    posterior = PrincipalPosterior(spec, (12,))
    posterior.init_from_data(images)
    start = fitted(images, 12)
    q = posterior(images / 255)
    assert torch.allclose(q.base_dist.stddev, (1 + start.precision(start.scale**-2)).rsqrt().expand(200, 12), rtol=1e-4)
    assert torch.allclose(q.mean, start.gain() * start.code(images / 255 - start.mean), atol=1e-4)


def test_the_start_looks_at_images_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many for all, and they lie in the order of their classes."""
    monkeypatch.setattr("vae_lightning.conditionals.principal_start.MOST_VALUES", 50 * 64)
    images = torch.cat([torch.full((200, 1, 8, 8), level) for level in (0.0, 100.0, 200.0)])
    assert fitted(images, 8).mean.mean().item() == pytest.approx(100 / 255, abs=0.02)


def test_whole_images_have_components_where_held_out_images_are_told_better_by_them() -> None:
    """Images that are mixtures of a few, and images of which no part knows another."""
    few = torch.rand(400, 6) @ torch.rand(6, 16 * 16) * 60
    alike = (few + torch.randn_like(few)).round().clamp(0, 255).unflatten(1, (1, 16, 16))
    for images, whole in ((alike, True), (patches(400), False)):
        assert (fitted(images, 64).whole != 0).any() == whole


def test_a_latent_that_does_not_pay_can_leave() -> None:
    posterior = PrincipalPosterior(Spec((3, 12, 9), 256), (12,))
    posterior.init_from_data(images := blobs(200))
    posterior.log_gain.data[:, 3] = -30.0
    q = posterior(images / 255)
    assert torch.allclose(q.mean[:, 3], torch.zeros(200), atol=1e-6)
    assert torch.allclose(q.base_dist.stddev[:, 3], torch.ones(200))
    assert (q.base_dist.stddev[:, :3] < 0.9).all()


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 20), (2, 5, 3)])
def test_a_unet_gives_features_at_the_places_of_any_image(shape: tuple[int, int, int]) -> None:
    net = UNet(shape, shape, channels=4, features=6, dropout=0.1)
    assert net(torch.rand(2, 3, *shape)).shape == (2, 3, 6, *shape[1:]) == (2, 3, *net.out_shape)


def test_a_unet_reads_images() -> None:
    with pytest.raises(ValueError, match=r"UNet: expected an image \(C, H, W\) to read, got \(20,\)"):
        UNet((20,), (1, 8, 8))


@pytest.mark.parametrize("count", [2, 5, 30])
def test_few_images_begin_without_components_that_only_they_have(count: int) -> None:
    start = fitted(blobs(count), 64)
    assert all(part.isfinite().all() for part in start.buffers())
    model = default(Spec((3, 12, 9), 256))
    model.init_from_data({"image": torch.full((count, 3, 12, 9), 7.0)})  # all of them the same
    assert model.trace({"image": blobs(2)}).scores()["elbo"].isfinite().all()


def test_levels_that_never_occur_have_no_width() -> None:
    digits = (torch.randint(0, 17, (500, 64)) * 255 / 16).round()
    edges = used_edges(digits, 256)
    assert (edges.diff() >= 0).all()
    used = DiscretizedLogistic(torch.full((17,), 120.0), torch.tensor(30.0), 256, edges=edges)
    log_p = used.log_prob((torch.arange(17) * 255 / 16).round())
    assert log_p.exp().sum() == pytest.approx(1, abs=0.02)
    assert torch.equal(used_edges(torch.arange(256).repeat(30), 256), even_edges(256))
    assert torch.equal(used_edges(torch.randint(0, 256, (60,)), 256), even_edges(256))  # too few to tell


def test_uneven_levels_are_a_distribution_that_is_coded_exactly() -> None:
    edges = used_edges((torch.randint(0, 17, (500, 64)) * 255 / 16).round(), 256)
    loc, scale = torch.tensor([3.0, 120.0, 260.0]), torch.tensor([0.5, 9.0, 40.0])
    d = DiscretizedLogistic(loc, scale, 256, edges=edges)
    every = torch.arange(256.0)[:, None].expand(256, 3)
    p = d.log_prob(every).exp()
    assert torch.allclose(p.sum(0), torch.ones(3), atol=1e-5)
    assert torch.allclose(d.cdf(every), p.cumsum(0), atol=1e-5)
    assert torch.allclose(d.mean, (p * every).sum(0), rtol=1e-4)
    assert torch.allclose(d.variance, (p * every**2).sum(0) - d.mean**2, rtol=1e-2)
    drawn = d.sample((4000,))
    assert torch.allclose(drawn.mean(0), d.mean, atol=3.0)
    even = DiscretizedLogistic(loc, scale, 256)
    assert torch.allclose(
        even.log_prob(every), DiscretizedLogistic(loc, scale, 256, edges=even_edges(256)).log_prob(every)
    )
    wide = DiscretizedLogistic(loc.repeat(300), scale.repeat(300), 256, edges=edges)
    symbols = wide.sample().numpy().astype("int32")
    stack = Stack(np.arange(1, 9, dtype=np.uint32))
    image_codec(wide).push(stack, symbols)
    assert (image_codec(wide).pop(stack) == symbols).all()


@pytest.mark.parametrize("also_even", [False, True])
def test_the_mean_of_many_uneven_levels_is_the_sum_over_them(also_even: bool) -> None:
    """Of images of 12 bits that hold every sixteenth level, or that in their lower half alone."""
    image = torch.randint(0, 256, (400_000,)) * 16
    if also_even:
        image = torch.cat([image[image < 2048], torch.randint(2048, 4096, (400_000,))])
    edges = used_edges(image, 4096)
    assert (edges - even_edges(4096)).abs().max() > 7
    loc, scale = torch.meshgrid(torch.linspace(-200, 4300, 91), torch.logspace(-1, 3, 9), indexing="ij")
    loc, scale = loc.double(), scale.double()
    d = DiscretizedLogistic(loc, scale, 4096, edges=edges)
    total = sum(i * d.log_prob(torch.full_like(loc, i)).exp() for i in range(4096))
    assert (d.mean - total).abs().max() < 0.1
    assert (DiscretizedLogistic(loc, scale, 4096).mean - total).abs().max() > 5  # without the edges
    single = DiscretizedLogistic(loc.float(), scale.float(), 4096, edges=edges).mean
    assert (single - total).abs().max() < 0.1
    assert ((d.mean[1:] - d.mean[:-1]) > -1e-9).all()  # nothing jumps where other edges are the near ones


@pytest.mark.parametrize(
    ("size", "widths"),
    [((8, 8), [32]), ((16, 16), [32, 64]), ((28, 20), [32, 64, 128]), ((64, 64), [32, 64, 128, 128]), ((3, 2), [32])],
)
def test_nets_grow_with_the_image(size: tuple[int, int], widths: list[int]) -> None:
    assert grown(size, 32) == widths
    encoder = ConvEncoder((1, *size), (1, *size), channels=32, hidden=8)
    decoder = ConvDecoder((5,), (1, *size), channels=32, hidden=8)
    assert encoder(torch.zeros(2, 1, *size)).shape == (2, 8)
    assert decoder(torch.zeros(2, 5)).shape == (2, 32, *size)


def data(**settings: Any) -> ImageData:
    found = ImageData(Generated((1, 8, 8), count=90), val_size=10, **settings)  # 80 training images
    found.setup()
    return found


def test_an_epoch_of_so_many_steps() -> None:
    """Fewer images come several times and as often as each other; of more, others each epoch."""
    several = data(batch_size=32, epoch_steps=5)
    batches = [batch["image"] for batch in several.train_dataloader()]
    assert [len(batch) for batch in batches] == [32] * 5
    counts = torch.cat(batches).flatten(1).unique(dim=0, return_counts=True)[1]
    assert counts.tolist() == [2] * 80
    part = data(batch_size=16, epoch_steps=2)
    assert len(part.train_dataloader()) == 2
    assert sum(len(batch["image"]) for batch in part.train_dataloader()) == 32
    assert len(data(batch_size=16).train_dataloader()) == 5


def test_a_batch_larger_than_the_set_is_the_set(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = data(batch_size=1000)
    with caplog.at_level("INFO"):
        assert [len(batch["image"]) for batch in whole.train_dataloader()] == [80]
    said = caplog.text + "".join(capfd.readouterr())
    assert "80 training images, fewer than --data.batch_size 1000" in said


def test_at_most_so_many_validation_images() -> None:
    assert len(data(val_most=4).splits["val"]) == 4
    assert len(data(val_most=4).splits["train"]) == 86
    assert len(data(val_most=400).splits["val"]) == 10


@pytest.mark.parametrize(("begun", "drawn"), [(0, 10), (17, 6)])
def test_pictures_come_at_ten_moments_of_a_training(begun: int, drawn: int) -> None:
    """However many epochs there are, and where a stopped training goes on, too."""
    limits = {"callbacks": [], "max_epochs": 40, "max_steps": -1, "num_training_batches": 5, "world_size": 1}
    trainer: Any = SimpleNamespace(**limits, accumulate_grad_batches=1, current_epoch=begun)
    picture, due = Reconstructions(), 0
    picture.on_train_start(trainer, None)  # type: ignore[arg-type]
    for trainer.current_epoch in range(begun, 40):
        due += picture._is_due(trainer)
    assert due == drawn
    other = Reconstructions(every_n_epochs=5)
    other.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert sum(other._is_due(trainer) for trainer.current_epoch in range(40)) == 8


def folder_of(path: Path, modes: list[str], size: tuple[int, int] = (6, 5)) -> Path:
    """Pictures of these modes, in the order of their names."""
    path.mkdir()
    for i, mode in enumerate(modes):
        values = np.random.default_rng(i).integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(values).convert(mode).save(path / f"{i:03d}.png")
    return path


@pytest.mark.parametrize(
    ("modes", "channels"), [(["L"] * 12, 1), (["1", "L", "LA"] * 4, 1), (["L"] * 11 + ["RGB"], 3), (["P"] * 12, 3)]
)
def test_channels_are_those_that_images_are_stored_in(tmp_path: Path, modes: list[str], channels: int) -> None:
    source = ImageFolder(str(folder_of(tmp_path / "pictures", modes)), cache=False)
    assert source.image_shape == (channels, 6, 5)
    assert source.found == {"channels": channels}
    assert source.load(tmp_path, False).train.image.shape[1:] == (channels, 6, 5)


def test_colours_that_are_read_as_grey_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that were not looked at, too."""
    modes = ["L"] * 40
    modes[1] = "RGB"
    path = folder_of(tmp_path / "pictures", modes)
    ImageFolder(str(path), cache=False).load(tmp_path, False)
    said = capsys.readouterr()
    assert "1 of 40 pictures are stored in colour, such as 001.png: read in grey" in said.out + said.err
    ImageFolder(str(path), channels=3, cache=False).load(tmp_path, False)
    said = capsys.readouterr()
    assert "stored in colour" not in said.out + said.err


def test_the_channels_that_were_found_are_kept_with_the_run(cli: Callable, tmp_path: Path) -> None:
    """Or a run that is gone on with, and files that it is given, would be read as what lies in the folder by then."""
    path = folder_of(tmp_path / "pictures", ["L"] * 30, (8, 8))
    flags = [
        "--data.source=ImageFolder",
        f"--data.source.path={path}",
        "--data.source.cache=false",
        "--data.val_size=0.2",
    ]
    assert cli("fit", "-c", DIGITS, *FAST, *flags, "--run.name=first").status == 0
    kept = yaml.safe_load(Path("runs/digits/first/config.yaml").read_text())
    assert kept["data"]["source"]["init_args"]["channels"] == 1
    for file in path.iterdir():
        file.unlink()
    files = folder_of(tmp_path / "others", ["RGB", "L"], (8, 8))
    result = cli("encode", str(files), "--ckpt_path=runs/digits/first")
    assert result.status == 0, result.err
