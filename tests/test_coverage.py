"""Every number with an error bar meets the exact value within it, 95 % of the time: 200 seeds, each with its own images
and noise, on the linear-Gaussian model wherever that has a closed form. Where an estimator is biased by construction,
the test says by how much and which way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from tests.test_estimators import SCALE, SHAPE, correlated, linear_gaussian, orthogonal, precision
from tests.test_information import Channel
from tests.test_pareto import measured
from vae_lightning.conditionals import BernoulliLikelihood
from vae_lightning.core import Spec
from vae_lightning.measure import measure
from vae_lightning.metrics import importance, independent_pixels_nll, mean_error, pca_squared_error
from vae_lightning.metrics.anomaly import auroc
from vae_lightning.metrics.baselines import ppca_log_prob
from vae_lightning.metrics.estimators.annealing import annealed_log_prob
from vae_lightning.metrics.estimators.gap import inference_gap, prior_log_prob
from vae_lightning.metrics.estimators.refinement import refined
from vae_lightning.metrics.information import decompose_rate, shuffled_distortion
from vae_lightning.models import VAE
from vae_lightning.nets import MLP

SEEDS, IMAGES = 200, 100


def covered(name: str, found: Sequence[tuple[float, float]] | Tensor, truth: float | Tensor, bias: float = 0.0) -> None:
    """Of 200 (value, error), as many within 1.96 errors of the truth as 95 % allow, give or take three standard
    deviations of the binomial; neither is the truth missed on one side, by more than `bias` errors, nor are the errors
    too large or too small.

    Args:
        truth: one for all seeds, or one each.
        bias: how far off the mean may be, in errors.
    """
    value, error = torch.as_tensor(found, dtype=torch.float64).T
    z = (value - truth) / error
    hits = int((z.abs() < 1.96).sum())
    said = f"{name}: {hits} of {len(z)} within 1.96 errors, z = {z.mean():.2f} +- {z.std():.2f}"
    print(said)
    assert 180 <= hits <= 199, said
    assert abs(z.mean()) < 4 / math.sqrt(len(z)) + bias, said
    assert 0.84 < z.std() < 1.2, said  # four standard deviations of 200 normal numbers' own


def means(values: Tensor) -> list[tuple[float, float]]:
    """As `test` prints the mean of (SEEDS, N) over the images of each seed."""
    return [mean_error(row) for row in values]


class Truth:
    """Expectations over the images of a linear-Gaussian model with the encoder N(G (x - b) + shift, V)."""

    def __init__(self, model: VAE, weight: Tensor, shift: float) -> None:
        self.p, d = precision(weight), weight.shape[1]
        q = model.trace({"image": torch.zeros(1, *SHAPE).double()}).sites["z"].q
        self.v, self.shift = q.variance[0].detach(), torch.full((d,), shift).double()
        gain = torch.linalg.solve(self.p, weight.T / SCALE**2)
        covariance = weight @ weight.T + SCALE**2 * torch.eye(8).double()
        left = torch.eye(8).double() - weight @ gain
        self.residual, self.off = left @ covariance @ left.T, weight @ self.shift
        self.log_prob = -0.5 * (8 * math.log(2 * math.pi) + covariance.logdet() + 8)
        code = (gain @ covariance @ gain.T).diag() + self.shift.square()
        self.rate = 0.5 * (self.v + code - 1 - self.v.log()).sum()
        self.squared_error = self.residual.trace() + self.off.square().sum()
        self.sampled_squared_error = self.squared_error + (weight.square() @ self.v).sum()
        self.distortion = self.sampled_squared_error / (2 * SCALE**2) + 4 * math.log(2 * math.pi * SCALE**2)
        self.elbo = -(self.rate + self.distortion)
        self.family = 0.5 * (self.p.diag().log().sum() - self.p.logdet())  # the best diagonal Gaussian's KL
        self.gap = self.log_prob - self.elbo

    @property
    def psnr(self) -> Tensor:
        """E log Q = int (e^-t - E e^-tQ) / t dt (Frullani) of the squared error Q, along log t."""
        t = torch.linspace(-40, 20, 20_000).double().exp()[:, None]
        variance, axes = torch.linalg.eigh(self.residual)
        spread = 1 + 2 * variance.clamp_min(0) * t
        laplace = (-0.5 * spread.log() - t * (axes.T @ self.off).square() / spread).sum(1).exp()
        mean_log = torch.trapezoid((-t[:, 0]).exp() - laplace, t[:, 0].log())
        return -10 / math.log(10) * (mean_log - math.log(8))

    @property
    def effective(self) -> Tensor:
        """1 / E_q w^2 of the normalised weights w, what the effective share of many samples tends to."""
        sharp = 2 * self.p - (1 / self.v).diag()
        pull = self.p @ self.shift
        exponent = 2 * pull @ torch.linalg.solve(sharp, pull) - self.shift @ pull
        return (-self.p.logdet() - 0.5 * self.v.log().sum() + 0.5 * sharp.logdet() - exponent).exp()


def test_bound_terms_gap_and_reconstruction() -> None:
    """All that one pass prints. -log p(x) is too high by half its variance over samples, here 0.01 of its error, and
    the gap too low by as much, which is more of its smaller error."""
    weight, samples = orthogonal(), 100
    model, x = linear_gaussian(weight, shift=0.1, wider=0.2, images=SEEDS * IMAGES)
    truth = Truth(model, weight, 0.1)
    found: dict[str, list[tuple[float, float]]] = {}
    with torch.no_grad():
        for image in x.split(IMAGES):
            evaluation = measured(model, image, samples)
            results = evaluation.results()
            asked = SimpleNamespace(results=results, evaluation=evaluation)
            printed = measure.likelihood(asked).rows  # type: ignore[arg-type]
            for name, value in {**results, **{row.name: (row.mean, row.error) for row in printed}}.items():
                found.setdefault(name, []).append(value)
    assert truth.gap > 0.2
    for name in ("elbo", "rate", "distortion", "squared_error", "sampled_squared_error", "psnr"):
        covered(name, found[name], getattr(truth, name))
    low = torch.tensor(found["estimator_variance"])[:, 0].mean().item() / 2
    covered("gap", found["gap"], truth.gap - low, bias=0.1)
    covered("nll", found["nll"], -truth.log_prob)
    covered("nll_1", found["nll_1"], -truth.elbo)
    falling = [torch.tensor(found[name]).mean(0)[0] for name in ("nll_1", "nll_10", "nll")]
    assert falling[0] > falling[1] > falling[2]  # upper bounds of -log p(x), on average
    share = torch.tensor(found["effective_samples"])[:, 0].mean() / samples
    assert share.item() == pytest.approx(truth.effective.item(), rel=0.02)  # too high by some 1 / samples of itself


def test_error_that_importance_sampling_states_of_itself() -> None:
    """Of the mean over these images, whose exact mean is known; its bias is half the root of variance x images."""
    weight = orthogonal()
    model, x = linear_gaussian(weight, shift=0.1, wider=0.2, images=SEEDS * IMAGES)
    found = importance(model, {"image": x}, [200])
    variance = found.variance([200])[0].view(SEEDS, IMAGES).mean(1)
    noise = (variance / IMAGES).sqrt()
    value, truth = (t.view(SEEDS, IMAGES).mean(1) for t in (found.log_prob[0], exact_of(model, weight, x)))
    covered("estimator_error", torch.stack([value, noise], 1), truth, bias=0.5 * math.sqrt(variance.mean() * IMAGES))


def exact_of(model: VAE, weight: Tensor, x: Tensor) -> Tensor:
    covariance = weight @ weight.T + SCALE**2 * torch.eye(8).double()
    bias = model.likelihood.head.last.bias.detach()
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(x.flatten(1))


def test_checks_of_log_p() -> None:
    """As `checks` prints them: annealing, importance sampling from the encoder's and from refined posteriors, samples
    from the prior where two latents let 5000 of them reach the image."""
    weight, images = orthogonal()[:, :2] / 2, 30
    model, x = linear_gaussian(weight, shift=0.1, wider=0.1, images=SEEDS * images)
    truth = Truth(model, weight, 0.1).log_prob
    annealed = annealed_log_prob(model, {"image": x}, 16, 15, 3, steepness=0.0).log_prob
    plain = importance(model, {"image": x}, [500]).log_prob[0]
    covered("annealed_nll", means(-annealed.view(SEEDS, images)), -truth)
    covered("checked_difference", means((annealed - plain).view(SEEDS, images)), 0.0)
    proposal = refined(model, {"image": x}, 20).widened()
    own = importance(model, {"image": x}, [100], proposal=proposal).log_prob[0]
    covered("refined_nll", means(-own.view(SEEDS, images)), -truth)
    covered("refined_difference", means((annealed - own).view(SEEDS, images)), 0.0)
    prior = torch.stack([prior_log_prob(model, {"image": part}, 2000) for part in x.split(images)])
    covered("prior_nll", means(-prior), -truth, bias=0.1)


def test_parts_of_the_gap() -> None:
    """The search stops a hair short of the best Gaussian, so the approximation gap is too high and the amortisation
    gap too low by that hair."""
    weight, images = correlated(), 12
    model, x = linear_gaussian(weight, shift=0.3, wider=-0.3, images=SEEDS * images)
    truth = Truth(model, weight, 0.3)
    gap = inference_gap(model, {"image": x}, exact_of(model, weight, x), num_samples=200, step_samples=4)
    amortisation, approximation = (part.view(SEEDS, images) for part in (gap.amortisation, gap.approximation))
    covered("amortisation_gap", means(amortisation), truth.gap - truth.family)
    covered("approximation_gap", means(approximation), truth.family)


def test_parts_of_the_rate() -> None:
    """Means spread as N(0, C) and posteriors N(x, s^2): the aggregate posterior is N(0, C + s^2)."""
    covariance = torch.tensor([[0.6, 0.35], [0.35, 0.5]]).double()
    noise = torch.tensor([0.8, 0.7]).double()
    total = covariance + noise.square().diag()
    information = 0.5 * (total.logdet() - noise.square().log().sum())
    hole = 0.5 * (total.trace() - 2 - total.logdet())
    correlation = 0.5 * (total.diag().log().sum() - total.logdet())
    truth = (information + hole, information, hole, correlation, hole - correlation)
    images = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance).sample((SEEDS, 400))
    model = Channel(noise, 2).eval()
    found = [decompose_rate(model, [{"image": x.view(-1, 1, 1, 2)}]) for x in images]
    names = ("rate", "mutual_information", "prior_hole", "total_correlation", "dimension_wise_kl")
    for name, expected in zip(names, truth, strict=True):
        covered(name, [getattr(f, name) for f in found], expected, bias=0.3)


def test_distortion_with_anothers_latents() -> None:
    """Each image stands in two terms, once as the image and once by its latents."""
    weight, images = 2 * correlated(), 200
    model, x = linear_gaussian(weight, images=SEEDS * images)
    truth = Truth(model, weight, 0.0)
    covariance = weight @ weight.T + SCALE**2 * torch.eye(8).double()
    gain = torch.linalg.solve(truth.p, weight.T / SCALE**2)
    codes = gain @ covariance @ gain.T + truth.v.diag()
    apart = (covariance + weight @ codes @ weight.T).trace()
    found = [shuffled_distortion(model, ({"image": some} for some in part.split(64))) for part in x.split(images)]
    covered("distortion", [own for own, _ in found], truth.distortion)
    shuffled = apart / (2 * SCALE**2) + 4 * math.log(2 * math.pi * SCALE**2)
    covered("shuffled_distortion", [other for _, other in found], shuffled)


def test_linear_baselines() -> None:
    """Fitted to many images, so that what the fit misses of the truth is small beside the errors."""
    weight = orthogonal()
    _, x = linear_gaussian(weight, images=100_000 + SEEDS * IMAGES)
    train, test = x[:100_000], x[100_000:]
    covariance = weight @ weight.T + SCALE**2 * torch.eye(8).double()
    log_prob = -0.5 * (8 * math.log(2 * math.pi) + covariance.logdet() + 8)
    found = ppca_log_prob([train], [test], 17, 3)
    covered("ppca_nll", means(-found.view(SEEDS, IMAGES)), -log_prob)
    error = pca_squared_error([train], [test], 17, 2)
    lost = torch.linalg.eigvalsh(covariance)[:-2].sum() / 16**2
    covered("pca_squared_error", means(error.view(SEEDS, IMAGES)), lost)


def test_bits_of_binary_images() -> None:
    """No linear-Gaussian model has bits: here log p(x) is an integral over one latent, and all 16 images count."""
    linear = partial(MLP, hidden=[])
    model = VAE(Spec((1, 2, 2), 2), likelihood=partial(BernoulliLikelihood, net=linear), latent_size=1).double().eval()
    z = torch.linspace(-10, 10, 4001).double()[:, None]
    with torch.no_grad():
        model.likelihood.head.last.weight.copy_(torch.tensor([[2.0], [-1.0], [3.0], [0.5]]))
        images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4).view(16, 1, 2, 2)
        log_px = model.likelihood(z[:, None]).log_prob(images)  # (4001, 16)
        q = model.trace({"image": images}).sites["z"].q
        log_p = (log_px + Normal(0.0, 1.0).log_prob(z)).logsumexp(0) + math.log(20 / 4000)
        log_q = Normal(q.mean[:, 0], q.stddev[:, 0]).log_prob(z)
        elbo = (log_q.exp() * (log_px + Normal(0.0, 1.0).log_prob(z) - log_q)).sum(0) * 20 / 4000
        share = log_p.exp()
        assert share.sum().item() == pytest.approx(1)
        drawn = images[torch.multinomial(share, 100_000 + SEEDS * IMAGES, replacement=True)]
        train, test = drawn[:100_000], drawn[100_000:]
        found: dict[str, list[tuple[float, float]]] = {}
        for image in test.split(IMAGES):
            evaluation = measured(model, image, 100)
            for name, value in evaluation.results().items():
                found.setdefault(name, []).append(value)
    covered("bits_per_dim", found["bits_per_dim"], -(share @ elbo) / math.log(16))
    covered("nll_bits_per_dim", found["nll_bits_per_dim"], -(share @ log_p) / math.log(16))
    marginal = share @ images.flatten(1)
    independent = torch.distributions.Bernoulli(marginal).entropy().sum()
    nll = independent_pixels_nll([train], [test], 2)
    covered("independent_nll", means(nll.view(SEEDS, IMAGES)), independent)


def test_area_under_the_roc_curve() -> None:
    """Scores N(0, 1) and N(1, 2^2): the area is the chance that one exceeds the other."""
    normal, ood = torch.randn(SEEDS, 100), 1 + 2 * torch.randn(SEEDS, 80)
    truth = Normal(0.0, 1.0).cdf(torch.tensor(1 / math.sqrt(5))).item()
    covered("auroc", [auroc(a, b)[:2] for a, b in zip(normal, ood, strict=True)], truth)
