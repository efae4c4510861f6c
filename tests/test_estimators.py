"""Estimates of log p(x) and of its gap to the ELBO against linear-Gaussian truths."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from tests.stories import Ladder
from vae_lightning.conditionals import BernoulliLikelihood, GaussianLikelihood, GaussianPosterior, PointMass
from vae_lightning.core import Batch, LatentModel, Spec, Story
from vae_lightning.metrics import ImageEvaluation, importance
from vae_lightning.metrics.estimators.annealing import annealed_log_prob, sigmoidal
from vae_lightning.metrics.estimators.gap import bound_beside, inference_gap, prior_log_prob
from vae_lightning.metrics.estimators.refinement import Bounds, refined
from vae_lightning.models import VAE
from vae_lightning.nets import MLP

SCALE = 0.5
SHAPE = (1, 2, 4)


def linear_gaussian(weight: Tensor, shift: float = 0.0, wider: float = 0.0, images: int = 40) -> tuple[VAE, Tensor]:
    """x = W z + bias + 0.5 noise, (8, d) weights, and images of it. The encoder has the exact means and the variances
    1 / precision_ii, the best of a diagonal Gaussian, unless `shift` is added to the means and `wider` to the log
    scales."""
    d, linear = weight.shape[1], partial(MLP, hidden=[])
    likelihood = partial(GaussianLikelihood, net=linear, scale=SCALE)
    model = VAE(Spec(SHAPE, 2), partial(GaussianPosterior, net=linear), likelihood, latent_size=d).double().eval()
    bias = torch.randn(8).double()
    with torch.no_grad():
        model.likelihood.head.last.weight.copy_(weight)
        model.likelihood.head.last.bias.copy_(bias)
        gain = torch.linalg.solve(precision(weight), weight.T / SCALE**2)
        model.encoder.mu.weight.copy_(gain)
        model.encoder.mu.bias.copy_(-gain @ bias + shift)
        log_scale = -0.5 * precision(weight).diag().log() + wider
        model.encoder.log_scale.bias.copy_(7 * torch.atanh(log_scale / 7))
    x = torch.randn(images, d).double() @ weight.T + bias + SCALE * torch.randn(images, 8).double()
    return model, x.view(-1, *SHAPE)


def precision(weight: Tensor) -> Tensor:
    """Of p(z|x), whatever x."""
    return torch.eye(weight.shape[1]).double() + weight.T @ weight / SCALE**2


def posterior(model: VAE, x: Tensor) -> MultivariateNormal:
    last = model.likelihood.head.last
    weight, bias = last.weight.detach(), last.bias.detach()
    mean = torch.linalg.solve(precision(weight), weight.T @ (x.flatten(1) - bias).T / SCALE**2).T
    return MultivariateNormal(mean, precision_matrix=precision(weight))


def exact(model: VAE, x: Tensor) -> Tensor:
    """log p(x), (B,)."""
    last = model.likelihood.head.last
    weight = last.weight.detach()
    covariance = weight @ weight.T + SCALE**2 * torch.eye(8).double()
    return MultivariateNormal(last.bias.detach(), covariance).log_prob(x.flatten(1))


def orthogonal() -> Tensor:
    """Weights whose posterior is diagonal."""
    return torch.linalg.qr(torch.randn(8, 3).double())[0] * torch.tensor([2.0, 1.0, 0.3])


def correlated() -> Tensor:
    return orthogonal() @ torch.tensor([[1.0, 0.8, 0.3], [0.0, 0.6, 0.5], [0.0, 0.0, 1.0]]).double()


# -- annealed importance sampling -------------------------------------------------------------------------------------


def test_annealing_schedule() -> None:
    for steepness in (0.0, 4.0):
        b = sigmoidal(10, steepness)
        assert (b[0], b[-1], len(b)) == (0, 1, 11)
        assert all(low < high for low, high in itertools.pairwise(b))
        assert [1 - x for x in reversed(b)] == pytest.approx(b)
    assert sigmoidal(4, 0.0) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert sigmoidal(100, 4.0)[1] < 0.002  # slow where the chains leave the start


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_annealing_meets_the_exact_value_within_its_own_error(start: str) -> None:
    """A posterior off by some of its scales; of 40 images about 95 % lie within 1.96 of their own errors."""
    model, x = linear_gaussian(correlated(), shift=0.3, wider=-0.3)
    found = annealed_log_prob(model, {"image": x}, chains=64, temperatures=100, leapfrog_steps=8, start=start)
    z = (found.log_prob - exact(model, x)) / found.standard_error
    assert (z.abs() < 3).float().mean() >= 0.975
    assert (z.abs() < 1.96).float().mean() >= 0.85
    assert 0.6 < z.std() < 1.5  # nor are the errors too large
    assert abs(z.mean()) < 3 / math.sqrt(40) + 0.1
    assert found.standard_error.median() < 0.15
    assert found.standard_error.max() < 0.5


def test_annealing_does_better_than_importance_sampling_from_a_spoilt_encoder() -> None:
    """One temperature without a transition is importance sampling, and its error is many times that of annealing."""
    model, x = linear_gaussian(correlated(), shift=1.0, wider=-1.0, images=10)
    plain = annealed_log_prob(model, {"image": x}, 200, temperatures=1)
    annealed = annealed_log_prob(model, {"image": x}, 64, temperatures=200, leapfrog_steps=10)
    worst = (annealed.log_prob - exact(model, x)).abs().max()
    assert worst < 1
    assert (plain.log_prob - exact(model, x)).mean() < -20


def test_mean_weight_is_without_bias_for_p_of_x() -> None:
    """Also with few temperatures and short, rough transitions, whose weights are noisy: that is what the pilots buy."""
    model, x = linear_gaussian(correlated(), images=1)
    many = x.expand(4000, *SHAPE)
    found = annealed_log_prob(model, {"image": many}, 2, temperatures=6, leapfrog_steps=2, start="prior", pilots=1)
    ratio = (found.log_prob - exact(model, x)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(4000)
    assert found.log_prob.mean() < exact(model, x) - 0.02  # its logarithm has one


def test_annealing_of_an_exact_posterior_has_no_error() -> None:
    model, x = linear_gaussian(orthogonal())
    found = annealed_log_prob(model, {"image": x}, chains=3, temperatures=5, leapfrog_steps=2)
    torch.testing.assert_close(found.log_prob, exact(model, x))
    assert found.standard_error.max() < 1e-6


def test_annealing_meets_a_sum_over_a_grid_of_latents() -> None:
    """A nonlinear decoder of binary images with two latents, whose log p(x) is a sum over a fine grid."""
    likelihood = partial(BernoulliLikelihood, net=partial(MLP, hidden=[8], activation=torch.nn.Tanh))
    model = VAE(Spec((1, 3, 3), 2), likelihood=likelihood, latent_size=2).double().eval()
    with torch.no_grad():
        model.likelihood.head.last.weight.mul_(4)
    x = model.sample({}, 12).sample()
    axis = torch.linspace(-6, 6, 241).double()
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        joint = model.likelihood(grid[:, None]).log_prob(x) + Normal(0.0, 1.0).log_prob(grid).sum(1, keepdim=True)
    truth = joint.logsumexp(0) + 2 * math.log(0.05)
    for start in ("posterior", "prior"):
        estimate = partial(annealed_log_prob, model, {"image": x}, 32, temperatures=60, leapfrog_steps=4, start=start)
        found = [estimate(seed=seed) for seed in range(4)]
        error = torch.stack([f.log_prob - truth for f in found])
        z = error / torch.stack([f.standard_error for f in found])  # 48 of them
        assert (z.abs() < 1.96).float().mean() > 0.85
        assert z.abs().max() < 4.5
        assert error.abs().max() < 0.5


def test_annealing_leaves_model_generator_and_caller_as_they_were() -> None:
    model, x = linear_gaussian(orthogonal(), shift=0.2, images=300)  # several tiles
    before = torch.get_rng_state()
    arguments = {"chains": 2, "temperatures": 3, "leapfrog_steps": 1}
    with torch.no_grad():
        first = annealed_log_prob(model, {"image": x}, **arguments)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.log_prob, annealed_log_prob(model, {"image": x}, **arguments).log_prob)
    assert not torch.equal(first.log_prob, annealed_log_prob(model, {"image": x}, **arguments, seed=1).log_prob)
    assert not first.log_prob.requires_grad
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        annealed_log_prob(model, {"image": x})


def test_images_do_not_depend_on_how_many_move_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = linear_gaussian(orthogonal(), shift=0.2, images=7)
    monkeypatch.setattr("vae_lightning.metrics.estimators.tiles.TILE_VALUES", 8 * 4 * 40 * 2)  # two images of 40 chains
    found = annealed_log_prob(model, {"image": x}, 36, temperatures=20, leapfrog_steps=3)
    assert found.log_prob.shape == found.standard_error.shape == (7,)
    assert ((found.log_prob - exact(model, x)) / found.standard_error).abs().max() < 3.5


class Coins(LatentModel):
    """A latent of two coins, in which there is no gradient."""

    def about(self, given: Batch) -> Story:
        p = Independent(Bernoulli(torch.full((2,), 0.5)), 1)
        q = p.expand(given["image"].shape[:1]) if "image" in given else None
        return lambda draw: Independent(Normal(draw("z", p, q).mean(-1)[..., None, None, None], 1.0), 3)


def test_refusals() -> None:
    x = torch.zeros(2, *SHAPE)
    autoencoder = VAE(Spec(SHAPE, 2), encoder=PointMass, latent_size=2)
    for model, got in (
        (autoencoder, r"have a density, got \['Delta'\], a point mass"),
        (Coins(), r"continuous latents, got \['Independent'\]"),
    ):
        with pytest.raises(ValueError, match=got):
            annealed_log_prob(model, {"image": x}, 2, 1, 1)
        with pytest.raises(ValueError, match=got):
            inference_gap(model, {"image": x}, torch.zeros(2))
    model = VAE(Spec(SHAPE, 2), latent_size=2)
    for arguments in ({"chains": 1}, {"temperatures": 0}, {"leapfrog_steps": 0}, {"pilots": 0}):
        with pytest.raises(ValueError, match=r"expected at least \(2, 1, 1, 1\)"):
            annealed_log_prob(model, {"image": x}, **arguments)
    with pytest.raises(ValueError, match="'posterior' or 'prior', got 'encoder'"):
        annealed_log_prob(model, {"image": x}, start="encoder")
    with pytest.raises(ValueError, match="expected one value an image, 2"):
        inference_gap(model, {"image": x}, torch.zeros(3))
    with pytest.raises(ValueError, match="at least 1 of steps and step_samples"):
        inference_gap(model, {"image": x}, torch.zeros(2), steps=0)
    with pytest.raises(ValueError, match="at least 1"):
        prior_log_prob(model, {"image": x}, 0)
    model.encoder.forward = lambda image: MultivariateNormal(torch.zeros(len(image), 2), torch.eye(2))
    with pytest.raises(ValueError, match="GaussianPosterior"):
        inference_gap(model, {"image": x}, torch.zeros(2))


# -- the parts of the gap ---------------------------------------------------------------------------------------------


def test_prior_samples_fall_short_and_rise_with_their_number() -> None:
    model, x = linear_gaussian(orthogonal())
    truth = exact(model, x)
    means = []
    for k in (1, 10, 100):
        means.append(torch.stack([prior_log_prob(model, {"image": x}, k) for _ in range(50)]).mean())
    means.append(prior_log_prob(model, {"image": x}, 200_000).mean())
    assert all(low < high for low, high in itertools.pairwise(means))
    assert means[2] < truth.mean() - 0.05
    torch.testing.assert_close(prior_log_prob(model, {"image": x}, 200_000), truth, atol=0.15, rtol=0)


@pytest.mark.parametrize("tile", [1, 7, 64, 10_000])
def test_prior_samples_in_tiles_are_the_sum_at_once(tile: int) -> None:
    model, x = linear_gaussian(orthogonal(), images=9)
    torch.manual_seed(1)
    found = prior_log_prob(model, {"image": x}, 50, tile)
    torch.manual_seed(1)
    at_once = max(1, tile // min(9, math.isqrt(tile)))
    counts = [min(at_once, 50 - done) for done in range(0, 50, at_once)]
    parts = [model.sample({}, count).log_prob(x[:, None]) for count in counts]
    torch.testing.assert_close(found, torch.cat(parts, 1).exp().mean(1).log())


def test_spoilt_encoder_is_told_from_the_family() -> None:
    """With a diagonal p(z|x) the family loses nothing, and the encoder KL(q || p(z|x)), for each image."""
    model, x = linear_gaussian(orthogonal(), shift=0.4, wider=0.3)
    gap = inference_gap(model, {"image": x}, exact(model, x), num_samples=4000)
    kl = kl_divergence(posterior_of(model, x), posterior(model, x))
    assert kl.min() > 0.5
    torch.testing.assert_close(gap.approximation, torch.zeros_like(kl), atol=0.01, rtol=0)
    torch.testing.assert_close(gap.amortisation, kl, atol=0.3, rtol=0)
    assert gap.amortisation.mean().item() == pytest.approx(kl.mean().item(), rel=0.02)
    torch.testing.assert_close(gap.elbo + gap.amortisation + gap.approximation, exact(model, x))
    torch.testing.assert_close(gap.best_elbo, gap.elbo + gap.amortisation)


def posterior_of(model: VAE, x: Tensor) -> MultivariateNormal:
    """The encoder's q(z|x), as the class whose KL to p(z|x) torch has in closed form."""
    q = model.trace({"image": x}).sites["z"].q
    return MultivariateNormal(q.mean.detach(), torch.diag_embed(q.variance.detach()))


