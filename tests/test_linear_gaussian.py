"""The linear-Gaussian model, whose log p(x) is exact: bounds, estimates of log p(x), gradients, and training."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import MultivariateNormal

from vae_lightning.conditionals import (
    BernoulliLikelihood,
    GaussianLearnedScaleLikelihood,
    GaussianLikelihood,
    GaussianPosterior,
)
from vae_lightning.core import Spec
from vae_lightning.metrics import ImageEvaluation, importance, log_prob, log_prob_curve
from vae_lightning.metrics.estimators.tiles import TILE_VALUES, tile_size
from vae_lightning.models import VAE
from vae_lightning.nets import MLP, ConvDecoder
from vae_lightning.objectives import ELBO, IWAE


def linear_gaussian(optimal: bool) -> tuple[VAE, Tensor, Tensor]:
    """A linear VAE, 40 images of it, and their exact log p(x); its posterior exact or somewhat off. The decoder's
    columns are orthogonal, so that the exact posterior is diagonal and the encoder can be it."""
    d, scale = 2, 0.5
    linear = partial(MLP, hidden=[])
    model = VAE(
        Spec((1, 2, 3), 2),
        encoder=partial(GaussianPosterior, net=linear),
        likelihood=partial(GaussianLikelihood, net=linear, scale=scale),
        latent_size=d,
    ).double()
    weight = torch.linalg.qr(torch.randn(6, d).double())[0] * torch.tensor([1.5, 0.7])
    bias = torch.randn(6).double()
    with torch.no_grad():
        model.likelihood.head.last.weight.copy_(weight)
        model.likelihood.head.last.bias.copy_(bias)
        precision = 1 + weight.square().sum(0) / scale**2
        gain = weight.T / scale**2 / precision[:, None]
        model.encoder.mu.weight.copy_(gain)
        model.encoder.mu.bias.copy_(-gain @ bias + (0 if optimal else 0.2))
        log_scale = -0.5 * precision.log() + (0 if optimal else 0.3)
        model.encoder.log_scale.bias.copy_(7 * torch.atanh(log_scale / 7))
    x = torch.randn(40, d).double() @ weight.T + bias + scale * torch.randn(40, 6).double()
    exact = MultivariateNormal(bias, weight @ weight.T + scale**2 * torch.eye(6).double())
    return model, x.view(-1, 1, 2, 3), exact.log_prob(x)


def test_elbo_meets_log_p_at_the_exact_posterior() -> None:
    model, x, exact = linear_gaussian(optimal=True)
    trace = model.trace({"image": x}, 20_000)
    elbo = trace.log_likelihood().mean(0) - trace.kl()
    torch.testing.assert_close(elbo, exact, atol=0.05, rtol=0)
    torch.testing.assert_close(trace.log_weight(), exact.expand(20_000, 40))  # each single weight is exact
    torch.testing.assert_close(log_prob(model, {"image": x}, 1), exact)


def test_bounds_are_ordered_and_meet_the_exact_value() -> None:
    model, x, exact = linear_gaussian(optimal=False)
    batch = {"image": x}
    log_weight = model.trace(batch, 100_000).log_weight()  # (100 000, 40)

    def bound(k: int) -> float:
        return (log_weight.view(-1, k, 40).logsumexp(1) - math.log(k)).mean().item()

    elbo = -ELBO(num_samples=20_000)(model, batch, 0).value.item()
    bounds = [bound(k) for k in (1, 2, 5, 50, 1000)]
    assert elbo == pytest.approx(bounds[0], abs=0.02)  # IWAE(1) = ELBO
    assert all(low < high for low, high in itertools.pairwise(bounds))
    assert bounds[0] < exact.mean().item() - 0.1
    assert bounds[-1] < exact.mean().item() + 1e-3
    torch.testing.assert_close(log_prob(model, batch, 100_000), exact, atol=0.02, rtol=0)


def test_tiles_are_cut_by_the_widest_layer() -> None:
    """Of the decoder, not of the encoder, and at least the image; and sampling goes on as if nobody had asked."""
    shape = (1, 8, 8)
    wide = partial(GaussianPosterior, net=partial(MLP, hidden=[4000]))
    for net, widest in (
        (partial(MLP, hidden=[16]), 64),
        (partial(MLP, hidden=[16, 500, 16]), 500),
        (partial(ConvDecoder, channels=[4, 6], hidden=0), 6 * 64),
    ):
        model = VAE(Spec(shape, 2), wide, partial(BernoulliLikelihood, net=net), latent_size=2)
        torch.manual_seed(1)
        assert tile_size(model, {"image": torch.zeros(3, *shape)}) == TILE_VALUES // widest
        seen = torch.randn(1)
        torch.manual_seed(1)
        assert torch.equal(seen, torch.randn(1))
        assert not any(module._forward_hooks for module in model.modules())


def test_importance_sampling_knows_its_own_error() -> None:
    """Of 200 estimates the exact value lies within 1.96 of their own standard errors for about 95 %; the effective
    sample size is that of the weights, and all of them where the posterior is exact."""
    model, x, exact = linear_gaussian(optimal=False)
    ks, hits = [10, 400], 0
    for seed in range(5):  # 5 x 40 images
        torch.manual_seed(seed)
        found = importance(model, {"image": x}, ks)
        z = (found.log_prob[1] - exact) / found.variance(ks)[1].sqrt()
        hits += int((z.abs() < 1.96).sum())
    assert 0.9 < hits / 200 < 0.99
    assert (found.effective[1] > found.effective[0]).all()
    torch.manual_seed(3)
    weight = model.trace({"image": x}, 50).log_weight().exp()
    torch.manual_seed(3)
    effective = importance(model, {"image": x}, [50]).effective[0]
    torch.testing.assert_close(effective, weight.sum(0) ** 2 / weight.square().sum(0))
    model, x, _ = linear_gaussian(optimal=True)
    torch.testing.assert_close(importance(model, {"image": x}, [50]).effective[0], torch.full((40,), 50.0).double())


def test_objectives_are_their_bounds() -> None:
    model, x, _ = linear_gaussian(optimal=False)
    torch.manual_seed(1)
    loss = IWAE(64)(model, {"image": x}, 0)
    torch.manual_seed(1)
    trace = model.trace({"image": x}, 64)
    by_hand = torch.stack([trace.log_weight()[:, i].exp().mean().log() for i in range(40)]).mean()
    assert -loss.value.item() == pytest.approx(by_hand.item(), rel=1e-9)
    assert loss.logs["iwae"].item() == pytest.approx(by_hand.item(), rel=1e-9)


def test_log_prob_does_not_depend_on_tiles() -> None:
    model, x, exact = linear_gaussian(optimal=True)
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    for tile in (7, 64, 100_000):  # also tiles smaller than k, and k no multiple of it
        torch.testing.assert_close(log_prob(model, {"image": x}, 50, tile=tile), exact)
        calls.clear()
        curve = log_prob_curve(model, {"image": x}, [1, 7, 50], tile=tile)
        assert sum(calls) == len(x)  # each image is encoded once
        torch.testing.assert_close(curve[-1], exact)
    with pytest.raises(ValueError, match="rising"):
        log_prob_curve(model, {"image": x}, [5, 5])
    with pytest.raises(ValueError, match="at least 1"):
        log_prob(model, {"image": x}, 0)


def test_gradient_through_the_sample_is_the_closed_forms() -> None:
    """The ELBO of a linear-Gaussian model is a closed form in the encoder's mean; so is its gradient."""
    model, x, _ = linear_gaussian(optimal=False)
    ELBO(num_samples=200_000)(model, {"image": x[:3]}, 0).value.backward()
    weight, bias = model.likelihood.head.last.weight, model.likelihood.head.last.bias
    mu_weight = model.encoder.mu.weight.detach().clone().requires_grad_()
    flat = x[:3].flatten(1)
    mu = flat @ mu_weight.T + model.encoder.mu.bias.detach()
    q = model.encoder(x[:3])
    expected_square = (flat - mu @ weight.T - bias).square().sum(1) + (q.variance * weight.square().sum(0)).sum(1)
    closed = (expected_square / (2 * 0.5**2) + 0.5 * mu.square().sum(1)).mean()
    (gradient,) = torch.autograd.grad(closed, mu_weight)
    torch.testing.assert_close(model.encoder.mu.weight.grad, gradient, rtol=0.02, atol=0.02)


