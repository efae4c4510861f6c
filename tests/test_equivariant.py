"""Latent maps that turn as images do."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from vae_lightning.conditionals import BernoulliLikelihood, CodePrior, GaussianPosterior, GumbelPosterior, PointMass
from vae_lightning.core import Spec
from vae_lightning.models import VAE
from vae_lightning.nets import MLP, ConvDecoder, ConvEncoder
from vae_lightning.objectives import ELBO, Equivariant
from vae_lightning.objectives.equivariant import turned

SHAPE = (1, 4, 4)


def pixelwise() -> VAE:
    """Each latent is one pixel's logit: a decoder that is equivariant."""
    torch.manual_seed(0)
    net = partial(MLP, hidden=[])
    model = VAE(
        Spec(SHAPE, 2), partial(GaussianPosterior, net=net), partial(BernoulliLikelihood, net=net), latent_size=16
    )
    last = model.likelihood.head.last
    last.weight.data.copy_(torch.eye(16))
    last.bias.data.zero_()
    return model


@pytest.mark.parametrize("sides", [(4, 4), (5, 5), (3, 6)])
def test_maps_and_vectors_turn_by_quarters(sides: tuple[int, int]) -> None:
    x, by = torch.randn(40, 2, *sides), torch.arange(40) % 4
    by = by if sides[0] == sides[1] else 2 * (by % 2)
    out = turned(x, by, (2, *sides))
    for image, quarters, found in zip(x, by.tolist(), out, strict=True):
        assert torch.equal(found, image.rot90(quarters, (-2, -1)))
    assert torch.equal(turned(x.flatten(1), by, (2, *sides)), out.flatten(1))


def test_an_equivariant_decoder_pays_nothing_for_turns() -> None:
    model = pixelwise()
    given = {"image": torch.randint(2, (20_000, *SHAPE)).float()}
    found = Equivariant(map_shape=list(SHAPE))(model, given, 0.5)
    assert found.logs["distortion_turned"] == pytest.approx(found.logs["distortion"].item(), rel=0.01)
    assert found.value.item() == pytest.approx((-found.logs["elbo"] + 0.5 * found.logs["distortion_turned"]).item())


def test_another_decoder_pays_and_the_bound_is_the_bound() -> None:
    model = pixelwise()
    model.likelihood.head.last.bias.data.copy_(torch.linspace(-3, 3, 16))  # what is above is black
    image = (torch.arange(16).view(SHAPE) > 7).float().expand(2000, *SHAPE)
    objective = Equivariant(weight=2.0, map_shape=list(SHAPE))
    found = objective(model, {"image": image}, 0.5)
    assert found.logs["distortion_turned"] > found.logs["distortion"] + 5
    torch.manual_seed(1)
    logged = objective(model, {"image": image}, 0.5).logs["elbo"]
    torch.manual_seed(1)
    assert logged == ELBO()(model, {"image": image}, 0.5).logs["elbo"]


def test_it_trains_a_spatial_model() -> None:
    torch.manual_seed(0)
    encoder = partial(GaussianPosterior, net=partial(ConvEncoder, channels=[4, 8], hidden=0, spatial=True))
    likelihood = partial(BernoulliLikelihood, net=partial(ConvDecoder, channels=[8, 4], hidden=0, spatial=True))
    model = VAE(Spec((1, 8, 8), 2), encoder, likelihood, latent_size=12)
    blocks = torch.randint(2, (32, 1, 2, 2)).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    objective, given = Equivariant(map_shape=[3, 2, 2]), {"image": blocks}
    objective.check(model, given)
    optimizer, values = torch.optim.Adam(model.parameters(), 0.02), []
    for _ in range(60):
        loss = objective(model, given, 0.5)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        values.append(loss.logs["distortion_turned"].item())
    assert sum(values[-5:]) < 0.9 * sum(values[:5])


def test_latents_that_are_no_map_are_refused() -> None:
    model, given = pixelwise(), {"image": torch.ones(2, *SHAPE)}
    with pytest.raises(ValueError, match=r"turns maps of 32 numbers, map_shape \[2, 4, 4\], got a latent 'z' of shape"):
        Equivariant([2, 4, 4]).check(model, given)
    codes = VAE(Spec(SHAPE, 2), partial(GumbelPosterior, classes=4), prior=CodePrior, latent_size=16)
    with pytest.raises(ValueError, match="got codes 'z'"):
        Equivariant([1, 4, 4]).check(codes, given)
    point = VAE(Spec(SHAPE, 2), PointMass, latent_size=16)
    with pytest.raises(ValueError, match="the objective Equivariant needs a posterior with a density"):
        Equivariant([1, 4, 4]).check(point, given)
    with pytest.raises(ValueError, match=r"Equivariant.map_shape: expected \[c, h, w\], got \[16\]"):
        Equivariant(map_shape=[16])
    with pytest.raises(ValueError, match=r"Equivariant.weight: expected a finite weight of at least 0, got -1"):
        Equivariant(list(SHAPE), weight=-1)