def test_correlated_posterior_leaves_the_approximation_gap() -> None:
    """The best diagonal q has the exact mean and variances 1 / precision_ii, at KL = 1/2 (sum log precision_ii - log
    det precision), whatever the image and wherever the search starts."""
    weight = correlated()
    closed = 0.5 * (precision(weight).diag().log().sum() - precision(weight).logdet())
    assert closed > 0.3
    model, x = linear_gaussian(weight, shift=0.5, wider=-0.5)
    gap = inference_gap(model, {"image": x}, exact(model, x), num_samples=4000)
    torch.testing.assert_close(gap.approximation, closed.expand(40), atol=0.12, rtol=0)
    assert gap.approximation.mean().item() == pytest.approx(closed.item(), rel=0.05)
    model, x = linear_gaussian(weight)  # an encoder that is the best already
    gap = inference_gap(model, {"image": x}, exact(model, x), num_samples=4000)
    assert 0 <= gap.amortisation.min() <= gap.amortisation.max() < 0.02
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# -- proposals of each image's own ------------------------------------------------------------------------------------


def test_refined_posteriors_make_up_for_a_spoilt_encoder() -> None:
    """From a narrow q that lies elsewhere importance samples are nats off; from the Gaussian that the search finds,
    whose optimum is known, they meet the exact value within the error that they state. Widened, more of them count."""
    model, x = linear_gaussian(0.35 * correlated(), shift=1.0, wider=-1.0)
    spoilt = importance(model, {"image": x}, [2000])
    assert (spoilt.log_prob[0] - exact(model, x)).mean() < -2
    best = refined(model, {"image": x}, steps=300, step_samples=8)
    torch.testing.assert_close(best.mean, posterior(model, x).mean, atol=0.15, rtol=0)
    diagonal = precision(model.likelihood.head.last.weight.detach()).diag().rsqrt()
    torch.testing.assert_close(best.scale.mean(0), diagonal, rtol=0.05, atol=0)
    found, narrow = (importance(model, {"image": x}, [2000], proposal=q) for q in (best.widened(), best))
    z = (found.log_prob[0] - exact(model, x)) / found.variance([2000])[0].sqrt()
    assert abs(z.mean()) < 4 / math.sqrt(40)
    assert 0.7 < z.std() < 1.4
    assert found.effective.mean() > 1.2 * narrow.effective.mean() > 10 * spoilt.effective.mean()


