"""Schedules end where they say, weights do what they say, pairs without sense are refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from vae_lightning.conditionals import GaussianLikelihood, PointMass
from vae_lightning.core import Spec
from vae_lightning.models import VAE
from vae_lightning.objectives import (
    ELBO,
    IWAE,
    Constant,
    Cyclical,
    Linear,
    Reconstruction,
    Stages,
    WarmupConstant,
    WarmupCosine,
)


def test_linear_warm_up_ends_where_it_says() -> None:
    beta = Linear(until=0.2, start=0.2, end=1.0)
    for share in (0.0, 0.05, 0.13):
        assert beta(share) == pytest.approx(0.2 + 0.8 * share / 0.2)
    assert beta(0.199) < 1.0
    assert beta(0.2) == beta(0.5) == beta(1.0) == 1.0


def test_cyclical_warm_up() -> None:
    beta = Cyclical(cycles=2, ratio=0.5, until=0.5)
    assert [beta(step / 32) for step in range(8)] == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert [beta(step / 32) for step in range(8, 16)] == [beta(step / 32) for step in range(8)]
    assert beta(0.5) == beta(0.9) == beta(1.0) == 1
    assert Constant(3.0)(0.7) == 3.0


def test_learning_rates_against_closed_forms() -> None:
    flat, cosine = WarmupConstant(warmup=0.25, start=0.1), WarmupCosine(warmup=0.25, final=0.04, start=0.1)
    for share in (0.0, 0.1, 0.2):
        assert flat(share) == cosine(share) == pytest.approx(0.1 + 0.9 * share / 0.25)
    assert flat(0.25) == flat(1.0) == cosine(0.25) == 1.0
    assert cosine(0.25 + 0.75 / 3) == pytest.approx(1 - 0.96 / 4)  # cos(60 degrees) is a half
    assert cosine(0.625) == pytest.approx((1 + 0.04) / 2)
    assert cosine(1.0) == pytest.approx(0.04)
    assert WarmupCosine(warmup=0.0)(0.0) == WarmupCosine(warmup=1.0)(1.0) == 1.0


def test_stages_are_those_of_burda() -> None:
    rate = Stages(count=8, growth=3, final=0.1)
    epochs = [rate(epoch * 2500 / (2500 * 3280)) for epoch in range(3280)]
    assert [epochs.count(value) for value in sorted(set(epochs), reverse=True)] == [3**i for i in range(8)]
    for stage, value in enumerate(sorted(set(epochs), reverse=True)):
        assert value == pytest.approx(10 ** (-stage / 7))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Linear(0), "Linear.until: expected a share of the training above 0 up to 1, got 0"),
        (lambda: Linear(2000), "above 0 up to 1, got 2000: give 0.2 for its first fifth"),
        (lambda: Cyclical(ratio=0.0), "ratio"),
        (lambda: WarmupCosine(warmup=-0.1), "WarmupCosine.warmup: expected a share of the training from 0 up to 1"),
        (lambda: WarmupCosine(final=-1), "at least 0, got -1"),
        (lambda: Stages(1), "count >= 2"),
        (lambda: ELBO(free_bits=-1), "free_bits"),
        (lambda: IWAE(0), "num_samples"),
        (lambda: ELBO(beta=-1.0), "at least 0, got -1"),
        (lambda: Linear(end=-1.0), "at least 0, got -1"),
    ],
)
def test_impossible_settings_are_refused(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]


def batch_and_model() -> tuple[dict, VAE]:
    return {"image": torch.bernoulli(torch.rand(32, 1, 4, 4))}, VAE(Spec((1, 4, 4), 2), latent_size=3)


def seeded(objective: ELBO, model: VAE, batch: dict, share: float) -> tuple[float, dict]:
    torch.manual_seed(2)
    loss = objective(model, batch, share)
    return loss.value.item(), {name: value.item() for name, value in loss.logs.items()}


def test_beta_weighs_the_kl_and_the_logged_bound_stays_plain() -> None:
    batch, model = batch_and_model()
    torch.nn.init.constant_(model.encoder.mu.bias, 1.0)
    for share, weight in ((0, 0.0), (0.1, 2.0), (0.2, 4.0), (1.0, 4.0)):
        value, logs = seeded(ELBO(beta=Linear(0.2, 0.0, 4.0)), model, batch, share)
        assert value == pytest.approx(logs["distortion"] + weight * logs["rate"], rel=1e-6)
        assert logs["elbo"] == pytest.approx(-logs["distortion"] - logs["rate"], rel=1e-6)
        assert logs["beta"] == pytest.approx(weight)


def test_free_bits_leave_small_rates_alone() -> None:
    batch, model = batch_and_model()
    with torch.no_grad():
        model.encoder.mu.weight.zero_()
        model.encoder.mu.bias.copy_(torch.tensor([0.1, 1.0, 3.0]))  # KL of 0.005, 0.5 and 4.5 nats
    value, logs = seeded(ELBO(free_bits=1.0), model, batch, 0)
    assert logs["rate"] == pytest.approx(0.005 + 0.5 + 4.5, rel=1e-4)
    assert value == pytest.approx(logs["distortion"] + 1.0 + 1.0 + 4.5, rel=1e-4)
    gradients = {}
    for name, objective in (("free", ELBO(free_bits=1.0)), ("plain", ELBO()), ("none", ELBO(beta=0.0))):
        model.zero_grad()
        torch.manual_seed(0)  # the same noise, so that what differs is the KL's part
        objective(model, batch, 0).value.backward()
        gradients[name] = model.encoder.mu.bias.grad.clone()
    torch.testing.assert_close(gradients["free"][:2], gradients["none"][:2])  # below the free bits: no pull at all
    torch.testing.assert_close(gradients["free"][2], gradients["plain"][2])  # above: the KL's own, mu = 3
    assert (gradients["free"] - gradients["none"])[2].item() == pytest.approx(3.0, rel=1e-4)


def test_pairs_without_sense_are_refused() -> None:
    batch, vae = batch_and_model()
    autoencoder = VAE(
        Spec((1, 4, 4), 2), encoder=PointMass, likelihood=partial(GaussianLikelihood, scale=1.0), latent_size=3
    )
    for objective in (ELBO(), IWAE(2)):
        objective.check(vae, batch)
        with pytest.raises(ValueError, match=r"point mass.*choose the encoder GaussianPosterior"):
            objective.check(autoencoder, batch)
    Reconstruction().check(autoencoder, batch)
    with pytest.raises(ValueError, match="expects the encoder PointMass"):
        Reconstruction().check(vae, batch)


def test_free_bits_need_factors() -> None:
    batch, model = batch_and_model()
    trace = model.trace(batch)
    from vae_lightning.core import Site
    from vae_lightning.objectives.elbo import kl_per_latent

    torch.testing.assert_close(kl_per_latent(trace.sites["z"]).sum(1), trace.kl())
    whole = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match="factorise"):
        kl_per_latent(Site("z", whole, trace.sites["z"].q, trace.sites["z"].z))


def test_reconstruction_is_the_squared_error() -> None:
    model = VAE(
        Spec((1, 4, 4), 256), encoder=PointMass, likelihood=partial(GaussianLikelihood, scale=1.0), latent_size=3
    )
    x = torch.randint(0, 256, (8, 1, 4, 4)).float()
    target = torch.randint(0, 256, (8, 1, 4, 4)).float()
    losses = [Reconstruction()(model, {"image": image}, 0).value for image in (x, target)]
    errors = [((model.trace({"image": i}).px.mean - i) / 255).square().sum() / 8 for i in (x, target)]
    assert (losses[0] - losses[1]).item() == pytest.approx((errors[0] - errors[1]).item() / 2, rel=1e-3)
