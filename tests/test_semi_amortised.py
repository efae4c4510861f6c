"""Semi-amortised posteriors in training, against linear-Gaussian truths and finite differences."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.stories import Ladder
from tests.test_estimators import SHAPE, exact, linear_gaussian, orthogonal
from vae_lightning.conditionals import BernoulliLikelihood, GaussianPosterior, LowRankPosterior
from vae_lightning.core import Spec
from vae_lightning.models import VAE
from vae_lightning.nets import MLP
from vae_lightning.objectives import ELBO, Linear, SemiAmortised


def test_the_search_finds_the_exact_posterior_and_its_bound_log_p() -> None:
    """From an encoder that is off by a scale and more."""
    model, x = linear_gaussian(orthogonal(), shift=0.7, wider=-0.6, images=400)
    found = SemiAmortised(steps=60, rate=0.2)(model, {"image": x}, 0.5)
    truth = exact(model, x).mean().item()
    assert found.logs["elbo"] == pytest.approx(truth, abs=0.06)
    assert found.logs["elbo_encoder"] < truth - 0.8
    assert -found.value.item() == pytest.approx(found.logs["elbo"].item())


def test_more_steps_make_a_better_bound() -> None:
    model, x = linear_gaussian(orthogonal(), shift=0.7, wider=-0.6, images=400)
    bounds = [SemiAmortised(steps=steps, rate=0.2)(model, {"image": x}, 0.5).logs["elbo"] for steps in (1, 3, 9)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[0] + 0.2


def test_the_encoder_learns_by_the_bound_at_its_own_gaussian() -> None:
    """Its gradient is that of the ELBO, in the mean over draws, and no other path leads to it."""
    model, x = linear_gaussian(orthogonal(), shift=0.5, wider=-0.3, images=20)
    parts = [model.encoder.mu.bias, model.encoder.log_scale.bias]

    def mean_gradient(objective: SemiAmortised | ELBO) -> torch.Tensor:
        torch.manual_seed(0)
        given = {"image": x.repeat(4000, 1, 1, 1)}
        return torch.cat(torch.autograd.grad(objective(model, given, 0.5).value, parts))

    expected, found = mean_gradient(ELBO()), mean_gradient(SemiAmortised(steps=2))
    assert torch.allclose(found, expected, atol=0.03 * expected.abs().max())


def test_the_decoder_learns_by_the_refined_posteriors() -> None:
    """At the exact posteriors the gradient of the bound is that of log p(x); an encoder that is off has another."""
    model, x = linear_gaussian(orthogonal(), shift=0.7, images=50)
    bias = model.likelihood.head.last.bias
    bias.data += 0.3  # not its optimum
    with torch.no_grad():
        error = bias - (x.flatten(1).mean(0))
    given = {"image": x.repeat(400, 1, 1, 1)}
    weight = model.likelihood.head.last.weight.detach()
    covariance = weight @ weight.T + 0.25 * torch.eye(8).double()
    truth = torch.linalg.solve(covariance, error)
    refined = torch.autograd.grad(SemiAmortised(steps=40, rate=0.2)(model, given, 0.5).value, bias)[0]
    amortised = torch.autograd.grad(ELBO()(model, given, 0.5).value, bias)[0]
    assert (refined - truth).norm() < 0.15 * truth.norm()
    assert (amortised - truth).norm() > 2 * (refined - truth).norm()


def test_steps_are_bounded_and_leave_no_gradient_behind() -> None:
    torch.manual_seed(0)
    likelihood = partial(BernoulliLikelihood, net=partial(MLP, hidden=[16]))
    model = VAE(Spec(SHAPE, 2), partial(GaussianPosterior, net=partial(MLP, hidden=[16])), likelihood, latent_size=3)
    given = {"image": torch.randint(2, (10, *SHAPE)).float()}
    objective = SemiAmortised(steps=3, rate=1.0, beta=Linear(0.5))
    objective.check(model, given)
    assert all(parameter.grad is None for parameter in model.parameters())
    found = objective(model, given, 0.25)
    assert found.logs["beta"] == 0.5
    found.value.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    with torch.no_grad():
        assert objective(model, given, 0.25).value.isfinite()


def test_other_posteriors_are_refused() -> None:
    net = partial(MLP, hidden=[4])
    model = VAE(
        Spec(SHAPE, 2), partial(LowRankPosterior, net=net), partial(BernoulliLikelihood, net=net), latent_size=3
    )
    with pytest.raises(ValueError, match="refines diagonal Gaussians, got the encoder's"):
        SemiAmortised().check(model, {"image": torch.ones(2, *SHAPE)})
    with pytest.raises(ValueError, match="refines one latent, got a story of z3, z2, z1"):
        SemiAmortised().check(Ladder(Spec(SHAPE, 2)), {"image": torch.ones(2, *SHAPE)})
    with pytest.raises(ValueError, match=r"SemiAmortised.steps: expected at least 1, got 0"):
        SemiAmortised(steps=0)
    with pytest.raises(ValueError, match=r"SemiAmortised.rate: expected a rate above 0 and at most 1, got 2"):
        SemiAmortised(rate=2)