def test_refinement_never_makes_a_posterior_worse() -> None:
    """Steps that are long beside a narrow posterior lead away from it: the encoder's is kept."""
    model, x = linear_gaussian(200 * orthogonal())
    q = model.trace({"image": x}).sites["z"].q
    assert q.stddev.min() < 0.002
    found = refined(model, {"image": x})
    before, after = (importance(model, {"image": x}, [200], proposal=g).log_prob[0] for g in (None, found))
    assert (after - before).mean() > -0.01
    assert ((found.mean - q.mean).abs().amax(1) < q.stddev.amax(1)).all()


@pytest.mark.parametrize("seed", range(4))
def test_samples_that_weigh_are_not_those_that_sought(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = linear_gaussian(orthogonal(), images=2)
    sought, log_weight = list[Tensor](), Bounds.log_weight
    monkeypatch.setattr(Bounds, "log_weight", lambda self, q, noise: sought.append(noise) or log_weight(self, q, noise))
    torch.manual_seed(seed)
    refined(model, {"image": x}, 3)
    assert not torch.isin(torch.randn(1000), torch.cat([noise.flatten() for noise in sought])).any()


def test_refinement_leaves_caller_and_generator_as_they_were() -> None:
    model, x = linear_gaussian(correlated(), shift=0.5)
    torch.manual_seed(3)
    expected = torch.randn(1)
    torch.manual_seed(3)
    with torch.inference_mode():  # as Lightning tests
        found = refined(model, {"image": x.clone()}, 5)
    assert torch.equal(torch.randn(1), expected)
    again = refined(model, {"image": x}, 5)
    assert torch.equal(found.mean, again.mean)
    assert not again.mean.requires_grad
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_search_that_diverges_gives_the_encoders_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = linear_gaussian(correlated(), shift=0.5)
    x[3] = torch.nan
    q = model.trace({"image": x[:3]}).sites["z"].q
    found = refined(model, {"image": x}, 5)
    assert found.mean[[0, 1, 2, *range(4, 40)]].isfinite().all()
    assert (found.mean[:3] - q.mean).abs().max() > 0.01
    search = Bounds.search
    monkeypatch.setattr(
        Bounds, "search", lambda *a: [torch.where(torch.arange(40)[:, None] == 1, torch.inf, t) for t in search(*a)]
    )
    found = refined(model, {"image": x}, 5)
    torch.testing.assert_close((found.mean[1], found.scale[1]), (q.mean[1], q.stddev[1]))
    assert (found.mean[0] - q.mean[0]).abs().max() > 0.01


@pytest.mark.parametrize("refinement", [0, 3])
def test_the_gap_is_never_negative(refinement: int) -> None:
    """Of three images and ten samples, whose noise its terms share or are rid of."""
    model = VAE(Spec((1, 4, 4), 256), GaussianPosterior, GaussianLikelihood, latent_size=2).eval()
    for seed in range(20):
        torch.manual_seed(seed)
        evaluation = ImageEvaluation(samples=10, refinement=refinement, studies=False)
        evaluation.start(torch.device("cpu"), keep=True)
        with torch.no_grad():
            evaluation.update(
                model, Spec((1, 4, 4), 256), {"image": torch.randint(0, 256, (3, 1, 4, 4)).float()}, "test"
            )
        gap, error = evaluation.results()["gap"]
        assert gap >= 0
        assert evaluation.per_image["gap"].shape == (3,)
        assert (evaluation.per_image["gap"] >= 0).all()
        assert error >= 0


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_refined_gap_is_without_the_encoders_noise(diagonal: bool) -> None:
    """The encoder's bound beside refined posteriors, of ten samples: without bias, with half the noise of the samples'
    mean, and with next to none where p(z|x) is one of them. So the gap of no image comes out below 0."""
    weight = orthogonal() if diagonal else torch.randn(8, 3).double() * torch.tensor([1.5, 1.0, 0.5])
    model, x = linear_gaussian(weight, shift=0.2, wider=0.1, images=20)
    given, elbo = {"image": x}, exact(model, x) - kl_divergence(posterior_of(model, x), posterior(model, x))
    near = refined(model, given, 200)
    mine, plain, gaps = [], [], []
    for _ in range(60):
        mine.append(bound_beside(near, model, given, 10))
        plain.append(importance(model, given, [10]).bound[0])
        gaps.append(importance(model, given, [10], proposal=near.widened()).log_prob[0] - mine[-1])
    found, others = torch.stack(mine), torch.stack(plain)
    error = found.std(0) / 60**0.5
    assert ((found.mean(0) - elbo).abs() < 4.5 * error + 1e-3).all()
    assert found.std(0).mean() < (0.05 if diagonal else 0.6) * others.std(0).mean()
    assert torch.stack(gaps).min() > 0
    assert (exact(model, x) - others).min() < 0  # as those of the samples' mean do


def test_the_bound_of_several_latents_beside_refined_posteriors() -> None:
    """Whose later posteriors hang on the earlier latents: without bias, though far from p(z|x), where it has as much
    noise as the samples' mean."""
    spec = Spec((1, 8, 8), 17)
    model = Ladder(spec).eval()
    given = {"image": torch.randint(0, 17, (3, 1, 8, 8)).float()}
    near = refined(model, given, 20)
    few = torch.stack([bound_beside(near, model, given, 100) for _ in range(40)])
    plain = torch.stack([importance(model, given, [100]).bound[0] for _ in range(40)])
    apart = few.mean(0) - plain.mean(0)
    assert (apart.abs() < 4.5 * ((few.var(0) + plain.var(0)) / 40).sqrt()).all()
