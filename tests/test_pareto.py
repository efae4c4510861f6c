"""The tail of importance weights: scipy's fits and known shapes are met, and what its error cannot know is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import genpareto
from torch import Tensor
from torch.distributions import Normal

from tests.test_estimators import correlated, exact, linear_gaussian, orthogonal, precision
from vae_lightning.core import Batch, FromPosterior, Spec
from vae_lightning.measure import measure
from vae_lightning.metrics import ImageEvaluation, importance
from vae_lightning.metrics.estimators.importance import Importance
from vae_lightning.metrics.estimators.pareto import PRIOR_SHAPE, PRIOR_WEIGHTS, keep_largest, pareto_shape, tail_length
from vae_lightning.models import VAE


def unshrunk(shape: Tensor, tail: int) -> Tensor:
    """Without what the prior added."""
    return (shape * (tail + PRIOR_WEIGHTS) - PRIOR_WEIGHTS * PRIOR_SHAPE) / tail


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.5, 0.7, 1.0, 1.5])
def test_exact_pareto_weights_have_their_shape_and_scipys(shape: float) -> None:
    """Weights above a threshold of 1, by whatever scale, from 950 down to 95 of them."""
    for m, near in ((950, 0.02), (95, 0.1)):
        x = torch.from_numpy(genpareto.rvs(shape, scale=3, size=(m, 200), random_state=np.random.default_rng(m)))
        log_weight = torch.cat([torch.zeros(1, 200), torch.log1p(x)])[torch.randperm(m + 1)] + 1000  # no overflow
        found = unshrunk(pareto_shape(log_weight), m)
        spread = max(1 + shape, 0.5) / m**0.5  # asymptotic, of the maximum of the likelihood
        assert found.mean().item() == pytest.approx(shape, abs=0.3 * spread + 4 * spread / 200**0.5)
        assert 0.5 * spread < found.std() < 1.5 * spread
        for i in range(10):
            assert found[i].item() == pytest.approx(genpareto.fit(x[:, i].numpy(), floc=0)[0], abs=near)


def test_gaussian_weights_have_the_known_tail() -> None:
    """p = N(0, 1) and q = N(0, s^2): P(w > t) falls as t^(-1 / (1 - s^2)) but for a power of log t, which at any
    feasible number of weights makes k come out a little low; wider q have bounded weights, and k below 0."""
    for s in (0.3, 0.5, 0.7, 0.9):
        z = s * torch.randn(40_000, 50).double()
        log_weight = Normal(0.0, 1.0).log_prob(z) - Normal(0.0, s).log_prob(z)
        tail = tail_length(len(z))
        found = unshrunk(pareto_shape(log_weight.topk(tail + 1, 0).values), tail)
        assert 1 - s**2 - 0.12 < found.mean() < 1 - s**2 + 0.03
        w = log_weight[:, 0].exp().topk(tail + 1).values
        assert found[0].item() == pytest.approx(genpareto.fit((w[:-1] - w[-1]).numpy(), floc=0)[0], abs=0.02)
    for s in (1.05, 1.5):
        z = s * torch.randn(40_000, 50).double()
        log_weight = Normal(0.0, 1.0).log_prob(z) - Normal(0.0, s).log_prob(z)
        assert (pareto_shape(log_weight.topk(tail + 1, 0).values) < 0.1).all()


@torch.no_grad()
def measured(model: VAE, x: Tensor, samples: int) -> ImageEvaluation:
    """The pass of a test over some images."""
    evaluation = ImageEvaluation(samples)
    evaluation.start(torch.device("cpu"), keep=True)
    evaluation.update(model, Spec(tuple(x.shape[1:]), 2), {"image": x}, "test")
    return evaluation


class Drawn:
    """A model whose log weights are the next of a list: what they are does not depend on how they are asked for."""

    def __init__(self, log_weight: Tensor) -> None:
        self.log_weight, self.place = log_weight, [0] * log_weight.shape[1]

    def about(self, given: Batch) -> Callable[[FromPosterior], SimpleNamespace]:
        images = given["image"].flatten().long()  # an image is its number

        def story(draw: FromPosterior) -> SimpleNamespace:
            rows = self.log_weight[self.place[images[0]] :][: draw.num_samples, images]
            for i in images:
                self.place[i] += draw.num_samples
            return SimpleNamespace(log_prob=lambda x: rows)

        return story


@pytest.mark.parametrize("tile", [1, 7, 100, 999, 1000, 3500, 10_000])
def test_no_tile_changes_the_tail(tile: int) -> None:
    log_weight = 2 * torch.randn(1000, 5)
    found = importance(Drawn(log_weight), {"image": torch.arange(5.0).view(5, 1, 1, 1)}, [10, 100, 1000], tile)  # type: ignore[arg-type]
    assert found.largest.shape == (96, 5)
    assert torch.equal(found.largest.sort(0, descending=True).values, log_weight.sort(0, descending=True).values[:96])
    assert torch.equal(found.pareto_k(), pareto_shape(log_weight.topk(96, 0).values))


def test_sums_hold_for_images_of_a_hundred_thousand_nats() -> None:
    """Where a sample of float32 would add less than half of the last place to a sum that is kept in it."""
    log_weight = torch.randn(4000, 2)
    exact = log_weight.double().logsumexp(0) - math.log(4000)
    far = (log_weight - 110_000).double()
    exact_far = far.logsumexp(0) - math.log(4000)
    image = {"image": torch.arange(2.0).view(2, 1, 1, 1)}
    for weights, value in ((log_weight, exact), (log_weight - 110_000, exact_far)):
        found = importance(Drawn(weights), image, [4000], 4)  # type: ignore[arg-type]
        torch.testing.assert_close(found.log_prob[0], value, rtol=0, atol=1e-6)
        assert (found.effective < 4000).all()


def test_how_many_are_kept() -> None:
    assert [tail_length(k) for k in (1, 24, 25, 100, 1000, 5000, 10**6)] == [1, 5, 5, 20, 95, 213, 3000]
    kept: Tensor | None = None
    for part in torch.arange(100.0).view(100, 1)[torch.randperm(100)].split(9):
        kept = keep_largest(kept, part, 21)
        assert len(kept) <= 21
    assert kept is not None
    assert kept.flatten().sort().values.tolist() == list(range(79, 100))


def test_weights_without_a_tail() -> None:
    """Equal ones, or equal up to rounding, as those of an exact posterior; too few; all of them zero; with ties."""
    assert pareto_shape(torch.full((96, 3), -80.0)).tolist() == [0, 0, 0]
    assert pareto_shape(-80 + 1e-5 * torch.randn(96, 3)).tolist() == [0, 0, 0]
    assert pareto_shape(torch.randn(5, 3)).isnan().all()
    assert pareto_shape(torch.full((96, 2), -torch.inf)).isnan().all()
    some = torch.randn(96, 1)
    assert pareto_shape(torch.cat([some, torch.where(some < 1, -torch.inf, some)], 1)).isfinite().all()
    ties = torch.zeros(96, 2)
    ties[:3, 0], ties[:80, 1] = 1, 1
    assert pareto_shape(ties).isfinite().all()
    model, x = linear_gaussian(orthogonal())
    assert (importance(model.float(), {"image": x.float()}, [100]).pareto_k() <= 0.5).all()


def studied(weight: Tensor, wider: float, samples: int) -> tuple[Importance, float, str, float]:
    """What importance sampling finds of 400 images, how many of its own errors it lies off, what the test says of it,
    and the tail's true shape: 1 - the smallest eigenvalue of V^1/2 P V^1/2, of the variances V of q."""
    model, x = linear_gaussian(weight, wider=wider, images=400)
    scale = model.trace({"image": x[:1]}).sites["z"].q.stddev[0].detach()
    true = 1 - torch.linalg.eigvalsh(scale[:, None] * precision(weight) * scale).min().item()
    found = importance(model, {"image": x}, [samples])
    error = (found.variance([samples])[0].mean() / len(x)).sqrt()
    off = ((exact(model, x) - found.log_prob[0]).mean() / error).item()
    evaluation = measured(model, x, samples)
    with torch.no_grad():
        asked = SimpleNamespace(results=evaluation.results(), evaluation=evaluation)
        section = measure.likelihood(asked)  # type: ignore[arg-type]
    (row,) = [row for row in section.rows if row.name == "pareto_high"]
    assert row.mean == pytest.approx(100 * (evaluation.per_image["pareto_k"] > 0.7).double().mean().item())
    return found, off, " ".join(section.notes), true


def test_an_error_that_does_not_hold_is_said_not_to() -> None:
    """On linear-Gaussian models, whose exact value is known."""
    found, off, said, true = studied(orthogonal(), 0.2, 400)
    assert true < 0
    assert (found.pareto_k() < 0.5).all()
    assert abs(off) < 4
    assert "Pareto" not in said
    found, off, said, true = studied(correlated(), 0.0, 400)
    print(f"a narrow posterior, k {true:.2f}: {found.pareto_k().mean():.2f} found, {off:.1f} errors too high")
    assert true > 0.7
    assert off > 4
    assert 0.7 < unshrunk(found.pareto_k(), tail_length(400)).mean() < true + 0.05
    assert "do not trust the error from its samples: for " in said
    assert "(to 4000)" in said


def test_too_few_samples_tell_of_no_tail() -> None:
    model, x = linear_gaussian(orthogonal())
    evaluation = measured(model, x, 20)
    assert not {"pareto_k", "pareto_high"} & (set(evaluation.results()) | set(evaluation.per_image))
