"""The likelihoods as modules, nets of any size, and the draws."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.distributions import Independent, Normal

from vae_lightning.conditionals import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    Corrupted,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPixelScaleLikelihood,
    GaussianPosterior,
    LinkedLogisticLikelihood,
    PointMass,
)
from vae_lightning.core import FromPosterior, FromPrior, Given, PosteriorMean, Spec
from vae_lightning.models import VAE
from vae_lightning.nets import MLP, ConvDecoder, ConvEncoder, GaussianNoise, Masking, SaltAndPepper
from vae_lightning.objectives import ELBO, IWAE

GREY = [
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianOptimalScaleLikelihood,
    GaussianPixelScaleLikelihood,
    LinkedLogisticLikelihood,
]
SIZES = [(1, 28, 28), (1, 28, 20), (3, 37, 53), (4, 8, 8), (1, 1, 1)]


@pytest.mark.parametrize("likelihood", GREY)
def test_every_likelihood_trains_and_samples(likelihood: type) -> None:
    model = VAE(Spec((3, 5, 4), 16), likelihood=likelihood, latent_size=3)
    x = torch.randint(0, 16, (6, 3, 5, 4)).float()
    model.init_from_data({"image": x})
    loss = ELBO()(model, {"image": x}, 0).value
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.eval()
    px = model.sample({}, 7)
    assert px.batch_shape == (7,)
    assert px.mean.shape == px.sample().shape == (7, 3, 5, 4)
    assert model.trace({"image": x}, 2).log_weight().shape == (2, 6)


@pytest.mark.parametrize(
    "likelihood",
    [
        BernoulliLikelihood,
        CategoricalLikelihood,
        DiscretizedLogisticLikelihood,
        DiscretizedLogisticMixtureLikelihood,
        LinkedLogisticLikelihood,
    ],
)
@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 1, 2)])
def test_discrete_likelihoods_sum_to_one_over_all_images(likelihood: type, shape: tuple[int, int, int]) -> None:
    levels = 2 if likelihood is BernoulliLikelihood else 3
    px = VAE(Spec(shape, levels), likelihood=likelihood, latent_size=2).double().sample({})
    images = torch.tensor(list(itertools.product(range(levels), repeat=math.prod(shape)))).double().view(-1, *shape)
    assert px.support.is_discrete
    assert px.log_prob(images).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_fixed_gaussian_is_the_squared_error_with_its_constant() -> None:
    scale, levels = 0.2, 256
    model = VAE(Spec((1, 4, 4), levels), likelihood=partial(GaussianLikelihood, scale=scale), latent_size=2)
    x = torch.randint(0, levels, (5, 1, 4, 4)).float()
    trace = model.trace({"image": x})
    squared_error = ((x - trace.px.mean) / (levels - 1)).square().flatten(1).sum(1)
    constant = 16 / 2 * math.log(2 * math.pi * (scale * (levels - 1)) ** 2)
    torch.testing.assert_close(-trace.log_likelihood(), squared_error / (2 * scale**2) + constant)


def test_optimal_scale_is_the_best_scale_and_a_fixed_density_in_evaluation() -> None:
    likelihood = GaussianOptimalScaleLikelihood((2,), Spec((1, 4, 4), 256))
    z, x = torch.randn(8, 2), torch.randint(0, 256, (8, 1, 4, 4)).float()
    best = likelihood(z).log_prob(x).sum()
    loc = likelihood(z).mean
    for scale in torch.linspace(5, 300, 400):
        assert Normal(loc, scale).log_prob(x).sum() <= best + 1e-3
    before = {name: buffer.clone() for name, buffer in likelihood.named_buffers()}
    statistics = likelihood(z).statistics(x)
    with torch.no_grad():
        assert likelihood(z).log_prob(x).sum() == likelihood(z).expand((8,)).log_prob(x).sum() == best
    for name, buffer in likelihood.named_buffers():  # asking changes nothing
        assert torch.equal(buffer, before[name])
    likelihood.observe({"another's": torch.ones(())})
    assert likelihood.batches == 0
    likelihood.observe(statistics)
    likelihood.eval()
    mean_square = (x - loc).square().mean()
    assert likelihood.mean_square.item() == pytest.approx(mean_square.item(), rel=1e-5)
    torch.testing.assert_close(likelihood(z).log_prob(x), Normal(loc, mean_square.sqrt()).log_prob(x).flatten(1).sum(1))
    torch.testing.assert_close(likelihood(z[:1]).log_prob(x[:1]), likelihood(z).log_prob(x)[:1])


def test_a_trained_optimal_scale_is_the_error_that_is_left() -> None:
    """By the objectives and `observe` alone; a story of a user's own needs no line for it, and nothing in evaluation
    mode, such as a frozen part, is moved."""
    x = torch.randint(0, 256, (64, 1, 4, 4)).float()
    for objective in (ELBO(), IWAE(2)):
        model = VAE(Spec((1, 4, 4), 256), likelihood=GaussianOptimalScaleLikelihood, latent_size=2)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for step in range(400):
            optimizer.zero_grad()
            loss = objective(model, {"image": x}, step)
            loss.value.backward()
            optimizer.step()
            model.observe(loss.statistics)
        assert model.likelihood.batches == 400
        model.eval()
        model.observe(loss.statistics)
        assert model.likelihood.batches == 400
        px = model.trace({"image": x}).px
        left = (x - px.mean).square().mean().sqrt() / 255
        assert left < 0.29  # of uniform noise, 0.289
        assert model.likelihood.scale.item() == pytest.approx(left.item(), rel=0.05)


def test_initial_bias_is_the_marginal_of_the_data() -> None:
    x = torch.bernoulli(torch.rand(1, 1, 6, 6).expand(5000, 1, 6, 6))
    model = VAE(Spec((1, 6, 6), 2), latent_size=2)
    model.init_from_data({"image": x})
    at_bias = torch.sigmoid(model.likelihood.head.last.bias).view(1, 6, 6)
    torch.testing.assert_close(at_bias, x.mean(0).clamp(1 / 5002, 1 - 1 / 5002))


@pytest.mark.parametrize(
    "likelihood",
    [
        CategoricalLikelihood,
        DiscretizedLogisticLikelihood,
        GaussianLearnedScaleLikelihood,
        GaussianLikelihood,
        GaussianOptimalScaleLikelihood,
        GaussianPixelScaleLikelihood,
        LinkedLogisticLikelihood,
    ],
)
def test_initial_biases_are_those_of_the_data(likelihood: type) -> None:
    """Without features, what is left is the bias: the marginals of the levels, or their mean."""
    x = torch.tensor([0, 1, 1, 3]).float().view(1, 1, 1, 4) * torch.ones(4000, 1, 1, 1)
    x[: 4000 // 2] = 2.0
    module = likelihood((2,), Spec((1, 1, 4), 4))
    module.init_from_data(x)
    torch.nn.init.zeros_(module.head.last.weight)
    px = module.eval()(torch.zeros(1, 2))
    if likelihood is CategoricalLikelihood:
        probs = px.base_dist.logits.softmax(-1)[0, 0, 0]
        expected = torch.tensor([[0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])
        torch.testing.assert_close(probs, expected, atol=1e-3, rtol=0)
    elif likelihood is not DiscretizedLogisticLikelihood:  # whose mean is pulled in by its open ends
        torch.testing.assert_close(px.mean.flatten(), x.mean(0).flatten(), atol=0.15, rtol=0)
    else:
        torch.testing.assert_close(px.base_dist.loc.flatten(), x.mean(0).flatten())


def test_mixture_components_start_apart() -> None:
    module = DiscretizedLogisticMixtureLikelihood((2,), Spec((1, 2, 2), 256), components=5)
    torch.nn.init.zeros_(module.head.last.weight)
    centres = module(torch.zeros(1, 2)).base_dist.component_distribution.loc
    torch.testing.assert_close(centres[0, 0, 0, 0], 255 * torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))


def test_pixel_scale_is_learned_for_each_value() -> None:
    """Gradient descent finds a narrow scale where data do not vary and a wide one where they do."""
    torch.manual_seed(0)
    module = GaussianPixelScaleLikelihood((1,), Spec((1, 1, 2), 256))
    x = torch.stack([torch.full((512,), 100.0), 128 + 40 * torch.randn(512)], -1).view(512, 1, 1, 2)
    module.init_from_data(x)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-module(torch.zeros(512, 1)).log_prob(x).mean()).backward()
        optimizer.step()
    narrow, wide = module(torch.zeros(1, 1)).base_dist.stddev.flatten().tolist()
    assert narrow < 2
    assert wide == pytest.approx(40, rel=0.15)


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood, DiscretizedLogisticMixtureLikelihood])
def test_densities_are_float32_under_mixed_precision(likelihood: type) -> None:
    levels = 2 if likelihood is BernoulliLikelihood else 256
    model = VAE(Spec((1, 28, 28), levels), likelihood=likelihood, latent_size=8)
    x = torch.randint(0, levels, (64, 1, 28, 28)).float()
    torch.manual_seed(0)
    exact = ELBO()(model, {"image": x}, 0)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ELBO()(model, {"image": x}, 0)
    assert mixed.value.dtype == torch.float32
    assert mixed.value.item() == pytest.approx(exact.value.item(), rel=1e-3)
    mixed.value.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_dropout_and_normalisation_act_in_training_only() -> None:
    x = torch.rand(64, 1, 4, 4)
    for settings in ({"dropout": 0.5}, {"input_dropout": 0.5}, {"norm": torch.nn.BatchNorm1d}):
        torch.manual_seed(0)
        net, plain = MLP((1, 4, 4), (1, 4, 4), hidden=[32], **settings), MLP((1, 4, 4), (1, 4, 4), hidden=[32])
        linear = next(m for m in net.modules() if isinstance(m, torch.nn.Linear))
        plain.layers[1].load_state_dict(linear.state_dict())
        assert not torch.allclose(net(x), plain(x))
        if "norm" not in settings:
            torch.testing.assert_close(net.eval()(x), plain.eval()(x))


def test_convolutional_nets_drop_in_training_only() -> None:
    for net, x in (
        (ConvEncoder((1, 8, 8), (1, 8, 8), channels=[4], hidden=8, dropout=0.5), torch.rand(16, 1, 8, 8)),
        (ConvDecoder((3,), (1, 8, 8), channels=[4], hidden=0, dropout=0.5), torch.rand(16, 3)),
    ):
        assert not torch.equal(net(x), net(x))
        net.eval()
        torch.testing.assert_close(net(x), net(x))


def test_latents_of_a_spatial_model_keep_their_places() -> None:
    spatial: dict[str, Any] = {"channels": [8], "hidden": 0, "spatial": True}
    model = VAE(
        Spec((3, 10, 9), 256),
        encoder=partial(GaussianPosterior, net=partial(ConvEncoder, **spatial)),
        likelihood=partial(DiscretizedLogisticLikelihood, net=partial(ConvDecoder, **spatial)),
        latent_size=2 * 5 * 5,
    )
    x = torch.randint(0, 256, (2, 3, 10, 9)).float()
    assert model.trace({"image": x}, 3).px.mean.shape == (3, 2, 3, 10, 9)
    changed = x.clone()
    changed[..., 0, 0] = 255 - changed[..., 0, 0]
    moved = (model.encoder(x / 255).mean != model.encoder(changed / 255).mean).reshape(2, 2, 5, 5)
    assert moved[..., 0, 0].all()
    assert not moved[..., 1:, 1:].any()  # one 3x3 convolution of stride 2 sees one place further
    with pytest.raises(ValueError, match="a multiple of the 25 places of the 5x5 map, got 7"):
        GaussianPosterior(Spec((3, 10, 9), 256), (7,), partial(ConvEncoder, **spatial))
    with pytest.raises(ValueError, match="expected 0 with spatial"):
        ConvDecoder((50,), (3, 10, 9), spatial=True)


@pytest.mark.parametrize("shape", SIZES)
def test_nets_take_any_size(shape: tuple[int, int, int]) -> None:
    for encoder, decoder in ((MLP, MLP), (ConvEncoder, ConvDecoder)):
        if encoder is ConvEncoder:
            encoder, decoder = partial(encoder, blocks=1), partial(decoder, blocks=1)
        model = VAE(
            Spec(shape, 4),
            encoder=partial(GaussianPosterior, net=encoder),
            likelihood=partial(DiscretizedLogisticLikelihood, net=decoder),
            latent_size=3,
        )
        x = torch.randint(0, 4, (2, *shape)).float()
        assert model.trace({"image": x}, 3).px.mean.shape == (3, 2, *shape)


def test_a_net_refuses_another_size() -> None:
    with pytest.raises(ValueError, match=r"built for inputs of shape \(1, 8, 8\), got \(2, 1, 9, 9\)"):
        MLP((1, 8, 8), (1, 8, 8))(torch.zeros(2, 1, 9, 9))


def test_posterior_is_bounded_whatever_the_image() -> None:
    posterior = GaussianPosterior(Spec((1, 2, 2), 256), (3,), partial(MLP, hidden=[]))
    torch.nn.init.normal_(posterior.log_scale.weight, std=1e6)
    scale = posterior(1e6 * torch.randn(50, 1, 2, 2)).stddev
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()


def test_corruption_is_for_training_only_and_does_what_it_says() -> None:
    x = torch.full((64, 3, 20, 20), 0.5)
    masked = Masking(0.25)(x)
    assert set(masked.unique().tolist()) == {0.0, 0.5}
    assert torch.equal(masked[:, 0] == 0, masked[:, 2] == 0)  # a pixel goes in all its channels
    assert (masked == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    salted = SaltAndPepper(0.4)(x)
    assert (salted == 1).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (salted == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (GaussianNoise(0.3)(x) - x).std().item() == pytest.approx(0.3, abs=0.01)
    encoder = Corrupted(Spec((3, 20, 20), 256), (2,), PointMass, Masking(0.5))
    assert not torch.equal(encoder(x).mean, encoder(x).mean)
    encoder.eval()
    assert torch.equal(encoder(x).mean, encoder(x).mean)
    assert torch.equal(encoder(x).mean, encoder.encoder(x).mean)


def test_draws() -> None:
    model = VAE(Spec((1, 2, 2), 2), latent_size=3).eval()
    x = torch.ones(4, 1, 2, 2)
    posterior = FromPosterior(5)
    assert model(posterior, {"image": x}).batch_shape == (5, 4)
    assert list(posterior.sites) == ["z"]
    mean = model(PosteriorMean(), {"image": x}).mean
    z = model.encoder(x).mean
    torch.testing.assert_close(model(Given({"z": z}), {}).mean, mean)
    assert model(FromPrior((6,)), {}).batch_shape == (6,)
    with pytest.raises(ValueError, match="no posterior"):
        model(FromPosterior(), {})
    with pytest.raises(ValueError, match="expected an image in the batch"):
        model.trace({})
    own = Independent(Normal(torch.full((4, 3), 9.0), torch.full((4, 3), 1e-3)), 1)
    (site,) = model.trace({"image": x}, 5, {"z": own}).sites.values()
    assert site.q is own
    assert site.z.shape == (5, 4, 3)
    assert (site.z - 9).abs().max() < 0.01
    with pytest.raises(ValueError, match=r"names of this story's latents, \['z'\], got \['y'\]"):
        model.trace({"image": x}, 5, {"y": own})
