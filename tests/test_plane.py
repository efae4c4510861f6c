"""The picture of two latents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.test_experiment import DIGITS
from vae_lightning.conditionals import CategoricalLikelihood, GaussianPosterior, PointMass
from vae_lightning.core import Spec
from vae_lightning.models import VAE
from vae_lightning.nets import MLP
from vae_lightning.train.plane import LatentPlane


def test_fit_draws_the_plane_of_two_latents_alone(cli: Callable) -> None:
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    assert cli("fit", "-c", DIGITS, *short, "--model.latent_model.latent_size=2").status == 0
    (file,) = Path("runs/digits/1/images/latentplane").iterdir()
    assert Image.open(file).width > 1000
    assert cli("report", "runs/digits/1").status == 0
    assert "The two latents: left, codes of held-out images" in Path("runs/digits/1/report.html").read_text()
    assert cli("fit", "-c", DIGITS, *short).status == 0
    assert not Path("runs/digits/2/images/latentplane").exists()


@pytest.mark.parametrize("encoder", [GaussianPosterior, PointMass])
@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_decoded_lies_where_the_codes_lie(encoder: Callable, labelled: bool) -> None:
    model = VAE(Spec((1, 8, 8), 17), encoder, partial(CategoricalLikelihood, net=MLP), latent_size=2).eval()
    batch = {"image": torch.randint(0, 17, (30, 1, 8, 8)).float()}
    batch |= {"label": torch.arange(30) % 4} if labelled else {}
    asked: list[torch.Tensor] = []
    model.likelihood.register_forward_pre_hook(lambda _, given: asked.append(given[0]))
    picture = LatentPlane(columns=5)
    with torch.no_grad():
        codes = model.encoder(model.rescale(batch["image"])).mean
        drawn, columns = picture.draw(model, batch)
    assert columns == 1
    assert drawn.shape[:2] == (1, 3)
    grid = asked[-1]
    assert grid.shape == (25, 2)
    assert (grid.amin(0) <= codes.quantile(0.1, 0)).all()
    assert (grid.amax(0) >= codes.quantile(0.9, 0)).all()
    assert grid[0, 0] < grid[4, 0]
    assert grid[0, 1] > grid[-1, 1]  # rows from the top


def test_a_model_of_three_latents_has_no_plane() -> None:
    model = VAE(Spec((1, 8, 8), 17), GaussianPosterior, CategoricalLikelihood, latent_size=3).eval()
    assert LatentPlane().draw(model, {"image": torch.zeros(4, 1, 8, 8)}) is None
    with pytest.raises(ValueError, match=r"LatentPlane\.columns: expected at least 2"):
        LatentPlane(columns=1)
