"""What the default for folders of images rests on: a start at PCA, levels in use, nets that grow, epochs of steps."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import Generated
from vae_lightning.compression.densities import image_codec
from vae_lightning.compression.stack import Stack
from vae_lightning.conditionals import PrincipalLogisticLikelihood, PrincipalPosterior
from vae_lightning.conditionals.principal import principal_start
from vae_lightning.core import Spec
from vae_lightning.data import ImageData
from vae_lightning.distributions import DiscretizedLogistic, even_edges, used_edges
from vae_lightning.metrics import independent_pixels_nll
from vae_lightning.models import VAE
from vae_lightning.nets import ConvDecoder, ConvEncoder
from vae_lightning.nets.conv import grown
from vae_lightning.train.pictures import Reconstructions


def blobs(count: int, shape: tuple[int, int, int] = (3, 12, 9)) -> Tensor:
    """Smooth images with some noise, whose channels have much in common."""
    image = Generated(shape).make(count, 0).image.float()
    image = 0.7 * image.mean(1, keepdim=True) + 0.3 * image
    return (image + 4 * torch.randn_like(image)).round().clamp(0, 255)


def default(spec: Spec, size: int = 64) -> VAE:
    encoder = partial(PrincipalPosterior, net=partial(ConvEncoder, channels=8, hidden=16))
    likelihood = partial(PrincipalLogisticLikelihood, net=partial(ConvDecoder, channels=8, hidden=16))
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


def test_the_start_is_the_posterior_of_its_linear_model() -> None:
    """Against the conditional of the joint Gaussian of z and x."""
    start = principal_start(blobs(200), 256, 12)
    d, values = start.weight.shape
    unlinked = torch.eye(3, dtype=torch.float64)
    unlinked[:-1] -= start.link
    rows = unlinked.T  # noise less what is shared = rows @ noise
    whitening = torch.einsum("cj,hH->chjH", rows, torch.eye(values // 3, dtype=torch.float64)).reshape(values, values)
    precision = whitening.T @ torch.diag(start.scale.flatten().double() ** -2) @ whitening
    weight = start.weight.double()
    covariance = weight.T @ weight + torch.linalg.inv(precision)
    gain = torch.linalg.solve(covariance, weight.T).T  # E[z|x] = gain (x - m)
    of_z = torch.eye(d) - gain @ weight.T
    directions, scale = start.posterior()
    assert torch.allclose(directions.T.double(), gain, atol=1e-3)
    # Of independent Gaussians the nearest to it has the inverse of its precision's diagonal.
    assert torch.allclose(scale.double().square(), 1 / torch.linalg.inv(of_z).diagonal(), rtol=1e-3)


@pytest.mark.parametrize("count", [2, 5, 30])
def test_few_images_begin_without_components_that_only_they_have(count: int) -> None:
    start = principal_start(blobs(count), 256, 64)
    assert all(part.isfinite().all() for part in start)
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