def test_gradients_reach_the_encoder_and_match_finite_differences() -> None:
    model = VAE(
        Spec((1, 2, 2), 2),
        encoder=partial(GaussianPosterior, net=partial(MLP, hidden=[4], activation=torch.nn.Tanh)),
        latent_size=2,
    )
    model = model.double()
    x = torch.bernoulli(torch.rand(8, 1, 2, 2)).double()

    def loss() -> Tensor:
        torch.manual_seed(3)
        return ELBO(num_samples=3)(model, {"image": x}, 0).value

    loss().backward()
    for parameter in (model.encoder.mu.weight, model.encoder.log_scale.bias, model.encoder.net.layers[1].weight):
        h = 1e-6
        with torch.no_grad():
            parameter.view(-1)[0] += h
            up = loss()
            parameter.view(-1)[0] -= 2 * h
            down = loss()
            parameter.view(-1)[0] += h
        assert parameter.grad.view(-1)[0].item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-5, abs=1e-8)
        assert parameter.grad.abs().sum() > 0


def test_trained_linear_vae_reaches_probabilistic_pca() -> None:
    """Its optimum is probabilistic PCA's (Tipping & Bishop 1999; Lucas et al. 2019), whose likelihood is exact."""
    images = torch.tensor(load_digits().images[:500]).float().unsqueeze(1)
    linear = partial(MLP, hidden=[])
    model = VAE(
        Spec((1, 8, 8), 17),
        encoder=partial(GaussianPosterior, net=linear),
        likelihood=partial(GaussianLearnedScaleLikelihood, net=linear),
        latent_size=5,
    )
    model.init_from_data({"image": images})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for _ in range(1000):
        optimizer.zero_grad()
        ELBO()(model, {"image": images}, 0).value.backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        elbo = -ELBO(num_samples=50)(model, {"image": images}, 0).value.item()
    exact = PCA(5).fit(images.flatten(1).double()).score(images.flatten(1).double())
    assert elbo < exact
    assert elbo == pytest.approx(exact, abs=0.3)  # of about -154 nats


@pytest.mark.parametrize("side", [4, 16])
def test_beta_one_is_the_elbo_whatever_the_image_size(side: int) -> None:
    model = VAE(Spec((1, side, side), 2), latent_size=2)
    x = torch.bernoulli(torch.rand(10, 1, side, side))
    torch.manual_seed(5)
    value = ELBO(beta=1.0)(model, {"image": x}, 0).value
    torch.manual_seed(5)
    trace = model.trace({"image": x})
    q = trace.sites["z"].q
    kl = 0.5 * (q.mean.square() + q.variance - q.variance.log() - 1).sum(1)
    logits = model.likelihood.params(trace.sites["z"].z).squeeze(-4)
    log_likelihood = (x * logits - torch.nn.functional.softplus(logits)).flatten(1).sum(1)
    torch.testing.assert_close(-value, (log_likelihood - kl).mean())


def test_validation_follows_the_bound_that_training_maximises() -> None:
    model, x, exact = linear_gaussian(optimal=False)
    values = {}
    for objective in (ELBO(), IWAE(1), IWAE(2000)):
        evaluation = ImageEvaluation(studies=False)
        evaluation.follow(objective)
        name = evaluation.headline(model, {"image": x}).name
        evaluation.update(model, Spec((1, 2, 3), 2), {"image": x}, "val")
        values[objective.bound_samples] = (name, evaluation.results()[name][0])
    assert {name for name, _ in (values[1], values[2000])} == {"elbo", "iwae"}
    assert values[1][1] < values[2000][1] - 0.1
    assert values[2000][1] == pytest.approx(exact.mean().item(), abs=0.02)
